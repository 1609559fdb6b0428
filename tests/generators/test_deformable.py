"""Deformable GAN held to its paper: sizes, counts, skips, losses, ablations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from generator_helpers import (
    MakePair,
    MakePose,
    count_parameters,
    recorded_inputs,
)
from torch.nn import functional as F

import generators
from generators.maps import gaussian_maps
from generators.models.deformable import DeformableGAN, JointNorm, nearest_neighbour_l1, without_person
from generators.parts import body_parts
from generators.perceptual import KERAS_SCALE, VGG19
from generators.warp import carry, warp_images

ComparedOn = Callable[[DeformableGAN], DeformableGAN]


def on_meta(**options: Any) -> DeformableGAN:
    with torch.device("meta"):
        return DeformableGAN(**options)


def small(**options: Any) -> DeformableGAN:
    torch.manual_seed(0)
    return DeformableGAN(**{"size": (64, 32), "width": 4, **options})


@pytest.fixture
def compared_on(narrow_vgg: Callable[..., dict[str, torch.Tensor]]) -> Callable[[DeformableGAN], DeformableGAN]:
    def give(model: DeformableGAN) -> DeformableGAN:
        features = model.features()
        assert features is not None
        model.perceptual = VGG19(narrow_vgg(4), features, "narrow")
        return model

    return give


# --- sizes ---


def test_parameters_at_paper_size() -> None:
    """61.1 M by a public port (its norms are the same, joint with one gain and bias each: 9 of them)."""
    model = on_meta()
    encoders = 9 * 64 * (21 + 18) + 2 * 64 + 2 * 16 * (64 * 128 + 128 * 256 + 256 * 512 + 512 * 512 + 512 * 512)
    decoder = 16 * (1024 * 512 + 1536 * 512 + 1536 * 512 + 1024 * 256 + 512 * 128) + 9 * 256 * 3 + 3
    norms = 2 * (2 * 4 + 5)
    assert count_parameters(model.generator) == encoders + decoder + norms == 61_109_085
    discriminator = 16 * (42 * 64 + 64 * 128 + 128 * 256 + 256 * 512 + 512) + 64 + 2 * 3
    assert count_parameters(model.discriminator) == discriminator == 2_803_782
    instance = 2 * (2 * (128 + 256 + 512 + 512) + 512 * 3 + 256 + 128)
    assert count_parameters(on_meta(norm="instance").generator) == encoders + decoder + instance
    # One more level of 512 either way at 256 × 256; a plain U-Net has one encoder and half the skips.
    assert count_parameters(on_meta(size=(256, 256)).generator) == 61_109_085 + 16 * (2 * 512 * 512 + 1536 * 512) + 2 * 3
    one_encoder = 9 * 64 * 39 + 64 + 16 * (64 * 128 + 128 * 256 + 256 * 512 + 512 * 512 + 512 * 512) + 2 * 4
    half_skips = 16 * (512 * 512 + 1024 * 512 + 1024 * 512 + 768 * 256 + 384 * 128) + 9 * 192 * 3 + 3 + 2 * 5
    assert count_parameters(on_meta(skips="baseline").generator) == one_encoder + half_skips
    assert count_parameters(on_meta(background=True).generator) == count_parameters(model.generator) + 9 * 64 * 3


@pytest.mark.parametrize(
    ("size", "rows", "widths"),
    [
        ((128, 64), [128, 64, 32, 16, 8, 4], [64, 128, 256, 512, 512, 512]),
        ((256, 256), [256, 128, 64, 32, 16, 8, 4], [64, 128, 256, 512, 512, 512, 512]),
    ],
)
def test_every_shape_at_paper_size(size: tuple[int, int], rows: list[int], widths: list[int]) -> None:
    model = on_meta(size=size)
    x = torch.zeros(2, 39, *size, device="meta")
    net = model.generator
    assert net.target is not None
    source_maps, target_maps = net.source(x[:, :21]), net.target(x[:, 21:])
    for maps in (source_maps, target_maps):
        assert [tuple(m.shape[1:]) for m in maps] == [(w, r, r * size[1] // size[0]) for r, w in zip(rows, widths, strict=True)]
    seen = []
    hooks = [block.register_forward_hook(lambda m, i, o: seen.append((i[0].shape[1], *o.shape[1:3]))) for block in net.decoder.up]
    image = net.decoder([torch.cat(pair, dim=1) for pair in zip(source_maps[::-1], target_maps[::-1], strict=True)])
    assert len(hooks) == len(rows) - 1 and image.shape == (2, 3, *size)
    outs = [512] * (len(rows) - 3) + [256, 128]
    ins = [1024] + [out + 2 * skip for out, skip in zip(outs, widths[-2:0:-1], strict=False)]
    assert seen == list(zip(ins, outs, rows[-2::-1], strict=True))
    patches = {(128, 64): (3, 1), (256, 256): (7, 7)}[size]
    assert model.discriminator(torch.zeros(2, 42, *size, device="meta")).shape == (2, 1, *patches)


def test_dropout_is_on_the_first_three_levels_and_only_in_training(a_pair: MakePair) -> None:
    model = on_meta()
    assert [any(isinstance(m, torch.nn.Dropout) for m in block) for block in model.generator.decoder.up] == [True] * 3 + [False] * 2
    model, pair = small(), a_pair(size=(64, 32))
    given = (pair.source, pair.source_pose, pair.target_pose)
    assert not torch.equal(model(*given), model(*given)), "dropout is the noise"
    assert torch.equal(model.eval()(*given), model(*given))


# --- layers ---


def test_the_joint_norm_is_over_everything_with_one_gain_and_bias() -> None:
    norm, x = JointNorm(), torch.randn(3, 4, 5, 6) * 3 + 1
    norm.gain.data.fill_(2.0)
    norm.bias.data.fill_(0.5)
    flat = x.flatten(1)
    expected = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True, unbiased=False) + 1e-3) * 2 + 0.5
    assert torch.allclose(norm(x).flatten(1), expected, atol=5e-3), "ε is under the root here"


@pytest.mark.parametrize("aggregate", ["max", "avg"])
def test_deformed_features_are_the_parts_put_together(aggregate: str, a_pose: MakePose) -> None:
    poses = [a_pose(seed=s, batch=(2,), size=(64, 32), missing=0.2) for s in (1, 2)]
    transforms, masks = body_parts(*poses)
    features = torch.randn(2, 3, 64, 32)
    out = carry(features, transforms, masks, aggregate)
    for b in range(2):
        stack = torch.stack([warp_images(features[b : b + 1], transforms[b : b + 1, p])[0] * masks[b, p] for p in range(10)])
        covered = masks[b].sum(0)
        expected = stack.amax(0) if aggregate == "max" else torch.where(covered > 0, stack.sum(0) / covered.clamp(min=1), torch.zeros(()))
        assert torch.allclose(out[b], expected, atol=1e-6)


def test_both_ways_to_carry_agree_in_value_and_gradient(a_pose: MakePose) -> None:
    """What a CPU runs (covered pixels alone) and what everything else does (every part everywhere)."""
    poses = [a_pose(seed=s, batch=(3,), size=(64, 32), missing=0.2, dtype=torch.float64) for s in (1, 2)]
    transforms, masks = body_parts(*poses)
    features, weight = torch.randn(3, 5, 64, 32, dtype=torch.float64), torch.randn(3, 5, 64, 32, dtype=torch.float64)
    results = []
    for needs_transforms in (False, True):  # asking for their gradient takes the plain way
        leaf = features.clone().requires_grad_()
        out = carry(leaf, transforms.detach().requires_grad_(needs_transforms), masks)
        (out * weight).sum().backward()
        results.append((out.detach(), leaf.grad))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-12)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-12)


def test_carried_features_have_the_gradients_they_should(a_pose: MakePose) -> None:
    poses = [a_pose(seed=s, batch=(2,), size=(8, 6), missing=0.2, dtype=torch.float64) for s in (1, 2)]
    transforms, masks = body_parts(*poses)
    features = torch.randn(2, 2, 8, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda f: carry(f, transforms, masks), (features,))


def test_the_same_pose_passes_the_features_on(a_pose: MakePose) -> None:
    """Where every part stays, the maximum over parts is the feature itself (or 0, where only limb masks miss a negative one)."""
    pose = a_pose(seed=4, batch=(1,), size=(64, 32), missing=0.0)
    transforms, masks = body_parts(pose, pose)
    features = torch.rand(1, 3, 64, 32)
    assert torch.allclose(carry(features, transforms, masks), features, atol=1e-4)


def test_skips_are_deformed_down_to_an_eighth_and_plain_below(a_pair: MakePair) -> None:
    """A limb of the source that only the target's masks can carry moves the drawing; below a sixteenth nothing is carried."""
    model, pair = small(size=(128, 64)).eval(), a_pair(size=(128, 64), missing=0.0)
    calls: list[tuple[int, float]] = []
    import generators.models.deformable as module

    original = module.carry

    def spy(features: torch.Tensor, transforms: torch.Tensor, masks: torch.Tensor, aggregate: str) -> torch.Tensor:
        calls.append((features.shape[-2], transforms[0, 0, 0, 2].item()))
        assert masks.shape[-2:] == features.shape[-2:]
        return original(features, transforms, masks, aggregate)

    module.carry = spy
    try:
        model(pair.source, pair.source_pose, pair.target_pose)
    finally:
        module.carry = original
    assert [rows for rows, _ in calls] == [128, 64, 32, 16]
    full = calls[0][1]
    assert [shift for _, shift in calls] == pytest.approx([full, full / 2, full / 4, full / 8], rel=1e-5)


