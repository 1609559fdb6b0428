"""Cutting people out and laying them elsewhere: on painted figures whose pixels are known, and by hand-worked numbers."""

from __future__ import annotations

import pytest
import torch
from figures import LIMB_COLOUR, PLACE, SIZE, TORSO_COLOUR, moved, painted, standing, without

from generators import Pose
from generators.composite import colour_error, compose, filled, looks, part_colours, statistics
from generators.skinning import PARTS


def test_a_person_in_their_own_pose_and_place_stays_as_they_are() -> None:
    pose = standing()
    image = painted(pose)
    composite = compose(image, pose, pose, image)
    assert torch.allclose(composite.weights.sum(1), torch.ones(1, *SIZE))
    assert (composite.image - image).abs().mean() < 0.03, "but for soft edges"
    assert (compose(image, pose, pose, None).image - image).abs().mean() < 0.03, "and without a scene"


def test_a_person_is_drawn_in_the_target_pose_and_place() -> None:
    source, target = standing(), moved(standing(), [[0.9, 0.1], [-0.1, 0.9]], [0.0, 8.0])
    elsewhere = (-0.5, -0.5, 0.9)
    truth, scene = painted(target, elsewhere), painted(target, elsewhere)
    scene = torch.where((scene != torch.tensor(elsewhere)[:, None, None]).any(1, keepdim=True), torch.tensor(0.95), scene)  # somebody else
    drawn = compose(painted(source), source, target, scene).image
    assert (drawn - truth).abs().mean() < 0.05
    assert (scene - truth).abs().mean() > 0.2, "the scene's own person is another"


def test_the_scenes_person_is_filled_in_from_around() -> None:
    pose = standing()
    near = looks(painted(pose), pose).near
    assert torch.allclose(filled(painted(pose), near), torch.tensor(PLACE)[:, None, None].expand(3, *SIZE), atol=1e-4)


def test_looks_tell_the_parts_colours_and_the_place() -> None:
    pose = standing()
    look = looks(painted(pose), pose)
    torso, shin = PARTS.index("torso"), PARTS.index("r_knee_r_ankle")
    assert torch.allclose(look.colours[0, torso], torch.tensor(TORSO_COLOUR), atol=0.15)
    assert torch.allclose(look.colours[0, shin], torch.tensor(LIMB_COLOUR), atol=0.15)
    assert torch.allclose(look.place[0, :3], torch.tensor(PLACE), atol=1e-5) and look.place[0, 3:].max() < 0.011


def test_what_the_source_hides_is_painted_in_the_parts_colour() -> None:
    target = standing()
    xy = target.xy.clone()
    xy[0, 4] = torch.tensor([32.0, 44.0])  # in the source, the right wrist lies before the chest
    source = Pose(xy, target.visible, target.skeleton, target.size)
    composite = compose(painted(source), source, target, None)
    chest = composite.image[0, :, 44, 31]
    assert torch.allclose(chest, torch.tensor(TORSO_COLOUR), atol=0.25), "not the arm's colour"
    assert composite.trust[0, 0, 22, 15] < 0.5, "the moved source shows an arm there"


def test_missing_joints_and_nobody_at_all_draw_something_finite() -> None:
    pose, unknown = standing(), Pose.stack([Pose.unknown(standing().skeleton, SIZE)])
    image = painted(pose)
    for source, target in ((without(pose, "r_hip", "nose"), pose), (pose, without(pose, "l_shoulder")), (unknown, pose), (pose, unknown)):
        drawn = compose(image, source, target, image).image
        assert bool(torch.isfinite(drawn).all()) and drawn.abs().max() <= 1 + 1e-5


def test_part_colours_by_hand() -> None:
    image = torch.tensor([[[[1.0, 0.0, 0.0, 0.0]], [[0.0, 1.0, 0.0, 0.0]], [[0.0, 0.0, 1.0, 1.0]]]])
    weight = torch.zeros(1, 10, 1, 4)
    weight[0, 0, 0, :2] = 1
    colours = part_colours(image, weight)
    # Two pixels of the part and one of the whole body, whose colour is the same (½, ½, 0); a part without weight has just that.
    assert torch.allclose(colours[0, 0], torch.tensor([0.5, 0.5, 0.0])) and torch.allclose(colours[0, 5], torch.tensor([0.5, 0.5, 0.0]))


def test_statistics_and_colour_errors_by_hand() -> None:
    image = torch.tensor([[[[1.0, 3.0, 9.0]]]]).expand(1, 3, 1, 3)
    assert torch.allclose(statistics(image, torch.tensor([[[[True, True, False]]]])), torch.tensor([[2.0, 2.0, 2.0, 1.0, 1.0, 1.0]]))
    area = torch.zeros(1, 10)
    area[0, :2] = torch.tensor([3.0, 1.0])
    colours, others = torch.zeros(1, 10, 3), torch.zeros(1, 10, 3)
    others[0, 0], others[0, 1], others[0, 2] = 1.0, 2.0, 100.0  # the third covers nothing
    assert colour_error(colours, others, area).item() == pytest.approx(1.25)
