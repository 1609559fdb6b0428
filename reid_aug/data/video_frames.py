"""Frames of a whole video, cut and scaled to the person as an annotation says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from reid_aug import images


@dataclass(frozen=True)
class Crop:
    """Where a video's frames are cut, and how far they are scaled then."""

    box: tuple[int, int, int, int]  # left, top, right, bottom, of the first and last pixels that stay, counted from 1
    scale: float
    original: tuple[int, int]  # (H, W) of the frames before

    @staticmethod
    def of(at: str, box: np.ndarray, scale: np.ndarray, original: np.ndarray) -> Crop | None:
        """Make a crop of a file's numbers, None where they are empty or not finite; ValueError says what does not fit."""
        if not all(part.size and part.dtype.kind in "iuf" and np.isfinite(part).all() for part in (box, scale, original)):
            return None
        if (box.size, scale.size, original.size) != (4, 1, 2):
            raise ValueError(f"{at}: crop has 4 numbers, scale 1 and origRes 2, got {box.size}, {scale.size} and {original.size}")
        left, top, right, bottom = (round(float(edge)) for edge in box)
        height, width = (int(side) for side in original)
        if not (1 <= left < right <= width and 1 <= top < bottom <= height and float(scale[0]) > 0):
            inside = f"crop lies in the {width} × {height} pixels of origRes and scale is above 0"
            raise ValueError(f"{at}: {inside}, got {[left, top, right, bottom]} and {float(scale[0]):g}")
        return Crop((left, top, right, bottom), float(scale[0]), (height, width))

    @property
    def name(self) -> str:
        """Name the crop by its numbers: what another one cut is not taken for this one's."""
        return "-".join(f"{number:g}" for number in (*self.box, self.scale))

    @property
    def size(self) -> tuple[int, int]:
        """Give the size (H, W) of what is cut and scaled.

        >>> Crop((11, 21, 138, 116), 0.5, (720, 1280)).size
        (48, 64)
        """
        left, top, right, bottom = self.box
        return max(1, round((bottom - top + 1) * self.scale)), max(1, round((right - left + 1) * self.scale))


def cropped(at: str, frames: Sequence[str], crop: Crop, folder: Path) -> list[str]:
    """Return the files of frames as the crop leaves them: those that are cut already, or PNGs in `folder`, written where they are not.

    A frame is cut already unless it has the original's size; where that is the size of a cut one, too, it counts as cut.
    OSError says where they can't be written.
    """
    files: list[str] = list(frames)
    whole: list[int] = []
    for i, path in enumerate(frames):
        size = images.size_of(path)
        if size == crop.original and size != crop.size:
            files[i] = os.fspath(folder / f"{Path(path).stem}.png")
            whole.append(i)
    for i in tqdm(whole, f"cutting frames of {at}", delay=2, disable=None, leave=False):
        frame: str = frames[i]
        if not _is_newer(files[i], frame) or images.size_of(files[i]) != crop.size:
            images.write(cut(images.read(frame), crop), files[i])
    return files


def cut(frame: np.ndarray, crop: Crop) -> np.ndarray:
    """Cut and scale a frame, uint8 (H, W, 3).

    >>> cut(np.arange(48, dtype=np.uint8).reshape(4, 4, 3), Crop((2, 2, 3, 3), 1.0, (4, 4)))[..., 0].tolist()
    [[15, 18], [27, 30]]
    """
    left, top, right, bottom = crop.box
    height, width = crop.size
    return np.asarray(Image.fromarray(frame[top - 1 : bottom, left - 1 : right]).resize((width, height), Image.Resampling.BICUBIC))


def _is_newer(file: str, than: str) -> bool:
    """Tell whether a file is there and was written after another."""
    return os.path.isfile(file) and os.stat(file).st_mtime_ns >= os.stat(than).st_mtime_ns