# --- losses ---


def test_losses_are_the_papers(a_pair: MakePair, compared_on: ComparedOn) -> None:
    model, pair = compared_on(small()).eval(), a_pair(size=(64, 32), missing=0.2)
    output = model(pair.source, pair.source_pose, pair.target_pose)
    maps = [gaussian_maps(p, 6.0) for p in (pair.source_pose, pair.target_pose)]

    def judged(image: torch.Tensor) -> torch.Tensor:
        return model.discriminator(torch.cat((pair.source, maps[0], image, maps[1]), dim=1)).sigmoid()

    terms = model.losses("discriminator", pair, 0)
    assert terms["real"].item() == pytest.approx(-judged(pair.target).log().mean().item(), rel=1e-4)
    assert terms["fake"].item() == pytest.approx(-(1 - judged(output)).log().mean().item(), rel=1e-4)
    terms = model.losses("generator", pair, 0)
    assert terms["adversarial"].item() == pytest.approx(-judged(output).log().mean().item(), rel=1e-4)
    assert model.perceptual is not None
    distance = nearest_neighbour_l1(model.perceptual(output)[0], model.perceptual(pair.target)[0], 3)
    assert terms["nearest_neighbour"].item() == pytest.approx(0.01 * KERAS_SCALE * distance.mean().item(), rel=1e-4)


