from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

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
    recorded_inputs,
    shapes_of,
)
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Pose, PosePair, complete, create, decisive, load, save, train
from generators.blocks import PoseEncoder, ResidualBlock
from generators.losses import fake_loss, masked_l1, real_loss
from generators.maps import body_mask, disc_maps
from generators.models.pg2 import PG2, CoordinateEncoder, Stage1, Stage2, SymmetricStage2, coordinates
from generators.pose import coco_17, mpii_14, openpose_18, upper_7

TINY: dict[str, Any] = {"size": (32, 16), "width": 4, "bottleneck": 4}
CE: dict[str, Any] = {"pose_embedding": "coordinates"}
HME: dict[str, Any] = {"pose_embedding": "heatmap-encoder"}
ABLATIONS: dict[str, dict[str, Any]] = {  # the rows of the paper's Table 1, and two that mix
    "ce": {**CE, "stages": "G1", "stage1_loss": "l1"},
    "hme": {**HME, "stages": "G1", "stage1_loss": "l1"},
    "l1": {"stages": "G1", "stage1_loss": "l1"},
    "stage1": {"stages": "G1"},
    "one-stage": {"stages": "G1+D"},
    "one-stage-triplet-ce": {**CE, "stages": "G1+D", "discriminator": "triplet-released"},
    "two-stage-hme": HME,
}
every_ablation = pytest.mark.parametrize("options", ABLATIONS.values(), ids=list(ABLATIONS))


SYMMETRIC_LAYERS = [  # channels into and out of each convolution of the text's second stage at 128 × 64: 3 blocks there, 3 back, one out
    (6, 128), (128, 128), (128, 128), (128, 256), (256, 256), (256, 256), (256, 384), (384, 384), (384, 384),
    (384, 384), (768, 384), (384, 384), (384, 256), (512, 256), (256, 256), (256, 128), (256, 128), (128, 128), (128, 3),
]  # fmt: skip


# --- the paper's sizes ---


def test_parameters_at_the_papers_size() -> None:
    with torch.device("meta"):
        model = PG2()
    assert model.size == (128, 64)
    counts = [count_parameters(part) for part in (model.stage1, model.stage2, model.discriminator)]
    assert counts == [70_795_075, 6_058_883, 4_329_537]
    assert count_parameters(model) == 70_795_075 + 6_058_883 + 4_329_537


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        # The image loses 18 channels of input, the expanding layer gains 64; then two small layers, or an encoder.
        ({**CE, "stages": "G1"}, [70_795_075 - 128 * 18 * 9 + 64 * 4096 + (54 * 64 + 64) + (64 * 64 + 64)]),
        ({**HME, "stages": "G1"}, [94_492_163]),
        ({"stages": "G1"}, [70_795_075]),
        ({"stages": "G1+D"}, [70_795_075, 4_329_537]),
        ({**HME}, [94_492_163, 6_058_883, 4_329_537]),
        ({"discriminator": "triplet-released"}, [70_795_075, 6_058_883, 4_329_537 - 3 * 64 * 25]),
        # By layers: 3 × 3 kernels and a bias, and what goes in and comes out of each.
        (
            {"second_stage": "symmetric", "discs": "zero-one"},
            [70_795_075, sum((9 * a + 1) * b for a, b in SYMMETRIC_LAYERS), 4_329_537],
        ),
        ({"size": (256, 256), "l1_weight": 50.0}, [122_103_235, 12_696_067, 10_901_057]),
    ],
)
def test_parameters_of_every_ablation(options: dict[str, Any], counts: list[int]) -> None:
    with torch.device("meta"):
        model = PG2(**options)
    assert [count_parameters(player) for player in model.players().values()] == counts
    assert count_parameters(model) == sum(counts), "nothing is built that no player owns"


def test_weights_have_the_names_and_the_order_that_checkpoints_and_seeds_know() -> None:
    torch.manual_seed(7)
    model = PG2(**TINY)
    torch.manual_seed(7)
    down = {"stride": 2, "padding": 1}
    by_hand = nn.Sequential(
        nn.Conv2d(21, 4, 3, padding=1), ResidualBlock(4), ResidualBlock(8), ResidualBlock(12),
        nn.Conv2d(4, 8, 3, **down), nn.Conv2d(8, 12, 3, **down), nn.Linear(12 * 8 * 4, 4), nn.Linear(4, 4 * 8 * 4),
        ResidualBlock(4 + 12), ResidualBlock(8 + 8), ResidualBlock(4 + 4), nn.Conv2d(16, 8, 1), nn.Conv2d(16, 4, 1),
        nn.Conv2d(8, 3, 3, padding=1), Stage2((32, 16), 4),
    )  # fmt: skip
    named = list(model.named_parameters())[: len(list(by_hand.parameters()))]
    assert all(torch.equal(ours, expected_weights) for (_, ours), expected_weights in zip(named, by_hand.parameters(), strict=True))
    with torch.device("meta"):
        names = PG2(size=(64, 32), width=2).state_dict()
    parts = dict.fromkeys(".".join(name.split(".")[:2]) for name in names)
    inner = ["start", "encoder", "down", "squeeze", "expand", "decoder", "up", "end"]
    inner2 = ["start", "encoder", "down", "decoder", "end"]
    expected = [f"stage1.{x}" for x in inner] + [f"stage2.{x}" for x in inner2] + ["discriminator.features", "discriminator.logit"]
    assert list(parts) == expected


