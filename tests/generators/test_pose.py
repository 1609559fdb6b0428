from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
from generator_helpers import MakePair, MakePose
from hypothesis import given, settings
from hypothesis import strategies as st

from generators import Pose, Skeleton
from generators.maps import disc_maps
from generators.pose import SKELETONS, coco_17, convert, mirror, mpii_14, openpose_18, rescale, upper_7

every_skeleton = pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
FACE = ("nose", "r_eye", "l_eye", "r_ear", "l_ear")
sizes = st.tuples(st.integers(1, 300), st.integers(1, 300))


def same(a: Pose, b: Pose, atol: float = 0.0) -> bool:
    return (
        a.skeleton == b.skeleton and a.size == b.size and a.xy.dtype == b.xy.dtype
        and torch.equal(a.visible, b.visible) and torch.allclose(a.xy, b.xy, rtol=0, atol=atol)
    )  # fmt: skip


def opposite(joint: str) -> str:
    if joint.startswith("r_"):
        return "l_" + joint[2:]
    return "r_" + joint[2:] if joint.startswith("l_") else joint


# --- skeletons ---


@every_skeleton
def test_mirroring_joints_is_an_involution_that_swaps_sides(skeleton: Skeleton) -> None:
    assert [skeleton.mirror[m] for m in skeleton.mirror] == list(range(len(skeleton)))
    assert [skeleton.joints[m] for m in skeleton.mirror] == [opposite(joint) for joint in skeleton.joints]


@every_skeleton
def test_limbs_and_edges_name_different_joints_and_come_in_mirrored_pairs(skeleton: Skeleton) -> None:
    assert len(set(skeleton.joints)) == len(skeleton.joints)
    for groups in (skeleton.limbs, skeleton.edges):
        assert all(len(set(g)) == len(g) and set(g) <= set(range(len(skeleton))) for g in groups)
        plain = [frozenset(g) for g in groups]
        assert len(set(plain)) == len(plain)
        assert {frozenset(skeleton.mirror[j] for j in g) for g in plain} == set(plain)
    assert all(len(edge) == 2 for edge in skeleton.edges)
    assert set(itertools.chain(*skeleton.edges)) == set(range(len(skeleton)))


def test_openpose_18_has_the_fields_order() -> None:
    assert openpose_18.joints == (
        "nose", "neck", "r_shoulder", "r_elbow", "r_wrist", "l_shoulder", "l_elbow", "l_wrist",
        "r_hip", "r_knee", "r_ankle", "l_hip", "l_knee", "l_ankle", "r_eye", "l_eye", "r_ear", "l_ear",
    )  # fmt: skip
    assert openpose_18.mirror == (0, 1, 5, 6, 7, 2, 3, 4, 11, 12, 13, 8, 9, 10, 15, 14, 17, 16)
    assert {frozenset(limb) for limb in openpose_18.limbs} == {
        frozenset(limb) for limb in [
            (2, 5, 8, 11), (0, 14, 15, 16, 17, 2, 5), (8, 9), (9, 10), (11, 12), (12, 13), (2, 3), (5, 6), (3, 4), (6, 7),
        ]
    }  # fmt: skip


def test_the_other_skeletons_have_their_files_order() -> None:
    assert coco_17.joints == (
        "nose", "l_eye", "r_eye", "l_ear", "r_ear", "l_shoulder", "r_shoulder", "l_elbow", "r_elbow",
        "l_wrist", "r_wrist", "l_hip", "r_hip", "l_knee", "r_knee", "l_ankle", "r_ankle",
    )  # fmt: skip
    assert mpii_14.joints[:2] == ("head", "neck") and mpii_14.joints[2:] == openpose_18.joints[2:14]
    assert len(mpii_14.limbs) == 10 and (0, 1) in mpii_14.limbs and {2, 5, 8, 11} in [set(limb) for limb in mpii_14.limbs]
    assert upper_7.joints == ("head", "r_wrist", "l_wrist", "r_elbow", "l_elbow", "r_shoulder", "l_shoulder")
    # The reproduction's limbs, counted from one: [1,3], [3,5], [2,4], [4,6]; the fifth is head and shoulders.
    assert [set(limb) for limb in upper_7.limbs] == [{1, 3}, {3, 5}, {2, 4}, {4, 6}, {0, 5, 6}]


@pytest.mark.parametrize("order", [(0, 1), (1, 2, 0), (0, 0, 2), (0, 1, 3)])
def test_a_mirror_that_pairs_nothing_is_refused(order: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="skeleton 'odd': mirror must pair the 3 joints"):
        Skeleton("odd", ("a", "b", "c"), (), (), order)


