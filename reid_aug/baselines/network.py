"""A Re-ID network: torchreid's or one of ours, its file, and the features it gives of images."""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchreid import models as torchreid_models

from generators import nearest, read_header, tensors_digest, write_tensors
from reid_aug.baselines.initial import NAMED_WEIGHTS, initial_weights
from reid_aug.baselines.lite0 import Lite0ReID
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.small import SmallResNet
from reid_aug.device import torch_device

FORMAT = "reid-aug baseline 1"
# ImageNet's mean and deviation, by which torchreid normalises images.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OURS: dict[str, Callable[[BaselineConfig, int], nn.Module]] = {  # networks that torchreid does not have
    "small": lambda config, classes: SmallResNet(classes, config.widths, config.last_stride),
    "lite0": lambda config, classes: Lite0ReID(classes, config.last_stride),
}
FeatureFunction = Callable[[Tensor], Tensor]  # uint8 (N, 3, H, W) → (N, D)


def build(config: BaselineConfig, classes: int) -> nn.Module:
    """Build the network, untrained, which gives logits and features in training; ValueError names the nearest that there is."""
    model = OURS.get(config.model, _torchreids)(config, classes)
    return _with_neck(model) if config.neck else model


def _torchreids(config: BaselineConfig, classes: int) -> nn.Module:
    factory = getattr(torchreid_models, "__model_factory", {})
    if factory and config.model not in factory:
        models = sorted(factory)
        there_is = f"it has {', '.join(models[:6])}, …; ours are {', '.join(OURS)}{nearest(config.model, [*OURS, *models])}"
        raise ValueError(f"torchreid has no model {config.model!r}; {there_is}")
    model = torchreid_models.build_model(config.model, classes, loss="triplet", pretrained=False, use_gpu=False)
    if config.last_stride == 1 and config.model.startswith("resnet"):
        for part in model.layer4[0].modules():
            if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
                part.stride = (1, 1)
    return model


def _with_neck(model: nn.Module) -> nn.Module:
    """Add a BNNeck: the triplet loss sees features before its batch normalisation, classifier and ranking those behind it."""
    linear: Any = model.classifier
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"a neck goes before one linear classifier, {type(model).__name__} has {type(linear).__name__}")
    neck, head = nn.BatchNorm1d(linear.in_features), nn.Linear(linear.in_features, linear.out_features, bias=False)
    neck.bias.requires_grad_(False)
    nn.init.normal_(head.weight, std=0.001)
    model.classifier = nn.Sequential(neck, head)
    model.register_forward_hook(_behind_the_neck)
    return model


def _behind_the_neck(model: Any, _: Any, outputs: Any) -> Any:
    return outputs if model.training else model.classifier[0](outputs)


def check(config: BaselineConfig, name: str) -> None:
    """Try a training step's shapes, without memory, and a file of weights.

    ValueError, with the baseline's name, its model and its size, for a network that gives no logits and features or can't
    take such images, and for another network's weights; errors of `build` and `initial_weights`.
    """
    complaint = _shape_complaint(config.model, config.last_stride, config.widths, config.neck, config.size, config.batch)
    if complaint:
        which = f"baseline {name!r}: {config.model} at {config.size[0]} × {config.size[1]}"
        raise ValueError(f"{which} can't be trained on batches of {config.batch}: {complaint}")
    if config.weights not in NAMED_WEIGHTS:
        with torch.device("meta"):
            _fitting(build(config, 2), initial_weights(config).state or {}, config.weights)


@functools.lru_cache
def _shape_complaint(
    model: str, last_stride: Literal[1, 2], widths: tuple[int, int, int, int], neck: bool, size: tuple[int, int], batch: int
) -> str:
    """Say what is wrong with a network for a batch of such images; empty where nothing is."""
    with torch.device("meta"), warnings.catch_warnings():  # shapes alone
        warnings.simplefilter("ignore")  # old layers warn of torch's new ways
        network = build(BaselineConfig(model=model, last_stride=last_stride, widths=widths, neck=neck), 2)
        try:
            outputs: Any = network.train()(torch.empty(batch, 3, *size))
        except Exception as error:  # whatever its layers met
            return " ".join(str(error).split())[:160]
    parts = outputs if isinstance(outputs, tuple | list) else [outputs]
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    logits_and_features = len(shapes) == 2 and shapes[0] == (batch, 2) and len(shapes[1]) == 2 and shapes[1][0] == batch
    if not logits_and_features or not isinstance(getattr(network, "classifier", None), nn.Module):
        return f"it has to have a classifier and give logits and features (B, D) of 2 identities, and gives {shapes}"
    return ""


def fill_in(model: nn.Module, state: Mapping[str, Tensor], name: str = "start") -> None:
    """Fill in weights that fit by name and shape, which other people's classifier does not; ValueError when less than half do."""
    model.load_state_dict(_fitting(model, state, name), strict=False)