def test_stage_one_level_by_level_at_the_papers_size() -> None:
    with torch.device("meta"):
        shapes = shapes_of(Stage1(21, (128, 64)), torch.empty(2, 21, 128, 64))
    sizes = [(128, 64), (64, 32), (32, 16), (16, 8), (8, 4)]
    widths = [128, 256, 384, 512, 640]
    assert shapes["start"] == (128, 128, 64)
    assert [shapes[f"encoder.{i}"] for i in range(5)] == [(w, *s) for w, s in zip(widths, sizes, strict=True)]
    assert [shapes[f"down.{i}"] for i in range(4)] == [(w, *s) for w, s in zip(widths[1:], sizes[1:], strict=True)]
    assert shapes["squeeze"] == (64,) and shapes["expand"] == (128 * 8 * 4,)
    joined = [128 + 640, 512 + 512, 384 + 384, 256 + 256, 128 + 128]
    assert [shapes[f"decoder.{i}"] for i in range(5)] == [(w, *s) for w, s in zip(joined, sizes[::-1], strict=True)]
    assert [shapes[f"up.{i}"][0] for i in range(4)] == [512, 384, 256, 128]
    assert shapes["end"] == shapes[""] == (3, 128, 64)
    assert "encoder.5" not in shapes and "decoder.5" not in shapes and "up.4" not in shapes and "down.4" not in shapes


def test_stage_one_has_six_levels_at_256() -> None:
    with torch.device("meta"):
        shapes = shapes_of(Stage1(21, (256, 256)), torch.empty(1, 21, 256, 256))
    assert [shapes[f"encoder.{i}"] for i in range(6)] == [(128 * (i + 1), 256 >> i, 256 >> i) for i in range(6)]
    assert shapes["expand"] == (128 * 8 * 8,) and shapes["decoder.0"] == (128 + 768, 8, 8) and shapes["decoder.5"] == (256, 256, 256)
    assert "encoder.6" not in shapes and shapes[""] == (3, 256, 256)


def test_stage_two_level_by_level_and_its_outermost_skip() -> None:
    with torch.device("meta"):
        market = shapes_of(Stage2((128, 64)), *torch.empty(2, 2, 3, 128, 64))
        fashion_model = Stage2((256, 256))
        fashion = shapes_of(fashion_model, *torch.empty(2, 1, 3, 256, 256))
        small = Stage2((128, 64))
    assert [market[f"encoder.{i}"] for i in range(3)] == [(128, 128, 64), (256, 64, 32), (384, 32, 16)]
    assert [market[f"decoder.{i}"] for i in range(3)] == [(128, 32, 16), (128, 64, 32), (128, 128, 64)]
    assert [block[0].in_channels for block in small.decoder] == [384 + 384, 128 + 256, 128], "no outermost skip on Market"
    assert [fashion[f"encoder.{i}"] for i in range(4)] == [(128 * (i + 1), 256 >> i, 256 >> i) for i in range(4)]
    assert [block[0].in_channels for block in fashion_model.decoder] == [512 + 512, 128 + 384, 128 + 256, 128 + 128]
    assert [fashion[f"decoder.{i}"][0] for i in range(4)] == [128] * 4
    assert "encoder.3" not in market and "encoder.4" not in fashion
    assert market[""] == (3, 128, 64) and fashion[""] == (3, 256, 256)


def test_the_printed_second_stage_level_by_level() -> None:
    with torch.device("meta"):
        market = shapes_of(SymmetricStage2((128, 64)), *torch.empty(2, 2, 3, 128, 64))
        fashion = shapes_of(SymmetricStage2((256, 256)), *torch.empty(2, 1, 3, 256, 256))
    widths, sizes = [128, 256, 384], [(128, 64), (64, 32), (32, 16), (16, 8)]
    assert [market[f"encoder.{i}"] for i in range(3)] == [(w, *s) for w, s in zip(widths, sizes, strict=False)]
    assert [market[f"down.{i}"] for i in range(3)] == [(w, *s) for w, s in zip(widths, sizes[1:], strict=True)], "the last, too"
    assert [market[f"decoder.{i}"] for i in range(3)] == [(w, *s) for w, s in zip(widths[::-1], sizes[2::-1], strict=True)]
    assert market[""] == (3, 128, 64) and "encoder.3" not in market and "encoder.4" not in fashion
    assert fashion["down.3"] == (512, 16, 16) and fashion["decoder.3"] == (128, 256, 256) and fashion[""] == (3, 256, 256)


