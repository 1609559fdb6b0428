"""Describe and write what was measured: device, versions, command and date go with every file of results."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from datetime import date
from pathlib import Path
from typing import Any

import torch

from reid_aug.images import atomic_write_text


def begin(what: str, script: str, device: torch.device) -> dict[str, Any]:
    """Give the head of a file of results; RuntimeError where there is no GPU and one is wanted."""
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU here; --device cpu does without")
    versions: dict[str, Any] = {"torch": torch.__version__, "python": platform.python_version()}
    if device.type == "cuda":
        versions |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version()}
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    # Folders of one machine are nobody else's.
    words = (Path(word).name if word.startswith(("/", "~")) else word for word in sys.argv[1:])
    command = shlex.join(["python", "-m", f"benchmarks.gpu.{script.removesuffix('.py')}", *words])
    return {"what": what, "device": name, "versions": versions, "command": command, "date": date.today().isoformat()}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a file of results whole, or leave the one before; numbers keep four digits."""
    atomic_write_text(path, json.dumps(rounded(record), indent=1) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a file of one record a line; a line that a kill tore is left out."""
    lines = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return lines


def failure(error: Exception) -> str:
    """Say in one line of 400 characters at most what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def rounded(value: Any) -> Any:
    """Give four digits of every number in a record."""
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
