"""What every pose-conditioned generator is, and the batch it learns from."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

from generators.perceptual import Features, Perceptual
from generators.pose import Pose, Skeleton, convert, mirror, openpose_18, where

Constructor = TypeVar("Constructor", bound=Callable[..., None])
Shared = TypeVar("Shared")


@dataclass(frozen=True, eq=False)
class PosePair:
    """A batch of two images of one person each: `source`, `target` (B, 3, H, W) in [−1, 1], their poses, `identity (B,)`."""

    source: Tensor
    target: Tensor
    source_pose: Pose
    target_pose: Pose
    identity: Tensor

    def __len__(self) -> int:
        return self.source.shape[0]

    def __getitem__(self, index: slice | Tensor) -> PosePair:
        return PosePair(
            self.source[index], self.target[index], self.source_pose[index], self.target_pose[index], self.identity[index]
        )

    @staticmethod
    def cat(pairs: Sequence[PosePair]) -> PosePair:
        """Join several batches of one size and skeleton."""
        return PosePair(
            torch.cat([p.source for p in pairs]),
            torch.cat([p.target for p in pairs]),
            Pose.cat([p.source_pose for p in pairs]),
            Pose.cat([p.target_pose for p in pairs]),
            torch.cat([p.identity for p in pairs]),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PosePair:
        """Move every tensor to `device`; images in channels-last layout, in which convolutions are faster."""
        keep: dict[str, Any] = {"non_blocking": non_blocking}
        layout: dict[str, Any] = keep | {"memory_format": torch.channels_last}
        return PosePair(
            self.source.to(device, **layout),
            self.target.to(device, **layout),
            self.source_pose.to(device, **keep),
            self.target_pose.to(device, **keep),
            self.identity.to(device, **keep),
        )

    def on(self, skeleton: Skeleton) -> PosePair:
        """Convert both poses to another skeleton; ValueError when it has a joint that can't be made from theirs."""
        return replace(self, source_pose=convert(self.source_pose, skeleton), target_pose=convert(self.target_pose, skeleton))

    def mirrored(self, which: Tensor) -> PosePair:
        """Flip the pairs that `which (B,)` bool picks left to right, images and poses alike."""
        images = which[:, None, None, None].to(self.source.device, non_blocking=True)  # which may be elsewhere than poses are
        return PosePair(
            torch.where(images, self.source.flip(-1), self.source),
            torch.where(images, self.target.flip(-1), self.target),
            where(which, mirror(self.source_pose), self.source_pose),
            where(which, mirror(self.target_pose), self.target_pose),
            self.identity,
        )


def in_one_kernel(parameters: Sequence[nn.Parameter]) -> bool | None:
    """Say what an optimiser's `fused` is: True on a GPU, where one kernel moves all; None, torch's own choice, elsewhere."""
    return True if parameters and all(parameter.is_cuda for parameter in parameters) else None


@runtime_checkable
class Seekable(Protocol):
    """A stream of batches that can start anywhere: resuming need not make the batches of earlier steps again."""

    def starting_at(self, step: int) -> Iterator[PosePair]: ...


def batches_from(pairs: Iterable[PosePair], step: int) -> Iterator[PosePair]:
    """Return the batches of `pairs` from step `step` on; of a stream that can't start there, earlier ones are skipped."""
    if isinstance(pairs, Seekable):
        return iter(pairs.starting_at(step))
    stream = iter(pairs)
    for _ in range(step):
        next(stream, None)
    return stream


def keeps_options(constructor: Constructor) -> Constructor:
    """Decorate the constructor of a Generator: `model.options` is what it was called with, defaults included.

    A checkpoint holds these options and builds the model again from them, so every argument is a value that JSON has.
    Options that came later (`later_options`) are among them only where they are no defaults.
    """
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def construct(self: Generator, *args: Any, **kwargs: Any) -> None:
        constructor(self, *args, **kwargs)
        # A subclass with a constructor of its own has options of its own: these would not build it again.
        if type(self).__init__ is construct:
            call = signature.bind(self, *args, **kwargs)
            call.apply_defaults()
            options = {name: value for name, value in call.arguments.items() if name != "self"}
            self._options = without_later_options(type(self), options)

    return construct  # type: ignore[return-value]


