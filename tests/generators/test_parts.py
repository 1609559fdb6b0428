"""Deformable GAN's ten parts, one image at a time with scikit-image and loops, against the batch in closed form."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from generator_helpers import MakePose
from skimage.draw import polygon2mask
from skimage.transform import estimate_transform

from generators import Pose
from generators.parts import FACE, LIMBS, LOWER, TORSO, body_parts, torso_length
from generators.pose import mirror, openpose_18
from generators.warp import FAR_PX

SIZE = (128, 64)


def named(pose: Pose, row: int) -> dict[str, np.ndarray]:
    return {
        joint: pose.xy[row, j].double().numpy() for j, joint in enumerate(openpose_18.joints) if bool(pose.visible[row, j])
    }  # fmt: skip


def other(joint: str) -> str:
    return openpose_18.joints[openpose_18.mirror[openpose_18.index(joint)]]


def scale_of(pose: dict[str, np.ndarray]) -> float:
    squares = [np.sum((pose[s] - pose[h]) ** 2) for s, h in (("r_shoulder", "r_hip"), ("l_shoulder", "l_hip")) if s in pose and h in pose]
    return float(np.sqrt(np.mean(squares))) if squares else 0.0


def rectangle(start: np.ndarray, end: np.ndarray, half: float, after: float) -> np.ndarray:
    along = end - start
    across = np.array([-along[1], along[0]]) / np.linalg.norm(along) * half
    first, last = start - 0.1 * along, end + after * along
    return np.array([first - across, first + across, last + across, last - across])


def skimage_affine(target: np.ndarray, source: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(estimate_transform("affine", target, source).params)[:2]


NOWHERE = np.array([[1, 0, FAR_PX], [0, 1, FAR_PX]])


def one_image(source: dict[str, np.ndarray], target: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Transforms and masks of one image, the way a script would get them (torso whole in both)."""
    scale, target_scale = scale_of(source), scale_of(target)
    transforms, masks = [skimage_affine(*(np.array([p[j] for j in TORSO]) for p in (target, source)))], [np.ones(SIZE, bool)]
    face = [joint for joint in FACE if joint in source and joint in target]
    corners = [*face, "r_shoulder", "l_shoulder"]
    transforms.append(skimage_affine(*(np.array([p[j] for j in corners]) for p in (target, source))) if face else NOWHERE)
    mask = np.zeros(SIZE, bool)
    if seen := [target[j] for j in FACE if j in target]:
        x, y = np.mean(seen, axis=0)
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        mask = (np.abs(columns - x) <= 0.4 * target_scale) & (np.abs(rows - y) <= 0.4 * target_scale)
    masks.append(mask)
    for start, end in LIMBS:
        after, transform, mask = 0.3 if (start, end) in LOWER else 0.1, NOWHERE, np.zeros(SIZE, bool)
        if start in target and end in target:
            box = rectangle(target[start], target[end], 0.2 * target_scale, after)
            mask = polygon2mask(SIZE, box[:, ::-1])
            for a, b in ((start, end), (other(start), other(end))):
                if a in source and b in source:
                    transform = skimage_affine(box, rectangle(source[a], source[b], 0.2 * scale, after))
                    break
        transforms.append(transform)
        masks.append(mask)
    return transforms, masks


def people(a_pose: MakePose, missing: float, count: int = 150) -> tuple[Pose, Pose]:
    """Random poses with whole torsos, as the papers' pairs have them."""
    poses = []
    for seed in (11, 12):
        pose = a_pose(seed=seed, batch=(count,), missing=missing, size=SIZE, dtype=torch.float64)
        visible = pose.visible.clone()
        visible[:, [openpose_18.index(j) for j in TORSO]] = True
        xy = a_pose(seed=seed, batch=(count,), missing=0.0, size=SIZE, dtype=torch.float64).xy
        poses.append(Pose(xy, visible, openpose_18, SIZE))
    return poses[0], poses[1]


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8])
def test_transforms_and_masks_are_those_of_a_loop_with_scikit_image(missing: float, a_pose: MakePose) -> None:
    source, target = people(a_pose, missing)
    transforms, masks = body_parts(source, target, total=True)
    assert transforms.shape == (150, 10, 2, 3) and masks.shape == (150, 10, *SIZE)
    corners = np.array([[0, 0, 1], [63, 0, 1], [0, 127, 1], [63, 127, 1]]).T
    for row in range(150):
        expected, rasterised = one_image(named(source, row), named(target, row))
        for part in range(10):
            ours = transforms[row, part].numpy()
            if np.abs(expected[part]).max() > 1e3 and not np.array_equal(expected[part], NOWHERE):
                continue  # unrelated points: nothing that a person does
            assert np.abs((ours - expected[part]) @ corners).max() < 1e-4, (row, part)
            # A pixel centre exactly on an edge is a matter of taste; random edges have few.
            assert (masks[row, part].numpy() != rasterised[part]).sum() <= 2, (row, part)


