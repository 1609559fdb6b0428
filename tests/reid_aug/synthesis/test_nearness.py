"""Poses near in view: the distance, who is near, and drawing target poses by it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from scipy.spatial.distance import cdist

import generators
from generators import Pose, coco_17, convert, openpose_18, rescale, upper_7, view_descriptor
from reid_aug import Augmenter, PoseBank
from reid_aug.config import load as load_config
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.dump import DumpConfig
from reid_aug.synthesis.gates import pose_novelty
from reid_aug.synthesis.nearness import FEWEST, distances, near, tolerance_of, views_of
from reid_aug.synthesis.target_poses import draw_for

SIZE = (32, 16)


def body(half_width: float, height: float = 20.0) -> Pose:
    """Somebody in a 64 × 32 image, shoulders and hips as wide: negative from behind."""
    xy, seen = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
    for joint, at in {"r_shoulder": (16 - half_width, 15), "l_shoulder": (16 + half_width, 15),
                      "r_hip": (16 - half_width, 15 + height), "l_hip": (16 + half_width, 15 + height)}.items():  # fmt: skip
        xy[openpose_18.index(joint)], seen[openpose_18.index(joint)] = torch.tensor(at), True
    return Pose(xy, seen, openpose_18, (64, 32))


def crowd(half_widths: list[float], per_identity: int = 1) -> list[PersonImage]:
    return [PersonImage(f"{i:03d}.jpg", i // per_identity, 0, "train", body(width)) for i, width in enumerate(half_widths)]


class TestNames:
    @pytest.mark.parametrize(("draw", "tolerance"), [
        ("compatible", 0.5), ("compatible-0.3", 0.3), ("compatible-2", 2.0), ("compatible-0", 0.0),
        ("compatible-", None), ("compatible-x", None), ("compatible-.5", None), ("compatible--1", None), ("compatible-1e3", None),
        ("incompatible", None), ("whole", None), ("canonical-8", None),
    ])  # fmt: skip
    def test_a_name_may_set_the_tolerance(self, draw: str, tolerance: float | None, train: list[PersonImage], bank: PoseBank) -> None:
        assert tolerance_of(draw) == tolerance
        if tolerance is None and draw not in ("whole", "canonical-8"):
            with pytest.raises(ValueError, match=f"no way of drawing poses named '{draw}'"):
                plan(train, bank, 1, 0, draw=draw)

    def test_a_generators_own_way(self, bank: PoseBank, checkpoint: Path) -> None:
        still, moving = generators.load(checkpoint), CopiesScene(SIZE)
        assert draw_for(still, None) == "whole" and draw_for(moving, None) == "compatible"
        assert draw_for(still, "compatible") == "compatible" and draw_for(moving, "whole") == "whole"
        with pytest.raises(ValueError, match="no way of drawing poses named 'near'"):
            draw_for(still, "near")
        assert "draw" not in Augmenter(still, bank).made_by and Augmenter(still, bank).draw == "whole"
        assert Augmenter(moving, bank).made_by["draw"] == "compatible" and "draw" not in Augmenter(moving, bank, draw="whole").made_by
        given = ["checkpoint=a", "data.root=b", "out=c"]
        assert load_config(DumpConfig, None, given).draw is None
        assert load_config(DumpConfig, None, [*given, "draw=whole"]).draw == "whole"


class TestNear:
    def test_distances_are_scipys(self) -> None:
        rng = np.random.default_rng(0)
        view, others = rng.normal(size=4), rng.normal(size=(50, 4))
        expected = cdist(view[None], others)[0]
        for order in (others, np.asfortranarray(others)):
            np.testing.assert_allclose(distances(view, order), expected, rtol=1e-14)

    def test_within_or_else_the_nearest(self) -> None:
        distance = np.array([0.9, 0.5, np.nan, 0.2, np.inf, 0.9, 0.1])
        assert near(distance, 0.5, fewest=3).tolist() == [1, 3, 6], "as far as the tolerance is within it"
        assert near(distance, 0.5, fewest=4).tolist() == [0, 1, 3, 6], "the first of two that are as far"
        assert near(distance, 0.0, fewest=2).tolist() == [3, 6]
        assert near(distance, 9.0, fewest=9).tolist() == [0, 1, 3, 5, 6], "never who can't be compared"
        assert near(np.array([np.nan, np.inf]), 9.0).tolist() == []

    def test_a_bank_without_torsos_is_refused(self) -> None:
        pose = Pose(torch.rand(3, 7, 2) * 30, torch.ones(3, 7, dtype=torch.bool), upper_7, (64, 32))
        with pytest.raises(ValueError, match=r"goes by shoulders and hips, which no pose of the bank \(upper_7\) shows"):
            views_of(PoseBank(("a", "b", "c"), pose))


class TestCompatible:
    @pytest.mark.parametrize("draw", ["compatible", "compatible-0.2", "compatible-1.5"])
    def test_who_is_drawn_by_a_table_of_all_distances(self, train: list[PersonImage], bank: PoseBank, draw: str) -> None:
        tolerance, views = tolerance_of(draw), view_descriptor(bank.pose).numpy()
        assert tolerance is not None
        table, pids = cdist(views, views), np.array([p.pid for p in sorted(train, key=lambda p: p.name)])
        drawn: dict[str, set[str]] = {name: set() for name in bank.names}
        for row in plan(train, bank, 150, 0, draw=draw):
            drawn[row.source].add(row.target)
        few = 0
        for i, name in enumerate(bank.names):
            others = np.flatnonzero(pids != pids[i])
            wanted = [j for j in others if table[i, j] <= tolerance]
            few += len(wanted) < FEWEST
            if len(wanted) < FEWEST:
                wanted = others[np.argsort(table[i, others])[:FEWEST]].tolist()
            assert drawn[name] == {bank.names[j] for j in wanted}  # 150 draws from at most twenty
        assert draw != "compatible-1.5" or 0 < few < len(bank), "both rules were tried"

    def test_uniform_over_those_near(self) -> None:
        """Ten seen alike, ten from behind: 2 · 12 / 20 of shoulders and 12 / 20 of hips to each side are 2.7 apart."""
        people = crowd([6.0] * 10 + [-6.0] * 10)
        rows = [row for row in plan(people, PoseBank.collect(people, (64, 32)), 500, 0, draw="compatible") if int(row.source[:3]) < 10]
        counts = Counter(row.target for row in rows)
        assert set(counts) == {p.name for p in people[:10]} and all(row.source != row.target for row in rows)
        assert all(abs(n - 500) < 5 * (5000 * 9 / 100) ** 0.5 for n in counts.values())

    def test_nobody_gets_a_pose_of_their_own(self) -> None:
        people = crowd([6.0] * 12, per_identity=2)
        rows = plan(people, PoseBank.collect(people, (64, 32)), 40, 0, draw="compatible-0")
        assert all(int(row.target[:3]) // 2 != row.pid for row in rows) and len({row.target for row in rows if row.pid == 0}) == 10

    def test_poses_of_a_bank_from_elsewhere_are_anybodys(self) -> None:
        people, elsewhere = crowd([6.0] * 2, per_identity=2), PoseBank(("x", "y"), Pose.stack([body(6.0), body(5.9)]))
        assert {row.target for row in plan(people, elsewhere, 20, 0, draw="compatible")} == {"x", "y"}
        with pytest.raises(ValueError, match=r"draws other people's poses, and the bank of 2 has none of them for 000\.jpg"):
            plan(people, PoseBank.collect(people, (64, 32)), 1, 0, draw="compatible")

    def test_poses_of_a_bank_that_show_no_torso_are_left_out(self) -> None:
        people = crowd([6.0] * 12)
        bank = PoseBank.collect(people, (64, 32))
        visible = bank.pose.visible.clone()
        visible[::2, openpose_18.index("l_hip")] = False
        rows = plan(people, replace(bank, pose=replace(bank.pose, visible=visible)), 30, 0, draw="compatible-900")
        assert {row.target for row in rows} == set(bank.names[1::2])

    def test_size_counts_in_view_but_not_the_images(self) -> None:
        people = [PersonImage(f"{i:03d}.jpg", i, 0, "train", body(6.0 * k, 20.0 * k)) for i, k in enumerate([1.0] * 9 + [0.4] * 9)]
        bank = PoseBank.collect(people, (64, 32))
        rows = plan(people, bank, 20, 0, draw="compatible")
        assert all((int(row.source[:3]) < 9) == (int(row.target[:3]) < 9) for row in rows), "log 0.4 is 0.92 away"
        larger = [replace(p, pose=rescale(p.pose, (128, 96))) for p in people if p.pose is not None]
        targets = [row.target for row in rows]
        assert [row.target for row in plan(larger, bank, 20, 0, draw="compatible")] == targets
        mixed = [replace(p, pose=convert(p.pose, coco_17)) if i % 2 and p.pose is not None else p for i, p in enumerate(larger)]
        assert [row.target for row in plan(mixed, bank, 20, 0, draw="compatible")] == targets

    def test_rows_say_how_novel_their_pose_is(self, train: list[PersonImage], bank: PoseBank) -> None:
        rows = plan(train, bank, 2, 0, draw="compatible")
        assert [row.pose_novelty for row in rows] == pose_novelty(rows, train, bank).tolist() and min(r.pose_novelty or 0 for r in rows) > 0
        assert {row.pose_novelty for row in plan(train, bank, 2, 0)} == {None}
