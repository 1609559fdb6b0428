"""Telling a gain from luck: paired intervals and tests over queries, corrected for how many arms were tried."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

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
    rows = _valid_rows(a, b)
    if rows is None:
        return None
    contrast = _contrast((1, -1), rows)
    mean, error, degrees = contrast.mean, contrast.variance**0.5, contrast.degrees
    if error == 0:
        return SeedTest(Interval(mean, mean, mean), 1.0 if mean == 0 else 0.0, degrees)
    from scipy import stats  # half a second that a bootstrap need not wait for

    half = float(stats.t.ppf(0.5 + confidence / 2, degrees)) * error
    return SeedTest(Interval(mean, mean - half, mean + half), 2 * float(stats.t.sf(abs(mean) / error, degrees)), degrees)


def share_of_gain(arm: ArrayLike, oracle: ArrayLike, none: ArrayLike, *, confidence: float = 0.95) -> Interval | None:
    """Give the share that mean(arm − none) is of mean(oracle − none), with its interval over queries and trainings.

    Each is (S, Q) with seeds of its own, as in `over_seeds`. The interval is Fieller's (1954): those shares ρ for which
    arm − ρ · oracle − (1 − ρ) · none is not told from 0, by Student's t with Welch's degrees of freedom at the share itself.
    None for a single seed, and where the oracle's own gain is not told from 0: any share might be.

    >>> share_of_gain([[0.5, 0.5], [0.5, 0.5]], [[0.75, 0.75], [0.75, 0.75]], [[0.25, 0.25], [0.25, 0.25]])  # no luck anywhere
    Interval(mean=0.5, low=0.5, high=0.5)
    """
    rows, of_oracle = _valid_rows(arm, oracle, none), over_seeds(oracle, none, confidence=confidence)
    if rows is None or of_oracle is None or of_oracle.interval.low <= 0:
        return None
    first, second, apart = (_contrast(weights, rows) for weights in ((1, 0, -1), (0, 1, -1), (1, -1, 0)))
    share = first.mean / second.mean
    at_share = _contrast((1, -share, share - 1), rows)
    if at_share.variance == 0:
        return Interval(share, share, share)
    from scipy import stats

    t_squared = float(stats.t.ppf(0.5 + confidence / 2, at_share.degrees)) ** 2
    covariance = (first.variance + second.variance - apart.variance) / 2  # of both gains, which have `none` in common
    # The ends are where (first − ρ · second)² is t² times its variance: those of a parabola in ρ.
    square = second.mean**2 - t_squared * second.variance
    linear = first.mean * second.mean - t_squared * covariance
    constant = first.mean**2 - t_squared * first.variance
    if square <= 0:
        return None
    half = max(0.0, linear**2 - square * constant) ** 0.5
    return Interval(share, (linear - half) / square, (linear + half) / square)


def resolvable(a: ArrayLike, b: ArrayLike, *, power: float = 0.8, confidence: float = 0.95) -> float | None:
    """Give the true gain that `over_seeds` would find to be above 0 with probability `power`; None for a single seed.

    Scores are as in `over_seeds`, and so are variance and degrees of freedom: what these queries and trainings showed. t is
    then noncentral, by gain / standard error. ValueError for a power that luck alone has.

    >>> resolvable([[0.5, 0.5], [0.5, 0.5]], [[0.25, 0.25], [0.25, 0.25]])  # no luck anywhere
    0.0
    """
    if not 0 < 1 - confidence < power < 1:
        raise ValueError(f"power is above 1 - confidence, and both are between 0 and 1, got {power} and {confidence}")
    rows = _valid_rows(a, b)
    if rows is None:
        return None
    contrast = _contrast((1, -1), rows)
    if contrast.variance == 0:
        return 0.0
    from scipy import optimize, stats

    bar = float(stats.t.ppf(0.5 + confidence / 2, contrast.degrees))
    shift: Any = optimize.brentq(lambda by: power - float(stats.nct.sf(bar, contrast.degrees, by)), 0.0, 10 * (bar + 1))
    return float(shift) * contrast.variance**0.5


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


class _Contrast(NamedTuple):
    """A weighted sum of arms' means, and what its variance is made of: queries, then each arm's trainings."""

    mean: float
    variances: np.ndarray  # (1 + A,)
    freedom: np.ndarray  # (1 + A,) degrees of freedom of each

    @property
    def variance(self) -> float:
        return float(self.variances.sum())

    @property
    def degrees(self) -> float:
        """Give Welch's degrees of freedom; without any variance, all there are."""
        if self.variance == 0:
            return float(self.freedom.sum())
        return self.variance**2 / float((self.variances**2 / self.freedom).sum())


def _contrast(weights: Sequence[float], rows: Sequence[np.ndarray]) -> _Contrast:
    """Weigh the scores (S, Q) of arms that have their queries in common, and each its own trainings."""
    # An arm without weight has no luck that counts, and no degree of freedom.
    arms = [(weight, scores) for weight, scores in zip(weights, rows, strict=True) if weight]
    per_query = np.sum([weight * scores.mean(0) for weight, scores in arms], axis=0)
    of_arms = [weight**2 * scores.mean(1).var(ddof=1) / len(scores) for weight, scores in arms]
    variances = np.array([per_query.var(ddof=1) / len(per_query), *of_arms])
    return _Contrast(float(per_query.mean()), variances, np.array([len(per_query), *(len(scores) for _, scores in arms)]) - 1)


def _valid_rows(*scores: ArrayLike) -> list[np.ndarray] | None:
    """Give each arm's scores (S, Q) of the valid queries; None where one has a single seed, or there is a single query."""
    rows = [np.atleast_2d(np.asarray(part, dtype=np.float64)) for part in scores]
    if any(part.ndim != 2 or part.shape[1] != rows[0].shape[1] or not part.size for part in rows):
        raise ValueError(f"scores of arms are (S, Q) and (T, Q), and not empty, got {' and '.join(str(part.shape) for part in rows)}")
    if min(map(len, rows)) < 2:
        return None
    for other in rows[1:]:
        _differences(rows[0].mean(0), other.mean(0), 1)  # refuses queries that are valid in some only
    valid = ~np.isnan(rows[0][0])
    return [part[:, valid] for part in rows] if valid.sum() > 1 else None


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