@pytest.mark.parametrize("size", [(64, 32), (256, 16)])
def test_the_printed_second_stage_written_out(size: tuple[int, int]) -> None:
    g2 = SymmetricStage2(size, width=2).double()
    coarse, source = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    x, skips = torch.cat([coarse, source], 1), []
    levels = {64: 2, 256: 4}[size[0]]
    for i in range(levels):
        for convolution in (g2.encoder[i][0], g2.encoder[i][2]):
            x = F.relu(convolution(x))
        skips.append(x)
        x = F.relu(F.conv2d(x, g2.down[i].weight, g2.down[i].bias, stride=2, padding=1))
    for i in range(levels):
        x = F.relu(g2.up[i](x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
        x = torch.cat([x, skips[levels - 1 - i]], 1)
        for convolution in (g2.decoder[i][0], g2.decoder[i][2]):
            x = F.relu(convolution(x))
    assert torch.allclose(g2(coarse, source), g2.end(x), rtol=0, atol=1e-12) and g2.end(x).std() > 0


def test_a_printed_second_stage_learns_in_every_layer(a_pair: MakePair) -> None:
    model = grown(PG2(**TINY, second_stage="symmetric", discs="zero-one"))
    freeze_all_but(model, "generator2")
    loss_of(model, "generator2", a_pair(1, 1)).backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.stage2.parameters())


@pytest.mark.parametrize("embedding", ["heatmaps", "heatmap-encoder"])
def test_printed_discs_are_zero_outside(embedding: str, a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, radius_px=3.0, discs="zero-one", pose_embedding=embedding), a_pair(missing=0.3)
    seen = recorded_inputs(model.stage1 if embedding == "heatmaps" else model.stage1.pose)  # type: ignore[arg-type]
    model(pair.source, pair.source_pose, pair.target_pose)
    assert torch.equal(seen[0][:, -18:], disc_maps(pair.target_pose, 3.0)) and set(seen[0][:, -18:].unique().tolist()) == {0.0, 1.0}


def test_a_checkpoint_of_before_is_built_as_it_was_and_says_nothing_new(tmp_path: Path) -> None:
    """Options that came later are in a header where they are no defaults, so that trainings go on and dumps keep their folders."""
    plain, printed = PG2(**TINY), PG2(**TINY, discs="zero-one", second_stage="symmetric")
    assert {"discs", "second_stage"} & plain.options.keys() == set()
    assert printed.options["discs"] == "zero-one" and printed.options["second_stage"] == "symmetric"
    for model in (plain, printed):
        save(model, tmp_path / "m.safetensors")
        back = load(tmp_path / "m.safetensors")
        assert isinstance(back, PG2) and back.signed == model.signed and type(back.stage2) is type(model.stage2)
    assert complete("pg2", plain.options)["discs"] == "signed-released" and decisive("pg2", complete("pg2", plain.options)) == plain.options
    with pytest.raises(ValueError, match=r"pg2's second_stage .*'symmetrical'.*did you mean 'symmetric'"):
        PG2(**TINY, second_stage="symmetrical")


@pytest.mark.parametrize(("name", "one_stage"), [("pg2", {"stages": "G1+D"}), ("pg2", {"stages": "G1"}), ("vdg", {"stages": 1})])
def test_a_rate_of_stage_two_is_that_of_its_players_alone(name: str, one_stage: dict[str, Any], a_pair: MakePair, tmp_path: Path) -> None:
    size = {"size": (32, 16), "width": 4, "bottleneck": 4, "stage1_steps": 1, "stage2_steps": 1, "learning_rate": 1e-2}
    size |= {"loss": "l1"} if name == "vdg" else {}
    after = {}
    for rate in (None, 1e-2, 0.0):  # at a rate of zero, stage II stays as it is made
        torch.manual_seed(0)
        model = create(name, **size, stage2_learning_rate=rate)
        assert ("stage2_learning_rate" in model.options) == (rate is not None)
        made = {key: value.clone() for key, value in model.state_dict().items()}
        train(model, [a_pair()] * 2, tmp_path / f"{rate}", accelerator="cpu")
        after[rate] = model.state_dict()
    assert all(torch.equal(value, after[1e-2][key]) for key, value in after[None].items())
    stays = [key for key in made if key.startswith("stage2.")]
    assert stays and all(torch.equal(after[0.0][key], made[key]) for key in stays)
    assert any(not torch.equal(after[None][key], made[key]) for key in stays)
    assert all(torch.equal(value, after[None][key]) for key, value in after[0.0].items() if key.startswith("stage1."))
    with pytest.raises(ValueError, match=f"{name}'s stage2_learning_rate needs"):
        create(name, **size | one_stage, stage2_learning_rate=1e-4)


def test_stage_two_has_no_fully_connected_layer_and_stage_one_no_norm() -> None:
    with torch.device("meta"):
        model = PG2()
    assert not any(isinstance(m, nn.Linear) for m in model.stage2.modules())
    assert [name for name, m in model.stage1.named_modules() if isinstance(m, nn.Linear)] == ["squeeze", "expand"]
    drawing = [*model.stage1.modules(), *model.stage2.modules()]
    assert not any(isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d | nn.Dropout | nn.Tanh) for m in drawing)


