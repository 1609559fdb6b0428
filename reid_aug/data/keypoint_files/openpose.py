"""OpenPose's JSON: a file an image, in a folder; AlphaPose's `--format open` and `--format cmu`, a file an image or one of all.

Cao et al. 2019, https://github.com/CMU-Perceptual-Computing-Lab/openpose doc/02_output.md: `pose_keypoints_2d` is x, y, score for each
joint, zeros for one that was not found. The images' names have lost their suffix there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from generators import Skeleton, mpii_14, openpose_18
from reid_aug.data.keypoint_files.rows import FilePoses, entries, load_json, one_each, short, table, text

SUFFIX = "_keypoints.json"
KEYS = ("pose_keypoints_2d", "pose_keypoints", "joints")
PEOPLE = ("people", "bodies")
# Joints in a file → the skeleton that is read of it, and where its joints are: COCO's 18, BODY_25 without its middle hip and its feet,
# and MPI's 15 without the chest.
_LAYOUTS: dict[int, tuple[Skeleton, list[int]]] = {
    18: (openpose_18, list(range(18))),
    25: (openpose_18, [*range(8), *range(9, 19)]),
    15: (mpii_14, list(range(14))),
}


def is_frame(content: object) -> bool:
    """Tell whether JSON is of one image, as OpenPose writes it."""
    return isinstance(content, dict) and any(isinstance(content.get(key), list) for key in PEOPLE)


def name_of(file: Path, folder: Path | None = None) -> str:
    """Name the image of a file: without suffix, with the folders that it is in below `folder`.

    >>> name_of(Path("json/query/0001_c1_keypoints.json"), Path("json"))
    'query/0001_c1'
    """
    stem = file.name[: -len(SUFFIX)] if file.name.endswith(SUFFIX) else file.stem
    below = Path() if folder is None else file.parent.relative_to(folder)
    return text((below / stem).as_posix(), str(file), "the image's name, in the file's,")


def read_folder(folder: Path, files: Sequence[Path]) -> FilePoses:
    """Read a folder's files, one an image."""
    frames: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for file in tqdm(files, f"reading {folder.name}", unit="file", delay=2, disable=None, leave=False):
        content, name = load_json(file), name_of(file, folder)
        if not is_frame(content):
            raise ValueError(f"{file}: a file of a folder is of one image, with people, as OpenPose writes it, got {short(content)}")
        if name in frames:
            raise ValueError(f"{file}: its image {name!r} is that of {frames[name][0]}, too")
        frames[name] = (str(file), content)
    return read_frames(str(folder), frames)


def read_named(where: str, content: Mapping[str, Any]) -> FilePoses:
    """Read one file of all images by name, as AlphaPose writes it for `--format open` or `cmu`."""
    wrong = next((name for name, frame in content.items() if not is_frame(frame)), None)
    if wrong is not None:
        raise ValueError(f"{where}, {short(wrong)}: an image has people or bodies, got {short(content[wrong])}")
    frames = {text(name, where, "an image's name"): (f"{where}, {short(name)}", frame) for name, frame in content.items()}
    if len(frames) < len(content):  # a slash for a backslash
        raise ValueError(f"{where}: an image's name comes once, of {len(content):,} names {len(frames):,} are different")
    return read_frames(where, frames)


def read_frames(where: str, frames: Mapping[str, tuple[str, Mapping[str, Any]]]) -> FilePoses:
    """Put images together: by name, where each was read from and what is there. OpenPose is surest of who has most, and surest, joints."""
    names = list(frames)
    rows: list[object] = []
    ats: list[str] = []
    image: list[int] = []
    for i, (at, frame) in enumerate(frames.values()):
        key = next(key for key in PEOPLE if isinstance(frame.get(key), list))
        for j, person in enumerate(entries(at, key, frame[key])):
            given = next((name for name in KEYS if name in person), None)
            if given is None:
                raise ValueError(f"{at}, {key}[{j}]: a person has pose_keypoints_2d, got {short(list(person))}")
            rows.append(person[given])
            ats.append(f"{at}, {key}[{j}]")
            image.append(i)
    rule = f"pose_keypoints_2d are 3 numbers for each of {' or '.join(map(str, _LAYOUTS))} joints (x, y, score)"
    numbers = table(rows, ats.__getitem__, [3 * n for n in _LAYOUTS], rule)
    skeleton, order = _LAYOUTS[numbers.shape[1] // 3 if rows else 18]
    joints = numbers.reshape(len(rows), numbers.shape[1] // 3, 3)[:, order] if rows else np.zeros((0, 18, 3))
    scores = joints[..., 2]
    return one_each(
        where, skeleton, names, np.array(image, dtype=int), joints[..., :2], scores > 0,
        scores=scores, sureness=np.where(scores > 0, scores, 0).sum(1),
    )  # fmt: skip
