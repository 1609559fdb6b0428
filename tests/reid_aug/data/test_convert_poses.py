"""`reid-aug poses --from`, and every format where a CSV is read: names, sizes, coordinates, and there and back."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from generators import coco_17, openpose_18
from reid_aug import cli, images
from reid_aug.data.convert_poses import convert_poses
from reid_aug.data.estimate import estimate_poses
from reid_aug.data.estimators import Estimated
from reid_aug.data.keypoint_files import read_other
from reid_aug.data.keypoint_files.rows import FilePoses, scaled
from reid_aug.data.keypoint_files.writing import WRITERS
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.pairs import pairs_from_keypoints
from reid_aug.data.people import PersonImage, keys_of
from reid_aug.rendered import RenderedSet

FORMATS = {"coco": "k.json", "openpose": "poses", "alphapose": "a.json"}


def truth(root: Path, part: str = "train") -> dict[str, np.ndarray]:
    return dict(zip(*read_columns(root / f"annotation-{part}.csv"), strict=True))


def some_poses(seed: int, missing: float, scores: bool = True) -> FilePoses:
    """Three images with joints to a thousandth of a pixel; the neck, which COCO lacks, is between the shoulders."""
    rng = np.random.default_rng(seed)
    xy, visible = rng.uniform(0, 60, (3, 18, 2)).round(3), rng.random((3, 18)) >= missing
    neck, right, left = (openpose_18.index(joint) for joint in ("neck", "r_shoulder", "l_shoulder"))
    xy[:, neck], visible[:, neck] = (xy[:, right] + xy[:, left]) / 2, visible[:, right] & visible[:, left]
    sure = rng.uniform(0.3, 1, (3, 18)).round(4)
    sure[:, neck] = np.minimum(sure[:, right], sure[:, left])
    sizes = np.array([[128.0, 64], [90, 61], [256, 128]])
    xy = np.where(visible[..., None], xy, 0)
    return FilePoses("", ("a/1.jpg", "b/1.jpg", "2.png"), openpose_18, xy, visible, np.where(visible, sure, 0) if scores else None, sizes)


@pytest.mark.parametrize("form", FORMATS)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 1.0]), scores=st.booleans())
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, form: str, seed: int, missing: float, scores: bool
) -> None:  # fmt: skip
    poses, path = some_poses(seed, missing, scores), tmp_path_factory.mktemp("there") / FORMATS[form]
    WRITERS[form](path, poses)
    if form == "alphapose" and not poses.visible.any():
        assert json.loads(path.read_text()) == []
        return
    back = read_other(path).on(openpose_18)
    names = [name.rsplit(".", 1)[0] if form == "openpose" else name for name in poses.names]
    for i, name in enumerate(names):
        if form == "alphapose" and not poses.visible[i].any():
            assert name not in back.names
            continue
        row = back.names.index(name)
        np.testing.assert_array_equal(back.visible[row], poses.visible[i])
        np.testing.assert_allclose(back.xy[row], poses.xy[i], atol=2e-4)
        if poses.scores is not None and form != "coco" and back.scores is not None:
            np.testing.assert_allclose(back.scores[row], poses.scores[i], atol=2e-4)
    if form == "coco":
        np.testing.assert_array_equal(back.sizes, poses.sizes)


def test_coco_has_what_its_tools_ask_for(tmp_path: Path) -> None:
    """By hand, after cocodataset.org's format: box, area, count and v of each person, ids that count from 1, joints' names."""
    poses = some_poses(0, 0.0)
    xy, visible = np.zeros((3, 18, 2)), np.zeros((3, 18), bool)
    for joint, at in {"r_shoulder": (10, 20), "l_shoulder": (30, 22), "r_ankle": (14, 100.25)}.items():
        xy[1, openpose_18.index(joint)], visible[1, openpose_18.index(joint)] = at, True
    WRITERS["coco"](tmp_path / "k.json", FilePoses("", poses.names, openpose_18, xy, visible, None, poses.sizes))
    content = json.loads((tmp_path / "k.json").read_text())
    assert content["images"][1] == {"id": 2, "file_name": "b/1.jpg", "height": 90, "width": 61}
    (person,) = content["annotations"]
    assert person["bbox"] == [10, 20, 20, 80.25] and person["area"] == 1605 and person["num_keypoints"] == 3
    assert (person["id"], person["image_id"], person["category_id"], person["iscrowd"]) == (1, 2, 1, 0)
    assert person["keypoints"][15:21] == [30, 22, 2, 10, 20, 2] and person["keypoints"].count(2) == 3 and len(person["keypoints"]) == 51
    (category,) = content["categories"]
    assert category["keypoints"][:3] == ["nose", "left_eye", "right_eye"] and [6, 7] in map(sorted, category["skeleton"])


def test_openpose_cannot_tell_suffixes_apart_and_leaves_nothing_behind(tmp_path: Path) -> None:
    poses = some_poses(0, 0.0)
    clash = FilePoses("", ("1.jpg", "1.png", "2.png"), openpose_18, poses.xy, poses.visible, None, poses.sizes)
    with pytest.raises(ValueError, match="named by images without suffix, and 1 is the name of two"):
        WRITERS["openpose"](tmp_path / "o", clash)
    outside = FilePoses("", ("../1.jpg", "1.png", "2.png"), openpose_18, poses.xy, poses.visible, None, poses.sizes)
    with pytest.raises(ValueError, match="an image's name stays in its folder"):
        WRITERS["openpose"](tmp_path / "o", outside)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_is_read_where_a_csv_is(rendered: RenderedSet, tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way by commands: the set's CSV → the format → people, pairs, inspect, and a CSV again."""
    root, out, back = rendered.root, tmp_path / FORMATS[form], tmp_path / "back.csv"
    train = root / "bounding_box_train"
    assert cli.main(["poses", str(train), "--from", str(root / "annotation-train.csv"), "--out", str(out), "--format", form]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        people = [p for p in load_people(DataConfig(root=str(root), keypoints=str(out))) if p.split == "train"]
    expected = truth(root)
    for person in people:
        assert person.pose is not None
        row = expected[person.name]
        seen = (row >= 0).all(-1)
        neck = openpose_18.index("neck")
        seen[neck] &= bool(seen[[2, 5]].all())
        np.testing.assert_array_equal(person.pose.visible.numpy(), seen)
        kept = seen & (np.arange(18) != neck)
        np.testing.assert_allclose(person.pose.xy.numpy()[kept], row[kept][:, ::-1], atol=1e-3)
    pairs = pairs_from_keypoints(out)
    assert len(pairs) == len(pairs_from_keypoints(root / "annotation-train.csv")) > 0
    assert cli.main(["inspect", str(root), str(out), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert f"{len(people)} of {len(people)} images ({out})" in capsys.readouterr().out
    assert cli.main(["poses", str(train), "--from", str(out), "--out", str(back)]) == 0
    names, _ = read_columns(back)
    assert set(names) == set(expected)


def test_estimated_poses_are_written_in_a_format_too(tmp_path: Path) -> None:
    class Everything:
        name, has_masks = "everything", False

        def estimate(self, pictures: torch.Tensor, *, masks: bool = False) -> Estimated:
            from generators import Pose

            n = len(pictures)
            pose = Pose(torch.full((n, 17, 2), 3.25), torch.ones(n, 17, dtype=torch.bool), coco_17, (32, 16))
            return Estimated(pose, torch.full((n, 17), 0.75))

    images.write(np.zeros((32, 16, 3), np.uint8), tmp_path / "in" / "1.png")
    estimate_poses(str(tmp_path / "in"), Everything(), tmp_path / "out", form="openpose")
    content = json.loads((tmp_path / "out" / "1_keypoints.json").read_text())
    assert content["people"][0]["pose_keypoints_2d"] == [3.25, 3.25, 0.75] * 18
    assert load_file(tmp_path / "out.scores.safetensors")["scores"].shape == (1, 18)


class TestCoordinates:
    """One body on an image of 128 × 64, told in shares, in pixels of 256 × 128, and by a file that says its size."""

    @pytest.fixture
    def folder(self, tmp_path: Path, rendered: RenderedSet) -> Path:
        name, row = next((n, r) for n, r in truth(rendered.root).items() if (r >= 0).all())
        path = tmp_path / "in" / name
        images.write(images.read(str(rendered.root / "bounding_box_train" / name)), path)
        self.expected, self.size = row[:, ::-1], np.array(images.size_of(path), float)
        (tmp_path / "one.csv").write_text(self.csv(name, self.expected))
        self.name = name
        return tmp_path

    @staticmethod
    def csv(name: str, xy: np.ndarray) -> str:
        ys, xs = (json.dumps(xy[:, axis].tolist()) for axis in (1, 0))
        return f"name:keypoints_y:keypoints_x\n{name}: {ys}: {xs}\n"

    def converted(self, folder: Path, **options: Any) -> np.ndarray:
        (folder / "out.csv").unlink(missing_ok=True)
        convert_poses(str(folder / "in"), folder / "k.csv", folder / "out.csv", **options)
        return read_columns(folder / "out.csv")[1][0][:, ::-1]

    def test_shares(self, folder: Path) -> None:
        (folder / "k.csv").write_text(self.csv(self.name, self.expected / self.size[::-1]))
        np.testing.assert_allclose(self.converted(folder, coordinates="shares"), self.expected, atol=1e-4)
        with pytest.raises(ValueError, match="between 0 and 1: keypoints are in pixels"):
            self.converted(folder)
        with pytest.raises(ValueError, match="shares are of every image as it is: leave --of 9 9 out"):
            self.converted(folder, coordinates="shares", of=(9, 9))
        (folder / "k.csv").write_text(self.csv(self.name, self.expected))
        with pytest.raises(ValueError, match="shares of an image are between 0 and 1, 1 of 1 rows have others"):
            self.converted(folder, coordinates="shares")

    def test_pixels_of_another_size(self, folder: Path) -> None:
        large = (self.expected + 0.5) * 2 - 0.5
        (folder / "k.csv").write_text(self.csv(self.name, large))
        of = (2 * int(self.size[0]), 2 * int(self.size[1]))
        np.testing.assert_allclose(self.converted(folder, of=of), self.expected, atol=1e-4)
        with pytest.raises(ValueError, match="joints outside"):
            self.converted(folder)
        with pytest.raises(ValueError, match="--of is H W, .* 1 at least, got 0 9"):
            self.converted(folder, of=(0, 9))

    def test_a_file_that_says_its_size_is_believed(self, folder: Path) -> None:
        large, seen = (self.expected[None] + 0.5) * 3 - 0.5, np.ones((1, 18), bool)
        WRITERS["coco"](folder / "k.csv", FilePoses("", (self.name,), openpose_18, large, seen, None, 3 * self.size[None]))
        neck = openpose_18.index("neck")
        np.testing.assert_allclose(np.delete(self.converted(folder), neck, 0), np.delete(self.expected, neck, 0), atol=1e-3)
        with pytest.raises(ValueError, match=r"k.csv says its images' sizes itself, as \(H, W\) .*: leave --of 9 9 out"):
            self.converted(folder, of=(9, 9))


@settings(max_examples=50, deadline=None)
@given(height=st.integers(1, 500), width=st.integers(1, 500), seed=st.integers(0, 1000))
def test_scaling_there_and_back_changes_nothing(height: int, width: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    yx = rng.uniform(10, 100, (2, 18, 2))
    yx[0, 3] = -1
    old, new = np.array([[128.0, 64.0]] * 2), np.array([[500.0 + height, 500.0 + width]] * 2)
    np.testing.assert_allclose(scaled(scaled(yx, old, new), new, old), yx, atol=1e-9)
    np.testing.assert_array_equal(scaled(yx, np.full((2, 2), np.nan), new), yx)


class TestNamesWithoutSuffix:
    people = [PersonImage(f"/set/{name}", 1, 0, "train") for name in ("a/1.jpg", "b/1.png", "2.x.jpg")]

    def test_a_stem_is_a_name_where_nothing_longer_is(self) -> None:
        assert keys_of(self.people, {"a/1", "b/1", "2.x"}) == {"/set/a/1.jpg": "a/1", "/set/b/1.png": "b/1", "/set/2.x.jpg": "2.x"}
        assert keys_of(self.people, {"a/1", "1.jpg", "2"}) == {"/set/a/1.jpg": "1.jpg"}

    def test_a_stem_of_two_is_refused(self) -> None:
        with pytest.raises(ValueError, match="'1' names one image, and 2 files end so"):
            keys_of(self.people, {"1"})


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--from", "{train}", "--estimator", "rtmpose"], "--estimator is of poses that are found, --from of those that are there"),
        (["--from", "{train}", "--masks", "m"], "--masks is of poses that are found"),
        (["--coordinates", "shares"], "--coordinates is about keypoints that are there: give --from FILE, too"),
        (["--least-score", "0.5"], "--least-score is about keypoints that are there"),
        (["--from", "{train}", "--coordinates", "share"], "a kind of coordinates is one of pixels, shares, got 'share'"),
        (["--from", "{train}", "--format", "cocoa"], "a format of keypoints is one of csv, coco, .*, got 'cocoa'"),
        (["--from", "{train}", "--images", "{train}"], "names its images itself: leave .* out"),
        (["--from", "nowhere.json"], "nowhere.json"),
        (["--from", "{other}"], r"names none of \d+ images of .*: it has 'elsewhere', they '"),
    ],
)
def test_options_that_contradict_each_other_are_one_line(
    rendered: RenderedSet, tmp_path: Path, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "elsewhere_keypoints.json"
    other.write_text(json.dumps({"people": [{"pose_keypoints_2d": [5, 5, 1] * 18}]}))
    words = [word.format(train=rendered.root / "annotation-train.csv", other=other) for word in arguments]
    assert cli.main(["poses", str(rendered.root / "bounding_box_train"), "--out", str(tmp_path / "out"), *words]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and re.search(complaint, error), error
    assert not (tmp_path / "out").exists()
