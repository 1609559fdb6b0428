"""Nearest rows against a brute-force sort in float64, by torch and by faiss."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_aug.baselines import ranking
from reid_aug.baselines.neighbours import rank1, smallest, top_k, usable
from reid_aug.baselines.ranking import rank_gallery


def brute_force(query, gallery, metric):
    """All distances (Q, G), and the order of each row; ties in the gallery's order."""
    query, gallery = np.asarray(query, np.float64), np.asarray(gallery, np.float64)
    if metric == "cosine":
        lengths = (np.linalg.norm(x, axis=1, keepdims=True) for x in (query, gallery))
        query, gallery = (x / np.where(n > 0, n, 1) for x, n in zip((query, gallery), lengths, strict=True))
        distances = 1 - query @ gallery.T
    else:
        distances = ((query[:, None] - gallery[None]) ** 2).sum(-1)
    return distances, distances.argsort(axis=1, kind="stable")


@pytest.mark.parametrize("backend", ["torch", "faiss-cpu"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("k", [1, 7, 300])
def test_nearest_rows_equal_brute_force(backend, metric, k):
    rng = np.random.default_rng(0)
    query, gallery = (rng.standard_normal((n, 24), dtype=np.float32) for n in (61, 300))
    distances, order = brute_force(query, gallery, metric)
    nearest, indices = top_k(query, gallery, k, metric, backend)
    assert nearest.dtype == torch.float32 and indices.dtype == torch.int64
    np.testing.assert_allclose(nearest.numpy(), np.take_along_axis(distances, order[:, :k], 1), rtol=1e-5, atol=1e-5)
    # Rows whose distances differ by a last bit may change places, so the rows are judged by theirs.
    np.testing.assert_allclose(nearest.numpy(), np.take_along_axis(distances, indices.numpy(), 1), rtol=1e-5, atol=1e-5)
    assert all(len(set(row)) == k for row in indices.tolist())


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 8), st.integers(1, 12), st.integers(1, 3), st.data())
def test_ties_keep_the_gallerys_order(seed, queries, gallery, width, data):
    rng = np.random.default_rng(seed)
    query, gallery = (rng.integers(0, 2, (n, width)) for n in (queries, gallery))  # exact in float32
    k = data.draw(st.integers(1, len(gallery)))
    distances, order = brute_force(query, gallery, "euclidean")
    nearest, indices = top_k(query, gallery, k)
    np.testing.assert_array_equal(indices.numpy(), order[:, :k])
    np.testing.assert_array_equal(nearest.numpy(), np.take_along_axis(distances, order[:, :k], 1))
    # faiss breaks ties as it likes: the distances are the same, and each is that of its row.
    nearest, indices = top_k(query, gallery, k, backend="faiss-cpu")
    np.testing.assert_array_equal(nearest.numpy(), np.sort(distances, axis=1)[:, :k])
    np.testing.assert_array_equal(np.take_along_axis(distances, indices.numpy(), 1), nearest.numpy())
    assert all(len(set(row)) == k for row in indices.tolist())


def test_a_block_worked_by_hand():
    # Column 0 has its two smallest tied with a third, column 1 has no tie.
    block = torch.tensor([[2.0, 9.0], [1.0, 3.0], [5.0, 1.0], [1.0, 2.0], [1.0, 8.0]])
    values, rows = smallest(block, 2)
    assert values.tolist() == [[1.0, 1.0], [1.0, 2.0]]
    assert rows.tolist() == [[1, 3], [2, 3]]


@pytest.mark.parametrize("elements", [1, 40 * 16, 40 * 33])
def test_neighbours_do_not_depend_on_the_block(monkeypatch, elements):
    rng = np.random.default_rng(1)
    query, gallery = rng.integers(0, 3, (100, 4)), rng.integers(0, 3, (40, 4))
    monkeypatch.setattr(ranking, "_BLOCK_ELEMENTS", elements)
    np.testing.assert_array_equal(top_k(query, gallery, 9)[1].numpy(), brute_force(query, gallery, "euclidean")[1][:, :9])


def test_a_row_is_its_own_nearest_at_no_negative_distance():
    rows = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) * 100
    for backend in ("auto", "faiss-cpu"):
        distances, indices = top_k(rows, rows, 2, backend=backend)
        assert indices[:, 0].tolist() == list(range(200))
        assert bool((distances >= 0).all())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k is between 1 and the gallery's 5 rows, got 0"),
        ({"k": 6}, "k is between 1 and the gallery's 5 rows, got 6"),
        ({"metric": "cosin"}, r"no metric named 'cosin'.*did you mean 'cosine'\?"),
        ({"backend": "faiss"}, r"no backend named 'faiss'; there are auto, torch, faiss-cpu, faiss-gpu \(did you mean 'faiss-[cg]pu'\?\)"),
        ({"query_features": np.ones((2, 4))}, "one width D, got 4 and 3"),
        ({"gallery_features": np.full((5, 3), np.nan)}, "gallery features are finite"),
    ],
)
def test_refusals_name_the_thing_the_rule_and_the_value(change, message):
    good = {"query_features": np.ones((2, 3)), "gallery_features": np.ones((5, 3)), "k": 5}
    top_k(**good)
    with pytest.raises(ValueError, match=message):
        top_k(**(good | change))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 700), st.integers(1, 9), st.sampled_from([2, 30, 10**6]), st.booleans(), st.data())
