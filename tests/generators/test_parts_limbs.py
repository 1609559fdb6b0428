"""A skeleton's limbs: where they are likely to be, and the similarity that moves each."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from generator_helpers import MakePose

from generators.maps import limb_prior
from generators.parts import Limbs
from generators.pose import mpii_14, upper_7


def slow_prior(xy: np.ndarray, limbs: list[list[int]], size: tuple[int, int], scale: float = 1.0) -> np.ndarray:
    """Pixel by pixel, an angle and a quadratic form at a time: NOTES' formula on images 256 · `scale` high."""
    masks = np.zeros((len(limbs) + 1, *size))
    for i, limb in enumerate(limbs):
        p = xy[limb]
        if len(limb) == 4:
            p = np.stack([(p[0] + p[1]) / 2, (p[2] + p[3]) / 2])
        elif len(limb) == 3:
            p = np.stack([p[0], (p[1] + p[2]) / 2])
        middle = (p[0] + p[1]) / 2
        length2 = (p[1, 0] - p[0, 0]) ** 2 + (p[1, 1] - p[0, 1]) ** 2
        along, across = max(5 * scale**2, length2 / 1.5), ((13 if len(limb) == 4 else 11) * scale) ** 2
        angle = np.arctan2(p[1, 1] - p[0, 1], p[1, 0] - p[0, 0])
        for row in range(size[0]):
            for column in range(size[1]):
                dx, dy = column - middle[0], row - middle[1]
                u, v = np.cos(angle) * dx + np.sin(angle) * dy, -np.sin(angle) * dx + np.cos(angle) * dy
                masks[i + 1, row, column] = np.exp(-(u**2) / (2 * along) - v**2 / (2 * across))
        masks[i + 1] /= masks[i + 1].max() + 1e-6
    masks[0] = 1 - masks[1:].max(0)
    return masks


@pytest.mark.parametrize("skeleton", [mpii_14, upper_7])
@pytest.mark.parametrize("size", [(32, 16), (20, 33)])
def test_the_prior_is_the_slow_loops(skeleton: Any, size: tuple[int, int], a_pose: MakePose) -> None:
    pose = a_pose(3, (2,), skeleton, size, dtype=torch.float64)
    prior = Limbs(skeleton).prior(pose, 11 / 8, 13 / 8, 5 / 64)
    assert prior.shape == (2, 1 + len(skeleton.limbs), *size)
    for row in range(2):
        expected = slow_prior(pose.xy[row].numpy(), [list(limb) for limb in skeleton.limbs], size, 1 / 8)
        assert np.allclose(prior[row].numpy(), expected, atol=1e-12)
    assert prior.min() >= 0 and prior.max() <= 1 and prior[:, 1:].amax((-2, -1)).min() > 0.99


def test_the_prior_by_hand() -> None:
    """A limb of 12 pixels to the lower right of 45°, at 256 rows: variance 96 along, 121 across."""
    ends = torch.tensor([[[10.0, 20.0]]]), torch.tensor([[[10.0 + 12 * 0.5**0.5, 20.0 + 12 * 0.5**0.5]]])
    middle = (ends[0] + ends[1]) / 2
    prior = limb_prior(*(e.double() - middle.double() + 30 for e in ends), torch.tensor([[True]]), (64, 64), torch.tensor([11.0]), 5.0)
    limb = prior[0, 1]
    assert limb[30, 30].item() == pytest.approx(1 / (1 + 1e-6))
    assert (limb[33, 33] / limb[30, 30]).item() == pytest.approx(np.exp(-18 / (2 * 144 / 1.5)), abs=1e-6), "along it"
    assert (limb[33, 27] / limb[30, 30]).item() == pytest.approx(np.exp(-18 / (2 * 121)), abs=1e-6), "across it"
    assert torch.equal(prior[0, 0], 1 - limb)
    short = limb_prior(*(torch.full((1, 1, 2), 30.0) for _ in range(2)), torch.tensor([[True]]), (64, 64), torch.tensor([11.0]), 5.0)
    assert short[0, 1, 30, 32].item() == pytest.approx(np.exp(-4 / (2 * 5)), rel=1e-5), "no shorter than √5 along"


def test_a_limb_with_a_missing_joint_has_no_prior(a_pose: MakePose) -> None:
    pose = a_pose(0, (1,), mpii_14)
    wrist, hip = mpii_14.index("r_wrist"), mpii_14.index("l_hip")
    visible = pose.visible.clone()
    visible[:, [wrist, hip]] = False
    prior = Limbs(mpii_14).prior(replace(pose, visible=visible), 2.0, 2.0, 0.1)
    whole = Limbs(mpii_14).prior(pose, 2.0, 2.0, 0.1)
    gone = [1 + i for i, limb in enumerate(mpii_14.limbs) if wrist in limb or hip in limb]
    assert len(gone) == 3
    for channel in range(1, 11):
        assert torch.equal(prior[:, channel], torch.zeros_like(prior[:, channel]) if channel in gone else whole[:, channel])
    assert torch.equal(prior[:, 0], 1 - prior[:, 1:].amax(1))
    none = Limbs(mpii_14).prior(replace(pose, visible=torch.zeros_like(visible)), 2.0, 2.0, 0.1)
    assert (none[:, 0] == 1).all() and not none[:, 1:].any()


def test_autocast_does_not_move_limbs(a_pose: MakePose) -> None:
    pose, limbs = a_pose(0, (3,), mpii_14, (256, 256)), Limbs(mpii_14)
    exact = limbs.prior(pose, 11, 13, 5), *limbs.transforms(pose, pose[[1, 2, 0]])
    with torch.autocast("cpu", torch.bfloat16):
        rough = limbs.prior(pose, 11, 13, 5), *limbs.transforms(pose, pose[[1, 2, 0]])
    assert all(torch.equal(a, b) for a, b in zip(exact, rough, strict=True))


def test_transforms_are_each_limbs_least_squares_from_target_to_source(a_pose: MakePose) -> None:
    source, target = (a_pose(seed, (2,), mpii_14, (64, 64), dtype=torch.float64) for seed in (1, 2))
    transforms, moves = Limbs(mpii_14).transforms(source, target)
    assert transforms.shape == (2, 10, 2, 3) and moves.all()
    for row in range(2):
        for i, limb in enumerate(mpii_14.limbs):
            t, s = target.xy[row, list(limb)].numpy(), source.xy[row, list(limb)].numpy()
            # x' = a x − b y + c, y' = b x + a y + d
            system = np.concatenate([[[x, -y, 1, 0], [y, x, 0, 1]] for x, y in t])
            a, b, c, d = np.linalg.lstsq(system, s.reshape(-1), rcond=None)[0]
            assert np.allclose(transforms[row, i].numpy(), [[a, -b, c], [b, a, d]], atol=1e-8)
            if len(limb) == 2:
                assert np.allclose(t @ transforms[row, i, :, :2].numpy().T + transforms[row, i, :, 2].numpy(), s, atol=1e-8)


def test_a_limb_moves_when_both_poses_have_all_of_it(a_pose: MakePose) -> None:
    pose, limbs = a_pose(0, (1,), mpii_14), Limbs(mpii_14)
    for joint in range(14):
        visible = pose.visible.clone()
        visible[:, joint] = False
        one_less, touched = replace(pose, visible=visible), torch.tensor([[joint in limb for limb in mpii_14.limbs]])
        for pair in ((one_less, pose), (pose, one_less)):
            assert torch.equal(limbs.transforms(*pair)[1], ~touched)
    assert not limbs.transforms(pose, replace(pose, xy=torch.full_like(pose.xy, 7.0)))[1].any(), "a point has no direction"
