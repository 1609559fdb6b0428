"""Market-1501's layout: three folders, and names such as 0002_c1s1_000451_03.jpg."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from reid_aug.data.people import JUNK, PersonImage, first_few, refuse_overlap

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
SUFFIXES = (".jpg", ".jpeg", ".png")
_NAME = re.compile(r"(-1|\d+)_c(\d+)", re.ASCII)


def parse_name(name: str) -> tuple[int, int]:
    """Read (pid, camid from 0) from a Market-style name; ValueError for any other.

    >>> parse_name("0002_c1s1_000451_03.jpg")
    (2, 0)
    """
    match = _NAME.match(name)
    if match is None:
        raise ValueError(f"a Market-style name begins like 0002_c1, got {name!r}")
    pid, camera = int(match[1]), int(match[2])
    if camera < 1:
        raise ValueError(f"cameras in Market-style names count from 1, got {name!r}")
    return pid, camera - 1


def read_market_folder(root: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Read the images of a folder laid out as Market-1501, sorted by name within train, query, gallery.

    Identity -1 (junk) is left out, and 0 (background) is kept in the gallery only; `market_junk` lists what was left
    out. FileNotFoundError for a missing folder; ValueError for another layout, an empty split, a name that can't be
    parsed, or an identity both in train and in the test splits unless `allow_overlap`.
    """
    people = [p for p in _all_rows(Path(root)) if not _left_out(p)]
    for split, folder in MARKET_FOLDERS.items():
        if not any(p.split == split for p in people):
            raise ValueError(f"{Path(root) / folder} holds no images ({', '.join(SUFFIXES)}) of people")
    if not allow_overlap:
        refuse_overlap(os.fspath(root), people)
    return people


def market_junk(root: str | os.PathLike[str]) -> list[str]:
    """List the paths that read_market_folder leaves out: junk (-1) anywhere, background (0) in train or query."""
    return [p.path for p in _all_rows(Path(root)) if _left_out(p)]


def _left_out(person: PersonImage) -> bool:
    """Tell whether nobody who can be searched for is in the image."""
    return person.pid == JUNK or (person.pid == 0 and person.split != "gallery")


def _all_rows(root: Path) -> list[PersonImage]:
    """Read the images of all three folders; FileNotFoundError or ValueError when one is missing."""
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(root)!r} to read a Market-style data set from")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    missing = [folder for folder in MARKET_FOLDERS.values() if folder not in folders]
    if missing:
        raise ValueError(
            f"a Market-style folder holds {', '.join(MARKET_FOLDERS.values())}; {os.fspath(root)!r} lacks {', '.join(missing)} "
            f"and holds {first_few(folders) or 'no folder'}{_nearest_layout(root, folders, missing)}"
        )
    return [row for split, folder in MARKET_FOLDERS.items() for row in _split_rows(root / folder, split)]


def _nearest_layout(root: Path, folders: Sequence[str], missing: Sequence[str]) -> str:
    """Suggest what the caller may have meant: the data set one folder further down, or a misspelt name."""
    for name in folders:
        if all((root / name / folder).is_dir() for folder in MARKET_FOLDERS.values()):
            return f" (did you mean {os.fspath(root / name)!r}?)"
    near = [name for folder in missing for name in difflib.get_close_matches(folder, folders, 1)]
    return f" (is {near[0]!r} meant?)" if near else ""


def _split_rows(folder: Path, split: str) -> list[PersonImage]:
    """Read the images of one folder, sorted by name; ValueError when a name can't be parsed."""
    names = sorted(entry.name for entry in os.scandir(folder) if entry.name.lower().endswith(SUFFIXES) and entry.is_file())
    rows, complaints = [], []
    for name in names:
        try:
            pid, camid = parse_name(name)
        except ValueError as error:
            complaints.append(str(error))
        else:
            rows.append(PersonImage(os.path.join(folder, name), pid, camid, split))
    if complaints:
        raise ValueError(f"{folder}: {len(complaints)} of {len(names)} image names can't be read; {complaints[0]}")
    return rows
