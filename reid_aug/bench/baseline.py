"""A Re-ID baseline: one of torchreid's networks, how it is trained (a recipe), and the features it gives."""

from __future__ import annotations

import functools
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import safetensors.torch
import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator
from torch import Tensor, nn
from torchreid import models as torchreid_models

from generators.registry import nearest, read_header, tensors_digest, write_tensors
from reid_aug import config as configuration
from reid_aug.config import Config

FORMAT = "reid-aug baseline 1"
WORDS = ("scratch", "imagenet", "imagenet-or-scratch")  # weights that are no file
# ImageNet's mean and spread, as torchreid normalises.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BaselineConfig(Config):
    """A network of torchreid's and how it is trained; every arm gets the same.

    `recipe` names a file of configs/baselines (or any YAML) whose values stand where no others are given.
    """

    recipe: str | None = None
    model: str = "osnet_x0_25"
    weights: str = "scratch"  # or "imagenet", "imagenet-or-scratch" (what can be had; results say which), or a file's PATH
    download: bool = False  # of ImageNet weights that are not in torch's cache
    last_stride: Literal[1, 2] = 2  # of ResNets; 1 doubles the last feature map (Luo et al. 2019)
    neck: bool = False  # batch normalisation between feature and classifier (BNNeck, Luo et al. 2019); features are taken behind it
    size: tuple[PositiveInt, PositiveInt] = (128, 64)  # (H, W)
    steps: PositiveInt = 300
    sampler: Literal["pk", "shuffle"] = "pk"  # P identities × K images, or images without regard to identity (P · K of them)
    identities: PositiveInt = 16  # per batch (P)
    instances: PositiveInt = 4  # of each (K)
    optimizer: Literal["adamw", "adam", "amsgrad", "sgd"] = "adamw"
    learning_rate: Positive = 5e-3  # the peak of the schedule
    head_rate: Positive = 1.0  # the classifier's learning rate, as a multiple
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: NonNegative = 5e-4
    schedule: Literal["one-cycle", "steps", "cosine"] = "one-cycle"
    milestones: tuple[Share, ...] = ()  # of "steps": where the rate falls, as shares of all steps
    gamma: Positive = 0.1  # of "steps": what it is multiplied by there
    warmup: Share = 0.0  # share of all steps over which the rate rises from `warmup_from` of itself; not of "one-cycle"
    warmup_from: Positive = 0.1
    frozen: Share = 0.0  # share of all steps that train the classifier alone; from ImageNet weights only
    clip_norm: Positive | None = 2.0  # of the gradient: at this rate and from scratch, runs differ widely without
    label_smoothing: Share = 0.1
    triplet_weight: NonNegative = 0.0  # of the batch-hard triplet loss; from scratch and this short it does harm
    triplet_margin: NonNegative = 0.3
    crop_px: NonNegativeInt = 6  # padding of the random crop
    flip: bool = True
    erasing: Share = 0.0  # probability of random erasing (Zhong et al. 2020); 0.5 in arms that name it
    metric: Literal["euclidean", "cosine"] = "euclidean"  # that the gallery is ranked by
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False  # torch.compile

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, values: Any) -> Any:
        return with_recipe(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _triplets_are_there(self) -> BaselineConfig:
        if self.triplet_weight and self.sampler == "pk" and min(self.identities, self.instances) < 2:
            asked = f"identities={self.identities} and instances={self.instances}"
            raise ValueError(f"a triplet loss compares 2 identities at least with 2 instances each at least, got {asked}")
        return self

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.identities * self.instances


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and behind them those of the recipe they name, if any."""
    recipe = values.get("recipe")
    return {**(configuration.read_yaml(recipe_file(recipe)) if isinstance(recipe, str) else {}), **values}


def recipe_file(name: str) -> Path:
    """The YAML of a recipe: a shipped one's name, or a path; ValueError names the nearest."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    folder = configuration.shipped("baselines")
    known = sorted(path.stem for path in folder.glob("*.yaml"))
    if name not in known:
        raise ValueError(f"no recipe named {name!r}; there are {', '.join(known)}{nearest(name, known)}, or give a .yaml file")
    return folder / f"{name}.yaml"


def build(config: BaselineConfig, classes: int) -> nn.Module:
    """The network, from scratch, with logits and features in training; ValueError names the nearest that torchreid has."""
    factory = getattr(torchreid_models, "__model_factory", {})
    if factory and config.model not in factory:
        known = sorted(factory)
        raise ValueError(f"torchreid has no model {config.model!r}; it has {', '.join(known[:6])}, …{nearest(config.model, known)}")
    model = torchreid_models.build_model(config.model, classes, loss="triplet", pretrained=False, use_gpu=False)
    if config.last_stride == 1 and config.model.startswith("resnet"):
        for part in model.layer4[0].modules():
            if isinstance(part, nn.Conv2d) and part.stride == (2, 2):
                part.stride = (1, 1)
    return _with_neck(model) if config.neck else model


def _with_neck(model: nn.Module) -> nn.Module:
    """BNNeck: the triplet loss sees the features before the batch normalisation, classifier and ranking those behind it."""
    linear: Any = model.classifier
    if not isinstance(linear, nn.Linear):
        raise ValueError(f"a neck goes before one linear classifier, {type(model).__name__} has {type(linear).__name__}")
    neck, head = nn.BatchNorm1d(linear.in_features), nn.Linear(linear.in_features, linear.out_features, bias=False)
    neck.bias.requires_grad_(False)
    nn.init.normal_(head.weight, std=0.001)
    model.classifier = nn.Sequential(neck, head)
    model.register_forward_hook(_behind_the_neck)
    return model


def _behind_the_neck(model: Any, _: Any, out: Any) -> Any:
    return out if model.training else model.classifier[0](out)


def check(config: BaselineConfig, name: str) -> None:
    """Try a training step's shapes, without memory, and a file of weights.

    ValueError, with the baseline's name, its model and its size, for a network that gives no logits and features or can't
    take such images, and for another network's weights; errors of `build` and `initial_weights`.
    """
    who = f"baseline {name!r}: {config.model} at {config.size[0]} × {config.size[1]}"
    given = _tried(config.model, config.last_stride, config.neck, config.size, config.batch)
    if isinstance(given, str):
        raise ValueError(f"{who} can't be trained on batches of {config.batch}: {given}")
    if config.weights not in WORDS:
        with torch.device("meta"):
            _fitting(build(config, 2), initial_weights(config).state or {}, config.weights)


@functools.lru_cache
def _tried(model: str, last_stride: Literal[1, 2], neck: bool, size: tuple[int, int], batch: int) -> str | None:
    """What is wrong with a network for a batch of such images, if anything."""
    with torch.device("meta"), warnings.catch_warnings():  # shapes alone
        warnings.simplefilter("ignore")  # old layers warn of torch's new ways
        network = build(BaselineConfig(model=model, last_stride=last_stride, neck=neck), 2)
        try:
            given: Any = network.train()(torch.empty(batch, 3, *size))
        except Exception as error:  # whatever its layers met
            return " ".join(str(error).split())[:160]
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in _parts(given)]
    logits_and_features = len(shapes) == 2 and shapes[0] == (batch, 2) and len(shapes[1]) == 2 and shapes[1][0] == batch
    if not logits_and_features or not isinstance(getattr(network, "classifier", None), nn.Module):
        return f"it has to have a classifier and give logits and features (B, D) of 2 identities, and gives {shapes}"
    return None


