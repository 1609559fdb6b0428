"""A Re-ID network in VGG-19's place: kept by the benchmark, loaded by training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from generators.checkpoints import read_header
from generators.perceptual import Features
from reid_aug.baselines.network import build, load_baseline, save_baseline
from reid_aug.baselines.perceptual import ReidFeatures, load_reid_features
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.bench import report
from reid_aug.bench import run as harness
from reid_aug.cli import main
from reid_aug.config import load
from reid_aug.rendered.dataset import RenderedSet

SMOKE = Path(__file__).resolve().parents[3] / "configs" / "benchmarks" / "smoke.yaml"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BaselineConfig(model="osnet_x0_25", size=(32, 16))
    path = tmp_path_factory.mktemp("reid") / "osnet.safetensors"
    save_baseline(build(config, 5).eval(), config, 5, path, seconds=1.5)
    return path


def test_a_network_comes_back_as_it_was(checkpoint: Path) -> None:
    torch.manual_seed(0)
    made = build(BaselineConfig(model="osnet_x0_25"), 5).eval()
    back, header = load_baseline(checkpoint)
    images = torch.rand(2, 3, 32, 16)
    assert torch.equal(made(images), back(images)) and not back.training
    assert header["model"] == "osnet_x0_25" and header["about"] == {"seconds": 1.5}


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
    for weights, said in ((f"reid:{rendered.root / 'annotation-train.csv'}", "safetensors"), ("vgg.pth", "say perceptual.weights=")):
        assert main([*words, f"out={tmp_path / 'b'}", f"perceptual.weights={weights}"]) == 2
        assert said in capsys.readouterr().err and not (tmp_path / "b").exists()


def test_the_benchmark_compares_on_its_own_baseline(tmp_path: Path) -> None:
    asked = load(harness.BenchConfig, SMOKE, [
        "arms=[none,deformable]", "seeds=[0]", f"out={tmp_path}", "quality.pairs=4", "generators={}",
        "generators.deformable.generator={name: deformable, size: [32, 16], width: 4, steps: 2}",
        "generators.deformable.batch_size=4", "generators.deformable.perceptual.weights=reid:baseline",
    ])  # fmt: skip
    result = harness.run(asked)
    (kept,) = (result.folder / "baselines").iterdir()
    (trained,) = (result.folder / "generators").iterdir()
    said = read_header(trained / "last.safetensors")["about"]["perceptual"]
    assert said == f"reid:osnet_x0_25:{load_baseline(kept)[1]['digest'][:12]}"
    assert result.perceptual["deformable"] == said
    text = report.write(result, "x", "y").read_text()
    assert f"`deformable` was trained to look alike to `{said}`, too. The same network judges its identity below" in text
    off = {"momi": "none"}
    assert list(report._perceptual(off, {})) == ["`momi` was trained with its perceptual terms turned off (`perceptual.weights=none`)."]
    assert [line["arm"] for line in result.lines] == ["none", "deformable"] and result.lines[0]["seconds"] > 0
    assert json.loads((result.folder / "config.json").read_text())["generators"]["deformable"]["perceptual"] == {"weights": "reid:baseline"}


def test_missing_weights_stop_a_benchmark_before_it_trains(tmp_path: Path) -> None:
    asked = load(harness.BenchConfig, SMOKE, [
        "arms=[none,pg2,deformable]", "seeds=[0]", f"out={tmp_path}",
        "generators.deformable.generator={name: deformable, size: [32, 16], width: 4, steps: 2}",
        f"generators.deformable.perceptual.weights={tmp_path / 'vgg.pth'}",
    ])  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no perceptual weights at"):
        harness.run(asked)
    assert not list(tmp_path.glob("*/generators/*"))
