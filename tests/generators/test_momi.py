from __future__ import annotations

from dataclasses import replace
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
    loss_of,
    output_shapes,
    recorded_inputs,
    rendered,
)
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Pose, PosePair, create
from generators.losses import fake_loss, real_loss
from generators.maps import gaussian_maps, maxima
from generators.models.momi import Detector, MOMINet, PoseAttention, Residual, negatives, patch_loss
from generators.pose import coco_17

TINY: dict[str, Any] = {
    "size": (32, 16), "width": 4, "blocks": 2, "detector_blocks": 1, "sigma_px": 2.0, "teacher_sigma_px": 1.5, "patch_px": 6.0,
    "patch_cells": 3,
}  # fmt: skip
WEIGHTS = ("translate_weight", "perceptual_weight", "patch_weight", "adversarial_weight")


def model_of(**options: Any) -> MOMINet:
    """Tiny, in double precision and eval mode; F_p sees every joint, as an untrained one would see none."""
    return MOMINet(**{**TINY, "threshold": -100.0, **options}).double().eval()


def pair_of(a_pair: MakePair, batch: int = 3, **choices: Any) -> PosePair:
    return a_pair(**{"batch": batch, "skeleton": coco_17, "dtype": torch.float64, **choices})


# --- the paper's sizes ---


def test_parameters_at_the_papers_size_and_where_they_differ_from_patns() -> None:
    with torch.device("meta"):
        model, without = MOMINet(), MOMINet(attention=False)
    counts = [count_parameters(part) for part in (model.detector, model.translator, model.discriminator)]
    assert counts == [7_397_905, 43_667_011, 3_930_368]
    cell = 9 * 256 * 256  # a 3 x 3 convolution of 256 channels
    # PATN: nine blocks at 256 channels, of which eight take pose features twice as wide (tengteng95, model_variants.py).
    first, later = 4 * cell + 3 * 512, 2 * cell + 2 * 512 + 4 * cell + 1024 + 2 * cell
    assert count_parameters(model.translator.blocks) == first + 8 * later
    up = 9 * 256 * 128 + 256 + 9 * 128 * 64 + 128 + 49 * 64 * 3 + 3  # PATN's decoder
    encoders = sum(49 * channels * 64 + 128 + 9 * 64 * 128 + 256 + 9 * 128 * 256 + 512 for channels in (3, 36))
    patn = first + 8 * later + encoders + up
    assert round(patn / 1e6, 2) == 41.37, "as measured"
    third, joined = 2 * (cell + 512), 2 * cell + 512
    assert count_parameters(model.translator) == patn - 49 * 19 * 64 + third + joined, "17 heatmaps, not 36"
    assert count_parameters(without.translator.blocks) == 9 * (2 * cell + 2 * 512)


def test_translation_stage_by_stage_at_the_papers_size() -> None:
    with torch.device("meta"):
        model = MOMINet().translator
        rows = torch.empty(2, dtype=torch.long)
        shapes = output_shapes(model, torch.empty(2, 3, 128, 64), torch.empty(4, 17, 128, 64), rows, rows)
    sizes = [(64, 128, 64), (128, 64, 32), (256, 32, 16), (256, 16, 8)]
    for name, batch in (("pose_encoder", 4), ("appearance_encoder", 2)):
        assert [shapes[f"{name}.{3 * i}"] for i in range(4)] == [(batch, *s) for s in sizes]
    assert [shapes[f"blocks.{i}.image"] for i in range(9)] == [(2, 256, 16, 8)] * 9
    assert [shapes[f"blocks.{i}.pose"] for i in range(9)] == [(2, 256, 16, 8)] * 9
    assert [shapes[f"blocks.{i}"] for i in range(9)] == [(2, 512, 16, 8)] * 9, "a block's pose features hold the image's as well"
    assert [block.pose[0].in_channels for block in model.blocks] == [256] + [512] * 8
    assert model.generator[0].in_channels == 512 and "blocks.9.image" not in shapes
    ups = [name for name, part in model.generator.named_modules() if isinstance(part, nn.ConvTranspose2d)]
    assert [shapes[f"generator.{i}"] for i in ups] == [(2, 256, 32, 16), (2, 128, 64, 32), (2, 64, 128, 64)]
    assert shapes[""] == (2, 3, 128, 64)


