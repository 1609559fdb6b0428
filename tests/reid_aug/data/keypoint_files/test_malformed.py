"""Whatever a file holds, its reader gives finite poses or one line: file, entry, rule, value."""

from __future__ import annotations

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from generators import coco_17, mpii_14, openpose_18
from reid_aug.data.doubts import collected
from reid_aug.data.keypoint_files import market_points, mpii, read_other
from reid_aug.data.keypoint_files.rows import FilePoses
from reid_aug.data.keypoints import read_columns

COCO = {
    "images": [{"id": 1, "file_name": "a.jpg", "height": 128, "width": 64}, {"id": 2, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 1, "category_id": 1, "keypoints": [3, 4, 2] * 17, "iscrowd": 0}, {"image_id": 2, "keypoints": [3, 4, 1] * 17},
    ],
    "categories": [{"id": 1, "name": "person", "keypoints": [*coco_17.joints]}],
}
RESULTS = [{"image_id": name, "category_id": 1, "keypoints": [1.5, 2, 0.5] * 17, "score": 0.9} for name in ("a.jpg", "a.jpg", "b.jpg")]
OPENPOSE = {"version": 1.3, "people": [{"pose_keypoints_2d": [1.5, 2, 0.5] * 18}, {"pose_keypoints_2d": [0, 0, 0] * 18}]}
NAMED = {"a.jpg": {"bodies": [{"joints": [1, 2, 1] * 18}]}, "b.jpg": {"people": []}}
VALID = [COCO, RESULTS, OPENPOSE, NAMED]
JUNK: list[Any] = [
    None, True, "", "a:b", "x\ny", "12", -1, 0, 1e300, 10**400, float("nan"), float("inf"), [], [1], ["1"] * 51, [[1] * 3] * 17, {},
    {"a": {}}, [None] * 51, [10**400] * 51, [True] * 51, "\udcff",
]  # fmt: skip


def places(content: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """List the ways to everything inside JSON."""
    inside = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path] + [found for key, value in inside for found in places(value, (*path, key))]


@st.composite
def broken(draw: st.DrawFn) -> str:
    """Valid JSON of a tool, with junk in one to three places, or without them, or cut off, or no such JSON at all."""
    content: Any = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(places(content)[1:] or [("",)]))
        holder = content
        for key in way:
            holder = holder[key]
        if not isinstance(holder, dict | list) or not holder:
            break
        if draw(st.booleans()):
            holder[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))
        else:
            del holder[last]
    text = json.dumps(content)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 4)) == 0 else text


def read_or_refused(path: Path) -> FilePoses | None:
    """Read; None where it was refused as it must be."""
    try:
        found = read_other(path)
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error) and len(str(error)) < 700, str(error)
        return None
    assert np.isfinite(found.xy).all() and found.visible.shape == found.xy.shape[:2] == (len(found.names), len(found.skeleton))
    return found


@settings(max_examples=60, deadline=None)
@given(text=broken())
def test_broken_json_is_read_or_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "broken_keypoints.json"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    read_or_refused(path)


@pytest.mark.parametrize("content", VALID)
def test_the_unbroken_is_read(tmp_path: Path, content: Any) -> None:
    (tmp_path / "k.json").write_text(json.dumps(content))
    found = read_or_refused(tmp_path / "k.json")
    assert found is not None and found.visible.any()


