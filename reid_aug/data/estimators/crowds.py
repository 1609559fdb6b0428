"""Crops of people as detectors cut them out of crowds: shifted, cut off, before clutter, behind poles and other people.

Differs from augmentation on images alone where figures are cut out (four channels, the last of which says where the person is):
these are put before other places and people.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from pydantic import AfterValidator, Field
from torch import Generator, Tensor
from torch.nn import functional as F

from generators import openpose_18
from reid_aug.config import Config
from reid_aug.data.estimators.camera_faults import compressed, fewer_pixels, noisy, relit, uniform

Share = Annotated[float, Field(ge=0, le=1)]


def _from_low_to_high(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1] < float("inf"):
        raise ValueError(f"from low to high, both above 0, got {list(interval)}")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_from_low_to_high)]


class RoughConfig(Config):
    """How rough crops are made, at random; what needs figures that are cut out says so."""

    scale: Interval = (0.85, 1.08)  # Smallest and largest factor of size, of crops that show the whole person.
    stretch: Interval = (0.95, 1.45)  # Smallest and largest factor of width beside that: crops are resized to one shape.
    cut: Share = 0.2  # Share of crops that are enlarged, so that feet, head or a side are cut off.
    cut_scale: Interval = (1.05, 1.7)  # Smallest and largest factor of size of those.
    shift: Share = 0.06  # Deviation of the shift, in heights and widths.
    turn_deg: Annotated[float, Field(ge=0, le=90)] = 4.0  # Deviation of the turn.
    behind: Share = 0.4  # Share of figures that another person is behind.
    in_front: Share = 0.12  # Share of figures that another person is partly in front of.
    nobody: Share = 0.03  # Share of crops with no figure in them, all joints of which are nowhere.
    objects: Share = 0.25  # Share of crops with a pole, a bag or the like in front.
    light: Annotated[float, Field(ge=0, le=2)] = 0.7  # Strength of changes of light and colours, 0 none.
    least_height_px: Annotated[int, Field(ge=8)] = 56  # Fewest rows of pixels of a blurred crop.
    noise: Share = 0.03  # Largest deviation of noise, of a range of 1.
    least_quality: Annotated[int, Field(ge=1, le=100)] = 40  # Least quality of JPEG.


class Crops(NamedTuple):
    """N people to learn from, uint8 (N, 3, H, W), or (N, 4, H, W) of figures that are cut out: colours times alpha, and alpha.

    `xy` (N, 18, 2) are joints of openpose_18 in their pixels, `seen` (N, 18) which are known, hidden ones among them.
    `places` (P, 3, h, w), larger than the images, are what figures are put before.
    """

    pixels: Tensor
    xy: Tensor
    seen: Tensor
    places: Tensor | None = None


def rough_batch(crops: Crops, count: int, config: RoughConfig, rng: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Sample `count` crops and make them rough: images (B, 3, H, W) in [0, 1], joints (B, 18, 2), and which are in the image.

    Everything random is the generator's, so that the same generator gives the same batch; all is done on its device.
    """
    height, width = crops.pixels.shape[-2:]
    rows = torch.randint(len(crops.pixels), (count,), generator=rng, device=rng.device)
    matrices = _placements(count, (height, width), config, rng)
    layers = moved(_floats(crops, rows), matrices)
    xy, seen = _moved_joints(crops.xy[rows], crops.seen[rows], matrices, (height, width))
    images = layers[:, :3]
    if layers.shape[1] == 4:
        first = round(config.behind * count)
        empty = slice(first, first + round(config.nobody * count))  # the first have somebody behind: a person, if not theirs
        layers[empty], seen[empty] = 0, False
        images = _in_crowds(layers, crops, config, rng)
    # Rows that lie together have things in common, such as a person behind or one resolution: shuffled, those are no pairs.
    order = torch.randperm(count, generator=rng, device=rng.device)
    images = _behind_objects(images[order], config, rng)
    images = relit(images, rng, config.light) if config.light else images
    again = torch.randperm(count, generator=rng, device=rng.device)
    images, order = fewer_pixels(images[again], rng, config.least_height_px), order[again]
    images = noisy(images, rng, config.noise)
    quality = uniform(config.least_quality, 100, (count,), rng).floor()
    return compressed(images, quality), xy[order], seen[order]


