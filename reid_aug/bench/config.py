"""A benchmark's configuration: data, arms and their variants, baselines, seeds; what does not fit is refused before anything runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeInt, PositiveInt, field_serializer, model_validator

from generators import complete, create, nearest, no_such, read_header
from generators import names as generator_names
from reid_aug import config as configuration
from reid_aug.baselines import network
from reid_aug.baselines.mixing import Mixing, idle
from reid_aug.baselines.neighbours import Backend, usable
from reid_aug.baselines.recipes import BaselineConfig, with_recipe
from reid_aug.bench import variants
from reid_aug.bench.arms import COPIES, NONE, OF_REAL_IMAGES, ORACLE, origin_and_variants
from reid_aug.bench.learning import as_yamls_say, yaml_names
from reid_aug.bench.tuning import TuningConfig
from reid_aug.bench.variants import Variant, combined
from reid_aug.config import Config
from reid_aug.data.loading import DataConfig
from reid_aug.quality.protocols import QualityConfig
from reid_aug.rendered import RenderedConfig
from reid_aug.synthesis.bank_named import BankName
from reid_aug.synthesis.target_poses import RECOMBINED
from reid_aug.synthesis.train import LearningConfig, TrainConfig

BASELINE = "reid:baseline"
DataShare = Annotated[float, Field(gt=0, le=1)]


class GeneratorArm(LearningConfig):
    """One generator of a benchmark: how it learns, or a checkpoint of one that has learnt.

    With `perceptual.weights` "reid:baseline" images are compared by the network of the arm `none`, trained first.
    """

    save_every_steps: PositiveInt = 200  # Steps between checkpoints of its training.
    checkpoint: str | None = None  # File of a trained generator, which names its class and options; nothing is trained then.

    @model_validator(mode="before")
    @classmethod
    def _generator_of_the_checkpoint(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("checkpoint"), str):
            return values
        header = read_header(values["checkpoint"])
        made_by = {**complete(header["generator"], header["options"]), "name": header["generator"]}
        given = values.get("generator") or {}
        for key, value in (dict(given) if isinstance(given, dict) else given.model_dump()).items():
            # A tuple here is a list in the header: both are compared as JSON.
            if key not in made_by or json.loads(json.dumps(value)) != made_by[key]:
                recorded = f"{made_by[key]!r}" if key in made_by else "no such option"
                raise ValueError(f"{values['checkpoint']} says generator.{key} is {recorded}, got {value!r}: leave it out")
        return {**values, "generator": {**header["options"], "name": header["generator"]}}


class BenchConfig(Config):
    """A benchmark: data, arms, seeds, generators, and the baselines that every arm is trained with.

    Give one `baseline`, or several `baselines` by name. Each of several takes its keys from three places: its entry's
    keys come before those of the recipe it names, and those before the keys of `baseline`. An arm that is called as
    a YAML of configs/generators, a generator's name or "vdg-w", learns as that says, unless its entry in `generators` names a generator
    or a checkpoint; an entry may be the name of another YAML (`generators.posewarp: posewarp-market`).
    """

    name: str = "rendered"  # Name of the benchmark, with which its folder begins.
    out: str = "runs"  # Folder that the benchmark's folder is written into.
    rendered: dict[str, Any] | None = None  # Options of a rendered data set to learn from; give this or `data`.
    data: DataConfig | None = None  # Real images to learn from.
    test_rendered: dict[str, Any] | None = None  # Options of another rendered data set to test on.
    test: DataConfig | None = None  # Real images of another data set to test on.
    # Conditions to compare: each an origin of images ("none", "copies", "oracle", a generator's name), and variants after plus signs.
    arms: tuple[str, ...] = (NONE, COPIES, "pg2", ORACLE)
    seeds: tuple[NonNegativeInt, ...] = (0, 1, 2)  # Seeds of the trainings of each arm.
    per_image: PositiveInt = 2  # Number of synthetic images of each training image.
    synthesis_seed: NonNegativeInt = 0  # Seed of the generators' trainings, of the target poses and of shares.
    generators: dict[str, GeneratorArm] = Field(default_factory=dict)  # Generators by the name that arms call them.
    variants: dict[str, Variant] = Field(default_factory=dict)  # Variants beside the shipped ones, by name.
    mixing: Mixing = Mixing()  # How synthetic images enter every arm that has some on disk, where the arm's variants say nothing.
    oracle_of: str | None = None  # Generator whose target poses and scenes the oracle has; None is the first among the arms.
    # Pose bank that every arm draws from: a file of `reid-aug bank`, canonical-8 or canonical-16; None is the training images' poses.
    bank: BankName | None = None
    baseline: BaselineConfig = BaselineConfig()  # Baseline, or what several `baselines` have in common.
    baselines: dict[str, BaselineConfig] = Field(default_factory=dict)  # Several baselines by name.
    backend: Backend = "auto"  # What searches for neighbours, for gates and identity rank-1: torch (which auto is), faiss-cpu or faiss-gpu.
    rerank: bool = False  # Whether k-reciprocal re-ranking (Zhong et al. 2017) is scored, too.
    shares: tuple[DataShare, ...] = ()  # Parts of the training images with which everything is repeated (PIDM's low-data protocol).
    tuning: TuningConfig | None = None  # Trials, as many for every arm, that choose its setting; None leaves all untuned.
    quality: QualityConfig = QualityConfig()  # Image quality to measure.
    record: str | None = None  # JSON file to keep tables and lines in.

    @model_validator(mode="before")
    @classmethod
    def _baselines_build_on_the_baseline(cls, values: Any) -> Any:
        if not isinstance(values, dict) or not isinstance(values.get("baselines"), dict):
            return values
        common, entries = dict(values.get("baseline") or {}), values["baselines"].items()
        baselines = {name: {**common, **with_recipe(keys or {})} if isinstance(keys, dict | None) else keys for name, keys in entries}
        return {**values, "baselines": baselines}

    @model_validator(mode="before")
    @classmethod
    def _generators_learn_as_their_yaml_says(cls, values: Any) -> Any:
        entries = values.get("generators", {}) if isinstance(values, dict) else None
        if not isinstance(entries, dict | None):
            return values
        arms = values.get("arms", cls.model_fields["arms"].default)
        origins = [origin_and_variants(str(arm))[0] for arm in arms] if isinstance(arms, list | tuple) else []
        origins = [name for name in origins if name not in (NONE, COPIES, ORACLE)]
        of_training_alone = TrainConfig.model_fields.keys() - GeneratorArm.model_fields.keys()
        return {**values, "generators": as_yamls_say(entries or {}, origins, of_training_alone)}

    @model_validator(mode="after")
    def _consistent(self) -> BenchConfig:
        if (self.rendered is None) == (self.data is None):
            raise ValueError("a benchmark runs on either `rendered` or `data`")
        if self.test is not None and self.test_rendered is not None:
            raise ValueError("a benchmark is tested on either `test_rendered` or `test`")
        for name in self.generators:
            if name in (NONE, COPIES, ORACLE, *OF_REAL_IMAGES) or "+" in name or "/" in name:
                taken = "none, copies, oracle, erasing or grey-patch"
                raise ValueError(f"generators are not called {taken}, and have no + or / in the name, got {name!r}")
        if self.oracle_of is not None and self.oracle_of not in self.generators:
            raise ValueError(f"oracle_of: {no_such('generator of the benchmark', self.oracle_of, list(self.generators) or [NONE])}")
        self._check_mixing()
        for arm in self.arms:
            self._check_arm(arm)
        if self.bank is not None and any(origin_and_variants(arm)[0] == ORACLE for arm in self.arms):
            raise ValueError(f"bank={self.bank}: the oracle knows true images of the rendered people's own poses alone: leave the arm out")
        if NONE not in self.arms or len(set(self.arms)) != len(self.arms) or not self.seeds:
            raise ValueError("arms are different, 'none' is one of them, and there is at least one seed")
        if len(set(self.seeds)) != len(self.seeds) or len(set(self.shares)) != len(self.shares):
            raise ValueError("seeds are different, and so are shares")
        return self

    def _check_mixing(self) -> None:
        if complaint := idle(self.mixing):
            raise ValueError(f"mixing: {complaint}")
        for key in ("erasing", "grey_patch"):
            if (value := getattr(self.mixing, key)) is not None:
                raise ValueError(f"mixing says how synthetic images enter; {key} changes real ones, too: set baseline.{key}, got {value:g}")

    def _check_arm(self, arm: str) -> None:
        origin, _ = origin_and_variants(arm)
        origins = [NONE, COPIES, *self.generators, *([ORACLE] if self.rendered is not None else [])]
        if origin not in origins:
            origins += [*OF_REAL_IMAGES, *(name for name in generator_names() if name not in origins)]
            there_are = f"{', '.join(origins)}, the YAMLs of configs/generators, and variants of them"
            raise ValueError(f"no arm named {arm!r}; there are {there_are}{nearest(arm, [*origins, *yaml_names()])}")
        variant = self.variant(arm)
        if variant.draw == RECOMBINED and origin == NONE:
            raise ValueError(f"arm {arm!r}: recombined people are a generator's, or of `{COPIES}`: photographs cut at the hips and joined")
        made_of_real = origin in (NONE, COPIES) and variant.draw != RECOMBINED
        if made_of_real and not variant.model_fields_set <= {"erasing", "grey_patch"}:
            rule = "has no synthetic images that a variant other than erasing and grey-patch could speak of"
            raise ValueError(f"arm {arm!r}: {origin!r} {rule}")
        if variant.online is not None and origin == ORACLE:
            raise ValueError(f"arm {arm!r}: online images are a generator's")
        if variant.draw == RECOMBINED and origin == ORACLE:
            raise ValueError(f"arm {arm!r}: of recombined people there is no true image")

    def variant(self, arm: str) -> Variant:
        """Combine the variants that an arm names and, where it has synthetic images on disk, the benchmark's mixing."""
        origin, names = origin_and_variants(arm)
        if origin in (NONE, COPIES) and combined(names, self.variants).draw != RECOMBINED:
            return combined(names, self.variants)
        return combined(names, self.variants, self.mixing)

    @field_serializer("variants", "mixing")
    def _as_given(self, tables: Any) -> Any:
        """Write the keys that were given alone: one that is written stands over the mixing's, the default's value or not."""
        if isinstance(tables, Mixing):
            return tables.model_dump(mode="json", exclude_unset=True)
        return {name: table.model_dump(mode="json", exclude_unset=True) for name, table in tables.items()}

    @property
    def baselines_by_name(self) -> dict[str, BaselineConfig]:
        """Name every baseline; a single one goes by its recipe or model."""
        return self.baselines or {self.baseline.recipe or self.baseline.model: self.baseline}

    @property
    def generators_used(self) -> list[str]:
        """Name the generators whose images some arm trains on."""
        origins = {origin_and_variants(arm)[0] for arm in self.arms}
        return [name for name in self.generators if name in origins]

    @property
    def beside_oracle(self) -> str | None:
        """Name the generator whose target poses and scenes the oracle has; None where no arm is a generator's."""
        origins = (origin_and_variants(arm)[0] for arm in self.arms)
        return self.oracle_of or next((origin for origin in origins if origin in self.generators), None)

    @property
    def wants_pairs(self) -> bool:
        """Say whether parts of the training images hold pairs for generators to learn from."""
        return bool(self.generators)


