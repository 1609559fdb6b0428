"""Pictures of poses and of what a generator makes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.base import PosePair
from generators.pose import Pose

if TYPE_CHECKING:
    from PIL.Image import Image

# Right side warm, left side cold, so that a mirrored pose can be told at a glance.
RIGHT, LEFT, MIDDLE = (255, 120, 60), (70, 160, 255), (240, 240, 90)


def pose_picture(pose: Pose, background: Image | None = None, scale: int = 1) -> Image:
    """Picture one pose (K, 2) as a skeleton on black, or on a copy of `background`, at `scale` times its size."""
    from PIL import Image, ImageDraw

    height, width = pose.size
    canvas = background.copy() if background is not None else Image.new("RGB", (width * scale, height * scale))
    draw, skeleton = ImageDraw.Draw(canvas), pose.skeleton
    points = [((x + 0.5) * scale, (y + 0.5) * scale) for x, y in pose.xy.tolist()]
    seen = pose.visible.tolist()
    line = max(1, round(height * scale / 64))
    for a, b in skeleton.edges:
        if seen[a] and seen[b]:
            side = {skeleton.joints[a][:2], skeleton.joints[b][:2]}
            color = RIGHT if "r_" in side and "l_" not in side else LEFT if "l_" in side and "r_" not in side else MIDDLE
            draw.line([points[a], points[b]], fill=color, width=line)
    for (x, y), visible in zip(points, seen, strict=True):
        if visible:
            draw.ellipse([x - line, y - line, x + line, y + line], fill=(255, 255, 255))
    return canvas


def sample_sheet(pair: PosePair, image: Tensor, gap_px: int = 4) -> Image:
    """Lay out a row per pair: source, target pose, result, truth. `image (B, 3, H, W)` in [−1, 1] is the result."""
    from PIL import Image

    size, rows = pair.target_pose.size, len(pair)
    height, width = size
    sheet = Image.new("RGB", (4 * (width + gap_px) + gap_px, rows * (height + gap_px) + gap_px), (32, 32, 32))
    for row in range(rows):
        cells = (to_image(pair.source[row]), pose_picture(pair.target_pose[row]), to_image(image[row]), to_image(pair.target[row]))
        for column, cell in enumerate(cells):
            sheet.paste(cell, (gap_px + column * (width + gap_px), gap_px + row * (height + gap_px)))
    return sheet


def to_image(tensor: Tensor) -> Image:
    """Turn one image (3, H, W) in [−1, 1] into a picture."""
    from PIL import Image

    pixels = ((tensor.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
