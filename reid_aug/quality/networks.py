"""Networks that image quality is measured with: downloaded once, found in torch's cache, or said to be missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from reid_aug.data.estimators.keypoint_rcnn import Estimator, KeypointRcnn, torchvision_detector
from reid_aug.device import torch_device
from reid_aug.weights import MissingWeights, cached, find, tensors_in

# Images uint8 (B, 3, H, W) → pool3 features (B, D) and logits (B, C); the second argument resizes as in `RESIZES`.
InceptionNetwork = Callable[[Tensor, str], tuple[Tensor, Tensor]]
Distance = Callable[[Tensor, Tensor], Tensor]  # Two such batches → distances (B,).
Detector = Callable[[Tensor], Tensor]  # Images → the highest confidence of a person (B,), 0 where there is none.

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
RESIZES = ("tensorflow", "antialias")


class NotMeasurable(ValueError):
    """A metric has no meaning here: the message says what is missing."""


class Networks:
    """The networks of metrics, each made when first asked for; MissingWeights where its weights can't be had.

    `download` fetches what is not in torch's cache (torch.hub's folder of checkpoints), and tries once. A network given by
    name (`inception`, `lpips`, `detector`, `estimator`) takes the standard one's place. `device` is "auto" (a GPU when there
    is one) or any of torch's; ValueError for one that is not here.
    """

    def __init__(
        self, *, download: bool = True, device: str = "auto", inception: InceptionNetwork | None = None, lpips: Distance | None = None,
        detector: Detector | None = None, estimator: Estimator | None = None, kept_size: int = 256,
    ) -> None:  # fmt: skip
        self.download = download
        self.device = torch_device(device)
        self._replacements = {"inception": inception, "lpips": lpips, "detector": detector, "estimator": estimator}
        self._made: dict[str, Any] = {}  # Networks, or the MissingWeights that making one came to.
        self._kept_size = kept_size

    def available(self) -> list[str]:
        """List the files of torch's cache that networks would be made from, and the names of networks given."""
        replacements = [name for name, network in self._replacements.items() if network is not None]
        return [cached(url).name for url in _urls() if cached(url).is_file()] + replacements

    def _network(self, name: str, make: Callable[[], Any], key: str = "") -> Any:
        """Return the network given, or what `make` made when it was first asked for."""
        if self._replacements[name] is not None:
            return self._replacements[name]
        if (key or name) not in self._made:
            try:
                self._made[key or name] = make()
            except MissingWeights as error:  # every metric asks anew: what was tried in vain is not tried again
                self._made[key or name] = error
        network = self._made[key or name]
        if isinstance(network, MissingWeights):
            raise MissingWeights(str(network))
        return network

    @property
    def inception(self) -> InceptionNetwork:
        """Return TensorFlow's Inception of 2015-12-05 as torch-fidelity ports it, which FID and IS are defined on."""
        return self._network("inception", lambda: Inception(self._file(INCEPTION_URL, "TensorFlow's Inception"), self.device))

    @property
    def lpips(self) -> Distance:
        """Return LPIPS on AlexNet, v0.1 (Zhang et al. 2018)."""
        from torchvision.models import AlexNet_Weights

        url = AlexNet_Weights.IMAGENET1K_V1.url
        return self._network("lpips", lambda: AlexLpips(self._file(url, "AlexNet"), self.device))

    def detector(self, name: str) -> Detector:
        """Return one of torchvision's COCO detectors as a score of "a person is there"."""
        return self._network("detector", lambda: PersonDetector(name, self._file, self.device), key=f"detector {name}")

    @property
    def estimator(self) -> Estimator:
        """Return torchvision's Keypoint R-CNN: 17 joints of COCO."""
        return self._network("estimator", lambda: KeypointRcnn(self._file, self.device, self._kept_size))

    def _file(self, url: str, what: str) -> Path:
        """Find the file of a download, fetched when it may be."""
        return find(url, what, download=self.download)


def network_name(network: object) -> str:
    """Return how a result names a network: its `name`, or its type's."""
    return str(getattr(network, "name", type(network).__name__))


class Inception:
    """TensorFlow's Inception: pool3 features (B, 2048) and logits without bias (B, 1008), as FID and IS take them."""

    name = "Inception v3 of 2015-12-05 (torch-fidelity)"

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with tensors_in(weights, INCEPTION_URL):
            network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights))
        self.network, self.device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, images: Tensor, resize: str) -> tuple[Tensor, Tensor]:
        images = images.to(self.device)
        if resize == "antialias":  # the network's own resizing then finds nothing to do
            side = self.network.INPUT_IMAGE_SIZE
            images = F.interpolate(images.float(), (side, side), mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.network(images)
        return features.float().cpu(), logits.float().cpu()


class AlexLpips:
    """LPIPS v0.1 on AlexNet with torchmetrics' linear layers: images in [-1, 1], at their own size, NotMeasurable below 31 px."""

    name = "LPIPS v0.1, AlexNet (torchmetrics)"
    least_px = 31  # Side that AlexNet's strides and poolings leave one pixel of.

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import AlexNet_Weights

        with tensors_in(weights, AlexNet_Weights.IMAGENET1K_V1.url):  # torchvision reads the same file of the same cache
            network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net
        self.network, self.device = network.to(device), device

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        if min(a.shape[-2:]) < self.least_px:
            rule = f"AlexNet takes images of {self.least_px} × {self.least_px} at least"
            raise NotMeasurable(f"{rule}, these are {a.shape[-2]} × {a.shape[-1]}")
        a, b = (images.to(self.device).float() / 127.5 - 1 for images in (a, b))
        return self.network(a, b).flatten().cpu()


class PersonDetector:
    """A torchvision detector's highest confidence that a person is there (COCO's class 1)."""

    def __init__(self, name: str, file: Callable[[str, str], Path], device: torch.device) -> None:
        self.name, self.device = f"{name}, COCO (torchvision)", device
        self.network = torchvision_detector(name, file).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        detections = self.network(list(images.to(self.device).float() / 255))
        scores = [detected["scores"][detected["labels"] == 1] for detected in detections]
        return torch.stack([s.max() if len(s) else s.new_zeros(()) for s in scores]).float().cpu()


def _urls() -> list[str]:
    """List every download there may be."""
    from torchvision.models import AlexNet_Weights, get_model_weights

    detection = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "keypointrcnn_resnet50_fpn")
    urls = [get_model_weights(name).DEFAULT.url for name in detection]  # type: ignore[attr-defined]
    return [INCEPTION_URL, AlexNet_Weights.IMAGENET1K_V1.url, *urls]
