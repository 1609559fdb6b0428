"""The people of a data set: one row an image, and what is done to rows wherever they come from."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from generators import Pose, one_of

SPLITS = ("train", "query", "gallery")
JUNK = -1


@dataclass(frozen=True)
class PersonImage:
    """One image of a person: file, identity, camera (from 0), split (train, query, gallery), and its pose if one is known."""

    path: str
    pid: int
    camid: int
    split: str
    pose: Pose | None = field(default=None, repr=False)
    alias: str | None = None  # What to call the image where its file's name won't do.

    @property
    def name(self) -> str:
        """Give the alias, or else the file's name without its folder."""
        return self.alias or os.path.basename(self.path)


def relabel(people: Iterable[PersonImage]) -> dict[int, int]:
    """Give the identities in `people` the labels 0..N-1, in the order of their numbers.

    >>> relabel([PersonImage("b.jpg", 7, 0, "train"), PersonImage("a.jpg", 2, 0, "train"), PersonImage("c.jpg", 7, 1, "train")])
    {2: 0, 7: 1}
    """
    return {pid: label for label, pid in enumerate(sorted({p.pid for p in people}))}


def tell_apart(people: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the people with an alias where two files of a split share a name: the path below the folder all have in common.

    >>> [p.name for p in tell_apart([PersonImage("/set/a/1.jpg", 1, 0, "train"), PersonImage("/set/b/1.jpg", 2, 0, "train")])]
    ['a/1.jpg', 'b/1.jpg']
    """
    count = Counter((p.split, os.path.basename(p.path)) for p in people)
    if not people or max(count.values()) == 1:
        return list(people)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(p.path)) for p in people])
    return [
        replace(p, alias=Path(os.path.relpath(p.path, root)).as_posix()) if count[p.split, os.path.basename(p.path)] > 1 else p
        for p in people
    ]


def refuse_overlap(where: str, people: Iterable[PersonImage]) -> None:
    """Raise ValueError if an identity is in train and in query or gallery: scores would be of people seen in training."""
    pids: dict[str, set[int]] = {split: set() for split in SPLITS}
    for person in people:
        pids[person.split].add(person.pid)
    both = sorted(pids["train"] & (pids["query"] | pids["gallery"]))
    if both:
        raise ValueError(
            f"{where}: train and test share no identity, but {len(both)} are in both: {first_few(both)} "
            "(allow_overlap=True reads it anyway)"
        )


def first_few(items: Sequence[object]) -> str:
    """Write the first three of a list, and how many more there are.

    >>> first_few(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    """
    return ", ".join(str(item) for item in items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def attach_poses(
    people: Sequence[PersonImage], poses: Mapping[str, Pose], *, splits: Sequence[str] = ("train",)
) -> list[PersonImage]:
    """Return the people, those of `splits` with the pose (K, 2) that `poses` has under their path or name.

    ValueError when less than half of the images of `splits` have one.
    """
    for split in splits:
        one_of("a split", split, SPLITS)
    result, missing, posed = [], [], 0
    for person in people:
        key = person.path if person.path in poses else person.name
        if person.split not in splits:
            result.append(person)
        elif key in poses:
            result.append(replace(person, pose=_single(key, poses[key])))
            posed += 1
        else:
            result.append(person)
            missing.append(person.name)
    if not posed or len(missing) > posed:
        raise ValueError(
            f"{posed} of {posed + len(missing)} {' and '.join(splits)} images have a pose, at least half must; "
            f"without one: {first_few(missing) or 'no image at all'}"
        )
    return result


def _single(key: str, pose: Pose) -> Pose:
    """Return the pose; raise ValueError unless it is that of one image."""
    if len(pose.batch_shape):
        raise ValueError(f"the pose of one image is (K, 2), that of {key!r} is {tuple(pose.xy.shape)}")
    return pose
