"""Doubts about a data set: what was read, but is hardly meant so. Readers report them; `reid-aug inspect` gathers them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


class DataDoubt(UserWarning):
    """A doubt about data that were read; `warnings.simplefilter("error", DataDoubt)` makes an error of each."""


def first_few(items: Sequence[object]) -> str:
    """Write the first three of a list, and how many more there are.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(str(item) for item in items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


@dataclass(frozen=True)
class Doubt:
    """Something hardly meant so: which kind, one line about it, how many rows or images it is true of, and their names.

    A `grave` one is refused wherever the data are used: nothing right can come of them.
    """

    kind: str
    text: str
    count: int
    names: tuple[str, ...] = ()
    grave: bool = False
    names_in_text: bool = False  # whether the line itself says the first of them

    def __str__(self) -> str:
        """Write the line and the first names.

        >>> str(Doubt("small", "k.csv: 4 of 9 bodies are small", 4, ("a", "b", "c", "d")))
        'k.csv: 4 of 9 bodies are small (a, b, c and 1 more)'
        """
        return f"{self.text} ({first_few(self.names)})" if self.names and not self.names_in_text else self.text


_collecting: ContextVar[list[Doubt] | None] = ContextVar("doubts", default=None)


def report(doubts: Iterable[Doubt]) -> None:
    """Raise ValueError for the first grave doubt, and warn of the others (DataDoubt); inside `collected()` only keep them all."""
    doubts, kept = list(doubts), _collecting.get()
    if kept is not None:
        kept += [doubt for doubt in doubts if doubt not in kept]
        return
    for doubt in sorted(doubts, key=lambda doubt: not doubt.grave):
        if doubt.grave:
            raise ValueError(str(doubt))
        warnings.warn(str(doubt), DataDoubt, stacklevel=2)


@contextmanager
def collected() -> Iterator[list[Doubt]]:
    """Gather what is reported inside, grave or not, in the list this gives.

    >>> with collected() as doubts:
    ...     report([Doubt("zeros", "k.csv: 2 joints are at (0, 0)", 2)])
    >>> [doubt.kind for doubt in doubts]
    ['zeros']
    """
    doubts: list[Doubt] = []
    token = _collecting.set(doubts)
    try:
        yield doubts
    finally:
        _collecting.reset(token)


@contextmanager
def doubts_in_lines(say: Callable[[str], None]) -> Iterator[None]:
    """Say each doubt reported inside once, as a line, whatever warning filters there are."""
    said: set[str] = set()
    with warnings.catch_warnings():
        show = warnings.showwarning

        def line(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
            if not issubclass(category, DataDoubt):
                show(message, category, *where, **more)
            elif str(message) not in said and os.environ.get("LOCAL_RANK", "0") == "0":  # one process of several speaks
                said.add(str(message))
                say(str(message))

        warnings.showwarning = line
        warnings.simplefilter("always", DataDoubt)
        yield
