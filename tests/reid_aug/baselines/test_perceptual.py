"""A Re-ID network in VGG-19's place: its stages, and training that takes it by name."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generators import Features, read_header
from reid_aug.baselines.network import build, load_baseline, save_baseline
from reid_aug.baselines.perceptual import ReidFeatures, load_reid_features
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.cli import main
from reid_aug.rendered import RenderedSet


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BaselineConfig(model="osnet_x0_25", size=(32, 16))
    path = tmp_path_factory.mktemp("reid") / "osnet.safetensors"
    save_baseline(build(config, 5).eval(), config, 5, path, seconds=1.5)
    return path


def test_features_are_the_networks_stages(checkpoint: Path) -> None:
    network = load_reid_features(checkpoint, Features(("conv3_1", "conv1_2", "conv1_1")))
    images = torch.rand(2, 3, 64, 32) * 2 - 1
    third, first, again = network(images)
    assert first.shape[2:] == (32, 16) and third.shape[2:] == (4, 2) and again is first
    back, _ = load_baseline(checkpoint)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert torch.allclose(first, back.conv1(((images + 1) / 2 - mean) / std), atol=1e-5)
    assert network.name.startswith("reid:osnet_x0_25:") and not any(p.requires_grad for p in network.parameters())
    images.requires_grad_()
    network(images)[0].sum().backward()
    assert images.grad is not None and images.grad.abs().sum() > 0, "what is drawn learns through it"


def test_resnets_have_stages_too_and_others_are_refused() -> None:
    resnet = build(BaselineConfig(model="resnet18"), 5).eval()
    network = ReidFeatures(resnet, Features(("conv1_2", "conv2_2", "conv5_4")), "r")
    shapes = [tuple(layer.shape[1:]) for layer in network(torch.zeros(1, 3, 64, 32))]
    assert shapes == [(64, 32, 16), (64, 16, 8), (512, 2, 1)], shapes
    assert network(torch.rand(1, 3, 64, 32))[0].min() >= 0, "after its ReLU, as VGG-19's"
    with pytest.raises(ValueError, match="a network with stages conv1/conv2/conv3/conv4/conv5 or relu/layer1"):
        ReidFeatures(torch.nn.Sequential(torch.nn.ReLU()), Features(("conv1_1",)), "x")


def test_training_takes_it_by_name(checkpoint: Path, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", f"data.root={rendered.root}", "generator.name=deformable", "generator.size=[32,16]", "generator.width=4", "steps=1",
             "batch_size=2", "samples=1"]  # fmt: skip
    assert main([*words, f"out={tmp_path / 'a'}", f"perceptual.weights=reid:{checkpoint}"]) == 0
    assert read_header(tmp_path / "a" / "last.safetensors")["about"]["perceptual"].startswith("reid:osnet_x0_25:")
    capsys.readouterr()
    for weights, message in ((f"reid:{rendered.root / 'annotation-train.csv'}", "safetensors"), ("vgg.pth", "say perceptual.weights=")):
        assert main([*words, f"out={tmp_path / 'b'}", f"perceptual.weights={weights}"]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "b").exists()
