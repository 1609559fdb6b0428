"""YouTube Pose (VGG Human Pose Estimation datasets): 50 videos of 100 frames with seven upper-body joints each.

Charles, Pfister, Magee, Hogg, Zisserman, Personalizing Human Video Pose Estimation, CVPR 2016;
https://www.robots.ox.ac.uk/~vgg/data/pose/ has YouTube_Pose_dataset.mat and GT_frames.zip.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators import Pose, no_such, upper_7
from reid_aug import images
from reid_aug.data.foreign import refuse_mat
from reid_aug.data.people import PersonImage, tell_apart
from reid_aug.data.video_frames import Crop, cropped

FRAMES, CROPPED = "GT_frames", "GT_frames_cropped"
FIELDS = ("videoname", "locs", "imgPath")
CROP_FIELDS = ("crop", "scale", "origRes")


@dataclass(frozen=True)
class _Video:
    """A video: its name, its joints (2, 7, frames), its frames' paths, and how its frames were cut out of the original, if it says so."""

    name: str
    locs: np.ndarray
    frames: list[str]
    crop: Crop | None


def read_youtube_pose(
    path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None, *, test_videos: int | Sequence[str] | None = None
) -> list[PersonImage]:
    """Read every annotated frame of YouTube Pose's .mat file, in its order: a video is an identity (from 1).

    All are in train but `test_videos`, the file's last so many or those of these names: their first frames are queries, all others
    gallery. `root` (default: the file's folder) holds the unpacked GT_frames, cropped and scaled already, in whose pixels the joints
    are. Frames of the original video's size (the file's `origRes`) are cut out by its `crop` and resized by its `scale`, once, into
    GT_frames_cropped beside them. MATLAB's pixels count from 1, poses' from 0; a joint that is not a number above 0 is not visible.
    ValueError names the file, the video and what is missing or wrong; FileNotFoundError names a missing frame.
    """
    where = os.fspath(path)
    folder = Path(where).parent if root is None else Path(root)
    videos = [_video(f"{where}, video {number}", video) for number, video in enumerate(_videos(where), start=1)]
    held_out = _held_out(where, [video.name for video in videos], test_videos)
    people = []
    for number, video in enumerate(videos, start=1):
        at = f"{where}, video {number} ({video.name})"
        frames = [_frame(where, folder, video.name, frame) for frame in video.frames]
        if video.crop is not None:
            frames = cropped(at, frames, video.crop, folder / CROPPED / f"{video.name}-{video.crop.name}")
        rows = [
            PersonImage(file, number, 0, ("gallery" if i else "query") if number in held_out else "train", _pose(video.locs[..., i], file))
            for i, file in enumerate(frames)
        ]
        _refuse_other_frames(at, rows)
        people += rows
    return tell_apart(people)


def _held_out(where: str, names: Sequence[str], test_videos: int | Sequence[str] | None) -> set[int]:
    """Return the numbers, from 1, of the videos to hold out; ValueError for one that is not there, or when none would be left."""
    if test_videos is None:
        return set()
    if isinstance(test_videos, int):
        numbers = set(range(len(names) - test_videos + 1, len(names) + 1))
    else:
        for name in test_videos:
            if name not in names:
                raise ValueError(f"{where}: test_videos: {no_such('video', name, names)}")
        numbers = {number for number, name in enumerate(names, start=1) if name in test_videos}
    if len(numbers) >= len(names) or not numbers:
        raise ValueError(f"{where}: test_videos holds out 1 to {len(names) - 1} of the file's {len(names)} videos, got {len(numbers)}")
    return numbers


