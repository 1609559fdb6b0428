"""Deformable GAN. Siarohin, Sangineto, Lathuilière, Sebe, CVPR 2018 (arXiv 1801.00055); journal: Appearance and Pose-Conditioned
Human Image Generation using Deformable GANs, TPAMI 2019.

A U-Net with two encoders: source image and source heatmaps, and target heatmaps. Skips of the first four levels carry the
source's features to where the target's ten body parts are, each by an affine transform of its own; dropout is the noise.
A patch discriminator sees source, source heatmaps, image, target heatmaps; beside it a nearest-neighbour loss on VGG-19.

Differs from the paper:
* The nearest-neighbour loss is a mean over pixels, as in the released code: λ = 0.01 was chosen with it, and published
  numbers go with that. The text sums (`nn_reduction=sum`, `deformable-nn-sum`).
* torchvision's VGG-19 takes inputs of unit variance, the code's took 0 to 255: features are scaled by 57.6 so that λ keeps its meaning
  (another network's, in VGG-19's place, are not).
* The norm's ε of 1e-3 on the standard deviation (released code) is 1e-6 on the variance; logits instead of logs with 1e-7 inside.
* Discriminator and generator share the batch of a step; the code loads one for each.
* Lower limbs reach 0.3 of their length past the end in transforms and in masks; the code says 0.3 and 0.5.
* A torso with fewer than three joints in both poses stays where it is, and its scale is a quarter of the height where no side is
  seen in either pose; the authors drop such images before training.
* `baseline` skips (its rows in the tables) feed one encoder with image and both poses' heatmaps, as the released code does.
* Background conditioning, which the text only sketches, feeds the scene without its person to the target's encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair, keeps_options
from generators.blocks import halving_size
from generators.choices import one_of
from generators.losses import fake_loss, real_loss
from generators.maps import gaussian_maps, without_person
from generators.parts import body_parts
from generators.perceptual import KERAS_SCALE, VGG19, Features
from generators.pose import Pose
from generators.warp import at_scale, carry

DEFORMED_LEVELS = 4
PAPERS_WEIGHT = {"nearest-neighbour": 0.01, "l1": 100.0, "features": 0.5}  # λ by content loss


class JointNorm(nn.Module):
    """Normalisation over C, H and W together with one gain and one bias: what the released code's instance norm does."""

    def __init__(self) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 1, self.gain.expand(x.shape[1]), self.bias.expand(x.shape[1]), 1e-6)


def _norm(kind: str, channels: int) -> nn.Module:
    return JointNorm() if kind == "joint" else nn.InstanceNorm2d(channels, affine=True)


def _down(before: int, after: int, norm: str | None) -> nn.Sequential:
    layers = [nn.LeakyReLU(0.2), nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False)]
    return nn.Sequential(*layers, *([_norm(norm, after)] if norm else []))


class Encoder(nn.Module):
    """A plain 3 × 3 convolution, then LeakyReLU, 4 × 4 stride-2 convolution and norm per level; no norm on the last."""

    def __init__(self, channels: int, widths: tuple[int, ...], norm: str) -> None:
        super().__init__()
        last = len(widths) - 2
        self.start = nn.Conv2d(channels, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            _down(a, b, None if i == last else norm) for i, (a, b) in enumerate(zip(widths, widths[1:], strict=False))
        )

    def forward(self, x: Tensor) -> list[Tensor]:  # (B, channels, H, W) → one map per level, (B, widths[i], H/2^i, W/2^i)
        maps = [self.start(x)]
        for block in self.down:
            maps.append(block(maps[-1]))
        return maps


