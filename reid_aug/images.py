"""Image files in and out: decoded whole or refused by name, written whole or not at all."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile
from torch import Tensor
from tqdm import tqdm

from generators import replacing

FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
SUFFIXES = (*FORMATS, ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")  # of files that are looked for in folders
# PIL clips these to 0..255 when it makes RGB of them: a 16-bit picture would turn white without a word.
_DEEP_MODES = ("I", "F")
# EXIF's orientation → what a viewer does with the pixels before it shows them; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
# Where old tools keep EXIF or its like in a PNG.
_PNG_TEXTS = ("Raw profile type exif", "XML:com.adobe.xmp")


class ImageError(OSError, ValueError):
    """A file that can't be read as an image: one line with its path and what is wrong."""


def read(path: str | os.PathLike[str], size: tuple[int, int] | None = None) -> np.ndarray:
    """Read an image as uint8 (H, W, 3) RGB, resized bilinearly to `size` (H, W); ImageError if missing, truncated or no image.

    It is upright, as viewers show it, cv2 reads it and keypoints are of it, where EXIF says that the camera was turned.
    """
    if not os.path.isfile(path):  # also keeps a named pipe from blocking for ever
        what = "is not a file" if os.path.exists(path) else "does not exist"
        raise ImageError(f"image {os.fspath(path)!r} {what}")
    try:
        with Image.open(path) as image:
            if image.mode.startswith(_DEEP_MODES):
                raise ValueError(f"it has more than 8 bits per channel (mode {image.mode})")
            image.load()  # here already: a PNG may tell its orientation after its pixels
            turn = _turn(image)
            rgb = (image if turn is None else image.transpose(turn)).convert("RGB")
    except Exception as error:  # PIL's decoders let struct.error, SyntaxError, zlib's and others through
        raise ImageError(f"image {os.fspath(path)!r} can't be decoded: {_reason(error)}") from error
    if size is not None and (rgb.height, rgb.width) != tuple(size):
        rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.array(rgb)


