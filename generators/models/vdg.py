"""VDG: View-Disentangled Generator. Lakkhal, Lanz, Cavallaro, ECCV 2018 Workshops (printed 2019).

Two stages as in PG2, but source and target never meet in an encoder: one reads images, the other heatmaps of the
target's joints, and their features join in the bottleneck. Reconstruction takes the source image and its heatmaps
and renders a coarse person; refinement takes the source and the coarse image and adds a residual, trained against a
discriminator of pairs and, for the row called VDG, on the SSIM of images whose person counts double. The first
stage trains alone, the second and the discriminator train with the first at rest.

Differs from the paper:
* Eq. 7 puts the mask L1 on the residual and the SSIM on the image; both are on the refined image here, as eq. 4 means it.
* Sums of L1 terms are means, and λ, which the text does not give, is 10 on Market and 50 on DeepFashion, as PG2's.
* The text gives no SSIM window: 11 × 11, Gaussian of σ 1.5, K 0.01 and 0.03, whole windows only (Wang et al. 2004).
* SSIM is for intensities, so images are brought to [0, 1] before they are multiplied by 1 + M: a data range of 2.
* M is PG2's pose mask of 4 px; which one is not said beyond "the target mask".
* Widths are PG2's: w, 2w, … in both encoders and codes of 64 from each. Refinement's deepest block takes both encoders'
  features once; PG2's would take the image's a second time as its skip.
* The discriminator, of which the text says little, is PG2's; it shares a step's batch with the generator.
* `forward` clamps to [−1, 1]; both stages end in a plain convolution.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.base import Generator, PosePair, keeps_options
from generators.blocks import DCGANDiscriminator, PoseEncoder, ResidualEncoder, ResidualUNet, halving_size
from generators.choices import one_of
from generators.losses import fake_loss, masked_l1, real_loss
from generators.maps import body_mask, gaussian_maps
from generators.pose import SKELETONS, Pose

L1, MASK_L1, MASK_SSIM, WEIGHTED = "l1", "mask-l1", "mask-ssim", "weighted"
WINDOW_PX, SIGMA_PX = 11, 1.5  # SSIM's window, as most have it


class Reconstruction(ResidualUNet):
    """G_rec: both encoders end in a fully connected layer, the decoder starts from the two codes; 94.5 M parameters at 128 × 64."""

    def __init__(self, joints: int, size: tuple[int, int], width: int = 128, bottleneck: int = 64) -> None:
        super().__init__(3 + joints, size, width)
        self.width = width
        self.squeeze = nn.Linear(self.flat, bottleneck)
        self.pose = PoseEncoder(joints, size, width, bottleneck)
        self.expand = nn.Linear(2 * bottleneck, width * self.small[0] * self.small[1])
        self.add_decoder(width + self.widths[-1])

    def forward(self, source: Tensor, source_maps: Tensor, target_maps: Tensor) -> Tensor:  # → (B, 3, H, W)
        *skips, deepest = self.encode(torch.cat((source, source_maps), dim=1))
        code = torch.cat((self.squeeze(deepest.flatten(1)), self.pose(target_maps)), dim=1)  # (B, 2 · bottleneck)
        x = self.expand(code).view(-1, self.width, *self.small)
        return self.decode(torch.cat((x, deepest), dim=1), skips)


class Refinement(ResidualUNet):
    """G_ref: fully convolutional, so that nothing of the images' detail is lost; its output is a residual; 110.5 M parameters."""

    def __init__(self, joints: int, size: tuple[int, int], width: int = 128) -> None:
        super().__init__(6, size, width)
        self.pose = ResidualEncoder(joints, size, width)
        self.add_decoder(2 * self.widths[-1])

    def forward(self, source: Tensor, coarse: Tensor, target_maps: Tensor) -> Tensor:  # → (B, 3, H, W)
        *skips, deepest = self.encode(torch.cat((source, coarse), dim=1))
        return self.decode(torch.cat((deepest, self.pose.encode(target_maps)[-1]), dim=1), skips)


