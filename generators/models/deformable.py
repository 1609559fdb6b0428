"""Deformable GAN. Siarohin, Sangineto, Lathuilière, Sebe, CVPR 2018 (arXiv 1801.00055); journal: Appearance and Pose-Conditioned
Human Image Generation using Deformable GANs, TPAMI 2019.

A U-Net with two encoders: source image and source heatmaps, and target heatmaps. Skips of the first four levels carry the
source's features to where the target's ten body parts are, each by an affine transform of its own; dropout is the noise.
A patch discriminator sees source, source heatmaps, image, target heatmaps; beside it a nearest-neighbour loss on VGG-19.

Differs from the paper:
* The nearest-neighbour loss is a mean over pixels, as in the released code: λ = 0.01 was chosen with it (the text sums; `nn_reduction`).
* torchvision's VGG-19 takes inputs of unit variance, the code's took 0 to 255: features are scaled by 57.6 so that λ keeps its meaning
  (another network's, in VGG-19's place, are not).
* The norm's ε of 1e-3 on the standard deviation (released code) is 1e-6 on the variance; logits instead of logs with 1e-7 inside.
* Discriminator and generator share the batch of a step; the code loads one for each.
* Lower limbs reach 0.3 of their length past the end in transforms and in masks; the code says 0.3 and 0.5.
* A torso with fewer than three joints in both poses stays where it is, and its scale is a quarter of the height where no side is
  seen in either pose; the authors drop such images before training.
* `baseline` skips (its rows in the tables) feed one encoder with image and both poses' heatmaps, as the released code does.
* Background conditioning, which the text only sketches, feeds an image without its person to the target's encoder.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair
from generators.losses import fake_loss, real_loss
from generators.maps import body_mask, gaussian_maps
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


class DrawingNet(nn.Module):
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
        """`source` image and heatmaps, `target` heatmaps (and background), the parts' transforms and masks at full size."""
        if self.target is None or parts is None:
            return self.decoder(self.source(torch.cat((source, target), dim=1))[::-1])
        (transforms, masks), skips = parts, []
        for level, (mine, theirs) in enumerate(zip(self.source(source), self.target(target), strict=True)):
            if level < DEFORMED_LEVELS:
                step = 2**level  # nearest: every step-th pixel, as TensorFlow resizes
                mine = carry(mine, at_scale(transforms, 1 / step), masks[..., ::step, ::step], self.aggregate)
            skips.append(torch.cat((mine, theirs), dim=1))
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

    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # (H, W); the paper's other size is (256, 256)
        width: int = 64,  # of the first level
        sigma_px: float = 6.0,  # of the heatmaps
        skips: str = "deformable",  # or "baseline", a plain U-Net
        aggregate: str = "max",  # over parts, or "avg"
        content_loss: str = "nearest-neighbour",  # on conv1_2; or "l1" on pixels, or "features", L1 on conv2_1
        nn_side_px: int = 3,  # of the neighbourhood; 5 on DeepFashion
        content_weight: float | None = None,  # λ; None is the paper's: 0.01, with l1 100, with features 0.5
        nn_reduction: str = "mean-released",  # or "sum", as the text prints it
        fit: str = "least-squares",  # of limb transforms; or "total-released", what scikit-image's estimate_transform does
        background: bool = False,  # a third image to take the background from
        norm: str = "joint",  # as the authors trained; or "instance", per channel
        steps: int = 90_000,
        learning_rate: float = 2e-4,
    ) -> None:
        super().__init__()
        for option, value, allowed in (
            ("skips", skips, ("deformable", "baseline")), ("aggregate", aggregate, ("max", "avg")),
            ("content_loss", content_loss, tuple(PAPERS_WEIGHT)),
            ("nn_reduction", nn_reduction, ("mean-released", "sum")),
            ("fit", fit, ("least-squares", "total-released")), ("norm", norm, ("joint", "instance")),
        ):  # fmt: skip
            if value not in allowed:
                raise ValueError(f"deformable's {option} is one of {', '.join(allowed)}, got {value!r}")
        if nn_side_px < 1 or nn_side_px % 2 == 0:
            raise ValueError(f"deformable's nn_side_px is an odd number of pixels, got {nn_side_px}")
        h, w = (int(side) for side in size)
        levels = int(math.log2(max(h, 1))) - 1  # down to four rows: six levels at 128, seven at 256
        if levels < 4 or h != 1 << (levels + 1) or w <= 0 or w % (1 << (levels - 1)):
            raise ValueError(f"deformable takes a height of 32, 64, 128, 256 … and a width divisible by height / 4, got {(h, w)}")
        self.size, self.sigma_px, self.steps, self.rate = (h, w), sigma_px, steps, learning_rate
        self.deforms, self.total, self.background = skips == "deformable", fit == "total-released", background
        self.content_loss = content_loss
        self.content_weight = PAPERS_WEIGHT[content_loss] if content_weight is None else content_weight
        self.nn_side_px, self.nn_sum = nn_side_px, nn_reduction == "sum"
        joints = len(self.skeleton)
        self.generator = DrawingNet(joints, levels, width, self.deforms, background, norm, aggregate)
        self.discriminator = PatchDiscriminator(6 + 2 * joints, h, width, norm)

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, background: Tensor | None = None) -> Tensor:
        """As every generator; `background (B, 3, H, W)` in [−1, 1] is the source's own around its person when none is given."""
        self.check(source, source_pose, target_pose)
        if self.background and background is None:
            background = without_person(source, source_pose)
        return self._draw(source, source_pose, target_pose, background)

    def _draw(self, source: Tensor, source_pose: Pose, target_pose: Pose, background: Tensor | None) -> Tensor:
        parts = body_parts(source_pose, target_pose, self.total) if self.deforms else None
        wanted = [self._heatmaps(target_pose, source), *([background] if self.background and background is not None else [])]
        seen = torch.cat((source, self._heatmaps(source_pose, source)), dim=1)
        return self.generator(seen, torch.cat(wanted, dim=1), parts)

    def _heatmaps(self, pose: Pose, like: Tensor) -> Tensor:
        return gaussian_maps(pose, self.sigma_px).to(like.dtype)

    def players(self) -> Mapping[str, nn.Module]:
        return {"generator": self.generator, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("discriminator", "generator")

    def schedule_steps(self) -> int:
        return self.steps

    def optimizer(self, player: str, parameters: object) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.rate, betas=(0.5, 0.999))  # type: ignore[arg-type]

    def features(self) -> Features | None:
        layer = {"nearest-neighbour": "conv1_2", "features": "conv2_1"}.get(self.content_loss)
        return Features((layer,)) if layer else None

    def losses(self, player: str, pair: PosePair) -> Mapping[str, Tensor]:
        drawn = self.share("drawn", lambda: self._drawing(pair))
        if player == "discriminator":
            return {
                "real": real_loss(self.discriminator(self._seen(pair, pair.target))),
                "fake": fake_loss(self.discriminator(self._seen(pair, drawn.detach()))),
            }
        return {"adversarial": real_loss(self.discriminator(self._seen(pair, drawn))), **self._content(drawn, pair.target)}

    def _drawing(self, pair: PosePair) -> Tensor:
        background = without_person(pair.target, pair.target_pose) if self.background else None
        return self._draw(pair.source, pair.source_pose, pair.target_pose, background)

    def _content(self, drawn: Tensor, target: Tensor) -> dict[str, Tensor]:
        if self.content_loss == "l1":
            return {"l1": self.content_weight * F.l1_loss(drawn, target)}
        if self.perceptual is None:
            return {}
        scale = KERAS_SCALE if isinstance(self.perceptual, VGG19) else 1.0
        (mine,) = self.perceptual(drawn)
        with torch.no_grad():
            (theirs,) = self.perceptual(target)
        if self.content_loss == "features":
            return {"features": self.content_weight * scale * F.l1_loss(mine, theirs)}
        distance = nearest_neighbour_l1(mine, theirs, self.nn_side_px)
        reduced = distance.sum((1, 2)).mean() if self.nn_sum else distance.mean()
        return {"nearest_neighbour": self.content_weight * scale * reduced}

    def _seen(self, pair: PosePair, image: Tensor) -> Tensor:
        """The discriminator's four tensors (B, 42, H, W)."""
        maps = (self._heatmaps(pose, image) for pose in (pair.source_pose, pair.target_pose))
        source_maps, target_maps = maps
        return torch.cat((pair.source, source_maps, image, target_maps), dim=1)


