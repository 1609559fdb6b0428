from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.ndimage
import scipy.spatial
import skimage.draw
import torch
from generator_helpers import MakePose
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Pose, Skeleton
from generators.maps import (
    BODY_EDGES_18,
    body_mask,
    close,
    disc_maps,
    edge_distances,
    gaussian_maps,
    joint_distances,
    limb_masks,
    maxima,
    without_person,
)
from generators.pose import SKELETONS, coco_17, mpii_14, openpose_18, upper_7

every_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
MAPS: dict[str, Callable[[Pose], torch.Tensor]] = {
    "gaussian": gaussian_maps, "disc": disc_maps, "body": body_mask, "limb": limb_masks, "joint distance": joint_distances,
    "edge distance": lambda pose: edge_distances(pose, pose.skeleton.edges),
}  # fmt: skip
every_map = pytest.mark.parametrize("make", MAPS.values(), ids=MAPS)


def upper(points: dict[int, tuple[float, float]], size: tuple[int, int], dtype: torch.dtype = torch.float32) -> Pose:
    """One upper_7 pose with these joints: head, wrists, elbows, shoulders, right before left."""
    xy, visible = torch.zeros(7, 2, dtype=dtype), torch.zeros(7, dtype=torch.bool)
    for joint, point in points.items():
        xy[joint], visible[joint] = torch.tensor(point, dtype=dtype), True
    return Pose(xy, visible, upper_7, size)