class Decoder(nn.Module):
    """ReLU, 4 × 4 stride-2 transposed convolution, norm per level, dropout on the first three; a 3 × 3 convolution to RGB, tanh."""

    def __init__(self, skips: tuple[int, ...], widths: tuple[int, ...], norm: str) -> None:
        super().__init__()
        before = [skips[0], *(width + skip for width, skip in zip(widths, skips[1:], strict=True))]
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ReLU(), nn.ConvTranspose2d(a, b, 4, stride=2, padding=1, bias=False), _norm(norm, b),
                *([nn.Dropout(0.5)] if i < 3 else []),
            )
            for i, (a, b) in enumerate(zip(before, widths, strict=False))
        )  # fmt: skip
        self.end = nn.Conv2d(before[-1], 3, 3, padding=1)

    def forward(self, skips: list[Tensor]) -> Tensor:  # deepest first → (B, 3, H, W)
        x = skips[0]
        for block, skip in zip(self.up, skips[1:], strict=True):
            x = torch.cat((block(x), skip), dim=1)
        return self.end(F.relu(x)).tanh()


class DeformableUNet(nn.Module):
    """The generator's network: 61.1 M parameters at 128 × 64 with deformable skips."""

    def __init__(self, joints: int, levels: int, width: int, deformable: bool, background: bool, norm: str, aggregate: str) -> None:
        super().__init__()
        widths = tuple(width * min(2**i, 8) for i in range(levels))
        self.aggregate, extra = aggregate, 3 * background
        if deformable:
            self.source, self.target = Encoder(3 + joints, widths, norm), Encoder(joints + extra, widths, norm)
        else:
            self.source, self.target = Encoder(3 + 2 * joints + extra, widths, norm), None
        skips = tuple(w * (1 + deformable) for w in reversed(widths))
        self.decoder = Decoder(skips, (*[width * 8] * (levels - 3), width * 4, width * 2), norm)

    def forward(self, source: Tensor, target: Tensor, parts: tuple[Tensor, Tensor] | None) -> Tensor:
        """Render from `source` image and heatmaps, `target` heatmaps (and background), the parts' transforms and masks at full size."""
        if self.target is None or parts is None:
            return self.decoder(self.source(torch.cat((source, target), dim=1))[::-1])
        (transforms, masks), skips = parts, []
        for level, (features, target_features) in enumerate(zip(self.source(source), self.target(target), strict=True)):
            if level < DEFORMED_LEVELS:
                step = 2**level  # nearest: every step-th pixel, as TensorFlow resizes
                features = carry(features, at_scale(transforms, 1 / step), masks[..., ::step, ::step], self.aggregate)
            skips.append(torch.cat((features, target_features), dim=1))
        return self.decoder(skips[::-1])


class PatchDiscriminator(nn.Module):
    """4 × 4 stride-2 convolutions down to one logit per patch (Isola et al. 2017); the first one is neither padded nor normalised."""

    def __init__(self, channels: int, rows: int, width: int, norm: str) -> None:
        super().__init__()
        downs = min(5, int(math.log2(rows)) - 2)  # five at 128 and 256 rows; fewer where nothing would be left
        widths = [width * min(2**i, 8) for i in range(downs - 1)]
        self.start = nn.Conv2d(channels, widths[0], 4, stride=2)
        self.down = nn.Sequential(*(_down(a, b, norm) for a, b in zip(widths, widths[1:], strict=False)), _down(widths[-1], 1, None))

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) → (B, 1, h, w)
        return self.down(self.start(x))


