"""Dumps: real and synthetic images in one folder."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from PIL import Image

import generators
from reid_aug import Augmenter, Manifest, PoseBank, images
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import with_keypoints
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage, tell_apart
from reid_aug.data.people_csv import read_csv
from reid_aug.synthesis.dump import GateRun, dump, gate_dump
from reid_aug.synthesis.manifest import NAME, SOURCES
from reid_aug.synthesis.store import STARTED

SIZE = (32, 16)


def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


def test_dump_is_a_market_folder_of_both(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    written = dump(people, augmenter, tmp_path / "out")
    rows = written.rows
    assert written.verify(tmp_path / "out") == []
    back = read_market_folder(tmp_path / "out")
    assert {(p.name, p.pid, p.camid, p.split) for p in people} <= {(p.name, p.pid, p.camid, p.split) for p in back}
    assert len(back) == len(people) + len(rows)
    posed = {p.name: p for p in with_keypoints(back, tmp_path / "out" / "annotation-train.csv", ("train",))}
    for row in rows[:10]:
        pose, target = posed[Path(row.path).name].pose, augmenter.bank.pose[augmenter.bank.names.index(row.target)]
        assert pose is not None and torch.equal(pose.visible, target.visible)
        torch.testing.assert_close(pose.xy, target.xy)
        assert (posed[Path(row.path).name].pid, posed[Path(row.path).name].camid) == (row.pid, row.camid)


def test_check_sees_real_images_and_keypoints_too(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    written = dump(people, augmenter, tmp_path / "out")
    (tmp_path / "out" / "query" / next(p.name for p in people if p.split == "query")).unlink()
    (tmp_path / "out" / "annotation-test.csv").write_text("")
    assert len(written.verify(tmp_path / "out")) == 2
    assert dump(people, augmenter, tmp_path / "out").verify(tmp_path / "out") == []


def scattered(people: list[PersonImage], folder: Path) -> list[PersonImage]:
    """The same people as a data set keeps them that knows nothing of Market's names: a folder each, 0.jpg, 1.jpg, …"""
    out, counts = [], {}
    for person in people:
        number = counts[person.split, person.pid] = counts.get((person.split, person.pid), -1) + 1
        path = folder / person.split / f"person{person.pid}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(person.path).read_bytes())
        out.append(replace(person, path=str(path)))
    return tell_apart(out)


def test_equal_file_names_are_told_apart(people: list[PersonImage], checkpoint: Path, tmp_path: Path) -> None:
    """Every image is drawn from its own file, and the dump is a Market folder all the same."""
    spread = scattered(people, tmp_path / "in")
    assert len({(p.split, p.name) for p in spread}) == len(people)
    augmenter = Augmenter(generators.load(checkpoint), PoseBank.collect(train(spread), SIZE), 2, 3)
    rows = augmenter.plan(train(spread))
    assert len({row.path for row in rows}) == len(rows) == 48 and not any("/" in row.path for row in rows)
    by_name = {p.name: p for p in spread}
    assert all(by_name[row.source].pid == row.pid for row in rows)
    written = dump(spread, augmenter, tmp_path / "out")
    back = read_market_folder(tmp_path / "out")
    assert len(back) == len(people) + 48 and written.verify(tmp_path / "out") == []
    assert sorted((p.pid, p.camid, p.split) for p in people) == sorted((p.pid, p.camid, p.split) for p in back if "_p" not in p.name)


