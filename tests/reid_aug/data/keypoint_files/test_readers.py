"""Readers against files written by hand as each tool documents its format."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from generators import coco_17, mpii_14, openpose_18
from reid_aug.data import keypoint_files
from reid_aug.data.doubts import collected
from reid_aug.data.keypoint_files import matlab, read_other, unpack_matlab
from reid_aug.data.keypoint_files.market_points import _LEEDS
from reid_aug.data.keypoint_files.mpii import MPII_16
from reid_aug.data.keypoints import read_columns, read_keypoints


def put(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def triples(joints: int, third: float = 2, start: float = 0) -> list[float]:
    """x, y, v: x is start + joint, y is ten times that."""
    return [value for k in range(joints) for value in (start + k, 10 * (start + k), third)]


def at(found: Any, name: str, joint: str) -> list[float]:
    i, k = found.names.index(name), found.skeleton.index(joint)
    assert found.visible[i, k]
    return found.xy[i, k].tolist()


class TestCoco:
    def content(self) -> dict[str, Any]:
        first, second = triples(17), triples(17, 1, 5)
        first[2] = 0  # the nose was not labelled
        return {
            "images": [
                {"id": 7, "file_name": "a.jpg", "height": 200, "width": 100},
                {"id": 3, "file_name": "train/b.jpg", "height": 64, "width": 32},
                {"id": 9, "file_name": "nobody.jpg"},
            ],
            "annotations": [
                {"image_id": 3, "keypoints": second, "category_id": 1, "iscrowd": 0, "num_keypoints": 17},
                {"image_id": 7, "keypoints": first, "category_id": 1},
                {"image_id": 7, "keypoints": triples(17), "category_id": 1, "iscrowd": 1},
                {"image_id": 9, "bbox": [0, 0, 1, 1], "category_id": 1},
            ],
            "categories": [{"id": 1, "name": "person"}],
        }

    def test_annotations_are_of_the_images_they_name(self, tmp_path: Path) -> None:
        found = read_other(put(tmp_path / "k.json", self.content()))
        assert found.names == ("a.jpg", "train/b.jpg", "nobody.jpg") and found.skeleton is coco_17 and not found.doubts
        assert at(found, "a.jpg", "l_eye") == [1, 10] and at(found, "train/b.jpg", "r_ankle") == [21, 210]
        assert found.visible.sum(1).tolist() == [16, 17, 0] and not found.visible[0, 0]
        assert found.sizes is not None and found.sizes[:2].tolist() == [[200, 100], [64, 32]] and np.isnan(found.sizes[2]).all()

    def test_joints_are_brought_from_the_size_that_the_file_says(self, tmp_path: Path) -> None:
        content = self.content()
        content["images"], content["annotations"] = content["images"][:1], content["annotations"][1:2]
        with collected():
            pose = read_keypoints(put(tmp_path / "k.json", content), size=(100, 200))["a.jpg"]
        assert pose.xy[openpose_18.index("l_eye")].tolist() == [1.5 * 2 - 0.5, 10.5 / 2 - 0.5]

    def test_joints_are_looked_up_by_the_names_of_the_category(self, tmp_path: Path) -> None:
        content = self.content()
        names = [joint.replace("l_", "left_").replace("r_", "right_") for joint in reversed(coco_17.joints)]
        person = {"id": 1, "name": "person", "keypoints": ["tail", *names]}
        content["categories"] = [person, {"id": 2, "name": "cat", "keypoints": ["x"]}]
        cat = {"image_id": 3, "category_id": 2, "keypoints": [0]}
        content["annotations"] = [{"image_id": 7, "keypoints": triples(18), "category_id": 1}, cat]
        found = read_other(put(tmp_path / "k.json", content))
        assert at(found, "a.jpg", "nose") == [17, 170] and at(found, "a.jpg", "r_ankle") == [1, 10]
        content["categories"][0]["keypoints"] = names[1:]
        with pytest.raises(ValueError, match=r"categories: keypoints are COCO's 17 joints, in any order, there is no r_ankle"):
            read_other(put(tmp_path / "k.json", content))

    def test_results_name_images_by_number_through_a_file_of_annotations(self, tmp_path: Path) -> None:
        results = [{"image_id": 3, "category_id": 1, "keypoints": triples(17, 0.9), "score": 0.5}]
        path = put(tmp_path / "r.json", results)
        assert read_other(path).names == ("3",)
        found = read_other(path, images=str(put(tmp_path / "k.json", self.content())))
        assert at(found, "train/b.jpg", "l_eye") == [1, 10] and found.visible.any(1).tolist() == [False, True, False]
        with pytest.raises(ValueError, match=r"r.json, entry 0: image_id is the id of an image in .*k.json, got 4"):
            read_other(put(path, [results[0] | {"image_id": 4}]), images=str(tmp_path / "k.json"))


class TestAlphaPose:
    def test_a_list_by_name_17_joints_of_26(self, tmp_path: Path) -> None:
        joints = triples(26, 0.9)
        joints[3 * coco_17.index("l_knee") + 2] = 0.1
        content = [{"image_id": "a.jpg", "category_id": 1, "keypoints": joints, "score": 2.5, "box": [0, 0, 1, 1], "idx": [0.0]}]
        found = read_other(put(tmp_path / "a.json", content))
        assert found.skeleton is coco_17 and at(found, "a.jpg", "r_ankle") == [16, 160] and found.visible.sum() == 16
        assert not found.visible[0, coco_17.index("l_knee")], "a joint of a score of 0.1 was not found"
        assert read_other(tmp_path / "a.json", least_score=0.05).visible.all()
        on_18 = found.on(openpose_18)
        assert at(on_18, "a.jpg", "neck") == [5.5, 55], "the neck is between the shoulders, Halpe's own is not used"
        assert on_18.scores is not None and on_18.scores[0, openpose_18.index("neck")] == 0.9

    def test_a_folder_of_lists(self, tmp_path: Path) -> None:
        for name in "ab":
            put(tmp_path / "out" / f"{name}.json", [{"image_id": f"{name}.jpg", "keypoints": triples(17, 0.5), "score": 1.0}])
        assert read_other(tmp_path / "out").names == ("a.jpg", "b.jpg")
        (tmp_path / "out" / "a.json").unlink()
        assert read_other(tmp_path / "out").names == ("b.jpg",)

    @pytest.mark.parametrize("form", [{"bodies": [{"joints": triples(18)}]}, {"people": [{"pose_keypoints_2d": triples(18)}]}])
    def test_files_of_all_images_by_name(self, tmp_path: Path, form: Any) -> None:
        found = read_other(put(tmp_path / "k.json", {"a.jpg": form, "b.jpg": {"people": []}}))
        assert found.names == ("a.jpg", "b.jpg") and at(found, "a.jpg", "neck") == [1, 10] and not found.visible[1].any()


class TestOpenPose:
    def test_a_folder_names_images_without_suffix(self, tmp_path: Path) -> None:
        person = {"person_id": [-1], "pose_keypoints_2d": triples(18, 0.7), "face_keypoints_2d": []}
        person["pose_keypoints_2d"][3:6] = [0, 0, 0]
        put(tmp_path / "o" / "0001_c1s1_000151_01_keypoints.json", {"version": 1.3, "people": [person]})
        put(tmp_path / "o" / "query" / "x_keypoints.json", {"version": 1.3, "people": []})
        put(tmp_path / "o" / ".hidden" / "x_keypoints.json", "no JSON")
        found = read_other(tmp_path / "o")
        assert found.names == ("0001_c1s1_000151_01", "query/x") and found.skeleton is openpose_18
        assert found.visible.sum(1).tolist() == [17, 0] and not found.visible[0, 1] and at(found, found.names[0], "l_ear") == [17, 170]

    def test_body_25_and_mpi_15_are_read_by_joint(self, tmp_path: Path) -> None:
        """Orders of OpenPose's documentation, joint by joint: BODY_25 has the middle of the hips at 8, MPI a head first."""
        order = (
            "nose neck r_shoulder r_elbow r_wrist l_shoulder l_elbow l_wrist middle r_hip r_knee r_ankle l_hip l_knee l_ankle "
            "r_eye l_eye r_ear l_ear l_big_toe l_small_toe l_heel r_big_toe r_small_toe r_heel"
        )
        body_25 = order.split(" ")
        found = read_other(put(tmp_path / "a_keypoints.json", {"people": [{"pose_keypoints_2d": triples(25, 0.5)}]}))
        assert found.names == ("a",)
        for joint in openpose_18.joints:
            assert at(found, "a", joint) == [body_25.index(joint), 10 * body_25.index(joint)]
        found = read_other(put(tmp_path / "a_keypoints.json", {"people": [{"pose_keypoints": triples(15, 0.5)}]}))
        assert found.skeleton is mpii_14 and at(found, "a", "head") == [0, 0] and at(found, "a", "l_ankle") == [13, 130]

    def test_one_layout_a_folder(self, tmp_path: Path) -> None:
        for name, joints in (("a", 25), ("b", 18)):
            put(tmp_path / f"{name}_keypoints.json", {"people": [{"pose_keypoints_2d": triples(joints)}]})
        with pytest.raises(ValueError, match=r"b_keypoints.json, people\[0\]: every entry has as many numbers as the first, 75, got 54"):
            read_other(tmp_path)


