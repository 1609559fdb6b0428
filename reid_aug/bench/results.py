"""A benchmark's results on disk: one line of JSON each, and per-query scores beside them for paired statistics."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators import replacing
from reid_aug.baselines.ranking import Ranking
from reid_aug.synthesis.manifest import package_version

RESULTS = "results.jsonl"


def scores_file(folder: Path, arm: str, digest: str, seed: int) -> Path:
    """Where the per-query scores of one line of results are."""
    return folder / "scores" / f"{arm}-{digest}-{seed}.npz"


def save_scores(path: Path, ranking: Ranking) -> None:
    """Keep what paired statistics need: average precision and first correct rank of every query, and the CMC."""
    kept = {name: getattr(ranking, name) for name in ("ap", "first_rank", "inp", "valid", "cmc")}
    with replacing(path) as temporary, open(temporary, "xb") as file:  # numpy would add a suffix to a name
        np.savez_compressed(file, **kept)


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line and see it to the disk; a beginning that a killed run left is ended first."""
    with open(path, "a+b") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def read_results(path: Path) -> list[dict[str, Any]]:
    """The whole lines of results.jsonl whose per-query scores are there too; a torn last line is passed over."""

    def whole() -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and scores_file(path.parent, line["arm"], line["config"], line["seed"]).exists():
                yield line

    return list(whole())


def cmc_at(ranking: Ranking, rank: int) -> float:
    """CMC at a rank; a gallery shorter than it has found by its end whatever there is to find."""
    return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])


def device_name() -> str:
    """What trained: the GPU, or the processor and how many of its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Versions that decide numbers."""
    return {"reid-aug": package_version(), "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "torchreid", "numpy")
    }


def machines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Where lines of results come from: each device with its versions, how many lines it made, and its first and last day."""
    found: dict[tuple[Any, ...], list[str]] = {}
    for line in lines:
        found.setdefault((line["device"], *line["versions"].items()), []).append(line["date"][:10])
    return [
        {"device": device, "versions": dict(names), "lines": len(days), "from": min(days), "to": max(days)}
        for (device, *names), days in found.items()
    ]


def machines_text(command: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """The command and every machine that ran a part of it, as Markdown."""
    told = []
    for one in machines(lines):
        names = ", ".join(f"{name} {number}" for name, number in one["versions"].items())
        days = one["from"] if one["from"] == one["to"] else f"{one['from']} to {one['to']}"
        told.append((one["lines"], f"{one['device']}; {names}; {days}."))
    if len(told) == 1:
        return f"`{command}` on {told[0][1]}"
    trainings = [f"* {count} of {len(lines)} trainings on {text}" for count, text in told]
    return f"`{command}`, not all on one machine with the same versions:\n\n" + "\n".join(trainings)
