"""A clothed, jointed person: how it stands, and where that puts its joints and parts.

Lengths are in statures (the person's height is 1). Body frame: x to the person's left, y up, z forward. At yaw 0 the
person faces the viewer, at yaw 90 the right edge of the image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.garments import PART, PARTS, Shapes, along, shapes
from reid_aug.rendered.person import Identity

Point = tuple[float, float, float]
Put = Callable[[str, NDArray, NDArray, Point, Point], None]  # places a part: name, origin, frame, both ends of its axis within


@dataclass(frozen=True)
class BodyPose:
    """How a body stands: every angle in degrees; 0 everywhere is upright with hanging arms, facing the viewer."""

    yaw_deg: float = 0.0  # Heading: 0 faces the viewer, 90 the right edge of the image.
    lean_deg: float = 0.0  # Trunk leaning forward.
    tilt_deg: float = 0.0  # Trunk leaning to the person's right.
    head_yaw_deg: float = 0.0  # Head turned to the person's left.
    head_pitch_deg: float = 0.0  # Head bowed.
    r_shoulder_deg: float = 0.0  # Right upper arm raised forward.
    l_shoulder_deg: float = 0.0
    r_shoulder_out_deg: float = 6.0  # Right upper arm raised sideways.
    l_shoulder_out_deg: float = 6.0
    r_arm_turn_deg: float = 0.0  # Right upper arm turned about itself, which brings a bent forearm inward.
    l_arm_turn_deg: float = 0.0
    r_elbow_deg: float = 10.0  # Right elbow bent.
    l_elbow_deg: float = 10.0
    r_hip_deg: float = 0.0  # Right thigh raised forward.
    l_hip_deg: float = 0.0
    r_hip_out_deg: float = 3.0  # Right thigh raised sideways.
    l_hip_out_deg: float = 3.0
    r_knee_deg: float = 2.0  # Right knee bent.
    l_knee_deg: float = 2.0

    @staticmethod
    def sample(rng: np.random.Generator, yaw_deg: float | None = None) -> BodyPose:
        """Pick a walking, standing or half seated pose at random, some with a gesture, heading `yaw_deg` or anywhere."""
        yaw = float(rng.uniform(0, 360)) if yaw_deg is None else float(yaw_deg) % 360
        kind = rng.choice(("walk", "stand", "sit"), p=(0.62, 0.3, 0.08))
        angles = {"walk": _walk, "stand": _stand, "sit": _sit}[kind](rng)
        if rng.random() < 0.3:
            side = rng.choice(("r", "l"))
            angles |= {f"{side}_{name}": value for name, value in _gesture(rng).items()}
        angles |= {"head_yaw_deg": rng.normal(0, 12), "head_pitch_deg": angles.get("head_pitch_deg", 0) + rng.normal(2, 5)}
        return BodyPose(yaw_deg=yaw, **{name: round(float(value), 3) for name, value in angles.items()})


def _walk(rng: np.random.Generator) -> dict[str, float]:
    """Pick the angles of a moment of walking: arms swing against the legs."""
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
    """Pick the angles of standing about."""
    angles = {"lean_deg": rng.normal(1, 2), "tilt_deg": rng.normal(0, 2.5)}
    for side in "rl":
        bend = rng.uniform(0, 12)
        angles |= {f"{side}_hip_deg": bend * 0.6, f"{side}_knee_deg": bend, f"{side}_hip_out_deg": rng.uniform(2, 9)}
        angles |= {f"{side}_shoulder_deg": rng.normal(0, 7), f"{side}_shoulder_out_deg": rng.uniform(5, 16)}
        angles |= {f"{side}_elbow_deg": rng.uniform(5, 30), f"{side}_arm_turn_deg": rng.uniform(0, 30)}
    return angles


def _sit(rng: np.random.Generator) -> dict[str, float]:
    """Pick the angles of sitting half against something behind: thighs forward, trunk over them."""
    bend = rng.uniform(35, 65)
    angles = {"lean_deg": rng.uniform(5, 22)}
    for side in "rl":
        angles |= {f"{side}_hip_deg": bend + rng.normal(0, 4), f"{side}_knee_deg": bend * rng.uniform(0.9, 1.15)}
        angles |= {f"{side}_hip_out_deg": rng.uniform(3, 12), f"{side}_shoulder_deg": rng.uniform(15, 40)}
        angles |= {f"{side}_elbow_deg": rng.uniform(20, 60), f"{side}_arm_turn_deg": rng.uniform(0, 40)}
    return angles


def _gesture(rng: np.random.Generator) -> dict[str, float]:
    """Pick the angles of a gesturing arm: at the phone, in a pocket, pointing, on the hip, carrying or raised."""
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


# ---------------------------------------------------------------------------------------------------- kinematics


def _rx(deg: float) -> NDArray:
    """Rotate about x, (3, 3): the top comes forward."""
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((1.0, 0, 0), (0, c, -s), (0, s, c)))


def _ry(deg: float) -> NDArray:
    """Rotate about y, (3, 3): the front turns to the left."""
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((c, 0, s), (0.0, 1, 0), (-s, 0, c)))


def _rz(deg: float) -> NDArray:
    """Rotate about z, (3, 3): the top goes to the right."""
    c, s = math.cos(math.radians(deg)), math.sin(math.radians(deg))
    return np.array(((c, -s, 0), (s, c, 0), (0, 0, 1.0)))


def rotation(yaw_deg: float, pitch_deg: float) -> NDArray:
    """Give the rotation (3, 3) from the body frame to (right, up, towards the viewer), for a camera that looks down by `pitch_deg`.

    >>> (rotation(90, 0) @ (0, 0, 1)).round(6).tolist()  # who faces the right edge
    [1.0, 0.0, 0.0]
    """
    return _rx(pitch_deg) @ _ry(yaw_deg)


_SIDE_ANGLES = ("shoulder", "shoulder_out", "arm_turn", "elbow", "hip", "hip_out", "knee")


class Body(NamedTuple):
    """A posed body in its frame, with its feet on y = 0; P parts."""

    who: Identity
    pose: BodyPose
    joints: NDArray  # (18, 3), as openpose_18 has them
    face: NDArray  # (5, 3) outward normals of the face's joints
    start: NDArray  # (P, 3) where the parts' axes begin
    end: NDArray  # (P, 3) where they end
    frame: NDArray  # (P, 3, 3) the parts' frames; columns left, up, front
    shape: Shapes  # adapted to the pose


FACE = [0, 14, 15, 16, 17]  # nose, right and left eye, right and left ear
_FACE_AT = np.array([[0, -0.01, 0.06], [-0.019, 0.006, 0.05], [0.019, 0.006, 0.05], [-0.047, -0.004, 0], [0.047, -0.004, 0]])
_FACE_NORMALS = np.array([[0, -0.1, 1], [-0.35, 0.1, 0.93], [0.35, 0.1, 0.93], [-0.95, 0, 0.25], [0.95, 0, 0.25]])


def posed(who: Identity, pose: BodyPose) -> Body:
    """Put a person into a pose: from the hips up and down, then lifted until the lower foot touches the ground."""
    joints = np.zeros((18, 3))
    placed: dict[str, tuple] = {}

    def put(name: str, at: NDArray, frame: NDArray, a: Point, b: Point) -> None:
        placed[name] = (at, frame, a, b)

    leg = 0.47 * who.legs
    trunk = 0.775 - leg
    pelvis, chest = _rx(pose.lean_deg * 0.4), _rx(pose.lean_deg) @ _rz(pose.tilt_deg)
    waist = pelvis @ (0, 0.1, 0)
    neck = waist + chest @ (0, trunk - 0.1, 0)
    head = chest @ _ry(pose.head_yaw_deg) @ _rx(pose.head_pitch_deg)
    put("pelvis", np.zeros(3), pelvis, (0, -0.055, 0), (0, 0.125, 0))
    put("torso", waist, chest, (0, -0.035, 0), (0, trunk - 0.075, 0))
    put("neck", neck, chest, (0, -0.01, -0.002), (0, 0.085, 0.004))
    joints[1] = neck + chest @ (0, -0.004, 0)
    joints[FACE] = _put_head(who, pose, put, neck + chest @ (0, 0.05, 0.006) + head @ (0, 0.064, 0.008), head)
    for side, sign, arm_joints, leg_joints in (("r", -1, [2, 3, 4], [8, 9, 10]), ("l", 1, [5, 6, 7], [11, 12, 13])):
        angle = {key: getattr(pose, f"{side}_{key}_deg") for key in _SIDE_ANGLES}
        shoulder = neck + chest @ (sign * 0.097 * who.shoulders, -0.004, 0)
        hip = pelvis @ (sign * 0.05 * who.hips, 0, 0)
        joints[arm_joints] = _put_arm(put, side, sign, angle, shoulder, chest)
        joints[leg_joints] = _put_leg(put, side, sign, angle, hip, leg)
    shape = _hang(who, pose, put, pelvis)
    put("pack", neck, chest, (0, 0.0, -0.1), (0, -0.21, -0.112))
    sign = 1 if who.bag == "left" else -1
    put("bag", np.zeros(3), pelvis, (sign * 0.125 * who.hips, 0.075, 0.0), (sign * 0.13 * who.hips, -0.03, 0.0))
    at, frame, a, b = (np.array(column) for column in zip(*(placed[name] for name in PARTS), strict=True))
    start, end = at + (frame @ a[..., None])[..., 0], at + (frame @ b[..., None])[..., 0]
    feet = [PART["r_foot"], PART["l_foot"]]
    ground = np.array((0, min(start[feet, 1].min() - 0.022, end[feet, 1].min() - 0.017), 0))
    return Body(who, pose, joints - ground, _FACE_NORMALS @ head.T, start - ground, end - ground, frame, shape)


def _put_head(who: Identity, pose: BodyPose, put: Put, centre: NDArray, frame: NDArray) -> NDArray:
    """Put head, nose and hair in place; return the face's joints (5, 3)."""
    h = 1.05 * who.head
    put("head", centre, frame, (0, -0.07 * h, 0), (0, 0.07 * h, 0))
    put("nose", centre, frame, (0, 0.006, 0.05 * h), (0, -0.014, 0.0535 * h))
    put("hair", centre, frame, (0, -0.038 * h, -0.012), (0, 0.078 * h, -0.009))
    drop = {"long": (0.02, -0.032, -0.155, -0.05), "tail": (0.02, -0.062, -0.15, -0.085), "bun": (0.05, -0.055, 0.045, -0.06)}
    top_y, top_z, low_y, low_z = drop.get(who.hair_style, (0, 0, 0, 0))
    put("locks", centre, frame @ _rx(-pose.head_pitch_deg), (0, top_y, top_z), (0, low_y, low_z))
    return centre + h * _FACE_AT @ frame.T


