"""How a Re-ID baseline is trained: every setting, and recipes that name many of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from reid_aug import config as configuration
from reid_aug.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class BaselineConfig(Config):
    """A network of torchreid's and how it is trained; every arm gets the same.

    `recipe` names a file of configs/baselines (or any YAML) whose values stand where no others are given.
    """

    recipe: str | None = None
    model: str = "osnet_x0_25"
    weights: str = "scratch"  # or "imagenet", "imagenet-or-scratch" (what can be had; results say which), or a file's PATH
    download: bool = False  # of ImageNet weights that are not in torch's cache
    last_stride: Literal[1, 2] = 2  # of ResNets; 1 doubles the last feature map (Luo et al. 2019)
    neck: bool = False  # batch normalisation between feature and classifier (BNNeck, Luo et al. 2019); features are taken behind it
    size: tuple[PositiveInt, PositiveInt] = (128, 64)  # (H, W)
    steps: PositiveInt = 300
    sampler: Literal["pk", "shuffle"] = "pk"  # P identities × K images, or images without regard to identity (P · K of them)
    identities: PositiveInt = 16  # per batch (P)
    instances: PositiveInt = 4  # of each (K)
    optimizer: Literal["adamw", "adam", "amsgrad", "sgd"] = "adamw"
    learning_rate: Positive = 5e-3  # the peak of the schedule
    head_rate: Positive = 1.0  # the classifier's learning rate, as a multiple
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # of sgd
    weight_decay: NonNegative = 5e-4
    schedule: Literal["one-cycle", "steps", "cosine"] = "one-cycle"
    milestones: tuple[Share, ...] = ()  # of "steps": where the rate falls, as shares of all steps
    gamma: Positive = 0.1  # of "steps": what it is multiplied by there
    warmup: Share = 0.0  # share of all steps over which the rate rises from `warmup_from` of itself; not of "one-cycle"
    warmup_from: Positive = 0.1
    frozen: Share = 0.0  # share of all steps that train the classifier alone; from ImageNet weights only
    clip_norm: Positive | None = 2.0  # of the gradient: at this rate and from scratch, runs differ widely without
    label_smoothing: Share = 0.1
    triplet_weight: NonNegative = 0.0  # of the batch-hard triplet loss; from scratch and this short it does harm
    triplet_margin: NonNegative = 0.3
    crop_px: NonNegativeInt = 6  # padding of the random crop
    flip: bool = True
    erasing: Share = 0.0  # probability of random erasing (Zhong et al. 2020); 0.5 in arms that name it
    metric: Literal["euclidean", "cosine"] = "euclidean"  # that the gallery is ranked by
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    compile: bool = False  # torch.compile

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, values: Any) -> Any:
        return with_recipe(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _triplets_are_there(self) -> BaselineConfig:
        if self.triplet_weight and self.sampler == "pk" and min(self.identities, self.instances) < 2:
            asked = f"identities={self.identities} and instances={self.instances}"
            raise ValueError(f"a triplet loss compares 2 identities at least with 2 instances each at least, got {asked}")
        return self

    @property
    def batch(self) -> int:
        """Images of a step."""
        return self.identities * self.instances


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, and behind them those of the recipe they name, if any."""
    recipe = values.get("recipe")
    return {**(configuration.read_yaml(configuration.named(recipe, "baselines", "recipe")) if isinstance(recipe, str) else {}), **values}
