"""ImageBank: target images to draw from, for generators that find poses in images themselves. No keypoint file is needed."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from generators import Generator, no_such
from reid_aug import images
from reid_aug.data.people import JUNK, PersonImage
from reid_aug.digests import file_digests
from reid_aug.synthesis.bank import PoseBank, cameras_after
from reid_aug.synthesis.bank_named import CANONICAL, is_named, named_bank

POSES, IMAGES = "poses", "images"  # what a bank is of, as options and manifests call it


def check_kind(what: str) -> str:
    """Return what a bank is of, as options say it: "poses", "images", or a bank's name (`bank_named`); ValueError for anything else."""
    if what not in (POSES, IMAGES) and not is_named(what):
        raise ValueError(f"{no_such('bank', what, (POSES, IMAGES, *CANONICAL))}, or a .safetensors file of `reid-aug bank`")
    return what


BankKind = Annotated[str, AfterValidator(check_kind)]


@dataclass(frozen=True, eq=False)
class ImageBank:
    """N target images of one size (H, W): their names, files and, if known, cameras (from 0). The generator finds the poses in them."""

    names: tuple[str, ...]
    paths: tuple[str, ...]
    size: tuple[int, int]
    camids: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.paths):
            raise ValueError(
                f"an image bank holds at least one image and a name for each, got {len(self.names)} names and {len(self.paths)} files"
            )
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"an image bank names each image once, got {twice!r} twice: images that share a name need an alias")
        if self.camids is not None and len(self.camids) != len(self.names):
            raise ValueError(f"an image bank has a camera for each of its {len(self.names)} images or none, got {len(self.camids)}")

    @classmethod
    def collect(cls, people: Iterable[PersonImage], size: tuple[int, int]) -> ImageBank:
        """Collect every image of `people` but junk, by name, whether its pose is known or not; they are read at `size` (H, W)."""
        shown = sorted((p for p in people if p.pid != JUNK), key=lambda p: p.name)  # a folder's own order differs between machines
        if not shown:
            raise ValueError("there is no image of a person: nothing to draw target images from")
        height, width = size
        return cls(tuple(p.name for p in shown), tuple(p.path for p in shown), (height, width), tuple(p.camid for p in shown))

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Sequence[int]) -> ImageBank:
        """Give the bank of these rows alone."""
        camids = None if self.camids is None else tuple(self.camids[i] for i in indices)
        return ImageBank(tuple(self.names[i] for i in indices), tuple(self.paths[i] for i in indices), self.size, camids)

    def renamed(self, before: Sequence[PersonImage], after: Sequence[PersonImage]) -> ImageBank:
        """Give the bank under the names and cameras that its images have `after`, which are those `before` in the same order."""
        named = {b.path: a for b, a in zip(before, after, strict=True)}
        found = [named.get(path) for path in self.paths]
        names = tuple(name if person is None else person.name for name, person in zip(self.names, found, strict=True))
        camids = cameras_after(self.camids, before, after)
        return self if (names, camids) == (self.names, self.camids) else replace(self, names=names, camids=camids)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Pick indices (n,) of images at random, uniformly, with replacement."""
        return np.random.default_rng(seed).integers(0, len(self), n)

    def scenes(self, indices: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Read these images, uint8 (B, 3, H, W) of `size` (H, W)."""
        return images.read_many([self.paths[i] for i in indices], size)

    @cached_property
    def digest(self) -> str:
        """Compute SHA-256 over names, size and the bytes of the files, once; cameras do not count."""
        sha = hashlib.sha256(f"{IMAGES} {tuple(self.size)} {self.names}".encode())
        for digest in file_digests(self.paths):
            sha.update(bytes.fromhex(digest))
        return sha.hexdigest()


Bank = PoseBank | ImageBank  # what target poses are drawn from


def opened(bank: Bank | str | os.PathLike[str], generator: Generator, people: Iterable[PersonImage] = ()) -> Bank:
    """Open a bank that is given by name (`bank_named`) for a generator's images, with people's silhouettes; return any other as it is."""
    if not isinstance(bank, str | os.PathLike):
        return bank
    return named_bank(bank, (int(generator.size[0]), int(generator.size[1]))).with_masks_of(people)


def bank_size(bank: Bank) -> tuple[int, int]:
    """Return the size (H, W) of the images that a bank's poses are of."""
    return bank.size if isinstance(bank, ImageBank) else bank.pose.size


def silhouettes_in(bank: Bank, indices: Sequence[int], size: tuple[int, int]) -> Tensor:
    """Read the silhouettes on the images of a bank's rows, uint8 (B, H, W) of `size`; 0 everywhere where none is known."""
    shown = bank.silhouettes(indices, size) if isinstance(bank, PoseBank) else None
    return torch.zeros((len(indices), *size), dtype=torch.uint8) if shown is None else shown


def as_bank(bank: Bank, generator: Generator) -> Bank:
    """Return `bank` where the generator can draw from it; ValueError for another size, or images for one that must be given poses."""
    if isinstance(bank, ImageBank) and not generator.finds_poses:
        raise ValueError(f"{type(generator).__name__} finds no poses itself: it takes a PoseBank, got an ImageBank of {len(bank)} images")
    if tuple(bank_size(bank)) != tuple(generator.size):
        how = "" if isinstance(bank, ImageBank) else ": bank.at(generator.size) brings them there"
        what = "images are" if isinstance(bank, ImageBank) else "poses are of"
        raise ValueError(f"the generator renders images of {tuple(generator.size)}, the bank's {what} {bank_size(bank)}{how}")
    return bank


def draws_images(generator: Generator, what: str | None) -> bool:
    """Tell whether a generator's bank is of images: `what` says so, or is None and it finds poses itself; ValueError where it can't."""
    if what == IMAGES and not generator.finds_poses:
        rule = "is for generators that find poses in images themselves, as momi does"
        raise ValueError(f"bank={IMAGES} {rule}, {type(generator).__name__} does not")
    return generator.finds_poses if what is None else what == IMAGES


def collect(people: Iterable[PersonImage], generator: Generator, what: str | None = None) -> Bank:
    """Collect a bank of `people` for a generator: of "poses" or "images", None being its own way: images where it finds poses itself.

    Any other name is a bank's that is there already (`bank_named`). ValueError for images and a generator that must be given poses, and
    where there is nothing to collect.
    """
    size = (int(generator.size[0]), int(generator.size[1]))
    if what is not None and is_named(what):
        return named_bank(what, size).with_masks_of(people)
    return ImageBank.collect(people, size) if draws_images(generator, what) else PoseBank.collect(people, size)
