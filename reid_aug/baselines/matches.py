"""Who is whom between queries and gallery, and what a ranking comes to: CMC, mAP and mINP of the places where matches lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

Labels = Sequence[int] | np.ndarray | Tensor


@dataclass(frozen=True, eq=False)
class Ranking:
    """Scores of Q queries, as fractions; `cmc[k]` is rank-(k + 1); queries that are not `valid` count in no mean.

    `first_rank` is the 0-based place of the first correct match once junk is left out, −1 where not valid;
    `ap` (average precision) and `inp` (inverse negative penalty) are nan there.
    """

    cmc: np.ndarray  # (min(max_rank, G),)
    map: float
    minp: float
    ap: np.ndarray  # (Q,)
    inp: np.ndarray  # (Q,)
    first_rank: np.ndarray  # (Q,) int
    valid: np.ndarray  # (Q,) bool: the identity is in the gallery under another camera


@dataclass(frozen=True, eq=False)
class Matches:
    """Places in the gallery of each query's identity: `members[start[i]:end[i]]` for query i, in gallery order."""

    members: np.ndarray  # (G,)
    start: np.ndarray  # (Q,)
    end: np.ndarray  # (Q,)
    query_camids: np.ndarray  # (Q,)
    gallery_camids: np.ndarray  # (G,)
    scene_camids: np.ndarray  # (Q,) the query's own where it has no scene

    @classmethod
    def between(
        cls, q_pids: Labels, g_pids: Labels, q_camids: Labels, g_camids: Labels, shape: tuple[int, ...], scenes: Labels | None = None
    ) -> Matches:
        """Match queries with a gallery by their labels; `shape` is (Q, G)."""
        queries, gallery = labels(q_pids, "query_pids", shape[0]), labels(g_pids, "gallery_pids", shape[1])
        members = np.argsort(gallery, kind="stable")
        start, end = (np.searchsorted(gallery[members], queries, side) for side in ("left", "right"))
        cameras = labels(q_camids, "query_camids", shape[0]), labels(g_camids, "gallery_camids", shape[1])
        return cls(members, start, end, *cameras, cameras[0] if scenes is None else labels(scenes, "scene_camids", shape[0]))

    def rows(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find gallery indices (B, P) with the query's pid for queries first..stop, which are positives, which are junk.

        Rows are padded to the longest; padding is neither positive nor junk.
        """
        start, end = self.start[first:stop, None], self.end[first:stop, None]
        place = start + np.arange(max(1, int((end - start).max())))
        same_pid = place < end
        index = self.members[np.minimum(place, len(self.members) - 1)]
        cameras = self.gallery_camids[index]
        same_camera = (cameras == self.query_camids[first:stop, None]) | (cameras == self.scene_camids[first:stop, None])
        return index, same_pid & ~same_camera, same_pid & same_camera


def labels(values: Labels, name: str, length: int) -> np.ndarray:
    """Give labels as an integer array (length,); ValueError names them."""
    array = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
    if array.shape != (length,) or array.dtype.kind not in "iu":
        raise ValueError(f"{name} are {length} integers, one for each row of features, got {array.dtype} {array.shape}")
    return array


def scores_of(ranks: np.ndarray, positives: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give average precision, inverse negative penalty and first rank (B,) from ascending ranks (B, P) of positives (B,)."""
    valid = positives > 0
    nth = np.arange(1, ranks.shape[1] + 1)
    precision = np.where(nth <= positives[:, None], nth / (ranks + 1), 0.0)
    last = np.take_along_axis(ranks, np.maximum(positives - 1, 0)[:, None], axis=1)[:, 0]
    count = np.where(valid, positives, 1)
    ap = np.where(valid, precision.sum(axis=1) / count, np.nan)
    inp = np.where(valid, count / (last + 1), np.nan)
    return ap, inp, np.where(valid, ranks[:, 0], -1)


def ranking_of(parts: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]], gallery: int, max_rank: int) -> Ranking:
    """Put together what `scores_of` gave of one block of queries after another, in a gallery of so many images.

    ValueError where no query is valid.
    """
    ap, inp, first_rank = (np.concatenate(column) for column in zip(*parts, strict=True))
    valid = first_rank >= 0
    if not valid.any():
        raise ValueError(f"a valid query's identity is in the gallery under another camera; none of {len(valid)} queries is")
    length = min(max_rank, gallery)
    # A gallery's end is no miss: every valid query has found its match by then, however many junk images it lost.
    matched = np.bincount(first_rank[valid], minlength=length)[:length]
    return Ranking(matched.cumsum() / valid.sum(), float(ap[valid].mean()), float(inp[valid].mean()), ap, inp, first_rank, valid)