# --- the drawing ---


def test_a_1x1_convolution_before_nearest_upsampling_is_one_after_it() -> None:
    x, convolution = torch.randn(2, 6, 5, 3, dtype=torch.float64), nn.Conv2d(6, 4, 1).double()
    before = F.interpolate(F.relu(convolution(x)), scale_factor=2.0, mode="nearest")
    after = F.relu(convolution(F.interpolate(x, scale_factor=2.0, mode="nearest")))
    assert before.shape == (2, 4, 10, 6) and before.any() and torch.allclose(before, after, atol=1e-14)


@pytest.mark.parametrize("batch", [1, 3])
def test_stage_one_in_the_papers_order(batch: int) -> None:
    """Written out level by level, upsampling first and then the 1 x 1 convolution, as the paper has it."""
    g1 = Stage1(5, (64, 32), width=4, bottleneck=6).double()
    x = torch.randn(batch, 5, 64, 32, dtype=torch.float64)
    e0 = g1.encoder[0](F.relu(g1.start(x)))
    e1 = g1.encoder[1](F.relu(g1.down[0](e0)))
    e2 = g1.encoder[2](F.relu(g1.down[1](e1)))
    e3 = g1.encoder[3](F.relu(g1.down[2](e2)))
    d = g1.expand(g1.squeeze(e3.reshape(batch, -1))).reshape(batch, 4, 8, 4)
    for block, up, skip in zip(g1.decoder, g1.up, (e3, e2, e1), strict=False):
        d = block(torch.cat([d, skip], 1)).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        d = F.relu(up(d))
    expected = g1.end(g1.decoder[3](torch.cat([d, e0], 1)))
    assert torch.allclose(g1(x), expected, rtol=0, atol=1e-12) and expected.std() > 0


@pytest.mark.parametrize("size", [(64, 32), (256, 16)])
def test_stage_two_written_out(size: tuple[int, int]) -> None:
    g2 = Stage2(size, width=2).double()
    coarse, source = torch.randn(2, 2, 3, *size, dtype=torch.float64)
    x, skips = F.relu(g2.start(torch.cat([coarse, source], 1))), []
    levels = {64: 2, 256: 4}[size[0]]
    for i in range(levels):
        x = g2.encoder[i](x if i == 0 else F.relu(g2.down[i - 1](x)))
        skips.append(x)
    for i in range(levels):
        if i:
            x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        outermost = i == levels - 1
        x = g2.decoder[i](x if outermost and size[0] <= 128 else torch.cat([x, skips[levels - 1 - i]], 1))
    assert torch.allclose(g2(coarse, source), g2.end(x), rtol=0, atol=1e-12) and g2.end(x).std() > 0


def test_stage_one_sees_the_source_beside_discs_of_minus_one_and_one(a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, radius_px=3.0), a_pair(missing=0.3)
    seen = recorded_inputs(model.stage1)
    model(pair.source, pair.source_pose, pair.target_pose)
    assert torch.equal(seen[0][:, :3], pair.source)
    assert torch.equal(seen[0][:, 3:], disc_maps(pair.target_pose, 3.0) * 2 - 1)
    assert set(seen[0][:, 3:].unique().tolist()) == {-1.0, 1.0}


def test_the_image_is_the_coarse_one_plus_a_difference_clamped(a_pair: MakePair) -> None:
    model, pair = PG2(**TINY), a_pair()
    coarse = model.coarse(pair.source, pair.target_pose)
    output = coarse + model.stage2(coarse, pair.source)
    image = model(pair.source, pair.source_pose, pair.target_pose)
    assert torch.equal(image, output.clamp(-1, 1)) and not torch.equal(image, coarse.clamp(-1, 1))
    with torch.no_grad():
        model.stage1.end.bias += 5
    assert model.coarse(pair.source, pair.target_pose).max() > 1, "what G1 learns from is not clamped"
    assert model(pair.source, pair.source_pose, pair.target_pose).max() == 1


def test_the_sources_pose_is_not_used(a_pair: MakePair, a_pose: MakePose) -> None:
    model, pair = PG2(**TINY), a_pair()
    other = a_pose(99, (2,))
    assert torch.equal(model(pair.source, pair.source_pose, pair.target_pose), model(pair.source, other, pair.target_pose))


@pytest.mark.parametrize("skeleton", ["mpii_14", "coco_17"])
def test_other_skeletons(skeleton: str, a_pair: MakePair) -> None:
    model = PG2(**TINY, skeleton=skeleton)
    joints = {"mpii_14": mpii_14, "coco_17": coco_17}[skeleton]
    pair = a_pair(skeleton=joints)
    assert model.stage1.start.in_channels == 3 + len(joints)
    assert model(pair.source, pair.source_pose, pair.target_pose).shape == (2, 3, 32, 16)
    with pytest.raises(ValueError, match=f"PG2 takes {skeleton} poses, the source pose is openpose_18"):
        model(*(getattr(a_pair(), part) for part in ("source", "source_pose", "target_pose")))


