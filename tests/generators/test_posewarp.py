from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from generator_helpers import (
    CONFIGS,
    MakePair,
    MakePose,
    assert_same_terms,
    count_parameters,
    freeze_all_but,
    loss_of,
    narrow_vgg_weights,
    recorded_calls,
    shapes_of,
)
from torch import Tensor, nn
from torch.nn import functional as F

import generators
from generators import PosePair, create
from generators.losses import fake_loss, real_loss
from generators.maps import gaussian_maps
from generators.models.posewarp import VGG_LAYERS, Discriminator, LimbComposer, Limbs, PoseWarp, UNet
from generators.perceptual import LAYERS, VGG19, Features, Perceptual
from generators.pose import mpii_14, openpose_18, rescale, upper_7

TINY: dict[str, Any] = {"size": (32, 16), "width": 4}
BOTH = 100_005  # a step at which discriminator and generator move


def a_14_pair(a_pair: MakePair, seed: int = 0, batch: int = 2, **choices: Any) -> PosePair:
    return a_pair(seed, batch, **{"skeleton": mpii_14, "missing": 0.0, **choices})


def narrow_vgg(pooling: Any = "avg", dtype: torch.dtype = torch.float64) -> VGG19:
    """VGG-19's layout a few channels wide, with weights of chance."""
    torch.manual_seed(5)
    widths = [3, 3, 3, 4, 4, *[5] * 4, *[6] * 4]
    keys = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25)
    state = {}
    for key, before, after in zip(keys, widths, widths[1:], strict=False):
        state |= {f"features.{key}.weight": torch.randn(after, before, 3, 3) / before, f"features.{key}.bias": torch.randn(after) / 4}
    return VGG19(state, Features(VGG_LAYERS, pooling)).to(dtype)


# --- the paper's sizes ---


def convolution(before: int, after: int, side: int = 3) -> int:
    return before * after * side**2 + after


def unet_parameters(channels: int, joints: int, end: int) -> int:
    """The released code's list of layers at 256 × 256."""
    down = convolution(channels, 64, 7) + convolution(64, 64) + convolution(64 + joints, 128) + 8 * convolution(128, 128)
    return down + 4 * convolution(128 + 128, 128) + convolution(128 + 64, end)


@pytest.mark.parametrize(("skeleton", "joints", "limbs"), [("mpii_14", 14, 10), ("upper_7", 7, 5)])
def test_parameters_at_the_papers_size(skeleton: str, joints: int, limbs: int) -> None:
    with torch.device("meta"):
        model = PoseWarp(skeleton=skeleton)
    assert model.size == (256, 256) and model.discriminator is not None
    drawing = model.drawing
    a, c, d = unet_parameters(3, joints, 32), unet_parameters(3 * limbs, joints, 64), unet_parameters(4, joints, 64)
    assert (count_parameters(drawing.segment), count_parameters(drawing.foreground), count_parameters(drawing.background)) == (a, c, d)
    heads = convolution(32, limbs + 1) + convolution(64, 4) + convolution(64, 3)
    judge = (256 * 64 + 1) * 256 + 257 * 256 + 257
    deep = convolution(128, 256) + 3 * convolution(256, 256)
    discriminator = convolution(3, 64, 5) + convolution(64 + 2 * joints, 128, 5) + deep + judge
    assert count_parameters(model.players()["generator"]) == a + c + d + heads
    assert count_parameters(model.players()["discriminator"]) == discriminator
    if skeleton == "mpii_14":
        assert (count_parameters(drawing), discriminator) == (7_863_314, 6_625_409)


