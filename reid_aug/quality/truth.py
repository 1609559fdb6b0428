"""Generated images against the true ones, limb by limb: possible where the world is drawn, not photographed."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from reid_aug.quality.metrics import Around, Batch, Metric, Running, Value
from reid_aug.quality.networks import NotMeasurable
from reid_aug.quality.ssim import regional_psnr, regional_ssim

LIMBS = ("torso", "head", "r_thigh", "r_shin", "l_thigh", "l_shin", "r_arm", "l_arm", "r_forearm", "l_forearm")
UPPER, LOWER, ARMS = ("torso",), ("r_thigh", "l_thigh"), ("r_arm", "l_arm", "r_forearm", "l_forearm")


@dataclass(frozen=True, eq=False)
class TrueImages:
    """What should have been drawn: uint8 (B, 3, H, W), the body bool (B, H, W) and `LIMBS` bool (B, 10, H, W), hidden or not."""

    images: Tensor
    body: Tensor
    limbs: Tensor


class AroundTruth(Around):
    """What this needs besides: the true image of every source in every target pose."""

    @abstractmethod
    def truth(self, batch: Batch) -> TrueImages:
        """The true images of a batch; NotMeasurable where nobody knows them."""


class Truth(Metric):
    """PSNR and SSIM on the body and on each limb, and the colour error of upper and lower clothes, against the true image."""

    kind: Literal["truth"]

    def start(self, around: Around) -> Running:
        if not isinstance(around, AroundTruth):
            raise NotMeasurable("true images are known of rendered people only")
        return _AgainstTruth(around)


class _AgainstTruth(Running):
    def __init__(self, around: AroundTruth) -> None:
        self.around = around
        self.psnr, self.ssim, self.colour = [], [], []

    def update(self, batch: Batch) -> None:
        true = self.around.truth(batch)
        regions = torch.cat((true.body[:, None], true.limbs), 1)
        generated = batch.generated.cpu()
        self.psnr.append(regional_psnr(generated, true.images, regions))
        self.ssim.append(regional_ssim(generated, true.images, regions))
        self.colour.append(colour_error(generated, true.images, clothes(true.limbs)))

    def values(self, name: str) -> dict[str, Value]:
        psnr, ssim, colour = (torch.cat(parts).numpy() for parts in (self.psnr, self.ssim, self.colour))
        columns = {f"{name} PSNR": (psnr[:, 0], "dB on the true body"), f"{name} SSIM": (ssim[:, 0], "windows on the true body")}
        for i, part in enumerate(("upper", "lower")):
            columns[f"ΔE {part}"] = (colour[:, i], f"CIE 1976 difference of the mean colours of the {part} clothes")
        for i, limb in enumerate(LIMBS, start=1):
            columns[f"{name} PSNR of {limb}"] = (psnr[:, i], "dB on the limb")
            columns[f"{name} SSIM of {limb}"] = (ssim[:, i], "windows on the limb")
        return {
            column: Value(float(np.nanmean(values)), int(np.isfinite(values).sum()), how)
            for column, (values, how) in columns.items() if np.isfinite(values).any()
        }  # fmt: skip


def clothes(limbs: Tensor) -> Tensor:
    """Regions bool (B, 2, H, W) of upper and lower clothes: the torso, and the thighs, where no arm is in front."""
    where = {name: limbs[:, i] for i, name in enumerate(LIMBS)}
    arms = torch.stack([where[name] for name in ARMS]).any(0)
    return torch.stack([torch.stack([where[name] for name in names]).any(0) & ~arms for names in (UPPER, LOWER)], 1)


def colour_error(generated: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """ΔE*ab (CIE 1976) between the mean colours (L*a*b*, D65) of two uint8 images (B, 3, H, W) over regions: (B, R), nan if empty."""
    mine, theirs = (_means(lab(images), regions) for images in (generated, truth))
    return (mine - theirs).square().sum(-1).sqrt()


def lab(images: Tensor) -> Tensor:
    """L*a*b* (B, 3, H, W) float32 of sRGB uint8 images, white point D65."""
    import cv2

    pixels = images.permute(0, 2, 3, 1).contiguous().numpy()
    converted = [cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2Lab) for image in pixels]
    return torch.from_numpy(np.stack(converted)).permute(0, 3, 1, 2)


def _means(values: Tensor, regions: Tensor) -> Tensor:
    """Means (B, R, C) of values (B, C, H, W) over regions (B, R, H, W)."""
    inside = regions.double()
    return torch.einsum("bchw,brhw->brc", values.double(), inside) / inside.sum((2, 3))[..., None]
