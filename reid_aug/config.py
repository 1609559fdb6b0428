"""Configuration: YAML and dotted overrides → frozen models that refuse what they do not know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator
from yaml import YAMLError

from generators.registry import nearest

if TYPE_CHECKING:
    import torch


def _from_low_to_high(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1] < float("inf"):
        raise ValueError(f"from low to high, both above 0, got {list(interval)}")
    return interval


def _known_draw(draw: str) -> str:
    from reid_aug.drawing import check_draw  # torch and the people; most settings need neither

    return check_draw(draw)


def torch_device(device: str | torch.device) -> torch.device:
    """The device of that name, "auto" a GPU when there is one; ValueError names it and what there is."""
    import torch

    gpus = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if device == "auto":
        device = "cuda" if gpus else "cpu"
    try:
        found = torch.device(device)
        if found.type == "cuda":
            there = bool(gpus) and (found.index or 0) < len(gpus)
        else:  # a number that comes back: "meta" parses, and keeps none
            there = found.type == "cpu" or torch.ones(1, device=found).item() == 1
    except (RuntimeError, AssertionError, ImportError):
        there = False
    if not there:
        known = ["auto", "cpu", *gpus]
        raise ValueError(f"no device {str(device)[:SHOWN]!r} here; there are {', '.join(known)}{nearest(str(device), known)}")
    return torch.device(device)


def _known_device(device: str) -> str:
    torch_device(device)
    return device


SHOWN = 80  # characters of a value in a message
Draw = Annotated[str, AfterValidator(_known_draw)]
Device = Annotated[str, AfterValidator(_known_device)]
Interval = Annotated[tuple[float, float], AfterValidator(_from_low_to_high)]


class Config(BaseModel):
    """A frozen model that refuses unknown keys."""

    # A folder may be called 2024: YAML reads a number there.
    model_config = ConfigDict(frozen=True, extra="forbid", coerce_numbers_to_str=True)


class GeneratorConfig(BaseModel):
    """A generator's name and the options its constructor takes; the registry refuses unknown ones."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "pg2"

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class DataConfig(Config):
    """People: a Market-style folder or a CSV and the keypoint files that go with it, or YouTube Pose's .mat.

    `torchreid:NAME:ROOT` reads one of torchreid's data sets, e.g. torchreid:market1501:reid-data.
    """

    root: str
    keypoints: str | None = None  # of the training split; default: annotation-train.csv in the folder
    test_keypoints: str | None = None  # of query and gallery; default: annotation-test.csv, when it is there
    on_bad_image: Literal["raise", "skip"] = "raise"


class PerceptualConfig(Config):
    """What a paper's VGG terms compare images on: a PATH to weights, "imagenet", "reid:CHECKPOINT", or "none" to turn them off."""

    weights: str = "imagenet"


class JitterConfig(Config):
    """How far training pairs may be turned, scaled, shifted and (de)saturated at random, both images of a pair alike."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0
    scale: Interval = (1.0, 1.0)
    shift_px: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    saturation: Interval = (1.0, 1.0)


class LearningConfig(Config):
    """How a generator learns: from which pairs, with which weights to compare images on, for how long."""

    generator: GeneratorConfig = GeneratorConfig()
    steps: PositiveInt | None = None  # default: the paper's schedule
    perceptual: PerceptualConfig = PerceptualConfig()  # unused by papers without such terms
    batch_size: PositiveInt = 16
    flip: bool = True
    jitter: JitterConfig | None = None
    cross_camera: Literal["any", "prefer"] = "any"
    min_gap: Annotated[float, Field(ge=0, lt=1)] = 0.0  # a pair's frames lie farther apart than this share of their clip
    precision: str = "32-true"  # Lightning Fabric's names: 32-true, bf16-mixed, 16-mixed
    save_every_steps: PositiveInt = 1000
    sample_every_steps: PositiveInt = 1000


class TrainConfig(LearningConfig):
    """`reid-aug train`: which generator, on which people, for how long, to which folder."""

    data: DataConfig
    out: str
    seed: int = 0
    teacher: Literal["keypoints", "keypoint-rcnn"] = "keypoints"  # whose joints a generator learns that finds poses itself (MOMI-Net)
    accelerator: str = "auto"
    devices: int | str = 1
    compile: bool = False
    log_every_steps: PositiveInt = 20
    samples: PositiveInt = 8


class DumpConfig(Config):
    """`reid-aug dump`: which checkpoint draws how many new poses of which people, to which folder."""

    checkpoint: str
    data: DataConfig
    out: str
    per_image: PositiveInt = 2
    draw: Draw = "whole"  # how target poses are chosen: whole, missing-views, canonical, camera-aware
    seed: int = 0
    batch_size: PositiveInt = 64
    device: Device = "auto"
    copy_real: bool = True


class GateConfig(Config):
    """Which synthetic images enter training; what is None is not asked. Both together: what passes both.

    `identity`: "found" keeps images whose person a Re-ID network finds again, a number in [0, 1) drops that share of
    the lowest scores. `novelty` keeps images whose pose is at least so many torso lengths from any of the identity's own.
    """

    identity: Literal["found"] | float | None = None
    novelty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @field_validator("identity", mode="before")
    @classmethod
    def _share(cls, identity: Any) -> Any:
        is_share = isinstance(identity, int | float) and not isinstance(identity, bool) and 0 <= identity < 1
        if identity not in (None, "found") and not is_share:
            raise ValueError(f"'found', or the share in [0, 1) of lowest scores to drop, got {identity!r}")
        return identity


class GateRun(GateConfig):
    """`reid-aug gate DUMP`: the gate, who judges identity, and where to write the dump of what it keeps."""

    reid: str | None = None  # a Re-ID network of the benchmark's, trained on the real images alone
    out: str | None = None
    data: DataConfig | None = None  # the real images, where the dump holds none
    device: Device = "auto"

    @property
    def gate(self) -> GateConfig:
        return GateConfig(identity=self.identity, novelty=self.novelty)


class RenderedSetConfig(BaseModel):
    """`reid-aug rendered`: write the embedded data set to `out`; the other keys are `reid_aug.rendered.RenderedConfig`'s."""

    model_config = ConfigDict(frozen=True, extra="allow")
    out: str


