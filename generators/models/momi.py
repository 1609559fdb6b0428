"""MOMI-Net: Learning pose-aware human representations for conditional person image translation. Ho, Hsu, Lin (ETH Zurich, 2019).

A pose detector F_p is distilled from a teacher's heatmaps. Its joints, as Gaussians again, are encoded, E_p: p → z_p; the source
image is encoded under its own pose by PATN's attention blocks (Zhu et al. 2019), z_a = φ(E_a(x), z_p); the generator G(z_a, z_p')
renders the appearance in any other z_p': its own (x̂), its positive's (x̂⁺) or another person's (x̂⁻). D sees pairs of images of one person.

The text prints no layers, rates, batch or schedule; these are PATN's for Market: width 64, nine blocks, batch norm, dropout 0.5,
N(0, 0.02), batch 32, Adam(2e-4, 0.5), 500 + 200 epochs of 4,000 pairs. Features lie at H/8, not PATN's H/4: a third halving, at 256
channels still, keeps the nine blocks PATN's to the weight, and G, PATN's decoder, has one step up more, whose first layer takes z_a
and z_p. F_p is the encoder, four residual blocks and SimpleBaseline's head of transposed convolutions; D is PATN's of appearance.

Differs from the paper:
* ψ's heatmaps, of any size, are resized to F_p's. Without a network as `teacher`, the pairs' own poses teach, as Gaussians of
  SimpleBaseline's σ: an option for keypoint files.
* A joint whose maximum in the heatmap is not above `threshold` (SimpleBaseline's 0.2) is missing: zeros, no patch. In the paper
  every joint lies somewhere. A teacher's missing joint is a heatmap of zeros to learn.
* `forward` finds poses, the target's in `scene`, as in the paper, where it is given None; poses that are given it takes as they are.
* x⁻ is the target image of another row of the batch; a row with none of another identity pays no patches.
* All norms are means: eq. 1 is the mean of squares (SimpleBaseline's; by Adam the root changes the pace alone). F_p has its own
  turn: as no gradient passes arg max, these are the steps on eq. 7's sum.
* G learns to be taken for real (−log D), not from log(1 − D). A patch is a square of 16 px, compared at 8 × 8 cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair, keeps_options
from generators.choices import one_of
from generators.losses import fake_loss, real_loss
from generators.maps import gaussian_maps, in_frame, joint_patches, maxima
from generators.perceptual import Features, compare
from generators.pose import Pose, coco_17

DETECTED, TEACHER = "detected", "teacher"


def encoder(channels: int, widths: tuple[int, ...]) -> nn.Sequential:
    """Make PATN's encoder: a 7 × 7 convolution, then a 3 × 3 one of stride 2 for every further width; batch norm and ReLU."""
    layers: list[nn.Module] = [nn.Conv2d(channels, widths[0], 7, padding=3, padding_mode="reflect", bias=False), *_normed(widths[0])]
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False), *_normed(after)]
    return nn.Sequential(*layers)


def _normed(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width), nn.ReLU()


def _two_convolutions(before: int, after: int, dropout: float) -> nn.Sequential:
    """Make what the paths of PATN's blocks have in common; a norm may follow."""
    return nn.Sequential(
        nn.Conv2d(before, before, 3, padding=1, padding_mode="reflect", bias=False), *_normed(before), nn.Dropout(dropout),
        nn.Conv2d(before, after, 3, padding=1, padding_mode="reflect", bias=False),
    )  # fmt: skip


class Residual(nn.Module):
    """PATN's residual block; in φ's place it is the ablation "w/o att."."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(_two_convolutions(width, width, dropout), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:  # (B, width, h, w) → the same
        return x + self.body(x)


class PoseAttention(nn.Module):
    """PATN's block: the pose path decides, between 0 and 1, how much each cell takes of what the image path would add."""

    def __init__(self, width: int, pose_width: int, dropout: float) -> None:
        super().__init__()
        self.image = nn.Sequential(_two_convolutions(width, width, dropout), nn.BatchNorm2d(width))
        self.pose = _two_convolutions(pose_width, width, dropout)

    def forward(self, image: Tensor, pose: Tensor) -> tuple[Tensor, Tensor]:
        pose = self.pose(pose)  # (B, pose_width, h, w) → (B, width, h, w)
        image = image + torch.sigmoid(pose) * self.image(image)
        return image, torch.cat((pose, image), dim=1)


