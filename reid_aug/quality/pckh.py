"""PCKh: are people in the pose that was asked for? Joints are found again on the generated images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import PositiveFloat
from torch import Tensor

from generators import Pose, convert
from reid_aug.data.keypoints import Keypoints, read_keypoints
from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.networks import NotMeasurable, network_name
from reid_aug.quality.surroundings import Surroundings

HEAD = ("nose", "neck", "r_eye", "l_eye", "r_ear", "l_ear")


class Pckh(Metric):
    """PCKh (Zhu et al. 2019): the share of target joints found again within half a head on each axis.

    A head is the box round nose, neck, eyes and ears of the target pose; images with less than two of them are left out, and a joint that
    the estimator does not see is wrong.
    """

    kind: Literal["pckh"]
    share: PositiveFloat = 0.5  # How much of the head's width and height a joint may be off.
    keypoints: str | None = None  # File of joints that another estimator found on the generated images: the field's CSV, by file name.

    def start(self, name: str, surroundings: Surroundings) -> FoundJoints:
        """Begin to measure; MissingWeights without the estimator."""
        if self.keypoints is not None:
            return FoundJoints(name, self.share, JointsOfFile(self.keypoints), f"joints of {Path(self.keypoints).name}")
        network = surroundings.networks.estimator
        return FoundJoints(name, self.share, lambda batch: network(batch.generated), network_name(network))


class FoundJoints:
    """The share of joints found again, over all images with a head."""

    def __init__(self, name: str, share: float, estimate: Callable[[Batch], Pose], how: str) -> None:
        self.name, self.share, self.estimate, self.how = name, share, estimate, how
        self.right = self.joints = self.images = 0

    def update(self, batch: Batch) -> None:
        """Count a batch's joints."""
        right, joints = pckh_counts(self.estimate(batch), batch.target_pose, self.share)
        self.right, self.joints = self.right + int(right.sum()), self.joints + int(joints.sum())
        self.images += int((joints > 0).sum())

    def compute(self) -> Measured:
        """Return the share; NotMeasurable when no joint counts."""
        if not self.joints:
            raise NotMeasurable("no target pose with two joints of a head")
        how = f"{self.how}; {self.share:g} × the head's box on each axis"
        return Measured({self.name: Value(self.right / self.joints, self.images, how)})


class JointsOfFile:
    """Joints on generated images as a keypoint file has them, by the images' file names; read with the first batch."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._by_size: dict[tuple[int, int], Keypoints] = {}

    def __call__(self, batch: Batch) -> Pose:
        """Look a batch's joints up; ValueError for an image without a row."""
        size = batch.target_pose.size
        if size not in self._by_size:
            self._by_size[size] = read_keypoints(self.path, size=size)
        joints = self._by_size[size]
        lost = next((file for file in batch.files if file not in joints), None)
        if lost is not None:
            raise ValueError(f"{self.path} has no row for the generated image {lost}")
        return Pose.stack([joints[file] for file in batch.files])


def pckh_counts(estimated: Pose, target: Pose, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """Count how many joints of each image are right, and how many count, both (B,) int; both 0 for a head of less than two joints.

    As Pose-Transfer's calPCKH_market.py: |dx| below `share` × the head box's width and |dy| below that of its height.
    ValueError for poses that are not as many, or not of images of one size.

    >>> import torch
    >>> from generators import coco_17
    >>> xy, seen = torch.arange(34.0).view(1, 17, 2), torch.ones(1, 17, dtype=torch.bool)  # a head of 8 × 8 pixels
    >>> off = torch.zeros(1, 17, 2).index_fill(1, torch.tensor([14]), 4.0).index_fill(1, torch.tensor([15, 16]), 3.9)
    >>> pckh_counts(Pose(xy + off, seen, coco_17, (64, 64)), Pose(xy, seen, coco_17, (64, 64)))
    (tensor([16]), tensor([17]))
    """
    for what in ("batch_shape", "size"):
        of_estimated, of_target = (tuple(getattr(pose, what)) for pose in (estimated, target))
        if of_estimated != of_target:
            raise ValueError(f"estimated poses have the {what} of those wanted, {of_target}, got {of_estimated}")
    target = target.to("cpu")
    estimated = convert(estimated.to("cpu"), target.skeleton)
    head = [target.skeleton.index(joint) for joint in HEAD if joint in target.skeleton.joints]
    xy, seen = target.xy[:, head], target.visible[:, head, None]
    low, high = (xy.masked_fill(~seen, big).amin(1) if big > 0 else xy.masked_fill(~seen, big).amax(1) for big in (np.inf, -np.inf))
    counts = seen.sum((1, 2)) >= 2
    near = ((estimated.xy - target.xy).abs() < share * (high - low).nan_to_num(0.0)[:, None]).all(-1)
    joints = target.visible & counts[:, None]
    return (near & estimated.visible & joints).sum(1), joints.sum(1)
