"""Arms over their seeds: scores, gains over `none` with intervals and p-values, and what may be said of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reid_aug.bench.arms import COPIES, ERASING, parted
from reid_aug.bench.arms import NONE as BASE
from reid_aug.bench.results import scores_file
from reid_aug.bench.run import Result
from reid_aug.bench.statistics import Interval, SeedTest, holm, mean_std, over_seeds, paired_bootstrap, sign_flip_test

SCORES = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map": "mAP", "minp": "mINP"}
RERANKED = {"reranked_rank1": "re-ranked rank-1", "reranked_map": "re-ranked mAP"}
TESTED = {"rank1": "rank-1", "map": "mAP"}


@dataclass(frozen=True)
class Gain:
    """How much better than another arm (`none`) under the same baseline, in fractions, with 95 % intervals.

    p-values are Holm's for all gains of all baselines' arms: over queries (sign flips), and over queries and trainings
    (Welch), which one seed can't tell.
    """

    over_queries: Interval
    query_p: float
    over_trainings: Interval | None
    training_p: float | None

    @property
    def deciding(self) -> tuple[Interval, float | None]:
        """The interval and p-value that decide: over trainings, too, where there are two or more."""
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
    control: str | None  # the arm with copies in synthetic images' place
    map_gain_over_control: Interval | None  # over trainings, too, where there are two or more
    steps: int
    seconds: float
    train_images: int
    cmc: np.ndarray  # mean over seeds

    @property
    def key(self) -> tuple[str, str]:
        return self.baseline, self.arm


def summarise(result: Result) -> list[ArmSummary]:
    """One summary a baseline and arm, in the order of the results."""
    keys = list(dict.fromkeys((line["baseline"], line["arm"]) for line in result.lines))
    found = {key: _per_query(result, key) for key in keys}
    return _corrected([_summary(result, key, found) for key in keys])


def _corrected(summaries: list[ArmSummary]) -> list[ArmSummary]:
    """p-values as Holm's method leaves them when every gain of every arm is tried; rank-1 and mAP apart."""
    gains = [(i, over) for i, one in enumerate(summaries) for over in ("gains", "gains_beyond") if getattr(one, over)]
    for score in TESTED:
        for name in ("query_p", "training_p"):
            tried = [(i, over) for i, over in gains if getattr(getattr(summaries[i], over)[score], name) is not None]
            adjusted = holm([getattr(getattr(summaries[i], over)[score], name) for i, over in tried])
            for (i, over), p_value in zip(tried, adjusted.tolist(), strict=True):
                found = getattr(summaries[i], over)
                summaries[i] = replace(summaries[i], **{over: {**found, score: replace(found[score], **{name: p_value})}})
    return summaries


def _summary(result: Result, key: tuple[str, str], found: dict[tuple[str, str], dict[str, np.ndarray]]) -> ArmSummary:
    baseline, arm = key
    lines = [line for line in result.lines if (line["baseline"], line["arm"]) == key]
    scores = {name: own for (under, name), own in found.items() if under == baseline}
    alone, control = _compared_with(arm, list(scores))

    def gains(other: str | None) -> dict[str, Gain]:
        return {} if other in (None, arm) else {score: _gain(scores[arm][score], scores[other][score]) for score in TESTED}

    scored = [score for score in (*SCORES, *RERANKED) if score in lines[0]]
    return ArmSummary(
        baseline, arm, len(lines), {score: mean_std([line[score] for line in lines]) for score in scored},
        gains(BASE), alone, gains(alone), control, None if control is None else _interval(scores[arm]["map"], scores[control]["map"]),
        lines[0]["steps"], float(np.mean([line["seconds"] for line in lines])), lines[0]["train_images"], scores[arm]["cmc"].mean(0),
    )  # fmt: skip


