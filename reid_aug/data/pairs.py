"""Pairs of images of one person: all there are, the lists that the papers evaluate on, and those lists as files."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from generators import Pose, openpose_18
from reid_aug.data.body import TORSO, valid_for_pairs
from reid_aug.data.deepfashion import shot_of
from reid_aug.data.doubts import report
from reid_aug.data.keypoints import read_columns
from reid_aug.data.market import parse_name
from reid_aug.data.people import JUNK, PersonImage
from reid_aug.data.pose_doubts import pose_doubts
from reid_aug.images import atomic_write_text

# ----------------------------------------------------------------------------------------------- all pairs there are


@dataclass(frozen=True, eq=False)
class PairPopulation:
    """All allowed ordered pairs of N images, never written out: `pair` turns a number below `count` into its two images.

    Images lie in `order`, those of one identity side by side: a run. The source at position i may take any target of
    its identity's run, which begins at start[i], but the skipped[i] images from skip[i] on: itself, all that its camera
    took, or the frames nearby.
    """

    order: np.ndarray
    start: np.ndarray
    skip: np.ndarray
    skipped: np.ndarray
    ends: np.ndarray  # running total of the targets each source has

    @property
    def count(self) -> int:
        """Give the number of pairs."""
        return int(self.ends[-1]) if len(self.ends) else 0

    def pair(self, number: np.ndarray) -> np.ndarray:
        """Give the pairs (M, 2) of image indices (source, target) for numbers (M) in 0..count-1."""
        source = np.searchsorted(self.ends, number, side="right")
        before = np.where(source > 0, self.ends[source - 1], 0)
        target = self.start[source] + number - before
        target = target + np.where(target >= self.skip[source], self.skipped[source], 0)
        return np.stack([self.order[source], self.order[target]], axis=1)


def pair_population(
    pids: Sequence[int] | np.ndarray, camids: Sequence[int] | np.ndarray | None = None, min_gap: float = 0.0
) -> PairPopulation:
    """Find all ordered pairs of different images of one identity, identities and images in order of appearance.

    With `camids`, a source whose identity other cameras saw too takes its targets from those only. With `min_gap`, an
    identity's images are a clip's frames, and the two of a pair lie farther apart than that share of them.

    >>> population = pair_population([5, 5, 5, 8], camids=[0, 0, 1, 0])
    >>> population.pair(np.arange(population.count)).tolist()
    [[0, 2], [1, 2], [2, 0], [2, 1]]
    """
    if camids is not None and min_gap:
        raise ValueError("pairs from other cameras have no gap between their frames: either cross_camera or min_gap")
    pid = np.asarray(pids, dtype=np.int64)
    camid = np.zeros_like(pid) if camids is None else np.asarray(camids, dtype=np.int64)
    first, person = np.unique(pid, return_index=True, return_inverse=True)[1:]
    order = np.lexsort((camid, first[person]))  # stable: within an identity and camera the order stays
    start, length = _runs(first[person][order])
    position = np.arange(len(pid))
    if camids is None:
        near = np.floor(min_gap * length + 1e-9).astype(np.int64)  # 0.07 · 100 is a little more than 7
        skip = np.maximum(position - near, start)
        skipped = np.minimum(position + near, start + length - 1) - skip + 1
        return PairPopulation(order, start, skip, skipped, np.cumsum(length - skipped))
    block, size = _runs(first[person][order], camid[order])
    alone = size == length  # one camera saw this person: then any other image will do
    skip, skipped = np.where(alone, position, block), np.where(alone, 1, size)
    return PairPopulation(order, start, skip, skipped, np.cumsum(length - skipped))


def _runs(*keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tell of each element where its run of equal keys starts and how long it is.

    >>> _runs(np.array([4, 4, 7]))
    (array([0, 0, 2]), array([2, 2, 1]))
    """
    n = len(keys[0])
    new = np.ones(n, dtype=bool)
    new[1:] = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    starts = np.flatnonzero(new)
    run = np.cumsum(new) - 1
    return starts[run], np.diff(starts, append=n)[run]


