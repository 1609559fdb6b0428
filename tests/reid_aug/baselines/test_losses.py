"""Losses of the Re-ID baseline against torch's, torchreid's and the hand's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchreid import losses as torchreid_losses

from reid_aug.baselines.losses import batch_hard_triplet, smoothed_cross_entropy


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_cross_entropy_is_torchs(epsilon: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(9, 5, dtype=dtype), torch.randint(0, 5, (9,))
    loss = smoothed_cross_entropy(logits, targets, torch.full((9,), epsilon, dtype=dtype))
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets, label_smoothing=epsilon))


def test_every_image_has_its_own_smoothing_and_weight() -> None:
    torch.manual_seed(1)
    logits, targets = torch.randn(3, 4), torch.tensor([0, 3, 1])
    parts = [F.cross_entropy(logits[i : i + 1], targets[i : i + 1], label_smoothing=e) for i, e in enumerate((0.0, 0.1, 1.0))]
    loss = smoothed_cross_entropy(logits, targets, torch.tensor([0.0, 0.1, 1.0]), torch.tensor([1.0, 0.5, 2.0]))
    torch.testing.assert_close(loss, (parts[0] + 0.5 * parts[1] + 2 * parts[2]) / 3)


def test_lsros_label_is_even_over_all_identities() -> None:
    """Equation 4 of Zheng et al. 2017 by hand: −1/K Σ log p, whatever the target."""
    logits = torch.tensor([[0.0, math.log(3.0)]])  # p = ¼, ¾
    for target in (0, 1):
        loss = smoothed_cross_entropy(logits, torch.tensor([target]), torch.ones(1))
        assert float(loss) == pytest.approx(-0.5 * (math.log(0.25) + math.log(0.75)))


@pytest.mark.parametrize("instances", [1, 2, 4])
def test_triplet_is_torchreids(instances: int) -> None:
    torch.manual_seed(2)
    labels = torch.arange(5).repeat_interleave(instances)
    features = torch.randn(len(labels), 7, dtype=torch.float64, requires_grad=True)
    copy = features.detach().clone().requires_grad_()
    loss, reference = batch_hard_triplet(features, labels, 0.3), torchreid_losses.TripletLoss(0.3)(copy, labels)
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(features.grad, copy.grad)


def test_unknown_identities_are_left_out_of_triplets() -> None:
    torch.manual_seed(3)
    labels, known = torch.tensor([0, 0, 1, 1, 0, 1]), torch.tensor([True] * 4 + [False] * 2)
    features = torch.randn(6, 4, requires_grad=True)
    loss = batch_hard_triplet(features, labels, 0.3, known=known)
    torch.testing.assert_close(loss, torchreid_losses.TripletLoss(0.3)(features[:4], labels[:4]))
    loss.backward()
    assert features.grad is not None and bool((features.grad[4:] == 0).all()) and bool(features.grad.isfinite().all())


def test_nobody_known_and_one_identity_cost_nothing() -> None:
    features = torch.randn(4, 3, requires_grad=True)
    for labels, known in ((torch.tensor([0, 0, 1, 1]), torch.zeros(4, dtype=torch.bool)), (torch.zeros(4, dtype=torch.long), None)):
        loss = batch_hard_triplet(features, labels, 0.3, known=known)
        assert float(loss.detach()) == 0
        loss.backward()
    assert features.grad is not None and bool(features.grad.isfinite().all())


def test_an_anchors_weight_scales_its_loss() -> None:
    torch.manual_seed(4)
    features, labels = torch.randn(6, 4), torch.arange(3).repeat_interleave(2)
    whole = batch_hard_triplet(features, labels, 5.0)
    torch.testing.assert_close(batch_hard_triplet(features, labels, 5.0, weight=torch.full((6,), 0.25)), whole / 4)
