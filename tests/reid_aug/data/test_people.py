"""What is done to people wherever they come from: their poses attached."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from generators import Pose, openpose_18
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.left_out import LeftOut
from reid_aug.data.people import PersonImage, attach_poses, keys_of, tell_apart, unnamed


def a_pose(x: float = 1.0) -> Pose:
    return Pose(torch.full((18, 2), x), torch.ones(18, dtype=torch.bool), openpose_18, (128, 64))


def crowd(n: int = 4) -> list[PersonImage]:
    return [PersonImage(f"/d/{i}.jpg", i, 0, "train") for i in range(n)] + [PersonImage("/d/q.jpg", 9, 0, "query")]


@pytest.mark.filterwarnings("ignore:2 of 4 train images have no pose")
def test_poses_attach_by_path_first_then_by_name() -> None:
    poses = {"0.jpg": a_pose(0), "/d/0.jpg": a_pose(7), "1.jpg": a_pose(1), "q.jpg": a_pose(2)}
    out = attach_poses(crowd(), poses)
    assert [p.path for p in out] == [p.path for p in crowd()]
    assert out[0].pose is poses["/d/0.jpg"] and out[1].pose is poses["1.jpg"] and all(p.pose is None for p in out[2:])
    both = attach_poses(out, poses, splits=("query",))
    assert both[4].pose is poses["q.jpg"] and both[0].pose is out[0].pose


def test_poses_that_do_not_fit_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"1 of 4 train images have a pose, at least half must; without one: 3 not named there \(0.jpg, 2.jpg, 3.jpg\)$"
    ):
        attach_poses(crowd(), {"1.jpg": a_pose()})
    with pytest.raises(ValueError, match=r"0 of 6 train and query images .* \(0.jpg, 1.jpg, 2.jpg and 3 more\)"):
        attach_poses(crowd(5), {}, splits=("train", "query"))
    with pytest.raises(ValueError, match="0 of 0 gallery images .* no image at all"):
        attach_poses(crowd(), {}, splits=("gallery",))
    with pytest.raises(ValueError, match=r"got 'querry' \(did you mean 'query'\?\)"):
        attach_poses(crowd(), {}, splits=("querry",))
    with pytest.raises(ValueError, match=r"the pose of one image is \(K, 2\), that of '0.jpg' is \(1, 18, 2\)"):
        attach_poses(crowd(1), {"0.jpg": Pose.stack([a_pose()])})


class TestNames:
    """One rule says which pose is whose: a path, a name, or the end of a path that tells files apart."""

    def cameras(self, root: str = "/set") -> list[PersonImage]:
        return tell_apart([PersonImage(f"{root}/cam_{c}/{i}.png", i, 0, "train") for c in "ab" for i in range(2)])

    def test_any_end_of_a_path_is_a_name(self) -> None:
        people = self.cameras()
        assert [p.name for p in people] == ["cam_a/0.png", "cam_a/1.png", "cam_b/0.png", "cam_b/1.png"]
        known = ["/set/cam_a/0.png", "set/cam_a/1.png", "cam_b/0.png", "other/cam_b/1.png"]
        assert keys_of(people, known) == dict(zip([p.path for p in people[:3]], known[:3], strict=True))

    def test_a_name_of_two_files_is_refused(self) -> None:
        with pytest.raises(
            ValueError, match=r"'0.png' names one image, and 2 files end so, .* name each by more of its path, as 'cam_a/0.png'"
        ):
            keys_of(self.cameras(), ["0.png", "cam_a/1.png", "cam_b/1.png"])
        with pytest.raises(ValueError, match="'cam_a/0.png' names one image, .* as 'set/cam_a/0.png'"):
            keys_of([*self.cameras(), *self.cameras("/other")], ["cam_a/0.png"])
        with pytest.raises(ValueError, match="names one image"):
            attach_poses(self.cameras(), {f"{i}.png": a_pose() for i in range(2)})

    def test_a_photograph_that_lies_in_two_splits_is_one(self, tmp_path: Path) -> None:
        people = [PersonImage(str(tmp_path / split / "0.png"), 0, 0, split) for split in ("query", "gallery")]
        for person in people:
            Path(person.path).parent.mkdir()
            Path(person.path).write_bytes(b"alike")
        assert set(keys_of(people, ["0.png"])) == {p.path for p in people}
        Path(people[1].path).write_bytes(b"other")
        with pytest.raises(ValueError, match="'0.png' names one image, .* as 'query/0.png'"):
            keys_of(people, ["0.png"])

    def test_who_has_no_pose_is_listed_with_the_reason(self) -> None:
        people, poses = crowd(4), {"0.jpg": a_pose(), "1.jpg": a_pose(), "2.JPG": a_pose(), "elsewhere.jpg": a_pose()}
        alike, other = "named otherwise there, in capitals or suffix", "not named there"
        assert unnamed(people, poses) == [LeftOut("2.jpg", alike), LeftOut("3.jpg", other)]
        with pytest.warns(DataDoubt) as caught:
            attach_poses(people, poses)
        line = f"2 of 4 train images have no pose among the keypoints: 1 {alike} (2.jpg); 1 {other} (3.jpg)"
        assert [str(one.message) for one in caught] == [line]


def test_a_name_of_ones_own_is_not_the_end_of_anothers_path() -> None:
    """`0.jpg` beside a folder `cam_a` with another `0.jpg`: the keypoints of the first are not doubtful."""
    people = [PersonImage("/set/0.jpg", 1, 0, "train", alias="0.jpg"), PersonImage("/set/cam_a/0.jpg", 1, 0, "train", alias="cam_a/0.jpg")]
    assert keys_of(people, {"0.jpg"}) == {"/set/0.jpg": "0.jpg"}
    assert keys_of(people, {"0.jpg", "cam_a/0.jpg"}) == {"/set/0.jpg": "0.jpg", "/set/cam_a/0.jpg": "cam_a/0.jpg"}
