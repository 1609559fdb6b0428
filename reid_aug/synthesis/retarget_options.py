"""`reid-aug retarget`: its options, and what it does with them. Light to import: what renders is imported where it is needed."""

from __future__ import annotations

import argparse
from pathlib import Path


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.add_argument("source", metavar="SOURCE.jpg", type=Path, help="image of the person")
    parser.add_argument("poses", metavar="POSES.csv", type=Path, help="keypoint file of the moves, a row a frame, in their order")
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="generator that renders")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR | out.gif | out.png", help="frames, an animation, or a strip")
    parser.add_argument("--source-poses", type=Path, metavar="FILE", help="keypoint file that has the source's pose (POSES.csv)")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="size of the moves' images, if it is not the source's")
    parser.add_argument("--only", default="", metavar="PREFIX", help="rows whose names begin so")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="every N-th of them")
    parser.add_argument("--fit", action="store_true", help="bring the moves to the source's place and size first")
    parser.add_argument("--fps", type=float, default=10.0, help="frames a second of a .gif")
    parser.add_argument("--scale", type=int, default=1, help="how many times as large as rendered frames are written")
    parser.add_argument("--device", default="auto")


def run(arguments: argparse.Namespace) -> str:
    """Render and write the frames, and return what was done; ValueError or OSError, in one line, for what does not fit."""
    from generators import load
    from reid_aug import images
    from reid_aug.device import torch_device
    from reid_aug.synthesis.retarget import moves_of, refuse_out, retarget, source_of, write_frames

    for name, least in (("every", 1), ("scale", 1)):
        if getattr(arguments, name) < least:
            raise ValueError(f"--{name} is at least {least}, got {getattr(arguments, name)}")
    if not 0.1 <= arguments.fps <= 50:
        raise ValueError(f"--fps is between 0.1 and 50, which a .gif's clock of hundredths can show, got {arguments.fps:g}")
    if arguments.size is not None and min(arguments.size) < 1:
        raise ValueError(f"--size is height and width, both above 0, got {arguments.size[0]} {arguments.size[1]}")
    refuse_out(arguments.out)
    model = load(arguments.checkpoint)
    source = source_of(arguments.source, arguments.source_poses or arguments.poses)
    size = tuple(arguments.size) if arguments.size is not None else images.size_of(arguments.source)
    moves = moves_of(arguments.poses, size, only=arguments.only, every=arguments.every)
    frames, poses = retarget(model, source, moves.pose, fit=arguments.fit, device=torch_device(arguments.device))
    write_frames(arguments.out, source, frames, poses, moves.names, fps=arguments.fps, scale=arguments.scale)
    return f"{arguments.source.name} in {len(frames)} poses of {arguments.poses}: {arguments.out}"
