"""Metrics of generated images as a protocol's file names them: each an option table that starts a running measurement."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import torch
from pydantic import PositiveInt
from torch import Tensor

from generators import Pose
from reid_aug.config import Config
from reid_aug.quality.distributions import frechet_distance, inception_score, kernel_distance, row_keys
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.quality.ssim import SSIM_PROTOCOLS, ssim

T = TypeVar("T")
Resize = Literal["tensorflow", "antialias"]
Reference = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Generated images and what is known of them; images uint8 (B, 3, H, W), all of one size.

    ValueError where a part has another count or size than the generated images: it would be broadcast into wrong numbers.
    """

    generated: Tensor
    source: Tensor
    target: Tensor | None  # a photograph of the source's person in the target pose; None where there is none
    target_pose: Pose
    mask: Tensor  # bool (B, 1, H, W): the body in the target pose
    names: Sequence[tuple[str, str]]  # source and target pose, as the data set names them
    pids: Sequence[int]
    camids: Sequence[int]  # the source's
    files: Sequence[str]  # what each generated image's file is called, where it has one
    _known: dict[Hashable, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        got = self.generated
        if got.ndim != 4 or got.shape[1] != 3 or not len(got):
            raise ValueError(f"a batch's generated images are (B, 3, H, W) with B of 1 at least, got {tuple(got.shape)}")
        shape = count, _, height, width = tuple(got.shape)
        kinds = {"generated": (shape, torch.uint8), "source": (shape, torch.uint8), "mask": ((count, 1, height, width), torch.bool)}
        for name, (wanted, kind) in (kinds | ({} if self.target is None else {"target": (shape, torch.uint8)})).items():
            part = getattr(self, name)
            if tuple(part.shape) != wanted or part.dtype != kind:
                rule = f"{str(kind).removeprefix('torch.')} {wanted}, as the generated images are {shape}"
                raise ValueError(f"a batch's {name} is {rule}; got {str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}")
        pose = self.target_pose
        if tuple(pose.batch_shape) != (count,) or tuple(pose.size) != (height, width):
            rule = f"{count} of images of {(height, width)}, as the generated images are"
            raise ValueError(f"a batch's target_pose is {rule}; got {tuple(pose.batch_shape)} of {tuple(pose.size)}")
        for name in ("names", "pids", "camids", "files"):
            if len(getattr(self, name)) != count:
                raise ValueError(f"a batch's {name} are {count}, one for each generated image, got {len(getattr(self, name))}")

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, asked for once: metrics share a network's answers."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def images(self, masked: bool) -> Tensor:
        """The generated images, black outside the body when `masked`."""
        return self.once(("generated", masked), lambda: self.generated * self.mask if masked else self.generated)

    def targets(self, masked: bool) -> Tensor:
        """The photographs; NotMeasurable where a pair has none."""
        if self.target is None:
            raise NotMeasurable("no photograph of these people in these poses")
        target = self.target
        return self.once(("target", masked), lambda: target * self.mask if masked else target)


@dataclass(frozen=True)
class Value:
    """A measured number, over how many images, and its definition in words."""

    value: float
    count: int
    how: str
    std: float | None = None  # over splits or subsets, where the metric has them


class Running(ABC):
    """A measurement under way."""

    @abstractmethod
    def update(self, batch: Batch) -> None: ...

    @abstractmethod
    def values(self, name: str) -> dict[str, Value]:
        """The result by column; most metrics have one, under the `name` the protocol gives them."""

    def missing(self, name: str) -> dict[str, str]:
        """Why columns that `values` would have are not there, asked for after it."""
        return {}


class Around(ABC):
    """What a measurement may ask for beside the images: networks, and the real images they are compared with."""

    networks: Networks

    @abstractmethod
    def real(self, split: Reference) -> Iterator[Tensor]:
        """The real images of a split in batches, uint8 (B, 3, H, W), at the generated images' size."""

    @abstractmethod
    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, kept for every generator that is measured here."""


class Metric(Config, ABC):
    """A metric with its options."""

    @abstractmethod
    def start(self, around: Around) -> Running:
        """Begin to measure; MissingWeights or NotMeasurable says why that can't be."""


class Mean(Running):
    """The mean over images of a score (B,); images whose score is nan do not count."""

    def __init__(self, score: Callable[[Batch], Tensor], how: str) -> None:
        self.score, self.how, self.kept = score, how, []

    def update(self, batch: Batch) -> None:
        self.kept.append(self.score(batch).double().cpu())

    def values(self, name: str) -> dict[str, Value]:
        scores = torch.cat(self.kept)
        scores = scores[~scores.isnan()]
        if not len(scores):
            raise NotMeasurable("no image that it can be measured on")
        return {name: Value(float(scores.mean()), len(scores), self.how)}


class Ssim(Metric):
    """SSIM, or mask-SSIM, as a paper defines it (`reid_aug.bench.ssim`)."""

    kind: Literal["ssim"]
    protocol: Literal["deformable", "pg2", "gfla"] = "deformable"
    masked: bool = False

    def start(self, around: Around) -> Running:
        def score(batch: Batch) -> Tensor:
            mask = _with_bodies(batch) if self.masked else None
            # Within 2e-6 of float64's on photographs, in less than half the time.
            return ssim(batch.generated, batch.targets(False), self.protocol, mask=mask, dtype=torch.float32).double()

        rule = SSIM_PROTOCOLS[self.protocol]
        window = f"{rule.window_px} × {rule.window_px} {'uniform' if rule.sigma_px is None else f'Gaussian, σ {rule.sigma_px}'}"
        spread = "that of the generated image" if rule.data_range is None else f"{rule.data_range:g}"
        outside = "; both black outside the target's body" if self.masked else ""
        return Mean(score, f"window {window}; data range {spread}{outside}")


def _with_bodies(batch: Batch) -> Tensor:
    """The masks; ValueError when one has no body, on which two black images would be alike."""
    empty = (~batch.mask.flatten(1).any(1)).nonzero().flatten().tolist()
    if empty:
        raise ValueError(f"the mask of {batch.names[empty[0]][1]} holds no body: a masked metric would compare black with black")
    return batch.mask


class InceptionScore(Metric):
    """IS, or mask-IS (Salimans et al. 2016): exp of the mean divergence of p(y|x) from p(y), over splits.

    Which split an image falls into is decided by a hash of its pixels: neither order nor batches matter.
    """

    kind: Literal["inception-score"]
    splits: PositiveInt = 10
    masked: bool = False
    resize: Resize = "tensorflow"

    def start(self, around: Around) -> Running:
        network = around.networks.inception
        outer = self

        class Score(Running):
            def __init__(self) -> None:
                self.logits, self.keys = [], []

            def update(self, batch: Batch) -> None:
                if outer.masked:
                    _with_bodies(batch)
                self.logits.append(_inception(batch, network, outer.masked, outer.resize)[1])
                self.keys += row_keys(batch.images(outer.masked))

            def values(self, name: str) -> dict[str, Value]:
                order = sorted(range(len(self.keys)), key=self.keys.__getitem__)
                mean, std = inception_score(torch.cat(self.logits)[order], outer.splits)
                how = f"{named(network)}, {outer.resize} resize, {outer.splits} splits" + (
                    "; black outside the target's body" if outer.masked else ""
                )
                return {name: Value(mean, len(order), how, std)}

        return Score()


def _inception(batch: Batch, network: Callable[..., Any], masked: bool, resize: str) -> tuple[Tensor, Tensor]:
    return batch.once(("inception", masked, resize), lambda: network(batch.images(masked), resize))


class SetDistance(Running):
    """A distance between the features of all generated images and those of a set of real ones."""

    def __init__(self, own: Callable[[Batch], Tensor], real: Callable[[], Tensor], distance: Callable[..., tuple], how: str) -> None:
        self.own, self.real, self.distance, self.how, self.kept = own, real, distance, how, []

    def update(self, batch: Batch) -> None:
        self.kept.append(self.own(batch))

    def values(self, name: str) -> dict[str, Value]:
        generated, real = torch.cat(self.kept), self.real()
        value, std = self.distance(generated, real)
        return {name: Value(value, len(generated), f"{self.how}; {len(real):,} real images", std)}


class FrechetInception(Metric):
    """FID (Heusel et al. 2017): Fréchet distance of Inception's pool3 features to those of real images."""

    kind: Literal["fid"]
    reference: Reference = "train"
    resize: Resize = "tensorflow"

    def start(self, around: Around) -> Running:
        network = around.networks.inception
        how = f"{named(network)}, {self.resize} resize; reference: {self.reference}"
        return SetDistance(
            lambda batch: _inception(batch, network, False, self.resize)[0],
            lambda: _real_inception(around, self.reference, self.resize)[0], lambda a, b: (frechet_distance(a, b), None), how,
        )  # fmt: skip


class KernelInception(Metric):
    """KID (Bińkowski et al. 2018): polynomial maximum mean discrepancy of the same features, over random subsets.

    Which images a subset has is decided by a hash of their pixels: neither order nor batches matter.
    """

    kind: Literal["kid"]
    reference: Reference = "train"
    resize: Resize = "tensorflow"
    subsets: PositiveInt = 100
    subset_size: PositiveInt = 1000  # or as many as there are

    def start(self, around: Around) -> Running:
        network = around.networks.inception
        drawn = f"{self.subsets} subsets of at most {self.subset_size:,}"
        how = f"{named(network)}, {self.resize} resize; reference: {self.reference}; {drawn}"
        keys: list[bytes] = []

        def own(batch: Batch) -> Tensor:
            keys.extend(row_keys(batch.images(False)))
            return _inception(batch, network, False, self.resize)[0]

        def distance(a: Tensor, b: Tensor) -> tuple[float, float]:
            theirs = _real_inception(around, self.reference, self.resize)[1]
            return kernel_distance(a, b, self.subsets, self.subset_size, keys=(keys, theirs))

        return SetDistance(own, lambda: _real_inception(around, self.reference, self.resize)[0], distance, how)


def _real_inception(around: Around, split: Reference, resize: str) -> tuple[Tensor, list[bytes]]:
    """Features of the real images of a split and a hash of each one's pixels, computed once."""
    network = around.networks.inception

    def ask() -> tuple[Tensor, list[bytes]]:
        found, keys = [], []
        for images in around.real(split):
            found.append(network(images, resize)[0])
            keys += row_keys(images)
        return torch.cat(found), keys

    return around.once(("inception", split, resize), ask)


class Lpips(Metric):
    """LPIPS, or mask-LPIPS (Zhang et al. 2018; masks as Ren et al. 2020)."""

    kind: Literal["lpips"]
    masked: bool = False

    def start(self, around: Around) -> Running:
        network = around.networks.lpips

        def score(batch: Batch) -> Tensor:
            if self.masked:
                _with_bodies(batch)
            return network(batch.images(self.masked), batch.targets(self.masked))

        return Mean(score, named(network) + ("; both black outside the target's body" if self.masked else ""))


class DetectionScore(Metric):
    """DS (Siarohin et al. 2018): the highest confidence of a person that a detector has, 0 where it finds none.

    The paper's detector was a Caffe SSD-300 trained on VOC; numbers of another compare with each other only.
    """

    kind: Literal["detection"]
    detector: Literal["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"] = "ssd300_vgg16"

    def start(self, around: Around) -> Running:
        network = around.networks.detector(self.detector)
        return Mean(lambda batch: network(batch.generated), named(network))


def named(network: object) -> str:
    """How a result names a network."""
    return str(getattr(network, "name", type(network).__name__))
