"""What online rendering draws: which images of a batch, in which poses; recorded, so that it can be rendered again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from torch import Tensor

from generators import Pose, rescale, view_descriptor
from reid_aug.data.body import valid_for_pairs
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.image_bank import Bank, ImageBank
from reid_aug.synthesis.nearness import distances, near, tolerance_of, views_of
from reid_aug.synthesis.target_poses import OF_VIEW, WHOLE, rows_of_view

ITSELF = 1e-4  # Distance in view within which a pose of the bank is taken for the source's own.


@dataclass(frozen=True)
class PoseDraw:
    """What one call drew: in a batch of `batch`, row `rows[i]` becomes pose `targets[i]`, named `names[i]`, of the bank.

    `pids[i]` says whose bank where every identity has its own, else it is empty. It was call `step` under `seed`.
    ValueError for lists of different lengths, or rows that are not in order, twice or outside the batch.
    """

    seed: int
    step: int
    batch: int
    rows: tuple[int, ...]
    targets: tuple[int, ...]
    names: tuple[str, ...]
    pids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name in ("rows", "targets", "names", "pids"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        lengths = len(self.rows), len(self.targets), len(self.names), len(self.pids) or len(self.rows)
        if len(set(lengths)) != 1:
            raise ValueError(f"a draw has a target, a name and, if any, a pid for each of its rows, got {lengths} of them")
        if list(self.rows) != sorted(set(self.rows)) or not all(0 <= row < self.batch for row in self.rows):
            raise ValueError(f"a draw's rows are ascending and in 0..{self.batch - 1}, got {self.rows}")

    @property
    def drawn(self) -> list[tuple[int | None, int]]:
        """List whose bank each row's pose is of, None for one of all, and where it is there."""
        keys: Sequence[int | None] = self.pids or [None] * len(self.rows)
        return list(zip(keys, self.targets, strict=True))

    def to_json(self) -> str:
        """Write one line that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> PoseDraw:
        """Read the draw that `to_json` wrote; ValueError for anything else."""
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"no recorded draw of poses: {error}") from None


class PoseDrawer:
    """Decides which images of a batch are rendered anew, and in which pose of the bank: recorded as a PoseDraw, nothing is rendered.

    `banks` are by identity where each has its own, else there is one under None. `strategy` is "whole", uniform over the
    bank, "view-front" and its like, over its poses of that side, or "compatible" ("compatible-0.3"), uniform over its poses near
    the source's in view, as in `target_poses.drawing`; but of the identity's poses only the source's own is left out, and a
    bank that has no other is drawn from all the same.
    """

    def __init__(self, banks: Mapping[int | None, Bank], p: float, seed: int, strategy: str = WHOLE) -> None:
        if not 0 <= seed < 2**64:
            raise ValueError(f"a seed is in 0..2**64 - 1, got {seed}")
        self.tolerance = tolerance_of(strategy)
        if strategy not in (WHOLE, *OF_VIEW) and self.tolerance is None:
            raise ValueError(f"online, target poses are drawn by whole, compatible or view-…, got draw={strategy!r}")
        self.finds_poses = of_images(banks.values(), strategy)
        self.names = {key: bank.names for key, bank in banks.items()}
        self.p, self.seed, self.step = probability(p), int(seed), 0
        self.by_identity = None not in banks
        # Identities may share a bank.
        posed = [] if self.tolerance is None else [bank for bank in banks.values() if not isinstance(bank, ImageBank)]
        views = {id(bank): (views_of(bank), bank.pose.size) for bank in posed}
        of_view = [bank for bank in banks.values() if isinstance(bank, PoseBank)] if strategy in OF_VIEW else []
        rows = {id(bank): rows_of_view(strategy, bank) for bank in of_view}
        self.seen = {key: rows[id(bank)] for key, bank in banks.items()} if rows else {}
        self.views = {key: views[id(bank)] for key, bank in banks.items()} if views else {}

    def draw(self, poses: Pose, pids: Sequence[int] | Tensor | None = None) -> PoseDraw:
        """Choose for the batch of this step, and count it: a function of (seed, step), the poses (B, K) and pids (B,) alone.

        An image is usable when its shoulders and hips are seen; with banks of images every one is. Leave poses and pids
        on the CPU, where a DataLoader puts them: reading them off a GPU waits for it. ValueError unless there are pids where
        every identity has its own bank.
        """
        if len(poses.batch_shape) != 1:
            raise ValueError(f"poses are a batch (B, K), got {tuple(poses.visible.shape)}")
        keys = self._keys(pids, len(poses))
        usable = [True] * len(poses) if self.finds_poses else valid_for_pairs(poses).tolist()
        # Raw bits, two to a row: they never change between numpy's versions, nor with the batch's length or its other rows.
        bits = np.random.Philox(key=np.array([self.seed, self.step], dtype=np.uint64)).random_raw((len(poses), 2)).tolist()
        rows = [i for i, key in enumerate(keys) if usable[i] and key in self.names and (bits[i][0] >> 11) * 2.0**-53 < self.p]
        choices = self._choices(poses, rows, [keys[i] for i in rows])
        targets = [int(choice[bits[i][1] % len(choice)]) for i, choice in zip(rows, choices, strict=True)]
        names = tuple(self.names[keys[i]][target] for i, target in zip(rows, targets, strict=True))
        pids_of_rows = tuple(keys[i] for i in rows) if self.by_identity else ()
        self.step += 1
        return PoseDraw(self.seed, self.step - 1, len(poses), tuple(rows), tuple(targets), names, pids_of_rows)  # type: ignore[arg-type]

    def _choices(self, poses: Pose, rows: Sequence[int], keys: Sequence[int | None]) -> list[range | np.ndarray]:
        """Say of which poses of its bank each of these rows gets one."""
        choices: list[range | np.ndarray] = [self.seen[key] if self.seen else range(len(self.names[key])) for key in keys]
        if self.tolerance is None or not rows:
            return choices
        sources = poses[list(rows)].to("cpu")
        described = {size: view_descriptor(rescale(sources, size)).numpy() for size in {size for _, size in self.views.values()}}
        for i, key in enumerate(keys):
            views, size = self.views[key]
            distance = distances(described[size][i], views)
            distance[distance <= ITSELF] = np.inf
            rows_near = near(distance, self.tolerance)
            choices[i] = rows_near if len(rows_near) else choices[i]
        return choices

    def _keys(self, pids: Sequence[int] | Tensor | None, count: int) -> list[int | None]:
        """Say under what each row's bank is kept."""
        if not self.by_identity:
            return [None] * count
        if pids is None:
            raise ValueError("every identity has a bank of its own: pids (B,) say whose to draw from, got None")
        keys: list[int | None] = [int(pid) for pid in (pids.tolist() if isinstance(pids, Tensor) else pids)]
        if len(keys) != count:
            raise ValueError(f"a batch has a pid for each pose, got {len(keys)} pids and {count} poses")
        return keys


def of_images(banks: Iterable[Bank], strategy: str = WHOLE) -> bool:
    """Tell whether banks are of images; ValueError where some are of poses, or the strategy goes by poses."""
    kinds = {isinstance(bank, ImageBank) for bank in banks}
    if len(kinds) > 1:
        raise ValueError("banks of several identities are all of poses or all of images, got both")
    if kinds == {True} and strategy != WHOLE:
        raise ValueError(f"draw={strategy} goes by poses, and a bank of images knows none: online, whole draws from it")
    return kinds == {True}


def probability(p: float) -> float:
    """Return `p` when it is a probability; ValueError otherwise."""
    if not 0 <= p <= 1:
        raise ValueError(f"p is a probability in [0, 1], got {p}")
    return float(p)
