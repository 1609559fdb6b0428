"""The people of a data set: rows from a Market-style folder, a CSV or a torchreid data set, with or without poses."""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from generators import Pose

SPLITS = ("train", "query", "gallery")
JUNK = -1


@dataclass(frozen=True)
class PersonImage:
    """One image of a person: file, identity, camera (from 0), split (train, query, gallery), and its pose if known."""

    path: str
    pid: int
    camid: int
    split: str
    pose: Pose | None = field(default=None, repr=False)
    alias: str | None = None  # what to call it where the file's name won't do

    @property
    def name(self) -> str:
        """The file's name without its folder, unless it goes by an alias."""
        return self.alias or os.path.basename(self.path)


def tell_apart(people: Sequence[PersonImage]) -> list[PersonImage]:
    """The same people; those of one split whose files share a name go by their path below the folder all have in common."""
    count = Counter((p.split, os.path.basename(p.path)) for p in people)
    if not people or max(count.values()) == 1:
        return list(people)
    root = os.path.commonpath([os.path.dirname(os.path.abspath(p.path)) for p in people])
    return [
        replace(p, alias=Path(os.path.relpath(p.path, root)).as_posix()) if count[p.split, os.path.basename(p.path)] > 1 else p
        for p in people
    ]


def _refuse_overlap(where: str, people: Iterable[PersonImage]) -> None:
    """ValueError if an identity is in train and in query or gallery: scores would be of people seen in training."""
    pids: dict[str, set[int]] = {split: set() for split in SPLITS}
    for person in people:
        pids[person.split].add(person.pid)
    both = sorted(pids["train"] & (pids["query"] | pids["gallery"]))
    if both:
        raise ValueError(
            f"{where}: train and test share no identity, but {len(both)} are in both: {_few(both)} "
            "(allow_overlap=True reads it anyway)"
        )


def attach_poses(
    people: Sequence[PersonImage], poses: Mapping[str, Pose], *, splits: Sequence[str] = ("train",)
) -> list[PersonImage]:
    """The same people with the pose (K, 2) that `poses` has under their path or name; those of other splits as they were.

    ValueError when less than half of the images of `splits` have one.
    """
    unknown = [split for split in splits if split not in SPLITS]
    if unknown:
        raise ValueError(f"a split is one of {', '.join(SPLITS)}, got {unknown[0]!r}{_did_you_mean(unknown[0], SPLITS)}")
    out, missing, found = [], [], 0
    for person in people:
        key = person.path if person.path in poses else person.name
        if person.split not in splits:
            out.append(person)
        elif key in poses:
            out.append(replace(person, pose=_single(key, poses[key])))
            found += 1
        else:
            out.append(person)
            missing.append(person.name)
    if not found or len(missing) > found:
        raise ValueError(
            f"{found} of {found + len(missing)} {' and '.join(splits)} images have a pose, at least half must; "
            f"without one: {_few(missing) or 'no image at all'}"
        )
    return out


def _single(key: str, pose: Pose) -> Pose:
    if len(pose.batch_shape):
        raise ValueError(f"the pose of one image is (K, 2), that of {key!r} is {tuple(pose.xy.shape)}")
    return pose


def relabel(people: Iterable[PersonImage]) -> dict[int, int]:
    """Labels 0..N-1 for the identities in `people`, in the order of their numbers."""
    return {pid: label for label, pid in enumerate(sorted({p.pid for p in people}))}


def _few(items: Sequence[object]) -> str:
    """The first few of a list in words."""
    return ", ".join(str(item) for item in items[:3]) + (f" and {len(items) - 3} more" if len(items) > 3 else "")


def _did_you_mean(word: str, choices: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, choices, 1)
    return f" (did you mean {near[0]!r}?)" if near else ""
