"""What a training writes down of its losses: curves for TensorBoard, and, at every checkpoint, losses on pairs it never learns from."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from generators.atomic import replacing
from generators.base import Generator, PosePair

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard.writer import SummaryWriter

COLUMNS = ("step", "loss", "training", "held_out")


def open_curves(out: Path, done: int) -> SummaryWriter | None:
    """Open the curves for TensorBoard; a resumed run hides what an earlier one wrote past its checkpoint."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "curves"), purge_step=done)


class HeldOut:
    """Losses on `batches` that are never learnt from, beside training's means since the checkpoint before: held_out.csv and held_out.md.

    Rows past step `done`, of a run that went on after the checkpoint that this one resumes, are dropped.
    """

    def __init__(self, batches: Sequence[PosePair], out: Path, done: int = 0) -> None:
        self.batches, self.file = list(batches), out / "held_out.csv"
        self.rows = [row for row in _read(self.file) if int(row[0]) <= done] if done else []
        self._paid: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))  # sum and count, by "player/term"

    def note(self, loss: str, value: float) -> None:
        """Take in what training paid at one step."""
        total, count = self._paid[loss]
        self._paid[loss] = total + value, count + 1

    def measure(self, model: Generator, fabric: Fabric, step: int, writer: SummaryWriter | None) -> dict[str, float]:
        """Return the losses after `step` steps by "player/term": those of the step's turn, means over pairs; write them down.

        Neither weights, gradients nor random numbers are other ones afterwards.
        """
        losses = held_out_losses(model, self.batches, step - 1, fabric)
        for loss, value in losses.items():
            total, count = self._paid.get(loss, (0.0, 0))
            self.rows.append((str(step), loss, f"{total / count:.6g}" if count else "", f"{value:.6g}"))
            if writer is not None:
                writer.add_scalar(f"held_out/{loss}", value, step)
        self._paid.clear()
        self._write()
        return losses

    def _write(self) -> None:
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([COLUMNS, *self.rows])
        pairs = sum(len(batch) for batch in self.batches)
        head = [f"Losses on {pairs} pairs that are never learnt from, and training's means since the checkpoint before.", ""]
        table = ["| step | loss | training | held out |", "| ---: | --- | ---: | ---: |"]
        lines = [*head, *table, *(f"| {' | '.join(row)} |" for row in self.rows)]
        for file, text in ((self.file, buffer.getvalue()), (self.file.with_suffix(".md"), "\n".join(lines) + "\n")):
            with replacing(file) as temporary:
                Path(temporary).write_text(text, encoding="utf-8")


def _read(file: Path) -> list[tuple[str, ...]]:
    """Read the rows that an earlier part of the training wrote; none where there is no such file."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as lines:
        return [tuple(row) for row in csv.reader(lines)][1:]


@torch.no_grad()
def held_out_losses(model: Generator, batches: Sequence[PosePair], step: int, fabric: Fabric) -> dict[str, float]:
    """Return what the players of the turn at `step` would pay on pairs, by "player/term", in eval mode: means over the pairs."""
    sums: dict[str, torch.Tensor] = {}
    was_training = model.training
    model.eval()
    # A generator may take noise: it must not change the random numbers that training gets next.
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        for batch in batches:
            pair = batch.on(model.skeleton).to(fabric.device)
            with model.sharing(), fabric.autocast():
                for player in dict.fromkeys(model.turn(step)):
                    for term, value in model.losses(player, pair, step).items():
                        name = f"{player}/{term}"
                        sums[name] = sums.get(name, torch.zeros((), device=fabric.device)) + value.float() * len(pair)
    model.train(was_training)
    return {name: float(total) / sum(len(batch) for batch in batches) for name, total in sums.items()}