def segment_distance(a: np.ndarray, b: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Distance of every pixel centre to a segment, by the three cases: before a, past b, beside."""
    y, x = np.mgrid[: size[0], : size[1]].astype(float)
    length = math.dist(a, b)
    before, past = np.hypot(x - a[0], y - a[1]), np.hypot(x - b[0], y - b[1])
    if length == 0:
        return before
    ux, uy = (b - a) / length
    along, beside = (x - a[0]) * ux + (y - a[1]) * uy, np.abs((x - a[0]) * uy - (y - a[1]) * ux)
    return np.where(along < 0, before, np.where(along > length, past, beside))


# --- what holds for every map ---


@every_skeleton
@every_map
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_map_has_the_poses_size_type_and_batch(make: Callable, dtype: torch.dtype, skeleton: Skeleton, a_pose: MakePose) -> None:
    grid = make(a_pose(1, (2, 3), skeleton, (12, 9), 0.3, dtype))
    assert grid.shape[:2] == (2, 3) and grid.shape[3:] == (12, 9) and grid.dtype == dtype
    channels = {len(skeleton), 1, len(skeleton.limbs), len(skeleton.edges)}
    assert grid.shape[2] in channels and make(a_pose(1, (), skeleton, (12, 9))).shape == grid.shape[2:]


@every_map
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 1000), missing=st.sampled_from([0.0, 0.4, 1.0]))
def test_one_poses_maps_do_not_depend_on_the_batch(make: Callable, a_pose: MakePose, seed: int, missing: float) -> None:
    poses = a_pose(seed, (3,), missing=missing)
    together = make(poses)
    for row in range(3):
        assert torch.equal(make(poses[row]), together[row]) and torch.equal(make(poses[row : row + 1])[0], together[row])


@every_skeleton
@pytest.mark.parametrize("make", [gaussian_maps, disc_maps, body_mask, limb_masks])
def test_nobody_seen_is_an_empty_map(make: Callable, skeleton: Skeleton, a_pose: MakePose) -> None:
    assert make(a_pose(skeleton=skeleton, missing=0.0)).any()
    empty = make(a_pose(skeleton=skeleton, missing=2.0))
    assert not empty.any() and empty.isfinite().all()


@every_map
def test_a_missing_joints_old_place_leaks_nowhere(make: Callable, a_pose: MakePose) -> None:
    pose = a_pose(missing=0.3)
    garbage = torch.where(pose.visible[..., None], pose.xy, torch.full_like(pose.xy, float("nan")))
    other = torch.where(pose.visible[..., None], pose.xy, torch.full_like(pose.xy, 5.0))
    first, second = (make(Pose(xy, pose.visible, pose.skeleton, pose.size)) for xy in (garbage, other))
    assert torch.equal(first, second) and not first.isnan().any()


@pytest.mark.parametrize("make", [gaussian_maps, disc_maps])
def test_a_missing_joints_heatmap_is_zero_and_the_others_are_not(make: Callable, a_pose: MakePose) -> None:
    pose = a_pose(4, (3,), missing=0.4)
    inside = Pose(pose.xy.clamp(0, 15), pose.visible, openpose_18, (32, 16))
    assert torch.equal(make(inside).flatten(2).any(-1), inside.visible) and not inside.visible.all()


# --- heatmaps ---


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("sigma_px", [0.7, 1.75, 6.0, 40.0])
def test_gaussian_maps_pixel_by_pixel(sigma_px: float, dtype: torch.dtype, atol: float, a_pose: MakePose) -> None:
    # Quarters of pixels below 16 are exact in eight bits of mantissa: what differs is the arithmetic.
    pose = a_pose(2, (2,), size=(14, 9), missing=0.25)
    pose = Pose((pose.xy * 4).round() / 4, pose.visible, openpose_18, (14, 9))
    expected = torch.zeros(2, 18, 14, 9, dtype=torch.float64)
    for b, k, r, c in itertools.product(range(2), range(18), range(14), range(9)):
        if pose.visible[b, k]:
            x, y = pose.xy[b, k].tolist()
            expected[b, k, r, c] = math.exp(-((c - x) ** 2 + (r - y) ** 2) / (2 * sigma_px**2))
    maps = gaussian_maps(pose.to(dtype), sigma_px)
    assert maps.dtype == dtype and torch.allclose(maps.double(), expected, rtol=0, atol=atol)


def test_a_gaussian_is_one_at_its_joint_and_known_a_sigma_away() -> None:
    maps = gaussian_maps(upper({0: (10.0, 7.0)}, (21, 31), torch.float64))  # the default is the paper's 6 px
    assert maps[0, 7, 10] == 1 and maps.max() == 1
    for r, c in ((13, 10), (1, 10), (7, 16), (7, 4)):
        assert maps[0, r, c] == pytest.approx(math.exp(-0.5))


def test_gradients_of_gaussian_maps_reach_seen_joints_only() -> None:
    random = torch.Generator().manual_seed(0)
    visible = torch.rand(2, 7, generator=random) > 0.3
    xy = (torch.rand(2, 7, 2, dtype=torch.float64, generator=random) * 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: gaussian_maps(Pose(t, visible, upper_7, (5, 4)), 1.5), (xy,))
    # Each joint's own map: all maps added up would hide a mix-up of joints, gradcheck does not.
    gaussian_maps(Pose(xy, visible, upper_7, (5, 4)), 1.5).pow(2).sum().backward()
    assert xy.grad is not None and torch.equal(xy.grad.abs().sum(-1) > 0, visible)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("radius_px", [0.4, 1.0, 2.5, 4.0, 100.0])
def test_disc_maps_pixel_by_pixel(radius_px: float, dtype: torch.dtype, a_pose: MakePose) -> None:
    pose = a_pose(3, (2,), size=(13, 10), missing=0.25)
    quarters, whole = (pose.xy * 4).round() / 4, torch.arange(18)[:, None] % 2 == 0
    pose = Pose(torch.where(whole, pose.xy.round(), quarters), pose.visible, openpose_18, (13, 10))
    expected = torch.zeros(2, 18, 13, 10, dtype=dtype)
    for b, k, r, c in itertools.product(range(2), range(18), range(13), range(10)):
        x, y = pose.xy[b, k].tolist()
        expected[b, k, r, c] = float(bool(pose.visible[b, k]) and (c - x) ** 2 + (r - y) ** 2 <= radius_px**2)
    assert torch.equal(disc_maps(pose.to(dtype), radius_px), expected)


def test_the_papers_disc_has_49_pixels_and_its_rim() -> None:
    disc = disc_maps(upper({0: (10.0, 8.0)}, (20, 20)))[0]
    assert disc.sum() == 49  # lattice points within 4 of the origin
    assert disc[8, 14] == disc[4, 10] == 1 and disc[8, 15] == disc[5, 13 + 1] == 0
    cut = disc_maps(upper({0: (0.0, 0.0)}, (20, 20)))[0]
    assert cut.sum() == 17  # a quarter with its two axes


# --- distances ---


def test_edge_distances_by_cases_and_infinite_without_a_joint(a_pose: MakePose) -> None:
    pose = a_pose(5, (), size=(20, 14), missing=0.25, dtype=torch.float64)
    edges = [*BODY_EDGES_18, (4, 4)]  # one of no length
    distances = edge_distances(pose, edges)
    xy, seen = pose.xy.numpy(), pose.visible.tolist()
    missing = 0
    for i, (a, b) in enumerate(edges):
        if seen[a] and seen[b]:
            assert np.allclose(distances[i], segment_distance(xy[a], xy[b], (20, 14)))
        else:
            missing += 1
            assert distances[i].isinf().all() and (distances[i] > 0).all()
    assert 0 < missing < len(edges)


def test_joint_distances_and_infinite_without_the_joint(a_pose: MakePose) -> None:
    pose = a_pose(6, (2,), size=(11, 8), missing=0.3, dtype=torch.float64)
    distances = joint_distances(pose)
    for b, k, r, c in itertools.product(range(2), range(18), range(11), range(8)):
        x, y = pose.xy[b, k].tolist()
        assert distances[b, k, r, c].item() == (pytest.approx(math.hypot(c - x, r - y)) if pose.visible[b, k] else math.inf)


# --- closing ---


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), side=st.sampled_from([1, 3, 5, 7]), share=st.sampled_from([0.05, 0.2, 0.5, 0.9]))
def test_close_is_scipys_closing(seed: int, side: int, share: float) -> None:
    mask = np.random.default_rng(seed).random((2, 1, 23, 17)) < share
    closed = close(torch.from_numpy(mask).double(), side).numpy()
    square = np.ones((side, side))
    for row in range(2):
        # With the nearest pixel repeated outside, neither maximum nor minimum can come from out of the frame.
        assert np.array_equal(closed[row, 0], scipy.ndimage.grey_closing(mask[row, 0].astype(float), (side, side), mode="nearest"))
        grown = scipy.ndimage.binary_dilation(mask[row, 0], square, border_value=0)
        assert np.array_equal(closed[row, 0] > 0, scipy.ndimage.binary_erosion(grown, square, border_value=1))
    assert (closed >= mask).all() and np.array_equal(close(torch.from_numpy(closed), side).numpy(), closed)


def test_close_fills_gaps_narrower_than_its_square() -> None:
    mask = torch.zeros(1, 9, 30)
    mask[0, 3:6, [4, 9, 15]] = 1  # gaps of four and of five columns
    closed = close(mask, 5)
    assert closed[0, 4].nonzero().squeeze(1).tolist() == [*range(4, 10), 15]
    assert closed.shape == mask.shape and closed.sum() == 3 * 7


@pytest.mark.parametrize("side_px", [0, 2, 4, -1])
def test_close_takes_odd_squares(side_px: int) -> None:
    with pytest.raises(ValueError, match=f"odd number of pixels, got {side_px}"):
        close(torch.zeros(1, 8, 8), side_px)


# --- the body ---


def body_by_hand(pose: Pose, edges: tuple[tuple[int, int], ...], radius_px: float, closing_px: int) -> np.ndarray:
    xy, seen = pose.xy.numpy(), pose.visible.tolist()
    body = np.zeros(pose.size, dtype=bool)
    for k in range(len(seen)):
        if seen[k]:
            body |= segment_distance(xy[k], xy[k], pose.size) <= radius_px
    for a, b in edges:
        if seen[a] and seen[b]:
            body |= segment_distance(xy[a], xy[b], pose.size) <= radius_px
    square = np.ones((closing_px, closing_px))
    return scipy.ndimage.binary_erosion(scipy.ndimage.binary_dilation(body, square), square, border_value=1)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 0.6, 0.9]),
    radius_px=st.sampled_from([0.8, 2.0, 4.0]), closing_px=st.sampled_from([1, 3, 5]),
)  # fmt: skip
def test_body_mask_by_another_road(a_pose: MakePose, seed: int, missing: float, radius_px: float, closing_px: int) -> None:
    pose = a_pose(seed, (), openpose_18, (48, 24), missing, torch.float64)
    mask = body_mask(pose, radius_px, closing_px=closing_px)
    assert mask.shape == (1, 48, 24)
    assert np.array_equal(mask[0].numpy(), body_by_hand(pose, BODY_EDGES_18, radius_px, closing_px))


@pytest.mark.parametrize("skeleton", [coco_17, mpii_14, upper_7], ids=lambda s: s.name)
def test_other_skeletons_bodies_follow_their_own_edges(skeleton: Skeleton, a_pose: MakePose) -> None:
    pose = a_pose(7, (), skeleton, (60, 40), 0.2, torch.float64)
    expected = body_by_hand(pose, skeleton.edges, 2.0, 5)
    assert np.array_equal(body_mask(pose, 2.0)[0].numpy(), expected)
    edges = skeleton.edges[:1]
    assert np.array_equal(body_mask(pose, 2.0, edges=edges, closing_px=3)[0].numpy(), body_by_hand(pose, edges, 2.0, 3))


def test_body_mask_has_the_released_codes_23_lines_radius_and_closing(a_pose: MakePose) -> None:
    assert len({frozenset(edge) for edge in BODY_EDGES_18}) == 23
    mirrored = {frozenset(openpose_18.mirror[j] for j in edge) for edge in BODY_EDGES_18}
    assert mirrored == {frozenset(edge) for edge in BODY_EDGES_18}
    pose = a_pose(8, (2,), size=(64, 32))
    assert torch.equal(body_mask(pose), body_mask(pose, radius_px=4.0, edges=BODY_EDGES_18, closing_px=5))
    # A lone joint is the paper's disc, which a 5 x 5 closing rounds off by nothing: 49 pixels, and hardly any more.
    lone = Pose(torch.full((18, 2), 16.0), torch.arange(18) == 4, openpose_18, (64, 32))
    assert 49 <= body_mask(lone).sum() <= 57


# --- limbs ---


def limb_by_hand(pose: Pose, limb: tuple[int, ...], radius_px: float) -> np.ndarray:
    """Hull of the joints there are, by Qhull and scikit-image's polygons, grown by the distance to its sides."""
    points = pose.xy.numpy()[[j for j in limb if pose.visible[j]]]
    mask = np.zeros(pose.size, dtype=bool)
    if len(points) < 2:
        return mask
    corners = points
    if len(points) > 2:
        corners = points[scipy.spatial.ConvexHull(points).vertices]
        mask[skimage.draw.polygon(corners[:, 1], corners[:, 0], pose.size)] = True
    for a, b in zip(corners, np.roll(corners, 1, axis=0), strict=True):
        mask |= segment_distance(a, b, pose.size) <= radius_px
    return mask


@every_skeleton
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 0.6]), radius_px=st.sampled_from([0.8, 2.0, 4.0]))
def test_limb_masks_by_another_road(skeleton: Skeleton, a_pose: MakePose, seed: int, missing: float, radius_px: float) -> None:
    pose = a_pose(seed, (), skeleton, (48, 24), missing, torch.float64)
    masks = limb_masks(pose, radius_px)
    assert masks.shape == (len(skeleton.limbs), 48, 24)
    for i, limb in enumerate(skeleton.limbs):
        assert np.array_equal(masks[i].numpy(), limb_by_hand(pose, limb, radius_px)), limb


