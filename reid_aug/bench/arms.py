"""Arms: what each condition of a benchmark trains on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators import load, named_joints, rescale
from reid_aug import images
from reid_aug.baselines.network import labels_of
from reid_aug.baselines.training import TrainingSet
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.augmenter import Augmenter, plan
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.manifest import Manifest, SyntheticRow, package_version
from reid_aug.synthesis.store import Renderer, fill
from reid_aug.synthesis.target_poses import RECOMBINED

NONE, COPIES, ORACLE, ERASING, GREY_PATCH = "none", "copies", "oracle", "erasing", "grey-patch"
OF_REAL_IMAGES = (ERASING, GREY_PATCH)  # variants that are arms, too: of real images alone


def origin_and_variants(arm: str) -> tuple[str, list[str]]:
    """Split an arm's name into where its added images come from (`none`, `copies`, `oracle`, a generator) and its variants' names.

    >>> origin_and_variants("pg2+lsro"), origin_and_variants("grey-patch")
    (('pg2', ['lsro']), ('none', ['grey-patch']))
    """
    origin, *variants = arm.split("+")
    return (NONE, [origin, *variants]) if origin in OF_REAL_IMAGES else (origin, variants)


@dataclass(frozen=True)
class Oracle:
    """The generator nobody has: true images of a person in another's pose, which only the rendered data set knows.

    They stand in the source's place or, with `scene`, in the target image's: what a generator that takes scenes is asked for.
    """

    rendered: RenderedSet
    bank: PoseBank
    per_image: int
    seed: int
    draw: str = "whole"
    scene: bool = False

    @property
    def made_by(self) -> dict[str, Any]:
        """List what decides the images, for the manifest."""
        return {
            "reid-aug": package_version(),
            "generator": ORACLE,
            "bank_digest": self.bank.digest,
            "per_image": self.per_image,
            "seed": self.seed,
            **({} if self.draw == "whole" else {"draw": self.draw}),
            **({"scene": True} if self.scene else {}),
        }

    def render(self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
        """Yield each row with its true image, uint8 (H, W, 3)."""
        for row in rows:
            yield row, self.rendered.true_image(row.source, row.target, self.scene).image


@dataclass(frozen=True)
class Cut:
    """The control for recombined people: two photographs, cut at the hips and joined. It knows where the hips are, and no generator."""

    bank: PoseBank
    per_image: int
    seed: int

    @property
    def made_by(self) -> dict[str, Any]:
        """List what decides the images, for the manifest."""
        return {
            "reid-aug": package_version(), "generator": "cut at the hips", "bank_digest": self.bank.digest, "per_image": self.per_image,
            "seed": self.seed, "draw": RECOMBINED, "uppers_digest": self.bank.scenes_digest,
        }  # fmt: skip

    def render(self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
        """Yield each row with the target's photograph, below the hips the source's, uint8 (H, W, 3)."""
        at, (height, _) = {person.name: person for person in people}, self.bank.pose.size
        for row in rows:
            upper, legs = (images.read(at[name].path, self.bank.pose.size) for name in (row.target, row.source))
            hips, others = (self._hips(at[name]) for name in (row.target, row.source))
            below = (np.arange(hips, height) - hips + others).clip(max=height - 1)
            yield row, np.concatenate((upper[:hips], legs[below]))

    def _hips(self, person: PersonImage) -> int:
        """Give the row of the image in which the hips' middle lies."""
        assert person.pose is not None
        pose = rescale(person.pose, self.bank.pose.size)
        hips, _ = named_joints(pose, "r_hip", "l_hip")
        return int(hips[:, 1].mean().round().clamp(1, pose.size[0] - 2))


def render_arm(
    origin: str, people: Sequence[PersonImage], bank: PoseBank, folder: Path,
    *, per_image: int, seed: int, draw: str = "whole", checkpoint: Path | None = None, rendered: RenderedSet | None = None,
    scene: bool = False, drawn_from: PoseBank | None = None,
) -> Manifest:  # fmt: skip
    """Render the images of a generator, the oracle or `copies` (recombined: cut) into `folder`; one `draw`, the same sources and poses.

    `scene` puts the oracle's into the target images' places; a generator that takes scenes has them anyway. `bank` has the size of the
    images; `drawn_from` has the same poses at the size at which those of all arms are drawn, where that is another.
    """
    if origin == ORACLE:
        if rendered is None:
            raise ValueError("the arm 'oracle' renders the true image, which only the rendered data set knows")
        renderer: Renderer = Oracle(rendered, bank, per_image, seed, draw, scene)
    elif origin == COPIES:
        renderer = Cut(bank, per_image, seed)
    else:
        assert checkpoint is not None
        renderer = Augmenter(load(checkpoint), bank, per_image, seed, draw=draw)
    train = [p for p in people if p.split == "train"]
    return fill(folder, renderer, plan(train, drawn_from or bank, per_image, seed, draw=draw), train)


def training_set(
    origin: str, people: Sequence[PersonImage], real: Tensor, rows: Sequence[SyntheticRow], synthetic: Tensor | None,
    *, kept: Tensor | None = None, separate: bool = False, spill: Path | None = None,
) -> TrainingSet:  # fmt: skip
    """Put together real training images and, behind them, those of an origin: synthetic ones or, where there are none, their sources again.

    `rows` describe what is added: all of `synthetic` (M, 3, H, W), or its rows `kept` (N,). `separate` gives synthetic
    images classes of their own, one for each identity that has any. `spill` is as for `images.read_many`.
    """
    train = [p for p in people if p.split == "train"]
    labels = labels_of([p.pid for p in train])
    if origin == NONE or not rows:
        return TrainingSet(real, labels)
    place, known = {person.name: i for i, person in enumerate(train)}, {person.pid for person in train}
    # Of a new person the image that it may stand in for is the one whose upper body it has.
    source = torch.tensor([place[row.source if row.pid in known else row.target] for row in rows])
    added = real if synthetic is None else synthetic
    if synthetic is None:
        kept = source
    pids = [row.pid for row in rows]
    added_labels = len(known) + labels_of(pids) if separate else labels_of([p.pid for p in train] + pids)[len(train) :]
    # A copy is a real image: variants leave it alone.
    made_of = None if synthetic is None else torch.cat((torch.full((len(labels),), -1), source))
    index = torch.arange(len(rows)) if kept is None else kept
    return TrainingSet(_joined(real, added, index, spill), torch.cat((labels, added_labels)), made_of)


def _joined(real: Tensor, added: Tensor, index: Tensor, spill: Path | None) -> Tensor:
    """Join real images, uint8, and rows `index` (N,) of those added; in a nameless file of `spill` where memory is short."""
    pixels = images.room_for((len(real) + len(index), *real.shape[1:]), spill)
    pixels[: len(real)] = real.numpy()
    for rows, block in zip(index.split(1024), np.split(pixels[len(real) :], range(1024, len(index), 1024)), strict=True):
        block[:] = added[rows].numpy()
    return torch.from_numpy(pixels)


def read_rows(manifest: Manifest, folder: Path, size: tuple[int, int], *, spill: Path | None = None) -> Tensor:
    """Read a manifest's images as one uint8 (N, 3, H, W); `spill` is as for `images.read_many`."""
    return images.read_many([folder / row.path for row in manifest.rows], size, spill=spill)
