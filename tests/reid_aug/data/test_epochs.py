"""Epochs that move on by themselves: with no worker, with workers that are made anew, and with workers that persist."""

from __future__ import annotations

import copy
import pickle
import random
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler
from torchreid import data as torchreid_data

from reid_aug.data.epochs import SharedEpoch


class Rows(Dataset[tuple[int, int]]):
    """Gives each row and the epoch it was asked for in, a batch at a time."""

    def __init__(self, rows: int) -> None:
        self.passes, self.rows = SharedEpoch(rows), rows

    def __len__(self) -> int:
        return self.rows

    def __getitems__(self, indices: list[int]) -> list[tuple[int, int]]:
        epoch = self.passes.of(indices)
        return [(index, epoch) for index in indices]


class OneByOne(Dataset[tuple[int, int]]):
    """As data sets around data sets ask: row by row."""

    def __init__(self, inner: Rows) -> None:
        self.inner = inner

    def __len__(self) -> int:
        return len(self.inner)

    def __getitem__(self, index: int) -> tuple[int, int]:
        return self.inner.__getitems__([index])[0]


def epochs_of(loader: DataLoader, passes: int) -> list[list[int]]:
    """Return the epochs that each pass saw, one for each row."""
    return [[epoch for _, epochs in loader for epoch in epochs.tolist()] for _ in range(passes)]


@pytest.mark.parametrize(
    ("workers", "drop_last"),
    [
        ({}, False), ({}, True), ({"num_workers": 2}, True),
        ({"num_workers": 2, "persistent_workers": True}, False), ({"num_workers": 2, "persistent_workers": True}, True),
    ],
)
def test_each_pass_is_an_epoch(workers: dict, drop_last: bool) -> None:
    loader = DataLoader(Rows(23), 4, shuffle=True, drop_last=drop_last, **workers)
    assert epochs_of(loader, 3) == [[epoch] * (20 if drop_last else 23) for epoch in range(3)]


SAMPLERS = ("RandomSampler", "SequentialSampler", "RandomIdentitySampler", "RandomDomainSampler", "RandomDatasetSampler")


@pytest.mark.parametrize("name", SAMPLERS)
def test_with_each_of_torchreids_samplers(name: str) -> None:
    random.seed(0)
    np.random.seed(0)
    rows = [(f"{i}.jpg", i // 6, i % 2, i % 4 // 2) for i in range(60)]  # ten people, two cameras, two data sets
    sampler = torchreid_data.sampler.build_train_sampler(rows, name, batch_size=8, num_instances=4, num_cams=2, num_datasets=2)
    for epoch, seen in enumerate(epochs_of(DataLoader(Rows(60), 8, sampler=sampler, drop_last=True), 5)):
        assert len(seen) >= 32 and set(seen) == {epoch}


def test_row_by_row_no_row_comes_twice_in_an_epoch() -> None:
    """What a pass leaves out may come first in the next, under the number before."""
    loader = DataLoader(OneByOne(Rows(11)), 4, shuffle=True, drop_last=True, generator=torch.Generator().manual_seed(3))
    seen = [(int(row), int(epoch)) for _ in range(6) for rows, epochs in loader for row, epoch in zip(rows, epochs, strict=True)]
    assert len(set(seen)) == len(seen) == 48 and [epoch for _, epoch in seen] == sorted(epoch for _, epoch in seen)


def test_a_pass_that_is_broken_off_was_one_where_workers_tell() -> None:
    loader = DataLoader(Rows(40), 2, num_workers=1, shuffle=True)
    assert [set(next(iter(loader))[1].tolist()) for _ in range(2)] == [{0}, {1}]


def test_the_same_seed_in_every_pass_is_no_single_pass() -> None:
    """Workers of both passes share their seed; their rows tell."""
    seen = []
    for _ in range(2):
        loader = DataLoader(rows := seen[0][0] if seen else Rows(8), 4, num_workers=1, generator=torch.Generator().manual_seed(0))
        seen.append((rows, epochs_of(loader, 1)[0]))
    assert [epochs for _, epochs in seen] == [[0] * 8, [1] * 8]


class TestSetting:
    @pytest.mark.parametrize("workers", [{}, {"num_workers": 2, "persistent_workers": True}])
    def test_held_where_rows_repeat(self, workers: dict) -> None:
        rows, seen = Rows(8), []
        loader = DataLoader(rows, 4, sampler=WeightedRandomSampler([1.0] * 8, 32, generator=torch.Generator().manual_seed(0)), **workers)
        for epoch in (5, 6, 2):
            rows.passes.set(epoch)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                seen += [set(epochs_of(loader, 1)[0])]
        assert seen == [{5}, {6}, {2}] and rows.passes.epoch == 2

    def test_who_sets_it_once_is_told(self) -> None:
        rows = Rows(8)
        rows.passes.set(3)
        loader = DataLoader(rows, 4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert epochs_of(loader, 1) == [[3] * 8]
        with pytest.warns(UserWarning, match=r"a second time in epoch 3, and are drawn as before: set_epoch\(4\) begins the next"):
            assert epochs_of(loader, 1) == [[3] * 8]

    @pytest.mark.parametrize("workers", [0, 1])
    def test_a_resumed_training_goes_on_from_there(self, workers: int) -> None:
        rows = Rows(8)
        rows.passes.set(7, hold=False)
        assert epochs_of(DataLoader(rows, 4, shuffle=True, num_workers=workers), 2) == [[7] * 8, [8] * 8]

    @pytest.mark.parametrize("epoch", [-1, 2**31])
    def test_what_is_no_epoch(self, epoch: int) -> None:
        with pytest.raises(ValueError, match=rf"an epoch is in 0..2147483647, got {epoch}"):
            SharedEpoch(3).set(epoch)

    def test_the_last_epoch_there_is(self) -> None:
        passes = SharedEpoch(2)
        passes.set(2**31 - 1)
        assert passes.of([0, 1]) == passes.epoch == 2**31 - 1


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda passes: pickle.loads(pickle.dumps(passes))])
def test_a_copy_counts_on_its_own(twin) -> None:
    passes = SharedEpoch(2, 4)
    other = twin(passes)
    assert [other.of([0]) for _ in range(3)] == [4, 5, 6] and passes.of([0]) == 4
    assert other._shared.is_shared(), "its workers have to see it, too"
