"""Moves to copy: python benchmarks/dance.py moves.csv [--frames 24] writes the keypoints of a dance, a row a frame.

A rendered figure raises its arms in turn and steps from side to side. `reid-aug retarget` brings anybody through them.
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import torch

from generators import Pose, openpose_18
from reid_aug.data.keypoints import write_keypoints
from reid_aug.rendered.figure import BodyPose, posed, rotation
from reid_aug.rendered.person import Identity
from reid_aug.rendered.photograph import framing
from reid_aug.rendered.raster import project
from reid_aug.rendered.scenes import CAMERAS

SIZE = (128, 64)
DANCER = 3  # seed of the identity whose proportions the moves have


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="keypoint file to write")
    parser.add_argument("--frames", type=int, default=24, help="frames of one round of the dance")
    parser.add_argument("--yaw", type=float, default=0.0, help="heading in degrees: 0 faces the viewer, 90 the right edge")
    arguments = parser.parse_args()
    if arguments.frames < 1:
        parser.error(f"--frames is at least 1, got {arguments.frames}")
    names = [f"dance_{i:04d}.png" for i in range(arguments.frames)]
    write_keypoints(arguments.out, names, dance(arguments.frames, arguments.yaw))
    print(f"{arguments.frames} poses in images of {SIZE[0]} × {SIZE[1]}: {arguments.out}")


def dance(frames: int, yaw_deg: float) -> Pose:
    """Return the joints (frames, 18, 2) of one round, in images of SIZE, before one camera that stays where it is."""
    camera, who = CAMERAS[0], Identity.sample(DANCER)
    widest = BodyPose(yaw_deg=yaw_deg, r_shoulder_out_deg=107.0, l_shoulder_out_deg=107.0)
    frame = framing(posed(who, widest), camera, SIZE, seed=0)
    turn = rotation(yaw_deg, camera.pitch_deg)
    joints = [project(posed(who, step(2 * math.pi * i / frames, yaw_deg)).joints, turn, frame)[:, :2] for i in range(frames)]
    xy = torch.tensor([at.tolist() for at in joints])
    edge = torch.tensor([SIZE[1], SIZE[0]]) - 0.5
    return Pose(xy, ((xy >= -0.5) & (xy < edge)).all(-1), openpose_18, SIZE)


def step(phase: float, yaw_deg: float) -> BodyPose:
    """Return the body at a phase of the dance: one arm is up where the other hangs, and the weight is on the leg below it."""
    angles = {"yaw_deg": yaw_deg, "tilt_deg": 6 * math.sin(phase)}
    for side, sign in (("r", 1), ("l", -1)):
        raised = (1 + sign * math.sin(phase)) / 2  # 0 to 1
        angles |= {f"{side}_shoulder_out_deg": 12 + 95 * raised, f"{side}_elbow_deg": 15 + 35 * (1 - raised)}
        angles |= {f"{side}_hip_out_deg": 4 + 14 * (1 - raised), f"{side}_knee_deg": 4 + 10 * raised}
    return BodyPose(**angles)


if __name__ == "__main__":
    main()
