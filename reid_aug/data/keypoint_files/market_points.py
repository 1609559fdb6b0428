"""Market-1501's keypoints as a .mat of numbers, 28 × N: 14 joints of N images, which it does not name.

The file says neither the order of its joints nor of its rows nor whose its columns are. Columns are of a folder's images in the order of
their names, as MATLAB's dir lists them: of the folder that has as many. Joints are in the order of convolutional pose machines (mpii_14's:
head, neck, right arm, left arm, right leg, left leg) or of Leeds Sports Pose (from the right ankle up to the head), and rows x1, y1, x2, …
or x1 … x14, y1 … y14: whichever alone gives bodies that stand. A doubt says what was taken, so that somebody looks.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from generators import mpii_14
from reid_aug.data.doubts import Doubt
from reid_aug.data.keypoint_files.matlab import is_hdf5
from reid_aug.data.keypoint_files.rows import FARTHEST_PX, FilePoses, same_name, text
from reid_aug.images import SUFFIXES

ROWS = 2 * len(mpii_14)
_LEEDS = (
    "r_ankle", "r_knee", "r_hip", "l_hip", "l_knee", "l_ankle", "r_wrist", "r_elbow", "r_shoulder",
    "l_shoulder", "l_elbow", "l_wrist", "neck", "head",
)  # fmt: skip
ORDERS = {"head first": list(range(len(mpii_14))), "right ankle first": [_LEEDS.index(joint) for joint in mpii_14.joints]}
STANDING = 0.5  # share of bodies that stand, in the right reading at least, and half of it in any other at most


def read_points(path: Path, tables: Mapping[str, np.ndarray], folders: Sequence[Path]) -> FilePoses:
    """Read a .mat of 28 × N numbers; its columns are named by the file itself, or are of the images of one of the `folders`."""
    numbers = {name.removeprefix("number/"): table for name, table in tables.items() if name.startswith("number/")}
    if is_hdf5(path):
        numbers = {name: table.T for name, table in numbers.items()}  # MATLAB's columns are HDF5's rows
    names = [_names(path, name.removeprefix("text/"), list_) for name, list_ in tables.items() if name.startswith("text/")]
    parts = {name: table for name, table in numbers.items() if table.ndim == 2 and ROWS in table.shape}
    if not parts:
        there = ", ".join(f"{name} {' × '.join(map(str, table.shape))}" for name, table in numbers.items()) or "no numbers"
        raise ValueError(f"{path}: keypoints of Market-1501 are a table of {ROWS} × N numbers, the file has {there}")
    said = {len(given): given for given in names}
    listed: list[str] = []
    columns, doubts = [], []
    for name, table in parts.items():
        points = _finite(f"{path}, {name}", table if table.shape[0] == ROWS else table.T)
        listed += said.get(points.shape[1]) or _images(path, name, points.shape[1], folders)
        joints, doubt = _stand(f"{path}, {name}", points)
        columns.append(joints)
        doubts.append(doubt)
    if (twice := same_name(listed)) is not None:
        raise ValueError(f"{path}: a column is one image's, {twice!r} is named twice")
    xy = np.concatenate(columns)
    return FilePoses(str(path), tuple(listed), mpii_14, xy, np.all(xy > 0, axis=-1), doubts=tuple(doubts))


def _names(path: Path, key: str, given: np.ndarray) -> list[str]:
    """Check a list of text; nothing where it is no list of names of files."""
    if given.ndim != 1 or not all(name.lower().endswith(SUFFIXES) for name in given.tolist()):
        return []
    return [text(name, f"{path}, {key}({i})", "an image's name") for i, name in enumerate(given.tolist(), start=1)]


def _images(path: Path, table: str, count: int, folders: Sequence[Path]) -> list[str]:
    """Name the images of the one folder that has `count` of them; ValueError where none has, or several have."""
    by_folder = {folder: sorted(n for n in os.listdir(folder) if n.lower().endswith(SUFFIXES) and n[0] != ".") for folder in folders}
    fit = [names for names in by_folder.values() if len(names) == count]
    if len(fit) == 1:
        return fit[0]
    there = ", ".join(f"{folder} {len(names):,}" for folder, names in by_folder.items())
    how = f"the folders have {there}" if there else "read it with the images: reid-aug poses ROOT --from FILE --out keypoints.csv"
    raise ValueError(f"{path}, {table}: its {count:,} columns are the images of one folder, by name; {how}")


def _finite(at: str, numbers: np.ndarray) -> np.ndarray:
    """Check 28 × N numbers: NaN is a joint that was not found, what is too large is none."""
    points = np.where(np.isnan(numbers), 0, numbers).astype(np.float64)
    if (wrong := np.argwhere(~(np.abs(points) <= FARTHEST_PX))).size:
        row, column = wrong[0]
        raise ValueError(f"{at}({row + 1}, {column + 1}): a coordinate is a number between ±{FARTHEST_PX:,}, got {points[row, column]:g}")
    return points


def _stand(at: str, points: np.ndarray) -> tuple[np.ndarray, Doubt]:
    """Find in which order joints and rows are: (N, 14, 2) on mpii_14; ValueError where no order, or more than one, gives bodies."""
    by_row = {
        "x1, y1, x2, …": points.reshape(14, 2, -1).transpose(2, 0, 1),
        "x1 … x14, y1 … y14": points.reshape(2, 14, -1).transpose(2, 1, 0),
    }
    readings: Mapping[tuple[str, str], np.ndarray] = {
        (rows, order): joints[:, index] for rows, joints in by_row.items() for order, index in ORDERS.items()
    }
    shares = {key: float(_standing(joints).mean()) if len(joints) else 0.0 for key, joints in readings.items()}
    (best, share), (_, second) = sorted(shares.items(), key=lambda item: -item[1])[:2]
    if share < STANDING or second > share / 2:
        found = "; ".join(f"{rows} {order} {value:.0%}" for (rows, order), value in shares.items())
        raise ValueError(f"{at}: the order of joints can't be told: of {points.shape[1]:,} bodies stand, read as {found}")
    text = f"{at}: joints are read {best[1]}, rows as {best[0]}, by which {share:.0%} of bodies stand: look at them with reid-aug inspect"
    return readings[best], Doubt("order", text, points.shape[1])


def _standing(joints: np.ndarray) -> np.ndarray:
    """Tell of bodies (N, 14, 2) which stand: head, neck, hips, knees and ankles from above, the neck near the middle of the shoulders."""

    def of(*names: str) -> np.ndarray:
        return joints[:, [mpii_14.index(name) for name in names]].mean(1)

    heights = [of("head"), of("neck"), of("r_hip", "l_hip"), of("r_knee", "l_knee"), of("r_ankle", "l_ankle")]
    y = np.stack([one[:, 1] for one in heights])
    near = np.linalg.norm(heights[1] - of("r_shoulder", "l_shoulder"), axis=1) < 0.2 * (y[-1] - y[0])
    return (np.diff(y, axis=0) > 0).all(0) & near
