"""An estimator as the teacher of a generator that finds poses itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from generators import load
from generators.checkpoints import read_header
from reid_aug import DataDoubt
from reid_aug.cli import main
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.images import read_many, to_float
from reid_aug.rendered import RenderedConfig, write_rendered
from reid_aug.synthesis.train import TrainConfig, train_from
from reid_aug.synthesis.training_pairs import PairStream

MOMI = {
    "name": "momi", "size": (32, 16), "width": 4, "blocks": 1, "detector_blocks": 1, "dropout": 0.0, "sigma_px": 2.0,
    "teacher_sigma_px": 1.5, "patch_px": 6.0, "patch_cells": 2, "perceptual_weight": 0.0,
    "constant_steps": 50, "decay_steps": 0, "learning_rate": 5e-3,
}  # fmt: skip


class Brightest:
    """Says that every joint is at the brightest pixel, by a peak of four pixels with slopes, but the nose, which it never finds."""

    name = "brightest pixel"

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def heatmaps(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        grey = images.float().mean(1, keepdim=True) / 255
        maps = (grey / grey.amax((2, 3), keepdim=True)) ** 8  # nothing that Gaussians at an argmax would be
        return maps * (torch.arange(17) > 0)[:, None, None]


@pytest.fixture()
def given(tmp_path: Path) -> dict[str, Any]:
    root = write_rendered(tmp_path / "set", RenderedConfig(train_identities=3, test_identities=1, size=(32, 16))).root
    return {"generator": MOMI, "data": {"root": str(root)}, "out": str(tmp_path / "run"), "batch_size": 4, "samples": 1}


def test_the_detector_learns_what_the_estimator_finds(given: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    estimator = Brightest()
    monkeypatch.setattr("reid_aug.data.estimators.keypoint_rcnn.KeypointRcnn", lambda *_: estimator)
    trained = train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=3))
    pixels = estimator.seen[0]
    assert pixels.dtype == torch.uint8 and tuple(pixels.shape) == (8, 3, 32, 16) and pixels.max() > 150, "images as files have them"
    assert read_header(trained.checkpoint)["about"]["teacher"] == "brightest pixel"
    loss = {}
    for steps in (4, 40):
        trained = train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=steps))
        with torch.no_grad():
            maps = load(trained.checkpoint).detector(pixels.float() / 127.5 - 1)  # type: ignore[operator]
        loss[steps] = float((maps - estimator.heatmaps(pixels)).square().mean())
    assert loss[40] < 0.7 * loss[4], "the estimator's activations"
    with pytest.raises(ValueError, match="was trained with teacher 'brightest pixel', this run asks for None"):
        train_from(TrainConfig(**given, steps=41))


def test_who_learns_no_poses_has_no_teacher(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", f"data.root={given['data']['root']}", f"out={given['out']}", "generator={name: pg2, size: [32, 16], width: 4}"]
    assert main([*asked, "teacher=keypoint-rcnn"]) == 2
    assert "teacher=keypoint-rcnn is for generators that learn to find poses" in capsys.readouterr().err
    assert main([*asked, "teacher=openpose"]) == 2
    assert "'keypoints' or 'keypoint-rcnn'" in capsys.readouterr().err


def test_without_the_estimators_weights_nothing_begins(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    with pytest.raises(FileNotFoundError, match="keypointrcnn_resnet50_fpn.*it could not be downloaded"):
        train_from(TrainConfig(**given, teacher="keypoint-rcnn", steps=1))
    assert not Path(given["out"]).exists()
    assert main(["train", *_settings(given), "teacher=keypoint-rcnn"]) == 2
    assert "or say teacher=keypoints to learn from a keypoint file" in capsys.readouterr().err


def _settings(given: dict[str, Any]) -> list[str]:
    generator = ", ".join(f"{key}: {list(value) if isinstance(value, tuple) else value}" for key, value in MOMI.items())
    return [f"data.root={given['data']['root']}", f"out={given['out']}", "batch_size=4", "samples=1", f"generator={{{generator}}}"]


class Small(nn.Module):
    """A network like SimpleBaseline in miniature: heatmaps of a quarter of the images' size."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 3, stride=4, padding=1), nn.ReLU(), nn.Conv2d(8, 17, 1)).requires_grad_(False)
        self.shapes: set[tuple[int, ...]] = set()

    def forward(self, images: Tensor) -> Tensor:
        maps = self.layers(images)
        self.shapes.add(tuple(maps.shape))
        return maps


def test_people_without_keypoints_are_learnt_from(given: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    root = Path(given["data"]["root"])
    for kind in ("train", "test"):
        (root / f"annotation-{kind}.csv").unlink()
    assert main(["train", *_settings(given)]) == 2
    assert f"no keypoint file at {root / 'annotation-train.csv'}" in (said := capsys.readouterr().err)
    assert "or learn poses from images with teacher=keypoint-rcnn" in said
    teacher = Small()
    distill = {}
    for steps in (1, 20):
        trained = train_from(TrainConfig(**given, steps=steps), teacher=teacher)
        header, model = read_header(trained.checkpoint), load(trained.checkpoint)
        people = load_people(DataConfig(root=str(root)), posed=False)
        train = [p for p in people if p.split == "train"]
        assert header["about"]["teacher"] == "Small" and all(p.pose is None for p in train)
        images = to_float(read_many([p.path for p in train], (32, 16)))
        with torch.no_grad():
            wanted = nn.functional.interpolate(teacher.layers(images), (32, 16), mode="bilinear")
            distill[steps] = float((model.detector(images) - wanted).square().mean())  # type: ignore[operator]
    assert distill[20] < 0.5 * distill[1] and teacher.shapes >= {(8, 17, 8, 4)}


def test_pairs_are_of_all_images_or_of_posed_ones(given: dict[str, Any]) -> None:
    people = load_people(DataConfig(root=given["data"]["root"]))
    train = [p for p in people if p.split == "train"]
    half = [replace(p, pose=None) if i % 2 else p for i, p in enumerate(train)]
    with pytest.warns(DataDoubt, match="without a pose"):
        posed = PairStream(half, (32, 16), 4)
    whole = PairStream(half, (32, 16), 4, posed=False)
    assert len(posed.people) <= (len(train) + 1) // 2 and len(whole.people) == len(train)
    assert whole.pose.visible.any(1).tolist() == [p.pose is not None for p in whole.people]
    with pytest.raises(ValueError, match="no training pairs: of 1 train images of 1 identities, none with two"):
        PairStream(train[:1], (32, 16), 4, posed=False)