def _floats(crops: Crops, rows: Tensor) -> Tensor:
    """Take images of these rows as floats in [0, 1]; they may lie on another device than where they are made rough."""
    picked = crops.pixels[rows.to(crops.pixels.device)]
    return picked.to(rows.device, torch.float32).div_(255)


def _placements(count: int, size: tuple[int, int], config: RoughConfig, rng: Generator) -> Tensor:
    """Sample where figures land: matrices (B, 2, 3) from pixels of the figure to pixels of the crop; a negative width mirrors it."""
    cut = uniform(0, 1, (count,), rng) < config.cut
    scale = torch.where(cut, _between(config.cut_scale, count, rng), _between(config.scale, count, rng))
    mirrored = torch.where(uniform(0, 1, (count,), rng) < 0.5, -1.0, 1.0)
    wide = scale.clamp(max=1.4) * _between(config.stretch, count, rng) * mirrored
    shift = torch.randn(count, 2, generator=rng, device=rng.device).clamp(-2.5, 2.5) * config.shift
    # Of what is enlarged, the head stays more often than the feet.
    over = (scale - 1).clamp(min=0) / 2
    side = uniform(0, 1, (count,), rng)
    shift[:, 1] += torch.where(cut, over * torch.where(side < 0.6, 1.0, torch.where(side < 0.85, -1.0, 0.0)), 0.0)
    turn = torch.randn(count, generator=rng, device=rng.device).clamp(-2.5, 2.5) * (config.turn_deg * torch.pi / 180)
    return _matrices(scale, wide, turn, shift, size)


def _between(interval: tuple[float, float], count: int, rng: Generator) -> Tensor:
    """Sample factors, (B,): as likely twice as half."""
    low, high = interval
    return low * (high / low) ** uniform(0, 1, (count,), rng)


def _matrices(tall: Tensor, wide: Tensor, turn: Tensor, shift: Tensor, size: tuple[int, int]) -> Tensor:
    """Build matrices (B, 2, 3) that scale and turn about the middle of images of `size`, then shift, in shares of them."""
    middle = turn.new_tensor(((size[1] - 1) / 2, (size[0] - 1) / 2))
    cos, sin = turn.cos(), turn.sin()
    linear = torch.stack((torch.stack((cos * wide, -sin * tall), -1), torch.stack((sin * wide, cos * tall), -1)), -2)
    move = middle + shift * turn.new_tensor((size[1], size[0])) - (linear @ middle[:, None])[..., 0]
    return torch.cat((linear, move[..., None]), -1)


def moved(layers: Tensor, matrices: Tensor) -> Tensor:
    """Move images (B, C, H, W) by matrices (B, 2, 3) from old pixels to new ones.

    What was outside is nothing where there are four channels, else the image's edge goes on.
    """
    height, width = layers.shape[-2:]
    (a, b), (c, d) = (row.unbind(-1) for row in matrices[..., :2].unbind(-2))
    back = torch.stack((d, -b, -c, a), -1).unflatten(-1, (2, 2)) / _determinant(matrices)[:, None, None]
    # grid_sample counts from −1 to 1 over pixels' outer edges.
    half = matrices.new_tensor((width / 2, height / 2))
    middle = half - 0.5
    linear = back * half / half[:, None]
    move = ((back @ (middle - matrices[..., 2])[..., None])[..., 0] - middle) / half
    grid = F.affine_grid(torch.cat((linear, move[..., None]), -1), list(layers.shape), align_corners=False)
    return F.grid_sample(layers, grid, padding_mode="zeros" if layers.shape[1] == 4 else "border", align_corners=False)


