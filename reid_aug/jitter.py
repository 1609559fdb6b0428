"""Small random changes of a training pair: turned, scaled, shifted and of another saturation, both images alike."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from generators import Pose, PosePair
from generators.warp import warp
from reid_aug.config import JitterConfig

NUMBERS = 5  # numbers that a pair's change is made of
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601's luma


def jittered(pair: PosePair, draws: Tensor, config: JitterConfig) -> PosePair:
    """The pairs changed as the numbers `draws (B, 5)` in [0, 1) say: angle, scale, shifts in x and y, saturation.

    Both images of a pair change alike, as posewarp's released code has it: a background seen in one can be learnt from
    the other. Pixels from outside the image repeat its edge; a joint that leaves the image, or was outside it before, is not visible.
    """
    transform = _transforms(draws, config, (pair.source.shape[-2], pair.source.shape[-1]))
    low, high = config.saturation
    saturation = (low + draws[:, 4] * (high - low)).to(pair.source.dtype)
    back = _inverse(transform)
    source, target = (_saturated(warp(image, back.to(image.dtype), "border"), saturation) for image in (pair.source, pair.target))
    source_pose, target_pose = (_moved(pose, transform) for pose in (pair.source_pose, pair.target_pose))
    return replace(pair, source=source, target=target, source_pose=source_pose, target_pose=target_pose)


def _transforms(draws: Tensor, config: JitterConfig, size: tuple[int, int]) -> Tensor:
    """Transforms (B, 2, 3) from old to new pixels: about the image's middle, then shifted."""
    both_ways = 2 * draws - 1
    angle = torch.deg2rad(both_ways[:, 0] * config.degrees)
    scale = config.scale[0] + draws[:, 1] * (config.scale[1] - config.scale[0])
    across, along = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack((across, -along, along, across), -1).view(-1, 2, 2)
    middle = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=draws.dtype)
    shift = middle + both_ways[:, 2:4] * config.shift_px - linear @ middle
    return torch.cat((linear, shift[..., None]), -1)


def _inverse(transform: Tensor) -> Tensor:
    linear = torch.linalg.inv(transform[..., :2])
    return torch.cat((linear, -linear @ transform[..., 2:]), -1)


def _saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [-1, 1], blended with their own greys (1 − factor) to 1, as torchvision's adjust_saturation."""
    grey = (images * torch.tensor(_GREY, dtype=images.dtype)[:, None, None]).sum(1, keepdim=True)
    return (grey + factor[:, None, None, None] * (images - grey)).clamp(-1, 1)


def _moved(pose: Pose, transform: Tensor) -> Pose:
    xy = (pose.xy.to(transform.dtype) @ transform[..., :2].mT + transform[..., 2].unsqueeze(-2)).to(pose.xy.dtype)
    edge = torch.tensor([pose.size[1], pose.size[0]], dtype=xy.dtype) - 0.5
    return replace(pose, xy=xy, visible=pose.visible & ((xy >= -0.5) & (xy < edge)).all(-1))
