"""The photograph: the crop around a body, then place, shadow and figure through a camera's lens into a JPEG."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.figure import Body, rotation
from reid_aug.rendered.raster import Framing, Raster, extent, project, rasterise
from reid_aug.rendered.scenes import Camera, background

FINE = 2  # figures are rasterised this many times finer, then averaged


def framing(body: Body, camera: Camera, size: tuple[int, int], seed: int) -> Framing:
    """Give the crop that a detector would: the body fills it, up to the camera's jitter."""
    rng = np.random.default_rng((1, seed))
    left, right, bottom, top = extent(body, rotation(body.pose.yaw_deg, camera.pitch_deg))
    scale = min(0.93 * size[0] / (top - bottom), 0.98 * size[1] / (right - left)) * (1 + camera.jitter * rng.uniform(-1.5, 1))
    dx, dy = camera.jitter * rng.standard_normal(2).clip(-2, 2) * (size[1], size[0] * 0.6)
    x, y = (size[1] - 1) / 2 - scale * (left + right) / 2 + dx, (size[0] - 1) / 2 + scale * (bottom + top) / 2 + dy
    return Framing(float(scale), float(x), float(y), camera.pitch_deg)


def land(body: Body, target: Body, frame: Framing) -> Framing:
    """Give the framing in which the joints of `body` come closest, in least squares, to those of `target` in `frame`."""
    turn = rotation(target.pose.yaw_deg, frame.pitch_deg)
    joints, goals = (project(b.joints, turn, frame)[:, :2] for b in (body, target))
    centre, aim = joints.mean(0), goals.mean(0)
    ratio = ((joints - centre) * (goals - aim)).sum() / ((joints - centre) ** 2).sum()
    x, y = aim + ratio * (np.array((frame.x_px, frame.y_px)) - centre)
    return Framing(float(frame.scale_px * ratio), float(x), float(y), frame.pitch_deg)


def shoot(body: Body, camera: Camera, size: tuple[int, int], seed: int, frame: Framing | None = None) -> tuple[NDArray[np.uint8], Raster]:
    """Take a picture: the JPEG file's bytes, and the figure in it. Without `frame`, it is cropped around the body.

    `seed` gives the crop's jitter, the background's window, the exposure and the noise.
    """
    import cv2

    rng = np.random.default_rng((2, seed))
    frame = frame or framing(body, camera, size, seed)
    raster = rasterise(body, frame, size, camera.light, camera.ambient, FINE)
    view, grain = background(camera.background, size), _grain(size)
    (y, x), (gy, gx) = (rng.integers(0, (b.shape[0] - size[0] + 1, b.shape[1] - size[1] + 1)) for b in (view[0], grain[0]))
    # One plane a colour: numpy is several times faster along rows than along three bytes of a pixel.
    canvas = view[:, y : y + size[0], x : x + size[1]] * _ground_shadow(raster, frame, size)
    figure = cv2.resize(raster.rgba, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    *colours, alpha = (plane.astype(np.float32) for plane in cv2.split(figure))
    canvas *= 1 - alpha / 255
    canvas += colours
    sigma = camera.blur_px * size[0] / 128
    if sigma > 0.1:
        canvas = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in canvas])
    canvas *= np.array(camera.gain, np.float32)[:, None, None] * np.float32(rng.uniform(0.93, 1.07))
    canvas += grain[:, gy : gy + size[0], gx : gx + size[1]] * np.float32(camera.noise)
    pixels = cv2.LUT(cv2.merge(list(np.rint(canvas[::-1].clip(0, 255)).astype(np.uint8))), _curve(camera.gamma))  # BGR
    ok, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality))
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a JPEG of quality {camera.jpeg_quality}")
    return data, raster


def _ground_shadow(raster: Raster, frame: Framing, size: tuple[int, int]) -> NDArray[np.float32]:
    """Give how bright the ground stays around the feet, (H, W)."""
    feet = raster.joints[[10, 13]]
    x, y, spread = feet[:, 0].mean(), frame.y_px - 0.012 * frame.scale_px, abs(feet[0, 0] - feet[1, 0]) / 2
    wide, tall = 0.075 * frame.scale_px + spread, 0.03 * frame.scale_px
    across = np.exp(-0.5 * ((np.arange(size[1]) - x) / wide) ** 2)
    down = np.exp(-0.5 * ((np.arange(size[0]) - y) / tall) ** 2)
    return (1 - 0.55 * down[:, None] * across[None]).astype(np.float32)


@lru_cache(maxsize=4)
def _grain(size: tuple[int, int]) -> NDArray[np.float32]:
    """Make standard normal noise, larger than an image, of which each image takes a window."""
    return np.random.default_rng(0x6A).standard_normal((3, size[0] * 3, size[1] * 3), dtype=np.float32)


@lru_cache(maxsize=16)
def _curve(gamma: float) -> NDArray[np.uint8]:
    """Tabulate a gamma curve from bytes to bytes, (256,)."""
    return (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)
