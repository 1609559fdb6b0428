"""Generators by name: which there are, and building one with its options."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from pathlib import Path
from typing import Any

import generators.models as models
from generators.base import Generator
from generators.choices import nearest

FOLDERS = "REID_AUG_GENERATORS"  # environment: folders of <name>.py and <name>.yaml beside the package's own


def folders() -> list[Path]:
    """Folders with generators of the user's own, as the environment names them; NotADirectoryError when one is not there."""
    named = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    for folder in named:
        if not folder.is_dir():
            raise NotADirectoryError(f"{FOLDERS} names {folder}, which is no folder")
    return named


_OWN = list(models.__path__)


def _places() -> list[str]:
    """Where generators' files are, made known to the import system; the package's own come first, so nothing takes their names."""
    models.__path__[:] = [*_OWN, *map(str, folders())]
    return list(models.__path__)


def names() -> list[str]:
    """Every generator there is: one per file in generators/models and in the folders REID_AUG_GENERATORS names."""
    return sorted(m.name for m in pkgutil.iter_modules(_places()) if not m.name.startswith("_"))


def generator_class(name: str) -> type[Generator]:
    """The one Generator class that models/<name>.py defines; ValueError names the nearest when there is none."""
    if name not in names():
        raise ValueError(f"no generator named {name!r}; there are {', '.join(names())}{nearest(name, names())}")
    module = importlib.import_module(f"{models.__name__}.{name}")
    found = [
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Generator) and c.__module__ == module.__name__ and not inspect.isabstract(c)
    ]  # fmt: skip
    if len(found) != 1:
        raise ValueError(f"models/{name}.py defines one Generator, got {[c.__name__ for c in found]}")
    return found[0]


def create(name: str, **options: Any) -> Generator:
    """Build a generator by name with its options; an unknown option is refused with the nearest that exists."""
    cls = generator_class(name)
    known = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    for option in options:
        if option not in known:
            raise ValueError(f"generator {name!r} has no option {option!r}; it has {', '.join(known)}{nearest(option, known)}")
        _check_kind(name, option, options[option], inspect.signature(cls.__init__).parameters[option].default)
    try:
        return cls(**options)
    except (TypeError, RuntimeError, ArithmeticError) as error:  # a constructor's arithmetic on a value of the wrong kind
        raise ValueError(f"generator {name!r} can't be built with {options}: {error}") from None


def _check_kind(name: str, option: str, value: Any, default: Any) -> None:
    """ValueError unless a value is of its default's kind: a word where a number belongs may fail hours later."""
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (tuple, list)}.get(type(default))
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise ValueError(f"generator {name!r}: {option} is of type {type(default).__name__} like {default!r}, got {value!r}")


def name_of(model: Generator) -> str:
    """The name `create` knows the model's class by."""
    return type(model).__module__.rsplit(".", 1)[-1]
