"""Metrics that score every image by itself and report the mean: SSIM and LPIPS against the photograph, and the detection score."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Literal

import torch
from torch import Tensor

from reid_aug.quality.metrics import Batch, Measured, Metric, Value, unposed
from reid_aug.quality.networks import NotMeasurable, network_name
from reid_aug.quality.ssim import SSIM_PROTOCOLS, ssim
from reid_aug.quality.surroundings import Surroundings


class MeanScore:
    """The mean over images of a score (B,); images whose score is nan do not count."""

    def __init__(
        self, name: str, score: Callable[[Batch], Tensor], how: str, masked: bool = False, higher_is_better: bool = True
    ) -> None:
        self.name, self.score, self.how, self.masked, self.higher_is_better = name, score, how, masked, higher_is_better
        self.scores: list[Tensor] = []
        self._latest = torch.empty(0, dtype=torch.float64)
        self.images = 0

    def update(self, batch: Batch) -> None:
        """Score a batch; where images are masked, those whose target pose is known."""
        self.images += len(batch.generated)
        posed = batch.posed() if self.masked else batch
        self._latest = torch.full((len(batch.generated),), torch.nan, dtype=torch.float64)
        if posed is not None:
            scores = self.score(posed).double().cpu()
            self.scores.append(scores)
            known = slice(None) if posed is batch else batch.target_pose.visible.any(1).cpu()
            self._latest[known] = scores

    def latest(self) -> dict[str, Tensor]:
        """Return the last batch's scores, nan for an image whose target pose is not known where they are of masked ones."""
        return {self.name: self._latest}

    def compute(self) -> Measured:
        """Return the mean; NotMeasurable when no image has a score."""
        scores = torch.cat([torch.empty(0, dtype=torch.float64), *self.scores])
        how = self.how + (unposed(self.images, len(scores)) if self.masked else "")
        scores = scores[~scores.isnan()]
        if not len(scores):
            raise NotMeasurable("no image that it can be measured on")
        return Measured({self.name: Value(float(scores.mean()), len(scores), how)})


def _window(protocol: str) -> str:
    """Say in words how a protocol measures SSIM."""
    rule = SSIM_PROTOCOLS[protocol]
    window = f"{rule.window_px} × {rule.window_px} {'uniform' if rule.sigma_px is None else f'Gaussian, σ {rule.sigma_px}'}"
    return f"window {window}; data range {'that of the generated image' if rule.data_range is None else f'{rule.data_range:g}'}"


class Ssim(Metric):
    """SSIM, or mask-SSIM, as a paper defines it (`reid_aug.quality.ssim`)."""

    kind: Literal["ssim"]
    compares: ClassVar[bool] = True
    protocol: Literal["deformable", "pg2", "gfla"] = "deformable"  # Paper whose definition is taken, a name in SSIM_PROTOCOLS.
    masked: bool = False  # Whether both images are black outside the target's body.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure."""
        outside = "; both black outside the target's body" if self.masked else ""
        return MeanScore(name, self._score, f"{_window(self.protocol)}{outside}", self.masked)

    def _score(self, batch: Batch) -> Tensor:
        mask = batch.bodies() if self.masked else None
        # Within 2e-6 of float64's on photographs, in less than half the time.
        return ssim(batch.generated, batch.targets(False), self.protocol, mask=mask, dtype=torch.float32).double()


class SilhouetteSsim(Metric):
    """SSIM of both images black outside the target's silhouette: mask-SSIM with the person's outline in place of limbs around joints.

    Nobody published numbers of it: they compare with each other only, of the same silhouettes.
    """

    kind: Literal["silhouette-ssim"]
    compares: ClassVar[bool] = True
    protocol: Literal["deformable", "pg2", "gfla"] = "deformable"  # Paper whose window and data range are taken, a name in SSIM_PROTOCOLS.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure; NotMeasurable where the data set has no silhouettes."""
        if not surroundings.has_masks:
            raise NotMeasurable("it compares inside silhouettes, and there are none: give data.masks=DIR, from reid-aug poses --masks DIR")
        return MeanScore(name, self._score, f"{_window(self.protocol)}; both black outside the target's silhouette, where it is known")

    def _score(self, batch: Batch) -> Tensor:
        truth, scores = batch.targets(False), torch.full((len(batch.generated),), torch.nan, dtype=torch.float64)
        if batch.silhouette is not None and len(rows := batch.silhouette.flatten(1).any(1).nonzero().flatten()):
            mask, generated = batch.silhouette[rows], batch.generated[rows]
            scores[rows] = ssim(generated, truth[rows], self.protocol, mask=mask, dtype=torch.float32).double()
        return scores


class Lpips(Metric):
    """LPIPS, or mask-LPIPS (Zhang et al. 2018; masks as Ren et al. 2020)."""

    kind: Literal["lpips"]
    compares: ClassVar[bool] = True
    masked: bool = False  # Whether both images are black outside the target's body.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure; MissingWeights without the network."""
        network = surroundings.networks.lpips
        how = network_name(network) + ("; both black outside the target's body" if self.masked else "")
        return MeanScore(
            name, lambda batch: network(batch.images(self.masked), batch.targets(self.masked)), how, self.masked, higher_is_better=False
        )


class DetectionScore(Metric):
    """DS (Siarohin et al. 2018): the highest confidence of a person that a detector has, 0 where it finds none.

    The paper's detector was a Caffe SSD-300 trained on VOC; numbers of another compare with each other only.
    """

    kind: Literal["detection"]
    detector: Literal["ssd300_vgg16", "ssdlite320_mobilenet_v3_large"] = "ssd300_vgg16"  # Detector's name in torchvision.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure; MissingWeights without the network."""
        network = surroundings.networks.detector(self.detector)
        return MeanScore(name, lambda batch: network(batch.generated), network_name(network))
