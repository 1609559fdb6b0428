"""Which poses of a bank are near in view to a source's, with how near as a number: what drawing by "compatible" goes by."""

from __future__ import annotations

import re

import numpy as np

from generators import view_descriptor
from reid_aug.synthesis.bank import PoseBank

VIEW_TOLERANCE = 0.5  # Distance of two `view_descriptor`s up to which poses are near in view.
FEWEST = 8  # Number of nearest poses that are drawn from where fewer lie within the tolerance.
_NUMBER = re.compile(r"-([0-9]{1,3}(?:\.[0-9]{1,6})?)")


def number_of(draw: str, word: str, usual: float) -> float | None:
    """Return the number that the name of a strategy sets after its word, `usual` where it sets none; None where it is another one's."""
    if not draw.startswith(word):
        return None
    number = _NUMBER.fullmatch(draw, len(word))
    return float(number[1]) if number is not None else usual if draw == word else None


def tolerance_of(draw: str) -> float | None:
    """Return the tolerance that the name of a strategy sets, "compatible" or "compatible-0.3"; None where it is another one's.

    >>> tolerance_of("compatible"), tolerance_of("compatible-0.3"), tolerance_of("whole")
    (0.5, 0.3, None)
    """
    return number_of(draw, "compatible", VIEW_TOLERANCE)


def views_of(bank: PoseBank) -> np.ndarray:
    """Describe a bank's poses, float64 (N, 4), NaN for one without shoulders and hips; ValueError when none shows them."""
    views = view_descriptor(bank.pose).numpy()
    if np.isnan(views).all():
        raise ValueError(f"compatible goes by shoulders and hips, which no pose of the bank ({bank.pose.skeleton.name}) shows")
    return np.asfortranarray(views)  # `distances` goes column by column


def distances(view: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Measure the Euclidean distances (N,) of a descriptor (D,) to others (N, D), in float64: a draw is the same on every machine.

    No search by faiss, which rounds to float32 and takes ties as it likes: other poses would be drawn, to save a third of a
    millisecond of an image that takes longer to render (benchmarks/README.md).

    >>> distances(np.zeros(2), np.array([[3.0, 4.0], [0.0, np.nan]]))
    array([ 5., nan])
    """
    squares = np.zeros(len(others))
    for value, column in zip(view, others.T, strict=True):
        difference = column - value
        squares += np.square(difference, out=difference)
    return np.sqrt(squares, out=squares)


def near(distance: np.ndarray, tolerance: float, fewest: int = FEWEST) -> np.ndarray:
    """Return the rows whose `distance` (N,) is within the tolerance, ascending; where they are too few, the `fewest` nearest.

    One that is infinite or NaN is never among them.

    >>> near(np.array([0.7, 0.1, np.inf, 0.3, 0.9]), 0.5, fewest=2), near(np.array([0.7, 0.1, np.inf, 0.3, 0.9]), 0.5, fewest=3)
    (array([1, 3]), array([0, 1, 3]))
    """
    rows = np.flatnonzero(distance <= tolerance)
    if len(rows) >= fewest:
        return rows
    nearest = np.argsort(distance, kind="stable")[:fewest]
    return np.sort(nearest[np.isfinite(distance[nearest])])
