"""PoseBank: the target poses there are to draw from, and where each came from."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators import Generator, Pose, mirror, one_of, rescale
from reid_aug import images
from reid_aug.data.body import VIEWS, valid_for_pairs, view
from reid_aug.data.doubts import Doubt, report
from reid_aug.data.masks import as_silhouettes, masks_digest, read_masks
from reid_aug.data.people import PersonImage
from reid_aug.digests import file_digests
from reid_aug.synthesis.bank_file import BankFile, common_root
from reid_aug.synthesis.medoids import k_medoids

MIRRORED = "#mirrored"  # what the name of a mirrored pose ends in
KMEANS, KMEDOIDS = "kmeans", "kmedoids"


@dataclass(frozen=True, eq=False)
class PoseBank:
    """N target poses (N, K, 2) of one size, the names of the images they came from and, if known, cameras (from 0) and files.

    The images are the scenes for generators that take them; `replace(bank, paths=None)` is the bank without. A bank from a file knows
    their SHA-256, too (`digests`), and refuses others; `mirrored` says of which the poses are mirrored. `without_images` says why no
    images are known. `masks` are the files of the silhouettes of the people on the images, None where one has none.
    """

    names: tuple[str, ...]
    pose: Pose
    camids: tuple[int, ...] | None = None
    paths: tuple[str, ...] | None = None
    digests: tuple[str, ...] | None = None
    mirrored: tuple[bool, ...] | None = None
    without_images: str = ""
    masks: tuple[str | None, ...] | None = None

    def __post_init__(self) -> None:
        if not self.names or len(self.names) != len(self.pose):
            raise ValueError(f"a pose bank holds at least one pose and a name for each, got {len(self.names)} names")
        if len(set(self.names)) < len(self.names):
            twice = next(name for name, count in Counter(self.names).items() if count > 1)
            raise ValueError(f"a pose bank names each pose once, got {twice!r} twice: images that share a name need an alias of their own")
        if self.camids is not None and len(self.camids) != len(self.names):
            raise ValueError(f"a pose bank has a camera for each of its {len(self.names)} poses or none, got {len(self.camids)}")
        if self.paths is not None and len(self.paths) != len(self.names):
            raise ValueError(f"a pose bank has an image for each of its {len(self.names)} poses or none, got {len(self.paths)}")
        for what in ("digests", "mirrored", "masks"):
            if (given := getattr(self, what)) is not None and len(given) != len(self.names):
                raise ValueError(f"a pose bank's `{what}` are one for each of its {len(self.names)} poses or None, got {len(given)}")

    @classmethod
    def collect(cls, people: Iterable[PersonImage], size: tuple[int, int]) -> PoseBank:
        """Collect every usable pose of `people` (shoulders and hips seen), by name, brought to images of `size` (H, W)."""
        # Sorted: a folder's own order differs between machines, and what is drawn must not.
        usable = sorted((p for p in people if p.pose is not None and bool(valid_for_pairs(p.pose))), key=lambda p: p.name)
        if not usable:
            raise ValueError("no image has a pose with both shoulders and both hips: nothing to draw target poses from")
        poses = Pose.stack([rescale(p.pose, size) for p in usable])  # type: ignore[arg-type]
        masks = tuple(p.mask for p in usable) if any(p.mask for p in usable) else None
        return cls(tuple(p.name for p in usable), poses, tuple(p.camid for p in usable), tuple(p.path for p in usable), masks=masks)

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Sequence[int]) -> PoseBank:
        """Give the bank of these rows alone."""
        rows = list(indices)
        parts = {
            key: None if (values := getattr(self, key)) is None else tuple(values[i] for i in rows)
            for key in ("names", "camids", "paths", "digests", "mirrored", "masks")
        }  # fmt: skip
        return replace(self, pose=self.pose[torch.as_tensor(rows)], **parts)

    def renamed(self, before: Sequence[PersonImage], after: Sequence[PersonImage]) -> PoseBank:
        """Give the bank under the names and cameras that its images have `after`, which are those `before` in the same order.

        Images are known by path, or by name where the bank knows no paths. A camera nobody has stays one of its own.
        """
        pairs, by_path = list(zip(before, after, strict=True)), self.paths is not None
        named = {os.path.abspath(b.path) if by_path else b.name: a.name for b, a in pairs}
        keys = [os.path.abspath(path) for path in self.paths] if self.paths is not None else [n.removesuffix(MIRRORED) for n in self.names]
        suffixes = [MIRRORED if name.endswith(MIRRORED) else "" for name in self.names]
        names = tuple(
            named[key] + suffix if key in named else name for name, key, suffix in zip(self.names, keys, suffixes, strict=True)
        )  # fmt: skip
        camids = cameras_after(self.camids, before, after)
        return self if (names, camids) == (self.names, self.camids) else replace(self, names=names, camids=camids)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Pick indices (n,) of poses at random, uniformly, with replacement."""
        return np.random.default_rng(seed).integers(0, len(self), n)

    def of_view(self, name: str) -> PoseBank:
        """Give the bank of the poses seen from a side: "front", "right", "back" or "left" (`data.body.view`)."""
        one_of("a view", name, VIEWS)
        rows = (view(self.pose) == VIEWS.index(name)).nonzero().flatten().tolist()
        if not rows:
            raise ValueError(f"none of the bank's {len(self)} poses is seen from the {name}")
        return self.pick(rows)

    def at(self, size: tuple[int, int]) -> PoseBank:
        """Give the bank of the same poses in pixels of images of `size` (H, W)."""
        return self if tuple(size) == tuple(self.pose.size) else replace(self, pose=rescale(self.pose, (int(size[0]), int(size[1]))))

    def with_mirrored(self) -> PoseBank:
        """Give the bank of twice as many poses: each also as a mirror shows it, in the mirrored image; left joints become right ones."""
        if self.mirrored is not None and any(self.mirrored):
            raise ValueError("the bank holds mirrored poses already")
        twice = {key: None if (values := getattr(self, key)) is None else values * 2 for key in ("camids", "paths", "digests", "masks")}
        names = self.names + tuple(f"{name}{MIRRORED}" for name in self.names)
        flags = (False,) * len(self) + (True,) * len(self)
        return replace(self, names=names, pose=Pose.cat([self.pose, mirror(self.pose)]), mirrored=flags, **twice)

    def thin(self, n: int, seed: int = 0, *, by: str = KMEANS) -> PoseBank:
        """Give the bank of `n` typical poses: k-means on body-centred joints, and of each cluster the pose nearest its centre.

        Missing joints count as the mean of that joint. PN-GAN's canonical poses are such centres. By "kmedoids" they are the `n` poses
        to which all are nearest in sum (`medoids.k_medoids`), which a few outliers pull less.
        """
        one_of("a way of thinning", by, (KMEANS, KMEDOIDS))
        if not 1 <= n <= len(self):
            raise ValueError(f"a bank of {len(self)} poses can be thinned to 1..{len(self)}, got {n}")
        points = self._body_centred()
        if by == KMEDOIDS:
            return self.pick(k_medoids(points, n, seed).tolist())
        from sklearn.cluster import KMeans

        means = KMeans(n, random_state=seed, n_init=4).fit(points)  # pyright: ignore[reportArgumentType] - numbers are allowed
        distance = means.transform(points)
        return self.pick(sorted({int(distance[:, k].argmin()) for k in range(n)}))

    def _body_centred(self) -> np.ndarray:
        """Give joints as points (N, 2 K) from the middle of what is seen of each body; a missing one is the mean of that joint."""
        xy = torch.where(self.pose.visible[..., None], self.pose.xy, torch.nan)
        centred = xy - xy.nanmean(dim=1, keepdim=True)
        filled = torch.where(centred.isnan(), centred.nanmean(dim=0, keepdim=True).nan_to_num(), centred)
        return filled.flatten(1).numpy()

    # ------------------------------------------------------------------------------------------------------ files

    def save(
        self, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, about: Mapping[str, Any] | None = None
    ) -> None:
        """Write the bank to one .safetensors file, atomically, images by their paths below `root` and their SHA-256 alone.

        `root` is by default the folder that all images have in common; `about` is kept as how the bank was made.
        """
        place, below, contents = "", None, None
        if self.paths is not None:
            place, below = common_root(self.paths, root)
            contents = tuple(file_digests(self._verified_paths))
        BankFile(
            self.names, self.pose, self.camids, below, contents, place, self.mirrored, self.without_images, dict(about or {})
        ).write(path)  # fmt: skip

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None) -> PoseBank:
        """Read a bank that `save` or `reid-aug bank` wrote; `root` says where its images are now, if they have moved.

        Without its images, or some of them, it is a bank without scenes, and `without_images` says so wherever a generator would take
        them. An image that is another than the bank was made of is refused when scenes are first asked for.
        """
        read = BankFile.read(path)
        paths, why = read.found(path, root)
        return cls(read.names, read.pose, read.camids, paths, None if paths is None else read.digests, read.mirrored, why)

    # ----------------------------------------------------------------------------------------------------- scenes

    def scenes(self, indices: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Read the images that poses came from, uint8 (B, 3, H, W) of `size` (H, W); ValueError when the bank knows none."""
        paths = self._verified_paths
        return self.as_posed(images.read_many([paths[i] for i in indices], size), indices)

    def as_posed(self, scenes: Tensor, indices: Sequence[int]) -> Tensor:
        """Mirror those of images (B, …, H, W) whose poses, at `indices` (B,), are mirrored."""
        if self.mirrored is None:
            return scenes
        flipped = torch.tensor([self.mirrored[i] for i in indices], device=scenes.device)
        return torch.where(flipped.view(-1, *(1,) * (scenes.dim() - 1)), scenes.flip(-1), scenes)

    @property
    def knows_silhouettes(self) -> bool:
        """Tell whether the silhouette on any of its images is known."""
        return self.paths is not None and self.masks is not None and any(self.masks)

    def silhouettes(self, indices: Sequence[int], size: tuple[int, int]) -> Tensor | None:
        """Read the silhouettes on the images that poses came from, uint8 (B, H, W) of `size` (H, W); None when the bank knows none."""
        if self.masks is None or not self.knows_silhouettes:
            return None
        return self.as_posed(read_masks([self.masks[i] for i in indices], size), indices)

    def silhouetted(self, indices: Sequence[int]) -> Pose:
        """Give the poses at `indices` (B,) with the silhouettes on their images, read at the poses' size, where any is known."""
        pose, shown = self.pose[torch.tensor(indices)], self.silhouettes(indices, self.pose.size)
        return pose if shown is None else replace(pose, silhouette=as_silhouettes(shown))

    def with_masks_of(self, people: Iterable[PersonImage]) -> PoseBank:
        """Give the bank with the silhouettes of those of its images that people's are; of another data set's it knows none."""
        known = {os.path.abspath(p.path): p.mask for p in people if p.mask is not None}
        if self.masks is not None or self.paths is None or not known:
            return self
        masks = tuple(known.get(os.path.abspath(path)) for path in self.paths)
        if lacking := masks.count(None):
            line = f"{lacking} of {len(self)} images of the bank have no silhouette: by joints alone people are taken out of them"
            report([Doubt("without mask", line, lacking)])
        return replace(self, masks=masks)

    @cached_property
    def masks_digest(self) -> str | None:
        """Compute SHA-256 over the bytes of the silhouettes, once; None when the bank knows none."""
        return masks_digest(self.masks)

    @cached_property
    def scenes_digest(self) -> str:
        """Compute SHA-256 over the bytes of the images that poses came from, once; ValueError when the bank knows none."""
        sha = hashlib.sha256()
        for digest in file_digests(self._verified_paths):
            sha.update(bytes.fromhex(digest))
        if self.mirrored is not None:
            sha.update(bytes(self.mirrored))
        return sha.hexdigest()

    @cached_property
    def _verified_paths(self) -> tuple[str, ...]:
        """Give the images' paths, once they are known to be those the bank was made of; ValueError where they are not."""
        if self.paths is None:
            how = self.without_images or "make it with PoseBank.collect(people, size), or PoseBank(names, pose, paths=…)"
            raise ValueError(f"this pose bank does not know the images its {len(self)} poses came from: {how}")
        if self.digests is not None:
            there = file_digests(self.paths)
            if other := [path for path, now, then in zip(self.paths, there, self.digests, strict=True) if now != then]:
                rule = "another image than the one the bank was made of"
                count = f" ({len(other):,} of {len(self):,} are)" if len(other) > 1 else ""
                raise ValueError(f"{other[0]} is {rule}, by SHA-256{count}: collect it anew (reid-aug bank), or say paths=None")
        return self.paths

    @property
    def digest(self) -> str:
        """Compute SHA-256 over names, joints, visibility, skeleton and size; neither cameras nor images (`scenes_digest`) count."""
        sha = hashlib.sha256(f"{self.pose.skeleton.name} {self.pose.size} {self.names}".encode())
        sha.update(self.pose.xy.to(torch.float32).contiguous().numpy().tobytes())
        sha.update(self.pose.visible.contiguous().numpy().tobytes())
        return sha.hexdigest()


def cameras_after(
    camids: tuple[int, ...] | None, before: Sequence[PersonImage], after: Sequence[PersonImage]
) -> tuple[int, ...] | None:
    """Give cameras the numbers that images have `after`, which are those `before` in the same order; one nobody has stays its own."""
    cameras = {b.camid: a.camid for b, a in zip(before, after, strict=True)}
    if camids is None or all(camid == moved for camid, moved in cameras.items()):
        return camids
    return tuple(cameras.get(camid, len(cameras) + camid) for camid in camids)


def origins(name: str) -> tuple[str, ...]:
    """Name the images that a pose of a bank may be of: its own name's, and those that a mirrored or interpolated one is named after.

    >>> origins("a.jpg"), origins("a.jpg#mirrored"), origins("a.jpg#b.jpg#0.25")
    (('a.jpg',), ('a.jpg#mirrored', 'a.jpg'), ('a.jpg#b.jpg#0.25', 'a.jpg', 'b.jpg'))
    """
    first, *parts = name.split("#")
    return (name, first, *parts[:-1]) if parts else (name,)


def in_scenes(generator: Generator, bank: PoseBank) -> bool:
    """Tell whether a generator puts people into the images of a bank; a doubt says so where it would, and the bank has lost them.

    ValueError where the bank's images are others than it was made of.
    """
    if not generator.takes_scene:
        return False
    if bank.paths is not None and bank.digests is not None:
        assert bank._verified_paths
    if bank.paths is None and bank.without_images:
        text = f"people stay in their own places, for the pose bank has no images to put them into: {bank.without_images}"
        report([Doubt("scenes", text, len(bank))])
    return bank.paths is not None
