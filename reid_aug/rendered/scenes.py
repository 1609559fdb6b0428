"""Places and their cameras: the background, the crop around a body, and the photograph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.figure import Body, view
from reid_aug.rendered.raster import Drawn, Framing, draw, extent, project

FINE = 2  # figures are drawn this many times finer, then averaged


@dataclass(frozen=True)
class Camera:
    """A place and its camera."""

    background: str
    pitch_deg: float  # how far it looks down
    light: tuple[float, float, float]  # towards the lamp: right, up, near
    ambient: float  # share of the light that comes from everywhere
    gain: tuple[float, float, float]  # colour cast, RGB
    gamma: float
    blur_px: float  # at 128 pixels' height
    noise: float  # standard deviation, bytes
    jitter: float  # of the crop, in crops
    jpeg_quality: int


CAMERAS: tuple[Camera, ...] = (
    Camera("bricks", 8, (-0.5, 0.6, 0.7), 0.50, (1.02, 1.00, 0.96), 1.00, 0.30, 3.0, 0.020, 92),
    Camera("lawn", 12, (0.7, 0.6, 0.5), 0.42, (1.08, 1.05, 0.92), 0.95, 0.45, 3.5, 0.025, 88),
    Camera("corridor", 4, (0.0, 0.8, 0.6), 0.62, (0.96, 1.01, 1.04), 1.05, 0.40, 4.0, 0.020, 85),
    Camera("crossing", 15, (-0.8, 0.4, 0.4), 0.40, (1.00, 1.00, 1.00), 1.10, 0.50, 4.5, 0.030, 82),
    Camera("shutters", 6, (0.4, 0.5, 0.9), 0.55, (0.90, 0.95, 1.10), 1.12, 0.65, 5.0, 0.025, 78),
    Camera("plaza", 10, (0.2, 0.7, 0.7), 0.48, (1.04, 0.98, 0.98), 0.90, 0.35, 2.5, 0.020, 90),
)


@lru_cache(maxsize=16)
def _scene(kind: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """A camera's whole view (3, 1.2 H, 6 W), 0 to 255, of which each image shows a window."""
    h, w = round(size[0] * 1.2), size[1] * 6
    unit = size[0] / 128
    rng = np.random.default_rng((0xB6, *kind.encode()))
    x, y = np.arange(w)[None] / unit, np.arange(h)[:, None] / unit
    horizon = {"corridor": 92, "lawn": 74, "crossing": 58}.get(kind, 82)
    down = np.maximum(y - horizon, 0) + 6
    gx, gy = (x - 192) / down, 260 / down  # the ground's own coordinates, in perspective
    wall, ground = np.zeros((h, w, 3)), np.zeros((h, w, 3))

    def paint(where: NDArray, canvas: NDArray, colour: Sequence[float]) -> None:
        canvas[np.broadcast_to(where, (h, w))] = colour

    def cells(a: NDArray, b: NDArray, spread: float) -> NDArray:
        """A fixed random brightness for each cell of a grid."""
        table = rng.normal(1, spread, (97, 89))
        return table[np.floor(a).astype(int) % 97, np.floor(b).astype(int) % 89][..., None]

    if kind == "bricks":
        shift = x + 7 * (np.floor(y / 6) % 2)
        wall[:] = np.array((150, 92, 74)) * cells(shift / 14, y / 6, 0.1)
        paint((shift % 14 < 1) | (y % 6 < 1), wall, (184, 172, 160))
        paint((x % 190 > 120) & (x % 190 < 158) & (y > 8) & (y < 52), wall, (62, 74, 88))
        ground[:] = np.array((150, 146, 140)) * cells(gx * 3, gy, 0.05)
    elif kind == "lawn":
        wall[:] = np.array((62, 92, 54)) * cells(x / 3, y / 3, 0.2)
        paint(y < 22, wall, (176, 196, 214))
        paint((x % 83 < 7) & (y > 5), wall, (84, 66, 50))
        ground[:] = np.array((96, 132, 68)) * cells(x / 2, y * 0.8, 0.09)
        paint((gy > 7) & (gy < 14), ground, (182, 168, 140))
    elif kind == "corridor":
        wall[:] = (206, 204, 194)
        paint((x % 110 > 70) & (y > 18), wall, (128, 98, 74))
        paint((abs(x % 110 - 71) < 1.5) & (y > 16), wall, (88, 70, 56))
        paint((x % 110 < 46) & (x % 110 > 16) & (y > 20) & (y < 48), wall, (70, 104, 150))
        paint(y > 84, wall, (110, 112, 116))
        odd = (np.floor(gx * 2.4) + np.floor(gy * 0.6)) % 2 == 0
        ground[:] = np.where(odd[..., None], (172, 174, 176), (132, 136, 142))
    elif kind == "crossing":
        wall[:] = np.array((112, 116, 124)) * cells(x / 24, y / 60, 0.12)
        paint((x % 24 < 15) & (y % 20 < 11), wall, (58, 70, 84))
        ground[:] = np.array((86, 86, 90)) * cells(x / 2, y / 2, 0.05)
        paint((gx % 0.9 < 0.42) & (gy < 18), ground, (212, 210, 202))
    elif kind == "shutters":
        wall[:] = np.array((126, 138, 148)) * (1 + 0.16 * np.sin(y * 1.6))[..., None]
        paint(x % 96 < 16, wall, (190, 176, 142))
        paint((x % 96 > 30) & (x % 96 < 82) & (y > 4) & (y < 17), wall, (166, 60, 54))
        ground[:] = np.array((74, 76, 80)) * cells(x / 2, y, 0.06)
        paint((gy > 17) & (gy < 24), ground, (196, 170, 60))
    else:
        wall[:] = (168, 186, 196)
        paint((x % 30 < 3) | (y % 34 < 2), wall, (92, 98, 104))
        paint((np.floor(x / 30) % 3 == 1) & (y > 34), wall, (134, 128, 116))
        ground[:] = np.array((186, 174, 158)) * cells(gx * 2, gy * 0.5, 0.06)
        paint((gx * 2 % 1 < 0.06) | (gy * 0.5 % 1 < 0.1), ground, (140, 130, 118))
    scene = np.where((y > horizon)[..., None], ground, wall)
    scene *= 1 + 0.06 * np.sin(x / 47)[..., None] - 0.12 * (abs(y - horizon) < 2)[..., None]
    return scene.clip(0, 255).astype(np.float32).transpose(2, 0, 1).copy()


