"""A gallery read in blocks ranks as one in memory does, to the last bit. (torchreid's evaluation is the oracle in test_ranking.)"""

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid_aug.baselines import large_gallery
from reid_aug.baselines.large_gallery import rank_large_gallery
from reid_aug.baselines.ranking import rank_gallery


def labels(rng, queries, gallery, people=12, cameras=3):
    sizes = (queries, gallery, queries, gallery)
    return [rng.integers(0, top, size) for top, size in zip((people, people, cameras, cameras), sizes, strict=True)]


def photographs(rng, pids, centres, noise=2.0):
    return (centres[pids] + noise * rng.standard_normal((len(pids), centres.shape[1]))).astype(np.float32)


def assert_equal(result, expected):
    for name in ("cmc", "ap", "inp", "first_rank", "valid", "map", "minp"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name), err_msg=name)


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 20), st.integers(2, 90), st.integers(1, 3), st.integers(1, 95), st.booleans())
def test_ties_junk_and_scenes_whatever_the_block(seed, queries, gallery, width, block_rows, in_scenes):
    """Few whole numbers: equal rows and equal distances lie in different blocks, and matches among them."""
    rng = np.random.default_rng(seed)
    who = labels(rng, queries, gallery, people=6)
    scenes = rng.integers(0, 3, queries) if in_scenes else None
    features = rng.integers(0, 3, (queries, width)), rng.integers(0, 3, (gallery, width))
    try:
        expected = rank_gallery(*features, *who, scene_camids=scenes)
    except ValueError:
        with pytest.raises(ValueError, match="valid query"):
            rank_large_gallery(*features, *who, scene_camids=scenes, block_rows=block_rows)
        return
    assert_equal(rank_large_gallery(*features, *who, scene_camids=scenes, block_rows=block_rows), expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("queries", [2, 37, 300])
def test_photographs_rank_to_the_last_bit(metric, queries):
    """With equal rows of different people in different blocks, and distractors of nobody."""
    rng = np.random.default_rng(queries)
    who = labels(rng, queries, 1500, people=40)
    who[1][rng.random(1500) < 0.7] = 1000
    centres = rng.standard_normal((1001, 64))
    query, gallery = photographs(rng, who[0], centres), photographs(rng, who[1], centres)
    gallery[rng.integers(0, 1500, 60)] = gallery[rng.integers(0, 1500, 60)]
    expected = rank_gallery(query, gallery, *who, metric=metric)
    for block_rows in (97, 512, 1499, 1500):
        assert_equal(rank_large_gallery(query, gallery, *who, metric, block_rows=block_rows), expected)


@pytest.mark.parametrize("block_rows", [2, 3, 100])
def test_a_case_worked_by_hand(block_rows):
    # Nearest first: a stranger at 1, junk at 2, a match and a stranger at 3 (the match comes first in the gallery), a match at 9.
    gallery, pids, camids = [[9.0], [3.0], [2.0], [1.0], [3.0]], [7, 7, 7, 8, 8], [1, 2, 0, 0, 1]
    result = rank_large_gallery([[0.0]], gallery, [7], pids, [0], camids, block_rows=block_rows)
    assert result.first_rank.tolist() == [1] and result.ap[0] == (1 / 2 + 2 / 4) / 2 and result.inp[0] == 2 / 4
    swapped = rank_large_gallery([[0.0]], gallery[::-1], [7], pids[::-1], [0], camids[::-1], block_rows=block_rows)
    assert swapped.first_rank.tolist() == [2]


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", ">f4", "int16"])
def test_files_and_arrays_of_any_kind(dtype, tmp_path):
    rng = np.random.default_rng(1)
    who = labels(rng, 9, 80)
    query, gallery = rng.integers(0, 9, (9, 6)).astype(np.float32), rng.integers(0, 9, (80, 6)).astype(dtype)
    expected = rank_gallery(query, gallery.astype(np.float32), *who)
    np.save(tmp_path / "gallery.npy", gallery)
    np.save(tmp_path / "columns.npy", np.asfortranarray(gallery))
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    forms = [tmp_path / "gallery.npy", str(tmp_path / "columns.npy"), mapped, gallery, gallery.tolist()]
    forms += [torch.from_numpy(gallery)] if gallery.dtype.isnative else []
    for form in forms:
        assert_equal(rank_large_gallery(query, form, *who, block_rows=16), expected)


def test_memory_holds_a_block(tmp_path):
    """4 MB of features, read in blocks of 0.13 MB."""
    gallery = np.lib.format.open_memmap(tmp_path / "gallery.npy", "w+", np.float32, (16_000, 64))
    gallery[:] = np.arange(16_000, dtype=np.float32)[:, None] % 1009
    gallery.flush()
    del gallery
    who = np.arange(1, 4), np.where(np.arange(16_000) < 300, np.arange(16_000) % 4, -1), np.zeros(3, int), np.ones(16_000, int)
    tracemalloc.start()
    rank_large_gallery(np.ones((3, 64), np.float32), tmp_path / "gallery.npy", *who, block_rows=500)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2e6  # of which labels and their order take a third


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"block_rows": 0}, "block_rows is 1 at least, got 0"),
        ({"max_rank": 0}, "max_rank is 1 at least, got 0"),
        ({"metric": "cosin"}, r"no metric named 'cosin'.*did you mean 'cosine'\?"),
        ({"gallery_features": np.ones((8, 2))}, "one width D, got 3 and 2"),
        ({"gallery_features": np.ones(8)}, r"gallery features are a matrix \(rows, D\) of numbers.*got float64 \(8,\)"),
        ({"gallery_features": np.full((8, 3), "a")}, "gallery features are a matrix .* of numbers"),
        ({"gallery_features": np.concatenate([np.ones((7, 3)), [[1, np.nan, 2]]])}, "gallery rows 6 to 7: features are finite.*got 1 of 6"),
        ({"gallery_features": np.full((8, 3), 1e300)}, "gallery rows .*: features are finite"),
        ({"gallery_pids": [1] * 7}, r"gallery_pids are 8 integers.*\(7,\)"),
        ({"gallery_camids": [0] * 8}, "valid query.*none of 2"),
    ],
)
def test_refusals_name_the_thing_the_rule_and_the_value(change, message):
    good = {"query_features": np.ones((2, 3)), "gallery_features": np.ones((8, 3)), "query_pids": [1, 2], "gallery_pids": [1, 2] * 4,
            "query_camids": [0, 0], "gallery_camids": [1] * 8, "block_rows": 2}  # fmt: skip
    rank_large_gallery(**good)
    with pytest.raises(ValueError, match=message):
        rank_large_gallery(**(good | change))


