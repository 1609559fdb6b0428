"""torchreid's data sets as people, and torchreid's own registry of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Container, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from generators import no_such
from reid_aug.data.doubts import first_few
from reid_aug.data.left_out import LeftOut, warn_of
from reid_aug.data.people import JUNK, SPLITS, PersonImage, tell_apart
from reid_aug.images import SUFFIXES

try:
    # Both packagings answer to this import; `import torchreid.data` works on the original alone.
    from torchreid import data as torchreid_data
except ImportError as error:
    raise ImportError(
        f"torchreid can't be imported ({error}): pip install torchreid gdown tensorboard scipy opencv-python-headless"
    ) from error


def torchreid_people(name: str, root: str | os.PathLike[str] = "") -> list[PersonImage]:
    """Read everybody of a torchreid data set: `name` as torchreid has it, `root` the folder its data sets are in.

    torchreid numbers its training people from 0, whoever has these numbers in the test splits: here they come after those, so that
    a number is one person. Junk (-1) is left out, and a line warns of image files beside those listed that torchreid passes over;
    `torchreid_left_out` lists both. FileNotFoundError without its folder, which torchreid would make and download to; ValueError
    for a name it has not, or what it can't read.
    """
    people, left_out = _read(name, root)
    warn_of(f"torchreid's data set {name!r}, left out", left_out)
    return people


def torchreid_left_out(name: str, root: str | os.PathLike[str] = "") -> list[LeftOut]:
    """List what torchreid_people leaves out: junk, and files beside those listed whose suffix torchreid does not look for."""
    return _read(name, root)[1]


def _read(name: str, root: str | os.PathLike[str]) -> tuple[list[PersonImage], list[LeftOut]]:
    _check_there(name, Path(root))
    where = f"torchreid's data set {name!r} below {os.fspath(root)!r}"
    try:
        everybody = _rows(named_dataset(name, root=os.fspath(root), verbose=False))
    except ModuleNotFoundError as error:
        needs = " ".join(dict.fromkeys([str(error.name), *(["imageio"] if error.name == "h5py" else [])]))
        raise ModuleNotFoundError(f"{where} can't be read without {error.name}: pip install {needs}", name=error.name) from None
    except (AttributeError, IndexError, KeyError) as error:  # torchreid takes names apart unchecked
        raise ValueError(f"{where}: a file is not named as torchreid's reader has it ({type(error).__name__}: {error})") from None
    except (ValueError, TypeError, RuntimeError, AssertionError, OSError) as error:
        raise ValueError(f"{where}: {' '.join(str(error).split())[:200] or type(error).__name__}") from None
    junk = [LeftOut(p.path, "of identity -1, junk", expected=True) for p in everybody if p.pid == JUNK]
    return apart(tell_apart([p for p in everybody if p.pid != JUNK])), junk + _passed_over(everybody)


def _check_there(name: str, root: Path) -> None:
    """Raise ValueError for a name that torchreid has no image data set of, FileNotFoundError where its folder is missing."""
    # The registry is private on both packagings; without it, torchreid makes the folder itself and tries to download.
    known = getattr(torchreid_data.datasets.init_image_dataset, "__globals__", {}).get("__image_datasets", {})  # pyright: ignore[reportAttributeAccessIssue]
    if known and name not in known:
        raise ValueError(no_such("torchreid data set", name, sorted(known)))
    below = getattr(known.get(name), "dataset_dir", None)
    place = root / below if isinstance(below, str) else root
    if not place.is_dir():
        advice = f"give data.root=torchreid:{name}:DIR"
        raise FileNotFoundError(f"no folder {os.fspath(place)!r}, where torchreid's data set {name!r} lies: {advice}")


def _passed_over(people: Sequence[PersonImage]) -> list[LeftOut]:
    """List image files in the folders of these images whose suffix none of the images has: torchreid's readers look for one."""
    folders = {os.path.dirname(p.path) for p in people}
    suffixes = {Path(p.path).suffix for p in people}
    why = f"of another suffix than {', '.join(sorted(suffixes))}, which torchreid passes over"
    names = sorted(os.path.join(folder, name) for folder in folders if os.path.isdir(folder) for name in os.listdir(folder))
    return [
        LeftOut(name, why) for name in names
        if not os.path.basename(name).startswith(".") and name.lower().endswith(SUFFIXES) and Path(name).suffix not in suffixes
    ]  # fmt: skip


