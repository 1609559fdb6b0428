"""What a person is made of: jointed parts, and what clothes make of their shapes and textures.

Every body part is a tube with elliptic cross-sections around an axis; its texture is painted over (height, angle
around the axis), so that front, side and back of a person differ as they do in life. Lengths are in statures
(the person's height is 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.person import Identity

Array = NDArray[Any]  # of floats

_LIMB_PARTS = [f"{side}_{part}" for side in "rl" for part in ("arm", "forearm", "hand", "thigh", "shin", "foot")]
_BARE_PARTS = ("neck", "head", "nose", "hair", "locks")
_FIRST_CLOTH = len(_BARE_PARTS)
PARTS = (*_BARE_PARTS, "pelvis", "torso", *_LIMB_PARTS, "hem", "pack", "bag")
PART = {name: i for i, name in enumerate(PARTS)}
ROWS, COLUMNS = 32, 64  # of a part's texture: along the axis, around it (0 left, ¼ front, ½ right, ¾ back)
_T = (np.arange(ROWS, dtype=np.float32) + 0.5) / ROWS
_ALONG = _T[:, None]
_ANGLE = ((np.arange(COLUMNS, dtype=np.float32) + 0.5) / COLUMNS * 2 * math.pi)[None]
_SIDEWAYS, _FRONT = np.cos(_ANGLE), np.sin(_ANGLE)  # +1 at the person's left; +1 in front

# Parts, each from a height on, whose union is each limb of openpose_18, in its order; a head's limb has both shoulders.
LIMB_PARTS: tuple[dict[str, float], ...] = (
    {"torso": 0, "pelvis": 0},
    {"head": 0, "nose": 0, "hair": 0, "neck": 0, "torso": 0.84},
    *({f"{side}_{part}": 0.0} for side in "rl" for part in ("thigh", "shin")),
    *({f"{side}_{part}": 0.0} for part in ("arm", "forearm") for side in "rl"),
)


class Shapes(NamedTuple):
    """The tubes of P parts."""

    profile: Array  # (P, rows) half depth along the axis
    aspect: Array  # (P,) half width over half depth
    cap: Array  # (P,) roundness of the ends
    present: NDArray[np.bool_]  # (P,) whether the person has the part: hair, a skirt, a bag


Put = Callable[..., None]  # sets a part's shape: name, half depth (rows,), half width over it, roundness of its ends, present or not


def along(*points: tuple[float, float]) -> NDArray[np.float64]:
    """Interpolate between points (height, value): a value for each row, (rows,).

    >>> along((0, 1.0), (1, 3.0))[[0, -1]].tolist()  # in the middle of the first row and the last
    [1.03125, 2.96875]
    """
    t, value = zip(*points, strict=True)
    return np.interp(_T, t, value)


@lru_cache(maxsize=256)
def shapes(who: Identity) -> Shapes:
    """Give the tubes of a person."""
    g, hips, n = who.girth, who.hips, len(PARTS)
    profile, aspect, cap, present = np.zeros((n, ROWS)), np.ones(n), np.ones(n), np.ones(n, bool)

    def put(name: str, depth: NDArray[np.float64], wide: float = 1.0, end: float = 1.0, has: bool = True) -> None:
        i = PART[name]
        profile[i], aspect[i], cap[i], present[i] = depth, wide, end, has

    chest = 0.5 * g + 0.5
    egg = np.sqrt(np.maximum(1 - (2 * _T - 1) ** 2, 0))
    put("pelvis", along((0, 0.04 * hips), (0.3, 0.058 * hips), (0.7, 0.06 * hips), (1, 0.055 * g)), 1.6, 0.5)
    waist_up = ((0.66, 0.066 * chest), (0.84, 0.066 * chest), (0.92, 0.06), (0.96, 0.045), (1, 0.02))
    put("torso", along((0, 0.066 * max(hips, g)), (0.3, 0.058 * g), *waist_up), 1.58 * who.shoulders / chest, 0.15)
    put("neck", along((0, 0.031), (1, 0.027)))
    put("head", 0.057 * who.head * egg**0.9 * along((0, 0.86), (0.35, 0.95), (0.6, 1.02), (1, 1)), 0.84, 0.0)
    put("nose", along((0, 0.005), (1, 0.009)))
    bald = who.hair_style == "bald"
    dome = along((0, 0.62), (0.2, 0.93), (0.5, 1), (0.75, 0.9), (0.9, 0.64), (1, 0.2))
    put("hair", 0.0615 * who.head * dome, 0.86, 0.3, not bald)
    locks = {"long": (0.054, 0.05, 0.043), "tail": (0.022, 0.02, 0.008), "bun": (0.026, 0.028, 0.026)}
    locks = locks.get(who.hair_style, (0.0, 0.0, 0.0))
    put("locks", along((0, locks[0]), (0.5, locks[1]), (1, locks[2])), 1.0, 0.6, any(locks))
    _put_limbs(who, put, chest)
    put("hem", along((0, 0.064), (1, 0.07)), 1.45, 0.0, who.lower == "skirt" or who.coat > 0)
    put("pack", along((0, 0.036), (0.3, 0.048), (0.85, 0.054), (1, 0.05)), 1.55, 0.5, who.bag == "pack")
    put("bag", along((0, 0.045), (0.5, 0.055), (1, 0.055)), 0.42, 0.3, who.bag in ("left", "right"))
    return Shapes(profile.astype(np.float32), aspect.astype(np.float32), cap.astype(np.float32), present)


def _put_limbs(who: Identity, put: Put, chest: float) -> None:
    """Shape arms and legs, bare or covered."""
    g, hips = who.girth, who.hips
    loose = 0.005 if who.jacket_open or who.coat else 0.003
    for side in "rl":
        covered = np.where(who.sleeve * 2 > _T, loose, 0)
        put(f"{side}_arm", along((0, 0.029), (0.12, 0.032), (0.4, 0.03), (1, 0.024)) * chest + covered)
        covered = np.where(who.sleeve * 2 - 1.02 > _T, loose, 0)
        put(f"{side}_forearm", along((0, 0.025), (0.3, 0.025), (1, 0.016)) * chest + covered)
        put(f"{side}_hand", along((0, 0.013), (0.45, 0.017), (1, 0.012)), 0.65)
        trousers, shorts = who.lower == "trousers", who.lower == "shorts"
        cloth = np.where(_T < 0.72, 0.009, 0) if shorts else 0.004 * trousers
        tuck = along((0, 0.012), (0.9, 0)) if who.lower == "skirt" or who.coat else 0  # nothing pokes through a hem
        put(f"{side}_thigh", along((0, 0.058 * hips), (0.5, 0.049 * g), (1, 0.036)) + cloth - tuck)
        calf = along((0, 0.035), (0.3, 0.036), (0.75, 0.024), (1, 0.021))
        put(f"{side}_shin", np.maximum(calf, along((0, 0.038), (0.3, 0.037), (1, 0.033))) if trousers else calf, 1.0, 0.35)
        put(f"{side}_foot", along((0, 0.022), (0.5, 0.022), (1, 0.017)), 1.1)


# ------------------------------------------------------------------------------------------------------ textures


def _ink(colour: Sequence[float], light: float = 1.0) -> np.uint32:
    """Pack a colour, darkened by `light`, as RGBA into 32 bits: gathering those is several times faster than rows of bytes."""
    return np.array([*(int(c * light) for c in colour), 255], np.uint8).view(np.uint32)[0]


def _printed(kind: str, t: Array, x: Array) -> NDArray[np.bool_]:
    """Tell where a print covers the cloth; `t` runs up the torso, `x` across it in half widths."""
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
    """Paint the upper garment over height `t` (1 = shoulders) and around."""
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
    return np.where(np.broadcast_to(second, (ROWS, COLUMNS)), _ink(who.top_second), _ink(who.top))


def _torso(who: Identity) -> NDArray[np.uint32]:
    """Paint the torso: cloth, prints, an open jacket, the neckline and a bag's straps."""
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
    """Paint the head: face, beard or glasses, and hair down to the hairline."""
    paint = np.full((ROWS, COLUMNS), _ink(who.skin))
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
    """Paint thigh, shin and foot of the leg whose outer side is `outward`: 1 at the person's left, -1 at the right."""
    skin, bottom = _ink(who.skin), _ink(who.bottom)
    cloth = np.where((outward * _SIDEWAYS > 0.975) & (who.side_seam and who.lower != "skirt"), _ink((225, 225, 225)), bottom)
    cover = {"trousers": 1.0, "shorts": 0.72, "skirt": 0.8}[who.lower]
    sock = np.where(_ALONG > 0.88, _ink((215, 213, 208)), skin)
    sole = _ink((200, 198, 190) if sum(who.shoes) < 400 else (70, 66, 64))
    shoe = np.where(_FRONT > 0.45, sole, _ink(who.shoes))  # a foot's frame has its front below
    return np.where(cover > _ALONG, cloth, skin), cloth if who.lower == "trousers" else sock, shoe


@lru_cache(maxsize=64)
def textures(who: Identity) -> NDArray[np.uint32]:
    """Paint every part of a person: (P · rows · columns,), each a pixel's RGBA in 32 bits."""
    atlas = np.empty((len(PARTS), ROWS, COLUMNS), np.uint32)

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
    rgba = atlas[_FIRST_CLOTH:].view(np.uint8).reshape(-1, ROWS, COLUMNS * 4)
    rgba[:] = np.minimum(rgba * np.repeat(_folds(who.seed), 4, axis=1), 255)
    return atlas.ravel()


def _folds(seed: int) -> Array:
    """Give how light cloth is over (rows, columns): soft waves that differ from person to person."""
    a, b, c = np.random.default_rng((0xF0, seed)).uniform(0, 2 * math.pi, 3).astype(np.float32)
    waves = np.sin(9 * _ALONG + 2 * _ANGLE + a) + np.sin(-14 * _ALONG + _ANGLE + b) + np.sin(23 * _ALONG + c)
    return 1 + np.float32(0.025) * waves
