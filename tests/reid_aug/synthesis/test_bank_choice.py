"""Which poses a bank takes: each rule by a body that just keeps it, and one that breaks it."""

from __future__ import annotations

import pytest
import torch

from generators import Pose, coco_17, convert, openpose_18
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank_choice import choose

# A torso of 40 px, from the middle of the shoulders at y = 30 to that of the hips at y = 70, in a 128 × 64 image.
BODY = {
    "nose": (32, 16), "neck": (32, 30), "r_shoulder": (22, 30), "r_elbow": (18, 48), "r_wrist": (16, 66), "l_shoulder": (42, 30),
    "l_elbow": (46, 48), "l_wrist": (48, 66), "r_hip": (26, 70), "r_knee": (26, 94), "r_ankle": (26, 118), "l_hip": (38, 70),
    "l_knee": (38, 94), "l_ankle": (38, 118),
}  # fmt: skip


def person(name: str, size: tuple[int, int] = (128, 64), without: int | str = "", **moved: tuple[float, float]) -> PersonImage:
    """A body with some joints moved, or without: one by name, or all but so many, torso first."""
    xy, seen = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
    joints = {**BODY, **moved}
    kept = ["r_shoulder", "l_shoulder", "r_hip", "l_hip", *(joint for joint in joints if not joint.endswith(("shoulder", "hip")))]
    for joint in kept[:without] if isinstance(without, int) else [joint for joint in kept if joint != without]:
        xy[openpose_18.index(joint)], seen[openpose_18.index(joint)] = torch.tensor(joints[joint]), True
    return PersonImage(name, 1, 0, "train", Pose(xy, seen, openpose_18, size))


@pytest.mark.parametrize(
    ("good", "bad", "why"),
    [
        (person("a"), PersonImage("b", 1, 0, "train"), "without a joint"),
        (person("a", without="r_knee"), person("b", without="r_hip"), "without both shoulders and both hips"),
        (person("a", without=10), person("b", without=9), "with fewer than 10 joints"),
        (person("a", r_wrist=(-0.5, 66)), person("b", r_wrist=(-0.6, 66)), "with a joint outside the image"),
        (person("a", l_ankle=(38, 127.4)), person("b", l_ankle=(38, 127.6)), "with a joint outside the image"),
        (person("a", (1100, 300)), person("b", (1200, 400)), "that span less than 9 % of their image's height and width"),  # 102 × 32 px
        (person("a"), person("b", r_hip=(26, 20), l_hip=(38, 20)), "with hips above the shoulders"),
        (person("a", r_elbow=(22, 72.5)), person("b", r_elbow=(22, 73)), "with upper arm longer than 1.07 torsos"),  # 42.6 px
        (person("a", l_wrist=(46, 81.3)), person("b", l_wrist=(46, 81.6)), "with forearm longer than 0.84 torsos"),  # 33.5 px
        (person("a", r_knee=(26, 14), r_ankle=(26, 40)), person("b", r_knee=(26, 13.8), r_ankle=(26, 40)),
         "with thigh longer than 1.40 torsos"),  # 56.1 px
        (person("a", l_ankle=(38, 38)), person("b", l_ankle=(38, 37.5)), "with shank longer than 1.41 torsos"),  # 56.4 px
        (person("a", r_shoulder=(2.4, 30), l_shoulder=(61.6, 30)), person("b", r_shoulder=(2, 30), l_shoulder=(62, 30)),
         "with shoulders longer than 1.48 torsos"),
        (person("a", r_hip=(10.2, 70), l_hip=(53.8, 70)), person("b", r_hip=(9.8, 70), l_hip=(54.2, 70)),
         "with hips longer than 1.09 torsos"),
    ],
)  # fmt: skip
def test_each_rule(good: PersonImage, bad: PersonImage, why: str) -> None:
    choice = choose([good, bad, person("c")])
    assert choice.dropped == {why: ("b",)} and [p.name for p in choice.kept] == ["a", "c"]
    assert choice.counts == {why: 1}
    assert choice.summary() == ["kept       2 of 3 poses", f"dropped    1 {why}: b"]


def test_who_breaks_several_is_counted_once_and_skeletons_are_judged_each() -> None:
    broken = person("b", without=9, r_wrist=(-5, 66))
    on_coco = person("d", r_wrist=(-5, 66))
    assert on_coco.pose is not None
    coco = PersonImage("d", 1, 0, "train", convert(on_coco.pose, coco_17))
    choice = choose([person("a"), broken, coco])
    assert choice.counts == {"with fewer than 10 joints": 1, "with a joint outside the image": 1}


def test_another_number_of_joints() -> None:
    six = person("a", without=6)
    assert choose([six], 6).counts == {} and choose([six], 7).counts == {"with fewer than 7 joints": 1}
    for number in (0, 19):
        with pytest.raises(ValueError, match=rf"in 1\.\.18, which openpose_18 has, got {number}"):
            choose([person("a")], number)
