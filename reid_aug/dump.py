"""Rendered rows on disk: files first, each written atomically, then the manifest that says they are all there."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from tqdm import tqdm

from generators.pose import Pose, rescale
from reid_aug import images, manifest
from reid_aug.bank import PoseBank
from reid_aug.manifest import Manifest, SyntheticRow
from reid_aug.people import MARKET_FOLDERS, PersonImage
from reid_aug.poses import write_keypoints

STARTED = "manifest.started.json"


class Drawer(Protocol):
    """What `fill` needs: an Augmenter, or anything else that draws rows (the rendered set's truth is one)."""

    @property
    def made_by(self) -> dict[str, Any]: ...

    def render(
        self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]
    ) -> Iterator[tuple[SyntheticRow, np.ndarray]]: ...


def fill(root: str | os.PathLike[str], drawer: Drawer, rows: Sequence[SyntheticRow], people: Sequence[PersonImage]) -> Manifest:
    """Draw `rows` into `root` and write their manifest; what is already there, whole and of the same plan, is kept.

    With its manifest in place a folder costs one listing. Without one it is unfinished: every file found is decoded
    before it is kept. ValueError when the folder is of another plan.
    """
    root, plan = Path(root), _plan_digest(drawer, rows)
    done = root / manifest.NAME
    if done.exists():
        known = Manifest.load(done)
        if known.made_by.get("plan") != plan:
            raise ValueError(f"{root} holds images of another plan: give another folder or remove it")
        todo = {row.path for row in manifest.unfinished(known.rows, root)}
        if not todo:
            return known
        written = {row.path: row for row in known.rows if row.path not in todo}
    else:
        _start(root, plan)
        written = _survivors(root, rows)
    missing = [row for row in rows if row.path not in written]
    bar = tqdm(drawer.render(missing, people), total=len(missing), desc=f"draw into {root.name}", unit="image", disable=None)
    with ThreadPoolExecutor(4) as pool:
        pending: list[Future[SyntheticRow]] = []
        for row, image in bar:
            pending.append(pool.submit(_write, root, row, image))
            while len(pending) > 256:  # never hold a whole data set in memory
                written |= _result(pending.pop(0))
        for future in pending:
            written |= _result(future)
    whole = Manifest(tuple(written[row.path] for row in rows), {**drawer.made_by, "plan": plan})
    whole.save(done)
    (root / STARTED).unlink(missing_ok=True)
    return whole


def _plan_digest(drawer: Drawer, rows: Sequence[SyntheticRow]) -> str:
    said = json.dumps([drawer.made_by, [(row.path, row.source, row.target, row.seed) for row in rows]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _start(root: Path, plan: str) -> None:
    """Mark `root` as ours and unfinished; refuse a folder that holds anything else."""
    mark = root / STARTED
    if mark.exists():
        if json.loads(mark.read_text()).get("plan") != plan:
            raise ValueError(f"{root} holds the beginning of another plan: give another folder or remove it")
        return
    if root.is_dir() and any(root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no manifest: give another folder")
    images.atomic_write_text(mark, json.dumps({"plan": plan}))


def _survivors(root: Path, rows: Sequence[SyntheticRow]) -> dict[str, SyntheticRow]:
    """Rows whose file is there and whole, with its length and digest."""
    found = {}
    for row in rows:
        path = root / row.path
        if path.exists() and manifest.verify_row(row, root) is None:
            found[row.path] = _record(row, path.read_bytes())
    return found


def _write(root: Path, row: SyntheticRow, image: np.ndarray) -> SyntheticRow:
    data = images.encode(image, Path(row.path).suffix)
    images.atomic_write_bytes(root / row.path, data)
    return _record(row, data)


def _record(row: SyntheticRow, data: bytes) -> SyntheticRow:
    return replace(row, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def _result(future: Future[SyntheticRow]) -> dict[str, SyntheticRow]:
    row = future.result()
    return {row.path: row}


def dump(
    people: Sequence[PersonImage], drawer: Drawer, bank: PoseBank, rows: Sequence[SyntheticRow], out: str | os.PathLike[str],
    *, copy_real: bool = True,
) -> Manifest:  # fmt: skip
    """A Market-style folder of real and synthetic images, with keypoint files of both and a manifest of the synthetic.

    Any Re-ID tool reads it; `annotation-train.csv` makes it fit for training generators again.
    """
    out = Path(out)
    written = fill(out, drawer, rows, [p for p in people if p.split == "train"])
    if copy_real:
        for person in tqdm(people, desc="copy real images", unit="image", disable=None):
            _copy(Path(person.path), out / MARKET_FOLDERS[person.split] / person.name)
    train = [p for p in people if p.split == "train" and p.pose is not None] if copy_real else []
    where = {name: i for i, name in enumerate(bank.names)}
    targets = bank.pose[torch.tensor([where[row.target] for row in rows], dtype=torch.long)]
    # Synthetic images are as large as the generator draws them, real ones as they were: each in its own pixels.
    poses = [p.pose[None] for p in train if p.pose is not None]
    names = [p.name for p in train] + [Path(row.path).name for row in rows]
    joined = Pose.cat([rescale(pose, bank.pose.size) for pose in poses] + [targets])
    xy = torch.cat([pose.xy for pose in poses] + [targets.xy])
    write_keypoints(out / "annotation-train.csv", names, replace(joined, xy=xy))
    tested = [p for p in people if p.split != "train" and p.pose is not None] if copy_real else []
    if tested:
        own = Pose.stack([p.pose for p in tested if p.pose is not None])
        write_keypoints(out / "annotation-test.csv", [p.name for p in tested], own)
    return written


def _copy(source: Path, target: Path) -> None:
    if target.exists() and target.stat().st_size == source.stat().st_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.tmp")
    shutil.copyfile(source, temporary)
    os.replace(temporary, target)
