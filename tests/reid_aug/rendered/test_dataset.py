"""The embedded data set: what is drawn, where its truth lies, and what stands on disk."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from generators.pose import openpose_18
from reid_aug.rendered import dataset as rendered
from reid_aug.rendered.dataset import RenderedConfig, contact_sheet, read_rendered, render, write_rendered
from reid_aug.rendered.figure import BodyPose
from reid_aug.rendered.person import Identity
from reid_aug.rendered.scenes import CAMERAS

cv2 = pytest.importorskip("cv2")
FACE = [0, 14, 15, 16, 17]
SMALL = RenderedConfig(train_identities=5, test_identities=4, train_images=6, query_images=2, gallery_images=4, seed=3)
QUIET = replace(CAMERAS[0], blur_px=0.0, noise=0.0, jitter=0.0, jpeg_quality=100)
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_rendered(tmp_path_factory.mktemp("rendered") / "set", SMALL)


def joint(image, name):
    return image.pose.xy[openpose_18.index(name)].numpy()


def hashes(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def annotations(root: Path, split: str) -> dict[str, np.ndarray]:
    head, *lines = (root / f"annotation-{split}.csv").read_text().splitlines()
    assert head == "name:keypoints_y:keypoints_x"
    split_lines = [line.split(":") for line in lines]
    return {name: np.stack([ast.literal_eval(x.strip()), ast.literal_eval(y.strip())], 1) for name, y, x in split_lines}


def away(yaw: float, home: float) -> float:
    """Angle between two directions, 0 to 180 degrees."""
    return abs((yaw - home + 180) % 360 - 180)


# ------------------------------------------------------------------------------------------------- one drawing


@pytest.mark.parametrize("size", [(64, 32), (128, 64), (256, 128), (160, 60)])
def test_the_shapes_follow_the_size(size):
    image = render(Identity.draw(1), BodyPose.draw(np.random.default_rng(0)), CAMERAS[1], size=size, seed=2)
    assert image.image.shape == (*size, 3) and image.image.dtype == np.uint8
    assert image.body_mask.shape == size and image.limb_masks.shape == (len(openpose_18.limbs), *size)
    assert image.pose.size == size and image.pose.skeleton is openpose_18 and image.occluded.shape == (18,)


@settings(max_examples=25, deadline=None)
@example(who=0, draw=1469, camera=1)  # a shoulder three pixels off what of the shoulders is seen
@given(who=st.integers(0, 10_000), draw=st.integers(0, 10_000), camera=st.integers(0, 5))
def test_joints_lie_in_their_limbs_and_limbs_in_the_body(who, draw, camera):
    pose = BodyPose.draw(np.random.default_rng(draw))
    image = render(Identity.draw(who), pose, replace(CAMERAS[camera], jitter=0.0), seed=draw)
    assert 0.1 < image.body_mask.mean() < 0.6
    for limb, mask in zip(openpose_18.limbs, image.limb_masks, strict=True):
        assert mask.any()
        assert (mask & image.body_mask).sum() >= 0.85 * mask.sum()  # thin ends fall to the averaging
        near = cv2.dilate(mask.astype(np.uint8), np.ones((7, 7))).astype(bool)
        for k in limb:
            if image.pose.visible[k]:
                x, y = image.pose.xy[k].round().int().tolist()
                assert near[y, x], (openpose_18.joints[k], pose)


@settings(max_examples=20, deadline=None)
@given(who=st.integers(0, 10_000), draw=st.integers(0, 10_000))
def test_the_same_arguments_give_the_same_bytes(who, draw):
    pose = BodyPose.draw(np.random.default_rng(draw))
    assert pose == BodyPose.draw(np.random.default_rng(draw)) and Identity.draw(who) == Identity.draw(who)
    a, b, c = (render(Identity.draw(who), pose, CAMERAS[2], size=(64, 32), seed=s).image for s in (draw, draw, draw + 1))
    assert (a == b).all() and (a != c).any()


@pytest.mark.parametrize("who", range(4))
def test_left_and_right_follow_the_yaw(who):
    facing, away_, right, left = (render(Identity.draw(who), BodyPose(yaw_deg=yaw), QUIET) for yaw in (0, 180, 90, 270))
    assert joint(facing, "r_shoulder")[0] < joint(facing, "l_shoulder")[0] - 8
    assert joint(away_, "r_shoulder")[0] > joint(away_, "l_shoulder")[0] + 8
    assert joint(right, "nose")[0] > joint(right, "neck")[0] + 3
    assert joint(left, "nose")[0] < joint(left, "neck")[0] - 3
    assert joint(facing, "nose")[1] < joint(facing, "neck")[1] < joint(facing, "r_hip")[1] < joint(facing, "r_ankle")[1]


@pytest.mark.parametrize("who", range(4))
def test_a_face_is_hidden_from_behind_and_half_hidden_from_the_side(who):
    facing, behind, right = (render(Identity.draw(who), BodyPose(yaw_deg=yaw), QUIET) for yaw in (0, 180, 90))
    assert not facing.occluded[FACE].any() and behind.occluded[FACE].all()
    assert [openpose_18.joints[k] for k in FACE if right.occluded[k]] == ["l_eye", "l_ear"]
    assert right.occluded[openpose_18.index("l_hip")]


def test_the_figure_stands_on_the_ground_and_fills_the_crop():
    image = render(Identity.draw(5), BodyPose(), QUIET)
    rows = np.flatnonzero(image.body_mask.any(1))
    assert rows[0] < 10 and rows[-1] > 118
    assert abs(joint(image, "r_ankle")[1] - joint(image, "l_ankle")[1]) < 1


def test_a_print_is_on_one_side_only():
    who = replace(Identity.draw(0), top=(232, 232, 228), pattern="plain", jacket_open=False, bag="none", hair_style="short")
    plain = replace(who, chest_print="none", back_print="none")
    printed = replace(plain, chest_print="disc", print_colour=(168, 40, 44))
    for yaw, differs in ((0, True), (180, False)):
        a, b = (render(w, BodyPose(yaw_deg=yaw), QUIET).image.astype(int) for w in (plain, printed))
        assert (abs(a - b).max() > 80) == differs


def test_every_two_people_differ_even_where_they_share_colours():
    images = [render(Identity.draw(i), BodyPose(yaw_deg=20), QUIET, size=(64, 32)).image.astype(float) for i in range(40)]
    tops = [Identity.draw(i).top for i in range(40)]
    assert len(set(tops)) < 10
    assert min(abs(a - b).mean() for i, a in enumerate(images) for b in images[:i]) > 1.5


def test_contact_sheet():
    sheet = contact_sheet([np.full((4, 2, 3), i, np.uint8) for i in range(3)], columns=2)
    assert sheet.shape == (10, 6, 3) and sheet[0, 4, 0] == 1 and sheet[6, 0, 0] == 2 and sheet[9, 5, 0] == 255


# ----------------------------------------------------------------------------------------------------- on disk


def test_layout_names_and_annotations(small):
    for folder, split, count in zip(FOLDERS, ("train", "test", "test"), (30, 8, 16), strict=True):
        names = sorted(p.name for p in (small.root / folder).iterdir())
        known = annotations(small.root, split)
        assert len(names) == count and set(names) <= set(known)
        assert all(re.fullmatch(r"\d{4}_c[1-6]s1_\d{6}_00\.jpg", name) for name in names)
    assert len(annotations(small.root, "test")) == 24
    pids = {folder: {p.name[:4] for p in (small.root / folder).iterdir()} for folder in FOLDERS}
    assert pids["query"] == pids["bounding_box_test"] and not pids["query"] & pids["bounding_box_train"]
    assert all(int(name[6]) == row.camera + 1 for name, row in small.rows.items())
    people = {row.folder == "bounding_box_train": set() for row in small.rows.values()}
    for row in small.rows.values():
        people[row.folder == "bounding_box_train"].add(row.identity)
    assert not people[True] & people[False]


def test_annotations_are_the_truth_rounded(small):
    for split in ("train", "test"):
        for name, xy in list(annotations(small.root, split).items())[::5]:
            truth = small.truth(name)
            known = truth.pose.visible.numpy().copy()
            known[FACE] &= ~truth.occluded[FACE]
            assert ((xy >= 0).all(1) == known).all() and (xy[~known] == -1).all()
            assert abs(xy - truth.pose.xy.numpy())[known].max() <= 0.51


def test_truth_is_the_file(small):
    for name, row in list(small.rows.items())[::7]:
        file = cv2.imread(str(small.root / row.folder / name))[..., ::-1]
        assert (small.truth(name).image == file).all()


def test_every_query_has_gallery_images_of_other_cameras(small):
    gallery = [n for n, row in small.rows.items() if row.folder == "bounding_box_test"]
    for name, row in small.rows.items():
        if row.folder == "query":
            assert any(g[:4] == name[:4] and g[6] != name[6] for g in gallery)


@pytest.mark.parametrize("sector, offset", [(25.0, (90.0, 270.0)), (10.0, (150.0, 210.0))])
def test_home_sectors(tmp_path, sector, offset):
    config = replace(SMALL, train_identities=12, sector_deg=sector, query_offset_deg=offset, size=(32, 16))
    views: dict[tuple[str, str], list[float]] = {}
    for name, row in write_rendered(tmp_path / "set", config).rows.items():
        views.setdefault((row.folder, name[:4]), []).append(row.pose.yaw_deg)
    train = [v for (folder, _), v in views.items() if folder == FOLDERS[0]]
    assert all(away(a, b) <= 2 * sector for v in train for a in v for b in v)
    assert {int(y // 60) for v in train for y in v} == set(range(6))  # together they see every side
    for (folder, pid), yaws in views.items():
        if folder == "query":
            gallery = views["bounding_box_test", pid]
            assert all(away(q, g) >= offset[0] - 2 * sector - 1e-6 for q in yaws for g in gallery)
            assert all(away(q, g) > 0 for q in yaws for g in gallery)


def test_writing_twice_gives_the_same_bytes_and_once_more_nothing(tmp_path, small):
    again = write_rendered(tmp_path / "again", SMALL)
    assert hashes(again.root) == hashes(small.root)
    stamp = (again.root / "annotation-train.csv").stat().st_mtime_ns
    assert write_rendered(again.root, SMALL).rows == again.rows
    assert (again.root / "annotation-train.csv").stat().st_mtime_ns == stamp
    assert hashes(write_rendered(tmp_path / "other", replace(SMALL, seed=4)).root) != hashes(small.root)


def test_reading_gives_back_what_was_written(small):
    found = read_rendered(small.root)
    assert found.config == small.config and found.rows == small.rows and found.root == small.root


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = iter(range(100))
    line = rendered._csv_line

    def fails(*args):
        if next(calls) == 5:
            raise OSError("disk full")
        return line(*args)

    monkeypatch.setattr(rendered, "_csv_line", fails)
    threads = cv2.getNumThreads()
    with pytest.raises(OSError, match="disk full"):
        write_rendered(tmp_path / "set", SMALL)
    assert list(tmp_path.iterdir()) == [] and cv2.getNumThreads() == threads


def test_other_things_at_the_root_are_left_alone(tmp_path, small):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="notes.txt"):
        write_rendered(tmp_path, SMALL)
    with pytest.raises(FileExistsError, match="is a file"):
        write_rendered(tmp_path / "notes.txt", SMALL)
    with pytest.raises(FileExistsError, match=r"seed=3 \(wanted 9\)"):
        write_rendered(small.root, replace(SMALL, seed=9))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "rendered.jsonl").write_text('{"format": "reid_aug.rendered", "version": 0}\n')
    with pytest.raises(FileExistsError, match="can't be read"):
        write_rendered(tmp_path / "old", SMALL)
    with pytest.raises(FileNotFoundError, match="write_rendered"):
        read_rendered(tmp_path)


@pytest.mark.parametrize(
    "change, told",
    [
        ({"train_identities": 0}, "train_identities is at least 1, got 0"),
        ({"test_identities": 9999}, "four digits"),
        ({"cameras": 7}, "cameras lies in 2..6, got 7"),
        ({"cameras": 1}, "cameras lies in 2..6, got 1"),
        ({"size": (8, 64)}, "size is"),
        ({"sector_deg": 180.0}, "sector_deg lies in"),
        ({"query_offset_deg": (20.0, 90.0)}, "query_offset_deg is"),
        ({"query_offset_deg": (270.0, 90.0)}, "query_offset_deg is"),
        ({"gallery_any_view": 1.5}, "gallery_any_view lies in"),
        ({"seed": -1}, "seed is not negative, got -1"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change, told):
    with pytest.raises(ValueError, match=told):
        replace(SMALL, **change)


# ------------------------------------------------------------------------------------------------ the true image


def test_true_image_has_the_sources_person_and_the_targets_joints(small):
    names = list(small.rows)
    for source, target in zip(names[:20:3], names[7:27:3], strict=True):
        true, goal = small.true_image(source, target), small.truth(target)
        both = (true.pose.visible & goal.pose.visible).numpy()
        gap = np.linalg.norm((true.pose.xy - goal.pose.xy).numpy()[both], axis=1)
        assert gap.max() < 7 and np.median(gap) < 2.5, (source, target)


def test_true_image_wears_the_sources_clothes(small, monkeypatch):
    plain = {"pattern": "plain", "sleeve": 1.0, "jacket_open": False, "chest_print": "none", "back_print": "none", "bag": "none"}
    tops = {row.identity: ((168, 40, 44), (38, 66, 132))[row.identity % 2] for row in small.rows.values()}
    draw = Identity.draw
    monkeypatch.setattr(Identity, "draw", staticmethod(lambda seed: replace(draw(seed), top=tops[seed], **plain)))
    names = list(small.rows)
    red, blue = (next(n for n in names if tops[small.rows[n].identity] == c) for c in ((168, 40, 44), (38, 66, 132)))
    for source, target, warm in ((red, blue, True), (blue, red, False)):
        true = small.true_image(source, target)
        cloth = true.image[true.limb_masks[0] & true.body_mask].astype(float).mean(0)
        assert (cloth[0] > cloth[2]) == warm


def test_true_image_of_an_image_to_itself_is_that_image(small):
    name = next(iter(small.rows))
    itself, truth = small.true_image(name, name), small.truth(name)
    assert np.allclose(itself.pose.xy, truth.pose.xy, atol=1e-3) and abs(itself.image.astype(int) - truth.image).mean() < 1


def test_an_unknown_name_is_told_with_an_example(small):
    with pytest.raises(KeyError, match="0001_c"):
        small.truth("nobody.jpg")


# ------------------------------------------------------------------------------------------------------ is it hard


def test_colour_alone_does_not_identify(tmp_path):
    """Rank-1 of the nearest mean body colour: well below a half, yet the people do differ."""
    config = RenderedConfig(train_identities=1, train_images=1, test_identities=50, query_images=1, gallery_images=3)
    people = write_rendered(tmp_path / "set", config)
    colour: dict[str, list] = {"query": [], "bounding_box_test": []}
    for name, row in people.rows.items():
        if row.folder in colour:
            truth = people.truth(name)
            colour[row.folder].append((row.identity, truth.image[truth.body_mask].mean(0)))
    ids = np.array([pid for pid, _ in colour["bounding_box_test"]])
    means = np.stack([mean for _, mean in colour["bounding_box_test"]])
    hits = [ids[np.linalg.norm(means - mean, axis=1).argmin()] == pid for pid, mean in colour["query"]]
    assert np.mean(hits) < 0.35


def test_a_body_pose_is_plain_numbers():
    pose = BodyPose.draw(np.random.default_rng(0), yaw_deg=-30)
    assert pose.yaw_deg == 330 and all(type(getattr(pose, f.name)) is float for f in fields(pose))
