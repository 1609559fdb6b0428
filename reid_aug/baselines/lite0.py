"""EfficientNet-Lite0 as a Re-ID network: what starts from ImageNet's weights where no hub of models can be reached."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from generators import Lite0


class Lite0ReID(Lite0):
    """EfficientNet-Lite0 with the mean of its last map as features, and a classifier."""

    def __init__(self, classes: int, last_stride: int = 2) -> None:
        super().__init__(last_stride)
        self.classifier = nn.Linear(1280, classes)

    def forward(self, images: Tensor) -> Any:  # (B, 3, H, W) → features (B, 1280); in training, logits and features
        features = super().forward(images).mean((2, 3))
        return (self.classifier(features), features) if self.training else features
