from __future__ import annotations

import hashlib
import itertools
import os
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Pose
from generators.pose import coco_17, convert, openpose_18, rescale
from reid_aug import images
from reid_aug.data.body import valid_for_pairs
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
from reid_aug.synthesis.training_pairs import JitterConfig, PairStream, jittered

REAL = os.environ.get("REID_AUG_MARKET_KEYPOINTS")
SIZE = (16, 8)
TORSO = (2, 5, 8, 11)
PAIRS_7_11 = [[2, 0], [0, 2], [0, 3], [1, 4]]
FLIPPED_7_11 = [False, True, True, True]


def a_pose(seed: int = 0, missing: tuple[int, ...] = (), size: tuple[int, int] = SIZE) -> Pose:
    xy = torch.rand(18, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([size[1] - 1, size[0] - 1])
    visible = torch.ones(18, dtype=torch.bool)
    visible[list(missing)] = False
    return Pose(xy.round(), visible, openpose_18, size)


def test_valid_needs_both_shoulders_and_hips() -> None:
    rows = [(), (0, 1, 3, 4), *((j,) for j in TORSO)]
    batch = Pose.stack([a_pose(missing=row) for row in rows])
    assert valid_for_pairs(batch).tolist() == [True, True, False, False, False, False]
    assert valid_for_pairs(a_pose()).shape == () and bool(valid_for_pairs(convert(a_pose(), coco_17)))


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
    with pytest.raises(ValueError, match="k.csv: can't draw 9 pairs, there are 8"):
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


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> list[PersonImage]:
    """Train: person 0 on cameras 0 0 1, person 3 on camera 0 twice, person 5 once; the rest can't be paired."""
    folder = tmp_path_factory.mktemp("crowd")
    rows = [(0, 0), (3, 0), (0, 0), (0, 1), (3, 0), (5, 0), (-1, 0), (-1, 1)]
    people = [PersonImage(str(folder / f"{i}.png"), pid, cam, "train", a_pose(i)) for i, (pid, cam) in enumerate(rows)]
    people.append(PersonImage(str(folder / "torso.png"), 0, 1, "train", a_pose(20, (2,))))
    people.append(PersonImage(str(folder / "poseless.png"), 0, 1, "train"))
    people.append(PersonImage(str(folder / "query.png"), 0, 1, "query", a_pose(21)))
    for i, person in enumerate(people):
        images.write(np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8), person.path)
    return people


def test_a_batch_holds_what_the_files_hold(crowd: list[PersonImage]) -> None:
    batch = PairStream(crowd, SIZE, 50, seed=1, flip=False)[0]
    assert batch.source.shape == (50, 3, *SIZE) and batch.source.dtype == torch.float32 and batch.identity.dtype == torch.int64
    usable = {i: images.to_float(torch.from_numpy(images.read(crowd[i].path)).permute(2, 0, 1)) for i in range(5)}
    drawn = Counter()
    for k in range(50):
        source = next(i for i, image in usable.items() if torch.equal(image, batch.source[k]))
        target = next(i for i, image in usable.items() if torch.equal(image, batch.target[k]))
        assert source != target and crowd[source].pid == crowd[target].pid == batch.identity[k]
        for pose, i in ((batch.source_pose[k], source), (batch.target_pose[k], target)):
            expected = crowd[i].pose
            assert expected is not None and torch.equal(pose.xy, expected.xy) and pose.size == SIZE
        drawn[source, target] += 1
    assert len(drawn) == 8  # six pairs of person 0, two of person 3: every one comes up


def test_pairs_are_drawn_uniformly(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 4000, seed=5)
    pairs, flipped, draws = stream._draw(0)
    counts = list(Counter(map(tuple, pairs.tolist())).values())
    assert len(counts) == stream.population.count == 8 and all(abs(c - 500) < 5 * 21 for c in counts)  # five sigma
    assert abs(flipped.mean() - 0.5) < 5 * 0.008
    assert draws.shape == (4000, 5) and draws.min() >= 0 and draws.max() < 1 and np.abs(draws.mean(0) - 0.5).max() < 5 * 0.0046


