"""The report: tables of arms with their gains and intervals, sample sheets, CMC curves. A view of results, no more."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reid_aug import images
from reid_aug.bench.arms import COPIES, ORACLE
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.curves import plot_cmc, plot_shares
from reid_aug.bench.results import machines, machines_text
from reid_aug.bench.run import Result
from reid_aug.bench.summary import (
    RERANKED,
    SCORES,
    TESTED,
    ArmSummary,
    Gain,
    by_baseline,
    p_text,
    percent,
    points,
    share_text,
    summarise,
    verdicts,
)
from reid_aug.bench.targets import trained_on
from reid_aug.bench.tuning_report import about_tuning, tuning_section
from reid_aug.quality.measure import Quality
from reid_aug.quality.tables import limb_table, markdown
from reid_aug.quality.tables import table as quality_table

Columns = Sequence[tuple[str, Callable[[ArmSummary], str]]]  # each column's head, and its cell of an arm

_STATISTICS = (
    "Gains over `none` are in points, with 95 % intervals. Δ: a paired bootstrap over queries, scores averaged over seeds, and p by sign "
    "flips: they speak of other queries and these very trainings. Trainings too: Welch's t over queries and seeds, which decides where "
    "there are two seeds or more. Queries are taken as independent, though several are of one person, so true intervals may be wider. An "
    "arm with erasing or grey patches is judged by what it gains over those alone, where that is an arm. p-values are Holm's for all of "
    "these: every arm of every baseline beside `none`, and those with erasing beside `erasing`, too."
)
_ONCE = "Each generator was trained once, on one data set, and nothing here speaks of others."
_ARMS = (
    f"Arms: `none` real images alone; `{COPIES}` the same images once more, as often as other arms add synthetic ones; `{ORACLE}` the true "
    "images of what a generator is asked for (rendered data only); `erasing` random erasing (Zhong et al. 2020) of real images; "
    "`grey-patch` rectangles without colour in them (Gong et al. 2021); any other name: that generator's images, and after a plus sign "
    "the variant in which they enter."
)
_SHARE = (
    f"Share of the oracle's gain: an arm's Δ mAP over that of `{ORACLE}`, or of the oracle named, with Fieller's 95 % interval over "
    "queries and trainings; only where the oracle's own interval lies above 0."
)


def write(result: Result, summaries: Sequence[ArmSummary], about: str, command: str) -> Path:
    """Write report.md and cmc.png to the run's folder, and return the report's path; `summaries` are the result's."""
    plot_cmc(summaries, result.folder / "cmc.png")
    path = result.folder / "report.md"
    images.atomic_write_text(path, compose(result, summaries, about, command))
    return path


