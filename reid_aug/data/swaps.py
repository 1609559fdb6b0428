"""Left and right exchanged from one frame of a track to the next: a leg that is taken for the other, an arm, or a whole body."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import torch

from generators import Pose, Skeleton, named_joints, openpose_18, view_descriptor
from reid_aug.data.body import TORSO
from reid_aug.data.doubts import Doubt

MUCH_NEARER = 0.5  # Most that a pair's distance to the frame before is, once exchanged, of what it is as it stands.
LEAST_GAIN = 0.3  # Torso lengths by which exchanging brings each joint of a pair nearer at least, in the mean.
NEAR_FRAMES = 6  # Within so many frames of a video no leg passes the other in a side view: at 25 frames a second, half a step.
FRONTAL = 0.5  # Mean width of shoulders and hips in torso lengths, from which on a step hardly shows across the image: some 30° at most.
CLEAR = 0.1  # Torso lengths by which limbs lie farther on the other side in a frame that is exchanged than in the one beside it.
TURNED = 0.5  # Distance of two `view_descriptor`s, without size, from which on somebody has turned.
PAIRS = {"legs": ("knee", "ankle"), "arms": ("elbow", "wrist")}
_BODY = ("shoulder", "hip", "elbow", "wrist", "knee", "ankle")

_MARKET = re.compile(r"(-?\d+_c\d+s\d+)_(\d+)_(\d+)", re.ASCII)
_MARS = re.compile(r"(\d{4}C\dT\d{4})F(\d+)", re.ASCII)
_NUMBERED = re.compile(r"(.*[^\d])(\d+)", re.ASCII)


@dataclass(frozen=True)
class Track:
    """Rows of one track with their frames' numbers, in order; whether these are a video's, every one or every few."""

    frames: tuple[tuple[int, int], ...]
    of_video: bool


def tracks(names: Sequence[str]) -> list[Track]:
    """Sort images into tracks of two frames or more by their names: of each the rows with their frames' numbers, in order.

    One person, camera and sequence of Market's names (0001_c1s1_000151_01.jpg), whose numbers may be a mere count, as CUHK03's are; a
    tracklet of MARS' (0001C1T0001F001.jpg); of others, those that differ in a last number alone (dance_0001.png), if they follow each
    other in steps of at most 6. The latter two are videos.

    >>> names = ["0001_c1s1_000151_01.jpg", "0002_c1s1_000151_01.jpg", "0001_c1s1_000026_01.jpg", "a_1.png", "a_2.png", "b.png"]
    >>> [(track.frames, track.of_video) for track in tracks(names)]
    [(((2, 26), (0, 151)), False), (((3, 1), (4, 2)), True)]
    """
    found: dict[tuple[str, bool, bool], list[tuple[int, int, int]]] = defaultdict(list)
    for row, name in enumerate(names):
        path = os.path.splitext(name)[0]
        if (match := _MARKET.match(os.path.basename(path))) is not None:
            found[match[1], False, True].append((int(match[2]), int(match[3]), row))
        elif (match := _MARS.match(os.path.basename(path))) is not None:
            found[match[1], True, True].append((int(match[2]), 0, row))
        elif (match := _NUMBERED.fullmatch(path)) is not None:
            found[match[1], True, False].append((int(match[2]), 0, row))
    sorted_tracks = []
    for (_, of_video, sure), numbered in found.items():
        numbered.sort()
        if len(numbered) > 1 and (sure or max(b[0] - a[0] for a, b in pairwise(numbered)) <= NEAR_FRAMES):
            sorted_tracks.append(Track(tuple((row, number) for number, _, row in numbered), of_video))
    return sorted_tracks


def swap_doubts(where: str, names: Sequence[str], yx: np.ndarray, skeleton: Skeleton = openpose_18) -> list[Doubt]:
    """Doubt frames of tracks in which left and right are exchanged: y and x (N, K, 2), missing where negative.

    A pair of limbs, both legs (knees and ankles) or both arms (elbows and wrists), is compared with that of the frame before, each
    from the middle of its torso in torso lengths. It is exchanged where it lies at most half as far from it with left and right
    exchanged, and 0.3 torso lengths a joint nearer. Both frames must show the same side (`view_descriptor`), or somebody turned. Unless
    they are within 6 frames of a video, both must be seen from the front or the back (shoulders and hips half a torso wide in the
    mean): in other views legs and arms pass each other at every step. Shoulders, hips and limbs are exchanged together where so much
    of them comes nearer, both frames are so seen, and the eyes say that nobody turned: both show the face, with the right eye left of
    the left one. A frame is compared with the one before as that should be. Which of the frames that differ are exchanged is told by
    the side that limbs lie on, and eyes; where these do not tell, it is the fewer.
    """
    all_tracks = tracks(names)
    if not all_tracks or any(joint not in skeleton.joints for joint in TORSO):
        return []
    body = _Bodies.of(yx, skeleton)
    posed = ~np.isnan(body.view.sum(1))
    frames = sum(len(track.frames) for track in all_tracks)
    all_tracks = [replace(track, frames=tuple(frame for frame in track.frames if posed[frame[0]])) for track in all_tracks]
    swapped = {kind: np.zeros(len(names), bool) for kind in (*PAIRS, "bodies")}
    for kind, rows in swapped.items():
        joints = [name for name in PAIRS.get(kind, _BODY) if f"r_{name}" in skeleton.joints]
        if joints:
            sides = body.sides(joints)
            for track in _suspects(sides, all_tracks):
                rows[_swapped(body, sides, track, kind)] = True
    counts = {kind: int(rows.sum()) for kind, rows in swapped.items() if rows.any()}
    if not counts:
        return []
    which = np.flatnonzero(np.logical_or.reduce(list(swapped.values())))
    words = ", ".join(f"{kind} in {count:,}" for kind, count in counts.items())
    text = f"{where}: left and right change places from one frame of a track to the next: {words} of {frames:,} frames"
    return [Doubt("swapped", text, len(which), tuple(names[i] for i in which.tolist()))]


@dataclass(frozen=True, eq=False)
class _Bodies:
    """What is compared of N bodies: joints from the torso's middle in torso lengths, NaN where missing, and from where they are seen."""

    xy: np.ndarray  # (N, K, 2)
    view: np.ndarray  # (N, 3)
    faces: np.ndarray  # (N,) bool: nose and both eyes are seen, the right one on the left
    skeleton: Skeleton

    @staticmethod
    def of(yx: np.ndarray, skeleton: Skeleton) -> _Bodies:
        seen = np.all(yx >= 0, axis=-1)
        pose = Pose(torch.from_numpy(yx[..., ::-1].astype(np.float64)), torch.from_numpy(seen), skeleton, (1, 1))
        (rs, ls, rh, lh), there = (part.numpy() for part in named_joints(pose, *TORSO))
        length = np.linalg.norm((rs + ls - rh - lh) / 2, axis=-1)
        length = np.where(there.all(0) & (length >= 1), length, np.nan)[:, None, None]  # a pixel at least
        xy = np.where(seen[..., None], pose.xy.numpy(), np.nan) - ((rs + ls + rh + lh) / 4)[:, None]
        (_, r_eye, l_eye), face = (part.numpy() for part in named_joints(pose, "nose", "r_eye", "l_eye"))
        return _Bodies(xy / length, view_descriptor(pose)[:, :3].numpy(), face.all(0) & (r_eye[:, 0] < l_eye[:, 0]), skeleton)

    def sides(self, names: Sequence[str]) -> np.ndarray:
        """Give right and left joints (N, 2, J, 2)."""
        columns = [[self.skeleton.index(f"{side}_{name}") for name in names] for side in "rl"]
        return self.xy[:, columns]

    @cached_property
    def across(self) -> np.ndarray:
        """Give the mean width of shoulders and hips, positive where the front is seen (N,)."""
        return (self.view[:, 0] / 2 + self.view[:, 1]) / 2


