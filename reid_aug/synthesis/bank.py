"""PoseBank: the target poses there are to draw from, and where each came from."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from generators import Pose, rescale
from reid_aug import images
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.masks import masks_digest
from reid_aug.data.people import PersonImage
from reid_aug.digests import file_digests


@dataclass(frozen=True, eq=False)
class PoseBank:
    """N target poses (N, K, 2) of one size, the names of the images they came from and, if known, cameras (from 0) and files.

    The images are the scenes for generators that take them; `replace(bank, paths=None)` is the bank without. `masks` are the files of
    the silhouettes of the people on them, None where one has none.
    """

    names: tuple[str, ...]
    pose: Pose
    camids: tuple[int, ...] | None = None
    paths: tuple[str, ...] | None = None
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
        if self.masks is not None and len(self.masks) != len(self.names):
            raise ValueError(f"a pose bank has a silhouette or None for each of its {len(self.names)} poses, got {len(self.masks)}")

    @classmethod
    def collect(cls, people: Iterable[PersonImage], size: tuple[int, int]) -> PoseBank:
        """Collect every usable pose of `people` (shoulders and hips seen), by name, brought to images of `size` (H, W)."""
        # Sorted: a folder's own order differs between machines, and what is drawn must not.
        usable = sorted((p for p in people if p.pose is not None and bool(valid_for_pairs(p.pose))), key=lambda p: p.name)
        if not usable:
            raise ValueError("no image has a pose with both shoulders and both hips: nothing to draw target poses from")
        poses = Pose.stack([rescale(p.pose, size) for p in usable])  # type: ignore[arg-type]
        masks = tuple(p.mask for p in usable) if any(p.mask for p in usable) else None
        return cls(tuple(p.name for p in usable), poses, tuple(p.camid for p in usable), tuple(p.path for p in usable), masks)

    def __len__(self) -> int:
        return len(self.names)

    def pick(self, indices: Sequence[int]) -> PoseBank:
        """Give the bank of these rows alone."""
        camids = None if self.camids is None else tuple(self.camids[i] for i in indices)
        paths = None if self.paths is None else tuple(self.paths[i] for i in indices)
        masks = None if self.masks is None else tuple(self.masks[i] for i in indices)
        return PoseBank(tuple(self.names[i] for i in indices), self.pose[torch.as_tensor(list(indices))], camids, paths, masks)

    def renamed(self, before: Sequence[PersonImage], after: Sequence[PersonImage]) -> PoseBank:
        """Give the bank under the names and cameras that its images have `after`, which are those `before` in the same order.

        Images are known by path, or by name where the bank knows no paths. A camera nobody has stays one of its own.
        """
        pairs = list(zip(before, after, strict=True))
        named = {b.path if self.paths is not None else b.name: a for b, a in pairs}
        found = [named.get(key) for key in self.paths or self.names]
        names = tuple(name if person is None else person.name for name, person in zip(self.names, found, strict=True))
        camids = cameras_after(self.camids, before, after)
        return self if (names, camids) == (self.names, self.camids) else replace(self, names=names, camids=camids)

    def sample(self, n: int, seed: int) -> np.ndarray:
        """Pick indices (n,) of poses at random, uniformly, with replacement."""
        return np.random.default_rng(seed).integers(0, len(self), n)

    def thin(self, n: int, seed: int = 0) -> PoseBank:
        """Give the bank of `n` typical poses: k-means on body-centred joints, and of each cluster the pose nearest its centre.

        Missing joints count as the mean of that joint. PN-GAN's canonical poses are such centres.
        """
        if not 1 <= n <= len(self):
            raise ValueError(f"a bank of {len(self)} poses can be thinned to 1..{len(self)}, got {n}")
        from sklearn.cluster import KMeans

        xy = torch.where(self.pose.visible[..., None], self.pose.xy, torch.nan)
        centred = xy - xy.nanmean(dim=1, keepdim=True)
        filled = torch.where(centred.isnan(), centred.nanmean(dim=0, keepdim=True).nan_to_num(), centred)
        points = filled.flatten(1).numpy()
        means = KMeans(n, random_state=seed, n_init=4).fit(points)  # pyright: ignore[reportArgumentType] - numbers are allowed
        distance = means.transform(points)
        return self.pick(sorted({int(distance[:, k].argmin()) for k in range(n)}))

    def scenes(self, indices: Sequence[int], size: tuple[int, int]) -> Tensor:
        """Read the images that poses came from, uint8 (B, 3, H, W) of `size` (H, W); ValueError when the bank knows none."""
        paths = self._known_paths()
        return images.read_many([paths[i] for i in indices], size)

    def masks_of(self, indices: Sequence[int]) -> list[str | None] | None:
        """Name the files of the silhouettes on the images that poses came from; None when the bank knows none."""
        return None if self.masks is None or self.paths is None else [self.masks[i] for i in indices]

    @cached_property
    def masks_digest(self) -> str | None:
        """Compute SHA-256 over the bytes of the silhouettes, once; None when the bank knows none."""
        return masks_digest(self.masks)

    @cached_property
    def scenes_digest(self) -> str:
        """Compute SHA-256 over the bytes of the images that poses came from, once; ValueError when the bank knows none."""
        sha = hashlib.sha256()
        for digest in file_digests(self._known_paths()):
            sha.update(bytes.fromhex(digest))
        return sha.hexdigest()

    def _known_paths(self) -> tuple[str, ...]:
        if self.paths is None:
            how = "PoseBank.collect(people, size), or PoseBank(names, pose, paths=…)"
            raise ValueError(f"this pose bank does not know the images its {len(self)} poses came from: make it with {how}")
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
