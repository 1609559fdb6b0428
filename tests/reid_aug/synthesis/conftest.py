"""What tests of synthesis share: the training images, the bank of their poses, an augmenter of an untrained PG2."""

from __future__ import annotations

from pathlib import Path

import pytest

import generators
from reid_aug import Augmenter, PersonImage, PoseBank


@pytest.fixture
def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


@pytest.fixture
def bank(train: list[PersonImage]) -> PoseBank:
    return PoseBank.collect(train, (32, 16))


@pytest.fixture
def augmenter(bank: PoseBank, checkpoint: Path) -> Augmenter:
    """Two poses for each of the training images."""
    return Augmenter(generators.load(checkpoint), bank, per_image=2, seed=3, batch_size=5)