def test_images_and_poses_of_another_size_are_refused(a_pair: MakePair, a_pose: MakePose) -> None:
    model, pair, large = PG2(**TINY), a_pair(), a_pair(size=(64, 32))
    with pytest.raises(ValueError, match=r"PG2 takes images \(B, 3, 32, 16\), got \(2, 3, 64, 32\)"):
        model(large.source, pair.source_pose, pair.target_pose)
    with pytest.raises(ValueError, match=r"poses of size \(32, 16\), the target pose is of size \(64, 32\)"):
        model(pair.source, pair.source_pose, large.target_pose)
    with pytest.raises(ValueError, match=r"the source pose is of size \(64, 32\)"):
        model(pair.source, large.source_pose, pair.target_pose)


# --- turns and losses ---


def test_turns_switch_from_stage_one_to_stage_two() -> None:
    with torch.device("meta"):
        paper, short = PG2(width=2), PG2(width=2, stage1_steps=3, stage2_steps=2)
    assert [short.turn(step) for step in range(6)] == [("generator1",)] * 3 + [("discriminator", "generator2")] * 3
    assert paper.turn(21_999) == ("generator1",) and paper.turn(22_000) == ("discriminator", "generator2")
    assert short.schedule_steps() == 5 and paper.schedule_steps() == 36_000
    assert set(paper.players()) == {"generator1", "generator2", "discriminator"}


def test_every_player_has_the_papers_adam() -> None:
    model = PG2(**TINY)
    for player, module in model.players().items():
        (group,) = model.optimizer(player, module.parameters()).param_groups
        assert (group["lr"], group["betas"]) == (2e-5, (0.5, 0.999)) and model.learning_rate(player, 0) is None
    assert PG2(**TINY, learning_rate=0.5).optimizer("generator1", model.parameters()).param_groups[0]["lr"] == 0.5


def losses_by_hand(model: PG2, pair: PosePair) -> dict[str, dict[str, Tensor]]:
    """The paper's terms, put together from G1, G2, D and the loss functions."""
    coarse = model.stage1(torch.cat([pair.source, 2 * disc_maps(pair.target_pose, model.radius_px) - 1], 1))
    output = coarse + model.stage2(coarse, pair.source)
    mask = body_mask(pair.target_pose, model.radius_px)
    real, fake = (model.discriminator(torch.cat([pair.source, image], 1)) for image in (pair.target, output))
    return {
        "generator1": {"pose_mask_l1": masked_l1(coarse, pair.target, mask)},
        "generator2": {"adversarial": real_loss(fake), "pose_mask_l1": model.l1_weight * masked_l1(output, pair.target, mask)},
        "discriminator": {"real": real_loss(real), "fake": fake_loss(fake)},
    }


@pytest.mark.parametrize("l1_weight", [10.0, 50.0])
@pytest.mark.parametrize("player", ["generator1", "generator2", "discriminator"])
@pytest.mark.parametrize("batch", [1, 3])
def test_losses_are_the_papers(player: str, l1_weight: float, batch: int, a_pair: MakePair) -> None:
    # In eval mode, as batch norm sees other batches when its calls come in another order.
    model = grown(PG2(**TINY, l1_weight=l1_weight, radius_px=2.0)).double().eval()
    pair = a_pair(3, batch, dtype=torch.float64)
    assert_same_terms(model.losses(player, pair, 0), losses_by_hand(model, pair)[player])


def test_the_triplet_of_the_released_code_weighs_half_and_two_quarters(a_pair: MakePair) -> None:
    model, pair = grown(PG2(**TINY, discriminator="triplet-released")).double().eval(), a_pair(dtype=torch.float64)
    coarse = model.coarse(pair.source, pair.target_pose)
    output = coarse + model.stage2(coarse, pair.source)
    real, source, fake = (model.discriminator(image) for image in (pair.target, pair.source, output))
    expected = {"real": real_loss(real) / 2, "source": fake_loss(source) / 4, "fake": fake_loss(fake) / 4}
    assert_same_terms(model.losses("discriminator", pair, 0), expected)
    assert model.losses("generator2", pair, 0)["adversarial"].item() == pytest.approx(real_loss(fake).item())
    assert len({round(v.item(), 6) for v in expected.values()}) == 3


def test_what_each_discriminator_is_shown(a_pair: MakePair) -> None:
    pair = a_pair()
    model = PG2(**TINY)
    seen = recorded_inputs(model.discriminator)
    coarse = model.coarse(pair.source, pair.target_pose)
    output = coarse + model.stage2(coarse, pair.source)
    model.losses("discriminator", pair, 0)
    assert [tuple(x.shape) for x in seen] == [(2, 6, 32, 16)] * 2
    assert all(torch.equal(x[:, :3], pair.source) for x in seen), "the source comes first, beside either image"
    assert torch.equal(seen[0][:, 3:], pair.target) and torch.equal(seen[1][:, 3:], output)
    triplet = PG2(**TINY, discriminator="triplet-released")
    seen = recorded_inputs(triplet.discriminator)
    triplet.losses("discriminator", pair, 0)
    assert [tuple(x.shape) for x in seen] == [(2, 3, 32, 16)] * 3
    assert [sum(torch.equal(x, image) for x in seen) for image in (pair.target, pair.source)] == [1, 1]