def apart(people: Sequence[PersonImage]) -> list[PersonImage]:
    """Return the people with training identities numbered after the test splits', where the two share numbers.

    >>> [p.pid for p in apart([PersonImage("a", 0, 0, "train"), PersonImage("b", 0, 0, "query"), PersonImage("c", 7, 1, "gallery")])]
    [8, 0, 7]
    """
    train, test = ({p.pid for p in people if (p.split == "train") == is_train} for is_train in (True, False))
    first = max(test) + 1 if train & test else 0
    return [replace(p, pid=p.pid + first) if p.split == "train" else p for p in people]


def named_dataset(name: str, **options: Any) -> Any:
    """Build torchreid's image data set of this name, with torchreid's own options."""
    # The function is a submodule's on both packagings; the package itself does not export it.
    return torchreid_data.datasets.init_image_dataset(name, **options)  # pyright: ignore[reportAttributeAccessIssue]


def from_torchreid(dataset: Any) -> list[PersonImage]:
    """Take the people from a torchreid image data set's train, query and gallery, under names that tell them apart.

    TypeError unless each row is (path, pid, camid[, dsetid]), ValueError for one whose numbers are none.
    """
    return tell_apart(_rows(dataset))


def _rows(dataset: Any) -> list[PersonImage]:
    """Take the rows of a torchreid image data set as they are."""
    people = []
    for split in SPLITS:
        rows = getattr(dataset, split, None)
        if not isinstance(rows, list | tuple):
            raise TypeError(f"a torchreid data set has a list {split!r}, {type(dataset).__name__} has {type(rows).__name__}")
        people += [PersonImage(*four(row, split)[:3], split) for row in rows]
    return people


def four(row: Any, split: str) -> tuple[str, int, int, int]:
    """Give a row as torchreid wants all of them: a plain path (a Path breaks its collation), and a data set index.

    TypeError unless it is (path, pid, camid[, dsetid]), ValueError where pid, camid or dsetid is no whole number.
    """
    if not isinstance(row, list | tuple) or len(row) not in (3, 4) or not isinstance(row[0], str | os.PathLike):
        raise TypeError(f"a row of a torchreid image data set is (path, pid, camid[, dsetid]), {split} has {row!r}")
    path, *numbers = row
    for name, value in zip(("pid", "camid", "dsetid"), numbers, strict=False):
        try:
            whole = int(value) == (int(value) if isinstance(value, str) else value)  # a number in quotes is one
        except (TypeError, ValueError):
            whole = False
        if not whole:
            raise ValueError(
                f"{name} of a torchreid image data set is a whole number, {split} has {value!r} in {row!r}: number them, "
                f"as {{value: i for i, value in enumerate(sorted(set(values)))}} does"
            )
    pid, camid, *dsetid = (int(value) for value in numbers)
    return os.fspath(path), pid, camid, dsetid[0] if dsetid else 0


class OnlineIndex(int):
    """The data set index of a row that an online data set shows in new poses; torchreid's own sums would show the photograph alone."""

    def __add__(self, other: int) -> int:
        raise ValueError(
            "an online PoseAugmentedDataset stands first where data sets are added, as in sources=['market1501-posed-online', 'cuhk03']: "
            "a sum is of the first one's kind, and torchreid's shows photographs alone"
        )


def joined_rows(first: Any, other: Any, online: Container[int]) -> list[tuple[str, int, int, int]]:
    """Append the training rows of `other` to those of `first` as torchreid adds data sets; rows of `online` indices are OnlineIndex."""
    shifts = first.num_train_pids, first.num_train_cams, first.num_datasets
    rows = [*first.train, *((path, *(int(n) + by for n, by in zip(ids, shifts, strict=True))) for path, *ids in other.train)]
    return [(*row[:3], OnlineIndex(row[3]) if row[3] in online else row[3]) for row in rows]


def warn_of_labels(pids: Sequence[int]) -> None:
    """Warn of training labels that are not 0..N-1: torchreid sizes its classifier by their number, and takes them for columns."""
    labels = sorted(set(pids))
    if wrong := [label for label in labels if not 0 <= label < len(labels)]:
        relabel = "labels = {pid: label for label, pid in enumerate(sorted({row[1] for row in train}))}, then labels[row[1]] in each row"
        warnings.warn(
            f"torchreid needs training labels 0..{len(labels) - 1}, one for each of {len(labels)} people; {len(wrong)} are outside: "
            f"{first_few(wrong)}. Relabel: {relabel}",
            stacklevel=3,
        )
