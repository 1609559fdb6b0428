"""Fresh poses every epoch: the people of a batch rendered anew on the training device, with nothing written to disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Generator, Pose, convert, rescale
from reid_aug.data.masks import as_silhouettes
from reid_aug.images import to_float
from reid_aug.synthesis.augmenter import refuse_other_shape, render
from reid_aug.synthesis.bank import PoseBank, in_scenes
from reid_aug.synthesis.image_bank import Bank, ImageBank, as_bank, silhouettes_in
from reid_aug.synthesis.online_draw import PoseDraw, PoseDrawer, of_images, probability
from reid_aug.synthesis.target_poses import draw_for

BEYOND = 0.25  # how far past [0, 1] a resize may overshoot; images of another convention lie further out


class PoseRenderer:
    """Renders what a PoseDraw says: the same again for the same arguments, on the generator's device.

    `banks` hold names and poses, by identity or under None. Where the generator takes scenes and the banks know their images,
    these are kept on the device, or with `keep_scenes=False` read as they are drawn: what loader workers want, who would each
    keep them. With `mean` and `std`, images come and go normalised by them; `advice` is for who gives others.
    """

    def __init__(
        self,
        generator: Generator,
        banks: Mapping[int | None, Bank],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        *,
        keep_scenes: bool = True,
        advice: str = "normalised ones need mean and std",
    ) -> None:
        self.generator = generator.eval()
        generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        tensors = (*generator.parameters(), *generator.buffers())
        self.device = next((tensor.device for tensor in tensors), torch.device("cpu"))
        self.normalised, self.advice = mean is not None or std is not None, advice
        self.scales = tuple(values.to(self.device) for values in _scales(mean, std))
        self._range_seen = False  # whether the range of the images was looked at
        self.finds_poses = of_images(banks.values())
        if self.finds_poses:
            for bank in banks.values():
                as_bank(bank, generator)
        # Identities may share a bank; None where the generator finds the poses.
        fitted = {id(bank): None if isinstance(bank, ImageBank) else self._fit(bank.pose) for bank in banks.values()}
        self.banks = {key: (bank.names, fitted[id(bank)]) for key, bank in banks.items()}
        self.scenes: Tensor | None = None  # Images of all banks, uint8 (M, 3, H, W).
        self.silhouettes: Tensor | None = None  # Those of the people on them, uint8 (M, H, W), for a generator that takes some.
        self.starts: dict[int | None, int] = {}  # Where a bank's images begin among them.
        self.in_scenes = self.finds_poses or all(in_scenes(generator, bank) for bank in banks.values() if isinstance(bank, PoseBank))
        self.files = banks  # Where scenes are read that are not kept.
        known = any(bank.knows_silhouettes for bank in banks.values() if isinstance(bank, PoseBank))
        self.by_silhouettes = self.in_scenes and generator.takes_silhouettes and known
        if self.in_scenes and keep_scenes:
            self._read_scenes(banks)

    def _read_scenes(self, banks: Mapping[int | None, Bank]) -> None:
        distinct = {id(bank): bank for bank in banks.values()}
        size = (int(self.generator.size[0]), int(self.generator.size[1]))
        images = [bank.scenes(range(len(bank)), size) for bank in distinct.values()]
        starts = dict(zip(distinct, accumulate(map(len, images), initial=0), strict=False))
        self.scenes, self.starts = torch.cat(images).to(self.device), {key: starts[id(bank)] for key, bank in banks.items()}
        if self.by_silhouettes:
            shown = [silhouettes_in(bank, range(len(bank)), size) for bank in distinct.values()]
            self.silhouettes = torch.cat(shown).to(self.device)

    def to(self, device: torch.device) -> None:
        """Move the generator, which keeps its float32."""
        self.device = device
        self.generator.to(device)
        self.scales = tuple(values.to(device) for values in self.scales)
        self.scenes = None if self.scenes is None else self.scenes.to(device)
        self.silhouettes = None if self.silhouettes is None else self.silhouettes.to(device)

    def render(self, images: Tensor, poses: Pose, draw: PoseDraw) -> Tensor:
        """Return a new batch (B, 3, H, W): rows that are not in `draw` are bit for bit those of `images`.

        ValueError when images, poses or banks are not what was drawn for.
        """
        self.check(images, poses)
        if draw.batch != len(images):
            raise ValueError(f"a draw for a batch of {draw.batch} can't be rendered on {len(images)} images")
        target = self._targets(draw)
        if not draw.rows:
            return images.clone()
        rows = torch.tensor(draw.rows)
        # Where the poses are: on the CPU that is many small steps less.
        source = None if self.finds_poses else self._fit(poses[rows.to(poses.xy.device)])
        rows = rows.to(images.device)
        with torch.no_grad():
            pixels = self._unscaled(images.index_select(0, rows).float())
            source, target = (None if pose is None else pose.to(images.device, torch.float32) for pose in (source, target))
            pixels = self._render(pixels, source, self._silhouetted(target, draw), self._scenes(draw))
            pixels = torch.addcmul(self.scales[3], pixels, self.scales[2]).to(images.dtype)
        return images.clone().index_copy_(0, rows, pixels)  # the copying form would lose the layout

    def check(self, images: Tensor, poses: Pose) -> None:
        """Raise ValueError for images (B, 3, H, W) or poses (B, K) of another kind, count, shape or device."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise ValueError(f"images are float (B, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        if tuple(poses.batch_shape) != (len(images),):
            raise ValueError(f"there is a pose for each image, got {len(images)} images and poses of batch {tuple(poses.batch_shape)}")
        if len(images):
            refuse_other_shape(self.generator, [(images.shape[-2], images.shape[-1])], "these are")
        if images.device != self.device:
            raise ValueError(f"the generator is on {self.device}, the images are on {images.device}: call .to({str(images.device)!r})")

    def _render(self, pixels: Tensor, source: Pose | None, target: Pose | None, scene: Tensor | None) -> Tensor:
        """Render (R, 3, H, W) in [−1, 1]: the same in the target poses and scenes, through the generator's size."""
        size, rendered_size = tuple(pixels.shape[-2:]), tuple(self.generator.size)
        fitting = pixels if size == rendered_size else F.interpolate(pixels, rendered_size, mode="bilinear", antialias=True)
        if self.generator.training:  # somebody trained it meanwhile; dropout would be noise, and batch statistics a leak
            self.generator.eval()
        rendered = render(self.generator, fitting.contiguous(memory_format=torch.channels_last), source, target, scene)
        return (rendered if size == rendered_size else F.interpolate(rendered, size, mode="bilinear", antialias=True)).clamp(-1, 1)

    def unknown(self, count: int) -> Pose:
        """Give poses (B, K) of which nothing is known; ValueError where the generator is not to find them."""
        if not self.finds_poses:
            raise ValueError("poses of the images are needed, got None: a generator that finds poses itself, with an ImageBank, needs none")
        pose = Pose.unknown(self.generator.skeleton, (int(self.generator.size[0]), int(self.generator.size[1])))
        return replace(pose, xy=pose.xy.expand(count, -1, -1), visible=pose.visible.expand(count, -1))

    def _fit(self, pose: Pose) -> Pose:
        """Bring a pose to the generator's skeleton and size."""
        pose, size = convert(pose, self.generator.skeleton), (int(self.generator.size[0]), int(self.generator.size[1]))
        return pose if tuple(pose.size) == size else rescale(pose, size)

    def _targets(self, draw: PoseDraw) -> Pose | None:
        """Look up the recorded poses as a batch; None when there is none, or the generator finds them."""
        xy, visible, pose = [], [], None
        for key, index, name in zip(draw.pids or [None] * len(draw.rows), draw.targets, draw.names, strict=True):
            names, pose = self.banks.get(key, ((), None))
            if not 0 <= index < len(names) or names[index] != name:
                whose = "the bank" if key is None else f"the bank of identity {key}"
                raise ValueError(f"the draw was made with another bank: {whose} has no pose {index} named {name!r}")
            if pose is not None:
                xy.append(pose.xy[index])
                visible.append(pose.visible[index])
        return None if pose is None else replace(pose, xy=torch.stack(xy), visible=torch.stack(visible))

    def _scenes(self, draw: PoseDraw) -> Tensor | None:
        """Look up the images that the drawn poses came from, (R, 3, H, W) in [−1, 1]; None when there is none."""
        if not self.in_scenes:
            return None
        if self.scenes is None:
            size = (int(self.generator.size[0]), int(self.generator.size[1]))
            read = [self.files[key].scenes([index], size) for key, index in draw.drawn]
            return to_float(torch.cat(read).to(self.device)).contiguous(memory_format=torch.channels_last)
        return to_float(self.scenes[self._kept(draw)]).contiguous(memory_format=torch.channels_last)

    def _silhouetted(self, pose: Pose | None, draw: PoseDraw) -> Pose | None:
        """Return the target poses (R, K) with the silhouettes on their images, where these are known."""
        if pose is None or not self.by_silhouettes:
            return pose
        kept = self.silhouettes  # else they are read
        read = [silhouettes_in(self.files[key], [index], pose.size) for key, index in draw.drawn] if kept is None else []
        return replace(pose, silhouette=as_silhouettes(torch.cat(read) if kept is None else kept[self._kept(draw)]))

    def _kept(self, draw: PoseDraw) -> Tensor:
        """Say where the images that poses were drawn from are among those kept."""
        return torch.tensor([self.starts[key] + index for key, index in draw.drawn]).to(self.device)

    def _unscaled(self, images: Tensor) -> Tensor:
        """Bring images from their convention to [−1, 1]; ValueError when the first batch shows that it is another one."""
        pixels = torch.addcmul(self.scales[1], images, self.scales[0])
        if not self._range_seen:  # once: looking waits for the device
            low, high = (float(end) / 2 + 0.5 for end in (pixels.min(), pixels.max()))
            if not (low >= -BEYOND and high <= 1 + BEYOND):
                rule = "images lie in [0, 1] once mean and std are undone" if self.normalised else "images lie in [0, 1]"
                hint = "" if self.normalised else f"; {self.advice}"
                raise ValueError(f"{rule}, got values from {low:.2f} to {high:.2f}{hint}")
            self._range_seen = True
        return pixels


class PoseAugmentation(nn.Module):
    """Renders each image of a batch anew, with probability `p`, in a pose drawn from `bank`.

    `bank` is a PoseBank for all, or a mapping from pid to the identity's own; who has none stays as is. `draw` is "whole",
    uniformly, or "compatible" ("compatible-0.3"), from near the source's view, as PoseDrawer has it; None is the generator's
    own way. A generator that takes scenes is given the images that the poses came from, where the bank knows them: they stay
    on its device, 3 H W bytes each; `replace(bank, paths=None)` leaves people in their own places. So do those of an ImageBank,
    with which a generator that finds poses itself draws: `poses` are then not looked at and may be None. With `mean` and
    `std`, images come and go normalised by them, else in [0, 1]. Call it where training images pass: train() and eval()
    change nothing. The generator is put in eval mode and is no submodule: `parameters()` and `state_dict()` don't hold
    it, but `to(device)` moves it. It renders in float32, on a GPU under bfloat16 autocast; `generator.compile(dynamic=True)`
    beforehand compiles it. `step` counts the calls and is all of `state_dict()`: a resumed training draws on as it would
    have. Processes that share a training take a seed each. Images may be of another size than the generator's, not of quite
    another shape. ValueError for a `p`, seed, mean, std or bank that won't do.
    """

    def __init__(
        self,
        generator: Generator,
        bank: Bank | Mapping[int, Bank],
        p: float = 0.5,
        *,
        seed: int = 0,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        draw: str | None = None,
    ) -> None:
        super().__init__()
        banks: Mapping[Any, Bank] = bank if isinstance(bank, Mapping) else {None: bank}
        if not banks or not all(isinstance(value, Bank) for value in banks.values()):
            kinds = ", ".join(sorted({type(value).__name__ for value in banks.values()})) or "an empty mapping"
            raise ValueError(f"bank is a PoseBank, or a mapping from pid to PoseBank with at least one (or ImageBank), got {kinds}")
        # Drawing and rendering are plain objects: an optimiser of `parameters()` and every checkpoint do without the generator.
        self.drawer = PoseDrawer(banks, p, seed, draw_for(generator, draw))
        self.renderer = PoseRenderer(generator, banks, mean, std)
        self.last: PoseDraw | None = None

    def forward(self, images: Tensor, poses: Pose | None = None, pids: Sequence[int] | Tensor | None = None) -> Tensor:
        """Draw poses, then render: images (B, 3, H, W) of the same size, type, device and layout; `last` says what was drawn.

        Without `poses` the generator finds them; ValueError for one that does not.
        """
        poses = self.renderer.unknown(len(images)) if poses is None else poses
        self.renderer.check(images, poses)
        return self.render(images, poses, self.draw(poses, pids))

    def draw(self, poses: Pose, pids: Sequence[int] | Tensor | None = None) -> PoseDraw:
        """Choose who is rendered anew, and in which pose, as PoseDrawer does."""
        self.last = self.drawer.draw(poses, pids)
        return self.last

    def render(self, images: Tensor, poses: Pose | None, draw: PoseDraw) -> Tensor:
        """Render what was drawn, now or at another time, as PoseRenderer does."""
        return self.renderer.render(images, self.renderer.unknown(len(images)) if poses is None else poses, draw)

    @property
    def generator(self) -> Generator:
        return self.renderer.generator

    @property
    def device(self) -> torch.device:
        """Return the device of the generator, on which images are expected."""
        return self.renderer.device

    @property
    def p(self) -> float:
        """Return the probability that an image is rendered anew; it may be set, for a schedule."""
        return self.drawer.p

    @p.setter
    def p(self, p: float) -> None:
        self.drawer.p = probability(p)

    @property
    def seed(self) -> int:
        """Return the seed of everything drawn."""
        return self.drawer.seed

    @property
    def step(self) -> int:
        """Return the number of calls so far."""
        return self.drawer.step

    @step.setter
    def step(self, step: int) -> None:
        self.drawer.step = int(step)

    def _apply(self, fn: Any, recurse: bool = True) -> PoseAugmentation:
        """Take the generator along to the device."""
        super()._apply(fn, recurse)
        self.renderer.to(fn(torch.empty(0, device=self.renderer.device)).device)
        return self

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.step)  # a tensor, which every format of checkpoint takes

    def set_extra_state(self, state: Tensor) -> None:
        self.step = int(state)

    def extra_repr(self) -> str:
        drawer = self.drawer
        banks = f"{len(drawer.names)} banks" if drawer.by_identity else f"bank of {len(drawer.names[None])}"
        return f"{type(self.generator).__name__} {tuple(self.generator.size)}, {banks}, p={drawer.p}, seed={drawer.seed}"


def _scales(mean: Sequence[float] | None, std: Sequence[float] | None) -> tuple[Tensor, ...]:
    """Give factor and summand, each (1, 3, 1, 1), of the way from the images' convention to [−1, 1], and of the way back."""
    if mean is None and std is None:
        mean, std = (0.0,) * 3, (1.0,) * 3
    if mean is None or std is None or len(mean) != 3 or len(std) != 3 or not all(s > 0 for s in std):
        raise ValueError(f"mean and std are three numbers each, std above 0, or both None, got {mean} and {std}")
    m, s = (torch.tensor(values, dtype=torch.float64).view(1, 3, 1, 1) for values in (mean, std))
    return tuple(values.float() for values in (2 * s, 2 * m - 1, 0.5 / s, (0.5 - m) / s))
