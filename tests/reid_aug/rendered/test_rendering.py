"""A rendered person: what is in the image, and where its truth lies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from generators import openpose_18
from reid_aug.rendered import CAMERAS, BodyPose, Identity, contact_sheet, render

cv2 = pytest.importorskip("cv2")
FACE = [0, 14, 15, 16, 17]
QUIET = replace(CAMERAS[0], blur_px=0.0, noise=0.0, jitter=0.0, jpeg_quality=100)


def joint(image, name):
    return image.pose.xy[openpose_18.index(name)].numpy()


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128), (160, 60)])
def test_the_shapes_follow_the_size(size):
    image = render(Identity.sample(1), BodyPose.sample(np.random.default_rng(0)), CAMERAS[1], size=size, seed=2)
    assert image.image.shape == (*size, 3) and image.image.dtype == np.uint8
    assert image.body_mask.shape == size and image.limb_masks.shape == (len(openpose_18.limbs), *size)
    assert image.pose.size == size and image.pose.skeleton is openpose_18 and image.occluded.shape == (18,)


@settings(max_examples=25, deadline=None)
@example(who=0, seed=1469, camera=1)  # a shoulder three pixels off what of the shoulders is seen
@given(who=st.integers(0, 10_000), seed=st.integers(0, 10_000), camera=st.integers(0, 5))
def test_joints_lie_in_their_limbs_and_limbs_in_the_body(who, seed, camera):
    pose = BodyPose.sample(np.random.default_rng(seed))
    image = render(Identity.sample(who), pose, replace(CAMERAS[camera], jitter=0.0), seed=seed)
    assert 0.1 < image.body_mask.mean() < 0.6
    for limb, mask in zip(openpose_18.limbs, image.limb_masks, strict=True):
        assert mask.any()
        assert (mask & image.body_mask).sum() >= 0.85 * mask.sum()  # thin ends fall to the averaging
        near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))).astype(bool)
        for k in limb:
            if image.pose.visible[k]:
                x, y = image.pose.xy[k].round().int().tolist()
                assert near[y, x], (openpose_18.joints[k], pose)


@settings(max_examples=20, deadline=None)
@given(who=st.integers(0, 10_000), seed=st.integers(0, 10_000))
def test_the_same_arguments_give_the_same_bytes(who, seed):
    pose = BodyPose.sample(np.random.default_rng(seed))
    assert pose == BodyPose.sample(np.random.default_rng(seed)) and Identity.sample(who) == Identity.sample(who)
    a, b, c = (render(Identity.sample(who), pose, CAMERAS[2], size=(64, 32), seed=s).image for s in (seed, seed, seed + 1))
    assert (a == b).all() and (a != c).any()


@pytest.mark.parametrize("who", range(4))
def test_left_and_right_follow_the_yaw(who):
    facing, away_, right, left = (render(Identity.sample(who), BodyPose(yaw_deg=yaw), QUIET) for yaw in (0, 180, 90, 270))
    assert joint(facing, "r_shoulder")[0] < joint(facing, "l_shoulder")[0] - 8
    assert joint(away_, "r_shoulder")[0] > joint(away_, "l_shoulder")[0] + 8
    assert joint(right, "nose")[0] > joint(right, "neck")[0] + 3
    assert joint(left, "nose")[0] < joint(left, "neck")[0] - 3
    assert joint(facing, "nose")[1] < joint(facing, "neck")[1] < joint(facing, "r_hip")[1] < joint(facing, "r_ankle")[1]


@pytest.mark.parametrize("who", range(4))
def test_a_face_is_hidden_from_behind_and_half_hidden_from_the_side(who):
    facing, behind, right = (render(Identity.sample(who), BodyPose(yaw_deg=yaw), QUIET) for yaw in (0, 180, 90))
    assert not facing.occluded[FACE].any() and behind.occluded[FACE].all()
    assert [openpose_18.joints[k] for k in FACE if right.occluded[k]] == ["l_eye", "l_ear"]
    assert right.occluded[openpose_18.index("l_hip")]


def test_the_figure_stands_on_the_ground_and_fills_the_crop():
    image = render(Identity.sample(5), BodyPose(), QUIET)
    rows = np.flatnonzero(image.body_mask.any(1))
    assert rows[0] < 10 and rows[-1] > 118
    assert abs(joint(image, "r_ankle")[1] - joint(image, "l_ankle")[1]) < 1


def test_a_print_is_on_one_side_only():
    who = replace(Identity.sample(0), top=(232, 232, 228), pattern="plain", jacket_open=False, bag="none", hair_style="short")
    plain = replace(who, chest_print="none", back_print="none")
    printed = replace(plain, chest_print="disc", print_colour=(168, 40, 44))
    for yaw, differs in ((0, True), (180, False)):
        a, b = (render(w, BodyPose(yaw_deg=yaw), QUIET).image.astype(int) for w in (plain, printed))
        assert (abs(a - b).max() > 80) == differs


def test_every_two_people_differ_even_where_they_share_colours():
    images = [render(Identity.sample(i), BodyPose(yaw_deg=20), QUIET, size=(64, 32)).image.astype(float) for i in range(40)]
    tops = [Identity.sample(i).top for i in range(40)]
    assert len(set(tops)) < 10
    assert min(abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]) > 1.5


def test_contact_sheet():
    sheet = contact_sheet([np.full((4, 2, 3), i, np.uint8) for i in range(3)], columns=2)
    assert sheet.shape == (10, 6, 3) and sheet[0, 4, 0] == 1 and sheet[6, 0, 0] == 2 and sheet[9, 5, 0] == 255
