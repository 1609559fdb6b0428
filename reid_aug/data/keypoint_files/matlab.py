"""MATLAB's and HDF5's files, opened with distrust: by a process of its own, for their readers crash on damaged ones."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from reid_aug.data.keypoint_files import unpack_matlab

SCRIPT = unpack_matlab.__file__
PATIENCE_S = 900.0  # MPII's .mat of 40,000 people is done in a minute


def is_hdf5(path: Path) -> bool:
    """Tell whether a file is HDF5, MATLAB 7.3's with its 512 bytes of heading included."""
    with open(path, "rb") as file:
        head = file.read(520)
    return unpack_matlab.HDF5 in (head[:8], head[512:])


def tables(path: Path) -> dict[str, np.ndarray]:
    """Read a file's `number/NAME`, `text/NAME`, `mpii/part` and `mpii/names` (unpack_matlab).

    ValueError, in one line, for objects, links out of the file and what can't be read; ModuleNotFoundError with the command that
    installs h5py.
    """
    kind = "HDF5" if is_hdf5(path) else "MATLAB"
    if kind == "HDF5" and find_spec("h5py") is None:
        raise ModuleNotFoundError(f"{path} is HDF5, which h5py reads: pip install h5py", name="h5py")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "tables.npz")
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
        try:
            command = [sys.executable, SCRIPT, os.path.abspath(path), out]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, errors="replace")
            why = done.stdout.strip().split("\n")[-1] if done.returncode == 3 else f"its reader broke off ({done.returncode})"
        except subprocess.TimeoutExpired:
            why = f"it takes more than {PATIENCE_S:g} s"
        else:
            if done.returncode == 0:
                with np.load(out, allow_pickle=False) as arrays:
                    return {name: arrays[name] for name in arrays.files}
        raise ValueError(f"{path} can't be read as a {kind} file: {why}")
