"""The people of a data set: rows from a Market-style folder, a CSV or a torchreid data set, with or without poses."""

from __future__ import annotations

import csv
import difflib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from generators import Pose

SPLITS = ("train", "query", "gallery")
MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
SUFFIXES = (".jpg", ".jpeg", ".png")
JUNK = -1
_MARKET_NAME = re.compile(r"(-1|\d+)_c(\d+)", re.ASCII)
_COLUMNS = ("path", "pid", "camid", "split")


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


def parse_name(name: str) -> tuple[int, int]:
    """(pid, camid from 0) of a Market-style name such as 0002_c1s1_000451_03.jpg; ValueError for any other."""
    found = _MARKET_NAME.match(name)
    if found is None:
        raise ValueError(f"a Market-style name begins like 0002_c1, got {name!r}")
    pid, camera = int(found[1]), int(found[2])
    if camera < 1:
        raise ValueError(f"cameras in Market-style names count from 1, got {name!r}")
    return pid, camera - 1


def read_market_folder(root: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Images of a folder laid out as Market-1501, sorted by name within train, query, gallery.

    Identity -1 (junk) is left out, and 0 (background) is kept in the gallery only; `market_junk` lists what was left
    out. FileNotFoundError for a missing folder; ValueError for another layout, an empty split, a name that can't be
    parsed, or an identity both in train and in the test splits unless `allow_overlap`.
    """
    people = [p for p in _market_rows(Path(root)) if not _left_out(p)]
    for split, folder in MARKET_FOLDERS.items():
        if not any(p.split == split for p in people):
            raise ValueError(f"{Path(root) / folder} holds no images ({', '.join(SUFFIXES)}) of people")
    if not allow_overlap:
        _refuse_overlap(os.fspath(root), people)
    return people


def market_junk(root: str | os.PathLike[str]) -> list[str]:
    """Paths that read_market_folder leaves out: junk (-1) anywhere, background (0) in train or query."""
    return [p.path for p in _market_rows(Path(root)) if _left_out(p)]


def _left_out(person: PersonImage) -> bool:
    return person.pid == JUNK or (person.pid == 0 and person.split != "gallery")


def _market_rows(root: Path) -> list[PersonImage]:
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(root)!r} to read a Market-style data set from")
    there = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    missing = [folder for folder in MARKET_FOLDERS.values() if folder not in there]
    if missing:
        raise ValueError(
            f"a Market-style folder holds {', '.join(MARKET_FOLDERS.values())}; {os.fspath(root)!r} lacks {', '.join(missing)} "
            f"and holds {_few(there) or 'no folder'}{_nearest_layout(root, there, missing)}"
        )
    return [row for split, folder in MARKET_FOLDERS.items() for row in _market_split(root / folder, split)]


def _nearest_layout(root: Path, there: Sequence[str], missing: Sequence[str]) -> str:
    """What the caller may have meant: the data set one folder further down, or a misspelt name."""
    for name in there:
        if all((root / name / folder).is_dir() for folder in MARKET_FOLDERS.values()):
            return f" (did you mean {os.fspath(root / name)!r}?)"
    near = [n for folder in missing for n in difflib.get_close_matches(folder, there, 1)]
    return f" (is {near[0]!r} meant?)" if near else ""


def _market_split(folder: Path, split: str) -> list[PersonImage]:
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())
    rows, bad = [], []
    for name in names:
        try:
            pid, camid = parse_name(name)
        except ValueError as error:
            bad.append(str(error))
        else:
            rows.append(PersonImage(os.path.join(folder, name), pid, camid, split))
    if bad:
        raise ValueError(f"{folder}: {len(bad)} of {len(names)} image names can't be read; {bad[0]}")
    return rows


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


def read_csv(path: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Images listed in a CSV with columns path, pid, split and, if known, camid (from 0), in file order.

    Paths are relative to the CSV's folder. Whole numbers stay as identities, with -1 (junk) left out; if any pid is
    another string, all are numbered from 0 in sorted order. Without camid, train and query are camera 0 and the
    gallery camera 1, so that no gallery image counts as junk. ValueError names the line and what is wrong there;
    FileNotFoundError an image that is not there.
    """
    where = os.fspath(path)
    rows = _csv_rows(where)
    pids = _numbered([fields["pid"] for _, fields in rows], where, [line for line, _ in rows])
    people = [_csv_person(where, line, fields, pid) for (line, fields), pid in zip(rows, pids, strict=True)]
    _refuse_twice(where, people, [line for line, _ in rows])
    people = [p for p in people if p.pid != JUNK]
    if not people:
        raise ValueError(f"{where}: no images in it")
    if not allow_overlap:
        _refuse_overlap(where, people)
    return tell_apart(people)


def _csv_rows(where: str) -> list[tuple[int, dict[str, str]]]:
    """Each row that is not blank as (line number, column → text), all columns there."""
    rows: list[tuple[int, dict[str, str]]] = []
    try:
        with open(where, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = [column.strip() for column in next(reader, [])]
            _check_header(where, header)
            for fields in reader:
                at = f"{where}, line {reader.line_num}"
                if fields and len(fields) != len(header):
                    raise ValueError(f"{at}: {len(header)} columns in the header, got {len(fields)} in {fields!r}")
                if fields:
                    rows.append((reader.line_num, {c: f.strip() for c, f in zip(header, fields, strict=True)}))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not a UTF-8 text file (byte {error.start})") from None
    except csv.Error as error:
        raise ValueError(f"{where}: not a CSV file: {error}") from None
    return rows


def _check_header(where: str, header: Sequence[str]) -> None:
    for column in header:
        if column not in _COLUMNS:
            near = _did_you_mean(column, _COLUMNS)
            raise ValueError(f"{where}, line 1: columns are {', '.join(_COLUMNS)}, got {column!r}{near}")
    missing = [c for c in _COLUMNS if c not in header and c != "camid"]
    if missing:
        raise ValueError(f"{where}, line 1: columns path, pid and split are needed, there is no {', no '.join(missing)}")
    if len(set(header)) != len(header):
        raise ValueError(f"{where}, line 1: each column is named once, got {list(header)!r}")


def _numbered(pids: Sequence[str], where: str, lines: Sequence[int]) -> list[int]:
    for pid, line in zip(pids, lines, strict=True):
        if not pid:
            raise ValueError(f"{where}, line {line}: the pid is empty")
    if all(re.fullmatch(r"-?\d{1,18}", pid, re.ASCII) for pid in pids):
        for pid, line in zip(pids, lines, strict=True):
            if int(pid) < JUNK:
                raise ValueError(f"{where}, line {line}: a pid is 0 or more, or -1 for junk, got {pid}")
        return [int(pid) for pid in pids]
    order = {pid: i for i, pid in enumerate(sorted(set(pids)))}
    return [order[pid] for pid in pids]


def _csv_person(where: str, line: int, fields: Mapping[str, str], pid: int) -> PersonImage:
    at, split, camera = f"{where}, line {line}", fields["split"], fields.get("camid")
    if split not in SPLITS:
        raise ValueError(f"{at}: a split is one of {', '.join(SPLITS)}, got {split!r}{_did_you_mean(split, SPLITS)}")
    if camera is None:
        camera = "1" if split == "gallery" else "0"
    if not re.fullmatch(r"\d{1,9}", camera, re.ASCII):
        raise ValueError(f"{at}: a camid is a whole number from 0, got {camera!r}")
    if not fields["path"]:
        raise ValueError(f"{at}: the path is empty")
    path = os.path.join(os.path.dirname(where), fields["path"])
    if "\0" in path or not os.path.isfile(path):
        raise FileNotFoundError(f"{at}: no image file {path!r}")
    return PersonImage(path, pid, int(camera), split)


def _refuse_twice(where: str, people: Sequence[PersonImage], lines: Sequence[int]) -> None:
    first: dict[tuple[str, str], int] = {}
    for person, line in zip(people, lines, strict=True):
        before = first.setdefault((person.path, person.split), line)
        if before != line:
            raise ValueError(f"{where}, line {line}: {person.path!r} is already in {person.split} on line {before}")


def from_torchreid(dataset: Any) -> list[PersonImage]:
    """The rows of a torchreid image data set's train, query and gallery; TypeError unless (path, pid, camid[, dsetid])."""
    people = []
    for split in SPLITS:
        rows = getattr(dataset, split, None)
        if not isinstance(rows, list | tuple):
            raise TypeError(f"a torchreid data set has a list {split!r}, {type(dataset).__name__} has {type(rows).__name__}")
        for row in rows:
            if not isinstance(row, list | tuple) or len(row) not in (3, 4) or not isinstance(row[0], str | os.PathLike):
                raise TypeError(f"a row of a torchreid image data set is (path, pid, camid[, dsetid]), {split} has {row!r}")
            people.append(PersonImage(os.fspath(row[0]), int(row[1]), int(row[2]), split))
    return tell_apart(people)


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
