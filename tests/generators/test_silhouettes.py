"""Silhouettes: poses carry them through whatever is done to poses, and warpblend cuts people out by them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from figures import LIMB_COLOUR, PLACE, SIZE, TORSO_COLOUR, moved, painted, standing
from generator_helpers import MakePair
from torch import Tensor

import generators
from generators import Pose, coco_17, convert, mirror, openpose_18, rescale, skinning
from generators.bending import bend
from generators.composite import body, compose, filled, places
from generators.models.warpblend import WarpBlend
from generators.pose import where

SMALL = (32, 16)
SKIRT = (0.7, 0.7, -0.7)  # a colour that neither the figure nor its place has


def posed(batch: int = 3, silhouette: bool = True, size: tuple[int, int] = SMALL) -> Pose:
    torch.manual_seed(batch)
    xy = torch.rand(batch, 18, 2) * (torch.tensor(size[::-1]) - 1)
    return Pose(xy, torch.rand(batch, 18) > 0.2, openpose_18, size, torch.rand(batch, *size) if silhouette else None)


def shown(pose: Pose) -> Tensor:
    assert pose.silhouette is not None
    return pose.silhouette


def outline(pose: Pose, radius: float = 0.0) -> Tensor:
    return (skinning.outlines(pose).amin(1) <= radius).float()


def skirted(pose: Pose) -> tuple[Tensor, Tensor]:
    """The figure in a skirt that reaches far beyond its limbs, and the true silhouette (1, H, W)."""
    skirt = torch.zeros(1, *SIZE, dtype=torch.bool)
    skirt[:, 60:84, 6:58] = True
    image, person = painted(pose), outline(pose).bool()
    image = torch.where((skirt & ~person)[:, None], torch.tensor(SKIRT)[:, None, None], image)
    return image, (skirt | person).float()


# --- poses ---


def test_rows_of_poses_have_rows_of_silhouettes() -> None:
    pose = posed()
    assert torch.equal(shown(pose[1]), shown(pose)[1]) and torch.equal(shown(pose[None])[0], shown(pose))
    assert torch.equal(shown(Pose.stack([pose[2], pose[0]])), shown(pose)[[2, 0]])
    assert torch.equal(shown(Pose.cat([pose, pose[:1]]))[3], shown(pose)[0])
    mixed = Pose.cat([posed(2, silhouette=False), pose])
    assert not shown(mixed)[:2].any() and torch.equal(shown(mixed)[2:], shown(pose))  # one that is not known is 0 everywhere
    assert Pose.cat([posed(2, silhouette=False), posed(1, silhouette=False)]).silhouette is None


def test_a_silhouette_is_flipped_and_flipped_back_with_its_joints() -> None:
    pose = posed()
    assert torch.equal(shown(mirror(pose)), shown(pose).flip(-1))
    assert torch.equal(shown(mirror(mirror(pose))), shown(pose))
    assert torch.equal(shown(convert(pose, coco_17)), shown(pose)) and shown(pose.to(torch.float64)).dtype == torch.float32


def test_a_silhouette_of_half_the_size_is_the_mean_of_its_pixels() -> None:
    half = rescale(posed(), (16, 8))
    assert half.size == (16, 8)
    assert torch.allclose(shown(half), shown(posed()).view(3, 16, 2, 8, 2).mean((2, 4)))
    assert torch.equal(shown(rescale(half, (16, 8))), shown(half)) and rescale(posed(silhouette=False), (16, 8)).silhouette is None


def test_rows_of_two_poses_are_chosen_with_their_silhouettes() -> None:
    which, known, unknown = torch.tensor([True, False, True]), posed(), posed(silhouette=False)
    both = where(which, known, unknown)
    assert torch.equal(shown(both), shown(known) * which[:, None, None]) and torch.equal(both.xy[0], known.xy[0])
    assert where(which, unknown, unknown).silhouette is None


@pytest.mark.parametrize("wrong", [torch.rand(3, 16, 32), torch.rand(2, 32, 16), torch.ones(3, 32, 16, dtype=torch.bool)])
def test_a_silhouette_of_another_shape_or_type_is_refused(wrong: Tensor) -> None:
    with pytest.raises(ValueError, match=r"silhouette is float \(3, 32, 16\)"):
        replace(posed(silhouette=False), silhouette=wrong)


def test_a_silhouette_is_bent_as_its_image_is() -> None:
    pose = posed()
    image = shown(pose)[:, None].expand(-1, 3, -1, -1)
    bent, there = bend(image, pose, 0.05)
    assert torch.equal(shown(there), bent[:, 0]) and not torch.equal(shown(there), shown(pose))


# --- warpblend ---


def small(**options: object) -> WarpBlend:
    torch.manual_seed(0)
    model = WarpBlend(size=SMALL, width=8, adversarial_weight=0.0, **options).eval()  # type: ignore[arg-type]
    for parameter in model.parameters():  # as if trained: its last layers begin at zero
        torch.nn.init.normal_(parameter, std=0.05)
    return model


@pytest.mark.parametrize("keeps_pose", [False, True])
@torch.no_grad()
def test_unknown_silhouettes_change_nothing_bit_for_bit(keeps_pose: bool, a_pair: MakePair) -> None:
    model, pair = small(keeps_pose=keeps_pose), a_pair(batch=3, size=SMALL)
    poses = pair.source_pose, pair.target_pose
    nothing = [replace(pose, silhouette=torch.zeros(3, *SMALL)) for pose in poses]
    some = [replace(pose, silhouette=torch.zeros(3, *SMALL)) for pose in poses]
    for pose in some:
        shown(pose)[1, 4:28, 3:13] = 1
    for scene in (pair.target, None):
        plain = model(pair.source, *poses, scene)
        assert torch.equal(model(pair.source, *nothing, scene), plain)
        one = model(pair.source, *some, scene)
        assert torch.equal(one[[0, 2]], plain[[0, 2]]) and not torch.equal(one[1], plain[1])
        alone = model(pair.source[1:2], *[pose[1:2] for pose in some], None if scene is None else scene[1:2])
        assert torch.allclose(alone[0], one[1], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in generators.names() if name != "warpblend"])
@torch.no_grad()
def test_who_takes_no_silhouettes_draws_the_same_with_and_without(name: str, a_pair: MakePair) -> None:
    torch.manual_seed(0)
    model = generators.create(name, size=(64, 32), width=8).eval()
    pair = a_pair(batch=1, size=(64, 32), skeleton=model.skeleton)
    assert not model.takes_silhouettes
    masked = [replace(pose, silhouette=torch.ones(1, 64, 32)) for pose in (pair.source_pose, pair.target_pose)]
    assert torch.equal(model(pair.source, *masked), model(pair.source, pair.source_pose, pair.target_pose))


def test_the_place_begins_beyond_the_silhouette_and_beyond_the_limbs() -> None:
    pose = standing()
    near = body(pose, painted(pose))[1]
    _, silhouette = skirted(pose)
    known = places(near, replace(pose, silhouette=silhouette))
    small_silhouette = torch.nn.functional.avg_pool2d(silhouette[:, None], 2)
    assert torch.equal(known, (small_silhouette < 0.2) & (near > 0))
    assert not known[:, :, 35, 3:29].any() and known[:, :, 35, :3].all() and known[:, :, 35, 29:].all()  # just the skirt
    limbs = places(near, replace(pose, silhouette=outline(pose)))
    assert known.sum() < limbs.sum() and torch.equal(places(near, replace(pose, silhouette=torch.zeros(1, *SIZE))), places(near, pose))


def test_a_scenes_person_is_gone_with_the_skirt() -> None:
    pose = standing()
    image, silhouette = skirted(pose)
    near = body(pose, image)[1]
    place = torch.tensor(PLACE)[:, None, None].expand_as(image[0])
    assert (filled(image, near, pose) - place).abs().amax() > 0.2  # limbs alone leave some of it
    assert torch.allclose(filled(image, near, replace(pose, silhouette=silhouette))[0], place, atol=1e-4)


@pytest.mark.parametrize("shift", [0.0, 6.0])
def test_a_skirt_comes_along_and_the_place_does_not(shift: float) -> None:
    pose = standing()
    image, silhouette = skirted(pose)
    there = moved(pose, [[1.0, 0.0], [0.0, 1.0]], [shift, 0.0])
    scene = torch.full_like(image, -1.0)
    seen = replace(pose, silhouette=silhouette)
    drawn, plain = (compose(image, source, there, scene).image for source in (seen, pose))
    at = (slice(None), slice(66, 80), int(51 + shift))  # beyond the thigh, by an eighth of a torso's length
    with_skirt, without_it = ((im[0][at] - torch.tensor(SKIRT)[:, None]).abs().mean() for im in (drawn, plain))
    assert with_skirt < 0.1 < 0.5 < without_it
    # No pixel has the colour of the source's place, which nothing else has.
    assert not (drawn[0] - torch.tensor(PLACE)[:, None, None]).abs().amax(0).lt(0.1).any()


@torch.no_grad()
def test_people_who_keep_their_pose_end_where_their_silhouette_does() -> None:
    """Whatever was learnt: outside is the scene, bit for bit but for rounding; inside nothing of it."""
    torch.manual_seed(0)
    model = WarpBlend(size=SIZE, width=8, adversarial_weight=0.0, keeps_pose=True).eval()
    for parameter in model.blender.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    pose = standing()
    image, silhouette = skirted(pose)
    scene = torch.full_like(image, -0.5)
    known = replace(pose, silhouette=silhouette)
    weights = model._blend(compose(image, known, None, scene), lit=True).weights
    skirt = silhouette.bool() & ~outline(pose, 0.1).bool()
    beyond = ~torch.nn.functional.max_pool2d(silhouette, 5, 1, 2).bool()
    assert skirt.any() and weights[:, -1][skirt].max() < 0.05 and weights[:, -1][beyond].min() > 0.99
    assert torch.allclose(weights.sum(1), torch.ones(1, *SIZE))
    drawn, plain = (model(image, source, pose, scene).permute(0, 2, 3, 1)[beyond] for source in (known, pose))
    assert (drawn + 0.5).abs().max() < 0.02 < (plain + 0.5).abs().max()


def test_a_matte_leans_on_colours_where_a_silhouette_is_unsure() -> None:
    pose = standing()
    image, silhouette = skirted(pose)
    unsure = replace(pose, silhouette=0.5 + 0.2 * (silhouette - 0.5))
    cover = 1 - compose(image, unsure, None, torch.zeros_like(image)).weights[0, -1]
    torso, leg = outline(pose)[0].bool(), (slice(95, 105), 25)
    assert cover[leg].min() > 0.9 and cover[torso].mean() > 0.9 and cover[100, 55] < 0.1
    assert TORSO_COLOUR != LIMB_COLOUR


def test_it_learns_from_pairs_with_silhouettes_by_the_same_terms(a_pair: MakePair) -> None:
    model, pair = small(), a_pair(batch=2, size=SMALL)
    masked = replace(
        pair, source_pose=replace(pair.source_pose, silhouette=torch.rand(2, *SMALL)),
        target_pose=replace(pair.target_pose, silhouette=torch.rand(2, *SMALL)),
    )  # fmt: skip
    for player in model.players():
        torch.manual_seed(0)
        plain = model.losses(player, pair, 0)
        torch.manual_seed(0)
        terms = model.losses(player, masked, 0)
        assert terms.keys() == plain.keys() and all(bool(term.isfinite()) for term in terms.values())
    sum(model.losses("generator", masked, 0).values()).backward()  # type: ignore[union-attr]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.blender.parameters())


def test_pairs_flip_silhouettes_with_their_images(a_pair: MakePair) -> None:
    pair = a_pair(batch=2, size=SMALL)
    masked = replace(pair, source_pose=replace(pair.source_pose, silhouette=pair.source.mean(1)))
    flipped = masked.mirrored(torch.tensor([True, False]))
    assert torch.allclose(shown(flipped.source_pose), flipped.source.mean(1)) and flipped.target_pose.silhouette is None
    assert not torch.equal(shown(flipped.source_pose), shown(masked.source_pose))
