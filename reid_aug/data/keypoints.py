"""Keypoint files in the field's format, `name:keypoints_y:keypoints_x`, as Deformable GAN's authors publish them; all others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from generators import SKELETONS, Pose, Skeleton, openpose_18
from reid_aug.data.doubts import report
from reid_aug.data.foreign import HEADER
from reid_aug.data.keypoint_files import is_other, read_other
from reid_aug.data.keypoint_files.rows import SEEN, FilePoses, scaled
from reid_aug.data.pose_doubts import MISSING, pose_doubts, zeros_are_missing
from reid_aug.images import atomic_write_text

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", re.ASCII)
_PLAIN = re.compile(r"[-+0-9eE., \[\]]*")


@dataclass(frozen=True, eq=False)
class Keypoints(Mapping[str, Pose]):
    """Poses by image name, in file order: `names` (N) and one `pose` (N, K, 2), whose rows are the mapping's values."""

    names: tuple[str, ...]
    pose: Pose

    def __post_init__(self) -> None:
        if self.pose.batch_shape != (len(self.names),):
            raise ValueError(f"{len(self.names)} names take a pose ({len(self.names)}, K, 2), got {tuple(self.pose.xy.shape)}")

    @cached_property
    def row(self) -> dict[str, int]:
        """Give the row of each name."""
        return {name: i for i, name in enumerate(self.names)}

    def __getitem__(self, name: str) -> Pose:
        return self.pose[self.row[name]]

    def __contains__(self, name: object) -> bool:
        return name in self.row  # Mapping's method would build the pose to find out

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def read_keypoints(path: str | os.PathLike[str], *, size: tuple[int, int], skeleton: Skeleton = openpose_18) -> Keypoints:
    """Read the poses of a keypoint file of any format by image name; `size` (H, W) is that of the images its pixels refer to.

    A joint with a negative coordinate is not visible. Where the file itself says of which size an image is, its joints are brought to
    `size`. ValueError names the file, the line and what is wrong, also when more than half of the rows leave `size` or are no bodies in
    pixels; what else is doubtful is warned of (DataDoubt).
    """
    names, yx, sizes = read_sized_columns(path, len(skeleton))
    if sizes is not None:
        yx = scaled(yx, sizes, np.tile(np.array(size, float), (len(names), 1)))
    report(pose_doubts(os.fspath(path), names, yx, np.tile(size, (len(names), 1)), skeleton))
    return Keypoints(tuple(names), as_pose(yx, size, skeleton))


def as_pose(yx: np.ndarray, size: tuple[int, int], skeleton: Skeleton = openpose_18) -> Pose:
    """Make a pose (*B, K, 2) from a file's y and x (*B, K, 2): a joint with a negative coordinate is not visible."""
    visible = (yx >= 0).all(-1)
    xy = torch.from_numpy(yx[..., ::-1].astype(np.float32))
    return Pose(xy, torch.from_numpy(visible), skeleton, (int(size[0]), int(size[1])))


def checked_poses(poses: Mapping[str, Pose]) -> Mapping[str, Pose]:
    """Report what is doubtful in single poses (K, 2) by name, and return all, with (0, 0) not visible where it says missing.

    ValueError when more than half are no bodies in pixels of their `size`. Keypoints were checked when they were read.
    """
    if isinstance(poses, Keypoints):
        return poses
    single = {name: pose for name, pose in poses.items() if pose is not None and not len(pose.batch_shape)}
    marked: dict[str, Pose] = {}
    for skeleton in {pose.skeleton for pose in single.values()}:
        names = [name for name, pose in single.items() if pose.skeleton == skeleton]
        xy = torch.stack([single[name].xy.detach().cpu().double() for name in names]).numpy()
        visible = torch.stack([single[name].visible.cpu() for name in names]).numpy()
        yx, doubts = zeros_are_missing("poses", names, np.where(visible[..., None], xy[..., ::-1], MISSING))
        sizes = np.array([single[name].size for name in names])
        report([*doubts, *pose_doubts("poses", names, yx, sizes, skeleton)])
        if doubts:
            gone = visible & (yx == MISSING).all(-1)
            marked |= {
                names[i]: replace(single[names[i]], visible=torch.from_numpy(visible[i] & ~gone[i]).to(single[names[i]].xy.device))
                for i in np.flatnonzero(gone.any(1))
            }
    return {**poses, **marked} if marked else poses


