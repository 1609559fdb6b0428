"""Part of a training set, as the low-data protocol wants it: so many of its images, and somebody of every identity."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence

from reid_aug.pairs import valid_for_pairs
from reid_aug.people import PersonImage


def part_of(people: Sequence[PersonImage], share: float, seed: int, *, pairs: bool) -> list[PersonImage]:
    """All test images and `share` of the training images, in their order (Bhunia et al. 2023, PIDM, Re-ID protocol).

    Every identity keeps one image at least, or, where generators are trained (`pairs`), two that a pair can be made
    of, if it has as many; so the share may come out larger, and the least images are what a tiny one leaves. A smaller
    share's images are all in a larger one's. Chosen by a hash of (seed, name): the same on every machine.
    """
    if not 0 < share <= 1:
        raise ValueError(f"a share of training images is above 0 and at most 1, got {share}")
    train = [p for p in people if p.split == "train"]
    ranked = sorted(train, key=lambda p: hashlib.sha256(f"{seed}\n{p.name}".encode()).digest())
    by_identity: dict[int, list[PersonImage]] = defaultdict(list)
    for person in ranked:
        by_identity[person.pid].append(person)
    kept: set[str] = set()
    for own in by_identity.values():
        usable = [p for p in own if pairs and p.pose is not None and bool(valid_for_pairs(p.pose))]
        kept |= {p.path for p in (usable[:2] or own[:1])}
    for person in ranked:
        if len(kept) >= round(share * len(train)):
            break
        kept.add(person.path)
    return [p for p in people if p.split != "train" or p.path in kept]
