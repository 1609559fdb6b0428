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
    command = shlex.join(["python", f"benchmarks/gpu/{script}", *sys.argv[1:]])
    return {"what": what, "device": name, "versions": versions, "command": command, "date": date.today().isoformat()}


def write(path: Path, record: dict[str, Any]) -> None:
    """Write a file of results whole, or leave the one before; numbers keep four digits."""
    atomic_write_text(path, json.dumps(_rounded(record), indent=1) + "\n")


def failure(error: Exception) -> str:
    """Say in one line of 400 characters at most what went wrong."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
