"""Networks that image quality is measured with: downloaded once, found in torch's cache, or said to be missing."""

from __future__ import annotations

import pickle
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.pose import Pose, coco_17
from reid_aug.config import torch_device

# images uint8 (B, 3, H, W) → pool3 features (B, D) and logits (B, C); the second argument resizes as in `RESIZES`
InceptionNetwork = Callable[[Tensor, str], tuple[Tensor, Tensor]]
Distance = Callable[[Tensor, Tensor], Tensor]  # two such batches → distances (B,)
Detector = Callable[[Tensor], Tensor]  # images → the highest confidence of a person (B,), 0 where there is none
Estimator = Callable[[Tensor], Pose]  # images → a pose (B, K) in their pixels, all joints invisible where nobody is found

INCEPTION_URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
RESIZES = ("tensorflow", "antialias")
TIMEOUT_S = 30.0  # of a connection that says nothing
# What reading a damaged file, or one of something else, has been seen to raise.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError)


class MissingWeights(FileNotFoundError):
    """A network's weights are not there, or no weights; the message says what and how to get them."""


class NotMeasurable(ValueError):
    """A metric has no meaning here: the message says what is missing."""


class Networks:
    """The networks of metrics, each made when first asked for; MissingWeights where its weights can't be had.

    `download` fetches what is not in torch's cache (torch.hub's folder of checkpoints), and tries once. A network given by
    name (`inception`, `lpips`, `detector`, `estimator`) takes the standard one's place. ValueError for a `device` that is
    not here ("auto": a GPU when there is one).
    """

    def __init__(
        self, *, download: bool = True, device: str = "auto", inception: InceptionNetwork | None = None, lpips: Distance | None = None,
        detector: Detector | None = None, estimator: Estimator | None = None, kept_size: int = 256,
    ) -> None:  # fmt: skip
        self.download = download
        self.device = torch_device(device)
        self._given = {"inception": inception, "lpips": lpips, "detector": detector, "estimator": estimator}
        self._known: dict[str, Any] = {}  # networks, or the MissingWeights that asking for one came to
        self._kept_size = kept_size

    def there(self) -> list[str]:
        """Files of torch's cache that networks would be made from, and the names of networks given."""
        cache = Path(torch.hub.get_dir()) / "checkpoints"
        known = [url.rsplit("/", 1)[-1] for url in _urls()]
        return [name for name in known if (cache / name).is_file()] + [name for name, one in self._given.items() if one is not None]

    def _given_or(self, name: str, make: Callable[[], Any], key: str = "") -> Any:
        """The network given, or what `make` made when it was first asked for."""
        if self._given[name] is not None:
            return self._given[name]
        if (key or name) not in self._known:
            try:
                self._known[key or name] = make()
            except MissingWeights as error:  # every metric asks anew: what was tried in vain is not tried again
                self._known[key or name] = error
        found = self._known[key or name]
        if isinstance(found, MissingWeights):
            raise MissingWeights(str(found))
        return found

    @property
    def inception(self) -> InceptionNetwork:
        """TensorFlow's Inception of 2015-12-05 as torch-fidelity ports it, which FID and IS are defined on."""
        return self._given_or("inception", lambda: Inception(self._file(INCEPTION_URL, "TensorFlow's Inception"), self.device))

    @property
    def lpips(self) -> Distance:
        """LPIPS on AlexNet, v0.1 (Zhang et al. 2018)."""
        from torchvision.models import AlexNet_Weights

        url = AlexNet_Weights.IMAGENET1K_V1.url
        return self._given_or("lpips", lambda: AlexLpips(self._file(url, "AlexNet"), self.device))

    def detector(self, name: str) -> Detector:
        """One of torchvision's COCO detectors as a score of "a person is there"."""
        return self._given_or("detector", lambda: PersonDetector(name, self._file, self.device), key=f"detector {name}")

    @property
    def estimator(self) -> Estimator:
        """torchvision's Keypoint R-CNN: 17 joints of COCO."""
        return self._given_or("estimator", lambda: KeypointRcnn(self._file, self.device, self._kept_size))

    def _file(self, url: str, what: str) -> Path:
        """The file of a download in torch's cache, fetched when it may be."""
        file = Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]
        if file.is_file():
            return file
        how = f"{what}: {_put(url)}"
        if not self.download:
            raise MissingWeights(f"{how}, or say download=true")
        signed = re.search(r"-([0-9a-f]{8,})\.", file.name)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            with _patience():
                torch.hub.download_url_to_file(url, str(file), signed and signed[1])
        except (OSError, HTTPException, RuntimeError, ValueError) as error:
            raise MissingWeights(f"{how}; it could not be downloaded ({_short(error)})") from None
        return file


def _put(url: str) -> str:
    return f"put {url} into torch's cache of checkpoints (TORCH_HOME)"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


@contextmanager
def _patience() -> Iterator[None]:
    """A limit on how long a silent connection is waited for: torch sets none, and the program's own stays."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


@contextmanager
def _whole(file: Path, url: str) -> Iterator[dict[str, Tensor]]:
    """The tensors of a file of weights, to be loaded inside; MissingWeights where it holds none, or another network's."""
    try:
        # Read without running what a pickle says: the file may have been put there by hand.
        kept = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(kept, dict):
            raise TypeError(f"a {type(kept).__name__}, no table of tensors")
        yield kept
    except _UNREADABLE as error:
        # What torch says of such a file is advice on how to run the code in it.
        why = "no tensors in it" if isinstance(error, pickle.UnpicklingError) else _short(error)
        raise MissingWeights(f"{file} is damaged, or another network's ({why}): remove it and {_put(url)}") from None


class Inception:
    """TensorFlow's Inception: pool3 features (B, 2048) and logits without bias (B, 1008), as FID and IS take them."""

    name = "Inception v3 of 2015-12-05 (torch-fidelity)"

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        with _whole(weights, INCEPTION_URL):
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
    least_px = 31  # what AlexNet's strides and poolings leave one pixel of

    def __init__(self, weights: Path, device: torch.device) -> None:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import AlexNet_Weights

        with _whole(weights, AlexNet_Weights.IMAGENET1K_V1.url):  # torchvision reads the same file of the same cache
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
    """A torchvision detection model with its default weights, which `file` finds: as `weights="DEFAULT"` would make it."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    path = file(weights.url, name)
    if name == "keypointrcnn_resnet50_fpn":
        network = _keypoint_rcnn(**options)
    else:  # the SSDs are the same networks with weights and without
        network = get_model(name, weights=None, weights_backbone=None, **options)
    with _whole(path, weights.url) as kept:
        network.load_state_dict(kept)
    return network


def _keypoint_rcnn(**options: Any) -> nn.Module:
    """Keypoint R-CNN as its weights of COCO were trained: torchvision builds it otherwise when asked for none."""
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    network = KeypointRCNN(backbone, num_classes=2, num_keypoints=len(coco_17.joints), **options)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # the frozen layers had none when it was trained
    return network
