"""Re-ranking against torchreid's dense function, cases worked by hand, and what must hold for any features."""

import importlib
import importlib.util
import warnings

import numpy as np
import pytest
import torch

from reid_aug.baselines import ranking, reranking
from reid_aug.baselines.ranking import rank_distances
from reid_aug.baselines.reranking import rerank


@pytest.fixture(scope="module")
def torchreid():
    """torchreid's re_ranking from features, under either of its package names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "torchreid.reid" if importlib.util.find_spec("torchreid.reid") else "torchreid"
        matrix = importlib.import_module(f"{package}.metrics.distance").compute_distance_matrix
        re_ranking = importlib.import_module(f"{package}.utils.rerank").re_ranking

    def dense(query, gallery, k1, k2, lambda_value, metric="euclidean", root=False):
        matrices = [matrix(a, b, metric).numpy() for a, b in ((query, gallery), (query, query), (gallery, gallery))]
        if root:  # it squares what it is given
            matrices = [np.sqrt(np.maximum(m.astype(np.float64), 0)) for m in matrices]
        return re_ranking(*matrices, k1, k2, lambda_value)

    return dense


def clusters(seed, queries=30, gallery=120, people=10, width=32, noise=0.8):
    """Features of made-up people, and their numbers."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((people, width))
    who = [rng.integers(0, people, n) for n in (queries, gallery)]
    features = [torch.from_numpy((centres[of] + noise * rng.standard_normal((len(of), width))).astype(np.float32)) for of in who]
    return features, who


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"),
    [(20, 6, 0.3), (5, 1, 0.5), (7, 3, 0.0), (20, 40, 0.3), (1, 1, 0.1), (3, 2, 1.0), (300, 5, 0.3), (30, 300, 0.3)],
)
@pytest.mark.parametrize("seed", range(2))
def test_reranking_equals_torchreid(torchreid, metric, k1, k2, lambda_value, seed):
    (query, gallery), (q_pids, g_pids) = clusters(seed)
    expected = torchreid(query, gallery, k1, k2, lambda_value, metric)
    result = rerank(query, gallery, k1, k2, lambda_value, metric, distance="squared-twice")
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=2e-6)
    if lambda_value == 0:
        return  # nothing but rounding orders images with the query's own sets
    who = q_pids, g_pids, np.zeros(len(q_pids), int), np.ones(len(g_pids), int)
    assert rank_distances(result, *who).map == pytest.approx(rank_distances(expected, *who).map, abs=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_the_papers_distance_is_torchreids_function_on_roots(torchreid, seed):
    (query, gallery), _ = clusters(seed)
    np.testing.assert_allclose(rerank(query, gallery), torchreid(query, gallery, 20, 6, 0.3, root=True), rtol=0, atol=2e-6)


@pytest.mark.parametrize(("queries", "gallery"), [(1, 120), (30, 1), (1, 1), (2, 5)])
def test_one_query_and_fewer_images_than_k1_equal_torchreid(torchreid, queries, gallery):
    (query, gallery), _ = clusters(3, queries, gallery)
    expected = torchreid(query, gallery, 20, 6, 0.3)
    np.testing.assert_allclose(rerank(query, gallery, distance="squared-twice"), expected, rtol=0, atol=2e-6)


def test_a_case_worked_by_hand():
    # On a line: q at 0, gallery a, b, c at 1, 3, 7. Of the two nearest, q and a find each other; b's is a, c's is b.
    # So the sets are {q, a}, {q, a}, {b}, {c}; the largest squared distances of q and a are 49 and 36.
    alpha, beta = (np.exp(-1 / most) / (1 + np.exp(-1 / most)) for most in (49, 36))
    original = np.array([1, 9, 49]) / 49
    jaccard = np.array([1 - (alpha + beta) / (2 - alpha - beta), 1, 1])
    result = rerank([[0.0]], [[1.0], [3.0], [7.0]], k1=1, k2=1, lambda_value=0.3)
    np.testing.assert_allclose(result, [0.7 * jaccard + 0.3 * original], rtol=1e-6)
    # Averaged over the two nearest, q and a are the same; b is half a, so it has half in common with q, of 3/2; c has nothing.
    result = rerank([[0.0]], [[1.0], [3.0], [7.0]], k1=1, k2=2, lambda_value=0.3)
    np.testing.assert_allclose(result, [0.7 * np.array([0, 2 / 3, 1]) + 0.3 * original], rtol=1e-6, atol=1e-7)


def test_sets_and_their_growth_are_the_papers_definition_word_by_word():
    at = np.random.default_rng(0).standard_normal((60, 3))
    order = np.linalg.norm(at[:, None] - at[None], axis=-1).argsort(axis=1, kind="stable").astype(np.int32)
    whole, half = ([set(row[:n].tolist()) for row in order] for n in (9, 5))  # k1 = 8, and the image itself
    grown = 0
    for i, row in enumerate(reranking._expanded(order[:, :9], 8).toarray()):
        mutual = {j for j in whole[i] if i in whole[j]}
        halves = [{h for h in half[j] if j in half[h]} for j in mutual]
        expected = mutual.union(*(members for members in halves if 3 * len(members & mutual) > 2 * len(members)))
        assert set(np.flatnonzero(row)) == expected, i
        grown += expected > mutual
    assert 0 < grown < 60


def test_lambda_one_leaves_the_original_order():
    (query, gallery), _ = clusters(4)
    distances = torch.cdist(query.double(), gallery.double()).numpy() ** 2
    for distance in ("squared", "squared-twice"):
        result = rerank(query, gallery, lambda_value=1, distance=distance)
        np.testing.assert_array_equal(result.argsort(axis=1, kind="stable"), distances.argsort(axis=1))


def test_order_of_queries_and_gallery_does_not_matter():
    (query, gallery), _ = clusters(5)
    rng = np.random.default_rng(0)
    i, j = rng.permutation(len(query)), rng.permutation(len(gallery))
    np.testing.assert_allclose(rerank(query[i], gallery[j]), rerank(query, gallery)[i][:, j], rtol=0, atol=2e-6)


def test_a_copy_of_a_query_is_its_nearest_and_re_ranking_helps_clusters():
    (query, gallery), who = clusters(6, noise=1.2)
    copied = torch.cat((gallery, query))
    result = rerank(query, copied)
    np.testing.assert_array_equal(result.argmin(axis=1), len(gallery) + np.arange(len(query)))
    cameras = np.zeros(len(query), int), np.ones(len(gallery), int)
    before = rank_distances(torch.cdist(query, gallery).numpy(), *who, *cameras)
    assert rank_distances(rerank(query, gallery), *who, *cameras).map > before.map + 0.05


def test_images_that_are_all_the_same_and_repeated_ones_give_finite_distances():
    same = rerank(np.ones((3, 4)), np.ones((30, 4)), k1=5)
    assert same.shape == (3, 30) and np.isfinite(same).all()
    assert ((same >= 0) & (same <= 1)).all()
    (query, gallery), _ = clusters(7, 10, 20, people=5)
    result = rerank(query.repeat(2, 1), gallery.repeat(3, 1), k1=12, k2=3)
    assert np.isfinite(result).all()
    assert (result > -1e-6).all() and (result < 1 + 1e-6).all()


@pytest.mark.parametrize("elements", [1, 150 * 16, 150 * 33])
def test_distances_do_not_depend_on_blocks_or_threads(monkeypatch, elements):
    (query, gallery), _ = clusters(8)
    expected = rerank(query, gallery)
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", elements)
    monkeypatch.setattr(reranking, "_PAIR_ELEMENTS", elements)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    np.testing.assert_allclose(rerank(query, gallery), expected, rtol=0, atol=2e-6)


def test_inputs_may_be_lists_and_are_not_changed():
    (query, gallery), _ = clusters(9, 5, 30)
    kept = query.clone(), gallery.clone()
    result = rerank(query, gallery.requires_grad_(), 4, 2)
    assert torch.equal(query, kept[0]) and torch.equal(gallery, kept[1])
    np.testing.assert_array_equal(rerank(query.tolist(), gallery.tolist(), np.int64(4), 2), result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "k1 is a whole number, 1 at least, got 0"),
        ({"k1": 2.5}, "k1 is a whole number, 1 at least, got 2.5"),
        ({"k2": -1}, "k2 is a whole number, 1 at least, got -1"),
        ({"lambda_value": 1.1}, "lambda_value is between 0 and 1, got 1.1"),
        ({"lambda_value": np.nan}, "lambda_value is between 0 and 1, got nan"),
        ({"distance": "squared_twice"}, r"no distance named 'squared_twice'; there are .*did you mean 'squared-twice'\?"),
        ({"metric": "cosin"}, r"no metric named 'cosin'.*did you mean 'cosine'\?"),
        ({"query_features": np.ones((2, 4))}, "one width D, got 4 and 3"),
        ({"query_features": np.array([[1, np.nan, 1]])}, "query features are finite.*got 1 of 3"),
        ({"gallery_features": np.ones(3)}, r"gallery features are a matrix.*got \(3,\)"),
        ({"query_features": np.full((2, 3), 1e10), "distance": "squared-twice"}, "its square is not finite in float32"),
    ],
)
def test_refusals_name_the_thing_the_rule_and_the_value(change, message):
    good = {"query_features": np.ones((2, 3)), "gallery_features": np.zeros((5, 3))}
    rerank(**good)
    with pytest.raises(ValueError, match=message):
        rerank(**(good | change))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu():
    (query, gallery), _ = clusters(10)
    np.testing.assert_allclose(rerank(query.cuda(), gallery.cuda()), rerank(query, gallery), rtol=0, atol=1e-5)
