"""Keypoint files of other tools than the field's CSV: the one door to their readers.

COCO's annotations and results, AlphaPose's results, OpenPose's folder, MPII's .mat and .h5, Market-1501's 14 points. Files are taken for
what anybody may have sent: nothing in them is run, and what is malformed is ValueError in one line with file, entry, rule and value.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from reid_aug.data.foreign import READABLE, kind_of
from reid_aug.data.keypoint_files import market_points, mpii, openpose
from reid_aug.data.keypoint_files.coco import read_annotations, read_results
from reid_aug.data.keypoint_files.matlab import tables
from reid_aug.data.keypoint_files.rows import SEEN, FilePoses, entries, load_json, short

__all__ = ["FilePoses", "is_other", "read_other"]


def is_other(path: str | os.PathLike[str]) -> bool:
    """Tell whether keypoints are of another format than the field's CSV, or of none: a folder, JSON, or no text."""
    return Path(path).is_dir() or kind_of(Path(path)) is not None


def read_other(
    path: str | os.PathLike[str], *, folders: Sequence[Path] = (), images: str | None = None, least_score: float = SEEN
) -> FilePoses:
    """Read keypoints of any other format, one person an image, in the order of the file.

    `folders` are those of the images, for a file that does not name them; `images` is a file of COCO annotations that names the numbers of
    a list of results. A joint of such a list counts as found from `least_score` on. ValueError, in one line, for what can't be read;
    ModuleNotFoundError with the command that installs h5py.
    """
    where = Path(path)
    if images is not None and not Path(images).is_file():
        raise FileNotFoundError(f"no file {images} to name the images by")
    if where.is_dir():
        return _folder(where, images, least_score)
    kind = kind_of(where) or ""
    if "JSON" in kind:
        return _json(where, load_json(where), images, least_score)
    if "MATLAB" in kind or "HDF5" in kind:
        unpacked = tables(where)
        return mpii.read_mpii(where, unpacked) if mpii.is_mpii(unpacked) else market_points.read_points(where, unpacked, folders)
    raise ValueError(f"{where} is {kind or 'of no kind that is known'}; {READABLE}")


def _json(where: Path, content: object, images: str | None, least_score: float) -> FilePoses:
    """Read what a JSON file holds, whichever tool wrote it."""
    if isinstance(content, list):
        return read_results(str(where), content, least_score, images)
    if images is not None:
        raise ValueError(f"{where} names its images itself: leave {images} out, which names those of a list of results")
    if isinstance(content, dict):
        if openpose.is_frame(content):
            return openpose.read_frames(str(where), {openpose.name_of(where): (str(where), content)})
        if "annotations" in content:
            return read_annotations(str(where), content)
        if content and all(map(openpose.is_frame, content.values())):
            return openpose.read_named(str(where), content)
    held = list(content) if isinstance(content, dict) else content
    raise ValueError(f"{where} is JSON, but neither COCO's, OpenPose's nor AlphaPose's: it has {short(held)}; {READABLE}")


def _folder(where: Path, images: str | None, least_score: float) -> FilePoses:
    """Read a folder: OpenPose's file an image, AlphaPose's list an image, or the one file in it that has all."""
    files = sorted(p for p in where.rglob("*.json") if p.is_file() and not any(part[0] == "." for part in p.relative_to(where).parts))
    if not files:
        inside = next((where / name for name in ("annotation-train.csv", "annotation-test.csv") if (where / name).is_file()), None)
        if inside is not None:
            raise ValueError(f"{where} is a folder: name the keypoint file in it, as {inside}")
        raise ValueError(f"{where} is a folder without JSON files; {READABLE}")
    first = load_json(files[0])
    if openpose.is_frame(first):
        if images is not None:
            raise ValueError(f"{where} names its images itself: leave {images} out, which names those of a list of results")
        return openpose.read_folder(where, files)
    if len(files) == 1:
        return _json(files[0], first, images, least_score)
    if isinstance(first, list):
        people = [one for file in files for one in entries(str(file), "the list", load_json(file))]
        return read_results(str(where), people, least_score, images)
    raise ValueError(f"{where} holds {len(files)} JSON files, the first of them {short(first)}: name the one with the keypoints")
