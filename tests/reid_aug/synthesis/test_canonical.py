"""The presets of canonical poses: what ships is what the function makes."""

from __future__ import annotations

import numpy as np
import pytest

from reid_aug.data.body import VIEWS, valid_for_pairs, view
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank_choice import choose
from reid_aug.synthesis.bank_named import named_bank
from reid_aug.synthesis.canonical import CANONICAL, _shipped, canonical, make


def test_the_file_holds_what_is_made() -> None:
    made, shipped = make(), _shipped()
    assert list(made) == list(shipped) == list(CANONICAL)
    for name in CANONICAL:
        numbers, others = (np.array([[joint or [-1, -1] for joint in pose] for pose in poses[name]]) for poses in (made, shipped))
        np.testing.assert_allclose(numbers, others, atol=0.011)  # hundredths of a pixel, rounded


@pytest.mark.parametrize("name", CANONICAL)
def test_bodies_from_all_sides(name: str) -> None:
    bank = canonical(name)
    assert len(bank) == int(name.rpartition("-")[2]) and bank.pose.size == (128, 64) and bank.paths is None and bank.camids is None
    sides = [VIEWS[seen] for seen in view(bank.pose).tolist()]
    assert set(sides) == set(VIEWS) and [n.rpartition("-")[2] for n in bank.names] == sides
    assert bool(valid_for_pairs(bank.pose).all())
    assert choose([PersonImage(n, 0, 0, "train", pose) for n, pose in zip(bank.names, bank.pose, strict=True)]).counts == {}  # type: ignore[call-overload]
    assert named_bank(name, (256, 128)).pose.size == (256, 128)
