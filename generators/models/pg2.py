"""PG2: Pose Guided Person Image Generation. Ma, Jia, Sun, Schiele, Tuytelaars, Van Gool, NIPS 2017 (arXiv 1705.09368).

G1 renders a coarse person from the source image and discs at the target's joints; G2 adds a difference map to it,
trained against a discriminator that sees the source image beside the real or the rendered one. The source's pose
is not used. Stage I trains G1 alone, stage II trains G2 and the discriminator with G1 at rest.

Differs from the paper by default, as published numbers, and checkpoints made here, go with the released code; the text's way is an
option (`pg2-text` has all three):
* The pose's discs are 1 inside and −1 outside ("signed-released"); the text's are 1 and 0 (`discs=zero-one`, `pg2-discs`).
* G2 is halved between its N − 2 levels alone, its decoder is one level wide and, on Market, lacks the outermost skip
  ("asymmetric-released"). The text halves in every one of N − 2 blocks, mirrors them and has all skips (`second_stage=symmetric`,
  `pg2-symmetric`).
* Images that lack a shoulder or hip are in no pair (`reid_aug`'s `any_pose=false`), as in the lists that the field shares; the text
  filters none (`any_pose=true`, `pg2-any-pose`).
Differs from the paper:
* The sums of its L1 terms are means, as in the released code; λ = 10 goes with means.
* The learning rate stays at 2e-5: the code's halving changes variables no optimiser reads, the text has none.
* `forward` clamps to [−1, 1]; G1 and G2 end in a plain convolution, as in the paper.
* The pose mask's limbs are capsules; the code stamps discs along them, four pixels apart.
* Discriminator and G2 share the batch of a step; the code's queue gives each its own.
* Convolutions of stride 2 pad by one pixel all round; the code's SAME padding puts it right and below.
Where the text leaves its ablations open:
* The coordinate embedding takes row and column in [−1, 1] and a visibility per joint (the released data's three
  numbers), zeros for a missing one; both layers are as wide as the image's code, with a ReLU between them.
* The heatmap embedding's encoder is built as the image's is, and its code is as long.
* The one-stage model trains for as many steps as both stages together.
Where the text leaves its symmetric second stage open:
* Two convolutions of stride 1 come before the one of stride 2, and their result is the skip. The decoder's mirror of the last is
  nearest upsampling and a 3 × 3 convolution, as all are; no convolution comes before the first block.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair, keeps_options
from generators.blocks import DCGANDiscriminator, PoseEncoder, ResidualUNet, halving_size
from generators.choices import one_of
from generators.losses import fake_loss, masked_l1, real_loss
from generators.maps import body_mask, disc_maps
from generators.pose import SKELETONS, Pose

POSE_MASK_LOSS, PLAIN_L1 = "pose-mask", "l1"
PAIR, TRIPLET = "pair", "triplet-released"
HEATMAPS, COORDINATES, HEATMAP_ENCODER = "heatmaps", "coordinates", "heatmap-encoder"
SIGNED, ZERO_ONE = "signed-released", "zero-one"
ASYMMETRIC, SYMMETRIC = "asymmetric-released", "symmetric"
BOTH_STAGES, ONE_STAGE, FIRST_STAGE = "G1+G2+D", "G1+D", "G1"


class CoordinateEncoder(nn.Sequential):
    """The coordinate embedding (CE): `coordinates` (B, 3K) → a code (B, bottleneck), by two fully connected layers."""

    def __init__(self, joints: int, bottleneck: int) -> None:
        super().__init__(nn.Linear(3 * joints, bottleneck), nn.ReLU(), nn.Linear(bottleneck, bottleneck))


def coordinates(pose: Pose) -> Tensor:
    """Return row and column in [−1, 1] from border to border and 1 for every joint, zeros for a missing one: (B, 3K)."""
    size = pose.xy.new_tensor(pose.size)
    places = (pose.xy.flip(-1) + 0.5) / size * 2 - 1
    visible = pose.visible[..., None].to(pose.xy.dtype)
    return torch.cat((places * visible, visible), dim=-1).flatten(-2)


class Stage1(ResidualUNet):
    """G1: a U-Net of residual blocks whose bottleneck is fully connected, so that distant body parts can talk.

    N levels of width 128, 256, … (N = 5 at 128 × 64, 6 at 256 × 256); 70.8 M parameters at 128 × 64. `pose` is the
    ablations' encoder of a pose that is no part of the input: its code joins the image's in the bottleneck.
    """

    def __init__(
        self, channels: int, size: tuple[int, int], width: int = 128, bottleneck: int = 64, pose: nn.Module | None = None
    ) -> None:
        super().__init__(channels, size, width)
        self.width = width
        self.squeeze = nn.Linear(self.flat, bottleneck)
        self.expand = nn.Linear(bottleneck * (1 if pose is None else 2), width * self.small[0] * self.small[1])
        self.add_decoder(width + self.widths[-1])
        self.pose = pose

    def forward(self, x: Tensor, pose: Tensor | None = None) -> Tensor:  # (B, channels, H, W) → (B, 3, H, W)
        *skips, deepest = self.encode(x)
        code = self.squeeze(deepest.flatten(1))
        if self.pose is not None:
            code = torch.cat((code, self.pose(pose)), dim=1)
        x = self.expand(code).view(-1, self.width, *self.small)
        return self.decode(torch.cat((x, deepest), dim=1), skips)


class Stage2(nn.Module):
    """G2: a fully convolutional U-Net from coarse result and source image to a difference map, N − 2 levels.

    Its decoder is 128 wide throughout, and at 128 × 64 the outermost skip is left out (released code, "After2");
    6.1 M parameters at 128 × 64.
    """

    def __init__(self, size: tuple[int, int], width: int = 128) -> None:
        super().__init__()
        levels = int(math.log2(size[0])) - 4
        self.outer_skip = size[0] > 128
        widths = [width * (i + 1) for i in range(levels)]
        self.start = nn.Conv2d(6, width, 3, padding=1)
        self.encoder = nn.ModuleList(_two_convolutions(a, b) for a, b in zip([width, *widths], widths, strict=False))
        self.down = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths[:-1])
        skips = widths[::-1]
        joined = [below + skip for below, skip in zip([widths[-1], *[width] * (levels - 1)], skips, strict=True)]
        if not self.outer_skip:
            joined[-1] -= skips[-1]
        self.decoder = nn.ModuleList(_two_convolutions(w, width) for w in joined)
        self.end = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, coarse: Tensor, source: Tensor) -> Tensor:  # two (B, 3, H, W) → (B, 3, H, W)
        x, skips = F.relu(self.start(torch.cat((coarse, source), dim=1))), []
        for level, block in enumerate(self.encoder):
            x = block(x)
            skips.append(x)
            if level < len(self.down):
                x = F.relu(self.down[level](x))
        for level, block in enumerate(self.decoder):
            last = level == len(self.decoder) - 1
            x = block(x if last and not self.outer_skip else torch.cat((x, skips.pop()), dim=1))
            if not last:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return self.end(x)


class SymmetricStage2(nn.Module):
    """G2 as the text has it (§3.3): N − 2 blocks of two convolutions and one of stride 2, and a decoder that mirrors them, skips and all.

    Widths 128, 256, …; 128 × 64 goes down to 16 × 8, 256 × 256 to 16 × 16.
    """

    def __init__(self, size: tuple[int, int], width: int = 128) -> None:
        super().__init__()
        widths = [width * (i + 1) for i in range(int(math.log2(size[0])) - 4)]
        self.encoder = nn.ModuleList(_two_convolutions(a, b) for a, b in zip([6, *widths], widths, strict=False))
        self.down = nn.ModuleList(nn.Conv2d(w, w, 3, stride=2, padding=1) for w in widths)
        below = [*widths[1:], widths[-1]][::-1]
        self.up = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in zip(below, widths[::-1], strict=True))
        self.decoder = nn.ModuleList(_two_convolutions(2 * w, w) for w in widths[::-1])
        self.end = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, coarse: Tensor, source: Tensor) -> Tensor:  # two (B, 3, H, W) → (B, 3, H, W)
        x, skips = torch.cat((coarse, source), dim=1), []
        for block, down in zip(self.encoder, self.down, strict=True):
            skips.append(block(x))
            x = F.relu(down(skips[-1]))
        for up, block in zip(self.up, self.decoder, strict=True):
            x = F.relu(up(F.interpolate(x, scale_factor=2.0, mode="nearest")))
            x = block(torch.cat((x, skips.pop()), dim=1))
        return self.end(x)


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
    )


class PG2(Generator):
    """Pose Guided Person Generation Network: a coarse image, then a difference map (Ma et al. 2017)."""

    paper = "Ma et al., Pose Guided Person Image Generation, NIPS 2017"
    later_options = ("discs", "second_stage", "stage2_learning_rate")
    stage2: Stage2 | SymmetricStage2  # none in the one-stage models
    discriminator: DCGANDiscriminator  # none for G1 alone

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # Height and width of images; the paper's other size is (256, 256).
        width: int = 128,  # Channels of the first level; the discriminator's first has half as many.
        bottleneck: int = 64,  # Length of G1's code of the image, and of each embedding's code of the pose.
        radius_px: float = 4.0,  # Radius of the pose's discs, and of the pose mask around joints and limbs.
        l1_weight: float = 10.0,  # Weight λ of stage II's L1: 10 on Market, 50 on DeepFashion (released code).
        stage1_loss: str = POSE_MASK_LOSS,  # Loss of stage I: "pose-mask", or "l1", the paper's ablation.
        pose_embedding: str = HEATMAPS,  # How G1 gets the pose: "heatmaps" beside the image, "coordinates" (CE) or "heatmap-encoder" (HME).
        stages: str = BOTH_STAGES,  # Which networks there are: "G1+G2+D"; "G1+D", one stage trained adversarially; "G1", stage I alone.
        discriminator: str = PAIR,  # What the discriminator sees: a "pair", or by "triplet-released" one image, the source as a fake too.
        discs: str = SIGNED,  # What the pose's discs are: inside 1, outside −1 by "signed-released", 0 by "zero-one".
        second_stage: str = ASYMMETRIC,  # How G2 is built: "asymmetric-released", or "symmetric" with every skip, as printed.
        stage1_steps: int = 22_000,  # Steps of G1 alone.
        stage2_steps: int = 14_000,  # Steps of G2 and the discriminator.
        learning_rate: float = 2e-5,  # Learning rate of every player's Adam.
        stage2_learning_rate: float | None = None,  # That of stage II and its discriminator, where it is another.
        skeleton: str = "openpose_18",  # Skeleton of the poses, by name.
    ) -> None:
        super().__init__()
        one_of("pg2's stage1_loss", stage1_loss, (POSE_MASK_LOSS, PLAIN_L1))
        one_of("pg2's pose_embedding", pose_embedding, (HEATMAPS, COORDINATES, HEATMAP_ENCODER))
        one_of("pg2's stages", stages, (BOTH_STAGES, ONE_STAGE, FIRST_STAGE))
        one_of("pg2's discriminator", discriminator, (PAIR, TRIPLET))
        one_of("pg2's discs", discs, (SIGNED, ZERO_ONE))
        one_of("pg2's second_stage", second_stage, (ASYMMETRIC, SYMMETRIC))
        if stage2_learning_rate is not None and stages != BOTH_STAGES:
            raise ValueError(f"pg2's stage2_learning_rate needs the stages {BOTH_STAGES}, got {stages}")
        one_of("pg2's skeleton", skeleton, SKELETONS)
        self.size, self.skeleton = halving_size("pg2", size, rows=8), SKELETONS[skeleton]
        self.radius_px, self.l1_weight = radius_px, l1_weight
        self.signed = discs == SIGNED
        self.stage1_loss, self.pose_embedding, self.stages, self.condition = stage1_loss, pose_embedding, stages, discriminator
        self.stage1_steps, self.stage2_steps, self.rate, self.stage2_rate = stage1_steps, stage2_steps, learning_rate, stage2_learning_rate
        self.stage1 = self._stage1(width, bottleneck)
        if stages == BOTH_STAGES:
            self.stage2 = (SymmetricStage2 if second_stage == SYMMETRIC else Stage2)(self.size, width)
        if stages != FIRST_STAGE:
            self.discriminator = DCGANDiscriminator(6 if discriminator == PAIR else 3, self.size, max(width // 2, 1))

    def _stage1(self, width: int, bottleneck: int) -> Stage1:
        joints = len(self.skeleton)
        if self.pose_embedding == HEATMAPS:
            return Stage1(3 + joints, self.size, width, bottleneck)
        by_coordinates = self.pose_embedding == COORDINATES
        pose = CoordinateEncoder(joints, bottleneck) if by_coordinates else PoseEncoder(joints, self.size, width, bottleneck)
        return Stage1(3, self.size, width, bottleneck, pose)

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        self.check(source, source_pose, target_pose, scene)
        coarse = self.coarse(source, target_pose)
        image = coarse + self.stage2(coarse, source) if self.stages == BOTH_STAGES else coarse
        return image.clamp(-1, 1)

    def coarse(self, source: Tensor, target_pose: Pose) -> Tensor:
        """Render G1's image (B, 3, H, W), not clamped."""
        if self.pose_embedding == COORDINATES:
            return self.stage1(source, coordinates(target_pose).to(source.dtype))
        discs = disc_maps(target_pose, self.radius_px).to(source.dtype)
        if self.signed:
            discs = discs * 2 - 1
        if self.pose_embedding == HEATMAP_ENCODER:
            return self.stage1(source, discs)
        return self.stage1(torch.cat((source, discs), dim=1))

    def players(self) -> Mapping[str, nn.Module]:
        players: dict[str, nn.Module] = {"generator1": self.stage1}
        if self.stages == BOTH_STAGES:
            players["generator2"] = self.stage2
        return players if self.stages == FIRST_STAGE else players | {"discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        if self.stages == ONE_STAGE:
            return ("discriminator", "generator1")
        return ("generator1",) if step < self.stage1_steps or self.stages == FIRST_STAGE else ("discriminator", "generator2")

    def schedule_steps(self) -> int:
        return self.stage1_steps + (0 if self.stages == FIRST_STAGE else self.stage2_steps)

    def learning_rate(self, player: str, step: int) -> float | None:
        """Return the second stage's rate to its players, where it has its own."""
        return None if player == "generator1" else self.stage2_rate

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        if player == "generator1" and self.stages != ONE_STAGE:
            return self._pixels(self.coarse(pair.source, pair.target_pose), pair, self.stage1_loss, 1.0)
        image = self.share("image", lambda: self._judged_image(pair))
        if player == "discriminator":
            return self._discriminator_losses(pair, image.detach())
        adversarial = real_loss(self.discriminator(self._seen(pair, image)))
        loss = self.stage1_loss if self.stages == ONE_STAGE else POSE_MASK_LOSS
        return {"adversarial": adversarial, **self._pixels(image, pair, loss, self.l1_weight)}

    def _judged_image(self, pair: PosePair) -> Tensor:
        """Render what the discriminator judges, not clamped: stage II's image, or G1's where there is one stage."""
        if self.stages == ONE_STAGE:
            return self.coarse(pair.source, pair.target_pose)
        with torch.no_grad():  # G1 rests
            coarse = self.coarse(pair.source, pair.target_pose)
        return coarse + self.stage2(coarse, pair.source)

    def _pixels(self, image: Tensor, pair: PosePair, loss: str, weight: float) -> dict[str, Tensor]:
        if loss == PLAIN_L1:
            return {"l1": weight * F.l1_loss(image, pair.target)}
        return {"pose_mask_l1": weight * masked_l1(image, pair.target, self._mask(pair))}

    def _discriminator_losses(self, pair: PosePair, image: Tensor) -> Mapping[str, Tensor]:
        real = real_loss(self.discriminator(self._seen(pair, pair.target)))
        fake = fake_loss(self.discriminator(self._seen(pair, image)))
        if self.condition == PAIR:
            return {"real": real, "fake": fake}
        # Released code: half for the real image, a quarter each for the source image and the rendered one.
        source = fake_loss(self.discriminator(pair.source))
        return {"real": real / 2, "source": source / 4, "fake": fake / 4}

    def _seen(self, pair: PosePair, image: Tensor) -> Tensor:
        """Return what the discriminator looks at: the source beside the image, or the image alone."""
        return torch.cat((pair.source, image), dim=1) if self.condition == PAIR else image

    def _mask(self, pair: PosePair) -> Tensor:
        return body_mask(pair.target_pose, self.radius_px).to(pair.target.dtype)
