"""Pose banks by what options call them: a file of `reid-aug bank`, or one of the presets."""

from __future__ import annotations

import os
from typing import Annotated

from pydantic import AfterValidator

from generators import no_such
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.bank_file import SUFFIX
from reid_aug.synthesis.canonical import CANONICAL, canonical

SHAPES = 1.5  # how many times as tall or wide for its size an image may be that poses of another are taken for


def is_named(what: str) -> bool:
    """Tell whether a name is that of a bank: a preset's, or a .safetensors file's.

    >>> is_named("canonical-8"), is_named("bank.safetensors"), is_named("poses")
    (True, True, False)
    """
    return what in CANONICAL or what.lower().endswith(SUFFIX)


def check_named(what: str) -> str:
    """Return the name of a bank; ValueError says what there is."""
    if not is_named(what):
        raise ValueError(f"{no_such('pose bank', what, CANONICAL)}, or a {SUFFIX} file of `reid-aug bank ROOT --out FILE`")
    return what


BankName = Annotated[str, AfterValidator(check_named)]


def named_bank(what: str | os.PathLike[str], size: tuple[int, int] | None = None) -> PoseBank:
    """Open the bank of a preset or a file, for images of `size` (H, W), by default its own.

    ValueError for images of quite another shape than the bank's: their bodies would be squeezed.
    """
    name = check_named(os.fspath(what))
    bank = canonical(name) if name in CANONICAL else PoseBank.load(name)
    if size is None:
        return bank
    (height, width), (other_height, other_width) = bank.pose.size, size
    if not 1 / SHAPES < (height / width) / (other_height / other_width) < SHAPES:
        rule = "squeezed into images of another shape they would be no bodies"
        raise ValueError(f"{name} has poses of {height} × {width} images, {other_height} × {other_width} are wanted: {rule}")
    return bank.at(size)