def resized(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize uint8 (N, 3, H, W) to `size` (H, W) by the filter of `read`; unchanged where they have it.

    >>> resized(torch.arange(0, 80, 10, dtype=torch.uint8).view(1, 1, 2, 4).expand(1, 3, 2, 4), (1, 2))[0, 0].tolist()
    [[27, 43]]
    """
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    pictures = (Image.fromarray(np.ascontiguousarray(image)) for image in pixels.permute(0, 2, 3, 1).numpy())
    arrays = [np.array(picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for picture in pictures]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).contiguous()


def size_of(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Read the size (H, W) that `read` gives an image from its header alone, where it can; ImageError as `read` raises it."""
    with contextlib.suppress(OSError), Image.open(path) as image:
        if not _may_turn(image):
            return image.height, image.width
    height, width = read(path).shape[:2]
    return height, width


def turned(path: str | os.PathLike[str]) -> bool:
    """Tell from the header whether EXIF turns or mirrors an image: torchreid, which ignores that, sees another one. False for no image."""
    with contextlib.suppress(OSError), Image.open(path) as image:
        if not _may_turn(image):
            return False
        if image.format == "PNG":
            image.load()
        return _turn(image) is not None
    return False


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Tell how an opened image is to be turned or mirrored to be upright; None for one that is, or whose EXIF is broken."""
    if not hasattr(image, "tag_v2") and not any(key in image.info for key in ("exif", "xmp", *_PNG_TEXTS)):
        return None  # most images: looking further would take a while
    try:
        return _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # PIL lets struct.error, SyntaxError and others through; viewers show such an image as it is
        return None


def _may_turn(image: ImageFile.ImageFile) -> bool:
    """Tell whether an image of which the header alone was read may be another, once it is upright."""
    if image.format != "PNG" or "exif" in image.info or image.fp is None:
        return _turn(image) is not None
    at = image.fp.tell()
    rest = image.fp.read()  # a PNG may tell its orientation after its pixels
    image.fp.seek(at)
    return b"eXIf" in rest or any(key in image.info or key.encode() in rest for key in _PNG_TEXTS)


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "it is empty or no image format known to PIL"  # PIL's own line repeats the path or prints a buffer's address
    return " ".join(str(error).split()) or type(error).__name__


def read_many(
    paths: Sequence[str | os.PathLike[str]], size: tuple[int, int],
    *, progress: bool | None = None, spill: str | os.PathLike[str] | None = None,
) -> Tensor:  # fmt: skip
    """Read every image as one uint8 (N, 3, H, W), decoded by threads; ImageError names the first that can't be read.

    `progress`: a bar after two seconds; None shows it on a terminal only. `spill`: a folder in which a nameless file
    holds the pixels when they would take more than half of the free memory; it goes when they do.
    """
    out = room_for((len(paths), 3, *size), spill)
    with contextlib.closing(_read_into(out, paths, progress)) as outcomes:
        for error in outcomes:
            if error is not None:
                raise error
    return torch.from_numpy(out)


def room_for(shape: tuple[int, ...], spill: str | os.PathLike[str] | None = None) -> np.ndarray:
    """Make room for uint8 images: memory, or a nameless file in the folder `spill` where they would take more than half of what is free."""
    out: np.ndarray = np.empty(shape, np.uint8)  # costs nothing before it is written to
    if spill is None or out.nbytes <= _free_bytes() / 2:
        return out
    with tempfile.TemporaryFile(dir=spill) as file:
        return np.memmap(file, np.uint8, "w+", shape=shape)


def read_readable(
    paths: Sequence[str | os.PathLike[str]], size: tuple[int, int], *, progress: bool | None = None
) -> tuple[Tensor, list[int]]:
    """Read as read_many does, without the images that can't be read: uint8 (M, 3, H, W) and the M indices kept; ImageError if M is 0."""
    out = np.empty((len(paths), 3, *size), dtype=np.uint8)
    errors = list(_read_into(out, paths, progress))
    kept = [i for i, error in enumerate(errors) if error is None]
    if errors and not kept:
        raise ImageError(f"none of {len(errors)} images can be read; the first: {errors[0]}")
    return torch.from_numpy(out if len(kept) == len(out) else out[kept]), kept


def _read_into(
    out: np.ndarray, paths: Sequence[str | os.PathLike[str]], progress: bool | None
) -> Generator[ImageError | None, None, None]:
    """Fill out[i] (3, H, W) from paths[i]; yields in order what went wrong with each, or None."""
    height, width = out.shape[2:]

    def read_into(i: int) -> ImageError | None:
        try:
            out[i] = read(paths[i], (height, width)).transpose(2, 0, 1)
        except ImageError as error:
            return error
        return None

    if len(paths) == 1:  # what loader workers read: threads would take longer to start
        yield read_into(0)
        return
    with ThreadPoolExecutor(min(16, _cores())) as pool:  # PIL lets go of the GIL while it decodes
        try:
            bar = None if progress is None else not progress
            yield from tqdm(pool.map(read_into, range(len(paths))), "reading images", len(paths), delay=2, disable=bar, leave=False)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _free_bytes() -> int:
    """Tell how much memory is free; without limit where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return 2**62


def _cores() -> int:
    """Count the cores this process may use, which in a container are fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def encode(image: np.ndarray, suffix: str, *, quality: int = 95) -> bytes:
    """Encode uint8 (H, W, 3) RGB as the bytes of a file with that suffix (.jpg, .jpeg, .png); ValueError otherwise."""
    kind = FORMATS.get(suffix.lower())
    if kind is None:
        raise ValueError(f"images are written as {', '.join(FORMATS)}, got suffix {suffix!r}")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"an image to write is uint8 (H, W, 3), got {image.dtype} {image.shape}")
    if not 1 <= quality <= 100:
        raise ValueError(f"JPEG quality is 1..100, got {quality}")
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image)).save(buffer, kind, **({"quality": quality} if kind == "JPEG" else {}))
    return buffer.getvalue()


def write(image: np.ndarray, path: str | os.PathLike[str], *, quality: int = 95) -> None:
    """Write uint8 (H, W, 3) RGB to a .jpg or .png, atomically; ValueError for another suffix, dtype or shape."""
    atomic_write_bytes(path, encode(image, os.path.splitext(path)[1], quality=quality))


def to_float(image: Tensor) -> Tensor:
    """Turn uint8 of any shape into float32 in [-1, 1]: x / 127.5 - 1; TypeError for another dtype."""
    if image.dtype != torch.uint8:
        raise TypeError(f"to_float takes uint8, got {image.dtype}")
    return image.to(torch.float32).div_(127.5).sub_(1)


def to_uint8(image: Tensor) -> Tensor:
    """Turn floats in [-1, 1] into uint8, rounded; what is beyond is clamped, NaN is a ValueError, another dtype a TypeError."""
    if not image.is_floating_point():
        raise TypeError(f"to_uint8 takes floats, got {image.dtype}")
    if bool(torch.isnan(image).any()):
        raise ValueError(f"an image to write holds NaN ({int(torch.isnan(image).sum())} of {image.numel()} values)")
    return image.float().add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file whole or not at all, making its folder; a reader sees the old file or the new one, never a part."""
    with replacing(path) as temporary, open(temporary, "xb") as file:
        file.write(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write as atomic_write_bytes does, in UTF-8 with the line ends `text` has."""
    atomic_write_bytes(path, text.encode("utf-8"))
