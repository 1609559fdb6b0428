"""What every reader of keypoint files makes: one person an image, checked, with the size that the file says."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators import Pose, Skeleton, convert, made_of
from reid_aug.data.doubts import Doubt

MISSING = -1
SEEN = 0.3  # score from which a joint counts as found, where a file has scores of joints that it did not find, too
FARTHEST_PX = 100_000  # no image is larger, and a coordinate beyond it is no coordinate


@dataclass(frozen=True, eq=False)
class FilePoses:
    """The poses of N images as a file has them: `xy` float64 (N, K, 2) pixels, `visible` (N, K), `scores` (N, K) where it has some.

    `sizes` (N, 2) are the images' (H, W) that the pixels are of, NaN where the file does not say. `doubts` are about the whole file.
    """

    where: str
    names: tuple[str, ...]
    skeleton: Skeleton
    xy: np.ndarray
    visible: np.ndarray
    scores: np.ndarray | None = None
    sizes: np.ndarray | None = None
    doubts: tuple[Doubt, ...] = ()

    def on(self, skeleton: Skeleton) -> FilePoses:
        """Return the poses on another skeleton (generators.convert); a joint that can't be made is missing, and a doubt says so.

        A joint made of others is as sure as the least sure of those it is made of.
        """
        if skeleton.name == self.skeleton.name:
            return self
        pose = Pose(torch.from_numpy(self.xy), torch.from_numpy(self.visible), self.skeleton, (1, 1))
        changed = convert(pose, skeleton, lacking="missing")
        made = [made_of(joint, self.skeleton, skeleton) for joint in skeleton.joints]
        scores = self.scores
        if scores is not None:
            columns = [scores[:, [self.skeleton.index(name) for name in names]].min(1) if names else 0 * scores[:, 0] for names in made]
            scores = np.stack(columns, 1)
        doubts = self.doubts
        if lacking := [joint for joint, names in zip(skeleton.joints, made, strict=True) if not names]:
            text = f"{self.where}: its {self.skeleton.name} poses have no {', '.join(lacking)}, which count as missing everywhere"
            doubts = (*doubts, Doubt("lacking", text, len(self.names)))
        return FilePoses(self.where, self.names, skeleton, changed.xy.numpy(), changed.visible.numpy(), scores, self.sizes, doubts)

    def columns(self) -> np.ndarray:
        """Give y and x (N, K, 2) as a keypoint file has them: −1 where missing, or left of or above the image by more than half a pixel."""
        yx = self.xy[..., ::-1]
        yx = np.where((yx < 0) & (yx >= -0.5), 0, yx)
        return np.where((self.visible & np.all(yx >= 0, axis=-1))[..., None], yx, MISSING)


def scaled(yx: np.ndarray, old: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Bring y and x (N, K, 2) from images of sizes `old` to `new` (N, 2), pixel centres at whole numbers; NaN in `old` changes nothing.

    >>> scaled(np.array([[[3.5, 3.5], [-1, -1]]]), np.array([[32.0, 16.0]]), np.array([[32.0, 32.0]])).tolist()
    [[[3.5, 7.5], [-1.0, -1.0]]]
    """
    factor = np.where(np.isnan(old), 1.0, new / old)[:, None]
    moved = np.maximum((yx + 0.5) * factor - 0.5, 0)
    return np.where((yx >= 0).all(-1, keepdims=True) & (factor != 1), moved, yx)


# --------------------------------------------------------------------------------------------- one person an image


def one_each(
    where: str, skeleton: Skeleton, names: Sequence[str], image: np.ndarray, points: np.ndarray, visible: np.ndarray,
    *, scores: np.ndarray | None = None, sureness: np.ndarray | None = None, sizes: np.ndarray | None = None,
) -> FilePoses:  # fmt: skip
    """Take one person of each of N images from those of P people: `image` (P) says whose each is, `points` (P, K, 2) xy.

    It is the one that the file is surest of (`sureness`, P), without that the one whose joints span most, and of equals the one
    nearest the middle of the image, then the first. An image without anybody has no joint. A doubt counts images with several.
    """
    span = _span(points, visible)
    off = np.zeros(len(image))
    if sizes is not None:
        middle = np.where(visible[..., None], points, 0).sum(1) / np.maximum(visible.sum(1), 1)[:, None]
        off = np.nan_to_num(np.linalg.norm(middle - sizes[image][:, ::-1] / 2, axis=1))
    first = np.zeros(len(image)) if sureness is None else -sureness
    order = np.lexsort((np.arange(len(image)), off, -span, first, image))
    chosen = order[np.unique(image[order], return_index=True)[1]]
    n, k = len(names), len(skeleton)
    xy, seen, sure = np.zeros((n, k, 2)), np.zeros((n, k), bool), np.zeros((n, k))
    xy[image[chosen]], seen[image[chosen]] = points[chosen], visible[chosen]
    if scores is not None:
        sure[image[chosen]] = scores[chosen]
    several = np.flatnonzero(np.bincount(image, minlength=n) > 1)
    doubts = []
    if len(several):
        which = "whose joints span most" if sureness is None else "it is surest of"
        text = f"{where}: {len(several):,} of {n:,} images have several people, the one {which} is taken"
        doubts.append(Doubt("several", text, len(several), tuple(names[i] for i in several.tolist())))
    return FilePoses(where, tuple(names), skeleton, xy, seen, None if scores is None else sure, sizes, tuple(doubts))


