"""The report: tables of arms with their gains and intervals, sample sheets, CMC curves. A view of results, no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid_aug import images
from reid_aug.bench.arms import COPIES
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.curves import _cmc_plot, _share_plot
from reid_aug.bench.results import machines, machines_text
from reid_aug.bench.run import Result
from reid_aug.bench.summary import RERANKED, SCORES, TESTED, ArmSummary, Gain, by_baseline, p_text, percent, points, summarise, verdicts
from reid_aug.quality.measure import Quality, limb_table
from reid_aug.quality.measure import table as quality_table

_STATISTICS = (
    "Gains over `none` are in points, with 95 % intervals. Δ: a paired bootstrap over queries, scores averaged over seeds, and p by sign "
    "flips: they speak of other queries and these very trainings. Trainings too: Welch's t over queries and seeds, which decides where "
    "there are two seeds or more. Queries are taken as independent, though several are of one person, so true intervals may be wider. An "
    "arm with erasing is judged by what it gains over `erasing` alone, where that is an arm. p-values are Holm's for all of these: every "
    "arm of every baseline beside `none`, and those with erasing beside `erasing`, too. No arm was tuned: each has the baseline's own "
    "settings and as many steps. Each generator was trained once, on one data set, and nothing here speaks of others."
)
_ARMS = (
    f"Arms: `none` real images alone; `{COPIES}` the same images once more, as often as other arms add synthetic ones; `oracle` the true "
    "images of the same people in the same poses (rendered data only); `erasing` random erasing (Zhong et al. 2020) of real images; any "
    "other name: that generator's images, and after a plus sign the variant in which they enter."
)


def write(result: Result, about: str, command: str) -> Path:
    """Write report.md, cmc.png and the tables to the run's folder; the report's path."""
    summaries = summarise(result)
    _cmc_plot(summaries, result.folder / "cmc.png")
    path = result.folder / "report.md"
    images.atomic_write_text(path, render(result, summaries, about, command))
    return path


def tables(result: Result, summaries: Sequence[ArmSummary]) -> Iterator[str]:
    """Each baseline's heading and its two tables."""
    for name, own in by_baseline(summaries).items():
        line = next(line for line in result.lines if line["baseline"] == name)
        size, seeds = " × ".join(str(n) for n in line["size"]), f"{own[0].seeds} seed{'s' * (own[0].seeds > 1)}"
        yield f"## Baseline `{name}`"
        yield f"{line['model']}, {line['weights']}, images of {size}, {line['steps']:,} steps in every arm, {seeds}."
        yield scores_table(own)
        yield gains_table(own)


