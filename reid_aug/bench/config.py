"""What a benchmark is told: data, arms and their variants, baselines, seeds; refused before anything runs where it does not fit."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from generators import create, folders, nearest, read_header
from generators import names as generator_names
from reid_aug import config as configuration
from reid_aug.baselines import network as baselines
from reid_aug.baselines.recipes import BaselineConfig, with_recipe
from reid_aug.bench import variants
from reid_aug.bench.arms import COPIES, ERASING, NONE, ORACLE, parted
from reid_aug.bench.variants import Variant, combined
from reid_aug.config import Config
from reid_aug.data.loading import DataConfig
from reid_aug.quality.protocols import QualityConfig
from reid_aug.rendered.dataset import RenderedConfig
from reid_aug.synthesis.train import LearningConfig, TrainConfig

BASELINE = "reid:baseline"
DataShare = Annotated[float, Field(gt=0, le=1)]


class GeneratorArm(LearningConfig):
    """One generator arm: how its generator learns, or the checkpoint of one that has, which says what `generator` it is.

    With `perceptual.weights` "reid:baseline" images are compared by the network of the arm `none`, trained first.
    """

    save_every_steps: PositiveInt = 200
    checkpoint: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_the_checkpoint_says(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("checkpoint"), str):
            return values
        header = read_header(values["checkpoint"])
        made_by = {**header["options"], "name": header["generator"]}
        given = values.get("generator") or {}
        for key, value in (dict(given) if isinstance(given, dict) else given.model_dump()).items():
            # As JSON, a row of the header's and one of Python's are the same.
            if key not in made_by or json.loads(json.dumps(value)) != made_by[key]:
                said = f"{made_by[key]!r}" if key in made_by else "no such option"
                raise ValueError(f"{values['checkpoint']} says generator.{key} is {said}, got {value!r}: leave it out")
        return {**values, "generator": made_by}


class BenchConfig(Config):
    """A benchmark: data, arms, seeds, generators, and the baselines that every arm is trained with.

    Give one `baseline`, or several `baselines` by name: over what `baseline` says stands each one's recipe, over that its
    own keys. `test` (or `test_rendered`) tests on another data set than the one learnt from. `shares` repeats everything
    with parts of the training images (PIDM's low-data protocol). An arm that is a generator's name learns as that
    generator's YAML says, unless `generators` says which generator it is.
    """

    name: str = "rendered"
    out: str = "runs"
    rendered: dict[str, Any] | None = None  # options of the rendered data set
    data: DataConfig | None = None  # or real images
    test_rendered: dict[str, Any] | None = None
    test: DataConfig | None = None
    arms: tuple[str, ...] = (NONE, COPIES, "pg2", ORACLE)
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)
    per_image: PositiveInt = 2
    synthesis_seed: NonNegativeInt = 0
    generators: dict[str, GeneratorArm] = Field(default_factory=dict)
    variants: dict[str, Variant] = Field(default_factory=dict)
    baseline: BaselineConfig = BaselineConfig()
    baselines: dict[str, BaselineConfig] = Field(default_factory=dict)
    rerank: bool = False  # score k-reciprocal re-ranking (Zhong et al. 2017), too
    shares: tuple[DataShare, ...] = ()
    quality: QualityConfig = QualityConfig()
    record: str | None = None  # a JSON file to keep the table in

    @model_validator(mode="before")
    @classmethod
    def _baselines_build_on_the_baseline(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("baselines"), dict):
            return values
        common = dict(values.get("baseline") or {})
        given = values["baselines"]
        own = {name: {**common, **with_recipe(keys or {})} if isinstance(keys, dict | None) else keys for name, keys in given.items()}
        return {**values, "baselines": own}

    @model_validator(mode="before")
    @classmethod
    def _generators_learn_as_their_yaml_says(cls, values: Any) -> Any:
        entries = values.get("generators", {}) if isinstance(values, dict) else None
        if not isinstance(entries, dict | None):
            return values
        arms = values.get("arms", cls.model_fields["arms"].default)
        named = [parted(str(arm))[0] for arm in arms] if isinstance(arms, list | tuple) else []
        entries = dict(entries or {})
        for name in dict.fromkeys((*entries, *named)):
            if name in generator_names() and not _says_which(entries.get(name)):
                said, known = entries.get(name) or {}, _as_its_yaml_says(name)
                entries[name] = {**known, **said, "generator": {**known["generator"], **(said.get("generator") or {})}}
        return {**values, "generators": entries}

    @model_validator(mode="after")
    def _consistent(self) -> BenchConfig:
        if (self.rendered is None) == (self.data is None):
            raise ValueError("a benchmark runs on either `rendered` or `data`")
        if self.test is not None and self.test_rendered is not None:
            raise ValueError("a benchmark is tested on either `test_rendered` or `test`")
        for name in self.generators:
            if name in (NONE, COPIES, ORACLE, ERASING) or "+" in name or "/" in name:
                raise ValueError(f"generators are not called none, copies, oracle or erasing, and have no + or / in the name, got {name!r}")
        for arm in self.arms:
            self._check_arm(arm)
        if NONE not in self.arms or len(set(self.arms)) != len(self.arms) or not self.seeds:
            raise ValueError("arms are different, 'none' is one of them, and there is at least one seed")
        if len(set(self.seeds)) != len(self.seeds) or len(set(self.shares)) != len(self.shares):
            raise ValueError("seeds are different, and so are shares")
        return self

    def _check_arm(self, arm: str) -> None:
        images, names = parted(arm)
        known = [NONE, COPIES, *self.generators, *([ORACLE] if self.rendered is not None else [])]
        if images not in known:
            known = [*known, ERASING, *(name for name in generator_names() if name not in known)]
            raise ValueError(f"no arm named {arm!r}; there are {', '.join(known)}, and variants of them{nearest(arm, known)}")
        variant = combined(names, self.variants)
        if images in (NONE, COPIES) and not variant.model_fields_set <= {"erasing"}:
            raise ValueError(f"arm {arm!r}: {images!r} has no synthetic images that a variant other than erasing could speak of")
        if variant.online is not None and images == ORACLE:
            raise ValueError(f"arm {arm!r}: online images are a generator's")

    def variant(self, arm: str) -> Variant:
        """How an arm's synthetic images enter."""
        return combined(parted(arm)[1], self.variants)

    @property
    def trained(self) -> dict[str, BaselineConfig]:
        """Every baseline by name; a single one goes by its recipe or model."""
        return self.baselines or {self.baseline.recipe or self.baseline.model: self.baseline}

    @property
    def drawing(self) -> list[str]:
        """The generators whose images some arm trains on."""
        wanted = {parted(arm)[0] for arm in self.arms}
        return [name for name in self.generators if name in wanted]

    @property
    def wants_pairs(self) -> bool:
        """Whether parts of the training images hold pairs for generators to learn from."""
        return bool(self.generators)


def _says_which(entry: Any) -> bool:
    """Whether an entry of `generators` says which generator it is; what is no table is pydantic's to refuse."""
    if not isinstance(entry, dict):
        return entry is not None
    generator = entry.get("generator") or {}
    return bool(entry.get("checkpoint")) or not isinstance(generator, dict) or "name" in generator


def _as_its_yaml_says(name: str) -> dict[str, Any]:
    """How a generator learns by its own YAML: the shipped one, or the one in a user's folder; ValueError when there is none."""
    places = folders()
    with contextlib.suppress(FileNotFoundError):  # an installed package has no configurations beside it
        places.insert(0, configuration.shipped("generators"))
    found = [place / f"{name}.yaml" for place in places if (place / f"{name}.yaml").is_file()]
    if not found:
        raise ValueError(f"arm {name!r}: no {name}.yaml in {', '.join(map(str, places))}, and no generators.{name} in the benchmark")
    # Where to write and on what to train are the benchmark's; a misspelt key stays, to be refused.
    of_training_alone = TrainConfig.model_fields.keys() - GeneratorArm.model_fields.keys()
    said = {key: value for key, value in configuration.read_yaml(found[0]).items() if key not in of_training_alone}
    return {**said, "generator": {"name": name, **(said.get("generator") or {})}}


def load_config(path: str | None, overrides: Sequence[str]) -> BenchConfig:
    """A benchmark's configuration; unknown keys, arms and generators are refused before anything runs."""
    config = configuration.load(BenchConfig, path, overrides)
    for arm, asked in config.generators.items():
        if asked.generator.name not in generator_names():
            known = generator_names()
            hint = nearest(asked.generator.name, known)
            raise ValueError(f"arm {arm!r}: no generator named {asked.generator.name!r}; there are {', '.join(known)}{hint}")
        with torch.device("meta"):  # a network without memory: are its options right?
            create(asked.generator.name, **asked.generator.options)
    for name, baseline in config.trained.items():
        baselines.check(baseline, name)
        for arm in config.arms:
            try:
                variants.check(config.variant(arm), baseline)
            except ValueError as error:
                raise ValueError(f"arm {arm!r} under baseline {name!r}: {error}") from None
    for key in ("rendered", "test_rendered"):
        try:
            RenderedConfig(**(getattr(config, key) or {}))
        except TypeError as error:
            raise ValueError(f"{key}: {error}") from None
    if config.record is not None:
        _check_record(Path(config.record))
    return config


def _check_record(path: Path) -> None:
    """ValueError unless a file can be written there, which is done hours later."""
    if path.is_dir():
        raise ValueError(f"record is a JSON file to write, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"record={path} can't be written: {error.strerror}") from None