def test_detector_and_discriminator_stage_by_stage_at_the_papers_size() -> None:
    with torch.device("meta"):
        model = MOMINet()
        detected = output_shapes(model.detector, torch.empty(2, 3, 128, 64))
        judged = output_shapes(model.discriminator, torch.empty(2, 6, 128, 64))
    assert [detected[f"encoder.{3 * i}"][1:] for i in range(4)] == [(64, 128, 64), (128, 64, 32), (256, 32, 16), (256, 16, 8)]
    assert [detected[f"blocks.{i}"] for i in range(4)] == [(2, 256, 16, 8)] * 4
    assert [detected[f"head.{3 * i}"] for i in range(3)] == [(2, 256, 32, 16), (2, 128, 64, 32), (2, 64, 128, 64)]
    assert detected[""] == (2, 17, 128, 64) and judged[""] == (2, 256, 32, 16)
    assert sum(isinstance(part, Residual) for part in model.discriminator) == 3


# --- layers ---


def test_attention_weighs_what_the_image_path_adds() -> None:
    block = PoseAttention(4, 8, 0.5).double().eval()
    image, pose = torch.randn(2, 4, 6, 3, dtype=torch.float64), torch.randn(2, 8, 6, 3, dtype=torch.float64)
    new, beside = block(image, pose)
    weight = 1 / (1 + torch.exp(-block.pose(pose)))
    assert torch.allclose(new, image + weight * block.image(image), rtol=0, atol=1e-14) and (weight.std() > 0)
    assert torch.equal(beside, torch.cat([block.pose(pose), new], 1))
    assert not isinstance(block.pose[-1], nn.BatchNorm2d) and isinstance(block.image[-1], nn.BatchNorm2d)
    with torch.no_grad():
        block.pose[-1].weight.zero_()
    assert torch.allclose(block(image, pose)[0], image + block.image(image) / 2), "nothing to say is one half"


@pytest.mark.parametrize("attention", [True, False])
def test_only_attention_looks_at_the_sources_pose(attention: bool, a_pair: MakePair, a_pose: MakePose) -> None:
    model, pair = model_of(attention=attention), pair_of(a_pair)
    other = replace(pair, source_pose=a_pose(99, (3,), skeleton=coco_17, dtype=torch.float64))
    assert torch.equal(rendered(model, pair), rendered(model, other)) != attention
    kinds = {type(block) for block in model.translator.blocks}
    assert kinds == ({PoseAttention} if attention else {Residual})


def test_appearances_and_poses_recombine(a_pair: MakePair) -> None:
    model, pair = model_of(), pair_of(a_pair)
    maps = torch.cat([gaussian_maps(pose, 2.0) for pose in (pair.source_pose, pair.target_pose)])
    who, where = torch.tensor([2, 0, 0, 1]), torch.tensor([2, 4, 5, 0])
    together = model.translator(pair.source, maps, who, where)
    for image, i, j in zip(together, who, where, strict=True):
        first = torch.zeros(1, dtype=torch.long)
        alone = model.translator(pair.source[i : i + 1], torch.stack([maps[i], maps[j]]), first, first + 1)
        assert torch.allclose(alone[0], image, rtol=0, atol=1e-12)
    assert (together[1] - together[2]).abs().max() > 1e-6


def test_forward_draws_given_poses_as_gaussians(a_pair: MakePair) -> None:
    model, pair = model_of(sigma_px=2.5), pair_of(a_pair, missing=0.4)
    seen, detected = recorded_inputs(model.translator.pose_encoder), recorded_inputs(model.detector)
    rendered(model, pair)
    assert torch.equal(seen[0], torch.cat([gaussian_maps(pose, 2.5) for pose in (pair.source_pose, pair.target_pose)]))
    assert not detected, "a given pose needs no detector"


