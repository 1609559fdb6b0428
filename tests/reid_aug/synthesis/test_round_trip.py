"""What a dump writes reads back: random small data sets through `dump`, read by our reader and by torchreid's Market1501.

`REID_AUG_EXAMPLES=10000` tries as many data sets (CONTRIBUTING.md).
"""

from __future__ import annotations

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torchreid.reid.data.datasets.image.market1501 import Market1501

from generators import Generator, keeps_options
from reid_aug import Augmenter, Manifest, PersonImage, PoseBank, images, read_csv
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.market import MARKET_FOLDERS
from reid_aug.data.people_csv import no_pid
from reid_aug.synthesis.dump import dump

pytestmark = pytest.mark.filterwarnings("ignore::reid_aug.data.doubts.DataDoubt")  # such sets are full of doubts

EXAMPLES = int(os.environ.get("REID_AUG_EXAMPLES", "30"))
# Every image of a data set has one colour of its own, by which it is known again whatever it is called.
LEVELS = (16, 72, 128, 184, 240)
COLOURS = np.array([(r, g, b) for r in LEVELS for g in LEVELS for b in LEVELS])
# A standing body, in shares of an image's height and width.
Y = np.array([14, 26, 26, 44, 60, 26, 44, 60, 64, 90, 116, 64, 90, 116, 11, 11, 13, 13]) / 128
X = np.array([32, 32, 22, 18, 16, 42, 46, 48, 26, 25, 24, 38, 39, 40, 29, 35, 26, 38]) / 64
SHOULDERS_AND_HIPS = (2, 5, 8, 11)
ORIENTATION = 0x0112


class Copies(Generator):
    """Gives back the source."""

    @keeps_options
    def __init__(self) -> None:
        super().__init__()
        self.size, self.weight = (16, 16), nn.Parameter(torch.ones(1))

    def forward(self, source: Any, source_pose: Any, target_pose: Any, scene: Any = None) -> Any:
        return self.weight * source

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("generator",)

    def losses(self, player: str, pair: Any, step: int) -> dict[str, Any]:
        return {"l1": (self(pair.source, None, None) - pair.target).abs().mean()}


@dataclass(frozen=True)
class Shot:
    """One image of a data set to write: where, who, by which camera, and how."""

    path: str  # below the data set's folder
    pid: str
    camid: int
    split: str
    size: tuple[int, int]
    orientation: int
    missing: frozenset[int] | None  # joints that were not found; None: the image is not in the keypoint file


def market_name(pid: str, camid: int, number: int) -> str:
    return f"{int(pid):04d}_c{camid + 1}s1_{number:06d}_00"


@st.composite
def shots(draw: st.DrawFn) -> tuple[bool, list[Shot]]:
    """Draw a data set, and whether it is laid out as Market-1501's rather than listed in a CSV."""
    is_market = draw(st.booleans())
    least = 1 if is_market else 0
    text = not is_market and draw(st.booleans())
    of_text = st.text(st.characters(categories=("L", "Nd")), min_size=1, max_size=4).filter(lambda t: not t.isdecimal())
    of_text = of_text.filter(lambda word: no_pid(word) is None)  # what readers refuse, such as INF or 1e5
    pid = of_text if text else st.integers(least, draw(st.sampled_from([9, 30, 1501, 99999]))).map(str)
    pids = draw(st.lists(pid, min_size=2, max_size=4, unique=True))
    cameras = draw(st.lists(st.integers(0, draw(st.sampled_from([1, 5, 8, 14, 40, 10**6]))), min_size=1, max_size=12, unique=True))
    trained = draw(st.integers(1, len(pids) - 1))
    roles = [(p, "train") for p in pids[:trained] for _ in range(draw(st.integers(1, 3)))]
    roles += [(p, split) for p in pids[trained:] for split in ("query", "gallery") for _ in range(draw(st.integers(1, 2)))]
    if draw(st.booleans()) and "0" not in pids and not text:
        roles.append(("0", "gallery"))  # background, or a distractor that is numbered 0
    out: list[Shot] = []
    for number, (person, split) in enumerate(roles):
        camid = draw(st.sampled_from(cameras))
        name = draw(names(is_market, text, person, camid, number, [s.path for s in out if s.split == split]))
        suffix = draw(st.sampled_from([".jpg", ".jpg", ".png", ".jpeg", ".JPG", ".PNG", *([] if is_market else [".bmp"])]))
        size = (draw(st.integers(13, 18)), draw(st.integers(13, 18)))
        missing = draw(st.none() | st.frozensets(st.integers(0, 17), max_size=8)) if number else frozenset[int]()
        out.append(Shot(name + suffix, person, camid, split, size, draw(st.sampled_from([1, 1, 1, 3, 6, 8])), missing))
    return is_market, distinct(is_market, out)


