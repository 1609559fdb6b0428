"""Fresh poses every epoch: the people of a batch redrawn on the training device, with nothing written to disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Generator, Pose, convert, rescale
from reid_aug.data.body import valid_for_pairs
from reid_aug.synthesis.bank import PoseBank

BEYOND = 0.25  # how far past [0, 1] a resize may overshoot; images of another convention lie further out


@dataclass(frozen=True)
class PoseDraw:
    """What one call drew: in a batch of `batch`, row `rows[i]` becomes pose `targets[i]`, named `names[i]`, of the bank.

    `pids[i]` says whose bank where every identity has its own, else it is empty. It was call `step` under `seed`.
    ValueError for lists of different lengths, or rows that are not in order, twice or outside the batch.
    """

    seed: int
    step: int
    batch: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    names: tuple[str, ...]
    pids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rows", "targets", "names", "pids"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = len(self.rows), len(self.targets), len(self.names), len(self.pids) or len(self.rows)
        if len(set(lengths)) != 1:
            raise ValueError(f"a draw has a target, a name and, if any, a pid for each of its rows, got {lengths} of them")
        if list(self.rows) != sorted(set(self.rows)) or not all(0 <= row < self.batch for row in self.rows):
            raise ValueError(f"a draw's rows are ascending and in 0..{self.batch - 1}, got {self.rows}")

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PoseDraw:
        """The draw that `to_json` wrote; ValueError for anything else."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"no recorded draw of poses: {error}") from None


