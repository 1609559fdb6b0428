"""Layers that two papers or more share."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F


class ResidualBlock(nn.Module):
    """Two 3 × 3 conv-ReLU and an identity: PG2's simplified residual block (Ma et al. 2017, §3.1)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, width, H, W) → the same
        return x + F.relu(self.second(F.relu(self.first(x))))


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
