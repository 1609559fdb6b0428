"""Refusing an unknown choice: what there is, and the nearest to what was given."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def nearest(word: str, words: Iterable[str]) -> str:
    """Give " (did you mean 'x'?)" when something is close, else nothing.

    >>> nearest("pg3", ["deformable", "pg2"])
    " (did you mean 'pg2'?)"
    """
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def no_such(kind: str, name: str, names: Iterable[str]) -> str:
    """Say that there is no `kind` of that name, which there are, and the nearest.

    >>> no_such("generator", "pg3", ["deformable", "pg2"])
    "no generator named 'pg3'; there are deformable, pg2 (did you mean 'pg2'?)"
    """
    names = list(names)
    return f"no {kind} named {name!r}; there are {', '.join(names)}{nearest(name, names)}"


def one_of(what: str, value: Any, allowed: Iterable[Any]) -> None:
    """Raise ValueError, which names them all and the nearest, unless `value` is one of those `allowed`.

    >>> one_of("vdg's loss", "mask-l2", ("l1", "mask-l1"))
    Traceback (most recent call last):
    ValueError: vdg's loss is one of l1, mask-l1, got 'mask-l2' (did you mean 'mask-l1'?)
    """
    allowed = list(allowed)
    if value not in allowed:
        hint = nearest(value, [choice for choice in allowed if isinstance(choice, str)]) if isinstance(value, str) else ""
        raise ValueError(f"{what} is one of {', '.join(map(str, allowed))}, got {value!r}{hint}")


def at_least(owner: str, least: float, **options: float) -> None:
    """Raise ValueError for the first of an owner's options that is below `least`, or no number.

    >>> at_least("posewarp", 0, gan_steps=5, warmup_steps=-1)
    Traceback (most recent call last):
    ValueError: posewarp's warmup_steps is at least 0, got -1
    """
    for option, value in options.items():
        if not value >= least:
            raise ValueError(f"{owner}'s {option} is at least {least}, got {value}")
