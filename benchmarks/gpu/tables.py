"""Write the tables of the GPU campaign into benchmarks/gpu/README.md from its records: what has not run yet says so.

    python -m benchmarks.gpu.tables [--records FILE] [--check]

Between the two comments of the page everything is written anew from `results/gpu/campaign.jsonl` and `predicted.json`.
`--check` writes nothing, and its exit code is 1 where the page is not what the records say.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu.cells import LEARN_S, PAPERS
from benchmarks.gpu.record import read_lines
from benchmarks.gpu.table_cells import Table
from benchmarks.gpu.timing_model import FILE, RESULTS, predicted_seconds
from reid_aug.bench.statistics import mean_std, over_seeds
from reid_aug.bench.summary import compared_with, percent
from reid_aug.images import atomic_write_text

PAGE = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- tables: python -m benchmarks.gpu.tables -->", "<!-- end of tables -->"
NOT_YET = "not run yet"
GENERATORS = ("warpblend", *PAPERS)
Records = Mapping[str, dict[str, Any]]


def compose(records: Records, predicted: Mapping[str, Any]) -> str:
    """Put all tables together."""
    beside = (_steps(records, predicted), _forwards(records, predicted))
    parts = (_measured_on(records), _cells(records), *beside, _learning(records), _reid(records))
    return "\n".join(line for part in parts for line in part)


def read(file: Path) -> dict[str, dict[str, Any]]:
    """Read the last good record of every cell, by name; those of the tiny form say nothing."""
    return {line["cell"]: line for line in read_lines(file) if "error" not in line and not line["tiny"]}


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"| --- |{' ---: |' * (len(heads) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _number(value: float | None, unit: str = "") -> str:
    return NOT_YET if value is None else f"{value:,.3g}{unit}" if value < 1000 else f"{value:,.0f}{unit}"


def _measured_on(records: Records) -> Iterator[str]:
    devices = sorted({line["device"] for line in records.values()})
    yield f"Measured on {', '.join(devices)}." if devices else "No cell has run on a GPU yet."
    yield ""


def _cells(records: Records) -> Iterator[str]:
    """Tell of every cell without a table of its own whether it ran."""
    rows = [[f"`{name}`", records[name].get("said", "done") if name in records else NOT_YET] for name in ("tests", "launches")]
    steps = {name: row for name, row in records.get("stacked", {}).items() if isinstance(row, dict) and "stacked_s" in row}
    ratios = [f"`{name}` {row['one_by_one_s'] / row['stacked_s']:.1f} ×" for name, row in steps.items()]
    rows.append(["`stacked`: four seeds at once over one by one", ", ".join(ratios) or NOT_YET])
    checks = [line for name, line in records.items() if name.startswith("checks/")]
    rows.append(["`checks`", f"{sum(line['ok'] for line in checks)} of {len(checks)} ok" if checks else NOT_YET])
    yield from _table(("cell", "outcome"), rows)


def _steps(records: Records, predicted: Mapping[str, Any]) -> Iterator[str]:
    """Compare steps of the Re-ID baselines with what was predicted."""
    yield "Steps of the table's baselines at 128 × 64, in milliseconds, launched kernel by kernel and as CUDA graphs:\n"
    launches, rows = records.get("launches", {}), []
    for name in Table.values()["baselines"]:
        row, model = launches.get(name, {}), predicted["baselines"][name]
        numbers = [f"{model['gflop']:.0f}", f"{model['gbyte']:.1f}", f"{model['launches']:.0f}", f"{1e3 * model['step_s']:.1f}"]
        measured = [_number(None if row.get(key) is None else 1e3 * row[key]) for key in ("step_s", "graphs_step_s")]
        rows.append([f"`{name}`", *numbers, measured[0], f"{1e3 * model['graphed_step_s']:.1f}", measured[1]])
    heads = ("baseline", "GFLOP", "GB", "operations", "predicted", "measured", "predicted, graphs", "measured, graphs")
    yield from _table(heads, rows)


def _forwards(records: Records, predicted: Mapping[str, Any]) -> Iterator[str]:
    """Compare rates of drawing with what was predicted."""
    yield "Images/s of a forward pass at each paper's size, batch 128, bfloat16 in channels-last:\n"
    rows = []
    for name in GENERATORS:
        model, row = predicted["forward"][name], records.get(f"speed/{name}", {}).get("batch 128", {})
        fused = records.get(f"compiled/{name}", {}).get("images_per_s")
        graph, plain = (row.get(f"bfloat16_{key}_images_per_s") for key in ("cuda_graph", "channels_last"))
        work = [f"{model['gflop'] / model['batch']:.1f}", f"{model['gbyte'] / model['batch'] * 1e3:.0f}", f"{model['launches']:.0f}"]
        rates = map(_number, (model["batch"] / model["step_s"], plain, model["images_per_s"], graph, fused))
        best = max((rate for rate in (graph, plain, fused) if rate), default=None)
        rows.append([f"`{name}`", *work, *rates, _share(best, model, records)])
    heads = ("generator", "GFLOP an image", "MB an image", "operations", "predicted", "measured", "predicted, graph", "measured, graph")
    heads = (*heads, "compiled", "share of the floor")
    yield from _table(heads, rows)


def _share(rate: float | None, model: Mapping[str, float], records: Records) -> str:
    """Say which share of what the card's own matrix products and copies allow a rate is."""
    machine = records.get("machine")
    if rate is None or machine is None:
        return NOT_YET
    seconds = max(model["gflop"] / machine["matmul_bfloat16_tflops"] / 1e3, model["gbyte"] / machine["copy_tb_per_s"] / 1e3)
    return f"{rate * seconds / model['batch']:.0%}"


