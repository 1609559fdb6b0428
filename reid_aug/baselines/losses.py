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


class CentreLoss:
    """The centre loss: how far features (B, D) lie from their identity's centre, and the centres (C, D), which follow them.

    `reduction` "sum" is Wen et al. 2016: half the sum of squared distances (eq. 2), and a centre goes `rate` of
    Σ (c − x) / (1 + n) towards the n features of its identity (eq. 4). "mean-released" is the code of Luo et al. 2019: the
    mean of squared distances, and a step of SGD at `rate` on it. Neither step knows the loss' weight.
    """

    def __init__(self, centres: Tensor, rate: float = 0.5, reduction: str = "sum") -> None:
        self.centres, self.rate, self.reduction = centres.detach().clone(), rate, reduction

    def __call__(self, features: Tensor, labels: Tensor, *, known: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Measure the loss against the centres as they are, a scalar, then move these.

        Images whose identity is not `known` (B,) bool are left out of both; others count `weight` (B,) in both.

        >>> loss = CentreLoss(torch.tensor([[0.0, 0.0], [9.0, 9.0]]))
        >>> float(loss(torch.tensor([[3.0, 4.0]]), torch.tensor([0]))), loss.centres.tolist()  # 25 / 2, and ½ · (3, 4) / 2
        (12.5, [[0.75, 1.0], [9.0, 9.0]])
        """
        share = features.new_ones(len(features)) if known is None else known.to(features.dtype)
        count = share.sum().clamp(min=1)
        share = share if weight is None else share * weight
        squares = (features - self.centres[labels]).square().sum(1) * share
        self._follow(features.detach(), labels, share, count)
        return squares.sum() / 2 if self.reduction == "sum" else squares.sum() / count

    @torch.no_grad()
    def _follow(self, features: Tensor, labels: Tensor, share: Tensor, count: Tensor) -> None:
        away = (self.centres[labels] - features) * share[:, None]
        step = torch.zeros_like(self.centres).index_add_(0, labels, away)
        if self.reduction == "sum":
            step /= 1 + share.new_zeros(len(step)).index_add_(0, labels, share)[:, None]
        else:
            step *= 2 / count
        self.centres.sub_(step, alpha=self.rate)