def test_photographs_of_several_sizes_keep_their_own_pixels(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    from generators.pose import rescale

    mixed = []
    for person in people[::-1]:
        if person.name == train(people)[0].name or person.name == people[-1].name:
            path = tmp_path / person.name
            Image.open(person.path).resize((32, 64)).save(path)
            assert person.pose is not None
            person = replace(person, path=str(path), pose=rescale(person.pose, (64, 32)))
        mixed.append(person)
    dump(mixed, augmenter, tmp_path / "out")
    names, yx = read_columns(tmp_path / "out" / "annotation-test.csv")
    pose = next(p.pose for p in mixed if p.name == people[-1].name)
    assert pose is not None and pose.size == (64, 32)
    found = torch.from_numpy(yx[names.index(people[-1].name)][:, ::-1].copy()).float()
    torch.testing.assert_close(found[pose.visible], pose.xy[pose.visible])


def test_a_bad_image_stops_a_dump_before_it_begins(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(Path(people[0].path).read_bytes()[:200])
    spoilt = [replace(p, path=str(tmp_path / "cut.jpg")) if p.name == people[-1].name else p for p in people]
    with pytest.raises(images.ImageError, match="cut.jpg"):
        dump(spoilt, augmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_dump_in_scenes_says_so_and_has_them_by_default(people: list[PersonImage], tmp_path: Path) -> None:
    bank, of = PoseBank.collect(train(people), SIZE), {p.name: p.path for p in people}
    written = dump(people, Augmenter(CopiesScene(SIZE), bank, 1), tmp_path / "out")
    assert written.in_scenes and written.made_by["scenes_digest"] == bank.scenes_digest and written.made_by["draw"] == "compatible"
    for row in written.rows[::5]:
        apart = images.read(tmp_path / "out" / row.path).astype(int) - images.read(of[row.target])
        assert abs(apart).mean() < 8, "but for the JPEG"
    again = Manifest.load(tmp_path / "out" / NAME)
    assert again == written and all((row.pose_novelty or 0) > 0 for row in again.rows)
    with pytest.raises(ValueError, match="another plan"):
        dump(people, Augmenter(CopiesScene(SIZE), replace(bank, paths=None), 1), tmp_path / "out")


class TestDumpOfADump:
    def test_every_image_is_kept_under_a_name_of_its_own(
        self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        first = dump(people, augmenter, tmp_path / "first")
        everybody = read_market_folder(tmp_path / "first")
        everybody = with_keypoints(everybody, tmp_path / "first" / "annotation-train.csv", ("train",))
        again = Augmenter(augmenter.generator, PoseBank.collect(train(everybody), SIZE), per_image=2, seed=4)
        second = dump(everybody, again, tmp_path / "second")
        assert second.verify(tmp_path / "second") == [] and len(second.rows) == 2 * len(train(everybody)) == 6 * len(train(people))
        assert len(os.listdir(tmp_path / "second" / "bounding_box_train")) == 3 * len(train(everybody))
        for path, sha256 in {row.path: row.sha256 for row in first.rows}.items():
            assert second.files[path] == sha256, "the first dump's image, not one rendered under its name"
        back = with_keypoints(read_market_folder(tmp_path / "second"), tmp_path / "second" / "annotation-train.csv", ("train",))
        pose, bank = {p.name: p.pose for p in back}, dict(zip(again.bank.names, again.bank.pose, strict=True))
        for row in second.rows:
            torch.testing.assert_close(pose[Path(row.path).name].xy, bank[row.target].xy)  # type: ignore[union-attr]
        assert "first is a dump: its synthetic images are rendered anew as its photographs are" in capsys.readouterr().err


def as_table(people: list[PersonImage], folder: Path, suffix: str = ".png", camera: int = 1) -> list[PersonImage]:
    """The same people as files 0.png, 1.png, … in no order, of identities from 0 and of cameras that are `camera` apart."""
    folder.mkdir(parents=True)
    pids = {pid: number for number, pid in enumerate(sorted({p.pid for p in people}))}
    out = []
    for number, person in enumerate(people):
        path = folder / f"{number}{suffix}"
        Image.open(person.path).save(path)
        out.append(replace(person, path=str(path), pid=pids[person.pid], camid=camera * person.camid))
    return out


class TestOtherReaders:
    def test_what_is_no_jpeg_is_encoded(
        self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        table = as_table(people, tmp_path / "table")
        written = dump(table, augmenter, tmp_path / "out")
        assert written.verify(tmp_path / "out") == []
        files = [path for path in (tmp_path / "out").rglob("*") if path.suffix not in ("", ".csv", ".jsonl")]
        assert len(files) == len(people) + len(written.rows)
        assert all(path.suffix == ".jpg" and Image.open(path).format == "JPEG" for path in files)
        apart = images.read(tmp_path / "out" / "query" / next(iter(os.listdir(tmp_path / "out" / "query")))).astype(int)
        assert min(abs(apart - images.read(p.path)).mean() for p in table if p.split == "query") < 8, "but for the JPEG"
        said = capsys.readouterr().err
        assert f"note: {len(people)} of {len(people)} real images are encoded as upright JPEG, quality 95: 0.png, 1.png, 2.png and" in said
        assert "note: identity 0 is written as " in said

    def test_jpeg_files_are_copied_as_they_are_unless_exif_turns_them(
        self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path
    ) -> None:
        exif = Image.Exif()
        exif[0x0112] = 3
        turned = replace(people[0], path=str(tmp_path / people[0].name))
        Image.open(people[0].path).save(turned.path, exif=exif)
        dump([turned, *people[1:]], augmenter, tmp_path / "out")
        there = tmp_path / "out" / "bounding_box_train"
        assert (there / people[1].name).read_bytes() == Path(people[1].path).read_bytes()
        with Image.open(there / turned.name) as image:
            assert 0x0112 not in image.getexif()
            assert abs(np.asarray(image).astype(int) - images.read(turned.path)).mean() < 8

    def test_rows_name_what_the_dump_holds(self, people: list[PersonImage], tmp_path: Path) -> None:
        """Source and target are images of the dump, under its names: gates and image quality look them up there."""
        table = as_table(people, tmp_path / "table", camera=12)
        bank = PoseBank.collect(train(table), SIZE)
        written = dump(table, Augmenter(CopiesScene(SIZE), bank, 1, draw="camera-aware"), tmp_path / "out")
        names = {path.name: path for path in (tmp_path / "out" / "bounding_box_train").iterdir()}
        camera = {p.name: p.camid for p in read_market_folder(tmp_path / "out")}
        for row in written.rows:
            assert row.source in names and row.target in names and row.camid == camera[row.source]
            assert camera[row.source] != camera[row.target], "cameras counted anew are still told apart"
            assert abs(images.read(tmp_path / "out" / row.path).astype(int) - images.read(names[row.target])).mean() < 8
        assert gate_dump(tmp_path / "out", GateRun(novelty=0.0)).kept == len(written.rows)

    def test_new_people_of_photographs_under_other_names(self, people: list[PersonImage], tmp_path: Path) -> None:
        """The bank knows them by their files' names, the plan by those of the dump."""
        table = as_table(people, tmp_path / "table")
        bank = PoseBank.collect(train(table), SIZE)
        written = dump(table, Augmenter(CopiesScene(SIZE), bank, 1, draw="recombined"), tmp_path / "out")
        photographed = {p.pid for p in read_market_folder(tmp_path / "out") if p.name not in {Path(row.path).name for row in written.rows}}
        assert written.rows and not photographed & {row.pid for row in written.rows}


class TestOtherSources:
    @pytest.fixture
    def copied(self, people: list[PersonImage], tmp_path: Path) -> list[PersonImage]:
        """Photographs that a test may replace."""
        for split in ("train", "query", "gallery"):
            (tmp_path / split).mkdir()
        return [replace(p, path=str(shutil.copy(p.path, tmp_path / p.split / p.name))) for p in people]

    def test_another_photograph_is_refused_by_name(self, copied: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        written = dump(copied, augmenter, tmp_path / "out")
        assert dump(copied, augmenter, tmp_path / "out") == written
        query = next(p for p in copied if p.split == "query")
        Image.fromarray(255 - images.read(query.path)).save(query.path)
        with pytest.raises(ValueError, match=r"out was made from other images, 1 changed \(query/.*\): give another folder or remove it"):
            dump(copied, augmenter, tmp_path / "out")

    def test_so_are_one_more_and_one_less(self, copied: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        dump(copied[:-1], augmenter, tmp_path / "out")
        with pytest.raises(ValueError, match=r"other images, 1 new \(bounding_box_test/"):
            dump(copied, augmenter, tmp_path / "out")
        with pytest.raises(ValueError, match=r"other images, \d+ gone \("):
            dump(copied[:-1], augmenter, tmp_path / "out", copy_real=False)

    @pytest.mark.parametrize("what", ["pid", "pose"])
    def test_so_are_other_labels_and_poses(self, what: str, copied: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        dump(copied, augmenter, tmp_path / "out")
        last = copied[-1]
        assert last.pose is not None
        other = {"pid": {"pid": 77}, "pose": {"pose": replace(last.pose, xy=last.pose.xy + 1)}}[what]
        says = {"pid": "other images.* new .* gone", "pose": "other images, or from other poses of them"}[what]
        with pytest.raises(ValueError, match=says):
            dump([*copied[:-1], replace(last, **other)], augmenter, tmp_path / "out")

    def test_half_a_dump_of_others_is_not_gone_on_with(self, copied: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        out = tmp_path / "out"
        written = dump(copied, augmenter, out)
        (out / STARTED).write_text(json.dumps({key: written.made_by[key] for key in ("plan", SOURCES)}))
        (out / NAME).unlink()
        Image.fromarray(255 - images.read(copied[0].path)).save(copied[0].path)
        with pytest.raises(ValueError, match="the beginning of what is made from other images"):
            dump(copied, augmenter, out)

    def test_a_dump_from_before_is_taken_with_a_word(
        self, copied: list[PersonImage], augmenter: Augmenter, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        written = dump(copied, augmenter, tmp_path / "out")
        old = replace(written, made_by={key: value for key, value in written.made_by.items() if key != SOURCES})
        old.save(tmp_path / "out" / NAME)
        (tmp_path / "out" / old.rows[0].path).unlink()
        again = dump(copied, augmenter, tmp_path / "out")
        assert again == old, "what is left of it may be of other images: nothing is claimed of it"
        assert "out is from before dumps recorded their sources" in capsys.readouterr().err


def test_names_for_pids_read_back_as_as_many_people(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    """Names are numbered from 0 in sorted order, and 0 is background in Market's layout."""
    lines = [f"{p.path},{'abcdefghijklmnop'[p.pid % 16]}{p.pid},{p.camid},{p.split}" for p in people]
    (tmp_path / "people.csv").write_text("\n".join(["path,pid,camid,split", *lines]) + "\n")
    listed = read_csv(tmp_path / "people.csv")
    posed = [replace(new, pose=old.pose) for new, old in zip(listed, people, strict=True)]
    dump(posed, augmenter, tmp_path / "out")
    back = read_market_folder(tmp_path / "out")
    assert {split: len({p.pid for p in back if p.split == split}) for split in ("train", "query", "gallery")} == {
        split: len({p.pid for p in people if p.split == split}) for split in ("train", "query", "gallery")
    }
