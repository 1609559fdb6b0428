"""Recombined people: the upper body of one person, the legs of another. People nobody photographed, of people somebody did.

What limits a Re-ID network on a small data set is less how many images each person has than how many people there are. A generator
that moves the source's own pixels puts the legs of one person, in the pose and place of an image of another, on that other's upper
body: a person of both, seen by every camera that saw them, with each camera's own colours. Under an identity of its own it teaches that
who somebody is lies in all of the clothes at once.

Related: clothes exchanged between people by codes of appearance (Zheng et al., "Joint discriminative and generative learning for
person re-identification", CVPR 2019, DG-Net), where the mixture keeps one person's identity; people assembled from garments as in
Wang et al., "Surpassing real-world source training: random 3D characters for generalizable person re-identification" (2020, RandPerson).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import count

import numpy as np

from generators import view_descriptor
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.manifest import SyntheticRow
from reid_aug.synthesis.nearness import distances
from reid_aug.synthesis.sources import add, image_path, recombinable, warn_of_not_augmented
from reid_aug.synthesis.target_poses import described, hash64


def plan_recombined(
    people: Sequence[PersonImage], bank: PoseBank, per_image: int, seed: int, folder: str = "", first_pid: int | None = None
) -> list[SyntheticRow]:
    """Decide which people to make: each identity gets the legs of `per_image` others, on every image that shows its own. Pure.

    A row's `target` is the image whose upper body, pose and place stay; its `source` the other's image whose legs are moved there:
    of the same camera, where there is one, and of those the nearest in view. Identities are new, counted from `first_pid`, by default
    the next after the largest among `people`; whose legs each gets is a hash of (seed, identity, index), so that order changes
    nothing. ValueError for a bank that lacks these images, and where fewer than per_image + 1 identities show legs.
    """
    usable = sorted(filter(recombinable, people), key=lambda p: p.name)
    warn_of_not_augmented(people, recombinable)
    known = set(bank.names)
    if lost := next((p.name for p in usable if p.name not in known), None):
        raise ValueError(f"recombined draws people in each other's places: a bank of their own images has them all, this one lacks {lost}")
    images: dict[int, list[PersonImage]] = defaultdict(list)
    for person in usable:
        images[person.pid].append(person)
    pids = sorted(images)
    if len(pids) <= per_image:
        rule = f"per_image={per_image} is fewer than the identities that show hips and knees"
        raise ValueError(f"recombined gives everybody the legs of others: {rule}, got {len(pids)} of them")
    views = dict(zip((p.name for p in usable), described(view_descriptor, usable, bank.pose.size), strict=True))
    new_pids = count(max(p.pid for p in people) + 1 if first_pid is None else first_pid)
    rows: dict[str, SyntheticRow] = {}
    for place, pid in enumerate(pids):
        for index, partner in enumerate(_partners(place, len(pids), per_image, seed, pid)):
            new_pid, others = next(new_pids), images[pids[partner]]
            for person in images[pid]:
                path = image_path(folder, person.name, index, before=f"{new_pid:04d}_c{person.camid + 1}s1_")
                legs, bits = _nearest(person, others, views), hash64(seed, person.name, index)
                add(rows, SyntheticRow(path, legs.name, person.name, new_pid, person.camid, bits >> 32), person.name)
    return list(rows.values())


def _partners(place: int, identities: int, number: int, seed: int, pid: int) -> list[int]:
    """Choose `number` different identities other than `place`, of 0..identities − 1, by a hash of (seed, pid, index).

    >>> _partners(1, 3, 2, seed=0, pid=7) in ([0, 2], [2, 0])
    True
    """
    taken: list[int] = []
    for index in range(number):
        choice = hash64(seed, pid, index) % identities
        while choice == place or choice in taken:
            choice = (choice + 1) % identities
        taken.append(choice)
    return taken


def _nearest(person: PersonImage, others: Sequence[PersonImage], views: dict[str, np.ndarray]) -> PersonImage:
    """Find the image of `others` nearest in view to a person's, among those of the same camera where there are any."""
    others = [p for p in others if p.camid == person.camid] or others
    apart = distances(views[person.name], np.stack([views[p.name] for p in others]))
    return others[int(apart.argmin())]
