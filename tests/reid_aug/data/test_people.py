from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from generators import Pose
from generators.pose import openpose_18
from reid_aug.data import market as market_layout
from reid_aug.data import people, people_csv, torchreid_sets
from reid_aug.data.people import PersonImage

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
    rows = market_layout.read_market_folder(market)
    assert summary(rows) == [
        ("0002_c1s1_000451_03.jpg", 2, 0, "train"),
        ("0002_c2s1_000301_01.jpg", 2, 1, "train"),
        ("0007_c15_1.png", 7, 14, "train"),
        ("0003_c1s1_000001_00.jpg", 3, 0, "query"),
        ("0000_c3s1_000001_00.jpg", 0, 2, "gallery"),
        ("0003_c2s1_000001_00.JPG", 3, 1, "gallery"),
    ]
    assert all(type(p.path) is str and Path(p.path).is_file() and p.pose is None for p in rows)
    junk = [Path(path).name for path in market_layout.market_junk(market)]
    assert junk == ["-1_c1_9.jpg", "0000_c1_1.jpg", "-1_c3s1_000002_00.jpg"]
    assert people.relabel(p for p in rows if p.split == "train") == {2: 0, 7: 1}


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
        (misspelt, r"lacks query and holds bounding_box_test, bounding_box_train, querys \(is 'querys' meant\?\)"),
        (without_folders, "lacks bounding_box_train, query, bounding_box_test and holds no folder$"),
        (overlap, "train and test share no identity, but 2 are in both: 2, 7"),
    ],
)
def test_market_folders_with_faults(market: Path, damage: Callable[[Path], None], says: str) -> None:
    damage(market)
    with pytest.raises(ValueError, match=says) as caught:
        market_layout.read_market_folder(market)
    assert str(market) in str(caught.value) and "\n" not in str(caught.value)


def test_market_folder_elsewhere(market: Path) -> None:
    with pytest.raises(ValueError, match=r"did you mean '.*/market'\?"):
        market_layout.read_market_folder(market.parent)
    with pytest.raises(FileNotFoundError, match="no folder '.*/nowhere'"):
        market_layout.read_market_folder(market / "nowhere")
    overlap(market)
    assert len(market_layout.read_market_folder(market, allow_overlap=True)) == 8


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
    rows = people_csv.read_csv(path)
    assert summary(rows) == [("a.jpg", 7, 3, "train"), ("e.jpg", 0, 0, "query"), ("c, d.jpg", 0, 1, "gallery")]
    assert rows[1].path == str(tmp_path / "sub/e.jpg")


def test_csv_without_cameras_and_with_words(tmp_path: Path) -> None:
    rows = people_csv.read_csv(table(tmp_path, "path,pid,split\na.jpg,zoe,train\nb.jpg,10,query\nsub/e.jpg,10,gallery\n"))
    assert summary(rows) == [("a.jpg", 1, 0, "train"), ("b.jpg", 0, 0, "query"), ("e.jpg", 0, 1, "gallery")]


HEAD = "path,pid,camid,split\n"


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
        (HEAD + "a.jpg,-2,0,train\n", "line 2: a pid is 0 or more, or -1 for junk, got -2"),
        (HEAD + ",1,0,train\n", "line 2: the path is empty"),
        (HEAD + "a.jpg,1,0,train\n./a.jpg,1,0,train\na.jpg,2,0,train\n", "line 4: '.*a.jpg' is already in train on line 2"),
        (HEAD + "a.jpg,1,0,train\nb.jpg,1,0,gallery\n", "train and test share no identity, but 1 are in both: 1"),
    ],
)
def test_csv_with_faults(tmp_path: Path, text: str, says: str) -> None:
    path = table(tmp_path, text)
    with pytest.raises(ValueError, match=says) as caught:
        people_csv.read_csv(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_csv_missing_images_and_bytes(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="line 2: no image file '.*z.jpg'"):
        people_csv.read_csv(table(tmp_path, HEAD + "z.jpg,1,0,train\n"))
    with pytest.raises(FileNotFoundError):
        people_csv.read_csv(tmp_path / "none.csv")
    path = table(tmp_path, "")
    path.write_bytes(HEAD.encode() + b"\xff,1,0,train\n")
    with pytest.raises(ValueError, match="not a UTF-8 text file"):
        people_csv.read_csv(path)
    both = table(tmp_path, HEAD + "a.jpg,1,0,train\nb.jpg,1,0,gallery\n")
    assert len(people_csv.read_csv(both, allow_overlap=True)) == 2


@pytest.mark.parametrize("extra", [(), (0,)])
def test_torchreid_rows(extra: tuple[int, ...]) -> None:
    data = SimpleNamespace(train=[("/x/a.jpg", 0, 3, *extra)], query=[("b.jpg", 5, 0, *extra)], gallery=[("c.jpg", 5, 1, *extra)])
    assert torchreid_sets.from_torchreid(data) == [
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
        torchreid_sets.from_torchreid(data)


def a_pose(x: float = 1.0) -> Pose:
    return Pose(torch.full((18, 2), x), torch.ones(18, dtype=torch.bool), openpose_18, (128, 64))


def crowd(n: int = 4) -> list[PersonImage]:
    return [PersonImage(f"/d/{i}.jpg", i, 0, "train") for i in range(n)] + [PersonImage("/d/q.jpg", 9, 0, "query")]


def test_poses_attach_by_path_first_then_by_name() -> None:
    poses = {"0.jpg": a_pose(0), "/d/0.jpg": a_pose(7), "1.jpg": a_pose(1), "q.jpg": a_pose(2)}
    out = people.attach_poses(crowd(), poses)
    assert [p.path for p in out] == [p.path for p in crowd()]
    assert out[0].pose is poses["/d/0.jpg"] and out[1].pose is poses["1.jpg"] and all(p.pose is None for p in out[2:])
    both = people.attach_poses(out, poses, splits=("query",))
    assert both[4].pose is poses["q.jpg"] and both[0].pose is out[0].pose


def test_poses_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"1 of 4 train images have a pose, at least half must; without one: 0.jpg, 2.jpg, 3.jpg$"
    ):
        people.attach_poses(crowd(), {"1.jpg": a_pose()})
    with pytest.raises(ValueError, match="0 of 6 train and query images .* 0.jpg, 1.jpg, 2.jpg and 3 more"):
        people.attach_poses(crowd(5), {}, splits=("train", "query"))
    with pytest.raises(ValueError, match="0 of 0 gallery images .* no image at all"):
        people.attach_poses(crowd(), {}, splits=("gallery",))
    with pytest.raises(ValueError, match=r"got 'querry' \(did you mean 'query'\?\)"):
        people.attach_poses(crowd(), {}, splits=("querry",))
    with pytest.raises(ValueError, match=r"the pose of one image is \(K, 2\), that of '0.jpg' is \(1, 18, 2\)"):
        people.attach_poses(crowd(1), {"0.jpg": Pose.stack([a_pose()])})
