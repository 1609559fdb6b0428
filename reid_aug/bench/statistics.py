"""Telling a gain from luck: paired intervals and tests over queries, corrected for how many arms were tried."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

_BLOCK_ELEMENTS = 2**21  # random numbers held at a time, 16 MiB


class Interval(NamedTuple):
    """A mean difference and the ends of its confidence interval, in the unit of what was compared."""

    mean: float
    low: float
    high: float


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, samples: int = 10_000, confidence: float = 0.95, seed: int = 0) -> Interval:
    """Give the percentile interval of mean(a − b) over resampled queries; a, b are (Q,), or (S, Q) for S seeds.

    A resample takes the same queries in every seed, so (S, Q) is first averaged over seeds: the interval speaks of
    new queries, not of new training runs. nan marks a query that is not valid, in both arms; ValueError otherwise.

    >>> paired_bootstrap([0.5, 0.75, 1.0], [0.25, 0.5, 0.75])
    Interval(mean=0.25, low=0.25, high=0.25)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is between 0 and 1, got {confidence}")
    differences = _differences(a, b, samples)
    rng = np.random.default_rng(seed)
    count = len(differences)
    share = np.full(count, 1 / count)
    # How often each query is picked is all a mean needs to know of a resample.
    means = [rng.multinomial(count, share, size) @ differences / count for size in _block_sizes(samples, count)]
    low, high = np.quantile(np.concatenate(means), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(differences.mean()), float(low), float(high))


def sign_flip_test(a: ArrayLike, b: ArrayLike, *, samples: int = 10_000, seed: int = 0) -> float:
    """Give the two-sided p-value of mean(a − b) when a query's difference could as well have had the other sign.

    Inputs as in `paired_bootstrap`; (1 + flips at least as extreme) / (1 + samples), so never 0 (Phipson, Smyth 2010).

    >>> sign_flip_test([0.5, 0.75], [0.5, 0.75], samples=9)  # equal arms: every flip is as extreme
    1.0
    """
    differences = _differences(a, b, samples)
    rng = np.random.default_rng(seed)
    observed = abs(differences.sum())
    # A flip that gives the observed sum back may round it differently, and counts as extreme nonetheless.
    bar = observed - 1e-12 * np.abs(differences).sum()
    extreme = 0
    for size in _block_sizes(samples, len(differences)):
        signs = rng.integers(0, 2, (size, len(differences)), dtype=np.int8) * 2.0 - 1.0
        extreme += int(np.count_nonzero(np.abs(signs @ differences) >= bar))
    return (1 + extreme) / (1 + samples)


class SeedTest(NamedTuple):
    """A mean difference over queries and trainings: its interval, its two-sided p-value, and its degrees of freedom."""

    interval: Interval
    p_value: float
    degrees: float


