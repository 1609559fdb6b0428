"""PCKh by hand, by any estimator, and by joints from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generators import Pose, coco_17, openpose_18
from reid_aug.data.keypoints import write_keypoints
from reid_aug.quality.measure import measure
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.pckh import pckh_counts
from reid_aug.quality.protocols import QualityProtocol
from reid_aug.quality.surroundings import Surroundings


class TestPckh:
    def target(self) -> Pose:
        xy = torch.zeros(1, 18, 2)
        xy[0, :, 0], xy[0, :, 1] = torch.arange(18.0), 10 + torch.arange(18.0)
        head = [openpose_18.index(j) for j in ("nose", "neck")]
        xy[0, head[0]], xy[0, head[1]] = torch.tensor([10.0, 5.0]), torch.tensor([14.0, 15.0])
        seen = torch.ones(1, 18, dtype=torch.bool)
        seen[0, [openpose_18.index(j) for j in ("r_eye", "l_eye", "r_ear", "l_ear", "l_ankle")]] = False
        return Pose(xy * seen[..., None], seen, openpose_18, (64, 32))

    def test_by_hand(self) -> None:
        target = self.target()  # a head of 4 × 10 pixels: 2 and 5 are the limits, and do not count as within
        xy, seen = target.xy.clone(), target.visible.clone()
        at = {joint: openpose_18.index(joint) for joint in openpose_18.joints}
        xy[0, at["r_wrist"], 0] += 1.9
        xy[0, at["l_wrist"], 0] += 2.0
        xy[0, at["r_knee"], 1] -= 4.9
        xy[0, at["l_knee"], 1] -= 5.0
        seen[0, at["r_hip"]] = False
        right, joints = pckh_counts(Pose(xy * seen[..., None], seen, openpose_18, (64, 32)), target)
        assert joints.tolist() == [13] and right.tolist() == [13 - 3]

    def test_a_head_of_one_joint_leaves_the_image_out(self) -> None:
        target = self.target()
        seen = target.visible.clone()
        seen[0, openpose_18.index("neck")] = False
        target = Pose(target.xy * seen[..., None], seen, openpose_18, (64, 32))
        assert [t.tolist() for t in pckh_counts(target, target)] == [[0], [0]]

    def test_an_estimator_of_another_skeleton(self, networks: Networks) -> None:
        estimated = networks.estimator(torch.zeros(2, 3, 64, 32, dtype=torch.uint8))
        xy = torch.tensor([16.0, 32.0]).expand(2, 18, 2).clone()
        xy[:, 0] -= 3
        right, joints = pckh_counts(estimated, Pose(xy, torch.ones(2, 18, dtype=torch.bool), openpose_18, (64, 32)))
        assert joints.tolist() == [18, 18] and right.tolist() == [17, 17]  # the nose is 3 px off, half a head 1.5


def test_joints_of_any_estimator_by_a_file(batches: list[Batch], whole: Batch, surroundings: Surroundings, tmp_path: Path) -> None:
    path = tmp_path / "found.csv"
    write_keypoints(path, list(whole.files), whole.target_pose)
    protocol = QualityProtocol.model_validate({"metrics": {"PCKh": {"keypoints": str(path)}}})
    share = measure(batches, protocol, surroundings).values["PCKh"]
    assert share.value > 0.9 and "found.csv" in share.how  # the file's whole pixels are within half a head, but for flat heads
    write_keypoints(path, list(whole.files)[1:], whole.target_pose[1:])
    with pytest.raises(ValueError, match=f"no row for the generated image {whole.files[0]}"):
        measure(batches, protocol, surroundings)


def poses(count: int, size: tuple[int, int]) -> Pose:
    xy = torch.rand(count, len(coco_17.joints), 2, generator=torch.Generator().manual_seed(0)) * 16
    return Pose(xy, torch.ones(count, len(coco_17.joints), dtype=torch.bool), coco_17, size)


def test_estimated_poses_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"batch_shape of those wanted, \(4,\), got \(1,\)"):
        pckh_counts(poses(1, (32, 16)), poses(4, (32, 16)))
    with pytest.raises(ValueError, match=r"size of those wanted, \(32, 16\), got \(64, 32\)"):
        pckh_counts(poses(4, (64, 32)), poses(4, (32, 16)))