def without_person(image: Tensor, pose: Pose) -> Tensor:
    """The image with its person painted grey: the body mask, grown by a tenth of the height to be sure of hair and clothes."""
    mask = body_mask(pose, radius_px=pose.size[0] / 10, closing_px=1).to(image.dtype)
    return image * (1 - mask)


def nearest_neighbour_l1(image: Tensor, target: Tensor, side: int) -> Tensor:
    """Per pixel the least L1 distance of `image`'s feature to the target's within `side` × `side`: (B, H, W) of feature maps (B, C, H, W).

    The nearest-neighbour loss before its sum over pixels (Siarohin et al. 2018, eq. 8); neighbours outside the frame do
    not count. Beyond its inputs it holds one feature map at a time, and its gradient another.
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
        found = [_nearest(a, b, side) for a, b in zip(image.split(step), target.split(step), strict=True)]
        least, best = (torch.cat(part) for part in zip(*found, strict=True))
        ctx.save_for_backward(image, target, best)
        return least

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        image, target, best = ctx.saved_tensors
        b, c, h, w = image.shape
        rows = (best.flatten(1) + torch.arange(b, device=best.device)[:, None] * (h * w)).flatten()
        away = target.permute(0, 2, 3, 1).reshape(-1, c).index_select(0, rows).view(b, h, w, c).permute(0, 3, 1, 2)
        away = away.sub_(image).sign_().mul_(grad[:, None])  # minus the image's gradient
        theirs = None
        if ctx.needs_input_grad[1]:
            theirs = torch.zeros_like(target).permute(0, 2, 3, 1).reshape(-1, c)
            theirs = theirs.index_add_(0, rows, away.permute(0, 2, 3, 1).reshape(-1, c)).view(b, h, w, c).permute(0, 3, 1, 2)
        return away.neg_() if theirs is None else -away, theirs, None


def _nearest(image: Tensor, target: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """The least distance (B, H, W) and the index of its pixel among the target's H · W; the first wins a tie."""
    h, w = image.shape[-2:]
    reach = side // 2
    least = torch.full((image.shape[0], h, w), torch.inf, dtype=image.dtype, device=image.device)
    best = torch.zeros_like(least, dtype=torch.int64)
    here = torch.arange(h * w, device=image.device).view(h, w)
    for dy in range(-reach, reach + 1):
        for dx in range(-reach, reach + 1):
            # The frame's part that has this neighbour, and where that neighbour is.
            mine = (..., slice(max(0, -dy), h - max(0, dy)), slice(max(0, -dx), w - max(0, dx)))
            theirs = (..., slice(max(0, dy), h - max(0, -dy)), slice(max(0, dx), w - max(0, -dx)))
            if abs(dy) >= h or abs(dx) >= w:
                continue
            distance = (image[mine] - target[theirs]).abs_().sum(1)
            closer = distance < least[mine]
            least[mine] = torch.where(closer, distance, least[mine])
            best[mine] = torch.where(closer, here[theirs[1:]].expand_as(closer), best[mine])
    return least, best
