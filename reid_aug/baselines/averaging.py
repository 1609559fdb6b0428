"""A moving average of a network's weights over its training: smoother than where the last step left them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def decay_at(decay: float, step: int) -> float:
    """Give how much of the average is kept at a step (0-based): less at first, so that random weights are soon forgotten.

    >>> [round(decay_at(0.99, step), 3) for step in (0, 8, 10_000)]
    [0.1, 0.5, 0.99]
    """
    return min(decay, (1 + step) / (10 + step))


class MovingAverage:
    """The exponential moving average of a network's weights and of its batch normalisation's statistics (Polyak & Juditsky 1992)."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay, self.of_model = decay, _numbers(model)
        self.averages = [value.clone() for value in self.of_model]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after a step (0-based)."""
        for average, value in zip(self.averages, self.of_model, strict=True):
            average.lerp_(value, 1 - decay_at(self.decay, step))

    @torch.no_grad()
    def fill_in(self) -> None:
        """Put the average in place of the network's weights."""
        for average, value in zip(self.averages, self.of_model, strict=True):
            value.copy_(average)


def _numbers(model: nn.Module) -> list[Tensor]:
    """List what of a network can be averaged, which counters of batches can't."""
    return [value for value in model.state_dict().values() if value.is_floating_point()]
