"""Batches: who is in them, how many of a group are synthetic, and what stands in for what."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from reid_aug.baselines.samplers import CappedIdentitySampler, pk_batches, replaced, shuffled_batches


def test_pk_batches() -> None:
    labels = np.repeat(np.arange(7), [1, 2, 3, 4, 5, 6, 9])
    batches = list(pk_batches(labels, 3, 4, 20, seed=1))
    assert len(batches) == 20
    for batch in batches:
        identities, counts = np.unique(labels[batch], return_counts=True)
        assert len(identities) == 3 and set(counts) == {4}
        for label in identities:
            if (labels == label).sum() >= 4:
                assert len(set(batch[labels[batch] == label])) == 4, "no image twice where there are enough"
    seen = np.bincount(np.concatenate([np.unique(labels[b]) for b in batches]), minlength=7)
    assert seen.min() >= 20 * 3 // 7 - 1, "a shuffled deck deals everybody in turn"
    again = list(pk_batches(labels, 3, 4, 20, seed=1))
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(batches, pk_batches(labels, 3, 4, 20, seed=2), strict=True))


def crowd(reals: list[int], synthetics: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Labels and which are synthetic, of so many real and synthetic images an identity, real ones first."""
    labels = np.concatenate([np.repeat(np.arange(len(reals)), reals), np.repeat(np.arange(len(reals)), synthetics)])
    return labels, np.arange(len(labels)) >= sum(reals)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=2, max_size=8), st.integers(0, 4), st.integers(0, 99))
def test_a_group_holds_no_more_synthetic_images_than_its_cap(counts: list[tuple[int, int]], most: int, seed: int) -> None:
    counts = [(real, fake) if real + fake else (1, 0) for real, fake in counts]
    labels, synthetic = crowd([c[0] for c in counts], [c[1] for c in counts])
    for batch in pk_batches(labels, 2, 4, 6, seed, synthetic=synthetic, most_synthetic=most):
        for label in np.unique(labels[batch]):
            group = batch[labels[batch] == label]
            assert len(group) == 4
            real, _ = counts[label]
            if real:
                assert synthetic[group].sum() <= most
                taken = group[~synthetic[group]]
                assert len(set(taken)) == len(taken) or real < 4, "real images come once where there are enough"
            else:
                assert synthetic[group].all()


def test_without_a_cap_a_third_of_the_groups_has_no_real_image() -> None:
    """Four images of sixteen, four of which are real, and three synthetic for each: C(12, 4) / C(16, 4) = 0.27."""
    labels, synthetic = crowd([4] * 8, [12] * 8)

    def without(cap: int | None) -> float:
        batches = list(pk_batches(labels, 4, 4, 400, 0, synthetic=synthetic, most_synthetic=cap))
        groups = np.concatenate([synthetic[b].reshape(4, 4) for b in batches])
        return float(groups.all(1).mean())

    assert without(None) == pytest.approx(0.272, abs=0.03)
    assert without(3) == 0 and without(1) == 0


def test_shuffled_batches_deal_everything_before_anything_twice() -> None:
    dealt = np.concatenate(list(shuffled_batches(10, 4, 5, seed=0)))
    assert len(dealt) == 20 and sorted(dealt[:10]) == sorted(dealt[10:]) == list(range(10))


def test_a_share_of_every_batch_is_synthetic() -> None:
    synthetic = np.arange(40) >= 25
    batches = list(shuffled_batches(40, 8, 30, seed=3, synthetic=synthetic, share=0.25))
    assert {int(synthetic[b].sum()) for b in batches} == {2} and {len(b) for b in batches} == {8}
    assert set(np.concatenate(batches)) == set(range(40))
    none = np.zeros(40, dtype=bool)
    assert all(len(b) == 8 for b in shuffled_batches(40, 8, 3, seed=3, synthetic=none, share=0.25))
    assert all(not synthetic[b].any() for b in shuffled_batches(40, 8, 3, seed=3, synthetic=synthetic, share=0.0))


def test_replaced_takes_an_images_own_stand_ins() -> None:
    stand_ins = [np.array([10, 11]), np.array([], dtype=int), np.array([12])]
    batch = np.array([0, 1, 2] * 400)
    out = replaced(batch, stand_ins, 0.25, np.random.default_rng(0))
    assert set(out[batch == 0]) == {0, 10, 11} and set(out[batch == 1]) == {1} and set(out[batch == 2]) == {2, 12}
    assert (out != batch)[batch != 1].mean() == pytest.approx(0.25, abs=0.04)
    assert np.array_equal(replaced(batch, stand_ins, 0.0, np.random.default_rng(0)), batch)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: list(pk_batches(np.zeros(3, int), 0, 4, 1, 0)), "identities, instances and steps are 1 at least, got 0, 4 and 1"),
        (lambda: list(pk_batches(np.zeros(3, int), 1, 4, 1, 0, most_synthetic=5)), "most_synthetic is 0 to 4 .*got 5"),
        (
            lambda: list(shuffled_batches(9, 8, 1, 0, synthetic=np.arange(9) > 4, share=0.05)),
            "0 or one of a batch's 8 at least, got 0.05",
        ),
        (lambda: list(shuffled_batches(3, 0, 1, 0)), "count, batch and steps are 1 at least, got 3, 0 and 1"),
    ],
)
def test_what_makes_no_batch_is_refused(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


class TestCappedIdentitySampler:
    def dataset(self) -> SimpleNamespace:
        """A PoseAugmentedDataset as a sampler sees it: six identities, two real and six synthetic images each."""
        rows = [(f"r{pid}_{i}.jpg", 10 * pid, 0, 0) for pid in range(6) for i in range(2)]
        rows += [(f"s{pid}_{i}.jpg", 10 * pid, 0, 0) for pid in range(6) for i in range(6)]
        return SimpleNamespace(train=rows, synthetic_paths=frozenset(row[0] for row in rows if row[0].startswith("s")))

    def test_batches_of_a_data_loader(self) -> None:
        dataset = self.dataset()
        sampler = CappedIdentitySampler(dataset, batch_size=16, num_instances=4, most_synthetic=1)
        batches = list(DataLoader(dataset.train, batch_size=16, sampler=sampler, drop_last=True, collate_fn=list))
        assert len(batches) == 3 == len(sampler) // 16
        for batch in batches:
            for start in range(0, 16, 4):
                group = batch[start : start + 4]
                assert len({row[1] for row in group}) == 1 and sum(row[0][0] == "s" for row in group) <= 1

    def test_passes_differ_and_seeds_repeat_them(self) -> None:
        sampler, same = (CappedIdentitySampler(self.dataset(), 8, 4, seed=5) for _ in range(2))
        first, second = list(sampler), list(sampler)
        assert first != second and [list(same), list(same)] == [first, second]

    @pytest.mark.parametrize(("batch", "message"), [(10, "multiple of num_instances = 4, got 10"), (32, "holds 8 identities, got 6")])
    def test_batches_that_do_not_fit(self, batch: int, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            CappedIdentitySampler(self.dataset(), batch)
