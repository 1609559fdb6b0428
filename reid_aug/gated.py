"""`reid-aug gate`: score the images of a dump, and write a dump of those a gate keeps."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from generators.pose import Pose, openpose_18
from reid_aug import images
from reid_aug.bank import PoseBank
from reid_aug.config import DataConfig, GateConfig, GateRun
from reid_aug.dump import copy_file, finish, market_named, opened
from reid_aug.gates import keep, passing, score
from reid_aug.judge import judge
from reid_aug.loading import load_people
from reid_aug.manifest import NAME, Manifest, SyntheticRow
from reid_aug.people import MARKET_FOLDERS, PersonImage
from reid_aug.poses import read_columns


@dataclass(frozen=True)
class Gated:
    """A dump's manifest with its scores, how many images pass each gate, and the manifest of those kept, if written."""

    manifest: Manifest
    passed: dict[str, int]
    kept: int
    written: Manifest | None


def gate_dump(folder: str | os.PathLike[str], asked: GateRun) -> Gated:
    """Record the scores of a dump's images in its manifest and, with `out`, write those the gate keeps as a dump.

    Identity is judged when `reid` names a network; a score that is there already is not asked for again. FileNotFoundError
    or ValueError, in one line, for a folder that is no dump, a missing score, or a gate that keeps nothing.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder / NAME)
    if not manifest.rows:
        raise ValueError(f"{folder}: its manifest lists no synthetic image")
    if asked.out is not None and asked.gate == GateConfig():
        raise ValueError("out= takes the images that a gate keeps: give identity= or novelty= too")
    if asked.out is not None and Path(asked.out).resolve() == folder.resolve():
        raise ValueError(f"out={asked.out} is the dump itself: give another folder")
    bank = targets(folder, manifest.rows)
    judged = None if asked.reid is None else judge(asked.reid, bank.pose.size, asked.device)
    people = _people(folder, manifest, asked.data)
    manifest = score(
        folder, manifest, people, bank, judged and judged.features, judged and judged.size, judged and judged.name
    )
    passed = {name: int(rows.sum()) for name, rows in passing(manifest.rows, asked.gate).items()}
    kept = keep(manifest.rows, asked.gate)
    written = write_kept(folder, manifest, kept, asked.gate, asked.out) if asked.out is not None else None
    return Gated(manifest, passed, int(kept.sum()), written)


def targets(folder: Path, rows: Sequence[SyntheticRow]) -> PoseBank:
    """The target poses of a dump's images: each is the pose its keypoint file gives to an image drawn in it."""
    path = folder / "annotation-train.csv"
    if not path.is_file():
        raise FileNotFoundError(f"no keypoint file at {path}: {folder} is no dump of reid-aug dump")
    names, yx = read_columns(path, len(openpose_18))
    line = {name: i for i, name in enumerate(names)}
    of = {row.target: Path(row.path).name for row in rows}
    if lost := [name for name in of.values() if name not in line]:
        raise ValueError(f"{path} has no pose of {lost[0]}")
    yx = yx[[line[name] for name in of.values()]]
    height, width = images.read(folder / rows[0].path).shape[:2]
    xy = torch.from_numpy(yx[..., ::-1].astype(np.float32))
    return PoseBank(tuple(of), Pose(xy, torch.from_numpy((yx >= 0).all(-1)), openpose_18, (height, width)))


def _people(folder: Path, manifest: Manifest, data: DataConfig | None) -> list[PersonImage]:
    """The real images under their names in the dump."""
    if data is None and not any(path.startswith(f"{MARKET_FOLDERS['train']}/") for path in manifest.files):
        raise ValueError(f"{folder} holds no real images: name those it was drawn from with data.root=DIR")
    made = {Path(row.path).name for row in manifest.rows}
    return [p for p in market_named(load_people(data or DataConfig(root=str(folder)))) if p.name not in made]


def write_kept(
    folder: Path, manifest: Manifest, kept: np.ndarray, gate: GateConfig, out: str | os.PathLike[str]
) -> Manifest:
    """Copy a dump without the rows that are not `kept` (N,) to `out`, each file atomically and the manifest last.

    The same again completes what is missing. ValueError or FileExistsError when `out` holds anything else, or a file
    to copy is not as it was written.
    """
    out, rows = Path(out), tuple(row for row, stays in zip(manifest.rows, kept, strict=True) if stays)
    said = json.dumps([manifest.made_by.get("plan"), [row.path for row in rows]])
    made_by = {**manifest.made_by, "gate": gate.model_dump(mode="json"), "plan": hashlib.sha256(said.encode()).hexdigest()}
    opened(out, made_by["plan"])
    gone = {Path(row.path).name for row in manifest.rows} - {Path(row.path).name for row in rows}
    digests = {row.path: row.sha256 for row in rows} | {path: d for path, d in manifest.files.items() if not path.endswith(".csv")}
    for path, sha256 in tqdm(digests.items(), desc=f"copy to {out.name}", unit="image", disable=None, delay=2):
        if copy_file(folder / path, out / path) != sha256:
            raise ValueError(f"{folder / path} changed since it was written: draw it again with reid-aug dump")
    files = {}
    for path, sha256 in manifest.files.items():
        if path.endswith(".csv"):
            lines = (folder / path).read_text(encoding="utf-8").split("\n")
            images.atomic_write_text(out / path, "\n".join(line for line in lines if line.split(":", 1)[0] not in gone))
            sha256 = hashlib.sha256((out / path).read_bytes()).hexdigest()
        files[path] = sha256
    written = replace(manifest, rows=rows, made_by=made_by, files=files)
    finish(written, out)
    return written
