"""A benchmark's people: who is learnt from and who is tested on, their images in memory, and the poses to draw from."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from generators import Pose, openpose_18, rescale
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.sizes import Sizes, sizes_of
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.doubts import report
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import mask_digests, with_silhouettes
from reid_aug.data.people import PersonImage, people_doubts
from reid_aug.digests import file_digests
from reid_aug.rendered import RenderedConfig, RenderedSet, write_rendered
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.bank_named import named_bank
from reid_aug.synthesis.manifest import SyntheticRow


class BenchmarkData:
    """The data that a benchmark's configuration names, read when they are first used.

    `share` is the part of the training images to learn from, None for all. Rendered people go below `root`, what does
    not fit into memory below `folder`.
    """

    def __init__(self, config: BenchConfig, share: float | None, root: Path, folder: Path) -> None:
        self.config, self.share, self.root, self.folder = config, share, root, folder
        self.decoded: dict[tuple[str, tuple[int, int]], Tensor] = {}  # images uint8 (N, 3, H, W) by what they are and their size
        self._banks: dict[tuple[int, int], PoseBank] = {}  # by size

    @cached_property
    def rendered(self) -> RenderedSet | None:
        """Render the people learnt from, once; None where the data are photographs."""
        return self._rendered_set(self.config.rendered, "data")

    def _rendered_set(self, options: dict[str, Any] | None, folder: str) -> RenderedSet | None:
        if options is None:
            return None
        return write_rendered(self.root / folder, RenderedConfig(**options), progress=True)

    @cached_property
    def home_people(self) -> list[PersonImage]:
        """List everybody of the data set learnt from; of its training images the share, where there is one."""
        data = self.config.data or DataConfig(root=str(self.rendered.root if self.rendered else ""))
        people = load_people(data, test_poses=True)
        report(people_doubts(people))
        if self.share is None:
            return people
        return part_of(people, self.share, self.config.synthesis_seed, pairs=self.config.wants_pairs)

    @cached_property
    def people(self) -> list[PersonImage]:
        """List the training images, and query and gallery of the data set tested on."""
        tested = self._rendered_set(self.config.test_rendered, "test-data")
        data = DataConfig(root=str(tested.root)) if tested is not None else self.config.test
        if data is None:
            return self.home_people
        others = load_people(data, train_poses=False)
        return [p for p in self.home_people if p.split == "train"] + [p for p in others if p.split != "train"]

    def of_split(self, split: str) -> list[PersonImage]:
        """List the images of a split: "train", "query" or "gallery"."""
        return [p for p in self.people if p.split == split]

    def identities_and_cameras(self) -> tuple[list[int], list[int], list[int], list[int]]:
        """List the pids of query and gallery, then their camids, as rankings take them."""
        query, gallery = self.of_split("query"), self.of_split("gallery")
        return [p.pid for p in query], [p.pid for p in gallery], [p.camid for p in query], [p.camid for p in gallery]

    def real(self, split: str, size: tuple[int, int]) -> Tensor:
        """Decode a split's images, uint8 (N, 3, H, W), once."""
        if (split, size) not in self.decoded:
            self.decoded[split, size] = images.read_many([p.path for p in self.of_split(split)], size, spill=self.folder)
        return self.decoded[split, size]

    def poses(self, size: tuple[int, int]) -> Pose:
        """Give the poses of the training images in pixels of `size`, with their silhouettes; nothing is visible where an image has none."""
        unknown, people = Pose.unknown(openpose_18, size), self.of_split("train")
        poses = Pose.stack([unknown if p.pose is None else rescale(p.pose, size) for p in people])
        return with_silhouettes(poses, [p.mask for p in people])

    @cached_property
    def bank(self) -> PoseBank:
        """Give the target poses, by default those of the training images, at the size at which every arm's are drawn."""
        return self.bank_at(self.sizes.home)

    def bank_at(self, size: tuple[int, int]) -> PoseBank:
        """Give the same target poses in pixels of another size, for a generator that renders at it."""
        if size not in self._banks:
            named = self.config.bank
            people = self.of_split("train")
            self._banks[size] = PoseBank.collect(people, size) if named is None else named_bank(named, size).with_masks_of(people)
        return self._banks[size]

    @cached_property
    def sizes(self) -> Sizes:
        """Tell at which sizes generators render, and at which poses are drawn and image quality is measured."""
        return sizes_of(self.config)

    def rows(self, draw: str) -> list[SyntheticRow]:
        """Plan the images of every arm with this way to `draw` target poses: the same sources in the same poses."""
        return plan(self.of_split("train"), self.bank, self.config.per_image, self.config.synthesis_seed, draw=draw)


def content_digest(data: DataConfig, *, train_poses: bool = True) -> str:
    """Digest a data set's images by content, their labels and poses: a path alone does not say which images lie there."""
    people: Sequence[PersonImage] = load_people(data, test_poses=train_poses, train_poses=train_poses)
    masks = mask_digests(people)
    rows = [
        (p.split, p.name, p.pid, p.camid, content, p.pose and (p.pose.xy.tolist(), p.pose.visible.tolist()), *masks.get(p.path, ()))
        for p, content in zip(people, file_digests([p.path for p in people]), strict=True)
    ]
    return configuration.digest({"people": rows, "on_bad_image": data.on_bad_image})


def part_of(people: Sequence[PersonImage], share: float, seed: int, *, pairs: bool) -> list[PersonImage]:
    """Keep all test images and `share` of the training images, in their order (Bhunia et al. 2023, PIDM, Re-ID protocol).

    Every identity keeps at least one image or, where generators are trained (`pairs`), two that make a pair, if it has
    as many; so a small share may come out larger. A smaller share's images are all in a larger one's. A hash of
    (seed, name) chooses them: the same on every machine.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of training images is above 0 and at most 1, got {share}")
    train = [p for p in people if p.split == "train"]
    ranked = sorted(train, key=lambda p: hashlib.sha256(f"{seed}\n{p.name}".encode()).digest())
    by_identity: dict[int, list[PersonImage]] = defaultdict(list)
    for person in ranked:
        by_identity[person.pid].append(person)
    kept: set[str] = set()
    for members in by_identity.values():
        usable = [p for p in members if pairs and p.pose is not None and bool(valid_for_pairs(p.pose))]
        kept |= {p.path for p in (usable[:2] or members[:1])}
    for person in ranked:
        if len(kept) >= round(share * len(train)):
            break
        kept.add(person.path)
    return [p for p in people if p.split != "train" or p.path in kept]
