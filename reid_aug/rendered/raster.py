"""Rasterising a posed body: its tubes are projected, hide each other and are lit."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.figure import FACE, Body, Point, rotation
from reid_aug.rendered.garments import COLUMNS, ROWS, Array, textures
from reid_aug.rendered.person import Identity

_COLOUR, _OPAQUE = np.array([[255, 255, 255, 0], [0, 0, 0, 255]], np.uint8).view(np.uint32)[:, 0]


class Framing(NamedTuple):
    """Where a body lands: the image position of its origin (between the feet), its scale, the camera's downward pitch."""

    scale_px: float
    x_px: float
    y_px: float
    pitch_deg: float


class Raster(NamedTuple):
    """A rasterised figure, on a grid `fine` times finer than the image; m pairs of a pixel and a part that covers it, hidden or not."""

    rgba: NDArray[np.uint8]  # (fine · H, fine · W, 4) colours times alpha
    joints: NDArray  # (18, 2) in the image's pixels
    occluded: NDArray[np.bool_]  # (18,) hidden by the body itself
    pixels: NDArray[np.int64]  # (m,) flat index into the finer grid
    parts: NDArray[np.int64]  # (m,) index into PARTS
    heights: Array  # (m,) how far along the part's axis, 0 to 1


def project(points: NDArray, turn: NDArray, frame: Framing) -> NDArray:
    """Project points (N, 3) of a body, in statures: x right, y down, nearness (N, 3), all in pixels.

    >>> project(np.array([[0.0, 1.0, 0.0]]), np.eye(3), Framing(100, 32, 120, 0)).tolist()  # the top of the head
    [[32.0, 20.0, 0.0]]
    """
    seen = points @ turn.T * frame.scale_px
    return np.stack((frame.x_px + seen[:, 0], frame.y_px - seen[:, 1], seen[:, 2]), axis=1)


def extent(body: Body, turn: NDArray) -> tuple[float, float, float, float]:
    """Measure left, right, bottom and top of a body after the rotation `turn`, in statures."""
    present = body.shape.present
    radius = (body.shape.profile.max(1) * np.minimum(body.shape.aspect, 1))[present, None]
    ends = np.stack((body.start[present] @ turn.T, body.end[present] @ turn.T))[..., :2]
    low, high = (ends - radius * (1, 0.4)).min((0, 1)), (ends + radius * (1, 0.4)).max((0, 1))
    return low[0], high[0], low[1], high[1]


# How much nearer than the joint a surface must be to hide it: the flesh around the joint does not.
_TURNED = np.array([-0.3, 0.05, 0.05, 0.05, 0.05])  # a nose sticks out, so it is seen a little beyond the profile
_FLESH = np.array([0.02, 0.08] + [0.085, 0.055, 0.05] * 2 + [0.095, 0.07, 0.06] * 2 + [0.02] * 2 + [0.035] * 2)


def rasterise(body: Body, frame: Framing, size: tuple[int, int], light: Point, ambient: float, fine: int) -> Raster:
    """Rasterise a posed body on a grid `fine` times finer than `size`; `light` points from the body to the lamp (right, up, near)."""
    turn = rotation(body.pose.yaw_deg, frame.pitch_deg)
    rows, cols = size[0] * fine, size[1] * fine
    tubes = _tubes(body, turn, frame)
    surface = _cover(tubes, rows, cols, fine)
    # A later write wins, so writing from far to near is a z-buffer; 16 bits let the sort be a radix sort.
    level = ((surface.near + 0.6 * frame.scale_px) * (60000 / (1.8 * frame.scale_px))).clip(0, 65535).astype(np.uint16)
    order = np.argsort(level, kind="stable")
    owner = np.full(rows * cols, -1, np.int64)
    owner[np.take(surface.pixel, order)] = order
    covered = np.flatnonzero(owner >= 0)
    nearest = np.take(owner, covered)
    rgba = np.zeros(rows * cols, np.uint32)
    rgba[covered] = _shade(body.who, tubes, _Surface(*(np.take(v, nearest) for v in surface)), frame.scale_px, light, ambient)
    joints = project(body.joints, turn, frame)
    x, y = ((joints[:, i] + 0.5) * fine for i in (0, 1))
    inside = (x >= 0) & (x < cols) & (y >= 0) & (y < rows)
    at = owner[np.where(inside, y.astype(int) * cols + x.astype(int), 0)]
    front = np.where(inside & (at >= 0), surface.near[at] if len(surface.near) else 0, -np.inf)
    occluded = front > joints[:, 2] + _FLESH * frame.scale_px
    occluded[FACE] |= (body.face @ turn.T)[:, 2] < _TURNED
    parts = tubes.part[surface.tube]
    return Raster(rgba.view(np.uint8).reshape(rows, cols, 4), joints[:, :2], occluded, surface.pixel, parts, surface.t)


