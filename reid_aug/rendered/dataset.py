"""The embedded data set on disk: rendered people in Market-1501's layout, with what is needed to render each again.

No Re-ID set may be shipped, so this one is rendered: the same config gives the same bytes, without a download. Any
person can be rendered in any pose and by any camera, so the image that a generator should produce is known.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from reid_aug.rendered.figure import FACE, BodyPose, posed
from reid_aug.rendered.person import Identity
from reid_aug.rendered.photograph import framing, land, shoot
from reid_aug.rendered.plan import GALLERY, QUERY, TRAIN, RenderedConfig, RenderedRow, plan
from reid_aug.rendered.raster import Raster
from reid_aug.rendered.rendering import Rendered, joints_inside, with_truth
from reid_aug.rendered.scenes import CAMERAS

_FORMAT, _VERSION, _INDEX = "reid_aug.rendered", 1, "rendered.jsonl"


class RenderedSetConfig(BaseModel):
    """`reid-aug rendered`: write the embedded data set to `out`; the other keys are RenderedConfig's."""

    model_config = ConfigDict(frozen=True, extra="allow")
    out: str  # Folder to write to.


@dataclass(frozen=True, eq=False)
class RenderedSet:
    """A written set: its folder, its options, and its images by name."""

    root: Path
    config: RenderedConfig
    rows: dict[str, RenderedRow] = field(repr=False)

    def _row(self, name: str) -> RenderedRow:
        """Look an image up; KeyError shows what names look like."""
        try:
            return self.rows[name]
        except KeyError:
            raise KeyError(f"{self.root} has no image named {name!r}; names look like {next(iter(self.rows))!r}") from None

    def truth(self, name: str) -> Rendered:
        """Render the image of this name again, with its joints and masks."""
        row = self._row(name)
        return with_truth(*row.shoot(self.config.size), self.config.size)

    def true_image(self, source_name: str, target_name: str, scene: bool = False) -> Rendered:
        """Render what a generator should: the source's person and place, in the target's pose, on the target's joints.

        With `scene`, place, camera and exposure are the target image's, as for a generator that takes scenes.
        """
        source, target, size = self._row(source_name), self._row(target_name), self.config.size
        body, target_body = (posed(Identity.sample(row.identity), target.pose) for row in (source, target))
        frame = land(body, target_body, framing(target_body, CAMERAS[target.camera], size, target.seed))
        place = target if scene else source
        return with_truth(*shoot(body, CAMERAS[place.camera], size, place.seed, frame), size)


# -------------------------------------------------------------------------------------------------------- writing


def write_rendered(root: str | os.PathLike[str], config: RenderedConfig | None = None, *, progress: bool = False) -> RenderedSet:
    """Write a set into `root`, all or nothing; a set of the same config that is already there is returned as it is.

    FileExistsError names whatever else `root` is or holds.
    """
    root, config = Path(root), config or RenderedConfig()
    if existing := _existing(root, config):
        return existing
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    try:
        rows = list(plan(config))
        _write(draft, rows, config, progress)
        try:
            os.rename(draft, root)
        except OSError:  # another process was faster
            if existing := _existing(root, config):
                return existing
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return RenderedSet(root, config, {row.name: row for row in rows})


def _existing(root: Path, config: RenderedConfig) -> RenderedSet | None:
    """Open the set at `root`; None where there is nothing yet, FileExistsError where there is anything else."""
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / _INDEX).is_file():
        what = f"a folder with {sorted(p.name for p in root.iterdir())[:3]}" if root.is_dir() else "a file"
        raise FileExistsError(f"{root} is {what}, not a rendered data set; choose another place")
    try:
        existing = read_rendered(root)
    except (ValueError, TypeError, KeyError) as error:
        raise FileExistsError(f"{root} is a rendered data set that can't be read ({error}); choose another place") from error
    if existing.config != config:
        old, new = asdict(existing.config), asdict(config)
        differ = ", ".join(f"{k}={old[k]!r} (wanted {new[k]!r})" for k in new if old[k] != new[k])
        raise FileExistsError(f"{root} is a rendered data set with {differ}; choose another place")
    return existing


def _write(root: Path, rows: Sequence[RenderedRow], config: RenderedConfig, progress: bool) -> None:
    """Write images, keypoint files and index into a new folder."""
    for folder in (TRAIN, QUERY, GALLERY):
        (root / folder).mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    with _single_thread():
        for row in tqdm(rows, desc="rendering people", unit="image", disable=None if progress else True):
            data, raster = row.shoot(config.size)
            (root / row.folder / row.name).write_bytes(data.tobytes())
            lines["train" if row.folder == TRAIN else "test"].append(_csv_line(row.name, raster, config.size))
    for split, body in lines.items():
        (root / f"annotation-{split}.csv").write_text("\n".join(["name:keypoints_y:keypoints_x", *body]) + "\n")
    head = {"format": _FORMAT, "version": _VERSION, "config": asdict(config)}
    records = (vars(row) | {"pose": vars(row.pose)} for row in rows)
    (root / _INDEX).write_text("".join(json.dumps(line) + "\n" for line in (head, *records)))


@contextmanager
def _single_thread() -> Iterator[None]:
    """Keep OpenCV on one thread: on images this small its threads cost more than they gain."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _csv_line(name: str, raster: Raster, size: tuple[int, int]) -> str:
    """Write a line as a pose estimator would: hidden body joints are guessed, hidden eyes, ears and noses missing."""
    detected = joints_inside(raster, size)
    detected[FACE] &= ~raster.occluded[FACE]
    x, y = np.where(detected[:, None], np.rint(raster.joints), -1).astype(int).T.tolist()
    return f"{name}: {y}: {x}"


# -------------------------------------------------------------------------------------------------------- reading


def is_rendered(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder holds a rendered data set."""
    return (Path(root) / _INDEX).is_file()


def read_rendered(root: str | os.PathLike[str]) -> RenderedSet:
    """Open a written set; FileNotFoundError where there is none, ValueError for another version's."""
    root = Path(root)
    if not is_rendered(root):
        raise FileNotFoundError(f"{root} is not a rendered data set: it has no {_INDEX}; write_rendered makes one")
    with (root / _INDEX).open() as file:
        head = json.loads(file.readline())
        if (head.get("format"), head.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"{root / _INDEX}: format is {_FORMAT} {_VERSION}, got {head.get('format')} {head.get('version')}")
        rows = [RenderedRow(**(line | {"pose": BodyPose(**line["pose"])})) for line in map(json.loads, file)]
    return RenderedSet(root, RenderedConfig(**head["config"]), {row.name: row for row in rows})
