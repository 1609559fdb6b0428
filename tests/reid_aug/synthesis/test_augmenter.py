"""Planning what to render, and rendering it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene

import generators
from reid_aug import Augmenter, PoseBank, images
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.augmenter import plan, render

SIZE = (32, 16)


def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


class TestPlan:
    def test_neither_order_nor_sharding_changes_a_row(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = {row.path: row for row in augmenter.plan(train(people))}
        backwards = {row.path: row for row in augmenter.plan(train(people)[::-1])}
        shard = {row.path: row for row in augmenter.plan(train(people)[::3])}
        assert rows == backwards
        assert shard and all(rows[path] == row for path, row in shard.items())

    def test_every_usable_image_gets_per_image_rows_of_its_identity(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = augmenter.plan(train(people))
        by_name = {p.name: p for p in train(people)}
        assert len(rows) == 2 * len(augmenter.bank)
        for row in rows:
            assert (row.pid, row.camid) == (by_name[row.source].pid, by_name[row.source].camid)
            assert row.target in augmenter.bank.names
        assert len({row.target for row in rows}) > len(augmenter.bank) / 3

    def test_seed_changes_targets(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        one, other = (plan(train(people), augmenter.bank, 2, seed) for seed in (0, 1))
        assert [r.path for r in one] == [r.path for r in other]
        assert [r.target for r in one] != [r.target for r in other]

    def test_test_images_are_refused(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        with pytest.raises(ValueError, match="only training images may be augmented, got .* of query"):
            augmenter.plan([p for p in people if p.split == "query"])

    def test_equal_names_are_refused(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        twice = [train(people)[0], replace(train(people)[0], path=f"elsewhere/{train(people)[0].name}")]
        with pytest.raises(ValueError, match="two training images are named"):
            augmenter.plan(twice)  # nobody told them apart


class TestRender:
    def test_images_are_what_the_generator_draws(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = augmenter.plan(train(people))
        drawn = list(augmenter.render(rows, people))
        assert [row for row, _ in drawn] == rows
        row, image = drawn[7]  # in the second batch of five
        source = next(p for p in people if p.name == row.source)
        pixels = images.to_float(torch.from_numpy(images.read(source.path)).permute(2, 0, 1)[None])
        assert source.pose is not None
        target = augmenter.bank.pose[[augmenter.bank.names.index(row.target)]]
        with torch.inference_mode():
            alone = augmenter.generator(pixels, source.pose[None], target)  # type: ignore[index]
        wanted = images.to_uint8(alone)[0].permute(1, 2, 0).numpy()
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - wanted.astype(int)).max() <= 1  # batched sums may round differently

    def test_a_bank_of_another_size_is_refused(self, people: list[PersonImage], checkpoint: Path) -> None:
        with pytest.raises(ValueError, match=r"renders images of \(32, 16\), the bank's poses are of \(64, 32\)"):
            Augmenter(generators.load(checkpoint), PoseBank.collect(train(people), (64, 32)))


def test_options_that_are_no_weights_make_another_plan(people: list[PersonImage], checkpoint: Path) -> None:
    bank = PoseBank.collect(train(people), SIZE)
    one, other = (generators.create("pg2", size=SIZE, width=4, radius_px=radius) for radius in (4.0, 1.0))
    other.load_state_dict(one.state_dict())
    assert Augmenter(one, bank).made_by != Augmenter(other, bank).made_by


class TestScenes:
    def test_each_is_rendered_in_its_targets_scene(self, people: list[PersonImage]) -> None:
        bank, of = PoseBank.collect(train(people), SIZE), {p.name: p.path for p in people}
        augmenter = Augmenter(CopiesScene(SIZE), bank, 2, batch_size=5, device="cpu")
        rows = augmenter.plan(train(people))
        for row, image in augmenter.render(rows, people):
            assert np.array_equal(image, images.read(of[row.target])), "to the last bit, through [−1, 1]"
        plain = Augmenter(CopiesScene(SIZE), replace(bank, paths=None), 2, device="cpu")
        assert plain.plan(train(people)) == rows
        for row, image in plain.render(rows, people):
            assert np.array_equal(image, images.read(of[row.source])), "the bank knows none"

    def test_what_made_them_says_which_scenes(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        bank = augmenter.bank
        assert bank.paths is not None and not {"scenes", "scenes_digest"} & augmenter.made_by.keys(), "PG2 takes none"
        made_by = Augmenter(CopiesScene(SIZE), bank).made_by
        assert made_by["scenes_digest"] == bank.scenes_digest and "scenes" not in made_by
        none = Augmenter(CopiesScene(SIZE), replace(bank, paths=None)).made_by
        assert none["scenes"] == "none" and "scenes_digest" not in none
        (tmp_path / "other.jpg").write_bytes(Path(bank.paths[0]).read_bytes() + b" ")
        other = replace(bank, paths=(str(tmp_path / "other.jpg"), *bank.paths[1:]))
        assert Augmenter(CopiesScene(SIZE), other).made_by != made_by and other.digest == bank.digest

    def test_a_scene_for_who_takes_none_is_refused(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        source = torch.zeros(1, 3, *SIZE)
        with pytest.raises(ValueError, match="PG2 takes no scene"):
            render(augmenter.generator, source, augmenter.bank.pose[[0]], augmenter.bank.pose[[1]], source)