def test_the_texts_sum_is_the_mean_times_the_pixels(a_pair: MakePair, compared_on: ComparedOn) -> None:
    pair = a_pair(size=(64, 32))
    mean, total = (
        compared_on(small(nn_reduction=how)).eval().losses("generator", pair, 0)["nearest_neighbour"] for how in ("mean-released", "sum")
    )  # fmt: skip
    assert total.item() == pytest.approx(mean.item() * 64 * 32, rel=1e-4)


def test_a_wider_neighbourhood_forgives_more(a_pair: MakePair, compared_on: ComparedOn) -> None:
    pair = a_pair(size=(64, 32))
    pixel, three, five = (
        compared_on(small(nn_side_px=side)).eval().losses("generator", pair, 0)["nearest_neighbour"].item() for side in (1, 3, 5)
    )  # fmt: skip
    assert pixel > three > five > 0


@pytest.mark.parametrize(("content", "weight"), [("l1", 100.0), ("features", 0.5)])
def test_ablations_of_the_content_loss(content: str, weight: float, a_pair: MakePair, compared_on: ComparedOn) -> None:
    model, pair = small(content_loss=content, content_weight=weight).eval(), a_pair(size=(64, 32))
    output = model(pair.source, pair.source_pose, pair.target_pose)
    if content == "l1":
        assert model.features() is None
        assert model.losses("generator", pair, 0)["l1"].item() == pytest.approx(100 * (output - pair.target).abs().mean().item(), rel=1e-5)
        return
    features = compared_on(model).features()
    assert features is not None and features.layers == ("conv2_1",) and model.perceptual is not None
    expected = 0.5 * KERAS_SCALE * F.l1_loss(model.perceptual(output)[0], model.perceptual(pair.target)[0])
    assert model.losses("generator", pair, 0)["features"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_a_perceptual_network_its_term_is_off(a_pair: MakePair) -> None:
    model = small()
    assert set(model.losses("generator", a_pair(size=(64, 32)), 0)) == {"adversarial"}
    features = model.features()
    assert features is not None and features.layers == ("conv1_2",)


def test_baseline_skips_see_no_parts(a_pair: MakePair) -> None:
    model = small(skips="baseline")
    assert model.generator.target is None and model.generator.source.start.in_channels == 39
    pair = a_pair(size=(64, 32))
    assert model(pair.source, pair.source_pose, pair.target_pose).shape == (2, 3, 64, 32)


# --- background ---


def test_the_background_is_the_scenes_without_its_person(a_pair: MakePair) -> None:
    model, pair = small(background=True).eval(), a_pair(size=(64, 32))
    given = (pair.source, pair.source_pose, pair.target_pose)
    assert model.generator.target is not None
    seen = recorded_inputs(model.generator.target)  # heatmaps, then the background
    image, in_scene = model(*given), model(*given, pair.target)
    assert torch.equal(seen[0][:, -3:], without_person(pair.source, pair.source_pose)), "no scene given: the source's own place"
    assert torch.equal(seen[1][:, -3:], without_person(pair.target, pair.target_pose))
    assert (in_scene - image).abs().max() > 1e-4
    seen.clear()
    model.losses("generator", pair, 0)
    assert torch.equal(seen[0][:, -3:], without_person(pair.target, pair.target_pose)), "it learns with the target's place"


def test_only_with_a_background_are_scenes_taken(a_pair: MakePair) -> None:
    model, plain, pair = small(background=True), small(), a_pair(size=(64, 32))
    assert model.takes_scene and not plain.takes_scene
    with pytest.raises(ValueError, match="DeformableGAN takes no scene: it never sees the target's image"):
        plain(pair.source, pair.source_pose, pair.target_pose, pair.target)


# --- options ---


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"skips": "stn"}, "deformable's skips is one of deformable, baseline, got 'stn'"),
        ({"aggregate": "sum"}, "aggregate is one of max, avg"),
        ({"content_loss": "l2"}, "content_loss is one of nearest-neighbour, l1, features"),
        ({"fit": "umeyama"}, "fit is one of least-squares, total-released"),
        ({"norm": "batch"}, "norm is one of joint, instance"),
        ({"nn_side_px": 4}, "nn_side_px is an odd number of pixels, got 4"),
        ({"size": (100, 50)}, "a height of 32, 64, 128, 256"),
        ({"size": (128, 40)}, "a width divisible by height / 4"),
        ({"size": (16, 8)}, "a height of 32"),
        ({"skip": "deformable"}, "did you mean 'skips'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generators.create("deformable", **options)


def test_its_schedule() -> None:
    model = small(steps=7)
    assert model.schedule_steps() == 7 and model.turn(0) == ("discriminator", "generator")
    group = model.optimizer("generator", model.generator.parameters()).param_groups[0]
    assert group["lr"] == 2e-4 and group["betas"] == (0.5, 0.999)
