"""`reid-aug inspect`: what was understood, what is doubtful, and the sheet."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from reid_aug import images
from reid_aug.data.contact_sheet import CELL, WARNING, draw_sheet, write_sheet
from reid_aug.data.doubts import Doubt
from reid_aug.data.inspect import inspect, sheet_people, summary
from reid_aug.data.keypoints import HEADER
from reid_aug.data.loading import DataConfig
from reid_aug.rendered import RenderedSet


def change_rows(path: Path, change: Callable[[str, str], tuple[str, str]]) -> None:
    """Change the y and x lists of a keypoint file."""
    header, *rows = path.read_text().splitlines()
    fields = [row.split(": ") for row in rows]
    path.write_text("\n".join([header, *(": ".join([name, *change(y, x)]) for name, y, x in fields)]) + "\n")


def test_what_was_understood(rendered: RenderedSet) -> None:
    inspection = inspect(DataConfig(root=str(rendered.root)))
    assert inspection.doubts == [] and set(inspection.sizes.values()) == {(32, 16)}
    assert sum(p.pose is not None for p in inspection.people) == len(rendered.rows) == len(inspection.people)
    said = dict(line.split(maxsplit=1) for line in summary(inspection))
    assert said["people"] == "6 train, 4 query, 4 gallery" and said["images"] == "24 train, 8 query, 20 gallery"
    cameras = len({p.camid for p in inspection.people})
    assert said["sizes"] == "H × W 32 × 16 (52)" and said["cameras"].startswith(f"{cameras}, counted from 0: 0, ")
    assert said["keypoints"].startswith("query and gallery: 28 of 28 images") and "24 train" in said["usable"] and said["doubts"] == "none"
    assert 20 <= int(said["height"].split(" px")[0]) <= 25
    assert 98 <= sum(int(share) for share in re.findall(r"(\d+) %", said["views"])) <= 102


def test_without_keypoints(folder: Path) -> None:
    for file in folder.glob("annotation-*.csv"):
        file.unlink()
    inspection = inspect(DataConfig(root=str(folder)))
    lines = summary(inspection)
    assert inspection.doubts == [] and "keypoints  train: no keypoint file" in lines and len(sheet_people(inspection, 24)) == 24
    with pytest.raises(FileNotFoundError, match="no keypoint file at nowhere.csv"):
        inspect(DataConfig(root=str(folder), keypoints="nowhere.csv"))


def test_what_readers_refuse_is_shown(folder: Path) -> None:
    change_rows(folder / "annotation-train.csv", lambda y, x: (x, y))
    (doubt,) = inspect(DataConfig(root=str(folder))).doubts
    assert doubt.grave and "are y and x exchanged?" in doubt.text
    assert summary(inspect(DataConfig(root=str(folder))))[-1] == f"doubt      {doubt}"


def test_keypoints_of_other_images_are_a_doubt(folder: Path) -> None:
    path = folder / "annotation-test.csv"
    inspection = inspect(DataConfig(root=str(folder), keypoints=str(path)))
    (doubt,) = [doubt for doubt in inspection.doubts if doubt.kind == "unposed"]
    assert doubt.grave and str(doubt).startswith("0 of 24 train images have a pose, at least half must; without one: 24 not named there (")
    assert len(sheet_people(inspection, 24)) == 24


def test_people_in_train_and_test_are_a_doubt(folder: Path) -> None:
    """Other verbs refuse the set; what is wrong with it is what a validator is asked for."""
    image = next((folder / "bounding_box_train").glob("0001_*.jpg"))
    (folder / "query" / image.name).write_bytes(image.read_bytes())
    doubts = [doubt for doubt in inspect(DataConfig(root=str(folder))).doubts if doubt.kind == "overlap"]
    assert [str(doubt).split(":")[0] for doubt in doubts] == ["1 identities are in train and in query or gallery"]
    assert doubts[0].names == ("1",) and doubts[0].grave


def test_images_that_cant_be_read_are_named(folder: Path) -> None:
    broken = sorted((folder / "query").iterdir())[:2]
    for path in broken:
        path.write_bytes(b"no image")
    inspection = inspect(DataConfig(root=str(folder)))
    (doubt,) = inspection.doubts
    assert doubt.kind == "unreadable" and doubt.names == tuple(p.name for p in broken) and len(inspection.people) == 50


def test_other_doubts_can_be_added(rendered: RenderedSet) -> None:
    other = Doubt("left out", "3 files are no images", 3, ("a.txt",))
    assert summary(inspect(DataConfig(root=str(rendered.root)), [other]))[-1] == "doubt      3 files are no images (a.txt)"


def test_a_keypoint_file_alone(rendered: RenderedSet) -> None:
    path = rendered.root / "annotation-train.csv"
    with pytest.raises(ValueError, match=f"is a keypoint file: name the images it is of first, as in reid-aug inspect DIR {path}"):
        inspect(DataConfig(root=str(path)))


def test_a_csv_of_images_of_several_sizes(tmp_path: Path) -> None:
    rows, keypoints = ["path,pid,camid,split"], [HEADER]
    for i, (height, width) in enumerate([(64, 32), (80, 40), (96, 40), (100, 50)]):
        images.write(np.zeros((height, width, 3), np.uint8), tmp_path / f"{i}.png")
        rows.append(f"{i}.png,{i},0,train")
        keypoints.append(f"{i}.png: {[height - 4 - j for j in range(18)][::-1]}: {[width - 4] * 18}")
    (tmp_path / "d.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "annotation-train.csv").write_text("\n".join(keypoints) + "\n")
    inspection = inspect(DataConfig(root=str(tmp_path / "d.csv")))
    assert "sizes      H × W 64 × 32 (1), 80 × 40 (1), 96 × 40 (1) and 1 more, 64 to 100 high, 32 to 50 wide" in summary(inspection)
    assert [p.pose.size for p in inspection.people if p.pose is not None] == [(64, 32), (80, 40), (96, 40), (100, 50)]


class TestSheet:
    def test_skeletons_lie_on_their_bodies(self, rendered: RenderedSet) -> None:
        inspection = inspect(DataConfig(root=str(rendered.root)))
        person = next(p for p in sheet_people(inspection, 24) if p.pose is not None)
        with_skeleton, without = (np.asarray(draw_sheet([p])).astype(int) for p in (person, replace(person, pose=None)))
        changed = (with_skeleton != without).any(-1)
        assert person.pose is not None
        y, x = np.argwhere(changed).T
        scale = CELL[0] / person.pose.size[0]
        seen = person.pose.xy[person.pose.visible].numpy() * scale
        assert abs(y.min() - seen[:, 1].min()) < 2 * scale and abs(x.max() - seen[:, 0].max()) < 2 * scale

    def test_the_doubtful_come_first_and_have_red_frames(self, folder: Path) -> None:
        change_rows(folder / "annotation-train.csv", lambda y, x: (y.replace("[", "[999, ", 1).rsplit(", ", 1)[0] + "]", x))
        inspection = inspect(DataConfig(root=str(folder)))
        doubtful = {name for doubt in inspection.doubts for name in doubt.names}
        shown = sheet_people(inspection, 24)
        assert len({p.path for p in shown}) == 24 and all(p.name in doubtful for p in shown[:8])
        assert (np.asarray(draw_sheet(shown, doubtful)) == WARNING).all(-1).any()
        assert not (np.asarray(draw_sheet(shown)) == WARNING).all(-1).any()

    def test_only_its_own_file_is_written_over(self, tmp_path: Path) -> None:
        sheet = Image.new("RGB", (8, 8))
        for _ in range(2):
            write_sheet(tmp_path / "new" / "a.png", sheet)
        sheet.save(tmp_path / "photo.png")
        (tmp_path / "text.png").write_text("mine")
        (tmp_path / "folder.png").mkdir()
        (tmp_path / "link.png").symlink_to(tmp_path / "new" / "a.png")
        for name in ("photo.png", "text.png", "folder.png", "link.png"):
            with pytest.raises(FileExistsError, match="no sheet of reid-aug inspect; name another file with --sheet FILE"):
                write_sheet(tmp_path / name, sheet)
        assert (tmp_path / "text.png").read_text() == "mine"
        with pytest.raises(ValueError, match=r"a sheet is a .png file, got 'a.jpg'"):
            write_sheet("a.jpg", sheet)
