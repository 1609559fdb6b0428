"""The record of synthetic images: what each was made from, and what made them. JSON Lines."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from reid_aug import images

FORMAT = "reid-aug manifest 1"
NAME = "manifest.jsonl"
SCORED_BY = "identity_scored_by"
SOURCES = "sources_digest"


@dataclass(frozen=True)
class SyntheticRow:
    """One synthetic image: its path below the manifest's folder, the source's name, the target pose's name, its seed.

    `identity_score` and `pose_novelty` are what gates go by (`synthesis.gates`), None until they are recorded; `bytes` and
    `sha256` are of the written file.
    """

    path: str
    source: str
    target: str
    pid: int
    camid: int
    seed: int
    identity_score: float | None = None
    pose_novelty: float | None = None
    bytes: int | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class Manifest:
    """Rows, what made them (`made_by`: versions, checkpoint and bank digests, seed, per_image), and what else is there.

    `made_by` also says which network gave the identity scores, once there are any (SCORED_BY), and of a dump what its real images
    are: a digest of their content, labels and poses (SOURCES).

    `files` are the SHA-256 of real images and keypoint files beside the synthetic ones, by path.
    """

    rows: tuple[SyntheticRow, ...]
    made_by: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)

    @property
    def in_scenes(self) -> bool:
        """Tell whether the images were rendered in the places of the target images."""
        return bool(self.made_by.get("scenes_digest") or self.made_by.get("scene"))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to JSON Lines, atomically: the first line is `made_by`, then one row a line."""
        lines = [json.dumps({"format": FORMAT, **self.made_by}, sort_keys=True)]
        lines += [json.dumps({k: v for k, v in asdict(row).items() if v is not None}) for row in self.rows]
        lines += [json.dumps({"file": path, "sha256": sha256}) for path, sha256 in self.files.items()]
        images.atomic_write_text(path, "\n".join(lines) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Manifest:
        """Read what `save` wrote; ValueError names the line that is no row."""
        if not Path(path).is_file():
            raise FileNotFoundError(f"no manifest at {path}")
        known, rows, made_by, files = {f.name for f in fields(SyntheticRow)}, [], {}, {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
            try:
                values = json.loads(line)
                if number == 1:
                    if values.pop("format", None) != FORMAT:
                        raise ValueError(f"not {FORMAT!r}")
                    made_by = values
                elif "file" in values:
                    files[values["file"]] = values["sha256"]
                else:
                    rows.append(SyntheticRow(**{k: values[k] for k in values if k in known}))
            except (ValueError, TypeError, AttributeError, KeyError) as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
        if not made_by:
            raise ValueError(f"{path} is empty: a manifest's first line says what made it")
        return cls(tuple(rows), made_by, files)

    @staticmethod
    def merge(manifests: Sequence[Manifest]) -> Manifest:
        """Join the rows of several manifests made by the same things; ValueError when they differ or a path comes twice."""
        if not manifests or any(m.made_by != manifests[0].made_by for m in manifests):
            raise ValueError("manifests to merge are made by the same generator, bank and seed, and scored by the same network")
        rows = tuple(row for m in manifests for row in m.rows)
        if len({row.path for row in rows}) != len(rows):
            raise ValueError("manifests to merge share no path")
        return Manifest(rows, manifests[0].made_by)

    def verify(self, root: str | os.PathLike[str]) -> list[str]:
        """Check the files below `root`: a line for each that is missing, changed, or no whole image; empty when all is well."""
        synthetic = [complaint for row in self.rows if (complaint := verify_row(row, Path(root)))]
        beside = [complaint for path, sha256 in self.files.items() if (complaint := _verify(path, sha256, Path(root)))]
        return synthetic + beside


def verify_row(row: SyntheticRow, root: Path) -> str | None:
    """Say what is wrong with one row's file; None when nothing is."""
    return _verify(row.path, row.sha256, root)


def _verify(name: str, sha256: str | None, root: Path) -> str | None:
    path = root / name
    if not path.is_file():
        return f"{name}: missing"
    if sha256 and hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        return f"{name}: changed since it was written"
    if path.suffix.lower() not in images.FORMATS:
        return None
    try:
        images.read(path)
    except (OSError, ValueError) as error:
        return str(error)
    return None


def unfinished(rows: Iterable[SyntheticRow], root: Path) -> list[SyntheticRow]:
    """Find rows whose file is not there at the recorded length: a quick look (one listing per folder), not a check."""
    lengths: dict[str, dict[str, int]] = {}
    missing = []
    for row in rows:
        folder, _, name = row.path.rpartition("/")
        if folder not in lengths:
            place = root / folder
            lengths[folder] = {e.name: e.stat().st_size for e in os.scandir(place)} if place.is_dir() else {}
        if lengths[folder].get(name) != row.bytes:
            missing.append(row)
    return missing


def package_version() -> str:
    try:
        return version("reid-aug")
    except PackageNotFoundError:
        return "0+unknown"
