"""Generated images against the true ones, limb by limb: possible where the world is rendered, not photographed."""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.ssim import regional_ssim
from reid_aug.quality.surroundings import Surroundings

LIMBS = ("torso", "head", "r_thigh", "r_shin", "l_thigh", "l_shin", "r_arm", "l_arm", "r_forearm", "l_forearm")
UPPER, LOWER, ARMS = ("torso",), ("r_thigh", "l_thigh"), ("r_arm", "l_arm", "r_forearm", "l_forearm")


class Truth(Metric):
    """PSNR and SSIM on the body and on each limb, and the colour error of upper and lower clothes, against the true image."""

    kind: Literal["truth"]
    compares: ClassVar[bool] = True

    def start(self, name: str, surroundings: Surroundings) -> AgainstTruth:
        """Begin to measure; what is not rendered is refused with the first batch."""
        return AgainstTruth(name, surroundings)


class AgainstTruth:
    """Means over images of every region's PSNR, SSIM and colour error; an image without a region does not count for it."""

    higher_is_better = True

    def __init__(self, name: str, surroundings: Surroundings) -> None:
        self.name, self.surroundings = name, surroundings
        self.psnr: list[Tensor] = []
        self.ssim: list[Tensor] = []
        self.colour: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Compare a batch with the truth; NotMeasurable where nobody knows it."""
        true = self.surroundings.truth(batch.names, batch.in_scene)
        regions = torch.cat((true.body[:, None], true.limbs), 1)
        generated = batch.generated.cpu()
        self.psnr.append(regional_psnr(generated, true.images, regions))
        self.ssim.append(regional_ssim(generated, true.images, regions))
        self.colour.append(colour_error(generated, true.images, clothes(true.limbs)))

    def latest(self) -> dict[str, Tensor]:
        """Return the last batch's PSNR and SSIM on the whole body."""
        return {f"{self.name} PSNR": self.psnr[-1][:, 0], f"{self.name} SSIM": self.ssim[-1][:, 0]}

    def compute(self) -> Measured:
        """Return a value for every column that some image has one of."""
        name = self.name
        psnr, ssim, colour = (torch.cat(parts).numpy() for parts in (self.psnr, self.ssim, self.colour))
        columns = {f"{name} PSNR": (psnr[:, 0], "dB on the true body"), f"{name} SSIM": (ssim[:, 0], "windows on the true body")}
        for i, part in enumerate(("upper", "lower")):
            columns[f"ΔE {part}"] = (colour[:, i], f"CIE 1976 difference of the mean colours of the {part} clothes")
        for i, limb in enumerate(LIMBS, start=1):
            columns[f"{name} PSNR of {limb}"] = (psnr[:, i], "dB on the limb")
            columns[f"{name} SSIM of {limb}"] = (ssim[:, i], "windows on the limb")
        return Measured({
            column: Value(float(np.nanmean(values)), int(np.isfinite(values).sum()), how)
            for column, (values, how) in columns.items() if np.isfinite(values).any()
        })  # fmt: skip


def regional_psnr(generated: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio (B, R) in dB over each region, bool (B, R, H, W); nan where it is empty.

    At most 58.9 dB: rounding to 8 bits alone has a mean squared error of 1/12.

    >>> black, region = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    >>> regional_psnr(black, black + 255, region).item(), round(regional_psnr(black, black, region).item(), 1)
    (0.0, 58.9)
    """
    squares = (generated.double() - truth.double()).square().mean(1, keepdim=True)
    error = (squares * regions).sum((2, 3)) / regions.sum((2, 3))
    return 10 * (255**2 / error.clamp(min=1 / 12)).log10()


def clothes(limbs: Tensor) -> Tensor:
    """Return the regions bool (B, 2, H, W) of upper and lower clothes: the torso, and the thighs, where no arm is in front."""
    where = {name: limbs[:, i] for i, name in enumerate(LIMBS)}
    arms = torch.stack([where[name] for name in ARMS]).any(0)
    return torch.stack([torch.stack([where[name] for name in names]).any(0) & ~arms for names in (UPPER, LOWER)], 1)


def colour_error(generated: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Return ΔE*ab (CIE 1976) between the mean colours (L*a*b*, D65) of two uint8 images over regions: (B, R), nan if empty.

    Images are (B, 3, H, W), regions bool (B, R, H, W).

    >>> black, region = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(1, 1, 8, 8, dtype=torch.bool)
    >>> round(colour_error(black, black + 255, region).item(), 3)
    100.0
    """
    generated_means, true_means = (_means(lab(images), regions) for images in (generated, truth))
    return (generated_means - true_means).square().sum(-1).sqrt()


def lab(images: Tensor) -> Tensor:
    """Convert sRGB uint8 images (B, 3, H, W) to L*a*b*, float32 of the same shape, white point D65.

    >>> [round(value) for value in lab(torch.tensor([255, 0, 0], dtype=torch.uint8).view(1, 3, 1, 1)).flatten().tolist()]
    [53, 80, 67]
    """
    import cv2

    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    converted = [cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for image in pixels]
    return torch.from_numpy(np.stack(converted)).permute(0, 3, 1, 2)


def _means(values: Tensor, regions: Tensor) -> Tensor:
    """Return means (B, R, C) of values (B, C, H, W) over regions (B, R, H, W)."""
    inside = regions.double()
    return torch.einsum("bchw,brhw->brc", values.double(), inside) / inside.sum((2, 3))[..., None]