def test_prefer_draws_from_other_cameras(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 300, cross_camera="prefer")
    pairs = {tuple(Path(stream.people[i].path).stem for i in pair) for pair in stream._draw(0)[0].tolist()}
    assert pairs == {("0", "3"), ("2", "3"), ("3", "0"), ("3", "2"), ("1", "4"), ("4", "1")}


def test_a_step_depends_on_seed_and_step_alone(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 6, seed=2)
    first = list(itertools.islice(stream, 5))
    other = PairStream(crowd[::-1], SIZE, 6, seed=2)
    for step, again in zip((3, 4), other.starting_at(3), strict=False):
        for a, b in ((first[step].source, again.source), (first[step].target_pose.xy, again.target_pose.xy)):
            assert torch.equal(a, b)
        assert torch.equal(first[step].identity, again.identity)
    assert not torch.equal(first[0].source, first[1].source)
    assert not torch.equal(PairStream(crowd, SIZE, 6, seed=3)[0].source, first[0].source)


def test_the_drawn_numbers_never_change(crowd: list[PersonImage]) -> None:
    pairs, flipped, _ = PairStream(crowd, SIZE, 4, seed=7)._draw(11)
    assert pairs.tolist() == PAIRS_7_11 and flipped.tolist() == FLIPPED_7_11


def test_flips_mirror_both_images_and_poses(crowd: list[PersonImage]) -> None:
    plain, flipped = (PairStream(crowd, SIZE, 12, seed=4, flip=f)[0] for f in (False, True))
    which = PairStream(crowd, SIZE, 12, seed=4)._draw(0)[1]
    expected = plain.mirrored(torch.from_numpy(which))
    assert 0 < which.sum() < 12
    assert torch.equal(flipped.source, expected.source) and torch.equal(flipped.target, expected.target)
    assert torch.equal(flipped.source_pose.xy, expected.source_pose.xy)
    assert torch.equal(flipped.target_pose.visible, expected.target_pose.visible)


def test_jitter_comes_after_the_flip_and_depends_on_seed_and_step_alone(crowd: list[PersonImage]) -> None:
    ranges = JitterConfig(degrees=5, scale=(0.9, 1.05), shift_px=1, saturation=(0.95, 1.05))
    plain, jumpy = PairStream(crowd, SIZE, 12, seed=4), PairStream(crowd, SIZE, 12, seed=4, jitter=ranges)
    draws = torch.from_numpy(plain._draw(3)[2])
    expected, found = jittered(plain[3], draws, ranges), jumpy[3]
    for side in ("source", "target"):
        assert torch.equal(getattr(found, side), getattr(expected, side))
        assert torch.equal(getattr(found, f"{side}_pose").xy, getattr(expected, f"{side}_pose").xy)
    assert torch.equal(jumpy[3].source, found.source) and not torch.equal(plain[3].source, found.source)


def test_frames_are_in_the_order_of_their_names(crowd: list[PersonImage]) -> None:
    frames = [replace(crowd[0], path=f"clip/frame_{i}.jpg") for i in (10, 9, 2, 1, 11)]  # as text 1, 10, 11, 2, 9
    stream = PairStream(frames, SIZE, 4, min_gap=0.5)
    assert [p.name for p in stream.people] == [f"frame_{i}.jpg" for i in (1, 2, 9, 10, 11)]
    pairs = stream.population.pair(np.arange(stream.population.count)).tolist()
    assert sorted(map(tuple, pairs)) == [(0, 3), (0, 4), (1, 4), (3, 0), (4, 0), (4, 1)]
    with pytest.raises(ValueError, match="no identity has two images farther apart than min_gap, 0.9 of its images"):
        PairStream(frames, SIZE, 4, min_gap=0.9)


