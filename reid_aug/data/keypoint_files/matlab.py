"""MATLAB's and HDF5's files, opened with distrust: no objects, no links out of the file, nothing larger than it can be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from reid_aug.data.keypoint_files.rows import LARGEST

HDF5 = b"\x89HDF\r\n\x1a\n"


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, MATLAB 7.3's with its 512 bytes of heading included."""
    with open(path, "rb") as file:
        head = file.read(520)
    return head.startswith(HDF5) or head[512:] == HDF5


@contextmanager
def hdf5(path: Path) -> Iterator[Any]:
    """Open an HDF5 file; ModuleNotFoundError with the command that installs h5py, ValueError for what can't be read."""
    if find_spec("h5py") is None:
        raise ModuleNotFoundError(f"{path} is HDF5, which h5py reads: pip install h5py", name="h5py")
    import h5py  # pyright: ignore[reportMissingImports]

    try:
        file = h5py.File(path, "r")
    except Exception as error:
        raise _unreadable(path, "HDF5", error) from None
    with file:
        yield file


def datasets(path: Path, file: Any) -> dict[str, Any]:
    """List the tables at the top of an HDF5 file by name, those that lie in the file itself; ValueError for one too large to be read."""
    import h5py  # pyright: ignore[reportMissingImports]

    found = {}
    try:
        for name in file:
            if not isinstance(file.get(name, getlink=True), h5py.HardLink) or not isinstance(file[name], h5py.Dataset):
                continue
            table = file[name]
            if table.is_virtual or table.external or table.shape is None:
                raise ValueError(f"its {name} is of other files")
            if table.size > LARGEST:
                raise ValueError(f"its {name} has {table.size:,} values, {LARGEST:,} are read at most")
            found[name] = table
    except Exception as error:
        raise _unreadable(path, "HDF5", error) from None
    return found


def values(path: Path, table: Any) -> np.ndarray:
    """Read a table of an HDF5 file."""
    try:
        return np.asarray(table[()])
    except Exception as error:
        raise _unreadable(path, "HDF5", error) from None


def strings(path: Path, file: Any, table: Any) -> list[str] | None:
    """Read a table of names: text, references to text as MATLAB's cells are, or rows of character codes; None where it is none."""
    import h5py  # pyright: ignore[reportMissingImports]

    try:
        if h5py.check_ref_dtype(table.dtype) is not None:
            parts = [file[reference] for reference in np.ravel(table[()])]
            if not all(isinstance(one, h5py.Dataset) and one.dtype.kind == "u" and one.size < 4096 for one in parts):
                return None
            return ["".join(map(chr, np.ravel(one[()]))) for one in parts]
        raw = np.asarray(table[()])
        if raw.dtype.kind in "SO" and raw.ndim == 1 and all(isinstance(one, bytes | str) for one in raw.tolist()):
            return [one.decode("utf-8") if isinstance(one, bytes) else one for one in raw.tolist()]
        if raw.ndim == 2 and raw.dtype.kind in "iuf" and ((raw >= 0) & (raw < 0x110000) & (raw == np.floor(raw))).all():
            return ["".join(map(chr, row)).rstrip("\0 ") for row in raw.astype(int).tolist()]
    except Exception as error:
        raise _unreadable(path, "HDF5", error) from None
    return None


def mat5(path: Path) -> dict[str, Any]:
    """Read a MATLAB file of versions 4 to 7 by variable; ValueError for objects, functions and what can't be read."""
    from scipy.io import loadmat, whosmat

    try:
        listed = whosmat(path)
        for name, shape, kind in listed:
            if kind in ("object", "function", "opaque", "unknown"):
                raise ValueError(f"its {name} is MATLAB's {kind}; numbers, text, cells and structures alone are read")
            if np.prod(shape, dtype=float) > LARGEST:
                raise ValueError(f"its {name} has {' × '.join(map(str, shape))} values, {LARGEST:,} are read at most")
        return {k: v for k, v in loadmat(path, squeeze_me=True, struct_as_record=False).items() if not k.startswith("__")}
    except Exception as error:  # scipy raises many kinds for what is no MATLAB file
        raise _unreadable(path, "MATLAB", error) from None


def _unreadable(path: str | os.PathLike[str], kind: str, error: Exception) -> ValueError:
    return ValueError(f"{os.fspath(path)} can't be read as a {kind} file: {' '.join(str(error).split()) or type(error).__name__}")
