"""What metrics are given: batches whose parts do not fit, sets too small for a metric, and orders that must not matter."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from generators.pose import Pose, coco_17, rescale
from reid_aug.baselines.network import ReidNetwork, of_baseline
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.quality.identity import AroundPeople, IdentityPreservation, ReidFrechet
from reid_aug.quality.metrics import Batch, FrechetInception, InceptionScore, KernelInception, Lpips, Mean, Metric, Reference
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.quality.pckh import pckh_counts
from reid_aug.weights import MissingWeights

SIZE = (32, 16)


def pixels(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def poses(count: int, size: tuple[int, int] = SIZE) -> Pose:
    xy = torch.rand(count, len(coco_17.joints), 2, generator=torch.Generator().manual_seed(0)) * 16
    return Pose(xy, torch.ones(count, len(coco_17.joints), dtype=torch.bool), coco_17, size)


def batch(generated: Tensor, pids: Sequence[int] | None = None, camids: Sequence[int] | None = None) -> Batch:
    count = len(generated)
    pids = list(range(count)) if pids is None else pids
    return Batch(
        generated, pixels(count, 1), pixels(count, 2), poses(count), torch.ones(count, 1, *SIZE, dtype=torch.bool),
        [(f"{i}.png", f"{i}t.png") for i in range(count)], pids, [0] * count if camids is None else camids,
        [f"{i}g.png" for i in range(count)],
    )  # fmt: skip


class TestBatch:
    @pytest.mark.parametrize(
        ("part", "value", "said"),
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
            ("generated", pixels(4)[:, :1], r"generated images are \(B, 3, H, W\).* got \(4, 1, 32, 16\)"),
            ("generated", pixels(0), r"generated images are .* with B of 1 at least, got \(0, 3, 32, 16\)"),
            ("generated", pixels(4).float(), "generated is uint8 .*; got float32"),
        ],
    )
    def test_parts_that_do_not_fit(self, part: str, value: Any, said: str) -> None:
        with pytest.raises(ValueError, match=f"a batch's {said}"):
            replace(batch(pixels(4)), **{part: value})

    def test_no_photograph_is_none(self) -> None:
        with pytest.raises(NotMeasurable, match="no photograph"):
            replace(batch(pixels(4)), target=None).targets(False)


def test_estimated_poses_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"batch_shape of those wanted, \(4,\), got \(1,\)"):
        pckh_counts(poses(1), poses(4))
    with pytest.raises(ValueError, match=r"size of those wanted, \(32, 16\), got \(64, 32\)"):
        pckh_counts(poses(4, (64, 32)), poses(4))


def inception(images: Tensor, resize: str) -> tuple[Tensor, Tensor]:
    """Features of fixed random directions; their last digits change with the batch they were asked in, as a GPU's do."""
    mix = torch.randn(3 * 8 * 4, 12, generator=torch.Generator().manual_seed(3))
    small = torch.nn.functional.adaptive_avg_pool2d(images.float() / 255, (8, 4)).flatten(1)
    found = (small @ mix) * (1 + 1e-7 * len(images))
    return found, 5 * found


