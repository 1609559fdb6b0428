"""A clothed, jointed person: who it is, how it stands, and how its surface falls onto an image.

Every body part is a tube with elliptic cross-sections around an axis; its texture is painted over (height, angle
around the axis), so that front, side and back of one person differ as they do on a real one. Lengths are in statures
(the person's height is 1). Body frame: x to the person's left, y up, z forward. At yaw 0 the person faces the viewer,
at yaw 90 the right edge of the image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

RGB = tuple[int, int, int]
Point = tuple[float, float, float]
Array = NDArray[Any]  # of floats

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


@dataclass(frozen=True)
class BodyPose:
    """How a body stands: every angle in degrees; 0 everywhere is upright with hanging arms, facing the viewer."""

    yaw_deg: float = 0.0
    lean_deg: float = 0.0  # of the trunk, forward
    tilt_deg: float = 0.0  # of the trunk, to the person's right
    head_yaw_deg: float = 0.0  # to the person's left
    head_pitch_deg: float = 0.0  # forward
    r_shoulder_deg: float = 0.0  # upper arm forward
    l_shoulder_deg: float = 0.0
    r_shoulder_out_deg: float = 6.0  # upper arm sideways
    l_shoulder_out_deg: float = 6.0
    r_arm_turn_deg: float = 0.0  # turns the bent forearm inward
    l_arm_turn_deg: float = 0.0
    r_elbow_deg: float = 10.0
    l_elbow_deg: float = 10.0
    r_hip_deg: float = 0.0  # thigh forward
    l_hip_deg: float = 0.0
    r_hip_out_deg: float = 3.0
    l_hip_out_deg: float = 3.0
    r_knee_deg: float = 2.0  # shin backward
    l_knee_deg: float = 2.0

    @staticmethod
    def draw(rng: np.random.Generator, yaw_deg: float | None = None) -> BodyPose:
        """A random standing, walking, leaning or gesturing pose, seen from `yaw_deg` or from anywhere."""
        yaw = float(rng.uniform(0, 360)) if yaw_deg is None else float(yaw_deg) % 360
        kind = rng.choice(("walk", "stand", "sit"), p=(0.62, 0.3, 0.08))
        angles = {"walk": _walk, "stand": _stand, "sit": _sit}[kind](rng)
        if rng.random() < 0.3:
            side = rng.choice(("r", "l"))
            angles |= {f"{side}_{name}": value for name, value in _gesture(rng).items()}
        angles |= {"head_yaw_deg": rng.normal(0, 12), "head_pitch_deg": angles.get("head_pitch_deg", 0) + rng.normal(2, 5)}
        return BodyPose(yaw_deg=yaw, **{name: round(float(value), 3) for name, value in angles.items()})


def _walk(rng: np.random.Generator) -> dict[str, float]:
    phase, step, swing = rng.uniform(0, 2 * math.pi), rng.uniform(14, 27), rng.uniform(8, 28)
    angles = {"lean_deg": rng.uniform(0, 7), "tilt_deg": rng.normal(0, 1.5)}
    for side, sign in (("r", 1), ("l", -1)):
        forward, lift = sign * math.cos(phase), max(0.0, -sign * math.sin(phase))  # the knee bends while the leg swings
        angles |= {f"{side}_hip_deg": step * forward + 14 * lift, f"{side}_knee_deg": 6 + 2 * step * lift}
        angles |= {f"{side}_shoulder_deg": 2 - swing * forward}
        angles |= {f"{side}_elbow_deg": rng.uniform(10, 22) + swing * (1 - forward) / 2}
        angles |= {f"{side}_shoulder_out_deg": rng.uniform(4, 12), f"{side}_hip_out_deg": rng.uniform(0, 4)}
    return angles


def _stand(rng: np.random.Generator) -> dict[str, float]:
    angles = {"lean_deg": rng.normal(1, 2), "tilt_deg": rng.normal(0, 2.5)}
    for side in "rl":
        bend = rng.uniform(0, 12)
        angles |= {f"{side}_hip_deg": bend * 0.6, f"{side}_knee_deg": bend, f"{side}_hip_out_deg": rng.uniform(2, 9)}
        angles |= {f"{side}_shoulder_deg": rng.normal(0, 7), f"{side}_shoulder_out_deg": rng.uniform(5, 16)}
        angles |= {f"{side}_elbow_deg": rng.uniform(5, 30), f"{side}_arm_turn_deg": rng.uniform(0, 30)}
    return angles


def _sit(rng: np.random.Generator) -> dict[str, float]:
    """Half seated against something behind: thighs forward, trunk over them."""
    bend = rng.uniform(35, 65)
    angles = {"lean_deg": rng.uniform(5, 22)}
    for side in "rl":
        angles |= {f"{side}_hip_deg": bend + rng.normal(0, 4), f"{side}_knee_deg": bend * rng.uniform(0.9, 1.15)}
        angles |= {f"{side}_hip_out_deg": rng.uniform(3, 12), f"{side}_shoulder_deg": rng.uniform(15, 40)}
        angles |= {f"{side}_elbow_deg": rng.uniform(20, 60), f"{side}_arm_turn_deg": rng.uniform(0, 40)}
    return angles


def _gesture(rng: np.random.Generator) -> dict[str, float]:
    """One arm's angles: at the phone, in a pocket, pointing, on the hip, carrying or raised."""
    forward, out, elbow, turn = (
        (35, 12, 138, 20),
        (-18, 14, 42, 45),
        (68, 6, 18, 0),
        (-22, 38, 88, 62),
        (12, 8, 88, 52),
        (28, 62, 95, -40),
    )[int(rng.integers(6))]
    wobble = rng.normal(0, 5, 4)
    return {
        "shoulder_deg": forward + wobble[0],
        "shoulder_out_deg": out + wobble[1] * 0.6,
        "elbow_deg": min(elbow + wobble[2], 142),
        "arm_turn_deg": turn + wobble[3],
    }


