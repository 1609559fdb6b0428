"""Silhouettes: PNG files beside keypoints, 255 the person; which image each is of, and whether it can be the body its joints tell of."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from generators import Generator, Pose, body_mask
from reid_aug import images
from reid_aug.data.doubts import Doubt, first_few, report
from reid_aug.data.people import PersonImage, keys_of
from reid_aug.digests import file_digests
from reid_aug.images import ImageError, atomic_write_bytes

JOINTS_INSIDE = 0.7  # share of a body's visible joints that its silhouette covers at least
AREA = (0.5, 2.5)  # of a silhouette, in areas of the limbs' mask that the joints give
LIMB_SHARE = 1 / 16  # radius of these limbs, in heights of the image
SAME_SHAPE = 1.05  # factor by which a silhouette's height over width may differ from its image's: sides are whole numbers of pixels
_SUFFIX = ".png"


def mask_file(folder: str | os.PathLike[str], name: str) -> Path:
    """Name the silhouette of an image in a folder of them; a name with folders has these there, too.

    >>> mask_file("masks", "query/0001_c1s1_000151_01.jpg").as_posix()
    'masks/query/0001_c1s1_000151_01.jpg.png'
    """
    return Path(folder) / f"{name}{_SUFFIX}"


def write_mask(folder: str | os.PathLike[str], name: str, mask: Tensor) -> None:
    """Write how surely each pixel is the person's, (H, W) in [0, 1], as 0..255, atomically."""
    buffer = io.BytesIO()
    Image.fromarray((mask.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()).save(buffer, "PNG")
    atomic_write_bytes(mask_file(folder, name), buffer.getvalue())


def read_mask(folder: str | os.PathLike[str], name: str, size: tuple[int, int]) -> Tensor | None:
    """Read a silhouette as float32 (H, W) in [0, 1], resized to `size`; None where there is none, ImageError where it can't be read."""
    file = mask_file(folder, name)
    return torch.from_numpy(_read(file, size)).float() / 255 if file.exists() else None


def _read(file: str | os.PathLike[str], size: tuple[int, int]) -> np.ndarray:
    """Read a silhouette as uint8 (H, W), resized to `size`; ImageError where it can't be read, or is of 0 and 1 instead of 0 and 255."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits per channel (mode {image.mode})")
            grey = image.convert("L")
        if grey.getextrema() == (0, 1):
            raise ValueError("its values are 0 and 1, and a silhouette's 0 to 255, 255 the person")
    except Exception as error:  # PIL's decoders let struct.error, SyntaxError and others through
        raise _unusable(file, error) from None
    if (grey.height, grey.width) != tuple(size):
        grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(grey)


def _unusable(file: str | os.PathLike[str], error: Exception) -> ImageError:
    """Make the error that names a silhouette and says in one line what is wrong with it."""
    known = not isinstance(error, UnidentifiedImageError)  # PIL's own line repeats the path
    why = " ".join(str(error).split()) if known else "it is empty or no image format known to PIL"
    return ImageError(f"mask {os.fspath(file)!r} can't be used: {why}")


def with_masks(people: Sequence[PersonImage], folder: str | os.PathLike[str], *, splits: Sequence[str] = ("train",)) -> list[PersonImage]:
    """Return the people, those of `splits` whose pose is known with the file of their silhouette in a folder that `reid-aug poses` filled.

    An image's file has its name and `.png` after it, `0001_c1s1_000151_01.jpg.png`: the rule for names is that of poses (`keys_of`).
    Those without one are warned of in a line. FileNotFoundError without the folder; ValueError where no image has a silhouette, or one
    is of another shape than its image; ImageError where one can't be read.
    """
    where = Path(folder)
    if not where.is_dir():
        raise FileNotFoundError(f"no folder of silhouettes at {where}: make one with reid-aug poses ROOT --out FILE --masks DIR")
    concerned = [p for p in people if p.split in splits and p.pose is not None]
    files = {path.relative_to(where).as_posix().removesuffix(_SUFFIX): path for path in sorted(where.rglob(f"*{_SUFFIX}"))}
    keys = keys_of(concerned, files)
    if concerned and not keys:
        expected, example = mask_file("", concerned[0].name).as_posix(), f", it has {next(iter(files))}{_SUFFIX}" if files else ""
        raise ValueError(
            f"{where} has a silhouette of none of {len(concerned)} images: a file is called as its image with {_SUFFIX} after it, as "
            f"{expected}{example}"
        )
    if without := tuple(p.name for p in concerned if p.path not in keys):
        line = f"{len(without)} of {len(concerned)} images have no silhouette in {where}, and are cut out by their joints alone"
        report([Doubt("without mask", f"{line}: {first_few(without)}", len(without), without, names_in_text=True)])
    at = {path: os.fspath(files[key]) for path, key in keys.items()}
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda p: _refuse_other_shape(p, at[p.path]), (p for p in concerned if p.path in at)))
    return [replace(p, mask=at[p.path]) if p.path in at and p.split in splits else p for p in people]


def _refuse_other_shape(person: PersonImage, file: str) -> None:
    """Raise ValueError for a silhouette that can't be of a person's image, ImageError for one whose size can't be read."""
    try:
        with Image.open(file) as image:
            height, width = image.height, image.width
    except Exception as error:
        raise _unusable(file, error) from None
    size = images.size_of(person.path) if person.pose is None else person.pose.size
    if not 1 / SAME_SHAPE < (height / width) / (size[0] / size[1]) < SAME_SHAPE:
        raise ValueError(f"mask {file!r} is of {height} × {width} pixels, and its image of {size[0]} × {size[1]}: another shape")


def read_masks(files: Sequence[str | None], size: tuple[int, int]) -> Tensor:
    """Read silhouettes as uint8 (N, H, W) of `size`, 255 the person; 0 everywhere where there is none. Errors as `read_mask`."""
    shown = np.zeros((len(files), *size), np.uint8)
    for i, file in enumerate(files):
        if file is not None:
            shown[i] = _read(file, size)
    return torch.from_numpy(shown)


def with_silhouettes(pose: Pose, files: Sequence[str | None] | None) -> Pose:
    """Return poses (B, K) with the silhouettes that files hold, at the poses' size; as they are where there is no file."""
    if files is None or not any(files):
        return pose
    return replace(pose, silhouette=as_silhouettes(read_masks(files, pose.size)).to(pose.xy.device))


def as_silhouettes(masks: Tensor) -> Tensor:
    """Turn uint8 of any shape into float32 in [0, 1]."""
    return masks.to(torch.float32).div_(255)


def masks_in_vain(folder: str | os.PathLike[str] | None, generator: Generator) -> list[Doubt]:
    """Find that silhouettes are given to a generator that does not look at them."""
    if folder is None or generator.takes_silhouettes:
        return []
    line = f"{type(generator).__name__} does not look at silhouettes: those of {os.fspath(folder)} change no image"
    return [Doubt("masks in vain", line, 1)]


def masks_digest(files: Sequence[str | None] | None) -> str | None:
    """Digest silhouettes by content, in their order: 64 hex digits, or None where there is no file."""
    if files is None or not any(files):
        return None
    contents = iter(file_digests([file for file in files if file is not None]))
    return hashlib.sha256("\n".join("" if file is None else next(contents) for file in files).encode()).hexdigest()


def mask_digests(people: Sequence[PersonImage]) -> dict[str, tuple[str, ...]]:
    """Digest people's silhouettes, by their images' paths: what goes behind all else that is digested of an image, where it has one."""
    known = {p.path: p.mask for p in people if p.mask is not None}
    return {path: (digest,) for path, digest in zip(known, file_digests(list(known.values())), strict=True)}


def plausible(masks: Tensor, pose: Pose) -> Tensor:
    """Tell which silhouettes (N, H, W), in [0, 1], can be the bodies (N, K) that the joints tell of: bool (N).

    It covers at least 70 % of the visible joints, and has between 0.5 and 2.5 times the area of the limbs around them: clothes the
    colour of the ground, or somebody in front, give others.

    >>> from generators import upper_7
    >>> xy = torch.tensor([[[8.0, 4], [0, 0], [0, 0], [0, 0], [0, 0], [4, 12], [12, 12]]])
    >>> pose = Pose(xy, torch.tensor([[True, False, False, False, False, True, True]]), upper_7, (32, 16))
    >>> whole = body_mask(pose, 2.0)[:, 0]
    >>> plausible(whole, pose).tolist(), plausible(1 - whole, pose).tolist()
    ([True], [False])
    """
    height, width = pose.size
    person = masks > 0.5
    limbs = body_mask(pose, LIMB_SHARE * height)[..., 0, :, :] > 0.5
    column, row = pose.xy.round().long().unbind(-1)
    at = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
    covered = person.flatten(1).gather(1, at) & pose.visible
    share = covered.sum(1) / pose.visible.sum(1).clamp(min=1)
    area = person.flatten(1).sum(1) / limbs.flatten(1).sum(1).clamp(min=1)
    return pose.visible.any(1) & (share >= JOINTS_INSIDE) & (area >= AREA[0]) & (area <= AREA[1])
