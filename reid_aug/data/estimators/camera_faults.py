"""What cameras do to crops of people, to batches at once: light and colours, few pixels, noise, JPEG."""

from __future__ import annotations

from functools import cache

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

# Tables K.1 and K.2 of ITU-T T.81, the JPEG standard, which every encoder starts from.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""
# ITU-R BT.601 as JPEG files have it: luma, and two colour differences around 0.
_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))
_RGB = ((1.0, 0.0, 1.402), (1.0, -0.344136, -0.714136), (1.0, 1.772, 0.0))


def uniform(low: float, high: float, shape: tuple[int, ...], rng: Generator) -> Tensor:
    """Sample uniformly, on the generator's device."""
    return torch.rand(shape, generator=rng, device=rng.device) * (high - low) + low


def relit(images: Tensor, rng: Generator, strength: float) -> Tensor:
    """Change the light of images (B, 3, H, W) in [0, 1]: saturation, contrast, a cast, a lamp at one side, the camera's curve."""
    count, shape = len(images), (len(images), 1, 1, 1)
    grey = images.mean(1, keepdim=True)
    images = grey + (images - grey) * (1 - strength * uniform(-0.4, 0.8, shape, rng))
    middle = images.mean((1, 2, 3), keepdim=True)
    images = middle + (images - middle) * (uniform(-0.6, 0.4, shape, rng) * strength).exp()
    gain = (uniform(-0.5, 0.35, shape, rng) + uniform(-0.15, 0.15, (count, 3, 1, 1), rng)) * strength
    y = torch.linspace(-1, 1, images.shape[2], device=images.device)[:, None]
    x = torch.linspace(-1, 1, images.shape[3], device=images.device)
    lamp = uniform(-0.3, 0.3, shape, rng) * x + uniform(-0.3, 0.3, shape, rng) * y
    images = images * (gain + strength * lamp).exp() + strength * uniform(-0.05, 0.08, shape, rng)
    return images.clamp(1e-4, 1) ** (uniform(-0.45, 0.45, shape, rng) * strength).exp()


def fewer_pixels(images: Tensor, rng: Generator, least_height_px: int, groups: int = 4) -> Tensor:
    """Make images (B, 3, H, W) smaller and large again: a first group stays sharp, each other has one height from `least_height_px` on."""
    height, width = images.shape[-2:]
    parts = list(images.chunk(groups))
    shares = torch.rand(len(parts), generator=torch.Generator().manual_seed(rng.initial_seed())).tolist()  # on the CPU: nobody waits
    for i in range(1, len(parts)):
        rows = round(least_height_px * (height / least_height_px) ** shares[i]) if least_height_px < height else height
        small = F.adaptive_avg_pool2d(parts[i], (rows, max(1, round(width * rows / height))))
        parts[i] = F.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    return torch.cat(parts)


def noisy(images: Tensor, rng: Generator, most: float) -> Tensor:
    """Add Gaussian noise of up to `most` to images in [0, 1], as much as each image's own sample says."""
    deviation = uniform(0, most, (len(images), 1, 1, 1), rng)
    return images + torch.randn(images.shape, generator=rng, device=images.device) * deviation


def compressed(images: Tensor, quality: Tensor) -> Tensor:
    """Give images (B, 3, H, W) in [0, 1], sides multiples of 16, what JPEG files of the qualities (B,) in 1..100 hold of them.

    Colour differences are halved in both directions (4:2:0); quantisation is libjpeg's.
    """
    levels = images.clamp(0, 1) * 255
    ycc = torch.einsum("ij,bjhw->bihw", levels.new_tensor(_YCC), levels)
    luma = _quantised(ycc[:, :1] - 128, _steps(_LUMA, quality)) + 128
    chroma = _quantised(F.avg_pool2d(ycc[:, 1:], 2), _steps(_CHROMA, quality))
    chroma = F.interpolate(chroma, images.shape[-2:], mode="bilinear", align_corners=False)
    rgb = torch.einsum("ij,bjhw->bihw", levels.new_tensor(_RGB), torch.cat((luma, chroma), 1))
    return (rgb / 255).clamp(0, 1)


def _steps(table: str, quality: Tensor) -> Tensor:
    """Give libjpeg's steps of quantisation, (B, 1, 1, 1, 8, 8), for qualities (B,)."""
    scale = torch.where(quality < 50, 5000 / quality.clamp(min=1), 200 - 2 * quality)[:, None, None]
    base = torch.tensor([int(word) for word in table.split()], dtype=quality.dtype, device=quality.device).view(8, 8)
    return ((base * scale + 50) / 100).floor().clamp(1, 255)[:, None, None, None]


def _quantised(planes: Tensor, steps: Tensor) -> Tensor:
    """Round the cosine transform of every block of 8 × 8 in planes (B, C, H, W) to multiples of `steps`."""
    b, c, h, w = planes.shape
    blocks = planes.view(b, c, h // 8, 8, w // 8, 8).transpose(3, 4)
    basis = _cosines().to(planes)
    spectrum = basis @ blocks @ basis.T
    blocks = basis.T @ ((spectrum / steps).round() * steps) @ basis
    return blocks.transpose(3, 4).reshape(b, c, h, w)


@cache
def _cosines() -> Tensor:
    """Give the orthonormal cosine transform of length 8, (8, 8)."""
    n = torch.arange(8, dtype=torch.float64)
    basis = torch.cos((2 * n + 1) * n[:, None] * torch.pi / 16) / 2
    basis[0] /= 2**0.5
    return basis.float()
