"""From which side a body is seen, told from its keypoints alone."""

from __future__ import annotations

import torch
from torch import Tensor

from generators import Pose

# "right" faces the right edge of the image, and so shows its right side.
VIEWS = ("front", "right", "back", "left")
UNKNOWN = -1
# Shoulders and hips of a body that faces the camera are, in the mean, about half a torso apart; at 45° cos 45° of that.
SIDE_WIDTH = 0.35


def view(pose: Pose) -> Tensor:
    """The view of each body, int64 (*B): an index into VIEWS, or UNKNOWN where a shoulder or hip is not seen.

    Facing the camera, the right shoulder lies left of the left one in the image; the widths of shoulders and hips so
    signed, over the torso's length, are the cosine of the heading. Widths below SIDE_WIDTH are a side view, and what
    is seen of the face says which: nose and eyes lie ahead of the neck, and of the ears the near one is seen. Without
    a face, knees point forward and elbows backward; with nothing to tell, it is front or back by the widths' sign.
    A skeleton may lack joints: without hips (upper_7) every view is UNKNOWN.

    Example:
        >>> from generators.pose import openpose_18
        >>> xy, seen = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
        >>> for joint, at in dict(r_shoulder=(20, 20), l_shoulder=(40, 20), r_hip=(25, 50), l_hip=(35, 50)).items():
        ...     xy[openpose_18.index(joint)], seen[openpose_18.index(joint)] = torch.tensor(at).float(), True
        >>> VIEWS[view(Pose(xy, seen, openpose_18, (128, 64)))]
        'front'
    """
    (r_shoulder, l_shoulder, r_hip, l_hip), seen = _joints(pose, "r_shoulder", "l_shoulder", "r_hip", "l_hip")
    neck, loins = (r_shoulder + l_shoulder) / 2, (r_hip + l_hip) / 2
    torso = (neck - loins).norm(dim=-1)
    across = ((l_shoulder - r_shoulder) + (l_hip - r_hip))[..., 0] / 2
    right = _heading(pose, neck[..., 0])
    narrow = (across.abs() < SIDE_WIDTH * torso) & (right != 0)
    facing = torch.where(across >= 0, VIEWS.index("front"), VIEWS.index("back"))
    side = torch.where(right > 0, VIEWS.index("right"), VIEWS.index("left"))
    known = seen.all(0) & (torso > 0)
    return torch.where(known, torch.where(narrow, side, facing), UNKNOWN)


def _heading(pose: Pose, neck: Tensor) -> Tensor:
    """Positive where a body seen from the side faces the right edge, negative the left, 0 where nothing tells; (*B)."""
    face, seen = _joints(pose, "nose", "r_eye", "l_eye")
    found = torch.where(seen, face[..., 0] - neck, 0).sum(0)
    _, (r_ear, l_ear) = _joints(pose, "r_ear", "l_ear")
    found = torch.where(found == 0, r_ear.float() - l_ear.float(), found)
    bent = torch.zeros_like(found)
    for forward, first, middle, last in ((1, "hip", "knee", "ankle"), (-1, "shoulder", "elbow", "wrist")):
        for side in "rl":
            (a, b, c), there = _joints(pose, *(f"{side}_{joint}" for joint in (first, middle, last)))
            bent = bent + torch.where(there.all(0), forward * (b - (a + c) / 2)[..., 0], 0)
    return torch.where(found == 0, bent, found)


def _joints(pose: Pose, *names: str) -> tuple[Tensor, Tensor]:
    """Positions (len(names), *B, 2) of joints by name and whether each is seen; what the skeleton lacks is not."""
    xy, seen = [], []
    for name in names:
        there = name in pose.skeleton.joints
        joint = pose.skeleton.index(name) if there else 0
        xy.append(pose.xy[..., joint, :])
        seen.append(pose.visible[..., joint] & there)
    return torch.stack(xy), torch.stack(seen)


TORSO = ("r_shoulder", "l_shoulder", "r_hip", "l_hip")


def valid_for_pairs(pose: Pose) -> Tensor:
    """Bool (*B): whether both shoulders and both hips are visible, without which the papers drop an image (NOTES A1).

    A skeleton without hips (upper_7) needs both shoulders.
    """
    return pose.visible[..., [pose.skeleton.index(joint) for joint in TORSO if joint in pose.skeleton.joints]].all(-1)
