"""YouTube Pose's .mat file and frames, made here as the original is laid out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from generators import upper_7
from reid_aug.data.youtube_pose import read_youtube_pose
from reid_aug.images import ImageError

SIZE = (48, 64)
FIELDS = ("url", "videoname", "locs", "frameids", "label_names", "scale", "crop", "origRes", "isYouTubeSubset", "imgPath")


def cells(*values: Any) -> np.ndarray:
    out = np.empty((1, len(values)), dtype=object)
    out[0] = values
    return out


def video(name: str, locs: np.ndarray, frames: list[int], prefix: str = "GT_frames/") -> dict[str, Any]:
    return {
        "url": f"https://example.org/{name}",
        "videoname": name,
        "locs": locs,
        "frameids": np.array([frames]),
        "label_names": cells("Head", "Right wrist", "Left wrist", "Right elbow", "Left elbow", "Right shoulder", "Left shoulder"),
        "scale": 0.5,
        "crop": np.array([[11, 21, 138, 116]]),
        "origRes": np.array([[720, 1280]]),
        "isYouTubeSubset": True,
        "imgPath": cells(*(f"{prefix}{name}/frame_{i:06d}.jpg" for i in frames)),
    }


def write(path: Path, videos: list[dict[str, Any]], fields: tuple[str, ...] = FIELDS) -> None:
    data = np.empty((1, len(videos)), dtype=[(field, object) for field in fields])
    for i, each in enumerate(videos):
        data[0, i] = tuple(each[field] for field in fields)
    savemat(path, {"data": data})


def some_locs(seed: int, frames: int) -> np.ndarray:
    """MATLAB's pixels, from 1 to the image's width and height."""
    drawn = np.random.RandomState(seed).uniform(size=(2, 7, frames))
    return np.round(1 + drawn * (np.array(SIZE[::-1]) - 1)[:, None, None], 2)


def write_frames(folder: Path, frames: list[int], size: tuple[int, int] = SIZE) -> None:
    folder.mkdir(parents=True)
    for i in frames:
        Image.fromarray(np.full((*size, 3), i % 255, np.uint8)).save(folder / f"frame_{i:06d}.jpg")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two videos of three and two frames; two frames go by one name."""
    write(tmp_path / "data.mat", [video("alpha", some_locs(0, 3), [5, 17, 200]), video("beta", some_locs(1, 2), [17, 31])])
    write_frames(tmp_path / "GT_frames" / "alpha", [5, 17, 200])
    write_frames(tmp_path / "GT_frames" / "beta", [17, 31])
    return tmp_path


def test_frames_are_people_and_videos_identities(dataset: Path) -> None:
    people = read_youtube_pose(dataset / "data.mat")
    assert [(Path(p.path).relative_to(dataset / "GT_frames").as_posix(), p.pid, p.camid, p.split) for p in people] == [
        ("alpha/frame_000005.jpg", 1, 0, "train"),
        ("alpha/frame_000017.jpg", 1, 0, "train"),
        ("alpha/frame_000200.jpg", 1, 0, "train"),
        ("beta/frame_000017.jpg", 2, 0, "train"),
        ("beta/frame_000031.jpg", 2, 0, "train"),
    ]
    assert len({p.name for p in people}) == 5, "frames of one name are told apart"
    assert all(Path(p.path).is_file() for p in people)


def test_joints_are_in_the_frames_pixels_from_zero(dataset: Path) -> None:
    people = read_youtube_pose(dataset / "data.mat")
    expected = np.concatenate([some_locs(0, 3), some_locs(1, 2)], axis=2)
    for i, person in enumerate(people):
        assert person.pose is not None and person.pose.skeleton is upper_7 and person.pose.size == SIZE
        assert person.pose.visible.all()
        for k, joint in enumerate(("head", "r_wrist", "l_wrist", "r_elbow", "l_elbow", "r_shoulder", "l_shoulder")):
            at = person.pose.xy[upper_7.index(joint)].numpy()
            assert np.allclose(at, expected[:, k, i] - 1, atol=1e-5)


def test_a_joint_without_a_place_is_not_visible(dataset: Path) -> None:
    locs = some_locs(2, 2)
    locs[:, 1, 0], locs[0, 4, 1], locs[:, 6, 1] = np.nan, -1, 0
    write(dataset / "data.mat", [video("beta", locs, [17, 31])])
    first, second = (p.pose for p in read_youtube_pose(dataset / "data.mat"))
    assert first is not None and second is not None
    assert first.visible.tolist() == [True, False, True, True, True, True, True]
    assert second.visible.tolist() == [True, True, True, True, False, True, False]
    assert first.xy.isfinite().all() and not first.xy[1].any()


