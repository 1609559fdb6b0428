"""PG2: Pose Guided Person Image Generation. Ma, Jia, Sun, Schiele, Tuytelaars, Van Gool, NIPS 2017 (arXiv 1705.09368).

G1 draws a coarse person from the source image and discs at the target's joints; G2 adds a difference map to it,
trained against a discriminator that sees the source image beside the real or the drawn one. The source's pose
is not used. Stage I trains G1 alone, stage II trains G2 and the discriminator with G1 at rest.

Differs from the paper:
* The sums of its L1 terms are means, as in the released code; λ = 10 goes with means.
* The learning rate stays at 2e-5: the code's halving changes variables no optimiser reads, the text has none.
* `forward` clamps to [−1, 1]; G1 and G2 end in a plain convolution, as in the paper.
* Convolutions of stride 2 pad by one pixel all round; the code's SAME padding puts it right and below.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair
from generators.blocks import DCGANDiscriminator, ResidualBlock
from generators.losses import fake_loss, masked_l1, real_loss
from generators.maps import body_mask, disc_maps
from generators.pose import SKELETONS, Pose

POSE_MASK_LOSS, PLAIN_L1 = "pose-mask", "l1"
PAIR, TRIPLET = "pair", "triplet-released"


class Stage1(nn.Module):
    """G1: a U-Net of residual blocks whose bottleneck is fully connected, so that distant body parts can talk.

    N levels of width 128, 256, … (N = 5 at 128 × 64, 6 at 256 × 256); 70.8 M parameters at 128 × 64.
    """

    def __init__(self, channels: int, size: tuple[int, int], width: int = 128, bottleneck: int = 64) -> None:
        super().__init__()
        levels = int(math.log2(size[0])) - 2
        self.width, self.small = width, (size[0] >> (levels - 1), size[1] >> (levels - 1))  # (8, 4) at 128 × 64
        widths = [width * (i + 1) for i in range(levels)]
        self.start = nn.Conv2d(channels, width, 3, padding=1)
        self.encoder = nn.ModuleList(ResidualBlock(w) for w in widths)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False))
        cells = self.small[0] * self.small[1]
        self.squeeze = nn.Linear(widths[-1] * cells, bottleneck)
        self.expand = nn.Linear(bottleneck, width * cells)
        # What arrives from below: the bottleneck's `width` first, then what the 1 × 1 convolution left.
        skips = widths[::-1]
        joined = [below + skip for below, skip in zip([width, *skips[1:]], skips, strict=True)]
        self.decoder = nn.ModuleList(ResidualBlock(w) for w in joined)
        self.up = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(joined, skips[1:], strict=False))
        self.end = nn.Conv2d(joined[-1], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:  # (B, channels, H, W) → (B, 3, H, W)
        x, skips = F.relu(self.start(x)), []
        for level, block in enumerate(self.encoder):
            x = block(x)
            skips.append(x)
            if level < len(self.down):
                x = F.relu(self.down[level](x))
        x = self.expand(self.squeeze(x.flatten(1)))  # (B, width · h · w)
        x = x.view(-1, self.width, *self.small)
        for level, block in enumerate(self.decoder):
            x = block(torch.cat((x, skips.pop()), dim=1))
            if level < len(self.up):
                # The paper's 1 × 1 convolution after nearest upsampling commutes with it: a quarter of the work before.
                x = F.interpolate(F.relu(self.up[level](x)), scale_factor=2.0, mode="nearest")
        return self.end(x)


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


def _two_convolutions(before: int, after: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.Conv2d(after, after, 3, padding=1), nn.ReLU()
    )


class PG2(Generator):
    """Pose Guided Person Generation Network: coarse drawing, then a difference map (Ma et al. 2017)."""

    paper = "Ma et al., Pose Guided Person Image Generation, NIPS 2017"

    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # (H, W); the paper's other size is (256, 256)
        width: int = 128,  # of the first level; the discriminator's is half of it
        bottleneck: int = 64,
        radius_px: float = 4.0,  # of the pose's discs and of the pose mask
        l1_weight: float = 10.0,  # λ: 10 on Market, 50 on DeepFashion (released code)
        stage1_loss: str = POSE_MASK_LOSS,  # or "l1", the paper's ablation
        discriminator: str = PAIR,  # or "triplet-released": the source image alone is a fake, no condition
        stage1_steps: int = 22_000,
        stage2_steps: int = 14_000,
        learning_rate: float = 2e-5,
        skeleton: str = "openpose_18",
    ) -> None:
        super().__init__()
        _one_of("stage1_loss", stage1_loss, (POSE_MASK_LOSS, PLAIN_L1))
        _one_of("discriminator", discriminator, (PAIR, TRIPLET))
        _one_of("skeleton", skeleton, tuple(SKELETONS))
        h, w = (int(side) for side in size)
        levels = int(math.log2(h)) - 2 if h > 0 else 0
        if levels < 3 or h != 1 << (levels + 2) or w % (1 << (levels - 1)) or w <= 0:
            raise ValueError(f"pg2 takes a height of 32, 64, 128, 256 … and a width divisible by height / 8, got {(h, w)}")
        self.size, self.skeleton = (h, w), SKELETONS[skeleton]
        self.radius_px, self.l1_weight = radius_px, l1_weight
        self.stage1_loss, self.condition = stage1_loss, discriminator
        self.stage1_steps, self.stage2_steps, self.rate = stage1_steps, stage2_steps, learning_rate
        self.stage1 = Stage1(3 + len(self.skeleton), self.size, width, bottleneck)
        self.stage2 = Stage2(self.size, width)
        self.discriminator = DCGANDiscriminator(6 if discriminator == PAIR else 3, self.size, max(width // 2, 1))

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> Tensor:
        self.check(source, source_pose, target_pose)
        coarse = self.coarse(source, target_pose)
        return (coarse + self.stage2(coarse, source)).clamp(-1, 1)

    def coarse(self, source: Tensor, target_pose: Pose) -> Tensor:
        """G1's drawing (B, 3, H, W), not clamped: discs of −1 and 1, as the released code has them, beside the image."""
        discs = disc_maps(target_pose, self.radius_px).to(source.dtype) * 2 - 1
        return self.stage1(torch.cat((source, discs), dim=1))

    def players(self) -> Mapping[str, nn.Module]:
        return {"generator1": self.stage1, "generator2": self.stage2, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("generator1",) if step < self.stage1_steps else ("discriminator", "generator2")

    def schedule_steps(self) -> int:
        return self.stage1_steps + self.stage2_steps

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adam(parameters, lr=self.rate, betas=(0.5, 0.999))

    def losses(self, player: str, pair: PosePair) -> Mapping[str, Tensor]:
        coarse = self.coarse(pair.source, pair.target_pose)
        if player == "generator1":
            if self.stage1_loss == PLAIN_L1:
                return {"l1": F.l1_loss(coarse, pair.target)}
            return {"pose_mask_l1": masked_l1(coarse, pair.target, self._mask(pair))}
        drawn = coarse + self.stage2(coarse, pair.source)
        if player == "discriminator":
            return self._discriminator_losses(pair, drawn)
        return {
            "adversarial": real_loss(self.discriminator(self._seen(pair, drawn))),
            "pose_mask_l1": self.l1_weight * masked_l1(drawn, pair.target, self._mask(pair)),
        }

    def _discriminator_losses(self, pair: PosePair, drawn: Tensor) -> Mapping[str, Tensor]:
        real = real_loss(self.discriminator(self._seen(pair, pair.target)))
        fake = fake_loss(self.discriminator(self._seen(pair, drawn)))
        if self.condition == PAIR:
            return {"real": real, "fake": fake}
        # Released code: half for the real image, a quarter each for the source image and the drawing.
        source = fake_loss(self.discriminator(pair.source))
        return {"real": real / 2, "source": source / 4, "fake": fake / 4}

    def _seen(self, pair: PosePair, image: Tensor) -> Tensor:
        """What the discriminator looks at: the source beside the image, or the image alone."""
        return torch.cat((pair.source, image), dim=1) if self.condition == PAIR else image

    def _mask(self, pair: PosePair) -> Tensor:
        return body_mask(pair.target_pose, self.radius_px).to(pair.target.dtype)


def _one_of(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"pg2's {option} is one of {', '.join(allowed)}, got {value!r}")
