"""Drawing target poses: which of the bank each synthetic image gets. Strategies by name; each a pure function."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from generators import Generator, Pose, no_such, rescale, view_descriptor
from reid_aug.data.body import UNKNOWN, VIEWS, view
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank import PoseBank, origins
from reid_aug.synthesis.image_bank import Bank, ImageBank
from reid_aug.synthesis.nearness import distances, near, tolerance_of, views_of
from reid_aug.synthesis.novelty import novel_rows, novelty_of

WHOLE, COMPATIBLE, RECOMBINED = "whole", "compatible", "recombined"
OF_VIEW = tuple(f"view-{name}" for name in VIEWS)
DRAWS = (WHOLE, "missing-views", "canonical", "camera-aware", COMPATIBLE, "novel", *OF_VIEW)
CANONICAL_POSES = 8  # as PN-GAN has
_CANONICAL = re.compile(r"canonical-([1-9][0-9]{0,5})")  # of another number

# (source, index of its synthetic image, 64 random bits that are theirs) → row of the bank
Drawing = Callable[[PersonImage, int, int], int]


def check_draw(draw: str) -> str:
    """Return `draw` when there is such a strategy; ValueError names those there are and the nearest."""
    if draw not in (*DRAWS, RECOMBINED) and not _CANONICAL.fullmatch(draw) and tolerance_of(draw) is None and novelty_of(draw) is None:
        raise ValueError(no_such("way of drawing poses", draw, (*DRAWS, RECOMBINED)))
    return draw


Draw = Annotated[str, AfterValidator(check_draw)]


def draw_for(generator: Generator, draw: str | None) -> str:
    """Return the strategy `draw`, or the generator's own where it is None: "compatible" with `near_views`, else "whole"."""
    return check_draw((COMPATIBLE if generator.near_views else WHOLE) if draw is None else draw)


def check_bank(draw: str, bank: Bank) -> None:
    """Raise ValueError for a strategy that goes by poses, or cameras, and a bank that knows none."""
    if isinstance(bank, ImageBank) and draw not in (WHOLE, "camera-aware"):
        raise ValueError(f"draw={draw} goes by poses, and a bank of images knows none: whole and camera-aware draw from it")
    if draw == "camera-aware":
        poses_by_camera(bank)


def drawing(draw: str, people: Sequence[PersonImage], bank: Bank, seed: int) -> Drawing:
    """Make the strategy named `draw` ready to draw for `people`; ValueError when the bank does not fit it or the name is unknown.

    * whole: uniform over the bank.
    * missing-views: uniform over the bank's poses in views (`data.body.view`) that no image of the identity shows, so that
      it is learnt from all sides, whose lack in training costs accuracy (Sun and Zheng, "Dissecting person
      re-identification from the viewpoint of viewpoint", CVPR 2019). An identity that shows all of them, or lacks only
      what the bank lacks too, draws from the whole bank. Its images are those among `people`: a shard holds all or none of them.
    * canonical: the bank's eight typical poses ("canonical-12": twelve), in an order of the source's own, so that eight
      images show each once (PN-GAN: Qian et al., "Pose-normalized image generation for person re-identification", ECCV
      2018). Typical are the poses nearest the centres of k-means over joints (`PoseBank.thin`); a bank of fewer is taken
      whole.
    * camera-aware: uniform over the other cameras than the source's, then over the poses seen by that one: what CamStyle
      (Zhong et al., "Camera style adaptation for person re-identification", CVPR 2018) does for the cameras' style,
      here for the viewpoints and gaits each camera sees.

    * compatible: uniform over the poses near the source's in view (`generators.view_descriptor`), free in arms, legs,
      scene and camera: those within a distance of 0.5 ("compatible-0.3": of 0.3), or the eight nearest where fewer lie
      within it. No pose of the source's own identity: images of it are those among `people`, as in missing-views.
    * novel: by distance, uniform over the poses far from all that the identity was photographed in: 0.3 torso lengths or more from the
      nearest ("novel-0.4": 0.4), as `gates.pose_novelty` measures, or the eight farthest where fewer are. Its images are those among
      `people`, as in missing-views.
    * view-front, view-right, view-back, view-left: uniform over the bank's poses seen from that side (`data.body.view`).

    Each depends on seed, source name and index, on the bank, and (missing-views, compatible, novel) on the identity's images: not on
    order or machine.
    """
    check_bank(check_draw(draw), bank)
    if draw == "camera-aware":
        return _camera_aware(bank)
    if draw == WHOLE or isinstance(bank, ImageBank):
        return lambda person, index, bits: bits % len(bank)
    if (tolerance := tolerance_of(draw)) is not None:
        return _compatible(people, bank, tolerance)
    if (least := novelty_of(draw)) is not None:
        rows = novel_rows(people, bank, least)
        return lambda person, index, bits: int(rows(person.pid)[bits % len(rows(person.pid))])
    if draw in OF_VIEW:
        seen = rows_of_view(draw, bank)
        return lambda person, index, bits: int(seen[bits % len(seen)])
    if draw == "missing-views":
        return _missing_views(people, bank)
    if draw == RECOMBINED:
        raise ValueError("recombined makes new people, and is planned for all of them at once (synthesis.recombining)")
    count = _CANONICAL.fullmatch(draw)
    return _canonical(bank, seed, int(count[1]) if count else CANONICAL_POSES)


