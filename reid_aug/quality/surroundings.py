"""What generated images are measured beside: networks, a data set's real images and people, and the truth where it is known."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from reid_aug import images
from reid_aug.baselines.network import ReidNetwork
from reid_aug.data.people import PersonImage
from reid_aug.digests import file_digests
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.rendered import RenderedSet

T = TypeVar("T")
RealSplit = Literal["train", "test"]
SPLITS: dict[RealSplit, tuple[str, ...]] = {"train": ("train",), "test": ("query", "gallery")}


@dataclass(frozen=True, eq=False)
class TrueImages:
    """What should have been rendered.

    `images` uint8 (B, 3, H, W), `body` bool (B, H, W), and `limbs` bool (B, 10, H, W) in the order of `truth.LIMBS`, where
    each limb is, hidden or not.
    """

    images: Tensor
    body: Tensor
    limbs: Tensor


class Surroundings:
    """A data set's real images and people, networks, and the truth of rendered people; what is computed of them is shared by generators.

    `source_split` is the split that the generated images' sources are of. Networks that are trained here are kept in `folder`, if given.
    `backend` searches for neighbours (`baselines.neighbours`).
    """

    def __init__(
        self, people: Sequence[PersonImage], size: tuple[int, int], networks: Networks, *, source_split: RealSplit = "test",
        reid: ReidNetwork | None = None, rendered: RenderedSet | None = None, batch_size: int = 64, folder: Path | None = None,
        backend: str = "auto",
    ) -> None:  # fmt: skip
        self.folder = folder
        self.networks, self.size, self.rendered, self.batch_size = networks, size, rendered, batch_size
        self.backend = backend
        self.source_split: RealSplit = source_split
        self._people = {split: [p for p in people if p.split in splits] for split, splits in SPLITS.items()}
        self.has_masks = any(p.mask for p in people)
        self._reid = reid
        self._cache: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gives, made once for every generator that is measured here."""
        if key not in self._cache:
            self._cache[key] = make()
        return self._cache[key]

    def real(self, split: RealSplit) -> Iterator[Tensor]:
        """Yield the real images of a split in batches, uint8 (B, 3, H, W), at the generated images' size; NotMeasurable without any."""
        paths = [p.path for p in self._people[split]]
        if not paths:
            raise NotMeasurable(f"there are no real images in {' or '.join(SPLITS[split])}")
        for start in range(0, len(paths), self.batch_size):
            yield images.read_many(paths[start : start + self.batch_size], self.size, progress=False)

    def who(self, split: RealSplit) -> tuple[list[int], list[int]]:
        """Return identities and cameras of `real(split)`, in its order."""
        return [p.pid for p in self._people[split]], [p.camid for p in self._people[split]]

    def content(self, split: RealSplit) -> str:
        """Digest the real images of a split by content, and who is on them: whatever is learnt of them changes with it."""
        people = self._people[split]
        rows = [f"{digest} {p.pid}" for digest, p in zip(file_digests([p.path for p in people]), people, strict=True)]
        return hashlib.sha256("\n".join(sorted(rows)).encode()).hexdigest()

    @property
    def reid(self) -> ReidNetwork:
        """Return the network that tells people apart; NotMeasurable when none is given."""
        if self._reid is None:
            raise NotMeasurable("no Re-ID network given (reid=CHECKPOINT, one of a benchmark's baselines/)")
        return self._reid

    def truth(self, names: Sequence[tuple[str, str]], in_scene: bool = False) -> TrueImages:
        """Return the true images of (source, target) names, in the target's place if `in_scene`; NotMeasurable where nobody knows them."""
        if self.rendered is None:
            raise NotMeasurable("true images are known of rendered people only")
        if self.size != tuple(self.rendered.config.size):
            raise NotMeasurable(f"true images are of {tuple(self.rendered.config.size)}, these of {self.size}")
        rendered = self.rendered
        # Every generator of a benchmark is asked for the same pairs.
        true = [self.once(("true", pair, in_scene), lambda pair=pair: rendered.true_image(*pair, in_scene)) for pair in names]
        return TrueImages(
            torch.from_numpy(np.stack([person.image for person in true])).permute(0, 3, 1, 2),
            torch.from_numpy(np.stack([person.body_mask for person in true])),
            torch.from_numpy(np.stack([person.limb_masks for person in true])),
        )

    @cached_property
    def facts(self) -> dict[str, int]:
        """Count what `DataSetFacts` recognises a public data set by."""
        query = [p for p in self._people["test"] if p.split == "query"]
        return {
            "images": sum(map(len, self._people.values())),
            "train_images": len(self._people["train"]), "train_identities": len({p.pid for p in self._people["train"]}),
            "query_images": len(query), "query_identities": len({p.pid for p in query}),
        }  # fmt: skip
