from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from generators import Pose, PosePair, Skeleton, perceptual
from generators.pose import openpose_18

MakePose = Callable[..., Pose]
MakePair = Callable[..., PosePair]


def _a_pose(
    seed: int = 0,
    batch: tuple[int, ...] = (2,),
    skeleton: Skeleton = openpose_18,
    size: tuple[int, int] = (32, 16),
    missing: float = 0.0,  # the fraction of joints nobody saw
    dtype: torch.dtype = torch.float32,
) -> Pose:
    """Joints anywhere in the frame, and a few pixels out of it."""
    draw = torch.Generator().manual_seed(seed)
    shape = (*batch, len(skeleton))
    xy = torch.rand(*shape, 2, generator=draw, dtype=torch.float64) * torch.tensor([size[1] + 4.0, size[0] + 4.0]) - 2
    return Pose(xy.to(dtype), torch.rand(*shape, generator=draw) >= missing, skeleton, size)


def _a_pair(
    seed: int = 0,
    batch: int = 2,
    skeleton: Skeleton = openpose_18,
    size: tuple[int, int] = (32, 16),
    missing: float = 0.2,
    dtype: torch.dtype = torch.float32,
) -> PosePair:
    draw = torch.Generator().manual_seed(seed)
    source, target = (torch.rand(batch, 3, *size, generator=draw, dtype=torch.float64).to(dtype) * 2 - 1 for _ in range(2))
    poses = [_a_pose(2 * seed + i + 1, (batch,), skeleton, size, missing, dtype) for i in range(2)]
    return PosePair(source, target, poses[0], poses[1], torch.arange(batch))


# Session-wide, so that Hypothesis has nothing against them.
@pytest.fixture(scope="session")
def a_pose() -> MakePose:
    return _a_pose


@pytest.fixture(scope="session")
def a_pair() -> MakePair:
    return _a_pair


def _narrow_vgg(width: int = 2) -> dict[str, torch.Tensor]:
    """Weights of a VGG-19 whose first level is `width` wide in place of 64, by torchvision's names."""
    draw, state, before = torch.Generator().manual_seed(0), {}, 3
    for layer, key in zip(perceptual.LAYERS, perceptual._keys(), strict=True):
        after = width * min(2 ** (int(layer[4]) - 1), 8)
        spread = (2 / (9 * before)) ** 0.5
        state[f"{key}.weight"] = torch.randn(after, before, 3, 3, generator=draw) * spread
        state[f"{key}.bias"] = torch.randn(after, generator=draw) * 0.1
        before = after
    return state


@pytest.fixture(scope="session")
def narrow_vgg() -> Callable[..., dict[str, torch.Tensor]]:
    return _narrow_vgg


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights made in a test are the same at every run, whatever ran before."""
    torch.manual_seed(0)
