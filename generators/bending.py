"""Images bent as if through bad glass, with their poses: something to learn straightening from, for which one image is enough."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from generators.parts import on_device
from generators.pose import Pose
from generators.warp import look_up


def bend(image: Tensor, pose: Pose, amount: float) -> tuple[Tensor, Pose]:
    """Bend images (B, 3, H, W) and their poses, silhouettes included, by random waves, scales and shifts of about `amount` heights.

    A joint that is bent out of the frame is not visible any more.
    """
    b, (h, w) = len(image), pose.size
    make = {"dtype": pose.xy.dtype, "device": pose.xy.device}
    # Per image and axis: three waves of up to one period over the image, and a linear part.
    frequency, phase = 2 * torch.pi / h * torch.rand(b, 2, 3, 2, **make), 2 * torch.pi * torch.rand(b, 2, 3, **make)
    amplitude = amount * h * torch.randn(b, 2, 3, **make) / 3**0.5
    linear, shift = 2.5 * amount * torch.randn(b, 2, 2, **make), amount * h * torch.randn(b, 2, **make)
    middle = on_device(((w - 1) / 2, (h - 1) / 2), **make)

    def moved(at: Tensor) -> Tensor:  # (B, N, 2) pixels of the bent image → what they show
        angle = torch.einsum("bnd,bakd->bnak", at, frequency) + phase[:, None]
        return at + (amplitude[:, None] * angle.sin()).sum(-1) + (at - middle) @ linear.mT + shift[:, None]

    rows, columns = torch.arange(h, **make), torch.arange(w, **make)
    grid = torch.stack((columns.expand(h, w), rows[:, None].expand(h, w)), -1).view(1, -1, 2).expand(b, -1, -1)
    x, y = moved(grid).view(b, h, w, 2).unbind(-1)
    xy = pose.xy
    for _ in range(8):  # where a joint went: the place that shows it, by fixed-point iteration
        xy = xy - (moved(xy) - pose.xy)
    edge = on_device((w - 0.5, h - 0.5), **make)
    inside = ((xy > -0.5) & (xy < edge)).all(-1)
    silhouette = None if pose.silhouette is None else look_up(pose.silhouette[:, None], x, y, "border")[:, 0]
    return look_up(image, x, y, "border"), replace(pose, xy=xy, visible=pose.visible & inside, silhouette=silhouette)
