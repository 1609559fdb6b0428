"""Networks that image quality is measured with: downloaded once, found in torch's cache, or said to be missing."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.pose import Pose, coco_17

# images uint8 (B, 3, H, W) → pool3 features (B, D) and logits (B, C); the second argument resizes as in `RESIZES`
InceptionNetwork = Callable[[Tensor, str], tuple[Tensor, Tensor]]
Distance = Callable[[Tensor, Tensor], Tensor]  # two such batches → distances (B,)
Detector = Callable[[Tensor], Tensor]  # images → the highest confidence of a person (B,), 0 where there is none
Estimator = Callable[[Tensor], Pose]  # images → a pose (B, K) in their pixels, all joints invisible where nobody is found

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
RESIZES = ("tensorflow", "antialias")


class MissingWeights(FileNotFoundError):
    """A network's weights are not there; the message says what and how to get them."""


class Networks:
    """The networks of metrics, each made when first asked for; MissingWeights where its weights can't be had.

    `download` fetches what is not in torch's cache (torch.hub's folder of checkpoints). A network given by name
    (`inception`, `lpips`, `detector`, `estimator`) takes the standard one's place. `device` as Augmenter's.
    """

    def __init__(
        self, *, download: bool = True, device: str = "auto", inception: InceptionNetwork | None = None, lpips: Distance | None = None,
        detector: Detector | None = None, estimator: Estimator | None = None, kept_size: int = 256,
    ) -> None:  # fmt: skip
        self.download = download
        self.device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self._given = {"inception": inception, "lpips": lpips, "detector": detector, "estimator": estimator}
        self._detectors: dict[str, Detector] = {}
        self._kept_size = kept_size

    def there(self) -> list[str]:
        """Files of torch's cache that networks would be made from, and the names of networks given."""
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        known = [url.rsplit("/", 1)[-1] for url in _urls()]
        return [name for name in known if (cache / name).is_file()] + [name for name, one in self._given.items() if one is not None]

    def _given_or(self, name: str, make: Callable[[], Any]) -> Any:
        given = self._given[name]
        return make() if given is None else given

    @cached_property
    def inception(self) -> InceptionNetwork:
        """TensorFlow's Inception of 2015-12-05 as torch-fidelity ports it, which FID and IS are defined on."""
        return self._given_or("inception", lambda: Inception(self._file(INCEPTION_URL, "TensorFlow's Inception"), self.device))

    @cached_property
    def lpips(self) -> Distance:
        """LPIPS on AlexNet, v0.1 (Zhang et al. 2018)."""
        from torchvision.models import AlexNet_Weights

        url = AlexNet_Weights.IMAGENET1K_V1.url
        return self._given_or("lpips", lambda: AlexLpips(self._file(url, "AlexNet"), self.device))

    def detector(self, name: str) -> Detector:
        """One of torchvision's COCO detectors as a score of "a person is there"."""
        if name not in self._detectors:
            self._detectors[name] = self._given_or("detector", lambda: PersonDetector(name, self._file, self.device))
        return self._detectors[name]

    @cached_property
    def estimator(self) -> Estimator:
        """torchvision's Keypoint R-CNN: 17 joints of COCO."""
        return self._given_or("estimator", lambda: KeypointRcnn(self._file, self.device, self._kept_size))

    def _file(self, url: str, what: str) -> Path:
        """The file of a download in torch's cache, fetched when it may be."""
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if file.is_file():
            return file
        how = f"{what}: put {url} into torch's cache of checkpoints (TORCH_HOME)"
        if not self.download:
            raise MissingWeights(f"{how}, or say download=true")
        file.parent.mkdir(parents=True, exist_ok=True)
        signed = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            torch.hub.download_url_to_file(url, str(file), signed and signed[1])
        except (OSError, RuntimeError, ValueError) as error:
            raise MissingWeights(f"{how}; it could not be downloaded ({' '.join(str(error).split())[:100]})") from None
        return file


class Inception:
    """TensorFlow's Inception: pool3 features (B, 2048) and logits without bias (B, 1008), as FID and IS take them."""

    name = "Inception v3 of 2015-12-05 (torch-fidelity)"

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        self.network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], str(weights)).to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: Tensor, resize: str) -> tuple[Tensor, Tensor]:
        images = images.to(self.device)
        if resize == "antialias":  # the network's own resizing then finds nothing to do
            side = self.network.INPUT_IMAGE_SIZE
            images = F.interpolate(images.float(), (side, side), mode="bicubic", antialias=True).round().clamp(0, 255).to(torch.uint8)
        features, logits = self.network(images)
        return features.float().cpu(), logits.float().cpu()


class AlexLpips:
    """LPIPS v0.1 on AlexNet with torchmetrics' linear layers: images in [-1, 1], at their own size."""

    name = "LPIPS v0.1, AlexNet (torchmetrics)"

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        assert weights.is_file()  # torchvision reads the same file of the same cache
        self.network = LearnedPerceptualImagePatchSimilarity(net_type="alex").net.to(device)
        self.device = device

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        a, b = (images.to(self.device).float() / 127.5 - 1 for images in (a, b))
        return self.network(a, b).flatten().cpu()


class PersonDetector:
    """A torchvision detector's highest confidence that a person is there (COCO's class 1)."""

    def __init__(self, name: str, file: Callable[[str, str], Path], device: torch.device) -> None:
        self.name, self.device = f"{name}, COCO (torchvision)", device
        self.network = _torchvision(name, file).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        found = self.network(list(images.to(self.device).float() / 255))
        scores = [one["scores"][one["labels"] == 1] for one in found]
        return torch.stack([s.max() if len(s) else s.new_zeros(()) for s in scores]).float().cpu()


class KeypointRcnn:
    """torchvision's Keypoint R-CNN: the joints of the person it is surest of, in COCO's order.

    A joint counts as seen where its heatmap's peak is above 0 (a logit: more likely there than not, the detector
    being told that a person is). Images are enlarged to `side_px` on their shorter side, not to its usual 800.
    """

    def __init__(self, file: Callable[[str, str], Path], device: torch.device, side_px: int = 256) -> None:
        self.name, self.device = f"keypointrcnn_resnet50_fpn at {side_px} px, COCO (torchvision)", device
        self.network = _torchvision("keypointrcnn_resnet50_fpn", file, min_size=side_px, max_size=4 * side_px).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Pose:
        found = self.network(list(images.to(self.device).float() / 255))
        xy = torch.zeros(len(images), len(coco_17.joints), 2)
        seen = torch.zeros(len(images), len(coco_17.joints), dtype=torch.bool)
        for i, one in enumerate(found):
            if len(one["scores"]):
                best = int(one["scores"].argmax())
                xy[i] = one["keypoints"][best, :, :2].cpu()
                seen[i] = (one["keypoints_scores"][best] > 0).cpu()
        height, width = images.shape[-2:]
        return Pose(xy * seen[..., None], seen, coco_17, (height, width))


def _urls() -> list[str]:
    """Every download there may be."""
    from torchvision.models import AlexNet_Weights, get_model_weights

    detection = ("ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "keypointrcnn_resnet50_fpn")
    found = [get_model_weights(name).DEFAULT.url for name in detection]  # type: ignore[attr-defined]
    return [INCEPTION_URL, AlexNet_Weights.IMAGENET1K_V1.url, *found]


def _torchvision(name: str, file: Callable[[str, str], Path], **options: Any) -> nn.Module:
    """A torchvision detection model with its default weights, which `file` finds."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    path = file(weights.url, name)
    network = get_model(name, weights=None, weights_backbone=None, **options)
    network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return network