def test_plain_l1_is_the_ablation_of_stage_one_only(a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, stage1_loss="l1"), a_pair()
    coarse = model.coarse(pair.source, pair.target_pose)
    terms = model.losses("generator1", pair, 0)
    assert list(terms) == ["l1"] and terms["l1"].item() == pytest.approx((coarse - pair.target).abs().mean().item())
    assert terms["l1"] < masked_l1(coarse, pair.target, body_mask(pair.target_pose))
    assert "pose_mask_l1" in model.losses("generator2", pair, 0)


def test_the_mask_is_of_the_targets_pose(a_pair: MakePair, a_pose: MakePose) -> None:
    model, pair = PG2(**TINY, radius_px=1.0), a_pair(missing=0.5)
    nobody = a_pose(0, (2,), missing=2.0)
    swapped = PosePair(pair.source, pair.target, nobody, pair.target_pose, pair.identity)
    assert torch.equal(model.losses("generator1", swapped, 0)["pose_mask_l1"], model.losses("generator1", pair, 0)["pose_mask_l1"])
    alone = PosePair(pair.source, pair.target, pair.source_pose, nobody, pair.identity)
    plain = (model.coarse(pair.source, nobody) - pair.target).abs().mean()
    assert model.losses("generator1", alone, 0)["pose_mask_l1"].item() == pytest.approx(plain.item()), "no person, no mask"


@pytest.mark.parametrize("player", ["discriminator", "generator2"])
def test_stage_one_rests_in_stage_two(player: str, a_pair: MakePair) -> None:
    model = PG2(**TINY)
    freeze_all_but(model, player)
    loss_of(model, player, a_pair()).backward()
    assert all(p.grad is None for p in model.stage1.parameters())
    assert all(p.grad is not None for p in model.players()[player].parameters())


def test_in_stage_two_the_drawing_improves_against_the_discriminator(a_pair: MakePair) -> None:
    """The adversarial term pays the generator for looking real: its gradient raises D's logit of the drawing."""
    model, pair = PG2(**TINY).eval(), a_pair()
    freeze_all_but(model, "generator2")
    term = model.losses("generator2", pair, 0)["adversarial"]
    term.backward()
    with torch.no_grad():
        for p in model.stage2.parameters():
            assert p.grad is not None
            p -= 0.05 * p.grad / (p.grad.norm() + 1e-12)
    assert model.losses("generator2", pair, 0)["adversarial"] < term


# --- ablations ---


@pytest.mark.parametrize("skeleton", [openpose_18, upper_7])
def test_coordinates_by_an_obvious_loop(skeleton: Any, a_pose: MakePose) -> None:
    pose = a_pose(5, (3,), skeleton, (32, 16), 0.4, torch.float64)
    expected = torch.zeros(3, len(skeleton), 3, dtype=torch.float64)
    for b in range(3):
        for k in range(len(skeleton)):
            if pose.visible[b, k]:
                x, y = pose.xy[b, k].tolist()
                expected[b, k] = torch.tensor([(y + 0.5) / 16 - 1, (x + 0.5) / 8 - 1, 1.0], dtype=torch.float64)
    assert coordinates(pose).shape == (3, 3 * len(skeleton)) and not pose.visible.all()
    assert torch.allclose(coordinates(pose), expected.flatten(1), rtol=0, atol=1e-12)


def test_the_frames_corners_are_coordinates_of_one() -> None:
    xy = torch.zeros(1, 18, 2)
    xy[0, :3] = torch.tensor([[-0.5, -0.5], [15.5, 31.5], [7.5, 15.5]])
    numbers = coordinates(Pose(xy, torch.ones(1, 18, dtype=torch.bool), openpose_18, (32, 16)))
    assert numbers[0, :9].tolist() == [-1, -1, 1, 1, 1, 1, 0, 0, 1]


