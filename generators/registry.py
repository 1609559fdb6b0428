"""Generators by name: which there are, and building one with its options."""

from __future__ import annotations

import importlib
import inspect
import os
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import generators.models as models
from generators.base import Generator, without_later_options
from generators.choices import nearest, no_such

FOLDERS = "REID_AUG_GENERATORS"  # environment: folders of <name>.py and <name>.yaml beside the package's own


def folders() -> list[Path]:
    """Return the folders with the user's generators, as the environment names them; NotADirectoryError when one does not exist."""
    named = [Path(folder) for folder in os.environ.get(FOLDERS, "").split(os.pathsep) if folder]
    for folder in named:
        if not folder.is_dir():
            raise NotADirectoryError(f"{FOLDERS} names {folder}, which is no folder")
    return named


_PACKAGED = list(models.__path__)


def _places() -> list[str]:
    """Tell the import system where generators' files are, and return it; the package's come first, so nothing takes their names."""
    models.__path__[:] = [*_PACKAGED, *map(str, folders())]
    return list(models.__path__)


def names() -> list[str]:
    """Return every generator's name: one per file in generators/models and in the folders REID_AUG_GENERATORS names."""
    return sorted(m.name for m in pkgutil.iter_modules(_places()) if not m.name.startswith("_"))


def generator_class(name: str) -> type[Generator]:
    """Return the one Generator class that models/<name>.py defines; ValueError names the nearest when there is no such file."""
    if name not in names():
        raise ValueError(no_such("generator", name, names()))
    module = importlib.import_module(f"{models.__name__}.{name}")
    classes = [
        c for c in vars(module).values()
        if inspect.isclass(c) and issubclass(c, Generator) and c.__module__ == module.__name__ and not inspect.isabstract(c)
    ]  # fmt: skip
    if len(classes) != 1:
        raise ValueError(f"models/{name}.py defines one Generator, got {[c.__name__ for c in classes]}")
    return classes[0]


def create(name: str, **options: Any) -> Generator:
    """Build a generator by name with its options; an unknown option is refused with the nearest that exists."""
    cls = generator_class(name)
    parameters = {key: p.default for key, p in inspect.signature(cls.__init__).parameters.items() if key != "self"}
    for option, value in options.items():
        if option not in parameters:
            raise ValueError(f"generator {name!r} has no option {option!r}; it has {', '.join(parameters)}{nearest(option, parameters)}")
        _check_kind(name, option, value, parameters[option])
    try:
        return cls(**options)
    except (TypeError, RuntimeError, ArithmeticError) as error:  # a constructor's arithmetic on a value of the wrong kind
        raise ValueError(f"generator {name!r} can't be built with {options}: {error}") from None


def decisive(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a generator's options as digests and headers have them: those that came later only where they are no defaults.

    >>> decisive("pg2", {"width": 8, "discs": "signed-released", "second_stage": "symmetric"})
    {'width': 8, 'second_stage': 'symmetric'}
    """
    return without_later_options(generator_class(name), options)


def complete(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint's options with those that came later than it, at their defaults: what `decisive` left out."""
    cls = generator_class(name)
    parameters = inspect.signature(cls.__init__).parameters
    return {**{key: parameters[key].default for key in cls.later_options}, **options}


def _check_kind(name: str, option: str, value: Any, default: Any) -> None:
    """Raise ValueError unless a value is of its default's kind: a word where a number belongs may fail hours later."""
    kinds = {bool: (bool,), int: (int,), float: (int, float), str: (str,), tuple: (tuple, list)}.get(type(default))
    if kinds and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
        raise ValueError(f"generator {name!r}: {option} is of type {type(default).__name__} like {default!r}, got {value!r}")


def name_of(model: Generator) -> str:
    """Return the name that `create` knows the model's class by."""
    return type(model).__module__.rsplit(".", 1)[-1]
