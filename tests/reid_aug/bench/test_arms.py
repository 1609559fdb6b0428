"""Arms: their names, and what they train on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_aug import PoseBank, images
from reid_aug.bench.arms import Cut, Oracle, origin_and_variants, render_arm, training_set
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.manifest import SyntheticRow


def test_an_arms_name_says_its_variants() -> None:
    assert origin_and_variants("pg2+gated+erasing") == ("pg2", ["gated", "erasing"])
    assert origin_and_variants("grey-patch+erasing") == ("none", ["grey-patch", "erasing"])
    assert origin_and_variants("erasing") == ("none", ["erasing"]) and origin_and_variants("none") == ("none", [])


def test_copies_repeat_the_sources_of_the_other_arms() -> None:
    people = [PersonImage(f"{i}.jpg", pid, 0, "train") for i, pid in enumerate((5, 5, 9))]
    real = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    rows = [SyntheticRow("x", "2.jpg", "t", 9, 0, 0), SyntheticRow("y", "0.jpg", "t", 5, 0, 0)]
    copies = training_set("copies", people, real, rows, None)
    assert copies.images[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 0] and copies.labels.tolist() == [0, 0, 1, 1, 0]
    synthetic = training_set("pg2", people, real, rows, torch.full((2, 3, 2, 2), 7, dtype=torch.uint8))
    assert synthetic.images[:, 0, 0, 0].tolist() == [0, 1, 2, 7, 7] and synthetic.labels.tolist() == [0, 0, 1, 1, 0]


def test_separate_classes() -> None:
    people = [PersonImage(f"{i}.jpg", pid, 0, "train") for i, pid in enumerate((5, 5, 9, 12))]
    real = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    rows = [SyntheticRow("x", "2.jpg", "t", 9, 0, 0), SyntheticRow("y", "0.jpg", "t", 5, 0, 0)]
    data = training_set("pg2", people, real, rows, torch.ones(2, 3, 2, 2, dtype=torch.uint8), separate=True)
    assert data.labels.tolist() == [0, 0, 1, 2, 4, 3] and data.classes == 5
    assert data.source is not None and data.source.tolist() == [-1, -1, -1, -1, 2, 0]
    assert not training_set("copies", people, real, rows, None).synthetic.any(), "a copy is a real image"


def test_new_people_have_classes_after_all_others_and_stand_in_for_the_image_whose_upper_body_they_have() -> None:
    people = [PersonImage(f"{i}.jpg", pid, 0, "train") for i, pid in enumerate((5, 5, 9, 12))]
    real = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    rows = [SyntheticRow("x", "2.jpg", "3.jpg", 14, 0, 0), SyntheticRow("y", "2.jpg", "1.jpg", 13, 0, 0)]
    data = training_set("pg2", people, real, rows, torch.ones(2, 3, 2, 2, dtype=torch.uint8))
    assert data.labels.tolist() == [0, 0, 1, 2, 4, 3] and data.classes == 5
    assert data.source is not None and data.source.tolist() == [-1, -1, -1, -1, 3, 1]


def test_copies_recombined_are_cut_at_the_hips_and_joined(people: list[PersonImage], tmp_path: Path) -> None:
    train = [p for p in people if p.split == "train"]
    bank, at = PoseBank.collect(train, (32, 16)), {p.name: p for p in train}
    manifest = render_arm("copies", train, bank, tmp_path, per_image=1, seed=0, draw="recombined")
    assert manifest.rows == tuple(replace(row, bytes=made.bytes, sha256=made.sha256) for row, made in
                                  zip(plan(train, bank, 1, 0, draw="recombined"), manifest.rows, strict=True))  # fmt: skip
    for row, image in Cut(bank, 1, 0).render(manifest.rows[::5], train):
        upper, legs = (images.read(at[name].path, (32, 16)) for name in (row.target, row.source))
        pose, other = at[row.target].pose, at[row.source].pose
        assert pose is not None and other is not None
        hips, others = (round(float(p.xy[[8, 11], 1].mean())) for p in (pose, other))
        assert np.array_equal(image[:hips], upper[:hips]) and np.array_equal(image[hips : hips + 4], legs[others : others + 4])


@pytest.mark.parametrize("scene", [False, True])
def test_the_oracle_in_either_place(rendered: RenderedSet, people: list[PersonImage], tmp_path: Path, scene: bool) -> None:
    train = [p for p in people if p.split == "train"]
    bank = PoseBank.collect(train, (32, 16))
    manifest = render_arm("oracle", train, bank, tmp_path, per_image=1, seed=0, rendered=rendered, scene=scene)
    assert [row.target for row in manifest.rows] == [row.target for row in plan(train, bank, 1, 0)]
    assert manifest.made_by.get("scene", False) == manifest.in_scenes == scene and ("scene" in manifest.made_by) == scene
    for row, image in Oracle(rendered, bank, 1, 0, scene=scene).render(manifest.rows[::7], people):
        assert np.array_equal(image, rendered.true_image(row.source, row.target, scene=scene).image)