# ---------------------------------------------------------------------------------------------- parts and shapes

_LIMB_PARTS = [f"{side}_{part}" for side in "rl" for part in ("arm", "forearm", "hand", "thigh", "shin", "foot")]
_BARE_PARTS = ("neck", "head", "nose", "hair", "locks")
_FIRST_CLOTH = len(_BARE_PARTS)
PARTS = (*_BARE_PARTS, "pelvis", "torso", *_LIMB_PARTS, "hem", "pack", "bag")
PART = {name: i for i, name in enumerate(PARTS)}
_ROWS, _COLUMNS = 32, 64  # of a part's texture: along the axis, around it (0 left, ¼ front, ½ right, ¾ back)
_T = (np.arange(_ROWS, dtype=np.float32) + 0.5) / _ROWS
_ALONG = _T[:, None]
_ANGLE = ((np.arange(_COLUMNS, dtype=np.float32) + 0.5) / _COLUMNS * 2 * math.pi)[None]
_SIDEWAYS, _FRONT = np.cos(_ANGLE), np.sin(_ANGLE)  # +1 at the person's left; +1 in front

# Parts, each from a height on, whose union is each limb of openpose_18, in its order; a head's limb has both shoulders.
LIMB_PARTS: tuple[dict[str, float], ...] = (
    {"torso": 0, "pelvis": 0},
    {"head": 0, "nose": 0, "hair": 0, "neck": 0, "torso": 0.84},
    *({f"{side}_{part}": 0.0} for side in "rl" for part in ("thigh", "shin")),
    *({f"{side}_{part}": 0.0} for part in ("arm", "forearm") for side in "rl"),
)


class Shapes(NamedTuple):
    """Per part: half depth along the axis (P, rows), half width over half depth, roundness of the ends, drawn or not."""

    profile: Array
    aspect: Array
    cap: Array
    drawn: NDArray[np.bool_]


def _along(*points: tuple[float, float]) -> NDArray[np.float64]:
    t, value = zip(*points, strict=True)
    return np.interp(_T, t, value)


@lru_cache(maxsize=256)
def shapes(who: Identity) -> Shapes:
    """The tubes of a person."""
    g, hips, n = who.girth, who.hips, len(PARTS)
    profile, aspect, cap, drawn = np.zeros((n, _ROWS)), np.ones(n), np.ones(n), np.ones(n, bool)

    def put(name: str, radius: NDArray[np.float64], wide: float = 1.0, end: float = 1.0, keep: bool = True) -> None:
        i = PART[name]
        profile[i], aspect[i], cap[i], drawn[i] = radius, wide, end, keep

    chest = 0.5 * g + 0.5
    egg = np.sqrt(np.maximum(1 - (2 * _T - 1) ** 2, 0))
    put("pelvis", _along((0, 0.04 * hips), (0.3, 0.058 * hips), (0.7, 0.06 * hips), (1, 0.055 * g)), 1.6, 0.5)
    waist_up = ((0.66, 0.066 * chest), (0.84, 0.066 * chest), (0.92, 0.06), (0.96, 0.045), (1, 0.02))
    put("torso", _along((0, 0.066 * max(hips, g)), (0.3, 0.058 * g), *waist_up), 1.58 * who.shoulders / chest, 0.15)
    put("neck", _along((0, 0.031), (1, 0.027)))
    put("head", 0.057 * who.head * egg**0.9 * _along((0, 0.86), (0.35, 0.95), (0.6, 1.02), (1, 1)), 0.84, 0.0)
    put("nose", _along((0, 0.005), (1, 0.009)))
    bald = who.hair_style == "bald"
    dome = _along((0, 0.62), (0.2, 0.93), (0.5, 1), (0.75, 0.9), (0.9, 0.64), (1, 0.2))
    put("hair", 0.0615 * who.head * dome, 0.86, 0.3, not bald)
    locks = {"long": (0.054, 0.05, 0.043), "tail": (0.022, 0.02, 0.008), "bun": (0.026, 0.028, 0.026)}
    locks = locks.get(who.hair_style, (0.0, 0.0, 0.0))
    put("locks", _along((0, locks[0]), (0.5, locks[1]), (1, locks[2])), 1.0, 0.6, any(locks))
    loose = 0.005 if who.jacket_open or who.coat else 0.003
    for side in "rl":
        covered = np.where(who.sleeve * 2 > _T, loose, 0)
        put(f"{side}_arm", _along((0, 0.029), (0.12, 0.032), (0.4, 0.03), (1, 0.024)) * chest + covered)
        covered = np.where(who.sleeve * 2 - 1.02 > _T, loose, 0)
        put(f"{side}_forearm", _along((0, 0.025), (0.3, 0.025), (1, 0.016)) * chest + covered)
        put(f"{side}_hand", _along((0, 0.013), (0.45, 0.017), (1, 0.012)), 0.65)
        trousers, shorts = who.lower == "trousers", who.lower == "shorts"
        cloth = np.where(_T < 0.72, 0.009, 0) if shorts else 0.004 * trousers
        tuck = _along((0, 0.012), (0.9, 0)) if who.lower == "skirt" or who.coat else 0  # nothing pokes through a hem
        put(f"{side}_thigh", _along((0, 0.058 * hips), (0.5, 0.049 * g), (1, 0.036)) + cloth - tuck)
        calf = _along((0, 0.035), (0.3, 0.036), (0.75, 0.024), (1, 0.021))
        put(f"{side}_shin", np.maximum(calf, _along((0, 0.038), (0.3, 0.037), (1, 0.033))) if trousers else calf, 1.0, 0.35)
        put(f"{side}_foot", _along((0, 0.022), (0.5, 0.022), (1, 0.017)), 1.1)
    put("hem", _along((0, 0.064), (1, 0.07)), 1.45, 0.0, who.lower == "skirt" or who.coat > 0)
    put("pack", _along((0, 0.036), (0.3, 0.048), (0.85, 0.054), (1, 0.05)), 1.55, 0.5, who.bag == "pack")
    put("bag", _along((0, 0.045), (0.5, 0.055), (1, 0.055)), 0.42, 0.3, who.bag in ("left", "right"))
    return Shapes(profile.astype(np.float32), aspect.astype(np.float32), cap.astype(np.float32), drawn)


