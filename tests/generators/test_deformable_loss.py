"""The nearest-neighbour loss against the loops it stands for."""

from __future__ import annotations

import pytest
import torch

from generators.models.deformable import nearest_neighbour_l1


def slow(image: torch.Tensor, target: torch.Tensor, side: int) -> torch.Tensor:
    batch, _, height, width = image.shape
    reach, out = side // 2, torch.zeros(batch, height, width, dtype=image.dtype)
    for b in range(batch):
        for y in range(height):
            for x in range(width):
                distances = [
                    (image[b, :, y, x] - target[b, :, y + dy, x + dx]).abs().sum()
                    for dy in range(-reach, reach + 1) for dx in range(-reach, reach + 1)
                    if 0 <= y + dy < height and 0 <= x + dx < width
                ]  # fmt: skip
                out[b, y, x] = min(distances)
    return out


@pytest.mark.parametrize("side", [1, 3, 5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(1, 4, 6, 5), (3, 2, 2, 7), (2, 3, 1, 1)])
def test_it_is_the_loop(side: int, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    image, target = torch.rand(shape, dtype=dtype), torch.rand(shape, dtype=dtype)
    assert torch.allclose(nearest_neighbour_l1(image, target, side), slow(image, target, side), atol=1e-6)
    channels_last = [t.to(memory_format=torch.channels_last) for t in (image, target)]
    assert torch.allclose(nearest_neighbour_l1(*channels_last, side), slow(image, target, side), atol=1e-6)


def test_a_neighbourhood_of_one_is_plain_l1() -> None:
    image, target = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 5, 4)
    assert torch.allclose(nearest_neighbour_l1(image, target, 1), (image - target).abs().sum(1))


def test_a_shift_by_one_pixel_costs_nothing_inside_three() -> None:
    target = torch.rand(1, 4, 8, 6)
    for dy, dx in ((0, 1), (1, 0), (-1, 1), (-1, -1)):
        shifted = target.roll((dy, dx), (2, 3))
        assert nearest_neighbour_l1(shifted, target, 3)[:, 1:-1, 1:-1].max() == 0
        assert nearest_neighbour_l1(shifted, target, 1)[:, 1:-1, 1:-1].max() > 0.1
    assert nearest_neighbour_l1(target.roll(2, 3), target, 3)[:, :, 2:].max() > 0.1
    assert nearest_neighbour_l1(target.roll(2, 3), target, 5)[:, 2:-2, 2:-2].max() == 0


def test_a_neighbour_outside_the_frame_does_not_count() -> None:
    """Zeros would be the nearest if the frame's outside were zero."""
    assert nearest_neighbour_l1(torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), 3.0), 3).item() == 6


def test_its_gradients() -> None:
    random = torch.Generator().manual_seed(0)
    image, target = (torch.rand(1, 2, 4, 3, generator=random, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda i, t: nearest_neighbour_l1(i, t, 3), (image, target))
    nearest_neighbour_l1(image, target, 3).sum().backward()
    assert image.grad is not None and set(image.grad.flatten().tolist()) <= {-1.0, 0.0, 1.0}


@pytest.mark.parametrize("side", [0, 2, -1])
def test_a_neighbourhood_has_a_middle(side: int) -> None:
    with pytest.raises(ValueError, match=f"odd number of pixels, got {side}"):
        nearest_neighbour_l1(torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 2, 2), side)
