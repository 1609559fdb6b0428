"""`reid-aug inspect`: what a data set and its keypoints are understood as, and every doubt about them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from generators import Pose, Skeleton, openpose_18
from reid_aug import images
from reid_aug.data.body import UNKNOWN, VIEWS, valid_for_pairs, view
from reid_aug.data.doubts import Doubt, collected
from reid_aug.data.keypoints import HEADER
from reid_aug.data.loading import DataConfig, frame_of, keypoint_files, read_people, with_keypoints
from reid_aug.data.people import SPLITS, PersonImage, people_doubts
from reid_aug.data.swaps import swap_doubts

Size = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Inspection:
    """A data set as it is understood: its people with poses, each image's size (H, W) by path, keypoint files, and doubts."""

    root: str
    people: list[PersonImage]
    sizes: dict[str, Size]
    keypoints: dict[str, Path | None]  # file of "train" and of "query and gallery"
    doubts: list[Doubt]

    def of(self, *splits: str) -> list[PersonImage]:
        """List the images of some splits."""
        return [p for p in self.people if p.split in splits]


def inspect(data: DataConfig, extra: Sequence[Doubt] = ()) -> Inspection:
    """Read what a configuration names and gather every doubt that its readers report, and those `extra`; images are not decoded.

    Keypoints may be missing. What can't be read at all is ValueError or FileNotFoundError, in one line.
    """
    _refuse_keypoints_alone(data.root)
    with collected() as doubts:
        people, folder = read_people(data.root, allow_overlap=True)
        sizes, unreadable = header_sizes([p.path for p in people])
        if unreadable:
            text = f"{len(unreadable):,} of {len(people):,} images can't be read; {next(iter(unreadable.values()))}"
            doubts.append(Doubt("unreadable", text, len(unreadable), tuple(p.name for p in people if p.path in unreadable), grave=True))
            people = [p for p in people if p.path in sizes]
            if not people:
                raise ValueError(f"{data.root}: {text}")
        files = keypoint_files(data, folder)
        for splits, file in files.items():
            if file is not None:
                people = with_keypoints(people, file, splits.split(" and "), sizes=sizes, frame=frame_of(data.root, file))
        doubts += [*people_doubts(people), *_overlap(people), *_swapped(people)]
    return Inspection(data.root, people, sizes, files, [*doubts, *extra])


def _swapped(people: Sequence[PersonImage]) -> list[Doubt]:
    """Doubt images in which left and right are exchanged against the frame before (`swaps.swap_doubts`), train and test each."""
    doubts = []
    for where, splits in (("train", ("train",)), ("query and gallery", ("query", "gallery"))):
        posed = {p.name: p.pose for p in people if p.split in splits and p.pose is not None and p.pose.skeleton == openpose_18}
        if posed:
            xy = np.stack([pose.xy.double().numpy() for pose in posed.values()])
            visible = np.stack([pose.visible.numpy() for pose in posed.values()])
            doubts += swap_doubts(where, list(posed), np.where(visible[..., None], xy[..., ::-1], -1))
    return doubts


def _overlap(people: Sequence[PersonImage]) -> list[Doubt]:
    """Doubt identities that are learnt from and tested on, which other verbs refuse."""
    learnt = {p.pid for p in people if p.split == "train"}
    both = sorted({p.pid for p in people if p.split != "train"} & learnt)
    if not both:
        return []
    text = f"{len(both):,} identities are in train and in query or gallery: other verbs read them with data.allow_overlap=true alone"
    return [Doubt("overlap", text, len(both), tuple(map(str, both)), grave=True)]


def _refuse_keypoints_alone(root: str) -> None:
    """Raise ValueError where a keypoint file is given in place of the images."""
    if Path(root).suffix == ".csv" and Path(root).is_file():
        with open(root, encoding="utf-8-sig", errors="replace") as file:
            if file.readline().strip() == HEADER:
                raise ValueError(f"{root} is a keypoint file: name the images it is of first, as in reid-aug inspect DIR {root}")


def header_sizes(paths: Sequence[str]) -> tuple[dict[str, Size], dict[str, str]]:
    """Read images' sizes (H, W) by path from their headers alone, and what is wrong with those that can't be read."""

    def size(path: str) -> Size | str:
        try:
            return images.size_of(path)
        except images.ImageError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(tqdm(pool.map(size, paths), "reading sizes", len(paths), unit="image", delay=2, disable=None, leave=False))
    by_path = dict(zip(paths, found, strict=True))
    return ({p: s for p, s in by_path.items() if not isinstance(s, str)}, {p: s for p, s in by_path.items() if isinstance(s, str)})


# --------------------------------------------------------------------------------------------------------- summary


