"""Synthetic images on disk: files first, each written atomically, then the manifest that says they are all there."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tqdm import tqdm

from reid_aug import images
from reid_aug.data.people import PersonImage
from reid_aug.synthesis import manifest
from reid_aug.synthesis.manifest import Manifest, SyntheticRow

STARTED = "manifest.started.json"


class Renderer(Protocol):
    """What `fill` needs: an Augmenter, or anything else that renders rows (a benchmark's oracle is one)."""

    @property
    def made_by(self) -> dict[str, Any]: ...

    def render(
        self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]
    ) -> Iterator[tuple[SyntheticRow, np.ndarray]]: ...


def fill(
    root: str | os.PathLike[str], renderer: Renderer, rows: Sequence[SyntheticRow], people: Sequence[PersonImage],
    also: Callable[[], dict[str, str]] | None = None, sources: str | None = None,
) -> Manifest:  # fmt: skip
    """Render `rows` into `root` and write their manifest; what is already there, whole and of the same plan, is kept.

    `also` puts other files there before the manifest is written, which lists them with the digests it returns. `sources`
    is a digest of what all of that is made from, where the folder's name does not say it.

    With its manifest in place a folder costs one listing. Without one it is unfinished: every file found is decoded
    before it is kept. ValueError when the folder is of another plan, or of other sources.
    """
    root, plan = Path(root), _plan_digest(renderer, rows)
    known = opened(root, plan, sources)
    if known is not None:
        todo = {row.path for row in manifest.unfinished(known.rows, root)}
        if not todo and all((root / path).is_file() for path in known.files):
            return known
        written = {row.path: row for row in known.rows if row.path not in todo}
        # An image rendered again is of the same pose; what a network said of the lost one is gone.
        novelty = {row.path: row.pose_novelty for row in known.rows}
        rows = [replace(row, pose_novelty=novelty.get(row.path)) for row in rows]
        scored = {key: known.made_by[key] for key in (manifest.SCORED_BY,) if key in known.made_by}
    else:
        written, scored = _survivors(root, rows), {}
    missing = [row for row in rows if row.path not in written]
    bar = tqdm(renderer.render(missing, people), total=len(missing), desc=f"render into {root.name}", unit="image", disable=None)
    with ThreadPoolExecutor(4) as pool:
        pending: list[Future[SyntheticRow]] = []
        for row, image in bar:
            pending.append(pool.submit(_write, root, row, image))
            while len(pending) > 256:  # never hold a whole data set in memory
                written |= _result(pending.pop(0))
        for future in pending:
            written |= _result(future)
    files = also() if also is not None else {}
    if known is not None:  # one from before sources were recorded: what of it is left may be of others
        sources = known.made_by.get(manifest.SOURCES)
    made_by = {**renderer.made_by, "plan": plan, **({manifest.SOURCES: sources} if sources else {}), **scored}
    whole = Manifest(tuple(written[row.path] for row in rows), made_by, files)
    finish(whole, root)
    return whole


def _plan_digest(renderer: Renderer, rows: Sequence[SyntheticRow]) -> str:
    content = json.dumps([renderer.made_by, [(row.path, row.source, row.target, row.seed) for row in rows]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def opened(root: Path, plan: str, sources: str | None = None) -> Manifest | None:
    """Open a folder of this plan and give its manifest; None where there is none yet, once the folder is marked as ours and unfinished.

    ValueError or FileExistsError for a folder of another plan, made from other `sources`, or that holds anything else. A manifest
    from before sources were recorded passes.
    """
    made = {"plan": plan, **({manifest.SOURCES: sources} if sources else {})}
    if (root / manifest.NAME).exists():
        known = Manifest.load(root / manifest.NAME)
        if known.made_by.get("plan") != plan:
            raise ValueError(f"{root} holds images of another plan: give another folder or remove it")
        if sources is not None and known.made_by.get(manifest.SOURCES, sources) != sources:
            raise ValueError(f"{root} was made from other images: give another folder or remove it")
        return known
    mark = root / STARTED
    if mark.exists():
        begun = json.loads(mark.read_text())
        if begun.get("plan") != plan:
            raise ValueError(f"{root} holds the beginning of another plan: give another folder or remove it")
        if begun.get(manifest.SOURCES) != sources:
            raise ValueError(f"{root} holds the beginning of what is made from other images: give another folder or remove it")
        return None
    # A run killed while it wrote its mark leaves a hidden temporary file and nothing else.
    if root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no manifest: give another folder")
    images.atomic_write_text(mark, json.dumps(made))
    return None


def finish(whole: Manifest, root: Path) -> None:
    """Write the manifest of a folder whose files are all there, and take its mark away."""
    whole.save(root / manifest.NAME)
    (root / STARTED).unlink(missing_ok=True)


def _survivors(root: Path, rows: Sequence[SyntheticRow]) -> dict[str, SyntheticRow]:
    """Find the rows whose file is there and whole, with its length and digest."""
    survivors = {}
    for row in rows:
        path = root / row.path
        if path.exists() and manifest.verify_row(row, root) is None:
            survivors[row.path] = _record(row, path.read_bytes())
    return survivors


def _write(root: Path, row: SyntheticRow, image: np.ndarray) -> SyntheticRow:
    data = images.encode(image, Path(row.path).suffix)
    images.atomic_write_bytes(root / row.path, data)
    return _record(row, data)


def _record(row: SyntheticRow, data: bytes) -> SyntheticRow:
    return replace(row, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _result(future: Future[SyntheticRow]) -> dict[str, SyntheticRow]:
    row = future.result()
    return {row.path: row}
