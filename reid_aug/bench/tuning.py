"""Equal tuning: which settings are tried, as many for every arm, and which of them is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Annotated, Any

from pydantic import Field, NonNegativeInt, model_validator

from reid_aug.baselines.mixing import most_synthetic
from reid_aug.baselines.recipes import BaselineConfig, Positive
from reid_aug.bench import variants
from reid_aug.bench.arms import COPIES, NONE
from reid_aug.bench.variants import Variant
from reid_aug.config import Config
from reid_aug.synthesis.target_poses import RECOMBINED

WEIGHT_DECAY = "weight_decay"
Part = Annotated[float, Field(gt=0, lt=1)]


class TuningConfig(Config):
    """Settings to try, on people of the training split who are held out, before an arm trains on all: the same number for every arm.

    Tried are all pairs of a learning rate and of a share of synthetic images; in arms that have no such share, of a learning rate and
    of a weight decay, of which there are as many. An arm's own setting is always the first.
    """

    rates: tuple[Positive, ...] = (0.3, 3.0)  # Multiples of a baseline's learning rate that are tried beside it.
    # Shares of synthetic images in a batch that are tried beside an arm's own: its `share` beside real images, under `enter: replace`
    # its `probability`, of online images `online`.
    shares: tuple[Part, ...] = (0.25,)
    decays: tuple[Positive, ...] = (10.0,)  # Multiples of a baseline's weight decay that are tried in arms without such a share.
    held_out: Part = 0.25  # Part of the training identities that trials are scored on.
    seeds: tuple[NonNegativeInt, ...] = (0,)  # Seeds of each trial; its score is their mean.

    @model_validator(mode="after")
    def _as_many_for_every_arm(self) -> TuningConfig:
        for key, own in (("rates", 1.0), ("decays", 1.0), ("shares", None), ("seeds", None)):
            values = getattr(self, key)
            if len(set(values)) != len(values) or own in values:
                beside = ", and are not 1, which is always tried" if own in values else ""
                raise ValueError(f"tuning's {key} are different{beside}, got {list(values)}")
        if len(self.shares) != len(self.decays):
            rule = "tuning spends as many trials on every arm, so there are as many shares as decays"
            raise ValueError(f"{rule}, got {len(self.shares)} and {len(self.decays)}")
        if self.trials < 2 or not self.seeds:
            raise ValueError("tuning tries something beside an arm's own setting, with one seed at least: give rates, or shares and decays")
        return self

    @property
    def trials(self) -> int:
        """Count the settings that are tried for every arm."""
        return (1 + len(self.rates)) * (1 + len(self.shares))

    def settings(self, origin: str, variant: Variant, baseline: BaselineConfig) -> list[Setting]:
        """List what is tried for an arm under a baseline, its own setting first."""
        knob = knob_of(origin, variant, baseline)
        beside = self.decays if knob == WEIGHT_DECAY else self.shares
        return [Setting(rate, knob, value) for value, rate in product((None, *beside), (1.0, *self.rates))]

    def check(self, origin: str, variant: Variant, baseline: BaselineConfig) -> None:
        """Raise ValueError where a setting can't be tried for an arm under a baseline, or trains as another one does."""
        knob = knob_of(origin, variant, baseline)
        if knob == WEIGHT_DECAY:
            if self.decays and not baseline.weight_decay:
                raise ValueError("tuning.decays are multiples of the baseline's weight_decay, which is 0: give baseline.weight_decay")
            return
        of_own = getattr(variant, knob)
        known = {None if of_own is None else _effect(knob, of_own, baseline): "the arm's own"}
        for share in self.shares:
            try:
                variants.check(Setting(1.0, knob, share).applied(baseline, variant)[1], baseline)
            except ValueError as error:
                raise ValueError(f"tuning.shares: {error}") from None
            other = known.setdefault(_effect(knob, share, baseline), f"{share:g}")
            if other != f"{share:g}":
                raise ValueError(f"tuning.shares: {knob} {share:g} is the same training as {other}: give another share")


@dataclass(frozen=True)
class Setting:
    """One setting that is tried: a multiple of the learning rate, and a value of the other knob, None for what it is anyway.

    The value is a multiple of `weight_decay`, or a share of synthetic images.
    """

    rate: float = 1.0
    knob: str = WEIGHT_DECAY
    value: float | None = None

    @property
    def is_own(self) -> bool:
        """Tell whether this is what an untuned arm has."""
        return self.rate == 1 and self.value is None

    def applied(self, baseline: BaselineConfig, variant: Variant) -> tuple[BaselineConfig, Variant]:
        """Give the baseline and the variant with this setting."""
        changes: dict[str, Any] = {} if self.rate == 1 else {"learning_rate": baseline.learning_rate * self.rate}
        if self.value is not None and self.knob == WEIGHT_DECAY:
            changes[WEIGHT_DECAY] = baseline.weight_decay * self.value
        elif self.value is not None:
            variant = variant.model_copy(update={self.knob: self.value})
        return baseline.model_copy(update=changes) if changes else baseline, variant

    def values(self, baseline: BaselineConfig, variant: Variant) -> dict[str, float | None]:
        """Give what it sets, by name, for files and digests.

        >>> Setting(0.5, "share", 0.25).values(BaselineConfig(learning_rate=0.01), Variant())
        {'learning_rate': 0.005, 'share': 0.25}
        """
        baseline, variant = self.applied(baseline, variant)
        return {"learning_rate": baseline.learning_rate, self.knob: getattr(baseline if self.knob == WEIGHT_DECAY else variant, self.knob)}


OWN = Setting()  # of arms that are not tuned


def knob_of(origin: str, variant: Variant, baseline: BaselineConfig) -> str:
    """Name what is tried beside the learning rate: the key by which an arm's share of synthetic images is set, else "weight_decay".

    Under P × K batches nothing caps images of a class that has no real ones beside them (`label: separate`, recombined people).

    >>> knob_of("pg2", Variant(), BaselineConfig()), knob_of("pg2", Variant(enter="replace"), BaselineConfig())
    ('share', 'probability')
    >>> knob_of("copies", Variant(), BaselineConfig()), knob_of("pg2", Variant(label="separate"), BaselineConfig())
    ('weight_decay', 'weight_decay')
    """
    if origin in (NONE, COPIES) and variant.draw != RECOMBINED:
        return WEIGHT_DECAY
    if variant.online is not None:
        return "online"
    if variant.enter == "replace":
        return "probability"
    alone = variant.label == "separate" or variant.draw == RECOMBINED
    return WEIGHT_DECAY if alone and baseline.sampler == "pk" else "share"


def best(scores: Sequence[float | None]) -> int:
    """Give the place of the highest score, the first of equals; None is the score of a training that diverged. ValueError if all did.

    >>> best([0.25, None, 0.5, 0.5])
    2
    """
    if all(score is None for score in scores):
        raise ValueError("no trial has a score")
    return max(range(len(scores)), key=lambda trial: (-1.0 if (score := scores[trial]) is None else score, -trial))


def _effect(knob: str, share: float, baseline: BaselineConfig) -> float:
    """Say what a share comes to in a batch: two that come to the same are one training."""
    if knob != "share":
        return share
    return most_synthetic(share, baseline.instances) if baseline.sampler == "pk" else round(share * baseline.batch)
