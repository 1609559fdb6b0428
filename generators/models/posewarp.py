"""posewarp: Synthesizing Images of Humans in Unseen Poses. Balakrishnan, Zhao, Dalca, Durand, Guttag, CVPR 2018 (arXiv
1804.07739); with seven joints, Pose Transfer with GAN. Suresh, Sonarkar, 2019.

A segments the source into limbs and background, each limb is moved by its own similarity transform (B), C renders the
foreground and its mask from the moved limbs and the target's pose, D fills the background in from what is left of the
source and the source's pose. First the generator learns alone, on VGG-19's features; then against a discriminator.

Differs from the paper:
* All pixels of the options are those of images 256 high; at another height H they are scaled by H / 256, and the networks
  halve until they are 8 rows high (five times at 256, four at 128 × 64, three at 64 × 32).
* A limb with a missing joint is left out: its mask's prior is 0 and what is moved of it is black. The paper has all joints.
* The seven-joint version's fifth limb runs from the head to the middle of the shoulders, as its text says, and is moved by the
  similarity of its three joints; its code takes the right shoulder alone, by a slip.
* Features: by default as the code has them, twelve convolutions in deviations of their channels, averaged
  (`feature_loss=mean-12-released`); `sum-16` is what the seven-joint version prints, L1 distances of 16 layers, summed. The
  code's layers end with Keras' sixteenth, pooling among them: there, too, the text may mean these twelve convolutions.
* The discriminator sees both poses, too, as in the paper and its code; `discriminator=image-alone` is what the seven-joint
  version's text and figure show. `posewarp-upper-text` has both as printed.
* The noise's σ is printed nowhere: 0.5 here, about the deviation of images in [−1, 1]. The code adds none (σ 0 does that).
* VGG-19 is torchvision's, whose features are 57.6 times smaller than the code's: so is the 0.1 that is added to a channel's
  deviation. Deviations are measured on the first 50 batches, not on 2000. Without such a network, and with `l1_weight` 0, the
  generator learns on a plain L1 of weight 1, `l1_in_place_of_vgg`.
* The YAMLs' jitter turns and scales about the middle, repeats the edge and blends with grey for saturation; the code scales
  from a corner, leaves grey outside and multiplies pixels. On Market-1501 a pair is any two images of a person.
* Discriminator and generator share the batch of a step; the code takes one for each.
* Heatmaps and bilinear upsampling keep pixel centres, and convolutions of stride 2 pad by one pixel all round; the code
  halves coordinates, upsamples from the corner, and pads right and below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair, in_one_kernel, keeps_options
from generators.blocks import glorot_uniform, halving_size
from generators.choices import at_least, one_of
from generators.losses import fake_loss, real_loss
from generators.maps import gaussian_maps
from generators.parts import Limbs
from generators.perceptual import KERAS_SCALE, LAYERS, VGG19, Features, channel_deviations, compare, compare_in_deviations
from generators.pose import SKELETONS, Pose
from generators.warp import warp_images

HEIGHT = 256  # of the images that the options' pixels refer to
VGG_LAYERS = LAYERS[:12]  # conv1_1 … conv4_4, every one
FEATURE_LOSSES = ("mean-12-released", "sum-16")
DISCRIMINATORS = ("with-poses", "image-alone")
WIDEST = 2048  # channels of the widest feature map there are deviations for


def _convolution(before: int, after: int, side: int = 3, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(before, after, side, stride, side // 2), nn.LeakyReLU(0.2))


class UNet(nn.Module):
    """The layout of A, C and D: maps of a pose, at half resolution, join the image after the first halving.

    Widths at 256 × 256: 64 · 64 · 128 … 128 down, 128 · 128 · 128 · 128 · `end` up.
    """

    def __init__(self, channels: int, pose_channels: int, downs: int, width: int, end: int) -> None:
        super().__init__()
        wide = 2 * width
        self.start = _convolution(channels, width, 7)
        deep = [wide] * (downs - 1)
        self.down = nn.ModuleList(_convolution(w, w, 3, 2) for w in [width, *deep])
        self.level = nn.ModuleList(_convolution(w, wide) for w in [width + pose_channels, *deep])
        self.up = nn.ModuleList(_convolution(wide + skip, w) for skip, w in zip([*deep, width], [*deep, end], strict=True))

    def forward(self, x: Tensor, pose_maps: Tensor) -> Tensor:  # (B, channels, H, W), (B, K, H/2, W/2) → (B, end, H, W)
        x = self.start(x)
        skips = []
        for i, (down, level) in enumerate(zip(self.down, self.level, strict=True)):
            skips.append(x)
            x = down(x)
            x = level(torch.cat((x, pose_maps.to(x.dtype)), dim=1) if i == 0 else x)
        for up in self.up:
            x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
            x = up(torch.cat((x, skips.pop()), dim=1))
        return x


class LimbComposer(nn.Module):
    """Modules A to D and their composition: everything of the generator that learns."""

    def __init__(self, joints: int, limbs: int, downs: int, width: int) -> None:
        super().__init__()
        self.segment = UNet(3, joints, downs, width, max(width // 2, 1))  # A
        self.limb_logits = nn.Conv2d(max(width // 2, 1), limbs + 1, 3, padding=1)
        self.foreground = UNet(3 * limbs, joints, downs, width, width)  # C
        self.foreground_image = nn.Conv2d(width, 3, 3, padding=1)
        self.foreground_mask = nn.Conv2d(width, 1, 3, padding=1)
        self.background = UNet(4, joints, downs, width, width)  # D
        self.background_image = nn.Conv2d(width, 3, 3, padding=1)

    def forward(self, *inputs: Tensor) -> Tensor:  # those of `layers` → (B, 3, H, W)
        return self.layers(*inputs)["result"][:, 0]

    def layers(
        self, source: Tensor, source_maps: Tensor, target_maps: Tensor, prior: Tensor, transform: Tensor, moves: Tensor, noise: Tensor
    ) -> dict[str, Tensor]:
        """Render, and return what the result is made of and itself: maps (B, N, 1, H, W), images (B, N, 3, H, W)."""
        masks = self.masks(source, source_maps, prior)
        left = masks[:, :1]
        limbs = self.moved(source, masks[:, 1:], transform, moves)
        c = self.foreground(limbs, target_maps)
        d = self.background(torch.cat((source * left + noise * (1 - left), left), dim=1), source_maps)
        mask, foreground, background = self.foreground_mask(c).sigmoid(), self.foreground_image(c).tanh(), self.background_image(d).tanh()
        images = {"foreground": foreground, "target mask": mask, "background": background}
        images["result"] = mask * foreground + (1 - mask) * background
        layers = {"limb masks": masks[:, :, None], "warped limbs": limbs.unflatten(1, (-1, 3))}
        return layers | {name: image[:, None] for name, image in images.items()}

    def masks(self, source: Tensor, source_maps: Tensor, prior: Tensor) -> Tensor:
        """Segment the source into background and limbs, (B, 1 + L, H, W), 1 in sum."""
        logits = self.limb_logits(self.segment(source, source_maps))
        return (logits + torch.log(prior + 1e-10)).softmax(1)

    def moved(self, source: Tensor, masks: Tensor, transform: Tensor, moves: Tensor) -> Tensor:
        """Cut every limb out by its mask and move it to the target's pose, (B, 3 L, H, W); black where it does not move."""
        b, count, h, w = masks.shape
        cut = (masks[:, :, None] * source[:, None]).reshape(b * count, 3, h, w)
        moved = warp_images(cut, transform.reshape(b * count, 2, 3), padding="border")
        return torch.where(moves.reshape(b, count, 1, 1, 1), moved.reshape(b, count, 3, h, w), 0.0).flatten(1, 2)