class PoseAugmentation(nn.Module):
    """Redraws each image of a batch, with probability `p`, in a pose drawn uniformly from `bank`.

    `bank` is a PoseBank for all, or a mapping from pid to the identity's own; who has none stays as is. With `mean` and
    `std`, images come and go normalised by them, else in [0, 1]. Call it where training images pass: train() and eval()
    change nothing. The generator is put in eval mode and is no submodule: `parameters()` and `state_dict()` don't hold
    it, but `to(device)` moves it. It draws in float32, on a GPU under bfloat16 autocast; `generator.compile(dynamic=True)`
    beforehand compiles it. `step` counts the calls and is all of `state_dict()`: a resumed training draws on as it would
    have. Processes that share a training take a seed each. Images may be of another size than the generator's, not of quite
    another shape. ValueError for a `p`, seed, mean, std or bank that won't do.
    """

    generator: Generator

    def __init__(
        self,
        generator: Generator,
        bank: PoseBank | Mapping[int, PoseBank],
        p: float = 0.5,
        *,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"p is a probability in [0, 1], got {p}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is in 0..2**64 - 1, got {seed}")
        self.p, self.seed, self.step = float(p), int(seed), 0
        self.last: PoseDraw | None = None
        # Past nn.Module's __setattr__, or an optimiser of `parameters()` and every checkpoint would get the generator too.
        object.__setattr__(self, "generator", generator.eval())
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device = next((held.device for held in (*generator.parameters(), *generator.buffers())), torch.device("cpu"))
        self.normalised = mean is not None or std is not None
        self._maps = tuple(values.to(self.device) for values in _to_and_from(mean, std))
        self._looked = False  # at the range of the images
        self.by_identity = isinstance(bank, Mapping)
        banks: Mapping[Any, PoseBank] = bank if isinstance(bank, Mapping) else {None: bank}
        if not banks or not all(isinstance(one, PoseBank) for one in banks.values()):
            got = ", ".join(sorted({type(one).__name__ for one in banks.values()})) or "an empty mapping"
            raise ValueError(f"bank is a PoseBank, or a mapping from pid to PoseBank with at least one, got {got}")
        fitted = {id(one): self._fit(one.pose) for one in banks.values()}  # identities may share a bank
        self._banks = {key: (one.names, fitted[id(one)]) for key, one in banks.items()}

    def forward(self, images: Tensor, poses: Pose, pids: Sequence[int] | Tensor | None = None) -> Tensor:
        """`draw`, then `apply`: images (B, 3, H, W) of the same size, type, device and layout."""
        self._check(images, poses)
        return self.apply(images, poses, self.draw(poses, pids))

    def draw(self, poses: Pose, pids: Sequence[int] | Tensor | None = None) -> PoseDraw:
        """Choose who is redrawn, and in which pose; a function of (seed, step), the poses (B, K) and pids (B,) alone.

        An image is usable when its shoulders and hips are seen. Leave poses and pids on the CPU, where a DataLoader puts
        them: reading them off a GPU waits for it. ValueError unless there are pids where every identity has its own bank.
        """
        if len(poses.batch_shape) != 1:
            raise ValueError(f"poses are a batch (B, K), got {tuple(poses.visible.shape)}")
        keys, usable = self._keys(pids, len(poses)), valid_for_pairs(poses).tolist()
        # Raw bits, two to a row: they never change between numpy's versions, nor with the batch's length or its other rows.
        bits = np.random.Philox(key=np.array([self.seed, self.step], dtype=np.uint64)).random_raw((len(poses), 2)).tolist()
        rows = [i for i, key in enumerate(keys) if usable[i] and key in self._banks and (bits[i][0] >> 11) * 2.0**-53 < self.p]
        targets = [bits[i][1] % len(self._banks[keys[i]][0]) for i in rows]
        names = tuple(self._banks[keys[i]][0][target] for i, target in zip(rows, targets, strict=True))
        whose = tuple(keys[i] for i in rows) if self.by_identity else ()
        self.last = PoseDraw(self.seed, self.step, len(poses), tuple(rows), tuple(targets), names, whose)
        self.step += 1
        return self.last

    def apply(self, images: Any, poses: Pose | None = None, parameters: PoseDraw | None = None) -> Any:  # type: ignore[override]
        """Draw what was recorded: a new tensor, the rows that are not in `parameters` bit for bit those of `images`.

        The same again for the same arguments. ValueError when images, poses or banks are not what was drawn for.
        """
        if poses is None or parameters is None:  # nn.Module's own apply(fn), which a model around this one calls
            return super().apply(images)
        self._check(images, poses)
        if parameters.batch != len(images):
            raise ValueError(f"a draw for a batch of {parameters.batch} can't be applied to {len(images)} images")
        target = self._targets(parameters)
        if target is None:
            return images.clone()
        rows = torch.tensor(parameters.rows)
        source = self._fit(poses[rows.to(poses.xy.device)])  # where the poses are: on the CPU that is many small steps less
        rows = rows.to(images.device)
        with torch.no_grad():
            given = self._given(images.index_select(0, rows).float())
            drawn = self._redraw(given, source.to(images.device, torch.float32), target.to(images.device, torch.float32))
            drawn = torch.addcmul(self._maps[3], drawn, self._maps[2]).to(images.dtype)
        return images.clone().index_copy_(0, rows, drawn)  # the copying form would lose the layout

    def _redraw(self, pixels: Tensor, source: Pose, target: Pose) -> Tensor:
        """(R, 3, H, W) in [−1, 1] → the same in the target poses, through the generator's size."""
        size, own = tuple(pixels.shape[-2:]), tuple(self.generator.size)
        given = pixels if size == own else F.interpolate(pixels, own, mode="bilinear", antialias=True)
        if self.generator.training:  # somebody trained it meanwhile; dropout would be noise, and batch statistics a leak
            self.generator.eval()
        with torch.autocast(given.device.type, torch.bfloat16, enabled=given.device.type == "cuda"):
            drawn = self.generator(given.contiguous(memory_format=torch.channels_last), source, target)
        drawn = drawn.float()
        return (drawn if size == own else F.interpolate(drawn, size, mode="bilinear", antialias=True)).clamp(-1, 1)

    def _fit(self, pose: Pose) -> Pose:
        """A pose on the generator's skeleton and at its size."""
        pose, size = convert(pose, self.generator.skeleton), (int(self.generator.size[0]), int(self.generator.size[1]))
        return pose if tuple(pose.size) == size else rescale(pose, size)

    def _keys(self, pids: Sequence[int] | Tensor | None, count: int) -> list[Any]:
        """Under what each row's bank is kept."""
        if not self.by_identity:
            return [None] * count
        if pids is None:
            raise ValueError("every identity has a bank of its own: pids (B,) say whose to draw from, got None")
        keys = [int(pid) for pid in (pids.tolist() if isinstance(pids, Tensor) else pids)]
        if len(keys) != count:
            raise ValueError(f"a batch has a pid for each pose, got {len(keys)} pids and {count} poses")
        return keys

    def _targets(self, parameters: PoseDraw) -> Pose | None:
        """The recorded poses as a batch, or None when there is none."""
        xy, visible, pose = [], [], None
        for key, index, name in zip(parameters.pids or [None] * len(parameters.rows), parameters.targets, parameters.names, strict=True):
            names, pose = self._banks.get(key, ((), None))
            if pose is None or not 0 <= index < len(names) or names[index] != name:
                whose = "the bank" if key is None else f"the bank of identity {key}"
                raise ValueError(f"the draw was made with another bank: {whose} has no pose {index} named {name!r}")
            xy.append(pose.xy[index])
            visible.append(pose.visible[index])
        return None if pose is None else replace(pose, xy=torch.stack(xy), visible=torch.stack(visible))

    def _check(self, images: Tensor, poses: Pose) -> None:
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if tuple(poses.batch_shape) != (len(images),):
            raise ValueError(f"there is a pose for each image, got {len(images)} images and poses of batch {tuple(poses.batch_shape)}")
        (height, width), (own_height, own_width) = images.shape[-2:], self.generator.size
        # As the Augmenter has it: a resize is harmless, a full-body 2 : 1 crop squeezed to a square is not.
        if len(images) and not 1 / 1.5 < (own_height / own_width) / (height / width) < 1.5:
            raise ValueError(f"the generator draws {own_height} × {own_width} images, these are {height} × {width}: of another shape")
        if images.device != self.device:
            raise ValueError(f"the generator is on {self.device}, the images are on {images.device}: call .to({str(images.device)!r})")

    def _given(self, images: Tensor) -> Tensor:
        """From the images' convention to [−1, 1]; ValueError when the first batch shows that it is another one."""
        pixels = torch.addcmul(self._maps[1], images, self._maps[0])
        if not self._looked:  # once: looking waits for the device
            low, high = (float(end) / 2 + 0.5 for end in (pixels.min(), pixels.max()))
            if not (low >= -BEYOND and high <= 1 + BEYOND):
                rule = "images lie in [0, 1] once mean and std are undone" if self.normalised else "images lie in [0, 1]"
                hint = "" if self.normalised else "; normalised ones need mean and std"
                raise ValueError(f"{rule}, got values from {low:.2f} to {high:.2f}{hint}")
            self._looked = True
        return pixels

    def _apply(self, fn: Any, recurse: bool = True) -> PoseAugmentation:
        """The generator follows to the device and keeps its float32."""
        super()._apply(fn, recurse)
        self.device = fn(torch.empty(0, device=self.device)).device
        self.generator.to(self.device)
        self._maps = tuple(values.to(self.device) for values in self._maps)
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.step)  # a tensor, which every format of checkpoint takes

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state)

    def extra_repr(self) -> str:
        banks = f"{len(self._banks)} banks" if self.by_identity else f"bank of {len(self._banks[None][0])}"
        return f"{type(self.generator).__name__} {tuple(self.generator.size)}, {banks}, p={self.p}, seed={self.seed}"


def _to_and_from(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, ...]:
    """Factor and summand, each (1, 3, 1, 1), of the way from the images' convention to [−1, 1], and of the way back."""
    if mean is None and std is None:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise ValueError(f"mean and std are three numbers each, std above 0, or both None, got {mean} and {std}")
    m, s = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    return tuple(values.float() for values in (2 * s, 2 * m - 1, 0.5 / s, (0.5 - m) / s))
