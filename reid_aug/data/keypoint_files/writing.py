"""Poses written as other tools read them: COCO's annotations, OpenPose's folder, AlphaPose's list. Coordinates to 1/10,000 pixel."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators import coco_17, openpose_18
from reid_aug.data.keypoint_files.openpose import SUFFIX
from reid_aug.data.keypoint_files.rows import FilePoses, same_name
from reid_aug.images import atomic_write_text

_DIGITS = 4


def write_coco(path: Path, found: FilePoses) -> None:
    """Write COCO's annotations: all images with their sizes, and a person, of category 1, for each that has a joint.

    v is 2 for what was found and 0, at (0, 0), for what was not; box and area are those of the joints. Scores have no place there.
    """
    poses = found.on(coco_17)
    assert poses.sizes is not None
    images = [
        {"id": i, "file_name": name, "height": int(height), "width": int(width)}
        for i, (name, (height, width)) in enumerate(zip(poses.names, poses.sizes.tolist(), strict=True), start=1)
    ]
    people = []
    for i in np.flatnonzero(poses.visible.any(1)).tolist():
        seen = poses.visible[i]
        low, high = poses.xy[i][seen].min(0), poses.xy[i][seen].max(0)
        box = [*low, *(high - low)]
        person = {"id": len(people) + 1, "image_id": i + 1, "category_id": 1, "iscrowd": 0, "num_keypoints": int(seen.sum())}
        area = round(float(box[2] * box[3]), _DIGITS)
        people.append(person | {"keypoints": _flat(poses, i, np.where(seen, 2, 0)), "bbox": _rounded(box), "area": area})
    names = [joint.replace("l_", "left_").replace("r_", "right_") for joint in coco_17.joints]
    category = {"id": 1, "name": "person", "supercategory": "person", "keypoints": names}
    category["skeleton"] = [[a + 1, b + 1] for a, b in coco_17.edges]
    content = {"info": {"description": "keypoints"}, "licenses": [], "images": images, "annotations": people, "categories": [category]}
    atomic_write_text(path, json.dumps(content) + "\n")


def write_alphapose(path: Path, found: FilePoses) -> None:
    """Write AlphaPose's list of results, COCO's 17 joints: x, y, score, 0 for what was not found; an image without a joint has no entry.

    A person's score is the mean of the scores of the joints that were found.
    """
    poses = found.on(coco_17)
    scores = _scores(poses)
    people = [
        {
            "image_id": poses.names[i], "category_id": 1, "keypoints": _flat(poses, i, scores[i]),
            "score": round(float(scores[i][poses.visible[i]].mean()), _DIGITS),
        }
        for i in np.flatnonzero(poses.visible.any(1)).tolist()
    ]  # fmt: skip
    atomic_write_text(path, json.dumps(people) + "\n")


def write_openpose(path: Path, found: FilePoses) -> None:
    """Write OpenPose's folder: NAME_keypoints.json for each image, 18 joints of one person, or nobody; the folder is there at once.

    ValueError where two images differ by their suffix alone: OpenPose's names have none.
    """
    poses = found.on(openpose_18)
    stems = [os.path.splitext(name)[0] for name in poses.names]
    if (twice := same_name(stems)) is not None:
        raise ValueError(f"OpenPose's files are named by images without suffix, and {twice} is the name of two")
    scores = _scores(poses)
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    try:
        for i, stem in enumerate(stems):
            person = {"person_id": [-1], "pose_keypoints_2d": _flat(poses, i, scores[i])}
            person |= {key: [] for key in ("face_keypoints_2d", "hand_left_keypoints_2d", "hand_right_keypoints_2d")}
            file = folder / f"{stem}{SUFFIX}"
            if folder.resolve() not in file.resolve().parents:
                raise ValueError(f"an image's name stays in its folder, got {stem!r}")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps({"version": 1.3, "people": [person] if poses.visible[i].any() else []}), encoding="utf-8")
        folder.chmod(0o755)
        folder.rename(path)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


WRITERS: dict[str, Callable[[Path, FilePoses], None]] = {"coco": write_coco, "openpose": write_openpose, "alphapose": write_alphapose}


def _scores(poses: FilePoses) -> np.ndarray:
    """Give the score to write for each joint (N, K): 0 where it was not found, and more than that where it was."""
    scores = np.ones(poses.visible.shape) if poses.scores is None else poses.scores
    return np.where(poses.visible, np.maximum(scores, 10**-_DIGITS), 0)


def _flat(poses: FilePoses, i: int, third: np.ndarray) -> list[Any]:
    """List a person's x, y and third number joint by joint."""
    rows = np.concatenate([np.where(poses.visible[i, :, None], poses.xy[i], 0), np.asarray(third, float)[:, None]], 1)
    return _rounded(rows.ravel())


def _rounded(numbers: Sequence[float] | np.ndarray) -> list[Any]:
    """Round to 1/10,000, and write whole numbers as such."""
    return [int(n) if n == int(n) else n for n in np.round(np.asarray(numbers, dtype=float), _DIGITS).tolist()]
