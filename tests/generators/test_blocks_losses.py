from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from generators.blocks import DCGANDiscriminator, ResidualBlock
from generators.losses import fake_loss, masked_l1, real_loss


@pytest.mark.parametrize(("dtype", "rel"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shape", [(1, 3, 4, 5), (2, 1, 3, 3), (3, 3, 6, 2)])
def test_masked_l1_against_a_loop(shape: tuple[int, int, int, int], dtype: torch.dtype, rel: float) -> None:
    image, target = torch.randn(2, *shape, dtype=dtype)
    mask = (torch.rand(shape[0], 1, *shape[2:]) > 0.5).to(dtype)
    total, count = 0.0, 0
    for b, c, r, x in itertools.product(*map(range, shape)):
        weight = 2.0 if mask[b, 0, r, x] else 1.0
        total += weight * abs(image[b, c, r, x].item() - target[b, c, r, x].item())
        count += 1
    loss = masked_l1(image, target, mask)
    assert loss.shape == () and loss.dtype == dtype and loss.item() == pytest.approx(total / count, rel=rel)


def test_masked_l1_counts_the_person_twice_and_the_rest_once() -> None:
    image, target = torch.full((2, 3, 4, 4), 0.5), torch.full((2, 3, 4, 4), -0.25)
    assert masked_l1(image, target, torch.zeros(2, 1, 4, 4)).item() == pytest.approx(0.75)
    assert masked_l1(image, target, torch.ones(2, 1, 4, 4)).item() == pytest.approx(1.5)
    assert masked_l1(image, image, torch.ones(2, 1, 4, 4)).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1,), (5,), (2, 1, 4, 3)])
def test_real_and_fake_loss_are_the_logs_of_the_sigmoid(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    logits = torch.randn(shape, dtype=dtype) * 3
    sure = [1 / (1 + math.exp(-x)) for x in logits.flatten().tolist()]
    assert real_loss(logits).item() == pytest.approx(-sum(math.log(p) for p in sure) / len(sure), rel=1e-5)
    assert fake_loss(logits).item() == pytest.approx(-sum(math.log(1 - p) for p in sure) / len(sure), rel=1e-5)
    assert real_loss(logits).dtype == dtype and real_loss(logits).shape == ()


def test_real_and_fake_loss_know_right_from_wrong_and_stay_finite() -> None:
    even, sure = torch.zeros(4), torch.full((4,), 200.0)
    assert real_loss(even).item() == fake_loss(even).item() == pytest.approx(math.log(2))
    assert real_loss(sure).item() == 0 and fake_loss(-sure).item() == 0
    assert real_loss(-sure).item() == fake_loss(sure).item() == 200


def test_residual_block_adds_two_convolutions_to_what_came() -> None:
    block, x = ResidualBlock(6).double(), torch.randn(2, 6, 7, 5, dtype=torch.float64)
    inner = F.conv2d(x, block.first.weight, block.first.bias, padding=1).clamp(min=0)
    inner = F.conv2d(inner, block.second.weight, block.second.bias, padding=1).clamp(min=0)
    assert torch.allclose(block(x), x + inner) and inner.any()
    assert (block(x) >= x).all(), "the second convolution ends in a ReLU"
    nn.init.zeros_(block.second.weight)
    nn.init.zeros_(block.second.bias)
    assert torch.equal(block(x), x)


@pytest.mark.parametrize(
    ("size", "channels", "width", "after"),
    [
        ((128, 64), 6, 64, [(64, 64, 32), (128, 32, 16), (256, 16, 8), (512, 8, 4)]),
        ((256, 256), 6, 64, [(64, 128, 128), (128, 64, 64), (256, 32, 32), (512, 16, 16), (512, 8, 8)]),
        ((32, 16), 3, 4, [(4, 16, 8), (8, 8, 4)]),
    ],
)
def test_dcgan_discriminator_halves_down_to_eight_rows(
    size: tuple[int, int], channels: int, width: int, after: list[tuple[int, int, int]]
) -> None:
    with torch.device("meta"):
        critic, images = DCGANDiscriminator(channels, size, width), torch.empty(3, channels, *size)
    shapes: list[tuple[int, ...]] = []
    for layer in critic.features:
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, __, out: shapes.append(tuple(out.shape[1:])))
    assert critic(images).shape == (3,) and critic(images[:1]).shape == (1,)
    assert shapes[: len(after)] == after
    kinds = [type(layer).__name__ for layer in critic.features]
    assert kinds == ["Conv2d", "LeakyReLU"] + ["Conv2d", "BatchNorm2d", "LeakyReLU"] * (len(after) - 1)
    convolutions = [layer for layer in critic.features if isinstance(layer, nn.Conv2d)]
    assert all(c.kernel_size == (5, 5) and c.stride == (2, 2) for c in convolutions)
    assert all(layer.negative_slope == 0.2 for layer in critic.features if isinstance(layer, nn.LeakyReLU))
    assert critic.logit.in_features == math.prod(after[-1]) and critic.logit.out_features == 1


def test_dcgan_discriminator_scores_each_image_by_itself_once_it_is_trained() -> None:
    critic, images = DCGANDiscriminator(3, (32, 16), 4), torch.randn(4, 3, 32, 16)
    critic(images)  # batch norm gathers statistics
    critic.eval()
    together = critic(images)
    assert torch.allclose(torch.cat([critic(image[None]) for image in images]), together, atol=1e-6)
    assert together.unique().numel() == 4