def test_images_are_tanhs_range_and_weights_start_as_patns() -> None:
    torch.manual_seed(1)
    model = MOMINet(size=(16, 16), width=64, blocks=1)
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    assert torch.cat([w.flatten() for w in weights]).std().item() == pytest.approx(0.02, rel=1e-2)
    assert isinstance(model.translator.generator[-1], nn.Tanh)
    drops = [m.p for part in (model.translator, model.discriminator) for m in part.modules() if isinstance(m, nn.Dropout)]
    assert set(drops) == {0.5} and {m.p for m in model.detector.modules() if isinstance(m, nn.Dropout)} == {0.0}


# --- finding poses ---


def test_an_image_stands_for_the_pose_found_in_it(a_pair: MakePair) -> None:
    model, pair = model_of(), pair_of(a_pair)
    source_pose, target_pose = model.detect(pair.source), model.detect(pair.target)
    assert torch.equal(target_pose.xy, maxima(model.detector(pair.target), -100.0, coco_17).xy) and target_pose.visible.all()
    expected = model(pair.source, source_pose, target_pose)
    assert torch.equal(model(pair.source, None, None, pair.target), expected)
    assert torch.equal(model(pair.source, source_pose, None, pair.target), expected)
    assert torch.equal(model(pair.source, None, target_pose), expected)
    assert not torch.equal(model(pair.source, None, None, pair.target.flip(-1)), expected)
    assert not torch.equal(rendered(model, pair), expected)
    torch._dynamo.reset()
    whole = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(whole(pair.source, None, None, pair.target), expected)
    torch._dynamo.reset()


def test_images_and_poses_that_do_not_fit_are_refused(a_pair: MakePair) -> None:
    model, pair = model_of(), pair_of(a_pair)
    large, elsewhere = pair_of(a_pair, size=(64, 32)), a_pair(batch=3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"MOMINet takes images \(B, 3, 32, 16\), got \(3, 3, 64, 32\)"):
        model(large.source, None, None, pair.target)
    with pytest.raises(ValueError, match=r"MOMINet takes images \(B, 3, 32, 16\), got \(3, 3, 64, 32\)"):
        model(pair.source, None, None, large.target)
    with pytest.raises(ValueError, match="takes coco_17 poses, the target pose is openpose_18"):
        model(pair.source, None, elsewhere.target_pose)
    with pytest.raises(ValueError, match="takes a target pose, or a scene to detect it in; got neither"):
        model(pair.source, pair.source_pose, None)
    with pytest.raises(ValueError, match="MOMINet takes no scene"):  # as a pipeline would give it, beside the target's pose
        model(pair.source, pair.source_pose, pair.target_pose, pair.target)


# --- x⁻ ---


@pytest.mark.parametrize(
    ("identity", "order", "exists"),
    [
        ([7, 8, 9], [1, 2, 0], [True] * 3),
        ([7, 7, 9, 7], [2, 2, 3, 2], [True] * 4),  # row 3's next is row 0, of its own identity, as is row 1
        ([5, 5], [0, 1], [False] * 2),
        ([5], [0], [False]),
        ([1, 1, 2, 2], [2, 2, 0, 0], [True] * 4),
    ],
)
def test_a_negative_is_the_next_row_of_somebody_else(identity: list[int], order: list[int], exists: list[bool]) -> None:
    rows, others = negatives(torch.tensor(identity))
    assert rows.tolist() == order and others.tolist() == exists


@pytest.mark.parametrize("identity", [[4, 4, 4], [4]])
def test_nobody_else_in_the_batch_pays_no_patches(identity: list[int], a_pair: MakePair) -> None:
    model, pair = model_of().train(), pair_of(a_pair, batch=len(identity))
    terms = model.losses("generator", replace(pair, identity=torch.tensor(identity)), 0)
    assert terms["patch"].item() == 0
    torch.stack(list(terms.values())).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.translator.parameters())


# --- skeleton patch verification ---


def sampled(image: np.ndarray, x: float, y: float) -> np.ndarray:
    """Bilinear value (3,) at a point, in pixel-centre coordinates; 0 more than a pixel outside, the edge's within."""
    h, w = image.shape[1:]
    if not (-1 <= x <= w and -1 <= y <= h):
        return np.zeros(3)
    x, y = min(max(x, 0.0), w - 1.0), min(max(y, 0.0), h - 1.0)
    x0, y0 = int(x), int(y)
    x1, y1 = min(x0 + 1, w - 1), min(y0 + 1, h - 1)
    a, b = x - x0, y - y0
    return (1 - a) * (1 - b) * image[:, y0, x0] + a * (1 - b) * image[:, y0, x1] + (1 - a) * b * image[:, y1, x0] + a * b * image[:, y1, x1]


