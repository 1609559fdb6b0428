"""Gates: scores by hand and against loops, what is kept, what is recorded, and both doors."""

from __future__ import annotations

import json
import math
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import generators
from generators.pose import Pose, coco_17, openpose_18, rescale, upper_7
from reid_aug import Augmenter, Manifest, PoseBank
from reid_aug.baselines.network import ReidNetwork, build, load_baseline, reid_network, save_baseline
from reid_aug.baselines.network import features_of as baseline_features
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.cli import main
from reid_aug.data.keypoints import read_columns
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage
from reid_aug.images import read_many
from reid_aug.synthesis import gates
from reid_aug.synthesis import identity_scores as scoring
from reid_aug.synthesis import novelty as by_distance
from reid_aug.synthesis.dump import dump
from reid_aug.synthesis.gates import GateConfig, identity_scores, keep, pose_novelty, record_scores, score
from reid_aug.synthesis.manifest import NAME, SyntheticRow
from reid_aug.synthesis.store import fill

SIZE = (32, 16)
# A torso 40 px long around (32, 40), and a wrist.
BODY = {"r_shoulder": (20, 20), "l_shoulder": (44, 20), "r_hip": (24, 60), "l_hip": (40, 60), "r_wrist": (10, 50)}


def posed(points: dict, skeleton=openpose_18, size=(128, 64)) -> Pose:
    xy, seen = torch.zeros(len(skeleton), 2), torch.zeros(len(skeleton), dtype=torch.bool)
    for joint, at in points.items():
        xy[skeleton.index(joint)], seen[skeleton.index(joint)] = torch.tensor(at, dtype=torch.float32), True
    return Pose(xy, seen, skeleton, size)


def novelty(target: dict, *own: dict, size=(128, 64)) -> float:
    bank = PoseBank(("t",), posed(target, size=size)[None])
    people = [PersonImage(f"{i}.jpg", 1, 0, "train", posed(points)) for i, points in enumerate(own)]
    return float(pose_novelty([SyntheticRow("x.jpg", "0.jpg", "t", 1, 0, 0)], people, bank)[0])


class TestNovelty:
    def test_by_hand(self) -> None:
        """A wrist 20 px further on a torso of 40: half a torso on one of five joints."""
        assert novelty(BODY, BODY) == 0
        assert novelty(BODY | {"r_wrist": (10, 70)}, BODY) == pytest.approx(20 / 40 / 5)
        assert novelty(BODY | {"r_wrist": (13, 54)}, BODY) == pytest.approx(5 / 40 / 5)  # 3 and 4 make 5

    def test_neither_place_nor_height_counts(self) -> None:
        elsewhere = {joint: (x / 2 + 7, y / 2 + 30) for joint, (x, y) in BODY.items()}
        assert novelty(elsewhere, BODY) == pytest.approx(0, abs=1e-7)
        assert novelty(elsewhere | {"r_wrist": (10 / 2 + 7, 70 / 2 + 30)}, BODY) == pytest.approx(0.1)

    def test_the_nearest_of_the_identitys_own_counts(self) -> None:
        near, far = BODY | {"r_wrist": (10, 60)}, BODY | {"r_wrist": (10, 90)}
        assert novelty(BODY, far, near) == novelty(BODY, near) == pytest.approx(10 / 40 / 5)

    def test_joints_seen_in_one_alone_do_not_count(self) -> None:
        bare = {joint: at for joint, at in BODY.items() if joint != "r_wrist"}
        assert novelty(BODY | {"nose": (0, 0)}, bare) == 0
        assert novelty(bare, BODY | {"l_wrist": (63, 0)}) == 0

    def test_sizes_are_brought_together(self) -> None:
        """The same body in a bank of images half as wide."""
        squeezed = {joint: ((x + 0.5) / 2 - 0.5, y) for joint, (x, y) in BODY.items()}
        assert novelty(squeezed, BODY, size=(128, 32)) == pytest.approx(0, abs=1e-6)

    def test_a_body_without_hips_is_measured_by_its_height(self) -> None:
        """Shoulders at 20, wrists at 60: 40 px from top to bottom; the head 8 px further is 0.2 of that, on one of four joints."""
        points = {"head": (30, 20), "r_shoulder": (20, 30), "l_shoulder": (40, 30), "r_wrist": (10, 60)}
        bank = PoseBank(("t",), posed(points | {"head": (38, 20)}, upper_7)[None])
        people = [PersonImage("0.jpg", 1, 0, "train", posed(points, upper_7))]
        assert pose_novelty([SyntheticRow("x.jpg", "0.jpg", "t", 1, 0, 0)], people, bank)[0] == pytest.approx(8 / 40 / 4)

    def test_a_torso_without_length_gives_a_number(self) -> None:
        flat = {joint: (x, 20) for joint, (x, _) in BODY.items()}
        assert math.isfinite(novelty(flat, BODY)) and math.isfinite(novelty(BODY, flat))

    def test_other_skeletons_are_converted(self) -> None:
        bank = PoseBank(("t",), posed(BODY | {"r_wrist": (10, 70)})[None])
        people = [PersonImage("0.jpg", 1, 0, "train", posed(BODY, coco_17))]
        # Both necks lie between the shoulders, but this one was made and the bank's is not seen.
        assert pose_novelty([SyntheticRow("x.jpg", "0.jpg", "t", 1, 0, 0)], people, bank)[0] == pytest.approx(20 / 40 / 5)

    def test_bad_input(self) -> None:
        people = [PersonImage("0.jpg", 1, 0, "train", posed(BODY)), PersonImage("1.jpg", 2, 0, "query", posed(BODY))]
        bank = PoseBank(("t", "bare"), Pose.stack([posed(BODY), posed({"nose": (1, 1)})]))
        for row, said in (
            (SyntheticRow("x.jpg", "0.jpg", "u", 1, 0, 0), "x.jpg: its target pose 'u' is not in the bank"),
            (SyntheticRow("x.jpg", "1.jpg", "t", 2, 0, 0), "x.jpg: identity 2 has no training image with both"),
            (SyntheticRow("x.jpg", "0.jpg", "bare", 1, 0, 0), "x.jpg: its target pose 'bare' lacks a shoulder or hip"),
        ):
            with pytest.raises(ValueError, match=said):
                pose_novelty([row], people, bank)
        assert pose_novelty([], people, bank).shape == (0,)


