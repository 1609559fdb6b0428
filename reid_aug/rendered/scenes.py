"""Six scenes: each a place, its light and the camera that looks at it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Camera:
    """A place, its light and its camera."""

    background: str  # Name of the place.
    pitch_deg: float  # How far the camera looks down.
    light: tuple[float, float, float]  # Direction towards the lamp: right, up, near.
    ambient: float  # Share of the light that comes from everywhere.
    gain: tuple[float, float, float]  # Colour cast, RGB.
    gamma: float  # Gamma of the camera's curve.
    blur_px: float  # Standard deviation of the blur, for images 128 pixels high.
    noise: float  # Standard deviation of the noise, in bytes.
    jitter: float  # Standard deviation of the crop's position, in crops.
    jpeg_quality: int
    road_deg: float  # Heading of those who walk its road one way; half a turn more, the other way.


CAMERAS: tuple[Camera, ...] = (
    Camera("bricks", 8, (-0.5, 0.6, 0.7), 0.50, (1.02, 1.00, 0.96), 1.00, 0.30, 3.0, 0.020, 92, 0),
    Camera("lawn", 12, (0.7, 0.6, 0.5), 0.42, (1.08, 1.05, 0.92), 0.95, 0.45, 3.5, 0.025, 88, 90),
    Camera("corridor", 4, (0.0, 0.8, 0.6), 0.62, (0.96, 1.01, 1.04), 1.05, 0.40, 4.0, 0.020, 85, 30),
    Camera("crossing", 15, (-0.8, 0.4, 0.4), 0.40, (1.00, 1.00, 1.00), 1.10, 0.50, 4.5, 0.030, 82, 120),
    Camera("shutters", 6, (0.4, 0.5, 0.9), 0.55, (0.90, 0.95, 1.10), 1.12, 0.65, 5.0, 0.025, 78, 60),
    Camera("plaza", 10, (0.2, 0.7, 0.7), 0.48, (1.04, 0.98, 0.98), 0.90, 0.35, 2.5, 0.020, 90, 150),
)


@lru_cache(maxsize=16)
def background(place: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """Paint a camera's whole view (3, 1.2 H, 6 W), 0 to 255, of which each image of `size` (H, W) shows a window."""
    h, w = round(size[0] * 1.2), size[1] * 6
    unit = size[0] / 128
    horizon, paint = _PLACES.get(place, _PLACES["plaza"])
    x, y = np.arange(w)[None] / unit, np.arange(h)[:, None] / unit
    down = np.maximum(y - horizon, 0) + 6
    canvas = _Canvas(
        x, y, (x - 192) / down, 260 / down, np.zeros((h, w, 3)), np.zeros((h, w, 3)), np.random.default_rng((0xB6, *place.encode()))
    )
    paint(canvas)
    view = np.where((y > horizon)[..., None], canvas.ground, canvas.wall)
    view *= 1 + 0.06 * np.sin(x / 47)[..., None] - 0.12 * (abs(y - horizon) < 2)[..., None]
    return view.clip(0, 255).astype(np.float32).transpose(2, 0, 1).copy()


@dataclass(frozen=True)
class _Canvas:
    """What a place is painted on: wall above the horizon, ground below, both (h, w, 3); lengths in 1/128 of an image's height."""

    x: NDArray  # (1, w)
    y: NDArray  # (h, 1), down
    gx: NDArray  # (h, w) the ground's coordinates across and into the distance, in perspective
    gy: NDArray  # (h, 1)
    wall: NDArray
    ground: NDArray
    rng: np.random.Generator

    def fill(self, layer: NDArray, where: NDArray, colour: Sequence[float]) -> None:
        """Paint wall or ground in one colour where the mask (broadcast to (h, w)) is true."""
        layer[np.broadcast_to(where, layer.shape[:2])] = colour

    def cells(self, a: NDArray, b: NDArray, spread: float) -> NDArray:
        """Pick a random brightness for each cell of a grid, always the same ones for a place."""
        table = self.rng.normal(1, spread, (97, 89))
        return table[np.floor(a).astype(int) % 97, np.floor(b).astype(int) % 89][..., None]


