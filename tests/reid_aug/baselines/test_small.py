"""The small dense ResNet: its blocks, its sizes, its features, and its file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torchvision.models.resnet import BasicBlock as TorchvisionsBlock

from generators import Features
from reid_aug.baselines.initial import initial_weights
from reid_aug.baselines.network import build, check, features_of, load_baseline, save_baseline
from reid_aug.baselines.perceptual import ReidFeatures
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.small import BasicBlock, SmallResNet
from reid_aug.weights import MissingWeights

CONFIG = BaselineConfig(model="small", last_stride=1, neck=True, size=(64, 32), widths=(8, 9, 12, 10))


@pytest.mark.parametrize(("before", "after", "stride"), [(8, 8, 1), (8, 9, 2), (8, 9, 1)])
def test_a_block_is_torchvisions(before: int, after: int, stride: int) -> None:
    block = BasicBlock(before, after, stride).eval()
    shortcut = None if before == after else torch.nn.Sequential(torch.nn.Conv2d(before, after, 1, stride), torch.nn.BatchNorm2d(after))
    theirs = TorchvisionsBlock(before, after, stride, shortcut).eval()
    renamed = {"first": "conv1", "first_norm": "bn1", "second": "conv2", "second_norm": "bn2", "shortcut": "downsample"}
    with torch.no_grad():
        for name, value in block.state_dict().items():
            stem, _, rest = name.partition(".")
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape) + 0.1)
            theirs.state_dict()[f"{renamed[stem]}.{rest}"].copy_(value)
        if shortcut is not None:
            shortcut[0].bias.zero_()  # type: ignore[union-attr]
        images = torch.randn(2, before, 9, 7)
        torch.testing.assert_close(block(images), theirs(images))


@pytest.mark.parametrize(("stride", "rows"), [(1, 8), (2, 4)])
def test_the_last_map_and_the_number_of_weights(stride: int, rows: int) -> None:
    network = SmallResNet(10, last_stride=stride)
    maps: list[torch.Tensor] = []
    network.conv5.register_forward_hook(lambda _, __, output: maps.append(output))
    logits, features = network(torch.zeros(2, 3, 64, 32))
    assert maps[0].shape == (2, 256, rows, rows // 2) and logits.shape == (2, 10) and features.shape == (2, 256)
    # Convolutions without bias; gains and biases of their norms; the classifier.
    stem, blocks = 27 * 32, sum(9 * (a * b + b * b) + (a * b if a != b else 0) for a, b in ((32, 32), (32, 64), (64, 128), (128, 256)))
    norms = 2 * (32 + sum(width * (2 + (width != 32)) for width in (32, 64, 128, 256)))  # 32 → 32 has no shortcut to norm
    assert sum(p.numel() for p in network.parameters()) == stem + blocks + norms + 256 * 10 + 10


def test_features_are_mean_and_maximum_together() -> None:
    network = SmallResNet(3, (8, 8, 8, 8)).eval()
    maps: list[torch.Tensor] = []
    network.conv5.register_forward_hook(lambda _, __, output: maps.append(output))
    features = network(torch.randn(2, 3, 64, 32))
    flat = maps[0].flatten(2)
    torch.testing.assert_close(features, flat.mean(2) + flat.max(2).values)


@pytest.mark.parametrize("size", [(64, 32), (65, 33), (128, 64), (256, 128)])
def test_any_size_and_a_single_image(size: tuple[int, int]) -> None:
    network = build(CONFIG, 5).to(memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    images = torch.randint(0, 256, (3, 3, *size), dtype=torch.uint8)
    features = features_of(network, images)
    assert features.shape == (3, 10)
    torch.testing.assert_close(features_of(network, images[1:2]), features[1:2])
    check(CONFIG.model_copy(update={"size": size}), "plain")


def test_it_comes_back_with_its_widths_and_has_stages(tmp_path: Path) -> None:
    network = build(CONFIG, 5).eval()
    images = torch.randint(0, 256, (2, 3, 64, 32), dtype=torch.uint8)
    save_baseline(network, CONFIG, 5, tmp_path / "small.safetensors")
    back, _ = load_baseline(tmp_path / "small.safetensors")
    assert torch.equal(features_of(back, images), features_of(network, images))
    stages = ReidFeatures(back, Features(("conv1_2", "conv4_1")), "small")
    assert [tuple(part.shape[1:]) for part in stages(torch.zeros(1, 3, 64, 32))] == [(8, 32, 16), (12, 8, 4)]


def test_widths_are_its_alone_and_imagenet_has_none() -> None:
    with pytest.raises(ValidationError, match=r"widths are those of model 'small', got \[8, 8, 8, 8\] for 'osnet_x0_25'"):
        BaselineConfig(widths=(8, 8, 8, 8))
    with pytest.raises(ValidationError, match="widths.0\n.*greater than or equal to 8"):
        BaselineConfig(model="small", widths=(4, 8, 8, 8))
    with pytest.raises(MissingWeights, match="no ImageNet weights of small: nobody trained"):
        initial_weights(CONFIG.model_copy(update={"weights": "imagenet"}))
