"""Metrics that look at sets of images through Inception: IS and mask-IS, FID, KID."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor

from reid_aug.quality.distributions import FrechetMeasurement, inception_score, kernel_distance, row_keys
from reid_aug.quality.metrics import Batch, Measured, Metric, Value, unposed
from reid_aug.quality.networks import InceptionNetwork, NotMeasurable, network_name
from reid_aug.quality.surroundings import RealSplit, Surroundings

Resize = Literal["tensorflow", "antialias"]


class InceptionScore(Metric):
    """IS, or mask-IS (Salimans et al. 2016): exp of the mean divergence of p(y|x) from p(y), over splits.

    Which split an image falls into is decided by a hash of its pixels: neither order nor batches matter.
    """

    kind: Literal["inception-score"]
    splits: PositiveInt = 10  # Number of splits that the score is the mean of.
    masked: bool = False  # Whether images are black outside the target's body.
    resize: Resize = "tensorflow"  # How images get to the network's size: as "tensorflow" resizes, or by "antialias", bicubic.

    def start(self, name: str, surroundings: Surroundings) -> InceptionScoreMeasurement:
        """Begin to measure; MissingWeights without the network."""
        return InceptionScoreMeasurement(name, self, surroundings.networks.inception)


class InceptionScoreMeasurement:
    """The inception score of all images, sorted by their pixels' hashes."""

    def __init__(self, name: str, options: InceptionScore, network: InceptionNetwork) -> None:
        self.name, self.options, self.network = name, options, network
        self.logits: list[Tensor] = []
        self.keys: list[bytes] = []
        self.images = 0

    def update(self, batch: Batch) -> None:
        """Keep a batch's logits, of masked images those whose target pose is known."""
        masked = self.options.masked
        self.images += len(batch.generated)
        posed = batch.posed() if masked else batch
        if posed is None:
            return
        batch = posed
        self.logits.append(_seen(batch, self.network, self.options.resize, masked)[1])
        self.keys += row_keys(batch.images(masked))

    def compute(self) -> Measured:
        """Return the score; NotMeasurable with less images than splits."""
        options = self.options
        if not self.logits:
            raise NotMeasurable("no target image has a known pose, of which its mask is drawn: give data.test_keypoints=FILE")
        order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
        mean, std = inception_score(torch.cat(self.logits)[order], options.splits)
        outside = f"; black outside the target's body{unposed(self.images, len(order))}" if options.masked else ""
        how = f"{network_name(self.network)}, {options.resize} resize, {options.splits} splits{outside}"
        return Measured({self.name: Value(mean, len(order), how, std)})


class FrechetInception(Metric):
    """FID (Heusel et al. 2017): Fréchet distance of Inception's pool3 features to those of real images."""

    kind: Literal["fid"]
    compares: ClassVar[bool] = True
    reference: RealSplit = "train"  # Split of the real images to compare with; "test" is query and gallery.
    resize: Resize = "tensorflow"  # How images get to the network's size: as "tensorflow" resizes, or by "antialias", bicubic.

    def start(self, name: str, surroundings: Surroundings) -> FrechetMeasurement:
        """Begin to measure; MissingWeights without the network."""
        network = surroundings.networks.inception
        return FrechetMeasurement(
            name,
            lambda batch: _seen(batch, network, self.resize)[0],
            lambda: _real_seen(surroundings, self.reference, self.resize)[0],
            f"{network_name(network)}, {self.resize} resize; reference: {self.reference}",
        )


class KernelInception(Metric):
    """KID (Bińkowski et al. 2018): polynomial maximum mean discrepancy of Inception's pool3 features, over random subsets.

    Which images a subset has is decided by a hash of their pixels: neither order nor batches matter.
    """

    kind: Literal["kid"]
    compares: ClassVar[bool] = True
    reference: RealSplit = "train"  # Split of the real images to compare with; "test" is query and gallery.
    resize: Resize = "tensorflow"  # How images get to the network's size: as "tensorflow" resizes, or by "antialias", bicubic.
    subsets: PositiveInt = 100  # Number of random subsets.
    subset_size: PositiveInt = 1000  # Number of images in a subset, or as many as there are.

    def start(self, name: str, surroundings: Surroundings) -> KernelMeasurement:
        """Begin to measure; MissingWeights without the network."""
        return KernelMeasurement(name, self, surroundings)


class KernelMeasurement:
    """The kernel distance of all images to real ones, both sorted by their pixels' hashes."""

    def __init__(self, name: str, options: KernelInception, surroundings: Surroundings) -> None:
        self.name, self.options, self.surroundings = name, options, surroundings
        self.network = surroundings.networks.inception
        self.features: list[Tensor] = []
        self.keys: list[bytes] = []

    def update(self, batch: Batch) -> None:
        """Keep a batch's features."""
        self.keys += row_keys(batch.images(False))
        self.features.append(_seen(batch, self.network, self.options.resize)[0])

    def compute(self) -> Measured:
        """Return the distance; NotMeasurable with less than two images."""
        options = self.options
        features = torch.cat(self.features)
        real, real_keys = _real_seen(self.surroundings, options.reference, options.resize)
        value, std = kernel_distance(features, real, options.subsets, options.subset_size, keys=(self.keys, real_keys))
        subsets = f"{options.subsets} subsets of at most {options.subset_size:,}"
        how = f"{network_name(self.network)}, {options.resize} resize; reference: {options.reference}; {subsets}"
        return Measured({self.name: Value(value, len(features), f"{how}; {len(real):,} real images", std)})


def _seen(batch: Batch, network: InceptionNetwork, resize: Resize, masked: bool = False) -> tuple[Tensor, Tensor]:
    """Return features and logits of a batch's generated images, computed once for all metrics."""
    return batch.once(("inception", masked, resize), lambda: network(batch.images(masked), resize))


def _real_seen(surroundings: Surroundings, split: RealSplit, resize: Resize) -> tuple[Tensor, list[bytes]]:
    """Return features of the real images of a split and a hash of each one's pixels, computed once."""
    network = surroundings.networks.inception

    def look() -> tuple[Tensor, list[bytes]]:
        features, keys = [], []
        for images in surroundings.real(split):
            features.append(network(images, resize)[0])
            keys += row_keys(images)
        return torch.cat(features), keys

    return surroundings.once(("inception", split, resize), look)
