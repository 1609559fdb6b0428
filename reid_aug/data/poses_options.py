"""What `reid-aug poses` takes, and which of its two ways it goes: joints are found by an estimator, or read from a file of theirs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # slow to import, and every verb declares its options
    from reid_aug.data.estimate import PosesFound


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    names = "mediapipe (-lite, -heavy), rtmpose, keypointrcnn, distilled"
    parser.epilog = f"A run that was stopped goes on where it was; exit code 1 where no body was found. Estimators: {names}."
    parser.add_argument("root", metavar="DIR | CSV | torchreid:NAME:ROOT", help="a data set, or any folder of images")
    parser.add_argument("--out", required=True, metavar="FILE", help="keypoint file to write; scores go beside it")
    parser.add_argument("--format", default="csv", metavar="NAME", help="csv, or coco, openpose (a folder), alphapose (csv)")
    parser.add_argument("--estimator", metavar="NAME | FILE", help="what finds them, or a checkpoint (mediapipe if there, else distilled)")
    parser.add_argument("--masks", metavar="DIR", help="folder for silhouettes, where the estimator has them")
    parser.add_argument("--device", default="auto", help="of estimators that run on a GPU (auto)")
    parser.add_argument("--batch", type=int, default=32, metavar="N", help="images at a time (32)")
    formats = "COCO, OpenPose, AlphaPose JSON, MPII .mat or .h5, Market-1501 .mat, CSV"
    parser.add_argument("--from", dest="source", metavar="FILE | FOLDER", help=f"read keypoints that are there already: {formats}")
    parser.add_argument("--coordinates", metavar="pixels | shares", help="what --from has: pixels, or shares of width and height (pixels)")
    parser.add_argument("--of", nargs=2, type=int, metavar=("H", "W"), help="size of the images that its pixels are of, if another")
    parser.add_argument("--images", metavar="FILE", help="COCO annotations that name the numbers of a list of results")
    parser.add_argument("--least-score", type=float, metavar="S", help="score from which a joint of results counts as found (0.3)")
    fill = "fill in elbows, wrists, knees and ankles that are missing, and say so beside the file"
    parser.add_argument("--fill", metavar="mirror | nearest", help=f"{fill}: from the other side, or the most similar body of the file")


def run(arguments: argparse.Namespace) -> PosesFound:
    """Find or read the poses, and write them; ValueError for options that contradict each other."""
    of_source = {
        key: value
        for key in ("coordinates", "of", "images", "least_score") if (value := getattr(arguments, key)) is not None
    }  # fmt: skip
    if arguments.source is not None:
        from reid_aug.data.convert_poses import convert_poses

        if wrong := [key for key in ("estimator", "masks") if getattr(arguments, key) is not None]:
            raise ValueError(f"--{wrong[0]} is of poses that are found, --from of those that are there: leave one of them out")
        if "of" in of_source:
            of_source["of"] = tuple(of_source["of"])
        settings = {"form": arguments.format, "how_filled": arguments.fill}
        return convert_poses(arguments.root, arguments.source, arguments.out, **settings, **of_source)

    from reid_aug.data.estimate import estimate_poses
    from reid_aug.data.estimators import load_estimator, usual_estimator

    if of_source:
        raise ValueError(f"--{next(iter(of_source)).replace('_', '-')} is about keypoints that are there: give --from FILE, too")
    if arguments.batch < 1:
        raise ValueError(f"--batch is 1 at least, got {arguments.batch}")
    estimator = load_estimator(arguments.estimator or usual_estimator(), arguments.device)
    settings = {"batch_size": arguments.batch, "masks": arguments.masks, "form": arguments.format, "how_filled": arguments.fill}
    return estimate_poses(arguments.root, estimator, arguments.out, **settings)