def read_columns(path: str | os.PathLike[str], joints: int = 18) -> tuple[list[str], np.ndarray]:
    """Read a keypoint file of any format: N names, and y and x as float64 (N, joints, 2), with its -1s.

    In a file that has zeros for missing joints they are -1, too, and a line says so (pose_doubts.zeros_are_missing).
    ValueError names the file, the line and what is wrong.
    """
    return read_sized_columns(path, joints)[:2]


def read_sized_columns(
    path: str | os.PathLike[str], joints: int = 18, *, folders: Sequence[Path] = ()
) -> tuple[list[str], np.ndarray, np.ndarray | None]:
    """Read as read_columns does, and of which sizes (H, W) the images are that pixels refer to, float64 (N, 2), where the file says so.

    NaN is an image of which it does not. `folders` of images are asked where a file does not name them (keypoint_files.market_points).
    """
    where = os.fspath(path)
    if not is_other(where):
        return *_read_csv(where, joints), None
    found = read_other(where, folders=folders).on(next(s for s in SKELETONS.values() if len(s) == joints))
    yx, doubts = zeros_are_missing(where, found.names, found.columns())
    report([*found.doubts, *doubts])
    return list(found.names), yx, found.sizes


def read_file_poses(
    path: str | os.PathLike[str], *, folders: Sequence[Path] = (), images: str | None = None, least_score: float = SEEN
) -> FilePoses:
    """Read a keypoint file of any format as it is (keypoint_files.read_other): on its own skeleton, with its scores and sizes."""
    where = os.fspath(path)
    if is_other(where):
        return read_other(where, folders=folders, images=images, least_score=least_score)
    if images is not None:
        raise ValueError(f"{where} names its images itself: leave {images} out, which names those of a list of results")
    names, yx = _read_csv(where, len(openpose_18))
    return FilePoses(where, tuple(names), openpose_18, yx[..., ::-1].copy(), np.all(yx >= 0, axis=-1))


def _read_csv(where: str, joints: int) -> tuple[list[str], np.ndarray]:
    """Read the field's own format."""
    lines = _lines(where)
    if not lines:
        raise ValueError(f"{where}: the file is empty; a keypoint file begins with {HEADER!r}")
    number, header = lines[0]
    if header != HEADER:
        raise ValueError(f"{where}, line {number}: the header is {HEADER!r}, got {_short(header)}")
    if len(lines) == 1:
        raise ValueError(f"{where}: no rows after the header")
    rows = [(n, line.split(":")) for n, line in lines[1:]]
    for n, fields in rows:
        if len(fields) != 3:
            got = f"{len(fields)} field(s): {_short(':'.join(fields))}"
            raise ValueError(f"{where}, line {n}: a row is name:[y, …]:[x, …], got {got}")
    names = [fields[0].strip() for _, fields in rows]
    _check_names(where, names, [n for n, _ in rows])
    lists = [field.strip() for _, fields in rows for field in fields[1:]]
    numbers = _parse_fast(lists, joints)
    if numbers is None:
        numbers = np.array([_parse_row(f"{where}, line {n}", fields, joints) for n, fields in rows])
    yx, doubts = zeros_are_missing(where, names, numbers.reshape(len(names), 2, joints).transpose(0, 2, 1))
    report(doubts)
    return names, yx


def _lines(where: str) -> list[tuple[int, str]]:
    """Read the lines that are not blank, with their numbers from 1."""
    try:
        text = Path(where).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not a UTF-8 text file (byte {error.start})") from None
    return [(i, line) for i, line in enumerate((line.strip() for line in text.split("\n")), start=1) if line]


def _check_names(where: str, names: list[str], numbers: list[int]) -> None:
    """Raise ValueError if a name is empty or used twice."""
    first: dict[str, int] = {}
    for name, number in zip(names, numbers, strict=True):
        if not name:
            raise ValueError(f"{where}, line {number}: the name is empty")
        if name in first:
            raise ValueError(f"{where}, line {number}: the name {_short(name)} is already on line {first[name]}")
        first[name] = number


