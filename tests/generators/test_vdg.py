from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import pytest
import torch
from generator_helpers import (
    MakePair,
    MakePose,
    assert_same_terms,
    count_parameters,
    freeze_all_but,
    grown,
    loss_of,
    recorded_graphs,
    rendered,
    shapes_of,
)
from skimage.metrics import structural_similarity
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Pose, PosePair, create
from generators.losses import fake_loss, masked_l1, real_loss
from generators.maps import body_mask, gaussian_maps
from generators.models.vdg import VDG, Reconstruction, Refinement, mask_ssim_loss, ssim
from generators.pose import mpii_14

TINY: dict[str, Any] = {"size": (32, 16), "width": 4, "bottleneck": 4}
LOSSES = ("l1", "mask-l1", "mask-ssim", "weighted")


# --- the paper's sizes ---


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({}, [94_512_899, 110_483_203, 4_329_537]),
        ({"stages": 1}, [94_512_899]),
        ({"loss": "weighted", "alpha": 0.5}, [94_512_899, 110_483_203, 4_329_537]),
        ({"size": (256, 256)}, [162_961_027, 184_022_915, 10_901_057]),
    ],
)
def test_parameters_at_the_papers_sizes(options: dict[str, Any], counts: list[int]) -> None:
    with torch.device("meta"):
        model = VDG(**options)
    assert [count_parameters(player) for player in model.players().values()] == counts and count_parameters(model) == sum(counts)


SIZES = [(128, 64), (64, 32), (32, 16), (16, 8), (8, 4)]
WIDTHS = [128, 256, 384, 512, 640]


def test_reconstruction_level_by_level_at_the_papers_size() -> None:
    with torch.device("meta"):
        stage = Reconstruction(18, (128, 64))
        shapes = shapes_of(stage, *(torch.empty(2, c, 128, 64) for c in (3, 18, 18)))
    levels = [(w, *s) for w, s in zip(WIDTHS, SIZES, strict=True)]
    assert (stage.start.in_channels, stage.pose.start.in_channels) == (21, 18)
    assert [shapes[f"encoder.{i}"] for i in range(5)] == levels == [shapes[f"pose.encoder.{i}"] for i in range(5)]
    assert shapes["squeeze"] == shapes["pose"] == (64,) and stage.expand.in_features == 128 and shapes["expand"] == (128 * 8 * 4,)
    joined = [128 + 640, 512 + 512, 384 + 384, 256 + 256, 128 + 128]
    assert [shapes[f"decoder.{i}"] for i in range(5)] == [(w, *s) for w, s in zip(joined, SIZES[::-1], strict=True)]
    assert shapes[""] == (3, 128, 64) and not {"encoder.5", "pose.encoder.5", "decoder.5"} & shapes.keys()


def test_refinement_level_by_level_at_the_papers_size() -> None:
    with torch.device("meta"):
        stage = Refinement(18, (128, 64))
        shapes = shapes_of(stage, *(torch.empty(2, c, 128, 64) for c in (3, 3, 18)))
    levels = [(w, *s) for w, s in zip(WIDTHS, SIZES, strict=True)]
    assert (stage.start.in_channels, stage.pose.start.in_channels) == (6, 18)
    assert [shapes[f"encoder.{i}"] for i in range(5)] == levels == [shapes[f"pose.encoder.{i}"] for i in range(5)]
    joined = [640 + 640, 512 + 512, 384 + 384, 256 + 256, 128 + 128]
    assert [shapes[f"decoder.{i}"] for i in range(5)] == [(w, *s) for w, s in zip(joined, SIZES[::-1], strict=True)]
    assert [shapes[f"up.{i}"][0] for i in range(4)] == [512, 384, 256, 128] and shapes[""] == (3, 128, 64)
    assert not any(isinstance(m, nn.Linear) for m in stage.modules()), "no fully connected layer in refinement"


def test_six_levels_at_256() -> None:
    with torch.device("meta"):
        model = VDG(size=(256, 256))
    assert all(len(s.encoder) == len(s.pose.encoder) == len(s.decoder) == 6 for s in (model.stage1, model.stage2))
    assert model.stage1.expand.out_features == 128 * 8 * 8


# --- the drawing ---


