"""`reid-aug poses`: the joints of the person on every image of a data set, found by an estimator, as a keypoint file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from tqdm import tqdm

from generators import Pose, one_of, openpose_18, replacing, write_tensors
from reid_aug import images
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.doubts import first_few
from reid_aug.data.estimators import Estimated, PoseEstimator, on_skeleton
from reid_aug.data.filling import FILLS, Filled, fill
from reid_aug.data.keypoint_files.rows import FilePoses
from reid_aug.data.keypoint_files.writing import WRITERS
from reid_aug.data.keypoints import refuse_names, write_keypoints
from reid_aug.data.loading import read_people
from reid_aug.data.market import is_market_folder
from reid_aug.data.masks import mask_file, plausible, write_mask
from reid_aug.data.swaps import swap_doubts
from reid_aug.digests import file_digests

SCORES_SUFFIX = ".scores.safetensors"


@dataclass(frozen=True, eq=False)
class PosesFound:
    """What was found on N images: names in the keypoint file, poses in each image's pixels, scores (N, 18), and where it is written."""

    names: tuple[str, ...]
    poses: tuple[Pose, ...]
    scores: np.ndarray | None  # None where a file that was read has none.
    file: Path
    masks: dict[str, bool]  # By name, whether the mask was kept; empty where none were asked for.
    by: str | None = None  # The estimator, where one found them.
    filled: Filled | None = None  # Joints that nobody found and that were filled in, where that was asked for.

    @cached_property
    def without_torso(self) -> list[str]:
        """Name the images on which a shoulder or a hip is missing: pairs and most augmentation leave these out."""
        usable = valid_for_pairs(_together(self.poses)).tolist()
        return [name for name, whole in zip(self.names, usable, strict=True) if not whole]

    @property
    def nobody_usable(self) -> bool:
        """Tell whether no image at all has a body to augment."""
        return len(self.without_torso) == len(self.names)

    def summary(self) -> list[str]:
        """Tell in lines what was found."""
        poses = _together(self.poses)
        seen = poses.visible if self.filled is None else poses.visible & ~torch.from_numpy(self.filled.filled)
        beside = "" if self.scores is None else ", scores beside it"
        by = "" if self.by is None else f" by {self.by}"
        lines = [f"{len(self.names):,} images, {seen.float().mean():.1%} of joints found{by}: {self.file}{beside}"]
        if nobody := [name for name, visible in zip(self.names, seen, strict=True) if not bool(visible.any())]:
            lines.append(f"nobody found on {len(nobody):,}: {first_few(nobody)}")
        if self.nobody_usable:
            lines.append("doubt: no image shows both shoulders and hips: are these people, and does another --estimator find them?")
        if lacking := self.without_torso:
            lines.append(f"without both shoulders and hips, and so not augmented, {len(lacking):,}: {first_few(lacking)}")
        if self.masks and (dropped := [name for name, kept in self.masks.items() if not kept]):
            lines.append(f"masks that fit no body with these joints, and were dropped, {len(dropped):,}: {first_few(dropped)}")
        if self.filled is not None:
            lines.append(self.filled.summary(self.names))
        yx = np.where(seen.numpy()[..., None], poses.xy.double().numpy()[..., ::-1], -1)
        return lines + [str(doubt) for doubt in swap_doubts("doubt", self.names, yx)]


def _together(poses: Sequence[Pose]) -> Pose:
    """Put poses of images of different sizes together as they are, each in its own image's pixels, as a keypoint file has them."""
    return Pose(torch.stack([p.xy for p in poses]), torch.stack([p.visible for p in poses]), openpose_18, poses[0].size)


def with_filled(found: PosesFound, how: str | None) -> PosesFound:
    """Return what was found with missing limb joints filled in (`filling.fill`), each with a score of 0; None fills nothing in."""
    if how is None:
        return found
    filled = fill(found.poses, how)
    scores = None if found.scores is None else np.where(filled.filled, 0, found.scores).astype(np.float32)
    return replace(found, poses=filled.poses, scores=scores, filled=filled)


