"""Poses between two others that are seen from nearly the same side: limbs turn and grow along the skeleton, none is stretched."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from generators import Pose, named_joints
from reid_aug.data.body import TORSO, valid_for_pairs
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.nearness import VIEW_TOLERANCE, distances, views_of

# Which joint each hangs on; the middle of the shoulders holds what hangs on nothing.
_HANGS_ON = {
    "nose": "neck", "head": "neck", "r_eye": "nose", "l_eye": "nose", "r_ear": "r_eye", "l_ear": "l_eye",
    "r_elbow": "r_shoulder", "r_wrist": "r_elbow", "l_elbow": "l_shoulder", "l_wrist": "l_elbow",
    "r_knee": "r_hip", "r_ankle": "r_knee", "l_knee": "l_hip", "l_ankle": "l_knee",
}  # fmt: skip
LEAST, MOST = 0.2, 0.8  # shares of the way from one pose to the other that are drawn


def interpolate(first: Pose, second: Pose, t: Tensor) -> Pose:
    """Give the poses a share `t` (B,) of the way from `first` to `second` (B, K), both of one size and skeleton.

    The middle of the shoulders goes straight. From there on the torso, the lines of shoulders and hips and every limb turn by their
    share of the smaller angle between both poses, and are as long as their share of both lengths says: so a limb is never longer or
    shorter than in both. A joint is visible that both show; it hangs on the next joint towards the torso that both show. t = 0 and 1
    give the ends, without the joints that the other lacks. ValueError for a body whose shoulders or hips are not seen, or another size.
    """
    if first.skeleton != second.skeleton or tuple(first.size) != tuple(second.size):
        kinds = " and ".join(f"{pose.skeleton.name} of {tuple(pose.size)}" for pose in (first, second))
        raise ValueError(f"poses to interpolate between are on one skeleton and of one size, got {kinds}")
    if not bool((valid_for_pairs(first) & valid_for_pairs(second)).all()):
        raise ValueError("poses to interpolate between show both shoulders and both hips, one of these does not")
    t = t.to(first.xy).reshape(-1, 1)
    visible = first.visible & second.visible
    (ra, la, rha, lha), _ = named_joints(first, *TORSO)
    (rb, lb, rhb, lhb), _ = named_joints(second, *TORSO)
    start = (ra + la) / 2, (rb + lb) / 2
    xy = torch.zeros_like(first.xy)
    place = torch.lerp(*start, t)
    index = {joint: i for i, joint in enumerate(first.skeleton.joints)}
    ends: list[tuple[Tensor, Tensor, tuple[str, ...]]] = [(place, _turned(la - ra, lb - rb, t), TORSO[:2])]
    if TORSO[2] in index:
        loins = place + _turned((rha + lha) / 2 - start[0], (rhb + lhb) / 2 - start[1], t)
        ends.append((loins, _turned(lha - rha, lhb - rhb, t), TORSO[2:]))
    for middle, across, (right, left) in ends:
        xy[..., index[right], :], xy[..., index[left], :] = middle - across / 2, middle + across / 2
    for joint, i in sorted(index.items(), key=lambda item: _depth(item[0])):
        if joint in TORSO:
            continue
        # The middle of the shoulders, and over it what is nearer to the joint, the nearest last.
        at, a, b = place, start[0], start[1]
        for above in reversed(_above(joint)):
            if above in index:
                k = index[above]
                seen = visible[..., k, None]
                at, a, b = (
                    torch.where(seen, new, old) for new, old in ((xy[..., k, :], at), (first.xy[..., k, :], a), (second.xy[..., k, :], b))
                )  # fmt: skip
        xy[..., i, :] = at + _turned(first.xy[..., i, :] - a, second.xy[..., i, :] - b, t)
    return replace(first, xy=xy, visible=visible)


def _above(joint: str) -> list[str]:
    """List what a joint hangs on, the nearest first."""
    return [] if joint not in _HANGS_ON else [_HANGS_ON[joint], *_above(_HANGS_ON[joint])]


def _depth(joint: str) -> int:
    return len(_above(joint))


def _turned(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """Go a share t (B, 1) of the way from the vector `a` to `b` (B, 2): by the smaller angle, and evenly in length."""
    length = torch.lerp(a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True), t)
    start, end = (torch.atan2(v[..., 1:], v[..., :1]) for v in (a, b))
    # A vector without length has no angle: the other's.
    start, end = torch.where(a.any(-1, keepdim=True), start, end), torch.where(b.any(-1, keepdim=True), end, start)
    turn = torch.remainder(end - start + math.pi, 2 * math.pi) - math.pi
    angle = start + t * turn
    return length * torch.cat((angle.cos(), angle.sin()), -1)


def with_between(bank: PoseBank, n: int, seed: int = 0, *, tolerance: float = VIEW_TOLERANCE) -> PoseBank:
    """Give the bank with `n` poses more, each between two of its own: a random one, and one of those near it in view and, if known, camera.

    Near is a distance of `generators.view_descriptor`s of at most `tolerance`, as draw=compatible has it; how far between is uniform in
    0.2..0.8. They are of no image, so the bank then knows none. ValueError for n below 1, and where no two poses are near.
    """
    if n < 1:
        raise ValueError(f"the number of poses between others is at least 1, got {n}")
    views, rng = views_of(bank), np.random.default_rng(seed)
    cameras = None if bank.camids is None else np.array(bank.camids)
    usable = set(range(len(bank)))
    pairs: dict[tuple[str, str, str], tuple[int, int, float]] = {}
    for _ in range(20 * n):  # an even draw finds n different ones long before, where there are so many
        if len(pairs) == n or not usable:
            break
        first = int(rng.integers(len(bank)))
        if first not in usable:
            continue
        apart = distances(views[first], views)
        near = (apart <= tolerance) & (np.arange(len(bank)) != first)
        rows = np.flatnonzero(near if cameras is None else near & (cameras == cameras[first]))
        if not len(rows):
            usable.discard(first)
            continue
        second, share = int(rng.choice(rows)), round(float(rng.uniform(LEAST, MOST)), 2)
        pairs.setdefault((bank.names[first], bank.names[second], f"{share:.2f}"), (first, second, share))
    if len(pairs) < n:
        rule = "two poses to go between are of one camera, if cameras are known, and at most"
        raise ValueError(f"{rule} {tolerance:g} apart in view: of the bank's {len(bank)} that gives {len(pairs)} different ones, not {n}")
    firsts, seconds, shares = zip(*pairs.values(), strict=True)
    between = interpolate(bank.pose[list(firsts)], bank.pose[list(seconds)], torch.tensor(shares))
    camids = None if bank.camids is None else bank.camids + tuple(bank.camids[i] for i in firsts)
    why = "poses between two others are of no image"
    return PoseBank(
        bank.names + tuple("#".join(key) for key in pairs), Pose.cat([bank.pose, between]), camids, without_images=why
    )  # fmt: skip