def test_a_video_of_one_frame(dataset: Path) -> None:
    write(dataset / "data.mat", [video("beta", some_locs(3, 1)[..., 0], [31])])
    (person,) = read_youtube_pose(dataset / "data.mat")
    assert person.pose is not None and np.allclose(person.pose.xy.numpy(), some_locs(3, 1)[..., 0].T - 1, atol=1e-5)


@pytest.mark.parametrize("prefix", ["GT_frames/", "./GT_frames/", "C:\\pose\\GT_frames\\", "/data/somewhere/"])
def test_frames_are_found_wherever_the_author_had_them(prefix: str, dataset: Path) -> None:
    write(dataset / "data.mat", [video("beta", some_locs(1, 2), [17, 31], prefix)])
    assert len(read_youtube_pose(dataset / "data.mat")) == len(read_youtube_pose(dataset / "data.mat", dataset / "GT_frames")) == 2


def test_files_that_are_something_else_are_refused(dataset: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file .*other\.mat: YouTube Pose comes as"):
        read_youtube_pose(dataset / "other.mat")
    (dataset / "other.mat").write_bytes(b"no MATLAB file at all" * 20)
    with pytest.raises(ValueError, match=r"other\.mat can't be read as a MATLAB file"):
        read_youtube_pose(dataset / "other.mat")
    savemat(dataset / "other.mat", {"joints": np.zeros((2, 7)), "data": np.zeros(3)})
    with pytest.raises(ValueError, match=r"other\.mat: a structure array 'data' is needed, the file holds data, joints"):
        read_youtube_pose(dataset / "other.mat")


@pytest.mark.parametrize("field", ["videoname", "locs", "imgPath"])
def test_a_missing_field_is_named(field: str, dataset: Path) -> None:
    write(dataset / "data.mat", [video("beta", some_locs(1, 2), [17, 31])], tuple(f for f in FIELDS if f != field))
    with pytest.raises(ValueError, match=rf"data\.mat: data has .*url.*, there is no {field}"):
        read_youtube_pose(dataset / "data.mat")


def with_two_frames(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    made = video("beta", some_locs(1, 2), [17, 31])
    change(made)
    return made


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda v: v.update(locs=np.zeros((2, 14, 2))), r"video 2 \(beta\): locs are numbers \(2, 7, frames\), got .* \(2, 14, 2\)"),
        (lambda v: v.update(locs=some_locs(1, 3)), r"video 2 \(beta\): every frame has a path, got locs of 3 frames and 2 paths"),
        (lambda v: v.update(imgPath=cells("a.jpg", "")), r"video 2 \(beta\): every frame has a path, got locs of 2 frames and 1 paths"),
        (lambda v: v.update(videoname=""), r"video 2: the videoname is empty"),
        (lambda v: v.update(locs=some_locs(1, 2) * 10), r"video 2 \(beta\): 2 of 2 frames have joints outside their image"),
    ],
)
def test_what_does_not_fit_names_the_video(change: Callable[[dict[str, Any]], Any], complaint: str, dataset: Path) -> None:
    write(dataset / "data.mat", [video("alpha", some_locs(0, 3), [5, 17, 200]), with_two_frames(change)])
    with pytest.raises(ValueError, match=rf"data\.mat, {complaint}"):
        read_youtube_pose(dataset / "data.mat")