def load_config(path: str | None, overrides: Sequence[str]) -> BenchConfig:
    """Load a benchmark's configuration; unknown keys, arms and generators are refused before anything runs."""
    config = configuration.load(BenchConfig, path, overrides)
    for arm, learning in config.generators.items():
        generator, names = learning.generator, generator_names()
        if generator.name not in names:
            raise ValueError(f"arm {arm!r}: {no_such('generator', generator.name, names)}")
        with torch.device("meta"):  # a network without memory: are its options right?
            create(generator.name, **generator.options)
    for name, baseline in config.baselines_by_name.items():
        network.check(baseline, name)
        for arm in config.arms:
            try:
                variants.check(config.variant(arm), baseline)
                if config.tuning is not None:
                    config.tuning.check(origin_and_variants(arm)[0], config.variant(arm), baseline)
            except ValueError as error:
                raise ValueError(f"arm {arm!r} under baseline {name!r}: {error}") from None
    for key in ("rendered", "test_rendered"):
        try:
            RenderedConfig(**(getattr(config, key) or {}))
        except TypeError as error:
            raise ValueError(f"{key}: {error}") from None
    usable(config.backend)
    if config.record is not None:
        _check_record(Path(config.record))
    return config


def _check_record(path: Path) -> None:
    """Raise ValueError unless a file can be written there: the record is, hours later."""
    if path.is_dir():
        raise ValueError(f"record is a JSON file to write, got the folder {path}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"record={path} can't be written: {error.strerror}") from None