class MeanColour(nn.Module):
    """A Re-ID network that tells images by their mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.mean((2, 3))


class Here(AroundPeople):
    """Two cameras' real images, or one's."""

    home: Reference = "test"

    def __init__(self, count: int = 60, pids: Sequence[int] | None = None, camids: Sequence[int] | None = None) -> None:
        self.networks = Networks(download=False, device="cpu", inception=inception)
        self.images = pixels(count, 7)
        self.pids, self.camids = pids or list(range(count)), camids or [0] * count
        self._known: dict[Hashable, Any] = {}
        self.part = 16

    def once(self, key: Hashable, make: Callable[[], Any]) -> Any:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def real(self, split: Reference) -> Iterator[Tensor]:
        return iter(self.images.split(self.part))

    def who(self, split: Reference) -> tuple[Sequence[int], Sequence[int]]:
        return self.pids, self.camids

    @property
    def reid(self) -> ReidNetwork:
        return of_baseline(MeanColour, BaselineConfig(size=SIZE), "means")


def value(metric: Metric, around: Here, generated: Tensor, part: int) -> float:
    running = metric.start(around)
    for images in generated.split(part):
        running.update(batch(images))
    (found,) = running.values("it").values()
    return found.value


class TestOrderAndBatches:
    def test_kernel_distance(self) -> None:
        metric, generated = KernelInception(kind="kid", subsets=4, subset_size=15), pixels(50)
        first = value(metric, Here(), generated, 50)
        other = Here()
        other.images, other.part = other.images[torch.randperm(60, generator=torch.Generator().manual_seed(1))], 7
        mixed = generated[torch.randperm(50, generator=torch.Generator().manual_seed(2))]
        assert value(metric, other, mixed, 9) == pytest.approx(first, rel=1e-3)
        # That is no accident of sets that are alike: other subsets have another distance.
        assert value(KernelInception(kind="kid", subsets=4, subset_size=14), Here(), generated, 50) != pytest.approx(first, rel=1e-2)


class TestTooFew:
    @pytest.mark.parametrize(
        ("metric", "count", "said"),
        [
            (InceptionScore(kind="inception-score"), 9, "10 splits takes as many images at least, got 9"),
            (FrechetInception(kind="fid"), 1, "two images a set at least, got 1 in the first"),
            (KernelInception(kind="kid"), 1, "two images a set at least, got 1"),
            (ReidFrechet(kind="reid-frechet"), 1, "two images a set at least, got 1 in the first"),
        ],
    )
    def test_is_not_measurable_and_no_error(self, metric: Metric, count: int, said: str) -> None:
        with pytest.raises(NotMeasurable, match=said):
            value(metric, Here(), pixels(count), 64)


def test_images_too_small_for_a_network_are_not_measurable() -> None:
    def small(a: Tensor, b: Tensor) -> Tensor:
        raise NotMeasurable("AlexNet takes images of 31 × 31 at least, these are 32 × 16")

    around = Here()
    around.networks = Networks(download=False, device="cpu", lpips=small)
    with pytest.raises(NotMeasurable, match="31 × 31"):
        Lpips(kind="lpips").start(around).update(batch(pixels(2)))


class TestIdentity:
    def measured(self, around: Here, pids: Sequence[int]) -> tuple[dict, dict]:
        running = IdentityPreservation(kind="identity").start(around)
        running.update(batch(pixels(len(pids)), pids))
        return running.values("identity"), running.missing("identity")

    def test_one_camera_has_no_rank_and_says_so(self) -> None:
        found, missing = self.measured(Here(4, [1, 1, 2, 2], [0, 0, 0, 1]), [1, 1])
        assert list(found) == ["ID²"] and missing == {"identity rank-1": "nobody drawn has a real image of another camera"}

    def test_one_person_of_two_cameras_is_enough(self) -> None:
        found, missing = self.measured(Here(4, [1, 1, 2, 2], [0, 0, 0, 1]), [1, 2])
        assert list(found) == ["identity rank-1", "ID²"] and found["identity rank-1"].count == 1 and not missing

    def test_what_is_broken_is_no_reason(self, monkeypatch: pytest.MonkeyPatch) -> None:
        around = Here(4, [1, 1, 2, 2], [0, 1, 0, 1])
        monkeypatch.setattr(MeanColour, "forward", lambda self, images: images.mean((2, 3)) * float("nan"))
        with pytest.raises(ValueError, match="finite"):
            self.measured(around, [1, 2])

    def test_other_metrics_miss_nothing(self) -> None:
        assert Mean(lambda given: torch.zeros(len(given.generated)), "nought").missing("it") == {}


def test_missing_weights_of_one_network_are_told_to_every_metric() -> None:
    around = Here()
    around.networks = Networks(download=False, device="cpu")
    around.networks._known["inception"] = MissingWeights("not here")
    for metric in (InceptionScore(kind="inception-score"), FrechetInception(kind="fid"), KernelInception(kind="kid")):
        with pytest.raises(MissingWeights, match="^not here$"):
            metric.start(around)