# ------------------------------------------------------------------------------------------------------ textures


def _ink(colour: Sequence[float], light: float = 1.0) -> np.uint32:
    """A colour, darkened, as RGBA in 32 bits: gathering those is several times faster than gathering rows of bytes."""
    return np.array([*(int(c * light) for c in colour), 255], np.uint8).view(np.uint32)[0]


def _printed(kind: str, t: Array, x: Array) -> NDArray[np.bool_]:
    """Where a print covers the cloth; `t` runs up the torso, `x` across it in half widths."""
    y = t - 0.66
    if kind == "disc":
        return (y / 0.13) ** 2 + (x / 0.42) ** 2 < 1
    if kind == "square":
        return (abs(y) < 0.11) & (abs(x) < 0.38)
    if kind == "band":
        return (abs(y) < 0.07) & (abs(x) < 0.95)
    if kind == "bars":
        return (abs(x) < 0.5) & (abs(y) < 0.16) & (np.floor((y + 1) / 0.065) % 2 == 0)
    return (abs(y) < 0.2) & (abs(x) < 0.55) & ((abs(y) < 0.045) | (abs(x) < 0.14))  # cross


def _cloth(who: Identity, t: Array, sideways: Array) -> NDArray[np.uint32]:
    """The upper garment's colours over height `t` (1 = shoulders) and around."""
    around = _ANGLE / (2 * math.pi)
    if who.pattern == "hoops":
        second = np.floor(t * 9) % 2 == 0
    elif who.pattern == "pinstripes":
        second = np.floor(around * 18) % 2 == 0
    elif who.pattern == "checks":
        second = (np.floor(t * 7) + np.floor(around * 12)) % 2 == 0
    elif who.pattern == "block":
        second = t < 0.52
    elif who.pattern == "sides":
        second = abs(sideways) > 0.8
    else:
        second = np.False_
    return np.where(np.broadcast_to(second, (_ROWS, _COLUMNS)), _ink(who.top_second), _ink(who.top))


def _torso(who: Identity) -> NDArray[np.uint32]:
    paint, front = _cloth(who, _ALONG, _SIDEWAYS), _FRONT > 0
    for kind, face in ((who.chest_print, front), (who.back_print, ~front)):
        if kind != "none":
            paint[_printed(kind, _ALONG, _SIDEWAYS) & face] = _ink(who.print_colour)
    if who.jacket_open:
        edge = abs(_SIDEWAYS) - 0.2 - 0.16 * _ALONG
        paint[(edge < 0) & front] = _ink(who.top_second)
        paint[(abs(edge - 0.03) < 0.05) & front] = _ink(who.top, 0.55)
    paint[(_ALONG > 0.955) & (_FRONT > 0.55) | (_ALONG > 0.985)] = _ink(who.skin)  # neckline
    if who.bag == "pack":
        paint[(abs(abs(_SIDEWAYS) - 0.56) < 0.1) & (_ALONG > 0.42) & front] = _ink(who.bag_colour)
    elif who.bag != "none":
        across = _SIDEWAYS if who.bag == "left" else -_SIDEWAYS  # from the far shoulder down to the bag
        paint[abs(across - (0.95 - 1.5 * _ALONG)) < 0.11] = _ink(who.bag_colour)
    return paint


