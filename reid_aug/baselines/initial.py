"""The weights that a Re-ID network starts from: none, ImageNet's where they can be had, or a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from generators import Lite0, lite0_weights, nearest
from reid_aug import weights
from reid_aug.baselines.recipes import BaselineConfig

NAMED_WEIGHTS = ("scratch", "imagenet", "imagenet-or-scratch")  # any other `weights` are a file


class Start(NamedTuple):
    """The weights a training begins from, None for random ones, and what results call them."""

    state: dict[str, Tensor] | None
    name: str


def initial_weights(config: BaselineConfig) -> Start:
    """Read the weights that `config.weights` names; FileNotFoundError when they must be there and are not."""
    if config.weights == "scratch":
        return Start(None, "scratch")
    if config.weights in ("imagenet", "imagenet-or-scratch"):
        try:
            file = _imagenet(config)
        except weights.MissingWeights as error:
            if config.weights == "imagenet":
                raise weights.MissingWeights(f"no ImageNet weights of {config.model}: {error}") from None
            return Start(None, f"scratch, as ImageNet weights are missing ({error})")
        # Those of ours are by other names in their file.
        state = Lite0(pretrained=True).state_dict() if config.model == "lite0" else _state(file)
        return Start(state, f"ImageNet ({file.name})")
    path = Path(config.weights)
    if not path.is_file():
        hint = nearest(config.weights, NAMED_WEIGHTS)
        raise FileNotFoundError(f"baseline weights are {', '.join(NAMED_WEIGHTS)} or a file, got {config.weights!r}{hint}")
    return Start(_state(path), path.name)


def _imagenet(config: BaselineConfig) -> Path:
    """Find the file of ImageNet weights; MissingWeights says how to get it."""
    if config.model == "small":
        raise weights.MissingWeights("nobody trained that network on ImageNet; say baseline.weights=scratch")
    if config.model == "lite0":
        try:
            return lite0_weights()
        except FileNotFoundError as error:
            raise weights.MissingWeights(str(error)) from None
    name = f"{config.model}_imagenet.pth"  # torchreid's name for what it downloads, in a folder of its own
    for folder in (weights.cache(), weights.cache().parents[1] / "checkpoints"):
        if (folder / name).is_file():
            return folder / name
    url = _torchvision_url(config.model)
    if url is None:
        put = f"put torchreid's {name} into {weights.cache()} (its model zoo links it)"
        raise weights.MissingWeights(f"{put}, or give baseline.weights=FILE")
    return weights.find(url, f"torchvision's {config.model}", download=config.download, key="baseline.download")


def _torchvision_url(model: str) -> str | None:
    """Name torchvision's ImageNet weights of a network that torchreid took from it, with its layers' names; None for others."""
    from torchvision.models import get_model_weights, list_models

    plain = model.removesuffix("_fc512")
    if plain not in list_models() or not plain.startswith(("resnet", "densenet")):
        return None
    return next(iter(get_model_weights(plain))).url  # type: ignore[attr-defined] - the first are IMAGENET1K_V1, which papers used


def _state(path: Path) -> dict[str, Tensor]:
    """Read tensors by name from a file of safetensors or of torch's; ValueError when it holds anything else."""
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
