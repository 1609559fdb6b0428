"""What a metric of image quality is: an option table that starts a measurement, which takes batches and gives named values."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from generators import Pose
from reid_aug.config import Config
from reid_aug.quality.networks import NotMeasurable
from reid_aug.quality.surroundings import Surroundings

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Batch:
    """Generated images and what is known of them; images are uint8 (B, 3, H, W), all of one size.

    ValueError where a part has another count or size than the generated images: it would be broadcast into wrong numbers.
    """

    generated: Tensor
    source: Tensor
    target: Tensor | None  # A photograph of the source's person in the target pose; None where there is none.
    target_pose: Pose
    mask: Tensor  # The body in the target pose, bool (B, 1, H, W).
    names: Sequence[tuple[str, str]]  # Source and target pose, as the data set names them.
    pids: Sequence[int]  # The source's identity.
    camids: Sequence[int]  # The source's camera.
    files: Sequence[str]  # What each generated image's file is called, where it has one.
    scene_camids: Sequence[int] | None = None  # Cameras of the target images in whose places these are to be; None: in the sources'.
    silhouette: Tensor | None = None  # The target's silhouette, bool (B, 1, H, W), empty where it is not known; None where none is.
    cache: dict[Hashable, Any] = field(default_factory=dict, repr=False)  # What `once` has made.

    def __post_init__(self) -> None:
        generated = self.generated
        if generated.ndim != 4 or generated.shape[1] != 3 or not len(generated):
            raise ValueError(f"a batch's generated images are (B, 3, H, W) with B of 1 at least, got {tuple(generated.shape)}")
        shape = count, _, height, width = tuple(generated.shape)
        self._refuse_other("generated", shape, torch.uint8)
        self._refuse_other("source", shape, torch.uint8)
        self._refuse_other("mask", (count, 1, height, width), torch.bool)
        if self.target is not None:
            self._refuse_other("target", shape, torch.uint8)
        if self.silhouette is not None:
            self._refuse_other("silhouette", (count, 1, height, width), torch.bool)
        pose = self.target_pose
        if tuple(pose.batch_shape) != (count,) or tuple(pose.size) != (height, width):
            rule = f"{count} of images of {(height, width)}, as the generated images are"
            raise ValueError(f"a batch's target_pose is {rule}; got {tuple(pose.batch_shape)} of {tuple(pose.size)}")
        for name in ("names", "pids", "camids", "files", "scene_camids"):
            part = getattr(self, name)
            if part is not None and len(part) != count:
                raise ValueError(f"a batch's {name} are {count}, one for each generated image, got {len(part)}")

    def _refuse_other(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Raise ValueError for a part that is not of this shape and type."""
        part: Tensor = getattr(self, name)
        if tuple(part.shape) != shape or part.dtype != dtype:
            rule = f"{str(dtype).removeprefix('torch.')} {shape}, as the generated images are {tuple(self.generated.shape)}"
            raise ValueError(f"a batch's {name} is {rule}; got {str(part.dtype).removeprefix('torch.')} {tuple(part.shape)}")

    @property
    def in_scene(self) -> bool:
        """Tell whether the images are to be in the target images' places, before their cameras."""
        return self.scene_camids is not None

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what `make` gives, made once: metrics share a network's answers."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]

    def posed(self) -> Batch | None:
        """Return the images whose target pose is known, the batch itself where all are; None where none is: no mask can be drawn."""
        known = self.target_pose.visible.any(1)
        if bool(known.all()):
            return self
        return self.once("posed", lambda: self._part(known.nonzero().flatten().tolist())) if bool(known.any()) else None

    def _part(self, rows: Sequence[int]) -> Batch:
        index = torch.tensor(rows)
        return Batch(
            self.generated[index], self.source[index], None if self.target is None else self.target[index],
            self.target_pose[index], self.mask[index],
            [self.names[row] for row in rows], [self.pids[row] for row in rows], [self.camids[row] for row in rows],
            [self.files[row] for row in rows], None if self.scene_camids is None else [self.scene_camids[row] for row in rows],
            None if self.silhouette is None else self.silhouette[index],
        )  # fmt: skip

    def images(self, masked: bool) -> Tensor:
        """Return the generated images, black outside the body when `masked`; errors as `bodies`'."""
        return self.once(("generated", True), lambda: self.generated * self.bodies()) if masked else self.generated

    def targets(self, masked: bool) -> Tensor:
        """Return the photographs, black outside the body when `masked`; NotMeasurable where a pair has none, errors as `bodies`'."""
        target = self.target
        if target is None:
            raise NotMeasurable("no photograph of these people in these poses")
        return self.once(("target", True), lambda: target * self.bodies()) if masked else target

    def bodies(self) -> Tensor:
        """Return the masks; ValueError when one holds no body: there, two black images would be alike."""
        empty = (~self.mask.flatten(1).any(1)).nonzero().flatten().tolist()
        if empty:
            raise ValueError(f"the mask of {self.names[empty[0]][1]} holds no body: a masked metric would compare black with black")
        return self.mask


def unposed(images: int, masked: int) -> str:
    """Say of a masked metric that not all images have a mask; empty where they have.

    >>> unposed(20, 18), unposed(20, 20)
    (', where its pose is known: 18 of 20 images', '')
    """
    return "" if images == masked else f", where its pose is known: {masked:,} of {images:,} images"


@dataclass(frozen=True)
class Value:
    """A measured number, over how many images, and its definition in words."""

    value: float
    count: int
    how: str
    std: float | None = None  # Standard deviation over splits or subsets, where the metric has them.


@dataclass(frozen=True)
class Measured:
    """What a measurement came to: values by column, and for columns that have none, why."""

    values: dict[str, Value]
    missing: dict[str, str] = field(default_factory=dict)


class Measurement(Protocol):
    """A measurement under way: batches go in one by one, then it is computed."""

    def update(self, batch: Batch) -> None:
        """Take a batch in; NotMeasurable or MissingWeights where it can't be measured."""
        ...

    def compute(self) -> Measured:
        """Return the result of all batches; NotMeasurable where there is none."""
        ...


@runtime_checkable
class ScoresEach(Protocol):
    """A measurement that scores every image by itself, so that scores can be told apart by what is difficult about an image."""

    higher_is_better: bool

    def latest(self) -> Mapping[str, Tensor]:
        """Return the scores (B) of the batch taken in last, by column; nan for an image that has none."""
        ...


class Metric(Config, ABC):
    """A metric with its options: each has a `kind`, by which a protocol's file names it."""

    compares: ClassVar[bool] = False  # Whether it compares with real images, and so says nothing of real ones.

    @abstractmethod
    def start(self, name: str, surroundings: Surroundings) -> Measurement:
        """Begin to measure, under the `name` that the protocol gives; MissingWeights or NotMeasurable says why that can't be."""