def _head(who: Identity) -> NDArray[np.uint32]:
    paint = np.full((_ROWS, _COLUMNS), _ink(who.skin))
    off_centre = abs(_ANGLE - math.pi / 2)
    front = np.minimum(off_centre, 2 * math.pi - off_centre)  # angle from the middle of the face
    mouth = (abs(_ALONG - 0.2) < 0.035) & (front < 0.3)
    if who.face == "beard":
        paint[(_ALONG < 0.3) & (front < 1.5)] = _ink(who.hair)
    paint[mouth] = _ink([0.72 * who.skin[0], 0.5 * who.skin[1], 0.5 * who.skin[2]])
    paint[(abs(_ALONG - 0.52) < 0.045) & (abs(front - 0.42) < 0.17)] = _ink((38, 30, 30))
    paint[(abs(_ALONG - 0.62) < 0.025) & (abs(front - 0.42) < 0.24)] = _ink(who.hair, 0.9)
    if who.face == "glasses":
        paint[(abs(_ALONG - 0.52) < 0.075) & (front < 0.85) & (front > 0.1)] = _ink((22, 22, 26))
    if who.hair_style != "bald":
        hairline = np.interp(front, (0, 0.8, 1.3, 1.75, 2.2), (0.76, 0.74, 0.55, 0.42, 0.1))
        paint[hairline < _ALONG] = _ink(who.hair)
    return paint


def _leg(who: Identity, outward: int) -> tuple[NDArray[np.uint32], ...]:
    """Thigh, shin and foot."""
    skin, bottom = _ink(who.skin), _ink(who.bottom)
    cloth = np.where((outward * _SIDEWAYS > 0.975) & (who.side_seam and who.lower != "skirt"), _ink((225, 225, 225)), bottom)
    cover = {"trousers": 1.0, "shorts": 0.72, "skirt": 0.8}[who.lower]
    sock = np.where(_ALONG > 0.88, _ink((215, 213, 208)), skin)
    sole = _ink((200, 198, 190) if sum(who.shoes) < 400 else (70, 66, 64))
    shoe = np.where(_FRONT > 0.45, sole, _ink(who.shoes))  # a foot's frame has its front below
    return np.where(cover > _ALONG, cloth, skin), cloth if who.lower == "trousers" else sock, shoe


@lru_cache(maxsize=64)
def textures(who: Identity) -> NDArray[np.uint32]:
    """What every part looks like: (P · rows · columns,), each a pixel's RGBA in 32 bits."""
    atlas = np.empty((len(PARTS), _ROWS, _COLUMNS), np.uint32)

    def put(name: str, paint: NDArray[np.uint32] | np.uint32) -> None:
        atlas[PART[name]] = paint

    skin, bag = _ink(who.skin), _ink(who.bag_colour)
    put("neck", _ink(who.skin, 0.88))  # the chin's shade
    put("nose", skin)
    put("hair", _ink(who.hair))
    put("locks", _ink(who.hair, 0.94))
    put("head", _head(who))
    put("torso", _torso(who))
    put("pelvis", np.where(_ALONG > 0.8, _ink(who.bottom, 0.6), _ink(who.bottom)))  # and a belt
    on_arm = np.full_like(_ANGLE, 1.0 if who.pattern == "sides" else 0.0)
    for name, below, end in (("arm", 0.0, who.sleeve * 2), ("forearm", 1.0, who.sleeve * 2 - 1.02)):
        sleeve = np.where(end > _ALONG, _cloth(who, 0.97 - 0.45 * (_ALONG + below), on_arm), skin)
        for side in "rl":
            put(f"{side}_{name}", sleeve)
    for side, outward in (("r", -1), ("l", 1)):
        put(f"{side}_hand", skin)
        for name, paint in zip(("thigh", "shin", "foot"), _leg(who, outward), strict=True):
            put(f"{side}_{name}", paint)
    opening = (abs(_SIDEWAYS) < 0.22) & (_FRONT > 0) & who.jacket_open
    coat = np.where(opening, _ink(who.bottom, 0.7), _cloth(who, 0.2 * (1 - _ALONG), _SIDEWAYS))
    put("hem", coat if who.coat else _ink(who.bottom))
    pocket = (_ALONG > 0.45) & (_FRONT < -0.2) & (abs(_SIDEWAYS) < 0.7)
    put("pack", np.where(pocket, _ink(who.bag_colour, 0.72), bag))
    put("bag", np.where(_ALONG < 0.4, _ink(who.bag_colour, 0.75), bag))
    rgba = atlas[_FIRST_CLOTH:].view(np.uint8).reshape(-1, _ROWS, _COLUMNS * 4)
    rgba[:] = np.minimum(rgba * np.repeat(_folds(who.seed), 4, axis=1), 255)
    return atlas.ravel()


def _folds(seed: int) -> Array:
    """How light cloth is over (rows, columns): soft waves, a person's own."""
    a, b, c = np.random.default_rng((0xF0, seed)).uniform(0, 2 * math.pi, 3).astype(np.float32)
    waves = np.sin(9 * _ALONG + 2 * _ANGLE + a) + np.sin(-14 * _ALONG + _ANGLE + b) + np.sin(23 * _ALONG + c)
    return 1 + np.float32(0.025) * waves


