"""Who is drawn: a person's proportions, colours and clothes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

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

    seed: int
    legs: float
    shoulders: float
    hips: float
    girth: float
    head: float
    skin: RGB
    hair: RGB
    hair_style: str  # short, long, tail, bun or bald
    face: str  # plain, beard or glasses
    top: RGB
    top_second: RGB
    pattern: str
    sleeve: float  # covered part of the arm, 0 to 1
    jacket_open: bool  # the front shows the second colour
    chest_print: str
    back_print: str
    print_colour: RGB
    lower: str  # trousers, shorts or skirt
    bottom: RGB
    side_seam: bool
    coat: float  # how far the upper garment hangs below the waist, 0 to 1
    shoes: RGB
    bag: str  # none, pack, left or right
    bag_colour: RGB

    @staticmethod
    @lru_cache(maxsize=1024)
    def draw(seed: int) -> Identity:
        """The person of this seed; the same seed is always the same person."""
        rng = np.random.default_rng((0x1D, seed))

        def pick(options, weights=None):
            p = None if weights is None else np.asarray(weights, float) / sum(weights)
            return options[int(rng.choice(len(options), p=p))]

        def about(spread: float) -> float:
            return float(1 + spread * np.clip(rng.standard_normal(), -2, 2))

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