def novelty_by_loops(row: SyntheticRow, people: list[PersonImage], bank: PoseBank) -> float:
    """The definition, one joint after the other."""

    def body(pose: Pose) -> tuple[np.ndarray, np.ndarray]:
        at = {name: pose.xy[openpose_18.index(name)].double().numpy() for name in ("r_shoulder", "l_shoulder", "r_hip", "l_hip")}
        shoulders, hips = (at["r_shoulder"] + at["l_shoulder"]) / 2, (at["r_hip"] + at["l_hip"]) / 2
        scale = max(1.0, float(np.hypot(*(shoulders - hips))))
        return (pose.xy.double().numpy() - (shoulders + hips) / 2) / scale, pose.visible.numpy()

    torso = [openpose_18.index(j) for j in ("r_shoulder", "l_shoulder", "r_hip", "l_hip")]
    target, there = body(bank.pose[bank.names.index(row.target)])  # type: ignore[index]
    best = math.inf
    for person in people:
        if person.pid == row.pid and person.pose is not None and bool(person.pose.visible[torso].all()):
            own, seen = body(rescale(person.pose, bank.pose.size))
            both = [math.dist(target[k], own[k]) for k in range(18) if there[k] and seen[k]]
            best = min(best, sum(both) / len(both))
    return best


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31 - 1), st.integers(1, 400))
def test_novelty_is_what_loops_say_whatever_the_block(seed: int, block: int) -> None:
    rng = np.random.default_rng(seed)

    def some(n: int, size: tuple[int, int]) -> Pose:
        xy, seen = rng.uniform(0, size[::-1], (n, 18, 2)), rng.random((n, 18)) < 0.7
        seen[:, [2, 5, 8, 11]] |= rng.random(n)[:, None] < 0.9
        seen[0] = True
        return Pose(torch.from_numpy(xy), torch.from_numpy(seen), openpose_18, size)

    poses = some(9, (64, 32))
    people = [PersonImage(f"{i}.jpg", i % 3, 0, "train", poses[i]) for i in range(9)]  # type: ignore[index]
    bank = PoseBank.collect(people, (128, 64))
    usable = {p.pid for p in people if p.name in bank.names}
    rows = [SyntheticRow(f"{i}", "s", str(rng.choice(bank.names)), int(rng.choice(sorted(usable))), 0, 0) for i in range(12)]
    before, by_distance.BLOCK_ELEMENTS = by_distance.BLOCK_ELEMENTS, block
    try:
        found = pose_novelty(rows, people, bank)
    finally:
        by_distance.BLOCK_ELEMENTS = before
    np.testing.assert_allclose(found, [novelty_by_loops(row, people, bank) for row in rows], atol=1e-9)


def at(*degrees: float) -> Tensor:
    """Unit features of these directions, of several lengths."""
    angles = torch.tensor(degrees).deg2rad()
    return torch.stack((angles.cos(), angles.sin()), dim=1) * torch.arange(1, len(degrees) + 1)[:, None]


def cos(degrees: float) -> float:
    return math.cos(math.radians(degrees))


