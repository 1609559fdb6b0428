"""What a pose shows of a body: whether its torso is seen, from which side, and how large."""

from __future__ import annotations

import torch
from torch import Tensor

from generators import Pose, named_joints

TORSO = ("r_shoulder", "l_shoulder", "r_hip", "l_hip")
THIGHS = ("r_hip", "l_hip", "r_knee", "l_knee")
# "right" faces the right edge of the image, and so shows its right side.
VIEWS = ("front", "right", "back", "left")
UNKNOWN = -1
# Shoulders and hips of a body that faces the camera are, in the mean, about half a torso apart; at 45° cos 45° of that.
SIDE_WIDTH = 0.35


def valid_for_pairs(pose: Pose) -> Tensor:
    """Tell whether both shoulders and both hips are visible, bool (*B); else the papers drop an image (Siarohin et al. 2018).

    A skeleton without hips (upper_7) needs both shoulders.

    >>> from generators import openpose_18
    >>> seen = torch.ones(2, 18, dtype=torch.bool)
    >>> seen[1, openpose_18.index("l_hip")] = False
    >>> valid_for_pairs(Pose(torch.zeros(2, 18, 2), seen, openpose_18, (128, 64)))
    tensor([ True, False])
    """
    return pose.visible[..., [pose.skeleton.index(joint) for joint in TORSO if joint in pose.skeleton.joints]].all(-1)


def shows_legs(pose: Pose) -> Tensor:
    """Tell whether both hips and both knees are visible, bool (*B): what somebody wears below can be told; never on a skeleton without.

    >>> from generators import Pose, openpose_18
    >>> seen = torch.ones(2, 18, dtype=torch.bool)
    >>> seen[1, openpose_18.index("l_knee")] = False
    >>> shows_legs(Pose(torch.zeros(2, 18, 2), seen, openpose_18, (128, 64)))
    tensor([ True, False])
    """
    return named_joints(pose, *THIGHS)[1].all(0)


def view(pose: Pose) -> Tensor:
    """Give the view of each body, int64 (*B): an index into VIEWS, or UNKNOWN where a shoulder or hip is not seen.

    Facing the camera, the right shoulder lies left of the left one in the image. So the widths of shoulders and hips,
    with that sign and over the torso's length, are the cosine of the heading. A width below SIDE_WIDTH is a side view,
    and what is seen of the face says which side: nose and eyes lie ahead of the neck, and the ear that is seen is the
    near one. Without a face, knees point forward and elbows backward. Where nothing tells a side, the view is front or
    back by the sign. Without hips (upper_7) every view is UNKNOWN.

    >>> from generators import openpose_18
    >>> xy, seen = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
    >>> for joint, at in dict(r_shoulder=(20, 20), l_shoulder=(40, 20), r_hip=(25, 50), l_hip=(35, 50)).items():
    ...     xy[openpose_18.index(joint)], seen[openpose_18.index(joint)] = torch.tensor(at).float(), True
    >>> VIEWS[view(Pose(xy, seen, openpose_18, (128, 64)))]
    'front'
    """
    (r_shoulder, l_shoulder, r_hip, l_hip), seen = named_joints(pose, *TORSO)
    neck, loins = (r_shoulder + l_shoulder) / 2, (r_hip + l_hip) / 2
    torso = (neck - loins).norm(dim=-1)
    across = ((l_shoulder - r_shoulder) + (l_hip - r_hip))[..., 0] / 2
    heading = _heading(pose, neck[..., 0])
    sideways = (across.abs() < SIDE_WIDTH * torso) & (heading != 0)
    facing = torch.where(across >= 0, VIEWS.index("front"), VIEWS.index("back"))
    side = torch.where(heading > 0, VIEWS.index("right"), VIEWS.index("left"))
    measurable = seen.all(0) & (torso > 0)
    return torch.where(measurable, torch.where(sideways, side, facing), UNKNOWN)


def _heading(pose: Pose, neck: Tensor) -> Tensor:
    """Tell where a body seen from the side faces, (*B): positive the right edge, negative the left, 0 where nothing tells."""
    face, face_seen = named_joints(pose, "nose", "r_eye", "l_eye")
    heading = torch.where(face_seen, face[..., 0] - neck, 0).sum(0)
    _, (r_ear, l_ear) = named_joints(pose, "r_ear", "l_ear")
    heading = torch.where(heading == 0, r_ear.float() - l_ear.float(), heading)
    bent = torch.zeros_like(heading)
    for forward, first, middle, last in ((1, "hip", "knee", "ankle"), (-1, "shoulder", "elbow", "wrist")):
        for side in "rl":
            (a, b, c), seen = named_joints(pose, *(f"{side}_{joint}" for joint in (first, middle, last)))
            bent = bent + torch.where(seen.all(0), forward * (b - (a + c) / 2)[..., 0], 0)
    return torch.where(heading == 0, bent, heading)