def _compared_with(arm: str, arms: Sequence[str]) -> tuple[str | None, str | None]:
    """Beside `none`: the arm that does the same to real images alone, and the one that has copies in synthetic images' place.

    What `erasing` gains alone is no merit of `pg2+erasing`, against `none` or against `copies` without erasing.
    """
    source, variants = parted(arm)

    def like(images: str) -> str | None:
        its = {other: parted(other)[1] for other in arms if other != arm and parted(other)[0] == images}
        fits = [other for other, names in its.items() if names and set(names) <= set(variants)]
        return max(fits, key=lambda other: len(its[other]), default=None)

    if arm in (BASE, COPIES):
        return None, None
    alone = None if source == BASE else like(BASE)
    return alone, like(COPIES) or (COPIES if COPIES in arms and alone is None else None)


def _interval(mine: np.ndarray, other: np.ndarray) -> Interval:
    """Of the difference of two arms' scores (S, Q): over queries and trainings, over queries alone with a single seed."""
    test = over_seeds(mine, other)
    return paired_bootstrap(mine, other) if test is None else test.interval


def _gain(mine: np.ndarray, base: np.ndarray) -> Gain:
    test: SeedTest | None = over_seeds(mine, base)
    return Gain(paired_bootstrap(mine, base), sign_flip_test(mine, base), test and test.interval, test and test.p_value)


def _per_query(result: Result, key: tuple[str, str]) -> dict[str, np.ndarray]:
    """Average precision and rank-1 hit (S, Q), and CMC (S, R), of an arm's seeds; nan for queries that do not count."""
    lines = [line for line in result.lines if (line["baseline"], line["arm"]) == key]
    kept = [np.load(scores_file(result.folder, line["arm"], line["config"], line["seed"])) for line in lines]
    hits = [np.where(one["valid"], one["first_rank"] == 0, np.nan) for one in kept]
    return {"map": np.stack([one["ap"] for one in kept]), "rank1": np.stack(hits), "cmc": np.stack([one["cmc"] for one in kept])}


def verdicts(summaries: Sequence[ArmSummary]) -> list[str]:
    """One sentence an arm: what may be said of mAP, against `none` (`pg2+erasing`: against `erasing`) and against the control.

    With two seeds or more the interval over queries and trainings decides, and Holm's p-value; with one, that over queries.
    """
    several = len({one.baseline for one in summaries}) > 1
    return [_verdict(one, f"`{one.baseline}`: " if several else "") for one in summaries if one.gains]


def _verdict(one: ArmSummary, who: str) -> str:
    found = (one.gains_beyond or one.gains)["map"]
    gain, p_value = found.deciding
    single = found.over_trainings is None
    sure = (gain.low > 0 or gain.high < 0) and p_value is not None and p_value < 0.05
    what = "has no measurable effect" if not sure else "helps" if gain.mean > 0 else "hurts"
    beyond = f" beyond `{one.alone}` alone" if one.alone else ""
    over = "queries, of these trainings alone" if single else "queries and trainings"
    against = f"; against `{one.control}` {points(one.map_gain_over_control)} over queries{'' if single else ' and trainings'}"
    source, variants = parted(one.arm)
    mixed = ERASING in variants and source != BASE and not one.alone
    unknown = f"; how much of it is erasing's own, an arm `{ERASING}` would tell" if mixed else ""
    said = f"{what}{beyond}: mAP {points(gain)} points over {over} (Holm's p {_equals(p_value)})"
    return f"{who}`{one.arm}` {said}{against if one.control else ''}{unknown}."


def _equals(p_value: float | None) -> str:
    text = p_text(p_value)
    return text if text.startswith("<") else f"= {text}"


def percent(mean: float, std: float) -> str:
    """A score in percent, with its deviation where there is one."""
    return f"{100 * mean:.1f}" if np.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def points(gain: Interval | None) -> str:
    """A gain in points with its interval, empty where there is none."""
    return "" if gain is None else f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def p_text(value: float | None) -> str:
    """A p-value as tables print it."""
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def by_baseline(summaries: Sequence[ArmSummary]) -> dict[str, list[ArmSummary]]:
    """Summaries of each baseline, in the order of the results."""
    names = dict.fromkeys(one.baseline for one in summaries)
    return {name: [one for one in summaries if one.baseline == name] for name in names}
