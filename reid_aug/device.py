"""The device of a name, refused by name where it is not here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import AfterValidator

from generators import nearest

if TYPE_CHECKING:
    import torch


def torch_device(device: str | torch.device) -> torch.device:
    """Give the device of that name, "auto" a GPU when there is one; ValueError names it and what there is."""
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    try:
        named = torch.device(device)
        if named.type == "cuda":
            usable = bool(gpus) and (named.index or 0) < len(gpus)
        else:  # a number that comes back: "meta" parses, and keeps none
            usable = named.type == "cpu" or torch.ones(1, device=named).item() == 1
    except (RuntimeError, AssertionError, ImportError):
        usable = False
    if not usable:
        known = ["auto", "cpu", *gpus]
        raise ValueError(f"no device {str(device)[:80]!r} here; there are {', '.join(known)}{nearest(str(device), known)}")
    return torch.device(device)


def resident(images: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Move images to a device if they take less than half of its free memory; else leave them where they are, and batches move."""
    import torch

    if device.type == "cuda" and images.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
        return images
    return images.to(device)


def _known_device(device: str) -> str:
    torch_device(device)
    return device


Device = Annotated[str, AfterValidator(_known_device)]
