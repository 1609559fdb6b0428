"""Loss terms that two papers or more share."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def masked_l1(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Average |image − target| · (1 + mask): the pose mask loss (Ma et al. 2017, eq. 1).

    Images (B, C, H, W), mask (B, 1, H, W) of 0 and 1; a scalar. The paper prints a sum; its code takes the mean.

    >>> image, target = torch.zeros(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
    >>> masked_l1(image, target, mask=torch.tensor([[[[0.0, 1.0]]]]))
    tensor(1.5000)
    """
    return ((image - target).abs() * (1 + mask)).mean()


def real_loss(logits: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits against "real", a scalar.

    >>> real_loss(torch.tensor([0.0, 0.0]))
    tensor(0.6931)
    """
    return F.binary_cross_entropy_with_logits(logits, torch.ones_like(logits))


def fake_loss(logits: Tensor) -> Tensor:
    """Return the binary cross-entropy of logits against "fake", a scalar.

    >>> fake_loss(torch.tensor([2.0]))
    tensor(2.1269)
    """
    return F.binary_cross_entropy_with_logits(logits, torch.zeros_like(logits))
