"""Figures alone, without a place: people of more colours, poses and lights than a data set's, to be put into other scenes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from reid_aug.rendered.figure import BodyPose, posed, rotation
from reid_aug.rendered.person import HAIRS, SKINS, Identity
from reid_aug.rendered.photograph import FINE
from reid_aug.rendered.raster import Framing, extent, rasterise
from reid_aug.rendered.scenes import CAMERAS, background

_ANGLES = [name for name in BodyPose.__dataclass_fields__ if name != "yaw_deg"]
POSES = 4  # of each person: painting the clothes takes longer than one pose
PITCH_DEG = (-4.0, 26.0)  # how far cameras look down


class Figures(NamedTuple):
    """N figures, each the whole of its image: colours times alpha, and alpha; joints of openpose_18, hidden ones too, in its pixels."""

    rgba: NDArray[np.uint8]  # (N, 4, H, W)
    joints: NDArray[np.float32]  # (N, 18, 2)


def render_figures(count: int, size: tuple[int, int], seed: int, *, progress: bool = False) -> Figures:
    """Render people, each in four poses and as large as fits `size` (H, W): `count` figures; the same arguments give the same pixels."""
    import cv2

    who = sample_person(np.random.default_rng((5, seed)))
    rgba, joints = np.empty((count, 4, *size), np.uint8), np.empty((count, 18, 2), np.float32)
    for i in tqdm(range(count), desc="rendering figures", unit="image", disable=None if progress else True):
        rng = np.random.default_rng((5, seed, i))
        if i % POSES == 0:
            who = sample_person(rng)
        body = posed(who, sample_pose(rng))
        pitch = float(rng.uniform(*PITCH_DEG))
        left, right, bottom, top = extent(body, rotation(body.pose.yaw_deg, pitch))
        scale = min(0.97 * size[0] / (top - bottom), 0.98 * size[1] / (right - left))
        frame = Framing(scale, (size[1] - 1) / 2 - scale * (left + right) / 2, (size[0] - 1) / 2 + scale * (bottom + top) / 2, pitch)
        light = (float(rng.uniform(-1, 1)), float(rng.uniform(0.2, 1)), float(rng.uniform(0.2, 1)))
        raster = rasterise(body, frame, size, light, float(rng.uniform(0.3, 0.8)), FINE)
        rgba[i] = cv2.resize(raster.rgba, (size[1], size[0]), interpolation=cv2.INTER_AREA).transpose(2, 0, 1)
        joints[i] = raster.joints
    return Figures(rgba, joints)


def sample_person(rng: np.random.Generator) -> Identity:
    """Pick a person whose clothes have any colour, and whose proportions differ more than those of a data set's people."""
    who = Identity.sample(int(rng.integers(2**31)))
    cloth = {key: _colour(rng) for key in ("top", "top_second", "bottom", "shoes", "bag_colour", "print_colour")}
    wider = {key: float(getattr(who, key) * rng.uniform(0.9, 1.12)) for key in ("shoulders", "hips", "girth")}
    skin, hair = (_near(rng, colours[int(rng.integers(len(colours)))]) for colours in (SKINS, HAIRS))
    return replace(who, **cloth, **wider, head=float(who.head * rng.uniform(0.95, 1.2)), skin=skin, hair=hair)


def sample_pose(rng: np.random.Generator) -> BodyPose:
    """Pick a pose as a data set's people have it; many with an arm anywhere, a third with every joint turned a little further."""
    pose = BodyPose.sample(rng)
    for side in "rl":
        if rng.random() < 0.25:  # carrying, holding a strap, at the phone …
            free = {"shoulder": (-25, 80), "shoulder_out": (0, 60), "arm_turn": (-30, 70), "elbow": (5, 140)}
            pose = replace(pose, **{f"{side}_{name}_deg": float(rng.uniform(*angles)) for name, angles in free.items()})
    if rng.random() < 0.35:
        pose = replace(pose, **{name: float(getattr(pose, name) + rng.normal(0, 7)) for name in _ANGLES})
    return pose


def _colour(rng: np.random.Generator) -> tuple[int, int, int]:
    """Pick a colour: half of them nearly grey, as most clothes are, and dark ones more often."""
    value, tint = 255 * rng.random() ** 1.3, rng.uniform(-1, 1, 3) * rng.choice((12, 90))
    r, g, b = np.clip(value + tint, 8, 250).astype(int).tolist()
    return r, g, b


def _near(rng: np.random.Generator, colour: tuple[int, int, int]) -> tuple[int, int, int]:
    r, g, b = np.clip(np.array(colour) * rng.uniform(0.85, 1.12) + rng.normal(0, 5, 3), 4, 252).astype(int).tolist()
    return r, g, b


@cache
def places(size: tuple[int, int]) -> NDArray[np.uint8]:
    """Paint what the cameras of data sets see behind people, (6, 3, 1.2 H, 6 W), of which images of `size` (H, W) take windows."""
    return np.stack(list(_places(size)))


def _places(size: tuple[int, int]) -> Iterator[NDArray[np.uint8]]:
    for camera in CAMERAS:
        yield background(camera.background, size).astype(np.uint8)
