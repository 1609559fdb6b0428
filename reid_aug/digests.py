"""Digests of files' content, computed once: kept beside path, size and times in a small cache until a file changes."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tqdm import tqdm

from reid_aug.images import atomic_write_text

# A file written this short a time ago may be written again without its times showing it: clocks of file systems have a grain.
SETTLED_S = 2.0


def cache_folder() -> Path:
    """Name the user's folder of what need not be made again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "reid-aug"


def file_digests(paths: Sequence[str | os.PathLike[str]], remember_in: str | os.PathLike[str] | None = None) -> list[str]:
    """Give the SHA-256 of each file's bytes, in hex; FileNotFoundError names one that is missing.

    What was computed is kept in the folder `remember_in` (default: the user's cache) beside path, size, and the times of the
    last change of content and of anything, of which no tool can set the latter: a file is read again only where one of them changed.
    """
    if not paths:
        return []
    files = [os.path.abspath(path) for path in paths]
    memory = _memory(files, Path(remember_in or cache_folder()))
    known = _recalled(memory)
    with ThreadPoolExecutor(8) as pool:  # hashlib lets go of the GIL
        now = time.time_ns()
        states = list(pool.map(_state, files))
        unknown = [(file, state) for file, state in dict(zip(files, states, strict=True)).items() if known.get(file, [])[:-1] != state]
        bar = tqdm(pool.map(_sha256, (file for file, _ in unknown)), "reading images", len(unknown), delay=2, disable=None, leave=False)
        read = {file: [*state, digest] for (file, state), digest in zip(unknown, bar, strict=True)}
    settled = {file: entry for file, entry in read.items() if max(entry[1:3]) < now - SETTLED_S * 1e9}
    if settled:
        _remember(memory, {**known, **settled})
    return [(read.get(file) or known[file])[-1] for file in files]


def _memory(files: Sequence[str], folder: Path) -> Path:
    """Name the file in which digests of these files are kept: one for each folder that a data set lies in."""
    root = os.path.commonpath([os.path.dirname(file) for file in files])
    return folder / "digests" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def _state(file: str) -> list[int]:
    """Give what changes when a file does: its length in bytes, the nanoseconds of its content's and of its own last change."""
    status = os.stat(file)
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _sha256(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _recalled(memory: Path) -> dict[str, list[Any]]:
    """Read a cache file: path → [size, mtime, ctime, digest]; empty where there is none, or none that can be read."""
    try:
        entries = json.loads(memory.read_text(encoding="utf-8"))
        return {file: entry for file, entry in entries.items() if isinstance(entry, list) and len(entry) == 4}
    except (OSError, ValueError, AttributeError):
        return {}


def _remember(memory: Path, entries: dict[str, list[Any]]) -> None:
    """Write a cache file; a folder that can't be written to costs no more than reading images again."""
    with contextlib.suppress(OSError):
        atomic_write_text(memory, json.dumps(entries))
