"""Networks that metrics use: the real loading code on files made here, and a plain word where weights are missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision
from torch import Tensor

from generators.pose import coco_17
from reid_aug.bench import networks as module
from reid_aug.bench.networks import INCEPTION_URL, MissingWeights, Networks


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


def save_detection(name: str, cache: Path) -> None:
    torch.manual_seed(0)
    url = torchvision.models.get_model_weights(name).DEFAULT.url  # type: ignore[attr-defined]
    network = torchvision.models.get_model(name, weights=None, weights_backbone=None)
    torch.save(network.state_dict(), cache / url.rsplit("/", 1)[-1])


@pytest.mark.parametrize("name", ["inception", "lpips", "estimator"])
@pytest.mark.parametrize("download", [True, False])
def test_missing_weights_say_how_to_get_them(name: str, download: bool, cache: Path) -> None:
    with pytest.raises(MissingWeights) as caught:
        getattr(Networks(download=download, device="cpu"), name)
    said = str(caught.value)
    assert "https://" in said and "TORCH_HOME" in said and str(cache) not in said
    assert ("no network here" in said) if download else ("download=true" in said)
    assert not any(cache.iterdir())


def test_a_detector_that_is_missing(cache: Path) -> None:
    with pytest.raises(MissingWeights, match="ssd300_vgg16_coco"):
        Networks(download=False, device="cpu").detector("ssd300_vgg16")


def test_a_download_goes_to_the_cache_and_is_checked(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda url, to, prefix: asked.append((url, to, prefix)) or Path(to).touch())
    networks = Networks(device="cpu")
    assert networks._file(INCEPTION_URL, "it") == cache / "weights-inception-2015-12-05-6726825d.pth"
    assert asked == [(INCEPTION_URL, str(cache / "weights-inception-2015-12-05-6726825d.pth"), "6726825d")]
    assert networks._file(INCEPTION_URL, "it").exists() and len(asked) == 1
    assert networks.there() == ["weights-inception-2015-12-05-6726825d.pth"]


def test_networks_given_take_the_standard_ones_place(cache: Path) -> None:
    given = Networks(download=False, device="cpu", inception=lambda a, b: (a, a), detector=lambda a: a, lpips=lambda a, b: a)
    assert given.there() == ["inception", "lpips", "detector"]
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
    for mine, theirs in zip((features, logits), fresh(images), strict=True):
        assert torch.allclose(mine, theirs, atol=1e-5)
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
    found = network(a, b)
    assert found.shape == (3,) and bool((found > 0).all()) and network(a, a).tolist() == [0.0] * 3
    theirs = learned_perceptual_image_patch_similarity(a / 127.5 - 1, b / 127.5 - 1, net_type="alex", reduction="none")
    assert torch.allclose(found, theirs.flatten(), atol=1e-6)


def test_detection_score_is_the_surest_persons(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "ssdlite320_mobilenet_v3_large"
    save_detection(name, cache)
    detector = Networks(download=False, device="cpu").detector(name)
    scores = detector(pictures())
    assert scores.shape == (3,) and bool(((scores >= 0) & (scores <= 1)).all())

    def found(images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert all(image.max() <= 1 for image in images)
        answers = [([1, 3, 1], [0.2, 0.9, 0.6]), ([3], [0.9]), ([], [])]
        return [{"labels": torch.tensor(k, dtype=torch.long), "scores": torch.tensor(s)} for k, s in answers]

    monkeypatch.setattr(detector, "network", found)
    assert detector(pictures()).tolist() == pytest.approx([0.6, 0.0, 0.0])


def test_a_pose_is_that_of_the_surest_person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_torchvision", lambda *a, **k: torch.nn.Identity())
    estimator = module.KeypointRcnn(lambda url, what: Path(), torch.device("cpu"))
    keypoints = torch.rand(2, 17, 3) * 30
    scores = torch.ones(2, 17)
    scores[1, 4] = -0.5

    def found(images: list[Tensor]) -> list[dict[str, Tensor]]:
        empty = {"scores": torch.zeros(0), "keypoints": torch.zeros(0, 17, 3), "keypoints_scores": torch.zeros(0, 17)}
        return [{"scores": torch.tensor([0.3, 0.8]), "keypoints": keypoints, "keypoints_scores": scores}, empty]

    monkeypatch.setattr(estimator, "network", found)
    pose = estimator(pictures(2))
    assert pose.skeleton is coco_17 and pose.size == (64, 32)
    assert pose.visible[0].sum() == 16 and not pose.visible[0, 4] and not pose.visible[1].any()
    assert torch.allclose(pose.xy[0, 0], keypoints[1, 0, :2])


@pytest.mark.slow
def test_keypoint_rcnn_and_ssd300_load(cache: Path) -> None:
    for name in ("keypointrcnn_resnet50_fpn", "ssd300_vgg16"):
        save_detection(name, cache)
    networks = Networks(download=False, device="cpu", kept_size=128)
    assert networks.estimator(pictures(2)).xy.shape == (2, 17, 2)
    assert networks.detector("ssd300_vgg16")(pictures(2)).shape == (2,)
