"""Data sets of other layouts and files of other kinds: told what they are, and which way of reading them works."""

from __future__ import annotations

import os
import re
from pathlib import Path

PEOPLE = "people are read from a Market-style folder, a CSV path,pid,camid,split, or torchreid:NAME:DIR"
HEADER = "name:keypoints_y:keypoints_x"
READABLE = (
    f"keypoints are read from a text file {HEADER} of 18 OpenPose joints, COCO's, OpenPose's or AlphaPose's JSON, MPII's .mat or .h5, "
    "or Market-1501's .mat of 28 × N numbers; reid-aug poses ROOT --out FILE finds them"
)
HEAD_BYTES = 65536  # how much of a file is looked at
_HDF5 = b"\x89HDF\r\n\x1a\n"
_BINARY = {
    b"MATLAB 7.3": "MATLAB 7.3's .mat (HDF5)", _HDF5: "HDF5 (.h5)", b"MATLAB 5.0": "MATLAB's .mat", b"\x93NUMPY": "NumPy's .npy",
    b"PK\x03\x04": "a zip archive (.npz, .xlsx)", b"\x80": "a pickle", b"\xff\xd8\xff": "a JPEG", b"\x89PNG": "a PNG",
}  # fmt: skip
# Where torchreid looks for a data set below its folder, and what shows that a folder is this data set.
_MSMT17 = {"MSMT17_V1": "train", "MSMT17_V2": "mask_train_v2"}
_CUHK03 = ("cuhk03_release", "cuhk-03.mat", "splits_new_detected.json", "images_detected")
_OF_TORCHREID = {"market1501": "market1501", "dukemtmc-reid": "dukemtmcreid", "msmt17": "msmt17", "cuhk03": "cuhk03"}


def refuse_other_people(root: str | os.PathLike[str]) -> None:
    """Raise ValueError for a file or folder that is known to be something else than a Market-style folder; return for any other."""
    path = Path(root)
    if path.is_file():
        if path.name in ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt"):
            refuse_other_people(path.parent)
        refuse_mat(path)
        raise ValueError(f"{os.fspath(root)!r} is a file, {kind_of(path) or 'of no kind that is known'}; {PEOPLE}")
    if not path.is_dir():
        return
    for version, train in _MSMT17.items():
        if (path / "list_train.txt").is_file() and (path / train).is_dir():
            raise ValueError(f"{os.fspath(root)!r} is MSMT17: {_by_torchreid(path, 'msmt17', version)}")
    for name in _CUHK03:
        if (path / name).exists():
            raise ValueError(f"{os.fspath(root)!r} is CUHK03: {_cuhk03(path)}")
    held = [name for folder, name in _OF_TORCHREID.items() if (path / folder).is_dir()]
    if held:
        raise ValueError(f"{os.fspath(root)!r} is a folder of torchreid's data sets: give data.root=torchreid:{held[0]}:{path}")
    if path.name == "msmt17" and any((path / version).is_dir() for version in _MSMT17):
        raise ValueError(f"{os.fspath(root)!r} is MSMT17: give data.root=torchreid:msmt17:{path.parent}")
    if any((path / inside / "WOMEN").is_dir() for inside in ("", "img", "Img/img")) or next(path.glob("train/fash*ion*.jpg"), None):
        raise ValueError(f"{os.fspath(root)!r} is DeepFashion's In-shop benchmark: give data.root=deepfashion:{path}")
    if (path / "bbox_train").is_dir():
        raise ValueError(f"{os.fspath(root)!r} is MARS or laid out so, of tracklets: list the images to use in a CSV path,pid,camid,split")


def refuse_mat(path: Path) -> None:
    """Raise ValueError for a .mat that is CUHK03's; return for any other."""
    if _head(path).startswith(b"MATLAB 7.3") or (path.suffix == ".mat" and _head(path).startswith(_HDF5)):
        raise ValueError(f"{path} is a MATLAB 7.3 file (HDF5), as CUHK03's cuhk-03.mat is: {_cuhk03(path.parent)}")
    if re.fullmatch(r"cuhk03_new_protocol_config_\w+\.mat", path.name):
        raise ValueError(f"{path} is CUHK03's new protocol: {_cuhk03(path.parent)}")


def _by_torchreid(path: Path, name: str, below: str) -> str:
    """Say how torchreid reads a data set: it lies in DIR/`name`/`below`."""
    if path.absolute().parts[-2:] == (name, below):
        return f"give data.root=torchreid:{name}:{path.absolute().parents[1]}"
    return f"make it DIR/{name}/{below} and give data.root=torchreid:{name}:DIR"


def _cuhk03(path: Path) -> str:
    """Say how torchreid reads CUHK03, from a folder that holds a part of it."""
    parts = path.absolute().parts
    needs = "it unpacks cuhk03_release/cuhk-03.mat with h5py and imageio, and needs cuhk03_new_protocol_config_*.mat"
    if "cuhk03" in parts:
        inside = len(parts) - 1 - parts[::-1].index("cuhk03")
        return f"give data.root=torchreid:cuhk03:{Path(*parts[:inside])} ({needs})"
    return f"make it DIR/cuhk03 and give data.root=torchreid:cuhk03:DIR ({needs})"


def kind_of(path: Path) -> str | None:
    """Say what a file is; None for text that is none of these, or nothing there."""
    head = _head(path)
    for magic, what in _BINARY.items():
        if head.startswith(magic):
            return what
    text = head.decode("utf-8", "replace").lstrip("\ufeff \t\r\n")
    return "JSON" if text.startswith(("{", "[")) else None


def _head(path: Path) -> bytes:
    """Read the beginning of a file; nothing where there is none."""
    try:
        with open(path, "rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:
        return b""
