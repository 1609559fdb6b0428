"""EfficientNet-Lite0 as a Re-ID network: what starts from ImageNet's weights where no hub of models can be reached."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from generators import Lite0

STAGES, WIDTH = 4, 112  # a grid of 8 × 4 at 64 × 32; the fifth stage's would be coarser, of 1,280 channels


class Lite0ReID(Lite0):
    """Four stages of EfficientNet-Lite0, with the sum of their last map's mean and maximum as features, and a classifier."""

    def __init__(self, classes: int, last_stride: int = 2) -> None:
        super().__init__(last_stride, stages=STAGES)
        self.classifier = nn.Linear(WIDTH, classes)

    def forward(self, images: Tensor) -> Any:  # (B, 3, H, W) → features (B, 112); in training, logits and features
        x = super().forward(images)
        features = x.mean((2, 3)) + x.amax((2, 3))
        return (self.classifier(features), features) if self.training else features