def names(is_market: bool, text: bool, pid: str, camid: int, number: int, earlier: Sequence[str]) -> st.SearchStrategy[str]:
    """Draw the path of an image without its suffix: true to Market's layout, false to it, of a synthetic image, or anything."""
    true = [] if text else [market_name(pid, camid, number), market_name(pid, camid, 0), f"{pid}_c{camid + 1}"]
    true += [f"{pid}_c0{camid + 1}x{number}"] if true else []
    if is_market:
        like = [Path(path).stem + "_p0" for path in earlier if Path(path).stem.startswith(f"{int(pid):04d}_c{camid + 1}s")]
        return st.sampled_from([*true[:1], *true, *like])
    folders = st.sampled_from(["", "", "cam_a/", "b/c/", f"{number}/"])
    false = [market_name(str(number), number % 9, number), f"{number}", "0", "IMG 1", "наталья", "a.b"]
    like = [Path(path).stem + "_p0" for path in earlier]
    return st.tuples(folders, st.sampled_from([*true, *false, *like])).map("".join)


def distinct(is_market: bool, drawn: Sequence[Shot]) -> list[Shot]:
    """Give an image a file of its own where an earlier one has its; list every second one in the keypoint file, as half must be."""
    taken: set[tuple[str, str]] = set()
    out = []
    for number, shot in enumerate(drawn):
        path, split = PurePath(shot.path), shot.split if is_market else ""
        while (str(path).lower(), split) in taken:
            path = path.with_stem(f"{path.stem}_{number}")
        taken.add((str(path).lower(), split))
        missing = frozenset[int]() if shot.missing is None and number % 2 == 0 else shot.missing
        out.append(replace(shot, path=str(path), missing=missing))
    return out


