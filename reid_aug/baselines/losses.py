"""What a Re-ID baseline minimises, image by image: some images count less, or say less about who they show."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed_cross_entropy(logits: Tensor, targets: Tensor, smoothing: Tensor, weight: Tensor | None = None) -> Tensor:
    """Average weight · cross-entropy over the batch; logits (B, C), targets (B,), smoothing (B,) from 0 to 1, weight (B,).

    An image's smoothing ε moves that much of its target from its class to all classes evenly: 0.1 is label smoothing
    (Szegedy et al. 2016), 1 is LSRO's uniform label, which says nothing of who is seen (Zheng et al. 2017, eq. 4).

    >>> logits, targets = torch.tensor([[0.0, 1.0986]]), torch.tensor([1])  # probabilities ¼ and ¾
    >>> [round(float(smoothed_cross_entropy(logits, targets, torch.tensor([smoothing]))), 3) for smoothing in (0.0, 1.0)]
    [0.288, 0.837]
    """
    log_p = F.log_softmax(logits, dim=1)
    of_target = -log_p.gather(1, targets[:, None])[:, 0]
    losses = (1 - smoothing) * of_target - smoothing * log_p.mean(dim=1)
    return (losses if weight is None else losses * weight).mean()


def batch_hard_triplet(
    features: Tensor, labels: Tensor, margin: float, *, known: Tensor | None = None, weight: Tensor | None = None
) -> Tensor:
    """Measure the triplet loss with the hardest positive and negative of the batch (Hermans et al. 2017); features (B, D).

    Images whose identity is not `known` (B,) bool are left out altogether; an anchor's loss counts `weight` (B,).
    An anchor is its own positive at distance 0 where it has no other; without a negative it costs nothing.

    >>> features, labels = torch.tensor([[0.0], [1.0], [3.0]]), torch.tensor([0, 0, 1])
    >>> round(float(batch_hard_triplet(features, labels, margin=2.5)), 3)  # (1 − 3 + 2.5, 1 − 2 + 2.5, 0 − 2 + 2.5) / 3
    0.833
    """
    known = torch.ones_like(labels, dtype=torch.bool) if known is None else known
    squares = features.square().sum(1)
    distances = (squares[:, None] + squares - 2 * features @ features.t()).clamp(min=1e-12).sqrt()
    same = labels[:, None] == labels
    hardest_positive = distances.masked_fill(~(same & known), -torch.inf).amax(1)
    hardest_negative = distances.masked_fill(same | ~known, torch.inf).amin(1)
    # An image that is left out has no positive either; 0 in its place keeps nan out of the gradients.
    losses = F.relu(torch.where(known, hardest_positive, 0.0) - hardest_negative + margin)
    share = known.to(losses.dtype) if weight is None else known * weight
    return (losses * share).sum() / known.sum().clamp(min=1)
