"""Arms over their seeds: scores, gains over `none` with intervals and p-values, and what may be said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from reid_aug.bench.arms import COPIES, NONE, OF_REAL_IMAGES, ORACLE, origin_and_variants
from reid_aug.bench.results import scores_file
from reid_aug.bench.run import Result
from reid_aug.bench.statistics import (
    Interval,
    SeedTest,
    holm,
    mean_std,
    over_seeds,
    paired_bootstrap,
    resolvable,
    share_of_gain,
    sign_flip_test,
)

SCORES = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map": "mAP", "minp": "mINP"}
RERANKED = {"reranked_rank1": "re-ranked rank-1", "reranked_map": "re-ranked mAP"}
TESTED = {"rank1": "rank-1", "map": "mAP"}

PerQuery = dict[str, np.ndarray]  # of one arm: "map" and "rank1" (S, Q), nan for queries that are not valid, and "cmc" (S, R)


@dataclass(frozen=True)
class Gain:
    """How much better an arm is than another (`none`) under the same baseline, in fractions, with 95 % intervals.

    p-values are Holm's for all gains of all baselines' arms: over queries (sign flips), and over queries and trainings
    (Welch), of which a single seed says nothing.
    """

    over_queries: Interval
    query_p: float
    over_trainings: Interval | None
    training_p: float | None

    @property
    def deciding(self) -> tuple[Interval, float | None]:
        """Give the interval and p-value that decide: over trainings, too, where there are two or more."""
        return (self.over_queries, self.query_p) if self.over_trainings is None else (self.over_trainings, self.training_p)


@dataclass(frozen=True)
class ArmSummary:
    """One arm under one baseline: score → (mean, std) over seeds in fractions, and its gains by score."""

    baseline: str
    arm: str
    seeds: int
    scores: dict[str, tuple[float, float]]
    gains: dict[str, Gain]  # empty for the arm everything is compared with
    alone: str | None  # the arm that does to real images alone what this one does to all: `erasing` for `pg2+erasing`
    gains_beyond: dict[str, Gain]  # over that arm; empty without it
    control: str | None  # the arm with copies in the place of synthetic images
    map_gain_over_control: Interval | None  # over trainings, too, where there are two or more
    steps: int
    seconds: float
    train_images: int
    cmc: np.ndarray  # mean over seeds
    oracle: str | None  # the oracle that stands beside a generator's arm
    oracle_share: Interval | None  # of its gain in mAP; None where that is not told from 0
    resolvable: float | None  # gain in mAP that these trainings would find in four of five benchmarks; None with a single seed

    @property
    def key(self) -> tuple[str, str]:
        """Name the baseline and the arm."""
        return self.baseline, self.arm


def summarise(result: Result) -> list[ArmSummary]:
    """Summarise each arm under each baseline, in the order of the results."""
    keys = list(dict.fromkeys((line["baseline"], line["arm"]) for line in result.lines))
    per_query = {key: _per_query(result, key) for key in keys}
    return _corrected([_summary(result, key, per_query) for key in keys])


def _per_query(result: Result, key: tuple[str, str]) -> PerQuery:
    """Read average precision and rank-1 hit of every query, and the CMC, of an arm's seeds."""
    lines = [line for line in result.lines if (line["baseline"], line["arm"]) == key]
    files = [np.load(scores_file(result.folder, line["arm"], line["config"], line["seed"])) for line in lines]
    hits = [np.where(file["valid"], file["first_rank"] == 0, np.nan) for file in files]
    return {"map": np.stack([file["ap"] for file in files]), "rank1": np.stack(hits), "cmc": np.stack([file["cmc"] for file in files])}


