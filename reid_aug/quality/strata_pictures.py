"""Pictures of strata: the worst images of each, and means with their errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import Tensor

from generators import pose_picture, replacing
from reid_aug.quality.strata import Strata, Stratum, WorstImage, mean_and_error, sheet_name

GROUND, TEXT, GAP, LINE_PX = (32, 32, 32), (220, 220, 220), 4, 14


def write_pictures(strata: Strata, folder: Path) -> None:
    """Write every fact's sheet of worst images, and the plot, to the files that `Strata.page` names."""
    for fact, groups in strata.strata.items():
        worst_sheet(fact, list(groups.values()), strata.by, folder / sheet_name(fact))
    plot(strata, folder / "strata.png")


def worst_sheet(fact: str, strata: Sequence[Stratum], by: str, path: Path) -> None:
    """Write a sheet: for each stratum a row of its worst images, a column each: source, target pose, generated, photograph, score."""
    most = max((len(stratum.worst) for stratum in strata), default=0)
    columns = {stratum.label: [_column(image) for image in stratum.worst] for stratum in strata if stratum.worst}
    if not columns:
        return
    width, height = next(iter(columns.values()))[0].size
    block = LINE_PX + height + GAP
    sheet = Image.new("RGB", (max(GAP + most * (width + GAP), 320), GAP + len(columns) * block), GROUND)
    write = ImageDraw.Draw(sheet)
    for row, (label, pictures) in enumerate(columns.items()):
        pairs = next(stratum.pairs for stratum in strata if stratum.label == label)
        top = GAP + row * block
        write.text((GAP, top), f"{fact} {_ascii(label)}: the worst of {pairs:,} by {by}", fill=TEXT)
        for column, picture in enumerate(pictures):
            sheet.paste(picture, (GAP + column * (width + GAP), top + LINE_PX))
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def _column(image: WorstImage) -> Image.Image:
    """Lay one image's pictures below each other, its score last."""
    pictures = [_picture(image.source), pose_picture(image.target_pose), _picture(image.generated)]
    pictures += [] if image.target is None else [_picture(image.target)]
    width, height = pictures[0].size
    column = Image.new("RGB", (width, len(pictures) * (height + GAP) + LINE_PX), GROUND)
    for i, picture in enumerate(pictures):
        column.paste(picture, (0, i * (height + GAP)))
    ImageDraw.Draw(column).text((0, len(pictures) * (height + GAP)), f"{image.score:.3g}", fill=TEXT)
    return column


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())


def _ascii(label: str) -> str:
    """Return a label in what PIL's own font surely has."""
    return label.replace("–", "-").encode("ascii", "replace").decode()


def plot(strata: Strata, path: Path) -> None:
    """Plot the mean of the score that the worst were found by, with its standard error, a panel a fact."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(strata.strata), 3.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(strata.strata), sharey=True, squeeze=False)[0]
    for axes, (fact, groups) in zip(panels, strata.strata.items(), strict=True):
        shown = [(s.label, mean_and_error(s.scores.get(strata.by, []))) for s in groups.values()]
        shown = [(label, summary) for label, summary in shown if summary["mean"] is not None]
        means = np.array([summary["mean"] for _, summary in shown], dtype=float)
        errors = np.array([summary["error"] or 0.0 for _, summary in shown], dtype=float)
        axes.errorbar(np.arange(len(shown)), means, errors, marker="o", markersize=4, capsize=3)
        axes.set_xticks(np.arange(len(shown)), [label for label, _ in shown], rotation=30, ha="right", fontsize=8)
        axes.set(title=fact)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel(strata.by)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")
