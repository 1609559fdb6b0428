"""Which pose each synthetic image gets: every strategy's promise, and that nothing but its inputs decides."""

from __future__ import annotations

import hashlib
import random
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import generators
from generators.pose import Pose, coco_17, convert, openpose_18, rescale, upper_7
from reid_aug import Augmenter, PoseBank
from reid_aug.config import load as load_config
from reid_aug.data.body import VIEWS, view
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.dump import DumpConfig
from reid_aug.synthesis.gates import pose_novelty
from reid_aug.synthesis.manifest import SyntheticRow
from reid_aug.synthesis.online_draw import PoseDrawer
from reid_aug.synthesis.target_poses import DRAWS, hash64

SIZE = (32, 16)


def body(side: str, shift: float = 0.0) -> Pose:
    """Somebody in a 64 × 32 image seen from a side, `shift` pixels to the right."""
    wide = {"front": 6, "right": 1, "back": -6, "left": -1}[side]
    points = {"r_shoulder": (15 - wide, 15), "l_shoulder": (15 + wide, 15), "r_hip": (15 - wide, 35), "l_hip": (15 + wide, 35),
              "nose": ({"right": 20, "left": 10}.get(side, 16), 8)}  # fmt: skip
    xy, seen = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
    for joint, at in points.items():
        xy[openpose_18.index(joint)], seen[openpose_18.index(joint)] = torch.tensor(at) + torch.tensor([shift, 0.0]), True
    return Pose(xy, seen, openpose_18, (64, 32))


def world(sides: dict[int, list[str]], cameras: int = 3) -> list[PersonImage]:
    """People whose images show them from these sides, seen by one camera after another."""
    return [
        PersonImage(f"{pid}_{i}.jpg", pid, (pid + i) % cameras, "train", body(side, shift=i / 4))
        for pid, shown in sides.items() for i, side in enumerate(shown)
    ]  # fmt: skip


class TestWhole:
    def test_it_is_the_plan_it_always_was(self, train: list[PersonImage], bank: PoseBank) -> None:
        """Caches are named by it: SHA-256 of "seed\\nname\\nindex", eight bytes, little end first."""
        for row in plan(train, bank, 3, 5):
            index = int(row.path.rpartition("_p")[2].removesuffix(".jpg"))
            bits = int.from_bytes(hashlib.sha256(f"5\n{row.source}\n{index}".encode()).digest()[:8], "little")
            assert (row.target, row.seed) == (bank.names[bits % len(bank)], bits >> 32)
        assert plan(train, bank, 3, 5) == plan(train, bank, 3, 5, draw="whole")

    def test_a_known_hash(self) -> None:
        """sha256 of "0\\na\\n1" begins with these bytes (coreutils' sha256sum)."""
        assert hash64(0, "a", 1) == int.from_bytes(bytes.fromhex("8cf15fdf9ed9284a"), "little")

    def test_only_other_strategies_are_in_made_by(self, bank: PoseBank, checkpoint: Path) -> None:
        model = generators.load(checkpoint)
        plain, *others = (Augmenter(model, bank, draw=draw).made_by for draw in DRAWS)
        assert "draw" not in plain and [made["draw"] for made in others] == list(DRAWS[1:])
        assert all({k: v for k, v in made.items() if k not in ("draw", "cameras_digest")} == plain for made in others)
        moved = replace(bank, camids=tuple(c + 1 for c in bank.camids or ()))
        assert moved.digest == bank.digest == replace(bank, camids=None).digest
        assert Augmenter(model, moved, draw="camera-aware").made_by != Augmenter(model, bank, draw="camera-aware").made_by
        assert Augmenter(model, moved).made_by == plain


@pytest.mark.parametrize("draw", DRAWS)
class TestEvery:
    def test_order_does_not_count(self, draw: str, train: list[PersonImage], bank: PoseBank) -> None:
        rows = {row.path: row for row in plan(train, bank, 3, 1, draw=draw)}
        assert len(rows) == 3 * len(bank)
        shuffled = random.Random(2).sample(train, len(train))
        assert {row.path: row for row in plan(shuffled, bank, 3, 1, draw=draw)} == rows

    def test_shards_of_whole_identities_add_up(self, draw: str, train: list[PersonImage], bank: PoseBank) -> None:
        rows = {row.path: row for row in plan(train, bank, 3, 1, draw=draw)}
        parts = [[p for p in train if p.pid % 2 == odd] for odd in (0, 1)]
        assert {row.path: row for part in parts for row in plan(part, bank, 3, 1, draw=draw)} == rows

    def test_more_per_image_keeps_the_first(self, draw: str, train: list[PersonImage], bank: PoseBank) -> None:
        few, many = ({row.path: row for row in plan(train, bank, n, 1, draw=draw)} for n in (2, 9))
        assert few.items() <= many.items()

    def test_the_seed_counts(self, draw: str, train: list[PersonImage], bank: PoseBank) -> None:
        assert [r.target for r in plan(train, bank, 3, 1, draw=draw)] != [r.target for r in plan(train, bank, 3, 2, draw=draw)]

    def test_the_augmenter_plans_by_it(self, draw: str, train: list[PersonImage], bank: PoseBank, checkpoint: Path) -> None:
        augmenter = Augmenter(generators.load(checkpoint), bank, 2, 3, draw=draw)
        assert augmenter.plan(train) == plan(train, bank, 2, 3, draw=draw)