class DeformableGAN(Generator):
    """Pose transfer by deformable skip connections and a nearest-neighbour loss (Siarohin et al. 2018)."""

    paper = "Siarohin et al., Deformable GANs for Pose-based Human Image Generation, CVPR 2018"

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # Height and width of images; the paper's other size is (256, 256).
        width: int = 64,  # Channels of the first level.
        sigma_px: float = 6.0,  # Standard deviation of the joints' heatmaps.
        skips: str = "deformable",  # How the source's features reach the decoder: "deformable", or "baseline", a plain U-Net's skips.
        aggregate: str = "max",  # How the parts that cover a pixel are put together: "max" or "avg".
        content_loss: str = "nearest-neighbour",  # Loss on images: this on conv1_2; "l1" on pixels; or "features", L1 on conv2_1.
        nn_side_px: int = 3,  # Side of the nearest-neighbour loss' square; 5 on DeepFashion.
        content_weight: float | None = None,  # Weight λ of `content_loss`; None is the paper's: 0.01, with "l1" 100, with "features" 0.5.
        nn_reduction: str = "mean-released",  # Over pixels, the nearest-neighbour loss is a mean as released, or a "sum" as printed.
        fit: str = "least-squares",  # How limb transforms are fitted; by "total-released" as scikit-image's estimate_transform does.
        background: bool = False,  # Whether the background is taken from a scene, a third image.
        norm: str = "joint",  # What is normalised: all channels together, "joint", as the authors trained; or by "instance" each channel.
        steps: int = 90_000,  # Steps of generator and discriminator.
        learning_rate: float = 2e-4,  # Learning rate of both players' Adam.
    ) -> None:
        super().__init__()
        one_of("deformable's skips", skips, ("deformable", "baseline"))
        one_of("deformable's aggregate", aggregate, ("max", "avg"))
        one_of("deformable's content_loss", content_loss, PAPERS_WEIGHT)
        one_of("deformable's nn_reduction", nn_reduction, ("mean-released", "sum"))
        one_of("deformable's fit", fit, ("least-squares", "total-released"))
        one_of("deformable's norm", norm, ("joint", "instance"))
        if nn_side_px < 1 or nn_side_px % 2 == 0:
            raise ValueError(f"deformable's nn_side_px is an odd number of pixels, got {nn_side_px}")
        self.size, self.sigma_px, self.steps, self.rate = halving_size("deformable", size, rows=4), sigma_px, steps, learning_rate
        levels = self.size[0].bit_length() - 2  # down to four rows: six levels at 128, seven at 256
        self.deforms, self.total, self.takes_scene = skips == "deformable", fit == "total-released", background
        self.content_loss = content_loss
        self.content_weight = PAPERS_WEIGHT[content_loss] if content_weight is None else content_weight
        self.nn_side_px, self.nn_sum = nn_side_px, nn_reduction == "sum"
        joints = len(self.skeleton)
        self.generator = DeformableUNet(joints, levels, width, self.deforms, background, norm, aggregate)
        self.discriminator = PatchDiscriminator(6 + 2 * joints, self.size[0], width, norm)

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        """Render as every generator; with `background` and no scene given, it is the source's around its person."""
        self.check(source, source_pose, target_pose, scene)
        parts = body_parts(source_pose, target_pose, self.total) if self.deforms else None
        target = self._heatmaps(target_pose, source)
        if self.takes_scene:
            place = without_person(source, source_pose) if scene is None else without_person(scene, target_pose)
            target = torch.cat((target, place), dim=1)
        return self.generator(torch.cat((source, self._heatmaps(source_pose, source)), dim=1), target, parts)

    def _heatmaps(self, pose: Pose, like: Tensor) -> Tensor:
        return gaussian_maps(pose, self.sigma_px).to(like.dtype)

    def players(self) -> Mapping[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("discriminator", "generator")

    def schedule_steps(self) -> int:
        return self.steps

    def features(self) -> Features | None:
        layer = {"nearest-neighbour": "conv1_2", "features": "conv2_1"}.get(self.content_loss)
        return Features((layer,)) if layer else None

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        image = self.share("image", lambda: self(*self.inputs_of(pair)))
        if player == "discriminator":
            real, fake = (self.discriminator(self._seen(pair, seen)) for seen in (pair.target, image.detach()))
            return {"real": real_loss(real), "fake": fake_loss(fake)}
        return {"adversarial": real_loss(self.discriminator(self._seen(pair, image))), **self._content(image, pair.target)}

    def _content(self, image: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.content_loss == "l1":
            return {"l1": self.content_weight * F.l1_loss(image, target)}
        if self.perceptual is None:
            return {}
        scale = KERAS_SCALE if isinstance(self.perceptual, VGG19) else 1.0
        (features,) = self.perceptual(image)
        with torch.no_grad():
            (target_features,) = self.perceptual(target)
        if self.content_loss == "features":
            return {"features": self.content_weight * scale * F.l1_loss(features, target_features)}
        distance = nearest_neighbour_l1(features, target_features, self.nn_side_px)
        reduced = distance.sum((1, 2)).mean() if self.nn_sum else distance.mean()
        return {"nearest_neighbour": self.content_weight * scale * reduced}

    def _seen(self, pair: PosePair, image: Tensor) -> Tensor:
        """Put the discriminator's four tensors side by side, (B, 42, H, W)."""
        source_maps, target_maps = self._heatmaps(pair.source_pose, image), self._heatmaps(pair.target_pose, image)
        return torch.cat((pair.source, source_maps, image, target_maps), dim=1)


def nearest_neighbour_l1(image: Tensor, target: Tensor, side: int) -> Tensor:
    """Return, per pixel, the least L1 distance of `image`'s feature to the target's within `side` × `side`: (B, H, W) of maps (B, C, H, W).

    The nearest-neighbour loss before its sum over pixels (Siarohin et al. 2018, eq. 8); neighbours outside the frame do
    not count. Beyond its inputs it holds one feature map at a time, and its gradient another.

    >>> nearest_neighbour_l1(torch.tensor([[[[1.0, 5.0, 5.0]]]]), torch.tensor([[[[4.0, 1.0, 2.0]]]]), side=3)
    tensor([[[0., 1., 3.]]])
    """
    if side < 1 or side % 2 == 0:
        raise ValueError(f"a neighbourhood's side is an odd number of pixels, got {side}")
    return _NearestNeighbour.apply(image, target, side)


class _NearestNeighbour(torch.autograd.Function):
    """Keeps which neighbour was nearest, and looks it up again for the gradient."""

    @staticmethod
    def forward(ctx: Any, image: Tensor, target: Tensor, side: int) -> Tensor:
        # One image at a time stays in a CPU's cache; a GPU takes them all.
        step = 1 if image.device.type == "cpu" else len(image)
        results = [_nearest(a, b, side) for a, b in zip(image.split(step), target.split(step), strict=True)]
        least, nearest = (torch.cat(part) for part in zip(*results, strict=True))
        ctx.save_for_backward(image, target, nearest)
        return least

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        image, target, nearest = ctx.saved_tensors
        b, c, h, w = image.shape
        rows = (nearest.flatten(1) + torch.arange(b, device=nearest.device)[:, None] * (h * w)).flatten()
        away = target.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, rows).view(b, h, w, c).permute(0, 3, 1, 2)
        away = away.sub_(image).sign_().mul_(grad[:, None])  # minus the image's gradient
        if not ctx.needs_input_grad[1]:
            return away.neg_(), None, None
        to_target = torch.zeros_like(target).permute(0, 2, 3, 1).reshape(-1, c)
        to_target = to_target.index_add_(0, rows, away.permute(0, 2, 3, 1).reshape(-1, c)).view(b, h, w, c).permute(0, 3, 1, 2)
        return -away, to_target, None


def _nearest(image: Tensor, target: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Return the least distance (B, H, W) and the index of its pixel among the target's H · W; the first wins a tie."""
    h, w = image.shape[-2:]
    least = torch.full((image.shape[0], h, w), torch.inf, dtype=image.dtype, device=image.device)
    nearest = torch.zeros_like(least, dtype=torch.int64)
    pixel = torch.arange(h * w, device=image.device).view(h, w)
    shifts = range(-(side // 2), side // 2 + 1)
    for dy, dx in ((dy, dx) for dy in shifts for dx in shifts if abs(dy) < h and abs(dx) < w):
        # The frame's part that has this neighbour, and where that neighbour is.
        part = (..., slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx)))
        neighbour = (..., slice(max(0, dy), h - max(0, -dy)), slice(max(0, dx), w - max(0, -dx)))
        distance = (image[part] - target[neighbour]).abs_().sum(1)
        closer = distance < least[part]
        least[part] = torch.where(closer, distance, least[part])
        nearest[part] = torch.where(closer, pixel[neighbour[1:]].expand_as(closer), nearest[part])
    return least, nearest
