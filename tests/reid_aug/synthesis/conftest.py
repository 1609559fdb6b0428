"""What tests of synthesis share: an augmenter of an untrained PG2."""

from __future__ import annotations

from pathlib import Path

import pytest

import generators
from reid_aug import Augmenter, PersonImage, PoseBank


@pytest.fixture
def augmenter(people: list[PersonImage], checkpoint: Path) -> Augmenter:
    """Two poses for each of the training images."""
    train = [p for p in people if p.split == "train"]
    return Augmenter(generators.load(checkpoint), PoseBank.collect(train, (32, 16)), per_image=2, seed=3, batch_size=5)