def _suspects(sides: np.ndarray, all_tracks: Sequence[Track]) -> list[Track]:
    """Pick the tracks in which a pair comes much nearer to the frame before once exchanged: what is looked at frame by frame."""
    long = [track for track in all_tracks if len(track.frames) > 1]
    pairs = [(a, b, i) for i, track in enumerate(long) for (a, _), (b, _) in pairwise(track.frames)]
    if not pairs:
        return []
    before, now, owner = np.array(pairs).T
    return [long[i] for i in np.unique(owner[_nearer(sides[now], sides[before])])]


def _swapped(body: _Bodies, sides: np.ndarray, track: Track, kind: str) -> list[int]:
    """List the rows of a track in which a pair (N, 2, J, 2), or the whole body, is exchanged."""
    found: list[int] = []
    stretch: list[int] = []  # rows that can be compared, each with the one before
    exchanged: list[bool] = []
    for (before, last), (row, number) in pairwise([(-1, 0), *track.frames]):
        at_once = track.of_video and number - last <= NEAR_FRAMES
        if before < 0 or not _comparable(body, before, row, at_once, kind):
            found += _exchanged(body, sides, stretch, exchanged, kind)
            stretch, exchanged = [row], [False]
            continue
        reference = sides[before, ::-1] if exchanged[-1] else sides[before]
        exchanged.append(bool(_nearer(sides[row][None], reference[None])[0]))
        stretch.append(row)
    return found + _exchanged(body, sides, stretch, exchanged, kind)


