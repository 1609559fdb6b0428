"""How synthetic images enter a baseline's training: under which label, with which weight, in which share of a batch."""

from __future__ import annotations

from typing import Literal

from pydantic import NonNegativeFloat

from reid_aug.baselines.recipes import BaselineConfig, Share
from reid_aug.config import Config


class Mixing(Config):
    """How synthetic images enter training; by default beside the real ones, under their source's identity."""

    # Whose identity synthetic images count for: their source's (Siarohin et al. 2018); their source's, smoothed (CamStyle, Zhong
    # et al. 2018); everybody's alike (LSRO, Zheng et al. 2017); a class of its own (an option of Deformable GAN's released code).
    label: Literal["same", "smoothed", "uniform", "separate"] = "same"
    smoothing: Share = 0.1  # Label smoothing of synthetic images under "smoothed", in place of the baseline's.
    real_smoothing: Share | None = None  # Label smoothing of real images; None is the baseline's.
    weight: NonNegativeFloat = 1.0  # Weight of a synthetic image's loss.
    share: Share | None = None  # Part of an identity's images in a batch, or of a shuffled batch, that may be synthetic (CamStyle: ¼).
    enter: Literal["add", "replace"] = "add"  # Whether they stand beside real images, or take their source's place at times.
    probability: Share = 0.5  # Probability that a real image is replaced, under "replace".
    erasing: Share | None = None  # Probability of random erasing of all images (Zhong et al. 2020); None is the baseline's.
    grey_patch: Share | None = None  # Probability of a grey patch in all images (Gong et al. 2021: 0.4); None is the baseline's.


def idle(mixing: Mixing) -> str:
    """Name a setting that no baseline would follow, and why; empty where every setting has an effect."""
    # A recorded configuration gives every key: a value that is the default's asks for nothing.
    changed = mixing.model_dump(exclude_defaults=True)
    if "smoothing" in changed and mixing.label != "smoothed":
        return f"smoothing is of `label: smoothed`, got label {mixing.label!r}"
    if "probability" in changed and mixing.enter != "replace":
        return f"probability is of `enter: replace`, got enter {mixing.enter!r}"
    if mixing.enter == "replace" and mixing.probability == 0:
        return "the probability that a synthetic image takes a real one's place is above 0, got 0"
    if mixing.enter == "replace" and mixing.share is not None:
        return f"share caps synthetic images beside real ones, and `enter: replace` has a probability instead; got share {mixing.share:g}"
    return ""


def check_batches(mixing: Mixing, baseline: BaselineConfig) -> None:
    """Raise ValueError for settings that contradict each other, or whose share makes none or all of a baseline's batch synthetic."""
    if complaint := idle(mixing):
        raise ValueError(complaint)
    if mixing.share is None:
        return
    if baseline.sampler == "shuffle":
        if not round(mixing.share * baseline.batch):
            raise ValueError(f"a share of synthetic images is one of a batch's {baseline.batch} at least, got {mixing.share:g}")
    elif mixing.label == "separate":
        raise ValueError("share caps synthetic images beside real ones of a class, and those of `label: separate` have none beside them")
    elif not 1 <= most_synthetic(mixing.share, baseline.instances) < baseline.instances:
        rule = f"one at least and not all of an identity's instances = {baseline.instances} in a batch"
        raise ValueError(f"a share of synthetic images is {rule}, got {mixing.share:g}")


def most_synthetic(share: float, instances: int) -> int:
    """Count how many of an identity's images in a batch may be synthetic.

    >>> most_synthetic(0.25, 4), most_synthetic(0.3, 10), most_synthetic(0.2, 4)
    (1, 3, 0)
    """
    return int(share * instances + 1e-9)