def patches_by_hand(image: Tensor, pose: Pose, other: Tensor, other_pose: Pose, side: int, cells: int) -> float:
    """Cell by cell: its mean over side / cells squared points, one pixel apart."""
    h, w = pose.size
    per, total, count = side // cells, 0.0, 0
    for row in range(len(image)):
        for k in range(len(pose.skeleton)):
            ends = [(p.xy[row, k].tolist(), bool(p.visible[row, k])) for p in (pose, other_pose)]
            if not all(seen and 0 <= x <= w - 1 and 0 <= y <= h - 1 for (x, y), seen in ends):
                continue
            count += 1
            for i in range(cells):
                for j in range(cells):
                    means = []
                    for pixels, ((x, y), _) in zip((image[row].numpy(), other[row].numpy()), ends, strict=True):
                        left, top = x - side / 2 + 0.5 + j * per, y - side / 2 + 0.5 + i * per
                        points = [(left + b, top + a) for a in range(per) for b in range(per)]
                        means.append(sum(sampled(pixels, *point) for point in points) / per**2)
                    total += float(np.abs(means[0] - means[1]).mean()) / cells**2
    return total / max(count, 1)


@pytest.mark.parametrize(("side", "cells"), [(6, 3), (4, 4), (8, 2)])
def test_patches_are_those_of_a_slow_loop(side: int, cells: int, a_pair: MakePair) -> None:
    pair = pair_of(a_pair, batch=2, missing=0.3)
    loss = patch_loss(pair.source, pair.source_pose, pair.target, pair.target_pose, float(side), cells)
    expected = patches_by_hand(pair.source, pair.source_pose, pair.target, pair.target_pose, side, cells)
    assert loss.item() == pytest.approx(expected, rel=1e-9) and expected > 0.1


def test_the_same_image_in_the_same_pose_costs_nothing(a_pair: MakePair) -> None:
    pair = pair_of(a_pair)
    assert patch_loss(pair.source, pair.source_pose, pair.source, pair.source_pose, 6.0, 3).item() == 0
    assert patch_loss(pair.source, pair.source_pose, pair.target, pair.source_pose, 6.0, 3) > 0.1


def test_a_body_moved_with_its_pose_costs_nothing(a_pair: MakePair, a_pose: MakePose) -> None:
    pair = pair_of(a_pair)
    xy = a_pose(5, (3,), skeleton=coco_17, dtype=torch.float64).xy
    here = Pose(xy * 0 + torch.tensor([5.0, 12.0]) + (xy % 3), torch.ones(3, 17, dtype=torch.bool), coco_17, (32, 16))
    moved_pose = replace(here, xy=here.xy + torch.tensor([3.0, 5.0]))
    moved = pair.source.roll((5, 3), dims=(2, 3))
    assert patch_loss(pair.source, here, moved, moved_pose, 6.0, 3).item() == pytest.approx(0, abs=1e-14)
    assert patch_loss(pair.source, here, moved, here, 6.0, 3) > 0.1


@pytest.mark.parametrize("side", ["source", "other"])
def test_joints_missing_or_outside_on_either_side_count_for_nothing(side: str, a_pair: MakePair) -> None:
    pair = pair_of(a_pair, missing=0.0)
    pose = replace(pair.source_pose, xy=pair.source_pose.xy.clamp(min=0).minimum(torch.tensor([15.0, 31.0])))
    only = torch.zeros(3, 17, dtype=torch.bool)
    only[1, 4] = True
    lone = replace(pose, visible=only)
    poses = (lone, pose) if side == "source" else (pose, lone)
    expected = patches_by_hand(pair.source, lone, pair.target, lone, 6, 3)
    assert patch_loss(pair.source, poses[0], pair.target, poses[1], 6.0, 3).item() == pytest.approx(expected, rel=1e-9)
    far = replace(pose, xy=torch.where(only[..., None], pose.xy, 1e4))
    poses = (far, pose) if side == "source" else (pose, far)
    assert patch_loss(pair.source, poses[0], pair.target, poses[1], 6.0, 3).item() == pytest.approx(expected, rel=1e-9)
    nobody = replace(pose, visible=torch.zeros_like(only))
    assert patch_loss(pair.source, nobody, pair.target, pose, 6.0, 3).item() == 0


