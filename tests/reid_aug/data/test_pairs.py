"""Pairs of one person's images: all there are, the lists the papers evaluate on, and those lists as files."""

from __future__ import annotations

import hashlib
import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Pose, openpose_18
from reid_aug.data.keypoints import write_keypoints
from reid_aug.data.pairs import (
    all_pairs,
    held_out_pairs,
    list_digest,
    pair_population,
    pairs_from_keypoints,
    read_pairs,
    unpaired,
    write_pairs,
)
from reid_aug.data.people import PersonImage

REAL = os.environ.get("REID_AUG_MARKET_KEYPOINTS")
SIZE = (16, 8)


def a_pose(seed: int = 0, missing: tuple[int, ...] = (), size: tuple[int, int] = SIZE) -> Pose:
    xy = torch.rand(18, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([size[1] - 1, size[0] - 1])
    visible = torch.ones(18, dtype=torch.bool)
    visible[list(missing)] = False
    return Pose(xy.round(), visible, openpose_18, size)


def permutations_by_person(pids: list[int]) -> list[tuple[int, int]]:
    """The published script's order: identities as they appear, itertools.permutations of each one's images."""
    groups = {pid: [i for i, p in enumerate(pids) if p == pid] for pid in pids}
    return [pair for group in groups.values() for pair in itertools.permutations(group, 2)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(-1, 5), max_size=15))
def test_all_pairs_are_the_permutations_in_order(pids: list[int]) -> None:
    assert [tuple(pair) for pair in all_pairs(pids).tolist()] == permutations_by_person(pids)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12))
def test_with_cameras_targets_come_from_other_cameras_where_there_are_any(images_: list[tuple[int, int]]) -> None:
    expected = set()
    for s, (pid, camid) in enumerate(images_):
        others = {t for t, (p, _) in enumerate(images_) if p == pid and t != s}
        expected |= {(s, t) for t in {t for t in others if images_[t][1] != camid} or others}
    population = pair_population([p for p, _ in images_], [c for _, c in images_])
    pairs = [tuple(pair) for pair in population.pair(np.arange(population.count)).tolist()]
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=25), st.sampled_from([0.01, 0.07, 0.1, 0.2, 0.34, 0.5, 0.99]))
def test_with_a_gap_frames_lie_farther_apart(pids: list[int], gap: float) -> None:
    expected = set()
    for pid in set(pids):
        frames = [i for i, p in enumerate(pids) if p == pid]
        places = [(a, b) for a in range(len(frames)) for b in range(len(frames)) if a != b]
        expected |= {(frames[a], frames[b]) for a, b in places if abs(a - b) / len(frames) > gap + 1e-12}
    population = pair_population(pids, min_gap=gap)
    pairs = [tuple(pair) for pair in population.pair(np.arange(population.count)).tolist()]
    assert len(pairs) == len(set(pairs)) and set(pairs) == expected


def test_two_of_a_hundred_frames() -> None:
    """posewarp's 2 %: of 100 frames those three or more apart."""
    population = pair_population([1] * 100, min_gap=0.02)
    pairs = population.pair(np.arange(population.count))
    assert population.count == 100 * 95 + 2 * (2 + 1) and np.abs(pairs[:, 0] - pairs[:, 1]).min() == 3


def keypoint_file(folder: Path, names: list[str], missing: dict[str, tuple[int, ...]]) -> Path:
    write_keypoints(folder / "k.csv", names, Pose.stack([a_pose(i, missing.get(n, ())) for i, n in enumerate(names)]))
    return folder / "k.csv"


NAMES = ["0003_c1_a.jpg", "0002_c1_a.jpg", "0003_c2_b.jpg", "0000_c1_a.jpg", "0000_c1_b.jpg", "-1_c1_a.jpg", "-1_c1_b.jpg"]
NAMES += ["0002_c3_b.jpg", "0003_c1_c.jpg", "0003_c1_d.jpg", "0004_c1_a.jpg"]


