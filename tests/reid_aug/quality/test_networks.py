"""Networks that metrics use: the real loading code on files made here, and a plain word where weights are missing."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from generators.pose import coco_17
from reid_aug.data.estimators import keypoint_rcnn as estimators
from reid_aug.quality.networks import INCEPTION_URL, Networks, NotMeasurable
from reid_aug.weights import MissingWeights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of torch's, and no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def offline(*arguments: Any, **options: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    return folder


def pictures(count: int = 3, size: tuple[int, int] = (64, 32)) -> Tensor:
    return torch.randint(256, (count, 3, *size), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def file_of(name: str) -> str:
    """What the download of a network of torchvision's is called."""
    return torchvision.models.get_model_weights(name).DEFAULT.url.rsplit("/", 1)[-1]  # type: ignore[attr-defined]


def save_detection(name: str, cache: Path) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    torch.save(network.state_dict(), cache / file_of(name))


@pytest.mark.parametrize("name", ["inception", "lpips", "estimator"])
@pytest.mark.parametrize("download", [True, False])
def test_missing_weights_say_how_to_get_them(name: str, download: bool, cache: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        getattr(Networks(download=download, device="cpu"), name)
    message = str(caught.value)
    assert "https://" in message and "TORCH_HOME" in message and str(cache) not in message
    assert ("no network here" in message) if download else ("download=true" in message)
    assert not any(cache.iterdir())


def test_a_detector_that_is_missing(cache: Path) -> None:
    with pytest.raises(MissingWeights, match="ssd300_vgg16_coco"):
        Networks(download=False, device="cpu").detector("ssd300_vgg16")


def test_a_download_goes_to_the_cache_and_is_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, to, prefix: settings.append((url, to, prefix)) or Path(to).touch())
    networks = Networks(device="cpu")
    assert networks._file(INCEPTION_URL, "it") == cache / "weights-inception-2015-12-05-6726825d.pth"
    assert settings == [(INCEPTION_URL, str(cache / "weights-inception-2015-12-05-6726825d.pth"), "6726825d")]
    assert networks._file(INCEPTION_URL, "it").exists() and len(settings) == 1
    assert networks.available() == ["weights-inception-2015-12-05-6726825d.pth"]


@pytest.mark.parametrize("name", ["inception", "lpips", "estimator", "detector"])
def test_a_download_in_vain_is_tried_once(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def offline(*arguments: Any, **options: Any) -> None:
        tries.append(socket.getdefaulttimeout())
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr("reid_aug.weights.TIMEOUT_S", 7.0)
    before, networks, messages = socket.getdefaulttimeout(), Networks(device="cpu"), set()
    for _ in range(3):
        with pytest.raises(MissingWeights) as caught:
            networks.detector("ssd300_vgg16") if name == "detector" else getattr(networks, name)
        messages.add(str(caught.value))
    assert tries == [7.0] and len(messages) == 1  # a silent connection is not waited for without end
    assert socket.getdefaulttimeout() == before
    if name == "detector":  # another detector is another download
        with pytest.raises(MissingWeights, match="ssdlite320"):
            networks.detector("ssdlite320_mobilenet_v3_large")
        assert len(tries) == 2


def test_a_cache_that_cant_be_written_is_missing_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "checkpoints").write_text("a file where the folder would be")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(MissingWeights, match="could not be downloaded"):
        Networks(device="cpu").inception  # noqa: B018


@pytest.mark.parametrize("device", ["foo", "cuda:x", "meta", "cuda:99", ""])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(ValueError, match=f"no device {device!r} here; there are auto, cpu"):
        Networks(device=device)


def test_cuda_without_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="no device 'cuda' here; there are auto, cpu"):
        Networks(device="cuda")
    assert Networks(device="auto").device == torch.device("cpu")


def _truncated(path: Path) -> None:
    torch.save({"weight": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:-700])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a page of HTML": lambda path: path.write_text("<html>404</html>"),
    "nothing": lambda path: path.write_bytes(b""),
    "half of it": _truncated,
    "another network's": lambda path: torch.save({"weight": torch.zeros(3)}, path),
    "a row": lambda path: torch.save([torch.zeros(3)], path),
    "numbers": lambda path: torch.save({"weight": 3}, path),
    "a whole pickled network": lambda path: torch.save(torch.nn.Linear(2, 2), path),
}


