"""Arms: what each benchmark condition trains on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators import load
from reid_aug import images
from reid_aug.augmenter import Augmenter, package_version, plan
from reid_aug.bank import PoseBank
from reid_aug.bench.baseline import TrainingSet, labels_of
from reid_aug.dump import Drawer, fill
from reid_aug.manifest import Manifest, SyntheticRow
from reid_aug.people import PersonImage
from reid_aug.rendered import RenderedSet

NONE, COPIES, ORACLE, ERASING = "none", "copies", "oracle", "erasing"


def parted(arm: str) -> tuple[str, bool]:
    """What an arm trains on, and whether with random erasing: "erasing" is `none` with it, "pg2+erasing" `pg2` with it."""
    images = NONE if arm == ERASING else arm.removesuffix(f"+{ERASING}")
    return images, images != arm


@dataclass(frozen=True)
class Truth:
    """The generator nobody has: the rendered set's own images of a person in another's pose."""

    rendered: RenderedSet
    bank: PoseBank
    per_image: int
    seed: int

    @property
    def made_by(self) -> dict[str, Any]:
        return {
            "reid-aug": package_version(),
            "generator": ORACLE,
            "bank_digest": self.bank.digest,
            "per_image": self.per_image,
            "seed": self.seed,
        }

    def render(self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
        for row in rows:
            yield row, self.rendered.true_image(row.source, row.target).image


def draw_arm(
    arm: str, people: Sequence[PersonImage], bank: PoseBank, folder: Path,
    *, per_image: int, seed: int, checkpoint: Path | None = None, rendered: RenderedSet | None = None,
) -> Manifest:  # fmt: skip
    """The synthetic images of one arm, in `folder`; every drawing arm draws the same sources in the same poses."""
    if arm == ORACLE:
        if rendered is None:
            raise ValueError("the arm 'oracle' draws the true image, which only the rendered data set knows")
        drawer: Drawer = Truth(rendered, bank, per_image, seed)
    else:
        assert checkpoint is not None
        drawer = Augmenter(load(checkpoint), bank, per_image, seed)
    train = [p for p in people if p.split == "train"]
    return fill(folder, drawer, plan(train, bank, per_image, seed), train)


def training_set(
    arm: str, people: Sequence[PersonImage], real: Tensor, rows: Sequence[SyntheticRow], synthetic: Tensor | None
) -> TrainingSet:
    """Real training images, and beside them the arm's: synthetic ones, or (`copies`) their sources again."""
    train = [p for p in people if p.split == "train"]
    labels = labels_of([p.pid for p in train])
    if arm == NONE:
        return TrainingSet(real, labels)
    where = {person.name: i for i, person in enumerate(train)}
    source = torch.tensor([where[row.source] for row in rows])
    added = real[source] if arm == COPIES else synthetic
    assert added is not None
    return TrainingSet(torch.cat((real, added)), torch.cat((labels, labels[source])))


def read_rows(manifest: Manifest, folder: Path, size: tuple[int, int]) -> Tensor:
    """A manifest's images as one uint8 (N, 3, H, W)."""
    return images.read_many([folder / row.path for row in manifest.rows], size)