def _parts(given: Any) -> Sequence[Any]:
    return given if isinstance(given, tuple | list) else [given]


class Start(NamedTuple):
    """What training begins from: weights by name, or None, and how results name it."""

    state: dict[str, Tensor] | None
    said: str


def initial_weights(config: BaselineConfig) -> Start:
    """The weights that `config.weights` asks for; FileNotFoundError when they must be there and are not."""
    if config.weights == "scratch":
        return Start(None, "scratch")
    if config.weights in ("imagenet", "imagenet-or-scratch"):
        file, how = _imagenet(config)
        if file is None and config.weights == "imagenet":
            raise FileNotFoundError(f"no ImageNet weights of {config.model}: {how}")
        if file is None:
            return Start(None, f"scratch, as ImageNet weights are missing ({how})")
        return Start(_state(file), f"ImageNet ({file.name})")
    path = Path(config.weights)
    if not path.is_file():
        hint = nearest(config.weights, list(WORDS))
        raise FileNotFoundError(f"baseline weights are {', '.join(WORDS)} or a file, got {config.weights!r}{hint}")
    return Start(_state(path), path.name)


def _imagenet(config: BaselineConfig) -> tuple[Path | None, str]:
    """The file of ImageNet weights, if it can be had, and otherwise how to get it."""
    cache = Path(torch.hub.get_dir()) / "checkpoints"
    own = f"{config.model}_imagenet.pth"  # as torchreid calls what it downloads, in a folder of its own
    for place in (cache, Path(torch.hub.get_dir()).parent / "checkpoints"):
        if (place / own).is_file():
            return place / own, ""
    url = _torchvision_url(config.model)
    if url is None:
        return None, f"put torchreid's {own} into {cache} (its model zoo links it), or give weights=FILE"
    file = cache / url.rsplit("/", 1)[-1]
    if not file.is_file() and config.download:
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file))
        except (OSError, RuntimeError, ValueError) as error:
            return None, f"{url} could not be downloaded: {' '.join(str(error).split())[:100]}"
    return (file, "") if file.is_file() else (None, f"put {url} into {cache}, or say download=true")


