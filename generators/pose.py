"""Skeletons and poses: the named points of a body, and where they lie in an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Skeleton:
    """A named set of K joints, which of them move rigidly together, and which mirror which.

    `limbs` are tuples of joints that move as one; `edges` are the lines that a picture or a body mask
    joins; `mirror[k]` is the joint that joint k becomes when the image is flipped left to right.
    """

    name: str
    joints: tuple[str, ...]
    limbs: tuple[tuple[int, ...], ...] = field(repr=False)
    edges: tuple[tuple[int, int], ...] = field(repr=False)
    mirror: tuple[int, ...] = field(repr=False)

    def __post_init__(self) -> None:
        k = len(self.joints)
        if sorted(self.mirror) != list(range(k)) or any(self.mirror[m] != i for i, m in enumerate(self.mirror)):
            raise ValueError(f"skeleton {self.name!r}: mirror must pair the {k} joints with each other, got {self.mirror}")
        for group in (*self.limbs, *self.edges):
            if len(group) < 2 or not all(0 <= j < k for j in group):
                raise ValueError(f"skeleton {self.name!r}: a limb or edge names joints in 0..{k - 1}, got {group}")

    def __len__(self) -> int:
        return len(self.joints)

    def index(self, joint: str) -> int:
        """Return the index of a joint by name; KeyError names the joints there are."""
        try:
            return self.joints.index(joint)
        except ValueError:
            raise KeyError(f"skeleton {self.name!r} has no joint {joint!r}; it has {', '.join(self.joints)}") from None


def _skeleton(name: str, joints: str, limbs: str, edges: str) -> Skeleton:
    """Build a skeleton from words, so that the tables below read as tables."""
    names = tuple(joints.split())
    where = {joint: i for i, joint in enumerate(names)}

    def other_side(joint: str) -> str:
        return {"r_": "l_", "l_": "r_"}.get(joint[:2], joint[:2]) + joint[2:]

    groups = tuple(tuple(where[j] for j in group.split()) for group in limbs.split(","))
    lines = tuple((where[a], where[b]) for a, b in (line.split("-") for line in edges.split()))
    return Skeleton(name, names, groups, lines, tuple(where.get(other_side(j), where[j]) for j in names))


_LIMBS = (
    "r_hip r_knee, r_knee r_ankle, l_hip l_knee, l_knee l_ankle, "
    "r_shoulder r_elbow, l_shoulder l_elbow, r_elbow r_wrist, l_elbow l_wrist"
)
_EDGES = "r_shoulder-r_elbow r_elbow-r_wrist l_shoulder-l_elbow l_elbow-l_wrist r_hip-r_knee r_knee-r_ankle l_hip-l_knee l_knee-l_ankle"
_FACE = "nose-r_eye nose-l_eye r_eye-r_ear l_eye-l_ear"

openpose_18 = _skeleton(
    "openpose_18",
    "nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist r_hip r_knee r_ankle l_hip l_knee l_ankle r_eye l_eye r_ear l_ear",
    f"r_hip l_hip l_shoulder r_shoulder, nose r_eye l_eye r_ear l_ear r_shoulder l_shoulder, {_LIMBS}",
    f"nose-neck neck-r_shoulder neck-l_shoulder neck-r_hip neck-l_hip {_EDGES} {_FACE}",
)
coco_17 = _skeleton(
    "coco_17",
    "nose l_eye r_eye l_ear r_ear l_shoulder r_shoulder l_elbow r_elbow l_wrist r_wrist l_hip r_hip l_knee r_knee l_ankle r_ankle",
    f"r_hip l_hip l_shoulder r_shoulder, nose r_eye l_eye r_ear l_ear r_shoulder l_shoulder, {_LIMBS}",
    f"r_shoulder-l_shoulder r_hip-l_hip r_shoulder-r_hip l_shoulder-l_hip {_EDGES} {_FACE}",
)
# posewarp's order (NOTES: head, neck, right arm, left arm, right leg, left leg) and its ten limbs.
mpii_14 = _skeleton(
    "mpii_14",
    "head neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist r_hip r_knee r_ankle l_hip l_knee l_ankle",
    "head neck, r_shoulder r_elbow, r_elbow r_wrist, l_shoulder l_elbow, l_elbow l_wrist, "
    "r_hip r_knee, r_knee r_ankle, l_hip l_knee, l_knee l_ankle, r_shoulder l_shoulder l_hip r_hip",
    f"head-neck neck-r_shoulder neck-l_shoulder neck-r_hip neck-l_hip {_EDGES}",
)
# YouTube Pose's seven joints; the fifth limb is head and both shoulders, as the text of the reproduction says.
upper_7 = _skeleton(
    "upper_7",
    "head r_wrist l_wrist r_elbow l_elbow r_shoulder l_shoulder",
    "r_wrist r_elbow, r_elbow r_shoulder, l_wrist l_elbow, l_elbow l_shoulder, head r_shoulder l_shoulder",
    "head-r_shoulder head-l_shoulder r_shoulder-l_shoulder r_shoulder-r_elbow r_elbow-r_wrist l_shoulder-l_elbow l_elbow-l_wrist",
)
SKELETONS = {s.name: s for s in (openpose_18, coco_17, mpii_14, upper_7)}

# A joint that a skeleton lacks is the mean of others: all of them for a midpoint, any of them for the head.
_ALL_OF = {"neck": ("r_shoulder", "l_shoulder")}
_ANY_OF = {"head": ("nose", "r_eye", "l_eye", "r_ear", "l_ear")}


@dataclass(frozen=True, eq=False)
class Pose:
    """Joints of a batch of bodies: `xy (*B, K, 2)` pixels, x right, y down; `visible (*B, K)` bool; `size` (H, W).

    A joint that is not visible has no position: its `xy` is set to 0 so that nothing can leak from it. `silhouette (*B, H, W)`, float
    in [0, 1], says how surely each pixel is the person's, where that is known; one that is 0 everywhere is not.
    """

    xy: Tensor
    visible: Tensor
    skeleton: Skeleton
    size: tuple[int, int]
    silhouette: Tensor | None = None

    def __post_init__(self) -> None:
        k = len(self.skeleton)
        if self.xy.shape[-2:] != (k, 2) or self.visible.shape != self.xy.shape[:-1]:
            raise ValueError(
                f"a pose on {self.skeleton.name!r} has xy (*B, {k}, 2) and visible (*B, {k}), "
                f"got {tuple(self.xy.shape)} and {tuple(self.visible.shape)}"
            )
        if self.visible.dtype != torch.bool:
            raise TypeError(f"a pose's visible is bool, got {self.visible.dtype}")
        if self.silhouette is not None:
            self._check(self.silhouette)
        object.__setattr__(self, "xy", torch.where(self.visible[..., None], self.xy, torch.zeros_like(self.xy)))

    def _check(self, silhouette: Tensor) -> None:
        if tuple(silhouette.shape) != (*self.batch_shape, *self.size) or not silhouette.is_floating_point():
            rule = f"float {(*self.batch_shape, *self.size)}, of the pose's batch and size"
            raise ValueError(f"a pose's silhouette is {rule}, got {silhouette.dtype} {tuple(silhouette.shape)}")

    @property
    def batch_shape(self) -> torch.Size:
        return self.xy.shape[:-2]

    def __len__(self) -> int:
        return self.xy.shape[0]

    def __getitem__(self, index: int | slice | Tensor | Sequence[int] | None) -> Pose:
        silhouette = None if self.silhouette is None else self.silhouette[index]
        return replace(self, xy=self.xy[index], visible=self.visible[index], silhouette=silhouette)

    def to(self, *args: object, **kwargs: object) -> Pose:
        """Move as Tensor.to does, `xy` in full; `visible` and `silhouette` follow to the device and keep their types."""
        xy = self.xy.to(*args, **kwargs)  # type: ignore[arg-type]
        soon = bool(kwargs.get("non_blocking"))
        silhouette = None if self.silhouette is None else self.silhouette.to(xy.device, non_blocking=soon)
        return replace(self, xy=xy, visible=self.visible.to(xy.device, non_blocking=soon), silhouette=silhouette)

    @staticmethod
    def unknown(skeleton: Skeleton, size: tuple[int, int]) -> Pose:
        """Return a single pose (K, 2) of which nothing is visible."""
        return Pose(torch.zeros(len(skeleton), 2), torch.zeros(len(skeleton), dtype=torch.bool), skeleton, size)

    @staticmethod
    def cat(poses: Sequence[Pose]) -> Pose:
        """Join several batches, each with a leading batch axis, on one skeleton and size; silhouettes that some lack are unknown."""
        if len({(p.skeleton.name, p.size) for p in poses}) != 1:
            raise ValueError(f"poses to join share a skeleton and a size, got {sorted({(p.skeleton.name, p.size) for p in poses})}")
        known = any(p.silhouette is not None for p in poses)
        silhouette = torch.cat([_silhouette(p) for p in poses]) if known else None
        return replace(poses[0], xy=torch.cat([p.xy for p in poses]), visible=torch.cat([p.visible for p in poses]), silhouette=silhouette)

    @staticmethod
    def stack(poses: Sequence[Pose]) -> Pose:
        """Make a batch of single poses (K, 2)."""
        return Pose.cat([p[None] for p in poses])


def _silhouette(pose: Pose) -> Tensor:
    """Return the silhouettes (*B, H, W), 0 where there are none."""
    return pose.xy.new_zeros((*pose.batch_shape, *pose.size)) if pose.silhouette is None else pose.silhouette


def where(which: Tensor, pose: Pose, other: Pose) -> Pose:
    """Return the rows of `pose` that `which (B,)` bool picks, and of the `other` the rest: both (B, K) on one skeleton and size."""
    known = pose.silhouette is not None or other.silhouette is not None
    silhouette = torch.where(which[:, None, None], _silhouette(pose), _silhouette(other)) if known else None
    xy, visible = torch.where(which[:, None, None], pose.xy, other.xy), torch.where(which[:, None], pose.visible, other.visible)
    return replace(other, xy=xy, visible=visible, silhouette=silhouette)


def mirror(pose: Pose) -> Pose:
    """Return the pose of the image flipped left to right: x → W − 1 − x, and left joints become right ones.

    >>> pose = Pose(torch.tensor([[9.0, 1], [2, 5], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]), torch.arange(7) < 2, upper_7, (32, 16))
    >>> mirrored = mirror(pose)  # its joints begin with head, r_wrist, l_wrist
    >>> mirrored.xy[:3].tolist(), mirrored.visible[:3].tolist()
    ([[6.0, 1.0], [0.0, 0.0], [13.0, 5.0]], [True, False, True])
    """
    order = torch.as_tensor(pose.skeleton.mirror, device=pose.xy.device)
    xy = pose.xy.index_select(-2, order)
    xy = torch.stack((pose.size[1] - 1 - xy[..., 0], xy[..., 1]), dim=-1)
    silhouette = None if pose.silhouette is None else pose.silhouette.flip(-1)
    return replace(pose, xy=xy, visible=pose.visible.index_select(-1, order), silhouette=silhouette)


def rescale(pose: Pose, size: tuple[int, int]) -> Pose:
    """Return the pose of the image resized to `size` (H, W), pixel centres at integers: x' = (x + ½)·W'/W − ½.

    >>> pose = Pose(torch.full((7, 2), 3.5), torch.ones(7, dtype=torch.bool), upper_7, (32, 16))
    >>> rescale(pose, (32, 32)).xy[0]
    tensor([7.5000, 3.5000])
    """
    scale = torch.tensor([size[1] / pose.size[1], size[0] / pose.size[0]], dtype=pose.xy.dtype, device=pose.xy.device)
    silhouette = pose.silhouette
    if silhouette is not None and tuple(size) != tuple(pose.size):
        silhouette = F.interpolate(silhouette.reshape(-1, 1, *pose.size), tuple(size), mode="area").view(*pose.batch_shape, *size)
    return replace(pose, xy=(pose.xy + 0.5) * scale - 0.5, size=size, silhouette=silhouette)


def convert(pose: Pose, skeleton: Skeleton, *, lacking: Literal["refused", "missing"] = "refused") -> Pose:
    """Return the pose on another skeleton; a joint of the same name is the same joint, and two can be made of others.

    A neck is the middle of both shoulders, and missing without one of them: OpenPose's is that point by definition, so openpose_18
    takes it in place of the neck of mpii_14, too, which people set higher, between chin and collar. A head is the mean of what is seen of
    nose, eyes and ears; mpii_14's own, where a file has it, is the top of the head, and stays so.

    | from           | coco_17             | openpose_18    | mpii_14        | upper_7                 |
    |----------------|---------------------|----------------|----------------|-------------------------|
    | to coco_17     |                     | drops the neck | lacks the face | lacks face, hips, legs  |
    | to openpose_18 | makes the neck      |                | lacks the face | lacks face, hips, legs  |
    | to mpii_14     | makes neck and head | makes the head |                | lacks hips, legs        |
    | to upper_7     | makes the head      | makes the head | drops the rest |                         |

    ValueError when `skeleton` has a joint that can't be made from the pose's; with `lacking="missing"` it is not visible.

    >>> pose = Pose(torch.arange(34.0).view(17, 2), torch.ones(17, dtype=torch.bool), coco_17, (64, 64))
    >>> pose.xy[coco_17.index("r_shoulder")].tolist(), pose.xy[coco_17.index("l_shoulder")].tolist()
    ([12.0, 13.0], [10.0, 11.0])
    >>> convert(pose, openpose_18).xy[openpose_18.index("neck")]
    tensor([11., 12.])
    """
    if skeleton.name == pose.skeleton.name:
        return pose
    places, seen = [], []
    for joint in skeleton.joints:
        names = made_of(joint, pose.skeleton, skeleton)
        if not names:
            if lacking == "refused":
                raise ValueError(f"a {pose.skeleton.name} pose has nothing to make {skeleton.name}'s {joint!r} from")
            places.append(torch.zeros_like(pose.xy[..., 0, :]))
            seen.append(torch.zeros_like(pose.visible[..., 0]))
            continue
        pick = torch.as_tensor([pose.skeleton.index(n) for n in names], device=pose.xy.device)
        visible = pose.visible.index_select(-1, pick)
        points = pose.xy.index_select(-2, pick)  # invisible ones are zero, so a sum skips them
        places.append(points.sum(-2) / visible.sum(-1, keepdim=True).clamp(min=1))
        seen.append(visible.all(-1) if joint in _ALL_OF else visible.any(-1))
    return replace(pose, xy=torch.stack(places, dim=-2), visible=torch.stack(seen, dim=-1), skeleton=skeleton)


def made_of(joint: str, old: Skeleton, new: Skeleton) -> tuple[str, ...]:
    """Name the joints of the skeleton `old` that `convert` makes a joint of `new` from; none where it can't be made.

    >>> made_of("neck", coco_17, openpose_18), made_of("neck", openpose_18, mpii_14), made_of("nose", mpii_14, openpose_18)
    (('r_shoulder', 'l_shoulder'), ('neck',), ())
    """
    by_definition = joint == "neck" and (old.name, new.name) == ("mpii_14", "openpose_18")
    names = (joint,) if joint in old.joints and not by_definition else _ALL_OF.get(joint) or _ANY_OF.get(joint, ())
    return tuple(name for name in names if name in old.joints)


def named_joints(pose: Pose, *names: str) -> tuple[Tensor, Tensor]:
    """Give the positions (n, *B, 2) of n joints by name, and whether each is seen (n, *B): a joint the skeleton lacks is not."""
    xy, seen = [], []
    for name in names:
        in_skeleton = name in pose.skeleton.joints
        joint = pose.skeleton.index(name) if in_skeleton else 0
        xy.append(pose.xy[..., joint, :])
        seen.append(pose.visible[..., joint] & in_skeleton)
    return torch.stack(xy), torch.stack(seen)