@pytest.mark.parametrize("group", [(0,), (0, 3), (-1, 2)])
def test_limbs_and_edges_of_unknown_joints_are_refused(group: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"skeleton 'odd': a limb or edge names joints in 0\.\.2"):
        Skeleton("odd", ("a", "b", "c"), (group,), (), (0, 2, 1))
    with pytest.raises(ValueError, match="a limb or edge names joints"):
        Skeleton("odd", ("a", "b", "c"), ((0, 1),), (group,), (0, 2, 1))  # type: ignore[arg-type]


@every_skeleton
def test_index_finds_a_joint_or_names_those_there_are(skeleton: Skeleton) -> None:
    assert [skeleton.index(joint) for joint in skeleton.joints] == list(range(len(skeleton)))
    with pytest.raises(KeyError, match=f"has no joint 'tail'; it has {skeleton.joints[0]}"):
        skeleton.index("tail")


# --- poses ---


@pytest.mark.parametrize(
    ("xy", "visible"),
    [((17, 2), (17,)), ((18, 3), (18,)), ((18,), (18,)), ((2, 18, 2), (18,)), ((18, 2), (2, 18)), ((18, 2), (17,))],
)
def test_a_pose_of_other_shapes_is_refused(xy: tuple[int, ...], visible: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"'openpose_18' has xy \(\*B, 18, 2\) and visible \(\*B, 18\), got ") as caught:
        Pose(torch.zeros(xy), torch.ones(visible, dtype=torch.bool), openpose_18, (8, 4))
    assert str(xy) in str(caught.value) and str(visible) in str(caught.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, torch.int64])
def test_visible_is_bool(dtype: torch.dtype) -> None:
    with pytest.raises(TypeError, match="visible is bool, got torch"):
        Pose(torch.zeros(18, 2), torch.ones(18, dtype=dtype), openpose_18, (8, 4))


@pytest.mark.parametrize("garbage", [-1.0, 7.5, float("nan"), float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_missing_joints_hold_zeros_and_the_others_what_they_held(garbage: float, dtype: torch.dtype) -> None:
    given_xy = torch.rand(3, 18, 2, dtype=dtype) + 1
    visible = torch.rand(3, 18) > 0.4
    xy = torch.where(visible[..., None], given_xy, torch.full_like(given_xy, garbage))
    before = xy.clone()
    pose = Pose(xy, visible, openpose_18, (8, 4))
    assert pose.xy.dtype == dtype and torch.equal(pose.xy, given_xy * visible[..., None])
    assert torch.equal(xy, before) or garbage != garbage, "the caller's tensor is the caller's"


def test_poses_are_frozen(a_pose: MakePose) -> None:
    with pytest.raises(FrozenInstanceError):
        a_pose().size = (1, 1)  # type: ignore[misc]


def test_indexing_follows_the_batch(a_pose: MakePose) -> None:
    poses = a_pose(batch=(4,), missing=0.3)
    assert len(poses) == 4 and poses.batch_shape == (4,) and poses[1].batch_shape == ()
    for index, rows in ((slice(1, 3), [1, 2]), ([3, 0], [3, 0]), (torch.tensor([2, 2]), [2, 2]),
                        (torch.tensor([True, False, False, True]), [0, 3])):  # fmt: skip
        assert torch.equal(poses[index].xy, poses.xy[rows]) and torch.equal(poses[index].visible, poses.visible[rows])
    assert poses[0].size == poses.size and poses[0].skeleton is poses.skeleton


def test_cat_and_stack_join_in_order(a_pose: MakePose) -> None:
    poses = a_pose(batch=(4,), missing=0.3)
    assert same(Pose.cat([poses[:1], poses[1:]]), poses)
    assert same(Pose.stack([poses[i] for i in range(4)]), poses)


def test_poses_of_other_sizes_or_skeletons_do_not_join(a_pose: MakePose) -> None:
    with pytest.raises(ValueError, match=r"share a skeleton and a size.*\(32, 16\).*\(64, 16\)"):
        Pose.cat([a_pose(), a_pose(size=(64, 16))])
    with pytest.raises(ValueError, match="coco_17.*openpose_18"):
        Pose.cat([a_pose(), a_pose(skeleton=coco_17)])


def test_to_changes_xy_and_leaves_visible_bool(a_pose: MakePose) -> None:
    pose = a_pose(missing=0.3)
    for moved in (pose.to(torch.float64), pose.to("cpu", torch.float64), pose.to(dtype=torch.float64, non_blocking=True)):
        assert moved.xy.dtype == torch.float64 and torch.equal(moved.xy.float(), pose.xy)
        assert moved.visible.dtype == torch.bool and torch.equal(moved.visible, pose.visible)
    moved = pose.to("meta")
    assert moved.xy.device.type == moved.visible.device.type == "meta"


# --- mirror and rescale ---


def test_mirror_by_hand() -> None:
    xy = torch.zeros(7, 2)
    xy[[0, 1, 3]] = torch.tensor([[2.0, 1.0], [0.0, 5.0], [9.0, 3.5]])  # head, right wrist, right elbow
    visible = torch.tensor([True, True, False, True, False, False, False])
    mirrored = mirror(Pose(xy, visible, upper_7, (8, 10)))
    assert mirrored.visible.tolist() == [True, False, True, False, True, False, False]
    assert mirrored.xy.tolist() == [[7.0, 1.0], [0, 0], [9.0, 5.0], [0, 0], [0.0, 3.5], [0, 0], [0, 0]]
    assert mirrored.size == (8, 10)


@every_skeleton
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), size=sizes, batch=st.sampled_from([(), (1,), (3,), (2, 2)]), missing=st.sampled_from([0.0, 0.4, 1.0]))
def test_mirroring_twice_changes_nothing(
    skeleton: Skeleton, a_pose: MakePose, seed: int, size: tuple[int, int], batch: tuple[int, ...], missing: float
) -> None:
    pose = a_pose(seed, batch, skeleton, size, missing, torch.float64)
    assert same(mirror(mirror(pose)), pose, atol=1e-12)


