"""The endless stream of training pairs that generators learn from, flipped and jittered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from generators import Pose, PosePair, convert, one_of, openpose_18, rescale, warp_images
from reid_aug.config import Config
from reid_aug.data.left_out import LeftOut, warn_of
from reid_aug.data.listed_pairs import ListedPairs, listed
from reid_aug.data.masks import as_silhouettes, read_masks
from reid_aug.data.pairs import PairPopulation, list_digest, pair_population, read_pairs, with_valid_pose
from reid_aug.data.people import JUNK, PersonImage
from reid_aug.device import resident
from reid_aug.images import read_many, to_float
from reid_aug.synthesis.sources import not_augmented

CAMERAS = ("any", "prefer")  # where a pair's target comes from
NUMBERS = 5  # numbers that a pair's change is made of
_GREY = (0.299, 0.587, 0.114)  # of red, green and blue: ITU-R BT.601's luma


def _from_low_to_high(interval: tuple[float, float]) -> tuple[float, float]:
    if not 0 < interval[0] <= interval[1] < float("inf"):
        raise ValueError(f"from low to high, both above 0, got {list(interval)}")
    return interval


Interval = Annotated[tuple[float, float], AfterValidator(_from_low_to_high)]


class JitterConfig(Config):
    """How far training pairs may be turned, scaled, shifted and (de)saturated at random, both images of a pair alike."""

    degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # Largest turn to either side.
    scale: Interval = (1.0, 1.0)  # Smallest and largest factor of size.
    shift_px: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0  # Largest shift to every side.
    saturation: Interval = (1.0, 1.0)  # Smallest and largest factor of saturation; 0 is grey.


def jittered(pair: PosePair, draws: Tensor, config: JitterConfig) -> PosePair:
    """Change pairs as the numbers `draws (B, 5)` in [0, 1) say: angle, scale, shifts in x and y, saturation.

    Both images of a pair change alike, as posewarp's released code has it: a background seen in one can be learnt from
    the other. Pixels from outside the image repeat its edge; a joint that leaves the image, or was outside it before, is not visible.
    """
    transform = _transforms(draws, config, (pair.source.shape[-2], pair.source.shape[-1]))
    low, high = config.saturation
    saturation = low + draws[:, 4] * (high - low)
    back = _inverse(transform)
    # Images may be on a GPU, poses and numbers never are; nobody waits for what moves there.
    back, saturation = (numbers.to(pair.source.device, pair.source.dtype, non_blocking=True) for numbers in (back, saturation))
    source, target = (_saturated(warp_images(image, back, "border"), saturation) for image in (pair.source, pair.target))
    source_pose, target_pose = (_moved(pose, transform) for pose in (pair.source_pose, pair.target_pose))
    return replace(pair, source=source, target=target, source_pose=source_pose, target_pose=target_pose)


def _transforms(draws: Tensor, config: JitterConfig, size: tuple[int, int]) -> Tensor:
    """Make transforms (B, 2, 3) from old to new pixels: about the image's middle, then shifted."""
    both_ways = 2 * draws - 1
    angle = torch.deg2rad(both_ways[:, 0] * config.degrees)
    scale = config.scale[0] + draws[:, 1] * (config.scale[1] - config.scale[0])
    across, along = scale * angle.cos(), scale * angle.sin()
    linear = torch.stack((across, -along, along, across), -1).view(-1, 2, 2)
    middle = torch.tensor([(size[1] - 1) / 2, (size[0] - 1) / 2], dtype=draws.dtype)
    shift = middle + both_ways[:, 2:4] * config.shift_px - linear @ middle
    return torch.cat((linear, shift[..., None]), -1)


def _inverse(transform: Tensor) -> Tensor:
    linear = torch.linalg.inv(transform[..., :2])
    return torch.cat((linear, -linear @ transform[..., 2:]), -1)


def _saturated(images: Tensor, factor: Tensor) -> Tensor:
    """Blend images (B, 3, H, W) in [-1, 1] with their greys (1 − factor) to 1, as torchvision's adjust_saturation."""
    shares = torch.tensor(_GREY, dtype=images.dtype).to(images.device, non_blocking=True)
    grey = (images * shares[:, None, None]).sum(1, keepdim=True)
    return (grey + factor[:, None, None, None] * (images - grey)).clamp(-1, 1)


def _moved(pose: Pose, transform: Tensor) -> Pose:
    xy = (pose.xy.to(transform.dtype) @ transform[..., :2].mT + transform[..., 2].unsqueeze(-2)).to(pose.xy.dtype)
    edge = torch.tensor([pose.size[1], pose.size[0]], dtype=xy.dtype) - 0.5
    silhouette = pose.silhouette
    if silhouette is not None:
        silhouette = warp_images(silhouette[:, None], _inverse(transform).to(silhouette.dtype), "border")[:, 0]
    return replace(pose, xy=xy, visible=pose.visible & ((xy >= -0.5) & (xy < edge)).all(-1), silhouette=silhouette)


