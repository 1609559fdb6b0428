"""Refusing an unknown choice: all there are, what was given, and the nearest."""

from __future__ import annotations

from typing import Any

import pytest

from generators import create, names, nearest, one_of


@pytest.mark.parametrize(
    ("word", "hint"),
    [("pg3", " (did you mean 'pg2'?)"), ("deform", " (did you mean 'deformable'?)"), ("zzzz", ""), ("", "")],
)
def test_the_nearest_word_is_a_hint_where_one_is_near(word: str, hint: str) -> None:
    assert nearest(word, ["deformable", "pg2", "vdg"]) == hint
    assert nearest(word, []) == ""


@pytest.mark.parametrize(
    ("value", "allowed", "complaint"),
    [
        ("mask-l2", ("l1", "mask-l1"), "a loss is one of l1, mask-l1, got 'mask-l2' (did you mean 'mask-l1'?)"),
        ("zzz", {"l1": 1, "l2": 2}, "a loss is one of l1, l2, got 'zzz'"),
        (3, (1, 2), "a loss is one of 1, 2, got 3"),
        ("1", (1, 2), "a loss is one of 1, 2, got '1'"),
        (None, ("l1",), "a loss is one of l1, got None"),
        (["l1"], ("l1",), "a loss is one of l1, got ['l1']"),
    ],
)
def test_an_unknown_choice_is_told_with_those_there_are(value: Any, allowed: Any, complaint: str) -> None:
    with pytest.raises(ValueError) as caught:
        one_of("a loss", value, allowed)
    assert str(caught.value) == complaint


def test_a_choice_there_is_passes() -> None:
    one_of("a loss", "l1", ("l1", "l2"))
    one_of("a count", 2, iter((1, 2)))


@pytest.mark.parametrize(
    ("name", "option", "value", "complaint"),
    [
        ("pg2", "stages", "G1+G2+d", "pg2's stages is one of G1+G2+D, G1+D, G1, got 'G1+G2+d' (did you mean 'G1+G2+D'?)"),
        ("vdg", "loss", "mask-ssm", "vdg's loss is one of l1, mask-l1, mask-ssim, weighted, got 'mask-ssm' (did you mean 'mask-ssim'?)"),
        ("deformable", "skips", "deform", "deformable's skips is one of deformable, baseline, got 'deform' (did you mean 'deformable'?)"),
        ("momi", "training_pose", "teached", "momi's training_pose is one of detected, teacher, got 'teached' (did you mean 'teacher'?)"),
        ("posewarp", "skeleton", "mpii_15", "posewarp's skeleton is one of mpii_14, upper_7, got 'mpii_15' (did you mean 'mpii_14'?)"),
    ],
)
def test_generators_refuse_their_options_so(name: str, option: str, value: str, complaint: str) -> None:
    assert name in names()
    with pytest.raises(ValueError) as caught:
        create(name, **{option: value})
    assert str(caught.value) == complaint