def test_other_sizes_and_skeletons_arrive_on_openpose_18_at_the_image_size(crowd: list[PersonImage]) -> None:
    mixed = list(crowd)
    for i in (0, 3):
        pose = crowd[i].pose
        assert pose is not None
        mixed[i] = replace(crowd[i], pose=rescale(pose, (64, 24)))
    pose = crowd[4].pose
    assert pose is not None
    mixed[4] = replace(crowd[4], pose=convert(pose, coco_17))
    a, b = PairStream(crowd, SIZE, 4), PairStream(mixed, SIZE, 4)
    assert b.pose.size == SIZE and b.pose.skeleton is openpose_18
    joints = [j for j in range(18) if j != 1]  # a neck made again is the middle of the shoulders
    assert torch.allclose(a.pose.xy[:, joints], b.pose.xy[:, joints], atol=1e-4)
    assert PairStream(crowd, (32, 16), 2)[0].source.shape == (2, 3, 32, 16)


def test_images_are_decoded_at_first_use_and_only_those_in_pairs(crowd: list[PersonImage], tmp_path: Path) -> None:
    stream = PairStream(crowd, SIZE, 2)
    assert "images" not in vars(stream) and [p.name for p in stream.people] == [f"{i}.png" for i in range(5)]
    assert stream.images.shape == (5, 3, *SIZE) and stream.images is stream.images
    assert torch.equal(pickle.loads(pickle.dumps(stream))[9].source, stream[9].source)
    lost = [replace(p, path=str(tmp_path / p.name)) for p in crowd]
    with pytest.raises(images.ImageError, match=r"0\.png' does not exist"):
        next(iter(PairStream(lost, SIZE, 2)))


def test_no_pairs_says_why(crowd: list[PersonImage]) -> None:
    few = [crowd[0], crowd[1], crowd[5], *crowd[8:]]
    says = (
        "no training pairs: of 5 train images 4 have a pose, 3 of these show shoulders and hips, of 3 identities, none with two"
    )
    with pytest.raises(ValueError, match=says):
        PairStream(few, SIZE, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"seed": -1}, r"a seed is in 0..2\*\*64 - 1, got -1"),
        ({"min_gap": 1.0}, r"min_gap is a share of a clip's frames in \[0, 1\), got 1.0"),
        ({"min_gap": 0.1, "cross_camera": "prefer"}, "either cross_camera or min_gap"),
        ({"cross_camera": "never"}, "cross_camera is one of any, prefer, got 'never'"),
    ],
)
def test_stream_refuses(crowd: list[PersonImage], options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PairStream(crowd, SIZE, **({"batch_size": 2} | options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps count from 0, got -1"):
        PairStream(crowd, SIZE, 2)[-1]


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
    with pytest.raises(ValueError, match="4 query and gallery images with a valid pose: can't draw 7 pairs, there are 6"):
        held_out_pairs(people, 7)
    known = [*people, PersonImage("q.jpg", 0, 0, "query", a_pose(9))]
    assert len(held_out_pairs(known, 12)) == 12  # a queried person 0 is a person


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
        found = self.groups(self.crowd(), 3, 2)  # the paper's 376 and 375 of 750 people and identity 0
        assert all(not sources & targets for sources, targets in found)
        for side in zip(*found, strict=True):
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
        found = self.groups(self.crowd(0), 2, 2)
        assert any(0 in sources | targets for sources, targets in found)
        with pytest.raises(ValueError, match="query and gallery have 5"):
            unpaired(self.crowd(0), 3, 0, 3, 3)

    def test_too_few_images(self) -> None:
        with pytest.raises(ValueError, match="target images with a valid pose: can't draw 99 pairs"):
            unpaired(self.crowd(), 99)


@pytest.mark.skipif(not REAL, reason="REID_AUG_MARKET_KEYPOINTS names the folder of the published Market-1501 keypoints")
def test_the_published_pairs() -> None:
    folder = Path(REAL or "")
    assert len(pairs_from_keypoints(folder / "market-annotation-train.csv")) == 263_632
    drawn = pairs_from_keypoints(folder / "market-annotation-test.csv", 12_000, seed=0)
    assert drawn == read_pairs(folder / "market-pairs-test.csv")