def write(root: Path, is_market: bool, drawn: Sequence[Shot]) -> DataConfig:
    """Write a data set's images, list and keypoint file."""
    paths = [root / (MARKET_FOLDERS[shot.split] if is_market else "") / shot.path for shot in drawn]
    for number, (path, shot) in enumerate(zip(paths, drawn, strict=True)):
        path.parent.mkdir(parents=True, exist_ok=True)
        (height, width), exif = shot.size, Image.Exif()
        exif[ORIENTATION] = shot.orientation
        Image.new("RGB", (width, height), tuple(COLOURS[number].tolist())).save(path, **({} if path.suffix == ".bmp" else {"exif": exif}))
    if not is_market:
        rows = [(shot.path, shot.pid, shot.camid, shot.split) for shot in drawn]
        with (root / "people.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "pid", "camid", "split"), *rows])
    named = [path.name for path in paths] if is_market else [person.name for person in read_csv(root / "people.csv")]
    lines = ["name:keypoints_y:keypoints_x"]
    for name, shot in zip(named, drawn, strict=True):
        if shot.split == "train" and shot.missing is not None:
            side = min(shot.size)
            ys, xs = ([-1 if j in shot.missing else round(float(v[j] * side), 2) for j in range(18)] for v in (Y, X))
            lines.append(f"{name}: {ys}: {xs}")
    (root / "annotation-train.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return DataConfig(root=str(root if is_market else root / "people.csv"))


@lru_cache(4096)  # every example's folder has another name
def colour(path: str) -> int:
    """Give the number of the colour that an image has all over."""
    mean = images.read(path).reshape(-1, 3).mean(0)
    return int(np.abs(COLOURS - mean).sum(1).argmin())


def assert_one_to_one(pairs: Iterable[tuple[Any, Any]]) -> None:
    """Each left has one right and each right one left: the same people under other numbers."""
    pairs = set(pairs)
    assert len({a for a, _ in pairs}) == len({b for _, b in pairs}) == len(pairs), sorted(pairs)


def assert_same_people(people: Sequence[PersonImage], back: Sequence[tuple[str, Any, int, str]], manifest: Manifest) -> None:
    """Every image is back in its split, once, and each synthetic one in train; who is whom and which camera took what is as it was."""
    before = {colour(p.path): p for p in people}
    synthetic = {Path(row.path).name for row in manifest.rows}
    real = [row for row in back if not (row[3] == "train" and Path(row[0]).name in synthetic)]
    assert len(before) == len(people)
    assert sorted((colour(path), split) for path, _, _, split in real) == sorted((c, p.split) for c, p in before.items())
    assert len(back) - len(real) == len(manifest.rows)
    assert_one_to_one((before[colour(path)].pid, pid) for path, pid, _, _ in back)
    assert_one_to_one((before[colour(path)].camid, camid) for path, _, camid, _ in back)


def torchreids(root: Path) -> list[tuple[str, Any, int, str]]:
    """Read as torchreid does; training labels are its own, so they are told apart from the test's numbers."""
    market = Market1501(root=str(root), verbose=False)
    rows = [(row, split) for split in ("train", "query", "gallery") for row in getattr(market, split)]
    return [(row[0], (split == "train", row[1]), row[2], split) for row, split in rows]


@given(shots(), st.integers(1, 2), st.integers(0, 3), st.booleans())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
def test_what_is_written_reads_back(drawn: tuple[bool, list[Shot]], per_image: int, seed: int, again: bool) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()) as said:
        data = write(Path(folder) / "given", *drawn)
        for round_number in (1, 2) if again else (1,):  # the second is a dump of the dump
            people = load_people(data)
            root = Path(folder) / f"round-{round_number}"
            out = root / "market1501" / "Market-1501-v15.09.15"
            said.truncate(0)
            manifest = dump(people, Augmenter(Copies(), PoseBank.collect(train(people), (16, 16)), per_image, seed), out)
            assert manifest.verify(out) == [] and len(manifest.rows) == per_image * sum(augmentable(p) for p in people)
            data = DataConfig(root=str(out))
            back = load_people(data)
            if round_number == 1:
                assert_same_people(people, [(p.path, p.pid, p.camid, p.split) for p in back], manifest)
                assert_same_poses(people, back, manifest)
                assert_others_read(people, root, manifest, said.getvalue())
            else:
                assert len(back) == len(people) + len(manifest.rows)
                assert ids(people) == ids(back)


def train(people: Sequence[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


def augmentable(person: PersonImage) -> bool:
    return person.split == "train" and person.pose is not None and bool(person.pose.visible[list(SHOULDERS_AND_HIPS)].all())


def ids(people: Sequence[PersonImage]) -> set[tuple[str, int]]:
    return {(p.split, p.pid) for p in people}


def assert_same_poses(people: Sequence[PersonImage], back: Sequence[PersonImage], manifest: Manifest) -> None:
    """Every image has its own keypoints again."""
    synthetic = {Path(row.path).name for row in manifest.rows}
    found = {colour(p.path): p.pose for p in train(back) if p.name not in synthetic}
    for person in train(people):
        pose = found[colour(person.path)]
        assert (pose is None) == (person.pose is None)
        if pose is not None and person.pose is not None:
            assert pose.size == person.pose.size and torch.equal(pose.visible, person.pose.visible)
            torch.testing.assert_close(pose.xy[pose.visible], person.pose.xy[pose.visible])


def assert_others_read(people: Sequence[PersonImage], root: Path, manifest: Manifest, said: str) -> None:
    """torchreid finds the same people, or the dump has said that it can't: and then it really can't."""
    warned = "Market-1501 readers of torchreid" in said
    try:
        assert_same_people(people, torchreids(root), manifest)
    except AssertionError:
        if not warned:
            raise
    else:
        assert not warned
