"""Variants: which synthetic images enter an arm's training and how, each with the paper it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from generators import no_such
from reid_aug.baselines.mixing import Mixing, check_batches, idle
from reid_aug.baselines.recipes import BaselineConfig, Share
from reid_aug.synthesis.gates import GateConfig
from reid_aug.synthesis.nearness import tolerance_of
from reid_aug.synthesis.target_poses import OF_VIEW, RECOMBINED, WHOLE, Draw


class Variant(Mixing):
    """How an arm differs from `real images, and synthetic ones beside them under the same identity`."""

    # Strategy by which target poses are drawn (synthesis.target_poses.DRAWS); None is the generator's own way, and for the oracle that
    # of the generator whose targets it has.
    draw: Draw | None = None
    gate: GateConfig | None = None  # Gate that images pass before they enter.
    online: Share | None = None  # Probability that an image of a batch is rendered anew, with nothing on disk.


# Variants that arms may name after a plus sign, as in "pg2+lsro"; a benchmark's `variants` add to these or replace them.
SHIPPED: Mapping[str, Variant] = {
    "erasing": Variant(erasing=0.5),
    "grey-patch": Variant(grey_patch=0.4),
    "lsro": Variant(label="uniform"),
    # CamStyle smooths style-transferred images alone, so real ones are not smoothed even where the baseline would.
    "camstyle": Variant(label="smoothed", smoothing=0.1, real_smoothing=0.0, share=0.25),
    "separate": Variant(label="separate"),
    "capped": Variant(share=0.5),
    "half-weight": Variant(weight=0.5),
    "replace": Variant(enter="replace", probability=0.5),
    "gated": Variant(gate=GateConfig(identity="found")),
    "whole": Variant(draw="whole"),
    "compatible": Variant(draw="compatible"),
    "canonical": Variant(draw="canonical"),
    "missing-views": Variant(draw="missing-views"),
    "camera-aware": Variant(draw="camera-aware"),
    "recombined": Variant(draw="recombined"),
    "online": Variant(online=0.5),
}


def combined(names: Sequence[str], variants: Mapping[str, Variant], mixing: Mixing | None = None) -> Variant:
    """Combine shipped variants and a benchmark's `variants` into one; where they say nothing, images on disk enter as `mixing` says.

    ValueError for an unknown name, for two that set the same differently, and for settings without effect.

    >>> combined([], {}, Mixing(enter="replace", probability=0.25)).enter, combined(["online"], {}, Mixing(enter="replace")).enter
    ('replace', 'add')
    """
    variants = {**SHIPPED, **variants}
    settings: dict[str, Any] = {}
    for name in names:
        if name not in variants:
            raise ValueError(no_such("variant", name, variants))
        for key in sorted(variants[name].model_fields_set):
            value = getattr(variants[name], key)
            if settings.setdefault(key, value) != value:
                raise ValueError(f"variants {'+'.join(names)}: {key} is both {settings[key]} and {value}")
    common = {} if mixing is None or settings.get("online") is not None else {key: getattr(mixing, key) for key in mixing.model_fields_set}
    variant = Variant(**{**common, **settings})
    complaint = _idle(variant)
    if names and (complaint or variant == Variant(**common)):
        which = f"variants {'+'.join(names)}{' with the mixing of all' if common else ''}"
        raise ValueError(f"{which}: {complaint or 'they change nothing'}")
    return variant


def _idle(variant: Variant) -> str:
    """Name a setting that no baseline would follow, and why; empty where every setting has an effect."""
    in_vain = variant.model_dump(exclude_defaults=True).keys() - {"online", "draw", "erasing", "grey_patch"}
    if variant.online is not None and in_vain:
        return f"online images are rendered in the batch, so there is no {', '.join(sorted(in_vain))}"
    if variant.online is not None and variant.draw not in (None, WHOLE, *OF_VIEW) and tolerance_of(str(variant.draw)) is None:
        return f"online, target poses are drawn by whole, compatible or view-…, got draw {variant.draw!r}"
    if variant.draw == RECOMBINED and variant.gate is not None:
        return "of recombined people, whom nobody has photographed, neither identity nor novelty can be judged, so there is no gate"
    if variant.draw == RECOMBINED and variant.label != "same":
        return f"recombined people have identities of their own, got label {variant.label!r}"
    if variant.online == 0:
        return "the probability that a synthetic image takes a real one's place is above 0, got 0"
    return idle(variant)


def check(variant: Variant, baseline: BaselineConfig) -> None:
    """Raise ValueError when, under this baseline, a part of the variant changes nothing or keeps every synthetic image out.

    Such an arm trains as another arm does, and a report of its effect would be of nothing.
    """
    if complaint := _idle(variant):
        raise ValueError(complaint)
    check_batches(variant, baseline)
    if variant.erasing is not None and variant.erasing == baseline.erasing:
        raise ValueError(f"the baseline itself erases with probability {baseline.erasing:g}, so erasing in an arm changes nothing")
    if variant.grey_patch is not None and variant.grey_patch == baseline.grey_patch:
        raise ValueError(f"the baseline itself has grey patches with probability {baseline.grey_patch:g}, so in an arm they change nothing")
    real = baseline.label_smoothing if variant.real_smoothing is None else variant.real_smoothing
    if variant.label == "smoothed" and variant.smoothing == real:
        raise ValueError(f"smoothing of synthetic images is another than that of real ones (real_smoothing), got {real:g} for both")
