"""Recipes of baselines: every one trains, with the numbers of its source, and what is out of bounds is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from reid_aug.baselines.network import features_of
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.config import shipped

RECIPES = sorted(path.stem for path in shipped("baselines").glob("*.yaml"))
SMALL = {"size": (64, 32), "steps": 2, "identities": 2, "instances": 2, "crop_px": 1}


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains(name: str, cache: Path) -> None:
    if name == "lite0":
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra `offline` is not installed")
    config = BaselineConfig(recipe=name, **{**SMALL, "weights": "scratch", **({"model": "resnet18"} if name in ("ide", "strong") else {})})
    data = TrainingSet(torch.randint(0, 256, (8, 3, 64, 32), dtype=torch.uint8), torch.arange(8) % 4)
    features = features_of(train_baseline(config, data, 0), data.images)
    assert features.shape[0] == 8 and bool(features.isfinite().all())


def test_a_recipe_stands_behind_what_is_given() -> None:
    config = BaselineConfig(recipe="strong", steps=7)
    assert (config.steps, config.model, config.last_stride, config.neck, config.metric) == (7, "resnet50", 1, True, "cosine")


def test_later_keys_are_in_files_and_digests_only_where_they_are_set() -> None:
    later = {"widths", "ema", "flip_test", "grey_patch", "cuda_graphs"}
    plain = BaselineConfig()
    later |= {"centre_weight", "centre_rate", "centre_reduction"}
    assert plain.values("recipe").keys() == plain.model_fields_set.union(type(plain).model_fields) - later - {"recipe"}
    given = {"model": "small", "widths": (8, 8, 8, 16), "ema": 0.9, "flip_test": True, "grey_patch": 0.4, "cuda_graphs": True}
    values = BaselineConfig(**given).values()  # type: ignore[arg-type]
    assert {key: values[key] for key in given} == {**given, "widths": [8, 8, 8, 16]}
    assert BaselineConfig.model_validate(values) == BaselineConfig(**given)  # type: ignore[arg-type]


def test_runs_of_strong_from_before_its_centre_loss_are_those_without() -> None:
    """Whoever has finished runs of `strong` gives centre_weight=0, and finds them under their digests."""
    now, before = BaselineConfig(recipe="strong"), BaselineConfig(recipe="strong", centre_weight=0.0)
    assert now.values().keys() - before.values().keys() == {"centre_weight", "centre_reduction", "centre_rate"}
    assert {key: value for key, value in now.values().items() if key in before.values()} == before.values()
    assert before.values() == BaselineConfig(recipe="strong", centre_weight=0.0, centre_rate=0.1, centre_reduction="sum").values()


def test_bag_of_tricks_numbers() -> None:
    """Luo et al. 2019, section 3 and their released configuration, in epochs of 202 steps."""
    config = BaselineConfig(recipe="strong")
    assert (config.learning_rate, config.weight_decay, config.triplet_margin, config.label_smoothing) == (3.5e-4, 5e-4, 0.3, 0.1)
    assert (config.centre_weight, config.centre_rate, config.centre_reduction) == (5e-4, 0.5, "mean-released")
    assert (config.identities, config.instances, config.size, config.crop_px, config.erasing) == (16, 4, (256, 128), 10, 0.5)
    assert [round(m * 120) for m in config.milestones] == [40, 70] and round(config.warmup * 120) == 10 and config.steps == 120 * 202


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"recipe": "stong"}, "no recipe named 'stong'; .*did you mean 'strong'"),
        ({"recipe": "nowhere.yaml"}, "no configuration file at nowhere.yaml"),
    ],
)
def test_unknown_recipes(given: dict[str, str], message: str) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        BaselineConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given",
    [
        {"weight_decay": -1e-4}, {"momentum": 1.0}, {"momentum": -0.1}, {"triplet_margin": float("nan")}, {"triplet_margin": -0.1},
        {"triplet_weight": float("inf")}, {"learning_rate": float("inf")}, {"learning_rate": 0.0}, {"head_rate": float("nan")},
        {"gamma": float("inf")}, {"warmup_from": float("nan")}, {"clip_norm": float("nan")}, {"crop_px": -1}, {"erasing": 1.5},
        {"ema": 1.0}, {"grey_patch": -0.1}, {"centre_weight": -1.0}, {"centre_rate": 0.0}, {"centre_rate": 1.5},
        {"centre_reduction": "mean"},
        {"triplet_weight": 1.0, "instances": 1}, {"triplet_weight": 1.0, "identities": 1},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_out_of_bounds(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        BaselineConfig(**given)
    assert any(name in str(caught.value) for name in given)
    assert BaselineConfig(triplet_weight=1.0, instances=1, sampler="shuffle").batch == 16, "a shuffled batch has several of some"
