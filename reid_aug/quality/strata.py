"""Image quality by what makes a pair difficult, and the worst images of each stratum: where a generator fails, and how.

Ma et al. 2017 (Fig. 6) show failures, Lakkhal et al. 2019 (Fig. 6) results by scale and occlusion; of posewarp, Suresh & Sonarkar 2019
(§4.3) say that it fails where the pose moves far.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators import Pose
from reid_aug.quality.metrics import Batch, Measurement, ScoresEach
from reid_aug.quality.pair_facts import Pair, pair_facts
from reid_aug.quality.tables import markdown

PREFERRED = ("mask-SSIM", "SSIM", "mask-LPIPS", "LPIPS", "truth PSNR", "DS")  # which score says what the worst images are


@dataclass(frozen=True)
class Fact:
    """What pairs are grouped by: what its number means, where the groups end, and whether it counts."""

    how: str
    edges: tuple[float, ...]
    counts: bool = False

    def strata(self, values: Tensor) -> np.ndarray:
        """Return the stratum (N) of each number: how many edges are not above it, −1 for nan.

        >>> Fact("", (1.0, 3.0)).strata(torch.tensor([0.5, 1.0, 9.0, torch.nan])).tolist()
        [0, 1, 2, -1]
        """
        numbers = values.double().numpy()
        return np.where(np.isnan(numbers), -1, np.searchsorted(self.edges, numbers, side="right"))

    def label(self, stratum: int) -> str:
        """Name a stratum.

        >>> [Fact("", (1, 3), counts=True).label(i) for i in (0, 1, 2)], Fact("", (0.5, 2)).label(1), Fact("", (0.5,)).label(-1)
        (['0', '1–2', '3 or more'], '0.5 to 2', 'unknown')
        """
        if stratum < 0:
            return "unknown"
        low = f"{self.edges[stratum - 1]:g}" if stratum else None
        if stratum == len(self.edges):
            return f"{low} or more"
        if not self.counts:
            return f"below {self.edges[0]:g}" if low is None else f"{low} to {self.edges[stratum]:g}"
        first, last = int(self.edges[stratum - 1]) if stratum else 0, int(self.edges[stratum]) - 1
        return f"{first}" if first == last else f"{first}–{last}"


FACTS = {
    "pose distance": Fact("mean distance of the joints that both poses show, in heights of the image", (0.03, 0.06, 0.1, 0.15)),
    "scale ratio": Fact("how many times as far the joints that both poses show spread in the target", (0.67, 0.9, 1.1, 1.5)),
    "missing joints": Fact("joints that source or target pose lack, together", (1, 3, 6, 11), counts=True),
    "self-occluded joints": Fact(
        "elbows, wrists, knees and ankles of source and target pose that lie on another part of the body", (1, 3, 5, 8), counts=True
    ),
    "image resolution": Fact("rows of pixels of the source's file", (64, 128, 256, 512)),
}


@dataclass(frozen=True, eq=False)
class WorstImage:
    """One of a stratum's worst: its score and what there is to see, uint8 (3, H, W)."""

    score: float
    number: int  # of its pair
    source: Tensor
    target_pose: Pose
    generated: Tensor
    target: Tensor | None


@dataclass
class Stratum:
    """A group of pairs: their scores by metric, and the worst of them."""

    label: str
    scores: dict[str, list[float]] = field(default_factory=dict)
    worst: list[WorstImage] = field(default_factory=list)
    pairs: int = 0


