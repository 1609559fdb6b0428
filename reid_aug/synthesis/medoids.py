"""k-medoids: the k points of a set to which all others are nearest in sum, by swaps; of large sets by samples."""

from __future__ import annotations

import numpy as np

SAMPLE = 2000  # points whose distances to each other are held at once, 32 MB in float64
SAMPLES = 5  # of a larger set, of which the best medoids are taken


def k_medoids(points: np.ndarray, k: int, seed: int = 0) -> np.ndarray:
    """Find k of N points (N, D) with a small sum of Euclidean distances from every point to the nearest of them: indices (k,), ascending.

    Seeds are drawn as k-means++ draws them, but by distance (k-medoids++), and then a medoid is exchanged for another point as long
    as any exchange lowers the sum, each looked at in O(N): FasterPAM (Schubert and Rousseeuw, "Fast and eager k-medoids clustering",
    Information Systems 2021, Algorithm 3). Of more than 2,000 points five samples are so clustered, and the medoids kept that are best
    for all points (CLARA: Kaufman and Rousseeuw 1990); so no matrix is larger than 2,000 × 2,000. ValueError unless 1 <= k <= N.

    >>> k_medoids(np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.5]]), 2)
    array([1, 4])
    """
    points = np.asarray(points, np.float64)
    if not 1 <= k <= len(points):
        raise ValueError(f"of {len(points)} points 1..{len(points)} can be medoids, got {k}")
    rng = np.random.default_rng(seed)
    size = max(SAMPLE, 2 * k)
    if len(points) <= size:
        return np.sort(_swapped(_apart(points, points), k, rng))
    best, least = np.arange(k), np.inf
    for _ in range(SAMPLES):
        # The best so far are among the next sample, so that no sample is worse for having missed them.
        others = rng.choice(len(points), size, replace=False)
        rows = others if least == np.inf else np.union1d(best, others[: size - k])
        medoids = rows[_swapped(_apart(points[rows], points[rows]), k, rng)]
        cost = total_distance(points, medoids)
        if cost < least:
            best, least = medoids, cost
    return np.sort(best)


def total_distance(points: np.ndarray, medoids: np.ndarray) -> float:
    """Sum the distances from each point (N, D) to the nearest of those at indices `medoids` (k,).

    >>> total_distance(np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([1, 3]))
    2.0
    """
    return float(_apart(np.asarray(points, np.float64), np.asarray(points, np.float64)[medoids]).min(1).sum())


def _apart(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Measure Euclidean distances (N, M)."""
    from scipy.spatial.distance import cdist

    return cdist(points, others)


def _swapped(distance: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Choose k medoids by a matrix of distances (N, N), such that exchanging no single one of them lowers their sum."""
    n = len(distance)
    medoids = _seeds(distance, k, rng)
    nearest, second = _two_nearest(distance, medoids)
    unchanged, candidate = 0, 0
    while unchanged < n:
        if candidate not in medoids:
            place, gain = _best_swap(distance, medoids, nearest, second, candidate)
            if gain < -1e-9 * distance[candidate].max():  # rounding would let two equals change places for ever
                medoids[place] = candidate
                nearest, second = _two_nearest(distance, medoids)
                unchanged = 0
        unchanged, candidate = unchanged + 1, (candidate + 1) % n
    return medoids


def _seeds(distance: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Draw k different points, each the likelier the farther it lies from those drawn."""
    chosen = [int(distance.sum(1).argmin())]
    while len(chosen) < k:
        weight = distance[:, chosen].min(1)
        weight[chosen] = 0
        if not weight.any():  # all that are left lie on one that was drawn
            weight[[i for i in range(len(distance)) if i not in chosen]] = 1
        chosen.append(int(rng.choice(len(distance), p=weight / weight.sum())))
    return np.array(chosen)


def _two_nearest(distance: np.ndarray, medoids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give for each point which medoid is nearest (N,), as a place among them, and the second, itself where there is one alone."""
    if len(medoids) == 1:
        return np.zeros(len(distance), int), np.zeros(len(distance), int)
    to = distance[:, medoids]
    nearest = to.argmin(1)
    to[np.arange(len(to)), nearest] = np.inf
    return nearest, to.argmin(1)


def _best_swap(
    distance: np.ndarray, medoids: np.ndarray, nearest: np.ndarray, second: np.ndarray, candidate: int
) -> tuple[int, float]:
    """Say which medoid's exchange for a candidate changes the sum of distances by how much: the most negative change of all."""
    rows, alone = np.arange(len(distance)), len(medoids) == 1
    near = distance[rows, medoids[nearest]]
    far = np.full(len(rows), np.inf) if alone else distance[rows, medoids[second]]
    new = distance[:, candidate]
    joining = np.minimum(new - near, 0)  # who would move to the candidate, whichever medoid goes
    leaving = np.minimum(new, far) - near - joining  # and what it costs those whose medoid goes
    changes = joining.sum() + np.bincount(nearest, leaving, len(medoids))
    place = int(changes.argmin())
    return place, float(changes[place])
