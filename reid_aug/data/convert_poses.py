"""`reid-aug poses ROOT --from FILE`: keypoints that are there already, brought to each image's pixels and written in another format."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from generators import Pose, one_of, openpose_18
from reid_aug import images as files
from reid_aug.data.doubts import report
from reid_aug.data.estimate import PosesFound, images_of, refuse_written, with_filled, write_found
from reid_aug.data.keypoint_files.rows import SEEN, FilePoses, scaled
from reid_aug.data.keypoints import read_file_poses
from reid_aug.data.left_out import warn_of
from reid_aug.data.people import PersonImage, keys_of, unnamed
from reid_aug.data.pose_doubts import pose_doubts, zeros_are_missing

COORDINATES = ("pixels", "shares")


def convert_poses(
    root: str, source: str | os.PathLike[str], out: str | os.PathLike[str], *, form: str = "csv",
    coordinates: Literal["pixels", "shares"] = "pixels", of: tuple[int, int] | None = None,
    images: str | None = None, least_score: float = SEEN, how_filled: str | None = None,
) -> PosesFound:  # fmt: skip
    """Read keypoints of the images of `root` from `source` and write them to `out`, each in its own image's pixels, on 18 joints.

    `coordinates` are pixels, of the image as it is, of the size that the file itself says (COCO), or of images of size `of` (H, W);
    or shares of the image's width and height. `images` is a file of COCO annotations that names the numbers of a list of results, of
    which a joint counts as found from `least_score` on. `how_filled` fills in missing limb joints (`filling.fill`). `form` is csv,
    coco, openpose or alphapose. ValueError where `out` is there already, the file names none of the images, or its poses are no bodies
    in them; images without a pose are warned of, and left out.
    """
    one_of("a kind of coordinates", coordinates, COORDINATES)
    refuse_written(out, form, how_filled)
    by_name = images_of(root)
    people = [PersonImage(path, 0, 0, "train", alias=name) for name, path in by_name.items()]
    folders = list(dict.fromkeys(Path(path).parent for path in by_name.values()))
    found = read_file_poses(source, folders=folders, images=images, least_score=least_score).on(openpose_18)
    _refuse_size(found, coordinates, of)
    keys = keys_of(people, set(found.names))
    if not keys:
        names = f"it has {found.names[0]!r}, they {people[0].name!r}"
        raise ValueError(f"{found.where} names none of {len(people):,} images of {root}: {names}")
    if len(keys) < len(people):
        warn_of(f"{len(people) - len(keys)} of {len(people)} images are not in {found.where}", unnamed(people, found.names))
    row = {name: i for i, name in enumerate(found.names)}
    rows = [row[keys[p.path]] for p in people if p.path in keys]
    names = [p.name for p in people if p.path in keys]
    sizes = _sizes([p.path for p in people if p.path in keys])
    yx = _in_pixels(found, rows, coordinates, of, sizes)
    yx, doubts = zeros_are_missing(found.where, names, yx)
    report([*found.doubts, *doubts, *pose_doubts(found.where, names, yx, sizes)])
    visible = np.all(yx >= 0, axis=-1)
    xy = torch.from_numpy(np.where(visible[..., None], yx, 0)[..., ::-1].copy()).float()
    poses = tuple(Pose(xy[i], torch.from_numpy(visible[i]), openpose_18, (int(h), int(w))) for i, (h, w) in enumerate(sizes))
    scores = None if found.scores is None else found.scores[rows].astype(np.float32)
    written = with_filled(PosesFound(tuple(names), poses, scores, Path(out), {}), how_filled)
    write_found(written, f"read from {Path(source).name}", form)
    return written


def _refuse_size(found: FilePoses, coordinates: str, of: tuple[int, int] | None) -> None:
    """Raise ValueError for an `of` that means nothing."""
    if of is None:
        return
    if coordinates == "shares":
        raise ValueError(f"shares are of every image as it is: leave --of {of[0]} {of[1]} out")
    if min(of) < 1:
        raise ValueError(f"--of is H W, the height and width that pixels are of, 1 at least, got {of[0]} {of[1]}")
    if found.sizes is not None and not np.isnan(found.sizes).all():
        raise ValueError(f"{found.where} says its images' sizes itself, as {_words(found)}: leave --of {of[0]} {of[1]} out")


def _words(found: FilePoses) -> str:
    assert found.sizes is not None
    height, width = found.sizes[~np.isnan(found.sizes).any(1)][0]
    return f"(H, W) ({height:g}, {width:g})"


def _sizes(paths: list[str]) -> np.ndarray:
    with ThreadPoolExecutor(8) as pool:
        bar = tqdm(pool.map(files.size_of, paths), "reading sizes", len(paths), unit="image", delay=2, disable=None, leave=False)
        return np.array(list(bar), dtype=float)


def _in_pixels(found: FilePoses, rows: list[int], coordinates: str, of: tuple[int, int] | None, sizes: np.ndarray) -> np.ndarray:
    """Bring rows of a file to pixels of images of `sizes` (N, 2): y and x (N, 18, 2), −1 where missing."""
    if coordinates == "pixels":
        old = np.full((len(rows), 2), np.nan) if found.sizes is None else found.sizes[rows]
        return scaled(found.columns()[rows], np.tile(np.array(of, float), (len(rows), 1)) if of else old, sizes)
    within = replace(found, visible=found.visible & (found.xy >= 0).all(-1))
    beyond = ((within.xy > 1).any(-1) & within.visible)[rows].any(1)
    if 2 * int(beyond.sum()) > len(rows):
        raise ValueError(f"{found.where}: shares of an image are between 0 and 1, {int(beyond.sum()):,} of {len(rows):,} rows have others")
    yx = within.xy[rows][..., ::-1] * sizes[:, None]
    return np.where(within.visible[rows][..., None], yx, -1)