class TestMissingViews:
    SIDES = {1: ["front", "front", "right"], 2: ["back"], 3: ["front", "right", "back", "left"], 4: ["left", "front"]}

    def test_only_views_the_identity_does_not_show(self) -> None:
        people = world(self.SIDES)
        bank = PoseBank.collect(people, (64, 32))
        of = dict(zip(bank.names, [VIEWS[v] for v in view(bank.pose)], strict=True))
        assert of == {p.name: self.SIDES[p.pid][int(p.name[2])] for p in people}
        drawn = defaultdict(set)
        for row in plan(people, bank, 60, 0, draw="missing-views"):
            drawn[row.pid].add(row.target)
        for pid, shown in self.SIDES.items():
            wanted = {name for name in bank.names if of[name] not in shown} or set(bank.names)
            assert drawn[pid] == wanted  # all of them: 60 draws or more from at most ten

    def test_uniform_over_the_poses_left(self) -> None:
        people = world({1: ["front"], 2: ["back", "back", "left"]})
        rows = plan(people, PoseBank.collect(people, (64, 32)), 6000, 0, draw="missing-views")
        counts = Counter(row.target for row in rows if row.pid == 1)
        assert set(counts) == {"2_0.jpg", "2_1.jpg", "2_2.jpg"}
        assert all(abs(n - 2000) < 5 * (6000 * 2 / 9) ** 0.5 for n in counts.values())

    def test_what_the_bank_lacks_too_does_not_keep_anybody_waiting(self) -> None:
        people = world({1: ["front", "back"], 2: ["front"]})
        bank = PoseBank.collect(people, (64, 32))
        rows = plan(people, bank, 40, 0, draw="missing-views")
        assert {r.target for r in rows if r.pid == 1} == set(bank.names)
        assert {r.target for r in rows if r.pid == 2} == {"1_1.jpg"}

    def test_rendered_people(self, train: list[PersonImage], bank: PoseBank) -> None:
        shown, seen = defaultdict(set), dict(zip(bank.names, view(bank.pose).tolist(), strict=True))
        for person in train:
            assert person.pose is not None
            shown[person.pid].add(int(view(person.pose)))
        rows = plan(train, bank, 4, 0, draw="missing-views")
        assert rows and all(seen[row.target] not in shown[row.pid] for row in rows if len(shown[row.pid]) < 4)

    def test_images_of_other_sizes_and_skeletons(self) -> None:
        """The same bodies in images twice as tall and half as wide, half of them on COCO's joints."""
        people = world(self.SIDES)
        bank = PoseBank.collect(people, (64, 32))
        larger = [replace(p, pose=rescale(p.pose, (128, 16))) for p in people if p.pose is not None]
        assert plan(larger, bank, 3, 0, draw="missing-views") == plan(people, bank, 3, 0, draw="missing-views")
        mixed = [replace(p, pose=convert(p.pose, coco_17)) if i % 2 and p.pose is not None else p for i, p in enumerate(larger)]
        assert plan(mixed, bank, 3, 0, draw="missing-views") == plan(people, bank, 3, 0, draw="missing-views")

    def test_a_skeleton_without_hips_is_refused(self) -> None:
        pose = Pose(torch.rand(7, 2) * 30, torch.ones(7, dtype=torch.bool), upper_7, (64, 32))
        people = [PersonImage(f"{i}.jpg", i, 0, "train", pose) for i in range(3)]
        with pytest.raises(ValueError, match=r"shoulders and hips, which no pose of the bank \(upper_7\) shows"):
            plan(people, PoseBank.collect(people, (64, 32)), 1, 0, draw="missing-views")