def _learning(records: Records) -> Iterator[str]:
    """Show how far each generator got in its time."""
    rows = []
    if not any(name.startswith("learn/") for name in records):
        yield f"Trainings at full size for a fixed time: {NOT_YET}.\n"
        return
    yield "Trainings at full size for a fixed time:\n"
    for name in GENERATORS:
        line = records.get(f"learn/{name}")
        keys = ("steps", "batch", "pairs_per_s", "schedule_steps")
        rows.append([f"`{name}`", f"{LEARN_S[name]:.0f}", *(NOT_YET if line is None else _number(line[key]) for key in keys)])
    yield from _table(("generator", "seconds", "steps", "batch", "pairs/s", "its schedule's steps"), rows)


def _reid(records: Records) -> Iterator[str]:
    """Show the Re-ID table: gains over `none`, of arms with erasing over `erasing`, with intervals over queries and trainings."""
    arms = Table.arms()
    for baseline in Table.values()["baselines"]:
        lines = {arm: _of_arm(records, baseline, arm) for arm in arms}
        trainings = next((line for found in lines.values() for line in found.values()), None)
        if trainings is None:
            seconds = predicted_seconds(f"reid/{baseline}/none/0")
            yield f"`{baseline}`: {NOT_YET}; {seconds:.0f} s are predicted for each of its trainings.\n"
            continue
        yield f"`{baseline}`, {trainings['steps']:,} steps, from {trainings['weights']}:\n"
        yield from _table(("arm", "seeds", "rank-1", "mAP", "gain in mAP", "seconds"), [_arm_row(arm, arms, lines) for arm in arms])


def _of_arm(records: Records, baseline: str, arm: str) -> dict[int, dict[str, Any]]:
    """Give an arm's lines by seed."""
    pattern = re.compile(re.escape(f"reid/{baseline}/{arm}/") + r"(\d+)")
    return {int(match[1]): line for name, line in records.items() if (match := pattern.fullmatch(name))}


def _arm_row(arm: str, arms: Sequence[str], lines: Mapping[str, dict[int, dict[str, Any]]]) -> list[str]:
    found = list(lines[arm].values())
    if not found:
        return [f"`{arm}`", *[NOT_YET] * 5]
    over = None if arm == "none" else compared_with(arm, arms)[0] or "none"
    scores = [percent(*mean_std([line[key] for line in found])) for key in ("rank1", "map")]
    others = list(lines[over].values()) if over is not None else []
    test = over_seeds([line["ap"] for line in found], [line["ap"] for line in others]) if others else None
    gain = "" if test is None else f"{100 * test.interval.mean:+.1f} [{100 * test.interval.low:+.1f}, {100 * test.interval.high:+.1f}]"
    gain += f" over `{over}`" if gain and over != "none" else ""
    seconds = sum(line["seconds"] for line in found) / len(found)
    return [f"`{arm}`", str(len(found)), *scores, gain, f"{seconds:.0f}"]


def main(words: Sequence[str] | None = None) -> int:
    """Write the tables into the page, or say whether they are in it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.tables", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=Path, default=RESULTS / "campaign.jsonl", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="write nothing; is the page what the records say?")
    options = parser.parse_args(words)
    page = PAGE.read_text()
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    written = f"{before}{BEGIN}\n\n{compose(read(options.records), json.loads(FILE.read_text()))}\n{END}{after}"
    if options.check:
        print("the page is what the records say" if written == page else f"{PAGE.name} is out of date: run python -m benchmarks.gpu.tables")
        return int(written != page)
    atomic_write_text(PAGE, written)
    print(f"tables: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
