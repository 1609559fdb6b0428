"""How far poses are from those of an identity, and the poses of a bank that are far: what the gate on novelty and draw=novel go by."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from generators import Pose, convert, rescale
from reid_aug.data.body import TORSO, valid_for_pairs
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.nearness import near, number_of

BLOCK_ELEMENTS = 1 << 22  # numbers in one block of a distance matrix
NOVEL = 0.3  # Torso lengths from the nearest of an identity's own poses, from which on a pose is novel to it: three in ten of CUHK03's are.


def novelty_of(draw: str) -> float | None:
    """Return the least novelty that the name of a strategy sets, "novel" or "novel-0.4"; None where it is another one's.

    >>> novelty_of("novel"), novelty_of("novel-0.4"), novelty_of("whole")
    (0.3, 0.4, None)
    """
    return number_of(draw, "novel", NOVEL)


def novel_rows(people: Sequence[PersonImage], bank: PoseBank, least: float) -> Callable[[int], np.ndarray]:
    """Prepare to give the rows of a bank that are novel to an identity: `least` or farther from its nearest pose, else the farthest eight.

    Distances are `gates.pose_novelty`'s. Poses of the bank without shoulders and hips are never among them; ValueError where all lack them.
    """
    usable = valid_for_pairs(bank.pose).numpy()
    if not usable.any():
        raise ValueError(f"novel compares poses with both shoulders and both hips, which no pose of the bank of {len(bank)} shows")
    shown: dict[int, list[Pose]] = defaultdict(list)
    for person in people:
        if person.pose is not None and bool(valid_for_pairs(person.pose)):
            shown[person.pid].append(rescale(convert(person.pose, bank.pose.skeleton), bank.pose.size))
    about = bodies(bank.pose)

    @lru_cache(maxsize=8)  # images of one identity come together
    def rows(pid: int) -> np.ndarray:
        novelty = np.where(usable, nearest(about, bodies(Pose.stack(shown[pid]))), -np.inf)
        return near(-novelty, -least)  # far is near from the other end

    return rows


def bodies(pose: Pose) -> Tensor:
    """Give joints (N, K, 2), float64, from the torso's middle in torso lengths; NaN where not visible."""
    xy, skeleton = pose.xy.double(), pose.skeleton
    shoulders, hips = ([skeleton.index(j) for j in TORSO[side] if j in skeleton.joints] for side in (slice(2), slice(2, 4)))
    if hips:
        length = (xy[:, shoulders].mean(1) - xy[:, hips].mean(1)).norm(dim=-1)
    else:
        up, down = (torch.where(pose.visible, xy[..., 1], far) for far in (torch.inf, -torch.inf))
        length = down.amax(1) - up.amin(1)
    body = (xy - xy[:, shoulders + hips].mean(1, keepdim=True)) / length.clamp(min=1)[:, None, None]  # a pixel at least
    return torch.where(pose.visible[..., None], body, torch.nan)


def nearest(targets: Tensor, others: Tensor) -> np.ndarray:
    """Measure the distance (R,) from each of R bodies (R, K, 2) to the nearest of M (M, K, 2)."""
    block = max(1, BLOCK_ELEMENTS // others.numel())
    # A joint seen in one alone is NaN and does not count.
    parts = [(part[:, None] - others[None]).norm(dim=-1).nanmean(-1).amin(1) for part in targets.split(block)]  # (r, M, K) → (r, M) → (r,)
    return torch.cat(parts).numpy()
