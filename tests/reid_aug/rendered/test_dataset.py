"""The embedded data set: what stands on disk, its truth, and images of one person in another's pose."""

from __future__ import annotations

import ast
import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid_aug.rendered import Identity, RenderedConfig, dataset, read_rendered, write_rendered

cv2 = pytest.importorskip("cv2")
FACE = [0, 14, 15, 16, 17]
SMALL = RenderedConfig(train_identities=5, test_identities=4, train_images=6, query_images=2, gallery_images=4, seed=3)
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_rendered(tmp_path_factory.mktemp("rendered") / "set", SMALL)


def hashes(root: Path) -> dict[str, str]:
    return {str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def annotations(root: Path, split: str) -> dict[str, np.ndarray]:
    head, *lines = (root / f"annotation-{split}.csv").read_text().splitlines()
    assert head == "name:keypoints_y:keypoints_x"
    split_lines = [line.split(":") for line in lines]
    return {name: np.stack([ast.literal_eval(x.strip()), ast.literal_eval(y.strip())], 1) for name, y, x in split_lines}


def test_layout_names_and_annotations(small):
    for folder, split, count in zip(FOLDERS, ("train", "test", "test"), (30, 8, 16), strict=True):
        names = sorted(p.name for p in (small.root / folder).iterdir())
        assert len(names) == count and set(names) <= set(annotations(small.root, split))
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
            detected = truth.pose.visible.numpy().copy()
            detected[FACE] &= ~truth.occluded[FACE]
            assert ((xy >= 0).all(1) == detected).all() and (xy[~detected] == -1).all()
            assert abs(xy - truth.pose.xy.numpy())[detected].max() <= 0.51


def test_truth_is_the_file(small):
    for name, row in list(small.rows.items())[::7]:
        file = cv2.imread(str(small.root / row.folder / name))[..., ::-1]
        assert (small.truth(name).image == file).all()


def test_every_query_has_gallery_images_of_other_cameras(small):
    gallery = [n for n, row in small.rows.items() if row.folder == "bounding_box_test"]
    for name, row in small.rows.items():
        if row.folder == "query":
            assert any(g[:4] == name[:4] and g[6] != name[6] for g in gallery)


def test_writing_twice_gives_the_same_bytes_and_once_more_nothing(tmp_path, small):
    again = write_rendered(tmp_path / "again", SMALL)
    assert hashes(again.root) == hashes(small.root)
    stamp = (again.root / "annotation-train.csv").stat().st_mtime_ns
    assert write_rendered(again.root, SMALL).rows == again.rows
    assert (again.root / "annotation-train.csv").stat().st_mtime_ns == stamp
    assert hashes(write_rendered(tmp_path / "other", replace(SMALL, seed=4)).root) != hashes(small.root)


def test_reading_gives_back_what_was_written(small):
    again = read_rendered(small.root)
    assert again.config == small.config and again.rows == small.rows and again.root == small.root


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    calls = iter(range(100))
    line = dataset._csv_line

    def fails(*args):
        if next(calls) == 5:
            raise OSError("disk full")
        return line(*args)

    monkeypatch.setattr(dataset, "_csv_line", fails)
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
    sample = Identity.sample
    monkeypatch.setattr(Identity, "sample", staticmethod(lambda seed: replace(sample(seed), top=tops[seed], **plain)))
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


def test_in_its_own_scene_too_an_image_is_itself(small):
    for name in list(small.rows)[::9]:
        itself, truth = small.true_image(name, name, scene=True), small.truth(name)
        assert (itself.image == small.true_image(name, name).image).all() and abs(itself.image.astype(int) - truth.image).mean() < 1


def test_in_the_targets_scene_everything_but_the_person_is_the_targets(small):
    """Far from both bodies, and from the shadow at their feet, the target image's pixels: place, exposure, noise, JPEG and all."""
    names, changed = list(small.rows), []
    for source, target in zip(names[:20:3], names[7:27:3], strict=True):
        here, there, goal = small.true_image(source, target), small.true_image(source, target, scene=True), small.truth(target)
        assert (here.body_mask == there.body_mask).mean() > 0.99 and np.allclose(here.pose.xy, there.pose.xy), "the same body, as it stands"
        near = cv2.dilate((there.body_mask | goal.body_mask).astype(np.uint8), np.ones((17, 17), np.uint8)).astype(bool)
        far = ~near & (np.arange(near.shape[0]) < np.nonzero(near)[0].max() - 20)[:, None]
        apart = abs(there.image.astype(int) - goal.image)[far]
        # Blocks of a JPEG that the person reaches into differ a little.
        assert far.sum() > 50 and apart.mean() < 1 and (apart == 0).mean() > 0.5, (source, target)
        changed.append(abs(here.image.astype(int) - goal.image)[far].mean())
    assert np.median(changed) > 10, "in the source's place they are others"


def test_an_unknown_name_is_told_with_an_example(small):
    with pytest.raises(KeyError, match="0001_c"):
        small.truth("nobody.jpg")


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
