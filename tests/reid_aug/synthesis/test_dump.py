"""Dumps: real and synthetic images in one folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from generator_helpers import CopiesScene

import generators
from reid_aug import Augmenter, Manifest, PoseBank, images
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import with_keypoints
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage, tell_apart
from reid_aug.synthesis.dump import dump
from reid_aug.synthesis.manifest import NAME

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
    from PIL import Image

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