# ---------------------------------------------------------------------------------------------------- kinematics


def _rx(deg: float) -> NDArray:
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((1.0, 0, 0), (0, c, -s), (0, s, c)))


def _ry(deg: float) -> NDArray:
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((c, 0, s), (0.0, 1, 0), (-s, 0, c)))


def _rz(deg: float) -> NDArray:
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((c, -s, 0), (s, c, 0), (0, 0, 1.0)))


_SIDE_ANGLES = ("shoulder", "shoulder_out", "arm_turn", "elbow", "hip", "hip_out", "knee")


class Body(NamedTuple):
    """A posed body in its own frame, feet on y = 0: joints (18, 3), outward normals of the face's five joints (5, 3),
    the parts' axes (P, 3) → (P, 3), their frames (P, 3, 3; columns left, up, front), and shapes adapted to the pose."""

    who: Identity
    pose: BodyPose
    joints: NDArray
    face: NDArray
    start: NDArray
    end: NDArray
    frame: NDArray
    shape: Shapes


FACE = [0, 14, 15, 16, 17]  # nose, right and left eye, right and left ear
_FACE_AT = np.array([[0, -0.01, 0.06], [-0.019, 0.006, 0.05], [0.019, 0.006, 0.05], [-0.047, -0.004, 0], [0.047, -0.004, 0]])
_FACE_NORMALS = np.array([[0, -0.1, 1], [-0.35, 0.1, 0.93], [0.35, 0.1, 0.93], [-0.95, 0, 0.25], [0.95, 0, 0.25]])


def posed(who: Identity, pose: BodyPose) -> Body:
    """Forward kinematics: from the hips up and down, then everything lifted until the lower foot touches the ground."""
    joints = np.zeros((18, 3))
    placed: dict[str, tuple] = {}  # part → where its frame is, the frame, both ends of the axis within

    def put(name: str, at: NDArray, turn: NDArray, a: Point, b: Point) -> None:
        placed[name] = (at, turn, a, b)

    leg = 0.47 * who.legs
    trunk = 0.775 - leg
    pelvis, chest = _rx(pose.lean_deg * 0.4), _rx(pose.lean_deg) @ _rz(pose.tilt_deg)
    waist = pelvis @ (0, 0.1, 0)
    neck = waist + chest @ (0, trunk - 0.1, 0)
    turn = chest @ _ry(pose.head_yaw_deg) @ _rx(pose.head_pitch_deg)
    centre = neck + chest @ (0, 0.05, 0.006) + turn @ (0, 0.064, 0.008)
    h = 1.05 * who.head
    put("pelvis", np.zeros(3), pelvis, (0, -0.055, 0), (0, 0.125, 0))
    put("torso", waist, chest, (0, -0.035, 0), (0, trunk - 0.075, 0))
    put("neck", neck, chest, (0, -0.01, -0.002), (0, 0.085, 0.004))
    put("head", centre, turn, (0, -0.07 * h, 0), (0, 0.07 * h, 0))
    put("nose", centre, turn, (0, 0.006, 0.05 * h), (0, -0.014, 0.0535 * h))
    put("hair", centre, turn, (0, -0.038 * h, -0.012), (0, 0.078 * h, -0.009))
    drop = {"long": (0.02, -0.032, -0.155, -0.05), "tail": (0.02, -0.062, -0.15, -0.085), "bun": (0.05, -0.055, 0.045, -0.06)}
    top_y, top_z, low_y, low_z = drop.get(who.hair_style, (0, 0, 0, 0))
    put("locks", centre, turn @ _rx(-pose.head_pitch_deg), (0, top_y, top_z), (0, low_y, low_z))
    joints[1] = neck + chest @ (0, -0.004, 0)
    joints[FACE] = centre + h * _FACE_AT @ turn.T
    for side, sign, arm_joints, leg_joints in (("r", -1, (2, 3, 4), (8, 9, 10)), ("l", 1, (5, 6, 7), (11, 12, 13))):
        angle = {key: getattr(pose, f"{side}_{key}_deg") for key in _SIDE_ANGLES}
        shoulder = neck + chest @ (sign * 0.097 * who.shoulders, -0.004, 0)
        upper = chest @ _rz(sign * angle["shoulder_out"]) @ _rx(-angle["shoulder"]) @ _ry(-sign * angle["arm_turn"])
        fore = upper @ _rx(-angle["elbow"])
        elbow = shoulder + upper @ (0, -0.162, 0)
        wrist = elbow + fore @ (0, -0.142, 0)
        put(f"{side}_arm", shoulder, upper, (-sign * 0.004, -0.018, 0), (0, -0.162, 0))
        put(f"{side}_forearm", elbow, fore, (0, 0, 0), (0, -0.142, 0))
        put(f"{side}_hand", wrist, fore, (0, -0.004, 0), (0, -0.058, 0.006))
        hip = pelvis @ (sign * 0.05 * who.hips, 0, 0)
        thigh = _rz(sign * angle["hip_out"]) @ _rx(-angle["hip"])
        shin = thigh @ _rx(angle["knee"])
        knee = hip + thigh @ (0, -leg / 2, 0)
        ankle = knee + shin @ (0, -leg / 2, 0)
        foot = _ry(sign * 9) @ _rx(np.clip(0.75 * (angle["knee"] - angle["hip"]), -25, 55))  # a trailing foot lifts its heel
        put(f"{side}_thigh", hip, thigh, (0, 0, 0), (0, -leg / 2, 0))
        put(f"{side}_shin", knee, shin, (0, 0, 0), (0, -leg / 2 - 0.012, 0))
        put(f"{side}_foot", ankle, foot @ _rx(90), (0, -0.016, 0.024), (0, 0.088, 0.034))
        joints[list(arm_joints)], joints[list(leg_joints)] = (shoulder, elbow, wrist), (hip, knee, ankle)
    shape = _hang(who, pose, put, pelvis)
    put("pack", neck, chest, (0, 0.0, -0.1), (0, -0.21, -0.112))
    sign = 1 if who.bag == "left" else -1
    put("bag", np.zeros(3), pelvis, (sign * 0.125 * who.hips, 0.075, 0.0), (sign * 0.13 * who.hips, -0.03, 0.0))
    at, frame, a, b = (np.array(column) for column in zip(*(placed[name] for name in PARTS), strict=True))
    start, end = at + (frame @ a[..., None])[..., 0], at + (frame @ b[..., None])[..., 0]
    feet = [PART["r_foot"], PART["l_foot"]]
    ground = np.array((0, min(start[feet, 1].min() - 0.022, end[feet, 1].min() - 0.017), 0))
    return Body(who, pose, joints - ground, _FACE_NORMALS @ turn.T, start - ground, end - ground, frame, shape)


