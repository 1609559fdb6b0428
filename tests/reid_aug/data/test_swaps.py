"""Left and right that change places from frame to frame, in tracks that are made for it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from generators import openpose_18, upper_7
from reid_aug import cli
from reid_aug.data.keypoints import read_columns
from reid_aug.data.swaps import swap_doubts
from reid_aug.rendered import RenderedSet

# A body that faces the camera, y and x in openpose_18's order, in a 128 × 64 image; its torso is 38 px long.
Y = np.array([14, 26, 26, 44, 60, 26, 44, 60, 64, 90, 116, 64, 90, 116, 11, 11, 13, 13], float)
X = np.array([32, 32, 18, 14, 12, 46, 50, 52, 24, 23, 22, 40, 41, 42, 29, 35, 26, 38], float)
LEGS, ARMS = ("knee", "ankle"), ("elbow", "wrist")


def market(n: int, pid: int = 1, step: int = 25) -> list[str]:
    return [f"{pid:04d}_c1s1_{100 + step * i:06d}_00.jpg" for i in range(n)]


def track(n: int = 6, seed: int = 0) -> np.ndarray:
    """Frames of somebody who stands about: y and x (n, 18, 2)."""
    return np.stack([Y, X], -1) + np.random.default_rng(seed).normal(0, 1, (n, 18, 2))


def exchanged(yx: np.ndarray, rows: list[int], joints: tuple[str, ...]) -> np.ndarray:
    out = yx.copy()
    for joint in joints:
        r, left = (openpose_18.index(f"{side}_{joint}") for side in "rl")
        out[rows, r], out[rows, left] = yx[rows, left], yx[rows, r]
    return out


def flagged(names: list[str], yx: np.ndarray) -> list[str]:
    doubts = swap_doubts("k.csv", names, yx)
    return [] if not doubts else list(doubts[0].names)


@pytest.mark.parametrize("rows", [[2], [2, 3], [0], [5], [0, 1], [0, 1, 2, 3, 4, 5][3:]])
@pytest.mark.parametrize(("joints", "kind"), [(LEGS, "legs"), (ARMS, "arms")])
def test_limbs_that_are_taken_for_each_other(rows: list[int], joints: tuple[str, ...], kind: str) -> None:
    names = market(6)
    (doubt,) = swap_doubts("k.csv", names, exchanged(track(), rows, joints))
    assert doubt.names == tuple(names[i] for i in rows) and not doubt.grave and doubt.count == len(rows)
    text = f"left and right change places from one frame of a track to the next: {kind} in {len(rows)} of 6 frames"
    assert doubt.kind == "swapped" and doubt.text == f"k.csv: {text}"


def test_rows_come_in_any_order_and_tracks_are_each_their_own() -> None:
    names, yx = market(6) + market(6, pid=2) + ["0003_c1s1_000001_00.jpg", "x.jpg"], np.concatenate([track(), track(6, 1), track(2, 2)])
    yx = exchanged(yx, [4, 7], LEGS)
    order = np.random.default_rng(0).permutation(len(names))
    assert sorted(flagged([names[i] for i in order], yx[order])) == [names[4], names[7]]
    assert flagged(names, track(14)) == []


def test_a_whole_body_whose_face_did_not_turn() -> None:
    body = ("shoulder", "hip", *LEGS, *ARMS)
    names = market(6)
    (doubt,) = swap_doubts("k.csv", names, exchanged(track(), [3, 4], body))
    assert doubt.names == (names[3], names[4]) and "bodies in 2 of 6 frames" in doubt.text


def test_somebody_who_turns_is_not_doubted() -> None:
    """Half of the frames from behind: all joints change sides, eyes and ears with them, or faces are not seen at all."""
    body, face = ("shoulder", "hip", *LEGS, *ARMS), ("eye", "ear")
    yx = exchanged(track(), [3, 4, 5], (*body, *face))
    assert flagged(market(6), yx) == []
    hidden = exchanged(track(), [3, 4, 5], body)
    hidden[3:, [0, 14, 15, 16, 17]] = -1
    assert flagged(market(6), hidden) == []


class TestSideViews:
    def walk(self, steps: list[float]) -> np.ndarray:
        """Somebody who walks to the right, legs apart by so many pixels, the right one ahead of it by a positive number."""
        yx = track(len(steps))
        for joint, at in {"r_shoulder": 31, "l_shoulder": 33, "r_hip": 31, "l_hip": 33, "nose": 42, "r_eye": 41, "l_eye": 42}.items():
            yx[:, openpose_18.index(joint), 1] = at
        for side, sign in (("r", 1), ("l", -1)):
            for joint, share in (("knee", 0.5), ("ankle", 1)):
                yx[:, openpose_18.index(f"{side}_{joint}"), 1] = 32 + sign * share * np.array(steps)
        return yx

    def test_legs_pass_each_other_between_photographs(self) -> None:
        assert flagged(market(4), self.walk([14, -14, 14, -14])) == []

    def test_but_not_within_a_few_frames_of_a_video(self) -> None:
        names = [f"dance_{i:03d}.png" for i in range(7)]
        assert flagged(names, self.walk([14, 13, 12, -11, 10, 9, 8])) == [names[3]]
        assert flagged([f"0001C1T0001F{i:03d}.jpg" for i in range(7)], self.walk([14, 13, 12, -11, 10, 9, 8])) == ["0001C1T0001F003.jpg"]
        assert flagged(names, self.walk([14, 9, 4, -1, -6, -11, -14])) == []
        assert flagged([f"dance_{10 * i:03d}.png" for i in range(7)], self.walk([14, 13, 12, -11, 10, 9, 8])) == []  # frames too far apart


@pytest.mark.parametrize("missing", [["r_hip"], ["l_knee", "r_ankle"], [*openpose_18.joints]])
def test_what_is_not_seen_tells_nothing(missing: list[str]) -> None:
    yx = exchanged(track(), [2], LEGS)
    yx[2, [openpose_18.index(joint) for joint in missing]] = -1
    assert flagged(market(6), yx) == []


def test_small_differences_and_other_skeletons() -> None:
    yx = track()
    yx[:, [9, 10, 12, 13], 1] = 32 + np.random.default_rng(1).normal(0, 2, (6, 4))  # feet together
    assert flagged(market(6), yx) == [] and swap_doubts("k", market(6), np.zeros((6, 7, 2)), upper_7) == []
    assert swap_doubts("k", [], np.zeros((0, 18, 2))) == [] == swap_doubts("k", ["a"], track(1)) == swap_doubts("k", market(1), track(1))


def test_rendered_people_are_not_doubted(rendered: RenderedSet) -> None:
    for split in ("train", "test"):
        assert swap_doubts(split, *read_columns(rendered.root / f"annotation-{split}.csv")) == []


def test_inspect_and_poses_say_so(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Somebody stands before the camera in the images of one track, whose legs are exchanged in one."""
    lines = (folder / "annotation-train.csv").read_text().splitlines()
    first = sorted((folder / "bounding_box_train").iterdir())[0].read_bytes()
    names = [f"0001_c1s1_{i:06d}_00.jpg" for i in range(900, 904)]
    yx = exchanged(np.round(track(4) / 4, 2), [2], LEGS)
    for name, row in zip(names, yx, strict=True):
        (folder / "bounding_box_train" / name).write_bytes(first)
        lines.append(f"{name}: {row[:, 0].tolist()}: {row[:, 1].tolist()}")
    (folder / "annotation-train.csv").write_text("\n".join(lines) + "\n")
    assert cli.main(["inspect", str(folder), "--sheet", str(tmp_path / "sheet.png")]) == 1
    says = rf"left and right change places from one frame of a track to the next: legs in 1 of \d+ frames \({names[2]}\)"
    assert re.search(f"doubt      train: {says}", capsys.readouterr().out)
    ask = ["poses", str(folder), "--from", str(folder / "annotation-train.csv"), "--out", str(tmp_path / "k.csv")]
    assert cli.main(ask) == 0
    assert re.search(f"doubt: {says}", capsys.readouterr().out)
