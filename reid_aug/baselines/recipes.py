"""How a Re-ID baseline is trained: every setting, and recipes that set many of them at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from reid_aug import config as configuration
from reid_aug.config import Config

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
# On a CPU, torch's 1 × 1 convolution of stride 2 of fewer channels writes past its memory (2.15, oneDNN).
Width = Annotated[int, Field(ge=8)]
# Keys that came later count only where they are set, so that digests of earlier runs stay what they were.
LATER_KEYS = ("widths", "ema", "flip_test", "grey_patch", "cuda_graphs")
OF_CENTRES = ("centre_weight", "centre_rate", "centre_reduction")  # which count only where there is a weight


class BaselineConfig(Config):
    """A network and how it is trained; every arm gets the same."""

    recipe: str | None = None  # Name of a file in configs/baselines, or any YAML; its values hold where no others are given.
    model: str = "osnet_x0_25"  # Name of the network: "small", "lite0" (of the extra `offline`), or one of torchreid's.
    # Weights to begin from: "scratch"; "imagenet"; "imagenet-or-scratch", whichever is there (results name it); or a file.
    weights: str = "scratch"
    download: bool = False  # Whether ImageNet weights that are not in torch's cache are downloaded.
    last_stride: Literal[1, 2] = 2  # Stride of the last stage of a ResNet, "small" and "lite0"; 1 doubles its map (Luo et al. 2019).
    widths: tuple[Width, Width, Width, Width] = (32, 64, 128, 256)  # Channels of the stages of "small".
    neck: bool = False  # Batch normalisation between features and classifier (BNNeck, Luo et al. 2019); features are taken behind it.
    size: tuple[PositiveInt, PositiveInt] = (128, 64)  # Size (H, W) of the images.
    steps: PositiveInt = 300  # Number of training steps.
    sampler: Literal["pk", "shuffle"] = "pk"  # Batches of P identities × K images, or of P · K images whoever is on them.
    identities: PositiveInt = 16  # Identities in a batch (P).
    instances: PositiveInt = 4  # Images of each identity in a batch (K).
    optimizer: Literal["adamw", "adam", "amsgrad", "sgd"] = "adamw"  # Optimiser; "amsgrad" is Adam in its AMSGrad form.
    learning_rate: Positive = 5e-3  # Learning rate at the schedule's peak.
    head_rate: Positive = 1.0  # Learning rate of the classifier as a multiple of `learning_rate`.
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Momentum of "sgd".
    weight_decay: NonNegative = 5e-4  # Weight decay.
    schedule: Literal["one-cycle", "steps", "cosine"] = "one-cycle"  # How the learning rate changes over the steps.
    milestones: tuple[Share, ...] = ()  # Shares of all steps after which "steps" lets the rate fall.
    gamma: Positive = 0.1  # Factor by which "steps" multiplies the rate at each milestone.
    warmup: Share = 0.0  # Share of all steps over which the rate rises to its peak; "one-cycle" has a rise of its own.
    warmup_from: Positive = 0.1  # Multiple of the peak rate at which the warm-up begins.
    frozen: Share = 0.0  # Share of all steps, the first ones, that train the classifier alone; from trained weights only.
    clip_norm: Positive | None = 2.0  # Largest norm of the gradient; without it, runs from scratch at this rate differ widely.
    label_smoothing: Share = 0.1  # Smoothing of the labels.
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # Decay of the moving average of the weights, which is then the result; 0 is none.
    triplet_weight: NonNegative = 0.0  # Weight of the batch-hard triplet loss, which does harm in runs this short from scratch.
    triplet_margin: NonNegative = 0.3  # Margin of the triplet loss.
    centre_weight: NonNegative = 0.0  # Weight of the centre loss (Wen et al. 2016); 0 is none.
    centre_rate: Annotated[float, Field(gt=0, le=1)] = 0.5  # Learning rate of the centres: which part of the way they go.
    # Over a batch, the centre loss is half a "sum" as printed, or a mean as Luo et al. released it, whose weight goes with that.
    centre_reduction: Literal["sum", "mean-released"] = "sum"
    crop_px: NonNegativeInt = 6  # Padding from which a random crop is cut.
    flip: bool = True  # Whether half of the images are mirrored.
    erasing: Share = 0.0  # Probability of random erasing (Zhong et al. 2020); arms may set their own (`Mixing.erasing`).
    grey_patch: Share = 0.0  # Probability of a grey patch (Gong et al. 2021: 0.4); arms may set their own (`Mixing.grey_patch`).
    flip_test: bool = False  # Whether an image's features are those of it and of its mirror image together.
    metric: Literal["euclidean", "cosine"] = "euclidean"  # Distance by which the gallery is ranked.
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # Precision of training, in Lightning Fabric's words.
    compile: bool = False  # Whether torch.compile compiles the network.
    cuda_graphs: bool = False  # Whether a GPU replays forward and backward pass as CUDA graphs: small networks wait for the host otherwise.

    @model_validator(mode="before")
    @classmethod
    def _from_recipe(cls, values: Any) -> Any:
        return with_recipe(values) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _batches_hold_triplets(self) -> BaselineConfig:
        if self.triplet_weight and self.sampler == "pk" and min(self.identities, self.instances) < 2:
            given = f"identities={self.identities} and instances={self.instances}"
            raise ValueError(f"a triplet loss compares 2 identities at least with 2 instances each at least, got {given}")
        return self

    @model_validator(mode="after")
    def _one_way_to_launch(self) -> BaselineConfig:
        if self.cuda_graphs and self.compile:
            raise ValueError("compile and cuda_graphs are two ways to launch a network, give one of them")
        return self

    @model_validator(mode="after")
    def _only_small_has_widths(self) -> BaselineConfig:
        if self.widths != type(self).model_fields["widths"].default and self.model != "small":
            raise ValueError(f"widths are those of model 'small', got {list(self.widths)} for {self.model!r}")
        return self

    def values(self, *left_out: str) -> dict[str, Any]:
        """Give the values of all keys but those left out, as files and digests have them: later keys only where they are set."""
        values = self.model_dump(mode="json", exclude=set(left_out))
        defaults = {key for key in LATER_KEYS if getattr(self, key) == type(self).model_fields[key].default}
        defaults |= set() if self.centre_weight else set(OF_CENTRES)
        return {key: value for key, value in values.items() if key not in defaults}

    @property
    def batch(self) -> int:
        """Count the images of a step."""
        return self.identities * self.instances


def with_recipe(values: Mapping[str, Any]) -> dict[str, Any]:
    """Add to the values those of the recipe that they name, if any; the given ones hold where both have a key."""
    recipe = values.get("recipe")
    return {**(configuration.read_yaml(configuration.named(recipe, "baselines", "recipe")) if isinstance(recipe, str) else {}), **values}