class TestIdentityScores:
    REAL, PIDS = (0, 90, 45, 200), [7, 7, 3, 5]

    def test_by_hand(self) -> None:
        assert identity_scores(at(30), [7], at(*self.REAL), self.PIDS)[0] == pytest.approx(cos(30) - cos(15), abs=1e-6)
        assert identity_scores(at(10), [7], at(*self.REAL), self.PIDS)[0] == pytest.approx(cos(10) - cos(35), abs=1e-6)

    def test_a_source_does_not_count(self) -> None:
        """A copy of image 0 is found by its twin alone: image 1 of the same person, 90° away."""
        assert identity_scores(at(0), [7], at(*self.REAL), self.PIDS, [0])[0] == pytest.approx(cos(90) - cos(45), abs=1e-6)
        assert identity_scores(at(0), [7], at(*self.REAL), self.PIDS)[0] == pytest.approx(1 - cos(45), abs=1e-6)

    def test_an_only_image_counts_though_it_is_the_source(self) -> None:
        assert identity_scores(at(45), [3], at(*self.REAL), self.PIDS, [2])[0] == pytest.approx(1 - cos(45), abs=1e-6)

    def test_a_scene_does_not_count_whoever_stands_there(self) -> None:
        """At 40° in the place of image 2, at 45°: of the others image 3 is nearest, at 200°."""
        whole = (at(40), [7], at(*self.REAL), self.PIDS)
        assert identity_scores(*whole)[0] == pytest.approx(cos(40) - cos(5), abs=1e-6)
        assert identity_scores(*whole, scene=[2])[0] == pytest.approx(cos(40) - cos(160), abs=1e-6)
        assert identity_scores(*whole, [0], [2])[0] == pytest.approx(cos(50) - cos(160), abs=1e-6)
        assert identity_scores(*whole, scene=[-1])[0] == identity_scores(*whole)[0], "a place of no image that is known"

    def test_the_persons_own_image_is_no_proof_in_its_own_place(self) -> None:
        """Images of 7 are at 0°, 90° and 120°: at 95° in the place of the second, rendered from the first, the third is left."""
        real, pids = at(0, 90, 120, 45), [7, 7, 7, 3]
        assert identity_scores(at(95), [7], real, pids, [0], [1])[0] == pytest.approx(cos(25) - cos(50), abs=1e-6)
        assert identity_scores(at(95), [7], real, pids, [1], [1])[0] == pytest.approx(cos(25) - cos(50), abs=1e-6), "its own pose"

    def test_of_a_persons_two_images_the_scene_is_left_out_first(self) -> None:
        """Source and scene are all there is of 7: the source counts, as an only image does."""
        assert identity_scores(at(80), [7], at(*self.REAL), self.PIDS, [0], [1])[0] == pytest.approx(cos(80) - cos(35), abs=1e-6)
        assert identity_scores(at(40), [3], at(*self.REAL), self.PIDS, [2], [2])[0] == pytest.approx(cos(5) - cos(40), abs=1e-6)

    def test_an_only_stranger_counts_though_it_is_the_scene(self) -> None:
        assert identity_scores(at(30), [7], at(0, 45), [7, 3], scene=[1])[0] == pytest.approx(cos(30) - cos(15), abs=1e-6)

    def test_a_tie_is_not_found(self) -> None:
        assert identity_scores(at(45), [7], at(0, 90), [7, 3])[0] == pytest.approx(0, abs=1e-6)

    @pytest.mark.parametrize("backend", ["torch", "faiss-cpu"])
    def test_one_photograph_of_two_people_is_a_tie_to_the_last_bit(self, backend: str) -> None:
        features = torch.randn(40, 130, generator=torch.Generator().manual_seed(0))
        real, pids = torch.cat((features, features)), [0] * 40 + [1] * 40
        near = features + 0.1 * torch.randn(40, 130, generator=torch.Generator().manual_seed(1))
        assert (identity_scores(near, [0] * 40, real, pids, backend=backend) == 0).all()

    @pytest.mark.parametrize("backend", ["torch", "faiss-cpu"])
    def test_no_image_no_score(self, backend: str) -> None:
        assert identity_scores(torch.zeros(0, 2), [], at(*self.REAL), self.PIDS, backend=backend).shape == (0,)

    def test_people_of_more_images_than_a_search_gives(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """With few neighbours to be had, all are compared: nobody is asked for a number that may hold no stranger."""
        whole = (at(30, 40), [7, 3], at(*self.REAL), self.PIDS)
        expected = identity_scores(*whole)
        monkeypatch.setattr(scoring, "top_k", lambda *_: pytest.fail("searched"))
        monkeypatch.setattr(scoring, "MOST", 3)
        assert identity_scores(*whole, backend="faiss-cpu").tolist() == expected.tolist()

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"pids": [9]}, "identity 9 has no real image to be found by"),
            ({"pids": [7, 7]}, "features and identities are as many, got 1 and 2"),
            ({"real_pids": [7, 7, 7, 7]}, "two identities or more among the real images, got 1"),
            ({"source": [2]}, "row 0 is of identity 7, its source of identity 3"),
            ({"source": [0, 1]}, "sources are as many as synthetic images, got 2 and 1"),
            ({"scene": [0, 1]}, "scenes are as many as synthetic images, got 2 and 1"),
            ({"synthetic": torch.full((1, 2), torch.nan)}, "features are finite"),
            ({"backend": "annoy"}, "no backend named 'annoy'; there are auto, torch, faiss-cpu, faiss-gpu"),
        ],
    )
    def test_bad_input(self, change: dict, said: str) -> None:
        asked = {"synthetic": at(30), "pids": [7], "real": at(*self.REAL), "real_pids": self.PIDS, "source": None} | change
        with pytest.raises(ValueError, match=said):
            identity_scores(**asked)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31 - 1), st.booleans(), st.booleans(), st.integers(1, 60))
