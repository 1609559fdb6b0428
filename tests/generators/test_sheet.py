from __future__ import annotations

import numpy as np
import pytest
import torch
from generator_helpers import MakePair, MakePose
from PIL import Image

from generators import Pose
from generators.pose import SKELETONS, mirror, openpose_18
from generators.sheet import LEFT, MIDDLE, RIGHT, pose_picture, sample_sheet, to_image


def standing(joints: dict[str, tuple[float, float]], size: tuple[int, int] = (60, 40)) -> Pose:
    xy, visible = torch.zeros(18, 2), torch.zeros(18, dtype=torch.bool)
    for name, point in joints.items():
        k = openpose_18.index(name)
        xy[k], visible[k] = torch.tensor(point), True
    return Pose(xy, visible, openpose_18, size)


def colours(image: Image.Image) -> set[tuple[int, ...]]:
    return {tuple(pixel) for pixel in np.asarray(image).reshape(-1, 3).tolist()}


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    return tuple(np.asarray(image)[y, x].tolist())


def test_right_is_warm_left_is_cold_and_the_trunk_neither() -> None:
    pose = standing({
        "r_shoulder": (8, 10), "r_elbow": (8, 30), "l_shoulder": (30, 10), "l_elbow": (30, 30), "neck": (19, 28), "nose": (19, 8),
    })  # fmt: skip
    picture = pose_picture(pose)
    assert picture.size == (40, 60) and picture.mode == "RGB"
    assert pixel(picture, 8, 20) == RIGHT and pixel(picture, 30, 20) == LEFT
    assert colours(picture) == {(0, 0, 0), (255, 255, 255), RIGHT, LEFT, MIDDLE}
    assert RIGHT[0] > RIGHT[2] and LEFT[2] > LEFT[0]


def test_a_mirrored_pose_is_drawn_in_the_other_colours() -> None:
    arm = standing({"r_elbow": (8, 10), "r_wrist": (8, 30)})
    assert RIGHT in colours(pose_picture(arm)) and LEFT not in colours(pose_picture(arm))
    other = pose_picture(mirror(arm))
    assert LEFT in colours(other) and RIGHT not in colours(other)
    assert pixel(other, 31, 20) == LEFT


def test_lines_that_cross_the_middle_are_of_the_middle() -> None:
    """coco_17 joins shoulder with shoulder and hip with hip: neither side's."""
    coco = SKELETONS["coco_17"]
    xy, visible = torch.zeros(17, 2), torch.zeros(17, dtype=torch.bool)
    for name, point in {"l_shoulder": (5.0, 8.0), "r_shoulder": (30.0, 8.0)}.items():
        xy[coco.index(name)], visible[coco.index(name)] = torch.tensor(point), True
    assert pixel(pose_picture(Pose(xy, visible, coco, (60, 40))), 17, 8) == MIDDLE


def test_missing_joints_and_their_lines_are_not_drawn() -> None:
    assert colours(pose_picture(standing({}))) == {(0, 0, 0)}
    lone = pose_picture(standing({"r_wrist": (20, 30)}))
    assert colours(lone) == {(0, 0, 0), (255, 255, 255)} and pixel(lone, 20, 30) == (255, 255, 255)
    rows, columns = np.asarray(lone).any(-1).nonzero()
    assert abs(rows.mean() - 30) < 1 and abs(columns.mean() - 20) < 1 and len(rows) < 30


@pytest.mark.parametrize("scale", [1, 2, 5])
def test_scale_draws_larger(scale: int) -> None:
    picture = pose_picture(standing({"r_elbow": (10, 10), "r_wrist": (10, 40)}), scale=scale)
    assert picture.size == (40 * scale, 60 * scale)
    assert pixel(picture, int(10.5 * scale), int(25.5 * scale)) == RIGHT


def test_a_background_is_copied_and_stays_under_the_pose() -> None:
    background = Image.new("RGB", (40, 60), (10, 20, 30))
    picture = pose_picture(standing({"r_elbow": (10, 10), "r_wrist": (10, 40)}), background)
    assert colours(background) == {(10, 20, 30)} and colours(picture) == {(10, 20, 30), RIGHT, (255, 255, 255)}


@pytest.mark.parametrize("skeleton", SKELETONS.values(), ids=SKELETONS)
def test_every_skeleton_draws(skeleton: object, a_pose: MakePose) -> None:
    assert len(colours(pose_picture(a_pose(0, (), skeleton, (60, 40))))) == 5


def test_to_image_takes_minus_one_to_black_and_one_to_white() -> None:
    values = torch.tensor([-1.0, 0.0, 1.0, -7.0, 7.0, 0.5])
    picture = np.asarray(to_image(values.expand(3, 2, 6)))
    assert picture.shape == (2, 6, 3) and picture[1, :, 2].tolist() == [0, 128, 255, 0, 255, 191]
    red = torch.full((3, 2, 2), -1.0, dtype=torch.float64).requires_grad_()
    red = torch.cat((red[:1] + 2, red[1:]))
    assert colours(to_image(red)) == {(255, 0, 0)}
    assert colours(to_image(red.to(torch.bfloat16))) == {(255, 0, 0)}


def test_every_byte_survives_the_way_to_an_image() -> None:
    levels = torch.arange(256, dtype=torch.float32)
    assert np.asarray(to_image((levels / 127.5 - 1).expand(3, 1, 256)))[0, :, 0].tolist() == list(range(256))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("gap_px", [0, 4])
def test_a_sheet_is_a_row_a_pair_of_source_pose_result_truth(rows: int, gap_px: int, a_pair: MakePair) -> None:
    pair = a_pair(batch=rows, size=(32, 16), missing=0.3)
    result = torch.rand(rows, 3, 32, 16) * 2 - 1
    sheet = np.asarray(sample_sheet(pair, result, gap_px))
    assert sheet.shape == (rows * (32 + gap_px) + gap_px, 4 * (16 + gap_px) + gap_px, 3)
    covered = np.zeros(sheet.shape[:2], dtype=bool)
    for row in range(rows):
        cells = [to_image(pair.source[row]), pose_picture(pair.target_pose[row]), to_image(result[row]), to_image(pair.target[row])]
        for column, cell in enumerate(cells):
            top, left = gap_px + row * (32 + gap_px), gap_px + column * (16 + gap_px)
            assert np.array_equal(sheet[top : top + 32, left : left + 16], np.asarray(cell)), (row, column)
            covered[top : top + 32, left : left + 16] = True
    assert (sheet[~covered] == 32).all(), "between the cells there is one grey"
