"""Who judges whether a synthetic image still shows its person: a Re-ID network's file, or any function of images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from reid_aug.config import torch_device

Features = Callable[[Tensor], Tensor]  # uint8 (N, 3, H, W) → (N, D)


@dataclass(frozen=True, eq=False)
class Judge:
    """Who judges identity: features of uint8 images (N, 3, H, W) of `size`, and a name that changes when they do."""

    features: Features
    size: tuple[int, int]
    name: str


def judge(reid: Judge | Features | str | os.PathLike[str], size: tuple[int, int], device: str = "auto") -> Judge:
    """A baseline file of the benchmark's, opened when first asked, or a function of images of `size`, as a judge.

    A function is named by what it makes of fixed images. FileNotFoundError or ValueError when the file is no baseline.
    """
    if isinstance(reid, Judge):
        return reid
    if not isinstance(reid, str | os.PathLike):
        probe = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, *size), dtype=np.uint8))
        said = reid(probe).detach().cpu().float().numpy()
        return Judge(reid, size, f"function:{hashlib.sha256(said.tobytes()).hexdigest()[:12]}")
    from reid_aug.bench import baseline

    config, name = baseline.described(reid)
    where = torch_device(device)

    @cache
    def network() -> torch.nn.Module:
        return baseline.load_baseline(reid)[0].to(where)

    return Judge(lambda pixels: baseline.features(network(), pixels), config.size, name)
