"""How a benchmark's generators learn: as the YAML of their name says, wherever the benchmark says nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from generators import folders
from generators import names as generator_names
from reid_aug import config as configuration


def as_yamls_say(entries: Mapping[str, Any], origins: Iterable[str], left_out: Collection[str]) -> dict[str, Any]:
    """Fill in the entries of generators that YAMLs tell of, and make those of `origins` that have none.

    An entry may be a YAML's name, or a file; one that names a generator or a checkpoint stands alone; any other has its keys over those of
    the YAML called as it is. `left_out` are keys of YAMLs that a benchmark decides itself. ValueError for a YAML that there is not.
    """
    filled = dict(entries)
    for name in dict.fromkeys((*entries, *origins)):
        entry = filled.get(name)
        if isinstance(entry, str):
            try:
                file: Path | None = configuration.named(entry, "generators", "YAML of configs/generators", beside=folders())
            except ValueError as error:
                raise ValueError(f"generators.{name}: {error}") from None
            keys: dict[str, Any] = {}
        elif _stands_alone(entry):
            continue
        else:
            file, keys = yaml_of(name), entry or {}
        if file is None and name not in generator_names():
            continue  # refused as an arm that there is not
        learning = _learning(name, file, left_out)
        filled[name] = {**learning, **keys, "generator": {**learning["generator"], **(keys.get("generator") or {})}}
    return filled


def yaml_of(name: str) -> Path | None:
    """Give the YAML that an arm of this name learns by: the shipped one, or one in a user's folder; None where there is none."""
    return next((file for place in _places() if (file := place / f"{name}.yaml").is_file()), None)


def yaml_names() -> list[str]:
    """List the names that arms may have for the YAMLs of configs/generators and of users' folders."""
    return sorted({file.stem for place in _places() for file in place.glob("*.yaml")})


def _places() -> list[Path]:
    return [configuration.shipped("generators"), *folders()]


def _stands_alone(entry: Any) -> bool:
    """Say whether an entry of `generators` names a generator or a checkpoint; an entry that is no table is pydantic's to refuse."""
    if not isinstance(entry, dict):
        return entry is not None
    generator = entry.get("generator") or {}
    return bool(entry.get("checkpoint")) or not isinstance(generator, dict) or "name" in generator


def _learning(name: str, file: Path | None, left_out: Collection[str]) -> dict[str, Any]:
    """Read how a generator learns from its YAML; ValueError when there is none."""
    if file is None:
        raise ValueError(f"arm {name!r}: no {name}.yaml in {', '.join(map(str, _places()))}, and no generators.{name} in the benchmark")
    # Where to write and on what to train are the benchmark's; a misspelt key stays, to be refused.
    learning = {key: value for key, value in configuration.read_yaml(file).items() if key not in left_out}
    return {**learning, "generator": {"name": name, **(learning.get("generator") or {})}}