def test_a_missing_frame_and_a_broken_one(dataset: Path) -> None:
    (dataset / "GT_frames" / "beta" / "frame_000031.jpg").write_bytes(b"")
    with pytest.raises(ImageError, match="frame_000031"):
        read_youtube_pose(dataset / "data.mat")
    (dataset / "GT_frames" / "beta" / "frame_000031.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"data\.mat: no frame frame_000031\.jpg of video beta in .*unpack GT_frames\.zip"):
        read_youtube_pose(dataset / "data.mat")


def test_the_file_written_here_is_laid_out_as_the_originals_readers_take_it(dataset: Path) -> None:
    """Field by field as public readers of the data set index it."""
    videos = loadmat(dataset / "data.mat")["data"]
    assert videos.shape == (1, 2) and videos.dtype.names == FIELDS
    first = videos[0][0]
    assert first["videoname"][0] == "alpha" and first["locs"].shape == (2, 7, 3) and first["frameids"][0].tolist() == [5, 17, 200]
    assert first["imgPath"][0, 1][0] == "GT_frames/alpha/frame_000017.jpg" and first["crop"][0].tolist() == [11, 21, 138, 116]


def test_a_generator_trains_on_the_file(dataset: Path, tmp_path: Path) -> None:
    """`reid-aug train configs/generators/posewarp-upper.yaml data.root=data.mat`, small."""
    from reid_aug.cli import main

    config = Path(__file__).resolve().parents[3] / "configs" / "generators" / "posewarp-upper.yaml"
    done = main([
        "train", str(config), f"data.root={dataset / 'data.mat'}", f"out={tmp_path / 'run'}", "generator.size=[32,32]", "generator.width=2",
        "generator.pretrain_steps=2", "generator.gan_steps=2", "generator.warmup_steps=1", "batch_size=2", "perceptual.weights=none",
        "steps=null",
    ])  # fmt: skip
    assert done in (0, None) and (tmp_path / "run" / "last.safetensors").exists()


# --- frames of the original video ---


def smooth(height: int, width: int) -> np.ndarray:
    """A picture whose colours say where a pixel is: x in red, y in green."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 / width, y * 255 / height, np.full_like(x, 90.0)], -1).round().astype(np.uint8)


def whole_frames(dataset: Path, name: str, frames: list[int], size: tuple[int, int] = (144, 256)) -> None:
    for i in frames:
        Image.fromarray(smooth(*size)).save(dataset / "GT_frames" / name / f"frame_{i:06d}.jpg", quality=100)


def uncropped(**changes: Any) -> dict[str, Any]:
    return {**video("beta", some_locs(1, 2), [17, 31]), "origRes": np.array([[144, 256]]), **changes}


def test_frames_of_the_original_video_are_cut_and_scaled_once(dataset: Path) -> None:
    whole_frames(dataset, "beta", [17])  # the other one is cut already
    write(dataset / "data.mat", [video("alpha", some_locs(0, 3), [5, 17, 200]), uncropped()])
    people = read_youtube_pose(dataset / "data.mat")
    beta = [Path(p.path) for p in people if p.pid == 2]
    cut_here = dataset / "GT_frames_cropped" / "beta-11-21-138-116-0.5"
    assert beta == [cut_here / "frame_000017.png", dataset / "GT_frames" / "beta" / "frame_000031.jpg"]
    # The pixel that a joint lies on shows the place in the whole frame that crop and scale lead to, in MATLAB's counting.
    pixels = np.asarray(Image.open(beta[0]))
    assert pixels.shape == (*SIZE, 3)
    for x, y in ((0, 0), (20, 31), (63, 47)):
        there = (11 - 1) + ((x + 0.5) / 0.5 - 0.5), (21 - 1) + ((y + 0.5) / 0.5 - 0.5)
        expected = there[0] * 255 / 256, there[1] * 255 / 144
        assert np.allclose(pixels[y, x, :2], expected, atol=2.5), (x, y)
    written = beta[0].stat().st_mtime_ns
    again = read_youtube_pose(dataset / "data.mat")
    assert beta[0].stat().st_mtime_ns == written
    assert all(np.array_equal(a.pose.xy, b.pose.xy) for a, b in zip(people, again, strict=True))  # type: ignore[union-attr]
    assert people[3].pose is not None and np.allclose(people[3].pose.xy.numpy(), some_locs(1, 2)[..., 0].T - 1, atol=1e-5)
    moved = uncropped(crop=np.array([[12, 21, 139, 116]]))  # of the same size: what the other crop cut is not taken for its own
    write(dataset / "data.mat", [moved])
    assert not np.array_equal(np.asarray(Image.open(read_youtube_pose(dataset / "data.mat")[0].path)), pixels)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"crop": np.array([[11, 21, 300, 116]])}, r"video 1 \(beta\): crop lies in the 256 × 144 pixels .* got \[11, 21, 300, 116\]"),
        ({"scale": 0.0}, r"scale is above 0, got \[11, 21, 138, 116\] and 0"),
        ({"crop": np.array([[11, 21, 300]])}, r"crop has 4 numbers, scale 1 and origRes 2, got 3, 1 and 2"),
    ],
)
def test_a_crop_that_cannot_be_is_refused(changes: dict[str, Any], complaint: str, dataset: Path) -> None:
    write(dataset / "data.mat", [uncropped(**changes)])
    with pytest.raises(ValueError, match=complaint):
        read_youtube_pose(dataset / "data.mat")


def test_a_file_without_a_crop_reads_as_before(dataset: Path) -> None:
    whole_frames(dataset, "beta", [17, 31], SIZE)
    for missing in ("crop", "scale", "origRes"):
        write(dataset / "data.mat", [uncropped()], tuple(f for f in FIELDS if f != missing))
        assert {Path(p.path).parent for p in read_youtube_pose(dataset / "data.mat")} == {dataset / "GT_frames" / "beta"}
    write(dataset / "data.mat", [uncropped(scale=np.zeros((0, 0)))])
    assert len(read_youtube_pose(dataset / "data.mat")) == 2


# --- videos that are held out ---


@pytest.mark.parametrize("test_videos", [1, ["beta"], ("beta",)])
def test_a_test_video_is_query_and_gallery(test_videos: Any, dataset: Path) -> None:
    people = read_youtube_pose(dataset / "data.mat", test_videos=test_videos)
    assert [(p.pid, p.split) for p in people] == [(1, "train"), (1, "train"), (1, "train"), (2, "query"), (2, "gallery")]


@pytest.mark.parametrize(
    ("test_videos", "complaint"),
    [
        (2, r"test_videos holds out 1 to 1 of the file's 2 videos, got 2"),
        (["alpha", "beta"], r"1 to 1 of the file's 2 videos, got 2"),
        (9, r"1 to 1 of the file's 2 videos, got 9"),
        ([], r"1 to 1 of the file's 2 videos, got 0"),
        (["bta"], r"test_videos: no video named 'bta'; there are alpha, beta \(did you mean 'beta'\?\)"),
    ],
)
def test_videos_that_cannot_be_held_out(test_videos: Any, complaint: str, dataset: Path) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_youtube_pose(dataset / "data.mat", test_videos=test_videos)


def test_losses_on_videos_held_out_and_a_sheet_of_what_images_are_made_of(dataset: Path, tmp_path: Path, capsys: Any) -> None:
    """`reid-aug train posewarp-upper-text data.root=data.mat data.test_videos=1 held_out_pairs=2`, small, and `reid-aug layers`."""
    from reid_aug.cli import main

    data = [f"data.root={dataset / 'data.mat'}", "data.test_videos=1"]
    small = [
        "generator.size=[32,32]", "generator.width=2", "generator.pretrain_steps=2", "generator.gan_steps=2", "generator.warmup_steps=1",
        "batch_size=2", "perceptual.weights=none", "steps=null", "save_every_steps=1", "samples=1",
    ]  # fmt: skip
    out = tmp_path / "run"
    assert main(["train", "posewarp-upper-text", *data, f"out={out}", *small, "held_out_pairs=2"]) == 0
    assert "held out: discriminator/real " in capsys.readouterr().out
    rows = [line.split(",") for line in (out / "held_out.csv").read_text().splitlines()]
    assert rows[0] == ["step", "loss", "training", "held_out"] and {row[0] for row in rows[1:]} == {"1", "2", "3", "4"}
    assert [row[1] for row in rows if row[0] == "4"][-1] == "generator/adversarial" and all(float(row[3]) > 0 for row in rows[1:])
    assert main(["layers", *data, f"checkpoint={out / 'last.safetensors'}", f"out={tmp_path / 'l.png'}", "pairs=2"]) == 0
    shown = capsys.readouterr().out
    assert all(layer in shown for layer in ("joint heatmaps", "limb priors", "limb masks", "warped limbs", "target mask", "background"))
    with Image.open(tmp_path / "l.png") as sheet:
        assert sheet.size == (7 * 36 + 4, 2 * (10 * (32 + 14 + 4) + 4) + 4), "seven joints across; ten rows a pair"
    assert main(["layers", f"data.root={dataset / 'data.mat'}", f"checkpoint={out / 'last.safetensors'}", "pairs=2"]) == 2
    assert "2 held-out pairs are wanted: " in (error := capsys.readouterr().err) and "data.test_videos=10" in error
    assert main(["train", "posewarp-upper", f"data.root={dataset / 'data.mat'}", f"out={tmp_path / 'o'}", *small, "held_out_pairs=2"]) == 2
    assert "data.test_videos=10" in capsys.readouterr().err
