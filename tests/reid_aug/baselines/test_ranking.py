"""Ranking against torchreid's own evaluation, scikit-learn, a slow obvious loop, and cases worked by hand."""

import importlib
import importlib.util
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_aug.baselines import ranking
from reid_aug.baselines.large_gallery import rank_large_gallery
from reid_aug.baselines.ranking import rank_distances, rank_gallery


def slow_ranking(distances, q_pids, g_pids, q_camids, g_camids, max_rank=50):
    """The definitions word by word: a list of matches per query, then sums over it."""
    ap, inp, first = [], [], []
    for row, pid, camid in zip(distances, q_pids, q_camids, strict=True):
        order = sorted(range(len(row)), key=lambda j: (row[j], j))
        match = [g_pids[j] == pid for j in order if not (g_pids[j] == pid and g_camids[j] == camid)]
        places = [place for place, same in enumerate(match) if same]
        if not places:
            ap.append(np.nan), inp.append(np.nan), first.append(-1)
            continue
        ap.append(sum((n + 1) / (place + 1) for n, place in enumerate(places)) / len(places))
        inp.append(len(places) / (places[-1] + 1))
        first.append(places[0])
    matched = [place for place in first if place >= 0]
    cmc = [sum(place <= k for place in matched) / len(matched) for k in range(min(max_rank, len(g_pids)))] if matched else []
    return np.array(cmc), np.array(ap), np.array(inp), np.array(first)