class _Tubes(NamedTuple):
    """The parts that the person has, as the viewer sees them; n of them, lengths in pixels."""

    part: NDArray  # (n,) index into PARTS
    a: NDArray  # (n, 3) where the axis starts
    depth: NDArray  # (n,) how much nearer it ends
    along: NDArray  # (n, 2) unit vector of the axis in the image
    across: NDArray  # (n, 2) unit vector to its side
    length: NDArray
    half: NDArray  # (n, rows) half width in the image
    skew: NDArray  # nearness of the surface at the side, per half width
    bulge: NDArray  # nearness of the surface in the middle, per half width
    first: NDArray  # angle around the tube where `across` points
    sense: NDArray  # ±1, which way the angle runs over the visible side
    frame: NDArray  # (n, 3, 3)
    aspect: NDArray
    cap: NDArray  # how far the round ends reach, per half width


def _tubes(body: Body, turn: NDArray, frame: Framing) -> _Tubes:
    """Project the parts of a body."""
    part = np.flatnonzero(body.shape.present)
    a, b = project(body.start[part], turn, frame), project(body.end[part], turn, frame)
    step = (b - a)[:, :2]
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 0.25)
    along = step / length[:, None]
    along[np.hypot(along[:, 0], along[:, 1]) < 0.5] = (0, 1)
    along /= np.hypot(along[:, 0], along[:, 1])[:, None]
    across = np.stack((-along[:, 1], along[:, 0]), 1)
    axes = turn @ body.frame[part]
    left, ahead, k = axes[:, :, 0], axes[:, :, 2], body.shape.aspect[part]
    flip = np.array((1, -1))
    side_left, side_ahead = (left[:, :2] * flip * across).sum(1) * k, (ahead[:, :2] * flip * across).sum(1)
    wide = np.maximum(np.hypot(side_left, side_ahead), 0.05)
    c, s = side_left / wide, side_ahead / wide
    bulge = c * ahead[:, 2] - k * s * left[:, 2]
    return _Tubes(
        part=part, a=a, depth=(b - a)[:, 2], along=along, across=across, length=length,
        half=body.shape.profile[part] * (wide * frame.scale_px)[:, None],
        skew=(k * c * left[:, 2] + s * ahead[:, 2]) / wide, bulge=abs(bulge) / wide,
        first=np.arctan2(s, c), sense=np.where(bulge < 0, -1.0, 1.0), frame=axes, aspect=k,
        cap=np.maximum(body.shape.cap[part], 1e-3) / wide,
    )  # fmt: skip


class _Surface(NamedTuple):
    """Every pixel and tube that meet, and where on the tube."""

    pixel: NDArray[np.int64]  # flat, of the finer grid
    tube: NDArray[np.int64]
    t: Array  # along the axis, 0 to 1
    q: Array  # to the side, -1 to 1
    s: Array  # towards the viewer, 0 to 1
    near: Array  # px


