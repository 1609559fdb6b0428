"""What a benchmark is told: data, arms and their variants, baselines, seeds; refused before anything runs where it does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt, model_validator

from generators import create
from generators import names as generator_names
from generators.registry import nearest, read_header
from reid_aug import config as configuration
from reid_aug.bench.arms import COPIES, NONE, ORACLE, parted
from reid_aug.bench.baseline import BaselineConfig, build, with_recipe
from reid_aug.bench.protocols import QualityConfig
from reid_aug.bench.variants import Variant, combined
from reid_aug.config import Config, DataConfig, LearningConfig
from reid_aug.rendered import RenderedConfig

BASELINE = "reid:baseline"
DataShare = Annotated[float, Field(gt=0, le=1)]


class GeneratorArm(LearningConfig):
    """One generator arm: how its generator learns, or the checkpoint of one that has.

    With `perceptual.weights` "reid:baseline" images are compared by the network of the arm `none`, trained first.
    """

    save_every_steps: PositiveInt = 200
    checkpoint: str | None = None


class BenchConfig(Config):
    """A benchmark: data, arms, seeds, generators, and the baselines that every arm is trained with.

    Give one `baseline`, or several `baselines` by name: over what `baseline` says stands each one's recipe, over that its
    own keys. `test` (or `test_rendered`) tests on another data set than the one learnt from. `shares` repeats everything
    with parts of the training images (PIDM's low-data protocol).
    """

    name: str = "rendered"
    out: str = "runs"
    rendered: dict[str, Any] | None = None  # options of the rendered data set
    data: DataConfig | None = None  # or real images
    test_rendered: dict[str, Any] | None = None
    test: DataConfig | None = None
    arms: tuple[str, ...] = (NONE, COPIES, "pg2", ORACLE)
    seeds: tuple[int, ...] = (0, 1, 2)
    per_image: PositiveInt = 2
    synthesis_seed: int = 0
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

    @model_validator(mode="after")
    def _consistent(self) -> BenchConfig:
        if (self.rendered is None) == (self.data is None):
            raise ValueError("a benchmark runs on either `rendered` or `data`")
        if self.test is not None and self.test_rendered is not None:
            raise ValueError("a benchmark is tested on either `test_rendered` or `test`")
        for arm in self.arms:
            self._check_arm(arm)
        if NONE not in self.arms or len(set(self.arms)) != len(self.arms) or not self.seeds:
            raise ValueError("arms are different, 'none' is one of them, and there is at least one seed")
        if len(set(self.seeds)) != len(self.seeds) or len(set(self.shares)) != len(self.shares):
            raise ValueError("seeds are different, and so are shares")
        return self

    def _check_arm(self, arm: str) -> None:
        images, variants = parted(arm)
        known = [NONE, COPIES, *self.generators, *([ORACLE] if self.rendered is not None else [])]
        if images not in known:
            known = [*known, "erasing"]
            raise ValueError(f"no arm named {arm!r}; there are {', '.join(known)}, and variants of them{nearest(arm, known)}")
        variant = combined(variants, self.variants)
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


def load_config(path: str | None, overrides: Sequence[str]) -> BenchConfig:
    """A benchmark's configuration; unknown keys, arms and generators are refused before anything runs."""
    config = configuration.load(BenchConfig, path, overrides)
    for arm, asked in config.generators.items():
        if asked.generator.name not in generator_names():
            known = generator_names()
            hint = nearest(asked.generator.name, known)
            raise ValueError(f"arm {arm!r}: no generator named {asked.generator.name!r}; there are {', '.join(known)}{hint}")
        if asked.checkpoint is None:
            with torch.device("meta"):  # a network without memory: are its options right?
                create(asked.generator.name, **asked.generator.options)
        else:
            read_header(asked.checkpoint)
    for baseline in config.trained.values():
        with torch.device("meta"):
            build(baseline, 2)
    for key in ("rendered", "test_rendered"):
        try:
            RenderedConfig(**(getattr(config, key) or {}))
        except TypeError as error:
            raise ValueError(f"{key}: {error}") from None
    return config
