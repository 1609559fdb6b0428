"""Canonical poses that need no data set: 8 or 16 that stand for all in which rendered people stand and walk, from all sides."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files

import numpy as np
import torch

from generators import Pose, openpose_18
from reid_aug.data.body import VIEWS, view
from reid_aug.rendered import CAMERAS, BodyPose, Identity
from reid_aug.rendered.figure import FACE, posed, rotation
from reid_aug.rendered.photograph import framing
from reid_aug.rendered.raster import project
from reid_aug.synthesis.bank import KMEDOIDS, PoseBank

CANONICAL = ("canonical-8", "canonical-16")
SIZE = (128, 64)
PEOPLE = 320
_FILE = "canonical_poses.json"


def canonical(name: str) -> PoseBank:
    """Give the bank of a preset, "canonical-8" or "canonical-16", of images of 128 × 64; they are of no image and no camera.

    They are the medoids of 320 rendered people's poses (`make`), and lie in a file of the package, so that they are the same everywhere.
    """
    poses = _shipped()[name]
    xy = torch.tensor([[joint or [0.0, 0.0] for joint in pose] for pose in poses])
    visible = torch.tensor([[joint is not None for joint in pose] for pose in poses])
    return _named(name, Pose(xy, visible, openpose_18, SIZE))


@lru_cache(maxsize=1)
def _shipped() -> dict[str, list[list[list[float] | None]]]:
    return json.loads(files("reid_aug.synthesis").joinpath(_FILE).read_text(encoding="utf-8"))


def _named(name: str, pose: Pose) -> PoseBank:
    """Name poses after their preset, their number and the side they are seen from."""
    names = tuple(f"{name}-{i + 1:02d}-{VIEWS[side]}" for i, side in enumerate(view(pose).tolist()))
    return PoseBank(names, pose, without_images=f"{name} are poses of no image")


def make() -> dict[str, list[list[list[float] | None]]]:
    """Make what the file holds: by preset, of each pose each joint's [x, y] in hundredths of a pixel, or null where it is not seen.

    320 people turn evenly around the circle, each in a pose of its own before one of the six cameras; the medoids (`PoseBank.thin`) go by
    views, from the front on.
    """
    everybody = PoseBank(tuple(f"{i:03d}" for i in range(PEOPLE)), _rendered_poses())
    presets = {}
    for name in CANONICAL:
        pose = everybody.thin(int(name.rpartition("-")[2]), by=KMEDOIDS).pose
        pose = pose[view(pose).sort(stable=True).indices]
        presets[name] = [
            [[round(value, 2) for value in joint] if seen else None for joint, seen in zip(joints, visible, strict=True)]
            for joints, visible in zip(pose.xy.double().tolist(), pose.visible.tolist(), strict=True)
        ]  # fmt: skip
    return presets


def _rendered_poses() -> Pose:
    """Pose rendered people: joints (320, 18) in the middle of their images; eyes, ears and nose are seen where they face the camera."""
    rng = np.random.default_rng(0)
    joints, seen = np.zeros((PEOPLE, 18, 2)), np.ones((PEOPLE, 18), bool)
    for i in range(PEOPLE):
        body = posed(Identity.sample(i), BodyPose.sample(rng, 360 * i / PEOPLE))
        frame = framing(body, replace(CAMERAS[i % len(CAMERAS)], jitter=0.0), SIZE, 0)
        turn = rotation(body.pose.yaw_deg, frame.pitch_deg)
        joints[i] = project(body.joints, turn, frame)[:, :2]
        seen[i, FACE] = (body.face @ turn.T)[:, 2] > 0
    return Pose(torch.from_numpy(joints).float(), torch.from_numpy(seen), openpose_18, SIZE)


if __name__ == "__main__":
    from pathlib import Path

    presets = {name: [json.dumps(pose) for pose in poses] for name, poses in make().items()}
    text = ",\n".join(f'"{name}": [\n' + ",\n".join(poses) + "\n]" for name, poses in presets.items())
    Path(__file__).with_name(_FILE).write_text("{\n" + text + "\n}\n", encoding="utf-8")
