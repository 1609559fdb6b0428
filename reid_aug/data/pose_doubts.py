"""What is doubtful in keypoints: another scale, zeros for what was not found, joints in another order.

Bounds were set on 39,907 published and detected rows (Market-1501, CUHK03), of which none leaves its image, none has two joints
at (0, 0), no body of four joints or more is smaller than a tenth of its image, and at most six in a thousand break one rule of
order below.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from generators import Skeleton, openpose_18
from reid_aug.data.body import TORSO
from reid_aug.data.doubts import Doubt

MISSING = -1
POINT, SMALL = 0.02, 0.09  # a body that spans less of its image's height and of its width is a point, or too small
LEAST_REACH = (0.7, 0.5)  # shares of height and width that half the bodies of a set reach at least
NECK = 0.05  # of a body's length: how far a neck lies off the middle of the shoulders at most
ROUNDED_PX = 2.9  # two joints and the middle of two others, each rounded to pixels, and as much again
ONE_PLACE = 5  # joints on one point: small images have three, by rounding
RARE, MOSTLY = 0.1, 0.75
A_FEW = 4  # bodies, of fewer than which most may lie


def zeros_are_missing(where: str, names: Sequence[str], yx: np.ndarray) -> tuple[np.ndarray, list[Doubt]]:
    """Make joints at (0, 0) missing where a file says so by them: y and x (N, K, 2) with −1 there, and a doubt that counts them.

    A file says so where a row has two joints there, or more than one row in a hundred has one: no body has that.

    >>> yx = np.array([[[0.0, 0], [0, 0], [5, 3]], [[0, 0], [7, 3], [8, 3]]])
    >>> zeros_are_missing("k.csv", ["a", "b"], yx)[0].tolist()
    [[[-1.0, -1.0], [-1.0, -1.0], [5.0, 3.0]], [[-1.0, -1.0], [7.0, 3.0], [8.0, 3.0]]]
    """
    zero = (yx == 0).all(-1)
    each = zero.sum(1)
    rows = np.flatnonzero(each)
    if not len(rows) or not (each.max() > 1 or len(rows) > max(1, 0.01 * len(names))):
        return yx, []
    text = f"{where}: (0, 0) is taken for missing, {int(zero.sum()):,} joints in {len(rows):,} of {len(names):,} rows"
    return np.where(zero[..., None], MISSING, yx), [Doubt("zeros", text, len(rows), tuple(names[i] for i in rows.tolist()))]


def pose_doubts(
    where: str, names: Sequence[str], yx: np.ndarray, sizes: np.ndarray | None = None, skeleton: Skeleton = openpose_18
) -> list[Doubt]:
    """Find what is doubtful in keypoints: y and x (N, K, 2), missing where negative, of images of `sizes` (N, 2), if known.

    Of what comes of one mistake the plainest is told alone: keypoints of another scale have no order to be judged.
    """
    rows = _Rows(where, tuple(names), yx, None if sizes is None else np.asarray(sizes, np.float64), skeleton)
    if not rows.posed.any():
        return []
    with np.errstate(invalid="ignore"):  # what is missing is NaN, and compares as false
        shares, outside, points, turned = (check(rows) for check in (_shares, _outside, _points, _turned))
        for doubts in (shares, outside, points, turned):
            if any(doubt.grave for doubt in doubts):
                return doubts
        return [*outside, *points, *_reach(rows), *_beyond(rows), *(turned or [*_order(rows), *_mirrored(rows)]), *_one_place(rows)]


@dataclass(frozen=True, eq=False)
class _Rows:
    """Keypoints of N rows, and what the checks ask of them."""

    where: str
    names: tuple[str, ...]
    raw: np.ndarray
    sizes: np.ndarray | None
    skeleton: Skeleton

    @cached_property
    def yx(self) -> np.ndarray:
        """Give y and x (N, K, 2), NaN where missing."""
        return np.where((self.raw >= 0).all(-1, keepdims=True), self.raw, np.nan)

    @cached_property
    def joints(self) -> np.ndarray:
        """Count each row's joints (N)."""
        return np.count_nonzero(np.isfinite(self.yx[..., 0]), axis=1)

    @cached_property
    def posed(self) -> np.ndarray:
        """Tell which rows have a joint, bool (N)."""
        return self.joints > 0

    @cached_property
    def corners(self) -> np.ndarray:
        """Give the least and the greatest y and x of each row's joints (2, N, 2); NaN without any."""
        seen = ~np.isnan(self.yx)
        least, most = np.where(seen, self.yx, np.inf).min(1), np.where(seen, self.yx, -np.inf).max(1)
        return np.where(self.posed[:, None], np.stack([least, most]), np.nan)

    @cached_property
    def length(self) -> np.ndarray:
        """Give the larger of height and width of each body in pixels (N)."""
        return (self.corners[1] - self.corners[0]).max(1)

    def at(self, *joints: str) -> np.ndarray:
        """Give the mean of joints (N, 2); NaN where one is missing, or the skeleton lacks it."""
        if any(joint not in self.skeleton.joints for joint in joints):
            return np.full((len(self.names), 2), np.nan)
        return self.yx[:, [self.skeleton.index(joint) for joint in joints]].mean(1)

    @cached_property
    def downwards(self) -> np.ndarray:
        """Give the way from the middle of the shoulders to that of the hips (N, 2)."""
        return self.at(*TORSO[2:]) - self.at(*TORSO[:2])

    def doubt(self, kind: str, which: np.ndarray, text: str, grave: bool = False) -> Doubt:
        """Make a doubt about the rows `which` (N)."""
        return Doubt(kind, f"{self.where}: {text}", int(which.sum()), tuple(self.names[i] for i in np.flatnonzero(which).tolist()), grave)


