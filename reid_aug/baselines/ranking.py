"""Ranking a gallery for every query: CMC, mAP and mINP as torchreid defines them, without its full argsort.

A score needs the places of the correct matches only. They are found by a plain sort of each row of distances
(vectorised in numpy, and free of Python's lock, so on all cores) and a binary search for the few matches in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from generators import no_such
from reid_aug.baselines.matches import Labels, Matches, Ranking, ranking_of, scores_of

_BLOCK_ELEMENTS = 2**22  # distances held at a time: 16 MiB, and as much again for their sorted copy
_LARGEST_SQUARED_NORM = 8e37  # |q|² + |g|² + 2|q||g| of two such vectors is still finite in float32

Array = np.ndarray | Tensor


def rank_gallery(
    query_features: Array, gallery_features: Array,
    query_pids: Labels, gallery_pids: Labels, query_camids: Labels, gallery_camids: Labels,
    metric: str = "euclidean", max_rank: int = 50, *, scene_camids: Labels | None = None,
) -> Ranking:  # fmt: skip
    """Rank (G, D) gallery features for (Q, D) query features by "euclidean" or "cosine" distance, in float32.

    Equal distances keep the gallery's order, and gallery rows that are equal bit for bit are always at equal
    distance. Junk (the query's pid and camid) is left out, and so is, of queries rendered in the place that another
    camera sees (`scene_camids`, one each), what that one has of the person. ValueError: shapes or lengths that do not
    fit, features that are not finite, an unknown metric, no valid query. Definitions: torchreid (CMC, mAP), fast-reid (mINP).

    >>> query, gallery = torch.tensor([[0.0]]), torch.tensor([[1.0], [2.0], [3.0]])
    >>> rank_gallery(query, gallery, [7], [8, 7, 7], [0], [1, 0, 1]).cmc.tolist()  # a stranger, junk, the match
    [0.0, 1.0, 1.0]
    """
    with torch.inference_mode():
        blocks = distance_blocks(query_features, gallery_features, metric)
        shape = len(query_features), len(gallery_features)
        matches = Matches.between(query_pids, gallery_pids, query_camids, gallery_camids, shape, scene_camids)
        return _rank((block.cpu().numpy().T for block in blocks), matches, max_rank)


def rank_distances(
    distances: Array, query_pids: Labels, gallery_pids: Labels, query_camids: Labels, gallery_camids: Labels, max_rank: int = 50
) -> Ranking:
    """Rank as `rank_gallery` does, from (Q, G) finite distances, smaller is nearer; they are not changed.

    >>> ranking = rank_distances(np.array([[0.1, 0.3, 0.2]]), [7], [7, 7, 8], [0], [0, 1, 1])  # junk, the match, a stranger
    >>> ranking.first_rank.tolist(), ranking.map, ranking.cmc.tolist()
    ([1], 0.5, [0.0, 1.0, 1.0])
    """
    array = np.asarray(distances.detach().cpu() if isinstance(distances, Tensor) else distances)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"distances are (Q, G), neither of them 0, got {array.shape}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    matches = Matches.between(query_pids, gallery_pids, query_camids, gallery_camids, array.shape)
    step = block_queries(array.shape[1])

    def blocks() -> Iterator[np.ndarray]:
        for start in range(0, len(array), step):
            block = array[start : start + step].copy()  # junk is about to be overwritten
            if bad := block.size - np.count_nonzero(np.isfinite(block)):
                raise ValueError(f"distances are finite, got {bad} that are not in rows {start}..{start + len(block) - 1}")
            yield block

    return _rank(blocks(), matches, max_rank)


def distance_blocks(query_features: Array, gallery_features: Array, metric: str = "euclidean") -> Iterator[Tensor]:
    """Measure distances (G, B), float32, of one block of queries after another, on the gallery's device; the next overwrites them.

    "euclidean" is squared, "cosine" is 1 − cosine, as in torchreid. ValueError at once, before the first block:
    shapes that do not fit, features that are not finite, an unknown metric.

    >>> [block.tolist() for block in distance_blocks(torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0]]))]
    [[[1.0, 4.0]]]
    """
    if metric not in _DISTANCES:
        metrics = sorted(_DISTANCES)
        raise ValueError(no_such("metric", metric, metrics))
    gallery, gallery_norms = float32_features(gallery_features, "gallery")
    query, query_norms = float32_features(query_features, "query", gallery.device)
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(f"query and gallery features have one width D, got {query.shape[1]} and {gallery.shape[1]}")
    return _DISTANCES[metric](query, query_norms, gallery, gallery_norms)


def float32_features(features: Array, role: str, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Give features (N, D) as contiguous float32, uncopied where they are, and their squared norms (N,); ValueError names the role.

    >>> [part.tolist() for part in float32_features(np.array([[3, 4]]), "query")]
    [[[3.0, 4.0]], [25.0]]
    """
    matrix = torch.as_tensor(features).detach()
    if matrix.ndim != 2 or not matrix.numel():
        raise ValueError(f"{role} features are a matrix (rows, D), neither of them 0, got {tuple(matrix.shape)}")
    matrix = matrix.to(device, torch.float32).contiguous()
    norms = torch.cat([part.pow(2).sum(dim=1) for part in _slices(matrix)])
    # The norms show nan and infinity in the features as well as numbers whose squares would overflow.
    if not bool((norms <= _LARGEST_SQUARED_NORM).all()):
        bad = int((~matrix.isfinite()).sum())
        what = f"{bad} of {matrix.numel()} numbers that are not" if bad else f"a row too large (|x|² > {_LARGEST_SQUARED_NORM})"
        raise ValueError(f"{role} features are finite in float32, got {what}")
    return matrix, norms


