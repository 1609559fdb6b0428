"""Images with their poses, for a DataLoader."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from generators import Pose, Skeleton, convert, openpose_18, rescale
from reid_aug import images as files
from reid_aug.data.keypoints import checked_poses
from reid_aug.data.left_out import warn_of
from reid_aug.data.masks import with_silhouettes
from reid_aug.data.people import SPLITS, PersonImage, keys_of, tell_apart, unnamed


class PosedImage(NamedTuple):
    """An image uint8 (3, H, W), its pose (K, 2) in its pixels (with nothing visible where unknown), who, by which camera, which file."""

    image: Tensor
    pose: Pose
    pid: int
    camid: int
    path: str


class PosedBatch(NamedTuple):
    """Images float (B, 3, H, W) in [0, 1], poses (B, K, 2), pids and camids (B,) int64, B paths."""

    images: Tensor
    poses: Pose
    pids: Tensor
    camids: Tensor
    paths: list[str]


class PosedImages(Dataset[PosedImage]):
    """People as images of `size` (H, W) with poses in those pixels, for a DataLoader with `collate_poses`.

    Nothing is random here: flips and crops come after the augmentation, on the batch, or the poses would not follow.
    Poses are on the skeleton they share, or else on openpose_18, with the silhouettes of people who have one (`PersonImage.mask`).
    Identities are as in `people` (see people.relabel).
    """

    def __init__(self, people: Sequence[PersonImage], size: tuple[int, int]) -> None:
        self.people, self.size = list(people), (int(size[0]), int(size[1]))
        skeletons = {p.pose.skeleton.name: p.pose.skeleton for p in self.people if p.pose is not None}
        self.skeleton = next(iter(skeletons.values())) if len(skeletons) == 1 else openpose_18

    def __len__(self) -> int:
        return len(self.people)

    def __getitem__(self, index: int) -> PosedImage:
        """Read one image with its pose; ImageError for a file that can't be read."""
        person = self.people[index]
        pixels = torch.from_numpy(files.read(person.path, self.size)).permute(2, 0, 1).contiguous()
        pose = _at(person.pose, self.skeleton, self.size)
        if person.mask is not None:
            pose = with_silhouettes(pose[None], [person.mask])[0]
        return PosedImage(pixels, pose, person.pid, person.camid, person.path)


def _at(pose: Pose | None, skeleton: Skeleton, size: tuple[int, int]) -> Pose:
    """Bring a pose (K, 2) to a skeleton and a size; None becomes a pose with nothing visible."""
    if pose is None:
        return Pose.unknown(skeleton, size)
    return rescale(convert(pose, skeleton), size).to(torch.float32)


def collate_poses(items: Sequence[PosedImage]) -> PosedBatch:
    """Collate items of PosedImages to one batch, images to float in [0, 1]."""
    pixels, poses, pids, camids, paths = zip(*items, strict=True)
    return PosedBatch(torch.stack(pixels).float().div_(255), Pose.stack(poses), torch.tensor(pids), torch.tensor(camids), list(paths))


def with_poses(dataset: Any, poses: Mapping[str, Pose], skeleton: Skeleton = openpose_18) -> Dataset[dict[str, Any]]:
    """Wrap a torchreid image data set: items also hold `pose_xy` (K, 2) and `pose_visible` (K,), in the pixels of `img`.

    `poses` has poses by path or by the names that PoseAugmentedDataset takes (`people.keys_of`), each in the pixels of its
    `size`; without one, nothing is visible, and a line says how many those are. The transform must keep the picture whole
    (resize, to tensor, normalise): with torchreid's ImageDataManager, `transforms=[]`. Samplers and data managers take the
    data set itself. An image that EXIF turns is read upright. ValueError for a random transform, for several images per item
    (k_tfm), for a name that two images have, or when no image of the data set has a pose.
    """
    return _WithPoses(dataset, poses, skeleton)


class _WithPoses(Dataset[dict[str, Any]]):
    """What `with_poses` returns."""

    def __init__(self, dataset: Any, poses: Mapping[str, Pose], skeleton: Skeleton) -> None:
        self.dataset, self.poses, self.skeleton = dataset, checked_poses(poses), skeleton
        self._turned: dict[str, bool] = {}  # by path, looked up when an image is first read
        if getattr(dataset, "online", None):
            raise ValueError(
                "an online PoseAugmentedDataset shows images in other poses than those of their files: take with_poses of its base, "
                "and render batches with PoseAugmentation"
            )
        transform = getattr(dataset, "transform", None)
        for step in getattr(transform, "transforms", [transform]):
            if type(step).__name__.startswith("Random"):
                raise ValueError(f"a pose can't follow {type(step).__name__}: leave it out, and do it to the batch after the augmentation")
        people = _listed(dataset)
        self.keys = keys_of(people, poses)
        if people and not self.keys:
            raise ValueError(f"none of {len(people)} images has a pose under its path or name, as {people[0].name!r}")
        if len(self.keys) < len({p.path for p in people}):
            missing = unnamed(people, poses, splits=SPLITS)
            warn_of(f"{len(missing)} of {len(people)} images have no pose", missing)

    def _pose(self, path: str) -> Pose | None:
        """Look a pose up by the name that its image has among them."""
        return self.poses[self.keys[path]] if path in self.keys else None

    def _is_turned(self, path: str) -> bool:
        if path not in self._turned:
            self._turned[path] = files.turned(path)
        return self._turned[path]

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Take the data set's item and add its pose."""
        item = dict(self.dataset[index])
        image = item["img"]
        if isinstance(image, Tensor) and self._is_turned(item["impath"]):  # torchreid does not look at EXIF, poses are of what it shows
            image = item["img"] = self.dataset.transform(Image.fromarray(files.read(item["impath"])))
        if not isinstance(image, Tensor):
            raise ValueError(f"an item's img is one tensor (3, H, W), got {type(image).__name__}: k_tfm is 1, and ToTensor a transform")
        pose = _at(self._pose(item["impath"]), self.skeleton, (image.shape[-2], image.shape[-1]))
        return item | {"pose_xy": pose.xy, "pose_visible": pose.visible}


def _listed(dataset: Any) -> list[PersonImage]:
    """List the images that a torchreid data set gives in its mode, under the names that tell all of its images apart."""
    rows = [os.fspath(row[0]) for row in getattr(dataset, "data", [])]
    if all(isinstance(getattr(dataset, split, None), list | tuple) for split in SPLITS):
        from reid_aug.data.torchreid_sets import from_torchreid  # who has such a data set has torchreid

        by_path = {p.path: p for p in from_torchreid(dataset) if p.split == dataset.mode}
        return [by_path[path] for path in rows if path in by_path]
    return tell_apart([PersonImage(path, 0, 0, "train") for path in rows])


def poses_of(batch: Mapping[str, Any], skeleton: Skeleton = openpose_18) -> Pose:
    """Take the poses (B, K, 2) from a collated batch of `with_poses`, in the pixels of its images; ValueError without any."""
    if "pose_xy" not in batch:
        raise ValueError(f"a batch of with_poses holds pose_xy, this one holds {', '.join(batch)}")
    return Pose(batch["pose_xy"], batch["pose_visible"], skeleton, (batch["img"].shape[-2], batch["img"].shape[-1]))