def test_found_is_the_nearest_neighbours_identity_whatever_the_block(seed: int, from_source: bool, in_scene: bool, block: int) -> None:
    rng = np.random.default_rng(seed)
    real_pids = np.concatenate([[0, 1], rng.integers(0, 4, 10)]) * 11
    real, synthetic = (torch.from_numpy(rng.normal(size=(n, 5))) for n in (12, 9))
    source, scene = rng.integers(0, 12, 9), rng.integers(-1, 12, 9)
    pids = real_pids[source]
    before, scoring.BLOCK_ELEMENTS = scoring.BLOCK_ELEMENTS, block
    left_out = source if from_source else None, scene if in_scene else None
    try:
        found = identity_scores(synthetic, pids, real, real_pids, *left_out)
        by_faiss = identity_scores(synthetic, pids, real, real_pids, *left_out, backend="faiss-cpu")
    finally:
        scoring.BLOCK_ELEMENTS = before
    np.testing.assert_allclose(by_faiss, found, rtol=0, atol=1e-6)
    for i in range(9):
        cosines = F.cosine_similarity(synthetic[i][None], real).numpy()
        own, strangers = ({j for j in range(12) if (real_pids[j] == pids[i]) == same} for same in (True, False))
        if in_scene:
            own, strangers = (part - {scene[i]} or part for part in (own, strangers))
        if from_source:
            own = own - {source[i]} or own
        gallery = sorted(own | strangers)
        nearest = max(gallery, key=lambda j: cosines[j])
        assert (found[i] > 0) == (real_pids[nearest] == pids[i])
        own, other = (max(cosines[j] for j in gallery if (real_pids[j] == pids[i]) == same) for same in (True, False))
        assert found[i] == pytest.approx(own - other, abs=1e-5)


def scored(identity: list[float | None], new: list[float | None] | None = None) -> list[SyntheticRow]:
    new = new or [None] * len(identity)
    return [SyntheticRow(f"{i}", "s", "t", 1, 0, 0, one, other) for i, (one, other) in enumerate(zip(identity, new, strict=True))]


class TestKeep:
    def test_found(self) -> None:
        assert keep(scored([0.2, 0.0, -0.1, 1e-9]), GateConfig(identity="found")).tolist() == [True, False, False, True]

    @settings(max_examples=60, deadline=None)
    @given(st.integers(2, 60), st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9]), st.integers(0, 99))
    def test_a_share_drops_so_many_of_the_lowest(self, n: int, share: float, seed: int) -> None:
        scores = np.random.default_rng(seed).permutation(n) / n - 0.5
        kept = keep(scored(scores.tolist()), GateConfig(identity=share))
        assert abs((~kept).sum() - share * n) < 1
        assert scores[kept].min() > scores[~kept].max(initial=-1)

    def test_novelty_at_least(self) -> None:
        rows = scored([None, None, None], [0.1, 0.0, 0.3])
        assert keep(rows, GateConfig(novelty=0.1)).tolist() == [True, False, True]

    def test_both_means_both(self) -> None:
        rows = scored([0.5, -0.5, 0.5], [0.0, 0.3, 0.3])
        gate = GateConfig(identity="found", novelty=0.1)
        assert keep(rows, gate).tolist() == [False, False, True]
        assert {name: by.tolist() for name, by in gates.passing(rows, gate).items()} == {
            "identity found": [True, False, True], "novelty at least 0.1": [False, True, True],
        }  # fmt: skip

    def test_no_gate_keeps_all(self) -> None:
        assert keep(scored([None, None]), GateConfig()).tolist() == [True, True]

    def test_a_score_that_is_missing_names_the_command(self) -> None:
        with pytest.raises(ValueError, match="needs identity_score, which 1 of 2 rows lack: record it with reid-aug gate DUMP reid=FILE"):
            keep(scored([0.5, None]), GateConfig(identity=0.1))
        with pytest.raises(ValueError, match="needs pose_novelty, which 2 of 2 rows lack: record it with reid-aug gate DUMP"):
            keep(scored([0.5, None]), GateConfig(novelty=0.1))

    def test_a_gate_that_keeps_nothing_says_the_counts(self) -> None:
        rows = scored([0.5, -0.5], [0.0, 0.3])
        with pytest.raises(ValueError, match=r"keeps none of 2 synthetic images \(identity found: 1, novelty at least 0.2: 1\)"):
            keep(rows, GateConfig(identity="found", novelty=0.2))
        for gate in (GateConfig(), GateConfig(identity="found"), GateConfig(identity=0.5)):
            with pytest.raises(ValueError, match="keeps none of 0"):
                keep([], gate)

    @pytest.mark.parametrize("bad", [{"identity": "fund"}, {"identity": 1.0}, {"identity": -0.1}, {"identity": True}, {"novelty": -1},
                                     {"novelty": math.nan}, {"identity": math.nan}, {"novelti": 1}])  # fmt: skip
    def test_bad_settings_are_one_line(self, bad: dict) -> None:
        with pytest.raises(ValueError, match=next(iter(bad))) as caught:
            gates.as_gate(bad)
        assert "\n" not in str(caught.value)
        assert gates.as_gate({"identity": 0.2}).identity == 0.2 and gates.as_gate({"identity": 0}).identity == 0


def colours(pixels: Tensor) -> Tensor:
    """Features anybody can work out: mean colours of four bands."""
    return F.adaptive_avg_pool2d(pixels.float(), (4, 1)).flatten(1) - 100


class Asked:
    """`colours`, and how many images it was shown."""

    def __init__(self) -> None:
        self.images = 0

    def __call__(self, pixels: Tensor) -> Tensor:
        assert pixels.dtype == torch.uint8 and tuple(pixels.shape[1:]) == (3, *SIZE)
        self.images += len(pixels)
        return colours(pixels)


