"""warpblend: the source's person in the target's pose, place and light, by moving the source's own pixels. Ours, no paper's.

What a generator draws from nothing it has to learn: clothes turn grey long before they turn right. Here the clothes are there
from step 0. Every pixel of the target asks the body's parts where it comes from in the source (`generators.skinning`), what is
found is cut out and laid into the scene (`generators.composite`), and a small U-Net learns only how to put it together better.

* Candidates of a pixel: the source, moved; the same with every limb from the other side; the part's mean colour; the place, which
  is the scene with its person filled in, or the source's own where there is no scene.
* Weights: a softmax that starts at what geometry and colours know, so that an untrained network draws the plain composite. A
  correction starts at zero and stays small where the source's pixels cover.
* Silhouettes, where poses have some: in place of the distance to the limbs' outline, and with colours, they tell the source's person
  from the place, so that skirts and bags come along and the place does not; the scene's person is gone with skirt and bag; people who
  keep their pose end where that says, whatever was learnt. No weight is of silhouettes: checkpoints serve with them and without.
* Light: a gain and an offset per channel, told from both places and the person. A mere regression draws all colours towards the
  mean, and an identity is what differs from it: colours err less, and fewer people are recognised. So the way there and back has
  to end where it began (the cycle of CycleGAN, Zhu et al. 2017), which no shrinking map does.
* Learning: the pairs seen from about one side as they are; of the others the target alone, bent, to be straightened. The place is
  given, so that only the person has to be explained. Pixels decide where the person ends, and not which candidate shows: pixel
  by pixel a flat colour is nearer to any target than texture that is off by two pixels. A late patch discriminator sharpens outlines.

Related: part warps of Deformable GAN (Siarohin et al. 2018), layers of posewarp (Balakrishnan et al. 2018), candidates and softmax
weights as in view synthesis by appearance flow (Zhou et al. 2016), the adversary of pix2pix (Isola et al. 2017).

Differs from the paper: there is none. What was tried and what it gave: benchmarks/README.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators import skinning
from generators.base import Generator, PosePair, in_one_kernel, keeps_options
from generators.bending import bend
from generators.composite import CANDIDATES, CORE, MARGIN, Composite, Looks, body, colour_error, compose, filled, looks, part_colours, up
from generators.losses import fake_loss, real_loss
from generators.perceptual import Features, compare
from generators.pose import Pose, where
from generators.views import view_gap

INPUTS = 4 * 3 * CANDIDATES + 3 + len(skinning.PARTS)  # what the network sees of two by two pixels, in channels
BEND = 0.03  # deviation of the waves that bend an image, in its heights
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class Blend(NamedTuple):
    """What the network makes of a composite."""

    whole: Tensor  # (B, 3, H, W), which may leave [−1, 1]
    weights: Tensor  # (B, 4, H, W), 1 in sum
    candidates: Tensor  # (B, 4, 3, H, W) in the scene's light

    @property
    def image(self) -> Tensor:
        return self.whole.clamp(-1, 1)

    @property
    def outline(self) -> Tensor:
        """Return the same image, to learn from it where the person ends and not which of the person's candidates to take.

        The nearest to any target, pixel by pixel, is a flat colour: texture that is off by two pixels costs twice.
        """
        shares = self.weights[:, :-1] / self.weights[:, :-1].sum(1, keepdim=True)
        held = torch.cat((shares.detach() * (1 - self.weights[:, -1:]), self.weights[:, -1:]), 1)
        return self.whole + ((held - self.weights)[:, :, None] * self.candidates).sum(1)


def _zero(layer: Layer) -> Layer:
    """Start a last layer at zero: at step 0 nothing is added to what geometry knows."""
    nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return layer


class Block(nn.Module):
    """Two 3 × 3 convolutions and a 1 × 1 way past them."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(before, after, 3, padding=1)
        self.second = nn.Conv2d(after, after, 3, padding=1)
        self.past = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:  # (B, before, h, w) → (B, after, h, w)
        return self.past(x) + self.second(F.silu(self.first(F.silu(x))))


class Blender(nn.Module):
    """The U-Net, at half the image's resolution, that weighs the candidates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.start = nn.Conv2d(INPUTS, width, 3, padding=1)
        self.down = nn.ModuleList([Block(width, width), Block(width, 2 * width), Block(2 * width, 4 * width)])
        self.up = nn.ModuleList([Block(6 * width, 2 * width), Block(3 * width, width)])
        self.end = _zero(nn.Conv2d(width, (CANDIDATES + 3) * 4, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:  # (B, INPUTS, h, w) → (B, 7, 2 h, 2 w): logits of candidates, correction
        skips, x = [], self.start(x)
        for level, block in enumerate(self.down):
            x = block(F.avg_pool2d(x, 2) if level else x)
            skips.append(x)
        x = skips.pop()
        for block in self.up:
            x = block(torch.cat((F.interpolate(x, scale_factor=2.0), skips.pop()), 1))
        return F.pixel_shuffle(self.end(F.silu(x)), 2)


class Light(nn.Module):
    """Gain and offset per channel that bring a person into a place's light, told from both places and the person."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(18, width), nn.SiLU(), _zero(nn.Linear(width, 6)))

    def forward(self, colours: Tensor, look: Looks, place: Tensor) -> Tensor:
        """Bring colours (B, 3, …) in [−1, 1] of the people of `look` into the light of a `place` (B, 6)."""
        gain, offset = self.layers(torch.cat((place, look.place, look.person), 1)).to(colours.dtype).split(3, 1)
        gain, offset = (v.view(len(v), 3, *[1] * (colours.ndim - 2)) for v in (gain.exp(), offset))
        return (colours + 1) * gain - 1 + offset


