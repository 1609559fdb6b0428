"""k-medoids, against every subset of small sets, and against every exchange of larger ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_aug.synthesis import medoids
from reid_aug.synthesis.medoids import k_medoids, total_distance


def cost(points: np.ndarray, chosen: tuple[int, ...] | np.ndarray) -> float:
    """The definition, in a loop."""
    return sum(min(float(np.linalg.norm(point - points[i])) for i in chosen) for point in points)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_of_clusters_the_best_of_all_subsets(k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.concatenate([rng.normal(10 * centre, 1, (5, 2)) for centre in range(k)])
    best = min(itertools.combinations(range(len(points)), k), key=lambda chosen: cost(points, chosen))
    assert tuple(k_medoids(points, k, seed)) == best
    assert total_distance(points, np.array(best)) == pytest.approx(cost(points, best))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5), st.integers(5, 25), st.booleans())
def test_no_exchange_of_one_is_better(seed: int, k: int, n: int, rounded: bool) -> None:
    points = np.random.default_rng(seed).normal(size=(n, 3))
    points = points.round() if rounded else points  # many at one place
    chosen = k_medoids(points, k, seed)
    assert len(set(chosen.tolist())) == k and list(chosen) == sorted(chosen)
    before = cost(points, chosen)
    for place, other in itertools.product(range(k), range(n)):
        swapped = chosen.copy()
        swapped[place] = other
        assert cost(points, swapped) >= before - 1e-6


def test_of_many_points_samples_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(0).normal(size=(600, 2)) + np.repeat([[0, 0], [20, 0], [0, 20]], 200, axis=0)
    whole = k_medoids(points, 3)
    monkeypatch.setattr(medoids, "SAMPLE", 60)
    sampled = k_medoids(points, 3)
    assert total_distance(points, whole) <= total_distance(points, sampled) < 1.05 * total_distance(points, whole)
    assert sorted(sampled // 200) == [0, 1, 2] and np.array_equal(sampled, k_medoids(points, 3))


def test_all_points_and_more_than_there_are() -> None:
    points = np.arange(5.0)[:, None]
    assert k_medoids(points, 5).tolist() == [0, 1, 2, 3, 4]
    for k in (0, 6):
        with pytest.raises(ValueError, match=rf"1\.\.5 can be medoids, got {k}"):
            k_medoids(points, k)
