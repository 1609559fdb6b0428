"""Checkpoints: weights, what builds their model again, and how far training got, in one safetensors file, never pickle."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from generators.atomic import replacing
from generators.base import Generator
from generators.registry import create, name_of

FORMAT = "reid-aug generator 1"
OF_TRAINING = ("optimizer/", "rng/", "scaler/")  # how tensors begin that only a training that goes on needs


def digest(model: torch.nn.Module) -> str:
    """Return the SHA-256 of names, shapes, types and bytes of everything the model saves: equal weights, equal digest."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of the tensors' names, types, shapes and bytes, in the order of their names.

    >>> tensors_digest({"b": torch.ones(1), "a": torch.zeros(2)})[:12]
    '0220c8c34fcb'
    """
    sha = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().to("cpu").contiguous()
        sha.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        sha.update(tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b"")
    return sha.hexdigest()


def save(model: Generator, path: str | os.PathLike[str]) -> None:
    """Write the model's weights and what builds it again to one safetensors file, atomically."""
    write_tensors(model.state_dict(), {"format": FORMAT, **header(model)}, path)


def header(model: Generator) -> dict[str, Any]:
    """Return what a checkpoint says of its model: what builds it again, digest of the weights, torch's version."""
    return {**_built_as(model), "digest": digest(model), "torch": torch.__version__}


def _built_as(model: Generator) -> dict[str, Any]:
    """Return what builds the model again; TypeError when its constructor does not keep its options."""
    return {"generator": name_of(model), "options": model.options, "size": list(model.size), "skeleton": model.skeleton.name}


def load(path: str | os.PathLike[str]) -> Generator:
    """Build the generator a checkpoint describes, with its weights, on the CPU and in eval mode.

    Takes what `save` wrote and what training writes; optimiser state is left where it is, and players named
    "discriminator" may be missing. ValueError when the file is no checkpoint, or its weights do not fit.
    """
    head = read_header(path)
    model = create(head["generator"], **head["options"])
    load_weights(model, path)
    return model.eval()


def load_weights(model: Generator, path: str | os.PathLike[str]) -> None:
    """Put a checkpoint's weights into a model that was built as its header says."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(OF_TRAINING)}  # noqa: SIM118
    spare = {
        key for name, player in model.players().items() if "discriminator" in name
        for key in _keys_of(model, player)
    }  # fmt: skip
    try:
        missing, unexpected = model.load_state_dict(state, strict=False)
    except RuntimeError as error:  # of other shapes
        raise ValueError(f"{path}: weights do not fit {name_of(model)!r}: {error}") from None
    missing = [key for key in missing if key not in spare]
    if missing or unexpected:
        raise ValueError(f"{path}: weights do not fit {name_of(model)!r}: missing {missing[:3]}, unexpected {unexpected[:3]}")
    saved = read_header(path).get("digest")
    if not spare & (set(model.state_dict()) - set(state)) and saved and digest(model) != saved:
        raise ValueError(f"{path}: weights are not the ones that were saved (digest {digest(model)[:12]}, header says {saved[:12]})")


def _keys_of(model: Generator, player: torch.nn.Module) -> list[str]:
    """Return the names that a player's weights and buffers have among the model's."""
    owned = {id(t) for t in (*player.parameters(), *player.buffers())}
    return [key for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in owned]


def read_header(path: str | os.PathLike[str], kind: str = FORMAT, what: str | None = None) -> dict[str, Any]:
    """Return a checkpoint's header; FileNotFoundError when there is no file, ValueError when it is something else than `what`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    if metadata.get("format") != kind:
        what = what or f"{kind.split()[1]} checkpoint"  # "reid-aug generator 1"
        raise ValueError(f"{path} is no {what}: its header says format {metadata.get('format')!r}, not {kind!r}")
    return json.loads(metadata["reid-aug"])