def test_the_protocol_by_hand(tmp_path: Path) -> None:
    path = keypoint_file(tmp_path, NAMES, {"0003_c1_c.jpg": (8,), "0003_c1_d.jpg": (0, 17)})
    a, b, d = "0003_c1_a.jpg", "0003_c2_b.jpg", "0003_c1_d.jpg"
    x, y = "0002_c1_a.jpg", "0002_c3_b.jpg"
    assert pairs_from_keypoints(path) == [(a, b), (a, d), (b, a), (b, d), (d, a), (d, b), (x, y), (y, x)]
    with pytest.raises(ValueError, match="k.csv: can't sample 9 pairs, there are 8"):
        pairs_from_keypoints(path, 9)
    with pytest.raises(ValueError, match="k.csv: a Market-style name begins like 0002_c1, got 'girl.jpg'"):
        pairs_from_keypoints(keypoint_file(tmp_path, ["girl.jpg"], {}))


@pytest.mark.parametrize(("sample", "seed"), [(0, 0), (1, 3), (5, 0), (8, 0), (8, 7)])
def test_a_sample_is_pandas(tmp_path: Path, sample: int, seed: int) -> None:
    pandas = pytest.importorskip("pandas")
    path = keypoint_file(tmp_path, NAMES, {"0003_c1_c.jpg": (8,)})
    frame = pandas.DataFrame(pairs_from_keypoints(path), columns=["from", "to"])
    drawn = frame.sample(sample, replace=False, random_state=seed)
    assert pairs_from_keypoints(path, sample, seed) == list(drawn.itertuples(index=False, name=None))