def _determinant(matrices: Tensor) -> Tensor:
    """Give the determinants of matrices (B, 2, 3), (B,); unlike torch.linalg's, without making a GPU wait."""
    return matrices[:, 0, 0] * matrices[:, 1, 1] - matrices[:, 0, 1] * matrices[:, 1, 0]


def _moved_joints(xy: Tensor, seen: Tensor, matrices: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Move joints (B, 18, 2) with their images; those outside are not seen, and left is right where the image is mirrored."""
    mirrored = _determinant(matrices) < 0
    swap = torch.tensor(openpose_18.mirror, device=xy.device)
    xy = torch.where(mirrored[:, None, None], xy[:, swap], xy)
    seen = torch.where(mirrored[:, None], seen[:, swap], seen)
    xy = xy @ matrices[..., :2].transpose(1, 2) + matrices[:, None, :, 2]
    inside = ((xy >= -0.5) & (xy < xy.new_tensor((size[1], size[0])) - 0.5)).all(-1)
    return xy, seen & inside


# ------------------------------------------------------------------------------------------------------- the scene


def _in_crowds(layers: Tensor, crops: Crops, config: RoughConfig, rng: Generator) -> Tensor:
    """Put figures (B, 4, H, W) before places, with other people behind some and in front of others: (B, 3, H, W)."""
    count = len(layers)
    images = _backgrounds(layers, crops.places, rng)
    behind = round(config.behind * count)
    if behind:
        images[:behind] = _over(images[:behind], _others(crops, behind, rng, layers))
    figures = torch.cat((layers[:, :3] * uniform(-0.35, 0.3, (count, 1, 1, 1), rng).exp(), layers[:, 3:]), 1)
    images = _over(images, figures)
    in_front = round(config.in_front * count)
    if in_front:  # mostly of others than those with somebody behind
        images[-in_front:] = _over(images[-in_front:], _others(crops, in_front, rng, layers, aside=0.6))
    return images


def _over(images: Tensor, layers: Tensor) -> Tensor:
    return images * (1 - layers[:, 3:]) + layers[:, :3]


def _others(crops: Crops, count: int, rng: Generator, like: Tensor, aside: float = 0.35) -> Tensor:
    """Sample other people (N, 4, H, W), `aside` widths or more from the middle."""
    rows = torch.randint(len(crops.pixels), (count,), generator=rng, device=rng.device)
    ways = torch.where(uniform(0, 1, (count,), rng) < 0.5, -1.0, 1.0)
    shift = torch.stack((ways * uniform(aside, aside + 0.4, (count,), rng), uniform(-0.25, 0.2, (count,), rng)), -1)
    scale = _between((0.6, 1.2), count, rng)
    figures = moved(_floats(crops, rows), _matrices(scale, scale, torch.zeros_like(scale), shift, (like.shape[2], like.shape[3])))
    return torch.cat((figures[:, :3] * uniform(-0.6, 0.2, (count, 1, 1, 1), rng).exp(), figures[:, 3:]), 1)


def _backgrounds(layers: Tensor, places: Tensor | None, rng: Generator) -> Tensor:
    """Make backgrounds (B, 3, H, W): a place, or two that shine through each other, with boards and stripes before them."""
    count, _, height, width = layers.shape
    if places is None:
        images = uniform(0, 1, (count, 3, 1, 1), rng).repeat(1, 1, height, width)
    else:
        images = _windows(places, count, (height, width), rng)
        both = count // 2
        other = _windows(places, both, (height, width), rng)
        images[:both] += uniform(0, 1, (both, 1, 1, 1), rng) * (other - images[:both])
    for third in (0, 0, 1, 1, 1, 2):
        rows = slice(third * count // 3, (third + 1) * count // 3)
        images[rows] = _with_shape(images[rows], rng, (0.04, 0.5), (0.05, 1.0))
    return images


def _windows(places: Tensor, count: int, size: tuple[int, int], rng: Generator) -> Tensor:
    """Take a window of a place for each image, nearer or further, mirrored or not, (B, 3, H, W) in [0, 1]."""
    zoom = uniform(0.5, 1.2, (count,), rng)
    chosen = torch.randint(len(places), (count,), generator=rng, device=rng.device)

    def along(length: int, room: int) -> Tensor:
        first = uniform(0, 1, (count,), rng) * (room - 1 - zoom * (length - 1)).clamp(min=0)
        at = (first[:, None] + zoom[:, None] * torch.arange(length, device=rng.device)).long()
        return at.clamp(max=room - 1)

    y, x = along(size[0], places.shape[2]), along(size[1], places.shape[3])
    x = torch.where(uniform(0, 1, (count, 1), rng) < 0.5, x, x.flip(1))
    return places[chosen[:, None, None], :, y[:, :, None], x[:, None, :]].permute(0, 3, 1, 2).float() / 255


def clouds(count: int, size: tuple[int, int], rng: Generator) -> Tensor:
    """Make clouds of colours, coarse and fine, as further places: uint8 (P, 3, h, w)."""
    images = uniform(0.05, 0.95, (count, 1, 1, 1), rng) + uniform(-0.15, 0.15, (count, 3, 1, 1), rng)
    for cell_px, mode in ((48, "bilinear"), (16, "bilinear"), (6, "nearest"), (2, "bilinear")):
        cells = (-(-size[0] // cell_px), -(-size[1] // cell_px))
        noise = uniform(-1, 1, (count, 1, *cells), rng) + 0.35 * uniform(-1, 1, (count, 3, *cells), rng)
        noise = noise * uniform(0, 0.35, (count, 1, 1, 1), rng)
        images = images + F.interpolate(noise, size, mode=mode, align_corners=False if mode == "bilinear" else None)
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def _behind_objects(images: Tensor, config: RoughConfig, rng: Generator) -> Tensor:
    """Put poles in front of some images, bags or boards in front of as many others."""
    some = round(len(images) * config.objects / 2)
    rest = images[: len(images) - 2 * some]
    poles = _with_shape(images[len(rest) : len(rest) + some], rng, (0.03, 0.12), (0.5, 1.5))
    return torch.cat((rest, poles, _with_shape(images[len(rest) + some :], rng, (0.1, 0.45), (0.06, 0.3))))


def _with_shape(images: Tensor, rng: Generator, wide: tuple[float, float], tall: tuple[float, float]) -> Tensor:
    """Paint one shape into each image: a rectangle or an ellipse, slanted, of one shaded colour.

    `wide` and `tall` are from and to, in widths and heights of the image.
    """
    count, _, height, width = images.shape
    y = torch.linspace(0, 1, height, device=images.device)[:, None] - uniform(-0.1, 1.1, (count, 1, 1), rng)
    x = torch.linspace(0, 1, width, device=images.device) - uniform(-0.1, 1.1, (count, 1, 1), rng)
    lean = uniform(-0.25, 0.25, (count, 1, 1), rng)
    across = (x + lean * y * height / width) / (_between(wide, count, rng)[:, None, None] / 2)
    down = y / (_between(tall, count, rng)[:, None, None] / 2)
    boxes = uniform(0, 1, (count, 1, 1), rng) < 0.6
    inside = torch.where(boxes, torch.maximum(across.abs(), down.abs()), (across.square() + down.square()).sqrt()) < 1
    colour = uniform(0, 1, (count, 1, 1, 1), rng) + uniform(-0.2, 0.2, (count, 3, 1, 1), rng)
    shade = (1 + 0.25 * uniform(-1, 1, (count, 1, 1, 1), rng) * across.clamp(-1, 1)[:, None]) * colour
    return torch.where(inside[:, None], shade.clamp(0, 1), images)