def _put_arm(put: Put, side: str, sign: int, angle: Mapping[str, float], shoulder: NDArray, chest: NDArray) -> tuple[NDArray, ...]:
    """Put an arm's parts in place; return shoulder, elbow and wrist."""
    upper = chest @ _rz(sign * angle["shoulder_out"]) @ _rx(-angle["shoulder"]) @ _ry(-sign * angle["arm_turn"])
    fore = upper @ _rx(-angle["elbow"])
    elbow = shoulder + upper @ (0, -0.162, 0)
    wrist = elbow + fore @ (0, -0.142, 0)
    put(f"{side}_arm", shoulder, upper, (-sign * 0.004, -0.018, 0), (0, -0.162, 0))
    put(f"{side}_forearm", elbow, fore, (0, 0, 0), (0, -0.142, 0))
    put(f"{side}_hand", wrist, fore, (0, -0.004, 0), (0, -0.058, 0.006))
    return shoulder, elbow, wrist


def _put_leg(put: Put, side: str, sign: int, angle: Mapping[str, float], hip: NDArray, leg: float) -> tuple[NDArray, ...]:
    """Put a leg's parts in place; return hip, knee and ankle."""
    thigh = _rz(sign * angle["hip_out"]) @ _rx(-angle["hip"])
    shin = thigh @ _rx(angle["knee"])
    knee = hip + thigh @ (0, -leg / 2, 0)
    ankle = knee + shin @ (0, -leg / 2, 0)
    foot = _ry(sign * 9) @ _rx(np.clip(0.75 * (angle["knee"] - angle["hip"]), -25, 55))  # a trailing foot lifts its heel
    put(f"{side}_thigh", hip, thigh, (0, 0, 0), (0, -leg / 2, 0))
    put(f"{side}_shin", knee, shin, (0, 0, 0), (0, -leg / 2 - 0.012, 0))
    put(f"{side}_foot", ankle, foot @ _rx(90), (0, -0.016, 0.024), (0, 0.088, 0.034))
    return hip, knee, ankle


def _hang(who: Identity, pose: BodyPose, put: Put, pelvis: NDArray) -> Shapes:
    """Hang the skirt or coat from the waist, wide enough for the stride; return the person's shapes with it."""
    shape, i = shapes(who), PART["hem"]
    if not shape.present[i]:
        put("hem", np.zeros(3), pelvis, (0, 0, 0), (0, -0.1, 0))
        return shape
    length = 0.26 if who.lower == "skirt" and not who.coat else 0.06 + 0.17 * who.coat
    forward, back = (length * math.sin(math.radians(f(pose.r_hip_deg, pose.l_hip_deg))) for f in (max, min))
    middle, depth = (forward + back) / 2, max(0.072 * who.hips, (forward - back) / 2 + 0.052)
    put("hem", np.zeros(3), pelvis, (0, 0.07, 0), (0, 0.02 - math.sqrt(max(length**2 - middle**2, 0)), middle))
    profile, aspect = shape.profile.copy(), shape.aspect.copy()
    profile[i] = along((0, 0.063 * max(who.hips, who.girth)), (0.25, 0.072 * who.hips), (1, depth))
    aspect[i] = 1.66 * min(1.0, 0.08 / depth)
    return shape._replace(profile=profile, aspect=aspect)
