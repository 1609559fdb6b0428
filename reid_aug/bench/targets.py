"""Targets: what the synthetic images of each arm are to show, and what a report says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from reid_aug.baselines.mixing import Mixing
from reid_aug.bench.arms import COPIES, NONE, ORACLE, origin_and_variants
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.sizes import notes_of_sizes, outline
from reid_aug.synthesis.bank_named import named_bank
from reid_aug.synthesis.target_poses import RECOMBINED, WHOLE, draw_for


class Targets(NamedTuple):
    """By which strategy target poses are drawn, and whether people stand in the target images' places or in the sources'."""

    draw: str = WHOLE
    scene: bool = False


def targets_of(config: BenchConfig, arm: str) -> Targets | None:
    """Say what an arm's synthetic images are to show; None where it has none.

    A generator has its own way and place, and the oracle those of the generator that it stands beside, where a variant draws no other
    poses: so it is the true image of exactly what that one is asked for.
    """
    origin, _ = origin_and_variants(arm)
    if origin in (NONE, COPIES):
        return Targets(RECOMBINED, scene=True) if config.variant(arm).draw == RECOMBINED else None
    draw, name = config.variant(arm).draw, config.beside_oracle if origin == ORACLE else origin
    if name is None:
        return Targets(draw or WHOLE)
    model = outline(config, name)
    draw = draw_for(model, draw)
    in_scenes = model.takes_scene and (config.bank is None or named_bank(config.bank).paths is not None)
    return Targets(draw, in_scenes or draw == RECOMBINED)


def notes(config: BenchConfig, targets: Mapping[str, Targets], share: float | None) -> Iterator[str]:
    """Yield what a report says of arms: what their images show, how they enter training, and what generators learnt from."""
    if targets:
        alike: dict[Targets, list[str]] = {}
        for arm, shown in targets.items():
            alike.setdefault(shown, []).append(f"`{arm}`")
        yield f"Synthetic images show target poses drawn by {'; '.join(_shown(shown, arms) for shown, arms in alike.items())}."
    if config.bank is not None:
        yield f"Target poses are those of the bank `{config.bank}`."
    yield from _silhouettes(config, targets)
    if any(shown.draw == RECOMBINED for shown in targets.values()):
        how = "the generator draws the legs in the other's pose, `copies` cuts both photographs at the hips"
        yield f"Recombined people have identities of their own; {how}."
    if config.beside_oracle is not None and any(origin_and_variants(arm)[0] == ORACLE for arm in targets):
        rule = "true images of what that is asked for, unless a variant draws other poses"
        yield f"The oracle has the targets and scenes of `{config.beside_oracle}`: {rule}."
    yield from notes_of_sizes(config)
    if config.mixing != Mixing() and any(config.variant(arm).online is None for arm in targets):
        keys = config.mixing.model_dump(exclude_defaults=True)
        if config.mixing.enter == "replace":
            keys["probability"] = config.mixing.probability
        entering = ", ".join(f"{key} {value}" for key, value in keys.items())
        yield f"Where an arm's variants say nothing else, synthetic images on disk enter by the benchmark's mixing: {entering}."
    yield from trained_on(config, "training images" if share is None else f"{100 * share:g} % of the training images")


def _silhouettes(config: BenchConfig, targets: Mapping[str, Targets]) -> Iterator[str]:
    """Yield which arms' people are cut out by silhouettes, where the data have any."""
    if config.data is None or config.data.masks is None:
        return
    names = {arm: origin_and_variants(arm)[0] for arm in targets}
    arms = [f"`{arm}`" for arm, name in names.items() if name in config.generators and outline(config, name).takes_silhouettes]
    if arms:
        yield f"People are cut out by silhouettes (`data.masks={config.data.masks}`), where they are known, in {', '.join(arms)}."


def _shown(shown: Targets, arms: Sequence[str]) -> str:
    if shown.draw == RECOMBINED:
        return f"`{RECOMBINED}`, photographs of one person with the legs of another ({', '.join(arms)})"
    return f"`{shown.draw}`, in the {'target images' if shown.scene else 'sources'}' places ({', '.join(arms)})"


def trained_on(config: BenchConfig, images: str) -> Iterator[str]:
    """Yield which images generators learnt from: those `images` that the baselines learn from, or, of a checkpoint, nobody knows."""
    here = [f"`{name}`" for name in config.generators_used if config.generators[name].checkpoint is None]
    elsewhere = [f"`{name}`" for name in config.generators_used if config.generators[name].checkpoint is not None]
    if here:
        yield f"{', '.join(here)} learnt from the same {images} as the baselines."
    if elsewhere:
        yield f"{', '.join(elsewhere)} learnt elsewhere, from images that this report does not know."
