"""From which side a pose shows its body, as numbers: near where bodies are near in view."""

from __future__ import annotations

import torch
from torch import Tensor

from generators.pose import Pose, named_joints


def view_descriptor(pose: Pose, dtype: torch.dtype = torch.float64) -> Tensor:
    """Describe from which side, and how large, each body is seen: (*B, 4) of `dtype`, near where bodies are near in view.

    With t the torso's length, the root mean square of both sides': twice the width of the shoulders, the width of the
    hips, both positive facing the camera, 1.5 times how far right of the shoulders' middle the nose is (0 where none is seen),
    each over t, and log t in pixels, so that poses to compare are of one image size. NaN where a shoulder or hip is not seen.

    >>> from generators.pose import coco_17
    >>> xy, seen = torch.zeros(17, 2), torch.zeros(17, dtype=torch.bool)
    >>> for joint, at in dict(r_shoulder=(20, 20), l_shoulder=(40, 20), r_hip=(20, 60), l_hip=(40, 60), nose=(32, 10)).items():
    ...     xy[coco_17.index(joint)], seen[coco_17.index(joint)] = torch.tensor(at).float(), True
    >>> view_descriptor(Pose(xy, seen, coco_17, (128, 64)))  # log 40 = 3.6889
    tensor([1.0000, 0.5000, 0.0750, 3.6889], dtype=torch.float64)
    """
    xy, seen = named_joints(pose, "r_shoulder", "l_shoulder", "r_hip", "l_hip", "nose")
    r_shoulder, l_shoulder, r_hip, l_hip, nose = xy.to(dtype)
    squares = (r_shoulder - r_hip).square().sum(-1) + (l_shoulder - l_hip).square().sum(-1)
    torso = (squares / 2).sqrt().clamp(min=1)  # a pixel at least
    ahead = torch.where(seen[4], nose[..., 0] - (r_shoulder + l_shoulder)[..., 0] / 2, 0)
    across = [2 * (l_shoulder - r_shoulder)[..., 0], (l_hip - r_hip)[..., 0], 1.5 * ahead]
    descriptor = torch.stack([*(width / torso for width in across), torso.log()], -1)
    return torch.where(seen[:4].all(0)[..., None], descriptor, torch.nan)


def view_gap(pose: Pose, other: Pose) -> Tensor:
    """Return how far apart (*B) the sides are that two bodies are seen from: 0 for the same, about 4 for a front and a back.

    Infinity where a shoulder or hip of either is not seen.
    """
    views, others = (view_descriptor(body, body.xy.dtype) for body in (pose, other))  # not every device has float64
    apart = (views - others)[..., :3].norm(dim=-1)
    return apart.nan_to_num(nan=torch.inf)
