"""A small ResNet of dense convolutions for small images: what a CPU computes fast, where depthwise convolutions leave it waiting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 × 3 convolutions around a shortcut (He et al. 2016), which is a 1 × 1 convolution where size or width changes."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.first, self.first_norm = nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after)
        self.second, self.second_norm = nn.Conv2d(after, after, 3, padding=1, bias=False), nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if before != after or stride != 1:
            self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))

    def forward(self, x: Tensor) -> Tensor:
        inside = F.relu(self.first_norm(self.first(x)))
        return F.relu(self.second_norm(self.second(inside)) + self.shortcut(x))


class SmallResNet(nn.Module):
    """A 3 × 3 stem of stride 2 and four blocks; the last map is an eighth of the image's size, a sixteenth at `last_stride` 2.

    Features are the sum of the map's mean, which says how much there is of something, and maximum, which says whether there is any.
    """

    def __init__(self, classes: int, widths: Sequence[int] = (32, 64, 128, 256), last_stride: int = 1) -> None:
        super().__init__()
        first, second, third, fourth = widths
        # Stages by the names that torchreid's OSNet has for its own.
        self.conv1 = nn.Sequential(nn.Conv2d(3, first, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU())
        self.conv2, self.conv3 = BasicBlock(first, first, 1), BasicBlock(first, second, 2)
        self.conv4, self.conv5 = BasicBlock(second, third, 2), BasicBlock(third, fourth, last_stride)
        self.classifier = nn.Linear(fourth, classes)

    def forward(self, images: Tensor) -> Any:  # (B, 3, H, W) → features (B, widths[3]); in training, logits and features
        x = self.conv5(self.conv4(self.conv3(self.conv2(self.conv1(images)))))
        features = x.mean((2, 3)) + x.amax((2, 3))
        return (self.classifier(features), features) if self.training else features