def _span(points: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Give the area of the box around each person's joints, in square pixels (P)."""
    seen, anybody = visible[..., None], np.any(visible, axis=1)
    low = np.where(seen, points, np.inf).min(1, initial=FARTHEST_PX)
    high = np.where(seen, points, -np.inf).max(1, initial=-FARTHEST_PX)
    return np.where(anybody, np.prod(np.where(anybody[:, None], high - low, 0), axis=1), -1)


# ------------------------------------------------------------------------------------------------- what is refused


def load_json(where: str | os.PathLike[str]) -> Any:
    """Read a JSON file; ValueError, in one line, for what is none, NaN and Infinity included."""

    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is no number of JSON")

    try:
        return json.loads(Path(where).read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as error:
        raise ValueError(f"{os.fspath(where)}: JSON is UTF-8 text, byte {error.start} is not") from None
    except RecursionError:
        raise ValueError(f"{os.fspath(where)}: JSON of keypoints is a few levels deep, this one is too deep to read") from None
    except ValueError as error:
        raise ValueError(f"{os.fspath(where)}: can't be read as JSON: {' '.join(str(error).split())}") from None


def entries(where: str, what: str, value: object) -> list[dict[str, Any]]:
    """Check that a value is a list of JSON objects; ValueError names what is not."""
    if not isinstance(value, list):
        raise ValueError(f"{where}: {what} is a list, got {short(value)}")
    wrong = next((i for i, one in enumerate(value) if not isinstance(one, dict)), None)
    if wrong is not None:
        raise ValueError(f"{where}, {what}[{wrong}]: an entry is an object {{…}}, got {short(value[wrong])}")
    return value


def table(rows: Sequence[object], at: Callable[[int], str], lengths: Collection[int], rule: str) -> np.ndarray:
    """Make lists of numbers float64 (P, L), all of one of the `lengths`; ValueError says `at` which row `rule` is broken.

    >>> table([[1, 2, 0.5]], "entry {}".format, [3], "x, y, score")
    array([[1. , 2. , 0.5]])
    """
    for i, row in enumerate(rows):
        if not isinstance(row, list):
            raise ValueError(f"{at(i)}: {rule}, got {short(row)}")
        if len(row) not in lengths:
            raise ValueError(f"{at(i)}: {rule}, got {len(row)} numbers")
        if len(row) != len(rows[0]):  # type: ignore[arg-type]
            raise ValueError(f"{at(i)}: every entry has as many numbers as the first, {len(rows[0])}, got {len(row)}")  # type: ignore[arg-type]
    if not rows:
        return np.zeros((0, min(lengths)))
    if set(map(type, chain.from_iterable(rows))) <= {int, float}:  # type: ignore[arg-type]
        try:
            numbers = np.array(rows, dtype=np.float64)
        except OverflowError:
            numbers = None
        if numbers is not None and (np.abs(numbers) <= FARTHEST_PX).all():
            return numbers
    for i, row in enumerate(rows):
        for value in row:  # type: ignore[attr-defined]
            number(value, at(i), "a coordinate or score")
    raise AssertionError("what is refused as a whole is refused in a part")


def number(value: object, at: str, what: str, most: float = FARTHEST_PX) -> float:
    """Return a JSON number of at most `most`, either way; ValueError says `at` where `what` is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) <= most:
        raise ValueError(f"{at}: {what} is a number between -{most:,} and {most:,}, got {short(value)}")
    return float(value)


def text(value: object, at: str, what: str) -> str:
    """Return a name that a keypoint file can have; ValueError says `at` where `what` is none."""
    if not isinstance(value, str) or not value.strip() or value != value.strip() or any(c in value for c in ":\r\n\0"):
        raise ValueError(f"{at}: {what} is a name without ':', line break or outer space, got {short(value)}")
    return value.replace("\\", "/")


def same_name(names: Sequence[str]) -> str | None:
    """Find a name that comes twice."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def short(value: object) -> str:
    """Quote a value for a message, cut to at most 60 characters.

    >>> short("a"), short(None), len(short([1] * 100))
    ("'a'", 'None', 60)
    """
    if isinstance(value, int) and abs(value) >= 10**20:
        return "an integer of more than 20 digits"
    words = " ".join(repr(value[:20] if isinstance(value, list) else value).split())
    return words if len(words) <= 60 else words[:59] + "…"
