"""Frozen networks that images are compared on: VGG-19, EfficientNet-Lite0 in its place, or any network behind one interface.

They are no part of a generator: a checkpoint does not hold them, rendering does not need them, and no player owns them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.lite0 import MEAN, STD, Lite0

# VGG-19's convolutions (Simonyan & Zisserman 2015, configuration E), five blocks with a pooling after each.
BLOCKS = (2, 2, 4, 4, 4)
LAYERS = tuple(f"conv{block + 1}_{i + 1}" for block, count in enumerate(BLOCKS) for i in range(count))
KERAS_SCALE = 255 * 0.226  # how much larger inputs in 0..255, and so their features, are: what released TensorFlow code has
OPTION = "perceptual.weights=PATH | imagenet | lite0 | reid:CHECKPOINT | none"


@dataclass(frozen=True)
class Features:
    """Which of VGG-19's activations a paper compares images on, after their ReLU, and how its network pools."""

    layers: tuple[str, ...]  # "conv1_2" …
    pooling: Literal["max", "avg"] = "max"

    def __post_init__(self) -> None:
        unknown = [layer for layer in self.layers if layer not in LAYERS]
        if unknown or not self.layers:
            raise ValueError(f"features are layers of VGG-19, {LAYERS[0]} … {LAYERS[-1]}, got {unknown or self.layers}")


class Perceptual(nn.Module, ABC):
    """A frozen network: images (B, 3, H, W) in [−1, 1] → one feature map per layer of its `Features`, in their order."""

    name: str = ""  # what a checkpoint and a report call it
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def normalised(self, images: Tensor) -> Tensor:
        """Normalise images as networks trained on ImageNet take them."""
        return ((images + 1) / 2 - self.mean.to(images.dtype)) / self.std.to(images.dtype)

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]: ...


class VGG19(Perceptual):
    """VGG-19 up to the deepest of the features' layers; widths are read off the weights, so a narrow stand-in loads as well."""

    def __init__(self, state: Mapping[str, Tensor], features: Features, name: str = "vgg19") -> None:
        super().__init__()
        self.name, self.features = name, features
        self.depth = max(LAYERS.index(layer) for layer in features.layers) + 1
        self.convolutions = nn.ModuleList()
        for layer, key in zip(LAYERS[: self.depth], _keys(), strict=False):
            weight, bias = (state.get(f"{key}.{part}") for part in ("weight", "bias"))
            if weight is None or bias is None:
                raise ValueError(f"{name} holds no {key}.weight and {key}.bias for VGG-19's {layer} (torchvision's names)")
            convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            convolution.load_state_dict({"weight": weight, "bias": bias})
            self.convolutions.append(convolution)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        outputs: dict[str, Tensor] = {}
        x = self.normalised(images)
        pool = F.max_pool2d if self.features.pooling == "max" else F.avg_pool2d
        for layer, convolution in zip(LAYERS, self.convolutions, strict=False):
            if layer.endswith("_1") and layer != "conv1_1":
                x = pool(x, 2)
            x = F.relu(convolution(x))
            if layer in self.features.layers:
                outputs[layer] = x
        return tuple(outputs[layer] for layer in self.features.layers)


def _keys() -> list[str]:
    """Return the names of VGG-19's convolutions in torchvision's state dict: features.0, features.2, features.5 …"""
    keys, at = [], 0
    for count in BLOCKS:
        for _ in range(count):
            keys.append(f"features.{at}")
            at += 2  # a convolution and its ReLU
        at += 1  # the pooling
    return keys


class Lite0Features(Perceptual):
    """EfficientNet-Lite0's five stages, of ImageNet, in place of VGG-19's blocks: "conv3_2" is the third stage.

    Where VGG-19's blocks see an image at 1/1, 1/2, 1/4, 1/8 and 1/16 of its size with 64 to 512 channels after a ReLU,
    these have 1/1, 1/4, 1/8, 1/16 and 1/32 with 32, 24, 40, 112 and 1280; only the first and the last end in an
    activation (ReLU6). The first is the stem moved pixel by pixel, as losses on conv1_2 compare pixels.
    """

    def __init__(self, network: Lite0, features: Features, name: str) -> None:
        super().__init__()
        self.name, self.network = name, network
        self.blocks = [int(layer[len("conv")]) for layer in features.layers]  # from 1, in the order of `features.layers`
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        maps = [self.network.dense_stem(self.normalised(images))]
        x = maps[0][..., 1::2, 1::2]
        for stage in self.network.later_stages[: max(self.blocks) - 1]:
            x = self.network.get_submodule(stage)(x)
            maps.append(x)
        return tuple(maps[block - 1] for block in self.blocks)


