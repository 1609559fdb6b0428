"""`reid-aug poses`: what is written, and that no kill, changed image or other estimator spoils it."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from generators import Pose, body_mask, coco_17, openpose_18
from reid_aug import cli, images
from reid_aug.data import estimators
from reid_aug.data.estimate import estimate_poses, images_of
from reid_aug.data.estimators import Estimated, load_estimator, on_skeleton
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import LIMB_SHARE, plausible, read_mask, write_mask
from reid_aug.rendered import RenderedSet


class ByColour:
    """Puts every joint at the image's mean red and green, so that a pose tells of which image it is; hides wrists of blue images."""

    name, has_masks = "by colour", True

    def __init__(self, fails_after: int | None = None) -> None:
        self.calls: list[int] = []
        self.fails_after = fails_after

    def estimate(self, pictures: torch.Tensor, *, masks: bool = False) -> Estimated:
        if self.fails_after is not None and sum(self.calls) + len(pictures) > self.fails_after:
            raise KeyboardInterrupt
        self.calls.append(len(pictures))
        height, width = pictures.shape[-2:]
        mean = pictures.float().mean((2, 3)) / 256
        at = mean[:, :2] * torch.tensor([width, height])
        scores = torch.full((len(pictures), 17), 0.9)
        scores[mean[:, 2] > 0.5, coco_17.index("l_wrist")] = 0.1
        xy = at[:, None] + torch.arange(17)[None, :, None] * 0.125
        pose = Pose(xy, scores > 0.5, coco_17, (height, width))
        person = None
        if masks:  # of reddish images everything, which is no body
            person = torch.where((mean[:, 0] > 0.5)[:, None, None], 1.0, body_mask(pose, LIMB_SHARE * height)[:, 0])
        return Estimated(pose, scores, person)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Nine images in two folders, two of one name, three of another size."""
    rng = np.random.default_rng(0)
    for i in range(9):
        size = (40, 20) if 3 <= i < 6 else (32, 16)
        colour = rng.integers(0, 255, 3)
        path = tmp_path / "in" / ("a" if i < 5 else "b") / ("same.png" if i in (2, 7) else f"{i}.png")
        images.write(np.full((*size, 3), colour, np.uint8), path)
    return tmp_path / "in"


def test_poses_are_those_of_the_images_under_names_that_tell_them_apart(folder: Path, tmp_path: Path) -> None:
    found = estimate_poses(str(folder), ByColour(), tmp_path / "k.csv", batch_size=4)
    assert [*found.names] == ["0.png", "1.png", "3.png", "4.png", "a/same.png", "5.png", "6.png", "8.png", "b/same.png"]
    names, yx = read_columns(tmp_path / "k.csv")
    assert names == [*found.names]
    for name, row, path in zip(names, yx, images_of(str(folder)).values(), strict=True):
        picture = images.read(path)
        height, width = picture.shape[:2]
        expected = picture[0, 0, :2][::-1] / 256 * (height, width)  # y is of green, x of red
        assert path.endswith(name)
        np.testing.assert_allclose(row[openpose_18.index("nose")], expected, rtol=1e-5)
        neck = (row[openpose_18.index("r_shoulder")] + row[openpose_18.index("l_shoulder")]) / 2
        np.testing.assert_allclose(row[openpose_18.index("neck")], neck, rtol=1e-5)
        assert (row[openpose_18.index("l_wrist")] == -1).all() == (picture[0, 0, 2] > 128)
    scores = load_file(tmp_path / "k.csv.scores.safetensors")
    assert scores["scores"].shape == (9, 18) and scores["size"].tolist().count([40, 20]) == 3


def test_a_stopped_run_goes_on_and_ends_as_one_that_was_not(folder: Path, tmp_path: Path) -> None:
    estimate_poses(str(folder), ByColour(), tmp_path / "whole.csv", batch_size=2)
    with pytest.raises(KeyboardInterrupt):
        estimate_poses(str(folder), ByColour(fails_after=5), tmp_path / "k.csv", batch_size=2)
    part = tmp_path / "k.csv.part"
    assert not (tmp_path / "k.csv").exists() and len(part.read_text().splitlines()) > 1
    part.write_text(part.read_text() + '{"name": "8.png", "xy": [[1')  # a kill in the middle of a line
    Image.new("RGB", (16, 32), (9, 9, 9)).save(folder / "a" / "0.png")  # and somebody changed an image that was done
    again = ByColour()
    estimate_poses(str(folder), again, tmp_path / "k.csv", batch_size=2)
    assert 5 <= sum(again.calls) < 9
    assert not part.exists()
    whole, resumed = ((tmp_path / name).read_text().splitlines() for name in ("whole.csv", "k.csv"))
    assert [a == b for a, b in zip(whole, resumed, strict=True)] == [True, False, *[True] * 8]


def test_what_is_there_is_not_written_over_nor_mixed(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        estimate_poses(str(folder), ByColour(fails_after=5), tmp_path / "k.csv", batch_size=2)
    other = ByColour()
    other.name = "another"
    with pytest.raises(ValueError, match=r"k\.csv\.part holds what by colour found: remove it"):
        estimate_poses(str(folder), other, tmp_path / "k.csv")
    with pytest.raises(ValueError, match="by colour found: remove it, or go on as it was begun"):
        estimate_poses(str(folder), ByColour(), tmp_path / "k.csv", masks=tmp_path / "m")
    estimate_poses(str(folder), ByColour(), tmp_path / "k.csv")
    with pytest.raises(ValueError, match=r"k\.csv is there already"):
        estimate_poses(str(folder), ByColour(), tmp_path / "k.csv")


def test_masks_go_beside_and_those_of_no_body_are_dropped_and_counted(folder: Path, tmp_path: Path) -> None:
    found = estimate_poses(str(folder), ByColour(), tmp_path / "k.csv", masks=tmp_path / "m")
    red = {name for name, path in images_of(str(folder)).items() if images.read(path)[0, 0, 0] > 128}
    assert 0 < len(red) < 9 and {name for name, keep in found.masks.items() if not keep} == red
    files = {path.relative_to(tmp_path / "m").as_posix().removesuffix(".png") for path in (tmp_path / "m").rglob("*.png")}
    assert files == {*found.names} - red
    assert any(line.startswith(f"masks that fit no body with these joints, and were dropped, {len(red)}:") for line in found.summary())
    blind = ByColour()
    blind.has_masks = False
    with pytest.raises(ValueError, match="by colour has no masks"):
        estimate_poses(str(folder), blind, tmp_path / "other.csv", masks=tmp_path / "m")


def test_a_mask_comes_back_as_it_was_to_a_255th(tmp_path: Path) -> None:
    mask = torch.rand(12, 8, generator=torch.Generator().manual_seed(0))
    write_mask(tmp_path, "a/1.jpg", mask)
    torch.testing.assert_close(read_mask(tmp_path, "a/1.jpg", (12, 8)), mask, atol=0.5 / 255 + 1e-6, rtol=0)
    half = read_mask(tmp_path, "a/1.jpg", (6, 4))
    assert half is not None and half.shape == (6, 4)
    assert read_mask(tmp_path, "a/2.jpg", (12, 8)) is None
    (tmp_path / "b.jpg.png").write_bytes(b"no image")
    with pytest.raises(images.ImageError, match=r"mask .*b\.jpg\.png"):
        read_mask(tmp_path, "b.jpg", (12, 8))


def test_a_mask_is_plausible_by_joints_inside_and_by_area() -> None:
    xy = torch.zeros(4, 18, 2)
    for i, joint in enumerate(("neck", "r_hip", "r_knee", "r_ankle")):
        xy[:, openpose_18.index(joint)] = torch.tensor([16.0, 8 + 14 * i])
    visible = torch.zeros(4, 18, dtype=torch.bool)
    visible[:, [openpose_18.index(j) for j in ("neck", "r_hip", "r_knee", "r_ankle")]] = True
    visible[3] = False
    masks = torch.zeros(4, 64, 32)
    masks[0, 4:56, 11:22] = 1  # a body
    masks[1, 4:25, 11:22] = 1  # half of its joints
    masks[2] = 1  # everything: of an area four times the body's
    masks[3, 4:56, 11:22] = 1  # nobody's
    assert plausible(masks, Pose(xy, visible, openpose_18, (64, 32))).tolist() == [True, False, False, False]


def test_poses_of_a_data_set_serve_as_its_keypoint_files(
    rendered: RenderedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One file of all three folders is understood as that of each; the truth stands in for the network."""
    root = Path(shutil.copytree(rendered.root, tmp_path / "set"))
    truth = {}
    for file in ("annotation-train.csv", "annotation-test.csv"):
        names, yx = read_columns(root / file)
        truth |= dict(zip(names, yx, strict=True))
        (root / file).unlink()
    order = [Path(path).name for path in images_of(str(root)).values()]

    class Truth(ByColour):
        name, has_masks, at = "truth", False, 0

        def estimate(self, pictures: torch.Tensor, *, masks: bool = False) -> Estimated:
            rows = np.stack([truth[name] for name in order[self.at : self.at + len(pictures)]])
            self.at += len(pictures)
            xy, seen = torch.from_numpy(rows[..., ::-1].copy()).float(), torch.from_numpy((rows >= 0).all(-1))
            return Estimated(Pose(xy, seen, openpose_18, tuple(pictures.shape[-2:])), seen.float())  # type: ignore[arg-type]

    monkeypatch.setitem(estimators.ESTIMATORS, "truth", lambda device: Truth())
    assert cli.main(["poses", str(root), "--out", str(root / "k.csv"), "--estimator", "truth", "--batch", "7"]) == 0
    assert f"{len(order)} images, " in capsys.readouterr().out
    people = load_people(DataConfig(root=str(root), keypoints=str(root / "k.csv"), test_keypoints=str(root / "k.csv")), test_poses=True)
    assert len(people) == len(order)
    for person in people:
        assert person.pose is not None
        seen = (truth[person.name] >= 0).all(-1)
        np.testing.assert_array_equal(person.pose.visible.numpy(), seen)
        np.testing.assert_allclose(person.pose.xy.numpy()[seen], truth[person.name][seen][:, ::-1], rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["{folder}", "--out", "k.csv", "--estimator", "mediapip"], "no pose estimator named 'mediapip'; .*did you mean 'mediapipe'"),
        (["{folder}", "--out", "k.csv", "--batch", "0"], "--batch is 1 at least, got 0"),
        (["{empty}", "--out", "k.csv"], "holds no images"),
        (["nowhere", "--out", "k.csv"], "nowhere"),
    ],
)
def test_bad_input_is_one_line(
    folder: Path, tmp_path: Path, arguments: list[str], complaint: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(estimators.ESTIMATORS, "mediapipe", lambda device: ByColour())
    (tmp_path / "empty").mkdir()
    assert cli.main(["poses", *(a.format(folder=folder, empty=tmp_path / "empty") for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    assert re.search(complaint, error)
    assert not (tmp_path / "k.csv").exists()


def test_a_broken_image_is_named_and_what_was_done_is_kept(folder: Path, tmp_path: Path) -> None:
    (folder / "b" / "8.png").write_bytes(b"\x89PNG but no more")
    with pytest.raises(images.ImageError, match=r"8\.png.*: repair or remove it, and run this again, which goes on where it was"):
        estimate_poses(str(folder), ByColour(), tmp_path / "k.csv", batch_size=1)
    lines = (tmp_path / "k.csv.part").read_text().splitlines()
    assert {json.loads(line)["name"] for line in lines[1:]} >= {"0.png", "1.png", "3.png"}


def test_a_joint_made_of_others_is_as_sure_as_the_least_sure_of_them() -> None:
    scores = torch.rand(3, 17, generator=torch.Generator().manual_seed(1))
    pose = Pose(torch.rand(3, 17, 2), scores > 0.5, coco_17, (64, 32))
    on_18 = on_skeleton(Estimated(pose, scores), openpose_18)
    left, right = (scores[:, coco_17.index(f"{side}_shoulder")] for side in "lr")
    torch.testing.assert_close(on_18.scores[:, openpose_18.index("neck")], torch.minimum(left, right))
    torch.testing.assert_close(on_18.scores[:, openpose_18.index("r_ear")], scores[:, coco_17.index("r_ear")])
    assert (on_18.pose.visible == (on_18.scores > 0.5)).all()


def test_an_unknown_estimator_is_refused_before_anything_is_loaded() -> None:
    with pytest.raises(ValueError, match="no pose estimator named 'x'"):
        load_estimator("x")


def test_a_name_that_no_keypoint_file_can_hold_is_refused_before_anything_is_found(folder: Path, tmp_path: Path) -> None:
    (folder / "b" / "8.png").rename(folder / "b" / "co:lon.png")
    estimator = ByColour()
    with pytest.raises(ValueError, match=r"no ':', line break or outer space: rename 'co:lon.png'"):
        estimate_poses(str(folder), estimator, tmp_path / "k.csv")
    assert not estimator.calls and not list(tmp_path.glob("k.csv*"))


def test_where_nobody_is_found_it_is_doubted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    class Blind(ByColour):
        def estimate(self, pictures: torch.Tensor, *, masks: bool = False) -> Estimated:
            found = super().estimate(pictures)
            return found._replace(pose=Pose(found.pose.xy, torch.zeros_like(found.pose.visible), coco_17, found.pose.size))

    for estimator, code in ((Blind(), 1), (ByColour(), 0)):
        monkeypatch.setitem(estimators.ESTIMATORS, "mediapipe", lambda device, it=estimator: it)
        out = tmp_path / f"{code}.csv"
        assert cli.main(["poses", str(folder), "--out", str(out), "--estimator", "mediapipe"]) == code and out.exists()
        assert ("doubt: no image shows both shoulders and hips" in capsys.readouterr().out) == (code == 1)


@pytest.mark.parametrize(("there", "usual"), [(True, "mediapipe"), (False, "distilled")])
def test_who_names_no_estimator_gets_one_that_is_there(there: bool, usual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "find_spec", lambda name: object() if there and name == "ai_edge_litert" else None)
    assert estimators.usual_estimator() == usual