class Strata:
    """Scores of single images by FACTS of their pairs, gathered while batches are measured (`measure(…, watch=…)`)."""

    def __init__(self, pairs: Sequence[Pair], size: tuple[int, int], worst: int = 10) -> None:
        self.facts, self.worst, self.by = pair_facts(pairs, size), worst, ""
        self.higher_is_better = True
        self._where = {name: fact.strata(self.facts[name]) for name, fact in FACTS.items()}
        self.strata = {
            name: {i: Stratum(FACTS[name].label(i)) for i in sorted(set(where.tolist()))} for name, where in self._where.items()
        }
        self._scores: dict[str, list[Tensor]] = {}
        self._next = 0

    def __call__(self, batch: Batch, running: Mapping[str, Measurement]) -> None:
        """Take in what the running measurements made of a batch; batches come in the order of the pairs."""
        each = [measurement for measurement in running.values() if isinstance(measurement, ScoresEach)]
        scores = {name: score for measurement in each for name, score in measurement.latest().items()}
        if not self._next:
            self._choose({name: m.higher_is_better for m in each for name in m.latest()})
        numbers = range(self._next, self._next + len(batch.generated))
        self._next = numbers.stop
        for name, score in scores.items():
            self._scores.setdefault(name, []).append(score.double().cpu())
        for fact, where in self._where.items():
            for row, number in enumerate(numbers):
                stratum = self.strata[fact][int(where[number])]
                stratum.pairs += 1
                for name, score in scores.items():
                    stratum.scores.setdefault(name, []).append(float(score[row]))
                self._keep(stratum, batch, row, number, float(scores[self.by][row]))

    def _choose(self, better: Mapping[str, bool]) -> None:
        """Choose the score that the worst images are the worst by; ValueError where no metric scores single images."""
        if not better:
            raise ValueError("strata are of metrics that score single images (SSIM, LPIPS, DS, truth), and none of them is measured")
        self.by = next((name for name in PREFERRED if name in better), next(iter(better)))
        self.higher_is_better = better[self.by]

    def _keep(self, stratum: Stratum, batch: Batch, row: int, number: int, score: float) -> None:
        """Keep an image if it is among the worst so far."""
        kept = stratum.worst
        if np.isnan(score) or (len(kept) == self.worst and self._badness(score) <= self._badness(kept[-1].score)):
            return
        target = None if batch.target is None else batch.target[row].cpu().clone()
        seen = batch.source[row].cpu().clone(), batch.target_pose[row], batch.generated[row].cpu().clone()
        kept.append(WorstImage(score, number, *seen, target))
        kept.sort(key=lambda image: (-self._badness(image.score), image.number))
        del kept[self.worst :]

    def _badness(self, score: float) -> float:
        return -score if self.higher_is_better else score

    def correlation(self, fact: str, metric: str) -> float:
        """Return Spearman's rank correlation of a fact with a score; nan where one of them is the same everywhere."""
        from scipy.stats import spearmanr

        scores = torch.cat(self._scores[metric]).numpy()
        values = self.facts[fact].numpy()[: len(scores)]
        usable = np.isfinite(scores) & np.isfinite(values)
        if usable.sum() < 2 or np.ptp(scores[usable]) == 0 or np.ptp(values[usable]) == 0:
            return float("nan")
        return float(spearmanr(values[usable], scores[usable])[0])  # type: ignore[arg-type]

    def as_json(self) -> dict[str, Any]:
        """Return plain tables for a file: by fact, a row a stratum, with each metric's mean, standard error and count."""
        return {
            fact: [
                {"stratum": s.label, "pairs": s.pairs, **{name: mean_and_error(scores) for name, scores in s.scores.items()},
                 "worst": [image.number for image in s.worst]}
                for s in strata.values()
            ]
            for fact, strata in self.strata.items()
        }  # fmt: skip

    def page(self) -> str:
        """Return the tables in Markdown, each above its sheet of the worst images."""
        metrics = list(self._scores)
        parts = ["## By stratum", f"Means ± their standard errors. ρ is Spearman's rank correlation with {self.by}."]
        for fact, strata in self.strata.items():
            lines = [[fact, "pairs", *metrics], ["---", *["---:"] * (1 + len(metrics))]]
            lines += [[s.label, f"{s.pairs:,}", *(_cell(s.scores.get(name, [])) for name in metrics)] for s in strata.values()]
            rho = self.correlation(fact, self.by)
            says = "" if np.isnan(rho) else f" ρ {rho:+.2f}."
            parts += [f"### {fact.capitalize()}", f"{FACTS[fact].how.capitalize()}.{says}", markdown(lines)]
            parts.append(f"![the worst of each stratum by {self.by}]({sheet_name(fact)})")
        return "\n\n".join([*parts, "![means by stratum](strata.png)"])


def sheet_name(fact: str) -> str:
    """Name the file of a fact's worst images."""
    return f"worst-{fact.replace(' ', '-')}.png"


def mean_and_error(scores: Sequence[float]) -> dict[str, float | int | None]:
    """Return mean, standard error and count of the scores that are numbers; None where there is none.

    >>> mean_and_error([1.0, 3.0, float("nan")])
    {'mean': 2.0, 'error': 1.0, 'count': 2}
    """
    numbers = np.array([score for score in scores if not np.isnan(score)])
    if not len(numbers):
        return {"mean": None, "error": None, "count": 0}
    error = float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else None
    return {"mean": float(numbers.mean()), "error": error, "count": len(numbers)}


def _cell(scores: Sequence[float]) -> str:
    summary = mean_and_error(scores)
    if summary["mean"] is None:
        return ""
    digits = 3 if abs(summary["mean"]) < 10 else 1
    return f"{summary['mean']:.{digits}f}" + ("" if summary["error"] is None else f" ± {summary['error']:.{digits}f}")
