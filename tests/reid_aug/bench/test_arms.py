"""Arms: their names, and what they train on."""

from __future__ import annotations

import torch

from reid_aug.bench.arms import origin_and_variants, training_set
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.manifest import SyntheticRow


def test_an_arms_name_says_its_variants() -> None:
    assert origin_and_variants("pg2+gated+erasing") == ("pg2", ["gated", "erasing"])
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