class TestCanonical:
    def test_eight_images_show_each_once(self, train: list[PersonImage], bank: PoseBank) -> None:
        typical = set(bank.thin(8).names)
        assert len(typical) == 8
        orders = defaultdict(list)
        for row in plan(train, bank, 11, 0, draw="canonical"):
            orders[row.source].append(row.target)
        for order in orders.values():
            assert set(order[:8]) == typical and order[8:] == order[:3]
        assert len({tuple(order) for order in orders.values()}) > len(orders) / 2

    @pytest.mark.parametrize("poses", [1, 3, 8])
    def test_another_number_of_them(self, train: list[PersonImage], bank: PoseBank, poses: int) -> None:
        rows = plan(train[:3], bank, 9, 0, draw=f"canonical-{poses}")
        assert {row.target for row in rows} == set(bank.thin(poses).names) and len(rows) == 27
        targets = [row.target for row in plan(train[:3], bank, 9, 0, draw="canonical")]
        assert ([row.target for row in rows] == targets) == (poses == 8)

    @pytest.mark.parametrize("draw", ["canonical-0", "canonical-", "canonical-x", "canonical8", "canonical-8 "])
    def test_no_number_of_them(self, train: list[PersonImage], bank: PoseBank, draw: str) -> None:
        with pytest.raises(ValueError, match=f"no way of drawing poses named '{draw}'"):
            plan(train, bank, 1, 0, draw=draw)

    def test_first_poses_are_spread(self, bank: PoseBank) -> None:
        people = [PersonImage(f"{i}.jpg", i, 0, "train", body("front")) for i in range(4000)]
        counts = Counter(row.target for row in plan(people, bank, 1, 0, draw="canonical"))
        assert len(counts) == 8 and all(abs(n - 500) < 5 * (4000 * 7 / 64) ** 0.5 for n in counts.values())

    def test_a_small_bank_is_taken_whole(self, train: list[PersonImage], bank: PoseBank) -> None:
        small = bank.pick([0, 5, 9])
        targets = [row.target for row in plan(train[:1], small, 6, 0, draw="canonical")]
        assert set(targets[:3]) == set(small.names) and targets[3:] == targets[:3]


class TestCameraAware:
    def test_another_camera_first_and_then_its_poses(self) -> None:
        """Camera 0 saw eight poses, camera 2 one: both are drawn alike by who was seen by camera 1."""
        people = [PersonImage(f"{i}.jpg", i, camid, "train", body("front", i / 4)) for i, camid in enumerate([0] * 8 + [1, 2])]
        bank = PoseBank.collect(people, (64, 32))
        camera = dict(zip(bank.names, bank.camids or (), strict=True))
        rows = [row for row in plan(people, bank, 6000, 0, draw="camera-aware") if row.camid == 1]
        counts = Counter(camera[row.target] for row in rows)
        assert set(counts) == {0, 2} and abs(counts[0] - 3000) < 5 * (6000 / 4) ** 0.5
        poses = Counter(row.target for row in rows if camera[row.target] == 0)
        assert len(poses) == 8 and all(abs(n - counts[0] / 8) < 5 * (counts[0] * 7 / 64) ** 0.5 for n in poses.values())

    @settings(max_examples=40, deadline=None)
    @given(st.lists(st.integers(0, 5), min_size=2, max_size=12), st.integers(0, 2**32))
    def test_never_the_sources_camera(self, camids: list[int], seed: int) -> None:
        people = [PersonImage(f"{i}.jpg", i % 3, camid, "train", body("front")) for i, camid in enumerate(camids)]
        bank = PoseBank.collect(people, (64, 32))
        if len(set(camids)) == 1:
            with pytest.raises(ValueError, match=f"camera {camids[0]} saw all {len(camids)} of the bank"):
                plan(people, bank, 2, seed, draw="camera-aware")
            return
        camera = dict(zip(bank.names, bank.camids or (), strict=True))
        assert all(camera[row.target] != row.camid for row in plan(people, bank, 2, seed, draw="camera-aware"))

    def test_a_bank_without_cameras_is_refused_early(self, train: list[PersonImage], bank: PoseBank, checkpoint: Path) -> None:
        with pytest.raises(ValueError, match="needs the bank's cameras"):
            plan(train, replace(bank, camids=None), 1, 0, draw="camera-aware")
        with pytest.raises(ValueError, match="needs the bank's cameras"):
            Augmenter(generators.load(checkpoint), replace(bank, camids=None), draw="camera-aware")

    def test_the_bank_keeps_cameras(self, train: list[PersonImage], bank: PoseBank) -> None:
        of = {p.name: p.camid for p in train}
        assert bank.camids == tuple(of[name] for name in bank.names)
        assert bank.thin(4).camids == tuple(of[name] for name in bank.thin(4).names)
        with pytest.raises(ValueError, match=f"a camera for each of its {len(bank)} poses or none, got 1"):
            replace(bank, camids=(0,))


