"""What happens to the images of a batch before a baseline learns from them: mirrored, cropped, partly grey, partly erased."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reid_aug.baselines.recipes import BaselineConfig

LUMA = (0.299, 0.587, 0.114)  # shares of red, green and blue in grey (ITU-R BT.601)



def moved(numbers: Tensor, images: Tensor) -> Tensor:
    """Move what was drawn on the CPU to where the images are; the CPU does not wait for a GPU to get there."""
    return numbers.to(images.device, non_blocking=True)


def augment(images: Tensor, config: BaselineConfig, noise: torch.Generator) -> Tensor:
    """Flip left to right with probability ½ and crop back from `crop_px` of zero padding; (B, 3, H, W), 0 to 255."""
    size, pad = len(images), config.crop_px
    height, width = images.shape[-2:]
    if config.flip:
        flipped = torch.rand(size, generator=noise) < 0.5
        images = torch.where(moved(flipped[:, None, None, None], images), images.flip(-1), images)
    if pad:
        padded = F.pad(images, (pad, pad, pad, pad))
        down = torch.randint(2 * pad + 1, (size, 1), generator=noise) + torch.arange(height)
        across = torch.randint(2 * pad + 1, (size, 1), generator=noise) + torch.arange(width)
        rows = torch.arange(size)[:, None, None, None]
        index = [moved(t, images) for t in (rows, torch.arange(3)[:, None, None], down[:, None, :, None], across[:, None, None, :])]
        images = padded[tuple(index)]
    return images


def erase(inputs: Tensor, probability: float, noise: torch.Generator) -> Tensor:
    """Erase at random from normalised images (B, 3, H, W): with some probability a rectangle becomes ImageNet's mean, 0.

    Its area is 2 to 40 % of the image's, its height over its width 0.3 to 3.3 (Zhong et al. 2020); what would not fit is cut.
    """
    return inputs.masked_fill(_rectangles(inputs, probability, noise), 0.0)


def grey_patch(pixels: Tensor, probability: float, noise: torch.Generator) -> Tensor:
    """Take at random the colour from a rectangle of images (B, 3, H, W), 0 to 255: the rectangle is one of `erase`.

    So that a person is told by more than colours (Gong et al. 2021, "A person re-identification data augmentation method with
    adversarial defense effect": local grey-scale patch, there with probability 0.4).

    >>> red = torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    >>> sorted({tuple(pixel) for pixel in grey_patch(red, 1.0, torch.Generator().manual_seed(0))[0].flatten(1).t().tolist()})
    [(76, 76, 76), (255, 0, 0)]
    """
    luma = (pixels.float() * moved(torch.tensor(LUMA), pixels).view(3, 1, 1)).sum(1, keepdim=True)
    grey = luma if pixels.is_floating_point() else luma.round()
    return torch.where(_rectangles(pixels, probability, noise), grey.to(pixels.dtype), pixels)


def _rectangles(images: Tensor, probability: float, noise: torch.Generator) -> Tensor:
    """Mark a random rectangle of some of the images, (B, 1, H, W) bool: 2 to 40 % of the area, 0.3 to 3.3 times as tall as wide."""
    size, (height, width) = len(images), images.shape[-2:]
    chosen, area, shape, top, left = torch.rand(5, size, generator=noise)
    pixels = (0.02 + 0.38 * area) * height * width
    ratio = torch.exp(np.log(0.3) + shape * (np.log(3.3) - np.log(0.3)))  # even in its logarithm: as many lie as stand
    tall, wide = (pixels * ratio).sqrt().clamp(max=height).round(), (pixels / ratio).sqrt().clamp(max=width).round()
    rows, columns = torch.arange(height), torch.arange(width)
    first_row, first_column = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    down = (rows >= first_row[:, None]) & (rows < (first_row + tall)[:, None])
    across = (columns >= first_column[:, None]) & (columns < (first_column + wide)[:, None])
    marked = down[:, :, None] & across[:, None, :] & (chosen < probability)[:, None, None]
    return moved(marked[:, None], images)
