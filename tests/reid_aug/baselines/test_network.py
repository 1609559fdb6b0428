"""Networks of torchreid's: built, tried, filled with weights, kept in a file, and with a neck."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch.nn import functional as F

from reid_aug.baselines.initial import initial_weights
from reid_aug.baselines.network import baseline_network, build, check, features_of, fill_in, load_baseline, prepare, save_baseline
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline

SMALL = {"size": (64, 32), "steps": 2, "identities": 2, "instances": 2, "crop_px": 1}


def test_unknown_networks_are_named() -> None:
    with pytest.raises(ValueError, match="torchreid has no model 'osnet_x0_52'.*ours are small, lite0 .did you mean 'osnet_x0_5'"):
        build(BaselineConfig(model="osnet_x0_52"), 3)
    with pytest.raises(ValueError, match="did you mean 'small'"):
        build(BaselineConfig(model="smal"), 3)


def test_prepare_is_torchvisions_normalisation() -> None:
    images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    torch.testing.assert_close(prepare(images), (images / 255 - mean) / std)


class TestFlipTest:
    """Features of an image and its mirror image together."""

    def test_it_is_the_direction_between_both(self) -> None:
        network = build(BaselineConfig(), 3).eval()
        images = torch.randint(0, 256, (5, 3, 64, 32), dtype=torch.uint8)
        plain, mirrored = (F.normalize(features_of(network, part)) for part in (images, images.flip(-1)))
        both = features_of(network, images, flip_test=True, batch_size=2)
        torch.testing.assert_close(both, F.normalize(plain + mirrored))
        torch.testing.assert_close(features_of(network, images.flip(-1), flip_test=True), both)
        assert not torch.allclose(plain, mirrored, atol=1e-3), "or nothing was tested"

    def test_a_baselines_users_get_what_it_says(self) -> None:
        network, images = build(BaselineConfig(), 3).eval(), torch.randint(0, 256, (2, 3, 128, 64), dtype=torch.uint8)
        for flip_test in (False, True):
            reid = baseline_network(lambda: network, BaselineConfig(flip_test=flip_test), "plain")
            torch.testing.assert_close(reid.features(images), features_of(network, images, flip_test=flip_test))


class TestEarlyCheck:
    """What training would meet in its first step, met without training."""

    @pytest.mark.parametrize("model", ["resnet18", "osnet_ain_x0_25", "mobilenetv2_x1_0", "squeezenet1_0"])
    def test_what_trains_passes(self, model: str) -> None:
        config = BaselineConfig(model=model, **SMALL)  # type: ignore[arg-type]
        data = TrainingSet(torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8), torch.arange(8) % 4)
        train_baseline(config, data, 0)
        check(config, "plain")

    @pytest.mark.parametrize(
        "given", [{"model": "pcb_p4"}, {"model": "mudeep"}, {"model": "inceptionv4"}, {"size": (1, 1), "crop_px": 0}], ids=str
    )
    def test_what_does_not_train_is_refused(self, given: dict[str, Any]) -> None:
        config = BaselineConfig(**{**SMALL, **given})
        data = TrainingSet(torch.randint(0, 256, (8, 3, *config.size), dtype=torch.uint8), torch.arange(8) % 4)
        with pytest.raises((RuntimeError, AttributeError, ValueError)):
            train_baseline(config, data, 0)
        with pytest.raises(ValueError, match=rf"baseline 'plain': {config.model} at {config.size[0]} × {config.size[1]} can't be trained"):
            check(config, "plain")

    def test_a_neck_needs_more_than_one_image(self) -> None:
        alone = {"neck": True, "model": "resnet18", "identities": 1, "instances": 1}
        with pytest.raises(ValueError, match="batches of 1: Expected more than 1 value per channel"):
            check(BaselineConfig(**{**SMALL, **alone}), "plain")  # type: ignore[arg-type]

    def test_weights_of_another_network(self, tmp_path: Path) -> None:
        for model in ("osnet_x0_25", "resnet18"):
            safetensors.torch.save_file(build(BaselineConfig(model=model), 7).state_dict(), tmp_path / f"{model}.safetensors")
        check(BaselineConfig(weights=str(tmp_path / "osnet_x0_25.safetensors"), **SMALL), "plain")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="weights .*resnet18.safetensors' are another network's"):
            check(BaselineConfig(weights=str(tmp_path / "resnet18.safetensors"), **SMALL), "plain")  # type: ignore[arg-type]


class TestStrongNetwork:
    config = BaselineConfig(model="resnet18", last_stride=1, neck=True, size=(64, 32))

    def test_last_stride_doubles_the_last_map(self) -> None:
        for stride, size in ((2, (2, 1)), (1, (4, 2))):
            model = build(BaselineConfig(model="resnet50", last_stride=stride), 3)  # type: ignore[arg-type]
            assert tuple(model.featuremaps(torch.zeros(1, 3, 64, 32)).shape[2:]) == size  # type: ignore[operator]

    def test_features_are_those_behind_the_neck_and_triplets_see_those_before(self) -> None:
        torch.manual_seed(0)
        model = build(self.config, 5)
        neck, head = model.classifier  # type: ignore[misc]
        neck.running_mean.normal_()
        neck.running_var.uniform_(0.5, 2)
        images = torch.randn(4, 3, 64, 32)
        plain = build(self.config.model_copy(update={"neck": False}), 5)
        fill_in(plain, model.state_dict())
        before = plain.eval()(images)
        expected = (before - neck.running_mean) / (neck.running_var + neck.eps).sqrt() * neck.weight
        torch.testing.assert_close(model.eval()(images), expected)
        logits, hard = model.train()(images)
        behind = F.batch_norm(hard, None, None, neck.weight, None, True)
        torch.testing.assert_close(logits, F.linear(behind, head.weight), atol=1e-4, rtol=1e-4)
        assert head.bias is None and not neck.bias.requires_grad

    def test_it_is_saved_and_loaded_whole(self, tmp_path: Path) -> None:
        model = build(self.config, 5).eval()
        images = torch.randint(0, 256, (3, 3, 64, 32), dtype=torch.uint8)
        save_baseline(model, self.config.model_copy(update={"recipe": "gone.yaml"}), 5, tmp_path / "b.safetensors")
        back, _ = load_baseline(tmp_path / "b.safetensors")
        torch.testing.assert_close(features_of(back, images), features_of(model, images))


class TestWeights:
    def test_missing_imagenet_weights_are_an_error_or_said(self, cache: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no ImageNet weights of resnet50: .*put https://.*resnet50.*pth into"):
            initial_weights(BaselineConfig(model="resnet50", weights="imagenet"))
        state, name = initial_weights(BaselineConfig(model="osnet_x1_0", weights="imagenet-or-scratch"))
        assert state is None and "scratch, as ImageNet weights are missing" in name and "osnet_x1_0_imagenet.pth" in name
        with pytest.raises(FileNotFoundError, match="baseline weights are .* got 'imagnet'.*did you mean 'imagenet'"):
            initial_weights(BaselineConfig(weights="imagnet"))

    def test_torchvisions_weights_are_those_of_torchreids_network(self, cache: Path) -> None:
        from torchvision.models import ResNet18_Weights, resnet18

        torchvisions = resnet18(weights=None).eval()
        torch.save(torchvisions.state_dict(), cache / ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1])
        config = BaselineConfig(model="resnet18", weights="imagenet")
        state, name = initial_weights(config)
        assert state is not None and name == "ImageNet (resnet18-f37072fd.pth)"
        model = build(config, 5).eval()
        fill_in(model, state)
        torchvisions.fc = torch.nn.Identity()  # type: ignore[assignment]
        images = torch.randn(2, 3, 64, 32)
        torch.testing.assert_close(model(images), torchvisions(images))

    def test_torchreids_own_file(self, cache: Path) -> None:
        state = build(BaselineConfig(model="osnet_x0_25"), 1000).state_dict()
        torch.save({f"module.{k}": v for k, v in state.items()}, cache / "osnet_x0_25_imagenet.pth")
        weights, name = initial_weights(BaselineConfig(weights="imagenet-or-scratch"))
        assert weights is not None and torch.equal(weights["conv1.conv.weight"], state["conv1.conv.weight"]) and name.startswith("ImageNet")

    def test_a_file_of_another_network_is_refused(self, tmp_path: Path) -> None:
        safetensors.torch.save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
        state, name = initial_weights(BaselineConfig(weights=str(tmp_path / "x.safetensors")))
        assert name == "x.safetensors" and state is not None
        with pytest.raises(ValueError, match="are another network's: 0 of"):
            fill_in(build(BaselineConfig(), 3), state, "x.safetensors")
        (tmp_path / "bad.pth").write_text("no weights")
        with pytest.raises(ValueError, match="bad.pth is no file of weights"):
            initial_weights(BaselineConfig(weights=str(tmp_path / "bad.pth")))

    def test_only_the_classifier_learns_at_first(self, cache: Path) -> None:
        config = BaselineConfig(**{**SMALL, "steps": 4}, frozen=1.0, weights="imagenet-or-scratch", learning_rate=0.1)  # type: ignore[arg-type]
        torch.manual_seed(3)
        start = build(config, 9).state_dict()
        data = TrainingSet(torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8), torch.arange(8) % 4)
        after = train_baseline(config, data, 0, start=start).state_dict()
        assert all(torch.equal(after[k], v) for k, v in start.items() if not k.startswith("classifier"))
        half = train_baseline(config.model_copy(update={"frozen": 0.5}), data, 0, start=start).state_dict()
        assert not torch.equal(half["conv1.conv.weight"], start["conv1.conv.weight"])


def test_a_network_comes_back_as_it_was(tmp_path: Path) -> None:
    config = BaselineConfig(model="osnet_x0_25", size=(32, 16))
    model = build(config, 5).eval()
    save_baseline(model, config, 5, tmp_path / "osnet.safetensors", seconds=1.5)
    back, header = load_baseline(tmp_path / "osnet.safetensors")
    images = torch.rand(2, 3, 32, 16)
    assert torch.equal(model(images), back(images)) and not back.training
    assert header["model"] == "osnet_x0_25" and header["about"] == {"seconds": 1.5}