def _slices(matrix: Tensor) -> tuple[Tensor, ...]:
    """Cut the matrix into slices of rows, for work that would need a second matrix at once."""
    return matrix.split(max(1, _BLOCK_ELEMENTS // matrix.shape[1]))


def block_queries(columns: int) -> int:
    """Count the queries ranked at a time; 16 at least, or the matrix product turns slow."""
    return max(16, _BLOCK_ELEMENTS // columns // 16 * 16)


def _euclidean(query: Tensor, query_norms: Tensor, gallery: Tensor, gallery_norms: Tensor) -> Iterator[Tensor]:
    """Measure blocks of squared distances, in torchreid's steps so that they round as its distances do."""

    def fill(block: Tensor, rows: slice) -> None:
        torch.add(gallery_norms[:, None], query_norms[rows], out=block)
        block.addmm_(gallery, query[rows].t(), beta=1, alpha=-2)

    return _distance_blocks(fill, len(query), gallery)


def _cosine(query: Tensor, _: Tensor, gallery: Tensor, __: Tensor) -> Iterator[Tensor]:
    """Measure blocks of 1 − cosine; a vector of zeros is at distance 1 from everything, as in torchreid."""
    query, gallery = (torch.nn.functional.normalize(features, p=2.0, dim=1) for features in (query, gallery))

    def fill(block: Tensor, rows: slice) -> None:
        torch.mm(gallery, query[rows].t(), out=block)
        block.neg_().add_(1)

    return _distance_blocks(fill, len(query), gallery)


_DISTANCES = {"euclidean": _euclidean, "cosine": _cosine}


def _distance_blocks(fill: Callable[[Tensor, slice], None], queries: int, gallery: Tensor) -> Iterator[Tensor]:
    """Fill distances (G, B) of one block of queries after another, each good until the next is taken."""
    repeats, firsts = _repeated_rows(gallery)
    step = min(queries, block_queries(len(gallery)))
    product = torch.empty(step * len(gallery), device=gallery.device)
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        size = rows.stop - start
        # MKL is a third faster with the long side first; whoever sorts or searches a row turns the block back.
        block = product[: len(gallery) * size].view(len(gallery), size)
        fill(block, rows)
        # A matrix product may round one gallery row differently from another, so equal rows are made equal again.
        if len(repeats):
            block[repeats] = block[firsts]
        yield block


def _repeated_rows(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Find rows that equal an earlier row bit for bit, and for each the first such row."""
    # An integer sum of the bits is exact in any order, so equal rows have equal sums: most rows are done here.
    wide = matrix.shape[1] % 2 == 0 and matrix.storage_offset() % 2 == 0  # two numbers at a time
    bits = [part.view(torch.int64 if wide else torch.int32) for part in _slices(matrix)]
    sums = torch.cat([part.sum(dim=1) for part in bits]).cpu().numpy()
    _, inverse, counts = np.unique(sums, return_inverse=True, return_counts=True)
    suspects = np.flatnonzero(counts[inverse] > 1)
    rows = np.ascontiguousarray(matrix[torch.from_numpy(suspects).to(matrix.device)].cpu().numpy())
    rows = rows.view(np.dtype((np.void, rows.dtype.itemsize * matrix.shape[1]))).ravel()
    _, first, inverse = np.unique(rows, return_index=True, return_inverse=True)
    firsts = suspects[first[inverse]]
    repeated = firsts != suspects
    return (torch.from_numpy(a[repeated]).to(matrix.device) for a in (suspects, firsts))  # type: ignore[return-value]


def _rank(blocks: Iterator[np.ndarray], matches: Matches, max_rank: int) -> Ranking:
    """Score blocks of distances that together hold every query's row; the blocks are overwritten."""
    if max_rank < 1:
        raise ValueError(f"max_rank is 1 at least, got {max_rank}")
    parts, first, scratch = [], 0, np.empty((0, 0))
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for block in blocks:
            index, positive, junk = matches.rows(first, first + len(block))
            first += len(block)
            scratch = scratch if len(scratch) >= len(block) else np.empty(block.shape, block.dtype)
            ranks = _positive_ranks(block, index, positive, junk, scratch[: len(block)], pool)
            parts.append(scores_of(ranks, positive.sum(axis=1)))
    return ranking_of(parts, len(matches.members), max_rank)


def _positive_ranks(
    block: np.ndarray, index: np.ndarray, positive: np.ndarray, junk: np.ndarray, ordered: np.ndarray, pool: ThreadPoolExecutor
) -> np.ndarray:
    """Find the 0-based ranks (B, P) of the positives among all but junk, ascending, then padding; `ordered` is room to sort in."""
    query, member = np.nonzero(junk)
    block[query, index[query, member]] = np.inf  # behind every distance, which are finite

    torch.from_numpy(ordered).copy_(torch.from_numpy(block))

    def sort_rows(rows: slice) -> None:
        ordered[rows].sort(axis=1)

    step = -(-len(block) // torch.get_num_threads())
    list(pool.map(sort_rows, (slice(start, start + step) for start in range(0, len(block), step))))
    value = np.take_along_axis(block, index, axis=1)
    ranks = torch.searchsorted(torch.from_numpy(ordered), torch.from_numpy(value)).numpy()
    # What follows the first of its kind in the sorted row is either larger, or a tie that gallery order breaks.
    after = np.take_along_axis(ordered, np.minimum(ranks + 1, block.shape[1] - 1), axis=1)
    tied = positive & (after == value) & (ranks + 1 < block.shape[1])
    for i, k in zip(*np.nonzero(tied), strict=True):
        ranks[i, k] += np.count_nonzero(block[i, : index[i, k]] == value[i, k])
    ranks[~positive] = block.shape[1]
    ranks.sort(axis=1)
    return ranks