@pytest.mark.parametrize("what", DAMAGE)
@pytest.mark.parametrize("name", ["inception", "lpips", "detector"])
def test_damaged_weights_say_so(name: str, what: str, cache: Path) -> None:
    files = {
        "inception": INCEPTION_URL.rsplit("/", 1)[-1], "lpips": torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1],
        "detector": file_of("ssdlite320_mobilenet_v3_large"),
    }  # fmt: skip
    DAMAGE[what](cache / files[name])
    networks = Networks(download=False, device="cpu")
    with pytest.raises(MissingWeights) as caught:
        networks.detector("ssdlite320_mobilenet_v3_large") if name == "detector" else getattr(networks, name)
    message = str(caught.value)
    assert f"{cache / files[name]} is damaged, or another network's (" in message and "https://" in message and "TORCH_HOME" in message
    assert "\n" not in message and len(message) < 500 and "weights_only" not in message


class _Runs:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("name", ["inception", "lpips"])
def test_a_file_of_weights_runs_no_code(name: str, cache: Path) -> None:
    url = INCEPTION_URL if name == "inception" else torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    torch.save({"weight": _Runs(cache / "made")}, cache / url.rsplit("/", 1)[-1])
    with pytest.raises(MissingWeights, match="no tensors in it"):
        getattr(Networks(download=False, device="cpu"), name)
    assert not (cache / "made").exists()


def test_networks_given_take_the_standard_ones_place(cache: Path) -> None:
    given = Networks(download=False, device="cpu", inception=lambda a, b: (a, a), detector=lambda a: a, lpips=lambda a, b: a)
    assert given.available() == ["inception", "lpips", "detector"]
    assert given.detector("ssd300_vgg16")(pictures()).shape == pictures().shape
    with pytest.raises(MissingWeights):
        given.estimator  # noqa: B018


def test_inception_is_torch_fidelitys(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Fresh(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, *arguments: Any, **options: Any) -> None:  # type: ignore[override]
            """Keep the weights it was made with."""

    torch.manual_seed(0)
    monkeypatch.setattr(fidelity, "load_state_dict_from_url", lambda *a, **k: {})
    fresh = Fresh("fresh", ["2048", "logits_unbiased"]).eval()
    torch.save(fresh.state_dict(), cache / INCEPTION_URL.rsplit("/", 1)[-1])
    network, images = Networks(download=False, device="cpu").inception, pictures()
    features, logits = network(images, "tensorflow")
    assert features.shape == (3, 2048) and logits.shape == (3, 1008)
    for values, expected in zip((features, logits), fresh(images), strict=True):
        assert torch.allclose(values, expected, atol=1e-5)
    other, _ = network(images, "antialias")
    assert other.shape == features.shape and not torch.allclose(other, features)
    assert torch.allclose(network(images[:1], "tensorflow")[0], features[:1], atol=1e-4)


def test_lpips_is_torchmetrics_on_the_cached_alexnet(cache: Path) -> None:
    from torchmetrics.functional.image.lpips import learned_perceptual_image_patch_similarity

    torch.manual_seed(0)
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), cache / url.rsplit("/", 1)[-1])
    network, a = Networks(download=False, device="cpu").lpips, pictures()
    b = 255 - a
    distances = network(a, b)
    assert distances.shape == (3,) and bool((distances > 0).all()) and network(a, a).tolist() == [0.0] * 3
    expected = learned_perceptual_image_patch_similarity(a / 127.5 - 1, b / 127.5 - 1, net_type="alex", reduction="none")
    assert torch.allclose(distances, expected.flatten(), atol=1e-6)


def test_lpips_of_images_too_small_for_alexnet(cache: Path) -> None:
    url = torchvision.models.AlexNet_Weights.IMAGENET1K_V1.url
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), cache / url.rsplit("/", 1)[-1])
    network = Networks(download=False, device="cpu").lpips
    for size in ((48, 24), (32, 16), (30, 31), (31, 30)):
        with pytest.raises(NotMeasurable, match=f"31 × 31 at least, these are {size[0]} × {size[1]}"):
            network(pictures(2, size), pictures(2, size))
    assert network(pictures(2, (31, 31)), 255 - pictures(2, (31, 31))).shape == (2,)