def test_patches_pass_gradients_to_the_drawing(a_pair: MakePair) -> None:
    pair = pair_of(a_pair, batch=1, size=(16, 16))
    target = pair.target.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda image: patch_loss(pair.source, pair.source_pose, image, pair.target_pose, 4.0, 2), target)


def test_patches_of_half_precision_lie_where_others_do(a_pose: MakePose) -> None:
    ramp = torch.linspace(-1, 1, 128)[:, None].expand(1, 3, 128, 64)
    poses = [a_pose(seed, (1,), skeleton=coco_17, size=(128, 64)) for seed in (1, 2)]
    whole, half = (patch_loss(ramp, poses[0], ramp.to(dtype), poses[1], 16.0, 8) for dtype in (torch.float32, torch.bfloat16))
    assert half.item() == pytest.approx(whole.item(), abs=2e-3) and half.dtype == torch.float32


# --- teacher and student ---


def test_the_detector_learns_the_pairs_own_poses(a_pair: MakePair) -> None:
    model, pair = model_of(), pair_of(a_pair, missing=0.4)
    poses = (pair.source_pose, pair.target_pose)
    heatmaps = model.detector(torch.cat([pair.source, pair.target]))
    expected = sum(((h - gaussian_maps(p, 1.5)) ** 2).mean() for h, p in zip(heatmaps.chunk(2), poses, strict=True)) / 2
    terms = model.losses("detector", pair, 0)
    assert list(terms) == ["distill"] and terms["distill"].item() == pytest.approx(expected.item(), rel=1e-9)


class Teacher(nn.Module):
    """Heatmaps with a learnable weight, so that one that were registered would show."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 17, 3, padding=1).double()

    def forward(self, images: Tensor) -> Tensor:
        return self.layer(images)


def test_any_estimator_can_be_the_teacher_and_stays_outside(a_pair: MakePair) -> None:
    model, pair, teacher = model_of(training_pose="teacher"), pair_of(a_pair), Teacher()
    keys, without = list(model.state_dict()), model.losses("generator", pair, 0)
    model.teacher = teacher
    assert list(model.state_dict()) == keys and model.teacher is teacher
    images = torch.cat([pair.source, pair.target])
    expected = ((model.detector(images) - teacher(images)) ** 2).mean()
    distill = model.losses("detector", pair, 0)["distill"]
    assert distill.item() == pytest.approx(expected.item(), rel=1e-9)
    distill.backward()
    assert teacher.layer.weight.grad is None
    seen = recorded_inputs(model.translator.pose_encoder)
    assert model.losses("generator", pair, 0)["recon"] != without["recon"]
    assert torch.equal(seen[0], gaussian_maps(maxima(teacher(images), -100.0, coco_17), 2.0)), "re-projected, as a student's are"
    model.teacher = lambda images: torch.zeros(len(images), 14, 8, 4)
    with pytest.raises(ValueError, match=r"momi's teacher gives heatmaps \(6, 17, h, w\), got \(6, 14, 8, 4\)"):
        model.losses("detector", pair, 0)


def test_a_teachers_activations_are_learnt_as_they_are_resized_to_the_branchs_size(a_pair: MakePair) -> None:
    """Eq. 1: ‖ψ(x) − F_p(x)‖. SimpleBaseline's heatmaps are a quarter of its images; by hand, rows of 0 and 8 resized to four times."""
    model, pair = model_of(), pair_of(a_pair)
    small = torch.tensor([0.0, 8.0], dtype=torch.float64).repeat(4)[:, None].expand(8, 4)
    model.teacher = lambda images: small.expand(len(images), 17, 8, 4)
    # Centres of old rows lie at 1.5, 5.5, …, so between them new rows go from 0 to 8 and back in steps of 2, from 1 to 7.
    up, down = [1.0, 3.0, 5.0, 7.0], [7.0, 5.0, 3.0, 1.0]
    rows = torch.tensor([0.0, 0.0, *(up + down) * 3, *up, 8.0, 8.0], dtype=torch.float64)
    by_hand = ((model.detector(torch.cat([pair.source, pair.target])) - rows[:, None]) ** 2).mean()
    assert model.losses("detector", pair, 0)["distill"].item() == pytest.approx(by_hand.item(), rel=1e-9)


