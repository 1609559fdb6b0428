"""Configuration: YAML and dotted overrides → frozen models that refuse what they do not know."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, ValidationError, field_validator
from yaml import YAMLError

from generators.registry import nearest


def _from_low_to_high(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1] < float("inf"):
        raise ValueError(f"from low to high, both above 0, got {list(interval)}")
    return interval


def _known_draw(draw: str) -> str:
    from reid_aug.drawing import check_draw  # torch and the people; most settings need neither

    return check_draw(draw)


Draw = Annotated[str, AfterValidator(_known_draw)]
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
    device: str = "auto"
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
    device: str = "auto"

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
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        known = _keys_at(model, first["loc"][:-1])
        return f"unknown key {where!r}; there are {', '.join(known)}{nearest(str(first['loc'][-1]), known)}"
    if first["type"] == "missing":
        return f"{where} is missing: give {where}=…"
    if first["type"] == "value_error":  # a rule of ours, whose message has the value; pydantic's input may be the whole table
        said = first["msg"].removeprefix("Value error, ")
        return f"{where}: {said}" if where else said
    return f"{where}: {first['msg'][0].lower()}{first['msg'][1:]}, got {first['input']!r}"


def _keys_at(model: type[BaseModel], where: tuple[int | str, ...]) -> list[str]:
    for part in where:
        field = model.model_fields.get(str(part))
        inner = [t for t in (field.annotation, *getattr(field.annotation, "__args__", ())) if _is_model(t)] if field else []
        if not inner:
            return []
        model = inner[0]  # type: ignore[assignment]
    return list(model.model_fields)


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def digest(config: BaseModel | dict[str, Any]) -> str:
    """Twelve hex digits that change when any value of the configuration does."""
    values = config.model_dump(mode="json") if isinstance(config, BaseModel) else config
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
