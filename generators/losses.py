"""Loss terms that two papers or more share."""

from __future__ import annotations

from typing import Any

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
    not count. Beyond its inputs it holds one feature map at a time, and its gradient another.
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"a neighbourhood's side is an odd number of pixels, got {side}")
    return _NearestNeighbour.apply(image, target, side)


class _NearestNeighbour(torch.autograd.Function):
    """Keeps which neighbour was nearest, and looks it up again for the gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, side: int) -> Tensor:
        # One image at a time stays in a CPU's cache; a GPU takes them all.
        step = 1 if image.device.type == "cpu" else len(image)
        found = [_nearest(a, b, side) for a, b in zip(image.split(step), target.split(step), strict=True)]
        least, best = (torch.cat(part) for part in zip(*found, strict=True))
        ctx.save_for_backward(image, target, best)
        return least

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        image, target, best = ctx.saved_tensors
        b, c, h, w = image.shape
        rows = (best.flatten(1) + torch.arange(b, device=best.device)[:, None] * (h * w)).flatten()
        away = target.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, rows).view(b, h, w, c).permute(0, 3, 1, 2)
        away = away.sub_(image).sign_().mul_(grad[:, None])  # minus the image's gradient
        theirs = None
        if ctx.needs_input_grad[1]:
            theirs = torch.zeros_like(target).permute(0, 2, 3, 1).reshape(-1, c)
            theirs = theirs.index_add_(0, rows, away.permute(0, 2, 3, 1).reshape(-1, c)).view(b, h, w, c).permute(0, 3, 1, 2)
        return away.neg_() if theirs is None else -away, theirs, None


def _nearest(image: Tensor, target: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The least distance (B, H, W) and the index of its pixel among the target's H · W; the first wins a tie."""
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
            distance = (image[mine] - target[theirs]).abs_().sum(1)
            closer = distance < least[mine]
            least[mine] = torch.where(closer, distance, least[mine])
            best[mine] = torch.where(closer, here[theirs[1:]].expand_as(closer), best[mine])
    return least, best
