"""Skinning: outlines against scikit-image's polygons and distances, transforms against hand-worked and foreign fits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from figures import SIZE, STANDING, moved, standing, without
from generator_helpers import MakePose
from skimage.draw import polygon2mask
from skimage.transform import estimate_transform

from generators import Pose
from generators.parts import LIMBS, TORSO, torso_length
from generators.pose import mirror, openpose_18
from generators.skinning import LIMB_RADII, PARTS, TORSO_MARGIN, at_half, outlines, part_transforms, places, shares, unit_length
from generators.views import view_gap
from generators.warp import look_up


def test_a_torsos_inside_is_the_polygon_of_its_joints() -> None:
    pose = standing()
    inside = outlines(pose)[0, 0] <= -TORSO_MARGIN + 1e-6
    corners = np.array([STANDING[joint][::-1] for joint in TORSO])
    polygon = polygon2mask(SIZE, corners)
    assert (inside.numpy() != polygon).sum() <= 60, "they may differ on the edge, which the other counts half"
    assert inside[40, 32] and not inside[40, 50]


@pytest.mark.parametrize("limb", range(8))
def test_a_limbs_outline_is_its_radius_away_from_the_middle_of_its_segment(limb: int) -> None:
    pose = standing(torch.float64)
    start, end = (np.array(STANDING[joint], float) for joint in LIMBS[limb])
    unit = float(torso_length(pose))
    along = (end - start) / np.linalg.norm(end - start)
    for sideways in (0.0, 3.0, 7.0):
        x, y = (start + end) / 2 + sideways * np.array([-along[1], along[0]])
        field = outlines(pose)[:, 2 + limb : 3 + limb]
        at = look_up(field, torch.tensor([[[x]]]), torch.tensor([[[y]]])).item()
        assert at == pytest.approx(sideways / unit - LIMB_RADII[limb], abs=0.03), PARTS[2 + limb]


def test_a_missing_limb_is_infinitely_far_and_has_no_share() -> None:
    pose = without(standing(), "l_knee")
    far = torch.isinf(outlines(pose)).all((2, 3))[0]
    assert [PARTS[i] for i in far.nonzero().flatten()] == ["l_hip_l_knee", "l_knee_l_ankle"]
    share = shares(outlines(pose))
    assert torch.allclose(share.sum(1), torch.ones(1, *SIZE)) and not share[:, far].any()


def test_nobody_is_seen_and_the_torso_has_it_all() -> None:
    pose = Pose.stack([Pose.unknown(openpose_18, SIZE)])
    share = shares(outlines(pose))
    assert bool((share[:, 0] == 1).all()) and not bool(share[:, 1:].any())
    transforms, moves = part_transforms(pose, pose)
    x, y = places(shares(outlines(pose), moves), transforms)
    assert torch.equal(x[0, 5], torch.arange(64.0)) and torch.equal(y[0, :, 5], torch.arange(128.0)), "everything stays where it is"


def test_a_pixel_on_an_arm_before_the_torso_belongs_to_the_arm() -> None:
    pose = standing()
    xy = pose.xy.clone()
    xy[0, openpose_18.index("r_wrist")] = torch.tensor([32.0, 45.0])
    share = shares(outlines(replace(pose, xy=xy)))
    forearm = PARTS.index("r_elbow_r_wrist")
    assert share[0, forearm, 44, 30] > 0.8 and share[0, 0, 35, 32] > 0.8


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_map_for_all_joints_is_every_parts_map(dtype: torch.dtype) -> None:
    pose = standing(dtype)
    # A similarity: turned, grown and shifted. Then every part's own fit is the same map.
    matrix, shift = [[1.1, 0.3], [-0.3, 1.1]], [3.0, -2.0]
    transforms, moves = part_transforms(moved(pose, matrix, shift), pose)
    assert bool(moves.all())
    expected = torch.cat((torch.tensor(matrix, dtype=dtype), torch.tensor(shift, dtype=dtype)[:, None]), 1)
    assert torch.allclose(transforms, expected.expand_as(transforms), atol=1e-3)


def test_a_torsos_map_leans_from_the_affine_to_the_similarity_as_it_narrows() -> None:
    target, wide = standing(torch.float64), standing(torch.float64)
    source = moved(wide, [[1.5, 0.2], [0.0, 1.0]], [0.0, 0.0])
    corners = [openpose_18.index(joint) for joint in TORSO]
    affine = estimate_transform("affine", target.xy[0, corners].numpy(), source.xy[0, corners].numpy()).params[:2]
    fitted = part_transforms(source, target)[0][0, 0].numpy()
    assert np.abs(fitted[:, :2] - affine[:, :2]).max() < 0.3
    # Seen from the side, shoulders and hips lie on a line: the affine map would stretch without bound.
    squeeze = [[0.02, 0.0], [0.0, 1.0]]
    narrow = part_transforms(source, moved(target, squeeze, [30.0, 0.0]))[0][0, 0]
    assert narrow[:, :2].abs().max() < 3


def test_a_limb_is_mapped_joint_to_joint_and_across_by_the_torsos() -> None:
    target, source = standing(torch.float64), standing(torch.float64)
    xy = source.xy.clone()
    xy[0, openpose_18.index("r_ankle")] = torch.tensor([10.0, 100.0])
    source = replace(source, xy=xy)
    transforms, _ = part_transforms(source, target)
    shin = transforms[0, PARTS.index("r_knee_r_ankle")]
    for joint in ("r_knee", "r_ankle"):
        at = torch.cat((target.xy[0, openpose_18.index(joint)], torch.ones(1)))
        assert torch.allclose(shin @ at.double(), source.xy[0, openpose_18.index(joint)], atol=1e-9)
    down = torch.tensor([0.0, 1.0], dtype=torch.float64)  # the target's shin is upright: across it is sideways
    across = shin[:, :2] @ torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert across.norm() == pytest.approx(1.0) and float(across @ (shin[:, :2] @ down)) == pytest.approx(0.0, abs=1e-9)


def test_a_limb_missing_in_the_source_comes_from_the_other_side() -> None:
    target = standing(torch.float64)
    source = without(target, "r_wrist")
    transforms, moves = part_transforms(source, target)
    forearm = PARTS.index("r_elbow_r_wrist")
    at = torch.cat((target.xy[0, openpose_18.index("r_wrist")], torch.ones(1)))
    assert moves[0, forearm] and torch.allclose(transforms[0, forearm] @ at, source.xy[0, openpose_18.index("l_wrist")], atol=1e-9)
    _, moves = part_transforms(without(source, "l_elbow"), target)
    assert not moves[0, forearm], "neither side shows it"


def test_mirrored_takes_every_limb_from_the_other_side() -> None:
    pose = standing(torch.float64)
    transforms, _ = part_transforms(pose, pose, mirrored=True)
    for i, (a, b) in enumerate(LIMBS):
        for joint in (a, b):
            opposite = openpose_18.mirror[openpose_18.index(joint)]
            at = torch.cat((pose.xy[0, openpose_18.index(joint)], torch.ones(1)))
            assert torch.allclose(transforms[0, 2 + i] @ at, pose.xy[0, opposite], atol=1e-9)


def test_half_resolution_looks_at_the_same_places(a_pose: MakePose) -> None:
    transform = torch.tensor([[[1.2, 0.1, 3.0], [-0.2, 0.9, 5.0]]])
    half = at_half(transform)
    full = torch.tensor([2 * 4 + 0.5, 2 * 7 + 0.5, 1.0])  # the middle of the two by two pixels that (4, 7) covers
    expected = (transform[0] @ full - 0.5) / 2
    assert torch.allclose(half[0] @ torch.tensor([4.0, 7.0, 1.0]), expected)


def test_a_row_alone_is_the_row_in_a_batch(a_pose: MakePose) -> None:
    source, target = a_pose(1, (4,), size=SIZE, missing=0.3), a_pose(2, (4,), size=SIZE, missing=0.3)
    transforms, moves = part_transforms(source, target)
    share = shares(outlines(target), moves)
    for row in range(4):
        alone, alone_moves = part_transforms(source[row : row + 1], target[row : row + 1])
        assert torch.allclose(alone[0], transforms[row], atol=1e-4) and torch.equal(alone_moves[0], moves[row])
        assert torch.allclose(shares(outlines(target[row : row + 1]), alone_moves)[0], share[row], atol=1e-5)


def test_views_are_apart_by_their_widths_and_noses() -> None:
    front = standing()
    back = mirror(front)
    assert view_gap(front, front).item() == 0
    unit = unit_length(front).item()
    widths = (2 * 20 / unit, 12 / unit)
    turned = replace(front, xy=torch.where(torch.tensor([True, False]), 63 - front.xy, front.xy))  # the same joints, left and right crossed
    assert view_gap(front, turned).item() == pytest.approx(2 * float(np.hypot(*widths)), rel=1e-4)
    assert view_gap(front, back).item() < view_gap(front, turned).item(), "mirroring swaps the names too: still a front"
