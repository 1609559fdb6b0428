"""Variants: which synthetic images enter an arm's training and how, each with the paper it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat

from generators.registry import nearest
from reid_aug.bench.baseline import BaselineConfig
from reid_aug.config import Config, Draw, GateConfig

Share = Annotated[float, Field(ge=0, le=1)]


class Variant(Config):
    """How an arm differs from `real images, and synthetic ones beside them under the same identity`."""

    # Whose identity synthetic images count for: their source's (Siarohin et al. 2018); their source's, smoothed (CamStyle, Zhong
    # et al. 2018); everybody's alike (LSRO, Zheng et al. 2017); a class of its own (an option of Deformable GAN's released code).
    label: Literal["same", "smoothed", "uniform", "separate"] = "same"
    smoothing: Share = 0.1  # of "smoothed", in place of the baseline's
    real_smoothing: Share | None = None  # of real images; None is the baseline's
    weight: NonNegativeFloat = 1.0  # of a synthetic image's loss
    share: Share | None = None  # of a group or a batch that may be synthetic (CamStyle: ¼); None is as they come
    enter: Literal["add", "replace"] = "add"  # "replace": a real image gives way to one of its own with `probability`
    probability: Share = 0.5
    draw: Draw = "whole"  # which target poses: one of reid_aug.drawing.DRAWS
    gate: GateConfig | None = None  # which of them stay
    online: Share | None = None  # fresh poses in every batch with this probability, nothing on disk
    erasing: Share | None = None  # random erasing of all images (Zhong et al. 2020), over the baseline's


# What arms may name after a plus sign, as in "pg2+lsro"; a benchmark's `variants` add to these or take their places.
SHIPPED: Mapping[str, Variant] = {
    "erasing": Variant(erasing=0.5),
    "lsro": Variant(label="uniform"),
    # CamStyle smooths style-transferred images alone: so under a baseline that smooths all, real ones are not.
    "camstyle": Variant(label="smoothed", smoothing=0.1, real_smoothing=0.0, share=0.25),
    "separate": Variant(label="separate"),
    "capped": Variant(share=0.5),
    "half-weight": Variant(weight=0.5),
    "replace": Variant(enter="replace", probability=0.5),
    "gated": Variant(gate=GateConfig(identity="found")),
    "canonical": Variant(draw="canonical"),
    "missing-views": Variant(draw="missing-views"),
    "camera-aware": Variant(draw="camera-aware"),
    "online": Variant(online=0.5),
}


def combined(names: Sequence[str], own: Mapping[str, Variant]) -> Variant:
    """One variant of several; ValueError for a name there is not, two that say the same differently, and what is without effect."""
    known = {**SHIPPED, **own}
    said: dict[str, Any] = {}
    for name in names:
        if name not in known:
            raise ValueError(f"no variant named {name!r}; there are {', '.join(known)}{nearest(name, list(known))}")
        for key in sorted(known[name].model_fields_set):
            value = getattr(known[name], key)
            if said.setdefault(key, value) != value:
                raise ValueError(f"variants {'+'.join(names)}: {key} is both {said[key]} and {value}")
    found = Variant(**said)
    idle = _idle(found)
    if names and (idle or found == Variant()):
        raise ValueError(f"variants {'+'.join(names)}: {idle or 'they change nothing'}")
    return found


def _idle(variant: Variant) -> str:
    """What the variant says that no baseline would do, or nothing."""
    # A recorded configuration gives every key: what is as ever claims nothing.
    said = variant.model_dump(exclude_defaults=True)
    if variant.online is not None and not said.keys() <= {"online", "erasing"}:
        return f"online images are drawn in the batch, so there is no {', '.join(sorted(said.keys() - {'online', 'erasing'}))}"
    if "smoothing" in said and variant.label != "smoothed":
        return f"smoothing is of `label: smoothed`, got label {variant.label!r}"
    if "probability" in said and variant.enter != "replace":
        return f"probability is of `enter: replace`, got enter {variant.enter!r}"
    if variant.online == 0 or (variant.enter == "replace" and variant.probability == 0):
        return "the probability that a synthetic image takes a real one's place is above 0, got 0"
    if variant.enter == "replace" and variant.share is not None:
        return f"share caps synthetic images beside real ones, and `enter: replace` has a probability instead; got share {variant.share:g}"
    return ""


def check(variant: Variant, baseline: BaselineConfig) -> None:
    """ValueError when, under this baseline, a part of the variant changes nothing or keeps every synthetic image out.

    Such an arm is another one's twin under a name of its own, and what a report said of it would be of nothing.
    """
    check_batches(variant, baseline)
    if variant.erasing is not None and variant.erasing == baseline.erasing:
        raise ValueError(f"the baseline itself erases with probability {baseline.erasing:g}, so erasing in an arm changes nothing")
    real = baseline.label_smoothing if variant.real_smoothing is None else variant.real_smoothing
    if variant.label == "smoothed" and variant.smoothing == real:
        raise ValueError(f"smoothing of synthetic images is another than that of real ones (real_smoothing), got {real:g} for both")


def check_batches(variant: Variant, baseline: BaselineConfig) -> None:
    """ValueError when the variant contradicts itself, or its share of the baseline's batches is no synthetic image or no share."""
    if idle := _idle(variant):
        raise ValueError(idle)
    if variant.share is None:
        return
    if baseline.sampler == "shuffle":
        if not round(variant.share * baseline.batch):
            raise ValueError(f"a share of synthetic images is one of a batch's {baseline.batch} at least, got {variant.share:g}")
    elif variant.label == "separate":
        raise ValueError("share caps synthetic images beside real ones of a class, and those of `label: separate` have none beside them")
    elif not 1 <= most_synthetic(variant.share, baseline.instances) < baseline.instances:
        said = f"one at least and not all of an identity's instances = {baseline.instances} in a batch"
        raise ValueError(f"a share of synthetic images is {said}, got {variant.share:g}")


def most_synthetic(share: float, instances: int) -> int:
    """How many of an identity's images in a batch may be synthetic."""
    return int(share * instances + 1e-9)