def over_seeds(a: ArrayLike, b: ArrayLike, *, confidence: float = 0.95) -> SeedTest | None:
    """Test whether mean(a − b) would hold for other queries AND other trainings; a (S, Q), b (T, Q); None for a single seed.

    The variance of the difference is that between queries of what seeds average to, plus that between each arm's seeds
    of what queries average to: queries are the same in both arms, trainings are not. Student's t with Welch's degrees
    of freedom (Welch 1947). nan marks a query that is not valid, in every row of both; ValueError otherwise.

    >>> over_seeds([[0.5, 0.5], [0.5, 0.5]], [[0.25, 0.25], [0.25, 0.25]])  # no luck anywhere
    SeedTest(interval=Interval(mean=0.25, low=0.25, high=0.25), p_value=0.0, degrees=3.0)
    >>> test = over_seeds([[0.5, 0.75], [0.5, 1.0]], [[0.25, 0.5], [0.25, 0.5]])
    >>> test is not None and [round(float(value), 3) for value in (*test.interval, test.p_value, test.degrees)]
    [0.312, -0.068, 0.693, 0.072, 2.0]
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is between 0 and 1, got {confidence}")
    first, second = np.atleast_2d(np.asarray(a, dtype=np.float64)), np.atleast_2d(np.asarray(b, dtype=np.float64))
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1] or not first.size:
        raise ValueError(f"a and b are (S, Q) and (T, Q), and not empty, got {first.shape} and {second.shape}")
    if min(len(first), len(second)) < 2:
        return None
    differences = _differences(first.mean(0), second.mean(0), 1)
    if len(differences) < 2:
        return None
    valid = ~np.isnan(first[0])
    parts = np.array([
        differences.var(ddof=1) / len(differences),
        *(rows[:, valid].mean(1).var(ddof=1) / len(rows) for rows in (first, second)),
    ])  # fmt: skip
    freedom = np.array([len(differences) - 1, len(first) - 1, len(second) - 1])
    mean, variance = float(differences.mean()), float(parts.sum())
    if variance == 0:
        return SeedTest(Interval(mean, mean, mean), 1.0 if mean == 0 else 0.0, float(freedom.sum()))
    from scipy import stats  # half a second that a bootstrap need not wait for

    degrees = variance**2 / float((parts**2 / freedom).sum())
    half = float(stats.t.ppf(0.5 + confidence / 2, degrees)) * variance**0.5
    p_value = 2 * float(stats.t.sf(abs(mean) / variance**0.5, degrees))
    return SeedTest(Interval(mean, mean - half, mean + half), p_value, degrees)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Adjust p-values (N,) for N tests (Holm 1979), in the order given; ValueError when one is not in [0, 1].

    >>> holm([0.25, 0.5, 0.01]).tolist()  # 0.01 × 3; 0.25 × 2; 0.5 × 1
    [0.5, 0.5, 0.03]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not np.all((p >= 0) & (p <= 1)):
        raise ValueError(f"p-values are a list of numbers from 0 to 1, got {p_values!r}")
    order = np.argsort(p, kind="stable")
    adjusted = np.empty_like(p)
    # A hypothesis cannot be rejected before one with a smaller p-value, hence the running maximum.
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1.0)
    return adjusted


def mean_std(values: ArrayLike) -> tuple[float, float]:
    """Give mean and sample standard deviation (N − 1 below) of (N,) values; the deviation of one value is nan, not 0.

    >>> mean_std([1.0, 2.0, 3.0]), mean_std([5.0])
    ((2.0, 1.0), (5.0, nan))
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"values are a list of one number at least, got shape {array.shape}")
    # One run says nothing of the spread; a 0 would print as a certainty.
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else float("nan")


def _differences(a: ArrayLike, b: ArrayLike, samples: int) -> np.ndarray:
    """Give a − b of the valid queries, averaged over seeds."""
    if samples < 1:
        raise ValueError(f"samples is 1 at least, got {samples}")
    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape or first.ndim not in (1, 2) or not first.size:
        raise ValueError(f"a and b are both (Q,) or both (S, Q), and not empty, got {first.shape} and {second.shape}")
    first, second = np.atleast_2d(first), np.atleast_2d(second)
    if np.isinf(first).any() or np.isinf(second).any():
        raise ValueError("a and b are finite, or nan where a query is not valid, got infinity")
    missing = np.isnan(first[0])
    partial = (np.isnan(np.concatenate((first, second))) != missing).any(axis=0)
    if partial.any():
        raise ValueError(f"a query is valid in every arm and seed or in none, got {partial.sum()} of {len(partial)} with nan in some only")
    if missing.all():
        raise ValueError(f"one query at least is valid, got {len(missing)} that are nan")
    return (first - second)[:, ~missing].mean(axis=0)


def _block_sizes(samples: int, queries: int) -> list[int]:
    """Divide the samples into blocks, so that memory does not grow with their number."""
    step = max(1, _BLOCK_ELEMENTS // queries)
    return [min(step, samples - start) for start in range(0, samples, step)]
