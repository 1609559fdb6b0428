"""Which images are augmented, and what their synthetic images are called: alike for every way of planning."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import PurePath

from reid_aug.data.body import shows_legs, valid_for_pairs
from reid_aug.data.left_out import LeftOut, warn_of
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.manifest import SyntheticRow


def augmentable(person: PersonImage) -> bool:
    """Tell whether shoulders and hips are seen; ValueError for an image outside train: its identity would leak."""
    return in_train(person) and person.pose is not None and bool(valid_for_pairs(person.pose))


def recombinable(person: PersonImage) -> bool:
    """Tell whether shoulders, hips and knees are seen: the image may give its legs and get another's."""
    return augmentable(person) and person.pose is not None and bool(shows_legs(person.pose))


def in_train(person: PersonImage) -> bool:
    """Tell that an image may be augmented without a pose, as every training image; ValueError for one outside train."""
    if person.split != "train":
        raise ValueError(f"only training images may be augmented, got {person.name} of {person.split}")
    return True


def not_augmented(people: Iterable[PersonImage], usable: Callable[[PersonImage], bool] = augmentable) -> list[LeftOut]:
    """List the training images that are not `usable` (augmentable, or recombinable), and why."""
    return [LeftOut(p.name, _lack(p)) for p in people if p.split == "train" and not usable(p)]


def _lack(person: PersonImage) -> str:
    if person.pose is None:
        return "without a pose"
    return "that lack a knee" if augmentable(person) else "that lack a shoulder or hip"


def warn_of_not_augmented(people: Sequence[PersonImage], usable: Callable[[PersonImage], bool] = augmentable) -> None:
    """Warn in a line of how many training images are not `usable`, and why, and how many people have no other."""
    train, left_out = [p for p in people if p.split == "train"], not_augmented(people, usable)
    names = {one.name for one in left_out}
    lost = {p.pid for p in train} - {p.pid for p in train if p.name not in names}
    whole = f" ({len(lost)} of {len({p.pid for p in train})} people have no other)" if lost else ""
    how = "recombined" if usable is recombinable else "augmented"
    warn_of(f"{len(left_out)} of {len(train)} training images are not {how}{whole}", left_out)


def image_path(folder: str, name: str, index: int, before: str = "") -> str:
    """Name the file of a source's synthetic image of that index, below a manifest's folder.

    >>> image_path("train", "cam_a/7.png", 1), image_path("", "7.png", 0, "0012_c1s1_")
    ('train/cam_a_7_p1.jpg', '0012_c1s1_7_p0.jpg')
    """
    stem = PurePath(name).with_suffix("").as_posix().replace("/", "_")
    return PurePath(folder, f"{before}{stem}_p{index}.jpg").as_posix()


def add(rows: dict[str, SyntheticRow], row: SyntheticRow, name: str) -> None:
    """Add a row by its path; ValueError where another image of the name has it: none is to overwrite another's."""
    if row.path in rows:
        raise ValueError(f"two training images are named {name}, but for suffix or folder: synthetic images need names of their own")
    rows[row.path] = row


def beside(rows: Sequence[SyntheticRow], names: Iterable[str]) -> list[SyntheticRow]:
    """Return the rows under paths whose file names none of `names` has: those of images that lie in the same folder.

    In a dump of a dump 7_p0.jpg is both a source and what the first synthetic image of 7.jpg would be called. Case does not tell
    names apart: not every file system heeds it.

    >>> [row.path for row in beside([SyntheticRow("train/7_p0.jpg", "7.jpg", "8.jpg", 7, 0, 1)], ["7.jpg", "7_p0.jpg"])]
    ['train/7_p0_2.jpg']
    """
    taken, planned, out = {name.lower() for name in names}, {PurePath(row.path).name.lower() for row in rows}, []
    for row in rows:
        path = PurePath(row.path)
        if path.name.lower() in taken:
            others = (f"{path.stem}_{number}{path.suffix}" for number in count(2))
            path = path.with_name(next(name for name in others if name.lower() not in taken and name.lower() not in planned))
            planned.add(path.name.lower())
            row = replace(row, path=path.as_posix())
        out.append(row)
    return out
