"""MPII Human Pose: the published .mat, and the .h5 of its single people that pose estimators are trained from.

Andriluka et al. 2014, http://human-pose.mpi-inf.mpg.de/#download, and Newell et al. 2016 (annot/train.h5). 16 joints: right ankle, knee,
hip, left hip, knee, ankle, pelvis, thorax, upper neck, head top, right wrist, elbow, shoulder, left shoulder, elbow, wrist. mpii_14 takes
the upper neck for its neck and the head top for its head, and drops pelvis and thorax. MATLAB's pixels count from 1, poses' from 0. A joint
that was labelled counts as found, whether it is hidden or not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from generators import mpii_14
from reid_aug.data.keypoint_files.matlab import datasets, hdf5, mat5, strings, values
from reid_aug.data.keypoint_files.rows import FARTHEST_PX, FilePoses, one_each, short, text

MPII_16 = (
    "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "thorax", "neck", "head",
    "r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist",
)  # fmt: skip
_ORDER = [MPII_16.index(joint) for joint in mpii_14.joints]


def is_mpii_h5(tables: Sequence[str]) -> bool:
    """Tell by the names of its tables whether an HDF5 file is MPII's."""
    return {"imgname", "part"} <= set(tables)


def read_h5(path: Path) -> FilePoses:
    """Read annot/train.h5 and its like: `imgname` (N), `part` (N, 16, 2); zeros are joints that were not labelled."""
    with hdf5(path) as file:
        tables = datasets(path, file)
        part, names = values(path, tables["part"]), strings(path, file, tables["imgname"])
    if part.ndim != 3 or part.shape[1:] != (16, 2) or part.dtype.kind not in "iuf":
        raise ValueError(f"{path}: part is numbers (N, 16, 2), got {part.dtype} {part.shape}")
    if names is None or len(names) != len(part):
        raise ValueError(f"{path}: imgname is a name for each of {len(part):,} people, got {'no text' if names is None else len(names)}")
    return _posed(str(path), [text(name, f"{path}, imgname[{i}]", "imgname") for i, name in enumerate(names)], part.astype(np.float64))


def read_mat(path: Path, variables: dict[str, Any]) -> FilePoses:
    """Read mpii_human_pose_v1_u12_1.mat: the images on which a person has joints."""
    release = variables["RELEASE"]
    names: list[str] = []
    people: list[np.ndarray] = []
    for i, image in enumerate(_all(_field(release, "annolist", f"{path}, RELEASE")), start=1):
        at = f"{path}, annolist({i})"
        rects = [one for one in _all(getattr(image, "annorect", None)) if hasattr(one, "annopoints")]
        posed = [(j, rect) for j, rect in enumerate(rects, start=1) if _all(getattr(rect.annopoints, "point", None))]
        if posed:
            name = text(_field(_field(image, "image", at), "name", f"{at}.image"), at, "image.name")
            for j, rect in posed:
                names.append(name)
                people.append(_points(rect.annopoints.point, f"{at}.annorect({j})"))
    if not people:
        raise ValueError(f"{path}: nobody in RELEASE.annolist has annopoints")
    return _posed(str(path), names, np.stack(people))


def mat(path: Path) -> dict[str, Any] | None:
    """Read a .mat's variables where it is MPII's; None for another."""
    variables = mat5(path)
    return variables if hasattr(variables.get("RELEASE"), "annolist") else None


def _points(points: Any, at: str) -> np.ndarray:
    """Place a person's points (x, y, id) among the 16 joints (16, 2), zeros for the others."""
    joints = np.zeros((16, 2))
    for point in _all(points):
        which = _number(_field(point, "id", at), at, "id")
        if which not in range(16):
            raise ValueError(f"{at}: a point's id is 0 to 15, got {which:g}")
        joints[int(which)] = [_number(_field(point, axis, at), at, axis) for axis in "xy"]
    return joints


def _posed(where: str, names: list[str], part: np.ndarray) -> FilePoses:
    """Make people's 16 joints, counted from 1, poses on mpii_14, one an image."""
    if not len(part):
        raise ValueError(f"{where}: there is nobody in it")
    wrong = np.flatnonzero(~(np.abs(part) <= FARTHEST_PX).all((1, 2)))
    if len(wrong):
        value = part[wrong[0]][~(np.abs(part[wrong[0]]) <= FARTHEST_PX)][0]
        raise ValueError(f"{where}, {short(names[wrong[0]])}: a coordinate is a number between ±{FARTHEST_PX:,}, got {value:g}")
    order = {name: i for i, name in enumerate(dict.fromkeys(names))}
    joints = part[:, _ORDER]
    visible = np.all(joints > 0, axis=-1)
    return one_each(where, mpii_14, list(order), np.array([order[name] for name in names]), joints - 1, visible)


def _all(value: Any) -> list[Any]:
    """Make a list of what SciPy gives for an array of structures: one alone, several, or none."""
    if value is None or (isinstance(value, np.ndarray) and not value.size):
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def _field(value: Any, name: str, at: str) -> Any:
    if name not in getattr(value, "_fieldnames", ()):
        raise ValueError(f"{at}: a structure with {name} is needed, got {short(value)}")
    return getattr(value, name)


def _number(value: Any, at: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{at}: {what} is a number, got {short(value)}")
    return float(value)