def images_of(root: str) -> dict[str, str]:
    """List the images of a data set, path by the name a keypoint file has for each; of any other folder, all images below it.

    A name is the file's alone where it is the only one so called, else the path below the folder that all have in common.
    FileNotFoundError or ValueError where there are none.
    """
    folder = Path(root)
    if folder.is_dir() and not is_market_folder(folder):
        paths = sorted(str(p) for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and not _hidden(p, folder))
        if not paths:
            raise ValueError(f"{root} holds no images ({', '.join(images.SUFFIXES)})")
    else:
        paths = list(dict.fromkeys(p.path for p in read_people(root, allow_overlap=True)[0]))
    common = os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths])
    seldom: dict[str, int] = {}
    for path in paths:
        seldom[os.path.basename(path)] = seldom.get(os.path.basename(path), 0) + 1
    below = {path: Path(os.path.relpath(os.path.abspath(path), common)).as_posix() for path in paths}
    return {os.path.basename(path) if seldom[os.path.basename(path)] == 1 else below[path]: path for path in paths}


def _hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def estimate_poses(
    root: str, estimator: PoseEstimator, out: str | os.PathLike[str], *, batch_size: int = 32,
    masks: str | os.PathLike[str] | None = None, form: str = "csv", how_filled: str | None = None,
) -> PosesFound:  # fmt: skip
    """Find the joints on every image of `root` and write them to the keypoint file `out`, 18 OpenPose joints, −1 where missing.

    `form` is csv, or coco, openpose or alphapose for other tools (keypoint_files.writing).

    Beside it FILE.scores.safetensors holds how sure each joint is: `scores` float32 (N, 18) and `size` (N, 2), names in its
    header. `how_filled`, "mirror" or "nearest", fills in limb joints that were not found (`filling.fill`), which the tensor `filled` then
    marks. `masks` is a folder for silhouettes as PNG files, 255 the person; those that fit no body are left out. A run that was
    stopped goes on where it was: what is done is in FILE.part. ValueError where `out` is there already, where FILE.part is another
    estimator's, or where masks are asked of an estimator that has none; ImageError names an image that can't be read.
    """
    refuse_written(out, form, how_filled)
    file, names = Path(out), images_of(root)
    if form == "csv":
        refuse_names(list(names))
    if masks is not None and not estimator.has_masks:
        raise ValueError(f"{estimator.name} has no masks: leave --masks out, or take mediapipe")
    with _Progress(file.with_name(file.name + ".part"), estimator.name, masks is not None) as done:
        digests = dict(zip(names, file_digests(list(names.values())), strict=True))
        missing = {name: path for name, path in names.items() if not done.knows(name, digests[name])}
        bar = tqdm(total=len(names), initial=len(names) - len(missing), desc=f"poses by {estimator.name}", unit="image", disable=None)
        with bar:
            try:
                for part, batch in _batches(missing, batch_size):
                    estimated = on_skeleton(estimator.estimate(batch, masks=masks is not None), openpose_18)
                    done.add(part, digests, estimated, _write_masks(part, estimated, None if masks is None else Path(masks)))
                    bar.update(len(part))
            except images.ImageError as error:
                raise images.ImageError(f"{error}: repair or remove it, and run this again, which goes on where it was") from None
        found = replace(with_filled(done.of(list(names), file), how_filled), by=estimator.name)
    write_found(found, estimator.name, form)
    done.file.unlink()
    return found


def _batches(paths: dict[str, str], batch_size: int) -> Iterator[tuple[list[str], torch.Tensor]]:
    """Read images in order, as batches of one size: names and uint8 (B, 3, H, W); the next one is read meanwhile."""

    def parts() -> Iterator[tuple[list[str], list[np.ndarray]]]:
        names: list[str] = []
        pictures: list[np.ndarray] = []
        with ThreadPoolExecutor(4) as pool:
            order = list(paths)
            ahead = 2 * batch_size
            waiting = {name: pool.submit(images.read, paths[name]) for name in order[:ahead]}
            for i, name in enumerate(order):
                if i + ahead < len(order):
                    waiting[order[i + ahead]] = pool.submit(images.read, paths[order[i + ahead]])
                picture = waiting.pop(name).result()
                if pictures and (len(pictures) == batch_size or picture.shape != pictures[0].shape):
                    yield names, pictures
                    names, pictures = [], []
                names.append(name)
                pictures.append(picture)
        if pictures:
            yield names, pictures

    for names, pictures in parts():
        yield names, torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def _write_masks(names: Sequence[str], estimated: Estimated, folder: Path | None) -> list[bool | None]:
    """Write the masks that fit their poses; tell of each image whether it was kept, None where there are none."""
    if folder is None or estimated.masks is None:
        return [None] * len(names)
    kept = plausible(estimated.masks, estimated.pose).tolist()
    for name, mask, keep in zip(names, estimated.masks, kept, strict=True):
        if keep:
            write_mask(folder, name, mask)
        else:  # one of an earlier image of the name
            mask_file(folder, name).unlink(missing_ok=True)
    return kept


