"""Who is rendered: a person's proportions, colours and clothes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np

T = TypeVar("T")
RGB = tuple[int, int, int]

# Few colours on purpose: with many, a mean colour would name the person.
SKINS: tuple[RGB, ...] = ((236, 200, 176), (222, 178, 148), (188, 138, 104), (142, 98, 70), (96, 66, 50))
HAIRS: tuple[RGB, ...] = ((28, 24, 24), (62, 42, 30), (104, 72, 44), (158, 116, 62), (132, 128, 126))
TOPS: tuple[RGB, ...] = (
    (232, 232, 228), (34, 35, 40), (118, 122, 128), (168, 40, 44), (38, 66, 132), (58, 112, 74), (206, 170, 66),
)  # fmt: skip
BOTTOMS: tuple[RGB, ...] = ((36, 37, 44), (52, 70, 108), (108, 104, 98), (172, 154, 122))
SHOES: tuple[RGB, ...] = ((30, 30, 32), (224, 222, 216), (110, 72, 48), (150, 44, 46))
BAGS: tuple[RGB, ...] = ((32, 34, 38), (120, 78, 48), (52, 78, 120), (150, 52, 52))

PATTERNS = ("plain", "hoops", "pinstripes", "checks", "block", "sides")
PRINTS = ("none", "disc", "square", "band", "bars", "cross")


@dataclass(frozen=True)
class Identity:
    """One person: proportions (1 = average), colours (RGB bytes) and clothes."""

    seed: int  # Number of the person, from which all else was picked.
    legs: float  # Length of the legs.
    shoulders: float  # Width of the shoulders.
    hips: float  # Width of the hips.
    girth: float  # Thickness of trunk and limbs.
    head: float  # Size of the head.
    skin: RGB
    hair: RGB
    hair_style: str  # Hair: short, long, tail, bun or bald.
    face: str  # Face: plain, beard or glasses.
    top: RGB  # Colour of the upper garment.
    top_second: RGB  # Second colour of the upper garment, for its pattern or what an open jacket shows.
    pattern: str  # Pattern of the upper garment, one of PATTERNS.
    sleeve: float  # Share of the arm that the sleeve covers, 0 to 1.
    jacket_open: bool  # Whether a jacket hangs open over the second colour.
    chest_print: str  # Print on the chest, one of PRINTS.
    back_print: str  # Print on the back, one of PRINTS.
    print_colour: RGB
    lower: str  # Lower garment: trousers, shorts or skirt.
    bottom: RGB  # Colour of the lower garment.
    side_seam: bool  # Whether light stripes run down the outer seams of the legs.
    coat: float  # How far the upper garment hangs below the waist, 0 to 1.
    shoes: RGB
    bag: str  # Bag: none, pack, left or right.
    bag_colour: RGB

    @staticmethod
    @lru_cache(maxsize=1024)
    def sample(seed: int) -> Identity:
        """Pick a person at random; the same seed is always the same person."""
        rng = np.random.default_rng((0x1D, seed))
        about, pick = partial(_about, rng), partial(_pick, rng)
        # Each line takes the next random numbers: another order makes other people.
        lower = pick(("trousers", "shorts", "skirt"), (6, 2, 2))
        jacket = bool(rng.random() < 0.3)
        top = pick(TOPS)
        return Identity(
            seed=seed,
            legs=about(0.03),
            shoulders=about(0.06),
            hips=about(0.07),
            girth=about(0.11),
            head=about(0.035),
            skin=pick(SKINS),
            hair=pick(HAIRS, (4, 3, 3, 2, 1)),
            hair_style=pick(("short", "long", "tail", "bun", "bald"), (9, 5, 3, 2, 1)),
            face=pick(("plain", "beard", "glasses"), (6, 2, 2)),
            top=top,
            top_second=pick([c for c in TOPS if c != top]),
            pattern=pick(PATTERNS, (4, 2, 1, 2, 2, 1)),
            sleeve=1.0 if jacket else pick((1.0, 0.27, 0.36, 0.08), (5, 3, 2, 1)),
            jacket_open=jacket,
            chest_print=pick(PRINTS, (4, 2, 2, 2, 1, 1)),
            back_print=pick(PRINTS, (4, 2, 2, 2, 1, 1)),
            print_colour=pick([c for c in TOPS if c != top]),
            lower=lower,
            bottom=pick(BOTTOMS),
            side_seam=bool(rng.random() < 0.25),
            coat=pick((0.0, 0.35, 0.8), (6, 2, 2)) if jacket else pick((0.0, 0.25), (3, 1)),
            shoes=pick(SHOES, (4, 3, 2, 1)),
            bag=pick(("none", "pack", "left", "right"), (5, 3, 1, 1)),
            bag_colour=pick(BAGS),
        )


def _pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """Pick one of the options, alike or by weight."""
    p = None if weights is None else np.asarray(weights, float) / sum(weights)
    return options[int(rng.choice(len(options), p=p))]


def _about(rng: np.random.Generator, spread: float) -> float:
    """Pick a proportion around 1, at most two `spread`s away."""
    return float(1 + spread * np.clip(rng.standard_normal(), -2, 2))
