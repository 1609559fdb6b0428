"""`reid-aug dump` and `gate`: a folder of real and synthetic images that any tool reads, and the part of it that a gate keeps."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from pydantic import PositiveInt
from tqdm import tqdm

from generators import Pose, openpose_18, rescale
from reid_aug import images
from reid_aug.baselines.neighbours import Backend, usable
from reid_aug.config import Config
from reid_aug.data.keypoints import as_pose, read_columns, write_keypoints
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.market import MARKET_FOLDERS
from reid_aug.data.market_names import market_named, reading_notes
from reid_aug.data.people import PersonImage
from reid_aug.device import Device
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.gates import GateConfig, keep, passing, refuse_novelty, score
from reid_aug.synthesis.image_bank import IMAGES, BankKind
from reid_aug.synthesis.manifest import NAME, Manifest, SyntheticRow
from reid_aug.synthesis.real_images import copy_file, copy_images, refuse_other_sources, sources_digest
from reid_aug.synthesis.sources import beside
from reid_aug.synthesis.store import fill, finish, opened
from reid_aug.synthesis.target_poses import Draw


class DumpConfig(Config):
    """Options of `reid-aug dump`: which checkpoint renders how many new poses of which people, to which folder."""

    checkpoint: str  # File of a trained generator.
    data: DataConfig  # People to render, and their poses.
    out: str  # Folder to write to.
    per_image: PositiveInt = 2  # Number of synthetic images for each training image.
    # Strategy by which target poses are drawn: whole, missing-views, canonical, camera-aware, compatible, novel, view-front and its
    # like; None is the generator's own.
    # recombined makes new people, each with the legs of another.
    draw: Draw | None = None
    # What target poses are drawn from: "poses" of the keypoint file, or "images" in which a generator finds poses itself, as it does in
    # the sources; or a .safetensors file of `reid-aug bank`, or its presets canonical-8 and canonical-16. None is the generator's own way,
    # images where it finds poses.
    bank: BankKind | None = None
    seed: int = 0  # Seed of everything random.
    batch_size: PositiveInt = 64  # Number of images rendered at a time.
    device: Device = "auto"  # Device that renders; "auto" is a GPU when there is one.
    copy_real: bool = True  # Whether real images are copied beside the synthetic ones.


class GateRun(GateConfig):
    """Options of `reid-aug gate DUMP`: the gate, who judges identity, and where to write the dump of what it keeps."""

    reid: str | None = None  # File of a Re-ID network, trained on the real images alone, that judges identity.
    out: str | None = None  # Folder for a dump of what the gate keeps; None only records scores.
    data: DataConfig | None = None  # Real images, where the dump holds none.
    device: Device = "auto"  # Device that judges; "auto" is a GPU when there is one.
    backend: Backend = "auto"  # What searches for the nearest real images: torch (which auto is), faiss-cpu or faiss-gpu.

    @property
    def gate(self) -> GateConfig:
        return GateConfig(identity=self.identity, novelty=self.novelty)


def dump(people: Sequence[PersonImage], augmenter: Augmenter, out: str | os.PathLike[str], *, copy_real: bool = True) -> Manifest:
    """Write a Market-style folder of real and synthetic images, with keypoint files of both, and last of all its manifest.

    Any Re-ID tool reads it; `annotation-train.csv` makes it fit for training generators again. Images are JPEG files under names
    that say identity and camera as Market-1501's do (`market_named`); what is numbered anew, and what cannot be read by whom, is
    said on standard error. Every image is decoded before anything is written: ImageError names the first that can't be.
    ValueError for a folder that was made from other images.
    """
    out, given = Path(out), list(people)
    people = market_named(given)
    _check_readable(people)
    train = [p for p in people if p.split == "train"]
    augmenter = augmenter.with_bank(augmenter.bank.renamed([p for p in given if p.split == "train"], train))
    # New people's numbers are nobody's, of test images neither.
    rows = augmenter.plan(train, folder=MARKET_FOLDERS["train"], first_pid=max(p.pid for p in people) + 1)
    rows = beside(rows, (p.name for p in train))
    kept = people if copy_real else []
    sources = sources_digest(kept or train, masks=augmenter.by_silhouettes)
    refuse_other_sources(out, sources, kept)
    for note in [*reading_notes(given, people, (row.pid for row in rows), out), *_of_dumps(train)]:
        print(f"note: {note}", file=sys.stderr)

    def also() -> dict[str, str]:
        """Write real images and keypoints, and return their digests by path; called when the synthetic images are there."""
        there = copy_images(kept, out)
        there |= _keypoints(out / "annotation-train.csv", {**_poses(kept, ("train",)), **_target_poses(augmenter, rows, train)})
        return there | _keypoints(out / "annotation-test.csv", _poses(kept, ("query", "gallery")))

    return fill(out, augmenter, rows, train, also, sources)


def _check_readable(people: Sequence[PersonImage]) -> None:
    with ThreadPoolExecutor(8) as pool:
        for _ in tqdm(pool.map(lambda p: images.read(p.path) is not None, people), "check images", len(people), disable=None, delay=2):
            pass


def _of_dumps(train: Sequence[PersonImage]) -> list[str]:
    """Say that synthetic images are rendered from synthetic images, where the people are a dump's."""
    folders = sorted({str(Path(p.path).parents[1]) for p in train if len(Path(p.path).parents) > 1})
    dumps = [folder for folder in folders if (Path(folder) / NAME).is_file()]
    return [f"{folder} is a dump: its synthetic images are rendered anew as its photographs are" for folder in dumps]