def test_of_several_people_the_surest_then_the_largest_is_taken_and_a_doubt_counts_them(tmp_path: Path) -> None:
    small, large = triples(17, 2, 3), [2 * value if i % 3 < 2 else 2 for i, value in enumerate(triples(17))]

    def taken(first: dict[str, Any], second: dict[str, Any]) -> list[float]:
        content = {"images": [{"id": 1, "file_name": "a"}, {"id": 2, "file_name": "b"}]}
        people = [{"image_id": 1, **first}, {"image_id": 1, **second}, {"image_id": 2, "keypoints": small, "score": 1}]
        found = read_other(put(tmp_path / "k.json", content | {"annotations": people}))
        (doubt,) = found.doubts
        assert doubt.kind == "several" and doubt.names == ("a",) and "1 of 2 images have several people" in doubt.text
        return at(found, "a", "l_eye")

    assert taken({"keypoints": small}, {"keypoints": large}) == taken({"keypoints": large}, {"keypoints": small}) == [2, 20]
    assert taken({"keypoints": small, "score": 0.9}, {"keypoints": large, "score": 0.8}) == [4, 40]
    frame = {"people": [{"pose_keypoints_2d": triples(18, 0.2)}, {"pose_keypoints_2d": triples(18, 0.3, 1)}]}
    assert at(read_other(put(tmp_path / "x_keypoints.json", frame)), "x", "nose") == [1, 10]


