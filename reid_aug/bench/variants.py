"""Variants: which synthetic images enter an arm's training and how, each with the paper it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat

from generators.registry import nearest
from reid_aug.config import Config, Draw, GateConfig

Share = Annotated[float, Field(ge=0, le=1)]


class Variant(Config):
    """How an arm differs from `real images, and synthetic ones beside them under the same identity`."""

    # Whose identity synthetic images count for: their source's (Siarohin et al. 2018); their source's, smoothed (CamStyle, Zhong
    # et al. 2018); everybody's alike (LSRO, Zheng et al. 2017); a class of its own (an option of Deformable GAN's released code).
    label: Literal["same", "smoothed", "uniform", "separate"] = "same"
    smoothing: Share = 0.1  # of "smoothed", in place of the baseline's
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
    "camstyle": Variant(label="smoothed", smoothing=0.1, share=0.25),
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
    """One variant of several; ValueError for a name there is not, and for two that say the same differently."""
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
    if found.online is not None and not said.keys() <= {"online", "erasing"}:
        others = ", ".join(sorted(said.keys() - {"online", "erasing"}))
        raise ValueError(f"variants {'+'.join(names)}: online images are drawn in the batch, so there is no {others}")
    return found