@pytest.mark.parametrize("embedding", ["coordinates", "heatmap-encoder"])
def test_an_embedded_pose_meets_the_image_in_the_bottleneck_alone(embedding: str, a_pair: MakePair) -> None:
    model, pair = grown(PG2(**TINY, pose_embedding=embedding)).double(), a_pair(dtype=torch.float64)
    g1 = model.stage1
    assert g1.pose is not None and g1.start.in_channels == 3
    discs = 2 * disc_maps(pair.target_pose, 4.0) - 1
    if embedding == "coordinates":
        assert isinstance(g1.pose, CoordinateEncoder)
        numbers = coordinates(pair.target_pose)
        code = F.relu(numbers @ g1.pose[0].weight.T + g1.pose[0].bias) @ g1.pose[2].weight.T + g1.pose[2].bias
    else:
        assert isinstance(g1.pose, PoseEncoder)
        x = g1.pose.encoder[0](F.relu(g1.pose.start(discs)))
        for down, block in zip(g1.pose.down, list(g1.pose.encoder)[1:], strict=True):
            x = block(F.relu(down(x)))
        code = g1.pose.squeeze(x.flatten(1))
    e0 = g1.encoder[0](F.relu(g1.start(pair.source)))
    e1 = g1.encoder[1](F.relu(g1.down[0](e0)))
    e2 = g1.encoder[2](F.relu(g1.down[1](e1)))
    d = g1.expand(torch.cat([g1.squeeze(e2.flatten(1)), code], 1)).reshape(2, 4, 8, 4)
    for block, up, skip in zip(g1.decoder, g1.up, (e2, e1), strict=False):
        d = F.relu(up(block(torch.cat([d, skip], 1)).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)))
    expected = g1.end(g1.decoder[2](torch.cat([d, e0], 1)))
    assert code.shape == (2, 4) and expected.std() > 0
    assert torch.allclose(model.coarse(pair.source, pair.target_pose), expected, rtol=0, atol=1e-12)


@every_ablation
def test_who_plays_when_in_an_ablation(options: dict[str, Any]) -> None:
    model = PG2(**TINY, **options, stage1_steps=3, stage2_steps=2)
    stages = options.get("stages", "G1+G2+D")
    both = ("discriminator", "generator2")
    expected = {
        "G1": (["generator1"], [("generator1",)] * 6, 3),
        "G1+D": (["generator1", "discriminator"], [("discriminator", "generator1")] * 6, 5),
        "G1+G2+D": (["generator1", "generator2", "discriminator"], [("generator1",)] * 3 + [both] * 3, 5),
    }[stages]
    assert (list(model.players()), [model.turn(step) for step in range(6)], model.schedule_steps()) == expected
    assert hasattr(model, "stage2") == (stages == "G1+G2+D") and hasattr(model, "discriminator") == (stages != "G1")


@pytest.mark.parametrize("stages", ["G1", "G1+D"])
def test_one_stage_draws_the_coarse_image_clamped(stages: str, a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, stages=stages), a_pair()
    with torch.no_grad():
        model.stage1.end.weight.mul_(30)
    coarse = model.coarse(pair.source, pair.target_pose)
    assert coarse.abs().max() > 1
    assert torch.equal(model(pair.source, pair.source_pose, pair.target_pose), coarse.clamp(-1, 1))


@pytest.mark.parametrize("loss", ["pose-mask", "l1"])
def test_the_one_stage_model_pays_stage_twos_terms(loss: str, a_pair: MakePair) -> None:
    model = grown(PG2(**TINY, stages="G1+D", stage1_loss=loss, l1_weight=7.0)).double().eval()
    pair = a_pair(4, dtype=torch.float64)
    coarse = model.coarse(pair.source, pair.target_pose)
    real, fake = (model.discriminator(torch.cat([pair.source, image], 1)) for image in (pair.target, coarse))
    pixels = {
        "pose-mask": {"pose_mask_l1": 7 * masked_l1(coarse, pair.target, body_mask(pair.target_pose))},
        "l1": {"l1": 7 * (coarse - pair.target).abs().mean()},
    }[loss]
    assert_same_terms(model.losses("generator1", pair, 0), {"adversarial": real_loss(fake), **pixels})
    assert_same_terms(model.losses("discriminator", pair, 0), {"real": real_loss(real), "fake": fake_loss(fake)})


@every_ablation
def test_ablations_teach_the_mover_all_of_it_and_stay_finite(options: dict[str, Any], a_pair: MakePair) -> None:
    whole = a_pair(missing=0.0)
    nobody = Pose(whole.target_pose.xy, torch.zeros(2, 18, dtype=torch.bool), openpose_18, (32, 16))
    far = Pose(torch.full_like(whole.target_pose.xy, 1e4), whole.target_pose.visible, openpose_18, (32, 16))
    for pose in (whole.target_pose, nobody, far):
        pair = PosePair(whole.source, whole.target, whole.source_pose, pose, whole.identity)
        for mover in PG2(**TINY, **options).players():
            model = PG2(**TINY, **options)
            freeze_all_but(model, mover)
            loss_of(model, mover, pair).backward()
            for player, module in model.players().items():
                grads = [p.grad for p in module.parameters()]
                assert all((g is not None and g.isfinite().all()) if player == mover else g is None for g in grads), (player, mover)
        image = model(pair.source, pair.source_pose, pair.target_pose)
        assert image.isfinite().all() and image.abs().max() <= 1