def hash64(*of: Hashable) -> int:
    """Give 64 bits that depend on these values and on nothing else.

    >>> hash64(0, "0002_c1s1_000451_03.jpg", 1)
    4588459445057497929
    """
    return int.from_bytes(hashlib.sha256("\n".join(map(str, of)).encode()).digest()[:8], "little")


def rows_of_view(draw: str, bank: PoseBank) -> np.ndarray:
    """Give the rows of a bank seen from the side that "view-front" and its like name; ValueError where there are none."""
    rows = np.flatnonzero(view(bank.pose).numpy() == OF_VIEW.index(draw))
    if not len(rows):
        raise ValueError(f"draw={draw} needs poses of that side, of which the bank of {len(bank)} poses has none")
    return rows


def _missing_views(people: Sequence[PersonImage], bank: PoseBank) -> Drawing:
    in_bank = view(bank.pose).numpy()
    if (in_bank == UNKNOWN).all():
        raise ValueError(f"missing-views tells views from shoulders and hips, which no pose of the bank ({bank.pose.skeleton.name}) shows")
    posed = [p for p in people if p.pose is not None]
    shown: dict[int, set[int]] = defaultdict(set)
    for person, seen in zip(posed, described(view, posed, bank.pose.size), strict=True):
        shown[person.pid].add(int(seen))
    choices: dict[frozenset[int], np.ndarray] = {}

    def draw(person: PersonImage, index: int, bits: int) -> int:
        missing = frozenset(range(len(VIEWS))) - shown[person.pid]
        if missing not in choices:
            rows = np.flatnonzero(np.isin(in_bank, list(missing)))
            choices[missing] = rows if len(rows) else np.arange(len(bank))
        return int(choices[missing][bits % len(choices[missing])])

    return draw


def described(describe: Callable[[Pose], Tensor], posed: Sequence[PersonImage], size: tuple[int, int]) -> np.ndarray:
    """Describe each pose (N, …) once its image has the bank's size: a squeezed body looks narrower."""
    poses = [person.pose for person in posed if person.pose is not None]
    alike: dict[Hashable, list[int]] = defaultdict(list)
    for i, pose in enumerate(poses):
        alike[pose.skeleton.name, pose.size].append(i)
    parts = [describe(rescale(Pose.stack([poses[i] for i in rows]), size)) for rows in alike.values()]
    order = np.argsort([i for rows in alike.values() for i in rows])
    return torch.cat(parts).numpy()[order] if parts else np.empty(0)


def _compatible(people: Sequence[PersonImage], bank: PoseBank, tolerance: float) -> Drawing:
    in_bank = views_of(bank)
    posed = [p for p in people if p.pose is not None]
    of_source = dict(zip((p.name for p in posed), described(view_descriptor, posed, bank.pose.size), strict=True))
    pids = {person.name: person.pid for person in people}
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, name in enumerate(bank.names):
        for pid in {pids[origin] for origin in origins(name) if origin in pids}:
            rows_of[pid].append(row)

    @lru_cache(maxsize=1)  # the images of one source come one after another
    def rows_near(name: str, pid: int) -> np.ndarray:
        distance = distances(of_source[name], in_bank)
        distance[rows_of[pid]] = np.inf
        return near(distance, tolerance)

    def draw(person: PersonImage, index: int, bits: int) -> int:
        rows = rows_near(person.name, person.pid)
        if not len(rows):
            raise ValueError(f"compatible draws other people's poses, and the bank of {len(bank)} has none of them for {person.name}")
        return int(rows[bits % len(rows)])

    return draw


def _canonical(bank: PoseBank, seed: int, poses: int) -> Drawing:
    typical = bank.thin(min(poses, len(bank)))
    where = {name: i for i, name in enumerate(bank.names)}
    orders: dict[str, list[str]] = {}

    def draw(person: PersonImage, index: int, bits: int) -> int:
        if person.name not in orders:
            orders[person.name] = sorted(typical.names, key=lambda name: hash64(seed, person.name, "canonical", name))
        order = orders[person.name]
        return where[order[index % len(order)]]

    return draw


def _camera_aware(bank: Bank) -> Drawing:
    seen_by = poses_by_camera(bank)
    cameras = sorted(seen_by)

    def draw(person: PersonImage, index: int, bits: int) -> int:
        others = [camera for camera in cameras if camera != person.camid]
        rest, chosen = divmod(bits, len(others))
        poses = seen_by[others[chosen]]
        return poses[rest % len(poses)]

    return draw


def poses_by_camera(bank: Bank) -> dict[int, list[int]]:
    """Sort rows of the bank by the camera that saw them; ValueError when cameras are not known or there is only one."""
    if bank.camids is None:
        raise ValueError("camera-aware drawing needs the bank's cameras: PoseBank(names, pose, camids), or PoseBank.collect")
    seen_by: dict[int, list[int]] = defaultdict(list)
    for i, camid in enumerate(bank.camids):
        seen_by[camid].append(i)
    if len(seen_by) < 2:
        raise ValueError(f"camera-aware drawing needs poses that two cameras saw or more; camera {camid} saw all {len(bank)} of the bank")
    return seen_by


def cameras_digest(bank: Bank) -> str:
    """Give twelve hex digits that change with any camera of the bank; the bank's own digest is of its poses."""
    return hashlib.sha256(torch.tensor(bank.camids or ()).numpy().tobytes()).hexdigest()[:12]