def compose(result: Result, summaries: Sequence[ArmSummary], about: str, command: str) -> str:
    """Compose the whole report as Markdown."""
    first = result.lines[0]
    sheets = [name for name in result.quality if (result.folder / "samples" / f"{name}.png").exists()]
    share = "" if first["share"] is None else f"{100 * first['share']:g} % of the training images: "
    parts = [
        f"# Re-ID with and without augmentation: {about}",
        f"{share}{first['identities']} identities, {first['queries']} queries, {first['gallery']} gallery images. Scores in percent, "
        "mean ± standard deviation over seeds.",
        *tables(result, summaries),
        "## What may be said",
        "\n".join(f"* {sentence}" for sentence in verdicts(summaries)),
        " ".join((_STATISTICS, about_tuning(result.tuned), _ONCE)),
        _SHARE if any(summary.oracle_share for summary in summaries) else "",
        " ".join((_ARMS, *result.notes)),
        *tuning_section(result.tuned, result.tuning),
        " ".join(_perceptual(result.perceptual, result.quality)),
        *_image_quality(result.quality),
        "![CMC](cmc.png)",
        *[f"`{name}`, held-out people: source, target pose, result, truth.\n\n![{name}](samples/{name}.png)" for name in sheets],
        machines_text(command, result.lines),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def tables(result: Result, summaries: Sequence[ArmSummary]) -> Iterator[str]:
    """Yield each baseline's heading and its two tables."""
    for name, arms in by_baseline(summaries).items():
        line = next(line for line in result.lines if line["baseline"] == name)
        size, seeds = " × ".join(str(n) for n in line["size"]), f"{arms[0].seeds} seed{'s' * (arms[0].seeds > 1)}"
        yield f"## Baseline `{name}`"
        yield f"{line['model']}, {line['weights']}, images of {size}, {line['steps']:,} steps in every arm, {seeds}."
        yield scores_table(arms)
        yield gains_table(arms)
        yield _resolvable(arms)


def scores_table(arms: Sequence[ArmSummary]) -> str:
    """Compose a baseline's arms as Markdown: scores in percent (mean ± std over seeds), images, steps and seconds."""
    names = {score: name for score, name in {**SCORES, **RERANKED}.items() if score in arms[0].scores}
    columns: Columns = [
        *((name, lambda arm, score=score: percent(*arm.scores[score])) for score, name in names.items()),
        ("images", lambda arm: f"{arm.train_images:,}"),
        ("steps", lambda arm: f"{arm.steps:,}"),
        ("seconds", lambda arm: f"{arm.seconds:.0f}"),
    ]  # fmt: skip
    return _by_arm(arms, columns)


def gains_table(arms: Sequence[ArmSummary]) -> str:
    """Compose a baseline's gains over `none` as Markdown, in points with 95 % intervals and Holm's p-values; empty without any."""
    if not any(arm.gains for arm in arms):
        return ""
    columns: list[tuple[str, Callable[[ArmSummary], str]]] = []
    for score, name in TESTED.items():
        columns += [
            (f"Δ {name}", lambda arm, score=score: points(arm.gains[score].over_queries)),
            ("p", lambda arm, score=score: p_text(arm.gains[score].query_p)),
            (f"Δ {name}, trainings too", lambda arm, score=score: points(arm.gains[score].over_trainings)),
            ("p", lambda arm, score=score: p_text(arm.gains[score].training_p)),
        ]
    if any(arm.oracle_share for arm in arms):
        columns.append(("share of the oracle's gain", _oracle_share))
    return _by_arm([arm for arm in arms if arm.gains], columns)


def _oracle_share(arm: ArmSummary) -> str:
    other = f" of `{arm.oracle}`" if arm.oracle_share and arm.oracle != ORACLE else ""
    return share_text(arm.oracle_share) + other


def _resolvable(arms: Sequence[ArmSummary]) -> str:
    """Say what gain these trainings can tell from luck; empty with a single seed."""
    least = sorted((arm.resolvable, arm.arm) for arm in arms if arm.resolvable is not None)
    if not least:
        return ""
    (low, first), (high, last) = least[0], least[-1]
    span = f"{100 * low:.1f}" if len(least) == 1 else f"{100 * low:.1f} (`{first}`) to {100 * high:.1f} (`{last}`)"
    return (
        f"With {arms[0].seeds} seeds, a true gain over `none` of {span} points of mAP is found in four of five such benchmarks (power "
        "80 %, two-sided α 5 %, Welch's t over queries and seeds, before Holm's correction); smaller ones are missed more often."
    )


def _by_arm(arms: Sequence[ArmSummary], columns: Columns) -> str:
    return _table(["arm", *(head for head, _ in columns)], [[arm.arm, *(cell(arm) for _, cell in columns)] for arm in arms])


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown([heads, ["---", *["---:"] * (len(heads) - 1)], *rows])


def _perceptual(perceptual: Mapping[str, str], quality: Mapping[str, Quality]) -> Iterator[str]:
    """Say what generators' perceptual terms compared images on, for those whose papers have such terms."""
    for generator, network in perceptual.items():
        if network == "none":
            yield f"`{generator}` was trained with its perceptual terms turned off (`perceptual.weights=none`)."
            continue
        yield f"`{generator}` was trained to look alike to `{network}`, too."
        judges = [value.how for value in quality[generator].values.values()] if generator in quality else []
        if any(network.removeprefix("reid:") in how for how in judges):
            yield "The same network judges its identity below, and for gates, which flatters it."


def _image_quality(quality: dict[str, Quality]) -> Iterator[str]:
    """Yield every metric of every generator, and limb by limb where the truth is known."""
    if quality:
        counts = {measured.images for measured in quality.values()}
        yield f"## Image quality\n\n{' or '.join(f'{n:,}' for n in sorted(counts))} held-out pairs a generator."
        yield quality_table(quality)
        yield limb_table(quality)
        yield "## Pictures"


def write_shares(results: Mapping[float, Result], config: BenchConfig, command: str) -> Path:
    """Write low-data curves: shares.md and shares.png, a report for every share, and the record; return the path of shares.md."""
    folder = next(iter(results.values())).folder.parent
    summaries = {share: summarise(result) for share, result in results.items()}
    for share, result in results.items():
        write(result, summaries[share], f"{config.name}, {100 * share:g} % of the training images", command)
    plot_shares(summaries, folder / "shares.png")
    path = folder / "shares.md"
    images.atomic_write_text(path, "\n\n".join(_shares(results, summaries, config, command)) + "\n")
    if config.record:
        lines = [line for result in results.values() for line in result.lines]
        parts = {f"{share:g}": _recorded(results[share], summaries[share]) for share in results}
        _write_record(config, {**_about(lines, config, command), "shares": parts})
    return path


def _shares(
    results: Mapping[float, Result], summaries: Mapping[float, list[ArmSummary]], config: BenchConfig, command: str
) -> Iterator[str]:
    """Yield the parts of shares.md: for every baseline a table of arms × shares."""
    yield f"# Re-ID with part of the training images: {config.name}"
    yield (
        "mAP in percent, mean ± standard deviation over seeds; below, the gain over `none` with its 95 % interval over queries and "
        "trainings (over queries with one seed) and Holm's p within its share."
    )
    yield " ".join(trained_on(config, "part of the training images"))
    heads = ["arm", *(f"{100 * share:g} % ({result.lines[0]['train_images']:,})" for share, result in results.items())]
    for baseline in by_baseline(next(iter(summaries.values()))):
        yield f"## Baseline `{baseline}`"
        columns = [by_baseline(of_share)[baseline] for of_share in summaries.values()]
        rows = [[arms[0].arm, *(f"{percent(*arm.scores['map'])}{_share_gain(arm)}" for arm in arms)] for arms in zip(*columns, strict=True)]
        yield _table(heads, rows)
    yield "![mAP against the share of training images](shares.png)"
    yield machines_text(command, [line for result in results.values() for line in result.lines])


def _share_gain(arm: ArmSummary) -> str:
    if not arm.gains:
        return ""
    gain, p_value = arm.gains["map"].deciding
    return f"<br>{points(gain)}, p {p_text(p_value)}"


def record(result: Result, summaries: Sequence[ArmSummary], config: BenchConfig, command: str) -> None:
    """Keep tables, lines, machine, versions, command and date in the JSON file that the configuration names."""
    _write_record(config, {**_about(result.lines, config, command), **_recorded(result, summaries)})


def _write_record(config: BenchConfig, values: Mapping[str, Any]) -> None:
    assert config.record is not None
    images.atomic_write_text(config.record, json.dumps(values, indent=1, allow_nan=False) + "\n")


def _about(lines: Sequence[Mapping[str, Any]], config: BenchConfig, command: str) -> dict[str, Any]:
    """Tell how results came about, without where somebody keeps their images, which is nobody else's concern."""
    values = config.model_dump(mode="json", exclude={"out", "record"})
    for key in ("data", "test"):
        if values[key] is not None:
            values[key] = {name: Path(value).name if isinstance(value, str) else value for name, value in values[key].items()}
    return {"command": " ".join(_anywhere(command.split())), "machines": machines(lines), "config": values}


def _anywhere(words: Sequence[str]) -> Iterator[str]:
    """Yield a command's words as they would read on any machine."""
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("out", "record"):
            yield f"{key}={Path(value).name}" if equals and key.startswith(("data.", "test.")) else word


def _recorded(result: Result, summaries: Sequence[ArmSummary]) -> dict[str, Any]:
    """Put scores, gains, image quality, verdicts and lines into plain tables."""
    rows: dict[str, dict[str, Any]] = {}
    for summary in summaries:
        rows.setdefault(summary.baseline, {})[summary.arm] = {
            "seeds": summary.seeds,
            "scores": {key: {"mean": m, "std": None if np.isnan(s) else s} for key, (m, s) in summary.scores.items()},
            "gains": _gains(summary.gains), **({"beyond": {summary.alone: _gains(summary.gains_beyond)}} if summary.alone else {}),
            "resolvable": summary.resolvable,
            **({"share of": {summary.oracle: summary.oracle_share._asdict()}} if summary.oracle and summary.oracle_share else {}),
            "seconds": summary.seconds, "train_images": summary.train_images,
        }  # fmt: skip
    quality = {name: measured.as_json() for name, measured in result.quality.items()}
    trials = {"trials": [line for tuned in result.tuned for line in tuned.lines]} if result.tuned else {}
    return {"baselines": rows, **trials, "quality": quality, "verdicts": verdicts(summaries), "lines": result.lines}


def _gains(gains: Mapping[str, Gain]) -> dict[str, Any]:
    return {
        score: {
            "over_queries": gain.over_queries._asdict(), "query_p": gain.query_p,
            "over_trainings": gain.over_trainings and gain.over_trainings._asdict(), "training_p": gain.training_p,
        }
        for score, gain in gains.items()
    }  # fmt: skip