class TestOfView:
    @pytest.mark.parametrize("side", VIEWS)
    def test_uniform_over_the_poses_of_that_side(self, side: str) -> None:
        people = world({1: ["front", "right", "back", "left"], 2: ["front", "right", "back", "left", "front"]})
        bank = PoseBank.collect(people, (64, 32))
        wanted = {name for name, seen in zip(bank.names, view(bank.pose).tolist(), strict=True) if VIEWS[seen] == side}
        counts = Counter(row.target for row in plan(people, bank, 200, 0, draw=f"view-{side}"))
        total = 200 * len(people)
        assert set(counts) == wanted and all(abs(n - total / len(wanted)) < 5 * total**0.5 for n in counts.values())

    def test_a_bank_without_that_side_is_refused(self) -> None:
        people = world({1: ["front", "front"]})
        with pytest.raises(ValueError, match="draw=view-back needs poses of that side, of which the bank of 2 poses has none"):
            plan(people, PoseBank.collect(people, (64, 32)), 1, 0, draw="view-back")

    def test_online_as_well(self, bank: PoseBank) -> None:
        sides = [VIEWS[seen] for seen in view(bank.pose).tolist()]
        draw = PoseDrawer({None: bank}, 1.0, 0, f"view-{sides[0]}").draw(bank.pose)
        assert len(draw.targets) == len(bank) and {sides[i] for i in draw.targets} == {sides[0]}
        assert len(set(draw.targets)) > 1 or sides.count(sides[0]) == 1


class TestNovel:
    def test_only_poses_as_far_as_the_gate_measures(self, train: list[PersonImage], bank: PoseBank) -> None:
        every = [SyntheticRow(f"{pid} {name}", "", name, pid, 0, 0) for pid in {p.pid for p in train} for name in bank.names]
        novelty = {(row.pid, row.target): by for row, by in zip(every, pose_novelty(every, train, bank), strict=True)}
        far = defaultdict(set)
        for (pid, name), by in novelty.items():
            if by >= 0.2:
                far[pid].add(name)
        drawn = defaultdict(set)
        for row in plan(train, bank, 60, 0, draw="novel-0.2"):
            drawn[row.pid].add(row.target)
        assert any(len(names) >= 8 for names in far.values())
        for pid, names in drawn.items():
            farthest = sorted(bank.names, key=lambda name: -novelty[pid, name])[:8]
            assert names == (far[pid] if len(far[pid]) >= 8 else set(farthest))

    def test_without_any_the_farthest_eight(self, train: list[PersonImage], bank: PoseBank) -> None:
        rows = plan(train, bank, 40, 0, draw="novel-99")
        drawn = defaultdict(set)
        for row in rows:
            drawn[row.pid].add(row.target)
        assert all(len(names) == 8 for names in drawn.values())
        assert [r.target for r in plan(train, bank, 2, 0, draw="novel")] == [r.target for r in plan(train, bank, 2, 0, draw="novel-0.3")]

    def test_a_bank_without_any_torso_is_refused(self) -> None:
        pose = Pose(torch.rand(7, 2) * 30, torch.zeros(7, dtype=torch.bool), upper_7, (64, 32))
        bank = PoseBank(("a",), pose[None])
        with pytest.raises(ValueError, match="both shoulders and both hips, which no pose of the bank of 1 shows"):
            plan(world({1: ["front"]}), bank, 1, 0, draw="novel")


def test_compatible_draws_no_mirrored_pose_of_the_identity(train: list[PersonImage], bank: PoseBank) -> None:
    pids = {p.name: p.pid for p in train}
    rows = plan(train, bank.with_mirrored(), 20, 0, draw="compatible-9")
    assert any(row.target.endswith("#mirrored") for row in rows)
    assert all(pids[row.target.removesuffix("#mirrored")] != row.pid for row in rows)


def test_an_unknown_name_is_refused_with_the_nearest(train: list[PersonImage], bank: PoseBank, checkpoint: Path) -> None:
    there_are = "whole, missing-views, canonical, camera-aware, compatible, novel, view-front, view-right, view-back, view-left, recombined"
    said = rf"poses named 'canonicl'; there are {there_are} \(did you mean 'canonical'\?\)"
    with pytest.raises(ValueError, match=said):
        plan(train, bank, 1, 0, draw="canonicl")
    with pytest.raises(ValueError, match=said):
        Augmenter(generators.load(checkpoint), bank, draw="canonicl")
    with pytest.raises(ValueError, match=said):
        load_config(DumpConfig, None, ["checkpoint=a", "data.root=b", "out=c", "draw=canonicl"])
    assert load_config(DumpConfig, None, ["checkpoint=a", "data.root=b", "out=c", "draw=canonical"]).draw == "canonical"


def test_bits_are_spread(bank: PoseBank) -> None:
    counts = np.bincount([hash64(0, f"{i}.jpg", 0) % 7 for i in range(7000)])
    assert np.abs(counts - 1000).max() < 5 * (7000 * 6 / 49) ** 0.5
