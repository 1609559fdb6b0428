"""A standing figure whose joints and pixels are known, for tests of what moves people: moved, with joints missing, painted.

`conftest.py` puts this folder on the path.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from generators import Pose
from generators.pose import openpose_18
from generators.skinning import outlines

SIZE = (128, 64)
TORSO_COLOUR, LIMB_COLOUR, PLACE = (0.8, -0.6, -0.6), (-0.7, -0.7, 0.6), (0.0, 0.3, -0.2)
STANDING = {
    "nose": (32, 14), "neck": (32, 26), "r_shoulder": (22, 27), "l_shoulder": (42, 27), "r_elbow": (18, 42), "l_elbow": (46, 42),
    "r_wrist": (16, 56), "l_wrist": (48, 56), "r_hip": (26, 62), "l_hip": (38, 62), "r_knee": (25, 88), "l_knee": (39, 88),
    "r_ankle": (25, 114), "l_ankle": (39, 114), "r_eye": (30, 12), "l_eye": (34, 12), "r_ear": (27, 14), "l_ear": (37, 14),
}  # fmt: skip


def standing(dtype: torch.dtype = torch.float32) -> Pose:
    xy = torch.tensor([STANDING[joint] for joint in openpose_18.joints], dtype=dtype)
    return Pose(xy[None], torch.ones(1, 18, dtype=torch.bool), openpose_18, SIZE)


def moved(pose: Pose, matrix: list[list[float]], shift: list[float]) -> Pose:
    linear = torch.tensor(matrix, dtype=pose.xy.dtype)
    return replace(pose, xy=pose.xy @ linear.T + torch.tensor(shift, dtype=pose.xy.dtype))


def without(pose: Pose, *names: str) -> Pose:
    visible = pose.visible.clone()
    visible[:, [openpose_18.index(name) for name in names]] = False
    return replace(pose, visible=visible, xy=torch.where(visible[..., None], pose.xy, 0.0))


def painted(pose: Pose, place: tuple[float, float, float] = PLACE, radius: float = 0.0) -> Tensor:
    """Paint a figure: torso and head in one colour, limbs in another, on a plain place."""
    outside = outlines(pose)
    colours = torch.tensor([TORSO_COLOUR, TORSO_COLOUR, *[LIMB_COLOUR] * 8])
    part = torch.where(outside <= radius, outside + torch.tensor([1.0, 0.0, *[-1.0] * 8])[:, None, None], torch.inf).argmin(1)
    inside = (outside <= radius).any(1)
    image = torch.where(inside[..., None], colours[part], torch.tensor(place))
    return image.permute(0, 3, 1, 2)