def test_a_limb_of_two_needs_both_and_a_larger_one_two() -> None:
    arm = {1: (2.0, 2.0), 3: (8.0, 2.0)}  # right wrist and elbow
    head = {0: (5.0, 10.0), 5: (2.0, 16.0), 6: (9.0, 16.0)}
    for points, expected in (
        (arm, [True, False, False, False, False]), ({1: arm[1]}, [False] * 5), (head, [False] * 4 + [True]),
        ({0: head[0], 6: head[6]}, [False] * 4 + [True]), ({6: head[6]}, [False] * 5),
    ):  # fmt: skip
        assert limb_masks(upper(points, (20, 12))).flatten(1).any(-1).tolist() == expected


# Keypoint files hold whole pixels: joints on one line, or on one point, are common in them.
DEGENERATE = {
    "on a row": [(4.0, 10.0), (8.0, 10.0), (12.0, 10.0)],
    "on a column": [(10.0, 4.0), (10.0, 12.0), (10.0, 9.0)],
    "on a diagonal": [(4.0, 4.0), (8.0, 8.0), (6.0, 6.0)],
    "on a slanted line": [(3.0, 4.0), (9.0, 7.0), (5.0, 5.0)],
    "two on a point": [(5.0, 5.0), (5.0, 5.0), (12.0, 9.0)],
    "all on a point": [(6.0, 9.0)] * 3,
}