def _summary(result: Result, key: tuple[str, str], per_query: Mapping[tuple[str, str], PerQuery]) -> ArmSummary:
    """Summarise one arm under one baseline, with p-values that know of no other arm yet."""
    baseline, arm = key
    lines = [line for line in result.lines if (line["baseline"], line["arm"]) == key]
    arms = {name: scores for (under, name), scores in per_query.items() if under == baseline}
    (alone, control), oracle = compared_with(arm, list(arms)), oracle_beside(arm, list(arms))

    def gains(other: str | None) -> dict[str, Gain]:
        return {} if other in (None, arm) else {score: _gain(arms[arm][score], arms[other][score]) for score in TESTED}

    scored = [score for score in (*SCORES, *RERANKED) if score in lines[0]]
    return ArmSummary(
        baseline, arm, len(lines), {score: mean_std([line[score] for line in lines]) for score in scored},
        gains(NONE), alone, gains(alone), control, None if control is None else _interval(arms[arm]["map"], arms[control]["map"]),
        lines[0]["steps"], float(np.mean([line["seconds"] for line in lines])), lines[0]["train_images"], arms[arm]["cmc"].mean(0),
        oracle, None if oracle is None else share_of_gain(*(arms[name]["map"] for name in (arm, oracle, alone or NONE))),
        None if arm == NONE else resolvable(arms[arm]["map"], arms[NONE]["map"]),
    )  # fmt: skip


def compared_with(arm: str, arms: Sequence[str]) -> tuple[str | None, str | None]:
    """Choose, beside `none`, the arm that does the same to real images alone, and the one with copies for synthetic images.

    What `erasing` gains alone is no merit of `pg2+erasing`, against `none` or against `copies` without erasing.

    >>> compared_with("pg2+erasing", ["none", "copies", "copies+erasing", "erasing", "pg2+erasing"])
    ('erasing', 'copies+erasing')
    """
    origin, variants = origin_and_variants(arm)

    def most_alike(origin: str) -> str | None:
        """Choose the arm with images of that origin that has most of this arm's variants, one at least, and no other."""
        others = {other: origin_and_variants(other)[1] for other in arms if other != arm and origin_and_variants(other)[0] == origin}
        fitting = [other for other, names in others.items() if names and set(names) <= set(variants)]
        return max(fitting, key=lambda other: len(others[other]), default=None)

    if arm in (NONE, COPIES):
        return None, None
    alone = None if origin == NONE else most_alike(NONE)
    return alone, most_alike(COPIES) or (COPIES if COPIES in arms and alone is None else None)


def oracle_beside(arm: str, arms: Sequence[str]) -> str | None:
    """Choose the oracle of whose gain a generator's arm has a share: one with the same variants, else `oracle` without any.

    Of an arm with erasing or a grey patch that share is none of the generator's, unless both are compared with what that gains alone.

    >>> oracle_beside("pg2+lsro", ["none", "oracle"]), oracle_beside("pg2+erasing", ["none", "erasing", "oracle", "oracle+erasing"])
    ('oracle', 'oracle+erasing')
    >>> oracle_beside("pg2+erasing", ["none", "erasing", "oracle"]) is oracle_beside("pg2+erasing", ["none", "oracle+erasing"]) is None
    True
    """
    origin, variants = origin_and_variants(arm)
    if origin in (NONE, COPIES, ORACLE):
        return None
    alone, of_real = compared_with(arm, arms)[0], set(variants) & set(OF_REAL_IMAGES)
    if not of_real <= set(origin_and_variants(alone or NONE)[1]):
        return None
    oracles = {frozenset(names): other for other in arms for origin, names in [origin_and_variants(other)] if origin == ORACLE}
    return oracles.get(frozenset(variants), None if alone else oracles.get(frozenset()))


def _gain(scores: np.ndarray, others: np.ndarray) -> Gain:
    test: SeedTest | None = over_seeds(scores, others)
    return Gain(paired_bootstrap(scores, others), sign_flip_test(scores, others), test and test.interval, test and test.p_value)


def _interval(scores: np.ndarray, others: np.ndarray) -> Interval:
    """Give the interval of the difference of scores (S, Q): over queries and trainings, with a single seed over queries alone."""
    test = over_seeds(scores, others)
    return paired_bootstrap(scores, others) if test is None else test.interval