def test_limbs_are_found_by_their_joints() -> None:
    assert {joint for limb in LIMBS for joint in limb} == set(openpose_18.joints) - {"nose", "neck", "r_eye", "l_eye", "r_ear", "l_ear"}


def standing(**moved: tuple[float, float]) -> Pose:
    """A person facing us, hand-placed: right is left in the picture."""
    places = {
        "nose": (32, 15), "neck": (32, 28), "r_eye": (30, 13), "l_eye": (34, 13), "r_ear": (28, 14), "l_ear": (36, 14),
        "r_shoulder": (22, 28), "l_shoulder": (42, 28), "r_elbow": (18, 44), "l_elbow": (46, 44), "r_wrist": (16, 58), "l_wrist": (48, 58),
        "r_hip": (26, 62), "l_hip": (38, 62), "r_knee": (25, 88), "l_knee": (39, 88), "r_ankle": (25, 112), "l_ankle": (39, 112),
    } | moved  # fmt: skip
    xy = torch.tensor([places[j] for j in openpose_18.joints], dtype=torch.float64)
    return Pose(xy[None], torch.ones(1, 18, dtype=torch.bool), openpose_18, SIZE)


def without(pose: Pose, *joints: str) -> Pose:
    visible = pose.visible.clone()
    visible[:, [openpose_18.index(j) for j in joints]] = False
    return Pose(pose.xy, visible, pose.skeleton, pose.size)


def test_the_same_pose_stays_where_it_is() -> None:
    for total in (False, True):
        transforms, masks = body_parts(standing(), standing(), total)
        assert torch.allclose(transforms, torch.eye(2, 3, dtype=torch.float64).expand_as(transforms), atol=1e-9)
    assert masks[0, 0].all() and masks[0, 1:].flatten(1).any(1).all()


def test_a_shift_is_found_by_every_part() -> None:
    pose = standing()
    shifted = Pose(pose.xy + torch.tensor([5.0, -3.0]), pose.visible, pose.skeleton, pose.size)
    transforms, _ = body_parts(pose, shifted)  # a target pixel looks back to where the source had it
    assert torch.allclose(transforms[0, :, :, 2], torch.tensor([-5.0, 3.0], dtype=torch.float64).expand(10, 2), atol=1e-9)


def test_a_limb_missing_in_the_source_comes_from_the_other_side() -> None:
    source, target = without(standing(), "r_wrist"), standing(r_wrist=(10.0, 50.0))
    right, left = LIMBS.index(("r_elbow", "r_wrist")), LIMBS.index(("l_elbow", "l_wrist"))
    transforms, masks = body_parts(source, target)
    elbow, wrist = torch.tensor([18.0, 44.0, 1.0]).double(), torch.tensor([10.0, 50.0, 1.0]).double()
    assert torch.allclose(transforms[0, 2 + right] @ elbow, torch.tensor([46.0, 44.0]).double(), atol=1e-9)
    assert torch.allclose(transforms[0, 2 + right] @ wrist, torch.tensor([48.0, 58.0]).double(), atol=1e-9)
    assert masks[0, 2 + right].any()
    both = without(source, "l_wrist")
    transforms, masks = body_parts(both, target)
    for part in (2 + right, 2 + left):
        assert transforms[0, part, 0, 2] == FAR_PX, "nobody knows what it looks like"
        assert masks[0, part].any(), "its place is known all the same"


