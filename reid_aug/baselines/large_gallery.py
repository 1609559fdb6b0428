"""Ranking a gallery that memory need not hold, such as Market-1501's with 500,000 distractors: features on disk, read in blocks.

No neighbour search does it: average precision asks for the place of an image's last match, which may lie behind most of the gallery.
But of those that are not the query's person only their number counts: how many are nearer than each match. So the matches'
distances are measured first, and the gallery is then read once, counting. Nothing of it is sorted but what is nearer than the last match.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reid_aug.baselines.matches import Labels, Matches, Ranking, ranking_of, scores_of
from reid_aug.baselines.ranking import Array, block_queries, distance_blocks, float32_features, rank_gallery

BLOCK_ROWS = 2**14  # images of the gallery held at a time: 32 MiB of 512 numbers each, and as many distances at a time as rank_gallery
FEW_ROWS = 2**9  # scattered images that are read at a time
FEWEST_ROWS = 64  # a matrix product of less may round otherwise


def rank_large_gallery(
    query_features: Array, gallery_features: Array | str | os.PathLike[str],
    query_pids: Labels, gallery_pids: Labels, query_camids: Labels, gallery_camids: Labels,
    metric: str = "euclidean", max_rank: int = 50, *, scene_camids: Labels | None = None, block_rows: int = BLOCK_ROWS,
) -> Ranking:  # fmt: skip
    """Rank as `rank_gallery` does, by gallery features (G, D) in a .npy file, an np.memmap or anything that is sliced alike.

    Of the gallery `block_rows` images are held at a time, beside them the queries and three numbers for each image of
    a query's person. Distances are measured on the queries' device. Scores are those of `rank_gallery`, ties included, to the
    last bit where the matrix product rounds a pair alike in blocks of any height, as MKL's does for two queries and more.
    ValueError as there (a gallery's block is named by its rows, when its turn comes), for a file that holds no array and
    for block_rows under 1; FileNotFoundError.

    >>> query, gallery = np.array([[0.0]]), np.array([[1.0], [2.0], [3.0]])
    >>> rank_large_gallery(query, gallery, [7], [8, 7, 7], [0], [1, 0, 1], block_rows=2).cmc.tolist()
    [0.0, 1.0, 1.0]
    """
    if max_rank < 1 or block_rows < 1:
        name, value = ("max_rank", max_rank) if max_rank < 1 else ("block_rows", block_rows)
        raise ValueError(f"{name} is 1 at least, got {value}")
    gallery = _Rows(gallery_features)
    who = query_pids, gallery_pids, query_camids, gallery_camids
    with torch.inference_mode():
        query, _ = float32_features(query_features, "query")
        if len(gallery) <= block_rows:
            features = gallery.read(slice(None)).to(query.device)
            return rank_gallery(query, features, *who, metric, max_rank, scene_camids=scene_camids)
        matches = Matches.between(*who, (len(query), len(gallery)), scene_camids)
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            ranks = _Places(query, gallery, matches, metric, block_rows).counted(pool)
    parts, step = [], block_queries(len(gallery))  # sums round as rank_gallery's do, if as many are padded alike
    for first in range(0, len(query), step):
        positive = matches.rows(first, first + step)[1]
        parts.append(scores_of(ranks[first : first + step, : positive.shape[1]], positive.sum(axis=1)))
    return ranking_of(parts, len(gallery), max_rank)


class _Rows:
    """Rows of features in a file or an array, read a block at a time, as float32."""

    def __init__(self, features: Array | str | os.PathLike[str]) -> None:
        self.path = os.fspath(features) if isinstance(features, str | os.PathLike) else None
        self.array: Array = np.empty(0)
        if self.path is None:
            self.array = features if isinstance(features, Tensor) else np.asanyarray(features)
        array = self._opened()
        kind = "f" if isinstance(array, Tensor) else array.dtype.kind
        if array.ndim != 2 or 0 in array.shape or kind not in "fiu":
            what = f"{'' if isinstance(array, Tensor) else f'{array.dtype} '}{tuple(array.shape)}"
            raise ValueError(f"gallery features are a matrix (rows, D) of numbers, neither of them 0, got {what}")
        self.length = len(array)

    def __len__(self) -> int:
        return self.length

    def read(self, rows: slice | np.ndarray) -> Tensor:
        """Read rows (N, D) as float32; ValueError names those that are not finite."""
        if isinstance(rows, slice):
            part, first, last = self._converted(rows), rows.start or 0, (rows.stop or self.length) - 1
        else:  # some at a time: the system maps pages around each, which count as this process's memory
            part = torch.cat([self._converted(rows[start : start + FEW_ROWS]) for start in range(0, len(rows), FEW_ROWS)])
            first, last = int(rows[0]), int(rows[-1])
        return float32_features(part, f"gallery rows {first} to {last}:")[0]

    def _converted(self, rows: slice | np.ndarray) -> Tensor:
        array = self._opened()
        if isinstance(array, Tensor):
            return array[rows if isinstance(rows, slice) else torch.from_numpy(rows).to(array.device)].float()
        with np.errstate(over="ignore"):  # what is too large for float32 is refused next
            return torch.from_numpy(np.array(array[rows], dtype=np.float32))

    def _opened(self) -> Array:
        """Map the file anew, so that pages which were read do not stay with this process; an array that is mapped already keeps them."""
        if self.path is None:
            return self.array
        try:
            array = np.load(self.path, mmap_mode="r")
        except (ValueError, EOFError) as error:
            raise ValueError(f"{self.path} is no .npy file of features: {' '.join(str(error).split())}") from None
        if not isinstance(array, np.ndarray):
            raise ValueError(f"{self.path} is no .npy file of features: it holds several arrays")
        return array


class _Places:
    """The places of every query's matches in its ranking: those of its person in memory, everybody else counted block by block."""

    def __init__(self, query: Tensor, gallery: _Rows, matches: Matches, metric: str, block_rows: int) -> None:
        self.query, self.gallery, self.metric, self.block_rows = query, gallery, metric, block_rows
        self.index, positive, junk = matches.rows(0, len(query))
        self.same, self.counts = positive | junk, positive.sum(axis=1)
        # What rank_gallery takes at the end in a block of its own is a product of few columns, which may round otherwise.
        whole = len(query) - len(query) % block_queries(len(gallery))
        self.runs = [run for run in (slice(0, whole), slice(whole, len(query))) if run.stop > run.start]
        self.distance, self.key = np.full(positive.shape, np.inf, np.float32), np.zeros(positive.shape, np.int64)
        if positive.any():
            self._measure_matches(matches, positive)
        # Nearest first, equally near in the gallery's order; what is no match comes last.
        order = self.distance.argsort(axis=1, kind="stable")
        self.near_distance, self.near_index = (np.take_along_axis(a, order, axis=1) for a in (self.distance, self.index))

    def counted(self, pool: ThreadPoolExecutor) -> np.ndarray:
        """Find the 0-based places (Q, P) of the matches among all but junk, ascending, then padding."""
        places = np.broadcast_to(np.arange(self.index.shape[1]), self.index.shape).copy()
        if not self.counts.any():
            return places
        with tqdm(total=len(self.gallery), desc="rank", unit="image", disable=None, delay=2, leave=False) as bar:
            for block in self._blocks(len(self.gallery)):
                self._count(block, places, pool)
                bar.update(block.stop - block.start)
        return places

    def _blocks(self, total: int) -> list[slice]:
        """Cut rows into blocks as even as can be, so that the last is not too short for the matrix product."""
        bounds = np.linspace(0, total, -(-total // self.block_rows) + 1).astype(int).tolist()
        return [slice(start, stop) for start, stop in zip(bounds, bounds[1:], strict=False)]

    def _distances(self, features: Tensor) -> Iterator[tuple[slice, np.ndarray]]:
        """Measure distances (B, rows) of one block of queries after another to these rows; the next overwrites them."""
        features = features.to(self.query.device)
        for run in self.runs:
            first = run.start
            for block in distance_blocks(self.query[run], features, self.metric):
                yield slice(first, first + block.shape[1]), block.cpu().numpy().T
                first += block.shape[1]

    def _measure_matches(self, matches: Matches, positive: np.ndarray) -> None:
        """Measure the matches' distances, and hash their rows; equal rows are made equally far, as in `rank_gallery`."""
        edges = np.zeros(len(self.gallery) + 1, np.int64)
        np.add.at(edges, matches.start, 1)
        np.add.at(edges, matches.end, -1)
        rows = np.union1d(matches.members[edges[:-1].cumsum() > 0], np.arange(min(FEWEST_ROWS, len(self.gallery))))
        for part in self._blocks(len(rows)):
            features = self.gallery.read(rows[part])
            keys = _hashes(features)
            for queries, block in self._distances(features):
                place = np.searchsorted(rows[part], self.index[queries])
                place = np.minimum(place, len(keys) - 1)
                query, member = np.nonzero(positive[queries] & (rows[part][place] == self.index[queries]))
                self.distance[queries][query, member] = block[query, place[query, member]]
                self.key[queries][query, member] = keys[place[query, member]]
        for i, count in enumerate(self.counts):
            keys, first, inverse = np.unique(self.key[i, positive[i]], return_index=True, return_inverse=True)
            if len(keys) < count:
                self.distance[i, positive[i]] = self.distance[i, positive[i]][first[inverse]]

    def _count(self, rows: slice, places: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Add to the places of all matches how many of these rows, of other people, are nearer."""
        features = self.gallery.read(rows)
        keys = _hashes(features)
        order = keys.argsort(kind="stable")
        for queries, block in self._distances(features):
            self._even_out(queries, block, keys, order)
            query, member = np.nonzero(self.same[queries] & (self.index[queries] >= rows.start) & (self.index[queries] < rows.stop))
            block[query, self.index[queries][query, member] - rows.start] = np.inf  # the person's own are counted already
            lines = torch.from_numpy(block).contiguous().numpy()  # a query's distances side by side

            def count(some: range, lines: np.ndarray = lines, first: int = queries.start) -> None:
                for i in some:
                    if matches := self.counts[i]:
                        near = self.near_distance[i, :matches], self.near_index[i, :matches] - rows.start
                        places[i, :matches] += _nearer(lines[i - first], *near)

            step = -(-len(lines) // torch.get_num_threads())
            starts = range(queries.start, queries.stop, step)
            list(pool.map(count, (range(start, min(start + step, queries.stop)) for start in starts)))

    def _even_out(self, queries: slice, block: np.ndarray, keys: np.ndarray, order: np.ndarray) -> None:
        """Give rows that equal a match, bit for bit, its distance, which the matrix product may round another way."""
        ordered = keys[order]
        left, right = (np.searchsorted(ordered, self.key[queries], side) for side in ("left", "right"))
        for i, k in zip(*np.nonzero((right > left) & np.isfinite(self.distance[queries])), strict=True):
            block[i, order[left[i, k] : right[i, k]]] = self.distance[queries][i, k]


def _hashes(features: Tensor) -> np.ndarray:
    """Hash each row's bits: int64 (N,). Of a million rows two that differ have one hash with a probability of 1e-7."""
    return np.fromiter((hash(row.tobytes()) for row in features.cpu().numpy()), np.int64, len(features))


def _nearer(distances: np.ndarray, match_distances: np.ndarray, match_rows: np.ndarray) -> np.ndarray:
    """Count the rows (N,) nearer than each match (P,), nearest match first, or as near and before it.

    >>> _nearer(np.array([1.0, 3.0, 2.0, 2.0]), np.array([2.0, 9.0]), np.array([3, 0]))
    array([2, 4])
    """
    near = distances[distances <= match_distances[-1]]
    near.sort()
    count = np.searchsorted(near, match_distances, "left")
    for k in np.flatnonzero(np.searchsorted(near, match_distances, "right") > count):
        count[k] += np.count_nonzero(distances[: max(0, match_rows[k])] == match_distances[k])
    return count