def summary(inspection: Inspection) -> list[str]:
    """Say in lines, each a heading and what was found, what a data set was understood as, and last its doubts."""
    people = inspection.people
    by_split = {split: inspection.of(split) for split in SPLITS}
    cameras = sorted({p.camid for p in people})
    lines = [
        ("people", _each({split: f"{len({p.pid for p in rows}):,}" for split, rows in by_split.items()})),
        ("cameras", f"{len(cameras)}, counted from 0: {_some(cameras)}"),
        ("images", _each({split: f"{len(rows):,}" for split, rows in by_split.items()})),
        ("sizes", _sizes([inspection.sizes[p.path] for p in people])),
        *_bodies(inspection),
    ]
    doubts = [("doubt", str(doubt)) for doubt in inspection.doubts] or [("doubts", "none")]
    return [f"{heading:<10} {text}" for heading, text in (("read", inspection.root), *lines, *doubts)]


def _each(texts: Mapping[str, str]) -> str:
    return ", ".join(f"{text} {name}" for name, text in texts.items())


def _some(items: Sequence[object], most: int = 12) -> str:
    return ", ".join(map(str, items[:most])) + (", …" if len(items) > most else "")


def _sizes(sizes: Sequence[Size]) -> str:
    """Say which sizes (H, W) images have: the commonest, or from which to which.

    >>> _sizes([(128, 64), (128, 64), (120, 60)])
    'H × W 128 × 64 (2), 120 × 60 (1)'
    """
    counts = Counter(sizes).most_common()
    words = ", ".join(f"{h} × {w} ({n:,})" for (h, w), n in counts[:3])
    if len(counts) <= 3:
        return f"H × W {words}"
    heights, widths = zip(*set(sizes), strict=True)
    return f"H × W {words} and {len(counts) - 3:,} more, {min(heights)} to {max(heights)} high, {min(widths)} to {max(widths)} wide"


def _bodies(inspection: Inspection) -> list[tuple[str, str]]:
    """Say how many poses were found, how many are usable, how high bodies are, and which views they show."""
    lines = []
    for splits, file in inspection.keypoints.items():
        rows = inspection.of(*splits.split(" and "))
        posed = sum(p.pose is not None and bool(p.pose.visible.any()) for p in rows)
        if rows:
            where = f"{posed:,} of {len(rows):,} images ({file or 'in the file itself'})" if file or posed else "no keypoint file"
            lines.append(("keypoints", f"{splits}: {where}"))
    usable = [p for p in inspection.people if p.pose is not None and bool(valid_for_pairs(p.pose))]
    if not usable:
        return [*lines, ("usable", "no body with both shoulders and both hips")]
    counts = Counter(p.split for p in usable)
    lines.append(("usable", f"bodies with both shoulders and both hips: {_each({split: f'{n:,}' for split, n in counts.items()})}"))
    poses = [p.pose for p in usable if p.pose is not None]
    low, middle, high = np.percentile([_height(pose) for pose in poses], [5, 50, 95])
    lines.append(("height", f"{middle:.0f} px from the highest joint to the lowest in the median, nine in ten {low:.0f} to {high:.0f} px"))
    views = _views(poses)
    shown = {name: f"{100 * views[i] / len(poses):.0f} %" for i, name in enumerate(VIEWS)}
    return [*lines, ("views", _each(shown | ({"unknown": f"{views[UNKNOWN]:,}"} if views[UNKNOWN] else {})))]


def _height(pose: Pose) -> float:
    y = pose.xy[pose.visible][:, 1]
    return float(y.max() - y.min())


def _views(poses: Sequence[Pose]) -> Counter[int]:
    """Count views; sizes do not matter to them, so that poses of all sizes make one batch."""
    alike: dict[Skeleton, list[Pose]] = defaultdict(list)
    for pose in poses:
        alike[pose.skeleton].append(pose)
    seen: Counter[int] = Counter()
    for skeleton, some in alike.items():
        xy, visible = torch.stack([p.xy for p in some]).float(), torch.stack([p.visible for p in some])
        seen.update(view(Pose(xy, visible, skeleton, some[0].size)).tolist())
    return seen


def sheet_people(inspection: Inspection, count: int) -> list[PersonImage]:
    """Pick the images to look at: a third at most of those in doubt, the others spread evenly over the posed, or else over all.

    The same data give the same images.
    """
    doubtful = {name for doubt in inspection.doubts for name in doubt.names}
    posed = [p for p in inspection.people if p.pose is not None] or inspection.people
    first = [p for p in inspection.people if p.name in doubtful][: count // 3]
    chosen = {p.path for p in first}
    rest = [p for p in posed if p.path not in chosen]
    room = min(count - len(first), len(rest))
    return first + [rest[i * len(rest) // room] for i in range(room)]