@every_skeleton
def test_mirror_is_where_the_flipped_image_has_the_joint(skeleton: Skeleton, a_pose: MakePose) -> None:
    pose = a_pose(3, (2,), skeleton, (20, 15), missing=0.3)
    pose = Pose(pose.xy.round(), pose.visible, skeleton, (20, 15))
    flipped = disc_maps(pose, 2.0).flip(-1)[:, list(skeleton.mirror)]
    assert flipped.sum() > 0 and torch.equal(disc_maps(mirror(pose), 2.0), flipped)


def test_rescale_by_hand() -> None:
    xy = torch.tensor([[0.0, 0.0], [3.0, 1.0], [-0.5, -0.5], [3.5, 7.5], [9.0, 9.0], [1.5, 3.5], [1.0, 2.0]])
    visible = torch.tensor([True] * 4 + [False] + [True] * 2)
    scaled = rescale(Pose(xy, visible, upper_7, (8, 4)), (4, 12))  # half as high, three times as wide
    assert scaled.xy.tolist() == [[1.0, -0.25], [10.0, 0.25], [-0.5, -0.5], [11.5, 3.5], [0.0, 0.0], [5.5, 1.5], [4.0, 0.75]]
    assert scaled.size == (4, 12) and torch.equal(scaled.visible, visible)


def test_rescale_agrees_with_resizing_an_image() -> None:
    """A horizontal ramp resized bilinearly holds, at each new pixel, the old coordinate of that pixel."""
    ramp = torch.arange(24, dtype=torch.float64).expand(1, 1, 24, 24)
    resized = torch.nn.functional.interpolate(ramp, size=(24, 60), mode="bilinear", align_corners=False)[0, 0, 0]
    old = resized[5:40:5]  # x of seven joints in the old image …
    pose = Pose(torch.stack((old, old), -1), torch.ones(7, dtype=torch.bool), upper_7, (24, 24))
    assert torch.allclose(rescale(pose, (24, 60)).xy[:, 0], torch.arange(5.0, 40, 5, dtype=torch.float64))  # … and in the new one


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), size=sizes, other=sizes, third=sizes)
def test_rescaling_there_and_back_or_by_way_of_a_third_size(
    a_pose: MakePose, seed: int, size: tuple[int, int], other: tuple[int, int], third: tuple[int, int]
) -> None:
    pose = a_pose(seed, (2,), openpose_18, size, 0.3, torch.float64)
    assert same(rescale(rescale(pose, other), size), pose, atol=1e-9)
    assert same(rescale(rescale(pose, other), third), rescale(pose, third), atol=1e-9)
    assert same(mirror(rescale(pose, other)), rescale(mirror(pose), other), atol=1e-9)


# --- convert ---