class PairStream:
    """Endless batches of training pairs: batch `step` is a function of (seed, step) and the people, of nothing else.

    Pairs are sampled uniformly from all ordered pairs of one identity's train images; `cross_camera="prefer"` takes a
    target from another camera where there is one (as PG2 does); `min_gap` takes frames that lie farther apart than this
    share of their clip, in the order of their names (as posewarp does). Images without a shoulder or hip are left out, with
    `any_pose` those without any joint, and none unless they are to be `posed`: then nothing is visible on theirs. `pairs` is a CSV of
    names instead, whose pairs are sampled uniformly. `flip` mirrors each pair with probability one half, then `jitter` changes it.
    Images are decoded once, at first use, into the memory of `device` (24 KiB each at 128 × 64), where batches are put together, if
    they fit; poses stay on the CPU, and with `silhouettes` those that people have, 8 KiB each. ValueError when there is no pair.
    """

    def __init__(
        self,
        people: Sequence[PersonImage],
        size: tuple[int, int],
        batch_size: int,
        seed: int = 0,
        *,
        flip: bool = True,
        cross_camera: Literal["any", "prefer"] = "any",
        min_gap: float = 0.0,
        jitter: JitterConfig | None = None,
        any_pose: bool = False,
        pairs: str | None = None,
        device: str | torch.device = "cpu",
        posed: bool = True,
        silhouettes: bool = False,
    ) -> None:
        one_of("cross_camera", cross_camera, CAMERAS)
        if batch_size < 1:
            raise ValueError(f"batch_size is at least 1, got {batch_size}")
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is in 0..2**64 - 1, got {seed}")
        if not 0 <= min_gap < 1:
            raise ValueError(f"min_gap is a share of a clip's frames in [0, 1), got {min_gap}")
        self.size, self.batch_size, self.seed, self.flip = (int(size[0]), int(size[1])), batch_size, seed, flip
        self.jitter, self.device = jitter, torch.device(device)
        if pairs is not None and (cross_camera != "any" or min_gap or any_pose):
            given = f"cross_camera={cross_camera}, min_gap={min_gap:g}, any_pose={str(any_pose).lower()}"
            raise ValueError(f"pairs of a file are taken as they are: give cross_camera=any min_gap=0 any_pose=false, got {given}")
        self.listed: str | None = None  # digest of the list of pairs, where one is given
        self.population: PairPopulation | ListedPairs
        if pairs is None:
            usable = with_valid_pose(people, lambda p: p.split == "train" and p.pid != JUNK, any_pose=any_pose, posed=posed)
            self.people = _in_pairs(usable, people, any_pose, posed)
            if min_gap:
                self.people.sort(key=lambda p: [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", p.name)])
            camids = [p.camid for p in self.people] if cross_camera == "prefer" else None
            self.population = pair_population([p.pid for p in self.people], camids, min_gap)
        else:
            self.people, self.population, self.listed = _from_list(people, pairs, posed)
        left_out = [one for one in in_no_pair(people, self.people, pairs, posed) if not one.expected]
        warn_of(f"{len(left_out)} of {len(left_out) + len(self.people)} training images are in no pair", left_out)
        if not self.population.count:
            raise ValueError(f"no training pairs: no identity has two images farther apart than min_gap, {min_gap} of its images")
        self.pose = batched_poses([Pose.unknown(openpose_18, self.size) if p.pose is None else p.pose for p in self.people], self.size)
        self.mask_files = [p.mask for p in self.people] if silhouettes and any(p.mask for p in self.people) else None
        self._pids = torch.tensor([p.pid for p in self.people], dtype=torch.int64)

    @cached_property
    def images(self) -> Tensor:
        """Read every image of `people` as uint8 (N, 3, H, W)."""
        return resident(read_many([p.path for p in self.people], self.size), self.device)

    @cached_property
    def masks(self) -> Tensor | None:
        """Read every silhouette as uint8 (N, H, W), 0 where one is not known; None without any."""
        return None if self.mask_files is None else read_masks(self.mask_files, self.size)

    @cached_property
    def digest(self) -> str:
        """Give sixteen hex digits that change with names, identities, poses and a list of pairs: what batches are sampled from."""
        sha = hashlib.sha256(repr([(p.name, p.pid, p.camid) for p in self.people]).encode())
        if self.listed is not None:
            sha.update(self.listed.encode())
        sha.update(self.pose.xy.contiguous().numpy().tobytes() + self.pose.visible.contiguous().numpy().tobytes())
        return sha.hexdigest()[:16]

    def __getitem__(self, step: int) -> PosePair:
        """Make the batch of one step, counted from 0."""
        pairs, flipped, draws = self._sample(step)
        source, target = torch.from_numpy(pairs).unbind(1)
        sources, targets = (self.images[index.to(self.images.device, non_blocking=True)] for index in (source, target))
        batch = PosePair(sources, targets, self._poses(source), self._poses(target), self._pids[source])
        if self.flip:
            batch = batch.mirrored(torch.from_numpy(flipped))  # as bytes, a quarter of the work
        batch = replace(batch, source=to_float(batch.source), target=to_float(batch.target))
        return batch if self.jitter is None else jittered(batch, torch.from_numpy(draws), self.jitter)

    def _poses(self, rows: Tensor) -> Pose:
        """Take poses (B, K), with their silhouettes where these are known."""
        return self.pose[rows] if self.masks is None else replace(self.pose[rows], silhouette=as_silhouettes(self.masks[rows]))

    def _sample(self, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pick indices (B, 2) of the step's pairs, which to mirror (B), and numbers (B, 5) in [0, 1) for what jitters them.

        A pure function of (seed, step).
        """
        if step < 0:
            raise ValueError(f"steps count from 0, got {step}")
        # Raw bits of a counter-based generator: unlike numpy's distributions, they may never change between versions.
        # Taking them modulo the count is uneven by less than count / 2**64.
        source = np.random.Philox(key=np.array([self.seed, step], dtype=np.uint64))
        bits = source.random_raw((2, self.batch_size))
        numbers = (bits[0] % np.uint64(self.population.count)).astype(np.int64)
        draws = (source.random_raw((self.batch_size, NUMBERS)) >> np.uint64(11)) * 2.0**-53  # a float64 holds 53 bits
        return self.population.pair(numbers), (bits[1] >> np.uint64(63)).astype(bool), draws

    def starting_at(self, step: int) -> Iterator[PosePair]:
        """Give batches from `step` on, without end: what a resumed training reads."""
        while True:
            yield self[step]
            step += 1

    def __iter__(self) -> Iterator[PosePair]:
        return self.starting_at(0)


def _from_list(people: Sequence[PersonImage], file: str, posed: bool) -> tuple[list[PersonImage], ListedPairs, str]:
    """Look up the training pairs that a CSV names: their images by name, the pairs, and the list's digest."""
    pairs = listed(people, read_pairs(file), file, splits=("train",), posed=posed)
    members = sorted({p.path: p for pair in pairs for p in pair}.values(), key=lambda p: (p.name, p.path))
    row = {p.path: i for i, p in enumerate(members)}
    digest = list_digest([(source.name, target.name) for source, target in pairs])
    return members, ListedPairs(np.array([(row[source.path], row[target.path]) for source, target in pairs])), digest


def _in_pairs(
    usable: Sequence[PersonImage], people: Sequence[PersonImage], any_pose: bool = False, posed: bool = True
) -> list[PersonImage]:
    """Keep those whose identity has two images or more; ValueError with the reckoning when there are none."""
    numbers: dict[int, int] = {}
    for person in usable:
        numbers[person.pid] = numbers.get(person.pid, 0) + 1
    paired = [p for p in usable if numbers[p.pid] > 1]
    if not paired:
        train = [p for p in people if p.split == "train"]
        if not posed:
            raise ValueError(f"no training pairs: of {len(train)} train images of {len(numbers)} identities, none with two")
        known = sum(p.pose is not None for p in train)
        raise ValueError(
            f"no training pairs: of {len(train)} train images {known} have a pose, {len(usable)} of these show "
            f"{'a joint' if any_pose else 'shoulders and hips'}, of {len(numbers)} identities, none with two such images"
        )
    return paired


def in_no_pair(
    people: Sequence[PersonImage], paired: Sequence[PersonImage], pairs: str | None = None, posed: bool = True
) -> list[LeftOut]:
    """List the training images that are not among those `paired`, by a list or for other reasons, and why."""
    kept, alone = {p.path for p in paired}, "alone of their identity"
    reasons = {one.name: one.why for one in not_augmented(people)} if pairs is None and posed else {}
    left_out = (p for p in people if p.split == "train" and p.path not in kept)
    return [
        LeftOut(p.name, "of identity -1, junk", expected=True) if p.pid == JUNK
        else LeftOut(p.name, reasons.get(p.name, alone) if pairs is None else f"not named in {pairs}")
        for p in left_out
    ]  # fmt: skip


def batched_poses(poses: Sequence[Pose], size: tuple[int, int]) -> Pose:
    """Join single poses of any size to one batch (N, K, 2) at `size`, on the skeleton they share, else on openpose_18."""
    names = {pose.skeleton.name for pose in poses}
    skeleton = poses[0].skeleton if len(names) == 1 else openpose_18
    kinds: dict[tuple[str, tuple[int, int]], list[int]] = {}
    for i, pose in enumerate(poses):
        kinds.setdefault((pose.skeleton.name, pose.size), []).append(i)
    parts = []
    for rows in kinds.values():
        some = [poses[i] for i in rows]
        xy = torch.stack([p.xy for p in some]).float()
        batch = convert(replace(some[0], xy=xy, visible=torch.stack([p.visible for p in some])), skeleton)
        parts.append(batch if tuple(batch.size) == size else rescale(batch, size))
    back = torch.tensor([i for rows in kinds.values() for i in rows]).argsort()
    return Pose.cat(parts)[back]
