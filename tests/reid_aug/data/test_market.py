"""A folder laid out as Market-1501: who is in it, and what is no such folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reid_aug.data.doubts import DataDoubt
from reid_aug.data.left_out import LeftOut
from reid_aug.data.market import market_junk, market_left_out, read_market_folder
from reid_aug.data.people import PersonImage, relabel

MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000301_01.jpg",
        "0007_c15_1.png",
        "0000_c1_1.jpg",
        "-1_c1_9.jpg",
    ],
    "query": ["0003_c1s1_000001_00.jpg"],
    "bounding_box_test": ["0003_c2s1_000001_00.JPG", "0000_c3s1_000001_00.jpg", "-1_c3s1_000002_00.jpg", "Thumbs.db", ".hidden"],
}


@pytest.fixture
def market(tmp_path: Path) -> Path:
    for folder, names in MARKET.items():
        (tmp_path / "market" / folder).mkdir(parents=True)
        for name in names:
            (tmp_path / "market" / folder / name).touch()
    return tmp_path / "market"


def summary(rows: list[PersonImage]) -> list[tuple[str, int, int, str]]:
    return [(p.name, p.pid, p.camid, p.split) for p in rows]


@pytest.mark.filterwarnings("ignore:.*identity 0, which is background")
def test_market_folder(market: Path) -> None:
    rows = read_market_folder(market)
    assert summary(rows) == [
        ("0002_c1s1_000451_03.jpg", 2, 0, "train"),
        ("0002_c2s1_000301_01.jpg", 2, 1, "train"),
        ("0007_c15_1.png", 7, 14, "train"),
        ("0003_c1s1_000001_00.jpg", 3, 0, "query"),
        ("0000_c3s1_000001_00.jpg", 0, 2, "gallery"),
        ("0003_c2s1_000001_00.JPG", 3, 1, "gallery"),
    ]
    assert all(type(p.path) is str and Path(p.path).is_file() and p.pose is None for p in rows)
    junk = [Path(path).name for path in market_junk(market)]
    assert junk == ["-1_c1_9.jpg", "0000_c1_1.jpg", "-1_c3s1_000002_00.jpg"]
    assert relabel(p for p in rows if p.split == "train") == {2: 0, 7: 1}


def empty_query(root: Path) -> None:
    next((root / "query").iterdir()).unlink()


def only_junk(root: Path) -> None:
    (root / "query" / "0003_c1s1_000001_00.jpg").rename(root / "query" / "-1_c1_1.jpg")


def two_odd_names(root: Path) -> None:
    for name in ("person.jpg", "0002-c1.png"):
        (root / "query" / name).touch()


def camera_zero(root: Path) -> None:
    (root / "query" / "0003_c0s1.jpg").touch()


def misspelt(root: Path) -> None:
    (root / "query").rename(root / "querys")


def without_folders(root: Path) -> None:
    for folder in MARKET:
        (root / folder).rename(root.parent / folder)


def overlap(root: Path) -> None:
    for i in (2, 7):
        (root / "bounding_box_test" / f"{i:04}_c3s1_000001_00.jpg").touch()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (empty_query, "query holds no images"),
        (only_junk, "query holds no images"),
        (two_odd_names, "query: 2 of 3 image names can't be read; a Market-style name begins like 0002_c1, got '0002-c1.png'"),
        (camera_zero, "cameras in Market-style names count from 1, got '0003_c0s1.jpg'"),
        (misspelt, r"lacks query and holds bounding_box_test, bounding_box_train, querys \(is 'querys' meant\? rename it 'query'\)"),
        (without_folders, "lacks bounding_box_train, query, bounding_box_test and holds no folder$"),
        (overlap, "train and test share no identity, but 2 are in both: 2, 7"),
    ],
)
def test_market_folders_with_faults(market: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(market)
    with pytest.raises(ValueError, match=says) as caught:
        read_market_folder(market)
    assert str(market) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*identity 0, which is background")
def test_market_folder_elsewhere(market: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean '.*/market'\?"):
        read_market_folder(market.parent)
    with pytest.raises(FileNotFoundError, match="no folder '.*/nowhere'"):
        read_market_folder(market / "nowhere")
    overlap(market)
    assert len(read_market_folder(market, allow_overlap=True)) == 8


class TestLeftOut:
    """Nothing that lies in the folders goes without a word."""

    def test_what_is_left_out_is_listed_and_the_unexpected_warned_of(self, market: Path) -> None:
        for name in ("a.gif", "b.txt", "._0002_c1s1_000451_03.jpg", ".hidden.jpg"):
            (market / "bounding_box_train" / name).touch()
        (market / "query" / "0003").mkdir()
        kind, folder = "of another kind than .jpg, .jpeg, .png and 8 more", "as folders inside, which are not looked into"
        assert market_left_out(market) == [
            LeftOut("bounding_box_train/a.gif", kind),
            LeftOut("bounding_box_train/b.txt", kind),
            LeftOut("bounding_box_train/-1_c1_9.jpg", "of identity -1, junk", expected=True),
            LeftOut("bounding_box_train/0000_c1_1.jpg", "of identity 0, which is background in train"),
            LeftOut("query/0003", folder),
            LeftOut("bounding_box_test/-1_c3s1_000002_00.jpg", "of identity -1, junk", expected=True),
        ]
        with pytest.warns(DataDoubt) as caught:
            assert len(read_market_folder(market)) == 6
        (line,) = (str(one.message) for one in caught)
        assert line == (
            f"{market}, left out: 2 {kind} (bounding_box_train/a.gif, bounding_box_train/b.txt); "
            f"1 of identity 0, which is background in train (bounding_box_train/0000_c1_1.jpg); 1 {folder} (query/0003)"
        )

    def test_images_of_other_suffixes_are_read(self, market: Path) -> None:
        (market / "query" / "0003_c1s1_000001_00.jpg").rename(market / "query" / "0003_c1s1_000001_00.BMP")
        (market / "bounding_box_test" / "0003_c4s1_000001_00.tiff").touch()
        assert {"0003_c1s1_000001_00.BMP", "0003_c4s1_000001_00.tiff"} < {p.name for p in read_market_folder(market)}

    def test_images_in_folders_of_their_own_are_no_mystery(self, market: Path) -> None:
        (market / "query" / "0003").mkdir()
        (market / "query" / "0003_c1s1_000001_00.jpg").unlink()
        with pytest.raises(ValueError, match=r"query holds no images .* but 1 as folders inside, .* \(query/0003\)"):
            read_market_folder(market)


class TestTrainingImagesAlone:
    def test_are_a_data_set(self, market: Path) -> None:
        for folder in ("query", "bounding_box_test"):
            (market / folder).rename(market.parent / folder)
        assert [p.split for p in read_market_folder(market)] == ["train"] * 3
        for folder in ("gt_bbox", "gt_query", "test"):
            (market / folder).mkdir()
        with pytest.warns(DataDoubt, match=r"1 beside bounding_box_train, read as training images alone .* \(test\)"):
            assert len(read_market_folder(market)) == 3

    def test_a_misspelt_folder_is_no_reason_to_do_without(self, market: Path) -> None:
        (market / "query").rename(market / "Query")
        (market / "bounding_box_test").rename(market.parent / "elsewhere")
        with pytest.raises(ValueError, match=r"holds Query, bounding_box_train \(is 'Query' meant\? rename it 'query'\)"):
            read_market_folder(market)

    def test_a_folder_that_is_there_is_not_suggested(self, market: Path) -> None:
        (market / "bounding_box_test").rename(market.parent / "elsewhere")
        with pytest.raises(ValueError, match="lacks bounding_box_test and holds bounding_box_train, query$"):
            read_market_folder(market)


@pytest.mark.parametrize("name", ["0001_c2_f0046182.jpg", "0003_c1_1.png"])  # DukeMTMC-reID's, CUHK03-NP's
def test_sets_laid_out_alike_are_read(tmp_path: Path, name: str) -> None:
    names = {"bounding_box_train": name, "query": "0007" + name[4:], "bounding_box_test": "0007" + name[4:].replace("_c1", "_c2")}
    for folder, file in names.items():
        (tmp_path / "set" / folder).mkdir(parents=True)
        (tmp_path / "set" / folder / file).touch()
    rows = read_market_folder(tmp_path / "set")
    assert (rows[0].pid, rows[0].camid) == ((1, 1) if "f004" in name else (3, 0))
    with pytest.raises(ValueError, match=r"did you mean '.*/set'\?"):
        read_market_folder(tmp_path)
