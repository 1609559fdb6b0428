"""Plots of a benchmark: CMC curves, and mAP against the share of training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid_aug.bench.summary import ArmSummary, by_baseline


def _figure(columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6 * columns, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _cmc_plot(summaries: Sequence[ArmSummary], path: Path) -> None:
    """CMC curves of every arm up to rank 20, mean over seeds, a panel for every baseline."""
    baselines = by_baseline(summaries)
    figure, panels = _figure(len(baselines))
    for (name, own), axes in zip(baselines.items(), panels, strict=True):
        for one in own:
            ranks = np.arange(1, min(20, len(one.cmc)) + 1)
            axes.plot(ranks, 100 * one.cmc[: len(ranks)], marker="o", markersize=3, label=one.arm)
        axes.set(xlabel="rank", ylabel="queries found (%)", title=f"Cumulative matching characteristic, {name}")
        axes.set_xticks([1, 5, 10, 15, 20])
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)


def _share_plot(found: Mapping[float, list[ArmSummary]], path: Path) -> None:
    """mAP of every arm against the share of training images, with its deviation over seeds, a panel for every baseline."""
    baselines = by_baseline(next(iter(found.values())))
    figure, panels = _figure(len(baselines))
    for (name, arms), axes in zip(baselines.items(), panels, strict=True):
        for arm in arms:
            maps = [next(one for one in summaries if one.key == arm.key).scores["map"] for summaries in found.values()]
            spread = [0.0 if np.isnan(std) else 100 * std for _, std in maps]
            shares, means = [100 * share for share in found], [100 * mean for mean, _ in maps]
            axes.errorbar(shares, means, spread, marker="o", markersize=4, capsize=3, label=arm.arm)
        axes.set(xlabel="share of training images (%)", ylabel="mAP (%)", title=name)
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path)