class Discriminator(nn.Module):
    """Convolutions and max-pooling down to 8 rows; both poses, or none with 0 `joints`, join at half resolution; one logit (B,)."""

    def __init__(self, joints: int, size: tuple[int, int], downs: int, width: int) -> None:
        super().__init__()
        self.start = _convolution(3, width, 5)
        self.joined = _convolution(width + 2 * joints, 2 * width, 5)
        self.deep = nn.ModuleList(_convolution(2 * width if i == 0 else 4 * width, 4 * width) for i in range(downs - 1))
        cells = (size[0] >> downs) * (size[1] >> downs)
        self.judge = nn.Sequential(
            nn.Linear(4 * width * cells, 4 * width), nn.ReLU(), nn.Linear(4 * width, 4 * width), nn.ReLU(), nn.Linear(4 * width, 1)
        )

    def forward(self, image: Tensor, *maps: Tensor) -> Tensor:  # (B, 3, H, W), (B, K, H/2, W/2) of source and target → (B,)
        x = F.max_pool2d(self.start(image), 2)
        x = self.joined(torch.cat((x, *(pose_maps.to(x.dtype) for pose_maps in maps)), dim=1))
        for layer in self.deep:
            x = layer(F.max_pool2d(x, 2))
        return self.judge(x.flatten(1)).squeeze(1)


