"""Metrics that score every image by itself and report the mean: SSIM and LPIPS against the photograph, and the detection score."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.networks import NotMeasurable, network_name
from reid_aug.quality.ssim import SSIM_PROTOCOLS, ssim
from reid_aug.quality.surroundings import Surroundings


class MeanScore:
    """The mean over images of a score (B,); images whose score is nan do not count."""

    def __init__(self, name: str, score: Callable[[Batch], Tensor], how: str, higher_is_better: bool = True) -> None:
        self.name, self.score, self.how, self.higher_is_better = name, score, how, higher_is_better
        self.scores: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Score a batch."""
        self.scores.append(self.score(batch).double().cpu())

    def latest(self) -> dict[str, Tensor]:
        """Return the last batch's scores."""
        return {self.name: self.scores[-1]}

    def compute(self) -> Measured:
        """Return the mean; NotMeasurable when no image has a score."""
        scores = torch.cat(self.scores)
        scores = scores[~scores.isnan()]
        if not len(scores):
            raise NotMeasurable("no image that it can be measured on")
        return Measured({self.name: Value(float(scores.mean()), len(scores), self.how)})


class Ssim(Metric):
    """SSIM, or mask-SSIM, as a paper defines it (`reid_aug.quality.ssim`)."""

    kind: Literal["ssim"]
    protocol: Literal["deformable", "pg2", "gfla"] = "deformable"  # Paper whose definition is taken, a name in SSIM_PROTOCOLS.
    masked: bool = False  # Whether both images are black outside the target's body.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure."""
        rule = SSIM_PROTOCOLS[self.protocol]
        window = f"{rule.window_px} × {rule.window_px} {'uniform' if rule.sigma_px is None else f'Gaussian, σ {rule.sigma_px}'}"
        spread = "that of the generated image" if rule.data_range is None else f"{rule.data_range:g}"
        outside = "; both black outside the target's body" if self.masked else ""
        return MeanScore(name, self._score, f"window {window}; data range {spread}{outside}")

    def _score(self, batch: Batch) -> Tensor:
        mask = batch.bodies() if self.masked else None
        # Within 2e-6 of float64's on photographs, in less than half the time.
        return ssim(batch.generated, batch.targets(False), self.protocol, mask=mask, dtype=torch.float32).double()


class Lpips(Metric):
    """LPIPS, or mask-LPIPS (Zhang et al. 2018; masks as Ren et al. 2020)."""

    kind: Literal["lpips"]
    masked: bool = False  # Whether both images are black outside the target's body.

    def start(self, name: str, surroundings: Surroundings) -> MeanScore:
        """Begin to measure; MissingWeights without the network."""
        network = surroundings.networks.lpips
        how = network_name(network) + ("; both black outside the target's body" if self.masked else "")
        return MeanScore(name, lambda batch: network(batch.images(self.masked), batch.targets(self.masked)), how, higher_is_better=False)


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
