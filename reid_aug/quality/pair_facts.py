"""What is difficult about a pair of poses: how far joints move, how size changes, what is missing, hidden, or small."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from generators import Pose, Skeleton, named_joints
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.training_pairs import batched_poses

MOVING = tuple(f"{side}_{joint}" for side in "rl" for joint in ("elbow", "wrist", "knee", "ankle"))
REACH = 0.1  # how near a hidden joint is to another limb's middle line, in how far the body's joints spread
Pair = tuple[PersonImage, PersonImage]


def pair_facts(pairs: Sequence[Pair], size: tuple[int, int]) -> dict[str, Tensor]:
    """Return facts (N), float64, of (source, target) images by name, poses taken at `size` (H, W); nan where poses tell none.

    ValueError where an image has no pose.
    """
    for person in (person for pair in pairs for person in pair):
        if person.pose is None:
            raise ValueError(f"strata are of poses, and {person.name} has none")
    both = batched_poses([pair[side].pose for side in (0, 1) for pair in pairs], size)  # type: ignore[misc]
    source, target = both[: len(pairs)], both[len(pairs) :]
    heights = [pair[0].pose.size[0] for pair in pairs if pair[0].pose is not None]  # a pose is in the pixels of its file
    return {
        "pose distance": pose_distance(source, target), "scale ratio": scale_ratio(source, target),
        "missing joints": sum((~pose.visible).sum(-1) for pose in (source, target)).double(),  # type: ignore[union-attr]
        "self-occluded joints": sum(self_occluded(pose).sum(-1) for pose in (source, target)).double(),  # type: ignore[union-attr]
        "image resolution": torch.tensor(heights, dtype=torch.float64),
    }  # fmt: skip


def pose_distance(source: Pose, target: Pose) -> Tensor:
    """Return the mean distance (N) of the joints that both poses show, in heights of the image; nan where they share none.

    >>> from generators import upper_7
    >>> pose = Pose(torch.zeros(1, 7, 2), torch.ones(1, 7, dtype=torch.bool), upper_7, (50, 50))
    >>> pose_distance(pose, Pose(pose.xy + torch.tensor([3.0, 4.0]), pose.visible, upper_7, (50, 50)))
    tensor([0.1000], dtype=torch.float64)
    """
    both = source.visible & target.visible
    distance = (target.xy.double() - source.xy.double()).norm(dim=-1)
    return (distance * both).sum(-1) / both.sum(-1) / target.size[0]


def scale_ratio(source: Pose, target: Pose) -> Tensor:
    """Return how many times as far the joints that both poses show spread in the target (N); nan where less than two are shared.

    >>> from generators import upper_7
    >>> pose = Pose(torch.arange(14.0).view(1, 7, 2), torch.ones(1, 7, dtype=torch.bool), upper_7, (50, 50))
    >>> scale_ratio(pose, Pose(2 * pose.xy + 1, pose.visible, upper_7, (50, 50)))
    tensor([2.], dtype=torch.float64)
    """
    both = source.visible & target.visible
    ratio = _spread(target.xy, both) / _spread(source.xy, both)
    return torch.where(ratio.isfinite() & (ratio > 0), ratio, torch.nan)


def _spread(xy: Tensor, seen: Tensor) -> Tensor:
    """Return the root mean square distance (N) of the joints seen from their mean; nan without any."""
    xy, weight = xy.double(), seen.double()[..., None] / seen.sum(-1)[..., None, None]
    return ((xy - (xy * weight).sum(1, keepdim=True)).square() * weight).sum((1, 2)).sqrt()


def self_occluded(pose: Pose) -> Tensor:
    """Tell which elbows, wrists, knees and ankles lie on another part of the body, bool (N, K): one of the two is behind the other.

    That is within REACH of another limb's line, or, of arms, inside the torso. Poses in two dimensions do not say who is in front.
    """
    skeleton, on_part = pose.skeleton, torch.zeros_like(pose.visible)
    reach = REACH * _spread(pose.xy, pose.visible)
    for joint in (joint for joint in MOVING if joint in skeleton.joints):
        k = skeleton.index(joint)
        on_part[:, k] = _near_another_limb(pose, k, reach)
        if joint.endswith(("elbow", "wrist")):
            on_part[:, k] |= _in_torso(pose, k)
    return on_part & pose.visible


def _near_another_limb(pose: Pose, joint: int, reach: Tensor) -> Tensor:
    """Tell whether a joint lies within `reach` (N) of a limb that it is no end of, (N) bool."""
    edges = [edge for edge in _limb_lines(pose.skeleton) if joint not in edge]
    if not edges:
        return torch.zeros_like(reach, dtype=torch.bool)
    a, b = (pose.xy[:, [edge[end] for edge in edges]].double() for end in (0, 1))  # (N, E, 2)
    seen = torch.stack([pose.visible[:, list(edge)].all(-1) for edge in edges], 1)
    along, there = b - a, pose.xy[:, joint, None].double() - a
    share = ((there * along).sum(-1) / along.square().sum(-1).clamp(min=1e-12)).clamp(0, 1)
    return (((there - share[..., None] * along).norm(dim=-1) < reach[:, None]) & seen).any(1)


def _limb_lines(skeleton: Skeleton) -> list[tuple[int, int]]:
    """Return the lines of arms and legs."""
    ends = {skeleton.index(joint) for joint in MOVING if joint in skeleton.joints}
    return [edge for edge in skeleton.edges if ends & set(edge)]


def _in_torso(pose: Pose, joint: int) -> Tensor:
    """Tell whether a joint lies inside the quadrilateral of shoulders and hips, (N) bool, by the even-odd rule."""
    corners, seen = named_joints(pose, "r_shoulder", "l_shoulder", "l_hip", "r_hip")  # (4, N, 2)
    (x, y), inside = pose.xy[:, joint].double().unbind(-1), torch.zeros_like(pose.visible[:, 0])
    for (x0, y0), (x1, y1) in _sides(corners):
        crosses = (y0 > y) != (y1 > y)
        at = x0 + (y - y0) / torch.where(crosses, y1 - y0, 1.0) * (x1 - x0)
        inside = inside ^ (crosses & (x < at))
    return inside & seen.all(0)


def _sides(corners: Tensor) -> list[tuple[tuple[Tensor, ...], tuple[Tensor, ...]]]:
    """Return the ends ((x, y), (x, y)) of a polygon's sides, from its corners (C, N, 2)."""
    points = [corner.unbind(-1) for corner in corners.double()]
    return list(zip(points, [*points[1:], points[0]], strict=True))
