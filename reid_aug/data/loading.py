"""From what a configuration names to people with poses."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import PositiveInt, SerializerFunctionWrapHandler, model_serializer

from generators import openpose_18
from reid_aug import images
from reid_aug.config import Config
from reid_aug.data import deepfashion
from reid_aug.data.doubts import report
from reid_aug.data.keypoint_files.rows import scaled
from reid_aug.data.keypoints import as_pose, read_sized_columns
from reid_aug.data.left_out import LeftOut
from reid_aug.data.market import market_left_out, read_market_folder
from reid_aug.data.masks import with_masks
from reid_aug.data.people import SPLITS, PersonImage, attach_poses, keys_of
from reid_aug.data.people_csv import csv_left_out, read_csv
from reid_aug.data.pose_doubts import pose_doubts
from reid_aug.data.youtube_pose import read_youtube_pose


class DataConfig(Config):
    """People: a Market-style folder or a CSV and the keypoint files that go with it, or YouTube Pose's .mat.

    `torchreid:NAME:ROOT` reads one of torchreid's data sets, e.g. torchreid:market1501:reid-data; `deepfashion:DIR` reads
    DeepFashion's In-shop benchmark, as it is unpacked or flattened, whose keypoint files are found by their published names.
    """

    root: str  # Where the people are: a Market-style folder, a CSV, a .mat file, torchreid:NAME:ROOT, or deepfashion:DIR.
    keypoints: str | None = None  # Keypoint file or folder of the training split; without one, annotation-train.csv in the folder.
    test_keypoints: str | None = None  # Keypoint file or folder of query and gallery; without one, annotation-test.csv if it exists.
    on_bad_image: Literal["raise", "skip"] = "raise"  # Whether an image that can't be decoded stops all, or is named and left out.
    allow_overlap: bool = False  # Whether an identity may be in train and in query or gallery, too.
    test_videos: PositiveInt | tuple[str, ...] | None = None  # Videos of a .mat to hold out: the last so many, or these.
    masks: str | None = None  # Folder of silhouettes, PNG files as `reid-aug poses --masks` writes them; None goes by joints alone.

    @model_serializer(mode="wrap")
    def _without_later_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is off: it must not change the digests of earlier runs."""
        return {key: value for key, value in write(self).items() if value or key not in ("allow_overlap", "test_videos", "masks")}


def load_people(
    data: DataConfig, *, train_poses: bool = True, test_poses: bool = False, posed: bool = True, masked: Sequence[str] = SPLITS
) -> list[PersonImage]:
    """Read everybody a configuration names: training images with poses, and test images too if `test_poses` and they exist.

    `posed` says whether training images must have some; else a keypoint file that is neither named nor in the folder is done without.
    Of the splits `masked` images with a pose have the file of their silhouette, where the configuration names a folder of these.
    FileNotFoundError or ValueError, in one line, for anything that is missing or does not fit.
    """
    people = _with_poses(data, train_poses=train_poses, test_poses=test_poses, posed=posed)
    if data.masks is None or not any(p.pose is not None for p in people):
        return people
    return with_masks(people, data.masks, splits=masked)


def _with_poses(data: DataConfig, *, train_poses: bool, test_poses: bool, posed: bool) -> list[PersonImage]:
    """Read everybody a configuration names, without silhouettes."""
    # Where nobody learns from the training images, the others may show the same people.
    if Path(data.root).suffix == ".mat":  # YouTube Pose: its joints are in the file
        return read_youtube_pose(data.root, test_videos=data.test_videos)
    if data.test_videos is not None:
        raise ValueError(f"data.test_videos is of YouTube Pose's .mat, got data.root={data.root}: leave it out")
    people, folder = read_people(data.root, allow_overlap=data.allow_overlap or not train_poses)
    if data.on_bad_image == "skip":
        people = without_bad_images(people)
    if not train_poses:
        return people
    usual, usual_test = _usual_files(data.root, folder)
    if posed or data.keypoints or ((folder / usual).exists() and any(p.split == "train" for p in people)):
        path = _keypoints(data.keypoints, folder, usual, "data.keypoints")
        people = with_keypoints(people, path, ("train",), frame=frame_of(data.root, path))
    there = (folder / usual_test).exists() and any(p.split != "train" for p in people)
    if test_poses and (data.test_keypoints or there):
        path = _keypoints(data.test_keypoints, folder, usual_test, "data.test_keypoints")
        people = with_keypoints(people, path, ("query", "gallery"), frame=frame_of(data.root, path))
    return people


def left_out_of(data: DataConfig) -> list[LeftOut]:
    """List the files and rows of a data set that are not among its people, and why: what is expected, such as junk, too."""
    path = Path(data.root)
    if data.root.startswith(deepfashion.PREFIX):
        return deepfashion.deepfashion_left_out(_deepfashion(data.root))
    if data.root.startswith("torchreid:"):
        from reid_aug.data.torchreid_sets import torchreid_left_out

        return torchreid_left_out(*_torchreid(data.root))
    if path.suffix.lower() == ".csv":
        return csv_left_out(path)
    return [] if path.suffix == ".mat" else market_left_out(path)


def _torchreid(root: str) -> list[str]:
    """Part torchreid:NAME:ROOT: the name and, if given, the root."""
    return root.split(":", 2)[1:]


def _deepfashion(root: str) -> Path:
    """Take the folder of deepfashion:DIR."""
    return Path(root.removeprefix(deepfashion.PREFIX))


