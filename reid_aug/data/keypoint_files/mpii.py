"""MPII Human Pose: the published .mat, and the .h5 of its single people that pose estimators are trained from.

Andriluka et al. 2014, http://human-pose.mpi-inf.mpg.de/#download, and Newell et al. 2016 (annot/train.h5). 16 joints: right ankle, knee,
hip, left hip, knee, ankle, pelvis, thorax, upper neck, head top, right wrist, elbow, shoulder, left shoulder, elbow, wrist. mpii_14 takes
the upper neck for its neck and the head top for its head, and drops pelvis and thorax. MATLAB's pixels count from 1, poses' from 0. A joint
that was labelled counts as found, whether it is hidden or not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from generators import mpii_14
from reid_aug.data.keypoint_files.rows import FARTHEST_PX, FilePoses, one_each, short, text

MPII_16 = (
    "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "pelvis", "thorax", "neck", "head",
    "r_wrist", "r_elbow", "r_shoulder", "l_shoulder", "l_elbow", "l_wrist",
)  # fmt: skip
_ORDER = [MPII_16.index(joint) for joint in mpii_14.joints]


def is_mpii(tables: Collection[str]) -> bool:
    """Tell by the names of its tables whether a file is MPII's."""
    return "mpii/part" in tables or {"text/imgname", "number/part"} <= set(tables)


def read_mpii(path: Path, tables: Mapping[str, np.ndarray]) -> FilePoses:
    """Read what is in the .mat, or `imgname` (N) and `part` (N, 16, 2) of an .h5: zeros are joints that were not labelled."""
    of_mat = "mpii/part" in tables
    part, names = (tables["mpii/part"], tables["mpii/names"]) if of_mat else (tables["number/part"], tables["text/imgname"])
    if part.ndim != 3 or part.shape[1:] != (16, 2):
        raise ValueError(f"{path}: part is numbers (N, 16, 2), got {part.dtype} {part.shape}")
    if len(names) != len(part):
        raise ValueError(f"{path}: imgname is a name for each of {len(part):,} people, got {len(names):,}")
    checked = [text(name, f"{path}, person {i}", "the image's name") for i, name in enumerate(names.tolist())]
    return _posed(str(path), checked, part.astype(np.float64))


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