def test_the_smallest_of_many_are_those_of_a_stable_sort(seed, rows, columns, values, turned, data):
    block = torch.from_numpy(np.random.default_rng(seed).integers(0, values, (rows, columns)).astype(np.float32))
    block = block.t().contiguous().t() if turned else block
    k = data.draw(st.integers(1, min(rows, 40)))
    nearest, order = smallest(block, k), block.numpy().argsort(axis=0, kind="stable")[:k]
    np.testing.assert_array_equal(nearest[1].numpy(), order.T)
    np.testing.assert_array_equal(nearest[0].numpy(), np.take_along_axis(block.numpy(), order, 0).T)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(2, 120), st.integers(1, 25), st.booleans())
def test_rank1_is_the_rankings(seed, queries, gallery, people, in_scenes):
    """Whole numbers tie often, and junk is deep where people are few: then the gallery is ranked."""
    rng = np.random.default_rng(seed)
    sizes = (queries, gallery, queries, gallery)
    who = [rng.integers(0, top, size) for top, size in zip((people, people, 3, 3), sizes, strict=True)]
    scenes = rng.integers(0, 3, queries) if in_scenes else None
    features = rng.integers(0, 3, (queries, 2)), rng.integers(0, 3, (gallery, 2))
    try:
        ranking = rank_gallery(*features, *who, scene_camids=scenes)
    except ValueError:
        with pytest.raises(ValueError, match="valid query"):
            rank1(*features, *who, scene_camids=scenes)
        return
    assert rank1(*features, *who, scene_camids=scenes) == (ranking.cmc[0], ranking.valid.sum())


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_rank1_by_faiss_is_the_rankings(metric):
    rng = np.random.default_rng(3)
    who = [rng.integers(0, top, size) for top, size in ((40, 60), (40, 800), (4, 60), (4, 800))]
    centres = rng.standard_normal((40, 16))
    features = [(centres[pids] + rng.standard_normal((len(pids), 16))).astype(np.float32) for pids in who[:2]]
    ranking = rank_gallery(*features, *who, metric)
    assert 0.2 < ranking.cmc[0] < 0.9
    assert rank1(*features, *who, metric, backend="faiss-cpu") == (ranking.cmc[0], ranking.valid.sum())


def test_faiss_is_imported_only_when_asked_for_and_missed_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    assert top_k([[1.0]], [[2.0], [1.0]], 1)[1].tolist() == [[1]]
    with pytest.raises(ModuleNotFoundError, match="backend 'faiss-cpu' needs faiss: pip install faiss-cpu$"):
        top_k([[1.0]], [[2.0], [1.0]], 1, backend="faiss-cpu")
    with pytest.raises(ModuleNotFoundError, match="backend 'faiss-gpu' needs faiss: pip install faiss-gpu-cu12$"):
        usable("faiss-gpu")
    code = "import sys, reid_aug.baselines.neighbours; print({'torchreid', 'torchvision', 'faiss', 'scipy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"


def test_faiss_without_gpus_says_which_half_is_missing(monkeypatch):
    for_cpus, blind = types.ModuleType("faiss"), types.ModuleType("faiss")
    blind.StandardGpuResources, blind.get_num_gpus = object, lambda: 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "faiss", for_cpus)
    assert usable("faiss-cpu") == "faiss-cpu" and usable("auto") == "torch"
    with pytest.raises(ModuleNotFoundError, match="got one for CPUs: pip uninstall faiss-cpu && pip install faiss-gpu-cu12$"):
        usable("faiss-gpu")
    monkeypatch.setitem(sys.modules, "faiss", blind)
    with pytest.raises(ValueError, match="needs a GPU that faiss sees, got none: give torch or faiss-cpu"):
        usable("faiss-gpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("backend", ["torch", "faiss-cpu", "faiss-gpu"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_on_a_gpu_as_on_the_cpu(backend, metric):
    if backend.startswith("faiss"):
        try:
            usable(backend)
        except ModuleNotFoundError as error:
            pytest.skip(str(error))
    rng = np.random.default_rng(5)
    query, gallery = (torch.from_numpy(rng.standard_normal((n, 24), dtype=np.float32)) for n in (40, 3000))
    distances, indices = top_k(query.cuda(), gallery.cuda(), 9, metric, backend)
    assert distances.is_cuda and indices.is_cuda
    expected = top_k(query, gallery, 9, metric)
    torch.testing.assert_close(indices.cpu(), expected[1])
    torch.testing.assert_close(distances.cpu(), expected[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(top_k(query, gallery, 9, metric, backend)[1], expected[1])  # features on the CPU, wherever it searches
    if backend == "faiss-gpu":
        with pytest.raises(ValueError, match="finds 2048 neighbours at most, got k=2049"):
            top_k(query, gallery, 2049, metric, backend)
