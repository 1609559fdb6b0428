"""Batches for Re-ID training: P identities × K images each, or shuffled, and how many of them may be synthetic."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler


def pk_batches(
    labels: np.ndarray, identities: int, instances: int, steps: int, seed: int | tuple[int, ...],
    *, synthetic: np.ndarray | None = None, most_synthetic: int | None = None,
) -> Iterator[np.ndarray]:  # fmt: skip
    """Yield the indices of `steps` batches: P identities, each with K images, with replacement where an identity has fewer.

    Identities are dealt from a shuffled deck, so that none waits longer than one pass; the same for the same seed.
    Of a group's K images at most `most_synthetic` are `synthetic` (N,) bool; real ones take the others' places, more
    than once where there are few. An identity with no real image is not capped: there is nothing to put in place.

    >>> (batch,) = pk_batches(np.array([0, 0, 1, 1]), identities=2, instances=2, steps=1, seed=0)
    >>> sorted(batch.tolist())
    [0, 1, 2, 3]
    """
    if min(identities, instances, steps) < 1:
        raise ValueError(f"identities, instances and steps are 1 at least, got {identities}, {instances} and {steps}")
    if most_synthetic is not None and not 0 <= most_synthetic <= instances:
        raise ValueError(f"most_synthetic is 0 to {instances} (the images of a group), got {most_synthetic}")
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    members = [order[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    capped = synthetic is not None and most_synthetic is not None and most_synthetic < instances
    is_synthetic = np.zeros(len(labels), dtype=bool) if synthetic is None else synthetic
    real = [images[~is_synthetic[images]] for images in members] if capped else []
    identities, deck = min(identities, len(members)), []
    for _ in range(steps):
        if len(deck) < identities:
            deck += [i for i in rng.permutation(len(members)).tolist() if i not in deck]
        chosen, deck = deck[:identities], deck[identities:]
        groups = [_group(rng, members[i], instances) for i in chosen]
        if capped:
            assert most_synthetic is not None
            groups = [_capped(rng, group, is_synthetic, real[i], most_synthetic) for group, i in zip(groups, chosen, strict=True)]
        yield np.concatenate(groups)


def _group(rng: np.random.Generator, members: np.ndarray, size: int) -> np.ndarray:
    return rng.choice(members, size, replace=len(members) < size)


def _capped(rng: np.random.Generator, group: np.ndarray, synthetic: np.ndarray, real: np.ndarray, most: int) -> np.ndarray:
    """Put real images in place of those of the group's synthetic ones that are too many."""
    places = np.flatnonzero(synthetic[group])[most:]
    if not len(places) or not len(real):
        return group
    unused = real[~np.isin(real, group)]
    group = group.copy()
    group[places] = _group(rng, unused if len(unused) >= len(places) else real, len(places))
    return group


def shuffled_batches(
    count: int, batch: int, steps: int, seed: int, *, synthetic: np.ndarray | None = None, share: float | None = None
) -> Iterator[np.ndarray]:
    """Yield the indices (batch,) of `steps` batches, dealt without regard to identity: each index once before any comes twice.

    With a `share`, exactly that part of every batch, rounded, is `synthetic` (N,) bool (CamStyle's 3 real : 1 synthetic
    is a share of ¼), as long as there are both; ValueError for a share above 0 that rounds to no image.

    >>> first, second = shuffled_batches(count=4, batch=2, steps=2, seed=0)
    >>> sorted([*first.tolist(), *second.tolist()])
    [0, 1, 2, 3]
    """
    if min(count, batch, steps) < 1:
        raise ValueError(f"count, batch and steps are 1 at least, got {count}, {batch} and {steps}")
    rng = np.random.default_rng(seed)
    everything = np.arange(count)
    parts = [(everything, batch)]
    if share is not None and synthetic is not None and synthetic.any() and not synthetic.all():
        few = round(share * batch)
        if share and not few:
            raise ValueError(f"a share of synthetic images is 0 or one of a batch's {batch} at least, got {share:g}")
        parts = [(everything[~synthetic], batch - few), (everything[synthetic], few)]
    decks = [_deck(rng, indices, size) for indices, size in parts if size]
    for _ in range(steps):
        yield np.concatenate([next(deck) for deck in decks])


def _deck(rng: np.random.Generator, indices: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yield `size` indices at a time from a deck that is shuffled anew when it runs out."""
    deck = np.empty(0, dtype=indices.dtype)
    while True:
        while len(deck) < size:
            deck = np.concatenate((deck, rng.permutation(indices)))
        yield deck[:size]
        deck = deck[size:]


def replaced(
    batch: np.ndarray, stand_ins: list[np.ndarray], probability: float, rng: np.random.Generator
) -> np.ndarray:
    """Exchange each image of a batch, with some probability, for a random one of its `stand_ins`, where it has any.

    >>> replaced(np.array([0, 1]), [np.array([7]), np.array([], dtype=int)], 1.0, np.random.default_rng(0)).tolist()
    [7, 1]
    """
    chosen = rng.random(len(batch)) < probability
    return np.array([
        rng.choice(stand_ins[i]) if swap and len(stand_ins[i]) else i for i, swap in zip(batch.tolist(), chosen.tolist(), strict=True)
    ])  # fmt: skip


class CappedIdentitySampler(Sampler[int]):
    """P × K batches for a DataLoader over a PoseAugmentedDataset, at most `most_synthetic` of each K images synthetic.

    torchreid's own RandomIdentitySampler, with three synthetic images for a real one, leaves a third of its groups
    without a real image. Give it to `DataLoader(dataset, batch_size=batch_size, sampler=…, drop_last=True)`, e.g. in
    place of `datamanager.train_loader`. Every pass differs; the same seed repeats all of them. ValueError for a batch
    size that is no multiple of `num_instances`, or for which there are too few identities.
    """

    def __init__(self, dataset: Any, batch_size: int, num_instances: int = 4, most_synthetic: int = 1, seed: int = 0) -> None:
        pids = [row[1] for row in dataset.train]
        _, self.labels = np.unique(pids, return_inverse=True)
        if batch_size % num_instances or batch_size < num_instances:
            raise ValueError(f"batch_size is a multiple of num_instances = {num_instances}, got {batch_size}")
        if batch_size // num_instances > self.labels.max() + 1:
            raise ValueError(f"a batch of {batch_size} holds {batch_size // num_instances} identities, got {self.labels.max() + 1}")
        synthetic = getattr(dataset, "synthetic_paths", frozenset())
        self.synthetic = np.array([row[0] in synthetic for row in dataset.train])
        self.batch_size, self.num_instances, self.most_synthetic = batch_size, num_instances, most_synthetic
        self.seed, self.epoch = seed, 0

    def __iter__(self) -> Iterator[int]:
        batches = pk_batches(
            self.labels, self.batch_size // self.num_instances, self.num_instances, len(self) // self.batch_size,
            (self.seed, self.epoch), synthetic=self.synthetic, most_synthetic=self.most_synthetic,
        )  # fmt: skip
        self.epoch += 1
        for batch in batches:
            yield from batch.tolist()

    def __len__(self) -> int:
        return max(1, len(self.labels) // self.batch_size) * self.batch_size