class _Progress:
    """What is done so far: a file of JSON lines, the first of which says by what; a line cut off by a kill is done again."""

    def __init__(self, file: Path, estimator: str, masks: bool) -> None:
        self.file, self.about = file, {"estimator": estimator, "masks": masks}
        self.rows: dict[str, dict[str, Any]] = {}
        self._stream: IO[str] | None = None

    def __enter__(self) -> _Progress:
        lines = self.file.read_text(encoding="utf-8").split("\n") if self.file.exists() else []
        if lines and (about := _parsed(lines[0])) is not None and about != self.about:
            which = f"{about.get('estimator')} found{' with masks' if about.get('masks') else ''}"
            raise ValueError(f"{self.file} holds what {which}: remove it, or go on as it was begun")
        self.rows = {row["name"]: row for row in map(_parsed, lines[1:]) if row is not None and "name" in row}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.file) as temporary:  # without the line that was cut off
            Path(temporary).write_text("\n".join(map(json.dumps, [self.about, *self.rows.values()])) + "\n", encoding="utf-8")
        self._stream = open(self.file, "a", encoding="utf-8")
        return self

    def __exit__(self, *_: object) -> None:
        if self._stream is not None:
            self._stream.close()

    def knows(self, name: str, digest: str) -> bool:
        """Tell whether an image is done, and still the same file."""
        return name in self.rows and self.rows[name]["digest"] == digest

    def add(self, names: Sequence[str], digests: dict[str, str], estimated: Estimated, kept: Sequence[bool | None]) -> None:
        """Keep a batch, on disk before the next begins."""
        assert self._stream is not None
        pose = estimated.pose
        for i, name in enumerate(names):
            row = {
                "name": name, "digest": digests[name], "size": list(pose.size), "xy": pose.xy[i].tolist(),
                "visible": pose.visible[i].tolist(), "scores": estimated.scores[i].tolist(), "mask": kept[i],
            }  # fmt: skip
            self.rows[name] = row
            self._stream.write(json.dumps(row) + "\n")
        self._stream.flush()

    def of(self, names: Sequence[str], file: Path) -> PosesFound:
        """Put everything together, in the order of `names`."""
        rows = [self.rows[name] for name in names]
        poses = tuple(
            Pose(torch.tensor(row["xy"]), torch.tensor(row["visible"]), openpose_18, (row["size"][0], row["size"][1])) for row in rows
        )
        masks = {row["name"]: row["mask"] for row in rows if row["mask"] is not None}
        return PosesFound(tuple(names), poses, np.array([row["scores"] for row in rows], dtype=np.float32), file, masks)


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def refuse_written(out: str | os.PathLike[str], form: str, how_filled: str | None = None) -> None:
    """Raise ValueError where keypoints can't be written: something is there already, or nobody knows the format, or how to fill in."""
    one_of("a format of keypoints", form, ("csv", *WRITERS))
    if how_filled is not None:
        one_of("a way of filling in joints", how_filled, FILLS)
        if form != "csv":
            raise ValueError(f"--fill says beside a CSV which joints are filled in, and {form} has no place for that: leave --format out")
    if Path(out).exists():
        raise ValueError(f"{os.fspath(out)} is there already, and may be corrected by hand: give another --out, or remove it")


def write_found(found: PosesFound, estimator: str, form: str = "csv") -> None:
    """Write the scores, if there are any, then the keypoints in a format: where those are, everything is."""
    if form == "csv":
        refuse_names(found.names)
    sizes = torch.tensor([pose.size for pose in found.poses])
    if found.scores is not None or found.filled is not None:
        about = {"format": "reid-aug-scores", "names": found.names, "estimator": estimator, "joints": openpose_18.joints}
        tensors = {"size": sizes} | ({} if found.scores is None else {"scores": torch.from_numpy(found.scores)})
        if found.filled is not None:
            about, tensors = {**about, "fill": found.filled.how}, {**tensors, "filled": torch.from_numpy(found.filled.filled)}
        write_tensors(tensors, about, found.file.with_name(found.file.name + SCORES_SUFFIX))
    pose = _together(found.poses)
    if form == "csv":
        write_keypoints(found.file, found.names, pose)
    else:
        visible = pose.visible.numpy()
        poses = FilePoses("", found.names, openpose_18, pose.xy.double().numpy(), visible, found.scores, sizes.double().numpy())
        WRITERS[form](found.file, poses)