def _hang(who: Identity, pose: BodyPose, put, pelvis: NDArray) -> Shapes:
    """Hang the skirt or coat from the waist, wide enough for the stride."""
    shape, i = shapes(who), PART["hem"]
    if not shape.drawn[i]:
        put("hem", np.zeros(3), pelvis, (0, 0, 0), (0, -0.1, 0))
        return shape
    length = 0.26 if who.lower == "skirt" and not who.coat else 0.06 + 0.17 * who.coat
    forward, back = (length * math.sin(math.radians(f(pose.r_hip_deg, pose.l_hip_deg))) for f in (max, min))
    middle, depth = (forward + back) / 2, max(0.072 * who.hips, (forward - back) / 2 + 0.052)
    put("hem", np.zeros(3), pelvis, (0, 0.07, 0), (0, 0.02 - math.sqrt(max(length**2 - middle**2, 0)), middle))
    profile, aspect = shape.profile.copy(), shape.aspect.copy()
    profile[i] = _along((0, 0.063 * max(who.hips, who.girth)), (0.25, 0.072 * who.hips), (1, depth))
    aspect[i] = 1.66 * min(1.0, 0.08 / depth)
    return shape._replace(profile=profile, aspect=aspect)


# ------------------------------------------------------------------------------------------------- onto the image

_COLOUR, _OPAQUE = np.array([[255, 255, 255, 0], [0, 0, 0, 255]], np.uint8).view(np.uint32)[:, 0]



class Framing(NamedTuple):
    """Where a body lands: the image position of its origin (between the feet), its scale, the camera's downward pitch."""

    scale_px: float
    x_px: float
    y_px: float
    pitch_deg: float


class Drawn(NamedTuple):
    """A drawn figure: colours times alpha, uint8 (s·H, s·W, 4); joints (18, 2) in pixels; occluded (18,); and for every part
    the pixels (flat, of the finer grid) it covers, hidden or not, and how far along its axis."""

    rgba: NDArray[np.uint8]
    joints: NDArray
    occluded: NDArray[np.bool_]
    pixels: NDArray[np.int64]
    parts: NDArray[np.int64]
    heights: Array


def view(yaw_deg: float, pitch_deg: float) -> NDArray:
    """Body frame → right, up, towards the viewer (3, 3)."""
    return _rx(pitch_deg) @ _ry(yaw_deg)


def project(points: NDArray, turn: NDArray, frame: Framing) -> NDArray:
    """Points (N, 3) of a body → x right, y down, nearness (N, 3), all in pixels."""
    seen = points @ turn.T * frame.scale_px
    return np.stack((frame.x_px + seen[:, 0], frame.y_px - seen[:, 1], seen[:, 2]), axis=1)