def test_with_a_network_as_teacher_pairs_need_no_poses(a_pair: MakePair) -> None:
    model, pair, teacher = model_of(), pair_of(a_pair), Teacher()
    model.teacher = teacher
    unknown = replace(pair.source_pose, visible=torch.zeros_like(pair.source_pose.visible))
    bare = replace(pair, source_pose=unknown, target_pose=unknown)
    for player in ("detector", "generator", "discriminator"):
        torch.manual_seed(1)
        with_poses = model.losses(player, pair, 0)
        torch.manual_seed(1)
        without = model.losses(player, bare, 0)
        assert {name: term.item() for name, term in with_poses.items()} == {name: term.item() for name, term in without.items()}
    assert model.inputs_of(bare) == (bare.source, None, None, bare.target)
    model.teacher = None
    assert model.inputs_of(pair)[1:] == (pair.source_pose, pair.target_pose)


@pytest.mark.parametrize("training_pose", ["detected", "teacher"])
def test_whose_poses_the_generator_is_trained_with(training_pose: str, a_pair: MakePair) -> None:
    model, pair = model_of(training_pose=training_pose), pair_of(a_pair)
    detected = maxima(model.detector(torch.cat([pair.source, pair.target])), -100.0, coco_17)
    poses = detected if training_pose == "detected" else Pose.cat([pair.source_pose, pair.target_pose])
    seen = recorded_inputs(model.translator.pose_encoder)
    model.losses("generator", pair, 0)
    assert torch.equal(seen[0], gaussian_maps(poses, 2.0))


def test_the_students_first_weeks_show_no_joints(a_pair: MakePair) -> None:
    model, pair = model_of(threshold=0.2), pair_of(a_pair)
    assert not model.detect(pair.source).visible.any()
    assert model.losses("generator", pair, 0)["patch"].item() == 0


def test_a_student_learns_to_find_joints(a_pair: MakePair) -> None:
    detector, pair = Detector(17, 16, 1), a_pair(batch=1, skeleton=coco_17, missing=0.2)
    pose = replace(pair.source_pose, xy=pair.source_pose.xy.round().clamp(min=1).minimum(torch.tensor([14.0, 30.0])))
    heatmaps, optimizer = gaussian_maps(pose, 2.5), torch.optim.Adam(detector.parameters(), 5e-3)
    for _ in range(150):
        optimizer.zero_grad()
        F.mse_loss(detector(pair.source), heatmaps).backward()
        optimizer.step()
    detected = maxima(detector(pair.source), 0.2, coco_17)
    assert (detected.visible == pose.visible).float().mean() > 0.8
    assert (detected.xy - pose.xy).norm(dim=-1)[detected.visible & pose.visible].median() <= 1.5


# --- losses ---


def features_by_hand(images: Tensor) -> tuple[Tensor, ...]:
    return F.avg_pool2d(images, 4), images.flatten(2).cumsum(-1) / 50


def losses_by_hand(model: MOMINet, pair: PosePair) -> dict[str, dict[str, Tensor]]:
    """Equations 3 to 7, put together from the networks, an image at a time."""
    poses = [model.detect(images) for images in (pair.source, pair.target)]
    order, exists = negatives(pair.identity)
    away = Pose(poses[1].xy[order], poses[1].visible[order] & exists[:, None], coco_17, model.size)
    same, plus, minus = (model(pair.source, poses[0], pose) for pose in (*poses, away))

    def judged(*images: Tensor) -> Tensor:
        return model.discriminator(torch.cat(images, 1))

    features, source_features = features_by_hand(same), features_by_hand(pair.source)
    return {
        "generator": {
            "recon": model.translate_weight * ((same - pair.source).abs().mean() + (plus - pair.target).abs().mean()),
            "adversarial": model.adversarial_weight * (real_loss(judged(same, pair.target)) + real_loss(judged(pair.source, plus))),
            "perceptual": model.translate_weight * model.perceptual_weight
            * sum(((a - b).abs().mean() for a, b in zip(features, source_features, strict=True)), torch.zeros(())),
            "patch": model.patch_weight * patch_loss(pair.source, poses[0], minus, away, 6.0, 3),
        },
        "discriminator": {
            "real": real_loss(judged(pair.source, pair.target)),
            "fake": fake_loss(judged(same, pair.target)) + fake_loss(judged(pair.source, plus)),
        },
    }  # fmt: skip