def _between(low: NDArray, high: NDArray, limit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give the first whole number from `low` on and how many there are up to `high`, all in 0..limit - 1.

    >>> _between(np.array([-2.0, 1.5]), np.array([3.0, 9.0]), 8)
    (array([0, 2]), array([4, 6]))
    """
    first = np.clip(np.ceil(low), 0, limit).astype(np.int64)
    return first, np.maximum(np.clip(np.floor(high) + 1, 0, limit).astype(np.int64) - first, 0)


def _runs(first: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.int64]:
    """List `count` whole numbers from `first` on, run after run.

    >>> _runs(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    return np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count - first, count)


def _each(value: NDArray, index: NDArray[np.int64]) -> Array:
    """Spread one value per tube to one per pixel, in 32 bits."""
    return np.take(value.astype(np.float32), index)


def _row(t: Array) -> NDArray[np.int64]:
    """Give the texture's row at a height."""
    return (t * np.float32(ROWS - 0.01)).astype(np.int64)


class _Spans(NamedTuple):
    """The pixels near the tubes' axes: r spans, each in one row of the finer grid, of m pixels in all."""

    tube: NDArray[np.int64]  # (r,)
    row: NDArray[np.int64]  # (r,)
    y: NDArray  # (r,) px from the axis' start down to the row
    width: NDArray[np.int64]  # (r,) pixels in the span
    col: NDArray[np.int64]  # (m,) columns of the pixels, span after span


def _spans(tube: _Tubes, rows: int, cols: int, fine: int) -> _Spans:
    """Find the pixels that a tube may cover: in each row only those near the axis, as a slanted limb fills little of its box."""
    reach = tube.half.max(1) + 0.5
    ends = np.stack((tube.a[:, :2], tube.a[:, :2] + tube.along * tube.length[:, None]))
    low, high = (ends - reach[:, None]).min(0), (ends + reach[:, None]).max(0)
    first, count = _between(low[:, 1] * fine, high[:, 1] * fine, rows)
    n = np.repeat(np.arange(len(first)), count)
    row = _runs(first, count)
    y = (row + 0.5) / fine - 0.5 - tube.a[n, 1]
    slope = tube.along[:, 1][n]
    steep = abs(slope) > 0.25
    slope = np.where(steep, slope, 1)
    middle, spread = tube.a[n, 0] + y * tube.along[n, 0] / slope, reach[n] / abs(slope)
    x0 = np.where(steep, np.maximum(low[n, 0], middle - spread), low[n, 0])
    x1 = np.where(steep, np.minimum(high[n, 0], middle + spread), high[n, 0])
    first, width = _between(x0 * fine, x1 * fine, cols)
    return _Spans(n, row, y, width, _runs(first, width))


def _cover(tube: _Tubes, rows: int, cols: int, fine: int) -> _Surface:
    """Find the surface of all tubes on a grid `fine` times finer than the image's pixels."""
    n, row, y, width, col = _spans(tube, rows, cols, fine)
    left = col.astype(np.float32)

    def linear(direction: NDArray) -> Array:
        """Measure how far each pixel lies from the axis' start along a direction (n, 2)."""
        at_zero = y * direction[n, 1] + ((0.5 / fine - 0.5) - tube.a[n, 0]) * direction[n, 0]
        return np.repeat(at_zero.astype(np.float32), width) + left * np.repeat((direction[n, 0] / fine).astype(np.float32), width)

    t, d, tubes = linear(tube.along / tube.length[:, None]), linear(tube.across), np.repeat(n, width)
    flat = t.clip(0, 1)
    cell = tubes * ROWS
    cell += _row(flat)
    narrow = _each(1 / np.maximum(tube.half, 1e-3), cell)
    q = d * narrow
    beyond = (t - flat) * narrow * _each(tube.length / tube.cap, tubes)
    rest = 1 - q * q - beyond * beyond
    hit = np.flatnonzero(rest > 0)
    part = np.take(tubes, hit)
    q, s, t, narrow = (np.take(value, hit) for value in (q, np.sqrt(rest.clip(0)), flat, narrow))
    side, middle = q * _each(tube.skew, part), s * _each(tube.bulge, part)
    near = _each(tube.a[:, 2], part) + t * _each(tube.depth, part) + (side + middle) / narrow
    return _Surface(np.take(np.repeat(row * cols, width) + col, hit), part, t, q, s, near)


def _shade(who: Identity, tubes: _Tubes, at: _Surface, scale_px: float, light: Point, ambient: float) -> NDArray[np.uint32]:
    """Colour surface points (n,), RGBA in 32 bits: texture, lamp, darker rims, and far limbs a little darker."""
    per_angle = COLUMNS / (2 * math.pi)
    column = (_each(tubes.first * per_angle, at.tube) + _each(tubes.sense * per_angle, at.tube) * np.arccos(at.q)).astype(np.int64)
    row = np.take(tubes.part * ROWS, at.tube) + _row(at.t)
    colour = np.take(textures(who), row * COLUMNS + (column & (COLUMNS - 1)))
    # The normal, cos θ / aspect to the left and sin θ ahead, is linear in (q, s), and so is its product with the lamp.
    lamp = (np.asarray(light) / np.linalg.norm(light)) @ tubes.frame  # (n, 3) in each tube's frame
    c, d, k = np.cos(tubes.first), np.sin(tubes.first), tubes.aspect
    stretch = (1 - ambient) * np.sqrt(np.maximum(k, 1))  # about what dividing by the normal's length does
    by_q = (c / k * lamp[:, 0] + d * lamp[:, 2]) * stretch
    by_s = tubes.sense * (c * lamp[:, 2] - d / k * lamp[:, 0]) * stretch
    shade = (at.q * _each(by_q, at.tube) + at.s * _each(by_s, at.tube)).clip(0, 1 - ambient) + np.float32(ambient)
    shade *= (0.73 + 0.45 * at.s) * (1 + (at.near * np.float32(0.9 / scale_px)).clip(-0.18, 0.045))
    lit = colour.view(np.uint8).reshape(-1, 4) * shade[:, None]
    return (np.minimum(lit, 255).astype(np.uint8).view(np.uint32)[:, 0] & _COLOUR) | _OPAQUE
