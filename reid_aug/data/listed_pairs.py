"""Pairs that a list names: looked up among people, and asked for by number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid_aug.data.deepfashion import flattened
from reid_aug.data.people import PersonImage, keys_of


@dataclass(frozen=True, eq=False)
class ListedPairs:
    """The pairs (P, 2) of image indices that a list names, in its order, asked for by number as those of a `PairPopulation` are."""

    pairs: np.ndarray

    @property
    def count(self) -> int:
        """Give the number of pairs."""
        return len(self.pairs)

    def pair(self, number: np.ndarray) -> np.ndarray:
        """Give the pairs (M, 2) for numbers (M) in 0..count-1."""
        return self.pairs[number]


def listed(
    people: Sequence[PersonImage], names: Sequence[tuple[str, str]], where: str, kind: str = "paired",
    *, splits: Sequence[str] = ("query", "gallery"), posed: bool = True,
) -> list[tuple[PersonImage, PersonImage]]:  # fmt: skip
    """Look up images of `splits` by (source, target) names (`people.keys_of`); a photograph that several splits have is the last's.

    ValueError names `where` the names are listed and the name that is not in the data set, is that of two photographs or, if they are to be
    `posed`, has no pose, or the pair that is not of `kind`.
    """
    if not names:
        raise ValueError(f"{where} lists no pair")
    names = [(flattened(source), flattened(target)) for source, target in names]
    wanted = dict.fromkeys(name for pair in names for name in pair)
    members = [p for split in splits for p in people if p.split == split]
    keys = keys_of(members, wanted)
    by_name = {keys[p.path]: p for p in members if p.path in keys}
    for name in wanted:
        person = by_name.get(name)
        if person is None:
            raise ValueError(f"{where} names {name}, which is no image of {' or '.join(splits)}")
        if posed and (person.pose is None or not bool(person.pose.visible.any())):
            raise ValueError(f"{where} names {name}, which has no pose")
    pairs = [(by_name[source], by_name[target]) for source, target in names]
    for source, target in pairs:
        if (source.pid == target.pid) != (kind == "paired"):
            people_are = "different people" if kind == "paired" else "one person"
            raise ValueError(f"{where}: {source.name} and {target.name} show {people_are}, and pairs.kind is {kind}")
    return pairs