def write_tensors(tensors: Mapping[str, Tensor], about: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write tensors and a JSON header to `path` atomically: the old file stays whole until the new one is; OSError as files do."""
    about = dict(about)
    metadata = {"format": about.pop("format"), "reid-aug": json.dumps(about, sort_keys=True)}
    # safetensors stores no shared or strided memory: give it plain copies.
    plain = {key: t.detach().to("cpu").contiguous().clone() for key, t in tensors.items()}
    with replacing(path) as temporary:
        try:
            safetensors.torch.save_file(plain, temporary, metadata)
        except safetensors.SafetensorError as error:  # a full disk, say, which is no OSError of theirs
            raise OSError(f"{os.fspath(path)} can't be written: {error}") from None
        os.chmod(temporary, 0o666 & ~_umask())  # safetensors' files are their owner's alone


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# --- a training that goes on where it stopped ---

WHOLE = ("growth_interval", "_growth_tracker")  # what torch's GradScaler counts in steps


def save_training(
    model: Generator, optimizers: Mapping[str, torch.optim.Optimizer], path: str | os.PathLike[str], step: int, about: Mapping[str, Any],
    scaler: torch.amp.GradScaler | None = None,
) -> None:  # fmt: skip
    """Write the model, its players' optimisers, 16-mixed's scaler and the random state after `step` steps to one file, atomically.

    `about` is what else decides how a training ends; `load_training` refuses to go on with any other.
    """
    tensors = {**model.state_dict(), "rng/cpu": torch.get_rng_state()}
    device = next(model.parameters()).device
    if device.type == "cuda":
        tensors["rng/cuda"] = torch.cuda.get_rng_state(device)
    for key, value in (scaler.state_dict() if scaler is not None else {}).items():
        tensors[f"scaler/{key}"] = torch.tensor(value, dtype=torch.float64)
    for player, optimizer in optimizers.items():
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{player}/{index}/{key}": torch.as_tensor(value) for key, value in values.items()}
    write_tensors(tensors, {"format": FORMAT, **header(model), "step": step, "about": _plain(about)}, path)


def load_training(
    model: Generator, optimizers: Mapping[str, torch.optim.Optimizer], path: str | os.PathLike[str], about: Mapping[str, Any],
    scaler: torch.amp.GradScaler | None = None,
) -> tuple[int, dict[str, Tensor]]:  # fmt: skip
    """Give the model, its optimisers and 16-mixed's scaler what `save_training` wrote; return the steps done and the random state.

    ValueError names what the checkpoint's model, or its `about`, has otherwise.
    """
    head, built_as = read_header(path), _built_as(model)
    refuse_other(path, {key: head[key] for key in built_as}, built_as)
    if "step" not in head:
        raise ValueError(f"{path} holds weights alone: nothing to resume from")
    refuse_other(path, head["about"], _plain(about))
    load_weights(model, path)
    with safetensors.safe_open(str(path), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys() if "/" in key}  # noqa: SIM118
    for player, optimizer in optimizers.items():
        restore_optimizer(optimizer, {k.split("/", 2)[2]: v for k, v in state.items() if k.startswith(f"optimizer/{player}/")})
    if scaler is not None and "scaler/scale" in state:
        scales = {key.removeprefix("scaler/"): value.item() for key, value in state.items() if key.startswith("scaler/")}
        scaler.load_state_dict({key: int(value) if key in WHOLE else value for key, value in scales.items()})
    return int(head["step"]), {key: value for key, value in state.items() if key.startswith("rng/")}


def restore_random(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Let random numbers go on where the checkpoint's training stopped; nothing changes where `state` is empty."""
    if "rng/cpu" in state:
        torch.set_rng_state(state["rng/cpu"])
    if device.type == "cuda" and "rng/cuda" in state:
        torch.cuda.set_rng_state(state["rng/cuda"], device)


def refuse_other(path: str | os.PathLike[str], saved: Mapping[str, Any], current: Mapping[str, Any]) -> None:
    """Raise ValueError with the first key, in alphabetical order, that two mappings differ in."""
    for key in sorted({*saved, *current}):
        if _plain(saved.get(key)) != _plain(current.get(key)):
            raise ValueError(
                f"{path} was trained with {key} {saved.get(key)!r}, this run asks for {current.get(key)!r}: "
                "train into another folder or remove that one"
            )


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back its state, from tensors named "<parameter's index>/<key>"."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _plain(value: Any) -> Any:
    """Return a value as JSON would give it back: tuples are lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