def _fitting(model: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    tensors = model.state_dict()
    fits = {key: value for key, value in state.items() if key in tensors and value.shape == tensors[key].shape}
    if 2 * len(fits) < len(tensors):
        raise ValueError(f"weights {name!r} are another network's: {len(fits)} of {len(tensors)} tensors fit")
    return fits


def prepare(images: Tensor) -> Tensor:
    """Turn images (B, 3, H, W) from 0 to 255 into what the network takes: float, ImageNet-normalised, channels-last."""
    # A tensor made on a GPU of numbers makes the CPU wait; one that moves there does not.
    mean, std = ((torch.tensor(v) * 255).view(1, 3, 1, 1).to(images.device, non_blocking=True) for v in (MEAN, STD))
    return images.float().sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def save_baseline(model: nn.Module, config: BaselineConfig, classes: int, path: str | os.PathLike[str], **about: Any) -> None:
    """Write a trained network and what builds it again to one safetensors file, atomically."""
    state = model.state_dict()
    values = config.values("recipe")  # whose file may not be elsewhere; all that it says is in them
    header = {"format": FORMAT, "model": config.model, "config": values, "classes": classes}
    write_tensors(state, {**header, "digest": tensors_digest(state), "about": about}, path)


def config_and_name(path: str | os.PathLike[str]) -> tuple[BaselineConfig, str]:
    """Read how a network of `save_baseline` was trained, and a name that changes with its weights; errors of `read_header`."""
    header = read_header(path, FORMAT)
    if "config" not in header:  # with a guess at the size of its images something else would be measured
        raise ValueError(f"{os.fspath(path)} was written before checkpoints said what images their network takes: train it again")
    return BaselineConfig.model_validate(header["config"]), f"{header['model']}:{header['digest'][:12]}"


def load_baseline(path: str | os.PathLike[str]) -> tuple[nn.Module, Mapping[str, Any]]:
    """Load a network that `save_baseline` wrote, in eval mode on the CPU, and its header; errors of `read_header`."""
    header = read_header(path, FORMAT)
    model = build(BaselineConfig(**{**header.get("config", {}), "model": header["model"]}), header["classes"])
    model.load_state_dict(safetensors.torch.load_file(str(path)))
    return model.eval(), header


@torch.inference_mode()
def features_of(model: nn.Module, images: Tensor, *, flip_test: bool = False, batch_size: int = 256) -> Tensor:
    """Compute features (N, D), float32 on the CPU, of uint8 images (N, 3, H, W).

    With `flip_test` they are of unit length: the direction midway between the image's and its mirror image's.
    """
    device = next(model.parameters()).device
    parts = []
    for part in images.split(batch_size):
        inputs = prepare(part.to(device))
        features = model(inputs).float()
        if flip_test:
            mirrored = model(inputs.flip(-1)).float()
            features = F.normalize(F.normalize(features) + F.normalize(mirrored))
        parts.append(features.cpu())
    return torch.cat(parts)


def labels_of(pids: Sequence[int]) -> Tensor:
    """Number identities from 0 without gaps, in the order of their pids.

    >>> labels_of([7, 3, 7, 12])
    tensor([1, 0, 1, 2])
    """
    order: dict[Any, int] = {pid: i for i, pid in enumerate(sorted(set(pids)))}
    return torch.tensor([order[pid] for pid in pids])


@dataclass(frozen=True, eq=False)
class ReidNetwork:
    """A Re-ID network as its users see it: the features it computes, the size of its images, and its name."""

    compute: FeatureFunction  # of images of `size`
    size: tuple[int, int]  # (H, W)
    name: str  # changes with the weights
    config: BaselineConfig | None = None  # how it was trained, where it is a baseline
    module: Callable[[], nn.Module] | None = None  # gives the network itself, where it is a baseline

    def features(self, images: Tensor) -> Tensor:
        """Compute features (N, D) of uint8 images (N, 3, H, W) of any size."""
        return self.compute(self.resized(images))

    def resized(self, images: Tensor) -> Tensor:
        """Bring uint8 images to the size the network takes."""
        if tuple(images.shape[-2:]) == self.size:
            return images
        return F.interpolate(images.float(), self.size, mode="bilinear", antialias=True).round().clamp(0, 255).to(torch.uint8)


def baseline_network(module: Callable[[], nn.Module], config: BaselineConfig, name: str) -> ReidNetwork:
    """Give a trained baseline as a ReidNetwork; `module` is called when the first image comes."""
    return ReidNetwork(lambda images: features_of(module(), images, flip_test=config.flip_test), config.size, name, config, module)


def load_reid(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> ReidNetwork:
    """Open a benchmark's baseline file, and read its weights when they are first used; FileNotFoundError or ValueError when it is none."""
    config, name = config_and_name(path)
    resolved = torch_device(device)
    return baseline_network(cache(lambda: load_baseline(path)[0].to(resolved)), config, name)


def reid_network(
    reid: ReidNetwork | FeatureFunction | str | os.PathLike[str], size: tuple[int, int], device: str | torch.device = "auto"
) -> ReidNetwork:
    """Give a baseline file, or a function of images of `size`, as a ReidNetwork; errors of `load_reid`.

    A function's name is a digest of the features that it computes of fixed images.
    """
    if isinstance(reid, ReidNetwork):
        return reid
    if isinstance(reid, str | os.PathLike):
        return load_reid(reid, device)
    probe = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (4, 3, *size), dtype=np.uint8))
    digest = hashlib.sha256(reid(probe).detach().cpu().float().numpy().tobytes()).hexdigest()
    return ReidNetwork(reid, size, f"function:{digest[:12]}")