def test_pairs_files(tmp_path: Path) -> None:
    pairs = [("a.jpg", "b.jpg"), ('c, "d".jpg', "ü.jpg")]
    write_pairs(tmp_path / "p.csv", pairs)
    assert (tmp_path / "p.csv").read_bytes().startswith(b"from,to\na.jpg,b.jpg\n")
    assert read_pairs(tmp_path / "p.csv") == pairs
    write_pairs(tmp_path / "p.csv", [])
    assert read_pairs(tmp_path / "p.csv") == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "line 1: the header is 'from,to', got ''"),
        (b"to,from\n", "got 'to,from'"),
        (b"from,to\na,b\n\na,b,c\n", r"line 4: a row is two names, got \['a', 'b', 'c'\]"),
        (b"from,to\na,\n", "line 2: a row is two names"),
        (b"from,to\n\xff,b\n", "not a UTF-8 text file"),
    ],
)
def test_bad_pairs_files(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "p.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_pairs(path)


def test_held_out_pairs() -> None:
    rows = [
        (2, "query"),
        (2, "gallery"),
        (2, "gallery"),
        (0, "gallery"),
        (0, "gallery"),
        (1, "train"),
        (1, "train"),
        (4, "query"),
    ]
    people = [PersonImage(f"{i}.jpg", pid, 0, split, a_pose(i)) for i, (pid, split) in enumerate(rows)]
    drawn = held_out_pairs(people, 6, seed=1)
    assert {(s.name, t.name) for s, t in drawn} == set(itertools.permutations(["0.jpg", "1.jpg", "2.jpg"], 2))
    assert [(s.name, t.name) for s, t in held_out_pairs(people[::-1], 4, seed=1)] == [(s.name, t.name) for s, t in drawn[:4]]
    with pytest.raises(ValueError, match="4 query and gallery images with a valid pose: can't sample 7 pairs, there are 6"):
        held_out_pairs(people, 7)
    queried = [*people, PersonImage("q.jpg", 0, 0, "query", a_pose(9))]
    assert len(held_out_pairs(queried, 12)) == 12  # a queried person 0 is a person


def test_a_lists_digest_is_its_files(tmp_path: Path) -> None:
    pairs = [("a.jpg", "b.jpg"), ("b,c.jpg", "a.jpg")]
    write_pairs(tmp_path / "p.csv", pairs)
    assert list_digest(pairs) == hashlib.sha256((tmp_path / "p.csv").read_bytes()).hexdigest()
    assert list_digest(pairs) != list_digest(pairs[::-1])


class TestUnpaired:
    """As Market-1501 in small: four people with queries, of whom 4 shows no hip, and distractors."""

    def crowd(self, *queried: int) -> list[PersonImage]:
        rows = [(pid, split) for pid in (1, 2, 3, 4) for split in ("query", "gallery", "gallery")]
        rows += [(0, "gallery"), (0, "gallery"), (-1, "gallery"), (9, "train"), *[(pid, "query") for pid in queried]]
        poses = [None if split == "query" else a_pose(i, (8,) if pid == 4 else ()) for i, (pid, split) in enumerate(rows)]
        return [PersonImage(f"{i}.jpg", pid, 0, split, pose) for i, ((pid, split), pose) in enumerate(zip(rows, poses, strict=True))]

    def groups(self, people: list[PersonImage], first: int | None, second: int | None) -> list[tuple[set[int], set[int]]]:
        drawn = [unpaired(people, 3, seed, first, second) for seed in range(40)]
        return [({s.pid for s, _ in pairs}, {t.pid for _, t in pairs}) for pairs in drawn]

    def test_everybody_is_dealt_before_images_without_a_pose_go(self) -> None:
        groups = self.groups(self.crowd(), 3, 2)  # the paper's 376 and 375 of 750 people and identity 0
        assert all(not sources & targets for sources, targets in groups)
        for side in zip(*groups, strict=True):
            assert set().union(*side) == {0, 1, 2, 3}

    def test_distractors_are_nobody_unless_the_numbers_ask_for_one_more(self) -> None:
        for first, second in ((2, 2), (None, None), (2, None)):
            assert all(0 not in sources | targets for sources, targets in self.groups(self.crowd(), first, second))
        with pytest.raises(ValueError, match="3 source and 3 target identities are wanted; query and gallery have 4"):
            unpaired(self.crowd(), 3, 0, 3, 3)
        nobody = [p for p in self.crowd() if p.pid]
        with pytest.raises(ValueError, match="3 source and 2 target identities are wanted; query and gallery have 4"):
            unpaired(nobody, 3, 0, 3, 2)

    def test_a_queried_person_0_is_a_person(self) -> None:
        groups = self.groups(self.crowd(0), 2, 2)
        assert any(0 in sources | targets for sources, targets in groups)
        with pytest.raises(ValueError, match="query and gallery have 5"):
            unpaired(self.crowd(0), 3, 0, 3, 3)

    def test_too_few_images(self) -> None:
        with pytest.raises(ValueError, match="target images with a valid pose: can't sample 99 pairs"):
            unpaired(self.crowd(), 99)


@pytest.mark.skipif(not REAL, reason="REID_AUG_MARKET_KEYPOINTS names the folder of the published Market-1501 keypoints")
def test_the_published_pairs() -> None:
    folder = Path(REAL or "")
    assert len(pairs_from_keypoints(folder / "market-annotation-train.csv")) == 263_632
    drawn = pairs_from_keypoints(folder / "market-annotation-test.csv", 12_000, seed=0)
    assert drawn == read_pairs(folder / "market-pairs-test.csv")


def test_pairs_with_any_pose_and_of_in_shop_names(tmp_path: Path) -> None:
    """By hand: an identity of DeepFashion is one person in one outfit; who lacks a hip is in the looser list, who lacks all in none."""
    names = [f"fashionMENPantsid00000011{outfit:02d}_{i}front.jpg" for outfit, i in ((1, 1), (1, 2), (2, 1), (1, 3))]
    poses = Pose.stack([a_pose(0), a_pose(1, (8,)), a_pose(2), a_pose(3, tuple(range(18)))])
    write_keypoints(tmp_path / "k.csv", names, poses)
    assert pairs_from_keypoints(tmp_path / "k.csv") == []
    assert pairs_from_keypoints(tmp_path / "k.csv", any_pose=True) == [(names[0], names[1]), (names[1], names[0])]
    people = [PersonImage(n, 1101 + (i == 2), 0, "gallery", poses[i]) for i, n in enumerate(names)]
    assert {p.name for pair in held_out_pairs(people, 2, any_pose=True) for p in pair} == {names[0], names[1]}
    with pytest.raises(ValueError, match="2 query and gallery images with a valid pose: can't sample 2 pairs, there are 0"):
        held_out_pairs(people, 2)
