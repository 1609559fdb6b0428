"""Pictures of poses and of what a generator makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from generators.base import PosePair
from generators.pose import Pose

if TYPE_CHECKING:
    from PIL.Image import Image

# Right side warm, left side cold, so that a mirrored pose can be told at a glance.
RIGHT, LEFT, MIDDLE = (255, 120, 60), (70, 160, 255), (240, 240, 90)
GROUND, TITLE_PX = (32, 32, 32), 14


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


def layer_sheet(pair: PosePair, layers: Mapping[str, Tensor], gap_px: int = 4) -> Image:
    """Lay out what images were put together from: for every pair, source and target with their poses, then a titled row a layer.

    `layers` are as `Generator.layers` gives them: maps (B, N, 1, h, w), white where they are 1, or images (B, N, 3, h, w).
    """
    from PIL import Image, ImageDraw

    height, width = pair.target_pose.size
    most = max(4, *(layer.shape[1] for layer in layers.values()))
    row_px, title_px = height + TITLE_PX + gap_px, (1 + len(layers)) * (height + TITLE_PX + gap_px) + gap_px
    sheet = Image.new("RGB", (most * (width + gap_px) + gap_px, len(pair) * title_px + gap_px), GROUND)
    write = ImageDraw.Draw(sheet)
    for index in range(len(pair)):
        source, target = to_image(pair.source[index]), to_image(pair.target[index])
        skeletons = (pose_picture(pair.source_pose[index], source), pose_picture(pair.target_pose[index], target))
        rows = {"source, its pose, target, its pose": [source, skeletons[0], target, skeletons[1]]}
        rows |= {name: [_cell(cell, (height, width)) for cell in layer[index]] for name, layer in layers.items()}
        for row, (name, cells) in enumerate(rows.items()):
            top = gap_px + index * title_px + row * row_px
            write.text((gap_px, top), name, fill=(220, 220, 220))
            for column, cell in enumerate(cells):
                sheet.paste(cell, (gap_px + column * (width + gap_px), top + TITLE_PX))
    return sheet


def _cell(layer: Tensor, size: tuple[int, int]) -> Image:
    """Picture a map (1, h, w) in [0, 1], or an image (3, h, w) in [−1, 1], at `size` (H, W)."""
    picture = to_image(layer if len(layer) == 3 else (2 * layer - 1).expand(3, -1, -1))
    return picture if picture.size == size[::-1] else picture.resize((size[1], size[0]))


def to_image(tensor: Tensor) -> Image:
    """Turn one image (3, H, W) in [−1, 1] into a picture."""
    from PIL import Image

    pixels = ((tensor.detach().float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
