"""The people of a data set: one row an image, and what is done to rows wherever they come from."""

from __future__ import annotations

import filecmp
import os
import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath

from generators import Pose, one_of
from reid_aug.data.doubts import Doubt, first_few, report
from reid_aug.data.left_out import LeftOut, reasons, warn_of

SPLITS = ("train", "query", "gallery")
JUNK = -1
_SYNTHETIC = re.compile(r"(.+)_p\d+")  # stem of a synthetic image's name: its source's, and which of its images it is


@dataclass(frozen=True)
class PersonImage:
    """One image of a person: file, identity, camera (from 0), split (train, query, gallery), and its pose if one is known."""

    path: str
    pid: int
    camid: int
    split: str
    pose: Pose | None = field(default=None, repr=False)
    alias: str | None = None  # What to call the image where its file's name won't do.
    mask: str | None = None  # File of the person's silhouette (`data.masks`), if there is one.

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
            "(to read it anyway: data.allow_overlap=true, in Python allow_overlap=True)"
        )


def keys_of(people: Sequence[PersonImage], known: Container[str]) -> dict[str, str]:
    """Find under which name `known` has each image, by path; who is not there is left out. The one rule for names of poses.

    A name is an image's path, its `name`, or the end of its path from some folder on: `0.png`, `cam_a/0.png`; the longest
    that `known` has is taken. Where it has none, these without their suffix are names, too, as OpenPose's files have: `cam_a/0`.
    ValueError for a name that fits two photographs: copies of one photograph are one.

    >>> people = [PersonImage(f"/set/{name}", 1, 0, "train") for name in ("a/1.jpg", "b/1.jpg", "2.jpg")]
    >>> keys_of(people, {"a/1.jpg", "2.jpg"})
    {'/set/a/1.jpg': 'a/1.jpg', '/set/2.jpg': '2.jpg'}
    """
    names = {name for person in people for name in (person.path, person.name)}
    keys: dict[str, str] = {}
    owners: dict[str, list[PersonImage]] = {}  # by a name that fits them
    for person in people:
        if person.path in keys:
            continue
        whole = (person.path, person.name)
        written = dict.fromkeys((*whole, *_ends(person.path)))
        for name in (*written, *dict.fromkeys(_without_suffix(name) for name in written)):
            if name in known and (name in whole or name not in names):  # another's own name is not the end of this one's path
                keys.setdefault(person.path, name)
                owners.setdefault(name, []).append(person)
    for name in keys.values():
        first, *others = owners[name]
        if other := next((p.path for p in others if p.split == first.split or not _same_content(first.path, p.path)), None):
            longer = next((end for end in reversed(_ends(first.path)) if end not in _ends(other)), first.path)
            raise ValueError(
                f"{name!r} names one image, and {len(owners[name])} files end so, {first.path} and {other} among them: "
                f"name each by more of its path, as {longer!r}"
            )
    return keys


def _ends(path: str) -> list[str]:
    """List the ends of a path from each of its folders on, the longest first.

    >>> _ends("/set/a/1.jpg")
    ['set/a/1.jpg', 'a/1.jpg', '1.jpg']
    """
    parts = Path(path).parts
    parts = parts[1:] if os.path.isabs(path) else parts
    return ["/".join(parts[i:]) for i in range(len(parts))]


def _without_suffix(name: str) -> str:
    """Take the suffix from a name, which may have folders.

    >>> _without_suffix("cam.a/0.jpg"), _without_suffix("cam.a/0")
    ('cam.a/0', 'cam.a/0')
    """
    return os.path.splitext(name)[0]


def _same_content(first: str, second: str) -> bool:
    """Tell whether two files hold the same bytes."""
    try:
        return filecmp.cmp(first, second, shallow=False)
    except OSError:
        return False


def unnamed(people: Sequence[PersonImage], known: Collection[str], *, splits: Sequence[str] = ("train",)) -> list[LeftOut]:
    """List the images of `splits` that `known` has no name for, and whether it has one that differs in capitals or suffix alone."""
    concerned = [p for p in people if p.split in splits]
    keys = keys_of(concerned, known)
    missing = [p for p in concerned if p.path not in keys]
    used = set(keys.values())
    spare = {Path(name).stem.lower() for name in known if name not in used} if missing else set()
    alike, other = "named otherwise there, in capitals or suffix", "not named there"
    return [LeftOut(p.name, alike if Path(p.name).stem.lower() in spare else other) for p in missing]


def attach_poses(
    people: Sequence[PersonImage], poses: Mapping[str, Pose], *, splits: Sequence[str] = ("train",), known: Collection[str] | None = None
) -> list[PersonImage]:
    """Return the people, those of `splits` with the pose (K, 2) that `poses` has under their path or name (`keys_of`).

    Those without one are warned of in a line, which compares them with the names `known`, by default those of `poses`.
    ValueError when less than half of the images of `splits` have one, or a name fits two of them.
    """
    for split in splits:
        one_of("a split", split, SPLITS)
    concerned = [p for p in people if p.split in splits]
    keys = keys_of(concerned, poses)
    missing, all_of_them = sum(p.path not in keys for p in concerned), f"{len(concerned)} {' and '.join(splits)} images"
    why = unnamed(concerned, poses if known is None else known, splits=splits) if missing else []
    if missing == len(concerned) or 2 * missing > len(concerned):
        text = f"{len(concerned) - missing} of {all_of_them} have a pose, at least half must"
        line = f"{text}; without one: {'; '.join(reasons(why)) or 'no image at all'}"
        report([Doubt("unposed", line, missing, tuple(one.name for one in why), grave=True, names_in_text=True)])
    else:
        warn_of(f"{missing} of {all_of_them} have no pose among the keypoints", why)
    single = {key: _single(key, poses[key]) for key in keys.values()}
    return [replace(p, pose=single[keys[p.path]]) if p.split in splits and p.path in keys else p for p in people]


def _single(key: str, pose: Pose) -> Pose:
    """Return the pose; raise ValueError unless it is that of one image."""
    if len(pose.batch_shape):
        raise ValueError(f"the pose of one image is (K, 2), that of {key!r} is {tuple(pose.xy.shape)}")
    return pose


def people_doubts(people: Sequence[PersonImage]) -> list[Doubt]:
    """Find what is doubtful in the people themselves: training images that a dump rendered."""
    train = [p for p in people if p.split == "train"]
    stems = {PurePath(p.name).stem for p in train}
    rendered = tuple(p.name for p in train if (match := _SYNTHETIC.fullmatch(PurePath(p.name).stem)) and match[1] in stems)
    if not rendered:
        return []
    text = f"{len(rendered):,} of {len(train):,} training images are named as a dump names what it rendered: is this a dump?"
    return [Doubt("synthetic", text, len(rendered), rendered)]