@pytest.mark.parametrize("weights", [{}, dict(zip(WEIGHTS, (2.0, 3.0, 5.0, 7.0), strict=True))])
@pytest.mark.parametrize("identity", [[0, 1, 2], [4, 4, 6]])
def test_losses_are_the_papers(weights: dict[str, float], identity: list[int], a_pair: MakePair) -> None:
    model = model_of(**weights)
    pair = replace(pair_of(a_pair), identity=torch.tensor(identity))
    model.perceptual = features_by_hand  # type: ignore[assignment]
    for player, expected in losses_by_hand(model, pair).items():
        assert_same_terms(model.losses(player, pair, 0), expected)
        assert all(value > 0 for value in expected.values())


def test_the_papers_weights() -> None:
    with torch.device("meta"):
        model = MOMINet(width=2)
    assert (model.translate_weight, model.patch_weight, model.adversarial_weight) == (1.0, 0.5, 0.5)
    features = model.features()
    assert model.perceptual_weight == 1.0 and features is not None and features.layers == ("conv2_2", "conv5_4")


def test_ablations_leave_their_terms_out(a_pair: MakePair) -> None:
    pair = pair_of(a_pair)
    full, no_patch, no_perceptual = model_of(), model_of(patch_weight=0.0), model_of(perceptual_weight=0.0)
    for model in (full, no_patch, no_perceptual):
        model.perceptual = features_by_hand  # type: ignore[assignment]
    assert set(full.losses("generator", pair, 0)) == {"recon", "adversarial", "perceptual", "patch"}
    assert set(no_patch.losses("generator", pair, 0)) == {"recon", "adversarial", "perceptual"}
    assert set(no_perceptual.losses("generator", pair, 0)) == {"recon", "adversarial", "patch"} and no_perceptual.features() is None
    seen = recorded_inputs(no_patch.translator.generator)
    no_patch.losses("generator", pair, 0)
    assert len(seen[0]) == 6, "without patches there is no x̂⁻ to draw"
    full.perceptual = None
    assert set(full.losses("generator", pair, 0)) == {"recon", "adversarial", "patch"}


def test_what_the_discriminator_is_shown(a_pair: MakePair) -> None:
    model, pair = model_of(), pair_of(a_pair)
    same = model(pair.source, None, None, pair.source)
    plus = model(pair.source, None, None, pair.target)
    seen = recorded_inputs(model.discriminator)
    model.losses("discriminator", pair, 0)
    assert torch.equal(seen[0], torch.cat([pair.source, pair.target], 1))
    fakes = torch.cat([torch.cat([same, pair.target], 1), torch.cat([pair.source, plus], 1)])
    assert torch.allclose(seen[1], fakes, rtol=0, atol=1e-12) and len(seen) == 2


def test_patches_compare_the_source_with_its_drawing_in_anothers_pose(a_pair: MakePair) -> None:
    """Only patches: their gradient reaches the third drawing alone."""
    model, pair = model_of(translate_weight=0.0, adversarial_weight=0.0), pair_of(a_pair)
    kept: list[Tensor] = []
    model.translator.generator.register_forward_hook(lambda _, __, out: (out.retain_grad(), kept.append(out))[1])
    model.losses("generator", pair, 0)["patch"].backward()
    same, plus, minus = kept[0].grad.chunk(3)  # type: ignore[union-attr]
    assert not same.any() and not plus.any() and all(row.any() for row in minus)