def _target_poses(augmenter: Augmenter, rows: Sequence[SyntheticRow], train: Sequence[PersonImage]) -> dict[str, Pose]:
    """Give the target pose of each synthetic image, by its name; of a bank of images those that the data set knows."""
    if isinstance(augmenter.bank, PoseBank):
        known = {name: augmenter.bank.pose[i] for i, name in enumerate(augmenter.bank.names)}
    else:
        known = {p.name: rescale(p.pose, augmenter.bank.size) for p in train if p.pose is not None}
    return {Path(row.path).name: known[row.target] for row in rows if row.target in known}


def _poses(people: Sequence[PersonImage], splits: Sequence[str]) -> dict[str, Pose]:
    return {p.name: p.pose for p in people if p.pose is not None and p.split in splits}


def _keypoints(path: Path, poses: dict[str, Pose]) -> dict[str, str]:
    """Write each pose in its own image's pixels, whatever its size; the file's digest by its name."""
    if not poses:
        return {}
    xy, visible = (torch.stack([getattr(pose, part) for pose in poses.values()]) for part in ("xy", "visible"))
    write_keypoints(path, list(poses), replace(next(iter(poses.values())), xy=xy, visible=visible))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest()}


@dataclass(frozen=True)
class Gated:
    """A dump's manifest with its scores, how many images pass each gate, and the manifest of those kept, if written."""

    manifest: Manifest
    passed: dict[str, int]
    kept: int
    written: Manifest | None


