"""Stand-ins for the networks of metrics, a Re-ID network that nobody trained to the end, and what a generator makes of held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import generators
from generators import Pose, coco_17
from reid_aug.baselines.network import ReidNetwork, baseline_network, build, load_reid, save_baseline
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import pairs_to_measure, rendered_pairs
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.protocols import MaskConfig, PairsConfig
from reid_aug.quality.surroundings import RealSplit, Surroundings
from reid_aug.rendered import RenderedSet

SIZE = (32, 16)


class Thumbnails:
    """Stands in for Inception: eight numbers of an image's colours, and logits made of them."""

    name = "thumbnails"

    def __call__(self, pixels: Tensor, resize: str) -> tuple[Tensor, Tensor]:
        small = nn.functional.adaptive_avg_pool2d(pixels.float(), (2, 2)).flatten(1)[:, :8] / 255
        return small, 4 * small


def brightness(pixels: Tensor) -> Tensor:
    """Stand in for a detector."""
    return pixels.float().mean((1, 2, 3)) / 255


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Stand in for LPIPS."""
    return (a.float() - b.float()).abs().mean((1, 2, 3)) / 255


def middle(pixels: Tensor) -> Pose:
    """Stand in for a pose estimator: everything in the middle."""
    height, width = pixels.shape[-2:]
    at = torch.tensor([width / 2, height / 2]).expand(len(pixels), 17, 2).clone()
    return Pose(at, torch.ones(len(pixels), 17, dtype=torch.bool), coco_17, (height, width))


@pytest.fixture
def networks() -> Networks:
    return Networks(download=False, device="cpu", inception=Thumbnails(), lpips=distance, detector=brightness, estimator=middle)


@pytest.fixture(scope="session")
def reid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    config = BaselineConfig(model="osnet_x0_25", size=SIZE, steps=2, identities=2, instances=2, crop_px=1)
    path = tmp_path_factory.mktemp("reid") / "baseline.safetensors"
    save_baseline(build(config, 6), config, 6, path)
    return path


@pytest.fixture
def surroundings(people: list[PersonImage], networks: Networks, reid: Path, rendered: RenderedSet) -> Surroundings:
    return Surroundings(people, SIZE, networks, reid=load_reid(str(reid)), rendered=rendered)


@pytest.fixture
def batches(checkpoint: Path, people: list[PersonImage]) -> list[Batch]:
    pairs = pairs_to_measure(people, PairsConfig(count=24))
    return list(rendered_pairs(generators.load(checkpoint), pairs, MaskConfig(), device=torch.device("cpu"), batch_size=7))


@pytest.fixture
def whole(batches: list[Batch]) -> Batch:
    """All batches as one."""
    return joined(batches)


def joined(batches: Sequence[Batch]) -> Batch:
    def cat(name: str) -> Tensor:
        return torch.cat([getattr(b, name) for b in batches])

    return Batch(
        cat("generated"), cat("source"), cat("target"), Pose.cat([b.target_pose for b in batches]), cat("mask"),
        [n for b in batches for n in b.names], [p for b in batches for p in b.pids], [c for b in batches for c in b.camids],
        [f for b in batches for f in b.files],
    )  # fmt: skip


def noise(count: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (count, 3, *SIZE), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def random_features(images: Tensor, resize: str) -> tuple[Tensor, Tensor]:
    """Stand in for Inception: fixed random directions, whose last digits change with the batch, as a GPU's do."""
    mix = torch.randn(3 * 8 * 4, 12, generator=torch.Generator().manual_seed(3))
    small = nn.functional.adaptive_avg_pool2d(images.float() / 255, (8, 4)).flatten(1)
    features = (small @ mix) * (1 + 1e-7 * len(images))
    return features, 5 * features


class MeanColour(nn.Module):
    """A Re-ID network that tells images by their mean colour."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.gain * images.mean((2, 3))


class Noise(Surroundings):
    """Real images of noise, in batches of `part`, with identities and cameras as given, and what tells them apart."""

    def __init__(self, count: int = 60, pids: Sequence[int] | None = None, camids: Sequence[int] | None = None) -> None:
        super().__init__([], SIZE, Networks(download=False, device="cpu", inception=random_features))
        self.images, self.part = noise(count, 7), 16
        self.pids, self.camids = list(pids or range(count)), list(camids or [0] * count)
        self.module = MeanColour

    def real(self, split: RealSplit) -> Iterator[Tensor]:
        return iter(self.images.split(self.part))

    def who(self, split: RealSplit) -> tuple[list[int], list[int]]:
        return self.pids, self.camids

    @property
    def reid(self) -> ReidNetwork:
        return baseline_network(self.module, BaselineConfig(size=SIZE), "means")


@pytest.fixture
def noise_around() -> type[Noise]:
    """Real images of noise."""
    return Noise


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    """A batch of given images, with everything else made up."""

    def batch(generated: Tensor, pids: Sequence[int] | None = None, scene_camids: Sequence[int] | None = None) -> Batch:
        count = len(generated)
        joints = torch.rand(count, 17, 2, generator=torch.Generator().manual_seed(0)) * 16
        pose = Pose(joints, torch.ones(count, 17, dtype=torch.bool), coco_17, SIZE)
        return Batch(
            generated, noise(count, 1), noise(count, 2), pose, torch.ones(count, 1, *SIZE, dtype=torch.bool),
            [(f"{i}.png", f"{i}t.png") for i in range(count)], list(range(count)) if pids is None else pids, [0] * count,
            [f"{i}g.png" for i in range(count)], scene_camids,
        )  # fmt: skip

    return batch
