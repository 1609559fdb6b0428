"""A benchmark's results on disk: one line of JSON each, and per-query scores beside them for paired statistics."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
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
    """Name the file of the per-query scores of one line of results."""
    return folder / "scores" / f"{arm}-{digest}-{seed}.npz"


def save_scores(path: Path, ranking: Ranking) -> None:
    """Keep what paired statistics need: average precision and first correct rank of every query, and the CMC."""
    scores = {name: getattr(ranking, name) for name in ("ap", "first_rank", "inp", "valid", "cmc")}
    with replacing(path) as temporary, open(temporary, "xb") as file:  # numpy would add a suffix to a name
        np.savez_compressed(file, **scores)


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line and see it to the disk; the torn line that a killed run left is ended first."""
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
    """Read the whole lines of results.jsonl whose per-query scores are there too; a torn line is passed over."""
    return [line for line in read_lines(path) if scores_file(path.parent, line["arm"], line["config"], line["seed"]).exists()]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the whole lines of a file of JSON lines, none where it is not there; a torn line is passed over."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict):
            lines.append(line)
    return lines


def cmc_at(ranking: Ranking, rank: int) -> float:
    """Give the CMC at a rank; in a gallery shorter than that, at its end, where every match has come."""
    return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])


def device_name() -> str:
    """Name what trains: the GPU, or the processor and how many of its threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """Name the processor as the kernel does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """List the versions that decide numbers."""
    return {"reid-aug": package_version(), "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "torchreid", "numpy")
    }


def machines(lines: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """List the devices that made lines of results: each with its versions, how many lines, and its first and last day."""
    days: dict[tuple[Any, ...], list[str]] = {}
    for line in lines:
        days.setdefault((line["device"], *line["versions"].items()), []).append(line["date"][:10])
    return [
        {"device": device, "versions": dict(names), "lines": len(dates), "from": min(dates), "to": max(dates)}
        for (device, *names), dates in days.items()
    ]


def machines_text(command: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """Name the command and every machine that ran a part of it, as Markdown."""
    parts = []
    for machine in machines(lines):
        names = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
        days = machine["from"] if machine["from"] == machine["to"] else f"{machine['from']} to {machine['to']}"
        parts.append((machine["lines"], f"{machine['device']}; {names}; {days}."))
    if len(parts) == 1:
        return f"`{command}` on {parts[0][1]}"
    trainings = [f"* {count} of {len(lines)} trainings on {text}" for count, text in parts]
    return f"`{command}`, not all on one machine with the same versions:\n\n" + "\n".join(trainings)