def test_one_turn_asks_every_network_once(a_pair: MakePair) -> None:
    model, pair = MOMINet(**TINY, threshold=-100.0), a_pair(batch=2, skeleton=coco_17)
    detected, translated = recorded_inputs(model.detector), recorded_inputs(model.translator)
    players = model.players()
    with model.sharing(players.values()):
        for mover in model.turn(0):
            for name, player in players.items():
                player.requires_grad_(name == mover)
            loss_of(model, mover, pair).backward()
    assert len(detected) == len(translated) == 1
    for player in players.values():
        assert all(p.grad is not None for p in player.parameters())


# --- turns, schedule, options ---


def test_everyone_moves_at_every_step() -> None:
    model = MOMINet(**TINY)
    assert model.turn(0) == model.turn(99_999) == ("discriminator", "detector", "generator")
    assert set(model.players()) == {"detector", "generator", "discriminator"}


def test_the_rate_is_constant_and_then_falls_in_equal_steps() -> None:
    with torch.device("meta"):
        paper, short = MOMINet(width=2), MOMINet(width=2, learning_rate=1.0, constant_steps=3, decay_steps=4)
        still = MOMINet(width=2, learning_rate=1.0, constant_steps=3, decay_steps=0)
    assert paper.schedule_steps() == (500 + 200) * 4000 // 32 == 87_500
    assert [paper.learning_rate("generator", step) for step in (0, 62_499, 62_500, 75_000)] == [2e-4, 2e-4, 2e-4, 1e-4]
    assert paper.learning_rate("detector", 87_499) == pytest.approx(2e-4 / 25_000)
    assert [short.learning_rate("discriminator", step) for step in range(9)] == [1, 1, 1, 1, 0.75, 0.5, 0.25, 0.25, 0.25]
    assert [still.learning_rate("generator", step) for step in range(5)] == [1.0] * 5
    (group,) = paper.optimizer("generator", paper.translator.parameters()).param_groups
    assert (group["lr"], group["betas"]) == (2e-4, (0.5, 0.999))


@pytest.mark.parametrize("size", [(0, 0), (-128, 64), (128, 8), (8, 64), (100, 64), (128, 60)])
def test_sizes_that_do_not_halve_three_times_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="momi takes a height and a width that are multiples of 8 and at least 16, got") as caught:
        MOMINet(size=size)
    assert str(size) in str(caught.value)


@pytest.mark.parametrize("size", [(16, 16), (32, 16), (48, 24), [32, 16]])
def test_sizes_that_do_halve_three_times(size: tuple[int, int], a_pair: MakePair) -> None:
    model, pair = MOMINet(**{**TINY, "size": size}), a_pair(size=tuple(size), batch=1, skeleton=coco_17)
    assert model.size == tuple(size) and rendered(model, pair).shape == (1, 3, *size)


def test_an_unknown_training_pose_is_refused() -> None:
    with pytest.raises(ValueError, match="momi's training_pose is one of detected, teacher, got 'file'"):
        MOMINet(**TINY, training_pose="file")


def test_options_are_what_it_was_built_with() -> None:
    assert create("momi", **TINY, dropout=0.25).options == {
        **TINY, "attention": True, "dropout": 0.25, "threshold": 0.2, "training_pose": "detected",
        "translate_weight": 1.0, "perceptual_weight": 1.0, "patch_weight": 0.5, "adversarial_weight": 0.5,
        "learning_rate": 2e-4, "constant_steps": 62_500, "decay_steps": 25_000,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("ablation", "change"),
    [("patch", {"patch_weight": 0.0}), ("perceptual", {"perceptual_weight": 0.0}), ("attention", {"attention": False})],
)
def test_an_ablations_yaml_changes_one_option(ablation: str, change: dict[str, Any]) -> None:
    paper, file = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("momi", f"momi-no-{ablation}"))
    assert file["generator"] == paper["generator"] | change and file["out"] == f"runs/momi-no-{ablation}"
    assert paper["batch_size"] == file["batch_size"] == 32
    with torch.device("meta"):
        options = {k: v for k, v in paper["generator"].items() if k != "name"}
        assert create("momi", **options).options == MOMINet().options | {"size": [128, 64]}
