"""The file of a pose bank: poses, the images they came from, and how it was made, in one safetensors file, never pickle."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from generators import SKELETONS, Pose, read_header, write_tensors

FORMAT = "reid-aug bank 1"
SUFFIX = ".safetensors"


@dataclass(frozen=True, eq=False)
class BankFile:
    """What a file of N poses holds: names, poses and, where they are known, cameras, images and those images' SHA-256.

    `images` are paths below `root` where they lie there; `mirrored` says whose images are to be flipped. `without_images` says why
    there are none. `about` is how the bank was made.
    """

    names: tuple[str, ...]
    pose: Pose
    camids: tuple[int, ...] | None = None
    images: tuple[str, ...] | None = None
    digests: tuple[str, ...] | None = None
    root: str = ""
    mirrored: tuple[bool, ...] | None = None
    without_images: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the file atomically."""
        header: dict[str, Any] = {
            "format": FORMAT, "names": self.names, "skeleton": self.pose.skeleton.name, "size": list(self.pose.size), "root": self.root,
            "images": self.images, "sha256": self.digests, "without_images": self.without_images, "about": self.about,
        }  # fmt: skip
        tensors = {"xy": self.pose.xy.to(torch.float32), "visible": self.pose.visible}
        if self.camids is not None:
            tensors["camids"] = torch.tensor(self.camids)
        if self.mirrored is not None:
            tensors["mirrored"] = torch.tensor(self.mirrored)
        write_tensors(tensors, header, path)

    @staticmethod
    def read(path: str | os.PathLike[str]) -> BankFile:
        """Read a file; FileNotFoundError where there is none, ValueError for any other file."""
        where = os.fspath(path)
        if not Path(path).is_file():
            raise FileNotFoundError(f"no pose bank at {where}: reid-aug bank ROOT --out {where} writes one")
        head, tensors = read_header(path, FORMAT, "pose bank"), safetensors.torch.load_file(where)
        if head["skeleton"] not in SKELETONS:
            raise ValueError(f"{where}: its poses are on {head['skeleton']!r}, which this version does not know ({', '.join(SKELETONS)})")
        height, width = head["size"]
        pose = Pose(tensors["xy"], tensors["visible"], SKELETONS[head["skeleton"]], (height, width))
        lists = {key: None if head[key] is None else tuple(head[key]) for key in ("images", "sha256")}
        camids, mirrored = (tuple(tensors[key].tolist()) if key in tensors else None for key in ("camids", "mirrored"))
        return BankFile(
            tuple(head["names"]), pose, camids, lists["images"], lists["sha256"], head["root"],
            mirrored, head["without_images"], head["about"],
        )  # fmt: skip

    def found(self, path: str | os.PathLike[str], root: str | os.PathLike[str] | None) -> tuple[tuple[str, ...] | None, str]:
        """Find the images: their paths, or None and why there are none.

        They are looked for below `root`, by default where they lay when the file was written, there seen from the file's own folder,
        and in that folder: in the first of these that has one of them.
        """
        if self.images is None:
            return None, self.without_images
        beside = Path(path).parent
        places = [Path(root)] if root is not None else list(dict.fromkeys((Path(self.root), beside / self.root, beside)))
        some = self.images[0], self.images[-1]
        place = next((place for place in places if any((place / image).is_file() for image in some)), places[0])
        paths = [os.path.join(place, image) for image in self.images]
        missing = [image for image in paths if not os.path.isfile(image)]
        if not missing:
            return tuple(paths), ""
        advice = f"PoseBank.load({os.fspath(path)!r}, root=DIR) says where they are, `reid-aug bank` collects anew"
        return None, f"{len(missing):,} of its {len(paths):,} images are not there, as {missing[0]}; {advice}"


def common_root(paths: tuple[str, ...], root: str | os.PathLike[str] | None) -> tuple[str, tuple[str, ...]]:
    """Part paths of images into a folder that all lie below, `root` where they do, and the rest of each, with slashes.

    >>> common_root(("set/train/a.jpg", "set/train/b.jpg"), "set"), common_root(("x/a.jpg", "x/y/b.jpg"), None)
    (('set', ('train/a.jpg', 'train/b.jpg')), ('x', ('a.jpg', 'y/b.jpg')))
    """
    folder = None if root is None else os.fspath(root)
    if folder is None or not all(_below(path, folder) for path in paths):
        folder = os.path.relpath(os.path.commonpath([os.path.dirname(os.path.abspath(path)) for path in paths]))
        if folder.startswith(os.pardir):
            folder = os.path.abspath(folder)
    return folder, tuple(Path(os.path.relpath(path, folder)).as_posix() for path in paths)


def _below(path: str, folder: str) -> bool:
    return os.path.abspath(path).startswith(os.path.join(os.path.abspath(folder), ""))