def _parse_fast(lists: list[str], joints: int) -> np.ndarray | None:
    """Parse all lists at once into float64 (2N, joints); None when one is odd, and each must be parsed by itself."""
    text = ",".join(lists)
    # One bracket of each kind per list, at its ends, leaves no way for two broken rows to pass as two whole ones.
    ends = all(s.startswith("[") and s.endswith("]") for s in lists)
    if not (ends and text.count("[") == text.count("]") == len(lists) and _PLAIN.fullmatch(text)):
        return None
    if any(s.count(",") != joints - 1 for s in lists):
        return None
    try:  # JSON's reader is twice as quick as NumPy's of words; what it does not take, as `+1`, is parsed by itself
        numbers = np.array(json.loads(f"[{text.replace('[', '').replace(']', '')}]"), dtype=np.float64).reshape(len(lists), joints)
    except (ValueError, OverflowError):
        return None
    return numbers if np.isfinite(numbers).all() else None


def _parse_row(at: str, fields: Sequence[str], joints: int) -> list[list[float]]:
    """Parse one row's y and x lists; ValueError says what is wrong with it."""
    name = _short(fields[0].strip())
    ys, xs = (_parse_list(f"{at} ({name})", field.strip()) for field in fields[1:])
    if len(ys) != len(xs):
        raise ValueError(f"{at} ({name}): y and x lists are equally long, got {len(ys)} and {len(xs)}")
    if len(ys) != joints:
        raise ValueError(f"{at} ({name}): the skeleton has {joints} joints, got {len(ys)}")
    return [ys, xs]


def _parse_list(at: str, text: str) -> list[float]:
    """Parse a list of coordinates in brackets; ValueError names what is no coordinate."""
    if not (len(text) >= 2 and text[0] == "[" and text[-1] == "]"):
        raise ValueError(f"{at}: a list of coordinates is in brackets, got {_short(text)}")
    tokens = [token.strip() for token in text[1:-1].split(",")]
    for token in tokens:
        if not _NUMBER.fullmatch(token) or not np.isfinite(float(token)):
            raise ValueError(f"{at}: a coordinate is a finite number, got {_short(token)}")
    return [float(token) for token in tokens]


def _short(text: str) -> str:
    """Quote a text for a message, cut to at most 60 characters."""
    return repr(text if len(text) <= 60 else text[:57] + "…")


def refuse_names(names: Sequence[str]) -> None:
    """Raise ValueError for names of images that would not come back from a keypoint file."""
    _check_names("keypoints to write", list(names), list(range(1, len(names) + 1)))
    for name in names:
        if ":" in name or "\n" in name or "\r" in name or name != name.strip():
            raise ValueError(f"a name in a keypoint file has no ':', line break or outer space: rename {_short(name)}")


def write_keypoints(path: str | os.PathLike[str], names: Sequence[str], pose: Pose) -> None:
    """Write `pose` (N, K, 2) under `names` (N), atomically, in the format read_keypoints reads; float32 comes back exactly.

    The format has no place for a joint left of or above the image: within half a pixel it is moved onto the edge,
    further out it is written as missing. Two or more joints of a row at exactly (0, 0) come back as missing: no body has
    them. ValueError for names that would not come back, or coordinates not finite.
    """
    Keypoints(tuple(names), pose)  # refuses unequal lengths
    refuse_names(names)
    xy = pose.xy.detach().cpu()
    yx = (xy if xy.dtype == torch.float64 else xy.float()).numpy()[..., ::-1]
    finite = np.isfinite(yx).all((1, 2))
    if not finite.all():
        raise ValueError(f"keypoints to write are finite, those of {_short(names[int(finite.argmin())])} are not")
    yx = np.where((yx < 0) & (yx >= -0.5), 0, yx)
    yx = np.where((pose.visible.cpu().numpy() & (yx >= 0).all(-1))[..., None], yx, MISSING)
    rows = [f"{name}: {_list(points[:, 0])}: {_list(points[:, 1])}" for name, points in zip(names, yx, strict=True)]
    atomic_write_text(path, "\n".join([HEADER, *rows]) + "\n")


def _list(values: np.ndarray) -> str:
    """Write numbers as the field's tools read them: whole ones as ints, others in the fewest digits of their dtype.

    >>> _list(np.array([3.0, 0.1, -1.0], dtype=np.float32))
    '[3, 0.1, -1]'
    """
    return "[" + ", ".join(str(int(v)) if v == int(v) else str(v) for v in values) + "]"