def _bricks(on: _Canvas) -> None:
    shift = on.x + 7 * (np.floor(on.y / 6) % 2)
    on.wall[:] = np.array((150, 92, 74)) * on.cells(shift / 14, on.y / 6, 0.1)
    on.fill(on.wall, (shift % 14 < 1) | (on.y % 6 < 1), (184, 172, 160))
    on.fill(on.wall, (on.x % 190 > 120) & (on.x % 190 < 158) & (on.y > 8) & (on.y < 52), (62, 74, 88))
    on.ground[:] = np.array((150, 146, 140)) * on.cells(on.gx * 3, on.gy, 0.05)


def _lawn(on: _Canvas) -> None:
    on.wall[:] = np.array((62, 92, 54)) * on.cells(on.x / 3, on.y / 3, 0.2)
    on.fill(on.wall, on.y < 22, (176, 196, 214))
    on.fill(on.wall, (on.x % 83 < 7) & (on.y > 5), (84, 66, 50))
    on.ground[:] = np.array((96, 132, 68)) * on.cells(on.x / 2, on.y * 0.8, 0.09)
    on.fill(on.ground, (on.gy > 7) & (on.gy < 14), (182, 168, 140))


def _corridor(on: _Canvas) -> None:
    on.wall[:] = (206, 204, 194)
    on.fill(on.wall, (on.x % 110 > 70) & (on.y > 18), (128, 98, 74))
    on.fill(on.wall, (abs(on.x % 110 - 71) < 1.5) & (on.y > 16), (88, 70, 56))
    on.fill(on.wall, (on.x % 110 < 46) & (on.x % 110 > 16) & (on.y > 20) & (on.y < 48), (70, 104, 150))
    on.fill(on.wall, on.y > 84, (110, 112, 116))
    light = (np.floor(on.gx * 2.4) + np.floor(on.gy * 0.6)) % 2 == 0
    on.ground[:] = np.where(light[..., None], (172, 174, 176), (132, 136, 142))


def _crossing(on: _Canvas) -> None:
    on.wall[:] = np.array((112, 116, 124)) * on.cells(on.x / 24, on.y / 60, 0.12)
    on.fill(on.wall, (on.x % 24 < 15) & (on.y % 20 < 11), (58, 70, 84))
    on.ground[:] = np.array((86, 86, 90)) * on.cells(on.x / 2, on.y / 2, 0.05)
    on.fill(on.ground, (on.gx % 0.9 < 0.42) & (on.gy < 18), (212, 210, 202))


def _shutters(on: _Canvas) -> None:
    on.wall[:] = np.array((126, 138, 148)) * (1 + 0.16 * np.sin(on.y * 1.6))[..., None]
    on.fill(on.wall, on.x % 96 < 16, (190, 176, 142))
    on.fill(on.wall, (on.x % 96 > 30) & (on.x % 96 < 82) & (on.y > 4) & (on.y < 17), (166, 60, 54))
    on.ground[:] = np.array((74, 76, 80)) * on.cells(on.x / 2, on.y, 0.06)
    on.fill(on.ground, (on.gy > 17) & (on.gy < 24), (196, 170, 60))


def _plaza(on: _Canvas) -> None:
    on.wall[:] = (168, 186, 196)
    on.fill(on.wall, (on.x % 30 < 3) | (on.y % 34 < 2), (92, 98, 104))
    on.fill(on.wall, (np.floor(on.x / 30) % 3 == 1) & (on.y > 34), (134, 128, 116))
    on.ground[:] = np.array((186, 174, 158)) * on.cells(on.gx * 2, on.gy * 0.5, 0.06)
    on.fill(on.ground, (on.gx * 2 % 1 < 0.06) | (on.gy * 0.5 % 1 < 0.1), (140, 130, 118))


# Each place: how far down its horizon lies, and what paints it.
_PLACES: dict[str, tuple[float, Callable[[_Canvas], None]]] = {
    "bricks": (82, _bricks),
    "lawn": (74, _lawn),
    "corridor": (92, _corridor),
    "crossing": (58, _crossing),
    "shutters": (82, _shutters),
    "plaza": (82, _plaza),
}