def render(result: Result, summaries: Sequence[ArmSummary], about: str, command: str) -> str:
    """The whole report as Markdown."""
    first = result.lines[0]
    sheets = [arm for arm in result.quality if (result.folder / "samples" / f"{arm}.png").exists()]
    share = "" if first["share"] is None else f"{100 * first['share']:g} % of the training images: "
    parts = [
        f"# Re-ID with and without augmentation: {about}",
        f"{share}{first['identities']} identities, {first['queries']} queries, {first['gallery']} gallery images. Scores in percent, "
        "mean ± standard deviation over seeds.",
        *tables(result, summaries),
        "## What may be said",
        "\n".join(f"* {sentence}" for sentence in verdicts(summaries)),
        _STATISTICS,
        _ARMS,
        " ".join(_perceptual(result.perceptual, result.quality)),
        *_image_quality(result.quality),
        "![CMC](cmc.png)",
        *[f"`{arm}`, held-out people: source, target pose, result, truth.\n\n![{arm}](samples/{arm}.png)" for arm in sheets],
        machines_text(command, result.lines),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _image_quality(quality: dict[str, Quality]) -> Iterator[str]:
    """Every metric of every generator, and limb by limb where the truth is known."""
    if quality:
        counts = {one.images for one in quality.values()}
        yield f"## Image quality\n\n{' or '.join(f'{n:,}' for n in sorted(counts))} held-out pairs a generator."
        yield quality_table(quality)
        yield limb_table(quality)
        yield "## Pictures"


def _perceptual(perceptual: dict[str, str], quality: dict[str, Quality]) -> Iterator[str]:
    """What generators' perceptual terms compared images on, for those whose papers have such terms."""
    for arm, name in perceptual.items():
        if name == "none":
            yield f"`{arm}` was trained with its perceptual terms turned off (`perceptual.weights=none`)."
            continue
        yield f"`{arm}` was trained to look alike to `{name}`, too."
        judged = [value.how for value in quality[arm].values.values()] if arm in quality else []
        if any(name.removeprefix("reid:") in how for how in judged):
            yield "The same network judges its identity below, and for gates, which flatters it."


def record(result: Result, summaries: Sequence[ArmSummary], config: BenchConfig, command: str) -> None:
    """Keep tables, lines, machine, versions, command and date in the JSON file the configuration names."""
    assert config.record is not None
    about = {"command": " ".join(_anywhere(command.split())), "machines": machines(result.lines)}
    kept = {**about, "config": _kept(config), **_recorded(result, summaries)}
    images.atomic_write_text(config.record, json.dumps(kept, indent=1, allow_nan=False) + "\n")


def _kept(config: BenchConfig) -> dict[str, Any]:
    """The configuration without where somebody keeps their images, which is nobody else's concern: what, not where."""
    kept = config.model_dump(mode="json", exclude={"out", "record"})
    for key in ("data", "test"):
        if kept[key] is not None:
            kept[key] = {name: Path(value).name if isinstance(value, str) else value for name, value in kept[key].items()}
    return kept


def _recorded(result: Result, summaries: Sequence[ArmSummary]) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {}
    for one in summaries:
        rows.setdefault(one.baseline, {})[one.arm] = {
            "seeds": one.seeds,
            "scores": {key: {"mean": m, "std": None if np.isnan(s) else s} for key, (m, s) in one.scores.items()},
            "gains": _gains(one.gains), **({"beyond": {one.alone: _gains(one.gains_beyond)}} if one.alone else {}),
            "seconds": one.seconds, "train_images": one.train_images,
        }  # fmt: skip
    quality = {name: found.as_json() for name, found in result.quality.items()}
    return {"baselines": rows, "quality": quality, "verdicts": verdicts(summaries), "lines": result.lines}


def _gains(gains: Mapping[str, Gain]) -> dict[str, Any]:
    return {
        score: {
            "over_queries": gain.over_queries._asdict(), "query_p": gain.query_p,
            "over_trainings": gain.over_trainings and gain.over_trainings._asdict(), "training_p": gain.training_p,
        }
        for score, gain in gains.items()
    }  # fmt: skip


def _anywhere(words: Sequence[str]) -> Iterator[str]:
    """A command's words as they would read on any machine."""
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("out", "record"):
            yield f"{key}={Path(value).name}" if equals and key.startswith(("data.", "test.")) else word


def write_shares(results: Mapping[float, Result], config: BenchConfig, command: str) -> Path:
    """Low-data curves: a report for every share, and beside them shares.md and shares.png; the path of shares.md."""
    folder = next(iter(results.values())).folder.parent
    found = {share: summarise(result) for share, result in results.items()}
    for share, result in results.items():
        write(result, f"{config.name}, {100 * share:g} % of the training images", command)
    _share_plot(found, folder / "shares.png")
    path = folder / "shares.md"
    images.atomic_write_text(path, "\n\n".join(_shares(results, found, config, command)) + "\n")
    if config.record:
        lines = [line for result in results.values() for line in result.lines]
        kept = {"command": " ".join(_anywhere(command.split())), "machines": machines(lines), "config": _kept(config)}
        parts = {f"{share:g}": _recorded(results[share], found[share]) for share in results}
        images.atomic_write_text(config.record, json.dumps({**kept, "shares": parts}, indent=1, allow_nan=False) + "\n")
    return path


def _shares(results: Mapping[float, Result], found: Mapping[float, list[ArmSummary]], config: BenchConfig, command: str) -> Iterator[str]:
    yield f"# Re-ID with part of the training images: {config.name}"
    yield (
        "mAP in percent, mean ± standard deviation over seeds; below, the gain over `none` with its 95 % interval over queries and "
        "trainings (over queries with one seed) and Holm's p within its share. Generators were trained on the same part alone."
    )
    for baseline in by_baseline(next(iter(found.values()))):
        own = {share: [one for one in summaries if one.baseline == baseline] for share, summaries in found.items()}
        yield f"## Baseline `{baseline}`"
        heads = [f"{100 * share:g} % ({results[share].lines[0]['train_images']:,})" for share in own]
        rows = [["arm", *heads], ["---", *["---:"] * len(heads)]]
        for i, one in enumerate(next(iter(own.values()))):
            rows.append([one.arm, *(f"{percent(*at[i].scores['map'])}{_share_gain(at[i])}" for at in own.values())])
        yield "\n".join("| " + " | ".join(row) + " |" for row in rows)
    yield "![mAP against the share of training images](shares.png)"
    yield machines_text(command, [line for result in results.values() for line in result.lines])


def _share_gain(one: ArmSummary) -> str:
    if not one.gains:
        return ""
    gain, p_value = one.gains["map"].deciding
    return f"<br>{points(gain)}, p {p_text(p_value)}"


def scores_table(summaries: Sequence[ArmSummary]) -> str:
    """One baseline's arms as Markdown: scores in percent (mean ± std over seeds), images, steps and seconds."""
    names = {score: name for score, name in {**SCORES, **RERANKED}.items() if score in summaries[0].scores}
    columns: list[tuple[str, Callable[[ArmSummary], str]]] = [
        *((name, lambda one, score=score: percent(*one.scores[score])) for score, name in names.items()),
        ("images", lambda one: f"{one.train_images:,}"),
        ("steps", lambda one: f"{one.steps:,}"),
        ("seconds", lambda one: f"{one.seconds:.0f}"),
    ]  # fmt: skip
    return _markdown(summaries, columns)


def gains_table(summaries: Sequence[ArmSummary]) -> str:
    """One baseline's gains over `none` as Markdown, in points with 95 % intervals and Holm's p-values; empty without arms."""
    if not any(one.gains for one in summaries):
        return ""
    columns: list[tuple[str, Callable[[ArmSummary], str]]] = []
    for score, name in TESTED.items():
        columns += [
            (f"Δ {name}", lambda one, score=score: points(one.gains[score].over_queries)),
            ("p", lambda one, score=score: p_text(one.gains[score].query_p)),
            (f"Δ {name}, trainings too", lambda one, score=score: points(one.gains[score].over_trainings)),
            ("p", lambda one, score=score: p_text(one.gains[score].training_p)),
        ]
    return _markdown([one for one in summaries if one.gains], columns)


def _markdown(summaries: Sequence[ArmSummary], columns: Sequence[tuple[str, Callable[[ArmSummary], str]]]) -> str:
    rows = [["arm", *(head for head, _ in columns)], ["---", *["---:"] * len(columns)]]
    rows += [[one.arm, *(cell(one) for _, cell in columns)] for one in summaries]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
