"""k-reciprocal re-ranking (Zhong et al., CVPR 2017) that never holds a matrix of everything against everything.

An image is described by a set: the few images that are among its nearest and have it among theirs. Two images are near
if their sets overlap (Jaccard distance). Of N = Q + G images no set holds more than some dozens, so sets and weights are
sparse matrices; the N × N distances are seen once, in blocks, and only the result (Q, G) is dense. That pass gives the
nearest images, too, beside each row's largest distance and the original ones, so a search by faiss would be a second one. The
steps are those of the authors' released code, which torchreid carries.

Differs from the paper, as that code does:
- distances are divided by the largest in their row, and an image's weights by their sum;
- a set grows by half-size sets of its first members only (no repetition).
"""

from __future__ import annotations

import operator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from tqdm import tqdm

from generators import no_such
from reid_aug.baselines.neighbours import smallest
from reid_aug.baselines.ranking import Array, distance_blocks, float32_features

_PAIR_ELEMENTS = 2**18  # numbers of each of two matrices of features held at a time: 1 MiB, so that they stay in the cache
Sparse = Any  # scipy's csr_array, whose types a checker does not know
_DISTANCES = ["squared", "squared-twice"]


def rerank(
    query_features: Array,
    gallery_features: Array,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: str = "euclidean",
    distance: str = "squared",
) -> np.ndarray:
    """Give re-ranked distances (Q, G), float32, of (Q, D) query and (G, D) gallery features, for `rank_distances`.

    k1 nearest images make an image's set, the sets of its k2 nearest (itself among them) are averaged, and the result
    is (1 − lambda_value) × Jaccard distance + lambda_value × original distance; defaults are the paper's. The original
    distance is "squared" (paper: |q − g|²; with metric "cosine", 1 − cosine) or "squared-twice" (what torchreid
    releases: it squares these once more). Queries count as each other's neighbours, so the result depends on all of
    them. Equally near images are taken in the order queries, then gallery. ValueError: features that do not fit or are
    not finite, k1 or k2 under 1, lambda_value outside 0..1, an unknown metric or distance.

    >>> print(rerank(np.array([[0.0]]), np.array([[1.0], [3.0], [7.0]]), k1=1, k2=2).round(3))
    [[0.006 0.522 1.   ]]
    """
    k1, k2 = _whole(k1, "k1"), _whole(k2, "k2")
    if not 0 <= lambda_value <= 1:
        raise ValueError(f"lambda_value is between 0 and 1, got {lambda_value}")
    if distance not in _DISTANCES:
        raise ValueError(no_such("distance", distance, _DISTANCES))
    distance_blocks(query_features, gallery_features, metric)  # refuses what does not fit, under its own name
    with torch.inference_mode():
        gallery, _ = float32_features(gallery_features, "gallery")
        features = torch.cat((float32_features(query_features, "query", gallery.device)[0], gallery))
        queries, twice = len(features) - len(gallery), distance == "squared-twice"
        order, largest, result = _neighbours(features, queries, max(k1 + 1, k2), metric, twice)
        weights = _weights(_expanded(order, k1), features, largest, metric, twice)
    if k2 > 1:
        nearest_rows = _rows(order[:, :k2])
        weights = nearest_rows.astype(np.float32) @ weights
        weights.data /= nearest_rows.indptr[1]  # how many rows were summed
    _blend(result, weights, np.float32(lambda_value))
    return result


def _whole(value: int, name: str) -> int:
    """Return the value as an int; ValueError names what is no whole number of 1 at least."""
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if number < 1:
        raise ValueError(f"{name} is a whole number, 1 at least, got {value!r}")
    return number


def _neighbours(features: Tensor, queries: int, k: int, metric: str, twice: bool) -> tuple[np.ndarray, Tensor, np.ndarray]:
    """Find the k nearest (N, k) of each row, itself among them; its largest distance (N,); distances (Q, G) divided by that."""
    total = len(features)
    order = np.empty((total, min(k, total)), np.int32)
    largest = torch.empty(total, device=features.device)
    original = np.empty((queries, total - queries), np.float32)
    first = 0
    with tqdm(total=total, desc="nearest images", unit="image", disable=None, delay=2, leave=False) as bar:
        for block in distance_blocks(features, features, metric):
            block = block.square_() if twice else block
            stop = first + block.shape[1]
            most = block.amax(dim=0)
            most[most <= 0] = 1  # all the same: every distance is 0
            if not bool(most.isfinite().all()):
                raise ValueError("distance 'squared-twice' needs |x - y|² under 1.8e19, or its square is not finite in float32; got larger")
            order[first:stop] = smallest(block, order.shape[1])[1].cpu().numpy()
            if first < queries:
                rows = min(stop, queries) - first
                original[first : first + rows] = (block[queries:, :rows] / most[:rows]).t().cpu().numpy()
            largest[first:stop] = most
            bar.update(stop - first)
            first = stop
    return order, largest, original


