"""Pose estimators by name, behind one small interface: images in, the joints of the person shown and how sure each is, out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from generators import Pose, Skeleton, convert, made_of, no_such
from reid_aug.device import torch_device
from reid_aug.weights import find


class Estimated(NamedTuple):
    """Joints of N images and how sure each is: `pose` (N, K) in the images' pixels, `scores` float32 (N, K) in [0, 1].

    A joint is visible in the pose where the estimator takes it as found; its score is kept where it is not.
    `masks`, where they were asked for and the estimator has them, say how surely a pixel is the person's: float32 (N, H, W) in [0, 1].
    """

    pose: Pose
    scores: Tensor
    masks: Tensor | None = None


class PoseEstimator(Protocol):
    """Finds the joints of the person that an image shows."""

    name: str  # What it is, with its version: kept beside what it found.
    has_masks: bool  # Whether it can tell the person's pixels, too.

    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the joints of the person on each of uint8 images (N, 3, H, W)."""
        ...


def _mediapipe(variant: str) -> Callable[[torch.device], PoseEstimator]:
    def build(device: torch.device) -> PoseEstimator:
        from reid_aug.data.estimators.mediapipe import BlazePose

        return BlazePose(variant)

    return build


def _rtmpose(device: torch.device) -> PoseEstimator:
    from reid_aug.data.estimators.rtmpose import RtmPose

    return RtmPose(device)


def _keypoint_rcnn(device: torch.device) -> PoseEstimator:
    from reid_aug.data.estimators.keypoint_rcnn import KeypointRcnn

    return KeypointRcnn(partial(find, download=True), device)


def _distilled(device: torch.device, file: str | None = None) -> PoseEstimator:
    from reid_aug.data.estimators.distilled import Distilled

    return Distilled(file, device)


ESTIMATORS: dict[str, Callable[[torch.device], PoseEstimator]] = {
    "mediapipe": _mediapipe("full"),
    "mediapipe-lite": _mediapipe("lite"),
    "mediapipe-heavy": _mediapipe("heavy"),
    "rtmpose": _rtmpose,
    "keypointrcnn": _keypoint_rcnn,
    "distilled": _distilled,
}


def load_estimator(name: str, device: str | torch.device = "auto") -> PoseEstimator:
    """Load an estimator by name, or the pose network of a checkpoint, PATH.safetensors.

    ValueError for an unknown one, ModuleNotFoundError or MissingWeights say what to install or fetch.
    """
    if name.endswith(".safetensors"):
        return _distilled(torch_device(device), name)
    if name not in ESTIMATORS:
        raise ValueError(f"{no_such('pose estimator', name, list(ESTIMATORS))}, or give a checkpoint, FILE.safetensors")
    return ESTIMATORS[name](torch_device(device))


def on_skeleton(estimated: Estimated, skeleton: Skeleton) -> Estimated:
    """Convert what was estimated to another skeleton: a joint made of others is as sure as the least sure of those it is made of.

    >>> from generators import coco_17, openpose_18
    >>> scores = torch.full((1, 17), 0.9).index_fill(1, torch.tensor(coco_17.index("l_shoulder")), 0.4)
    >>> pose = Pose(torch.zeros(1, 17, 2), torch.ones(1, 17, dtype=torch.bool), coco_17, (64, 32))
    >>> round(on_skeleton(Estimated(pose, scores), openpose_18).scores[0, openpose_18.index("neck")].item(), 3)
    0.4
    """
    old = estimated.pose.skeleton
    parts = ([old.index(name) for name in made_of(joint, old, skeleton)] for joint in skeleton.joints)
    pose = convert(estimated.pose, skeleton)  # refuses a joint that can't be made
    return Estimated(pose, torch.stack([estimated.scores[:, part].amin(1) for part in parts], 1), estimated.masks)


def usual_estimator() -> str:
    """Name the estimator for who names none: "mediapipe" where its runtime is installed, else "distilled", which needs nothing."""
    return "mediapipe" if find_spec("ai_edge_litert") is not None else "distilled"


def needs(module: str, estimator: str, install: str) -> None:
    """Raise ModuleNotFoundError, with the command that installs it, for a package that an estimator needs and that is not there."""
    if find_spec(module) is None:
        raise ModuleNotFoundError(f"the estimator {estimator!r} needs {module}: pip install {install}", name=module)