def convert_by_hand(pose: Pose, skeleton: Skeleton) -> tuple[list[list[float]], list[bool]]:
    """One pose (K, 2), joint by joint, in plain Python."""
    have = {n: xy for n, xy, seen in zip(pose.skeleton.joints, pose.xy.tolist(), pose.visible.tolist(), strict=True) if seen}
    xy, visible = [], []
    for joint in skeleton.joints:
        points = []
        if joint in pose.skeleton.joints:
            points = [have[joint]] if joint in have else []
        elif joint == "neck":
            points = [have["r_shoulder"], have["l_shoulder"]] if {"r_shoulder", "l_shoulder"} <= set(have) else []
        elif joint == "head":
            points = [have[n] for n in FACE if n in have]
        xy.append([sum(p[i] for p in points) / len(points) if points else 0.0 for i in range(2)])
        visible.append(bool(points))
    return xy, visible


POSSIBLE = [
    (a, b) for a in SKELETONS.values() for b in SKELETONS.values()
    if all(j in a.joints or j == "neck" or (j == "head" and "nose" in a.joints) for j in b.joints)
]  # fmt: skip


def test_what_converts_to_what() -> None:
    names = {(a.name, b.name) for a, b in POSSIBLE if a is not b}
    assert names == {
        ("openpose_18", "coco_17"), ("coco_17", "openpose_18"), ("openpose_18", "mpii_14"), ("coco_17", "mpii_14"),
        ("openpose_18", "upper_7"), ("coco_17", "upper_7"), ("mpii_14", "upper_7"),
    }  # fmt: skip


@pytest.mark.parametrize(("start", "end"), POSSIBLE, ids=lambda s: s.name)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
def test_convert_joint_by_joint(start: Skeleton, end: Skeleton, a_pose: MakePose, seed: int, missing: float) -> None:
    pose = a_pose(seed, (), start, (40, 20), missing, torch.float64)
    xy, visible = convert_by_hand(pose, end)
    assert same(convert(pose, end), Pose(torch.tensor(xy, dtype=torch.float64), torch.tensor(visible), end, (40, 20)), atol=1e-12)


@pytest.mark.parametrize("start", [s for s in SKELETONS.values() if s is not openpose_18], ids=lambda s: s.name)
def test_converting_to_the_own_skeleton_changes_nothing(start: Skeleton, a_pose: MakePose) -> None:
    pose = a_pose(skeleton=start, missing=0.3)
    assert same(convert(pose, start), pose)


def test_the_neck_of_coco_is_between_the_shoulders_and_needs_both(a_pose: MakePose) -> None:
    pose = a_pose(skeleton=coco_17, batch=(4,))
    visible = pose.visible.clone()
    visible[1, coco_17.index("r_shoulder")] = visible[2, coco_17.index("l_shoulder")] = False
    visible[3, [coco_17.index("r_shoulder"), coco_17.index("l_shoulder")]] = False
    neck = convert(Pose(pose.xy, visible, coco_17, pose.size), openpose_18)
    assert neck.visible[:, 1].tolist() == [True, False, False, False]
    assert torch.allclose(neck.xy[0, 1], (pose.xy[0, 5] + pose.xy[0, 6]) / 2) and not neck.xy[1:, 1].any()
    others = [k for k in range(18) if k != 1]
    assert torch.equal(neck.visible[0, others], torch.ones(17, dtype=torch.bool))
    assert same(convert(neck, coco_17), Pose(pose.xy, visible, coco_17, pose.size)), "there and back"


@pytest.mark.parametrize("end", [mpii_14, upper_7], ids=lambda s: s.name)
def test_a_head_is_the_mean_of_whatever_is_seen_of_the_face(end: Skeleton, a_pose: MakePose) -> None:
    face = [openpose_18.index(n) for n in FACE]
    subsets = [s for n in range(6) for s in itertools.combinations(face, n)]
    pose = a_pose(batch=(len(subsets),), dtype=torch.float64)
    visible = pose.visible.clone()
    visible[:, face] = False
    for row, subset in enumerate(subsets):
        visible[row, list(subset)] = True
    heads = convert(Pose(pose.xy, visible, openpose_18, pose.size), end)
    for row, subset in enumerate(subsets):
        assert bool(heads.visible[row, 0]) is bool(subset)
        expected = pose.xy[row, list(subset)].mean(0) if subset else torch.zeros(2, dtype=torch.float64)
        assert torch.allclose(heads.xy[row, 0], expected)


@pytest.mark.parametrize(
    ("start", "end", "joint"),
    [(upper_7, mpii_14, "r_hip"), (upper_7, openpose_18, "nose"), (mpii_14, openpose_18, "nose"), (mpii_14, coco_17, "nose")],
    ids=lambda value: getattr(value, "name", value),
)
def test_a_joint_that_cannot_be_had_is_named(start: Skeleton, end: Skeleton, joint: str, a_pose: MakePose) -> None:
    with pytest.raises(ValueError, match=f"a {start.name} pose has nothing to make {end.name}'s '{joint}' from"):
        convert(a_pose(skeleton=start), end)