def extent(body: Body, turn: NDArray) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a body seen along `turn`, in statures."""
    keep = body.shape.drawn
    radius = (body.shape.profile.max(1) * np.minimum(body.shape.aspect, 1))[keep, None]
    ends = np.stack((body.start[keep] @ turn.T, body.end[keep] @ turn.T))[..., :2]
    low, high = (ends - radius * (1, 0.4)).min((0, 1)), (ends + radius * (1, 0.4)).max((0, 1))
    return low[0], high[0], low[1], high[1]


# How much nearer than the joint a surface must be to hide it: the flesh around the joint does not.
_TURNED = np.array([-0.3, 0.05, 0.05, 0.05, 0.05])  # a nose sticks out, so it is seen a little beyond the profile
_FLESH = np.array([0.02, 0.08] + [0.085, 0.055, 0.05] * 2 + [0.095, 0.07, 0.06] * 2 + [0.02] * 2 + [0.035] * 2)


def draw(body: Body, frame: Framing, size: tuple[int, int], light: tuple, ambient: float, fine: int) -> Drawn:
    """Draw a posed body on a grid `fine` times finer than `size`; `light` points from the body to the lamp (right, up, near)."""
    turn = view(body.pose.yaw_deg, frame.pitch_deg)
    rows, cols = size[0] * fine, size[1] * fine
    tubes = _tubes(body, turn, frame)
    all_ = _cover(tubes, rows, cols, fine)
    # A later write wins, so writing from far to near is a z-buffer; 16 bits let the sort be a radix sort.
    level = ((all_.near + 0.6 * frame.scale_px) * (60000 / (1.8 * frame.scale_px))).clip(0, 65535).astype(np.uint16)
    order = np.argsort(level, kind="stable")
    owner = np.full(rows * cols, -1, np.int64)
    owner[np.take(all_.pixel, order)] = order
    seen = np.flatnonzero(owner >= 0)
    win = np.take(owner, seen)
    rgba = np.zeros(rows * cols, np.uint32)
    rgba[seen] = _shade(body.who, tubes, _Surface(*(np.take(v, win) for v in all_)), frame.scale_px, light, ambient)
    joints = project(body.joints, turn, frame)
    x, y = ((joints[:, i] + 0.5) * fine for i in (0, 1))
    inside = (x >= 0) & (x < cols) & (y >= 0) & (y < rows)
    at = owner[np.where(inside, y.astype(int) * cols + x.astype(int), 0)]
    front = np.where(inside & (at >= 0), all_.near[at] if len(all_.near) else 0, -np.inf)
    occluded = front > joints[:, 2] + _FLESH * frame.scale_px
    occluded[FACE] |= (body.face @ turn.T)[:, 2] < _TURNED
    return Drawn(rgba.view(np.uint8).reshape(rows, cols, 4), joints[:, :2], occluded, all_.pixel, tubes.part[all_.tube], all_.t)


class _Tubes(NamedTuple):
    """The drawn parts seen by the viewer; n of them, lengths in pixels."""

    part: NDArray  # (n,) index into PARTS
    a: NDArray  # (n, 3) where the axis starts
    depth: NDArray  # (n,) how much nearer it ends
    along: NDArray  # (n, 2) unit vector of the axis in the image
    across: NDArray  # (n, 2) unit vector to its side
    length: NDArray
    half: NDArray  # (n, rows) half width in the image
    skew: NDArray  # nearness of the surface at the side, per half width
    bulge: NDArray  # nearness of the surface in the middle, per half width
    first: NDArray  # angle around the tube where `across` points
    sense: NDArray  # ±1, which way the angle runs over the visible side
    frame: NDArray  # (n, 3, 3)
    aspect: NDArray
    cap: NDArray  # how far the round ends reach, per half width


def _tubes(body: Body, turn: NDArray, frame: Framing) -> _Tubes:
    part = np.flatnonzero(body.shape.drawn)
    a, b = project(body.start[part], turn, frame), project(body.end[part], turn, frame)
    step = (b - a)[:, :2]
    length = np.maximum(np.hypot(step[:, 0], step[:, 1]), 0.25)
    along = step / length[:, None]
    along[np.hypot(along[:, 0], along[:, 1]) < 0.5] = (0, 1)
    along /= np.hypot(along[:, 0], along[:, 1])[:, None]
    across = np.stack((-along[:, 1], along[:, 0]), 1)
    axes = turn @ body.frame[part]
    left, ahead, k = axes[:, :, 0], axes[:, :, 2], body.shape.aspect[part]
    flip = np.array((1, -1))
    side_left, side_ahead = (left[:, :2] * flip * across).sum(1) * k, (ahead[:, :2] * flip * across).sum(1)
    wide = np.maximum(np.hypot(side_left, side_ahead), 0.05)
    c, s = side_left / wide, side_ahead / wide
    bulge = c * ahead[:, 2] - k * s * left[:, 2]
    return _Tubes(
        part=part, a=a, depth=(b - a)[:, 2], along=along, across=across, length=length,
        half=body.shape.profile[part] * (wide * frame.scale_px)[:, None],
        skew=(k * c * left[:, 2] + s * ahead[:, 2]) / wide, bulge=abs(bulge) / wide,
        first=np.arctan2(s, c), sense=np.where(bulge < 0, -1.0, 1.0), frame=axes, aspect=k,
        cap=np.maximum(body.shape.cap[part], 1e-3) / wide,
    )  # fmt: skip


class _Surface(NamedTuple):
    """Every (pixel, tube) that meet, and where on the tube."""

    pixel: NDArray[np.int64]  # flat, of the finer grid
    tube: NDArray[np.int64]
    t: Array  # along the axis, 0 to 1
    q: Array  # to the side, -1 to 1
    s: Array  # towards the viewer, 0 to 1
    near: Array  # px


def _cover(tube: _Tubes, rows: int, cols: int, fine: int) -> _Surface:
    """The surface of all tubes on a grid `fine` times finer than the image's pixels."""
    reach = tube.half.max(1) + 0.5
    ends = np.stack((tube.a[:, :2], tube.a[:, :2] + tube.along * tube.length[:, None]))
    low, high = (ends - reach[:, None]).min(0), (ends + reach[:, None]).max(0)
    first = np.clip(np.ceil(low[:, 1] * fine), 0, rows).astype(np.int64)
    count = np.maximum(np.clip(np.floor(high[:, 1] * fine) + 1, 0, rows).astype(np.int64) - first, 0)
    n = np.repeat(np.arange(len(first)), count)  # tube of each image row of each tube
    row = np.arange(len(n)) - np.repeat(np.cumsum(count) - count - first, count)
    y = (row + 0.5) / fine - 0.5 - tube.a[n, 1]
    # Per row only the pixels near the axis: a slanted limb fills little of its box.
    slope = tube.along[:, 1][n]
    steep = abs(slope) > 0.25
    slope = np.where(steep, slope, 1)
    middle, spread = tube.a[n, 0] + y * tube.along[n, 0] / slope, reach[n] / abs(slope)
    x0 = np.where(steep, np.maximum(low[n, 0], middle - spread), low[n, 0])
    x1 = np.where(steep, np.minimum(high[n, 0], middle + spread), high[n, 0])
    x0 = np.clip(np.ceil(x0 * fine), 0, cols).astype(np.int64)
    width = np.maximum(np.clip(np.floor(x1 * fine) + 1, 0, cols).astype(np.int64) - x0, 0)

    start = np.cumsum(width) - width
    col = np.arange(int(width.sum())) - np.repeat(start - x0, width)
    left = col.astype(np.float32)

    def linear(direction: NDArray) -> Array:
        """How far each pixel lies from the axis' start along a direction (n, 2)."""
        at_zero = y * direction[n, 1] + ((0.5 / fine - 0.5) - tube.a[n, 0]) * direction[n, 0]
        return np.repeat(at_zero.astype(np.float32), width) + left * np.repeat((direction[n, 0] / fine).astype(np.float32), width)

    t, d, tubes = linear(tube.along / tube.length[:, None]), linear(tube.across), np.repeat(n, width)
    flat = t.clip(0, 1)
    cell = tubes * _ROWS
    cell += (flat * np.float32(_ROWS - 0.01)).astype(np.int64)
    narrow = np.take((1 / np.maximum(tube.half, 1e-3)).astype(np.float32), cell)
    q = d * narrow
    beyond = (t - flat) * narrow * np.take((tube.length / tube.cap).astype(np.float32), tubes)
    rest = 1 - q * q - beyond * beyond
    hit = np.flatnonzero(rest > 0)
    part = np.take(tubes, hit)
    q, s, t, narrow = (np.take(value, hit) for value in (q, np.sqrt(rest.clip(0)), flat, narrow))

    def per_tube(value: NDArray) -> Array:
        return np.take(value.astype(np.float32), part)

    near = per_tube(tube.a[:, 2]) + t * per_tube(tube.depth) + (q * per_tube(tube.skew) + s * per_tube(tube.bulge)) / narrow
    return _Surface(np.take(np.repeat(row * cols, width) + col, hit), part, t, q, s, near)