# ------------------------------------------------------------------------------------------------------ the crop


def framing(body: Body, camera: Camera, size: tuple[int, int], seed: int) -> Framing:
    """The crop a detector would give: the body fills it, up to the camera's jitter."""
    rng = np.random.default_rng((1, seed))
    left, right, bottom, top = extent(body, view(body.pose.yaw_deg, camera.pitch_deg))
    scale = min(0.93 * size[0] / (top - bottom), 0.98 * size[1] / (right - left)) * (1 + camera.jitter * rng.uniform(-1.5, 1))
    dx, dy = camera.jitter * rng.standard_normal(2).clip(-2, 2) * (size[1], size[0] * 0.6)
    x, y = (size[1] - 1) / 2 - scale * (left + right) / 2 + dx, (size[0] - 1) / 2 + scale * (bottom + top) / 2 + dy
    return Framing(float(scale), float(x), float(y), camera.pitch_deg)


def land(body: Body, wanted: Body, frame: Framing) -> Framing:
    """The framing in which the joints of `body` come closest, in least squares, to those of `wanted` in `frame`."""
    turn = view(wanted.pose.yaw_deg, frame.pitch_deg)
    have, goal = (project(b.joints, turn, frame)[:, :2] for b in (body, wanted))
    centre, aim = have.mean(0), goal.mean(0)
    ratio = ((have - centre) * (goal - aim)).sum() / ((have - centre) ** 2).sum()
    x, y = aim + ratio * (np.array((frame.x_px, frame.y_px)) - centre)
    return Framing(float(frame.scale_px * ratio), float(x), float(y), frame.pitch_deg)


# ------------------------------------------------------------------------------------------------ the photograph


@lru_cache(maxsize=4)
def _grain(size: tuple[int, int]) -> NDArray[np.float32]:
    """Standard normal noise, larger than an image, of which each image takes a window."""
    return np.random.default_rng(0x6A).standard_normal((3, size[0] * 3, size[1] * 3), dtype=np.float32)


@lru_cache(maxsize=16)
def _curve(gamma: float) -> NDArray[np.uint8]:
    return (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)


def shoot(body: Body, camera: Camera, size: tuple[int, int], seed: int, frame: Framing | None = None) -> tuple[NDArray[np.uint8], Drawn]:
    """The JPEG file's bytes and the figure in it; without `frame`, in a crop around the body."""
    import cv2

    rng = np.random.default_rng((2, seed))
    frame = frame or framing(body, camera, size, seed)
    drawn = draw(body, frame, size, camera.light, camera.ambient, FINE)
    scene, grain = _scene(camera.background, size), _grain(size)
    (y, x), (gy, gx) = (rng.integers(0, (b.shape[0] - size[0] + 1, b.shape[1] - size[1] + 1)) for b in (scene[0], grain[0]))
    # One plane a colour: numpy is several times faster along rows than along three bytes of a pixel.
    canvas = scene[:, y : y + size[0], x : x + size[1]] * _ground_shadow(drawn, frame, size)
    figure = cv2.resize(drawn.rgba, (size[1], size[0]), interpolation=cv2.INTER_AREA)
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
    return data, drawn


def _ground_shadow(drawn: Drawn, frame: Framing, size: tuple[int, int]) -> NDArray[np.float32]:
    """How bright the ground stays around the feet, (H, W)."""
    feet = drawn.joints[[10, 13]]
    x, y, spread = feet[:, 0].mean(), frame.y_px - 0.012 * frame.scale_px, abs(feet[0, 0] - feet[1, 0]) / 2
    wide, tall = 0.075 * frame.scale_px + spread, 0.03 * frame.scale_px
    across = np.exp(-0.5 * ((np.arange(size[1]) - x) / wide) ** 2)
    down = np.exp(-0.5 * ((np.arange(size[0]) - y) / tall) ** 2)
    return (1 - 0.55 * down[:, None] * across[None]).astype(np.float32)