def encoded(part: Any, x: Tensor) -> list[Tensor]:
    levels = [part.encoder[0](F.relu(part.start(x)))]
    for down, block in zip(part.down, list(part.encoder)[1:], strict=True):
        levels.append(block(F.relu(down(levels[-1]))))
    return levels


def decoded(part: Any, x: Tensor, skips: list[Tensor]) -> Tensor:
    """The paper's order: upsampling, then the 1 x 1 convolution."""
    x = part.decoder[0](x)
    for i, skip in enumerate(skips[::-1]):
        x = F.relu(part.up[i](x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
        x = part.decoder[i + 1](torch.cat([x, skip], 1))
    return part.end(x)


def rendered_by_hand(model: VDG, pair: PosePair) -> tuple[Tensor, Tensor]:
    """Coarse and refined image, written out layer by layer."""
    source_maps, target_maps = (gaussian_maps(pose, model.sigma_px) for pose in (pair.source_pose, pair.target_pose))
    g = model.stage1
    image, pose = encoded(g, torch.cat([pair.source, source_maps], 1)), encoded(g.pose, target_maps)
    code = torch.cat([g.squeeze(image[-1].flatten(1)), g.pose.squeeze(pose[-1].flatten(1))], 1)
    x = g.expand(code).reshape(len(pair), -1, *image[-1].shape[-2:])
    coarse = decoded(g, torch.cat([x, image[-1]], 1), image[:-1])
    g = model.stage2
    image, pose = encoded(g, torch.cat([pair.source, coarse], 1)), encoded(g.pose, target_maps)
    return coarse, coarse + decoded(g, torch.cat([image[-1], pose[-1]], 1), image[:-1])


@pytest.mark.parametrize("batch", [1, 2])
def test_both_stages_written_out(batch: int, a_pair: MakePair) -> None:
    model = grown(VDG(**TINY | {"size": (64, 32)}, sigma_px=3.0)).double()
    pair = a_pair(1, batch, size=(64, 32), dtype=torch.float64)
    coarse, refined = rendered_by_hand(model, pair)
    assert torch.allclose(model.coarse(pair.source, pair.source_pose, pair.target_pose), coarse, rtol=0, atol=1e-12)
    assert torch.allclose(model.refined(pair.source, coarse, pair.target_pose), refined, rtol=0, atol=1e-12)
    assert torch.allclose(rendered(model, pair), refined.clamp(-1, 1), rtol=0, atol=1e-12)
    assert coarse.std() > 0 and (refined - coarse).std() > 0


def test_reconstruction_alone_draws_the_coarse_image_clamped(a_pair: MakePair) -> None:
    model, pair = VDG(**TINY, stages=1), a_pair()
    with torch.no_grad():
        model.stage1.end.weight.mul_(30)
    coarse = model.coarse(pair.source, pair.source_pose, pair.target_pose)
    assert coarse.abs().max() > 1 and torch.equal(rendered(model, pair), coarse.clamp(-1, 1))
    assert list(model.players()) == ["generator1"] and not hasattr(model, "stage2") and not hasattr(model, "discriminator")
    assert model.schedule_steps() == 22_000 and model.turn(50_000) == ("generator1",)


def test_the_target_reaches_the_drawing_through_its_own_encoders_alone(a_pair: MakePair, a_pose: MakePose) -> None:
    model, pair = VDG(**TINY).double(), a_pair(dtype=torch.float64)
    with torch.no_grad():
        model.stage1.pose.squeeze.weight.zero_()
    other = a_pose(77, (2,), dtype=torch.float64)
    coarse = model.coarse(pair.source, pair.source_pose, pair.target_pose)
    assert torch.equal(model.coarse(pair.source, pair.source_pose, other), coarse)
    assert not torch.equal(model.coarse(pair.source, other, pair.target_pose), coarse), "the source's pose is used"
    refined, moved = (model.refined(pair.source, coarse, pose) for pose in (pair.target_pose, other))
    assert not torch.equal(refined, moved), "refinement sees the target once more"


def test_another_skeleton(a_pair: MakePair) -> None:
    model = VDG(**TINY, skeleton="mpii_14")
    assert rendered(model, a_pair(skeleton=mpii_14)).shape == (2, 3, 32, 16)
    assert (model.stage1.start.in_channels, model.stage2.pose.start.in_channels) == (17, 14)


# --- SSIM ---


def images(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    """Two images in [0, 1] that have something in common."""
    random = torch.Generator().manual_seed(seed)
    x, noise = torch.rand(2, *shape, generator=random, dtype=torch.float64)
    return x, 0.7 * x + 0.3 * noise


def by_skimage(x: Tensor, y: Tensor, data_range: float) -> float:
    """scikit-image's mean leaves out 5 px at every border: the places where our windows are whole."""
    rows = [
        structural_similarity(
            np.asarray(a), np.asarray(b), gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
            data_range=data_range, channel_axis=0,
        )
        for a, b in zip(x, y, strict=True)
    ]  # fmt: skip
    return float(np.mean(rows))


@pytest.mark.parametrize("shape", [(1, 3, 32, 16), (3, 3, 64, 32), (2, 1, 11, 30), (1, 3, 17, 11)])
@pytest.mark.parametrize("data_range", [1.0, 2.0, 255.0])
def test_ssim_is_scikit_images(shape: tuple[int, ...], data_range: float) -> None:
    x, y = (data_range * image for image in images(sum(shape), *shape))
    assert ssim(x, y, data_range).item() == pytest.approx(by_skimage(x, y, data_range), rel=1e-9, abs=1e-12)
    assert 0.1 < ssim(x, y, data_range) < 0.99
    assert ssim(x.float(), y.float(), data_range).item() == pytest.approx(ssim(x, y, data_range).item(), abs=2e-5)


def test_ssim_of_constant_images_in_closed_form() -> None:
    for a, b in ((0.2, 0.9), (0.0, 1.0), (0.0, 0.0), (-0.5, 0.5)):
        x, y = (torch.full((1, 3, 16, 12), v, dtype=torch.float64) for v in (a, b))
        expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        assert ssim(x, y, 1.0).item() == pytest.approx(expected, abs=1e-9)


def test_ssim_of_an_image_with_itself_and_with_its_negative() -> None:
    x, y = images(3, 2, 3, 24, 20)
    assert ssim(x, x, 1.0).item() == pytest.approx(1.0, abs=1e-12)
    assert ssim(x, y, 1.0).item() == ssim(y, x, 1.0).item() < 1
    assert ssim(x, 1 - x, 1.0) < 0 < ssim(x, y, 1.0)


def test_ssim_has_its_gradient() -> None:
    x, y = images(4, 1, 1, 12, 11)
    assert torch.autograd.gradcheck(lambda a, b: ssim(a, b, 1.0), (x.requires_grad_(), y.requires_grad_()))
    mask = (torch.rand(1, 1, 12, 11, dtype=torch.float64) > 0.5).double()
    assert torch.autograd.gradcheck(lambda a: mask_ssim_loss(a, y.detach(), mask), (x.detach().requires_grad_(),))


def test_ssim_keeps_a_finite_gradient_on_flat_and_on_far_out_images() -> None:
    for values in ((0.0, 0.0), (1.0, -1.0), (3e3, 1.0), (1e4, 1e4)):
        x, y = (torch.full((1, 3, 16, 16), v) for v in values)
        x = (x + 1e-3 * torch.randn_like(x)).requires_grad_()
        loss = 1 - ssim(x, y, 2.0)
        loss.backward()
        assert loss.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_rounding_makes_no_negative_variance_of_a_flat_image_far_out() -> None:
    """A flat image beside black: the covariance is 0, so SSIM is at most its luminance c1 / (v² + c1)."""
    for value in (100.1, 800.1, 1500.1, 3000.3):
        similarity = ssim(torch.full((1, 3, 32, 12), value), torch.zeros(1, 3, 32, 12), 2.0).item()
        assert 0 <= similarity <= 1.001 * 4e-4 / value**2


def test_ssim_is_exact_under_autocast() -> None:
    x, y = (image.float() for image in images(5, 2, 3, 32, 16))
    with torch.autocast("cpu", torch.bfloat16):
        inside = ssim(x, y, 1.0)
        half = ssim(x.bfloat16(), y, 1.0)
    assert torch.equal(inside, ssim(x, y, 1.0)) and half.dtype == torch.float32 and abs(half - inside) < 0.01


def test_images_smaller_than_a_window_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SSIM's window of 11 px needs images at least as large, got \(32, 10\)"):
        ssim(torch.zeros(1, 3, 32, 10), torch.zeros(1, 3, 32, 10), 1.0)


@pytest.mark.parametrize("batch", [1, 3])
def test_mask_ssim_is_one_minus_ssim_of_images_whose_person_counts_double(batch: int) -> None:
    x, y = (2 * image - 1 for image in images(6, batch, 3, 32, 16))
    mask = torch.zeros(batch, 1, 32, 16, dtype=torch.float64)
    mask[..., 8:24, 4:12] = 1
    doubled = [((image + 1) / 2 * (1 + mask)) for image in (x, y)]
    assert doubled[0].max() > 1 and mask_ssim_loss(x, y, mask).item() == pytest.approx(1 - by_skimage(*doubled, 2.0), abs=1e-12)
    assert mask_ssim_loss(x, x, mask).item() == pytest.approx(0, abs=1e-12)
    inside, outside = x.clone(), x.clone()
    inside[..., 10:14, 6:10] += 0.3
    outside[..., 10:14, 12:16] += 0.3
    assert mask_ssim_loss(inside, x, mask) > mask_ssim_loss(outside, x, mask) > 0


# --- turns and losses ---


def test_turns_switch_from_reconstruction_to_refinement() -> None:
    with torch.device("meta"):
        paper, short = VDG(width=2), VDG(width=2, stage1_steps=3, stage2_steps=2)
    assert [short.turn(step) for step in range(6)] == [("generator1",)] * 3 + [("discriminator", "generator2")] * 3
    assert paper.turn(21_999) == ("generator1",) and paper.turn(22_000) == ("discriminator", "generator2")
    assert short.schedule_steps() == 5 and paper.schedule_steps() == 36_000


def test_every_player_has_the_papers_adam() -> None:
    model = VDG(**TINY)
    for player, module in model.players().items():
        (group,) = model.optimizer(player, module.parameters()).param_groups
        assert (group["lr"], group["betas"]) == (2e-5, (0.5, 0.999)) and model.learning_rate(player, 0) is None
    assert model.features() is None


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("batch", [1, 3])
def test_losses_are_the_papers(loss: str, batch: int, a_pair: MakePair) -> None:
    # In eval mode, as batch norm sees other batches when its calls come in another order.
    model = grown(VDG(**TINY, loss=loss, alpha=0.7, image_weight=5.0, radius_px=2.0)).double().eval()
    pair = a_pair(3, batch, dtype=torch.float64)
    coarse, refined = rendered_by_hand(model, pair)
    mask = body_mask(pair.target_pose, 2.0)
    real, fake = (model.discriminator(torch.cat([pair.source, image], 1)) for image in (pair.target, refined))
    plain, masked = (refined - pair.target).abs().mean(), masked_l1(refined, pair.target, mask)
    similarity = 1 - by_skimage(*((i.detach() + 1) / 2 * (1 + mask) for i in (refined, pair.target)), 2.0)
    terms = {
        "l1": {"l1": 5 * plain},
        "mask-l1": {"mask_l1": 5 * masked},
        "mask-ssim": {"mask_ssim": torch.tensor(5 * similarity, dtype=torch.float64)},
        "weighted": {"mask_ssim": torch.tensor(5 * 0.7 * similarity, dtype=torch.float64), "mask_l1": 5 * 0.3 * masked},
    }[loss]
    assert_same_terms(model.losses("generator1", pair, 0), {"l1": (coarse - pair.target).abs().mean()})
    assert_same_terms(model.losses("generator2", pair, 0), {"adversarial": real_loss(fake), **terms})
    assert_same_terms(model.losses("discriminator", pair, 0), {"real": real_loss(real), "fake": fake_loss(fake)})


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_alpha_weighs_mask_ssim_against_mask_l1(alpha: float, a_pair: MakePair) -> None:
    pair, terms = a_pair(), {}
    for loss in ("mask-ssim", "mask-l1", "weighted"):
        torch.manual_seed(0)
        terms |= {loss: VDG(**TINY, loss=loss, alpha=alpha).losses("generator2", pair, 0)}
    mixed = terms["weighted"]
    assert mixed["mask_ssim"].item() == pytest.approx(alpha * terms["mask-ssim"]["mask_ssim"].item())
    assert mixed["mask_l1"].item() == pytest.approx((1 - alpha) * terms["mask-l1"]["mask_l1"].item())


@pytest.mark.parametrize("options", [*({"loss": loss} for loss in LOSSES), {"stages": 1}], ids=[*LOSSES, "reconstruction"])
def test_every_variant_teaches_the_mover_all_of_it_and_stays_finite(options: dict[str, Any], a_pair: MakePair) -> None:
    whole = a_pair(missing=0.0)
    nobody = Pose(whole.target_pose.xy, torch.zeros_like(whole.target_pose.visible), whole.target_pose.skeleton, (32, 16))
    for pose in (whole.target_pose, nobody):
        pair = PosePair(whole.source, whole.target, pose, pose, whole.identity)
        for mover in VDG(**TINY, **options).players():
            model = VDG(**TINY, **options)
            freeze_all_but(model, mover)
            loss_of(model, mover, pair).backward()
            for player, module in model.players().items():
                grads = [p.grad for p in module.parameters()]
                assert all((g is not None and g.isfinite().all()) if player == mover else g is None for g in grads), (player, mover)


def test_a_turn_of_refinement_draws_once_and_keeps_no_graph_of_reconstruction(a_pair: MakePair) -> None:
    model, pair = VDG(**TINY), a_pair()
    first, second = recorded_graphs(model.stage1), recorded_graphs(model.stage2)
    with model.sharing():
        for player in ("discriminator", "generator2"):
            model.losses(player, pair, 0)
    assert (first, second) == ([False], [True])


def test_the_discriminator_does_not_teach_the_drawing_that_is_shared(a_pair: MakePair) -> None:
    pair = a_pair()

    def gradients(shared: bool) -> list[Tensor]:
        torch.manual_seed(1)
        model = VDG(**TINY)
        with model.sharing() if shared else contextlib.nullcontext():
            loss_of(model, "discriminator", pair).backward()
            assert all(p.grad is None for p in [*model.stage1.parameters(), *model.stage2.parameters()])
            model.discriminator.requires_grad_(False)
            loss_of(model, "generator2", pair).backward()
        return [p.grad for p in model.stage2.parameters() if p.grad is not None]

    ours, alone = gradients(True), gradients(False)
    assert len(ours) == len(alone) > 0 and all(torch.equal(a, b) for a, b in zip(ours, alone, strict=True))


# --- options ---


@pytest.mark.parametrize("size", [(0, 0), (16, 8), (100, 64), (128, 60), (128, -16)])
def test_sizes_that_do_not_halve_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="vdg takes a height of 32, 64, 128, 256 … and a width divisible by height / 8, got") as caught:
        VDG(size=size)
    assert str(size) in str(caught.value)


def test_images_too_narrow_for_ssim_are_refused_where_it_is_used(a_pair: MakePair) -> None:
    for loss in ("mask-ssim", "weighted"):
        with pytest.raises(ValueError, match="vdg's SSIM needs a width of at least 11 px, got 8"):
            VDG(size=(32, 8), width=2, loss=loss)
    for options in ({"loss": "l1"}, {"loss": "mask-l1"}, {"stages": 1}):
        model = VDG(size=(32, 8), width=2, **options)
        assert rendered(model, a_pair(size=(32, 8))).shape == (2, 3, 32, 8)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("loss", "ssim", "vdg's loss is one of l1, mask-l1, mask-ssim, weighted, got 'ssim'"),
        ("stages", 3, "vdg's stages is one of 1, 2, got 3"),
        ("skeleton", "openpose_25", "vdg's skeleton is one of openpose_18, .*, got 'openpose_25'"),
        ("alpha", 1.1, "vdg's alpha is from 0 to 1, got 1.1"),
        ("alpha", float("nan"), "vdg's alpha is from 0 to 1, got nan"),
    ],
)
def test_unknown_choices_are_refused(option: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        VDG(**TINY, **{option: value})


def test_options_are_what_it_was_built_with() -> None:
    assert create("vdg", **TINY, loss="weighted").options == {
        **TINY, "sigma_px": 6.0, "radius_px": 4.0, "loss": "weighted", "alpha": 0.9, "image_weight": 10.0, "stages": 2,
        "stage1_steps": 22_000, "stage2_steps": 14_000, "learning_rate": 2e-5, "skeleton": "openpose_18",
    }  # fmt: skip
