"""Names that say who is on an image and which camera took it, as Market-1501's do, so that every reader finds the same people.

The readers of torchreid, fast-reid, CLIP-ReID and TransReID list `*.jpg` and search each path for `([-\\d]+)_c(\\d)`: the camera is one
digit, and identity 0 is background. Ours (`reid_aug.data.market`) leaves identity 0 out of train and query, too.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from generators import Pose
from reid_aug.data.doubts import first_few
from reid_aug.data.market import MARKET_FOLDERS, parse_name
from reid_aug.data.people import SPLITS, PersonImage

SUFFIX = ".jpg"  # What every reader of Market's layout lists.
_BY_OTHERS = re.compile(r"([-\d]+)_c(\d)")
_LONGEST = 200  # bytes of a name; file systems take 255, and names of synthetic images are longer than their sources'
_OTHERS = "Market-1501 readers of torchreid, fast-reid and CLIP-ReID"


def market_named(people: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the people as a dump has them: numbered so that nobody is background, under names that say pid and camid.

    A file keeps its own name where that says both truly to every reader, as a .jpg; others get a new one, and no two images of
    a split share one (upper and lower case are alike to some file systems). Identity 0 gets the lowest free number
    unless only the gallery has it, where it is background; cameras are counted anew where one has two digits and they fit
    one. Named people are named the same again. ValueError for a negative identity.

    >>> people = [PersonImage("0002_c1s1_000451_03.jpg", 2, 0, "train"), PersonImage("anna.JPG", 0, 4, "train")]
    >>> [p.name for p in market_named(people)]
    ['0002_c1s1_000451_03.jpg', '0001_c5s1_000001_00.jpg']
    """
    people = _numbered(people)
    names: list[str | None] = []
    taken: dict[tuple[str, str], PersonImage] = {}  # by split and lower-case name
    for person in people:
        name = _own_name(person)
        names.append(None if name is None or _clashes(name, person, taken) else name)
        if names[-1] is not None:
            taken[person.split, names[-1].lower()] = person
    for number, person in enumerate(people):
        if names[number] is None:
            names[number] = _new_name(person, number, len(people), taken)
    return [replace(person, alias=name) for person, name in zip(people, names, strict=True)]


def _numbered(people: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the people under identities and cameras that Market's layout can say."""
    if junk := [p for p in people if p.pid < 0]:
        raise ValueError(f"people are numbered from 0; leave out junk: {junk[0].name} is of identity {junk[0].pid}")
    pids = {p.pid for p in people}
    if any(p.pid == 0 and p.split != "gallery" for p in people):
        free = next(number for number in range(1, len(pids) + 1) if number not in pids)
        people = [replace(p, pid=free) if p.pid == 0 else p for p in people]
    cameras = camera_numbers(people)
    return [replace(p, camid=cameras[p.camid]) for p in people]


def camera_numbers(people: Iterable[PersonImage]) -> dict[int, int]:
    """Give the camids that cameras get in a dump: their own where all fit one digit from 1, or none can; else counted from 0.

    >>> camera_numbers([PersonImage("a.jpg", 1, 0, "train"), PersonImage("b.jpg", 1, 11, "train")])
    {0: 0, 11: 1}
    """
    cameras = sorted({p.camid for p in people})
    if not cameras or cameras[-1] <= 8 or len(cameras) > 9:
        return {camid: camid for camid in cameras}
    return {camid: number for number, camid in enumerate(cameras)}


def _own_name(person: PersonImage) -> str | None:
    """Give the name of a person's file, as a .jpg, where it says pid and camid to every reader; None where it does not."""
    name = Path(os.path.basename(person.path)).stem + SUFFIX
    try:
        fits = parse_name(name) == (person.pid, person.camid)
    except ValueError:
        return None
    others = _BY_OTHERS.match(name)
    # `c01` is camera 0 to others; of two digits nobody but us reads the second.
    fits = fits and others is not None and (person.camid > 8 or int(others[2]) == person.camid + 1)
    # What a keypoint file can't hold, or no file system.
    plain = ":" not in name and name.isprintable() and len(os.fsencode(name)) <= _LONGEST
    return name if fits and plain else None


def _clashes(name: str, person: PersonImage, taken: dict[tuple[str, str], PersonImage]) -> bool:
    """Tell whether an image can't have a name: another of its split has it, or one of the other test split, in another pose."""
    if (person.split, name.lower()) in taken:
        return True
    other = {"query": "gallery", "gallery": "query"}.get(person.split, "")
    twin = taken.get((other, name.lower()))
    return twin is not None and not _same_pose(twin.pose, person.pose)  # query and gallery have one keypoint file


def _same_pose(a: Pose | None, b: Pose | None) -> bool:
    if a is None or b is None:
        return a is b
    return torch.equal(a.visible, b.visible) and torch.equal(a.xy, b.xy)


def _new_name(person: PersonImage, number: int, count: int, taken: dict[tuple[str, str], PersonImage]) -> str:
    """Make a name of an image's number, or of the next beyond `count` that is free, and take it."""
    numbers = [number, *range(count, 2 * count)]
    names = (f"{person.pid:04d}_c{person.camid + 1}s1_{number:06d}_00{SUFFIX}" for number in numbers)
    name = next(name for name in names if not any((split, name) in taken for split in ("train", "query", "gallery")))
    taken[person.split, name] = person
    return name


def reading_notes(
    given: Sequence[PersonImage], named: Sequence[PersonImage], pids: Iterable[int], folder: str | os.PathLike[str]
) -> list[str]:
    """Say, a line each, what is numbered anew in a dump, and what cannot be read from it by whom.

    `given` and `named` are its real images before and after `market_named`, `pids` the identities of synthetic ones, `folder` its place.
    """
    notes = []
    background = next((after.pid for before, after in zip(given, named, strict=True) if before.pid != after.pid), None)
    if background is not None:
        notes.append(f"identity 0 is written as {background:04d}: 0 is background in Market's layout")
    moved = {a: b for a, b in camera_numbers(given).items() if a != b}
    if moved:
        how = first_few([f"{a} is c{b + 1}" for a, b in moved.items()])
        notes.append(f"cameras are counted anew, as readers of Market's layout take one digit: camid {how}")
    cameras, last_pid = sorted({p.camid + 1 for p in named}), max([*pids, *(p.pid for p in named)], default=0)
    if two_digits := [f"c{camera} for c{str(camera)[0]}" for camera in cameras if camera > 9]:
        notes.append(f"{len(cameras)} cameras don't fit one digit: {_OTHERS} take {first_few(two_digits)}; reid-aug reads them whole")
    limits = [f"cameras 1 to 6 (here {first_few(seventh)})"] if (seventh := [camera for camera in cameras if 6 < camera < 10]) else []
    limits += [f"identities up to 1501 (here up to {last_pid})"] if last_pid > 1501 else []
    if limits:
        notes.append(f"{_OTHERS} stop at this dump: they take {' and '.join(limits)}")
    if lacking := [f"{MARKET_FOLDERS[split]}/" for split in SPLITS if not any(p.split == split for p in named)]:
        notes.append(f"{_OTHERS} stop at this dump: it has no images for {', '.join(lacking)}")
    place = os.path.join(os.path.abspath(folder), "")
    if misread := _BY_OTHERS.search(place):
        notes.append(f"{_OTHERS} take {misread[0]!r} in the folder {place} for identity and camera: give a folder without it")
    return notes