def _shade(who: Identity, tubes: _Tubes, at: _Surface, scale_px: float, light: tuple, ambient: float) -> NDArray[np.uint32]:
    """The surface points' colours (n,), RGBA in 32 bits: texture, lamp, darker rims, and far limbs a little darker."""

    def per_tube(value: Array) -> Array:
        return np.take(value.astype(np.float32), at.tube)

    per_angle = _COLUMNS / (2 * math.pi)
    column = (per_tube(tubes.first * per_angle) + per_tube(tubes.sense * per_angle) * np.arccos(at.q)).astype(np.int64)
    row = np.take(tubes.part * _ROWS, at.tube) + (at.t * np.float32(_ROWS - 0.01)).astype(np.int64)
    colour = np.take(textures(who), row * _COLUMNS + (column & (_COLUMNS - 1)))
    # The normal, cos θ / aspect to the left and sin θ ahead, is linear in (q, s), and so is its product with the lamp.
    lamp = (np.asarray(light) / np.linalg.norm(light)) @ tubes.frame  # (n, 3) in each tube's frame
    c, d, k = np.cos(tubes.first), np.sin(tubes.first), tubes.aspect
    stretch = (1 - ambient) * np.sqrt(np.maximum(k, 1))  # about what dividing by the normal's length does
    by_q = (c / k * lamp[:, 0] + d * lamp[:, 2]) * stretch
    by_s = tubes.sense * (c * lamp[:, 2] - d / k * lamp[:, 0]) * stretch
    shade = (at.q * per_tube(by_q) + at.s * per_tube(by_s)).clip(0, 1 - ambient) + np.float32(ambient)
    shade *= (0.73 + 0.45 * at.s) * (1 + (at.near * np.float32(0.9 / scale_px)).clip(-0.18, 0.045))
    lit = colour.view(np.uint8).reshape(-1, 4) * shade[:, None]
    return (np.minimum(lit, 255).astype(np.uint8).view(np.uint32)[:, 0] & _COLOUR) | _OPAQUE
