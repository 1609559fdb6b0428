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
from reid_aug.quality.metrics import Around, Batch, Metric, Running, Value, named
from reid_aug.quality.networks import NotMeasurable

HEAD = ("nose", "neck", "r_eye", "l_eye", "r_ear", "l_ear")


class Pckh(Metric):
    """PCKh (Zhu et al. 2019): the share of target joints found again within half a head on each axis.

    A head is the box round nose, neck, eyes and ears of the target pose; images with less than two of them are left out, and a joint that
    the estimator does not see is wrong.
    """

    kind: Literal["pckh"]
    share: PositiveFloat = 0.5
    keypoints: str | None = None  # joints that another estimator found on the generated images: the field's CSV, by file name

    def start(self, around: Around) -> Running:
        share, estimate, how = self.share, *self._estimator(around)

        class Found(Running):
            def __init__(self) -> None:
                self.right = self.joints = self.counted = 0

            def update(self, batch: Batch) -> None:
                right, joints = pckh_counts(estimate(batch), batch.target_pose, share)
                self.right, self.joints = self.right + int(right.sum()), self.joints + int(joints.sum())
                self.counted += int((joints > 0).sum())

            def values(self, name: str) -> dict[str, Value]:
                if not self.joints:
                    raise NotMeasurable("no target pose with two joints of a head")
                return {name: Value(self.right / self.joints, self.counted, f"{how}; {share:g} × the head's box on each axis")}

        return Found()

    def _estimator(self, around: Around) -> tuple[Callable[[Batch], Pose], str]:
        """What finds joints on generated images, and how results name it."""
        if self.keypoints is None:
            network = around.networks.estimator
            return lambda batch: network(batch.generated), named(network)
        known: dict[tuple[int, int], Keypoints] = {}

        def look_up(batch: Batch) -> Pose:
            size = batch.target_pose.size
            if size not in known:
                known[size] = read_keypoints(self.keypoints, size=size)  # type: ignore[arg-type]
            lost = next((file for file in batch.files if file not in known[size]), None)
            if lost is not None:
                raise ValueError(f"{self.keypoints} has no row for the generated image {lost}")
            return Pose.stack([known[size][file] for file in batch.files])

        return look_up, f"joints of {Path(self.keypoints).name}"


def pckh_counts(estimated: Pose, wanted: Pose, share: float = 0.5) -> tuple[Tensor, Tensor]:
    """How many joints of each image are right, and how many count, both (B,) int; both 0 for a head of less than two joints.

    As Pose-Transfer's calPCKH_market.py: |dx| below `share` × the head box's width and |dy| below that of its height.
    ValueError for poses that are not as many, or not of images of one size.
    """
    for what in ("batch_shape", "size"):
        mine, theirs = (tuple(getattr(pose, what)) for pose in (estimated, wanted))
        if mine != theirs:
            raise ValueError(f"estimated poses have the {what} of those wanted, {theirs}, got {mine}")
    wanted = wanted.to("cpu")
    found = convert(estimated.to("cpu"), wanted.skeleton)
    head = [wanted.skeleton.index(joint) for joint in HEAD if joint in wanted.skeleton.joints]
    xy, seen = wanted.xy[:, head], wanted.visible[:, head, None]
    low, high = (xy.masked_fill(~seen, big).amin(1) if big > 0 else xy.masked_fill(~seen, big).amax(1) for big in (np.inf, -np.inf))
    counts = seen.sum((1, 2)) >= 2
    near = ((found.xy - wanted.xy).abs() < share * (high - low).nan_to_num(0.0)[:, None]).all(-1)
    joints = wanted.visible & counts[:, None]
    return (near & found.visible & joints).sum(1), joints.sum(1)
