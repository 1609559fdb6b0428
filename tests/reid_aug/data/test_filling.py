"""Filling in limbs: what is hidden of a symmetric body comes back exactly, and of a copy's, too."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from generators import Pose, mirror, openpose_18
from reid_aug import cli, images
from reid_aug.data.estimate import estimate_poses
from reid_aug.data.estimators import Estimated
from reid_aug.data.filling import FILLS, LIMBS, fill
from reid_aug.data.keypoints import read_columns, write_keypoints
from reid_aug.rendered import RenderedSet

AT = {"nose": (31.5, 14), "neck": (31.5, 26), "r_shoulder": (22, 26), "r_elbow": (18, 44), "r_wrist": (16, 60), "r_hip": (26, 64),
      "r_knee": (25, 90), "r_ankle": (24, 116)}  # fmt: skip
LIMB_JOINTS = [f"{side}_{joint}" for joint in LIMBS for side in "rl"]


def symmetric(dtype: torch.dtype = torch.float64, tilt_deg: float = 0.0) -> Pose:
    """Somebody who faces the camera, the left side a mirror's of the right one, turned about the image's middle."""
    xy, seen = torch.zeros(18, 2, dtype=torch.float64), torch.zeros(18, dtype=torch.bool)
    for joint, (x, y) in AT.items():
        for name, across in ((joint, x), (f"l_{joint[2:]}", 63 - x)):
            if name in openpose_18.joints:
                xy[openpose_18.index(name)], seen[openpose_18.index(name)] = torch.tensor([across, y], dtype=torch.float64), True
    angle = torch.deg2rad(torch.tensor(tilt_deg, dtype=torch.float64))
    turn = torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    middle = torch.tensor([31.5, 63.5], dtype=torch.float64)
    return Pose(((xy - middle) @ turn.T + middle).to(dtype), seen, openpose_18, (128, 64))


def without(pose: Pose, *joints: str) -> Pose:
    visible = pose.visible.clone()
    visible[[openpose_18.index(joint) for joint in joints]] = False
    return replace(pose, visible=visible)


def filled_joints(row: np.ndarray) -> list[str]:
    return [openpose_18.joints[i] for i in np.flatnonzero(row)]


@pytest.mark.parametrize("joint", LIMB_JOINTS)
@pytest.mark.parametrize("back", [False, True])
@pytest.mark.parametrize(("dtype", "tilt_deg"), [(torch.float64, 0), (torch.float32, 6)])
def test_a_mirror_gives_a_symmetric_body_its_joint_back(joint: str, back: bool, dtype: torch.dtype, tilt_deg: float) -> None:
    pose = symmetric(dtype, tilt_deg)
    if back:  # left and right change places: seen from behind
        order = list(openpose_18.mirror)
        pose = replace(pose, xy=pose.xy[order], visible=pose.visible[order])
    done = fill([without(pose, joint)], "mirror")
    assert filled_joints(done.filled[0]) == [joint] and bool((done.poses[0].visible == pose.visible).all())
    torch.testing.assert_close(done.poses[0].xy, pose.xy, atol=1e-4, rtol=0)
    assert done.poses[0].xy.dtype == dtype


def test_a_whole_limb_is_mirrored_and_none_that_both_sides_lack() -> None:
    pose = symmetric()
    done = fill([without(pose, "l_elbow", "l_wrist", "r_ankle", "l_ankle", "r_knee")], "mirror")
    assert set(filled_joints(done.filled[0])) == {"l_elbow", "l_wrist", "r_knee"}
    seen = done.poses[0].visible
    torch.testing.assert_close(done.poses[0].xy[seen], pose.xy[seen])


def test_in_a_side_view_the_other_side_is_taken_as_it_is() -> None:
    """A walker to the right whose shoulders and hips nearly coincide: the far arm hangs from its own shoulder as the near one does."""
    xy, pose = symmetric().xy.clone(), symmetric()
    for joint, at in {"r_shoulder": (30, 26), "l_shoulder": (33, 26), "r_hip": (30, 64), "l_hip": (33, 64), "nose": (42, 14),
                      "r_elbow": (25, 44), "r_wrist": (31, 59)}.items():  # fmt: skip
        xy[openpose_18.index(joint)] = torch.tensor(at, dtype=torch.float64)
    done = fill([without(replace(pose, xy=xy), "l_elbow", "l_wrist")], "mirror")
    for joint, at in {"l_elbow": (28, 44), "l_wrist": (34, 59)}.items():
        assert done.poses[0].xy[openpose_18.index(joint)].tolist() == pytest.approx(at)


@pytest.mark.parametrize("hidden", [("l_wrist",), ("r_knee", "r_ankle"), ("l_elbow", "l_wrist", "r_ankle")])
def test_the_nearest_gives_what_a_turned_copy_shows(hidden: tuple[str, ...]) -> None:
    """Among others, a copy of another size, turned and elsewhere in a larger image."""
    rng = torch.Generator().manual_seed(0)
    pose = symmetric()
    pose = replace(pose, xy=pose.xy + torch.randn(18, 2, generator=rng, dtype=torch.float64))
    angle = torch.tensor(0.2, dtype=torch.float64)
    turn = 1.7 * torch.stack((torch.stack((angle.cos(), -angle.sin())), torch.stack((angle.sin(), angle.cos()))))
    copy = Pose(pose.xy @ turn.T + torch.tensor([90.0, 5.0], dtype=torch.float64), pose.visible, openpose_18, (300, 200))
    others = [replace(pose, xy=pose.xy + 3 * torch.randn(18, 2, generator=rng, dtype=torch.float64)) for _ in range(5)]
    done = fill([*others, without(pose, *hidden), mirror(pose), copy, without(copy, *hidden, "nose")], "nearest")
    assert set(filled_joints(done.filled[5])) == set(hidden) == set(filled_joints(done.filled[8]))
    assert not done.filled[[0, 1, 2, 3, 4, 6, 7]].any()
    torch.testing.assert_close(done.poses[5].xy, pose.xy)
    torch.testing.assert_close(done.poses[8].xy[3:14], copy.xy[3:14])


@pytest.mark.parametrize("how", FILLS)
def test_what_is_never_filled_in(how: str) -> None:
    pose = symmetric()
    torsoless, headless, whole = without(pose, "r_hip", "l_wrist"), without(pose, "nose", "neck"), pose
    low = replace(without(pose, "l_ankle"), xy=pose.xy + torch.tensor([0.0, 20.0], dtype=torch.float64))  # the other stands below the image
    done = fill([torsoless, headless, whole, replace(low, visible=low.visible)], how)
    assert not done.filled.any()
    for before, after in zip((torsoless, headless, whole, low), done.poses, strict=True):
        assert torch.equal(before.xy, after.xy) and torch.equal(before.visible, after.visible)
    assert fill([], how).poses == () and not fill([without(torsoless, *openpose_18.joints)], how).filled.any()
    assert not fill([without(pose, "l_wrist")], "nearest").filled.any(), "there is no other body"
    with pytest.raises(ValueError, match="a way of filling in joints is one of mirror, nearest, got 'mirrored'"):
        fill([pose], "mirrored")


def test_a_row_alone_is_the_row_among_others_by_mirror(rendered: RenderedSet) -> None:
    names, yx = read_columns(rendered.root / "annotation-train.csv")
    rng = np.random.default_rng(0)
    seen = (yx >= 0).all(-1) & (rng.random(yx.shape[:2]) < 0.8)
    poses = [Pose(torch.from_numpy(yx[i, :, ::-1].copy()), torch.from_numpy(seen[i]), openpose_18, (32, 16)) for i in range(len(names))]
    together = fill(poses, "mirror")
    assert together.filled.any()
    for i in range(0, len(poses), 5):
        assert torch.equal(fill([poses[i]], "mirror").poses[0].xy, together.poses[i].xy)


@pytest.mark.parametrize("how", FILLS)
def test_the_command_records_it(how: str, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From a CSV to a CSV: in place of what was hidden there are coordinates, and beside the file says which."""
    names, yx = read_columns(rendered.root / "annotation-train.csv")
    yx[0, openpose_18.index("l_wrist")] = yx[3, openpose_18.index("r_knee")] = -1
    visible = (yx >= 0).all(-1)
    pose = Pose(torch.from_numpy(yx[..., ::-1].copy()), torch.from_numpy(visible), openpose_18, (32, 16))
    write_keypoints(tmp_path / "in.csv", names, pose)
    ask = ["poses", str(rendered.root / "bounding_box_train"), "--from", str(tmp_path / "in.csv"), "--fill", how, "--out"]
    assert cli.main([*ask, str(tmp_path / "out.csv")]) == 0
    printed = capsys.readouterr().out
    assert f"filled by {how}: " in printed and f"{visible.mean():.1%} of joints found" in printed
    back, after = read_columns(tmp_path / "out.csv")
    after = after[[back.index(name) for name in names]]
    with safe_open(str(tmp_path / "out.csv.scores.safetensors"), "pt") as file:
        filled = file.get_tensor("filled").numpy()[[back.index(name) for name in names]]
        assert '"fill": "' + how in file.metadata()["reid-aug"]
    assert filled[0, openpose_18.index("l_wrist")] and filled[3, openpose_18.index("r_knee")]
    np.testing.assert_array_equal((after >= 0).all(-1), visible | filled)
    np.testing.assert_array_equal(after[visible], yx[visible])
    for words, says in (
        (["--fill", "mirrored"], "a way of filling in joints is one of mirror, nearest, got 'mirrored'"),
        (["--fill", how, "--format", "coco"], "--fill says beside a CSV which joints are filled in, and coco has no place for that"),
    ):  # fmt: skip
        assert cli.main([*ask[:4], *words, "--out", str(tmp_path / "other")]) == 2
        assert says in capsys.readouterr().err


