"""Scores of sets against torch-fidelity, torchmetrics and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from reid_aug.quality.distributions import frechet_distance, inception_score, kernel_distance
from reid_aug.quality.networks import NotMeasurable


def features(count: int, length: int, seed: int, shift: float = 0.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    mix = torch.randn(length, length, generator=rng) / length**0.5
    return torch.randn(count, length, generator=rng) @ mix + shift


class TestInceptionScore:
    @pytest.mark.parametrize(("count", "splits"), [(40, 10), (37, 10), (5, 1), (10, 10)])
    def test_equals_torch_fidelity(self, count: int, splits: int) -> None:
        from torch_fidelity.metric_isc import isc_features_to_metric

        logits = 3 * features(count, 20, 0)
        expected = isc_features_to_metric(logits.double(), splits, shuffle=False)
        mean, std = inception_score(logits, splits)
        assert mean == pytest.approx(expected["inception_score_mean"], abs=1e-9)
        assert std == pytest.approx(expected["inception_score_std"], abs=1e-9)

    def test_one_repeated_image_has_one(self) -> None:
        assert inception_score(torch.randn(1, 8).expand(30, 8), 10) == (pytest.approx(1.0), pytest.approx(0.0, abs=1e-9))

    def test_sure_and_even_over_classes_is_their_number(self) -> None:
        assert inception_score(1e4 * torch.eye(6).repeat(5, 1), 5)[0] == pytest.approx(6.0)

    def test_too_few_images_are_refused(self) -> None:
        with pytest.raises(NotMeasurable, match="10 splits takes as many images at least, got 9"):
            inception_score(torch.zeros(9, 3), 10)


class TestFrechet:
    @pytest.mark.parametrize(("n", "m"), [(300, 200), (20, 400), (12, 9)])
    def test_equals_torchmetrics_and_torch_fidelity(self, n: int, m: int) -> None:
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        a, b = features(n, 16, 1), features(m, 16, 2, shift=0.3)
        stats = [{"mu": x.double().numpy().mean(0), "sigma": np.cov(x.double().numpy(), rowvar=False)} for x in (a, b)]
        expected = fid_statistics_to_metric(stats[0], stats[1], False)["frechet_inception_distance"]
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)

    @pytest.mark.parametrize("count", [5, 300])
    def test_of_a_set_with_itself_is_nought(self, count: int) -> None:
        a = features(count, 64, 3)
        assert frechet_distance(a, a) == pytest.approx(0.0, abs=1e-9)
        assert frechet_distance(a, a.flip(0)) == pytest.approx(0.0, abs=1e-9)

    def test_closed_form_of_scaled_and_shifted_gaussians(self) -> None:
        # Σ_b = s² Σ_a: the distance is |shift|² + (s − 1)² tr Σ_a.
        a = features(500, 8, 4).double()
        trace = torch.cov(a.T).trace()
        assert frechet_distance(a, 3 * a) == pytest.approx(float((2 * a.mean(0)).square().sum() + 4 * trace), rel=1e-9)
        assert frechet_distance(a, a + 2.0) == pytest.approx(8 * 4.0, rel=1e-9)

    def test_one_dimension(self) -> None:
        a, b = torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]])
        assert frechet_distance(a, b) == pytest.approx(16 + 2)  # means 1 and 5, variances 2 and 0

    @pytest.mark.parametrize(
        ("a", "b", "complaint"),
        [
            (torch.zeros(1, 3), torch.zeros(4, 3), "two images a set at least, got 1 in the first"),
            (torch.zeros(4, 3), torch.zeros(4, 2), "as long, got 3 and 2"),
            (torch.zeros(4, 3), torch.full((4, 3), math.nan), "finite, got 12 values that are not"),
            (torch.zeros(0, 3), torch.zeros(4, 3), "N of 1 at least"),
        ],
    )
    def test_what_has_no_distance(self, a: Tensor, b: Tensor, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            frechet_distance(a, b)


class TestKernel:
    def test_whole_sets_by_the_definition(self) -> None:
        a, b = features(30, 6, 5).double(), features(30, 6, 6, shift=0.5).double()

        def kernel(x: Tensor, y: Tensor) -> float:
            return (float(x @ y) / 6 + 1) ** 3

        def mean(xs: Tensor, ys: Tensor, same: bool) -> float:
            return float(np.mean([kernel(x, y) for i, x in enumerate(xs) for j, y in enumerate(ys) if not (same and i == j)]))

        expected = mean(a, a, True) + mean(b, b, True) - 2 * mean(a, b, False)
        value, std = kernel_distance(a, b, subsets=3, subset_size=1000)
        assert value == pytest.approx(expected, rel=1e-6) and std == pytest.approx(0.0, abs=1e-9)

    def test_the_same_every_time_and_the_callers_randomness_left_alone(self) -> None:
        a, b = features(50, 6, 7), features(60, 6, 8)
        torch.manual_seed(1)
        before = torch.random.get_rng_state()
        first = kernel_distance(a, b, subsets=4, subset_size=20)
        assert torch.equal(torch.random.get_rng_state(), before)
        torch.manual_seed(2)
        assert kernel_distance(a, b, subsets=4, subset_size=20) == first

    def test_neither_order_of_images_draws_other_subsets(self) -> None:
        a, b = features(300, 6, 9), features(400, 6, 10, shift=0.2)
        first = kernel_distance(a, b, subsets=5, subset_size=40)
        assert kernel_distance(a, b, subsets=5, subset_size=40, seed=1) != first  # subsets matter
        rng = torch.Generator().manual_seed(0)
        for _ in range(3):
            mixed = a[torch.randperm(300, generator=rng)], b[torch.randperm(400, generator=rng)]
            assert kernel_distance(*mixed, subsets=5, subset_size=40) == first

    def test_keys_decide_where_rounding_would(self) -> None:
        # The last digits of features depend on the batch they were computed in; the images' own hashes don't.
        a, b = features(100, 6, 11), features(100, 6, 12)
        keys = [[bytes([i]) for i in torch.randperm(100, generator=torch.Generator().manual_seed(s)).tolist()] for s in (1, 2)]
        first, _ = kernel_distance(a, b, subsets=5, subset_size=20, keys=(keys[0], keys[1]))
        again, _ = kernel_distance(a * (1 + 1e-7), b.flip(0), subsets=5, subset_size=20, keys=(keys[0], keys[1][::-1]))
        assert again == pytest.approx(first, rel=1e-4)
        other, _ = kernel_distance(a * (1 + 1e-7), b, subsets=5, subset_size=20)
        assert other != pytest.approx(first, rel=1e-4)
        with pytest.raises(ValueError, match="a key for every row of features, got 99 for 100"):
            kernel_distance(a, b, keys=(keys[0][1:], keys[1]))

    def test_one_image_has_no_distance(self) -> None:
        for distance in (frechet_distance, kernel_distance):
            with pytest.raises(NotMeasurable, match="two images a set at least, got 1"):
                distance(features(1, 4, 0), features(9, 4, 0))
