"""What was there and is not used: files, rows and people left out, each with the reason, so that none goes without a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from reid_aug.data.doubts import Doubt, first_few, report


@dataclass(frozen=True)
class LeftOut:
    """A file, row or image that is not used: its name, and why, in words that go on after "12 of 60 images left out: "."""

    name: str
    why: str
    expected: bool = False  # Whether the layout's own rule leaves it out, such as Market-1501's junk: listed, not warned of.


def reasons(left_out: Iterable[LeftOut]) -> Iterator[str]:
    """Yield how many were left out for each reason, and the first of them, in the order of the first; what is expected is passed over.

    >>> list(reasons([LeftOut("a.gif", "no image suffix"), LeftOut("-1_c1.jpg", "junk", True), LeftOut("b.gif", "no image suffix")]))
    ['2 no image suffix (a.gif, b.gif)']
    """
    names: dict[str, list[str]] = {}
    for one in left_out:
        if not one.expected:
            names.setdefault(one.why, []).append(one.name)
    for why, those in names.items():
        yield f"{len(those)} {why} ({first_few(those)})"


def warn_of(what: str, left_out: Sequence[LeftOut]) -> None:
    """Report in one line what was left out, unless there is none: `what` begins it, reasons follow."""
    if line := "; ".join(reasons(left_out)):
        names = tuple(one.name for one in left_out if not one.expected)
        report([Doubt("left out", f"{what}: {line}", len(names), names, names_in_text=True)])