class OneWrist:
    """Sees everybody alike, without the left wrist, the surer the farther down a joint is."""

    name, has_masks = "one wrist", False

    def estimate(self, pictures: torch.Tensor, *, masks: bool = False) -> Estimated:
        pose = without(symmetric(torch.float32), "l_wrist")
        n = len(pictures)
        xy, visible = pose.xy.expand(n, -1, -1).clone(), pose.visible.expand(n, -1).clone()
        return Estimated(Pose(xy, visible, openpose_18, (128, 64)), torch.linspace(0.5, 0.9, 18).expand(n, -1).clone(), None)


def test_what_an_estimator_did_not_find_has_a_score_of_0(tmp_path: Path) -> None:
    for i in range(3):
        images.write(np.full((128, 64, 3), 90 + i, np.uint8), tmp_path / "in" / f"{i}.png")
    found = estimate_poses(str(tmp_path / "in"), OneWrist(), tmp_path / "k.csv", how_filled="mirror")
    wrist = openpose_18.index("l_wrist")
    assert found.filled is not None and found.filled.filled.sum(0)[wrist] == found.filled.filled.sum() == 3
    tensors = load_file(tmp_path / "k.csv.scores.safetensors")
    assert (tensors["scores"][:, wrist] == 0).all() and (tensors["scores"] > 0).sum() == 3 * 17
    assert torch.equal(tensors["filled"], torch.from_numpy(found.filled.filled))
    np.testing.assert_allclose(read_columns(tmp_path / "k.csv")[1][:, wrist], [[60, 47]] * 3, atol=1e-4)
    assert any(line == "filled by mirror: 3 wrists on 3 images: 0.png, 1.png, 2.png" for line in found.summary())
