"""torchreid's data sets as people, and torchreid's own registry of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from reid_aug.data.people import SPLITS, PersonImage, tell_apart

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
    a number is one person. FileNotFoundError without that folder, which torchreid would make and download to; ValueError for a
    name it has not.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(root)!r} with torchreid's data set {name!r} in it")
    try:
        return apart(from_torchreid(named_dataset(name, root=os.fspath(root), verbose=False)))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"torchreid's data set {name!r} below {os.fspath(root)!r}: {' '.join(str(error).split())[:200]}") from None


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
    """Take the people from a torchreid image data set's train, query and gallery.

    TypeError unless each row is (path, pid, camid[, dsetid]).
    """
    people = []
    for split in SPLITS:
        rows = getattr(dataset, split, None)
        if not isinstance(rows, list | tuple):
            raise TypeError(f"a torchreid data set has a list {split!r}, {type(dataset).__name__} has {type(rows).__name__}")
        for row in rows:
            if not isinstance(row, list | tuple) or len(row) not in (3, 4) or not isinstance(row[0], str | os.PathLike):
                raise TypeError(f"a row of a torchreid image data set is (path, pid, camid[, dsetid]), {split} has {row!r}")
            people.append(PersonImage(os.fspath(row[0]), int(row[1]), int(row[2]), split))
    return tell_apart(people)
