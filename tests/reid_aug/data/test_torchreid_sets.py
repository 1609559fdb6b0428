"""The rows of torchreid's data sets as people."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from reid_aug.data.doubts import DataDoubt
from reid_aug.data.left_out import LeftOut
from reid_aug.data.people import PersonImage
from reid_aug.data.torchreid_sets import from_torchreid, torchreid_left_out, torchreid_people


@pytest.mark.parametrize("extra", [(), (0,)])
def test_torchreid_rows(extra: tuple[int, ...]) -> None:
    data = SimpleNamespace(train=[("/x/a.jpg", 0, 3, *extra)], query=[("b.jpg", 5, 0, *extra)], gallery=[("c.jpg", 5, 1, *extra)])
    assert from_torchreid(data) == [
        PersonImage("/x/a.jpg", 0, 3, "train"),
        PersonImage("b.jpg", 5, 0, "query"),
        PersonImage("c.jpg", 5, 1, "gallery"),
    ]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (SimpleNamespace(train=[]), "a torchreid data set has a list 'query', SimpleNamespace has NoneType"),
        (
            SimpleNamespace(train=[("a.jpg", 1)], query=[], gallery=[]),
            r"\(path, pid, camid\[, dsetid\]\), train has \('a.jpg', 1\)",
        ),
        (SimpleNamespace(train=[(("a.jpg", "b.jpg"), 1, 0)], query=[], gallery=[]), "a row of a torchreid image data set"),
    ],
)
def test_what_is_no_torchreid_data_set(data: Any, says: str) -> None:
    with pytest.raises(TypeError, match=says):
        from_torchreid(data)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            ("a.jpg", "anna", 0),
            r"pid of a torchreid image data set is a whole number, train has 'anna' in \('a.jpg', 'anna', 0\): number them",
        ),
        (("a.jpg", 1, "left"), "camid of a torchreid image data set is a whole number, train has 'left'"),
        (("a.jpg", 1, 0, 0.5), "dsetid of a torchreid image data set is a whole number, train has 0.5"),
        (("a.jpg", None, 0), "pid of a torchreid image data set is a whole number, train has None"),
    ],
)
def test_labels_that_are_no_numbers_are_refused_by_row(row: tuple[Any, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        from_torchreid(SimpleNamespace(train=[row], query=[], gallery=[]))
    assert from_torchreid(SimpleNamespace(train=[("a.jpg", "7", 0)], query=[], gallery=[]))[0].pid == 7


class TestPeople:
    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        base = tmp_path / "market1501" / "Market-1501-v15.09.15"
        for folder, name in (
            ("bounding_box_train", "0002_c1s1_1.jpg"),
            ("query", "0007_c1s1_1.jpg"),
            ("bounding_box_test", "0007_c2s1_1.jpg"),
        ):
            (base / folder).mkdir(parents=True)
            (base / folder / name).touch()
        return tmp_path

    def test_what_torchreid_passes_over_is_listed_and_warned_of(self, root: Path) -> None:
        assert len(torchreid_people("market1501", root)) == 3 and torchreid_left_out("market1501", root) == []
        lost = root / "market1501" / "Market-1501-v15.09.15" / "query" / "0007_c3s1_1.bmp"
        lost.touch()
        (lost.parent / "._0007_c1s1_1.jpg").touch()
        assert torchreid_left_out("market1501", root) == [LeftOut(str(lost), "of another suffix than .jpg, which torchreid passes over")]
        with pytest.warns(DataDoubt, match="1 of another suffix than .jpg, which torchreid passes over"):
            assert len(torchreid_people("market1501", root)) == 3

    def test_what_cannot_be_read_is_one_line(self, root: Path) -> None:
        with pytest.raises(ValueError, match=r"no torchreid data set named 'market'; .* \(did you mean 'market1501'\?\)"):
            torchreid_people("market", root)
        with pytest.raises(
            FileNotFoundError, match="no folder '.*msmt17', where torchreid's data set 'msmt17' lies: give data.root=torchreid:msmt17:DIR"
        ):
            torchreid_people("msmt17", root)
        assert not (root / "msmt17").exists(), "torchreid would have made it, and tried to download"
        (root / "market1501" / "Market-1501-v15.09.15" / "query" / "person.jpg").touch()
        with pytest.raises(ValueError, match="a file is not named as torchreid's reader has it"):
            torchreid_people("market1501", root)