class PoseWarp(Generator):
    """Limbs cut out, moved and put together again, over a background filled in (Balakrishnan et al. 2018)."""

    paper = "Balakrishnan et al., Synthesizing Images of Humans in Unseen Poses, CVPR 2018"
    prepare_steps = 50  # batches that the features' deviations are measured on
    later_options = ("feature_loss", "discriminator")
    pattern: Tensor
    deviation: Tensor

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (256, 256),  # Height and width of images.
        width: int = 64,  # Channels of the first level.
        skeleton: str = "mpii_14",  # Skeleton of the poses; "upper_7" has 7 joints and 5 limbs (Suresh & Sonarkar 2019).
        sigma_px: float = 7 / 4,  # Standard deviation of the joints' heatmaps, at half resolution.
        limb_sigma_px: float = 11.0,  # Standard deviation of a limb's prior across it.
        torso_sigma_px: float = 13.0,  # Standard deviation of the prior across a limb of four joints, which the torso is.
        noise_sigma: float = 0.5,  # Standard deviation of the noise in the foreground's place, for images in [−1, 1].
        adversarial_weight: float = 0.1,  # Weight of the adversarial term.
        l1_weight: float = 0.0,  # Weight of an L1 on pixels, which the paper does not have.
        pretrain_steps: int = 100_000,  # Steps of the generator alone.
        warmup_steps: int = 5,  # Steps of the discriminator alone, the first of gan_steps.
        gan_steps: int = 10_000,  # Steps with a discriminator; 0 leaves it out.
        learning_rate: float = 1e-4,  # Learning rate of both players' Adam.
        feature_loss: str = "mean-12-released",  # Which of VGG-19's features are compared; "sum-16" is printed (Suresh & Sonarkar 2019).
        discriminator: str = "with-poses",  # What the discriminator sees; "image-alone" is printed there.
    ) -> None:
        super().__init__()
        one_of("posewarp's skeleton", skeleton, ("mpii_14", "upper_7"))
        one_of("posewarp's feature_loss", feature_loss, FEATURE_LOSSES)
        one_of("posewarp's discriminator", discriminator, DISCRIMINATORS)
        at_least("posewarp", 1e-3, sigma_px=sigma_px, limb_sigma_px=limb_sigma_px, torso_sigma_px=torso_sigma_px)
        at_least("posewarp", 0.0, noise_sigma=noise_sigma)
        at_least("posewarp", 0, pretrain_steps=pretrain_steps, warmup_steps=warmup_steps, gan_steps=gan_steps)
        self.size, self.skeleton = halving_size("posewarp", size, rows=8), SKELETONS[skeleton]
        h, w = self.size
        downs, scale = h.bit_length() - 4, h / HEIGHT  # halved until 8 rows are left
        self.sigma_px, self.limb_sigma_px, self.torso_sigma_px = sigma_px * scale, limb_sigma_px * scale, torso_sigma_px * scale
        self.shortest_px2 = 5 * scale**2
        self.noise_sigma, self.adversarial_weight, self.l1_weight = noise_sigma, adversarial_weight, l1_weight
        self.pretrain_steps, self.warmup_steps, self.gan_steps, self.rate = pretrain_steps, warmup_steps, gan_steps, learning_rate
        self.feature_loss, self.sees_poses = feature_loss, discriminator == "with-poses"
        joints = len(self.skeleton)
        self.limbs = Limbs(self.skeleton)
        self.drawing = LimbComposer(joints, len(self.skeleton.limbs), downs, width)
        self.discriminator = Discriminator(joints * self.sees_poses, self.size, downs, width) if gan_steps else None
        self.apply(glorot_uniform)  # as the released code's Keras begins
        # Training takes fresh noise; rendering must not depend on chance, and takes this.
        pattern = torch.randn(3, h, w, generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        self.register_buffer("pattern", pattern.to(torch.get_default_device()), persistent=False)
        self.register_buffer("deviation", torch.ones(len(VGG_LAYERS), WIDEST))  # of each layer's channels over the training set

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        self.check(source, source_pose, target_pose, scene)
        return self.drawing(*self._inputs(source, source_pose, target_pose))

    def layers(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> dict[str, Tensor]:
        self.check(source, source_pose, target_pose)
        _, source_maps, target_maps, prior, *_ = inputs = self._inputs(source, source_pose, target_pose)
        given = {"joint heatmaps of the source": source_maps, "joint heatmaps of the target": target_maps, "limb priors": prior}
        return {name: maps[:, :, None] for name, maps in given.items()} | self.drawing.layers(*inputs)

    def _inputs(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> tuple[Tensor, ...]:
        """Return what `LimbComposer.layers` takes."""
        prior = self.limbs.prior(source_pose, self.limb_sigma_px, self.torso_sigma_px, self.shortest_px2)
        transform, moves = self.limbs.transforms(source_pose, target_pose)
        noise = self.noise_sigma * (torch.randn_like(source) if self.training else self.pattern.expand_as(source))
        return source, self.heatmaps(source_pose), self.heatmaps(target_pose), prior.to(source.dtype), transform, moves, noise

    def heatmaps(self, pose: Pose) -> Tensor:
        """Rasterise the joints as Gaussians (B, K, H/2, W/2); zeros for one that is missing or outside the image."""
        h, w = pose.size[0] // 2, pose.size[1] // 2
        half = replace(pose, xy=(pose.xy + 0.5) / 2 - 0.5, size=(h, w), silhouette=None)
        x, y = half.xy.unbind(-1)
        inside = (x > 0) & (x < w - 1) & (y > 0) & (y < h - 1)
        return gaussian_maps(replace(half, visible=half.visible & inside), self.sigma_px)

    def players(self) -> Mapping[str, nn.Module]:
        players: dict[str, nn.Module] = {"generator": self.drawing}
        return players if self.discriminator is None else {**players, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        if self.alone(step):
            return ("generator",)
        return ("discriminator",) if step < self.pretrain_steps + self.warmup_steps else ("discriminator", "generator")

    def alone(self, step: int) -> bool:
        """Tell whether the generator learns at `step` without a discriminator."""
        return step < self.pretrain_steps or self.discriminator is None

    def schedule_steps(self) -> int:
        return self.pretrain_steps + self.gan_steps

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        parameters = list(parameters)
        return torch.optim.Adam(parameters, lr=self.rate, betas=(0.9, 0.999), eps=1e-7, fused=in_one_kernel(parameters))  # Keras' ε

    def features(self) -> Features | None:
        return Features(VGG_LAYERS if self.feature_loss == "mean-12-released" else LAYERS, "avg")

    def prepare(self, pairs: Sequence[PosePair]) -> None:
        """Measure the deviation of every channel of every feature over the batches' sources."""
        if self.perceptual is None or self.feature_loss == "sum-16":
            return
        for row, deviation in enumerate(channel_deviations(self._seen(pair.source) for pair in pairs)):
            self.deviation[row, : len(deviation)] = deviation.to(self.deviation.dtype)

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        image = self.share("image", lambda: self(pair.source, pair.source_pose, pair.target_pose))
        if player == "discriminator":
            return {"real": real_loss(self._judged(pair, pair.target)), "fake": fake_loss(self._judged(pair, image.detach()))}
        terms = {}
        if self.perceptual is not None:
            terms["vgg"] = self._feature_loss(image, pair.target)
        if self.l1_weight:
            terms["l1"] = self.l1_weight * F.l1_loss(image, pair.target)
        if not terms:
            terms["l1_in_place_of_vgg"] = F.l1_loss(image, pair.target)
        if not self.alone(step):
            terms["adversarial"] = self.adversarial_weight * real_loss(self._judged(pair, image))
        return terms

    def _judged(self, pair: PosePair, image: Tensor) -> Tensor:
        assert self.discriminator is not None
        maps = (self.heatmaps(pair.source_pose), self.heatmaps(pair.target_pose)) if self.sees_poses else ()
        return self.discriminator(image, *maps)

    def _feature_loss(self, image: Tensor, target: Tensor) -> Tensor:
        """Compare features: averaged, in deviations of their channels + 0.1 (as the code's VGG counts), or as they are, summed."""
        with torch.no_grad():
            real = self._seen(target)
        if self.feature_loss == "sum-16":
            return compare(self._seen(image), real)
        least = 0.1 / KERAS_SCALE if isinstance(self.perceptual, VGG19) else 0.1
        return compare_in_deviations(self._seen(image), real, self.deviation, least)

    def _seen(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the images' features; ValueError for a network that has more of them than there is room for deviations."""
        assert self.perceptual is not None
        layers = self.perceptual(images)
        widths = [layer.shape[1] for layer in layers]
        if self.feature_loss == "sum-16":  # in which no deviations are counted
            return layers
        if len(widths) > len(VGG_LAYERS) or max(widths) > WIDEST:
            raise ValueError(f"posewarp compares up to {len(VGG_LAYERS)} features of up to {WIDEST} channels, got {widths} channels")
        return layers
