"""Poses between two others: the ends are met, limbs keep their lengths, and a mirror changes nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Pose, Skeleton, coco_17, convert, mirror, mpii_14, openpose_18, upper_7
from reid_aug import PoseBank
from reid_aug.synthesis.between import interpolate, with_between

LIMBS = [(f"{side}_{a}", f"{side}_{b}") for side in "rl"
         for a, b in (("shoulder", "elbow"), ("elbow", "wrist"), ("hip", "knee"), ("knee", "ankle"))]  # fmt: skip


def bodies(seed: int, n: int, dtype: torch.dtype = torch.float64, missing: float = 0.0, skeleton: Skeleton = openpose_18) -> Pose:
    """N bodies in 64 × 32 images, somewhat alike: no limb turns by half a turn from one to another."""
    rng = torch.Generator().manual_seed(seed)
    base = torch.tensor([[16, 8], [16, 14], [10, 14], [7, 24], [6, 33], [22, 14], [25, 24], [26, 33], [12, 34], [12, 45], [12, 56],
                         [20, 34], [20, 45], [20, 56], [14, 6], [18, 6], [12, 7], [20, 7]], dtype=torch.float64)  # fmt: skip
    xy = base + torch.randn(n, 18, 2, generator=rng, dtype=torch.float64)
    xy[:, 1] = (xy[:, 2] + xy[:, 5]) / 2  # OpenPose's neck
    seen = torch.rand(n, 18, generator=rng) >= missing
    seen[:, [2, 5, 8, 11]] = True
    pose = Pose(xy.to(dtype), seen, openpose_18, (64, 32))
    return pose if skeleton == openpose_18 else convert(pose, skeleton, lacking="missing")


def lengths(pose: Pose, a: str, b: str) -> torch.Tensor:
    return (pose.xy[:, pose.skeleton.index(a)] - pose.xy[:, pose.skeleton.index(b)]).norm(dim=-1)


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000), st.sampled_from([torch.float32, torch.float64]), st.sampled_from([0.0, 0.4]),
    st.sampled_from([openpose_18, coco_17, mpii_14, upper_7]),
)  # fmt: skip
def test_laws(seed: int, dtype: torch.dtype, missing: float, skeleton: Skeleton) -> None:
    a, b = bodies(seed, 3, dtype, missing, skeleton), bodies(seed + 1, 3, dtype, missing, skeleton)
    near = {"atol": 1e-4, "rtol": 0}
    both = a.visible & b.visible
    for t, end in ((0.0, a), (1.0, b)):
        met = interpolate(a, b, torch.full((3,), t))
        assert torch.equal(met.visible, both) and met.xy.dtype == dtype
        torch.testing.assert_close(met.xy, torch.where(both[..., None], end.xy, 0), **near)
    t = torch.tensor([0.2, 0.5, 0.8])
    between = interpolate(a, b, t)
    torch.testing.assert_close(interpolate(mirror(a), mirror(b), t).xy, mirror(between).xy, **near)
    torch.testing.assert_close(interpolate(b, a, 1 - t).xy, between.xy, **near)
    torch.testing.assert_close(interpolate(a[1:2], b[1:2], t[1:2]).xy[0], between.xy[1], **near)  # a row alone
    for pair in LIMBS:
        if any(joint not in skeleton.joints for joint in pair):
            continue
        seen = both[:, [skeleton.index(joint) for joint in pair]].all(-1)
        expected = torch.lerp(lengths(a, *pair), lengths(b, *pair), t.to(dtype))
        torch.testing.assert_close(lengths(between, *pair)[seen], expected[seen], **near)


def test_a_hanging_arm_is_lifted_by_hand() -> None:
    """From straight down to straight out, elbow and wrist 10 px apart each: half-way it points down and out at 45°."""
    down = bodies(0, 1)
    xy = down.xy.clone()
    for joint, at in {"r_shoulder": (10, 14), "l_shoulder": (22, 14), "r_elbow": (10, 24), "r_wrist": (10, 34)}.items():
        xy[0, openpose_18.index(joint)] = torch.tensor(at, dtype=torch.float64)
    down, out = replace(down, xy=xy), replace(down, xy=xy.clone())
    for joint, at in {"r_elbow": (0, 14), "r_wrist": (-10, 14)}.items():
        out.xy[0, openpose_18.index(joint)] = torch.tensor(at, dtype=torch.float64)
    half = interpolate(down, out, torch.tensor([0.5]))
    side = 10 / 2**0.5
    for joint, at in {"r_elbow": (10 - side, 14 + side), "r_wrist": (10 - 2 * side, 14 + 2 * side)}.items():
        assert half.xy[0, openpose_18.index(joint)].tolist() == pytest.approx(at)


def test_what_can_not_be_gone_between_is_refused() -> None:
    a = bodies(0, 1)
    with pytest.raises(ValueError, match=r"on one skeleton and of one size, got openpose_18 of \(64, 32\) and coco_17 of \(64, 32\)"):
        interpolate(a, convert(a, coco_17), torch.tensor([0.5]))
    hidden = a.visible.clone()
    hidden[0, openpose_18.index("l_hip")] = False
    with pytest.raises(ValueError, match="both shoulders and both hips, one of these does not"):
        interpolate(a, replace(a, visible=hidden), torch.tensor([0.5]))


class TestBank:
    def test_new_ones_lie_between_near_ones_of_a_camera(self) -> None:
        pose = Pose.cat([bodies(0, 6), mirror(bodies(1, 6))])  # as many that show the same side to other cameras
        bank = PoseBank(tuple(f"{i}.jpg" for i in range(12)), pose, tuple(i % 2 for i in range(12)), tuple("x" * 12))
        more = with_between(bank, 20, seed=3)
        assert len(more) == 32 and more.names[:12] == bank.names and more.paths is None and "of no image" in more.without_images
        assert more.digest == with_between(bank, 20, seed=3).digest != with_between(bank, 20, seed=4).digest
        for i in range(12, 32):
            first, second, share = more.names[i].split("#")
            a, b = bank.names.index(first), bank.names.index(second)
            assert a != b and a % 2 == b % 2 == (more.camids or ())[i] and 0.2 <= float(share) <= 0.8
            expected = interpolate(bank.pose[[a]], bank.pose[[b]], torch.tensor([float(share)]))
            torch.testing.assert_close(more.pose.xy[i], expected.xy[0])

    def test_none_between_a_front_and_a_back(self) -> None:
        front = bodies(0, 1)
        order = list(openpose_18.mirror)
        back = replace(front, xy=front.xy[:, order], visible=front.visible[:, order])  # left and right change places
        with pytest.raises(ValueError, match="of the bank's 2 that gives 0 different ones, not 1"):
            with_between(PoseBank(("a", "b"), Pose.cat([front, back])), 1)
        with pytest.raises(ValueError, match="at least 1, got 0"):
            with_between(PoseBank(("a", "b"), Pose.cat([front, front])), 0)