def _exchanged(body: _Bodies, sides: np.ndarray, stretch: list[int], exchanged: list[bool], kind: str) -> list[int]:
    """List the rows of a stretch that are the wrong way round: those that differ from its first frame, or the others.

    Limbs lie on the side that their shoulders and hips are on; eyes that are seen from the front say on which side these are.
    """
    if not any(exchanged):
        return []
    rows, differs = np.array(stretch), np.array(exchanged)
    right_to_left = (sides[rows, 1] - sides[rows, 0])[..., 0]
    ordered = np.nansum(right_to_left, axis=1) / np.maximum((~np.isnan(right_to_left)).sum(1), 1)
    ordered = ordered if kind == "bodies" else ordered * np.sign(body.across[rows])
    frontal = np.abs(body.across[rows]) >= FRONTAL
    change = np.flatnonzero((differs[1:] != differs[:-1]) & frontal[1:] & frontal[:-1])
    # At each change the frame that differs against its neighbour.
    gain = np.mean([(ordered[i + 1] - ordered[i]) * (1 if differs[i + 1] else -1) for i in change]) if len(change) else 0.0
    if abs(gain) <= CLEAR:
        wrong = differs if 2 * differs.sum() <= len(rows) else ~differs
        return rows[wrong].tolist()
    wrong = differs if gain < 0 else ~differs
    return rows[wrong & (ordered < (ordered[wrong].min() + ordered[~wrong].mean()) / 2)].tolist()


def _comparable(body: _Bodies, before: int, row: int, at_once: bool, kind: str) -> bool:
    """Tell whether left and right of two bodies can only differ by mistake."""
    frontal = bool((np.abs(body.across[[before, row]]) >= FRONTAL).all())
    if kind == "bodies":
        return frontal and bool(body.faces[before] and body.faces[row])
    turned = np.linalg.norm(body.view[before] - body.view[row]) > TURNED
    return not turned and (at_once or frontal)


def _nearer(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Tell which pairs (M, 2, J, 2) come much nearer to those before with left and right exchanged, bool (M,)."""
    seen = ~np.isnan(now + now[:, ::-1] + before + before[:, ::-1]).any((1, 3))  # both sides in both frames (M, J)
    kept, exchanged = (
        np.where(seen, np.linalg.norm(pair - before, axis=-1).mean(1), 0).sum(1) / np.maximum(seen.sum(1), 1)
        for pair in (now, now[:, ::-1])
    )  # fmt: skip
    return (exchanged <= MUCH_NEARER * kept) & (kept - exchanged >= LEAST_GAIN)
