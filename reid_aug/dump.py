"""Rendered rows on disk: files first, each written atomically, then the manifest that says they are all there."""

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
import torch
from tqdm import tqdm

from generators.pose import Pose
from reid_aug import images, manifest
from reid_aug.augmenter import Augmenter
from reid_aug.manifest import Manifest, SyntheticRow
from reid_aug.people import MARKET_FOLDERS, PersonImage, parse_name
from reid_aug.poses import write_keypoints

STARTED = "manifest.started.json"


class Drawer(Protocol):
    """What `fill` needs: an Augmenter, or anything else that draws rows (the rendered set's truth is one)."""

    @property
    def made_by(self) -> dict[str, Any]: ...

    def render(
        self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]
    ) -> Iterator[tuple[SyntheticRow, np.ndarray]]: ...


def fill(
    root: str | os.PathLike[str], drawer: Drawer, rows: Sequence[SyntheticRow], people: Sequence[PersonImage],
    also: Callable[[], dict[str, str]] | None = None,
) -> Manifest:  # fmt: skip
    """Draw `rows` into `root` and write their manifest; what is already there, whole and of the same plan, is kept.

    `also` puts other files there before the manifest is written, which lists them with the digests it returns.

    With its manifest in place a folder costs one listing. Without one it is unfinished: every file found is decoded
    before it is kept. ValueError when the folder is of another plan.
    """
    root, plan = Path(root), _plan_digest(drawer, rows)
    known = opened(root, plan)
    if known is not None:
        todo = {row.path for row in manifest.unfinished(known.rows, root)}
        if not todo and all((root / path).is_file() for path in known.files):
            return known
        written = {row.path: row for row in known.rows if row.path not in todo}
        # An image drawn again is of the same pose; what a network said of the lost one is gone.
        novelty = {row.path: row.pose_novelty for row in known.rows}
        rows = [replace(row, pose_novelty=novelty.get(row.path)) for row in rows]
        scored = {key: known.made_by[key] for key in (manifest.SCORED_BY,) if key in known.made_by}
    else:
        written, scored = _survivors(root, rows), {}
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
    files = also() if also is not None else {}
    whole = Manifest(tuple(written[row.path] for row in rows), {**drawer.made_by, "plan": plan, **scored}, files)
    finish(whole, root)
    return whole


def _plan_digest(drawer: Drawer, rows: Sequence[SyntheticRow]) -> str:
    said = json.dumps([drawer.made_by, [(row.path, row.source, row.target, row.seed) for row in rows]], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def opened(root: Path, plan: str) -> Manifest | None:
    """The manifest in a folder of this plan; None where there is none yet, once the folder is marked as ours and unfinished.

    ValueError or FileExistsError for a folder of another plan, or that holds anything else.
    """
    if (root / manifest.NAME).exists():
        known = Manifest.load(root / manifest.NAME)
        if known.made_by.get("plan") != plan:
            raise ValueError(f"{root} holds images of another plan: give another folder or remove it")
        return known
    mark = root / STARTED
    if mark.exists():
        if json.loads(mark.read_text()).get("plan") != plan:
            raise ValueError(f"{root} holds the beginning of another plan: give another folder or remove it")
        return None
    # A run killed while it wrote its mark leaves a hidden temporary file and nothing else.
    if root.is_dir() and any(not entry.name.startswith(".") for entry in root.iterdir()):
        raise FileExistsError(f"{root} is not empty and holds no manifest: give another folder")
    images.atomic_write_text(mark, json.dumps({"plan": plan}))
    return None


def finish(whole: Manifest, root: Path) -> None:
    """Write the manifest of a folder whose files are all there, and take its mark away."""
    whole.save(root / manifest.NAME)
    (root / STARTED).unlink(missing_ok=True)


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


def dump(people: Sequence[PersonImage], augmenter: Augmenter, out: str | os.PathLike[str], *, copy_real: bool = True) -> Manifest:
    """A Market-style folder of real and synthetic images, with keypoint files of both, and last of all its manifest.

    Any Re-ID tool reads it; `annotation-train.csv` makes it fit for training generators again. Images whose names do
    not say identity and camera as Market-1501's do get names that do. Every image is decoded before anything is
    written: ImageError names the first that can't be.
    """
    out, people = Path(out), market_named(people)
    _check_readable(people)
    train = [p for p in people if p.split == "train"]
    rows = augmenter.plan(train, folder=MARKET_FOLDERS["train"])

    def also() -> dict[str, str]:
        """Real images and keypoints, by path; called when the synthetic images are there."""
        kept = people if copy_real else []
        there = {f"{MARKET_FOLDERS[p.split]}/{p.name}": copy_file(Path(p.path), out / MARKET_FOLDERS[p.split] / p.name)
                 for p in tqdm(kept, desc="copy real images", unit="image", disable=None)}  # fmt: skip
        targets = {Path(row.path).name: augmenter.bank.pose[i] for row, i in zip(rows, _indices(augmenter, rows), strict=True)}
        there |= _keypoints(out / "annotation-train.csv", {**_poses(kept, ("train",)), **targets})
        return there | _keypoints(out / "annotation-test.csv", _poses(kept, ("query", "gallery")))

    return fill(out, augmenter, rows, train, also)


def market_named(people: Sequence[PersonImage]) -> list[PersonImage]:
    """The same people under names like 0002_c1s1_000451_03.jpg: their own where those say so, new ones elsewhere."""
    named, taken = [], set()
    for number, person in enumerate(people):
        base = os.path.basename(person.path)
        try:
            fits = parse_name(base) == (person.pid, person.camid)
        except ValueError:
            fits = False
        name = base if fits else f"{person.pid:04d}_c{person.camid + 1}s1_{number:06d}_00{Path(base).suffix.lower()}"
        if (person.split, name) in taken:
            raise ValueError(f"two {person.split} images are named {name}: a dump has one folder a split")
        taken.add((person.split, name))
        named.append(replace(person, alias=name))
    return named


def _check_readable(people: Sequence[PersonImage]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in tqdm(pool.map(lambda p: images.read(p.path) is not None, people), "check images", len(people), disable=None, delay=2):
            pass


def _indices(augmenter: Augmenter, rows: Sequence[SyntheticRow]) -> list[int]:
    where = {name: i for i, name in enumerate(augmenter.bank.names)}
    return [where[row.target] for row in rows]


def _poses(people: Sequence[PersonImage], splits: Sequence[str]) -> dict[str, Pose]:
    return {p.name: p.pose for p in people if p.pose is not None and p.split in splits}


def _keypoints(path: Path, poses: dict[str, Pose]) -> dict[str, str]:
    """Write each pose in its own image's pixels, whatever its size; the file's digest by its name."""
    if not poses:
        return {}
    xy, visible = (torch.stack([getattr(pose, part) for pose in poses.values()]) for part in ("xy", "visible"))
    write_keypoints(path, list(poses), replace(next(iter(poses.values())), xy=xy, visible=visible))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


def copy_file(source: Path, target: Path) -> str:
    """Copy one file, atomically, and give its digest."""
    data = source.read_bytes()
    if not target.exists() or target.read_bytes() != data:
        images.atomic_write_bytes(target, data)
    return hashlib.sha256(data).hexdigest()
