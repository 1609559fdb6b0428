"""Keypoint files: what is read and written, and what is refused by file and line."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from generators import Pose, openpose_18, upper_7
from reid_aug.data.doubts import DataDoubt, collected
from reid_aug.data.keypoints import HEADER, Keypoints, checked_poses, read_columns, read_keypoints, write_keypoints

SIZE = (128, 64)
QUICK = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
REAL = os.environ.get("REID_AUG_MARKET_KEYPOINTS")


def row(name: str, ys: list[object], xs: list[object]) -> str:
    return f"{name}: [{', '.join(map(str, ys))}]: [{', '.join(map(str, xs))}]"


def good(name: str = "0002_c1s1_000451_03.jpg") -> str:
    return row(name, list(range(10, 28)), list(range(18)))


def file(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "keypoints.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_reads_pixels_and_missing_joints(tmp_path: Path) -> None:
    ys: list[object] = [-1, 5, 6.5, *[7] * 15]
    xs: list[object] = [3, -1, 2.25, *[4] * 15]
    poses = read_keypoints(file(tmp_path, good("b.jpg"), row("a.jpg", ys, xs)), size=SIZE)
    assert list(poses) == ["b.jpg", "a.jpg"] and len(poses) == 2 and "a.jpg" in poses and "c.jpg" not in poses
    assert poses.pose.xy.dtype == torch.float32 and poses.pose.size == SIZE and poses.pose.skeleton is openpose_18
    pose = poses["a.jpg"]
    assert pose.visible.tolist() == [False, False] + [True] * 16
    assert pose.xy[:4].tolist() == [[0, 0], [0, 0], [2.25, 6.5], [4, 7]]
    assert dict(poses)["b.jpg"].xy[3].tolist() == [3, 13]


@pytest.mark.parametrize("style", ["crlf", "bom", "tight", "blank lines", "no last newline", "numpy floats"])
def test_harmless_variations_read_alike(tmp_path: Path, style: str) -> None:
    text = f"{HEADER}\n{good('a.jpg')}\n{good('b.jpg')}\n"
    changed = {
        "crlf": text.replace("\n", "\r\n"),
        "bom": "\ufeff" + text,
        "tight": text.replace(" ", ""),
        "blank lines": text.replace("\n", "\n\n"),
        "no last newline": text[:-1],
        "numpy floats": text.replace("10,", "10.,").replace("11,", "+11,"),
    }[style]
    path = tmp_path / "k.csv"
    path.write_bytes(changed.encode())
    plain = read_keypoints(file(tmp_path, good("a.jpg"), good("b.jpg")), size=SIZE)
    poses = read_keypoints(path, size=SIZE)
    assert poses.names == plain.names and torch.equal(poses.pose.xy, plain.pose.xy)


def test_another_skeleton(tmp_path: Path) -> None:
    path = file(tmp_path, row("a", list(range(20, 27)), [2] * 7))
    assert read_keypoints(path, size=SIZE, skeleton=upper_7)["a"].xy.shape == (7, 2)


EIGHTEEN: list[object] = [1] * 18
BAD_ROWS = [
    (row("x", EIGHTEEN, [1] * 17), "line 3 .'x'.: y and x lists are equally long, got 18 and 17"),
    (row("x", [1] * 17, [1] * 17), "line 3 .'x'.: the skeleton has 18 joints, got 17"),
    (row("x", EIGHTEEN, ["nan", *[1] * 17]), "line 3 .'x'.: a coordinate is a finite number, got 'nan'"),
    (row("x", EIGHTEEN, ["NaN", *[1] * 17]), "finite number, got 'NaN'"),
    (row("x", EIGHTEEN, ["1e999", *[1] * 17]), "finite number, got '1e999'"),
    (row("x", EIGHTEEN, ["left", *[1] * 17]), "finite number, got 'left'"),
    (row("x", EIGHTEEN, ["true", *[1] * 17]), "finite number, got 'true'"),
    (row("x", EIGHTEEN, ["1_0", *[1] * 17]), "finite number, got '1_0'"),
    (row("x", EIGHTEEN, ["١", *[1] * 17]), "finite number, got"),
    (row("x", EIGHTEEN, ["[1]", *[1] * 17]), r"finite number, got '\[1\]'"),
    (row("x", EIGHTEEN, ["", *[1] * 17]), "finite number, got ''"),
    ("x: []: []", "finite number, got ''"),
    ("x: 1, 2: [1, 2]", "line 3 .'x'.: a list of coordinates is in brackets, got '1, 2'"),
    ("x: [1, 2]", r"line 3: a row is name:\[y, …\]:\[x, …\], got 2 field"),
    ("x: [1]: [2]: [3]", "got 4 field"),
    ("lonely" * 100, r"got 1 field\(s\): 'lonely"),
    (row("", EIGHTEEN, EIGHTEEN), "line 3: the name is empty"),
    (good(), "line 3: the name '0002_c1s1_000451_03.jpg' is already on line 2"),
]


@pytest.mark.parametrize(("bad", "says"), BAD_ROWS)
def test_bad_rows_are_named(tmp_path: Path, bad: str, says: str) -> None:
    path = file(tmp_path, good(), bad)
    with pytest.raises(ValueError, match=says) as caught:
        read_keypoints(path, size=SIZE)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message and len(message) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "the file is empty"),
        (b"\n \n", "the file is empty"),
        (HEADER.encode(), "no rows after the header"),
        (b"name,keypoints_y,keypoints_x\n", "line 1: the header is 'name:keypoints_y:keypoints_x', got 'name,"),
        (b"\xff\xfe\x00", "not a UTF-8 text file"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "k.csv"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=says):
        read_keypoints(path, size=SIZE)
    with pytest.raises(FileNotFoundError):
        read_keypoints(tmp_path / "none.csv", size=SIZE)


def test_two_broken_rows_do_not_pass_as_two_whole_ones(tmp_path: Path) -> None:
    nine = ", ".join(["1"] * 9)
    with pytest.raises(ValueError, match="line 2 .'x'.: a list of coordinates is in brackets"):
        read_columns(file(tmp_path, f"x: [{nine}: {nine}]", f"y: [{nine}, {nine}], [{nine}: {nine}]"))

    with pytest.raises(ValueError, match="line 2 .'x'.: the skeleton has 18 joints, got 19"):
        read_columns(file(tmp_path, row("x", [1] * 19, [1] * 19), row("y", [1] * 17, [1] * 17)))


def test_a_wrong_size_is_noticed(tmp_path: Path) -> None:
    path = file(tmp_path, good("a"), good("b"), row("c", [1] * 18, [1] * 18))
    with pytest.raises(ValueError, match=r"2 of 3 rows have joints outside \(H, W\) \(16, 8\): wrong size\?"):
        read_keypoints(path, size=(16, 8))
    assert len(read_keypoints(file(tmp_path, good("a"), row("c", [1] * 18, [1] * 18)), size=(16, 8))) == 2


class TestDoubts:
    """What pose_doubts finds, at the doors that read poses."""

    def test_zeros_are_missing_and_a_line_says_so(self, tmp_path: Path) -> None:
        path = file(tmp_path, good("a"), row("b", [0] * 18, [0] * 18), row("c", [0, 0, *range(14, 30)], [0, 0, *range(16)]))
        with pytest.warns(DataDoubt, match=rf"^{path}: \(0, 0\) is taken for missing, 20 joints in 2 of 3 rows \(b, c\)$"):
            names, yx = read_columns(path)
        assert (yx[1] == -1).all() and yx[2].tolist()[:3] == [[-1, -1], [-1, -1], [14, 0]]
        with pytest.warns(DataDoubt):
            poses = read_keypoints(path, size=SIZE)
        assert poses.pose.visible.sum(1).tolist() == [18, 0, 16]

    def test_doubts_are_warned_of(self, tmp_path: Path) -> None:
        with pytest.warns(DataDoubt, match="1 of 3 rows have joints outside"):
            read_keypoints(file(tmp_path, good("a"), good("b"), row("c", list(range(400, 418)), list(range(18)))), size=SIZE)

    def test_poses_by_name(self) -> None:
        seen = torch.ones(18, dtype=torch.bool)
        body = torch.stack([torch.arange(18.0), torch.arange(18.0) + 10], 1)
        poses = {"a": Pose(body, seen, openpose_18, SIZE), "b": Pose(torch.zeros(18, 2), seen, openpose_18, SIZE)}
        with pytest.warns(DataDoubt, match=r"^poses: \(0, 0\) is taken for missing, 18 joints in 1 of 2 rows \(b\)$"):
            checked = checked_poses(poses)
        assert checked["a"] is poses["a"] and not checked["b"].visible.any() and checked["b"].size == SIZE
        other = {"a": poses["a"], "head": Pose(torch.full((7, 2), 3.0), torch.ones(7, dtype=torch.bool), upper_7, (64, 64))}
        with pytest.raises(ValueError, match="1 of 1 bodies have all joints on one point"):
            checked_poses(other)
        with pytest.raises(ValueError, match=r"1 of 1 rows have joints outside \(H, W\) \(16, 8\): wrong size"):
            checked_poses({"a": replace(poses["a"], size=(16, 8))})
        assert checked_poses({}) == {}


NAMES = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda s: s == s.strip() and not set(s) & set(":\r\n") and s
)


@QUICK
@given(data=st.data(), names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_what_is_written_comes_back_exactly(tmp_path: Path, data: st.DataObject, names: list[str]) -> None:
    n = len(names)
    values = st.one_of(st.integers(0, 63).map(float), st.floats(0, 63.5, width=32))
    xy = torch.from_numpy(data.draw(hnp.arrays(np.float32, (n, 18, 2), elements=values)))
    visible = torch.from_numpy(data.draw(hnp.arrays(bool, (n, 18))))
    pose = Pose(xy, visible, openpose_18, SIZE)
    write_keypoints(tmp_path / "k.csv", names, pose)
    with collected():  # random joints are no bodies, of which a reader would say so
        back = read_keypoints(tmp_path / "k.csv", size=SIZE)
    assert list(back.names) == names
    assert torch.equal(back.pose.xy, pose.xy)
    corner = visible & (xy == 0).all(-1)  # may be taken for missing, and is 0 either way
    assert torch.equal(back.pose.visible | corner, visible) and (torch.equal(back.pose.visible, visible) or corner.sum() > 1)


def test_the_written_form_is_the_fields(tmp_path: Path) -> None:
    xy = torch.tensor([[[2.0, 1.0], [0.5, 0.1], [-0.25, 3.0], [-5.0, 3.0], *[[0.0, 0.0]] * 14]])
    visible = torch.tensor([[True] * 4 + [False] * 14])
    write_keypoints(tmp_path / "k.csv", ["a.jpg"], Pose(xy, visible, openpose_18, SIZE))
    assert (tmp_path / "k.csv").read_text() == (
        "name:keypoints_y:keypoints_x\n"
        f"a.jpg: [1, 0.1, 3, -1{', -1' * 14}]: [2, 0.5, 0, -1{', -1' * 14}]\n"  # -0.25 goes to the edge, -5 is out
    )


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (["a"], r"1 names take a pose \(1, K, 2\), got \(2, 18, 2\)"),
        (["a", "a"], "line 2: the name 'a' is already on line 1"),
        (["a", ""], "the name is empty"),
        (["a", "b:c"], "no ':', line break or outer space: rename 'b:c'"),
        (["a", "b\nc"], "line break"),
        (["a", " b"], "outer space"),
    ],
)
def test_write_refuses_names_that_would_not_come_back(tmp_path: Path, names: list[str], says: str) -> None:
    pose = Pose(torch.ones(2, 18, 2), torch.ones(2, 18, dtype=torch.bool), openpose_18, SIZE)
    with pytest.raises(ValueError, match=says):
        write_keypoints(tmp_path / "k.csv", names, pose)
    assert list(tmp_path.iterdir()) == []


def test_write_refuses_nan(tmp_path: Path) -> None:
    xy = torch.ones(2, 18, 2)
    xy[1, 3, 0] = float("nan")
    with pytest.raises(ValueError, match="finite, those of 'b' are not"):
        write_keypoints(tmp_path / "k.csv", ["a", "b"], Pose(xy, torch.ones(2, 18, dtype=torch.bool), openpose_18, SIZE))


@QUICK
@given(
    body=st.one_of(st.text(max_size=80), st.text("[]:,1-.e \n", max_size=120)),
    mangle=st.integers(0, 200),
    noise=st.text("[]:,-1x\n"),
)
def test_any_text_gives_poses_or_one_line(tmp_path: Path, body: str, mangle: int, noise: str) -> None:
    path = tmp_path / "k.csv"
    whole = good("a.jpg") + "\n" + good("b.jpg")
    for text in (body, f"{HEADER}\n{body}", f"{HEADER}\n{whole[:mangle]}{noise}{whole[mangle:]}"):
        path.write_bytes(text.encode("utf-8", "surrogatepass"))
        try:
            poses = read_keypoints(path, size=SIZE)
        except ValueError as error:
            assert str(error).startswith(str(path)) and len(str(error).splitlines()) == 1
        else:
            assert isinstance(poses, Keypoints) and bool(torch.isfinite(poses.pose.xy).all())


def test_pandas_reads_the_same(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = file(tmp_path, good("a.jpg"), row("b.jpg", [-1] * 18, [0.5] * 18))
    frame = pandas.read_csv(path, sep=":")
    names, yx = read_columns(path)
    assert names == list(frame["name"])
    for column, values in (("keypoints_y", yx[..., 0]), ("keypoints_x", yx[..., 1])):
        assert values.tolist() == [[float(v) for v in text.strip(" []").split(",")] for text in frame[column]]


@pytest.mark.skipif(not REAL, reason="REID_AUG_MARKET_KEYPOINTS names the folder of the published Market-1501 keypoints")
@pytest.mark.parametrize(("split", "rows", "empty"), [("train", 12936, 419), ("test", 19732, 3445)])
def test_the_published_files(tmp_path: Path, split: str, rows: int, empty: int) -> None:
    path = Path(REAL or "") / f"market-annotation-{split}.csv"
    poses = read_keypoints(path, size=SIZE)
    assert len(poses) == rows and int((~poses.pose.visible.any(-1)).sum()) == empty
    write_keypoints(tmp_path / "back.csv", poses.names, poses.pose)
    assert (tmp_path / "back.csv").read_bytes() == path.read_bytes()