def without_later_options(model: type[Generator], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a generator's options without those that came later and have their defaults: earlier headers and digests stay."""
    defaults = inspect.signature(model.__init__).parameters
    return {k: value for k, value in options.items() if k not in model.later_options or k not in defaults or value != defaults[k].default}


class Generator(nn.Module, ABC):
    """A pose-conditioned generator: one paper, with its players, whose turn it is, and what each pays.

    A subclass sets `size` (H, W) and `skeleton`, and takes every choice as a keyword argument of its constructor, which
    is decorated with `keeps_options`, so that a checkpoint can build the model again.
    """

    paper: ClassVar[str] = ""
    # Attributes that may hold a network and yet are no part of the model: no player owns it, no checkpoint holds it.
    outside: ClassVar[tuple[str, ...]] = ("perceptual",)
    # Options that came after the first checkpoints, each with what these were trained by as its default.
    later_options: ClassVar[tuple[str, ...]] = ()
    # Batches that `prepare` is shown before the first step.
    prepare_steps: ClassVar[int] = 0

    skeleton: Skeleton = openpose_18
    size: tuple[int, int]
    takes_scene: bool = False  # Whether it renders in the place and light of a target image; an instance may decide it.
    finds_poses: bool = False  # Whether it finds poses in images itself: `forward(source, None, None, scene=image)` draws without any.
    takes_silhouettes: bool = False  # Whether it looks at the silhouettes of poses, where they have any.
    near_views: bool = False  # Whether it moves the source's own pixels, so that targets seen from near the source's side suit it.
    rate: float = 2e-4  # Learning rate of `optimizer`.
    perceptual: Perceptual | None = None  # the frozen network of `features`; None where its terms are off
    _options: dict[str, Any] | None = None
    _shared: tuple[dict[str, Any], tuple[nn.Module, ...]] | None = None  # of the turn under way: what was computed, who moves

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.outside:  # past nn.Module, which would make a network assigned to it a submodule
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def options(self) -> dict[str, Any]:
        """Return what the model was built with, defaults included; ValueError when its constructor does not keep that."""
        if self._options is None:
            name = type(self).__name__
            how = f"put @keeps_options (generators.keeps_options) on {name}.__init__"
            raise ValueError(f"{name} does not say what it was built with: {how}")
        return self._options

    @abstractmethod
    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        """Render the person of `source (B, 3, H, W)` in [−1, 1] in the target pose: an image (B, 3, H, W) in [−1, 1].

        `scene` (B, 3, H, W) in [−1, 1] is the target image whose place and light are wanted; the person on it stands in
        the target pose, and the generator removes them. Without it, or where none is taken, the place is the generator's affair.
        """

    def inputs_of(self, pair: PosePair) -> tuple[Any, ...]:
        """Return what `forward` takes of a pair: its target image is the scene where the generator takes scenes."""
        scene = (pair.target,) if self.takes_scene else ()
        return pair.source, pair.source_pose, pair.target_pose, *scene

    def layers(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> Mapping[str, Tensor]:
        """Return what images are put together from, by name: maps in [0, 1] (B, N, 1, h, w) or images in [−1, 1] (B, N, 3, h, w).

        ValueError where a generator has nothing of the kind to show.
        """
        raise ValueError(f"{type(self).__name__} has no layers to show: it does not put its images together from limbs, as posewarp does")

    @abstractmethod
    def players(self) -> Mapping[str, nn.Module]:
        """Return disjoint groups of parameters by name; those with "discriminator" in the name are not needed to render."""

    @abstractmethod
    def turn(self, step: int) -> tuple[str, ...]:
        """Return the names of the players who move at `step` (from 0), in order."""

    @abstractmethod
    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        """Return what `player` pays on `pair` at `step`: named scalar terms, already weighted; the loop sums them."""

    def schedule_steps(self) -> int:
        """Return how many steps the paper trains: the length of a training that is given no other."""
        raise TypeError(f"{type(self).__name__} names no schedule: say how many steps to train")

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Make the player's optimiser as the paper has it; here the field's usual Adam of the model's `rate`."""
        parameters = list(parameters)
        return torch.optim.Adam(parameters, lr=self.rate, betas=(0.5, 0.999), fused=in_one_kernel(parameters))

    def learning_rate(self, player: str, step: int) -> float | None:
        """Return the player's learning rate at `step`, or None to leave the optimiser's."""
        return None

    def features(self) -> Features | None:
        """Return which of VGG-19's features the paper compares images on, or None: the loop loads such a network before the first step."""
        return None

    def prepare(self, pairs: Sequence[PosePair]) -> None:
        """Learn from `prepare_steps` batches before the first step; what is learnt of them belongs into buffers."""

    @contextmanager
    def sharing(self, movers: Iterable[nn.Module] = ()) -> Iterator[None]:
        """Let `share`, within this context, compute each thing once, for all of a turn's `movers` to learn from."""
        self._shared = ({}, tuple(movers))
        try:
            yield
        finally:
            self._shared = None

    def share(self, name: str, compute: Callable[[], Shared]) -> Shared:
        """Return `compute()`, or what it gave to the player before; the player who is not to learn from it detaches it."""
        if self._shared is None:
            return compute()
        results, movers = self._shared
        if name not in results:
            # Whoever moves later in the turn is frozen now, and learns from this result then.
            frozen = [p for mover in movers for p in mover.parameters() if not p.requires_grad]
            for parameter in frozen:
                parameter.requires_grad_(True)
            results[name] = compute()
            for parameter in frozen:
                parameter.requires_grad_(False)
        return results[name]

    def check(self, source: Tensor, source_pose: Pose | None, target_pose: Pose | None, scene: Tensor | None = None) -> None:
        """Raise ValueError unless images and poses fit this model's size and skeleton, and for a scene where none is taken."""
        self.check_images(source)
        if scene is not None and not self.takes_scene:
            raise ValueError(f"{type(self).__name__} takes no scene: it never sees the target's image, got one {tuple(scene.shape)}")
        if scene is not None and scene.shape != source.shape:
            raise ValueError(f"{type(self).__name__} takes a scene for each source, {tuple(source.shape)}, got {tuple(scene.shape)}")
        for role, pose in (("source", source_pose), ("target", target_pose)):
            if pose is None:
                raise ValueError(f"{type(self).__name__} finds no poses itself: it takes a {role} pose, got None")
            if pose.skeleton.name != self.skeleton.name:
                raise ValueError(f"{type(self).__name__} takes {self.skeleton.name} poses, the {role} pose is {pose.skeleton.name}")
            if tuple(pose.size) != tuple(self.size):
                raise ValueError(f"{type(self).__name__} takes poses of size {self.size}, the {role} pose is of size {pose.size}")

    def check_images(self, images: Tensor) -> None:
        """Raise ValueError unless images are of this model's size."""
        if tuple(images.shape[1:]) != (3, *self.size):
            raise ValueError(f"{type(self).__name__} takes images (B, 3, {self.size[0]}, {self.size[1]}), got {tuple(images.shape)}")