def gate_dump(folder: str | os.PathLike[str], settings: GateRun) -> Gated:
    """Record the scores of a dump's images in its manifest and, with `out`, write those the gate keeps as a dump.

    Identity is judged when `reid` names a network; a score that is there already is not computed again. FileNotFoundError
    or ValueError, in one line, for a folder that is no dump, a missing score, or a gate that keeps nothing.
    """
    folder = Path(folder)
    manifest = Manifest.load(folder / NAME)
    if not manifest.rows:
        raise ValueError(f"{folder}: its manifest lists no synthetic image")
    if settings.out is not None and settings.gate == GateConfig():
        raise ValueError("out= takes the images that a gate keeps: give identity= or novelty= too")
    if settings.out is not None and Path(settings.out).resolve() == folder.resolve():
        raise ValueError(f"out={settings.out} is the dump itself: give another folder")
    refuse_novelty(manifest, settings.gate)
    bank, reid = None if manifest.made_by.get("bank") == IMAGES else targets(folder, manifest.rows), None
    if settings.reid is not None:
        usable(settings.backend)
        from reid_aug.baselines.network import load_reid  # torchreid is slow to import, and seldom needed here

        reid = load_reid(settings.reid, settings.device)
    people = people_of(folder, manifest, settings.data)
    manifest = score(folder, manifest, people, bank, reid, settings.backend)
    passed = {name: int(rows.sum()) for name, rows in passing(manifest.rows, settings.gate).items()}
    kept = keep(manifest.rows, settings.gate)
    written = write_kept(folder, manifest, kept, settings.gate, settings.out) if settings.out is not None else None
    return Gated(manifest, passed, int(kept.sum()), written)


def targets(folder: Path, rows: Sequence[SyntheticRow]) -> PoseBank:
    """Read the target poses of a dump's images: each is the pose its keypoint file gives to an image rendered in it."""
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
    return PoseBank(tuple(of), as_pose(yx, (height, width)))


def people_of(folder: Path, manifest: Manifest, data: DataConfig | None) -> list[PersonImage]:
    """Find the real images of a dump, in it or in the data set it was rendered from, under the names that its manifest knows them by."""
    if data is None and not any(path.startswith(f"{MARKET_FOLDERS['train']}/") for path in manifest.files):
        raise ValueError(f"{folder} holds no real images: name those it was rendered from with data.root=DIR")
    made = {Path(row.path).name for row in manifest.rows}
    posed = manifest.made_by.get("bank") != IMAGES
    source = DataConfig(root=str(folder), allow_overlap=True) if data is None else data
    people = load_people(source, posed=posed)
    people = people if data is None else market_named(people)
    return [p for p in people if p.split != "train" or p.name not in made]


def write_kept(
    folder: Path, manifest: Manifest, kept: np.ndarray, gate: GateConfig, out: str | os.PathLike[str]
) -> Manifest:
    """Copy a dump without the rows that are not `kept` (N,) to `out`, each file atomically and the manifest last.

    The same again completes what is missing. ValueError or FileExistsError when `out` holds anything else, or a file
    to copy is not as it was written.
    """
    out, rows = Path(out), tuple(row for row, stays in zip(manifest.rows, kept, strict=True) if stays)
    content = json.dumps([manifest.made_by.get("plan"), [row.path for row in rows]])
    made_by = {**manifest.made_by, "gate": gate.model_dump(mode="json"), "plan": hashlib.sha256(content.encode()).hexdigest()}
    opened(out, made_by["plan"])
    gone = {Path(row.path).name for row in manifest.rows} - {Path(row.path).name for row in rows}
    digests = {row.path: row.sha256 for row in rows} | {path: d for path, d in manifest.files.items() if not path.endswith(".csv")}
    for path, sha256 in tqdm(digests.items(), desc=f"copy to {out.name}", unit="image", disable=None, delay=2):
        if copy_file(folder / path, out / path) != sha256:
            raise ValueError(f"{folder / path} changed since it was written: render it again with reid-aug dump")
    files = {}
    for path, sha256 in manifest.files.items():
        if path.endswith(".csv"):
            lines = (folder / path).read_text(encoding="utf-8").split("\n")
            left_out = gone if path == "annotation-train.csv" else set()  # a test image may share the name of a synthetic one
            images.atomic_write_text(out / path, "\n".join(line for line in lines if line.split(":", 1)[0] not in left_out))
            sha256 = hashlib.sha256((out / path).read_bytes()).hexdigest()
        files[path] = sha256
    written = replace(manifest, rows=rows, made_by=made_by, files=files)
    finish(written, out)
    return written