@pytest.mark.parametrize("points", DEGENERATE.values(), ids=DEGENERATE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_hull_without_area_is_the_segment_it_is(points: list[tuple[float, float]], dtype: torch.dtype) -> None:
    pose = upper(dict(zip((0, 5, 6), points, strict=True)), (24, 20), dtype)
    expected = np.zeros((24, 20), dtype=bool)
    for a, b in itertools.combinations(np.array(points), 2):
        expected |= segment_distance(a, b, (24, 20)) <= 1.9
    assert np.array_equal(limb_masks(pose, 1.9)[4].numpy(), expected)


# --- images at joints ---


def test_maxima_and_their_gaussians_in_a_hand_worked_case() -> None:
    heatmaps = torch.zeros(2, 17, 8, 6)
    heatmaps[0, 0, 5, 2] = 0.9
    heatmaps[0, 1, 3, 4] = 0.2  # not above the threshold
    heatmaps[0, 2, 7, 5], heatmaps[0, 2, 0, 0] = 0.5, 0.4
    heatmaps[1, 16, 1, 1] = heatmaps[1, 16, 2, 0] = 3.0  # the first of equals
    pose = maxima(heatmaps, 0.2, coco_17)
    assert pose.size == (8, 6) and pose.skeleton == coco_17
    assert pose.visible.nonzero().tolist() == [[0, 0], [0, 2], [1, 16]]
    assert pose.xy[pose.visible].tolist() == [[2, 5], [5, 7], [1, 1]]
    again = gaussian_maps(pose, 1.5)
    for y in range(8):
        for x in range(6):
            assert again[0, 0, y, x].item() == pytest.approx(math.exp(-((x - 2) ** 2 + (y - 5) ** 2) / (2 * 1.5**2)), rel=1e-5)
    assert not again[0, 1].any() and not again[1, :16].any()
    everywhere = maxima(heatmaps, -1.0, coco_17)
    assert everywhere.visible.all() and everywhere.xy[1, 3].tolist() == [0, 0]


def test_maxima_in_half_precision_name_the_pixel() -> None:
    heatmaps = torch.zeros(1, 17, 128, 64, dtype=torch.bfloat16)
    heatmaps[:, :, 101, 59] = 1
    assert maxima(heatmaps, 0.2, coco_17).xy.unique(dim=1).tolist() == [[[59.0, 101.0]]]


def test_the_gaussians_of_a_pose_are_found_again(a_pose: MakePose) -> None:
    pose = a_pose(3, (4,), skeleton=coco_17, missing=0.3)
    pose = replace(pose, xy=pose.xy.round().clamp(min=0).minimum(torch.tensor([15.0, 31.0])))
    again = maxima(gaussian_maps(pose, 3.0), 0.2, coco_17)
    assert torch.equal(again.visible, pose.visible) and torch.equal(again.xy, pose.xy) and 0 < pose.visible.sum() < 68


def test_the_person_is_painted_grey_and_the_rest_left(a_pose: MakePose) -> None:
    xy = torch.full((1, 18, 2), 16.0)
    image = torch.ones(1, 3, 64, 32)
    out = without_person(image, Pose(xy, torch.ones(1, 18, dtype=torch.bool), openpose_18, (64, 32)))
    assert (out[0, :, 16, 16] == 0).all() and (out[0, :, 60, 2] == 1).all()
    nobody = Pose(xy, torch.zeros(1, 18, dtype=torch.bool), openpose_18, (64, 32))
    assert torch.equal(without_person(image, nobody), image)
