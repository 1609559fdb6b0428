"""Keypoints that are hardly meant so: of another scale, with zeros for what is missing, in another order."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from generators import coco_17, openpose_18, upper_7
from reid_aug.data.doubts import Doubt
from reid_aug.data.keypoints import read_columns
from reid_aug.data.pose_doubts import pose_doubts, zeros_are_missing
from reid_aug.rendered import RenderedSet

REAL = os.environ.get("REID_AUG_MARKET_KEYPOINTS")
# A body that faces the camera, y and x as shares of the image, in openpose_18's order.
Y = np.array([14, 26, 26, 44, 60, 26, 44, 60, 64, 90, 116, 64, 90, 116, 11, 11, 13, 13]) / 128
X = np.array([32, 32, 22, 18, 16, 42, 46, 48, 26, 25, 24, 38, 39, 40, 29, 35, 26, 38]) / 64
N = 20
NAMES = [f"{i}.jpg" for i in range(N)]


def bodies(height: float = 128, width: float = 64) -> np.ndarray:
    """Y and x (N, 18, 2) of bodies that differ by a pixel or two."""
    shift = np.random.default_rng(0).integers(-2, 3, (N, 1, 2))
    return np.rint(np.stack([Y * height, X * width], -1) + shift)


def sizes(height: int = 128, width: int = 64) -> np.ndarray:
    return np.tile((height, width), (N, 1))


def kinds(yx: np.ndarray, of: np.ndarray | None = None) -> list[str]:
    return [doubt.kind for doubt in pose_doubts("k.csv", NAMES, yx, sizes() if of is None else of)]


def only(yx: np.ndarray, of: np.ndarray | None = None) -> Doubt:
    (doubt,) = pose_doubts("k.csv", NAMES, yx, sizes() if of is None else of)
    assert str(doubt).startswith("k.csv: ") and len(str(doubt).splitlines()) == 1
    return doubt


def ordered(joints: list[str]) -> np.ndarray:
    return bodies()[:, [openpose_18.index(joint) for joint in joints]]


def test_bodies_that_stand_in_their_images_are_not_doubted(rendered: RenderedSet) -> None:
    assert kinds(bodies()) == []
    assert kinds(bodies(256, 128), sizes(256, 128)) == []
    assert pose_doubts("k.csv", NAMES, bodies()) == []
    nobody = np.full((N, 18, 2), -1.0)
    assert kinds(nobody) == [] and kinds(np.concatenate([bodies()[:10], nobody[:10]])) == []
    for split in ("train", "test"):
        names, yx = read_columns(rendered.root / f"annotation-{split}.csv")
        assert pose_doubts(split, names, yx, np.tile(rendered.config.size, (len(names), 1))) == []


class TestScale:
    several = np.array([(120, 60), (128, 64), (140, 70), (128, 64)] * (N // 4))  # photographs of several sizes

    @pytest.mark.parametrize("of", [sizes(), several], ids=["one size", "several sizes"])
    def test_larger_images(self, of: np.ndarray) -> None:
        doubt = only(bodies(512, 256), of)
        assert doubt.kind == "outside" and doubt.grave and doubt.count == N and doubt.names == tuple(NAMES)
        assert "20 of 20 rows have joints outside" in doubt.text and "wrong size? joints reach to 3.6" in doubt.text

    @pytest.mark.parametrize("of", [sizes(), several], ids=["one size", "several sizes"])
    def test_y_and_x_exchanged(self, of: np.ndarray) -> None:
        doubt = only(bodies()[..., ::-1], of)
        assert doubt.grave and "are y and x exchanged? a row is name:[y, …]:[x, …]" in doubt.text

    def test_y_and_x_exchanged_inside_square_images(self) -> None:
        doubt = only(bodies(128, 128)[..., ::-1], sizes(128, 128))
        assert doubt.kind == "exchanged" and doubt.grave and "20 of 20 bodies lie" in doubt.text

    @pytest.mark.parametrize("digits", [2, 4])
    def test_shares(self, digits: int) -> None:
        doubt = only((bodies() / (128, 64)).round(digits))
        assert doubt.kind == "shares" and doubt.grave and "every joint between 0 and 1" in doubt.text

    def test_a_point(self) -> None:
        doubt = only(bodies() / 100 + 30)
        assert doubt.kind == "point" and doubt.grave and doubt.count == N

    def test_percent(self) -> None:
        assert only(bodies(100, 100)).kind == "outside"
        assert only(bodies(100, 100), sizes(256, 128)).kind == "reach"

    @pytest.mark.parametrize("times", [0.25, 0.5, 0.7])
    def test_smaller_images(self, times: float) -> None:
        doubt = only(np.rint(bodies() * times))
        assert doubt.kind == "reach" and not doubt.grave and "keypoints of smaller images?" in doubt.text

    def test_only_some_rows(self) -> None:
        large, small = bodies(), bodies()
        large[3] *= 4
        small[:2] = small[:2] / 20 + 40
        assert only(large).names == ("3.jpg",) and not only(large).grave and "1 of 20 rows have joints outside" in only(large).text
        assert (only(small).kind, only(small).count, only(small).grave) == ("small", 2, False)

    def test_of_the_rows_with_joints_most_must_be_inside(self) -> None:
        yx = np.full((N, 18, 2), -1.0)
        yx[:6] = bodies(512, 256)[:6]  # the others are of nobody
        assert only(yx).grave and "6 of 6 rows" in only(yx).text

    def test_moved_beyond_the_edge(self) -> None:
        doubt = only(np.where(bodies() - (16, 0) > -1, bodies() - (16, 0), -3))
        assert doubt.kind == "beyond" and "negative coordinates other than -1" in doubt.text

    def test_upside_down(self) -> None:
        assert only((127, 0) + bodies() * (-1, 1)).kind == "turned"

    def test_a_few_that_lie_are_people(self) -> None:
        yx = bodies()
        yx[:2] = np.stack([X * 60, Y * 60], -1) + 20
        assert kinds(yx, sizes(128, 128)) == kinds(bodies(), sizes(128, 128)) and "turned" not in kinds(yx, sizes(128, 128))

    def test_other_skeletons(self) -> None:
        yx = np.random.default_rng(0).uniform(0, 60, (N, 7, 2))
        assert pose_doubts("k", NAMES, yx, sizes(64, 64), upper_7) == []
        (doubt,) = pose_doubts("k", NAMES, yx * 4, sizes(64, 64), upper_7)
        assert doubt.kind == "outside" and doubt.grave


COCO = list(coco_17.joints)
SWAPPED = [joint.replace("r_", "?_").replace("l_", "r_").replace("?_", "l_") for joint in openpose_18.joints]
ENDS_FIRST = "nose neck r_wrist r_elbow r_shoulder l_wrist l_elbow l_shoulder r_ankle r_knee r_hip l_ankle l_knee l_hip"
MPII = "r_ankle r_knee r_hip l_hip l_knee l_ankle neck nose r_wrist r_elbow r_shoulder l_shoulder l_elbow l_wrist"
FACE = ["r_eye", "l_eye", "r_ear", "l_ear"]
ORDERS = {
    "COCO, neck last": [*COCO, "neck"],
    "neck, then COCO": ["neck", *COCO],
    "neck before nose": ["neck", "nose", *openpose_18.joints[2:]],
    "neck last": ["nose", *openpose_18.joints[2:], "neck"],
    "limbs from their ends": [*ENDS_FIRST.split(), *FACE],
    "MPII": [*MPII.split(), *FACE],
}


class TestOrder:
    @pytest.mark.parametrize("name", ORDERS)
    def test_other_orders(self, name: str) -> None:
        for of in (sizes(), None):  # a list of pairs is made without knowing sizes
            doubts = pose_doubts("k.csv", NAMES, ordered(ORDERS[name]), of)
            (doubt,) = [doubt for doubt in doubts if doubt.kind in ("order", "turned")]
            assert doubt.count == N and not doubt.grave
            assert doubt.kind == "turned" or f"joints in another order? it is {' '.join(openpose_18.joints)}" in doubt.text

    def test_coco_with_the_neck_last_is_told_by_its_necks(self) -> None:
        assert "necks lie between no shoulders in 20 of 20 rows" in only(ordered(ORDERS["COCO, neck last"])).text

    def test_left_and_right(self) -> None:
        doubt = only(ordered(SWAPPED))
        assert doubt.kind == "mirrored" and "right shoulders lie right of left ones in 20 of 20 rows with a face" in doubt.text
        backs = ordered(SWAPPED)
        backs[:, [openpose_18.index(joint) for joint in ("nose", "r_eye", "l_eye")]] = -1
        assert kinds(backs) == []

    def test_a_neck_in_twenty_may_be_wrong(self) -> None:
        yx = bodies()
        yx[0, openpose_18.index("neck")] += 30
        assert kinds(yx) == []


class TestMarks:
    def test_two_zeros_in_a_row_are_missing(self) -> None:
        yx = bodies()
        yx[1::2] = 0
        yx[0, 16] = 0  # in a file that has zeros for missing, one is missing too
        with_marks, (doubt,) = zeros_are_missing("k.csv", NAMES, yx)
        assert (with_marks[1::2] == -1).all() and (with_marks[0, 16] == -1).all() and np.array_equal(with_marks[2::2], yx[2::2])
        assert doubt.kind == "zeros" and doubt.count == 11 and "(0, 0) is taken for missing, 181 joints in 11 of 20 rows" in str(doubt)

    def test_a_corner_is_a_corner(self) -> None:
        yx = bodies()
        yx[0, 16] = 0
        yx[1, :, 0] = 0  # an edge
        assert zeros_are_missing("k.csv", NAMES, yx)[1] == [] and zeros_are_missing("k.csv", NAMES, yx)[0] is yx
        yx[1:3, 17] = 0
        assert zeros_are_missing("k.csv", NAMES, yx)[1][0].count == 3  # of twenty rows no three end in the corner

    def test_any_other_mark(self) -> None:
        yx = bodies()
        yx[:4, 8:14] = (64, 32)
        (doubt,) = [doubt for doubt in pose_doubts("k.csv", NAMES, yx, sizes()) if doubt.kind == "place"]
        assert doubt.count == 4 and "5 joints or more in one place" in doubt.text


@pytest.mark.skipif(not REAL, reason="REID_AUG_MARKET_KEYPOINTS names the folder of the published Market-1501 keypoints")
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_published_files_are_not_doubted(split: str) -> None:
    names, yx = read_columns(Path(REAL or "") / f"market-annotation-{split}.csv")
    of = np.tile((128, 64), (len(names), 1))
    assert pose_doubts("k", names, yx, of) == [] and zeros_are_missing("k", names, yx)[1] == []


@pytest.mark.parametrize("change", [lambda yx: yx, lambda yx: yx * 4, lambda yx: yx[..., ::-1], lambda yx: yx[:0], lambda yx: yx * 0 - 1])
def test_any_number_of_rows(change: Callable[[np.ndarray], np.ndarray]) -> None:
    for count in (0, 1, 2):
        yx = change(bodies()[:count])
        pose_doubts("k", NAMES[: len(yx)], yx, sizes()[: len(yx)])
        zeros_are_missing("k", NAMES[: len(yx)], yx)
