"""The report: a table of arms with their gains and intervals, sample sheets, CMC curves. A view of results, no more."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from reid_aug import images
from reid_aug.bench.harness import BenchConfig, Result, scores_file
from reid_aug.bench.quality import Quality, limb_table
from reid_aug.bench.quality import table as quality_table
from reid_aug.bench.statistics import Interval, SeedTest, holm, mean_std, over_seeds, paired_bootstrap, sign_flip_test

BASE, COPIES = "none", "copies"
SCORES = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "map": "mAP", "minp": "mINP"}


@dataclass(frozen=True)
class ArmSummary:
    """One arm over its seeds: score → (mean, std) in fractions, and gains over `none` with 95 % intervals.

    p-values are Holm's for as many arms as there are beside `none`: of mAP over queries (sign flips), and over queries
    and trainings.
    """

    arm: str
    seeds: int
    scores: dict[str, tuple[float, float]]
    rank1_gain: Interval | None  # None for the arm everything is compared with
    map_gain: Interval | None
    map_gain_over_copies: Interval | None  # None without that arm, and for it and `none`
    map_test: SeedTest | None  # the gain over queries and trainings; None for one seed
    query_p: float | None
    training_p: float | None
    steps: int
    seconds: float
    train_images: int
    cmc: np.ndarray  # mean over seeds


def summarise(result: Result) -> list[ArmSummary]:
    """One summary an arm, in the order of the results."""
    arms = list(dict.fromkeys(line["arm"] for line in result.lines))
    base = _per_query(result, BASE)
    copies = _per_query(result, COPIES) if COPIES in arms else None
    return _corrected([_summary(result, arm, base, copies) for arm in arms])


def _corrected(summaries: list[ArmSummary]) -> list[ArmSummary]:
    """p-values as Holm's method leaves them when every arm beside `none` is tried."""
    for name in ("query_p", "training_p"):
        tried = [i for i, one in enumerate(summaries) if getattr(one, name) is not None]
        adjusted = holm([getattr(summaries[i], name) for i in tried])
        for i, p_value in zip(tried, adjusted.tolist(), strict=True):
            summaries[i] = replace(summaries[i], **{name: p_value})
    return summaries


def _summary(result: Result, arm: str, base: dict[str, np.ndarray], copies: dict[str, np.ndarray] | None) -> ArmSummary:
    lines = [line for line in result.lines if line["arm"] == arm]
    mine = _per_query(result, arm)
    gains = {key: None if arm == BASE else paired_bootstrap(mine[key], base[key]) for key in ("hit", "ap")}
    control = None if copies is None or arm in (BASE, COPIES) else paired_bootstrap(mine["ap"], copies["ap"])
    test = None if arm == BASE else over_seeds(mine["ap"], base["ap"])
    return ArmSummary(
        arm, len(lines), {key: mean_std([line[key] for line in lines]) for key in SCORES}, gains["hit"], gains["ap"], control,
        test, None if arm == BASE else sign_flip_test(mine["ap"], base["ap"]), test and test.p_value,
        lines[0]["steps"], float(np.mean([line["seconds"] for line in lines])), lines[0]["train_images"], mine["cmc"].mean(0),
    )  # fmt: skip


def _per_query(result: Result, arm: str) -> dict[str, np.ndarray]:
    """Average precision and rank-1 hit (S, Q), and CMC (S, R), of an arm's seeds; nan for queries that do not count."""
    kept = [
        np.load(scores_file(result.folder, arm, line["config"], line["seed"])) for line in result.lines if line["arm"] == arm
    ]
    hits = [np.where(one["valid"], one["first_rank"] == 0, np.nan) for one in kept]
    return {"ap": np.stack([one["ap"] for one in kept]), "hit": np.stack(hits), "cmc": np.stack([one["cmc"] for one in kept])}


def write(result: Result, about: str, command: str) -> Path:
    """Write report.md, cmc.png and the table to the run's folder; the report's path."""
    summaries = summarise(result)
    _cmc_plot(summaries, result.folder / "cmc.png")
    path = result.folder / "report.md"
    images.atomic_write_text(path, render(result, summaries, about, command))
    return path