def _torchvision_url(model: str) -> str | None:
    """torchvision's ImageNet weights of the networks that torchreid took from it, whose layers have the same names."""
    from torchvision.models import get_model_weights, list_models

    plain = model.removesuffix("_fc512")
    if plain not in list_models() or not plain.startswith(("resnet", "densenet")):
        return None
    return next(iter(get_model_weights(plain))).url  # type: ignore[attr-defined] - the first are IMAGENET1K_V1, which papers used


def _state(path: Path) -> dict[str, Tensor]:
    state: Any = safetensors.torch.load_file(str(path)) if path.suffix == ".safetensors" else _unpickled(path)
    state = state.get("state_dict", state) if isinstance(state, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"{path}: weights are tensors by name")
    return {name.removeprefix("module."): value for name, value in state.items()}


def _unpickled(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its reader met
        raise ValueError(f"{path} is no file of weights: {' '.join(str(error).split())[:120]}") from None


def fill_in(model: nn.Module, state: Mapping[str, Tensor], name: str = "start") -> None:
    """Take over what fits by name and shape (a classifier of others does not); ValueError when less than half the network does."""
    model.load_state_dict(_fitting(model, state, name), strict=False)


def _fitting(model: nn.Module, state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    own = model.state_dict()
    fits = {k: v for k, v in state.items() if k in own and v.shape == own[k].shape}
    if 2 * len(fits) < len(own):
        raise ValueError(f"weights {name!r} are another network's: {len(fits)} of {len(own)} tensors fit")
    return fits


def prepare(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) from 0 to 255 as the network takes them: float, ImageNet-normalised, channels-last."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return images.float().sub(mean).div_(std).contiguous(memory_format=torch.channels_last)


def save_baseline(model: nn.Module, config: BaselineConfig, classes: int, path: str | os.PathLike[str], **about: Any) -> None:
    """Write a trained network and what builds it again to one safetensors file, atomically."""
    state = model.state_dict()
    own = config.model_dump(mode="json", exclude={"recipe"})  # its values are all there, its file may not be elsewhere
    header = {"format": FORMAT, "model": config.model, "config": own, "classes": classes, "digest": tensors_digest(state), "about": about}
    write_tensors(state, header, path)


def described(path: str | os.PathLike[str]) -> tuple[BaselineConfig, str]:
    """How a network that `save_baseline` wrote was trained, and a name that changes with its weights; errors as `read_header`'s."""
    header = read_header(path, FORMAT)
    if "config" not in header:  # a guess at the size it takes would measure something else
        raise ValueError(f"{os.fspath(path)} was written before checkpoints said what images their network takes: train it again")
    return BaselineConfig.model_validate(header["config"]), f"{header['model']}:{header['digest'][:12]}"


def load_baseline(path: str | os.PathLike[str]) -> tuple[nn.Module, Mapping[str, Any]]:
    """A network that `save_baseline` wrote, in eval mode on the CPU, and its header; errors as `read_header`'s."""
    header = read_header(path, FORMAT)
    model = build(BaselineConfig(**{**header.get("config", {}), "model": header["model"]}), header["classes"])
    model.load_state_dict(safetensors.torch.load_file(str(path)))
    return model.eval(), header


@torch.inference_mode()
def features(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Features (N, D) float32 on the CPU of uint8 images (N, 3, H, W)."""
    device = next(model.parameters()).device
    parts = [model(prepare(part.to(device))).float().cpu() for part in images.split(batch_size)]
    return torch.cat(parts)


def labels_of(pids: Sequence[int]) -> Tensor:
    """Labels 0..N−1 of identity numbers, in the numbers' order."""
    order: dict[Any, int] = {pid: i for i, pid in enumerate(sorted(set(pids)))}
    return torch.tensor([order[pid] for pid in pids])
