"""Silhouettes: PNG files beside keypoints, 255 the person, and whether one can be the body that its joints tell of."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generators import Pose, body_mask
from reid_aug.images import ImageError, atomic_write_bytes

JOINTS_INSIDE = 0.7  # share of a body's visible joints that its silhouette covers at least
AREA = (0.5, 2.5)  # of a silhouette, in areas of the limbs' mask that the joints give
LIMB_SHARE = 1 / 16  # radius of these limbs, in heights of the image


def mask_file(folder: str | os.PathLike[str], name: str) -> Path:
    """Name the silhouette of an image in a folder of them; a name with folders has these there, too.

    >>> mask_file("masks", "query/0001_c1s1_000151_01.jpg").as_posix()
    'masks/query/0001_c1s1_000151_01.jpg.png'
    """
    return Path(folder) / f"{name}.png"


def write_mask(folder: str | os.PathLike[str], name: str, mask: Tensor) -> None:
    """Write how surely each pixel is the person's, (H, W) in [0, 1], as 0..255, atomically."""
    buffer = io.BytesIO()
    Image.fromarray((mask.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()).save(buffer, "PNG")
    atomic_write_bytes(mask_file(folder, name), buffer.getvalue())


def read_mask(folder: str | os.PathLike[str], name: str, size: tuple[int, int]) -> Tensor | None:
    """Read a silhouette as float32 (H, W) in [0, 1], resized to `size`; None where there is none, ImageError where it can't be read."""
    file = mask_file(folder, name)
    if not file.exists():
        return None
    try:
        with Image.open(file) as image:
            grey = image.convert("L")
    except Exception as error:  # PIL's decoders let struct.error, SyntaxError and others through
        raise ImageError(f"mask {os.fspath(file)!r} can't be decoded: {' '.join(str(error).split())}") from None
    if (grey.height, grey.width) != tuple(size):
        grey = grey.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(grey)).float() / 255


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
