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
from reid_aug.baselines.network import labels_of
from reid_aug.baselines.training import TrainingSet
from reid_aug.data.people import PersonImage
from reid_aug.rendered.dataset import RenderedSet
from reid_aug.synthesis.augmenter import Augmenter, plan
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.manifest import Manifest, SyntheticRow, package_version
from reid_aug.synthesis.store import Renderer, fill

NONE, COPIES, ORACLE, ERASING = "none", "copies", "oracle", "erasing"


def parted(arm: str) -> tuple[str, list[str]]:
    """What an arm trains on, and the names of its variants: "pg2+lsro" is `pg2` with `lsro`, "erasing" is `none` with it."""
    images, *variants = arm.split("+")
    return (NONE, [ERASING, *variants]) if images == ERASING else (images, variants)


@dataclass(frozen=True)
class Oracle:
    """The generator nobody has: the rendered set's own images of a person in another's pose."""

    rendered: RenderedSet
    bank: PoseBank
    per_image: int
    seed: int
    draw: str = "whole"

    @property
    def made_by(self) -> dict[str, Any]:
        return {
            "reid-aug": package_version(),
            "generator": ORACLE,
            "bank_digest": self.bank.digest,
            "per_image": self.per_image,
            "seed": self.seed,
            **({} if self.draw == "whole" else {"draw": self.draw}),
        }

    def render(self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
        for row in rows:
            yield row, self.rendered.true_image(row.source, row.target).image


def render_arm(
    arm: str, people: Sequence[PersonImage], bank: PoseBank, folder: Path,
    *, per_image: int, seed: int, draw: str = "whole", checkpoint: Path | None = None, rendered: RenderedSet | None = None,
) -> Manifest:  # fmt: skip
    """The synthetic images of one arm, in `folder`; with one way to `draw`, every arm has the same sources in the same poses."""
    if arm == ORACLE:
        if rendered is None:
            raise ValueError("the arm 'oracle' draws the true image, which only the rendered data set knows")
        renderer: Renderer = Oracle(rendered, bank, per_image, seed, draw)
    else:
        assert checkpoint is not None
        renderer = Augmenter(load(checkpoint), bank, per_image, seed, draw=draw)
    train = [p for p in people if p.split == "train"]
    return fill(folder, renderer, plan(train, bank, per_image, seed, draw=draw), train)


def training_set(
    arm: str, people: Sequence[PersonImage], real: Tensor, rows: Sequence[SyntheticRow], synthetic: Tensor | None,
    *, kept: Tensor | None = None, separate: bool = False, spill: Path | None = None,
) -> TrainingSet:  # fmt: skip
    """Real training images, and behind them the arm's: synthetic ones, or (`copies`) their sources again.

    `rows` say what they are: row by row those of `synthetic` (M, 3, H, W), or those of its rows `kept` (N,). `separate`
    gives synthetic images classes of their own, one for each identity that has any. `spill` is as for `images.read_many`.
    """
    train = [p for p in people if p.split == "train"]
    labels = labels_of([p.pid for p in train])
    if arm == NONE or not rows:
        return TrainingSet(real, labels)
    where = {person.name: i for i, person in enumerate(train)}
    source = torch.tensor([where[row.source] for row in rows])
    added = real if arm == COPIES else synthetic
    assert added is not None
    if arm == COPIES:
        kept = source
    own = labels[source]
    if separate:
        own = len(labels.unique()) + labels_of(own.tolist())
    # A copy is a real image: no variant says anything of it.
    drawn_from = None if arm == COPIES else torch.cat((torch.full((len(labels),), -1), source))
    behind = torch.arange(len(rows)) if kept is None else kept
    return TrainingSet(_joined(real, added, behind, spill), torch.cat((labels, own)), drawn_from)


def _joined(real: Tensor, others: Tensor, index: Tensor, spill: Path | None) -> Tensor:
    """Real images uint8, and behind them rows (N,) of others; in a nameless file of `spill` where memory is short."""
    out = images.room_for((len(real) + len(index), *real.shape[1:]), spill)
    out[: len(real)] = real.numpy()
    for part, to in zip(index.split(1024), np.split(out[len(real) :], range(1024, len(index), 1024)), strict=True):
        to[:] = others[part].numpy()
    return torch.from_numpy(out)


def read_rows(manifest: Manifest, folder: Path, size: tuple[int, int], *, spill: Path | None = None) -> Tensor:
    """A manifest's images as one uint8 (N, 3, H, W); `spill` is as for `images.read_many`."""
    return images.read_many([folder / row.path for row in manifest.rows], size, spill=spill)
