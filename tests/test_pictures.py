"""The scripts that show and time a benchmark's generators, on a run of four people whose generators have learnt nothing."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import generators
from benchmarks import generator_speed, pictures
from reid_aug import images
from reid_aug.config import shipped
from reid_aug.rendered import RenderedConfig, write_rendered

SIZE = (64, 32)
PEOPLE = {"train_identities": 4, "test_identities": 4, "train_images": 4, "train_cameras": 2, "gallery_images": 4, "roads": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_rendered(folder / "data", RenderedConfig(**PEOPLE, sector_deg=15, size=SIZE))
    options = {"warpblend": {"width": 4}, "warpblend-longer": {"width": 4}, "pg2": {"width": 4, "bottleneck": 4, "radius_px": 2.0}}
    for name, given in options.items():
        place = folder / "generators" / f"{name}-{'0a' * 6}"
        place.mkdir(parents=True)
        generators.save(generators.create(name.split("-")[0], size=SIZE, **given), place / "last.safetensors")
    return folder


def draw(monkeypatch: pytest.MonkeyPatch, *words: object) -> None:
    monkeypatch.setattr(sys, "argv", ["pictures.py", *map(str, words)])
    pictures.main()


def cell(sheet: np.ndarray, row: int, column: int) -> np.ndarray:
    """Cut one image out of a sheet: every second pixel of it, right of the labels, between the gaps."""
    y, x = (pictures.GAP + i * (side + pictures.GAP) for i, side in ((row, SIZE[0]), (column, SIZE[1])))
    return sheet[:: pictures.SCALE, pictures.LABEL_PX :: pictures.SCALE][y : y + SIZE[0], x : x + SIZE[1]].astype(int)


def test_one_picture_shows_all_generators_on_people_they_saw_and_did_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    draw(monkeypatch, run, "--compare", "pg2", "warpblend", "--picture", "two", "--out", tmp_path)
    sheet = np.asarray(Image.open(tmp_path / "rendered-two.jpg").convert("RGB"))
    rows, columns = 5, pictures.COLUMNS
    assert sheet.shape[0] == pictures.SCALE * (rows * (SIZE[0] + pictures.GAP) + pictures.GAP)
    photographs = {split: images.read_many(sorted((run / "data" / split).glob("*.jpg")), SIZE).permute(0, 2, 3, 1).numpy().astype(int)
                   for split in ("bounding_box_test", "bounding_box_train")}  # fmt: skip
    for split, column in (("bounding_box_test", 0), ("bounding_box_train", columns - 1)):
        for row in (0, 1):  # sources and targets are photographs of the split, but for what JPEG changes
            nearest = np.abs(photographs[split] - cell(sheet, row, column)).mean((1, 2, 3)).min()
            assert nearest < 6, (split, row)
    # A generator that takes scenes stands in the target's place: in the corners it is the target, and the truth is.
    for column in range(columns):
        corners = [cell(sheet, row, column)[:6, :6] for row in (1, 3, 4)]
        assert np.abs(corners[0] - corners[1]).mean() < 12 and np.abs(corners[0] - corners[2]).mean() < 12


def test_a_generator_that_a_run_lacks_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    with pytest.raises(SystemExit, match="2"):
        draw(monkeypatch, run, "--compare", "pg2", "vdg", "--out", tmp_path)
    assert "holds no trained vdg" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_speed_is_measured_of_generators_as_a_benchmark_has_them() -> None:
    file = shipped("benchmarks/five.yaml")
    entries = yaml.safe_load(file.read_text())["generators"]
    measured = dict(generator_speed.configurations([], "five"))
    assert measured.keys() >= {"pg2", "deformable", "vdg", "momi", "posewarp", "warpblend"}
    for name in ("pg2", "deformable"):
        assert measured[name]["generator"].items() >= entries[name]["generator"].items()
        assert measured[name]["batch_size"] == entries[name]["batch_size"]
    with pytest.raises(SystemExit, match="no generator cyclegan in five"):
        next(generator_speed.configurations(["cyclegan"], "five"))


def test_the_five_learn_by_their_papers_own_losses() -> None:
    """What a shipped YAML says of losses stands in `five`, but for weights in units of the network there, and posewarp's small L1."""
    measured = dict(generator_speed.configurations([], "five"))
    same = {
        "pg2": ("stage1_loss", "stages", "discriminator", "pose_embedding"),
        "deformable": ("skips", "aggregate", "content_loss", "nn_side_px", "norm"),
        "vdg-w": ("loss", "stages"),
        "momi": ("attention", "translate_weight", "patch_weight", "adversarial_weight"),
        "posewarp": ("adversarial_weight", "skeleton"),
    }
    for row, keys in same.items():
        paper = yaml.safe_load(shipped(f"generators/{row}.yaml").read_text())["generator"]
        here = measured[paper["name"]]["generator"]
        assert {key: here[key] for key in keys} == {key: paper[key] for key in keys}, row
    for name in ("deformable", "momi", "posewarp"):
        assert measured[name]["perceptual"]["weights"] == "lite0"
    assert measured["momi"]["teacher"] == "keypoints", "a Keypoint R-CNN's weights are a download"
