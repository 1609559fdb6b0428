"""What is done to people wherever they come from: their poses attached."""

from __future__ import annotations

import pytest
import torch

from generators import Pose, openpose_18
from reid_aug.data.people import PersonImage, attach_poses


def a_pose(x: float = 1.0) -> Pose:
    return Pose(torch.full((18, 2), x), torch.ones(18, dtype=torch.bool), openpose_18, (128, 64))


def crowd(n: int = 4) -> list[PersonImage]:
    return [PersonImage(f"/d/{i}.jpg", i, 0, "train") for i in range(n)] + [PersonImage("/d/q.jpg", 9, 0, "query")]


def test_poses_attach_by_path_first_then_by_name() -> None:
    poses = {"0.jpg": a_pose(0), "/d/0.jpg": a_pose(7), "1.jpg": a_pose(1), "q.jpg": a_pose(2)}
    out = attach_poses(crowd(), poses)
    assert [p.path for p in out] == [p.path for p in crowd()]
    assert out[0].pose is poses["/d/0.jpg"] and out[1].pose is poses["1.jpg"] and all(p.pose is None for p in out[2:])
    both = attach_poses(out, poses, splits=("query",))
    assert both[4].pose is poses["q.jpg"] and both[0].pose is out[0].pose


def test_poses_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"1 of 4 train images have a pose, at least half must; without one: 3 not named there \(0.jpg, 2.jpg, 3.jpg\)$"
    ):
        attach_poses(crowd(), {"1.jpg": a_pose()})
    with pytest.raises(ValueError, match="0 of 6 train and query images .* \(0.jpg, 1.jpg, 2.jpg and 3 more\)"):
        attach_poses(crowd(5), {}, splits=("train", "query"))
    with pytest.raises(ValueError, match="0 of 0 gallery images .* no image at all"):
        attach_poses(crowd(), {}, splits=("gallery",))
    with pytest.raises(ValueError, match=r"got 'querry' \(did you mean 'query'\?\)"):
        attach_poses(crowd(), {}, splits=("querry",))
    with pytest.raises(ValueError, match=r"the pose of one image is \(K, 2\), that of '0.jpg' is \(1, 18, 2\)"):
        attach_poses(crowd(1), {"0.jpg": Pose.stack([a_pose()])})
