"""Plots of a benchmark: CMC curves, and mAP against the share of training images; a panel for every baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators import replacing
from reid_aug.bench.summary import ArmSummary, by_baseline


def _panels(count: int) -> tuple[Any, list[Any]]:
    """Lay out a figure with panels side by side, without a window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * count, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _save(figure: Any, path: Path) -> None:
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def plot_cmc(summaries: Sequence[ArmSummary], path: Path) -> None:
    """Plot the CMC of every arm up to rank 20, averaged over seeds."""
    baselines = by_baseline(summaries)
    figure, panels = _panels(len(baselines))
    for (name, arms), axes in zip(baselines.items(), panels, strict=True):
        for arm in arms:
            ranks = np.arange(1, min(20, len(arm.cmc)) + 1)
            axes.plot(ranks, 100 * arm.cmc[: len(ranks)], marker="o", markersize=3, label=arm.arm)
        axes.set(xlabel="rank", ylabel="queries found (%)", title=f"Cumulative matching characteristic, {name}")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def plot_shares(summaries: Mapping[float, list[ArmSummary]], path: Path) -> None:
    """Plot mAP of every arm, with its deviation over seeds, against the share of training images."""
    baselines = by_baseline(next(iter(summaries.values())))
    figure, panels = _panels(len(baselines))
    for (name, arms), axes in zip(baselines.items(), panels, strict=True):
        for arm in arms:
            maps = [next(summary for summary in of_share if summary.key == arm.key).scores["map"] for of_share in summaries.values()]
            spread = [0.0 if np.isnan(std) else 100 * std for _, std in maps]
            shares, means = [100 * share for share in summaries], [100 * mean for mean, _ in maps]
            axes.errorbar(shares, means, spread, marker="o", markersize=4, capsize=3, label=arm.arm)
        axes.set(xlabel="share of training images (%)", ylabel="mAP (%)", title=name)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)