def test_a_limb_missing_in_the_target_is_nowhere() -> None:
    transforms, masks = body_parts(standing(), without(standing(), "l_knee"))
    for part, limb in enumerate(LIMBS, start=2):
        assert (transforms[0, part, 0, 2] == FAR_PX) == ("l_knee" in limb) == (not masks[0, part].any())


def test_a_face_seen_in_one_pose_alone_finds_nothing() -> None:
    transforms, masks = body_parts(without(standing(), *FACE), standing())
    assert transforms[0, 1, 0, 2] == FAR_PX and masks[0, 1].any()
    transforms, masks = body_parts(standing(), without(standing(), *FACE))
    assert transforms[0, 1, 0, 2] == FAR_PX and not masks[0, 1].any()
    transforms, _ = body_parts(without(standing(), *FACE[1:]), standing())
    assert torch.allclose(transforms[0, 1], torch.eye(2, 3, dtype=torch.float64), atol=1e-9), "a nose and two shoulders do"


def test_a_torso_that_is_not_whole() -> None:
    three = without(standing(), "l_hip")
    transforms, masks = body_parts(three, standing())
    assert torch.allclose(transforms[0, 0], torch.eye(2, 3, dtype=torch.float64), atol=1e-9), "three joints fit"
    moved = Pose(standing().xy + 7, standing().visible, openpose_18, SIZE)
    transforms, masks = body_parts(without(standing(), "l_hip", "r_hip"), moved)
    assert torch.equal(transforms[0, 0], torch.eye(2, 3, dtype=torch.float64)), "two do not: it stays"
    assert torso_length(without(standing(), "l_hip", "r_hip")).item() == 0
    # Unknown in one pose, the scale is the other's; unknown in both, a quarter of the height.
    whole, nobody = body_parts(standing(), standing())[1], without(standing(), "l_hip", "r_hip")
    assert torch.equal(body_parts(standing(), nobody)[1][0, 6:], whole[0, 6:]), "arms as wide as with a torso"
    widest = body_parts(nobody, nobody)[1][0, 1].any(0).sum()  # the head's square, 0.4 of a torso to each side
    assert widest == 2 * int(0.4 * 32) + 1


def test_torso_length_is_the_root_mean_square_of_both_sides() -> None:
    pose = standing(r_hip=(22.0, 58.0), l_hip=(42.0, 68.0))
    assert torso_length(pose).item() == pytest.approx(np.sqrt((30**2 + 40**2) / 2))
    assert torso_length(without(pose, "l_hip")).item() == 30


def test_joints_on_one_point_have_no_limb() -> None:
    pose = Pose(torch.full((1, 18, 2), 9.0), torch.ones(1, 18, dtype=torch.bool), openpose_18, SIZE)
    transforms, masks = body_parts(standing().to(torch.float32), pose)
    assert not masks[0, 2:].any() and (transforms[0, 1:, 0, 2] == FAR_PX).all()


def test_mirrored_people_have_mirrored_masks() -> None:
    _, masks = body_parts(standing(), standing(r_wrist=(8.0, 40.0)))
    _, flipped = body_parts(mirror(standing()), mirror(standing(r_wrist=(8.0, 40.0))))
    order = [0, 1, *(2 + LIMBS.index((other(a), other(b))) for a, b in LIMBS)]
    assert torch.equal(masks.flip(-1)[:, order], flipped)


def test_poses_learn_through_the_transforms() -> None:
    target = standing()
    xy = (target.xy + torch.randn_like(target.xy)).requires_grad_()

    def fits(xy: torch.Tensor) -> torch.Tensor:
        return body_parts(Pose(xy, target.visible, openpose_18, SIZE), target)[0]

    assert torch.autograd.gradcheck(fits, (xy,), atol=1e-5)


def test_what_drawing_keeps_can_be_learnt_from() -> None:
    """Index tensors are kept between calls: made in inference mode, autograd would refuse them."""
    import generators.parts as module

    module._KEPT.clear()
    target = standing()
    with torch.inference_mode():
        body_parts(target, target)
    xy = target.xy.clone().requires_grad_()
    body_parts(Pose(xy, target.visible, openpose_18, SIZE), target)[0].sum().backward()
    assert xy.grad is not None and xy.grad.isfinite().all()
