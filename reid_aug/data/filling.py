"""Filling in limb joints that nobody found: from the body's other side, or from the most similar body of the same files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from generators import Pose, named_joints, one_of, openpose_18
from reid_aug.data.body import TORSO, VIEWS, valid_for_pairs, view
from reid_aug.data.doubts import first_few

FILLS = ("mirror", "nearest")
# Each after the joint that it hangs on.
LIMBS = {"elbow": "shoulder", "wrist": "elbow", "knee": "hip", "ankle": "knee"}
OTHERS = 2000  # bodies that are compared with at most: those that show most joints
LACKING = 1.0  # torso lengths that a joint counts which the other body lacks
BLOCK = 64


@dataclass(frozen=True, eq=False)
class Filled:
    """Poses with joints filled in, and which they are, bool (N, 18)."""

    poses: tuple[Pose, ...]
    filled: np.ndarray
    how: str

    def summary(self, names: Sequence[str]) -> str:
        """Tell in a line how many joints of which kind are filled in, and on which images."""
        rows = np.flatnonzero(self.filled.any(1)).tolist()
        if not rows:
            return f"filled by {self.how}: nothing, no image lacks an elbow, wrist, knee or ankle that could be told"
        kinds = Counter(openpose_18.joints[joint][2:] for joint in np.nonzero(self.filled)[1].tolist())
        words = ", ".join(f"{count:,} {kind}{'s' if count > 1 else ''}" for kind, count in kinds.most_common())
        return f"filled by {self.how}: {words} on {len(rows):,} images: {first_few([names[i] for i in rows])}"


def fill(poses: Sequence[Pose], how: str) -> Filled:
    """Fill in missing elbows, wrists, knees and ankles of N poses (18, 2), each of its own size, where the torso is seen.

    "mirror" takes the other side's limb, from the joint that it hangs on (elbow from shoulder, wrist from elbow, knee from hip, ankle
    from knee): in a front or back view mirrored at the torso's axis, from the middle of the shoulders to that of the hips; in a side
    view as it is, for there both limbs are seen from the same side. "nearest" takes all that is missing from one other body: that whose
    visible joints are nearest in the mean, once its shoulders and hips are brought onto this one's by the turn, factor and shift of
    least squares; a joint that it lacks counts as one torso length away, and who shows more of what is missing comes first. Of more
    than 2,000 bodies those that show most joints are compared with. Heads are never filled in: a back has no face. Nor is what would lie
    outside the image. Of CUHK03's limb joints, hidden one a body, both come within 0.2 torso lengths in the median.
    ValueError for another way.
    """
    one_of("a way of filling in joints", how, FILLS)
    filled = np.zeros((len(poses), len(openpose_18)), bool)
    if not poses:
        return Filled((), filled, how)
    xy, seen = torch.stack([pose.xy for pose in poses]).double(), torch.stack([pose.visible for pose in poses])
    # Sizes differ, and nothing here depends on them but whether a joint lies inside.
    together = Pose(xy, seen, openpose_18, poses[0].size)
    usable = valid_for_pairs(together)
    whole = _mirrored(together, usable) if how == "mirror" else _from_nearest(together, usable)
    edge = torch.tensor([[pose.size[1], pose.size[0]] for pose in poses], dtype=torch.float64)[:, None] - 0.5
    inside = ((whole.xy >= -0.5) & (whole.xy < edge)).all(-1)
    new = whole.visible & ~seen & inside & usable[:, None]
    xy, visible = torch.where(new[..., None], whole.xy, xy), seen | new
    out = tuple(Pose(xy[i].to(pose.xy.dtype), visible[i], openpose_18, pose.size) for i, pose in enumerate(poses))
    return Filled(out, new.numpy(), how)


def _mirrored(pose: Pose, usable: torch.Tensor) -> Pose:
    """Fill limbs in from the other side, whether inside the image or not."""
    xy, seen = pose.xy.clone(), pose.visible.clone()
    (r_shoulder, l_shoulder, r_hip, l_hip), _ = named_joints(pose, *TORSO)
    axis = r_hip + l_hip - r_shoulder - l_shoulder
    length = axis.norm(dim=-1, keepdim=True)
    axis = axis / length.clamp(min=1e-6)
    views = view(pose)
    frontal = ((views == VIEWS.index("front")) | (views == VIEWS.index("back")))[:, None]
    for joint, root in LIMBS.items():
        for side, other in (("r", "l"), ("l", "r")):
            i, at = openpose_18.index(f"{side}_{joint}"), openpose_18.index(f"{side}_{root}")
            k, there = openpose_18.index(f"{other}_{joint}"), openpose_18.index(f"{other}_{root}")
            # Of the other side what was found itself; of this side the root may be filled in.
            offset = pose.xy[:, k] - pose.xy[:, there]
            turned = 2 * (offset * axis).sum(-1, keepdim=True) * axis - offset
            new = ~seen[:, i] & seen[:, at] & pose.visible[:, k] & pose.visible[:, there] & usable & (length[:, 0] > 0)
            xy[:, i] = torch.where(new[:, None], xy[:, at] + torch.where(frontal, turned, offset), xy[:, i])
            seen[:, i] |= new
    return Pose(xy, seen, pose.skeleton, pose.size)


def _from_nearest(pose: Pose, usable: torch.Tensor) -> Pose:
    """Fill limbs in from the nearest other body, whether inside the image or not."""
    xy, seen = pose.xy.clone(), pose.visible.clone()
    limbs = [openpose_18.index(f"{side}_{joint}") for joint in LIMBS for side in "rl"]
    torso = [openpose_18.index(joint) for joint in TORSO]
    points = torch.view_as_complex(pose.xy.contiguous())  # a factor and a turn are one complex number
    middle = points[:, torso].mean(1, keepdim=True)
    length = (points[:, torso[2:]].mean(1) - points[:, torso[:2]].mean(1)).abs()
    points = points - middle
    usable = usable & (length > 0)
    wanted = torch.zeros_like(seen)
    wanted[:, limbs] = ~seen[:, limbs] & usable[:, None]
    others = usable.nonzero().flatten()
    others = others[seen[others].sum(1).sort(descending=True, stable=True).indices[:OTHERS]]
    rows = wanted.any(1).nonzero().flatten()
    spread = points[others][:, torso].abs().square().sum(1).clamp(min=1e-9)
    shown = pose.visible  # what is filled in tells nothing of others
    for part in tqdm(rows.split(BLOCK) if len(others) > 1 else (), "nearest bodies", disable=None, delay=2, leave=False):
        factor = torch.einsum("bt,nt->bn", points[part][:, torso], points[others][:, torso].conj()) / spread
        placed = factor[..., None] * points[others]  # (b, n, 18)
        apart = (placed - points[part][:, None]).abs() / length[part][:, None, None]
        apart = torch.where(shown[others], apart, LACKING)
        here = shown[part][:, None].double()
        distance = (apart * here).sum(-1) / here.sum(-1)
        lacking = (wanted[part][:, None] & ~shown[others]).sum(-1)  # joints that stay missing
        distance = torch.where(part[:, None] == others, torch.inf, distance + 1e6 * lacking)
        best = distance.argmin(1)
        there = (~torch.isinf(distance.amin(1)))[:, None] & wanted[part] & shown[others[best]]
        found = torch.view_as_real(placed[torch.arange(len(part)), best] + middle[part])
        xy[part], seen[part] = torch.where(there[..., None], found, xy[part]), seen[part] | there
    return Pose(xy, seen, pose.skeleton, pose.size)
