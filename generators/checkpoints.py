"""Checkpoints: weights and what builds their model again, in one safetensors file, never pickle."""

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


def digest(model: torch.nn.Module) -> str:
    """SHA-256 over names, shapes, types and bytes of everything the model saves: equal weights, equal digest."""
    return tensors_digest(model.state_dict())


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
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
    """What a checkpoint says of its model: name, options, size, skeleton, digest of the weights, torch's version."""
    return {
        "generator": name_of(model),
        "options": model.options,
        "size": list(model.size),
        "skeleton": model.skeleton.name,
        "digest": digest(model),
        "torch": torch.__version__,
    }


def load(path: str | os.PathLike[str]) -> Generator:
    """Build the generator a checkpoint describes, with its weights, on the CPU and in eval mode.

    Takes what `save` wrote and what training writes; optimiser state is left where it is, and players named
    "discriminator" may be missing. ValueError when the file is no checkpoint, or its weights do not fit.
    """
    made_by = read_header(path)
    model = create(made_by["generator"], **made_by["options"])
    load_weights(model, path)
    return model.eval()


def load_weights(model: Generator, path: str | os.PathLike[str]) -> None:
    """Put a checkpoint's weights into a model that was built as its header says."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        state = {key: file.get_tensor(key) for key in file.keys() if not key.startswith(("optimizer/", "rng/"))}  # noqa: SIM118
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
    said = read_header(path).get("digest")
    if not spare & (set(model.state_dict()) - set(state)) and said and digest(model) != said:
        raise ValueError(f"{path}: weights are not the ones that were saved (digest {digest(model)[:12]}, header says {said[:12]})")


def _keys_of(model: Generator, player: torch.nn.Module) -> list[str]:
    owned = {id(t) for t in (*player.parameters(), *player.buffers())}
    return [key for key, tensor in model.state_dict(keep_vars=True).items() if id(tensor) in owned]


def read_header(path: str | os.PathLike[str], kind: str = FORMAT) -> dict[str, Any]:
    """A checkpoint's header; FileNotFoundError when there is no file, ValueError when it is something else."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no checkpoint at {path}")
    try:
        with safetensors.safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise ValueError(f"{path} is no whole safetensors file: {error}") from None
    if metadata.get("format") != kind:
        what = kind.split()[1]  # "reid-aug generator 1"
        raise ValueError(f"{path} is no {what} checkpoint: its header says format {metadata.get('format')!r}, not {kind!r}")
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
