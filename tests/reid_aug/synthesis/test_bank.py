"""The pose bank."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_aug import PoseBank, images
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.people import PersonImage, tell_apart

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

    def test_two_poses_of_one_name_are_refused(self, people: list[PersonImage]) -> None:
        """Which of them a target is, nobody could tell."""
        twins = [replace(p, alias="0.png") for p in people[:2]]
        with pytest.raises(ValueError, match="got '0.png' twice: images that share a name need an alias of their own"):
            PoseBank.collect(twins, SIZE)
        assert len(PoseBank.collect(tell_apart(people[:2]), SIZE)) == 2

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


class TestScenes:
    def test_the_images_that_poses_came_from(self, people: list[PersonImage]) -> None:
        bank, of = PoseBank.collect(train(people), SIZE), {p.name: p.path for p in train(people)}
        scenes = bank.scenes([3, 0, 3], (64, 24))
        assert scenes.dtype == torch.uint8 and scenes.shape == (3, 3, 64, 24)
        for scene, row in zip(scenes, (3, 0, 3), strict=True):
            assert np.array_equal(scene.permute(1, 2, 0), images.read(of[bank.names[row]], (64, 24)))

    @pytest.mark.parametrize("part", ["pick", "thin"])
    def test_parts_of_a_bank_keep_them(self, people: list[PersonImage], part: str) -> None:
        bank, of = PoseBank.collect(train(people), SIZE), {p.name: p.path for p in train(people)}
        kept = bank.pick([5, 2]) if part == "pick" else bank.thin(3)
        assert kept.paths == tuple(of[name] for name in kept.names)

    def test_the_digest_is_of_contents(self, people: list[PersonImage], tmp_path: Path) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        assert bank.paths is not None
        copies = []
        for i, path in enumerate(bank.paths):
            copies.append(tmp_path / f"{i}.jpg")
            copies[-1].write_bytes(Path(path).read_bytes())
        moved = replace(bank, paths=tuple(map(str, copies)))
        assert moved.scenes_digest == bank.scenes_digest, "not of where they lie"
        copies[4].write_bytes(copies[4].read_bytes() + b" ")
        assert moved.scenes_digest == bank.scenes_digest, "files are read once"
        changed = replace(moved, paths=moved.paths)
        assert changed.scenes_digest != bank.scenes_digest
        assert replace(bank, paths=bank.paths[::-1]).scenes_digest != bank.scenes_digest, "whose image is whose counts"
        assert changed.digest == bank.digest == replace(bank, paths=None).digest, "a pose is a pose in any place"

    def test_a_bank_without_images_says_so(self, people: list[PersonImage]) -> None:
        bank = replace(PoseBank.collect(train(people), SIZE), paths=None)
        says = rf"does not know the images its {len(bank)} poses came from: make it with PoseBank\.collect"
        for use in (lambda: bank.scenes([0], SIZE), lambda: bank.scenes_digest):
            with pytest.raises(ValueError, match=says):
                use()
        with pytest.raises(ValueError, match=f"an image for each of its {len(bank)} poses or none, got 1"):
            replace(bank, paths=("a.jpg",))
