from __future__ import annotations

import os
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from reid_aug import images


def picture(height: int = 12, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> list[str]:
    """Five good PNGs."""
    paths = [str(tmp_path / f"{i}.png") for i in range(5)]
    for i, path in enumerate(paths):
        images.write(picture(seed=i), path)
    return paths


def test_png_comes_back_exactly_and_jpeg_nearly(tmp_path: Path) -> None:
    image = np.full((16, 8, 3), (200, 30, 90), dtype=np.uint8)
    images.write(image, tmp_path / "a.png")
    images.write(image, tmp_path / "sub" / "a.JPG", quality=95)
    assert np.array_equal(images.read(tmp_path / "a.png"), image)
    jpeg = images.read(tmp_path / "sub" / "a.JPG")
    assert jpeg.dtype == np.uint8 and jpeg.flags.writeable and np.abs(jpeg.astype(int) - image).max() <= 3


def test_resizing_is_pils_bilinear_and_size_is_height_width(tmp_path: Path) -> None:
    images.write(picture(), tmp_path / "a.png")
    expected = np.asarray(Image.fromarray(picture()).resize((10, 20), Image.Resampling.BILINEAR))
    assert np.array_equal(images.read(tmp_path / "a.png", (20, 10)), expected)


def test_the_size_is_read_from_the_header_alone(tmp_path: Path) -> None:
    whole = images.encode(picture(12, 8), ".png")
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    assert images.size_of(tmp_path / "a.png") == (12, 8)
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(images.ImageError, match=r"a\.png' can't be decoded: it is empty"):
        images.size_of(tmp_path / "a.png")
    with pytest.raises(images.ImageError, match="does not exist"):
        images.size_of(tmp_path / "b.png")


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_other_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.fromarray(picture()).convert(mode).save(path)
    assert images.read(path).shape == (12, 8, 3)


def bad_file(kind: str, folder: Path) -> Path:
    path = folder / f"{kind}.jpg"
    good = images.encode(picture(64, 64), ".jpg")
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes here")
        os.mkfifo(path)
    elif kind == "deep":
        Image.fromarray(np.full((4, 4), 40000, dtype=np.uint16)).save(path, "PNG")
    elif kind != "missing":
        content = {"empty": b"", "text": b"no image\n" * 50, "truncated": good[: len(good) // 2], "head": good[:20]}
        content |= {"png": images.encode(picture(), ".png")[:60]}
        path.write_bytes(content[kind])
    return path


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "does not exist"),
        ("folder", "is not a file"),
        ("pipe", "is not a file"),
        ("empty", "empty or no image format"),
        ("text", "empty or no image format"),
        ("truncated", "truncated"),
        ("head", "can't be decoded"),
        ("png", "can't be decoded"),
        ("deep", "more than 8 bits"),
    ],
)
def test_bad_files_are_named_on_one_line(tmp_path: Path, kind: str, says: str) -> None:
    path = bad_file(kind, tmp_path)
    with pytest.raises(images.ImageError, match=says) as caught:
        images.read(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, OSError) and isinstance(caught.value, ValueError)


def test_read_many_equals_read_one_by_one(folder: list[str]) -> None:
    batch = images.read_many(folder, (6, 4))
    assert batch.shape == (5, 3, 6, 4) and batch.dtype == torch.uint8
    for one, path in zip(batch, folder, strict=True):
        assert np.array_equal(one.permute(1, 2, 0).numpy(), images.read(path, (6, 4)))
    assert images.read_many([], (6, 4)).shape == (0, 3, 6, 4)


def test_read_many_names_the_first_bad_file_and_read_readable_skips_it(folder: list[str], tmp_path: Path) -> None:
    for i in (3, 1):
        Path(folder[i]).write_bytes(b"broken")
    with pytest.raises(images.ImageError, match=r"1\.png"):
        images.read_many(folder, (6, 4))
    batch, kept = images.read_readable(folder, (6, 4))
    assert kept == [0, 2, 4]
    assert torch.equal(batch, images.read_many([folder[i] for i in kept], (6, 4)))
    with pytest.raises(images.ImageError, match=r"none of 2 images can be read; the first: .*1\.png"):
        images.read_readable([folder[1], folder[3]], (6, 4))