def test_of_equal_people_the_most_central_is_taken(tmp_path: Path) -> None:
    people = [{"image_id": 1, "keypoints": triples(17, 2, start)} for start in (50, 0, 100)]
    images = [{"id": 1, "file_name": "a", "width": 16 + 100, "height": 160 + 1000}]
    found = read_other(put(tmp_path / "k.json", {"images": images, "annotations": people}))
    assert at(found, "a", "nose") == [50, 500]


# --------------------------------------------------------------------------------------------------------- MATLAB


def mpii_release() -> dict[str, Any]:
    """Two images as MPII's .mat has them, a third without joints; points are in no order, and count from 1."""

    def points(start: float) -> np.ndarray:
        kind = [("x", object), ("y", object), ("id", object), ("is_visible", object)]
        return np.array([(start + k + 1.0, 10 * (start + k) + 1.0, k, 1) for k in reversed(range(16))], dtype=kind)

    rects = np.array([({"point": points(0)}, 1.0), ({"point": points(0)[:3]}, 0.5)], dtype=[("annopoints", object), ("scale", object)])
    second = {"annopoints": {"point": points(7)}}
    images = [({"name": "1.jpg"}, rects), ({"name": "2.jpg"}, second), ({"name": "3.jpg"}, {"scale": 1.0})]
    annolist = np.array(images, dtype=[("image", object), ("annorect", object)])
    return {"annolist": annolist, "img_train": np.array([1, 1, 0])}


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unpack in this process: another one takes a second to start."""
    monkeypatch.setattr(keypoint_files, "tables", lambda path: unpack_matlab.unpack(str(path)))


def test_a_file_is_unpacked_by_another_process_which_may_crash(tmp_path: Path) -> None:
    savemat(tmp_path / "k.mat", {"RELEASE": mpii_release()})
    assert read_other(tmp_path / "k.mat").names == ("1.jpg", "2.jpg")
    savemat(tmp_path / "k.mat", {"k": np.ones((28, 5))})
    damaged = bytearray((tmp_path / "k.mat").read_bytes())
    damaged[176] = 0xFF  # the kind of the numbers: SciPy 1.17 ends the process (signal 11)
    (tmp_path / "k.mat").write_bytes(damaged)
    with pytest.raises(ValueError, match=r"k.mat can't be read as a MATLAB file: ") as caught:
        read_other(tmp_path / "k.mat")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("at_once")
class TestMpii:
    def test_the_mat_by_joint(self, tmp_path: Path) -> None:
        savemat(tmp_path / "k.mat", {"RELEASE": mpii_release()})
        found = read_other(tmp_path / "k.mat")
        assert found.names == ("1.jpg", "2.jpg") and found.skeleton is mpii_14
        for joint in mpii_14.joints:
            k = MPII_16.index(joint)
            assert at(found, "1.jpg", joint) == [k, 10 * k] and at(found, "2.jpg", joint) == [7 + k, 10 * (7 + k)]
        assert [doubt.kind for doubt in found.doubts] == ["several"]

    def test_a_face_is_missing_and_the_neck_between_the_shoulders_on_18(self, tmp_path: Path) -> None:
        savemat(tmp_path / "k.mat", {"RELEASE": mpii_release()})
        with collected() as doubts:
            names, yx = read_columns(tmp_path / "k.mat")
        assert names == ["1.jpg", "2.jpg"] and {doubt.kind for doubt in doubts} >= {"several", "lacking"}
        middle = (MPII_16.index("r_shoulder") + MPII_16.index("l_shoulder")) / 2
        assert yx[0, openpose_18.index("neck")].tolist() == [10 * middle, middle]
        face = [openpose_18.index(joint) for joint in ("nose", "r_eye", "l_eye", "r_ear", "l_ear")]
        assert (yx[:, face] == -1).all() and (np.delete(yx, face, 1) >= 0).all()

    @pytest.mark.parametrize("codes", [False, True])
    def test_the_h5(self, tmp_path: Path, codes: bool) -> None:
        h5py = pytest.importorskip("h5py")
        part = np.arange(64.0).reshape(2, 16, 2) + 1
        part[1, 0] = 0
        names = np.array([[*map(ord, "1.jpg"), 0], [*map(ord, "22.jpg")]], dtype=float) if codes else np.array([b"1.jpg", b"22.jpg"])
        with h5py.File(tmp_path / "k.h5", "w") as file:
            file["imgname"], file["part"], file["scale"] = names, part, np.ones(2)
        found = read_other(tmp_path / "k.h5")
        assert found.names == ("1.jpg", "22.jpg") and at(found, "1.jpg", "r_ankle") == [0, 1]
        assert at(found, "22.jpg", "head") == (part[1, 9] - 1).tolist() and not found.visible[1, mpii_14.index("r_ankle")]

    def test_without_h5py_the_command_that_installs_it_is_said(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(matlab, "find_spec", lambda name: None)
        (tmp_path / "k.h5").write_bytes(unpack_matlab.HDF5)
        with pytest.raises(ModuleNotFoundError, match=r"k.h5 is HDF5, which h5py reads: pip install h5py"):
            matlab.tables(tmp_path / "k.h5")

    def test_the_process_that_unpacks_has_a_limit_and_who_calls_it_has_none(self, tmp_path: Path) -> None:
        resource = pytest.importorskip("resource")
        before = resource.getrlimit(resource.RLIMIT_AS)
        (tmp_path / "k.mat").write_bytes(b"no MATLAB file")
        assert unpack_matlab.main(str(tmp_path / "k.mat"), str(tmp_path / "out.npz")) == 3
        assert resource.getrlimit(resource.RLIMIT_AS) == before, "a browser that this process starts needs more"
        code = (
            "import resource, runpy, sys; sys.argv = [sys.argv[1], 'none.mat', 'none.npz']\n"
            "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
            "except SystemExit as end: print(end.code, resource.getrlimit(resource.RLIMIT_AS)[0])"
        )
        command = [sys.executable, "-c", code, unpack_matlab.__file__]
        done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
        most = unpack_matlab.LARGEST_BYTES if before[1] == resource.RLIM_INFINITY else min(unpack_matlab.LARGEST_BYTES, before[1])
        assert done.stdout.splitlines()[-1] == f"3 {most}"

    def test_what_the_mat_has_in_place_of_numbers_is_named(self, tmp_path: Path) -> None:
        release = mpii_release()
        release["annolist"][1]["annorect"]["annopoints"]["point"]["x"][3] = "twelve"
        savemat(tmp_path / "k.mat", {"RELEASE": release})
        assert unpack_matlab.main(str(tmp_path / "k.mat"), str(tmp_path / "out.npz")) == 3
        with pytest.raises(ValueError, match=r"annolist\(2\).annorect\(1\): x is a number, got 'twelve'"):
            read_other(tmp_path / "k.mat")
        release["annolist"][1]["annorect"]["annopoints"]["point"]["x"][3] = np.nan
        savemat(tmp_path / "k.mat", {"RELEASE": release})
        with pytest.raises(ValueError, match=r"k.mat, '2.jpg': a coordinate is a number between ±100,000, got nan"):
            read_other(tmp_path / "k.mat")

    def test_objects_are_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """SciPy writes none: its list of what a file holds stands in."""
        monkeypatch.setattr("scipy.io.whosmat", lambda path: [("RELEASE", (1, 1), "object")])
        monkeypatch.setattr("scipy.io.loadmat", lambda *_, **__: pytest.fail("it was read"))
        savemat(tmp_path / "k.mat", {"RELEASE": 1.0})
        with pytest.raises(ValueError, match="its RELEASE is MATLAB's object; numbers, text, cells and structures alone are read"):
            read_other(tmp_path / "k.mat")
        monkeypatch.setattr("scipy.io.whosmat", lambda path: [("k", (28, 10**9), "double")])
        with pytest.raises(ValueError, match="its k has 28 × 1000000000 values, 100,000,000 are read at most"):
            read_other(tmp_path / "k.mat")

    def test_an_h5_that_leads_out_of_the_file_is_refused(self, tmp_path: Path) -> None:
        h5py = pytest.importorskip("h5py")
        with h5py.File(tmp_path / "other.h5", "w") as file:
            file["part"] = np.ones((1, 16, 2))
        with h5py.File(tmp_path / "k.h5", "w") as file:
            file["imgname"], file["part"] = np.array([b"a"]), h5py.ExternalLink("other.h5", "part")
        with pytest.raises(ValueError, match=r"keypoints of Market-1501 are a table of 28 × N numbers, the file has no numbers"):
            read_other(tmp_path / "k.h5")


def standing(n: int) -> np.ndarray:
    """Bodies (N, 14, 2), xy, on mpii_14, each one pixel further to the right."""
    xy = {
        "head": (32, 8), "neck": (32, 22), "shoulder": (8, 24), "elbow": (12, 45), "wrist": (12, 60),
        "hip": (6, 65), "knee": (6, 90), "ankle": (6, 118),
    }  # fmt: skip
    rows = []
    for joint in mpii_14.joints:
        side, part = (-1 if joint[:2] == "r_" else 1), joint.split("_")[-1]
        rows.append(xy[part] if part in ("head", "neck") else (32 + side * xy[part][0], xy[part][1]))
    return np.array(rows, float) + np.arange(n)[:, None, None] * [1, 0]


@pytest.mark.usefixtures("at_once")
class TestMarketPoints:
    @pytest.mark.parametrize("leeds", [False, True])
    @pytest.mark.parametrize("halves", [False, True])
    @pytest.mark.parametrize("hdf5", [False, True])
    def test_orders_are_told_by_bodies_that_stand(self, tmp_path: Path, leeds: bool, halves: bool, hdf5: bool) -> None:
        bodies = standing(5)
        joints = bodies[:, [mpii_14.index(joint) for joint in _LEEDS]] if leeds else bodies
        table = (joints.transpose(2, 1, 0) if halves else joints.transpose(1, 2, 0)).reshape(28, 5)
        folder = tmp_path / "bounding_box_train"
        for i in (3, 1, 0, 2, 4):
            put(folder / f"{i}.jpg", "")
        put(folder / "Thumbs.db", "")
        if hdf5:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / "k.mat", "w", userblock_size=512) as file:
                file["keypoints"] = table.T
            with open(tmp_path / "k.mat", "r+b") as raw:
                raw.write(b"MATLAB 7.3 MAT-file".ljust(512))
        else:
            savemat(tmp_path / "k.mat", {"keypoints": table})
        found = read_other(tmp_path / "k.mat", folders=[folder, tmp_path])
        assert found.names == tuple(f"{i}.jpg" for i in range(5)) and found.skeleton is mpii_14
        np.testing.assert_array_equal(found.xy, bodies)
        assert "look at them with reid-aug inspect" in found.doubts[0].text

    def test_what_can_not_be_told_is_refused(self, tmp_path: Path) -> None:
        for i in range(5):
            put(tmp_path / "train" / f"{i}.jpg", "")
        savemat(tmp_path / "k.mat", {"k": np.random.default_rng(0).uniform(0, 64, (28, 5))})
        with pytest.raises(ValueError, match=r"k.mat, k: the order of joints can't be told: of 5 bodies stand, read as"):
            read_other(tmp_path / "k.mat", folders=[tmp_path / "train"])
        with pytest.raises(ValueError, match=r"5 columns are the images of one folder, by name; read it with the images: reid-aug"):
            read_other(tmp_path / "k.mat")
        with pytest.raises(ValueError, match=r"its 5 columns are the images of one folder, by name; the folders have .* 0"):
            read_other(tmp_path / "k.mat", folders=[tmp_path])
        savemat(tmp_path / "k.mat", {"k": np.ones((27, 5))})
        with pytest.raises(ValueError, match=r"a table of 28 × N numbers, the file has k 27 × 5"):
            read_other(tmp_path / "k.mat")

    @pytest.mark.parametrize("hdf5", [False, True])
    def test_names_in_the_file_are_its_images(self, tmp_path: Path, hdf5: bool) -> None:
        table, names = standing(3).transpose(1, 2, 0).reshape(28, 3), ["b.jpg", "a.jpg", "c.jpg"]
        if hdf5:
            h5py = pytest.importorskip("h5py")
            with h5py.File(tmp_path / "k.mat", "w") as file:
                codes = [np.array([[ord(c)] for c in name], np.uint16) for name in names]
                texts = [file.create_dataset(f"#refs#/{i}", data=data) for i, data in enumerate(codes)]
                file["names"] = np.array([text.ref for text in texts], dtype=h5py.ref_dtype)[None]
                file["k"] = table.T
        else:
            savemat(tmp_path / "k.mat", {"k": table, "names": np.array(names, dtype=object)})
        assert read_other(tmp_path / "k.mat").names == ("b.jpg", "a.jpg", "c.jpg")