def load_perceptual(weights: str, features: Features) -> Perceptual | None:
    """Load the network that `weights` names.

    That is "imagenet" (torchvision's VGG-19, downloaded once), "lite0" (EfficientNet-Lite0, of the extra `offline`), a PATH
    to weights of VGG-19, or "none". FileNotFoundError says where weights that can't be had would come from, ValueError when
    a file holds something else. "reid:CHECKPOINT" is loaded by who knows Re-ID networks (`reid_aug.synthesis.train`).
    """
    if weights == "none":
        return None
    if weights.startswith("reid:"):
        raise ValueError(f"{weights!r} is loaded by reid_aug, not here; generators know {OPTION.replace(' | reid:CHECKPOINT', '')}")
    if weights == "imagenet":
        return VGG19(_imagenet(), features, "vgg19:imagenet")
    if weights == "lite0":
        return Lite0Features(Lite0(pretrained=True), features, "lite0:imagenet")
    if not Path(weights).is_file():
        raise FileNotFoundError(f"no perceptual weights at {weights}; say {OPTION}")
    return VGG19(read_state(weights), features, f"vgg19:{Path(weights).name}")


def read_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read a file of plain weights (.safetensors, or .pth without running code); ValueError when it is neither."""
    try:
        if Path(path).suffix == ".safetensors":
            return safetensors.torch.load_file(str(path))
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds for a file that is none of its own
        raise ValueError(f"{path} is no file of weights: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ValueError(f"{path} is no table of tensors")
    return dict(state)


def _imagenet() -> Mapping[str, Tensor]:
    from torchvision.models import VGG19_Weights

    weights = VGG19_Weights.IMAGENET1K_V1
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    file = cache / weights.url.rsplit("/", 1)[-1]
    try:
        return weights.get_state_dict(progress=True, check_hash=True)
    except (URLError, OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"VGG-19's ImageNet weights are not in {cache} and could not be downloaded ({' '.join(str(error).split())[:120]}): "
            f"put {weights.url} there as {file.name}, or say {OPTION}"
        ) from None


def compare(features: Sequence[Tensor], others: Sequence[Tensor]) -> Tensor:
    """Sum over layers the mean |difference| of feature maps: the perceptual L1 (Johnson et al. 2016, with L1).

    >>> compare([torch.zeros(1, 2), torch.zeros(1, 4)], [torch.ones(1, 2), torch.full((1, 4), 0.5)])
    tensor(1.5000)
    """
    return torch.stack([F.l1_loss(a, b) for a, b in zip(features, others, strict=True)]).sum()


def compare_in_deviations(features: Sequence[Tensor], others: Sequence[Tensor], deviations: Tensor, least: float) -> Tensor:
    """Average over layers the mean |difference| of feature maps (B, C, H, W), in deviations of their channel + `least`.

    `deviations` has a row of C numbers or more for each layer (Balakrishnan et al. 2018).

    >>> ones = [torch.ones(1, 2, 1, 1)]
    >>> compare_in_deviations([torch.zeros(1, 2, 1, 1)], ones, torch.tensor([[0.5, 2.0]]), 0.0)
    tensor(1.2500)
    """
    terms = [
        ((a - b).abs() / (deviation[: a.shape[1], None, None] + least)).mean()
        for a, b, deviation in zip(features, others, deviations, strict=False)
    ]
    return torch.stack(terms).mean()


def channel_deviations(batches: Iterable[Sequence[Tensor]]) -> list[Tensor]:
    """Return every layer's standard deviations (C), float64, over all batches of its feature maps (B, C, H, W), B of any number.

    >>> [deviations] = channel_deviations([[torch.zeros(1, 1, 1, 2)], [torch.full((1, 1, 1, 2), 2.0)]])
    >>> deviations
    tensor([1.], dtype=torch.float64)
    """
    # Moments by batch and layer, not the maps, which are many; together, the variance over all batches.
    moments = [[(len(layer), *_moments(layer)) for layer in layers] for layers in batches]
    found = []
    for layers in zip(*moments, strict=True):
        sizes = torch.tensor([size for size, _, _ in layers], dtype=torch.float64, device=layers[0][1].device)
        weight = (sizes / sizes.sum())[:, None]
        variance, mean = (torch.stack([layer[part] for layer in layers]) for part in (1, 2))
        found.append((weight * (variance + (mean - (weight * mean).sum(0)).square())).sum(0).sqrt())
    return found


def _moments(layer: Tensor) -> tuple[Tensor, Tensor]:
    """Return variances and means (C) of the channels of `layer (B, C, H, W)`."""
    variance, mean = torch.var_mean(layer, dim=(0, 2, 3), correction=0)
    return variance.double(), mean.double()