@every_ablation
def test_ablations_draw_rows_by_themselves_and_use_the_pose(options: dict[str, Any], a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, **options).double().eval(), a_pair(batch=3, dtype=torch.float64)
    image = model(pair.source, pair.source_pose, pair.target_pose)
    alone = pair[1:2]
    assert torch.allclose(model(alone.source, alone.source_pose, alone.target_pose), image[1:2], rtol=0, atol=1e-12)
    turned = model(pair.source, pair.source_pose, pair.target_pose[torch.tensor([1, 2, 0])])
    assert (turned - image).abs().amax((1, 2, 3)).min() > 1e-9, "the pose is used"


@pytest.mark.parametrize("options", [CE, HME], ids=["ce", "hme"])
def test_embedded_poses_compile_without_a_graph_break(options: dict[str, Any], a_pair: MakePair) -> None:
    model, pair = PG2(**TINY, **options, stages="G1").eval(), a_pair()
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    image = model(pair.source, pair.source_pose, pair.target_pose)
    assert torch.allclose(compiled(pair.source, pair.source_pose, pair.target_pose), image, atol=1e-6)


# --- what one turn's players share ---


def test_a_turn_of_stage_two_draws_once_and_keeps_no_graph_of_stage_one(a_pair: MakePair) -> None:
    model, pair = PG2(**TINY), a_pair()
    first, second = recorded_graphs(model.stage1), recorded_graphs(model.stage2)
    with model.sharing():
        for player in model.turn(model.stage1_steps):
            model.losses(player, pair, 0)
    assert (first, second) == ([False], [True])
    for player in ("discriminator", "generator2"):
        model.losses(player, pair, 0)
    assert len(first) == len(second) == 3, "outside a turn everyone draws anew"


@pytest.mark.parametrize("stages", ["G1+D", "G1+G2+D"])
def test_the_discriminator_does_not_teach_the_drawing_that_is_shared(stages: str, a_pair: MakePair) -> None:
    pair = a_pair()
    mover = "generator1" if stages == "G1+D" else "generator2"

    def gradients(shared: bool) -> tuple[list[Tensor | None], list[Tensor]]:
        torch.manual_seed(1)
        model = PG2(**TINY, stages=stages)
        movers = [model.players()[name] for name in ("discriminator", mover)]
        model.stage1.requires_grad_(stages == "G1+D")
        with model.sharing() if shared else contextlib.nullcontext():
            loss_of(model, "discriminator", pair).backward()
            early = [p.grad for p in movers[1].parameters()]
            movers[0].requires_grad_(False)
            loss_of(model, mover, pair).backward()
        return early, [p.grad for p in movers[1].parameters() if p.grad is not None]

    (early, ours), (_, alone) = gradients(True), gradients(False)
    assert all(grad is None for grad in early) and len(ours) == len(alone) == len(early)
    assert all(torch.equal(a, b) for a, b in zip(ours, alone, strict=True)) and any(a.any() for a in ours)


# --- options ---


@pytest.mark.parametrize("size", [(0, 0), (-128, 64), (16, 8), (100, 64), (127, 64), (128, 60), (128, 0), (128, -16), (256, 100)])
def test_sizes_that_do_not_halve_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="pg2 takes a height of 32, 64, 128, 256 … and a width divisible by height / 8, got") as caught:
        PG2(size=size)
    assert str(size) in str(caught.value)


@pytest.mark.parametrize("size", [(32, 4), (32, 16), (64, 32), (64, 64), [32, 16]])
def test_sizes_that_do_halve(size: tuple[int, int], a_pair: MakePair) -> None:
    model, pair = PG2(size=size, width=2, bottleneck=2), a_pair(size=tuple(size), batch=1)
    assert model.size == tuple(size) and model(pair.source, pair.source_pose, pair.target_pose).shape == (1, 3, *size)


@pytest.mark.parametrize(
    ("option", "value", "choices"),
    [
        ("stage1_loss", "l2", "pose-mask, l1"),
        ("pose_embedding", "coords", "heatmaps, coordinates, heatmap-encoder"),
        ("stages", "G1+G2", "G1+G2+D, G1+D, G1"),
        ("discriminator", "triplet", "pair, triplet-released"),
        ("skeleton", "openpose_25", "openpose_18, coco_17, mpii_14, upper_7"),
    ],
)
def test_unknown_choices_are_refused_with_those_there_are(option: str, value: str, choices: str) -> None:
    with pytest.raises(ValueError, match=f"pg2's {option} is one of {re.escape(choices)}.*, got '{re.escape(value)}'"):
        PG2(**TINY, **{option: value})


def test_options_are_what_it_was_built_with() -> None:
    model = create("pg2", **TINY, l1_weight=50.0)
    assert model.options == {
        **TINY, "radius_px": 4.0, "l1_weight": 50.0, "stage1_loss": "pose-mask",
        "pose_embedding": "heatmaps", "stages": "G1+G2+D", "discriminator": "pair",
        "stage1_steps": 22_000, "stage2_steps": 14_000, "learning_rate": 2e-5, "skeleton": "openpose_18",
    }  # fmt: skip
    assert PG2((32, 16), 4, 4).options == PG2(**TINY).options
