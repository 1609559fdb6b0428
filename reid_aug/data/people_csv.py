"""People listed in a CSV: path, pid, camid, split."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Mapping, Sequence

from generators import nearest, one_of
from reid_aug.data.left_out import LeftOut
from reid_aug.data.people import JUNK, SPLITS, PersonImage, refuse_overlap, tell_apart

COLUMNS = ("path", "pid", "camid", "split")
# What tools write where there is no value: pandas reads the same ones as missing.
_MISSING = ("nan", "NaN", "-nan", "-NaN", "NA", "N/A", "n/a", "<NA>", "#N/A", "#NA", "NULL", "null", "None", "none")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf(inity)?", re.ASCII | re.IGNORECASE)


def read_csv(path: str | os.PathLike[str], *, allow_overlap: bool = False) -> list[PersonImage]:
    """Read the images listed in a CSV with columns path, pid, split and, if known, camid (from 0), in file order.

    Paths are relative to the CSV's folder. Junk (-1) is left out; `csv_left_out` lists it. Whole numbers stay as identities;
    if any pid is a word, all are numbered from 0 in sorted order. Without camid, train and query are camera 0 and the
    gallery camera 1, so that no gallery image counts as junk. ValueError names the line and what is wrong there;
    FileNotFoundError an image that is missing.
    """
    where = os.fspath(path)
    people = [p for _, p in _everybody(where) if p.pid != JUNK]
    if not people:
        raise ValueError(f"{where}: no images in it")
    if not allow_overlap:
        refuse_overlap(where, people)
    return tell_apart(people)


def csv_left_out(path: str | os.PathLike[str]) -> list[LeftOut]:
    """List the rows of a CSV that read_csv leaves out: junk, by line and path."""
    junk = [(line, p) for line, p in _everybody(os.fspath(path)) if p.pid == JUNK]
    return [LeftOut(f"line {line}: {p.path}", "of identity -1, junk", expected=True) for line, p in junk]


def _everybody(where: str) -> list[tuple[int, PersonImage]]:
    """Read every row's image with its line, junk too."""
    rows = _rows(where)
    lines = [line for line, _ in rows]
    pids = _numbered([fields["pid"] for _, fields in rows], where, lines)
    people = [_person(where, line, fields, pid) for (line, fields), pid in zip(rows, pids, strict=True)]
    _refuse_twice(where, people, lines)
    return list(zip(lines, people, strict=True))


def _rows(where: str) -> list[tuple[int, dict[str, str]]]:
    """Read each row that is not blank as (line number, column → text); every row has all columns of the header."""
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
    """Raise ValueError unless the header names each column it must, each once, and no other."""
    for column in header:
        if column not in COLUMNS:
            raise ValueError(f"{where}, line 1: columns are {', '.join(COLUMNS)}, got {column!r}{nearest(column, COLUMNS)}")
    missing = [c for c in COLUMNS if c not in header and c != "camid"]
    if missing:
        raise ValueError(f"{where}, line 1: columns path, pid and split are needed, there is no {', no '.join(missing)}")
    if len(set(header)) != len(header):
        raise ValueError(f"{where}, line 1: each column is named once, got {list(header)!r}")


def _numbered(pids: Sequence[str], where: str, lines: Sequence[int]) -> list[int]:
    """Turn identities as they are written into numbers: whole numbers are kept, words counted in sorted order, -1 is junk."""
    for pid, line in zip(pids, lines, strict=True):
        if wrong := no_pid(pid):
            raise ValueError(f"{where}, line {line}: {wrong}")
    if all(re.fullmatch(r"-?\d+", pid, re.ASCII) for pid in pids):
        return [int(pid) for pid in pids]
    order = {pid: i for i, pid in enumerate(sorted({pid for pid in pids if not _is_junk(pid)}))}
    return [JUNK if _is_junk(pid) else order[pid] for pid in pids]


def _is_junk(pid: str) -> bool:
    return re.fullmatch(r"-0*1", pid, re.ASCII) is not None


def no_pid(pid: str) -> str | None:
    """Say what is wrong with an identity as it is written; None for a whole number from 0, a word, or -1."""
    if not pid:
        return "the pid is empty"
    if pid in _MISSING or not any(character.isalnum() for character in pid):
        return f"{pid!r} stands for a missing pid: write -1 for junk, or who it is"
    if _is_junk(pid) or not _NUMBER.fullmatch(pid) or re.fullmatch(r"\d{1,18}", pid, re.ASCII):
        return None
    return f"a pid is a whole number from 0, a word, or -1 for junk, got {pid}"


def _person(where: str, line: int, fields: Mapping[str, str], pid: int) -> PersonImage:
    """Make a row's image; ValueError or FileNotFoundError names the line."""
    at, split, camera = f"{where}, line {line}", fields["split"], fields.get("camid")
    one_of(f"{at}: a split", split, SPLITS)
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
    """Raise ValueError if a file is listed twice in one split."""
    first: dict[tuple[str, str], int] = {}
    for person, line in zip(people, lines, strict=True):
        before = first.setdefault((person.path, person.split), line)
        if before != line:
            raise ValueError(f"{where}, line {line}: {person.path!r} is already in {person.split} on line {before}")