@pytest.mark.parametrize(("size", "downs"), [((256, 256), 5), ((128, 64), 4), ((64, 32), 3), ((32, 16), 2)])
def test_a_unet_level_by_level(size: tuple[int, int], downs: int) -> None:
    h, w = size
    with torch.device("meta"):
        shapes = shapes_of(UNet(30, 14, downs, 64, 64), torch.empty(1, 30, h, w), torch.empty(1, 14, h // 2, w // 2))
    below = [(h >> i, w >> i) for i in range(1, downs + 1)]
    assert below[-1] == (8, 8 * w // h)
    assert shapes["start"] == (64, h, w)
    assert [shapes[f"down.{i}"] for i in range(downs)] == [(64 if i == 0 else 128, *s) for i, s in enumerate(below)]
    assert [shapes[f"level.{i}"] for i in range(downs)] == [(128, *s) for s in below]
    ups = [*below[-2::-1], (h, w)]
    assert [shapes[f"up.{i}"] for i in range(downs)] == [(64 if s == size else 128, *s) for s in ups]
    assert f"down.{downs}" not in shapes and f"up.{downs}" not in shapes


def test_the_discriminator_level_by_level_at_the_papers_size() -> None:
    with torch.device("meta"):
        shapes = shapes_of(Discriminator(14, (256, 256), 5, 64), torch.empty(2, 3, 256, 256), *torch.empty(2, 2, 14, 128, 128))
    assert shapes["start"] == (64, 256, 256) and shapes["joined"] == (128, 128, 128)
    assert [shapes[f"deep.{i}"] for i in range(4)] == [(256, 64, 64), (256, 32, 32), (256, 16, 16), (256, 8, 8)]
    assert [shapes[f"judge.{i}"] for i in (0, 2, 4)] == [(256,), (256,), (1,)] and shapes[""] == ()


def test_layers_are_the_papers() -> None:
    with torch.device("meta"):
        model = PoseWarp()
    drawing = [m for m in model.drawing.modules() if not list(m.children())]
    assert {type(m) for m in drawing} == {nn.Conv2d, nn.LeakyReLU}, "no normalisation, no dropout"
    assert {m.negative_slope for m in drawing if isinstance(m, nn.LeakyReLU)} == {0.2}
    sides = {name: m.kernel_size[0] for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size[0] != 3}
    assert sides == {
        "drawing.segment.start.0": 7, "drawing.foreground.start.0": 7, "drawing.background.start.0": 7,
        "discriminator.start.0": 5, "discriminator.joined.0": 5,
    }  # fmt: skip


@pytest.mark.parametrize("downs", [2, 3])
def test_a_unet_written_out(downs: int) -> None:
    net = UNet(4, 3, downs, 6, 5).double()
    h, w = 8 << downs, 4 << downs
    x, maps = torch.randn(2, 4, h, w, dtype=torch.float64), torch.randn(2, 3, h // 2, w // 2, dtype=torch.float64)

    def conv(part: nn.Module, x: Tensor, stride: int = 1) -> Tensor:
        layer = part[0]  # type: ignore[index]
        return F.leaky_relu(F.conv2d(x, layer.weight, layer.bias, stride=stride, padding=layer.kernel_size[0] // 2), 0.2)

    levels = [conv(net.start, x)]
    for i in range(downs):
        down = conv(net.down[i], levels[-1], 2)
        levels.append(conv(net.level[i], torch.cat([down, maps], 1) if i == 0 else down))
    y = levels.pop()
    for i in range(downs):
        larger = F.interpolate(y, size=levels[-1].shape[-2:], mode="bilinear")
        y = conv(net.up[i], torch.cat([larger, levels.pop()], 1))
    assert not levels and torch.allclose(net(x, maps), y, atol=1e-12)


# --- maps and transforms ---


def test_what_pixels_options_mean_at_another_height(a_pose: MakePose) -> None:
    with torch.device("meta"):
        paper, half = PoseWarp(), PoseWarp(size=(128, 64))
    assert (paper.sigma_px, paper.limb_sigma_px, paper.torso_sigma_px, paper.shortest_px2) == (1.75, 11, 13, 5)
    assert (half.sigma_px, half.limb_sigma_px, half.torso_sigma_px, half.shortest_px2) == (0.875, 5.5, 6.5, 1.25)
    # A pose twice as large in an image twice as large has the same prior at every second pixel (but for where the maximum falls).
    small, limbs = a_pose(1, (2,), mpii_14, (64, 64), dtype=torch.float64), Limbs(mpii_14)
    small = replace(small, xy=(small.xy / 2).round() * 2 + 0)  # even, so that every limb's middle is a pixel
    large = replace(small, xy=small.xy * 2, size=(128, 128))
    a, b = limbs.prior(small, 5.5, 6.5, 1.25), limbs.prior(large, 11, 13, 5)
    inside = [i for i, limb in enumerate(mpii_14.limbs) if len(limb) == 2]
    middles = torch.stack([small.xy[:, list(mpii_14.limbs[i])].mean(1) for i in inside], 1)
    kept = ((middles >= 0) & (middles <= 63)).all(-1)
    difference = (a - b[..., ::2, ::2]).abs().amax((-2, -1))[:, 1:][:, inside]
    assert kept.sum() >= 10 and difference[kept].max() < 1e-9


def test_heatmaps_are_at_half_resolution_and_empty_outside(a_pose: MakePose) -> None:
    with torch.device("meta"):
        model = PoseWarp(size=(64, 32))
    pose = a_pose(4, (2,), mpii_14, (64, 32), missing=0.2)
    maps, half = model.heatmaps(pose), rescale(pose, (32, 16))
    assert maps.shape == (2, 14, 32, 16) and model.sigma_px == 1.75 / 4
    inside = (half.xy[..., 0] > 0) & (half.xy[..., 0] < 15) & (half.xy[..., 1] > 0) & (half.xy[..., 1] < 31)
    assert not inside.all() and not pose.visible.all() and (inside & pose.visible).any()
    whole = gaussian_maps(half, model.sigma_px)
    shown = (inside & pose.visible)[..., None, None]
    assert torch.equal(maps, torch.where(shown, whole, 0.0)) and whole[~shown[..., 0, 0]].any()


# --- the drawing ---


def test_limbs_that_stay_are_what_was_cut_out(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY).double(), a_14_pair(a_pair, dtype=torch.float64)
    masks = torch.rand(2, 10, 32, 16, dtype=torch.float64)
    transform, moves = model.limbs.transforms(pair.source_pose, pair.source_pose)
    moved = model.drawing.moved(pair.source, masks, transform, moves)
    assert moved.shape == (2, 30, 32, 16)
    for limb in range(10):
        assert torch.allclose(moved[:, 3 * limb : 3 * limb + 3], masks[:, limb : limb + 1] * pair.source, atol=1e-9)


def test_a_limb_moves_alone_bilinearly_and_smears_at_the_border(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY).double(), a_14_pair(a_pair, batch=1, dtype=torch.float64)
    masks = torch.rand(1, 10, 32, 16, dtype=torch.float64)
    transform, moves = (t.clone() for t in model.limbs.transforms(pair.source_pose, pair.source_pose))
    transform[:, 3] = torch.tensor([[1.0, 0.0, 2.5], [0.0, 1.0, -1.25]])  # to the left and down
    moves[:, 4] = False
    moved = model.drawing.moved(pair.source, masks, transform, moves).unflatten(1, (10, 3))[0]
    cut = masks[0, :, None] * pair.source
    for row in range(32):
        for column in range(16):
            x, y = min(column + 2.5, 15.0), max(row - 1.25, 0.0)
            total = sum(
                cut[3, :, q, p] * max(0, 1 - abs(x - p)) * max(0, 1 - abs(y - q)) for p in range(16) for q in (int(y), min(int(y) + 1, 31))
            )
            assert torch.allclose(moved[3, :, row, column], total, atol=1e-9)  # type: ignore[arg-type]
    assert not moved[4].any()
    others = [i for i in range(10) if i not in (3, 4)]
    assert torch.allclose(moved[others], cut[others], atol=1e-9)


def test_what_each_module_is_given_and_how_the_image_is_put_together(a_pair: MakePair) -> None:
    model = PoseWarp(**TINY, noise_sigma=0.7).double().eval()
    pair = a_14_pair(a_pair, missing=0.1, dtype=torch.float64)
    part = model.drawing
    a, c, d = recorded_calls(part.segment), recorded_calls(part.foreground), recorded_calls(part.background)
    heads = part.limb_logits, part.foreground_image, part.foreground_mask, part.background_image
    logits, fg, mask, bg = (recorded_calls(head) for head in heads)
    image = model(pair.source, pair.source_pose, pair.target_pose)
    source_maps, target_maps = model.heatmaps(pair.source_pose), model.heatmaps(pair.target_pose)
    assert torch.equal(a[0][0], pair.source) and torch.equal(a[0][1], source_maps)
    prior = model.limbs.prior(pair.source_pose, 11 / 8, 13 / 8, 5 / 64)
    masks = torch.softmax(logits[0][1] + torch.log(prior + 1e-10), dim=1)
    assert logits[0][1].shape == (2, 11, 32, 16)
    transform, moves = model.limbs.transforms(pair.source_pose, pair.target_pose)
    assert 0 < moves.sum() < moves.numel()
    assert torch.allclose(c[0][0], part.moved(pair.source, masks[:, 1:], transform, moves), atol=1e-12)
    assert torch.equal(c[0][1], target_maps) and torch.equal(d[0][1], source_maps)
    left = masks[:, :1]
    assert torch.allclose(d[0][0], torch.cat([pair.source * left + 0.7 * model.pattern * (1 - left), left], 1), atol=1e-12)
    alpha = torch.sigmoid(mask[0][1])
    assert torch.allclose(image, alpha * torch.tanh(fg[0][1]) + (1 - alpha) * torch.tanh(bg[0][1]), atol=1e-12)
    assert torch.equal(fg[0][0], c[0][2]) and torch.equal(mask[0][0], c[0][2]) and torch.equal(bg[0][0], d[0][2])


def test_noise_is_fresh_in_training_fixed_in_drawing_and_off_at_zero(a_pair: MakePair) -> None:
    pair, model = a_14_pair(a_pair), PoseWarp(**TINY)
    seen = recorded_calls(model.drawing.background)

    def render(model: PoseWarp) -> Tensor:
        return model(pair.source, pair.source_pose, pair.target_pose)

    assert not torch.equal(render(model), render(model)) and not torch.equal(seen[0][0], seen[1][0])
    model.eval()
    torch.manual_seed(1)
    first = render(model)
    torch.manual_seed(2)
    assert torch.equal(render(model), first)
    assert model.pattern.std().item() == pytest.approx(1, abs=0.1) and model.pattern.mean().abs() < 0.1
    assert torch.equal(PoseWarp(**TINY).pattern, model.pattern) and "pattern" not in model.state_dict()
    silent = PoseWarp(**TINY, noise_sigma=0.0)
    seen = recorded_calls(silent.drawing.background)
    assert torch.equal(render(silent), render(silent))
    assert torch.equal(seen[0][0][:, :3], pair.source * seen[0][0][:, 3:]), "the released code's input"


def test_gradients_of_what_moves(a_pair: MakePair) -> None:
    """Gradients flow to the masks and the source; transforms are data."""
    model = PoseWarp(**TINY).double()
    pair = a_14_pair(a_pair, batch=1, dtype=torch.float64)
    transform, moves = model.limbs.transforms(pair.source_pose, pair.target_pose)
    assert not transform.requires_grad
    source = pair.source[..., 4:10, 2:7].clone().requires_grad_()
    masks = torch.rand(1, 10, 6, 5, dtype=torch.float64, requires_grad=True)
    small = transform * torch.tensor([1.0, 1.0, 0.2], dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s, m: model.drawing.moved(s, m, small, moves), (source, masks))
    freeze_all_but(model, "generator")
    model.losses("generator", pair, BOTH)["l1_in_place_of_vgg"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.drawing.segment.parameters())


@pytest.mark.parametrize("where", ["source", "target"])
def test_without_a_pose_there_is_no_limb_but_an_image(where: str, a_pair: MakePair) -> None:
    pair, model = a_14_pair(a_pair), PoseWarp(**TINY).eval()
    nobody = replace(pair.source_pose, visible=torch.zeros_like(pair.source_pose.visible))
    seen = recorded_calls(model.drawing.foreground)
    image = model(pair.source, nobody if where == "source" else pair.source_pose, nobody if where == "target" else pair.target_pose)
    assert not seen[0][0].any() and image.isfinite().all() and image.std() > 0


@pytest.mark.parametrize("skeleton", ["mpii_14", "upper_7"])
@pytest.mark.parametrize("size", [(32, 16), (64, 64), (128, 64)])
def test_other_sizes_and_skeletons_draw_a_batch_of_one(skeleton: str, size: tuple[int, int], a_pair: MakePair) -> None:
    model = PoseWarp(size=size, width=2, skeleton=skeleton).double()
    pair = a_pair(batch=1, skeleton=model.skeleton, size=size, dtype=torch.float64)
    assert model(pair.source, pair.source_pose, pair.target_pose).shape == (1, 3, *size)
    assert model.losses("discriminator", pair, BOTH)["real"].dtype == torch.float64


def test_openpose_poses_are_turned_into_fourteen_joints(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY).eval(), a_pair(skeleton=openpose_18, missing=0.0)
    with pytest.raises(ValueError, match="PoseWarp takes mpii_14 poses, the source pose is openpose_18"):
        model(pair.source, pair.source_pose, pair.target_pose)
    pair = pair.on(model.skeleton)
    assert model(pair.source, pair.source_pose, pair.target_pose).shape == (2, 3, 32, 16)


# --- turns, losses ---


def test_first_alone_then_the_discriminator_alone_then_both() -> None:
    model = PoseWarp(**TINY, pretrain_steps=2, warmup_steps=3, gan_steps=5)
    assert [model.turn(step) for step in range(8)] == [("generator",)] * 2 + [("discriminator",)] * 3 + [("discriminator", "generator")] * 3
    assert model.schedule_steps() == 7
    with torch.device("meta"):
        paper = PoseWarp()
    assert paper.schedule_steps() == 110_000 and set(paper.players()) == {"generator", "discriminator"}
    assert [paper.turn(s) for s in (99_999, 100_000, 100_004)] == [("generator",), ("discriminator",), ("discriminator",)]
    assert paper.turn(100_005) == paper.turn(110_000) == ("discriminator", "generator")


def test_without_a_second_stage_there_is_no_discriminator(a_pair: MakePair) -> None:
    model = PoseWarp(**TINY, pretrain_steps=2, gan_steps=0)
    assert list(model.players()) == ["generator"] and model.schedule_steps() == 2
    assert model.turn(0) == model.turn(5) == ("generator",)
    assert list(model.losses("generator", a_14_pair(a_pair), BOTH)) == ["l1_in_place_of_vgg"]
    assert not any("discriminator" in key for key in model.state_dict())


def test_the_generator_pays_the_discriminator_in_the_second_stage_only(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY, pretrain_steps=2, warmup_steps=1, gan_steps=3), a_14_pair(a_pair)
    expected = {0: ["l1_in_place_of_vgg"], 1: ["l1_in_place_of_vgg"], 3: ["l1_in_place_of_vgg", "adversarial"]}
    for step, terms in expected.items():
        assert "generator" in model.turn(step) and list(model.losses("generator", pair, step)) == terms


def test_one_drawing_a_turn(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY), a_14_pair(a_pair)
    renders, judged = recorded_calls(model.drawing), recorded_calls(model.discriminator)  # type: ignore[arg-type]
    with model.sharing(model.players().values()):
        for player in ("discriminator", "generator"):
            freeze_all_but(model, player)
            loss_of(model, player, pair, BOTH).backward()
            assert all(p.grad is not None for p in model.players()[player].parameters())
            assert player == "generator" or all(p.grad is None for p in model.drawing.parameters())
    assert len(renders) == 1 and len(judged) == 3
    assert torch.equal(judged[0][0], pair.target) and all(torch.equal(call[0], renders[0][-1]) for call in judged[1:])
    for call in judged:
        assert torch.equal(call[1], model.heatmaps(pair.source_pose)) and torch.equal(call[2], model.heatmaps(pair.target_pose))


def test_every_player_has_the_papers_adam() -> None:
    model = PoseWarp(**TINY)
    for player, module in model.players().items():
        (group,) = model.optimizer(player, module.parameters()).param_groups
        assert (group["lr"], group["betas"], group["eps"]) == (1e-4, (0.9, 0.999), 1e-7) and model.learning_rate(player, 0) is None
    assert PoseWarp(**TINY, learning_rate=0.5).optimizer("generator", model.parameters()).param_groups[0]["lr"] == 0.5


def test_weights_begin_as_keras_does() -> None:
    torch.manual_seed(0)
    for layer in PoseWarp(size=(64, 64), width=16).modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            assert not layer.bias.any()
            field = layer.weight[0, 0].numel() if isinstance(layer, nn.Conv2d) else 1
            bound = (6 / ((layer.weight.shape[0] + layer.weight.shape[1]) * field)) ** 0.5
            assert 0.8 * bound < layer.weight.abs().max() <= bound


@pytest.mark.parametrize("batch", [1, 3])
def test_losses_are_the_papers(batch: int, a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY, l1_weight=3.0).double().eval(), a_14_pair(a_pair, batch=batch, dtype=torch.float64)
    assert model.discriminator is not None
    model.perceptual = network = narrow_vgg()
    with torch.no_grad():
        model.deviation.uniform_(0.5, 2)
    output = model(pair.source, pair.source_pose, pair.target_pose)
    maps = model.heatmaps(pair.source_pose), model.heatmaps(pair.target_pose)
    layers = []
    for row, (a, b) in enumerate(zip(network(output), network(pair.target), strict=True)):
        assert a.shape[1] < 10
        unit = [(a[:, k] - b[:, k]).abs() / (model.deviation[row, k] + 0.1 / (255 * 0.226)) for k in range(a.shape[1])]
        layers.append(torch.stack(unit).mean())
    assert len(layers) == 12
    real, fake = model.discriminator(pair.target, *maps), model.discriminator(output, *maps)
    l1 = 3 * (output - pair.target).abs().mean()
    assert_same_terms(
        model.losses("generator", pair, BOTH), {"vgg": sum(layers) / 12, "l1": l1, "adversarial": 0.1 * real_loss(fake)}  # type: ignore[dict-item]
    )
    assert_same_terms(model.losses("discriminator", pair, BOTH), {"real": real_loss(real), "fake": fake_loss(fake)})
    model.perceptual = None
    assert list(model.losses("generator", pair, BOTH)) == ["l1", "adversarial"]
    plain = PoseWarp(**TINY).double().eval()
    output = plain(pair.source, pair.source_pose, pair.target_pose)
    assert plain.losses("generator", pair, BOTH)["l1_in_place_of_vgg"].item() == pytest.approx((output - pair.target).abs().mean().item())
    plain.perceptual = network
    assert list(plain.losses("generator", pair, BOTH)) == ["vgg", "adversarial"]


def test_features_are_vggs_first_twelve_convolutions_with_average_pooling() -> None:
    with torch.device("meta"):
        features = PoseWarp().features()
    assert features is not None and features.pooling == "avg"
    assert features.layers == (
        "conv1_1", "conv1_2", "conv2_1", "conv2_2", "conv3_1", "conv3_2", "conv3_3", "conv3_4", "conv4_1", "conv4_2", "conv4_3", "conv4_4",
    )  # fmt: skip


def test_deviations_are_those_of_all_the_sources(a_pair: MakePair, tmp_path: Path) -> None:
    model = PoseWarp(**TINY)
    pairs = [a_14_pair(a_pair, seed, batch) for seed, batch in ((0, 3), (1, 1), (2, 2))]
    model.prepare(pairs)
    assert (model.deviation == 1).all(), "nothing to measure without a network"
    model.perceptual = network = narrow_vgg(dtype=torch.float32)
    with torch.no_grad():
        model.prepare(pairs)
        layers = network(torch.cat([pair.source for pair in pairs]))
    for row, layer in zip(model.deviation, layers, strict=True):
        expected = layer.double().permute(1, 0, 2, 3).flatten(1).numpy().std(axis=1)
        assert np.allclose(row[: len(expected)].numpy(), expected, rtol=1e-4, atol=1e-6) and (row[len(expected) :] == 1).all()
    assert model.deviation[0, :3].std() > 0 and PoseWarp.prepare_steps > 0
    generators.save(model, tmp_path / "model.safetensors")
    loaded = generators.load(tmp_path / "model.safetensors")
    assert isinstance(loaded, PoseWarp) and torch.equal(loaded.deviation, model.deviation)
    assert not model.deviation.requires_grad and not any(p is model.deviation for p in model.parameters())


def test_training_prepares_and_goes_through_both_stages(a_pair: MakePair, tmp_path: Path) -> None:
    model = PoseWarp(**TINY, pretrain_steps=1, warmup_steps=1, gan_steps=2)
    before = {name: [p.clone() for p in player.parameters()] for name, player in model.players().items()}
    pairs = [a_14_pair(a_pair, seed) for seed in range(PoseWarp.prepare_steps + 3)]
    done = generators.train(model, pairs, tmp_path, accelerator="cpu", perceptual=narrow_vgg(dtype=torch.float32))
    assert done.step == 3 and set(done.losses) == {
        "generator/vgg", "generator/adversarial", "discriminator/real", "discriminator/fake"
    }  # fmt: skip
    assert (model.deviation[:, :3] != 1).all()
    for name, player in model.players().items():
        assert any(not torch.equal(a, b) for a, b in zip(before[name], player.parameters(), strict=True)), name


class Maps(Perceptual):
    def __init__(self, *channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(images.mean(1, keepdim=True).expand(-1, count, -1, -1) for count in self.channels)


@pytest.mark.parametrize("channels", [(2048,), (256, 512, 1024, 2048), (1,) * 12])
def test_another_network_has_room(channels: tuple[int, ...], a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY), a_14_pair(a_pair)
    model.perceptual = Maps(*channels)
    model.prepare([pair])
    assert model.losses("generator", pair, BOTH)["vgg"].isfinite()


@pytest.mark.parametrize("channels", [(2049,), (1,) * 13])
def test_a_network_without_room_is_refused(channels: tuple[int, ...], a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY), a_14_pair(a_pair)
    model.perceptual = Maps(*channels)
    for look in (lambda: model.prepare([pair]), lambda: model.losses("generator", pair, BOTH)):
        with pytest.raises(ValueError, match="posewarp compares up to 12 features of up to 2048 channels, got"):
            look()


def test_a_step_against_the_discriminator_pleases_it(a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY).eval(), a_14_pair(a_pair)
    freeze_all_but(model, "generator")
    term = model.losses("generator", pair, BOTH)["adversarial"]
    term.backward()
    with torch.no_grad():
        for p in model.drawing.parameters():
            if p.grad is not None:
                p -= 0.05 * p.grad / (p.grad.norm() + 1e-12)
    assert model.losses("generator", pair, BOTH)["adversarial"] < term


# --- as the seven-joint version prints it ---


@pytest.mark.parametrize("batch", [1, 3])
def test_the_printed_losses(batch: int, a_pair: MakePair) -> None:
    model, pair = PoseWarp(**TINY, feature_loss="sum-16", discriminator="image-alone").double().eval(), a_14_pair(
        a_pair, batch=batch, dtype=torch.float64
    )
    features = model.features()
    assert features == Features(LAYERS, "avg") and len(LAYERS) == 16
    model.perceptual = network = VGG19(narrow_vgg_weights(), features).double()
    model.prepare([pair])
    assert (model.deviation == 1).all(), "no deviations in this loss"
    output = model(pair.source, pair.source_pose, pair.target_pose)
    expected = sum((a - b).abs().sum() / a.numel() for a, b in zip(network(output), network(pair.target), strict=True))
    assert model.discriminator is not None
    assert model.discriminator.joined[0].in_channels == 4, "no maps beside the image's features"  # type: ignore[union-attr]
    real, fake = model.discriminator(pair.target), model.discriminator(output)
    terms = {"vgg": expected, "adversarial": 0.1 * real_loss(fake)}
    assert_same_terms(model.losses("generator", pair, BOTH), terms)  # type: ignore[arg-type]
    assert_same_terms(model.losses("discriminator", pair, BOTH), {"real": real_loss(real), "fake": fake_loss(fake)})
    # It is blind to poses.
    other = replace(pair, source_pose=pair.target_pose)
    assert torch.equal(model._judged(other, pair.target), model._judged(pair, pair.target))


def test_a_discriminator_of_images_alone_at_the_papers_size() -> None:
    with torch.device("meta"):
        with_poses, alone = (PoseWarp(discriminator=d).players()["discriminator"] for d in ("with-poses", "image-alone"))
    assert count_parameters(with_poses) - count_parameters(alone) == 2 * 14 * 128 * 25


def test_the_neck_runs_from_the_head_to_the_middle_of_the_shoulders(a_pose: MakePose) -> None:
    pose = a_pose(3, (2,), upper_7, (64, 64), dtype=torch.float64)
    head, right, left = (pose.xy[:, upper_7.index(joint)] for joint in ("head", "r_shoulder", "l_shoulder"))
    a, b = head, (right + left) / 2
    prior = Limbs(upper_7).prior(pose, 11.0, 13.0, 5.0)[:, 1 + 4]
    y, x = torch.meshgrid(torch.arange(64.0, dtype=torch.float64), torch.arange(64.0, dtype=torch.float64), indexing="ij")
    for row in range(2):
        length = (b[row] - a[row]).norm()
        unit, middle = (b[row] - a[row]) / length, (a[row] + b[row]) / 2
        along = (x - middle[0]) * unit[0] + (y - middle[1]) * unit[1]
        across = (y - middle[1]) * unit[0] - (x - middle[0]) * unit[1]
        expected = torch.exp(-0.5 * (along**2 / max(5.0, float(length) ** 2 / 1.5) + across**2 / 11**2))
        assert torch.allclose(prior[row], expected / expected.max(), atol=1e-9)


@pytest.mark.parametrize("skeleton", ["mpii_14", "upper_7"])
def test_layers_are_what_the_image_is_put_together_from(skeleton: str, a_pair: MakePair) -> None:
    model = PoseWarp(**TINY, skeleton=skeleton).double().eval()
    pair = a_pair(batch=1, skeleton=model.skeleton, missing=0.1, dtype=torch.float64)
    layers = model.layers(pair.source, pair.source_pose, pair.target_pose)
    joints, limbs = len(model.skeleton), len(model.skeleton.limbs)
    assert {name: tuple(layer.shape[1:3]) for name, layer in layers.items()} == {
        "joint heatmaps of the source": (joints, 1), "joint heatmaps of the target": (joints, 1), "limb priors": (limbs + 1, 1),
        "limb masks": (limbs + 1, 1), "warped limbs": (limbs, 3), "foreground": (1, 3), "target mask": (1, 1), "background": (1, 3),
        "result": (1, 3),
    }  # fmt: skip
    image = model(pair.source, pair.source_pose, pair.target_pose)
    mask = layers["target mask"][:, 0]
    assert torch.equal(layers["result"][:, 0], image)
    assert torch.allclose(image, mask * layers["foreground"][:, 0] + (1 - mask) * layers["background"][:, 0], atol=1e-12)
    assert torch.allclose(layers["limb masks"].sum(1), torch.ones(1, 1, 32, 16, dtype=torch.float64))
    for name in ("joint heatmaps of the source", "limb priors", "limb masks", "target mask"):
        assert layers[name].min() >= 0 and layers[name].max() <= 1
    with pytest.raises(ValueError, match="PG2 has no layers to show"):
        create("pg2", **TINY).layers(pair.source, pair.source_pose, pair.target_pose)


# --- options ---


@pytest.mark.parametrize("size", [(0, 0), (-128, 64), (16, 8), (100, 64), (127, 64), (128, 60), (128, 0), (128, -16), (256, 100)])
def test_sizes_that_do_not_halve_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="posewarp takes a height of 32, 64, 128, 256 … and a width divisible by height") as caught:
        PoseWarp(size=size)
    assert str(size) in str(caught.value)


@pytest.mark.parametrize(
    ("option", "value", "rule"),
    [
        ("skeleton", "openpose_18", "posewarp's skeleton is one of mpii_14, upper_7, got 'openpose_18'"),
        ("sigma_px", 0.0, "posewarp's sigma_px is at least 0.001, got 0.0"),
        ("limb_sigma_px", -1.0, "posewarp's limb_sigma_px is at least 0.001, got -1.0"),
        ("torso_sigma_px", float("nan"), "posewarp's torso_sigma_px is at least 0.001, got nan"),
        ("noise_sigma", -0.5, "posewarp's noise_sigma is at least 0.0, got -0.5"),
        ("pretrain_steps", -1, "posewarp's pretrain_steps is at least 0, got -1"),
        ("gan_steps", -1, "posewarp's gan_steps is at least 0, got -1"),
        ("feature_loss", "sum-12", r"posewarp's feature_loss is one of mean-12-released, sum-16, got 'sum-12' \(did you mean 'sum-16'\?\)"),
        ("discriminator", "image", "posewarp's discriminator is one of with-poses, image-alone, got 'image'"),
    ],
)
def test_impossible_choices_are_refused(option: str, value: Any, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        PoseWarp(**TINY, **{option: value})


def test_options_are_what_it_was_built_with() -> None:
    model = create("posewarp", **TINY, noise_sigma=0.0)
    assert model.options == {
        **TINY, "skeleton": "mpii_14", "sigma_px": 1.75, "limb_sigma_px": 11.0, "torso_sigma_px": 13.0, "noise_sigma": 0.0,
        "adversarial_weight": 0.1, "l1_weight": 0.0, "pretrain_steps": 100_000, "warmup_steps": 5, "gan_steps": 10_000,
        "learning_rate": 1e-4,
    }  # fmt: skip


def test_later_options_are_kept_only_where_they_are_set(tmp_path: Path) -> None:
    """Headers of earlier checkpoints stay what they were, and those checkpoints load."""
    model = PoseWarp(**TINY, feature_loss="mean-12-released", discriminator="image-alone")
    assert model.options["discriminator"] == "image-alone" and "feature_loss" not in model.options
    generators.save(model, tmp_path / "m.safetensors")
    loaded = generators.load(tmp_path / "m.safetensors")
    assert isinstance(loaded, PoseWarp) and not loaded.sees_poses and loaded.feature_loss == "mean-12-released"


def test_each_yaml_differs_from_the_papers_where_its_name_says() -> None:
    read = {path.stem: yaml.safe_load(path.read_text()) for path in CONFIGS.glob("posewarp*.yaml")}
    paper = read.pop("posewarp")
    later = {"feature_loss": "mean-12-released", "discriminator": "with-poses"}
    defaults = {k: list(v) if isinstance(v, tuple) else v for k, v in PoseWarp(width=1).options.items() if k != "width"} | later
    assert {k: v for k, v in paper["generator"].items() if k not in ("name", "width")} == defaults and paper["batch_size"] == 4
    differ = {
        name: {k: v for k, v in config["generator"].items() if paper["generator"][k] != v} for name, config in read.items()
    }
    assert differ == {
        "posewarp-market": {"size": [128, 64]},
        "posewarp-upper": {"skeleton": "upper_7", "pretrain_steps": 2000, "gan_steps": 2000},
        "posewarp-vgg-only": {"pretrain_steps": 200_000, "gan_steps": 0},
        "posewarp-no-noise-released": {"noise_sigma": 0.0},
        "posewarp-upper-text": {
            "skeleton": "upper_7", "pretrain_steps": 2000, "gan_steps": 2000, "feature_loss": "sum-16", "discriminator": "image-alone",
        },
    }  # fmt: skip
    assert all(config["out"] == f"runs/{name}" for name, config in read.items()) and read["posewarp-upper"]["batch_size"] == 8


def test_the_drawing_alone_is_what_a_drawing_needs() -> None:
    with torch.device("meta"):
        model = PoseWarp()
    assert isinstance(model.players()["generator"], LimbComposer)
    assert {id(p) for p in model.drawing.parameters()} | {id(p) for p in model.players()["discriminator"].parameters()} == {
        id(p) for p in model.parameters()
    }
