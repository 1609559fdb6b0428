"""Which poses are fit for a bank: the broken are dropped, by rules with numbers, and counted by the rule they break."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from generators import Pose, Skeleton, named_joints
from reid_aug.data.body import TORSO, valid_for_pairs
from reid_aug.data.doubts import first_few
from reid_aug.data.people import PersonImage
from reid_aug.data.pose_doubts import SMALL

# Share of a skeleton's joints that a pose has at least, 10 of OpenPose's 18; one in twenty-five of Market-1501's published poses with
# a torso has fewer, none of CUHK03's.
LEAST_SHARE = 5 / 9
# Lengths in torso lengths, middle of the shoulders to middle of the hips: Drillis and Contini's shares of the stature ("Body segment
# parameters", 1966; Winter, "Biomechanics and motor control of human movement", fig. 4.1) over the torso's 0.818 - 0.530 = 0.288.
PROPORTIONS = {
    "shoulders": (0.259 / 0.288, ("r_shoulder", "l_shoulder")), "hips": (0.191 / 0.288, ("r_hip", "l_hip")),
    "upper arm": (0.186 / 0.288, ("shoulder", "elbow")), "forearm": (0.146 / 0.288, ("elbow", "wrist")),
    "thigh": (0.245 / 0.288, ("hip", "knee")), "shank": (0.246 / 0.288, ("knee", "ankle")),
}  # fmt: skip
# How many times as long a limb may look: a torso seen from above or leaning looks short, and joints are rounded to pixels.
STRETCH = 1.65

NO_POSE = "without a joint"
NO_TORSO = "without both shoulders and both hips"
OFF_FRAME = "with a joint outside the image"
TINY = f"that span less than {100 * SMALL:.0f} % of their image's height and width"
UPSIDE_DOWN = "with hips above the shoulders"


@dataclass(frozen=True)
class Choice:
    """The images whose poses are fit for a bank, and the names of the others by why they are not, each under the first rule it breaks."""

    kept: list[PersonImage]
    dropped: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def counts(self) -> dict[str, int]:
        """Count the dropped by reason."""
        return {why: len(names) for why, names in self.dropped.items()}

    def summary(self) -> list[str]:
        """Tell in lines how many are kept, and how many are dropped by which rule."""
        total = len(self.kept) + sum(self.counts.values())
        lines = [f"{'kept':<10} {len(self.kept):,} of {total:,} poses"]
        return lines + [f"{'dropped':<10} {len(names):,} {why}: {first_few(names)}" for why, names in self.dropped.items()]


def choose(people: Iterable[PersonImage], least_joints: int | None = None) -> Choice:
    """Choose the images whose poses a bank can draw from.

    In this order, a pose is dropped that has no joint at all; lacks a shoulder or a hip; has fewer than `least_joints` joints (None: five
    in nine of its skeleton's, 10 of 18); has one more than half a pixel outside its image; spans less than 9 % of its image's height and
    width (`pose_doubts.SMALL`); whose hips are above its shoulders; or in which a limb is longer than 1.65 times a human's (STRETCH,
    PROPORTIONS), in lengths of its own torso: upper arms 1.07, forearms 0.84, thighs 1.40, shanks 1.41, shoulders 1.48, hips 1.09. Limbs
    may look as short as they like: they point at the camera. ValueError for a number of joints that no body of their skeleton has.
    """
    people = list(people)
    alike: dict[Skeleton, list[int]] = defaultdict(list)
    why: list[str] = [NO_POSE] * len(people)
    for i, person in enumerate(people):
        if person.pose is not None:
            alike[person.pose.skeleton].append(i)
    for skeleton, rows in alike.items():
        if least_joints is not None and not 1 <= least_joints <= len(skeleton):
            raise ValueError(f"the least number of joints is in 1..{len(skeleton)}, which {skeleton.name} has, got {least_joints}")
        poses = [pose for i in rows if (pose := people[i].pose) is not None]
        for i, reason in zip(rows, _reasons(poses, least_joints or int(LEAST_SHARE * len(skeleton))), strict=True):
            why[i] = reason
    dropped: dict[str, list[str]] = defaultdict(list)
    for person, reason in zip(people, why, strict=True):
        if reason:
            dropped[reason].append(person.name)
    return Choice([p for p, reason in zip(people, why, strict=True) if not reason], {why: tuple(names) for why, names in dropped.items()})


def _reasons(poses: Sequence[Pose], least_joints: int) -> list[str]:
    """Say of each pose (K, 2) on one skeleton which rule it breaks first; nothing of those that keep all."""
    # Lengths are compared within a body, each in pixels of its own image.
    pose = replace(poses[0], xy=torch.stack([p.xy for p in poses]).double(), visible=torch.stack([p.visible for p in poses]))
    sizes = torch.tensor([p.size for p in poses], dtype=torch.float64)[:, [1, 0]]
    count, seen = pose.visible.sum(-1), pose.visible[..., None]
    outside = (seen & ((pose.xy < -0.5) | (pose.xy >= sizes[:, None] - 0.5))).any(-1).any(-1)
    low, high = (torch.where(seen, pose.xy, far) for far in (torch.inf, -torch.inf))
    tiny = (high.amax(1) - low.amin(1) < SMALL * sizes).all(-1)
    rules: list[tuple[str, Tensor]] = [
        (NO_POSE, count == 0), (NO_TORSO, ~valid_for_pairs(pose)), (f"with fewer than {least_joints} joints", count < least_joints),
        (OFF_FRAME, outside), (TINY, tiny),
    ]  # fmt: skip
    if all(joint in pose.skeleton.joints for joint in TORSO):
        (r_shoulder, l_shoulder, r_hip, l_hip), _ = named_joints(pose, *TORSO)
        torso = (r_hip + l_hip - r_shoulder - l_shoulder) / 2
        rules.append((UPSIDE_DOWN, torso[:, 1] <= 0))
        rules += [(f"with {name} longer than {share * STRETCH:.2f} torsos", _longer(pose, joints, share * STRETCH * torso.norm(dim=-1)))
                  for name, (share, joints) in PROPORTIONS.items()]  # fmt: skip
    reasons = [""] * len(poses)
    for reason, broken in reversed(rules):  # the first rule has the last word
        for i in broken.nonzero().flatten().tolist():
            reasons[i] = reason
    return reasons


def _longer(pose: Pose, joints: tuple[str, str], most: Tensor) -> Tensor:
    """Tell which bodies (N,) have a limb between two joints, of either side, longer than `most` (N,) pixels."""
    sides = [joints] if joints[0].startswith("r_") else [(f"{side}_{joints[0]}", f"{side}_{joints[1]}") for side in "rl"]
    broken = torch.zeros(len(pose), dtype=torch.bool)
    for pair in sides:
        (a, b), seen = named_joints(pose, *pair)
        broken |= seen.all(0) & ((a - b).norm(dim=-1) > most)
    return broken
