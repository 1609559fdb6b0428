"""warpblend: what it draws before it has learnt, its light, what it learns from, its controls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from figures import SIZE, moved, painted, standing
from generator_helpers import MakePair

from generators import PosePair, create
from generators.bending import bend
from generators.composite import compose, looks
from generators.models.warpblend import WarpBlend


def a_model(**options: object) -> WarpBlend:
    model = create("warpblend", size=SIZE, **options)
    assert isinstance(model, WarpBlend)
    return model


def a_figure_pair(radius: float = 0.0) -> PosePair:
    source, target = standing(), moved(standing(), [[0.95, 0.05], [-0.05, 0.95]], [1.0, 4.0])
    place = (-0.5, 0.1, 0.6)
    return PosePair(painted(source, radius=radius), painted(target, place, radius), source, target, torch.zeros(1, dtype=torch.int64))


def test_at_step_0_it_draws_the_plain_composite(a_pair: MakePair) -> None:
    pair = a_pair(size=SIZE)
    model = a_model().eval()
    for scene in (pair.target, None):
        drawn = model(pair.source, pair.source_pose, pair.target_pose, scene)
        plain = compose(pair.source, pair.source_pose, pair.target_pose, scene).image
        assert torch.allclose(drawn, plain.clamp(-1, 1), atol=1e-5)


def test_a_million_parameters_at_most() -> None:
    assert 2e5 < sum(p.numel() for p in a_model().blender.parameters()) < 1e6


@pytest.mark.parametrize("size", [(100, 64), (128, 60), (8, 8)])
def test_sizes_are_multiples_of_8(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="multiples of 8 and at least 16"):
        create("warpblend", size=size)


def test_who_keeps_their_pose_only_changes_place() -> None:
    pair = a_figure_pair()
    drawn = a_model(keeps_pose=True).eval()(pair.source, pair.source_pose, pair.target_pose, pair.target)
    expected = painted(pair.source_pose, (-0.5, 0.1, 0.6))
    assert (drawn - expected).abs().mean() < 0.05


def test_the_light_learns_a_cameras_gain() -> None:
    """Two cameras, one of which sees everything at half the brightness: brought from one to the other, colours are the other's."""
    torch.manual_seed(0)
    bright, dark = standing(), standing()
    source = (painted(bright) + 1) * 0.8 - 1
    target = (source + 1) * 0.5 - 1
    pair = PosePair(source, target, bright, dark, torch.zeros(1, dtype=torch.int64))
    model = a_model()
    optimizer = torch.optim.Adam(model.light.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        terms = model.losses("light", pair, 0)
        torch.stack(list(terms.values())).sum().backward()
        optimizer.step()
    look, other = looks(source, bright), looks(target, dark)
    assert terms["colour"] < 0.03 and terms["cycle"] < 0.03
    assert torch.allclose(model.light(look.colours.mT, look, other.place).mT, other.colours, atol=0.08)
    black, grey = (model.light(torch.full((1, 3, 1), level), look, other.place).flatten() for level in (-1.0, 0.0))
    assert (grey - black).mean().item() == pytest.approx(0.5, abs=0.1), "half the contrast, not less"


def test_what_is_bent_is_bent_with_its_joints() -> None:
    torch.manual_seed(3)
    pose = replace(standing(), xy=standing().xy[:, :].clone())
    image = torch.zeros(1, 3, *SIZE)
    joint = 10  # the right ankle, away from other joints
    x, y = (int(v) for v in pose.xy[0, joint])
    image[0, :, y - 1 : y + 2, x - 1 : x + 2] = 1
    bent, bent_pose = bend(image, pose, 0.03)
    weight = bent[0, 0] / bent[0, 0].sum()
    rows, columns = torch.meshgrid(torch.arange(128.0), torch.arange(64.0), indexing="ij")
    assert (bent_pose.xy[0, joint] - pose.xy[0, joint]).norm() > 0.5
    assert torch.allclose(torch.stack(((weight * columns).sum(), (weight * rows).sum())), bent_pose.xy[0, joint], atol=0.6)
    still, still_pose = bend(image, pose, 0.0)
    assert torch.allclose(still, image, atol=1e-5) and torch.allclose(still_pose.xy, pose.xy, atol=1e-5)


def test_pairs_seen_from_one_side_are_learnt_as_they_are_and_others_from_the_target_itself(a_pair: MakePair) -> None:
    pair = a_figure_pair()
    model = a_model().eval()
    assert torch.equal(model._learnable(pair).source, pair.source)
    turned = replace(pair.source_pose, xy=torch.where(torch.tensor([True, False]), 63 - pair.source_pose.xy, pair.source_pose.xy))
    learnt = model._learnable(replace(pair, source_pose=turned))
    assert torch.allclose(learnt.source, pair.target, atol=1e-5), "in eval mode nothing is bent"


def test_a_few_steps_bring_it_nearer_to_the_truth() -> None:
    torch.manual_seed(0)
    pair = a_figure_pair(radius=0.25)  # clothes wider than any outline
    model = a_model(adversarial_weight=0.0, width=8)
    before = (model.eval()(*model.inputs_of(pair)) - pair.target).abs().mean()
    model.train()
    players = [torch.optim.Adam(model.light.parameters(), 1e-2), torch.optim.Adam(model.blender.parameters(), 3e-3)]
    for step in range(40):
        for name, optimizer in zip(("light", "generator"), players, strict=True):
            optimizer.zero_grad()
            torch.stack(list(model.losses(name, pair, step).values())).sum().backward()
            optimizer.step()
    after = (model.eval()(*model.inputs_of(pair)) - pair.target).abs().mean()
    assert after < 0.9 * before


def test_outlines_learn_where_the_person_ends_and_not_what_shows(a_pair: MakePair) -> None:
    pair = a_pair(size=SIZE)
    model = a_model()
    blend = model._blend(compose(pair.source, pair.source_pose, pair.target_pose, pair.target), lit=True)
    assert torch.allclose(blend.outline, blend.whole, atol=1e-5), "the same image"
    logits = torch.zeros(1, 4, 1, 1, requires_grad=True)
    weights = logits.softmax(1)
    candidates = torch.tensor([1.0, -1.0, 0.5, 0.0]).view(1, 4, 1, 1, 1).expand(1, 4, 3, 1, 1)
    again = type(blend)((candidates * weights[:, :, None]).sum(1), weights, candidates)
    (grad,) = torch.autograd.grad(again.outline.sum(), logits)
    person = grad.flatten()[:3]
    assert torch.allclose(person, person[:1].expand(3), atol=1e-6), "all of the person's candidates are pushed alike"