def test_reading_is_silent(folder: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    images.read_many(folder, (6, 4))
    assert capfd.readouterr() == ("", "")


def test_every_byte_survives_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    floats = images.to_float(every)
    assert floats.dtype == torch.float32 and floats[0] == -1 and floats[255] == 1
    assert torch.equal(images.to_uint8(floats), every)
    assert torch.equal(images.to_uint8(floats.double()), every)


def test_to_uint8_rounds_clamps_and_refuses() -> None:
    floats = torch.tensor([-7.0, -1.0, 0.0, 0.99, 1.0, 1.5, float("inf"), float("-inf")])
    assert images.to_uint8(floats).tolist() == [0, 0, 128, 254, 255, 255, 255, 0]
    with pytest.raises(ValueError, match=r"NaN \(1 of 2 values\)"):
        images.to_uint8(torch.tensor([0.0, float("nan")]))
    with pytest.raises(TypeError, match="takes floats, got torch.int64"):
        images.to_uint8(torch.tensor([1]))
    with pytest.raises(TypeError, match="takes uint8, got torch.float32"):
        images.to_float(torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("image", "name", "quality", "says"),
    [
        (picture(), "a.gif", 95, "written as .jpg, .jpeg, .png, got suffix '.gif'"),
        (picture(), "a", 95, "got suffix ''"),
        (picture().astype(float), "a.png", 95, r"uint8 \(H, W, 3\), got float64 \(12, 8, 3\)"),
        (picture()[..., 0], "a.png", 95, r"got uint8 \(12, 8\)"),
        (picture()[:0], "a.png", 95, r"got uint8 \(0, 8, 3\)"),
        (picture(), "a.jpg", 101, "1..100, got 101"),
    ],
)
def test_write_refuses(tmp_path: Path, image: np.ndarray, name: str, quality: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        images.write(image, tmp_path / name, quality=quality)
    assert list(tmp_path.iterdir()) == []


def test_atomic_write_makes_folders_replaces_and_respects_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.txt"
    images.atomic_write_text(path, "one\r\n")
    images.atomic_write_text(path, "zwei ✓\n")
    (tmp_path / "usual").write_text("")
    assert path.read_bytes() == "zwei ✓\n".encode() and [p.name for p in path.parent.iterdir()] == ["file.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "file.bin"
    images.atomic_write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(type(error)):
        images.atomic_write_bytes(path, b"new")
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


# EXIF's orientations: how an upright picture is stored under each, by what PIL calls the way there.
STORED = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip


def stored(image: np.ndarray, path: Path, orientation: int, **options: object) -> Path:
    """Write a picture as a camera that was turned does."""
    exif, way = Image.Exif(), STORED[orientation]
    exif[274] = orientation
    as_seen = Image.fromarray(image)
    (as_seen if way is None else as_seen.transpose(way)).save(path, exif=exif, **options)  # type: ignore[arg-type]
    return path


class TestUpright:
    @pytest.mark.parametrize("orientation", STORED)
    @pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
    def test_what_a_viewer_shows_is_read(self, tmp_path: Path, orientation: int, suffix: str) -> None:
        path = stored(picture(12, 8), tmp_path / f"a{suffix}", orientation, **({"lossless": True} if suffix == ".webp" else {}))
        assert np.array_equal(images.read(path), picture(12, 8))
        assert images.size_of(path) == (12, 8) and images.turned(path) == (orientation != 1)

    @pytest.mark.parametrize("orientation", STORED)
    def test_jpeg_as_opencv_reads_it(self, tmp_path: Path, orientation: int) -> None:
        import cv2

        smooth = np.asarray(Image.fromarray(picture(4, 2)).resize((16, 32), Image.Resampling.BICUBIC))
        path = stored(smooth, tmp_path / "a.jpg", orientation, quality=95)
        oracle = cv2.imread(str(path))
        assert oracle is not None and np.abs(images.read(path).astype(int) - oracle[..., ::-1]).max() <= 3
        assert images.size_of(path) == (32, 16) == images.read_many([path], (32, 16)).shape[2:]

    def test_a_png_that_says_so_after_its_pixels(self, tmp_path: Path) -> None:
        data = stored(picture(12, 8), tmp_path / "a.png", 6).read_bytes()
        at = data.index(b"eXIf") - 4
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")
        (tmp_path / "b.png").write_bytes(data[:at] + data[end:-12] + data[at:end] + data[-12:])
        assert np.array_equal(images.read(tmp_path / "b.png"), picture(12, 8))
        assert images.size_of(tmp_path / "b.png") == (12, 8) and images.turned(tmp_path / "b.png")

    def test_broken_exif_is_none(self, tmp_path: Path) -> None:
        Image.fromarray(picture(12, 8)).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
        assert np.array_equal(images.read(tmp_path / "a.png"), picture(12, 8)) and images.size_of(tmp_path / "a.png") == (12, 8)
        assert not images.turned(tmp_path / "a.png") and not images.turned(tmp_path / "nowhere.png")