def mask_ssim_loss(image: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return 1 − SSIM of images (B, C, H, W) in [−1, 1], brought to [0, 1] and times 1 + mask (B, 1, H, W): eq. 7, a scalar."""
    weight = (1 + mask) / 2
    return 1 - ssim((image + 1) * weight, (target + 1) * weight, data_range=2.0)


class VDG(Generator):
    """View-Disentangled Generator: reconstruction, then refinement (Lakkhal et al. 2019)."""

    paper = "Lakkhal, Lanz, Cavallaro, Pose Guided Human Image Synthesis by View Disentanglement and Enhanced Weighting Loss, 2019"
    later_options = ("stage2_learning_rate",)
    stage2: Refinement  # neither this nor a discriminator where there is one stage
    discriminator: DCGANDiscriminator

    @keeps_options
    def __init__(
        self,
        size: tuple[int, int] = (128, 64),  # Height and width of images; the paper's other size is (256, 256).
        width: int = 128,  # Channels of the first level; the discriminator's first has half as many.
        bottleneck: int = 64,  # Length of the code of each of the first stage's encoders.
        sigma_px: float = 6.0,  # Standard deviation of the joints' heatmaps.
        radius_px: float = 4.0,  # Radius of the pose mask around joints and limbs.
        loss: str = MASK_SSIM,  # Refinement's loss on images: "mask-ssim" (VDG), "l1", "mask-l1" or "weighted" (VDG_w).
        alpha: float = 0.9,  # Weight α of the SSIM where the loss is "weighted"; the mask L1 has 1 − α.
        image_weight: float = 10.0,  # Weight λ of the loss on images beside the adversarial one.
        stages: int = 2,  # Number of stages; 1 is reconstruction alone (Table 1).
        stage1_steps: int = 22_000,  # Steps of reconstruction.
        stage2_steps: int = 14_000,  # Steps of refinement and the discriminator.
        learning_rate: float = 2e-5,  # Learning rate of every player's Adam.
        stage2_learning_rate: float | None = None,  # That of refinement and its discriminator, where it is another.
        skeleton: str = "openpose_18",  # Skeleton of the poses, by name.
    ) -> None:
        super().__init__()
        one_of("vdg's loss", loss, (L1, MASK_L1, MASK_SSIM, WEIGHTED))
        one_of("vdg's stages", stages, (1, 2))
        if stage2_learning_rate is not None and stages != 2:
            raise ValueError(f"vdg's stage2_learning_rate needs 2 stages, got {stages}")
        one_of("vdg's skeleton", skeleton, SKELETONS)
        if not 0 <= alpha <= 1:
            raise ValueError(f"vdg's alpha is from 0 to 1, got {alpha}")
        self.size, self.skeleton = halving_size("vdg", size, rows=8), SKELETONS[skeleton]
        if stages == 2 and loss in (MASK_SSIM, WEIGHTED) and self.size[1] < WINDOW_PX:
            raise ValueError(f"vdg's SSIM needs a width of at least {WINDOW_PX} px, got {self.size[1]}")
        self.sigma_px, self.radius_px, self.image_weight = sigma_px, radius_px, image_weight
        self.loss, self.alpha, self.stages = loss, alpha, stages
        self.stage1_steps, self.stage2_steps, self.rate, self.stage2_rate = stage1_steps, stage2_steps, learning_rate, stage2_learning_rate
        self.stage1 = Reconstruction(len(self.skeleton), self.size, width, bottleneck)
        if stages == 2:
            self.stage2 = Refinement(len(self.skeleton), self.size, width)
            self.discriminator = DCGANDiscriminator(6, self.size, max(width // 2, 1))

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        self.check(source, source_pose, target_pose, scene)
        image = self.coarse(source, source_pose, target_pose)
        if self.stages == 2:
            image = self.refined(source, image, target_pose)
        return image.clamp(-1, 1)

    def coarse(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> Tensor:
        """Render reconstruction's image (B, 3, H, W), not clamped."""
        return self.stage1(source, self._maps(source_pose, source), self._maps(target_pose, source))

    def refined(self, source: Tensor, coarse: Tensor, target_pose: Pose) -> Tensor:
        """Add refinement's residual to the coarse image (eq. 4), not clamped."""
        return coarse + self.stage2(source, coarse, self._maps(target_pose, source))

    def _maps(self, pose: Pose, like: Tensor) -> Tensor:
        return gaussian_maps(pose, self.sigma_px).to(like.dtype)

    def players(self) -> Mapping[str, nn.Module]:
        if self.stages == 1:
            return {"generator1": self.stage1}
        return {"generator1": self.stage1, "generator2": self.stage2, "discriminator": self.discriminator}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("generator1",) if step < self.stage1_steps or self.stages == 1 else ("discriminator", "generator2")

    def schedule_steps(self) -> int:
        return self.stage1_steps + (self.stage2_steps if self.stages == 2 else 0)

    def learning_rate(self, player: str, step: int) -> float | None:
        """Return the second stage's rate to its players, where it has its own."""
        return None if player == "generator1" else self.stage2_rate

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        if player == "generator1":
            return {"l1": F.l1_loss(self.coarse(pair.source, pair.source_pose, pair.target_pose), pair.target)}
        image = self.share("image", lambda: self._refined_image(pair))
        if player == "discriminator":
            real = self.discriminator(torch.cat((pair.source, pair.target), dim=1))
            fake = self.discriminator(torch.cat((pair.source, image.detach()), dim=1))
            return {"real": real_loss(real), "fake": fake_loss(fake)}
        adversarial = real_loss(self.discriminator(torch.cat((pair.source, image), dim=1)))
        terms = {name: self.image_weight * term for name, term in self._image_losses(image, pair).items()}
        return {"adversarial": adversarial, **terms}

    def _refined_image(self, pair: PosePair) -> Tensor:
        with torch.no_grad():  # reconstruction rests
            coarse = self.coarse(pair.source, pair.source_pose, pair.target_pose)
        return self.refined(pair.source, coarse, pair.target_pose)

    def _image_losses(self, image: Tensor, pair: PosePair) -> dict[str, Tensor]:
        """Return L_img, not yet times λ: eq. 7's choices, or eq. 8's weighted sum."""
        if self.loss == L1:
            return {"l1": F.l1_loss(image, pair.target)}
        mask = body_mask(pair.target_pose, self.radius_px).to(pair.target.dtype)
        if self.loss == MASK_L1:
            return {"mask_l1": masked_l1(image, pair.target, mask)}
        similarity = mask_ssim_loss(image, pair.target, mask)
        if self.loss == MASK_SSIM:
            return {"mask_ssim": similarity}
        return {"mask_ssim": self.alpha * similarity, "mask_l1": (1 - self.alpha) * masked_l1(image, pair.target, mask)}


def ssim(image: Tensor, target: Tensor, data_range: float) -> Tensor:
    """Return the mean structural similarity, a scalar, of images (B, C, H, W): 1 where they are equal (Wang et al. 2004, eq. 13).

    Population covariances under a Gaussian of σ 1.5 px in windows of 11 × 11, at every place where the window lies in
    the image whole: H − 10 by W − 10 places, so that the outermost pixels are seen from within only.

    >>> grey = torch.full((1, 3, 11, 11), 0.5)
    >>> ssim(grey, grey, data_range=1.0).item(), round(ssim(grey, grey + 0.25, data_range=1.0).item(), 4)
    (1.0, 0.9231)
    """
    if min(image.shape[-2:]) < WINDOW_PX:
        raise ValueError(f"SSIM's window of {WINDOW_PX} px needs images at least as large, got {tuple(image.shape[-2:])}")
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # Variances are small differences of large numbers: half precision, autocast's too, would leave nothing of them.
    dtype = torch.promote_types(image.dtype, torch.float32)
    x, y = image.to(dtype), target.to(dtype)
    with torch.autocast(image.device.type, enabled=False):
        # The two variances are only ever needed summed.
        mean_x, mean_y, squares, product = _window_means(torch.stack((x, y, x * x + y * y, x * y)))
        means_squared, means_product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
        luminance = (2 * means_product + c1) / (means_squared + c1)
        structure = (2 * (product - means_product) + c2) / ((squares - means_squared).clamp(min=0) + c2)  # rounding may go below 0
        return (luminance * structure).mean()


def _window_means(planes: Tensor) -> Tensor:
    """Return the weighted mean of every whole window, (*, H, W) → (*, H − 10, W − 10), by two products with banded matrices."""
    rows, columns = (_band(side, planes) for side in planes.shape[-2:])
    return rows @ (planes @ columns.t())


def _band(side: int, like: Tensor) -> Tensor:
    """Return the matrix (side − 10, side) whose row i holds the window's weights from column i on."""
    at = torch.arange(side, dtype=like.dtype, device=like.device)
    offset = at[None, :] - at[: side - WINDOW_PX + 1, None] - WINDOW_PX // 2
    weights = torch.exp(-0.5 * (offset / SIGMA_PX) ** 2) * (offset.abs() <= WINDOW_PX // 2)
    return weights / weights.sum(1, keepdim=True)
