"""Loss terms that two papers or more share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_l1(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean of |image − target| · (1 + mask): the pose mask loss (Ma et al. 2017, eq. 1).

    Images (B, C, H, W), mask (B, 1, H, W) of 0 and 1; a scalar. The paper prints a sum; its code takes the mean.
    """
    return ((image - target).abs() * (1 + mask)).mean()


def real_loss(logits: Tensor) -> Tensor:
    """Binary cross-entropy of logits against "real"."""
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake_loss(logits: Tensor) -> Tensor:
    """Binary cross-entropy of logits against "fake"."""
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))


def nearest_neighbour_l1(image: Tensor, target: Tensor, side: int) -> Tensor:
    """Per pixel the least L1 distance of `image`'s feature to the target's within `side` × `side`: (B, H, W) of feature maps (B, C, H, W).

    The nearest-neighbour loss before its sum over pixels (Siarohin et al. 2018, eq. 8); neighbours outside the frame do
    not count. Beyond its inputs it holds two feature maps at most: the one neighbour that was found, and its difference.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"a neighbourhood's side is an odd number of pixels, got {side}")
    best = _nearest_neighbour(image.detach(), target.detach(), side)
    found = target.flatten(2).gather(2, best.flatten(1)[:, None].expand(-1, target.shape[1], -1))
    return (image.flatten(2) - found).abs().sum(1).view(best.shape)


def _nearest_neighbour(image: Tensor, target: Tensor, side: int) -> Tensor:
    """Index (B, H, W) into the target's H · W pixels of each pixel's nearest neighbour; the first wins a tie."""
    h, w = image.shape[-2:]
    reach = side // 2
    least = torch.full((image.shape[0], h, w), torch.inf, dtype=image.dtype, device=image.device)
    best = torch.zeros_like(least, dtype=torch.int64)
    here = torch.arange(h * w, device=image.device).view(h, w)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            # The frame's part that has this neighbour, and where that neighbour is.
            mine = (..., slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx)))
            theirs = (..., slice(max(0, dy), h - max(0, -dy)), slice(max(0, dx), w - max(0, -dx)))
            if abs(dy) >= h or abs(dx) >= w:
                continue
            distance = torch.linalg.vector_norm(image[mine] - target[theirs], ord=1, dim=1)
            closer = distance < least[mine]
            least[mine] = torch.where(closer, distance, least[mine])
            best[mine] = torch.where(closer, here[theirs].expand_as(closer), best[mine])
    return best
