"""How well and how fast pose estimators find the joints of Re-ID's small crops.

    python benchmarks/poses.py [ESTIMATOR …] [--images N] [--data ROOT --keypoints FILE] [--out FILE]

Against the truth: rendered people at 128 × 64. With --data, also agreement with the keypoints given for real images, which were made by
another estimator: what both find alike is mostly right, what they find differently may be either's mistake. PCK: the share of joints within
a tenth of the image's height; PCKh as `reid-aug quality` has it; joints that were not found are wrong in both. Images a second are of the
process's own time on one thread. Without names, all those whose packages and weights are here; `distilled` is the network that comes with
the package, and a checkpoint of `reid-aug train distilled` goes by its path. Prints a table and writes benchmarks/results/poses.json.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch

from generators import Pose, openpose_18
from reid_aug import images
from reid_aug.bench.results import device_name
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.estimators import PoseEstimator, load_estimator, on_skeleton
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import plausible
from reid_aug.data.people import PersonImage
from reid_aug.images import atomic_write_text
from reid_aug.quality.pckh import pckh_counts
from reid_aug.rendered import RenderedConfig, write_rendered

RESULT = Path(__file__).parent / "results" / "poses.json"
PCK_SHARE = 0.1
KNOWN = ("mediapipe-lite", "mediapipe", "mediapipe-heavy", "distilled")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("estimators", nargs="*", metavar="ESTIMATOR", help=f"those of {', '.join(KNOWN)} that are here")
    parser.add_argument("--images", type=int, default=300, help="images of each data set (300)")
    parser.add_argument("--data", metavar="ROOT", help="real images with keypoints")
    parser.add_argument("--keypoints", metavar="FILE", help="their keypoint file, of training images")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    estimators = {name: load_estimator(name, "cpu") for name in arguments.estimators} or dict(_installed())
    rows: dict[str, dict[str, Any]] = {name: {"estimator": estimator.name} for name, estimator in estimators.items()}
    for which, people in _data_sets(arguments):
        for name, estimator in estimators.items():
            rows[name][which] = measure(estimator, people)
            print(f"{name:18} {which:10} {json.dumps(rows[name][which])}", flush=True)
    result = {
        "command": shlex.join(["python", "benchmarks/poses.py", *(Path(a).name if "/" in a else a for a in sys.argv[1:])]),
        "date": date.today().isoformat(), "machine": f"{device_name()}", "python": platform.python_version(),
        "versions": dict(_versions("torch", "pillow", "ai-edge-litert")), "rows": rows,
    }  # fmt: skip
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(arguments.out)


def _installed() -> Iterator[tuple[str, PoseEstimator]]:
    """Load the known estimators; say of each that is not here why."""
    for name in KNOWN:
        try:
            yield name, load_estimator(name, "cpu")
        except (ModuleNotFoundError, FileNotFoundError) as error:
            print(f"{name:18} left out: {error}", flush=True)


def _versions(*names: str) -> Iterator[tuple[str, str]]:
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield name, importlib.metadata.version(name)


def _data_sets(arguments: argparse.Namespace) -> list[tuple[str, list[PersonImage]]]:
    """Give rendered people and, where they are named, real ones, as many of each."""
    folder = tempfile.mkdtemp()
    config = RenderedConfig(train_identities=-(-arguments.images // 4), train_images=4, test_identities=2, size=(128, 64))
    sets = [("rendered", load_people(DataConfig(root=str(write_rendered(Path(folder) / "set", config, progress=True).root))))]
    if arguments.data:
        sets.append(("given", load_people(DataConfig(root=arguments.data, keypoints=arguments.keypoints))))
    chosen = []
    for name, people in sets:
        posed = [p for p in people if p.pose is not None and p.split == "train"]
        chosen.append((name, [posed[i] for i in np.random.default_rng(0).permutation(len(posed))[: arguments.images]]))
    return chosen


def measure(estimator: PoseEstimator, people: Sequence[PersonImage], batch: int = 32) -> dict[str, Any]:
    """Compare what an estimator finds on these people's images, all of one size, with their poses."""
    pictures = torch.stack([torch.from_numpy(images.read(p.path)).permute(2, 0, 1) for p in people])
    estimator.estimate(pictures[:2])  # wakes it up
    begin = time.process_time()
    found = [on_skeleton(estimator.estimate(part), openpose_18) for part in pictures.split(batch)]
    seconds = time.process_time() - begin
    pose, truth = Pose.cat([part.pose for part in found]), Pose.stack([p.pose for p in people if p.pose is not None])
    right, joints = pckh_counts(pose, truth)
    distance = (pose.xy - truth.xy).norm(dim=-1)
    near = (distance <= PCK_SHARE * truth.size[0]) & pose.visible
    both = pose.visible & truth.visible
    row = {
        "images": len(people), "PCK": float(near[truth.visible].float().mean()), "PCKh": float(right.sum() / joints.sum()),
        "PCK of joints found": float(near[both].float().mean()), "median px": float(distance[both].median()),
        "joints found": float(pose.visible[truth.visible].float().mean()),
        "without torso": float((~valid_for_pairs(pose)).float().mean()),
        "given without torso": float((~valid_for_pairs(truth)).float().mean()),
        "images per second": len(people) / seconds,
    }  # fmt: skip
    if estimator.has_masks:
        masked = [estimator.estimate(part, masks=True) for part in pictures.split(batch)]
        kept = [plausible(part.masks, part.pose) for part in masked if part.masks is not None]
        row["masks plausible"] = float(torch.cat(kept).float().mean())
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}


if __name__ == "__main__":
    main()
