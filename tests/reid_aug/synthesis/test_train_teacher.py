"""An estimator as the teacher of a generator that finds poses itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generators import Pose, load
from generators.checkpoints import read_header
from generators.pose import coco_17
from reid_aug.cli import main
from reid_aug.rendered import RenderedConfig, write_rendered
from reid_aug.synthesis.train import TrainConfig, train_from

MOMI = {
    "name": "momi", "size": (32, 16), "width": 4, "blocks": 1, "detector_blocks": 1, "dropout": 0.0, "sigma_px": 2.0,
    "teacher_sigma_px": 1.5, "patch_px": 6.0, "patch_cells": 2, "perceptual_weight": 0.0,
    "constant_steps": 50, "decay_steps": 0, "learning_rate": 5e-3,
}  # fmt: skip


class Brightest:
    """Says that every joint is at the brightest pixel, but the nose, which it never finds."""

    name = "brightest pixel"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def __call__(self, images: Tensor) -> Pose:
        self.seen.append(images)
        height, width = images.shape[-2:]
        at = images.float().mean(1).flatten(1).argmax(1)
        xy = torch.stack((at % width, at // width), -1).float()[:, None].expand(-1, 17, -1)
        visible = torch.ones(len(images), 17, dtype=torch.bool)
        visible[:, 0] = False
        return Pose(xy, visible, coco_17, (height, width))


@pytest.fixture()
def given(tmp_path: Path) -> dict[str, Any]:
    root = write_rendered(tmp_path / "set", RenderedConfig(train_identities=3, test_identities=1, size=(32, 16))).root
    return {"generator": MOMI, "data": {"root": str(root)}, "out": str(tmp_path / "run"), "batch_size": 4, "samples": 1}


def test_the_detector_learns_what_the_estimator_finds(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Brightest()
    monkeypatch.setattr("reid_aug.data.estimator.KeypointRcnn", lambda *_: estimator)
    trained = train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=3))
    pixels = estimator.seen[0]
    assert pixels.dtype == torch.uint8 and tuple(pixels.shape) == (8, 3, 32, 16) and pixels.max() > 150, "images as files have them"
    assert read_header(trained.checkpoint)["about"]["teacher"] == "brightest pixel"
    loss = {}
    for steps in (4, 40):
        trained = train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=steps))
        model = load(trained.checkpoint)
        with torch.no_grad():
            maps = model.detector(pixels.float() / 127.5 - 1)  # type: ignore[operator]
        at = estimator(pixels).xy[:, 1].long()
        loss[steps] = float((maps[torch.arange(8), 1:, at[:, 1], at[:, 0]] - 1).square().mean())
    assert loss[40] < loss[4], "peaks where the estimator finds joints"
    with pytest.raises(ValueError, match="was trained with teacher 'brightest pixel', this run asks for None"):
        train_from(TrainConfig(**given, steps=41))


def test_who_learns_no_poses_has_no_teacher(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", f"data.root={given['data']['root']}", f"out={given['out']}", "generator={name: pg2, size: [32, 16], width: 4}"]
    assert main([*asked, "teacher=keypoint-rcnn"]) == 2
    assert "teacher=keypoint-rcnn is for generators that learn to find poses" in capsys.readouterr().err
    assert main([*asked, "teacher=openpose"]) == 2
    assert "'keypoints' or 'keypoint-rcnn'" in capsys.readouterr().err


def test_without_the_estimators_weights_nothing_begins(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(FileNotFoundError, match="keypointrcnn_resnet50_fpn.*it could not be downloaded"):
        train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=1))
    assert not Path(given["out"]).exists()
