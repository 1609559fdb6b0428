"""People listed in a CSV: who is in it, and what is no such CSV."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid_aug.data.people import PersonImage
from reid_aug.data.people_csv import csv_left_out, read_csv

HEAD = "path,pid,camid,split\n"


def summary(rows: list[PersonImage]) -> list[tuple[str, int, int, str]]:
    return [(p.name, p.pid, p.camid, p.split) for p in rows]


def table(folder: Path, text: str) -> Path:
    (folder / "sub").mkdir(exist_ok=True)
    for name in ("a.jpg", "b.jpg", "c, d.jpg", "sub/e.jpg"):
        (folder / name).touch()
    path = folder / "people.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_with_cameras_and_numbers(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        '\ufeffsplit, pid,path,camid\ntrain,07,a.jpg,3\n\nquery,0, sub/e.jpg ,0\ngallery,0,"c, d.jpg",1\ngallery,-1,b.jpg,1\n',
    )
    rows = read_csv(path)
    assert summary(rows) == [("a.jpg", 7, 3, "train"), ("e.jpg", 0, 0, "query"), ("c, d.jpg", 0, 1, "gallery")]
    assert rows[1].path == str(tmp_path / "sub/e.jpg")


def test_csv_without_cameras_and_with_words(tmp_path: Path) -> None:
    rows = read_csv(table(tmp_path, "path,pid,split\na.jpg,zoe,train\nb.jpg,10,query\nsub/e.jpg,10,gallery\n"))
    assert summary(rows) == [("a.jpg", 1, 0, "train"), ("b.jpg", 0, 0, "query"), ("e.jpg", 0, 1, "gallery")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "line 1: columns path, pid and split are needed, there is no path, no pid, no split"),
        (HEAD, "no images in it"),
        (HEAD + "a.jpg,-1,0,train\n", "no images in it"),
        ("path,pid\n", "there is no split"),
        ("path,pidd,split\n", r"line 1: columns are path, pid, camid, split, got 'pidd' \(did you mean 'pid'\?\)"),
        ("path,pid,split,pid\n", "each column is named once"),
        (HEAD + "a.jpg,1,0\n", "line 2: 4 columns in the header, got 3"),
        (
            HEAD + "a.jpg,1,0,train\nb.jpg,1,0,trian\n",
            r"line 3: a split is one of train, query, gallery, got 'trian' \(did you mean 'train'\?\)",
        ),
        (HEAD + "a.jpg,1,-1,train\n", "line 2: a camid is a whole number from 0, got '-1'"),
        (HEAD + "a.jpg,1,x,train\n", "line 2: a camid is a whole number from 0, got 'x'"),
        (HEAD + "a.jpg,,0,train\n", "line 2: the pid is empty"),
        (HEAD + "a.jpg,-2,0,train\n", "line 2: a pid is a whole number from 0, a word, or -1 for junk, got -2"),
        (HEAD + "a.jpg,x,0,train\nb.jpg,-2,0,train\n", "line 3: a pid is a whole number from 0, a word, or -1 for junk, got -2"),
        (HEAD + "a.jpg,1.0,0,train\n", "line 2: a pid is a whole number from 0, .* got 1.0"),
        (HEAD + "a.jpg,inf,0,train\n", "line 2: a pid is a whole number from 0, .* got inf"),
        (HEAD + "a.jpg,x,0,train\nb.jpg,NaN,0,train\n", "line 3: 'NaN' stands for a missing pid: write -1 for junk, or who it is"),
        (HEAD + "a.jpg,-,0,train\n", "line 2: '-' stands for a missing pid"),
        (HEAD + ",1,0,train\n", "line 2: the path is empty"),
        (HEAD + "a.jpg,1,0,train\n./a.jpg,1,0,train\na.jpg,2,0,train\n", "line 4: '.*a.jpg' is already in train on line 2"),
        (HEAD + "a.jpg,1,0,train\nb.jpg,1,0,gallery\n", "train and test share no identity, but 1 are in both: 1"),
    ],
)
def test_csv_with_faults(tmp_path: Path, text: str, says: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(ValueError, match=says) as caught:
        read_csv(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_csv_missing_images_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="line 2: no image file '.*z.jpg'"):
        read_csv(table(tmp_path, HEAD + "z.jpg,1,0,train\n"))
    with pytest.raises(FileNotFoundError):
        read_csv(tmp_path / "none.csv")
    path = table(tmp_path, "")
    path.write_bytes(HEAD.encode() + b"\xff,1,0,train\n")
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        read_csv(path)
    both = table(tmp_path, HEAD + "a.jpg,1,0,train\nb.jpg,1,0,gallery\n")
    assert len(read_csv(both, allow_overlap=True)) == 2


@pytest.mark.parametrize("names", [("p1", "p2"), ("4", "17")])
def test_junk_is_junk_beside_words_as_beside_numbers(tmp_path: Path, names: tuple[str, str]) -> None:
    path = table(tmp_path, HEAD + f"a.jpg,-1,0,train\nb.jpg,{names[1]},0,train\nsub/e.jpg,{names[0]},0,train\n")
    assert summary(read_csv(path)) == [("b.jpg", int(names[1]) if names[1].isdigit() else 1, 0, "train"),
                                       ("e.jpg", int(names[0]) if names[0].isdigit() else 0, 0, "train")]  # fmt: skip
    (junk,) = csv_left_out(path)
    assert junk.name == f"line 2: {tmp_path / 'a.jpg'}" and junk.expected
