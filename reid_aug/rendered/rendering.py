"""A person rendered by a camera, with the truth about it: joints, what hides them, masks of body and limbs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from generators import Pose, openpose_18
from reid_aug.rendered.figure import BodyPose, posed
from reid_aug.rendered.garments import LIMB_PARTS, PART
from reid_aug.rendered.person import Identity
from reid_aug.rendered.photograph import FINE, shoot
from reid_aug.rendered.raster import Raster
from reid_aug.rendered.scenes import Camera

Image = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Rendered:
    """A rendered person and the truth about it."""

    image: Image  # (H, W, 3) RGB
    pose: Pose  # (18, 2), openpose_18; a joint is visible where it lies inside the frame, hidden or not
    occluded: NDArray[np.bool_]  # (18,) joints that the person hides with other parts
    body_mask: NDArray[np.bool_]  # (H, W)
    limb_masks: NDArray[np.bool_]  # (10, H, W) where each limb is, hidden or not


def render(identity: Identity, pose: BodyPose, camera: Camera, *, size: tuple[int, int] = (128, 64), seed: int = 0) -> Rendered:
    """Render a person; the same arguments give the same bytes.

    `size` is (H, W); `seed` gives the crop's jitter, the background's window, exposure and noise.
    """
    return with_truth(*shoot(posed(identity, pose), camera, size, seed), size)


def with_truth(data: NDArray[np.uint8], raster: Raster, size: tuple[int, int]) -> Rendered:
    """Decode a photograph's file, so that the image is what a reader of the set gets, and add the truth."""
    import cv2

    image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
    xy, inside = torch.from_numpy(raster.joints.astype(np.float32)), torch.from_numpy(joints_inside(raster, size))
    pose, body = Pose(xy, inside, openpose_18, size), _means(raster.rgba[..., 3], size) >= 127
    return Rendered(image, pose, raster.occluded, body, np.stack([_mask(raster, parts, size) for parts in LIMB_PARTS]))


def joints_inside(raster: Raster, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Tell whether each joint's rounded position lies inside the frame, (18,)."""
    at = np.rint(raster.joints)
    return np.all((at >= 0) & (at < (size[1], size[0])), axis=1)


def _means(fine: NDArray, size: tuple[int, int]) -> NDArray:
    """Average the finer grid over each pixel of the image, (H, W)."""
    return fine.reshape(size[0], FINE, size[1], FINE).mean((1, 3))


def _mask(raster: Raster, parts: Mapping[str, float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Mark the pixels (H, W) of which at least half lies on one of the parts, each from a height on."""
    fine = np.zeros(size[0] * size[1] * FINE**2, np.float32)
    for name, height in parts.items():
        fine[raster.pixels[(raster.parts == PART[name]) & (raster.heights >= height)]] = 1
    return _means(fine, size) >= 0.5


def contact_sheet(images: Sequence[Image], columns: int) -> Image:
    """Lay images of one size (H, W, 3) side by side, `columns` in a row, two pixels of white between them.

    >>> contact_sheet([np.zeros((4, 3, 3), np.uint8)] * 3, columns=2).shape
    (10, 8, 3)
    """
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + 2) - 2, columns * (w + 2) - 2, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + 2), i % columns * (w + 2)
        sheet[y : y + h, x : x + w] = image
    return sheet
