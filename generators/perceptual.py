"""Frozen networks that images are compared on: VGG-19 from torchvision's weights, or any network behind one interface.

They are no part of a generator: a checkpoint does not hold them, rendering does not need them, and no player owns them.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.error import URLError

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

# VGG-19's convolutions (Simonyan & Zisserman 2015, configuration E), five blocks with a pooling after each.
BLOCKS = (2, 2, 4, 4, 4)
LAYERS = tuple(f"conv{block + 1}_{i + 1}" for block, count in enumerate(BLOCKS) for i in range(count))
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB in [0, 1]: torchvision's weights want them
KERAS_SCALE = 255 * 0.226  # how much larger inputs in 0..255, and so their features, are: what released TensorFlow code has
OPTION = "perceptual.weights=PATH | imagenet | reid:CHECKPOINT | none"


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


def load_perceptual(weights: str, features: Features) -> Perceptual | None:
    """Load the network that `weights` names: "imagenet" (torchvision's VGG-19, downloaded once), a PATH to such weights, or "none".

    FileNotFoundError names the file, the cache folder and the option when weights can't be had, ValueError when a file
    holds something else. "reid:CHECKPOINT" is loaded by who knows Re-ID networks (`reid_aug.synthesis.train`).
    """
    if weights == "none":
        return None
    if weights.startswith("reid:"):
        raise ValueError(f"{weights!r} is loaded by reid_aug, not here; generators know {OPTION.replace(' | reid:CHECKPOINT', '')}")
    if weights == "imagenet":
        return VGG19(_imagenet(), features, "vgg19:imagenet")
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
