"""A folder laid out as Market-1501: who is in it, and what is no such folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reid_aug.data.market import market_junk, read_market_folder
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


def test_market_folder_elsewhere(market: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean '.*/market'\?"):
        read_market_folder(market.parent)
    with pytest.raises(FileNotFoundError, match="no folder '.*/nowhere'"):
        read_market_folder(market / "nowhere")
    overlap(market)
    assert len(read_market_folder(market, allow_overlap=True)) == 8