def all_pairs(pids: Sequence[int] | np.ndarray) -> np.ndarray:
    """List every ordered pair of different images of one identity (P, 2), as itertools.permutations per identity would.

    >>> all_pairs([5, 8, 5]).tolist()
    [[0, 2], [2, 0]]
    """
    population = pair_population(pids)
    return population.pair(np.arange(population.count))


# ------------------------------------------------------------------------------------------- lists to evaluate on


def pairs_from_keypoints(
    csv_path: str | os.PathLike[str], sample: int | None = None, seed: int = 0, *, any_pose: bool = False
) -> list[tuple[str, str]]:
    """List the papers' pairs, (source, target) names, for a keypoint file with Market-style or In-shop names (Siarohin et al. 2018).

    All of them in file order, or `sample` of them picked as pandas' DataFrame.sample(sample, random_state=seed) picks.
    Images without both shoulders and both hips are left out, with `any_pose` those without any joint. ValueError for a name
    or row that can't be read, or a `sample` above what there is.
    """
    names, yx = read_columns(csv_path, len(openpose_18))
    report(pose_doubts(os.fspath(csv_path), names, yx))
    torso = [openpose_18.index(joint) for joint in TORSO]
    try:
        pids = np.array([_pid_of(name) for name in names])
    except ValueError as error:
        raise ValueError(f"{os.fspath(csv_path)}: {error}") from None
    enough = (yx >= 0).all(-1).any(-1) if any_pose else (yx[:, torso] >= 0).all((1, 2))
    valid = np.flatnonzero(enough & (pids > 0))
    population = pair_population(pids[valid])
    pairs = valid[population.pair(_sample(population.count, sample, seed, os.fspath(csv_path)))]
    return [(names[source], names[target]) for source, target in pairs.tolist()]


def _pid_of(name: str) -> int:
    shot = shot_of(name)
    return parse_name(name)[0] if shot is None else shot.pid


def held_out_pairs(
    people: Sequence[PersonImage], count: int, seed: int = 0, *, any_pose: bool = False, posed: bool = True
) -> list[tuple[PersonImage, PersonImage]]:
    """Pick `count` different (source, target) pairs of query and gallery images with valid poses, or with any, or without (not `posed`).

    The same people give the same pairs, whatever their order. Identity 0 is taken for background unless a query has
    it. ValueError when there are fewer pairs.
    """
    test = with_valid_pose(people, _may_be_shown(people), any_pose=any_pose, posed=posed)
    population = pair_population([p.pid for p in test])
    where = f"{len(test)} query and gallery images{f' with {_kind_of_pose(any_pose)}' if posed else ''}"
    pairs = population.pair(_sample(population.count, count, seed, where))
    return [(test[source], test[target]) for source, target in pairs.tolist()]