def test_files_that_hold_no_array(tmp_path):
    (tmp_path / "text.npy").write_text("no array")
    np.savez(tmp_path / "several.npz", a=np.ones((3, 3)))
    for name, message in (("text.npy", "text.npy is no .npy file of features"), ("several.npz", "holds several arrays")):
        with pytest.raises(ValueError, match=message):
            rank_large_gallery(np.ones((1, 3)), tmp_path / name, [1], [1, 1, 1], [0], [1, 1, 1])
    with pytest.raises(FileNotFoundError):
        rank_large_gallery(np.ones((1, 3)), tmp_path / "none.npy", [1], [1, 1, 1], [0], [1, 1, 1])


def test_rows_are_told_apart_by_their_bits():
    rows = torch.tensor([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0], [0.0, 3.0]])
    hashes = large_gallery._hashes(rows)
    assert hashes[0] == hashes[2] and len(set(hashes.tolist())) == 3


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_as_on_the_cpu():
    rng = np.random.default_rng(5)
    who = labels(rng, 40, 900)
    query, gallery = rng.integers(0, 3, (40, 6)).astype(np.float32), rng.integers(0, 3, (900, 6))
    assert_equal(rank_large_gallery(torch.from_numpy(query).cuda(), gallery, *who, block_rows=256), rank_gallery(query, gallery, *who))
