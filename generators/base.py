"""What every pose-conditioned generator is, and the batch it learns from."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from generators.perceptual import Features, Perceptual
from generators.pose import Pose, Skeleton, convert, mirror, openpose_18


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
        """One batch out of several of one size and skeleton."""
        return PosePair(
            torch.cat([p.source for p in pairs]),
            torch.cat([p.target for p in pairs]),
            Pose.cat([p.source_pose for p in pairs]),
            Pose.cat([p.target_pose for p in pairs]),
            torch.cat([p.identity for p in pairs]),
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PosePair:
        """Every tensor on `device`; images in channels-last layout there, which convolutions like."""
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
        """The same pairs with both poses on another skeleton; ValueError when it asks for joints that can't be had."""
        return replace(self, source_pose=convert(self.source_pose, skeleton), target_pose=convert(self.target_pose, skeleton))

    def mirrored(self, which: Tensor) -> PosePair:
        """The pairs that `which (B,)` bool picks are flipped left to right, images and poses alike."""
        return PosePair(
            torch.where(which[:, None, None, None], self.source.flip(-1), self.source),
            torch.where(which[:, None, None, None], self.target.flip(-1), self.target),
            _where(which, mirror(self.source_pose), self.source_pose),
            _where(which, mirror(self.target_pose), self.target_pose),
            self.identity,
        )


def _where(which: Tensor, a: Pose, b: Pose) -> Pose:
    return replace(b, xy=torch.where(which[:, None, None], a.xy, b.xy), visible=torch.where(which[:, None], a.visible, b.visible))


class Generator(nn.Module, ABC):
    """A pose-conditioned generator: one paper, with its players, whose turn it is, and what each pays.

    A subclass sets `size` (H, W) and `skeleton`, and takes every choice as a keyword argument of its constructor;
    `options` is what it was built with, so that a checkpoint can build it again.
    """

    paper: ClassVar[str] = ""
    skeleton: Skeleton = openpose_18
    size: tuple[int, int]
    options: dict[str, Any]
    perceptual: Perceptual | None  # the frozen network of `features`; None where its terms are off
    _shared: tuple[dict[str, Tensor], tuple[nn.Module, ...]] | None  # of the turn under way: what was computed, who moves
    prepare_steps: ClassVar[int] = 0  # batches `prepare` wants to see before the first step

    def __new__(cls, *args: Any, **kwargs: Any) -> Generator:
        model = super().__new__(cls)
        bound = inspect.signature(cls.__init__).bind_partial(model, *args, **kwargs)
        bound.apply_defaults()
        # Past nn.Module's own __setattr__: its __init__ has not run yet.
        object.__setattr__(model, "options", {k: v for k, v in bound.arguments.items() if k != "self"})
        object.__setattr__(model, "perceptual", None)
        object.__setattr__(model, "_shared", None)
        return model

    @abstractmethod
    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> Tensor:
        """Draw `source (B, 3, H, W)` in [−1, 1] in the target pose: an image (B, 3, H, W) in [−1, 1]."""

    @abstractmethod
    def players(self) -> Mapping[str, nn.Module]:
        """Disjoint groups of parameters by name; those with "discriminator" in the name are not needed to draw."""

    @abstractmethod
    def turn(self, step: int) -> tuple[str, ...]:
        """Names of the players who move at `step` (from 0), in order."""

    @abstractmethod
    def losses(self, player: str, pair: PosePair) -> Mapping[str, Tensor]:
        """What `player` pays on `pair`: named scalar terms, already weighted; the loop sums them."""

    def schedule_steps(self) -> int:
        """Steps of the paper's schedule: how long `train` runs when nobody says."""
        raise TypeError(f"{type(self).__name__} names no schedule: say how many steps to train")

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """The player's optimiser as the paper has it; here the field's usual Adam(2e-4, (0.5, 0.999))."""
        return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))

    def learning_rate(self, player: str, step: int) -> float | None:
        """The player's learning rate at `step`, or None to leave the optimiser's own."""
        return None

    def features(self) -> Features | None:
        """What the paper compares images on beside pixels, or None: the loop finds such a network before the first step."""
        return None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "perceptual":  # a module like any other would become part of the model, and of its checkpoints
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def prepare(self, pairs: Sequence[PosePair]) -> None:
        """See `prepare_steps` batches before the first step; what is learnt of them belongs into buffers."""

    @contextmanager
    def sharing(self, movers: Iterable[nn.Module] = ()) -> Iterator[None]:
        """Within it, `share` computes each thing once, for all of a turn's `movers` to learn from."""
        object.__setattr__(self, "_shared", ({}, tuple(movers)))
        try:
            yield
        finally:
            object.__setattr__(self, "_shared", None)

    def share(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """`compute()`, or what it gave to the player before; the player who is not to learn from it detaches it."""
        if self._shared is None:
            return compute()
        known, movers = self._shared
        if name not in known:
            # Whoever moves later in the turn is frozen now, and learns from this drawing then.
            frozen = [p for mover in movers for p in mover.parameters() if not p.requires_grad]
            for parameter in frozen:
                parameter.requires_grad_(True)
            known[name] = compute()
            for parameter in frozen:
                parameter.requires_grad_(False)
        return known[name]

    def check(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> None:
        """ValueError unless images and poses fit this model's size and skeleton."""
        if tuple(source.shape[1:]) != (3, *self.size):
            raise ValueError(f"{type(self).__name__} takes images (B, 3, {self.size[0]}, {self.size[1]}), got {tuple(source.shape)}")
        for role, pose in (("source", source_pose), ("target", target_pose)):
            if pose.skeleton.name != self.skeleton.name:
                raise ValueError(f"{type(self).__name__} takes {self.skeleton.name} poses, the {role} pose is {pose.skeleton.name}")
            if tuple(pose.size) != tuple(self.size):
                raise ValueError(f"{type(self).__name__} takes poses of size {self.size}, the {role} pose is of size {pose.size}")
