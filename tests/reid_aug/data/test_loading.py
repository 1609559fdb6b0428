"""From a configuration to people with poses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from reid_aug import images
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.keypoints import HEADER
from reid_aug.data.loading import DataConfig, left_out_of, load_people, with_keypoints
from reid_aug.data.people import PersonImage


def write(folder: Path, name: str, size: tuple[int, int]) -> PersonImage:
    images.write(np.zeros((*size, 3), np.uint8), folder / name)
    return PersonImage(str(folder / name), 1, 0, "train")


@pytest.mark.parametrize("sizes", [[(32, 16), (32, 16)], [(32, 16), (64, 48)]])
def test_each_pose_is_in_its_images_pixels(tmp_path: Path, sizes: list[tuple[int, int]]) -> None:
    people = [write(tmp_path, f"{i}.png", size) for i, size in enumerate(sizes)]
    lines = [f"{i}.png: {[-1, *range(1, 18)]}: {[3] * 18}" for i in range(2)]
    (tmp_path / "k.csv").write_text("\n".join([HEADER, *lines]) + "\n")
    for person, size in zip(with_keypoints(people, tmp_path / "k.csv", ("train",)), sizes, strict=True):
        assert person.pose is not None and person.pose.size == size and person.pose.xy.dtype == torch.float32
        assert person.pose.visible.tolist() == [False] + [True] * 17 and person.pose.xy[17].tolist() == [3, 17]


def test_bounds_are_those_of_each_image(tmp_path: Path) -> None:
    people = [write(tmp_path, f"{i}.png", size) for i, size in enumerate([(60, 30), (64, 32), (80, 40), (90, 45)])]

    def keypoints(*factors: float) -> Path:
        rows = [f"{i}.png: {[(10 + 2 * j) * f for j in range(18)]}: {[(6 + j) * f for j in range(18)]}" for i, f in enumerate(factors)]
        (tmp_path / "k.csv").write_text("\n".join([HEADER, *rows]) + "\n")
        return tmp_path / "k.csv"

    with pytest.raises(ValueError, match=r"4 of 4 rows have joints outside their images, \(H, W\) \(60, 30\) to \(90, 45\): wrong size\?"):
        with_keypoints(people, keypoints(4, 4, 4, 4), ("train",))
    with pytest.warns(DataDoubt, match=r"1 of 4 rows have joints outside .* \(0.png\)"):
        with_keypoints(people, keypoints(2, 1.2, 1.4, 1.5), ("train",))
    path = keypoints(1, 1, 1, 1)
    path.write_text(path.read_text() + "".join(f"other{i}.png: {[500] * 18}: {[500] * 18}\n" for i in range(9)))
    with_keypoints(people[1:2], path, ("train",))  # what the file says of other images, of whatever size, is not judged
    sizes = {p.path: (600, 300) for p in people}  # what is known is not read again
    assert all(p.pose and p.pose.size == (600, 300) for p in with_keypoints(people, keypoints(4, 4, 4, 4), ("train",), sizes=sizes))


def test_bad_images_are_left_out_and_named(rendered, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = next((folder / "query").iterdir())
    broken.write_bytes(b"no image")
    config = DataConfig(root=str(folder), on_bad_image="skip")
    people = load_people(config, train_poses=False)
    assert len(people) == len(rendered.rows) - 1 and broken.name not in {p.name for p in people}
    assert capsys.readouterr().err.startswith(f"skipped: image {str(broken)!r} can't be decoded")


def test_a_missing_keypoint_file_is_named(folder: Path) -> None:
    (folder / "annotation-train.csv").unlink()
    advice = "annotation-train.csv: name one with data.keypoints=FILE, or find them: reid-aug poses ROOT --out FILE$"
    with pytest.raises(FileNotFoundError, match=advice):
        load_people(DataConfig(root=str(folder)))
    with pytest.raises(FileNotFoundError, match="no keypoint file at nowhere.csv$"):
        load_people(DataConfig(root=str(folder), keypoints="nowhere.csv"))


def test_what_is_left_out_is_data_for_every_kind_of_set(folder: Path, tmp_path: Path) -> None:
    (folder / "query" / "notes.txt").touch()
    assert [one.name for one in left_out_of(DataConfig(root=str(folder)))] == ["query/notes.txt"]
    image = next((folder / "query").glob("*.jpg"))
    (tmp_path / "people.CSV").write_text(f"path,pid,split\n{image},-1,train\n{image},a,query\n")
    assert [(one.name, one.expected) for one in left_out_of(DataConfig(root=str(tmp_path / "people.CSV")))] == [(f"line 2: {image}", True)]
    assert len(load_people(DataConfig(root=str(tmp_path / "people.CSV")), train_poses=False)) == 1
    assert left_out_of(DataConfig(root="YouTube.mat")) == []
