"""Finding files of weights that others trained: in torch's cache, downloaded, or said to be missing and how to get them."""

from __future__ import annotations

import pickle
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import torch
from torch import Tensor

TIMEOUT_S = 30.0  # of a connection that says nothing
# What reading a damaged file, or one of something else, has been seen to raise.
_UNREADABLE = (pickle.UnpicklingError, RuntimeError, OSError, EOFError, ValueError, TypeError, AttributeError, LookupError)


class MissingWeights(FileNotFoundError):
    """A network's weights are not there, or no weights; the message says what and how to get them."""


def cache() -> Path:
    """Name torch's folder of downloaded checkpoints, which TORCH_HOME moves."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def cached(url: str) -> Path:
    """Name the file that a download of `url` is kept in, whether it is there or not."""
    return cache() / url.rsplit("/", 1)[-1]


def find(url: str, what: str, *, download: bool, key: str = "download") -> Path:
    """Give the file of a download in torch's cache, fetched where it may be; MissingWeights says how to get it.

    `key` is the setting that allows a download, as the user writes it.
    """
    file = cached(url)
    if file.is_file():
        return file
    how = f"{what}: {_put(url)}"
    if not download:
        raise MissingWeights(f"{how}, or say {key}=true")
    signature = re.search(r"-([0-9a-f]{8,})\.", file.name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _patience():
            torch.hub.download_url_to_file(url, str(file), signature and signature[1])
    except (OSError, HTTPException, RuntimeError, ValueError) as error:
        raise MissingWeights(f"{how}; it could not be downloaded ({_short(error)})") from None
    return file


@contextmanager
def tensors_in(file: Path, url: str) -> Iterator[dict[str, Tensor]]:
    """Give the tensors of a downloaded file, to be loaded inside; MissingWeights where it holds none, or another network's."""
    try:
        # Read without running what a pickle says: the file may have been put there by hand.
        tensors = torch.load(file, map_location="cpu", weights_only=True)
        if not isinstance(tensors, dict):
            raise TypeError(f"a {type(tensors).__name__}, no table of tensors")
        yield tensors
    except _UNREADABLE as error:
        # What torch says of such a file is advice on how to run the code in it.
        why = "no tensors in it" if isinstance(error, pickle.UnpicklingError) else _short(error)
        raise MissingWeights(f"{file} is damaged, or another network's ({why}): remove it and {_put(url)}") from None


def _put(url: str) -> str:
    return f"put {url} into torch's cache of checkpoints (TORCH_HOME)"


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__


@contextmanager
def _patience() -> Iterator[None]:
    """Limit how long a silent connection is waited for: torch sets no limit, and the program's own stays."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S if before is None else before)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
