"""Unpack a MATLAB or HDF5 file into plain arrays: a script that `matlab.py` runs by itself, as readers in C crash on damaged files.

It imports nothing of this package. `python unpack_matlab.py FILE OUT.npz` writes tables of numbers as `number/NAME`, lists of text as
`text/NAME`, and the people of MPII's RELEASE as `mpii/part` (P, 16, 2) and `mpii/names`; a line on standard output says what is wrong.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

LARGEST = 100_000_000  # values of a table: a file that says more is refused before memory is taken
LARGEST_BYTES = 16 << 30  # memory of this process
HDF5 = b"\x89HDF\r\n\x1a\n"


def unpack(path: str) -> dict[str, np.ndarray]:
    """Read a file of either kind; ValueError for what is not read of it."""
    with open(path, "rb") as file:
        head = file.read(520)
    return from_hdf5(path) if HDF5 in (head[:8], head[512:]) else from_mat(path)


def from_hdf5(path: str) -> dict[str, np.ndarray]:
    """Read the tables at the top of an HDF5 file, those that lie in the file itself."""
    import h5py  # pyright: ignore[reportMissingImports]

    found: dict[str, np.ndarray] = {}
    with h5py.File(path, "r") as file:
        for name in file:
            entry = file[name] if isinstance(file.get(name, getlink=True), h5py.HardLink) else None
            if not isinstance(entry, h5py.Dataset):
                continue
            table: Any = entry
            if table.is_virtual or table.external or table.shape is None:
                raise ValueError(f"its {name} is of other files")
            if table.size > LARGEST:
                raise ValueError(f"its {name} has {table.size:,} values, {LARGEST:,} are read at most")
            if table.dtype.kind in "iuf":
                found[f"number/{name}"] = np.asarray(table[()])
            texts = _texts(h5py, file, table)
            if texts is not None:
                found[f"text/{name}"] = np.array(texts, dtype=str)
    return found


def _texts(h5py: Any, file: Any, table: Any) -> list[str] | None:
    """Read text, references to text as MATLAB's cells are, or rows of character codes; None for a table that is none of these."""
    if h5py.check_ref_dtype(table.dtype) is not None:
        parts = [file[reference] for reference in np.ravel(table[()])]
        if not all(isinstance(one, h5py.Dataset) and one.dtype.kind == "u" and one.size < 4096 for one in parts):
            return None
        return ["".join(map(chr, np.ravel(one[()]))) for one in parts]
    if table.dtype.kind in "SO" and table.ndim == 1:
        values = table[()].tolist()
        if all(isinstance(one, bytes | str) for one in values):
            return [one.decode("utf-8") if isinstance(one, bytes) else one for one in values]
    if table.dtype.kind in "iuf" and table.ndim == 2 and table.shape[1] < 4096:
        codes = np.asarray(table[()])
        if ((codes >= 0) & (codes < 0xD800) & (codes == np.floor(codes))).all():
            return ["".join(map(chr, row)).rstrip("\0 ") for row in codes.astype(int).tolist()]
    return None


def from_mat(path: str) -> dict[str, np.ndarray]:
    """Read a MATLAB file of versions 4 to 7; ValueError for objects and functions."""
    from scipy.io import loadmat, whosmat

    for name, shape, kind in whosmat(path):
        if kind in ("object", "function", "opaque", "unknown"):
            raise ValueError(f"its {name} is MATLAB's {kind}; numbers, text, cells and structures alone are read")
        if np.prod(shape, dtype=float) > LARGEST:
            raise ValueError(f"its {name} has {' × '.join(map(str, shape))} values, {LARGEST:,} are read at most")
    found = {}
    for name, value in loadmat(path, squeeze_me=True, struct_as_record=False).items():
        if name.startswith("__"):
            continue
        if name == "RELEASE" and "annolist" in getattr(value, "_fieldnames", ()):
            return people_of(value)
        array = np.asarray(value)
        if array.dtype.kind in "iuf":
            found[f"number/{name}"] = array
        elif array.ndim == 1 and array.dtype.kind in "UO" and all(isinstance(one, str) for one in array.tolist()):
            found[f"text/{name}"] = np.array(array.tolist(), dtype=str)
    return found


def people_of(release: Any) -> dict[str, np.ndarray]:
    """Read the people of MPII's RELEASE who have points: their 16 joints, zeros for those without, and their images' names."""
    names: list[str] = []
    people: list[np.ndarray] = []
    for i, image in enumerate(_all(release.annolist), start=1):
        rects = [one for one in _all(getattr(image, "annorect", None)) if hasattr(one, "annopoints")]
        for j, rect in enumerate(rects, start=1):
            points = _all(getattr(rect.annopoints, "point", None))
            if not points:
                continue
            name = _field(_field(image, "image", f"annolist({i})"), "name", f"annolist({i}).image")
            if not isinstance(name, str):
                raise ValueError(f"annolist({i}): image.name is text, got {name!r:.60}")
            names.append(name)
            people.append(_joints(points, f"annolist({i}).annorect({j})"))
    if not people:
        raise ValueError("nobody in RELEASE.annolist has annopoints")
    return {"mpii/part": np.stack(people), "mpii/names": np.array(names, dtype=str)}


def _joints(points: list[Any], at: str) -> np.ndarray:
    """Place a person's points (x, y, id) among the 16 joints (16, 2)."""
    joints = np.zeros((16, 2))
    for point in points:
        which = _number(_field(point, "id", at), at, "id")
        if which not in range(16):
            raise ValueError(f"{at}: a point's id is 0 to 15, got {which:g}")
        joints[int(which)] = [_number(_field(point, axis, at), at, axis) for axis in "xy"]
    return joints


def _all(value: Any) -> list[Any]:
    """Make a list of what SciPy gives for an array of structures: one alone, several, or none."""
    if value is None or (isinstance(value, np.ndarray) and not value.size):
        return []
    return list(value.ravel()) if isinstance(value, np.ndarray) else [value]


def _field(value: Any, name: str, at: str) -> Any:
    if name not in getattr(value, "_fieldnames", ()):
        raise ValueError(f"{at}: a structure with {name} is needed, got {value!r:.60}")
    return getattr(value, name)


def _number(value: Any, at: str, what: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | np.integer | np.floating):
        raise ValueError(f"{at}: {what} is a number, got {value!r:.60}")
    return float(value)


def main(path: str, out: str) -> int:
    """Unpack one file into another; 3, and a line, for what can't be read."""
    try:
        arrays = unpack(path)
        with open(out, "wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    except Exception as error:  # readers raise many kinds for what is damaged
        print(" ".join(str(error).split()) or type(error).__name__)
        return 3
    return 0


def limit_memory() -> None:
    """Limit this process's memory, for good: whoever is not a process of its own does not call it."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (LARGEST_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):  # not everywhere
        pass


if __name__ == "__main__":
    limit_memory()
    sys.exit(main(*sys.argv[1:]))
