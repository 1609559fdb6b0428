"""Other layouts and formats: each is told by name, with a way of reading it that works."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid_aug import images
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.market import read_market_folder

HDF5 = b"\x89HDF\r\n\x1a\n"


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(np.zeros((8, 4, 3), np.uint8), path)


def msmt17(root: Path) -> tuple[Path, int]:
    """torchreid's place for MSMT17: two lists of training images, nested folders."""
    base = root / "msmt17" / "MSMT17_V1"
    rows: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for pid in range(2):
        for camera in (1, 2):
            name = f"{pid:04d}/{pid:04d}_00{camera}_{camera:02d}_0303morning_0008_{camera}.jpg"
            picture(base / "train" / name)
            picture(base / "test" / name)
            rows["train"].append(f"{name} {pid}")
            rows["query" if camera == 1 else "gallery"].append(f"{name} {pid}")
    for split, lines in rows.items():
        (base / f"list_{split}.txt").write_text("".join(f"{line}\n" for line in lines))
    return base, 8


def cuhk03(root: Path) -> tuple[Path, int]:
    """torchreid's place for CUHK03, once it has unpacked the .mat."""
    base, rows = root / "cuhk03", {"train": [], "query": [], "gallery": []}
    for pid in range(2):
        for view in (1, 2):
            for pair, split in ((1, "train"), (2, "query" if view == 1 else "gallery")):
                file = base / "images_detected" / f"{pair}_{pid + 1:03d}_{view}_{view:02d}.png"
                picture(file)
                rows[split].append([str(file), pid, view - 1])
    (base / "images_labeled").mkdir()
    (base / "cuhk03_release").mkdir()
    files = ["cuhk03_release/cuhk-03.mat", "cuhk03_new_protocol_config_detected.mat", "cuhk03_new_protocol_config_labeled.mat"]
    for file in files:
        (base / file).write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + HDF5)
    for name in ("classic_detected", "classic_labeled", "new_detected", "new_labeled"):
        (base / f"splits_{name}.json").write_text(json.dumps([rows]))
    return base, 8


def dukemtmc(root: Path) -> tuple[Path, int]:
    base = root / "dukemtmc-reid" / "DukeMTMC-reID"
    for folder, pid, camera in (("bounding_box_train", 1, 2), ("query", 5, 2), ("bounding_box_test", 5, 7)):
        picture(base / folder / f"{pid:04d}_c{camera}_f0046182.jpg")
    return root, 3


@pytest.mark.parametrize(
    ("make", "below"),
    [(msmt17, ""), (msmt17, "list_train.txt"), (msmt17, ".."), (msmt17, "../.."), (cuhk03, ""), (cuhk03, "cuhk03_release"),
     (cuhk03, "cuhk03_release/cuhk-03.mat"), (cuhk03, "cuhk03_new_protocol_config_labeled.mat"), (dukemtmc, "")],
)  # fmt: skip
def test_what_is_advised_for_a_data_set_reads_it(tmp_path: Path, make: Callable[[Path], tuple[Path, int]], below: str) -> None:
    base, count = make(tmp_path)
    place = (base / below).resolve()
    with pytest.raises(ValueError, match="give data.root=torchreid:") as caught:
        load_people(DataConfig(root=str(place)))
    named = place.parent if place.suffix == ".txt" else place
    assert "\n" not in str(caught.value) and str(named) in str(caught.value)
    advised = re.search(r"data\.root=(torchreid:\S+)", str(caught.value))
    assert advised is not None and len(load_people(DataConfig(root=advised[1]), train_poses=False)) == count


def test_a_data_set_elsewhere_is_told_where_to_be(tmp_path: Path) -> None:
    base, _ = msmt17(tmp_path)
    moved = base.rename(tmp_path / "mine")
    with pytest.raises(ValueError, match="is MSMT17: make it DIR/msmt17/MSMT17_V1 and give data.root=torchreid:msmt17:DIR"):
        read_market_folder(moved)
    (tmp_path / "x.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(512) + HDF5)
    with pytest.raises(ValueError, match=r"x.mat is a MATLAB 7.3 file \(HDF5\), as CUHK03's .* make it DIR/cuhk03 and give"):
        load_people(DataConfig(root=str(tmp_path / "x.mat")))
    (tmp_path / "tracklets" / "bbox_train").mkdir(parents=True)
    with pytest.raises(ValueError, match="is MARS or laid out so, of tracklets: list the images to use in a CSV"):
        read_market_folder(tmp_path / "tracklets")


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("x.json", {"a": 1}, "JSON, but neither COCO's, OpenPose's nor AlphaPose's: it has .'a'."),
        ("k.npy", b"\x93NUMPY...", "NumPy's .npy"),
        ("k.npz", b"PK\x03\x04...", "a zip archive"),
        ("k.pkl", pickle.dumps([1]), "a pickle"),
        ("k.jpg", b"\xff\xd8\xff...", "a JPEG"),
    ],
)
def test_other_keypoints_are_told_by_name(tmp_path: Path, name: str, content: Any, what: str) -> None:
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    with pytest.raises(ValueError, match=f"{name} is {what}.* keypoints are read from a text file .*reid-aug poses") as caught:
        read_columns(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_folder_with_keypoints_in_it_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is a folder without JSON files; keypoints are read from"):
        read_columns(tmp_path)
    (tmp_path / "annotation-train.csv").touch()
    with pytest.raises(ValueError, match="is a folder: name the keypoint file in it, as .*annotation-train.csv$"):
        read_columns(tmp_path)
