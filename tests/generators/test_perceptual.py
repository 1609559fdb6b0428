"""Networks that images are compared on: their layers, their files, and what is said when a file is missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from urllib.error import URLError

import pytest
import safetensors.torch
import torch
from torchvision.models import VGG19_Weights, vgg19

from generators.perceptual import VGG19, Features, compare, load_perceptual

NarrowVGG = Callable[..., dict[str, torch.Tensor]]


def test_layers_are_torchvisions_after_their_relu() -> None:
    torch.manual_seed(0)
    reference = vgg19(weights=None).eval()
    layers = ("conv1_2", "conv2_1", "conv3_4", "conv5_4")
    ours = VGG19(reference.state_dict(), Features(layers))
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x, expected = ((images + 1) / 2 - mean) / std, {}
    for index, module in enumerate(reference.features):
        x = module(x.clone())
        # torchvision's numbering: a convolution, its ReLU, …, a pooling
        name = {3: "conv1_2", 6: "conv2_1", 17: "conv3_4", 35: "conv5_4"}.get(index)
        if name:
            expected[name] = x.clone()
    for name, features in zip(layers, ours(images), strict=True):
        assert torch.allclose(features, expected[name], atol=1e-5), name
    assert not any(p.requires_grad for p in ours.parameters())
    assert len(VGG19(reference.state_dict(), Features(("conv1_2",))).convolutions) == 2, "no deeper than asked for"


def test_average_pooling_is_the_mean_of_four(narrow_vgg: NarrowVGG) -> None:
    state = narrow_vgg()
    images = torch.rand(1, 3, 8, 8) * 2 - 1
    for pooling, pool in (("max", torch.nn.functional.max_pool2d), ("avg", torch.nn.functional.avg_pool2d)):
        network = VGG19(state, Features(("conv1_2", "conv2_1"), pooling))  # type: ignore[arg-type]
        first, second = network(images)
        assert torch.allclose(second, network.convolutions[2](pool(first, 2)).relu())


def test_layers_come_in_the_order_asked_for_and_unknown_ones_are_refused(narrow_vgg: NarrowVGG) -> None:
    first, two = VGG19(narrow_vgg(), Features(("conv2_2", "conv1_1")))(torch.zeros(1, 3, 8, 8))
    assert first.shape == (1, 4, 4, 4) and two.shape == (1, 2, 8, 8)
    with pytest.raises(ValueError, match="conv6_1"):
        Features(("conv6_1",))
    with pytest.raises(ValueError, match="layers of VGG-19"):
        Features(())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_weights_from_a_file(suffix: str, tmp_path: Path, narrow_vgg: NarrowVGG) -> None:
    state, file = narrow_vgg(), tmp_path / f"vgg{suffix}"
    torch.save(state, file) if suffix == ".pth" else safetensors.torch.save_file(state, file)
    network = load_perceptual(str(file), Features(("conv3_1",)))
    assert network is not None and network.name == f"vgg19:vgg{suffix}"
    images = torch.rand(1, 3, 16, 8)
    assert torch.equal(network(images)[0], VGG19(state, Features(("conv3_1",)))(images)[0])


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("not weights")
    torch.save({"features.0.weight": torch.zeros(2, 3, 3, 3)}, tmp_path / "half.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (("text.pth", "no file of weights"), ("half.pth", "features.0.bias"), ("list.pth", "no table of tensors")):
        with pytest.raises(ValueError, match=message) as error:
            load_perceptual(str(tmp_path / name), Features(("conv1_1",)))
        assert name in str(error.value)
    with pytest.raises(FileNotFoundError, match="perceptual.weights=PATH"):
        load_perceptual(str(tmp_path / "absent.pth"), Features(("conv1_1",)))
    with pytest.raises(ValueError, match="reid_aug"):
        load_perceptual("reid:x", Features(("conv1_1",)))
    assert load_perceptual("none", Features(("conv1_1",))) is None


def test_imagenet_weights_come_from_torchvisions_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, narrow_vgg: NarrowVGG) -> None:
    monkeypatch.setattr(VGG19_Weights, "get_state_dict", lambda self, **_: narrow_vgg())
    network = load_perceptual("imagenet", Features(("conv1_2",)))
    assert network is not None and network.name == "vgg19:imagenet"


def test_missing_imagenet_weights_name_the_file_the_folder_and_the_option(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(FileNotFoundError) as error:
        load_perceptual("imagenet", Features(("conv1_2",)))
    for part in ("vgg19-dcbb9e9d.pth", str(tmp_path / "hub" / "checkpoints"), "perceptual.weights=", "none"):
        assert part in str(error.value)


def test_comparing_is_the_sum_of_mean_differences() -> None:
    features, others = (torch.zeros(1, 2, 2, 2), torch.zeros(1, 1, 1, 1)), (torch.full((1, 2, 2, 2), -3.0), torch.full((1, 1, 1, 1), 0.5))
    assert compare(features, others).item() == 3.5
