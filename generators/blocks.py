"""Layers that two papers or more share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def halving_size(name: str, size: Sequence[int], rows: int) -> tuple[int, int]:
    """Return a size (H, W) that halves down to `rows` rows and whole columns; ValueError, which names the model, for any other.

    >>> halving_size("pg2", [128, 64], rows=8)
    (128, 64)
    """
    h, w = (int(side) for side in size)
    if h < 32 or h & (h - 1) or w <= 0 or w % (h // rows):
        raise ValueError(f"{name} takes a height of 32, 64, 128, 256 … and a width divisible by height / {rows}, got {(h, w)}")
    return h, w


class ResidualBlock(nn.Module):
    """Two 3 × 3 conv-ReLU and an identity: PG2's simplified residual block (Ma et al. 2017, §3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, width, H, W) → the same
        return x + F.relu(self.second(F.relu(self.first(x))))


class ResidualEncoder(nn.Module):
    """PG2's encoder: N levels of a residual block, of width w, 2w, …, N·w, each but the last halved by a convolution of stride 2."""

    def __init__(self, channels: int, size: tuple[int, int], width: int) -> None:
        super().__init__()
        levels = int(math.log2(size[0])) - 2
        self.small = (size[0] >> (levels - 1), size[1] >> (levels - 1))  # (8, 4) at 128 × 64
        self.widths = [width * (i + 1) for i in range(levels)]
        self.start = nn.Conv2d(channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(w) for w in self.widths)
        pairs = zip(self.widths, self.widths[1:], strict=False)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)

    def encode(self, x: Tensor) -> list[Tensor]:  # (B, channels, H, W) → (B, w · (i + 1), H >> i, W >> i) per level i
        x, levels = F.relu(self.start(x)), []
        for level, block in enumerate(self.encoder):
            x = block(x)
            levels.append(x)
            if level < len(self.down):
                x = F.relu(self.down[level](x))
        return levels

    @property
    def flat(self) -> int:
        """Return how many numbers the deepest level's features have."""
        return self.widths[-1] * self.small[0] * self.small[1]


class ResidualUNet(ResidualEncoder):
    """A residual encoder and the decoder that mirrors it; a subclass makes the bottleneck, then calls `add_decoder`."""

    def add_decoder(self, joined: int) -> None:
        """Add the decoder, whose deepest block takes `joined` channels; after the bottleneck, so that a seed gives the same weights."""
        skips = self.widths[::-1]
        widths = [joined, *(2 * skip for skip in skips[1:])]  # a 1 × 1 convolution brings what is below to the skip's width
        self.decoder = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(widths, skips[1:], strict=False))
        self.end = nn.Conv2d(widths[-1], 3, 3, padding=1)

    def decode(self, x: Tensor, skips: list[Tensor]) -> Tensor:
        """Decode (B, joined, h, w) and the skips of all levels but the deepest to an image (B, 3, H, W)."""
        x = self.decoder[0](x)
        for block, up, skip in zip(list(self.decoder)[1:], self.up, reversed(skips), strict=True):
            # The paper's 1 × 1 convolution after nearest upsampling commutes with it: a quarter of the work before.
            x = F.interpolate(F.relu(up(x)), scale_factor=2.0, mode="nearest")
            x = block(torch.cat((x, skip), dim=1))
        return self.end(x)


class PoseEncoder(ResidualEncoder):
    """Maps of a pose (B, K, H, W) → a code (B, bottleneck): PG2's heatmap embedding (HME), VDG's encoder of the target."""

    def __init__(self, joints: int, size: tuple[int, int], width: int, bottleneck: int) -> None:
        super().__init__(joints, size, width)
        self.squeeze = nn.Linear(self.flat, bottleneck)

    def forward(self, discs: Tensor) -> Tensor:
        return self.squeeze(self.encode(discs)[-1].flatten(1))


class DCGANDiscriminator(nn.Module):
    """5 × 5 stride-2 convolutions, LeakyReLU 0.2, batch norm but on the first, one logit (B,) (Radford et al. 2015).

    Halves the image until it is 8 rows high: four convolutions at 128 × 64, five at 256 × 256.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 64) -> None:
        super().__init__()
        downs = int(math.log2(size[0])) - 3
        widths = [width * min(2**i, 8) for i in range(downs)]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip([channels, *widths], widths, strict=False)):
            layers += [nn.Conv2d(before, after, 5, stride=2, padding=2)]
            layers += [nn.BatchNorm2d(after)] if i else []
            layers += [nn.LeakyReLU(0.2)]
        self.features = nn.Sequential(*layers)
        self.logit = nn.Linear(widths[-1] * (size[0] >> downs) * (size[1] >> downs), 1)

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) → (B,)
        return self.logit(self.features(x).flatten(1)).squeeze(1)


def glorot_uniform(layer: nn.Module) -> None:
    """Give a convolution or linear layer Glorot's uniform weights and no bias, Keras' way to begin (for `nn.Module.apply`)."""
    if isinstance(layer, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