def _mostly(which: np.ndarray, of: np.ndarray) -> bool:
    return 2 * int(which.sum()) > int(of.sum())


def _often(which: np.ndarray, of: np.ndarray) -> bool:
    """Tell whether a rule is broken more often than chance and bad detections break it."""
    broken, rows = int(which.sum()), int(of.sum())
    return broken > max(1, RARE * rows) or 0 < broken == rows


def _of(which: np.ndarray, of: np.ndarray) -> str:
    return f"{int(which.sum()):,} of {int(of.sum()):,}"


# ----------------------------------------------------------------------------------------------------------- scale


def _shares(rows: _Rows) -> list[Doubt]:
    """Doubt coordinates that are shares of the image."""
    within = (rows.joints > 1) & (rows.corners[1] <= 1).all(1)
    if not _mostly(within, rows.posed):
        return []
    text = "rows have every joint between 0 and 1: keypoints are in pixels; multiply shares by the image's height and width"
    return [rows.doubt("shares", within, f"{_of(within, rows.posed)} {text}", grave=True)]


def _outside(rows: _Rows) -> list[Doubt]:
    """Doubt joints right of or below their image; grave where most rows have some."""
    if rows.sizes is None:
        return []
    out = (rows.corners[1] >= rows.sizes).any(1)
    if not out.any():
        return []
    text = f"{_of(out, rows.posed)} rows have joints outside {_size_words(rows, out)}"
    return [rows.doubt("outside", out, text, grave=_mostly(out, rows.posed))]


def _size_words(rows: _Rows, out: np.ndarray) -> str:
    """Say which sizes the rows leave, and what may be the cause."""
    assert rows.sizes is not None
    sizes = sorted({(int(h), int(w)) for h, w in rows.sizes[rows.posed]})
    what = f"(H, W) {sizes[0]}" if len(sizes) == 1 else f"their images, (H, W) {sizes[0]} to {sizes[-1]}"
    if not _mostly(out, rows.posed):
        return f"{what}: wrong size?"
    exchanged = (rows.corners[1][:, ::-1] < rows.sizes).all(1)
    if exchanged[rows.posed].mean() >= 1 - RARE:
        return f"{what}: are y and x exchanged? a row is name:[y, …]:[x, …]"
    times = float(np.nanmedian((rows.corners[1] / rows.sizes).max(1)))
    return f"{what}: wrong size? joints reach to {times:.3g} times the image, and are in the pixels of each image as it is"


def _points(rows: _Rows) -> list[Doubt]:
    """Doubt bodies that are a point, grave where most are, and those too small for anybody to be seen."""
    if rows.sizes is None:
        return []
    bodies = rows.joints > 3
    span = ((rows.corners[1] - rows.corners[0]) / rows.sizes).max(1)
    point, small = bodies & (span < POINT), bodies & (span < SMALL)
    if _mostly(point, rows.posed):
        text = "bodies have all joints on one point: keypoints are in pixels"
        return [rows.doubt("point", point, f"{_of(point, bodies)} {text}", grave=True)]
    if not small.any():
        return []
    text = f"{_of(small, bodies)} bodies span less than {100 * SMALL:.0f} % of their image's height and width"
    return [rows.doubt("small", small, f"{text}: keypoints of smaller images?")]