def _corrected(summaries: list[ArmSummary]) -> list[ArmSummary]:
    """Correct p-values by Holm's method for every gain of every arm tried; rank-1 and mAP apart."""
    gains = [(i, over) for i, summary in enumerate(summaries) for over in ("gains", "gains_beyond") if getattr(summary, over)]
    for score in TESTED:
        for name in ("query_p", "training_p"):
            tested = [(i, over) for i, over in gains if getattr(getattr(summaries[i], over)[score], name) is not None]
            adjusted = holm([getattr(getattr(summaries[i], over)[score], name) for i, over in tested])
            for (i, over), p_value in zip(tested, adjusted.tolist(), strict=True):
                by_score = getattr(summaries[i], over)
                summaries[i] = replace(summaries[i], **{over: {**by_score, score: replace(by_score[score], **{name: p_value})}})
    return summaries


def by_baseline(summaries: Sequence[ArmSummary]) -> dict[str, list[ArmSummary]]:
    """Group summaries by baseline, in the order of the results."""
    groups: dict[str, list[ArmSummary]] = {}
    for summary in summaries:
        groups.setdefault(summary.baseline, []).append(summary)
    return groups


def verdicts(summaries: Sequence[ArmSummary]) -> list[str]:
    """Say in a sentence for each arm what may be said of mAP, against `none` (`pg2+erasing`: `erasing`) and against the control.

    With two seeds or more the interval over queries and trainings decides, and Holm's p-value; with one, that over queries.
    """
    several = len({summary.baseline for summary in summaries}) > 1
    return [_verdict(summary, f"`{summary.baseline}`: " if several else "") for summary in summaries if summary.gains]


def _verdict(summary: ArmSummary, opening: str) -> str:
    map_gain = (summary.gains_beyond or summary.gains)["map"]
    gain, p_value = map_gain.deciding
    single = map_gain.over_trainings is None
    sure = (gain.low > 0 or gain.high < 0) and p_value is not None and p_value < 0.05
    effect = "has no measurable effect" if not sure else "helps" if gain.mean > 0 else "hurts"
    beyond = f" beyond `{summary.alone}` alone" if summary.alone else ""
    over = "queries, of these trainings alone" if single else "queries and trainings"
    against = f"; against `{summary.control}` {points(summary.map_gain_over_control)} over queries{'' if single else ' and trainings'}"
    origin, variants = origin_and_variants(summary.arm)
    of_real = [name for name in variants if name in OF_REAL_IMAGES] if origin != NONE and not summary.alone else []
    unknown = f"; how much of it is {of_real[0]}'s own, an arm `{of_real[0]}` would tell" if of_real else ""
    sentence = f"{effect}{beyond}: mAP {points(gain)} points over {over} (Holm's p {_equals(p_value)})"
    return f"{opening}`{summary.arm}` {sentence}{against if summary.control else ''}{unknown}."


def _equals(p_value: float | None) -> str:
    text = p_text(p_value)
    return text if text.startswith("<") else f"= {text}"


def percent(mean: float, std: float) -> str:
    """Write a score in percent, with its deviation where there is one.

    >>> percent(0.5, 0.0123), percent(0.5, float("nan"))
    ('50.0 ± 1.2', '50.0')
    """
    return f"{100 * mean:.1f}" if np.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def points(gain: Interval | None) -> str:
    """Write a gain in points with its interval; empty where there is none.

    >>> points(Interval(mean=0.012, low=-0.005, high=0.03))
    '+1.2 [-0.5, +3.0]'
    """
    return "" if gain is None else f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def share_text(share: Interval | None) -> str:
    """Write a share with its interval; empty where there is none.

    >>> share_text(Interval(mean=0.614, low=0.38, high=1.02))
    '61 % [38, 102]'
    """
    return "" if share is None else f"{100 * share.mean:.0f} % [{100 * share.low:.0f}, {100 * share.high:.0f}]"


def p_text(value: float | None) -> str:
    """Write a p-value as tables print it.

    >>> p_text(0.0004), p_text(0.0213), p_text(None)
    ('< 0.001', '0.021', '')
    """
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"
