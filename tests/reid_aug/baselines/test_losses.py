"""Losses of the Re-ID baseline against torch's, torchreid's and the hand's."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from torchreid import losses as torchreid_losses

from reid_aug.baselines.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [1, 9])
def test_centre_loss_is_half_the_squared_distances_and_its_gradient_the_way_to_the_centre(dtype: torch.dtype, count: int) -> None:
    """Equations 2 to 4 of Wen et al. 2016, one feature and one centre at a time."""
    torch.manual_seed(4)
    labels, centres = torch.randint(0, 4, (count,)), torch.randn(5, 6, dtype=dtype)
    features = torch.randn(count, 6, dtype=dtype, requires_grad=True)
    loss = CentreLoss(centres, rate=0.3)
    value = loss(features, labels)
    expected = sum(0.5 * float((x - centres[y]).square().sum()) for x, y in zip(features.detach(), labels, strict=True))
    assert value.item() == pytest.approx(expected, rel=1e-5) and value.dtype == dtype
    value.backward()
    torch.testing.assert_close(features.grad, features.detach() - centres[labels])
    for j in range(5):
        own = features.detach()[labels == j]
        torch.testing.assert_close(loss.centres[j], centres[j] - 0.3 * (centres[j] - own).sum(0) / (1 + len(own)))


def test_the_released_centre_loss_is_a_mean_and_sgd_moves_its_centres() -> None:
    """Autograd and torch's SGD on the mean of squared distances, as Luo et al. released it, for three steps."""
    torch.manual_seed(5)
    start, labels = torch.randn(3, 4), torch.tensor([0, 2, 2, 0, 2])
    centres = torch.nn.Parameter(start.clone())
    loss, sgd = CentreLoss(start, rate=0.5, reduction="mean-released"), torch.optim.SGD([centres], lr=0.5)
    for _ in range(3):
        features = torch.randn(5, 4, requires_grad=True)
        copy = features.detach().clone().requires_grad_()
        reference = (copy - centres[labels]).square().sum() / 5
        value = loss(features, labels)
        torch.testing.assert_close(value, reference)
        sgd.zero_grad()
        (5e-4 * reference).backward()
        assert centres.grad is not None
        centres.grad /= 5e-4  # which the code does, too
        sgd.step()
        (5e-4 * value).backward()
        torch.testing.assert_close(features.grad, copy.grad)
        torch.testing.assert_close(loss.centres, centres.detach())


@pytest.mark.parametrize("reduction", ["sum", "mean-released"])
def test_images_nobody_is_known_on_move_no_centre_and_light_ones_move_it_less(reduction: str) -> None:
    centres, features, labels = torch.zeros(2, 2), torch.tensor([[2.0, 0.0], [0.0, 4.0], [7.0, 7.0]]), torch.tensor([0, 1, 1])
    known, weight = torch.tensor([True, True, False]), torch.tensor([1.0, 0.5, 9.0])
    loss = CentreLoss(centres, 0.5, reduction)
    value = loss(features, labels, known=known, weight=weight)
    assert float(value) == (4 + 0.5 * 16) / 2  # half the sum, or the mean over the two who are known
    expected = [[0.5, 0.0], [0.0, 0.5 * 0.5 * 4 / 1.5]] if reduction == "sum" else [[1.0, 0.0], [0.0, 0.5 * 0.5 * 4]]
    torch.testing.assert_close(loss.centres, torch.tensor(expected))
    assert not centres.any(), "the caller's centres stay"
    assert float(CentreLoss(centres, 0.5, reduction)(features[2:], labels[2:], known=known[2:])) == 0
