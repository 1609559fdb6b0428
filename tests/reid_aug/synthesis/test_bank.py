"""The pose bank."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from reid_aug import PoseBank
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.people import PersonImage

SIZE = (32, 16)


def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


class TestBank:
    def test_holds_every_usable_pose_whatever_the_order(self, people: list[PersonImage]) -> None:
        usable = [p for p in train(people) if p.pose is not None and bool(valid_for_pairs(p.pose))]
        bank = PoseBank.collect(train(people), SIZE)
        assert set(bank.names) == {p.name for p in usable}
        shuffled = random.Random(0).sample(people, len(people))
        assert PoseBank.collect(train(shuffled), SIZE).digest == bank.digest

    def test_poses_are_brought_to_size(self, people: list[PersonImage]) -> None:
        small, large = PoseBank.collect(train(people), SIZE), PoseBank.collect(train(people), (64, 32))
        seen = small.pose.visible[..., None]
        torch.testing.assert_close(large.pose.xy, torch.where(seen, (small.pose.xy + 0.5) * 2 - 0.5, 0))

    def test_empty_is_refused(self, people: list[PersonImage]) -> None:
        with pytest.raises(ValueError, match="no image has a pose"):
            PoseBank.collect([replace(p, pose=None) for p in people], SIZE)

    def test_digest_sees_one_joint(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        moved = bank.pose.xy.clone()
        moved[0, 2, 0] += 1
        assert replace(bank, pose=replace(bank.pose, xy=moved)).digest != bank.digest

    def test_draw_is_uniform_and_repeats(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        drawn = bank.sample(20_000, seed=1)
        assert np.array_equal(drawn, bank.sample(20_000, seed=1))
        counts = np.bincount(drawn, minlength=len(bank))
        assert abs(counts - 20_000 / len(bank)).max() < 6 * np.sqrt(20_000 / len(bank))

    def test_thin_keeps_typical_poses(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        thin = bank.thin(4)
        assert 1 <= len(thin) <= 4 and set(thin.names) <= set(bank.names)
        assert PoseBank.collect(train(people), SIZE).thin(4).digest == thin.digest
        with pytest.raises(ValueError, match=rf"1\.\.{len(bank)}, got 0"):
            bank.thin(0)
