"""Names and numbers that every reader of Market's layout takes for the same people."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from generators import Pose, openpose_18
from reid_aug.data.market_names import market_named, reading_notes
from reid_aug.data.people import PersonImage


def shot(path: str, pid: int = 2, camid: int = 0, split: str = "train", pose: Pose | None = None) -> PersonImage:
    return PersonImage(path, pid, camid, split, pose)


def named(*people: PersonImage) -> list[str]:
    return [p.name for p in market_named(people)]


class TestIdentities:
    @pytest.mark.parametrize("split", ["train", "query"])
    def test_nobody_who_is_looked_for_is_background(self, split: str) -> None:
        people = [shot("a.jpg", 0, 0, split), shot("b.jpg", 0, 1, "gallery"), shot("c.jpg", 1), shot("d.jpg", 3)]
        assert [p.pid for p in market_named(people)] == [2, 2, 1, 3]

    def test_background_of_the_gallery_stays_background(self) -> None:
        people = [shot("0000_c1s1_000451_00.jpg", 0, split="gallery"), shot("x.jpg", 0, split="gallery")]
        assert named(*people) == ["0000_c1s1_000451_00.jpg", "0000_c1s1_000001_00.jpg"]

    def test_junk_is_refused(self) -> None:
        with pytest.raises(ValueError, match="people are numbered from 0; leave out junk: a.jpg is of identity -1"):
            market_named([shot("a.jpg", -1)])


class TestCameras:
    @pytest.mark.parametrize(
        ("camids", "expected"),
        [([0, 11], [0, 1]), ([0, 8], [0, 8]), ([5, 10**6, 9], [0, 2, 1]), (list(range(15)), list(range(15)))],
    )
    def test_they_fit_one_digit_where_they_can(self, camids: list[int], expected: list[int]) -> None:
        assert [p.camid for p in market_named([shot(f"{c}.jpg", camid=c) for c in camids])] == expected


class TestNames:
    @pytest.mark.parametrize("name", ["0002_c1s1_000451_03.jpg", "2_c1.jpg", "0002_c1_f0046182.jpg", "0002_c1s1_000451_03_p0.jpg"])
    def test_what_says_it_truly_stays(self, name: str) -> None:
        assert named(shot(f"x/{name}")) == [name]

    @pytest.mark.parametrize("suffix", [".png", ".JPG", ".jpeg", ".bmp"])
    def test_every_name_ends_as_others_list_it(self, suffix: str) -> None:
        assert named(shot(f"0002_c1s1_000451_03{suffix}"), shot(f"anna{suffix}")) == ["0002_c1s1_000451_03.jpg", "0002_c1s1_000001_00.jpg"]

    @pytest.mark.parametrize(
        "name",
        [
            "0003_c1_1.jpg", "0002_c2_1.jpg", "-1_c1.jpg", "anna.jpg", "0002_c01_1.jpg", "0002_c1_a:b.jpg", "0002_c1_\u2028.jpg",
            "0002_c1_\udcff.jpg", f"0002_c1_{'x' * 240}.jpg",
        ],
    )  # fmt: skip
    def test_what_somebody_would_misread_is_named_anew(self, name: str) -> None:
        """Of others identities or cameras, a camera that others read as 0, and what no keypoint file or file system holds."""
        assert named(shot(name)) == ["0002_c1s1_000000_00.jpg"]

    def test_no_two_share_one(self) -> None:
        given = ["a/0002_c1s1_000451_03.jpg", "b/0002_c1s1_000451_03.png", "b/0002_C1s1_000451_03.jpg", "0002_c1s1_000002_00.jpg", "x.jpg"]
        found = named(*map(shot, given))
        assert found == [
            "0002_c1s1_000451_03.jpg", "0002_c1s1_000001_00.jpg", "0002_c1s1_000005_00.jpg", "0002_c1s1_000002_00.jpg",
            "0002_c1s1_000004_00.jpg",
        ]  # fmt: skip

    def test_query_and_gallery_share_names_only_of_one_pose(self) -> None:
        """They share a keypoint file, in which a name has one row."""
        pose = Pose(torch.ones(18, 2), torch.ones(18, dtype=torch.bool), openpose_18, (16, 8))
        query, gallery = (shot(f"{split}/0002_c1s1_000451_03.jpg", split=split, pose=pose) for split in ("query", "gallery"))
        assert named(query, gallery) == ["0002_c1s1_000451_03.jpg"] * 2
        moved = replace(gallery, pose=replace(pose, xy=pose.xy + 1))
        assert named(query, moved) == ["0002_c1s1_000451_03.jpg", "0002_c1s1_000001_00.jpg"]

    def test_named_people_are_named_the_same_again(self) -> None:
        people = market_named([shot("0003_c1_1.jpg", 0), shot("x.png", 2, 30), shot("0002_c2_1.jpg", 3, 30), shot("y", 0, 4, "query")])
        assert market_named(people) == people


class TestNotes:
    def notes(self, *people: PersonImage, pids: tuple[int, ...] = (), folder: str = "out") -> list[str]:
        people = (*people, shot("0007_c1s1_000001_00.jpg", 7, split="query"), shot("0007_c2s1_000001_00.jpg", 7, 1, split="gallery"))
        return reading_notes(people, market_named(people), pids, folder)

    def test_nothing_is_said_of_what_everybody_reads(self) -> None:
        assert self.notes(shot("0002_c1s1_000451_03.jpg"), shot("x.png", 3, 5)) == []

    def test_what_is_numbered_anew(self) -> None:
        assert self.notes(shot("a.jpg", 0), shot("b.jpg", 1, 11)) == [
            "identity 0 is written as 0002: 0 is background in Market's layout",
            "cameras are counted anew, as readers of Market's layout take one digit: camid 11 is c3",
        ]

    def test_who_cannot_read_it(self) -> None:
        fifteen = [shot(f"{c}.jpg", camid=c) for c in range(15)]
        assert self.notes(*fifteen) == [
            "15 cameras don't fit one digit: Market-1501 readers of torchreid, fast-reid and CLIP-ReID take c10 for c1, c11 for c1, "
            "c12 for c1 and 3 more; reid-aug reads them whole",
            "Market-1501 readers of torchreid, fast-reid and CLIP-ReID stop at this dump: they take cameras 1 to 6 (here 7, 8, 9)",
        ]
        (line,) = self.notes(shot("a.jpg", 1400, 7), pids=(1502,))
        assert line.endswith("stop at this dump: they take cameras 1 to 6 (here 8) and identities up to 1501 (here up to 1502)")

    def test_a_folder_without_images(self) -> None:
        (line,) = reading_notes([shot("a.jpg")], market_named([shot("a.jpg")]), (), "out")
        assert line.endswith("stop at this dump: it has no images for query/, bounding_box_test/")

    def test_a_folder_that_looks_like_a_name(self, tmp_path: Path) -> None:
        (line,) = self.notes(shot("a.jpg"), folder=os.fspath(tmp_path / "run_5_c3"))
        assert "take '5_c3' in the folder" in line and line.endswith("give a folder without it")
