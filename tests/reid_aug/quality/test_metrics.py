"""What metrics are given: batches whose parts do not fit, sets too small for a metric, and orders that must not matter."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from generators import Pose, coco_17, rescale
from reid_aug.quality.identity import ReidFrechet
from reid_aug.quality.image_scores import Lpips, MeanScore
from reid_aug.quality.inception import FrechetInception, InceptionScore, KernelInception
from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.quality.surroundings import Surroundings
from reid_aug.weights import MissingWeights

SIZE = (32, 16)


def pixels(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def poses(count: int, size: tuple[int, int] = SIZE) -> Pose:
    xy = torch.rand(count, len(coco_17.joints), 2, generator=torch.Generator().manual_seed(0)) * 16
    return Pose(xy, torch.ones(count, len(coco_17.joints), dtype=torch.bool), coco_17, size)


class TestBatch:
    @pytest.mark.parametrize(
        ("part", "value", "complaint"),
        [
            ("target", pixels(1), r"target is uint8 \(4, 3, 32, 16\), as the generated images are .*; got uint8 \(1, 3, 32, 16\)"),
            ("target", pixels(4, size=(64, 32)), r"target is .*; got uint8 \(4, 3, 64, 32\)"),
            ("target", pixels(4).float(), "target is uint8 .*; got float32"),
            ("source", pixels(5), r"source is .*; got uint8 \(5, 3, 32, 16\)"),
            ("mask", torch.ones(1, 1, *SIZE, dtype=torch.bool), r"mask is bool \(4, 1, 32, 16\).*; got bool \(1, 1, 32, 16\)"),
            ("mask", torch.ones(4, 1, 1, 1, dtype=torch.bool), r"mask is .*; got bool \(4, 1, 1, 1\)"),
            ("mask", torch.ones(4, *SIZE, dtype=torch.bool), r"mask is .*; got bool \(4, 32, 16\)"),
            ("mask", torch.ones(4, 1, *SIZE), "mask is bool .*; got float32"),
            ("target_pose", poses(1), r"target_pose is 4 of images of \(32, 16\).*; got \(1,\)"),
            ("target_pose", rescale(poses(4), (64, 32)), r"target_pose is .*; got \(4,\) of \(64, 32\)"),
            ("names", [("a", "b")], "names are 4, one for each generated image, got 1"),
            ("pids", [1, 2, 3], "pids are 4, one for each generated image, got 3"),
            ("camids", [1] * 5, "camids are 4, one for each generated image, got 5"),
            ("files", [], "files are 4, one for each generated image, got 0"),
            ("scene_camids", [2], "scene_camids are 4, one for each generated image, got 1"),
            ("generated", pixels(4)[:, :1], r"generated images are \(B, 3, H, W\).* got \(4, 1, 32, 16\)"),
            ("generated", pixels(0), r"generated images are .* with B of 1 at least, got \(0, 3, 32, 16\)"),
            ("generated", pixels(4).float(), "generated is uint8 .*; got float32"),
        ],
    )
    def test_parts_that_do_not_fit(self, part: str, value: Any, complaint: str, batch_of: Callable[..., Batch]) -> None:
        with pytest.raises(ValueError, match=f"a batch's {complaint}"):
            replace(batch_of(pixels(4)), **{part: value})

    def test_no_photograph_is_none(self, batch_of: Callable[..., Batch]) -> None:
        with pytest.raises(NotMeasurable, match="no photograph"):
            replace(batch_of(pixels(4)), target=None).targets(False)


@pytest.fixture
def value(batch_of: Callable[..., Batch]) -> Callable[..., float]:
    """A metric's number for images in batches."""

    def measured(metric: Metric, surroundings: Surroundings, generated: Tensor, part: int) -> float:
        measurement = metric.start("it", surroundings)
        for images in generated.split(part):
            measurement.update(batch_of(images))
        return measurement.compute().values["it"].value

    return measured


class TestOrderAndBatches:
    def test_kernel_distance(self, value: Callable[..., float], noise_around: type) -> None:
        metric, generated = KernelInception(kind="kid", subsets=4, subset_size=15), pixels(50)
        first = value(metric, noise_around(), generated, 50)
        other = noise_around()
        other.images, other.part = other.images[torch.randperm(60, generator=torch.Generator().manual_seed(1))], 7
        mixed = generated[torch.randperm(50, generator=torch.Generator().manual_seed(2))]
        assert value(metric, other, mixed, 9) == pytest.approx(first, rel=1e-3)
        # That is no accident of sets that are alike: other subsets have another distance.
        other_subsets = KernelInception(kind="kid", subsets=4, subset_size=14)
        assert value(other_subsets, noise_around(), generated, 50) != pytest.approx(first, rel=1e-2)


class TestTooFew:
    @pytest.mark.parametrize(
        ("metric", "count", "complaint"),
        [
            (InceptionScore(kind="inception-score"), 9, "10 splits takes as many images at least, got 9"),
            (FrechetInception(kind="fid"), 1, "two images a set at least, got 1 in the first"),
            (KernelInception(kind="kid"), 1, "two images a set at least, got 1"),
            (ReidFrechet(kind="reid-frechet"), 1, "two images a set at least, got 1 in the first"),
        ],
    )
    def test_is_not_measurable_and_no_error(
        self, metric: Metric, count: int, complaint: str, value: Callable[..., float], noise_around: type
    ) -> None:
        with pytest.raises(NotMeasurable, match=complaint):
            value(metric, noise_around(), pixels(count), 64)


def test_images_too_small_for_a_network_are_not_measurable(noise_around: type, batch_of: Callable[..., Batch]) -> None:
    def small(a: Tensor, b: Tensor) -> Tensor:
        raise NotMeasurable("AlexNet takes images of 31 × 31 at least, these are 32 × 16")

    surroundings = noise_around()
    surroundings.networks = Networks(download=False, device="cpu", lpips=small)
    with pytest.raises(NotMeasurable, match="31 × 31"):
        Lpips(kind="lpips").start("LPIPS", surroundings).update(batch_of(pixels(2)))


def test_other_metrics_miss_nothing(batch_of: Callable[..., Batch]) -> None:
    score = MeanScore("it", lambda batch: torch.zeros(len(batch.generated)), "nought")
    score.update(batch_of(pixels(2)))
    assert score.compute() == Measured({"it": Value(0.0, 2, "nought")}, missing={})


def test_missing_weights_of_one_network_are_told_to_every_metric(noise_around: type) -> None:
    surroundings = noise_around()
    surroundings.networks = Networks(download=False, device="cpu")
    surroundings.networks._made["inception"] = MissingWeights("not here")
    for metric in (InceptionScore(kind="inception-score"), FrechetInception(kind="fid"), KernelInception(kind="kid")):
        with pytest.raises(MissingWeights, match="^not here$"):
            metric.start("it", surroundings)