def _rows(order: np.ndarray) -> Sparse:
    """Give (N, k) column numbers as a sparse (N, N) matrix of ones."""
    total, k = order.shape
    return sparse.csr_array((np.ones(order.size, np.int32), order.ravel(), np.arange(0, order.size + 1, k, dtype=np.int32)), (total, total))


def _reciprocal(order: np.ndarray) -> Sparse:
    """Mark which of (N, k) nearest find each other, as a sparse (N, N) matrix of ones."""
    forward = _rows(order)
    return forward.multiply(forward.T).tocsr()


def _expanded(order: np.ndarray, k1: int) -> Sparse:
    """Give each image's k-reciprocal set, grown by the half-size set of every member whose set lies in it by over two thirds."""
    sets, halves = _reciprocal(order[:, : k1 + 1]), _reciprocal(order[:, : int(np.around(k1 / 2)) + 1])
    shared = sets.multiply(sets @ halves).tocsr()  # halves are symmetric: how many of a member's half set are in the set
    size = np.asarray(halves.sum(axis=1)).ravel()
    shared.data = (shared.data > 2.0 / 3 * size[shared.indices]).astype(np.int32)
    shared.eliminate_zeros()
    grown = (sets + shared @ halves).tocsr()
    grown.sort_indices()  # numbers are put in by place, and some of scipy's conversions sort
    return grown


def _weights(sets: Sparse, features: Tensor, largest: Tensor, metric: str, twice: bool) -> Sparse:
    """Weigh every member of a set by e to the minus distance, divided by the set's sum."""
    if metric == "cosine":
        features = torch.nn.functional.normalize(features, dim=1)
    norms = features.square().sum(dim=1)
    rows = torch.from_numpy(np.repeat(np.arange(sets.shape[0]), np.diff(sets.indptr))).to(features.device)
    columns = torch.from_numpy(sets.indices.astype(np.int64)).to(features.device)
    minus = torch.empty(len(rows), device=features.device)
    step = max(1, _PAIR_ELEMENTS // features.shape[1])
    for part, i, j in zip(minus.split(step), rows.split(step), columns.split(step), strict=True):
        product = (features.index_select(0, i) * features.index_select(0, j)).sum(dim=1)
        apart = 1 - product if metric == "cosine" else norms[i] + norms[j] - 2 * product
        torch.div(apart.square_() if twice else apart, -largest[i], out=part)
    weights = sets.astype(np.float32)
    weights.data = minus.exp_().cpu().numpy()
    weights.data /= np.repeat(np.asarray(weights.sum(axis=1)).ravel(), np.diff(weights.indptr))
    return weights


def _blend(result: np.ndarray, weights: Sparse, lambda_value: np.float32) -> None:
    """Turn original distances (Q, G) into (1 − lambda) × Jaccard + lambda × original, in place; weights (Q + G, Q + G)."""
    queries, gallery = result.shape
    columns = weights[queries:].tocsc()

    def blend(rows: range) -> None:
        for i in rows:
            at = slice(weights.indptr[i], weights.indptr[i + 1])
            members, weight = weights.indices[at], weights.data[at]
            start, length = columns.indptr[members], columns.indptr[members + 1] - columns.indptr[members]
            # The gallery images that share a member with the query, member after member.
            place = np.arange(length.sum()) + np.repeat(start - (length.cumsum() - length), length)
            smaller = np.minimum(columns.data[place], np.repeat(weight, length))
            common = np.bincount(columns.indices[place], smaller, minlength=gallery).astype(np.float32)
            # Both weights sum to 1, so the union is 2 less what is common.
            result[i] = (1 - common / (2 - common)) * (1 - lambda_value) + result[i] * lambda_value

    parts = [range(start, min(start + 64, queries)) for start in range(0, queries, 64)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for _ in tqdm(pool.map(blend, parts), "re-rank", len(parts), unit="block", disable=None, delay=2, leave=False):
            pass
