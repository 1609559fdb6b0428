"""Loss terms that two papers or more share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW_PX, SIGMA_PX = 11, 1.5  # SSIM's window, as most have it


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


def ssim(image: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Mean structural similarity, a scalar, of images (B, C, H, W): 1 where they are equal (Wang et al. 2004, eq. 13).

    Population covariances under a Gaussian of σ 1.5 px in windows of 11 × 11, at every place where the window lies in
    the image whole: H − 10 by W − 10 places, so that the outermost pixels are seen from within only.
    """
    if min(image.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"SSIM's window of {WINDOW_PX} px needs images at least as large, got {tuple(image.shape[-2:])}")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # Variances are small differences of large numbers: half precision, autocast's too, would leave nothing of them.
    dtype = torch.promote_types(image.dtype, torch.float32)
    x, y = image.to(dtype), target.to(dtype)
    with torch.autocast(image.device.type, enabled=False):
        # The two variances are only ever needed summed.
        mean_x, mean_y, squares, product = _window_means(torch.stack((x, y, x * x + y * y, x * y)))
        means_squared, means_product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
        luminance = (2 * means_product + c1) / (means_squared + c1)
        structure = (2 * (product - means_product) + c2) / ((squares - means_squared).clamp(min=0) + c2)  # rounding may go below 0
        return (luminance * structure).mean()


def _window_means(planes: Tensor) -> Tensor:
    """Weighted mean of every whole window, (*, H, W) → (*, H − 10, W − 10), as two products with banded matrices."""
    rows, columns = (_band(side, planes) for side in planes.shape[-2:])
    return rows @ (planes @ columns.t())


def _band(side: int, like: Tensor) -> Tensor:
    """Matrix (side − 10, side) whose row i holds the window's weights from column i on."""
    at = torch.arange(side, dtype=like.dtype, device=like.device)
    offset = at[None, :] - at[: side - WINDOW_PX + 1, None] - WINDOW_PX // 2
    weights = torch.exp(-0.5 * (offset / SIGMA_PX) ** 2) * (offset.abs() <= WINDOW_PX // 2)
    return weights / weights.sum(1, keepdim=True)