def _reach(rows: _Rows) -> list[Doubt]:
    """Doubt sets whose bodies end far from the lower and the right edge: as a rule bodies nearly fill a crop."""
    bodies = ~np.isnan(rows.downwards[:, 0])
    if rows.sizes is None or not bodies.any():
        return []
    reach = rows.corners[1] / rows.sizes
    down, across = np.median(reach[bodies], 0)
    if down >= LEAST_REACH[0] and across >= LEAST_REACH[1]:
        return []
    short = bodies & (reach < LEAST_REACH).any(1)
    text = f"half of {int(bodies.sum()):,} bodies end above {100 * down:.0f} % of the height and left of {100 * across:.0f} % of the width"
    return [rows.doubt("reach", short, f"{text}: keypoints of smaller images?")]


def _beyond(rows: _Rows) -> list[Doubt]:
    """Doubt negative coordinates other than −1: joints left of or above the image can't be told from missing ones."""
    which = ((rows.raw < 0) & (rows.raw != MISSING)).any((1, 2))
    if not which.any():
        return []
    text = "rows have negative coordinates other than -1: joints left of or above the image count as missing"
    return [rows.doubt("beyond", which, f"{int(which.sum()):,} of {len(which):,} {text}")]


# ----------------------------------------------------------------------------------------------------------- order


def _turned(rows: _Rows) -> list[Doubt]:
    """Doubt bodies that do not stand: hips on the right of shoulders are y and x exchanged, grave where most are."""
    down, across = rows.downwards.T
    bodies = ~np.isnan(down)
    exchanged, turned = across > np.abs(down), (-across > np.abs(down)) | (-down > np.abs(across))
    if _mostly(exchanged, bodies):
        text = "bodies lie, hips to the right of shoulders: are y and x exchanged? a row is name:[y, …]:[x, …]"
        return [rows.doubt("exchanged", exchanged, f"{_of(exchanged, bodies)} {text}", grave=int(bodies.sum()) >= A_FEW)]
    lying = exchanged | turned
    if not _often(lying, bodies):
        return []
    return [rows.doubt("turned", lying, f"{_of(lying, bodies)} bodies lie or stand on their heads: images or keypoints turned?")]


def _order(rows: _Rows) -> list[Doubt]:
    """Doubt the order of joints where necks lie between no shoulders, noses below necks, knees above hips or ankles above knees."""
    off = np.linalg.norm(rows.at("neck") - rows.at(*TORSO[:2]), axis=1) - np.maximum(NECK * rows.length, ROUNDED_PX)
    pairs = [("necks lie between no shoulders", off)]
    for words, upper, lower in (
        ("noses lie below necks", ("nose",), ("neck",)),
        ("knees lie above hips", ("r_hip", "l_hip"), ("r_knee", "l_knee")),
        ("ankles lie above knees", ("r_knee", "l_knee"), ("r_ankle", "l_ankle")),
    ):
        # The more so of both sides; where one is not seen, the other.
        pairs.append((words, np.fmax.reduce([(rows.at(a) - rows.at(b))[:, 0] for a, b in zip(upper, lower, strict=True)])))
    broken = [(words, by > 0, ~np.isnan(by)) for words, by in pairs]
    broken = [rule for rule in broken if _often(*rule[1:])]
    if not broken:
        return []
    which = np.logical_or.reduce([rule[1] for rule in broken])
    what = ", ".join(f"{words} in {_of(*rule)} rows" for words, *rule in broken)
    return [rows.doubt("order", which, f"{what}: joints in another order? it is {' '.join(rows.skeleton.joints)}")]


def _mirrored(rows: _Rows) -> list[Doubt]:
    """Doubt left and right where faces are seen above what would be backs."""
    width = (rows.at("l_shoulder") - rows.at("r_shoulder"))[:, 1] + 0 * rows.at("nose", "r_eye", "l_eye")[:, 1]
    faces = ~np.isnan(width)
    if int((width < 0).sum()) <= MOSTLY * int(faces.sum()):
        return []
    text = f"right shoulders lie right of left ones in {_of(width < 0, faces)} rows with a face: are left and right exchanged?"
    return [rows.doubt("mirrored", width < 0, text)]


def _one_place(rows: _Rows) -> list[Doubt]:
    """Doubt joints that share a place, as a mark for what was not found does."""
    if rows.yx.shape[1] < ONE_PLACE:
        return []
    place = np.sort(rows.yx[..., 0] * 1e6 + rows.yx[..., 1], axis=1)  # NaN, what is missing, comes last and equals nothing
    shared = (place[:, ONE_PLACE - 1 :] == place[:, : 1 - ONE_PLACE]).any(1)
    if not shared.any():
        return []
    text = f"{_of(shared, rows.posed)} rows have {ONE_PLACE} joints or more in one place: a mark for missing? that is {MISSING}"
    return [rows.doubt("place", shared, text)]