def read_people(root: str, *, allow_overlap: bool = False) -> tuple[list[PersonImage], Path]:
    """Read people, without poses unless the file itself has them, and give the folder where their keypoint files are looked for."""
    if Path(root).suffix == ".mat":
        return read_youtube_pose(root), Path(root).parent
    if root.startswith(deepfashion.PREFIX):
        return deepfashion.read_deepfashion(_deepfashion(root), allow_overlap=allow_overlap), _deepfashion(root)
    if root.startswith("torchreid:"):
        from reid_aug.data.torchreid_sets import torchreid_people  # slow to import, and seldom needed

        name, *folder = _torchreid(root)
        return torchreid_people(name, *folder), Path(folder[0] if folder else ".")
    path = Path(root)
    read = read_csv if path.suffix.lower() == ".csv" else read_market_folder
    people = read(path, allow_overlap=allow_overlap)
    return people, path if path.is_dir() else path.parent


def _keypoints(given: str | None, folder: Path, usual: str, key: str) -> Path:
    """Give the keypoint file to read: the one given, or else the usual one of the folder; FileNotFoundError without it."""
    path = Path(given) if given else folder / usual
    if not path.exists():
        complaint = f"no keypoint file at {path}"
        advice = f": name one with {key}=FILE, or find them: reid-aug poses ROOT --out FILE"
        raise FileNotFoundError(complaint if given else complaint + advice)
    return path


def _usual_files(root: str, folder: Path) -> tuple[str, str]:
    """Name the keypoint files of training and of test images that a folder has where none are given."""
    found = deepfashion.keypoint_files_in(folder) if root.startswith(deepfashion.PREFIX) else {}
    usual = "annotation-train.csv", "annotation-test.csv"
    return tuple(Path(found.get(split) or name).name for split, name in zip(("train", "test"), usual, strict=True))  # type: ignore[return-value]


def frame_of(root: str, path: str | os.PathLike[str]) -> tuple[int, int] | None:
    """Say which frame (H, W) a data set's keypoint file is in the pixels of; None for the images' own."""
    return deepfashion.frame_of(path) if root.startswith(deepfashion.PREFIX) else None


def test_keypoints(data: DataConfig) -> Path | None:
    """Find the keypoint file of query and gallery: the one given, or the folder's, or None."""
    folder = _deepfashion(data.root) if data.root.startswith(deepfashion.PREFIX) else Path(data.root)
    usual = folder / _usual_files(data.root, folder)[1]
    return Path(data.test_keypoints) if data.test_keypoints else usual if usual.is_file() else None


def keypoint_files(data: DataConfig, folder: Path) -> dict[str, Path | None]:
    """Give the keypoint file of "train" and that of "query and gallery": the one named, else the folder's usual one, else None."""
    usual, usual_test = _usual_files(data.root, folder)
    named = {"train": (data.keypoints, usual, "data.keypoints")}
    named["query and gallery"] = (data.test_keypoints, usual_test, "data.test_keypoints")
    return {
        splits: _keypoints(given, folder, usual, key) if given or (folder / usual).is_file() else None
        for splits, (given, usual, key) in named.items()
    }


def with_keypoints(
    people: Sequence[PersonImage], path: str | os.PathLike[str], splits: Sequence[str],
    *, sizes: Mapping[str, tuple[int, int]] | None = None, frame: tuple[int, int] | None = None,
) -> list[PersonImage]:  # fmt: skip
    """Return the people with the poses that a keypoint file has for images of `splits`, each in its image's pixels.

    `sizes` are the images' sizes (H, W) by path, where they are known; `frame` is the size that the file's pixels are of, where
    that is no image's own (DeepFashion). Names of In-shop images may be written in any way. ValueError where most poses are no
    bodies in pixels of their images; what else is doubtful in them is warned of (DataDoubt).
    """
    concerned = [p for p in people if p.split in splits]
    if sizes is None:
        with ThreadPoolExecutor(8) as pool:
            sizes = dict(zip((p.path for p in concerned), pool.map(images.size_of, (p.path for p in concerned)), strict=True))
    folders = list(dict.fromkeys(Path(p.path).parent for p in concerned))
    names, yx, of = read_sized_columns(path, len(openpose_18), folders=folders)
    names = [deepfashion.flattened(name) for name in names]
    line = {name: i for i, name in enumerate(names)}
    if len(line) < len(names):
        raise ValueError(f"{os.fspath(path)}: two rows are of one image, {next(n for n in names if names.count(n) > 1)}")
    keys = keys_of(concerned, line)
    found = [(p, line[keys[p.path]]) for p in concerned if p.path in keys]
    # Rows of other images are not judged: those may be of any size.
    rows, their_sizes = [i for _, i in found], np.array([sizes[p.path] for p, _ in found]).reshape(-1, 2)
    if frame is not None:
        yx[rows] = deepfashion.in_images(yx[rows], frame, their_sizes, [names[i] for i in rows], os.fspath(path))
    elif of is not None:
        yx[rows] = scaled(yx[rows], of[rows], their_sizes)
    report(pose_doubts(os.fspath(path), [names[i] for i in rows], yx[rows], their_sizes))
    return attach_poses(people, {p.path: as_pose(yx[i], sizes[p.path]) for p, i in found}, splits=splits, known=names)


def without_bad_images(people: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the people whose files can be decoded; name the others on standard error."""

    def complaint(person: PersonImage) -> str | None:
        try:
            images.read(person.path)
        except images.ImageError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(8) as pool:
        complaints = list(pool.map(complaint, people))
    for line in filter(None, complaints):
        print(f"skipped: {line}", file=sys.stderr)
    return [person for person, bad in zip(people, complaints, strict=True) if bad is None]