C = TypeVar("C", bound=BaseModel)


def load(model: type[C], path: str | Path | None = None, overrides: Sequence[str] = ()) -> C:
    """A frozen `model` from a YAML file and `key.sub=value` overrides; ValueError names key, rule and value."""
    for override in overrides:
        if "=" not in override or override.startswith("="):
            raise ValueError(f"an override reads key=value, got {override!r}")
    if path is not None and not Path(path).is_file():
        raise FileNotFoundError(f"no configuration file at {path}")
    try:
        merged = OmegaConf.create({}) if path is None else OmegaConf.load(path)
        if not isinstance(merged, DictConfig):
            raise ValueError(f"a configuration is a table of keys, got {type(OmegaConf.to_container(merged)).__name__}")
        values = OmegaConf.to_container(OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides))), resolve=True)
    # OmegaConf lets plain errors through where an override and the file do not fit together.
    except (YAMLError, OmegaConfBaseException, ValueError, TypeError, AttributeError, KeyError, OSError) as error:
        raise ValueError(f"{path or 'overrides'}: {' '.join(str(error).split())}") from None
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"{path}: {explain(model, error)}" if path else explain(model, error)) from None


def read_yaml(path: str | Path) -> dict[str, Any]:
    """The table of keys in a YAML file; FileNotFoundError or ValueError, in one line, when there is none."""
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
    """A file or folder of `configs/` in the checkout this package runs from."""
    path = Path(__file__).resolve().parents[1] / "configs" / name
    if not path.exists():
        raise FileNotFoundError(f"no configuration named, and none at {path}: give a .yaml file")
    return path


def explain(model: type[BaseModel], error: ValidationError) -> str:
    """One complaint of pydantic's as one line: the key, the rule, the value, and the nearest key when one is unknown."""
    # A misspelt key comes first: that the right one is missing follows from it.
    first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    keys, _ = _walk(model, first["loc"])
    where = _cut(".".join(keys))
    begin = f"{where}: " if where else ""
    if first["type"] == "extra_forbidden":
        known: list[str] = list(getattr(_walk(model, first["loc"][:-1])[1], "model_fields", ()))
        return f"unknown key {where!r}; there are {', '.join(known)}{nearest(keys[-1][:SHOWN], known)}"
    if first["type"] == "missing":
        return f"{where} is missing: give {where}=…"
    if first["type"].startswith("union_tag"):
        return f"{begin}{_kinds(model, first['loc'], first.get('ctx', {}))}"
    if first["type"] == "value_error":  # a rule of ours, whose message has the value; pydantic's input may be the whole table
        return begin + first["msg"].removeprefix("Value error, ")
    said = begin + first["msg"][0].lower() + first["msg"][1:]
    # The value of broken JSON is the whole file.
    return said if first["type"] == "json_invalid" else f"{said}, got {_cut(repr(first['input']))}"


def _cut(said: str) -> str:
    return said if len(said) <= SHOWN else said[: SHOWN - 1] + "…"


def _kinds(model: type[BaseModel], where: tuple[int | str, ...], about: dict[str, Any]) -> str:
    """What a table whose kind is unknown, or not given, may be."""
    key = str(about["discriminator"]).strip("'")
    kinds = [kind for member in get_args(_bare(_walk(model, where)[1])) for kind in get_args(member.model_fields[key].annotation)]
    if "tag" in about:
        tag = str(about["tag"])[:SHOWN]
        return f"no {key} {tag!r}; there are {', '.join(kinds)}{nearest(tag, kinds)}"
    return f"give its {key}, one of {', '.join(kinds)}"


def _walk(model: Any, where: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """The keys a user wrote on the way to a place of pydantic's, which names union members too, and the type that is there."""
    keys: list[str] = []
    for part in where:
        model = _bare(model)
        if get_origin(model) in (Union, UnionType):
            members = [member for member in map(_bare, get_args(model)) if member is not type(None)]
            if len(members) > 1:  # the part is a member's name, or its tag
                tagged = (m for m in members if _is_model(m) and any(part in get_args(f.annotation) for f in m.model_fields.values()))
                model = next(tagged, None)
                continue
            model = members[0]
        keys.append(str(part))
        if _is_model(model):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        else:  # a table's values or a row's elements
            inside = [one for one in get_args(model) if one is not Ellipsis]
            model = inside[-1] if inside else None
    return keys, model


def _bare(kind: Any) -> Any:
    """A type without what is annotated to it."""
    return _bare(get_args(kind)[0]) if get_origin(kind) is Annotated else kind


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def digest(config: BaseModel | dict[str, Any]) -> str:
    """Twelve hex digits that change when any value of the configuration does."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
