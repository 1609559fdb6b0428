"""torchreid's data sets as people, and torchreid's own registry of them."""

from __future__ import annotations

import os
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

    FileNotFoundError without that folder, which torchreid would make and download to; ValueError for a name it has not.
    """
    if not Path(root).is_dir():
        raise FileNotFoundError(f"no folder {os.fspath(root)!r} with torchreid's data set {name!r} in it")
    try:
        return from_torchreid(named_dataset(name, root=os.fspath(root), verbose=False))
    except (ValueError, RuntimeError, AssertionError) as error:
        raise ValueError(f"torchreid's data set {name!r} below {os.fspath(root)!r}: {' '.join(str(error).split())[:200]}") from None


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