class Detector(nn.Module):
    """F_p: images → heatmaps of K joints, of the images' size and without bound."""

    def __init__(self, joints: int, width: int, blocks: int) -> None:
        super().__init__()
        self.encoder = encoder(3, (width, 2 * width, 4 * width, 4 * width))
        self.blocks = nn.Sequential(*(Residual(4 * width) for _ in range(blocks)))
        layers: list[nn.Module] = []
        for before, after in ((4 * width, 4 * width), (4 * width, 2 * width), (2 * width, width)):
            layers += [nn.ConvTranspose2d(before, after, 4, stride=2, padding=1, bias=False), *_normed(after)]
        self.head = nn.Sequential(*layers, nn.Conv2d(width, joints, 1))

    def forward(self, images: Tensor) -> Tensor:  # (B, 3, H, W) → (B, K, H, W)
        return self.head(self.blocks(self.encoder(images)))


class Translator(nn.Module):
    """E_p, E_a, φ and G: appearances and poses in any combination."""

    def __init__(self, joints: int, width: int, blocks: int, attention: bool, dropout: float) -> None:
        super().__init__()
        widths, deep = (width, 2 * width, 4 * width, 4 * width), 4 * width
        self.pose_encoder, self.appearance_encoder = encoder(joints, widths), encoder(3, widths)
        self.attention = attention
        if attention:  # a later block's pose path has the image's features beside it
            self.blocks = nn.ModuleList(PoseAttention(deep, deep * (1 + (i > 0)), dropout) for i in range(blocks))
        else:
            self.blocks = nn.ModuleList(Residual(deep, dropout) for _ in range(blocks))
        layers: list[nn.Module] = []
        for before, after in ((2 * deep, deep), (deep, 2 * width), (2 * width, width)):
            layers += [nn.ConvTranspose2d(before, after, 3, stride=2, padding=1, output_padding=1, bias=False), *_normed(after)]
        self.generator = nn.Sequential(*layers, nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"), nn.Tanh())

    def forward(self, source: Tensor, maps: Tensor, who: Tensor, where: Tensor) -> Tensor:
        """Render M images: row `who (M,)` of the sources (B, 3, H, W) in pose `where (M,)` of the maps (N, K, H, W), their own first."""
        poses = self.pose_encoder(maps)  # (N, d, H/8, W/8)
        appearance = self.appearance(source, poses[: len(source)])
        return self.generator(torch.cat((appearance[who], poses[where]), dim=1))  # (M, 3, H, W)

    def appearance(self, source: Tensor, pose: Tensor) -> Tensor:
        """Encode images under their own z_p: z_a (B, d, H/8, W/8) (eq. 2)."""
        image = self.appearance_encoder(source)
        for block in self.blocks:
            image, pose = block(image, pose) if self.attention else (block(image), pose)
        return image


class MOMINet(Generator):
    """Multi-Objective Multi-Identity Network: pose and appearance apart, recombined between people (Ho et al. 2019)."""

    paper = "Ho, Hsu, Lin, Learning pose-aware human representations for conditional person image translation, 2019"
    outside: ClassVar[tuple[str, ...]] = (*Generator.outside, "teacher")
    skeleton = coco_17
    finds_poses = True
    teacher: Callable[[Tensor], Tensor] | None = None  # ψ: images → heatmaps (B, 17, h, w) of any size; None: the pairs' poses

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # Height and width of images, each a multiple of 8.
        width: int = 64,  # Channels of every network's first layer; features at H/8 have four times as many.
        blocks: int = 9,  # Number of φ's blocks.
        attention: bool = True,  # Whether φ's blocks attend to the pose; without it they are residual blocks, the ablation "w/o att.".
        detector_blocks: int = 4,  # Number of F_p's residual blocks.
        dropout: float = 0.5,  # Share of channels that dropout leaves out.
        sigma_px: float = 6.0,  # Standard deviation of the Gaussians p that E_p sees.
        teacher_sigma_px: float = 4.0,  # Standard deviation of the Gaussians that F_p learns where keypoints are the teacher.
        threshold: float = 0.2,  # Height that a heatmap's maximum must be above to be a joint.
        training_pose: str = DETECTED,  # Joints that E_p learns from: "detected" by F_p, or the "teacher"'s from the first step.
        patch_px: float = 16.0,  # Side of the squares that patch verification compares.
        patch_cells: int = 8,  # Number of RoI Align's cells per side of patch verification's squares.
        translate_weight: float = 1.0,  # Weight α of the translation's terms.
        perceptual_weight: float = 1.0,  # Weight λ_l of the perceptual term within α's; 0 is the ablation "w/o per.".
        patch_weight: float = 0.5,  # Weight β of patch verification; 0 is the ablation "w/o L_patch".
        adversarial_weight: float = 0.5,  # Weight γ of the adversarial term.
        learning_rate: float = 2e-4,  # Learning rate of every player's Adam until it falls.
        constant_steps: int = 62_500,  # Steps at the full learning rate: 500 epochs of 4,000 pairs at batch 32.
        decay_steps: int = 25_000,  # Steps in which the learning rate falls to zero: 200 epochs.
    ) -> None:
        super().__init__()
        h, w = (int(side) for side in size)
        if h % 8 or w % 8 or min(h, w) < 16:
            raise ValueError(f"momi takes a height and a width that are multiples of 8 and at least 16, got {(h, w)}")
        one_of("momi's training_pose", training_pose, (DETECTED, TEACHER))
        self.size, self.sigma_px, self.teacher_sigma_px, self.threshold = (h, w), sigma_px, teacher_sigma_px, threshold
        self.training_pose, self.patch_px, self.patch_cells, self.patch_weight = training_pose, patch_px, patch_cells, patch_weight
        self.translate_weight, self.perceptual_weight, self.adversarial_weight = translate_weight, perceptual_weight, adversarial_weight
        self.rate, self.constant_steps, self.decay_steps = learning_rate, constant_steps, decay_steps
        self.detector = Detector(len(self.skeleton), width, detector_blocks)
        self.translator = Translator(len(self.skeleton), width, blocks, attention, dropout)
        # PATN's: each of the last 256 channels is a map of logits.
        self.discriminator = nn.Sequential(encoder(6, (width, 2 * width, 4 * width)), *(Residual(4 * width, dropout) for _ in range(3)))
        self.apply(lambda module: _initialise(module, 0.02 * math.sqrt(64 / width)))  # PATN's; as large signals at any width

    def forward(self, source: Tensor, source_pose: Pose | None, target_pose: Pose | None, scene: Tensor | None = None) -> Tensor:
        """Render as every generator; a source pose of None is detected in the source, a target pose of None in the scene."""
        source_pose = self.detect(source) if source_pose is None else source_pose
        if target_pose is None:
            if scene is None:
                raise ValueError("MOMINet takes a target pose, or a scene to detect it in; got neither")
            target_pose, scene = self.detect(scene), None
        self.check(source, source_pose, target_pose, scene)
        maps = torch.cat((gaussian_maps(source_pose, self.sigma_px), gaussian_maps(target_pose, self.sigma_px))).to(source.dtype)
        rows = torch.arange(len(source), device=source.device)
        return self.translator(source, maps, rows, rows + len(source))

    def detect(self, images: Tensor) -> Pose:
        """Detect poses by F_p in images (B, 3, H, W) in [−1, 1]."""
        self.check_images(images)
        return maxima(self.detector(images), self.threshold, self.skeleton)

    def inputs_of(self, pair: PosePair) -> tuple[Any, ...]:
        """Return what `forward` takes of a pair: images alone where a network teaches, for pairs then need no poses."""
        return super().inputs_of(pair) if self.teacher is None else (pair.source, None, None, pair.target)

    def players(self) -> Mapping[str, nn.Module]:
        return {"detector": self.detector, "generator": self.translator, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("discriminator", "detector", "generator")

    def schedule_steps(self) -> int:
        return self.constant_steps + self.decay_steps

    def learning_rate(self, player: str, step: int) -> float:
        """Return the rate: constant, then falling in equal steps towards zero, which the step after the last would have."""
        return self.rate * min(1.0, max(self.schedule_steps() - step, 1) / max(self.decay_steps, 1))

    def features(self) -> Features | None:
        return Features(("conv2_2", "conv5_4")) if self.perceptual_weight else None  # outputs of the second and the fifth block

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        if player == "detector":
            return {"distill": F.mse_loss(self._heatmaps(pair), self._taught(pair))}
        poses, rows = self._poses(pair), len(pair)  # the sources' poses, then the targets'
        order, has_negative = negatives(pair.identity)
        images = self.share("images", lambda: self._images(pair, poses, order))  # x̂, x̂⁺ and, where patches count, x̂⁻
        if player == "discriminator":
            real = real_loss(self.discriminator(torch.cat((pair.source, pair.target), dim=1)))
            return {"real": real, "fake": 2 * fake_loss(self.discriminator(self._pairs(pair, images.detach())))}  # two terms of eq. 5
        terms = {
            "recon": self.translate_weight * 2 * F.l1_loss(images[: 2 * rows], torch.cat((pair.source, pair.target))),
            "adversarial": self.adversarial_weight * 2 * real_loss(self.discriminator(self._pairs(pair, images))),
        }
        if self.perceptual is not None and self.perceptual_weight:
            with torch.no_grad():
                source_features = self.perceptual(pair.source)
            terms["perceptual"] = self.translate_weight * self.perceptual_weight * compare(self.perceptual(images[:rows]), source_features)
        if self.patch_weight:
            negative = replace(poses[rows:][order], visible=poses.visible[rows:][order] & has_negative[:, None])
            patches = patch_loss(pair.source, poses[:rows], images[2 * rows :], negative, self.patch_px, self.patch_cells)
            terms["patch"] = self.patch_weight * patches
        return terms

    def _images(self, pair: PosePair, poses: Pose, order: Tensor) -> Tensor:
        maps = gaussian_maps(poses, self.sigma_px).to(pair.source.dtype)
        rows = torch.arange(len(pair), device=order.device)
        where = [rows, rows + len(pair)] + ([order + len(pair)] if self.patch_weight else [])
        return self.translator(pair.source, maps, rows.repeat(len(where)), torch.cat(where))

    def _pairs(self, pair: PosePair, images: Tensor) -> Tensor:
        """Join each rendered image with a photograph, as eq. 5 does: (x̂, x⁺), then (x, x̂⁺)."""
        rows = len(pair)
        return torch.cat((torch.cat((images[:rows], pair.source)), torch.cat((pair.target, images[rows : 2 * rows]))), dim=1)

    def _poses(self, pair: PosePair) -> Pose:
        """Return what E_p is shown in training, for sources and targets (2B)."""
        if self.training_pose == TEACHER and self.teacher is None:
            return Pose.cat((pair.source_pose, pair.target_pose))
        maps = self._heatmaps(pair) if self.training_pose == DETECTED else self._taught(pair)
        return maxima(maps.detach(), self.threshold, self.skeleton)

    def _heatmaps(self, pair: PosePair) -> Tensor:
        return self.share("heatmaps", lambda: self.detector(torch.cat((pair.source, pair.target))))

    def _taught(self, pair: PosePair) -> Tensor:
        """Return ψ(x), the teacher's activations (2B, K, H, W)."""
        return self.share("taught", lambda: self._teach(pair))

    @torch.no_grad()
    def _teach(self, pair: PosePair) -> Tensor:
        if self.teacher is None:
            return gaussian_maps(Pose.cat((pair.source_pose, pair.target_pose)), self.teacher_sigma_px)
        maps, shape = self.teacher(torch.cat((pair.source, pair.target))), (2 * len(pair), len(self.skeleton))
        if maps.ndim != 4 or tuple(maps.shape[:2]) != shape:
            raise ValueError(f"momi's teacher gives heatmaps ({shape[0]}, {shape[1]}, h, w), got {tuple(maps.shape)}")
        return maps if maps.shape[2:] == self.size else F.interpolate(maps, self.size, mode="bilinear", align_corners=False)


def _initialise(module: nn.Module, std: float) -> None:
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(module.weight, 0, std)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, 0.02)


def negatives(identity: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for each row of `identity (B,)`, the next row round the batch of somebody else, and whether there is one (else itself)."""
    rows = torch.arange(len(identity), device=identity.device)
    ahead = (rows[:, None] + rows) % len(identity)  # (B, B): the row itself, the next, …
    other = identity[ahead] != identity[:, None]
    return ahead.gather(1, other.int().argmax(1, keepdim=True)).squeeze(1), other.any(1)


def patch_loss(image: Tensor, pose: Pose, other: Tensor, other_pose: Pose, side_px: float, cells: int) -> Tensor:
    """Compare two images (B, 3, H, W) round joints seen in both frames: mean |difference| of the squares (patch verification, eq. 6)."""
    shared = in_frame(pose) & in_frame(other_pose)  # (B, K)
    difference = (joint_patches(image, pose, side_px, cells) - joint_patches(other, other_pose, side_px, cells)).abs()
    return (difference.mean((1, 2, 3)) * shared.flatten()).sum() / shared.sum().clamp(min=1)