def _videos(where: str) -> list[np.void]:
    """Read the elements of the file's structure array `data`, a video each."""
    from scipy.io import loadmat

    if not os.path.isfile(where):
        raise FileNotFoundError(f"no file {where}: YouTube Pose comes as YouTube_Pose_dataset.mat and GT_frames.zip")
    refuse_mat(Path(where))
    try:
        variables: Mapping[str, Any] = loadmat(where)
    except Exception as error:  # scipy raises many kinds for what is no MATLAB file, NotImplementedError for version 7.3
        raise ValueError(f"{where} can't be read as a MATLAB file: {' '.join(str(error).split()) or type(error).__name__}") from None
    data = variables.get("data")
    if data is None or data.dtype.names is None:
        names = ", ".join(sorted(name for name in variables if not name.startswith("__"))) or "nothing"
        raise ValueError(f"{where}: a structure array 'data' is needed, the file holds {names}")
    missing = [field for field in FIELDS if field not in data.dtype.names]
    if missing:
        raise ValueError(f"{where}: data has {', '.join(data.dtype.names)}, there is no {', no '.join(missing)}")
    if not data.size:
        raise ValueError(f"{where}: data holds no video")
    return list(data.ravel())


def _video(at: str, video: np.void) -> _Video:
    """Take a video apart; ValueError for what does not fit together."""
    name, paths, locs = _text(video["videoname"]), [_text(cell) for cell in np.ravel(video["imgPath"])], np.asarray(video["locs"])
    if not name:
        raise ValueError(f"{at}: the videoname is empty")
    if locs.ndim == 2:  # MATLAB drops a last axis of one
        locs = locs[..., None]
    if locs.ndim != 3 or locs.shape[:2] != (2, len(upper_7)) or locs.dtype.kind not in "iuf":
        raise ValueError(f"{at} ({name}): locs are numbers (2, {len(upper_7)}, frames), got {locs.dtype} {locs.shape}")
    if locs.shape[2] != len(paths) or not all(paths):
        raise ValueError(f"{at} ({name}): every frame has a path, got locs of {locs.shape[2]} frames and {sum(map(bool, paths))} paths")
    crop = None
    if set(CROP_FIELDS) <= set(video.dtype.names or ()):
        numbers = [np.asarray(video[field]).ravel() for field in CROP_FIELDS]
        crop = Crop.of(f"{at} ({name})", *numbers)
    return _Video(name, locs.astype(np.float64), paths, crop)


def _text(value: Any) -> str:
    """Unwrap what MATLAB keeps as a string from the arrays that SciPy wraps it in."""
    while isinstance(value, np.ndarray):
        value = value.ravel()[0] if value.size else ""
    return str(value).strip()


def _frame(where: str, folder: Path, video: str, path: str) -> str:
    """Find a frame's file: as the .mat names it, or under GT_frames, or in the video's folder."""
    named = path.replace("\\", "/")
    base = named.rsplit("/", 1)[-1]
    for file in (folder / named, folder / FRAMES / video / base, folder / video / base):
        if file.is_file():
            return os.fspath(file)
    raise FileNotFoundError(
        f"{where}: no frame {base} of video {video} in {folder / FRAMES / video}: unpack GT_frames.zip into {folder}"
    )


def _pose(xy: np.ndarray, file: str) -> Pose:
    """Make one frame's joints (2, 7), counted from 1, a pose in the pixels of its image."""
    visible = (np.isfinite(xy) & (xy > 0)).all(0)
    from_zero = np.where(visible, xy - 1, 0).T.astype(np.float32)
    return Pose(torch.from_numpy(from_zero), torch.from_numpy(visible), upper_7, images.size_of(file))


def _refuse_other_frames(at: str, rows: list[PersonImage]) -> None:
    """Raise ValueError when most frames are too small for their joints: they were shrunk, or are the original video's."""
    poses = [row.pose for row in rows if row.pose is not None]
    limits = [torch.tensor([pose.size[1], pose.size[0]]) for pose in poses]
    outside = sum(bool((pose.xy >= limit).any()) for pose, limit in zip(poses, limits, strict=True))
    if 2 * outside > len(rows):
        raise ValueError(f"{at}: {outside} of {len(rows)} frames have joints outside their image: are they the ones of GT_frames.zip?")