def unpaired(
    people: Sequence[PersonImage], count: int, seed: int = 0,
    source_identities: int | None = None, target_identities: int | None = None, *, posed: bool = True,
) -> list[tuple[PersonImage, PersonImage]]:  # fmt: skip
    """Pick `count` different pairs of query and gallery images, sources and targets of different people (Ho et al. 2019).

    Identities are shuffled by `seed` and dealt to a source and a target group, half each unless numbers are given. All
    identities of the split are dealt, as the paper counts them; images without a valid pose are dropped afterwards, unless
    they need not be `posed`. Identity 0, Market's distractors, is one of them where a query has it, or where the numbers come
    to one more than there are others: the paper's 376 and 375 are Market-1501's 750 people and it. ValueError when there are
    fewer identities or pairs.
    """
    shown = _may_be_shown(people)
    pids = sorted({p.pid for p in people if shown(p)})
    first = -(-len(pids) // 2) if source_identities is None else source_identities
    second = len(pids) - first if target_identities is None else target_identities
    if first + second == len(pids) + 1 and 0 not in pids and any(p.split == "gallery" and p.pid == 0 for p in people):
        pids = [0, *pids]
    if min(first, second) < 1 or first + second > len(pids):
        raise ValueError(f"{first} source and {second} target identities are wanted; query and gallery have {len(pids)}")
    members = set(pids)
    test = with_valid_pose(people, lambda p: p.split != "train" and p.pid in members, posed=posed)
    rng = np.random.default_rng(seed)
    dealt = rng.permutation(pids)
    groups = set(dealt[:first].tolist()), set(dealt[first : first + second].tolist())
    sources, targets = ([p for p in test if p.pid in group] for group in groups)
    where = f"{len(sources)} source and {len(targets)} target images{' with a valid pose' if posed else ''}"
    numbers = _sample(len(sources) * len(targets), count, seed, where)
    return [(sources[n // len(targets)], targets[n % len(targets)]) for n in numbers.tolist()]


def with_valid_pose(
    people: Sequence[PersonImage], allowed: Callable[[PersonImage], bool], *, any_pose: bool = False, posed: bool = True
) -> list[PersonImage]:
    """Return the people that are `allowed` and whose pose is valid, by name: a folder's order differs between machines.

    With `any_pose` a joint that is seen is enough; unless they are to be `posed`, none is needed.
    """

    def valid(pose: Pose | None) -> bool:
        return not posed or (pose is not None and bool(pose.visible.any() if any_pose else valid_for_pairs(pose)))

    return sorted((p for p in people if allowed(p) and valid(p.pose)), key=lambda p: (p.name, p.path))


def _kind_of_pose(any_pose: bool) -> str:
    return "a pose" if any_pose else "a valid pose"


def _may_be_shown(people: Sequence[PersonImage]) -> Callable[[PersonImage], bool]:
    """Make a test of query and gallery images: do they show a person? Identity 0 is background unless a query has it."""
    background = {JUNK} if any(p.split == "query" and p.pid == 0 for p in people) else {JUNK, 0}
    return lambda p: p.split != "train" and p.pid not in background


def _sample(count: int, sample: int | None, seed: int, where: str) -> np.ndarray:
    """Pick the numbers of the pairs to take: all, or `sample` of them without replacement."""
    if sample is None:
        return np.arange(count)
    if not 0 <= sample <= count:
        raise ValueError(f"{where}: can't sample {sample} pairs, there are {count}")
    return np.random.RandomState(seed).choice(count, sample, replace=False)  # the call inside pandas' sample


# ------------------------------------------------------------------------------------------------- lists as files


def write_pairs(path: str | os.PathLike[str], pairs: Sequence[tuple[str, str]]) -> None:
    """Write pairs as the field's CSV, header `from,to`, atomically."""
    atomic_write_text(path, _as_csv(pairs))


def list_digest(pairs: Sequence[tuple[str, str]]) -> str:
    """Give the SHA-256, as 64 hex digits, of the CSV that `write_pairs` writes: lists are told apart by it.

    >>> list_digest([("a.jpg", "b.jpg")])[:16]
    '2379ea7084989ee1'
    """
    return hashlib.sha256(_as_csv(pairs).encode()).hexdigest()


def _as_csv(pairs: Sequence[tuple[str, str]]) -> str:
    """Write pairs as the text of a CSV.

    >>> _as_csv([("a.jpg", "b.jpg")])
    'from,to\\na.jpg,b.jpg\\n'
    """
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([("from", "to"), *pairs])
    return buffer.getvalue()


def read_pairs(path: str | os.PathLike[str]) -> list[tuple[str, str]]:
    """Read (source, target) names from a CSV with header `from,to`; ValueError names the file, the line and what is wrong."""
    where, pairs = os.fspath(path), []
    try:
        with open(where, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            header = next(reader, [])
            if header != ["from", "to"]:
                raise ValueError(f"{where}, line 1: the header is 'from,to', got {','.join(header)!r}")
            for row in filter(None, reader):
                if len(row) != 2 or not all(row):
                    raise ValueError(f"{where}, line {reader.line_num}: a row is two names, got {row!r}")
                pairs.append((row[0], row[1]))
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: not a UTF-8 text file (byte {error.start})") from None
    except csv.Error as error:
        raise ValueError(f"{where}: not a CSV file: {error}") from None
    return pairs