def table(summaries: Sequence[ArmSummary], quality: dict[str, Quality]) -> str:
    """The Markdown table: scores in percent (mean ± std over seeds), gains in points with 95 % intervals."""
    head = ["arm", "rank-1", "rank-5", "rank-10", "mAP", "mINP", "Δ rank-1", "Δ mAP", "p", "Δ mAP, trainings too", "p", "SSIM", "mask-SSIM"]
    head += ["images", "steps", "seconds"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for one in summaries:
        found = quality.get(one.arm)
        rows.append([
            one.arm, *[_percent(*one.scores[key]) for key in SCORES], _gain(one.rank1_gain), _gain(one.map_gain), _p(one.query_p),
            _gain(one.map_test and one.map_test.interval), _p(one.training_p),
            *[_quality(found, name) for name in ("SSIM", "mask-SSIM")],
            f"{one.train_images:,}", f"{one.steps:,}", f"{one.seconds:.0f}",
        ])  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _percent(mean: float, std: float) -> str:
    return f"{100 * mean:.1f}" if np.isnan(std) else f"{100 * mean:.1f} ± {100 * std:.1f}"


def _quality(found: Quality | None, name: str) -> str:
    return f"{found.values[name].value:.3f}" if found is not None and name in found.values else "–"


def _gain(gain: Interval | None) -> str:
    return "" if gain is None else f"{100 * gain.mean:+.1f} [{100 * gain.low:+.1f}, {100 * gain.high:+.1f}]"


def _p(value: float | None) -> str:
    return "" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def verdicts(summaries: Sequence[ArmSummary]) -> list[str]:
    """One sentence an arm: what may be said of mAP, against `none` and against the control.

    With two seeds or more the interval over queries and trainings decides, and Holm's p-value; with one, that over queries.
    """
    said = []
    for one in summaries:
        if one.map_gain is not None:
            test, control = one.map_test, one.map_gain_over_copies
            gain, p_value = (one.map_gain, one.query_p) if test is None else (test.interval, one.training_p)
            sure = (gain.low > 0 or gain.high < 0) and p_value is not None and p_value < 0.05
            what = "has no measurable effect" if not sure else "helps" if gain.mean > 0 else "hurts"
            over = "queries, of these trainings alone" if test is None else "queries and trainings"
            against = f"; against `{COPIES}` {_gain(control)} over queries" if control else ""
            said.append(f"`{one.arm}` {what}: mAP {_gain(gain)} points over {over} (Holm's p {_equals(p_value)}){against}.")
    return said


def _equals(p_value: float | None) -> str:
    text = _p(p_value)
    return text if text.startswith("<") else f"= {text}"


def render(result: Result, summaries: Sequence[ArmSummary], about: str, command: str) -> str:
    """The whole report as Markdown."""
    first = result.lines[0]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    sheets = [arm for arm in result.quality if (result.folder / "samples" / f"{arm}.png").exists()]
    parts = [
        f"# Re-ID with and without augmentation: {about}",
        table(summaries, result.quality),
        "\n".join(f"* {sentence}" for sentence in verdicts(summaries)),
        f"Scores in percent, mean ± standard deviation over {summaries[0].seeds} seeds of the baseline ({first['model']}, from scratch, "
        f"{first['steps']:,} steps in every arm; {first['identities']} identities, {first['queries']} queries, "
        f"{first['gallery']} gallery images). "
        "Gains over `none` in points, with 95 % intervals. Δ rank-1 and Δ mAP: a paired bootstrap over queries, scores averaged over "
        "seeds, and p by sign flips: they speak of other queries and these very trainings. Trainings too: Welch's t over queries and "
        "seeds, which decides where there are two seeds or more. p-values are Holm's for all arms beside `none`. Each generator was "
        "trained once, on one data set, and nothing here speaks of others.",
        "Arms: `none` real images alone; `copies` the same images once more, as often as other arms add synthetic ones; `oracle` the true "
        "images of the same people in the same poses (rendered data only); `erasing` random erasing (Zhong et al. 2020) of real images, "
        "and `…+erasing` of that arm's; any other name: that generator's images.",
        " ".join(_perceptual(result.perceptual, result.quality)),
        *_image_quality(result.quality),
        "![CMC](cmc.png)",
        *[f"`{arm}`, held-out people: source, target pose, result, truth.\n\n![{arm}](samples/{arm}.png)" for arm in sheets],
        f"`{command}` on {first['device']}; {versions}; {first['date'][:10]}.",
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
        else:
            yield f"`{arm}` was trained to look alike to `{name}`, too."
            judged = [value.how for value in quality[arm].values.values()] if arm in quality else []
            if any(name.removeprefix("reid:") in how for how in judged):
                yield "The same network judges its identity below, which flatters it."


def record(result: Result, summaries: Sequence[ArmSummary], config: BenchConfig, command: str) -> None:
    """Keep table, lines, machine, versions, command and date in the JSON file the configuration names."""
    assert config.record is not None
    rows = {
        one.arm: {
            "seeds": one.seeds,
            "scores": {key: {"mean": m, "std": None if np.isnan(s) else s} for key, (m, s) in one.scores.items()},
            "rank1_gain": one.rank1_gain and one.rank1_gain._asdict(), "map_gain": one.map_gain and one.map_gain._asdict(),
            "map_gain_over_trainings": one.map_test and one.map_test.interval._asdict(),
            "p": {"queries": one.query_p, "trainings": one.training_p},
            "seconds": one.seconds, "train_images": one.train_images,
            **({"quality": q.as_json()} if (q := result.quality.get(one.arm)) else {}),
        }
        for one in summaries
    }  # fmt: skip
    kept = config.model_dump(mode="json", exclude={"out", "record"})
    # Where somebody keeps their images is nobody else's concern: a record says what, not where.
    if config.data is not None:
        kept["data"] = {key: Path(value).name if isinstance(value, str) else value for key, value in kept["data"].items()}
    command = " ".join(_anywhere(command.split()))
    about = {"command": command, "device": result.lines[0]["device"], "versions": result.lines[0]["versions"], "config": kept}
    images.atomic_write_text(config.record, json.dumps({**about, "arms": rows, "lines": result.lines}, indent=1, allow_nan=False) + "\n")


def _anywhere(words: Sequence[str]) -> Iterator[str]:
    """A command's words as they would read on any machine."""
    for word in words:
        key, equals, value = word.partition("=")
        if key not in ("out", "record"):
            yield f"{key}={Path(value).name}" if equals and key.startswith("data.") else word


def _cmc_plot(summaries: Sequence[ArmSummary], path: Path) -> None:
    """CMC curves of every arm up to rank 20, mean over seeds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for one in summaries:
        ranks = np.arange(1, min(20, len(one.cmc)) + 1)
        axes.plot(ranks, 100 * one.cmc[: len(ranks)], marker="o", markersize=3, label=one.arm)
    axes.set(xlabel="rank", ylabel="queries found (%)", title="Cumulative matching characteristic")
    axes.set_xticks([1, 5, 10, 15, 20])
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path)