@pytest.fixture
def augmenter(train: list[PersonImage], checkpoint: Path) -> Augmenter:
    return Augmenter(generators.load(checkpoint), PoseBank.collect(train, SIZE), per_image=2, seed=3)


@pytest.fixture
def cache(augmenter: Augmenter, train: list[PersonImage], tmp_path: Path) -> tuple[Path, Manifest]:
    return tmp_path / "c", fill(tmp_path / "c", augmenter, augmenter.plan(train), train)


class TestRecord:
    def test_round_trip(self, cache: tuple[Path, Manifest]) -> None:
        folder, manifest = cache
        n = len(manifest.rows)
        written = record_scores(folder, manifest, novelty=np.arange(n) / 7, identity=-np.arange(n) / 3, scored_by="net:1")
        assert Manifest.load(folder / NAME) == written and written.made_by["identity_scored_by"] == "net:1"
        assert [r.pose_novelty for r in written.rows] == (np.arange(n) / 7).tolist()
        assert [r.identity_score for r in written.rows] == (-np.arange(n) / 3).tolist()
        assert [replace(r, pose_novelty=None, identity_score=None) for r in written.rows] == list(manifest.rows)
        again = record_scores(folder, written, identity=np.ones(n), scored_by="net:2")
        assert {r.identity_score for r in again.rows} == {1.0} and again.made_by["identity_scored_by"] == "net:2"
        assert [r.pose_novelty for r in again.rows] == (np.arange(n) / 7).tolist()

    def test_bad_input(self, cache: tuple[Path, Manifest]) -> None:
        folder, manifest = cache
        n = len(manifest.rows)
        for scores, said in (({"identity": np.ones(n)}, "scored_by"), ({"novelty": np.ones(n - 1)}, f"got {n - 1} for {n} rows"),
                             ({"novelty": np.full(n, np.nan)}, f"that of {manifest.rows[0].path} is not")):  # fmt: skip
            with pytest.raises(ValueError, match=said):
                record_scores(folder, manifest, **scores)
        assert Manifest.load(folder / NAME) == manifest

    def test_old_manifests_load(self, tmp_path: Path) -> None:
        row = {"path": "a.jpg", "source": "s.jpg", "target": "t.jpg", "pid": 1, "camid": 0, "seed": 7, "bytes": 3, "sha256": "ab"}
        for more in ({}, {"score": 0.5}):
            lines = [{"format": "reid-aug manifest 1", "seed": 3}, row | more]
            (tmp_path / NAME).write_text("".join(json.dumps(line) + "\n" for line in lines))
            loaded = Manifest.load(tmp_path / NAME)
            assert loaded.rows == (SyntheticRow("a.jpg", "s.jpg", "t.jpg", 1, 0, 7, None, None, 3, "ab"),)

    def test_manifests_scored_by_two_networks_do_not_merge(self, cache: tuple[Path, Manifest]) -> None:
        folder, manifest = cache
        n = len(manifest.rows)
        one = record_scores(folder, manifest, identity=np.ones(n), scored_by="net:1")
        two = record_scores(folder, manifest, identity=np.ones(n), scored_by="net:2")
        halves = [replace(one, rows=one.rows[: n // 2]), replace(two, rows=two.rows[n // 2 :])]
        with pytest.raises(ValueError, match="scored by the same network"):
            Manifest.merge(halves)
        assert Manifest.merge([halves[0], replace(halves[1], made_by=one.made_by)]).rows[: n // 2] == one.rows[: n // 2]


class TestScore:
    def test_scores_are_those_of_the_functions(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        found = score(folder, manifest, train, augmenter.bank, ReidNetwork(colours, SIZE, "colours"))
        assert Manifest.load(folder / NAME) == found
        names = [p.name for p in train]
        real, synthetic = read_many([p.path for p in train], SIZE), read_many([folder / r.path for r in manifest.rows], SIZE)
        wanted = identity_scores(
            colours(synthetic), [r.pid for r in manifest.rows], colours(real), [p.pid for p in train],
            [names.index(r.source) for r in manifest.rows],
        )  # fmt: skip
        np.testing.assert_allclose([r.identity_score for r in found.rows], wanted, atol=1e-6)
        np.testing.assert_allclose([r.pose_novelty for r in found.rows], pose_novelty(manifest.rows, train, augmenter.bank))
        own = [r.pose_novelty for r in found.rows if next(p.pid for p in train if p.name == r.target) == r.pid]
        assert own and all(value == pytest.approx(0, abs=1e-9) for value in own), "a pose of the person's own is not new"

    def test_what_is_recorded_is_not_asked_again(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        asked = Asked()
        first = score(folder, manifest, train, augmenter.bank, ReidNetwork(asked, SIZE, "one"))
        assert asked.images == len(train) + len(manifest.rows)
        written = (folder / NAME).stat().st_mtime_ns
        assert score(folder, first, train, augmenter.bank, ReidNetwork(asked, SIZE, "one")) == first
        assert asked.images == len(train) + len(manifest.rows) and (folder / NAME).stat().st_mtime_ns == written
        other = score(folder, first, train, augmenter.bank, ReidNetwork(lambda pixels: asked(pixels).flip(0), SIZE, "two"))
        assert asked.images == 2 * (len(train) + len(manifest.rows)) and other.made_by["identity_scored_by"] == "two"
        assert [r.identity_score for r in other.rows] != [r.identity_score for r in first.rows]

    def test_images_in_scenes_are_judged_without_them(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        in_scenes = replace(manifest, made_by={**manifest.made_by, "scenes_digest": "of the bank"})
        synthetic, real = (colours(read_many(paths, SIZE)) for paths in ([folder / r.path for r in manifest.rows], [p.path for p in train]))
        where = {person.name: i for i, person in enumerate(train)}
        given = (synthetic, [r.pid for r in manifest.rows], real, [p.pid for p in train], [where[r.source] for r in manifest.rows])
        for kept in (manifest, in_scenes):
            scenes = [where[row.target] for row in kept.rows] if kept.in_scenes else None
            scored_rows = score(folder, kept, train, augmenter.bank, ReidNetwork(colours, SIZE, "colours")).rows
            np.testing.assert_allclose([row.identity_score for row in scored_rows], identity_scores(*given, scenes), atol=1e-6)
        assert not np.allclose(identity_scores(*given), identity_scores(*given, [where[row.target] for row in manifest.rows]))

    def test_novelty_alone_takes_no_network(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        found = score(folder, manifest, train, augmenter.bank)
        assert all(r.pose_novelty is not None and r.identity_score is None for r in found.rows)
        assert "identity_scored_by" not in found.made_by

    def test_a_foreign_source_is_refused(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        rest = [p for p in train if p.name != manifest.rows[0].source]
        with pytest.raises(ValueError, match=f"its source {manifest.rows[0].source} is not among the 23 training images"):
            score(folder, manifest, rest, augmenter.bank, ReidNetwork(colours, SIZE, "colours"))

    def test_a_folder_with_scores_is_the_same_plan(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        found = score(folder, manifest, train, augmenter.bank, ReidNetwork(colours, SIZE, "colours"))
        assert fill(folder, augmenter, augmenter.plan(train), train) == found

    def test_an_image_drawn_again_is_judged_again(self, cache, train: list[PersonImage], augmenter: Augmenter) -> None:
        folder, manifest = cache
        found = score(folder, manifest, train, augmenter.bank, ReidNetwork(colours, SIZE, "colours"))
        (folder / found.rows[4].path).unlink()
        mended = fill(folder, augmenter, augmenter.plan(train), train)
        assert mended.rows == tuple(replace(r, identity_score=None) if i == 4 else r for i, r in enumerate(found.rows))
        assert mended.made_by == found.made_by and Manifest.load(folder / NAME) == mended
        with pytest.raises(ValueError, match="1 of 48 rows lack"):
            keep(mended.rows, GateConfig(identity="found"))
        asked = Asked()
        again = score(folder, mended, train, augmenter.bank, ReidNetwork(asked, SIZE, "colours"))
        assert asked.images == len(train) + 1
        assert again.rows[4].identity_score == pytest.approx(found.rows[4].identity_score, abs=1e-6)
        assert [r for i, r in enumerate(again.rows) if i != 4] == [r for i, r in enumerate(found.rows) if i != 4]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Re-ID network that nobody trained."""
    torch.manual_seed(1)
    config = BaselineConfig(size=SIZE)
    path = tmp_path_factory.mktemp("reid") / "baseline.safetensors"
    save_baseline(build(config, 6), config, 6, path)
    return path


class TestReidNetwork:
    def test_a_file(self, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        found = reid_network(network, (64, 32), "cpu")
        model, header = load_baseline(network)
        assert found.size == SIZE and found.name == f"osnet_x0_25:{header['digest'][:12]}"
        pixels = torch.randint(0, 256, (5, 3, *SIZE), dtype=torch.uint8)
        assert torch.equal(found.features(pixels), baseline_features(model, pixels))

    def test_a_function_is_named_by_what_it_does(self) -> None:
        one, same, other = (reid_network(f, SIZE) for f in (colours, lambda p: colours(p), lambda p: 2 * colours(p)))
        assert one.name == same.name != other.name and one.size == SIZE
        assert reid_network(one, (9, 9)) is one

    def test_what_is_no_network(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="is no baseline checkpoint"):
            reid_network(checkpoint, SIZE)
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            reid_network(tmp_path / "none", SIZE)


class TestDataset:
    @pytest.fixture
    def posed(self, rendered, checkpoint: Path, tmp_path: Path):
        from torchreid import data as torchreid_data

        from reid_aug import PoseAugmentedDataset

        root = tmp_path / "reid"
        shutil.copytree(rendered.root, root / "market1501" / "Market-1501-v15.09.15")
        keypoints = root / "market1501" / "Market-1501-v15.09.15" / "annotation-train.csv"

        def make(**options):
            base = torchreid_data.datasets.init_image_dataset("market1501", root=str(root), verbose=False)
            asked = {"generator": checkpoint, "poses": keypoints, "cache_dir": tmp_path / "cache", "verbose": False, "device": "cpu"}
            return PoseAugmentedDataset(base, **(asked | options))

        return make

    def test_gating_again_draws_nothing_and_asks_nobody(self, posed, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = posed()
        monkeypatch.setattr("reid_aug.synthesis.augmenter.render", lambda *_: pytest.fail("drawn again"))
        asked = Asked()
        gated = posed(gate={"identity": 0.25, "novelty": 0.05}, reid=asked)
        assert gated.folder == whole.folder and len(gated.manifest.rows) == len(whole.synthetic_paths) == 48
        kept = keep(gated.manifest.rows, GateConfig(identity=0.25, novelty=0.05))
        assert 0 < kept.sum() < 48
        wanted = {str(gated.folder / r.path) for r, stays in zip(gated.manifest.rows, kept, strict=True) if stays}
        assert gated.synthetic_paths == wanted == {row[0] for row in gated.train[24:]}
        assert gated.train[:24] == whole.train[:24] and gated.num_train_pids == whole.num_train_pids
        before = asked.images
        stricter = posed(gate=GateConfig(identity=0.5), reid=asked)
        assert asked.images == before + 4, "only to see which function it is"
        assert len(stricter.synthetic_paths) == 24
        assert len(posed(gate={"novelty": 0.05}).synthetic_paths) >= len(gated.synthetic_paths)
        assert posed().train == whole.train

    def test_a_baseline_file_is_opened_once_it_is_needed(self, posed, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        first = posed(gate={"identity": 0.5}, reid=network)
        assert len(first.synthetic_paths) == 24 and first.manifest.made_by["identity_scored_by"].startswith("osnet_x0_25:")
        monkeypatch.setattr("reid_aug.baselines.network.load_baseline", lambda *_: pytest.fail("opened again"))
        assert posed(gate={"identity": 0.5}, reid=network).train == first.train

    def test_another_search_finds_the_same(self, posed, network: Path, tmp_path: Path) -> None:
        first = posed(gate={"identity": 0.5}, reid=network)
        other = posed(gate={"identity": 0.5}, reid=network, backend="faiss-cpu", cache_dir=tmp_path / "other")
        scores = ([row.identity_score for row in data.manifest.rows] for data in (first, other))
        np.testing.assert_allclose(*scores, rtol=0, atol=1e-6)

    def test_another_way_of_drawing_is_another_cache(self, posed) -> None:
        whole, canonical = posed(), posed(draw="canonical")
        assert canonical.folder != whole.folder and len({r.target for r in canonical.manifest.rows}) <= 8

    def test_bad_input(self, posed, tmp_path: Path) -> None:
        for options, said in (
            ({"gate": {"identity": "found"}}, "asks a Re-ID network: give reid="),
            ({"gate": {"novelti": 1}}, "gate: unknown key 'novelti'.*did you mean 'novelty'"),
            ({"gate": {"novelty": 99}}, r"keeps none of 48 synthetic images \(novelty at least 99: 0\)"),
            ({"draw": "hole"}, "did you mean 'whole'"),
            ({"backend": "troch"}, "no backend named 'troch'.*did you mean 'torch'"),
        ):
            with pytest.raises(ValueError, match=said):
                posed(**options)
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            posed(gate={"identity": "found"}, reid=tmp_path / "none")


def run(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    said = capsys.readouterr()
    return code, said.out, said.err


class TestCommand:
    @pytest.fixture
    def dumped(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> Path:
        dump(people, augmenter, tmp_path / "dump")
        return tmp_path / "dump"

    def test_end_to_end(self, dumped: Path, network: Path, people, augmenter, tmp_path: Path, capsys) -> None:
        out = tmp_path / "kept"
        asked = ["gate", dumped, f"reid={network}", "identity=0.25", "novelty=0.05", f"out={out}", "device=cpu"]
        code, said, _ = run(*asked, capsys=capsys)
        whole, kept = Manifest.load(dumped / NAME), Manifest.load(out / NAME)
        left = keep(whole.rows, GateConfig(identity=0.25, novelty=0.05))
        assert code == 0 and 0 < left.sum() < 48
        assert said.splitlines() == [
            "identity without the lowest 25 %: 36 of 48 pass",
            f"novelty at least 0.05: {sum((r.pose_novelty or 0) >= 0.05 for r in whole.rows)} of 48 pass",
            f"{left.sum()} of 48 synthetic images kept: {out}",
        ]
        assert kept.rows == tuple(r for r, stays in zip(whole.rows, left, strict=True) if stays)
        assert kept.made_by["gate"] == {"identity": 0.25, "novelty": 0.05}
        total = left.sum() + len(whole.files)
        code, said, _ = run("check", out, capsys=capsys)
        assert (code, said) == (0, f"{total} of {total} files ({left.sum()} synthetic images) are as they were written\n")
        back = read_market_folder(out)
        assert len(back) == len(people) + left.sum()
        train = {p.name for p in back if p.split == "train"}
        assert set(read_columns(out / "annotation-train.csv", 18)[0]) == train
        assert (out / "annotation-test.csv").read_bytes() == (dumped / "annotation-test.csv").read_bytes()
        assert run("check", dumped, capsys=capsys)[0] == 0
        # The poses in the dump's keypoint file are the bank's.
        sources = [p for p in people if p.split == "train"]
        np.testing.assert_allclose([r.pose_novelty for r in whole.rows], pose_novelty(whole.rows, sources, augmenter.bank), atol=1e-5)
        # The same again completes what is missing and asks nobody.
        victim = out / kept.rows[0].path
        victim.unlink()
        network.rename(network.with_suffix(".away"))
        try:
            assert run(*[a for a in asked if "reid=" not in str(a)], capsys=capsys)[0] == 0 and victim.exists()
        finally:
            network.with_suffix(".away").rename(network)
        code, said, _ = run("gate", out, "novelty=0.06", capsys=capsys)
        assert code == 0 and f"of {left.sum()} synthetic images kept\n" in said

    def test_scores_alone(self, dumped: Path, network: Path, capsys) -> None:
        assert run("gate", dumped, capsys=capsys)[:2] == (0, "48 synthetic images scored\n")
        assert all(r.pose_novelty is not None and r.identity_score is None for r in Manifest.load(dumped / NAME).rows)
        assert run("gate", dumped, f"reid={network}", "device=cpu", capsys=capsys)[0] == 0
        found = Manifest.load(dumped / NAME)
        assert all(r.identity_score is not None for r in found.rows) and found.made_by["identity_scored_by"].startswith("osnet_x0_25:")

    def test_a_search_by_name(self, dumped: Path, network: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = ["gate", dumped, f"reid={network}", "device=cpu"]
        code, _, err = run(*asked, "backend=faiss", capsys=capsys)
        assert code == 2 and err.startswith("reid-aug: backend: no backend named 'faiss'; there are auto, torch, faiss-cpu, faiss-gpu")
        monkeypatch.setitem(sys.modules, "faiss", None)
        code, _, err = run(*asked, "backend=faiss-cpu", capsys=capsys)
        assert (code, err) == (2, "reid-aug: backend 'faiss-cpu' needs faiss: pip install faiss-cpu\n")
        monkeypatch.undo()
        found = []
        for backend in ("faiss-cpu", "torch"):
            assert run(*asked, f"backend={backend}", capsys=capsys)[0] == 0
            found.append([row.identity_score for row in Manifest.load(dumped / NAME).rows])
            record_scores(dumped, Manifest.load(dumped / NAME), identity=np.zeros(48), scored_by="nobody")
        np.testing.assert_allclose(*found, rtol=0, atol=1e-6)
        assert np.ptp(found[0]) > 0.001

    def test_real_images_that_lie_elsewhere(self, people, augmenter, rendered, tmp_path: Path, capsys) -> None:
        dump(people, augmenter, tmp_path / "bare", copy_real=False)
        code, _, err = run("gate", tmp_path / "bare", "novelty=0.05", capsys=capsys)
        assert code == 2 and "holds no real images: name those it was rendered from with data.root=DIR" in err
        code, said, _ = run("gate", tmp_path / "bare", "novelty=0.05", f"data.root={rendered.root}", f"out={tmp_path / 'k'}", capsys=capsys)
        assert code == 0 and "synthetic images kept" in said
        assert run("check", tmp_path / "k", capsys=capsys)[0] == 0

    def test_the_gated_dump_is_no_dump_of_the_plan(self, dumped: Path, people, augmenter: Augmenter, tmp_path: Path, capsys) -> None:
        assert run("gate", dumped, "novelty=0.05", f"out={tmp_path / 'kept'}", capsys=capsys)[0] == 0
        with pytest.raises(ValueError, match="another plan"):
            dump(people, augmenter, tmp_path / "kept")
        code, _, err = run("gate", dumped, "novelty=0.2", f"out={tmp_path / 'kept'}", capsys=capsys)
        assert code == 2 and "holds images of another plan" in err

    def test_dump_takes_a_way_of_drawing(self, rendered, checkpoint: Path, tmp_path: Path, capsys) -> None:
        asked = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'd'}", "draw=canonical"]
        assert run(*asked, capsys=capsys)[0] == 0
        found = Manifest.load(tmp_path / "d" / NAME)
        assert found.made_by["draw"] == "canonical" and len({r.target for r in found.rows}) <= 8

    def test_bad_input(self, dumped: Path, checkpoint: Path, tmp_path: Path, capsys) -> None:
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("precious")
        changed = next(iter((dumped / "bounding_box_train").glob("*_p0.jpg")))
        for settings_, said in (
            (["identity=fund"], "identity: 'found', or the share in [0, 1)"),
            (["novelti=1"], "did you mean 'novelty'"),
            (["identity=found"], "48 of 48 rows lack: record it with reid-aug gate DUMP reid=FILE"),
            (["identity=found", f"reid={checkpoint}"], "is no baseline checkpoint"),
            (["identity=found", "reid=nowhere"], "no checkpoint at nowhere"),
            (["novelty=99"], "keeps none of 48 synthetic images (novelty at least 99: 0)"),
            ([f"out={tmp_path / 'k'}"], "give identity= or novelty= too"),
            (["novelty=0.05", f"out={dumped}"], "is the dump itself"),
            (["novelty=0.05", f"out={tmp_path / 'full'}"], "is not empty and holds no manifest"),
        ):
            code, _, err = run("gate", dumped, *settings_, capsys=capsys)
            line = err.strip().splitlines()[-1]
            assert code == 2 and line.startswith("reid-aug: ") and said in line, (settings_, err)
        assert not (tmp_path / "k").exists()
        code, _, err = run("gate", tmp_path / "nowhere", "novelty=0.1", capsys=capsys)
        assert code == 2 and "no manifest at" in err
        changed.write_bytes(changed.read_bytes()[:-3])
        code, _, err = run("gate", dumped, "novelty=0", f"out={tmp_path / 'k'}", capsys=capsys)
        assert code == 2 and f"{changed} changed since it was written" in err and not (tmp_path / "k" / NAME).exists()