@settings(max_examples=60, deadline=None)
@given(text=st.text(st.sampled_from(list('{}[]":,0123456789.eE- ab\n')), max_size=60))
def test_anything_is_no_keypoint_csv_or_json(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "anything.csv"
    path.write_text("name:keypoints_y:keypoints_x\n" + text if len(text) % 2 else text)
    with pytest.raises(ValueError) as caught, collected():
        read_columns(path)
    assert "\n" not in str(caught.value)


def person(image: Any = 1, joint: Any = (1, 2, 2), joints: int = 17) -> dict[str, Any]:
    return COCO | {"annotations": [{"image_id": image, "keypoints": [*joint] * joints}]}


def pictures(*rows: dict[str, Any]) -> dict[str, Any]:
    return COCO | {"images": [*rows]}


A = {"id": 1, "file_name": "a"}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (person(joints=16), r"annotations\[0\]: keypoints are 51 numbers .*, got 48 numbers"),
        (person(joint=(1, "2", 2)), r"annotations\[0\]: a coordinate or score is a number .*got '2'"),
        (person(joint=(1, 2, 3)), r"annotations\[0\]: v is 0, 1 or 2, got 3"),
        (person(5), r"annotations\[0\]: image_id is the id of one of images, got 5"),
        (pictures(A, A | {"file_name": "b"}), r"images\[1\]: an id is one image's, 1 is that of images\[0\]"),
        (pictures(A, A | {"id": 2}), "a file_name is one image's, 'a' is there twice"),
        (pictures(A | {"height": 0}), r"images\[0\]: height is 1 pixel at least, got 0"),
        ({"annotations": []}, "COCO's annotations have images"),
        (RESULTS[:1] + [{"image_id": "b.jpg", "bbox": []}], r"entry 1: an entry has image_id and keypoints, got \['image_id', 'bbox'\]"),
        (RESULTS[:1] + [3], r"the list\[1\]: an entry is an object .*, got 3"),
        (RESULTS[:1] + [RESULTS[0] | {"keypoints": [1, 2, 1] * 26}], "entry 1: every entry has as many numbers as the first, 51, got 78"),
        ({"people": [{"pose_keypoints_2d": [1] * 20}]}, r"people\[0\]: .* 3 numbers for each of 18 or 25 or 15 joints .*got 20"),
        ({"people": [{"face": []}]}, r"people\[0\]: a person has pose_keypoints_2d, got \['face'\]"),
        ([], "the list is empty"),
        ({"a": 1}, "is JSON, but neither COCO's, OpenPose's nor AlphaPose's: it has .'a'.; keypoints are read from"),
    ],
)  # fmt: skip
def test_what_is_said(tmp_path: Path, content: Any, complaint: str) -> None:
    (tmp_path / "k.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=complaint) as caught:
        read_other(tmp_path / "k.json")
    assert str(tmp_path / "k.json") in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ['[{"image_id": "a", "keypoints": [NaN]}]', "[" * 100_000, '{"people": [', "[1e999]", '{"a": -Infinity}'])
def test_json_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "k.json").write_text(text)
    assert read_or_refused(tmp_path / "k.json") is None


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return pytest.fail, ("it ran",)

    (tmp_path / "k.pkl").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match="k.pkl is a pickle; keypoints are read from"):
        read_other(tmp_path / "k.pkl")


@settings(max_examples=60, deadline=None)
@given(numbers=arrays(np.float64, st.tuples(st.integers(0, 4), st.sampled_from([16, 15]), st.just(2)), elements=st.floats(width=64)))
def test_any_numbers_in_place_of_mpii(numbers: np.ndarray) -> None:
    tables = {"mpii/part": numbers, "mpii/names": np.array(["a.jpg"] * len(numbers))}
    try:
        found = mpii.read_mpii(Path("k.mat"), tables)
    except ValueError as error:
        assert "\n" not in str(error) and "k.mat" in str(error)
    else:
        assert found.names == ("a.jpg",) and found.skeleton is mpii_14 and np.isfinite(found.xy).all()


@settings(max_examples=60, deadline=None)
@given(numbers=arrays(np.float64, st.tuples(st.sampled_from([28, 27]), st.integers(0, 4)), elements=st.floats(width=64)))
def test_any_numbers_in_place_of_market_points(tmp_path_factory: pytest.TempPathFactory, numbers: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "points.mat"
    path.touch()
    names = np.array([f"{i}.jpg" for i in range(numbers.shape[1])], dtype=str)
    try:
        found = market_points.read_points(path, {"number/k": numbers, "text/names": names}, [])
    except ValueError as error:
        assert "\n" not in str(error) and str(path) in str(error)
    else:
        assert np.isfinite(found.xy).all() and len(found.on(openpose_18).names) == numbers.shape[1]
