"""Market-1501's layout: three folders, and names such as 0002_c1s1_000451_03.jpg."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from reid_aug.data.doubts import first_few
from reid_aug.data.foreign import refuse_other_people
from reid_aug.data.left_out import LeftOut, reasons, warn_of
from reid_aug.data.people import JUNK, PersonImage, refuse_overlap
from reid_aug.images import SUFFIXES

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
ALSO_THERE = ("gt_bbox", "gt_query")  # Folders of Market-1501 that hold no image of a split.
NO_IMAGES = ("thumbs.db", "desktop.ini")  # What Windows leaves in folders, Market-1501's own among them.
_LOOKED_FOR = first_few(SUFFIXES)
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


def is_market_folder(root: str | os.PathLike[str]) -> bool:
    """Tell whether a folder is laid out as Market-1501: whether it has one of its three folders at least."""
    return any((Path(root) / folder).is_dir() for folder in MARKET_FOLDERS.values())


def read_market_folder(root: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Read the images of a folder laid out as Market-1501, sorted by name within train, query, gallery.

    DukeMTMC-reID and CUHK03-NP are laid out so, too; a folder of training images alone may lack the two others. Identity -1
    (junk) is left out, and 0 (background) is kept in the gallery only. A line warns of images that nobody would expect to
    be left out; `market_left_out` lists them all. FileNotFoundError for a missing folder; ValueError for another layout, an
    empty split, a name that can't be parsed, or an identity both in train and in the test splits unless `allow_overlap`.
    """
    rows, left_out = _all_rows(Path(root))
    people = [p for p in rows if not _left_out(p)]
    for split, folder in MARKET_FOLDERS.items():
        if (Path(root) / folder).is_dir() and not any(p.split == split for p in people):
            others = "; ".join(reasons(one for one in left_out if one.name.startswith(f"{folder}/")))
            raise ValueError(f"{Path(root) / folder} holds no images ({_LOOKED_FOR}) of people{others and f', but {others}'}")
    warn_of(f"{os.fspath(root)}, left out", left_out)
    if not allow_overlap:
        refuse_overlap(os.fspath(root), people)
    return people


def market_left_out(root: str | os.PathLike[str]) -> list[LeftOut]:
    """List what read_market_folder leaves out of the three folders, and why: files, folders, junk and background."""
    return _all_rows(Path(root))[1]


def market_junk(root: str | os.PathLike[str]) -> list[str]:
    """List the paths that read_market_folder leaves out: junk (-1) anywhere, background (0) in train or query."""
    return [p.path for p in _all_rows(Path(root))[0] if _left_out(p)]


def _left_out(person: PersonImage) -> bool:
    """Tell whether nobody who can be searched for is in the image."""
    return person.pid == JUNK or (person.pid == 0 and person.split != "gallery")


def _all_rows(root: Path) -> tuple[list[PersonImage], list[LeftOut]]:
    """Read the images of all folders, and what in them is left out; FileNotFoundError or ValueError for another layout."""
    if not root.is_dir():
        refuse_other_people(root)
        raise FileNotFoundError(f"no folder {os.fspath(root)!r} to read a Market-style data set from")
    folders = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    missing = [folder for folder in MARKET_FOLDERS.values() if folder not in folders]
    near = _nearest_layout(root, folders, missing)
    if missing and (near or "bounding_box_train" in missing or len(missing) < 2):
        refuse_other_people(root)
        raise ValueError(
            f"a Market-style folder holds {', '.join(MARKET_FOLDERS.values())}, or bounding_box_train alone; "
            f"{os.fspath(root)!r} lacks {', '.join(missing)} and holds {first_few(folders) or 'no folder'}{near}"
        )
    rows, left_out = [], []
    for split, folder in MARKET_FOLDERS.items():
        if folder not in missing:
            more, others = _split_rows(root / folder, split)
            rows, left_out = rows + more, left_out + others
    unknown = [f for f in folders if f not in (*MARKET_FOLDERS.values(), *ALSO_THERE) and not f.startswith(".")] if missing else []
    alone = "beside bounding_box_train, read as training images alone for want of query and bounding_box_test"
    return rows, left_out + [LeftOut(folder, alone) for folder in unknown]


def _nearest_layout(root: Path, folders: Sequence[str], missing: Sequence[str]) -> str:
    """Suggest what the caller may have meant: a data set one folder further down, or a misspelt name."""
    inside = [os.fspath(root / name) for name in folders if all((root / name / folder).is_dir() for folder in MARKET_FOLDERS.values())]
    if inside and missing:
        return f" (did you mean {' or '.join(map(repr, inside[:3]))}?)"
    others = [folder for folder in folders if folder not in (*MARKET_FOLDERS.values(), *ALSO_THERE)]
    near = [(name, folder) for folder in missing for name in difflib.get_close_matches(folder, others, 1)]
    return f" (is {near[0][0]!r} meant? rename it {near[0][1]!r})" if near else ""


def _split_rows(folder: Path, split: str) -> tuple[list[PersonImage], list[LeftOut]]:
    """Read the images of one folder, sorted by name, and what else is there; ValueError when a name can't be parsed."""
    rows, left_out, complaints = [], [], []
    # Hidden files are nobody's: macOS leaves ._x.jpg beside x.jpg on other file systems.
    entries = sorted((e for e in os.scandir(folder) if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in entries:
        if entry.is_dir():
            left_out.append(LeftOut(f"{folder.name}/{entry.name}", "as folders inside, which are not looked into"))
        elif not entry.name.lower().endswith(SUFFIXES):
            if entry.name.lower() not in NO_IMAGES:
                left_out.append(LeftOut(f"{folder.name}/{entry.name}", f"of another kind than {_LOOKED_FOR}"))
        elif entry.is_file():
            try:
                pid, camid = parse_name(entry.name)
            except ValueError as error:
                complaints.append(str(error))
            else:
                rows.append(PersonImage(os.path.join(folder, entry.name), pid, camid, split))
    if complaints:
        raise ValueError(f"{folder}: {len(complaints)} of {len(complaints) + len(rows)} image names can't be read; {complaints[0]}")
    return rows, left_out + [_no_person(p) for p in rows if _left_out(p)]


def _no_person(person: PersonImage) -> LeftOut:
    """Say why an image shows nobody who can be searched for; background is Market-1501's in the gallery alone."""
    name = f"{MARKET_FOLDERS[person.split]}/{person.name}"
    if person.pid == JUNK:
        return LeftOut(name, "of identity -1, junk", expected=True)
    return LeftOut(name, f"of identity 0, which is background in {person.split}")
