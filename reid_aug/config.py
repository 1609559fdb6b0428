"""Configuration: YAML and dotted overrides → frozen models that refuse what they do not know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, ValidationError
from yaml import YAMLError

from generators import nearest, no_such

SHOWN = 80  # characters of a value in a message


def _shipped() -> Path:
    """Find the shipped configurations: beside the package in a checkout, inside it where a wheel was installed."""
    inside = Path(__file__).resolve().parent / "configs"
    return inside if inside.is_dir() else Path(__file__).resolve().parents[1] / "configs"


SHIPPED = _shipped()


class Config(BaseModel):
    """A frozen model that refuses unknown keys."""

    # A folder may be called 2024: YAML reads a number there.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


C = TypeVar("C", bound=BaseModel)


def load(model: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """Make a frozen `model` from a YAML file and `key.sub=value` overrides; ValueError names key, rule and value."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"an override reads key=value, got {override!r}")
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        merged = OmegaConf.create({}) if path is None else OmegaConf.load(path)
        if not isinstance(merged, DictConfig):
            raise ValueError(f"a configuration is a table of keys, got {type(OmegaConf.to_container(merged)).__name__}")
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        if left_open := sorted(OmegaConf.missing_keys(merged)):  # ??? in a file
            raise ValueError(_missing(left_open[0]))
        values = OmegaConf.to_container(merged, resolve=True)
    # OmegaConf lets plain errors through where an override and the file do not fit together.
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise ValueError(f"{path or 'overrides'}: {' '.join(str(error).split())}") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(model, error)}" if path else explain(model, error)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read the table of keys in a YAML file; FileNotFoundError or ValueError, in one line, when there is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: a configuration is a table of keys, got {type(values).__name__}")
    return {str(key): value for key, value in values.items()}


def shipped(name: str) -> Path:
    """Give a file or folder of the configurations that come with this package; FileNotFoundError when there is none of that name."""
    path = SHIPPED / name
    if not path.exists():
        raise FileNotFoundError(f"no configuration {name!r} among those shipped in {SHIPPED}: give a .yaml file")
    return path


def named(name: str, folder: str, what: str = "configuration", beside: Sequence[Path] = ()) -> Path:
    """Give the YAML of a shipped configuration's name, such as `pg2` of `generators`, or the file itself where a path is given.

    `beside` are folders of the user's own; the shipped ones come first. ValueError, with the nearest, for a name that is neither.
    """
    known = {path.stem: path for place in (*reversed(beside), shipped(folder)) for path in sorted(place.glob("*.yaml"))}
    if name not in known:
        if name.endswith((".yaml", ".yml")) or Path(name).is_file():
            return Path(name)
        raise ValueError(f"{no_such(what, name, sorted(known))}, or give a .yaml file")
    return known[name]


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """Put one complaint of pydantic's into one line: the key, the rule, the value, and the nearest key when one is unknown."""
    # A misspelt key comes first: that the right one is missing follows from it.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    keys, _ = _walk(model, first["loc"])
    where = _cut(".".join(keys))
    begin = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known: list[str] = list(getattr(_walk(model, first["loc"][:-1])[1], "model_fields", ()))
        return f"unknown key {where!r}; there are {', '.join(known)}{nearest(keys[-1][:SHOWN], known)}"
    if first["type"] == "missing":
        inside = _bare(_walk(model, first["loc"])[1])  # a table's own key is what can be typed
        needed = [key for key, field in inside.model_fields.items() if field.is_required()] if _is_model(inside) else []
        return _missing(".".join([where, *needed[:1]]))
    if first["type"].startswith("union_tag"):
        return f"{begin}{_kinds(model, first['loc'], first.get('ctx', {}))}"
    if first["type"] == "value_error":  # a rule of ours, whose message has the value; pydantic's input may be the whole table
        return begin + first["msg"].removeprefix("Value error, ")
    complaint = begin + first["msg"][0].lower() + first["msg"][1:]
    # The value of broken JSON is the whole file.
    return complaint if first["type"] == "json_invalid" else f"{complaint}, got {_cut(repr(first['input']))}"


def _missing(key: str) -> str:
    return f"{key} is missing: give {key}=…"


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def _kinds(model: type[BaseModel], where: tuple[int | str, ...], about: dict[str, Any]) -> str:
    """Say what a table whose kind is unknown, or not given, may be."""
    key = str(about["discriminator"]).strip("'")
    kinds = [kind for member in get_args(_bare(_walk(model, where)[1])) for kind in get_args(member.model_fields[key].annotation)]
    if "tag" in about:
        tag = str(about["tag"])[:SHOWN]
        return f"no {key} {tag!r}; there are {', '.join(kinds)}{nearest(tag, kinds)}"
    return f"give its {key}, one of {', '.join(kinds)}"


def _walk(model: Any, where: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Follow the keys a user wrote on the way to a place of pydantic's, which names union members too, and the type that is there."""
    keys: list[str] = []
    for part in where:
        model = _bare(model)
        if get_origin(model) in (Union, UnionType):
            # The part is a member's name, or its tag.
            members = [member for member in map(_bare, get_args(model)) if _is_model(member)]
            model = next((m for m in members if any(part in get_args(f.annotation) for f in m.model_fields.values())), None)
            continue
        keys.append(str(part))
        if _is_model(model):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        else:  # a table's values or a row's elements
            inside = [kind for kind in get_args(model) if kind is not Ellipsis]
            model = inside[-1] if inside else None
    return keys, _bare(model)


def _bare(kind: Any) -> Any:
    """Strip a type of what is annotated to it, and of None where nothing else stands beside it."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    members = [member for member in get_args(kind) if member is not type(None)]
    return _bare(members[0]) if get_origin(kind) in (Union, UnionType) and len(members) == 1 else kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def digest(config: BaseModel | dict[str, Any]) -> str:
    """Give twelve hex digits that change when any value of the configuration does."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