@pytest.mark.parametrize(("start", "end"), [(a, b) for a in SKELETONS.values() for b in SKELETONS.values()], ids=lambda s: s.name)
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10_000), missing=st.sampled_from([0.0, 0.3, 1.0]))
def test_what_cannot_be_had_may_be_missing(start: Skeleton, end: Skeleton, a_pose: MakePose, seed: int, missing: float) -> None:
    """Hand-worked: joint by joint as ever, but that OpenPose's neck is between the shoulders whatever MPII calls one."""
    pose = a_pose(seed, (), start, (40, 20), missing, torch.float64)
    changed = convert(pose, end, lacking="missing")
    if (start, end) in POSSIBLE:
        assert same(changed, convert(pose, end))
    xy, visible = convert_by_hand(pose, end)
    if (start, end) == (mpii_14, openpose_18):
        sides = [mpii_14.index(joint) for joint in ("r_shoulder", "l_shoulder")]
        visible[1] = bool(pose.visible[sides].all())
        xy[1] = pose.xy[sides].mean(0).tolist() if visible[1] else [0.0, 0.0]
    assert same(changed, Pose(torch.tensor(xy, dtype=torch.float64), torch.tensor(visible), end, (40, 20)), atol=1e-12)


@pytest.mark.parametrize("start", SKELETONS.values(), ids=lambda s: s.name)
@pytest.mark.parametrize("end", SKELETONS.values(), ids=lambda s: s.name)
def test_converting_the_flipped_is_flipping_the_converted(start: Skeleton, end: Skeleton, a_pose: MakePose) -> None:
    pose = a_pose(7, (5,), start, missing=0.3, dtype=torch.float64)
    assert same(convert(mirror(pose), end, lacking="missing"), mirror(convert(pose, end, lacking="missing")), atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "change", [mirror, lambda p: rescale(p, (50, 90)), lambda p: convert(p, mpii_14)], ids=["mirror", "rescale", "convert"]
)
def test_one_pose_or_a_grid_of_them(change: Callable[[Pose], Pose], dtype: torch.dtype, a_pose: MakePose) -> None:
    grid = a_pose(5, (2, 3), missing=0.3, dtype=dtype)
    changed = change(grid)
    assert changed.batch_shape == (2, 3) and changed.xy.dtype == dtype
    assert not changed.xy[~changed.visible].any(), "a joint that is missing stays at zero"
    for i, j in itertools.product(range(2), range(3)):
        assert same(change(grid[i][j]), changed[i][j])
    assert same(change(grid[:1, :1]), changed[:1, :1])  # type: ignore[index]


# --- pairs of images and poses ---


def test_indexing_a_pair_takes_the_same_rows_of_everything(a_pair: MakePair) -> None:
    pair = a_pair(batch=4)
    rows = torch.tensor([3, 1])
    part = pair[rows]
    assert len(pair) == 4 and len(part) == 2 and part.identity.tolist() == [3, 1]
    assert torch.equal(part.source, pair.source[rows]) and torch.equal(part.target, pair.target[rows])
    assert same(part.source_pose, pair.source_pose[rows]) and same(part.target_pose, pair.target_pose[rows])
    assert pair[1:2].identity.tolist() == [1]


def test_mirrored_flips_the_rows_asked_for(a_pair: MakePair) -> None:
    pair = a_pair(batch=3, dtype=torch.float64)
    some = pair.mirrored(torch.tensor([True, False, True]))
    for row, flip in enumerate((True, False, True)):
        for side in ("source", "target"):
            image, pose = getattr(pair, side)[row], getattr(pair, f"{side}_pose")[row]
            assert torch.equal(getattr(some, side)[row], image.flip(-1) if flip else image)
            assert same(getattr(some, f"{side}_pose")[row], mirror(pose) if flip else pose)
    assert torch.equal(some.identity, pair.identity)
    assert not torch.equal(some.source[0], pair.source[0])


def test_to_moves_everything_and_keeps_the_values(a_pair: MakePair) -> None:
    pair = a_pair()
    moved = pair.to("cpu")
    assert torch.equal(moved.source, pair.source) and moved.source.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.target, pair.target) and moved.target.is_contiguous(memory_format=torch.channels_last)
    assert same(moved.source_pose, pair.source_pose) and same(moved.target_pose, pair.target_pose)
    moved = pair.to("meta")
    everything = (moved.source, moved.target, moved.source_pose.xy, moved.target_pose.visible, moved.identity)
    assert {tensor.device.type for tensor in everything} == {"meta"}