def test_detection_score_is_the_surest_persons(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    save_detection(name, cache)
    detector = Networks(download=False, device="cpu").detector(name)
    scores = detector(pictures())
    assert scores.shape == (3,) and bool(((scores >= 0) & (scores <= 1)).all())

    def detections(images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert all(image.max() <= 1 for image in images)
        answers = [([1, 3, 1], [0.2, 0.9, 0.6]), ([3], [0.9]), ([], [])]
        return [{"labels": torch.tensor(k, dtype=torch.long), "scores": torch.tensor(s)} for k, s in answers]

    monkeypatch.setattr(detector, "network", detections)
    assert detector(pictures()).tolist() == pytest.approx([0.6, 0.0, 0.0])


def test_a_pose_is_that_of_the_surest_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimators, "torchvision_detector", lambda *a, **k: torch.nn.Identity())
    estimator = estimators.KeypointRcnn(lambda url, what: Path(), torch.device("cpu"))
    keypoints = torch.rand(2, 17, 3) * 30
    scores = torch.ones(2, 17)
    scores[1, 4] = -0.5

    def detections(images: list[Tensor]) -> list[dict[str, Tensor]]:
        empty = {"scores": torch.zeros(0), "keypoints": torch.zeros(0, 17, 3), "keypoints_scores": torch.zeros(0, 17)}
        return [{"scores": torch.tensor([0.3, 0.8]), "keypoints": keypoints, "keypoints_scores": scores}, empty]

    monkeypatch.setattr(estimator, "network", detections)
    pose = estimator(pictures(2))
    assert pose.skeleton is coco_17 and pose.size == (64, 32)
    assert pose.visible[0].sum() == 16 and not pose.visible[0, 4] and not pose.visible[1].any()
    assert torch.allclose(pose.xy[0, 0], keypoints[1, 0, :2])


NETWORKS = {"keypointrcnn_resnet50_fpn": {"min_size": 64}, "ssdlite320_mobilenet_v3_large": {}, "ssd300_vgg16": {}}


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name == "ssd300_vgg16")) for name in NETWORKS])
def test_detectors_are_built_as_torchvision_builds_them_with_weights(name: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = torchvision.models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]

    def kept(self: Any, *arguments: Any, **options: Any) -> dict[str, Tensor]:
        """Weights whose first normalisation has small variances, where eps shows."""
        shapes = torchvision.models.get_model(name, weights=None, weights_backbone=None).state_dict()
        assert self == weights
        state = {key: value for key, value in shapes.items() if not key.endswith("num_batches_tracked") or "ssd" in name}
        for key in [key for key in state if key.endswith("running_var")][:1]:
            state[key] = torch.full_like(state[key], 1e-5)
        torch.save(state, cache / file_of(name))
        return state

    torch.manual_seed(0)
    monkeypatch.setattr(type(weights), "get_state_dict", kept)
    expected = torchvision.models.get_model(name, weights=weights, weights_backbone=None, progress=False, **NETWORKS[name]).eval()
    network = estimators.torchvision_detector(name, lambda url, what: cache / file_of(name), **NETWORKS[name]).eval()
    for (path, a), (other, b) in zip(network.named_modules(), expected.named_modules(), strict=True):
        assert path == other and type(a) is type(b) and getattr(a, "eps", None) == getattr(b, "eps", None), path
    for (path, a), (other, b) in zip(network.state_dict().items(), expected.state_dict().items(), strict=True):
        assert path == other and torch.equal(a, b), path
    with torch.inference_mode():
        image = pictures(1, (300, 300) if "ssd" in name else (64, 64)).float() / 255
        a, b = (model.get_submodule("backbone")(image) for model in (network, expected))
    for key, value in b.items():
        assert bool(value.isfinite().all()) and torch.equal(a[key], value), key


@pytest.mark.slow
def test_keypoint_rcnn_and_ssd300_load(cache: Path) -> None:
    for name in ("keypointrcnn_resnet50_fpn", "ssd300_vgg16"):
        save_detection(name, cache)
    networks = Networks(download=False, device="cpu", kept_size=128)
    assert networks.estimator(pictures(2)).xy.shape == (2, 17, 2)
    assert networks.detector("ssd300_vgg16")(pictures(2)).shape == (2,)