def assert_same(result, expected):
    cmc, ap, inp, first = expected
    np.testing.assert_allclose(result.cmc, cmc, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.ap, ap, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.inp, inp, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(result.first_rank, first)
    np.testing.assert_array_equal(result.valid, first >= 0)
    assert result.map == pytest.approx(np.nanmean(ap), abs=1e-12)
    assert result.minp == pytest.approx(np.nanmean(inp), abs=1e-12)


def labels(rng, queries, gallery, people=12, cameras=3):
    """The six labels of a made-up set, in the order rank_gallery takes them, every query's identity somewhere."""
    sizes = (queries, gallery, queries, gallery)
    return [rng.integers(0, top, size) for top, size in zip((people, people, cameras, cameras), sizes, strict=True)]


@pytest.fixture(scope="module")
def torchreid_metrics():
    """torchreid's evaluation and distance matrix, under either of its package names; its argsort made stable."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "torchreid.reid.metrics" if importlib.util.find_spec("torchreid.reid") else "torchreid.metrics"
        rank = importlib.import_module(f"{package}.rank")
        distance = importlib.import_module(f"{package}.distance")

    class StableNumpy:
        """numpy, but for an argsort that keeps the order of equal distances."""

        def __getattr__(self, name):
            return getattr(np, name)

        def argsort(self, a, axis=-1):
            return np.argsort(a, axis=axis, kind="stable")

    patch = pytest.MonkeyPatch()
    patch.setattr(rank, "np", StableNumpy())
    yield rank, distance
    patch.undo()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["real", "many ties", "one value"])
@pytest.mark.parametrize("seed", range(3))
def test_ranking_equals_torchreid_from_features_to_scores(torchreid_metrics, metric, kind, seed):
    rank, distance = torchreid_metrics
    rng = np.random.default_rng(seed)
    who = labels(rng, 61, 400)
    make = {"real": rng.standard_normal, "many ties": lambda s: rng.integers(0, 2, s), "one value": np.ones}[kind]
    query, gallery = (torch.from_numpy(np.asarray(make((n, 24)), dtype=np.float32)) for n in (61, 400))
    matrix = distance.compute_distance_matrix(query, gallery, metric).numpy()
    cmc, mean_ap = rank.evaluate_rank(matrix, *who, max_rank=50, use_cython=False)
    result = rank_distances(matrix, *who)
    np.testing.assert_allclose(result.cmc, cmc, rtol=0, atol=1e-6)  # torchreid's CMC is float32
    assert result.map == pytest.approx(mean_ap, abs=1e-12)
    result = rank_gallery(query, gallery, *who, metric=metric)
    in_blocks = rank_large_gallery(query, gallery, *who, metric=metric, block_rows=128)
    np.testing.assert_array_equal(in_blocks.cmc, result.cmc)
    assert in_blocks.map == result.map
    np.testing.assert_allclose(result.cmc, cmc, rtol=0, atol=1e-6)
    if metric == "cosine" and kind == "many ties":
        # Directions that agree in theory differ by a last bit in the matrix product, which is not the same one.
        assert result.map == pytest.approx(mean_ap, abs=1e-3)
    else:
        assert result.map == pytest.approx(mean_ap, abs=1e-9)


def test_average_precision_equals_scikit_learn_where_nothing_ties():
    from sklearn.metrics import average_precision_score

    rng = np.random.default_rng(4)
    who = labels(rng, 20, 150)
    distances = rng.permutation(20 * 150).reshape(20, 150).astype(np.float64)
    result = rank_distances(distances, *who)
    q_pids, g_pids, q_camids, g_camids = who
    for i in np.flatnonzero(result.valid):
        keep = (g_pids != q_pids[i]) | (g_camids != q_camids[i])
        expected = average_precision_score(g_pids[keep] == q_pids[i], -distances[i, keep])
        assert result.ap[i] == pytest.approx(expected, abs=1e-12)


def test_a_case_worked_by_hand():
    # Query 0 (pid 7, camera 0), nearest first: junk, stranger, match, stranger, match.
    # Junk goes, so the matches are at places 1 and 3: AP = (1/2 + 2/4) / 2, INP = 2 / 4.
    # Query 1 (pid 9) is in the gallery under its own camera only: not valid.
    distances = [[0.1, 0.5, 0.3, 0.2, 0.4], [1, 2, 3, 4, 5]]
    result = rank_distances(np.array(distances), [7, 9], [7, 7, 7, 9, 8], [0, 1], [0, 1, 2, 1, 1])
    np.testing.assert_array_equal(result.valid, [True, False])
    np.testing.assert_array_equal(result.first_rank, [1, -1])
    np.testing.assert_array_equal(result.ap, [0.5, np.nan])
    np.testing.assert_array_equal(result.inp, [0.5, np.nan])
    np.testing.assert_array_equal(result.cmc, [0, 1, 1, 1, 1])
    assert (result.map, result.minp) == (0.5, 0.5)


class TestScenes:
    """Queries rendered in the place that another camera sees."""

    def test_by_hand(self):
        # Pid 7 by camera 0 in camera 1's place. Nearest first: the person by camera 1, which is left out, a stranger by it, the person.
        gallery, who = [[1.0], [2.0], [3.0]], ([7], [7, 8, 7], [0], [1, 1, 2])
        assert rank_gallery([[0.0]], gallery, *who).first_rank.tolist() == [0]
        assert rank_gallery([[0.0]], gallery, *who, scene_camids=[1]).first_rank.tolist() == [1]
        assert rank_gallery([[0.0]], gallery, *who, scene_camids=[0]).first_rank.tolist() == [0], "the source's own place"
        with pytest.raises(ValueError, match="none of 1 queries"):
            rank_gallery([[0.0]], gallery[:2], [7], [7, 8], [0], [1, 1], scene_camids=[1])
        with pytest.raises(ValueError, match="scene_camids are 1 integers"):
            rank_gallery([[0.0]], gallery, *who, scene_camids=[1, 2])

    def test_it_is_a_gallery_without_those_images(self):
        rng = np.random.default_rng(3)
        q_pids, g_pids, q_camids, g_camids = labels(rng, 30, 60)
        query, gallery, scenes = rng.standard_normal((30, 8)), rng.standard_normal((60, 8)), rng.integers(0, g_camids.max() + 1, 30)
        result = rank_gallery(query, gallery, q_pids, g_pids, q_camids, g_camids, scene_camids=scenes)
        assert 5 < result.valid.sum() < 30
        for i in range(30):
            keep = (g_pids != q_pids[i]) | (g_camids != scenes[i])
            who = q_pids[i : i + 1], g_pids[keep], q_camids[i : i + 1], g_camids[keep]
            if not result.valid[i]:
                with pytest.raises(ValueError, match="none of 1 queries"):
                    rank_gallery(query[i : i + 1], gallery[keep], *who)
                continue
            alone = rank_gallery(query[i : i + 1], gallery[keep], *who)
            assert (result.ap[i], result.first_rank[i]) == (alone.ap[0], alone.first_rank[0])


def test_ties_keep_gallery_order_and_junk_among_them_does_not_count():
    # All equal. Gallery order: junk, stranger, match, junk, stranger, match: matches at 1 and 3 of four.
    result = rank_gallery(np.ones((1, 2)), np.ones((6, 2)), [1], [1, 2, 1, 1, 2, 1], [0], [0, 0, 1, 0, 0, 1])
    np.testing.assert_array_equal(result.first_rank, [1])
    assert result.ap[0] == (1 / 2 + 2 / 4) / 2
    assert result.inp[0] == 2 / 4


def test_one_query_and_one_gallery_image():
    result = rank_gallery([[1.0, 2.0]], [[5.0, 5.0]], [3], [3], [0], [1])
    assert (result.map, result.minp, result.cmc.tolist()) == (1.0, 1.0, [1.0])


def test_a_small_gallery_gives_a_shorter_cmc_even_when_junk_leaves_queries_fewer_images():
    # torchreid stacks per-query curves of 2 and 3 places here and fails.
    who = [1, 2], [1, 1, 2], [0, 0], [0, 1, 1]
    result = rank_distances(np.array([[0.0, 2.0, 1.0], [1.0, 2.0, 3.0]]), *who, max_rank=50)
    np.testing.assert_array_equal(result.cmc, [0.0, 0.5, 1.0])
    assert len(rank_distances(np.zeros((2, 3)), *who, max_rank=2).cmc) == 2


@st.composite
def small_sets(draw):
    queries, gallery, width = draw(st.integers(1, 6)), draw(st.integers(1, 12)), draw(st.integers(1, 3))

    def array(*shape, top):
        size = int(np.prod(shape))
        return np.array(draw(st.lists(st.integers(0, top), min_size=size, max_size=size))).reshape(shape)

    who = [array(n, top=top) for n, top in ((queries, 3), (gallery, 3), (queries, 2), (gallery, 2))]
    return array(queries, width, top=2), array(gallery, width, top=2), who, draw(st.integers(1, 15))


@settings(max_examples=200, deadline=None)
@given(small_sets())
def test_ranking_equals_the_slow_loop_on_small_whole_numbers(case):
    query, gallery, who, max_rank = case
    distances = ((query[:, None] - gallery[None]) ** 2).sum(-1)  # exact in float32 too
    expected = slow_ranking(distances, *who, max_rank)
    if not len(expected[0]):
        for rank, sets in ((rank_gallery, (query, gallery)), (rank_distances, (distances,))):
            with pytest.raises(ValueError, match="valid query"):
                rank(*sets, *who, max_rank=max_rank)
        return
    assert_same(rank_gallery(query, gallery, *who, max_rank=max_rank), expected)
    assert_same(rank_distances(distances, *who, max_rank=max_rank), expected)


@pytest.mark.parametrize("elements", [1, 40 * 16, 40 * 33])
def test_scores_do_not_depend_on_the_block(monkeypatch, elements):
    rng = np.random.default_rng(0)
    who = labels(rng, 100, 40)
    query, gallery = rng.integers(0, 3, (100, 4)), rng.integers(0, 3, (40, 4))
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", elements)
    expected = slow_ranking(((query[:, None] - gallery[None]) ** 2).sum(-1), *who)
    assert_same(rank_gallery(query, gallery, *who), expected)


@pytest.mark.parametrize("queries", [1, 2, 17])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_equal_gallery_rows_tie_exactly_wherever_they_lie(queries, metric):
    # Each identity's image lies behind its double of another identity: whoever rounds them apart ranks some first.
    rng = np.random.default_rng(1)
    features = rng.standard_normal((499, 130), dtype=np.float32)
    gallery = np.concatenate([features, features[:3], features])
    g_pids = np.concatenate([np.full(502, 10_000), np.arange(499)])
    for chosen in rng.permutation(499)[: 17 * 6].reshape(6, 17)[:, :queries]:
        query = features[chosen] + 0.1 * rng.standard_normal((queries, 130), dtype=np.float32)
        result = rank_gallery(query, gallery, chosen, g_pids, np.zeros(queries, int), np.ones(1001, int), metric)
        np.testing.assert_array_equal(result.first_rank, np.where(chosen < 3, 2, 1))


def test_repeated_rows_are_found_among_rows_of_equal_sums():
    rows = torch.tensor([[1.0, 1, 2, 2], [2, 2, 1, 1], [3, 3, 3, 3], [2, 2, 1, 1], [1, 1, 2, 2], [2, 2, 1, 1]])
    shifted = torch.cat((torch.zeros(1), rows.flatten()))[1:].view(6, 4)  # begins between two 64-bit words
    for matrix in (rows, rows[:, 1:].contiguous(), shifted):
        repeats, firsts = (a.tolist() for a in ranking._repeated_rows(matrix))
        assert dict(zip(repeats, firsts, strict=True)) == {3: 1, 4: 0, 5: 1}


def test_order_of_queries_and_gallery_does_not_matter_without_ties():
    rng = np.random.default_rng(2)
    q_pids, g_pids, q_camids, g_camids = labels(rng, 30, 90)
    distances = rng.permutation(30 * 90).reshape(30, 90)
    result = rank_distances(distances, q_pids, g_pids, q_camids, g_camids)
    i, j = rng.permutation(30), rng.permutation(90)
    shuffled = rank_distances(distances[i][:, j], q_pids[i], g_pids[j], q_camids[i], g_camids[j])
    np.testing.assert_array_equal(shuffled.ap, result.ap[i])
    np.testing.assert_array_equal(shuffled.cmc, result.cmc)


def test_inputs_may_be_arrays_tensors_or_lists_and_are_not_changed():
    rng = np.random.default_rng(3)
    who = labels(rng, 9, 30)
    query, gallery = rng.standard_normal((9, 5)), rng.standard_normal((30, 5))
    distances = rng.random((9, 30))
    kept = distances.copy()
    expected = rank_gallery(query, gallery, *who)
    tensors = [torch.from_numpy(a) for a in who]
    grown = rank_gallery(torch.from_numpy(query).requires_grad_(), torch.from_numpy(gallery), *tensors)
    listed = rank_gallery(query[:, ::-1].copy()[:, ::-1].tolist(), gallery.tolist(), *(a.tolist() for a in who))
    for other in (grown, listed):
        np.testing.assert_array_equal(other.ap, expected.ap)
    rank_distances(distances, *who)
    np.testing.assert_array_equal(distances, kept)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metric": "euclid"}, r"no metric named 'euclid'; there are cosine, euclidean \(did you mean 'euclidean'\?\)"),
        ({"query_features": np.ones((2, 4))}, "one width D, got 4 and 3"),
        ({"query_features": np.ones(3)}, r"query features are a matrix \(rows, D\).*got \(3,\)"),
        ({"gallery_features": np.ones((0, 3))}, r"gallery features are a matrix.*got \(0, 3\)"),
        ({"gallery_features": np.array([[1, np.nan, 1], [np.inf, 1, 1]])}, "gallery features are finite.*got 2 of 6"),
        ({"query_features": np.full((2, 3), 1e25)}, "query features are finite.*too large"),
        ({"query_pids": [1]}, r"query_pids are 2 integers.*\(1,\)"),
        ({"gallery_camids": [0.0, 1.0]}, "gallery_camids are 2 integers.*float64"),
        ({"gallery_camids": [0, 0]}, "valid query.*none of 2"),
        ({"max_rank": 0}, "max_rank is 1 at least, got 0"),
    ],
)
def test_refusals_name_the_thing_the_rule_and_the_value(change, message):
    good = {
        "query_features": np.ones((2, 3)),
        "gallery_features": np.ones((2, 3)),
        "query_pids": [1, 2],
        "gallery_pids": [1, 2],
        "query_camids": [0, 0],
        "gallery_camids": [1, 1],
    }
    rank_gallery(**good)
    with pytest.raises(ValueError, match=message):
        rank_gallery(**(good | change))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_distances_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="distances are finite, got 1 that"):
        rank_distances(np.array([[0.0, bad]]), [1], [1, 1], [0], [1, 1])
    with pytest.raises(ValueError, match=r"distances are \(Q, G\)"):
        rank_distances(np.zeros(3), [1], [1, 1], [0], [1, 1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_features_on_a_gpu_rank_as_on_the_cpu():
    rng = np.random.default_rng(5)
    who = labels(rng, 40, 300)
    query, gallery = (torch.from_numpy(rng.integers(0, 3, (n, 6))).float() for n in (40, 300))
    expected = rank_gallery(query, gallery, *who)
    for sets in ((query.cuda(), gallery.cuda()), (query, gallery.cuda()), (query.cuda(), gallery)):
        np.testing.assert_array_equal(rank_gallery(*sets, *who).ap, expected.ap)


@pytest.mark.parametrize("module", ["baselines.ranking", "bench.ranking", "bench.statistics", "quality.ssim"])
def test_the_import_is_light(module):
    code = f"import sys, reid_aug.{module}; print({{'torchreid', 'torchvision', 'skimage', 'scipy'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