class WarpBlend(Generator):
    """The source's own pixels in the target's pose, place and light, put together by a small network."""

    paper = "none: this package's own"
    takes_scene = True
    near_views = True
    takes_silhouettes = True

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # Height and width of images, multiples of 8.
        width: int = 24,  # Channels of the network's first level.
        keeps_pose: bool = False,  # Whether people keep the pose they have: a control that changes nothing but place and light.
        view_tolerance: float = 0.5,  # Distance of views up to which a pair is learnt as it is.
        l1_weight: float = 1.0,  # Weight of the difference of pixels, twice as much on the body.
        gradient_weight: float = 1.0,  # Weight of the difference of neighbouring pixels' differences: edges.
        feature_weight: float = 0.0,  # Weight of the difference on a network's features; 0 needs no such network.
        colour_weight: float = 1.0,  # Weight of how far each part's mean colour is from the source's in the scene's light.
        cycle_weight: float = 1.0,  # Weight of how far colours are from themselves once they were in another's light and back.
        entropy_weight: float = 0.05,  # Weight of the entropy of the candidates' weights: a mixture of pixels is a blur.
        adversarial_weight: float = 0.03,  # Weight of the patch discriminator; without it there is none.
        adversarial_from: float = 0.2,  # Share of all steps before the discriminator begins.
        steps: int = 2000,  # Number of steps.
        learning_rate: float = 2e-3,  # Learning rate at its peak; it rises over a twentieth of the steps, then falls as a cosine.
        light_rate: float = 1e-2,  # The same of the light, which is small and sees no images.
    ) -> None:
        super().__init__()
        h, w = (int(side) for side in size)
        if h % 8 or w % 8 or min(h, w) < 16:
            raise ValueError(f"warpblend takes a height and a width that are multiples of 8 and at least 16, got {(h, w)}")
        self.size, self.keeps_pose, self.view_tolerance = (h, w), keeps_pose, view_tolerance
        self.steps, self.rate, self.light_rate = steps, learning_rate, light_rate
        self.l1_weight, self.gradient_weight, self.feature_weight = l1_weight, gradient_weight, feature_weight
        self.colour_weight, self.cycle_weight, self.entropy_weight = colour_weight, cycle_weight, entropy_weight
        self.adversarial_weight, self.adversarial_from = adversarial_weight, adversarial_from
        self.blender, self.light = Blender(width), Light()
        self.discriminator = _patch_discriminator(width) if adversarial_weight else None

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        self.check(source, source_pose, target_pose, scene)
        if self.keeps_pose:
            scene = None if scene is None else filled(scene, body(target_pose, scene)[1], target_pose)
        composite = compose(source, source_pose, None if self.keeps_pose else target_pose, scene)
        return self._blend(composite, lit=scene is not None).image

    def _blend(self, composite: Composite, lit: bool) -> Blend:
        """Put the candidates together."""
        candidates = composite.candidates
        if lit:
            with torch.no_grad():  # the light learns from colours alone
                person = self.light(candidates[:, :-1].transpose(1, 2), composite.source, composite.place).transpose(1, 2)
            candidates = torch.cat((person, candidates[:, -1:]), 1)
        pixels = F.pixel_unshuffle(candidates.flatten(1, 2), 2)
        known = torch.cat((pixels, composite.near, composite.trust, composite.shares), 1)
        output = self.blender(known.contiguous(memory_format=torch.channels_last))
        weights = (composite.weights.log() + output[:, :CANDIDATES]).softmax(1)
        # Where the source's pixels cover, they stay; elsewhere something may be made up.
        free = 1 - 0.9 * up(composite.trust[:, :1]) * (1 - weights[:, -1:])
        weights, free = composite.holding(weights, free)
        return Blend((candidates * weights[:, :, None]).sum(1) + free * output[:, CANDIDATES:].tanh(), weights, candidates)

    # -------------------------------------------------------------------------------------------------- learning

    def players(self) -> Mapping[str, nn.Module]:
        judges = {} if self.discriminator is None else {"discriminator": self.discriminator}
        return {"light": self.light, "generator": self.blender, **judges}

    def turn(self, step: int) -> tuple[str, ...]:
        late = self.discriminator is not None and step >= self.adversarial_from * self.steps
        return ("discriminator", "generator", "light") if late else ("generator", "light")

    def schedule_steps(self) -> int:
        return self.steps

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        return torch.optim.AdamW(parameters, lr=self.rate, betas=(0.9, 0.99), weight_decay=1e-3, fused=in_one_kernel(parameters))

    def learning_rate(self, player: str, step: int) -> float:
        rise, done = max(self.steps / 20, 1), min(step / self.steps, 1.0)
        rate = self.light_rate if player == "light" else self.rate
        return rate * min(1.0, (step + 1) / rise) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))

    def features(self) -> Features | None:
        return Features(("conv1_2", "conv2_2", "conv3_2")) if self.feature_weight else None

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        if player == "discriminator":
            assert self.discriminator is not None
            fake = self.share("exercise", lambda: self._exercise(pair))[0].image.detach()
            return {"real": real_loss(self.discriminator(pair.target)), "fake": fake_loss(self.discriminator(fake))}
        if player == "light":
            return self._on_light(pair)
        blend, composite = self.share("exercise", lambda: self._exercise(pair))
        terms = self._on_pixels(blend, pair.target, composite) | self._on_colours(blend.whole, composite)
        terms["entropy"] = -self.entropy_weight * (blend.weights * (blend.weights + 1e-6).log()).sum(1).mean()
        if self.perceptual is not None and self.feature_weight:
            with torch.no_grad():
                true_features = self.perceptual(pair.target)
            terms["features"] = self.feature_weight * compare(self.perceptual(blend.image), true_features)
        if "discriminator" in self.turn(step):
            assert self.discriminator is not None
            terms["adversarial"] = self.adversarial_weight * real_loss(self.discriminator(blend.image))
        return terms

    def _exercise(self, pair: PosePair) -> tuple[Blend, Composite]:
        """Render a batch to learn from: the pairs seen from one side as they are, of the others the target out of another pose."""
        pair = self._learnable(pair)
        composite = compose(pair.source, pair.source_pose, pair.target_pose, pair.target)
        return self._blend(composite, lit=True), composite

    @torch.no_grad()
    def _learnable(self, pair: PosePair) -> PosePair:
        """Replace the source of each pair whose views differ by its target, bent: what was bent can be learnt back."""
        far = view_gap(pair.source_pose, pair.target_pose) > self.view_tolerance
        with torch.autocast(pair.target.device.type, enabled=False):  # bfloat16 counts pixels by eighths at best
            bent, pose = bend(pair.target, pair.target_pose, BEND if self.training else 0.0)
        source = torch.where(far[:, None, None, None], bent, pair.source)
        return replace(pair, source=source, source_pose=where(far, pose, pair.source_pose))

    def _on_pixels(self, blend: Blend, target: Tensor, composite: Composite) -> dict[str, Tensor]:
        emphasis, outline = 1 + up((composite.near < MARGIN).to(target.dtype)), blend.outline
        edges = [(outline.diff(dim=d) - target.diff(dim=d)).abs().mean() for d in (-1, -2)]
        coarse = (F.avg_pool2d(blend.whole, 8) - F.avg_pool2d(target, 8)).abs().mean()
        return {
            "l1": self.l1_weight * ((outline - target).abs() * emphasis).mean(), "coarse": self.l1_weight * coarse,
            "gradient": self.gradient_weight * torch.stack(edges).sum(),
        }  # fmt: skip

    def _on_colours(self, image: Tensor, composite: Composite) -> dict[str, Tensor]:
        """Hold the parts' mean colours to the source's, in the scene's light."""
        with torch.no_grad():
            held = self.light(composite.source.colours.mT, composite.source, composite.place).mT
        core = composite.shares * (composite.near < -CORE)
        drawn = part_colours(F.avg_pool2d(image, 2), core)
        return {"colour": self.colour_weight * colour_error(drawn, held, core.sum((2, 3)))}

    def _on_light(self, pair: PosePair) -> dict[str, Tensor]:
        """Compare the part colours of a pair's images, each brought into the other's light; and with themselves, brought back."""
        with torch.no_grad():
            both = [looks(image, pose) for image, pose in ((pair.source, pair.source_pose), (pair.target, pair.target_pose))]
        area = torch.minimum(both[0].area, both[1].area)
        errors, returns = [], []
        for a, b in (both, both[::-1]):
            there = self.light(a.colours.mT, a, b.place)
            errors.append(colour_error(there.mT, b.colours, area))
            returns.append((self.light(there, b, a.place) - a.colours.mT).abs().mean())
        return {"colour": torch.stack(errors).mean(), "cycle": self.cycle_weight * torch.stack(returns).mean()}


def _patch_discriminator(width: int) -> nn.Module:
    """Tell real patches of a quarter of the image's width from rendered ones: (B, 3, H, W) → logits (B, 1, H/8, W/8)."""
    layers: list[nn.Module] = []
    for before, after in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, padding=1))
