"""Make what the checks compare, small models, pairs and poses, and measure how far a device is off from the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import generators
from benchmarks.generator_speed import on_its_skeleton, people
from generators import Generator, PosePair

Rows = dict[str, dict[str, Any]]
CPU = torch.device("cpu")
# Schedules short enough that step 0 and step 15 are turns of both stages.
OPTIONS: dict[str, dict[str, Any]] = {
    "deformable": {"content_loss": "l1"},
    "momi": {"blocks": 3, "detector_blocks": 1, "dropout": 0.0, "training_pose": "teacher"},
    "pg2": {"stage1_steps": 10, "stage2_steps": 10},
    "posewarp": {"pretrain_steps": 10, "warmup_steps": 2, "gan_steps": 8},
    "vdg": {"stage1_steps": 10, "stage2_steps": 10},
}


@dataclass(frozen=True)
class Bench:
    """The device under test and the sizes of what it is given."""

    device: torch.device
    tiny: bool

    @property
    def batch(self) -> int:
        return 2 if self.tiny else 16

    @property
    def size(self) -> tuple[int, int]:
        return (64, 32) if self.tiny else (128, 64)

    @property
    def devices(self) -> tuple[torch.device, torch.device]:
        return self.device, CPU

    def both(self, call: Callable[..., Any], *inputs: Any) -> tuple[Any, Any]:
        """Return what `call` gives on the device and on the CPU."""
        return call(*(value.to(self.device) for value in inputs)), call(*inputs)

    def model(self, name: str, width: int | None = None) -> Generator:
        """Build a small generator, the same each time."""
        torch.manual_seed(0)
        width = width or (4 if self.tiny else 16)
        return generators.create(name, size=self.size, width=width, **OPTIONS.get(name, {}))

    def pair(self, model: Generator, seed: int = 0, batch: int | None = None) -> PosePair:
        """Make images of noise and upright people on the model's skeleton."""
        batch, random = batch or self.batch, torch.Generator().manual_seed(seed)
        source, target = (torch.rand(batch, 3, *self.size, generator=random) * 2 - 1 for _ in range(2))
        poses = [people(batch, self.size, 2 * seed + i) for i in (1, 2)]
        # A skeleton that can't be made from openpose_18 gets joints at random; a training's own random numbers stay as they are.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return on_its_skeleton(model, PosePair(source, target, poses[0], poses[1], torch.arange(batch) // 2))


def difference(result: Tensor, reference: Tensor, most: float = 1e-3) -> dict[str, Any]:
    """Measure the largest, mean and relative (norm over norm) difference; ok when the relative is at most `most`."""
    a, b = result.detach().cpu().double(), reference.detach().cpu().double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs())
    relative = float(gap.norm() / b[b.isfinite()].norm().clamp(min=1e-30))
    sizes = {"max": float(gap.max()), "mean": float(gap.mean()), "relative": relative}
    return {"ok": relative <= most, **sizes, "differing": int((~same).sum()), "of": a.numel()}


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and matrix products, or forbid it, within the block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
