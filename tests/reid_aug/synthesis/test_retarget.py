"""`reid-aug retarget`: one person through a sequence of poses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generators
from generators import Pose, openpose_18, rescale, upper_7
from reid_aug import images
from reid_aug.cli import main
from reid_aug.data.keypoints import read_keypoints, write_keypoints
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.retarget import fitted, retarget

SIZE = (32, 16)


@pytest.fixture
def source(people: list[PersonImage]) -> PersonImage:
    return next(p for p in people if p.split == "query")


@pytest.fixture
def call(source: PersonImage, rendered: RenderedSet, checkpoint: Path) -> list[str]:
    return ["retarget", source.path, str(rendered.root / "annotation-test.csv"), "--checkpoint", str(checkpoint), "--device", "cpu"]


def test_a_folder_holds_what_the_generator_makes_of_every_pose(
    call: list[str], source: PersonImage, rendered: RenderedSet, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*call, "--out", str(tmp_path / "frames"), "--every", "5"]) == 0
    known = read_keypoints(rendered.root / "annotation-test.csv", size=SIZE)
    names = known.names[::5]
    files = sorted((tmp_path / "frames").iterdir())
    assert [file.name for file in files] == [f"{i:05d}_{Path(name).stem}.png" for i, name in enumerate(names)]
    assert f"{source.name} in {len(names)} poses of" in capsys.readouterr().out
    model = generators.load(checkpoint)
    pixels = images.to_float(images.read_many([source.path], SIZE))
    with torch.inference_mode():
        for file, name in list(zip(files, names, strict=True))[:3]:
            expected = model(pixels, known[source.name][None], known[name][None])
            assert np.abs(images.read(file).astype(int) - images.to_uint8(expected)[0].permute(1, 2, 0).numpy()).max() <= 1


def test_an_animation_and_a_strip(call: list[str], source: PersonImage, tmp_path: Path) -> None:
    only = ["--only", source.name[:4], "--scale", "2"]
    assert main([*call, *only, "--out", str(tmp_path / "a.gif"), "--fps", "8"]) == 0
    assert main([*call, *only, "--out", str(tmp_path / "a.png")]) == 0
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 7 and gif.info["duration"] == 120 and gif.info["loop"] == 0 and gif.size == (3 * 32 + 2 * 4, 64)
        shown = np.asarray(gif.convert("RGB")).astype(int)
    first = np.asarray(Image.fromarray(images.read(source.path)).resize((32, 64), Image.Resampling.LANCZOS))
    assert np.abs(shown[:, :32] - first).mean() < 12, "the source first, in a palette of 256 colours"
    with Image.open(tmp_path / "a.png") as strip:
        assert strip.size == (8 * 36 + 4, 2 * 68 + 4)
        assert np.array_equal(np.asarray(strip)[72:136, 4:36], first)


def test_poses_of_larger_images_are_brought_to_the_generators_size(
    call: list[str], source: PersonImage, rendered: RenderedSet, tmp_path: Path
) -> None:
    known = read_keypoints(rendered.root / "annotation-test.csv", size=SIZE)
    large = rescale(known.pose, (320, 160))
    write_keypoints(tmp_path / "large.csv", [f"frame{i}" for i in range(len(known))], large)
    given = [*call[:2], str(tmp_path / "large.csv"), *call[3:], "--source-poses", call[2], "--every", "9"]
    assert main([*given, "--size", "320", "160", "--out", str(tmp_path / "large")]) == 0
    assert main([*call, "--every", "9", "--out", str(tmp_path / "small")]) == 0
    pairs = list(zip(sorted((tmp_path / "large").iterdir()), sorted((tmp_path / "small").iterdir()), strict=True))
    for a, b in pairs:  # joints at the edge are moved onto it when they are written
        assert np.abs(images.read(a).astype(int) - images.read(b)).mean() < 4
    assert len(pairs) == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moves_are_fitted_by_one_shift_and_one_factor(dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(1)
    body = Pose((torch.rand(18, 2, generator=random) * 60 + 20).to(dtype), torch.ones(18, dtype=torch.bool), openpose_18, (128, 128))
    moves = replace(body, xy=torch.stack([body.xy / 2 + 3 + frame for frame in (-1, 0, 1)]), visible=torch.ones(3, 18, dtype=torch.bool))
    moves.visible[0, 4] = moves.visible[2, :] = False
    moves = replace(moves)
    back = fitted(moves, body)
    assert torch.allclose(back.xy[1], body.xy, atol=1e-3), "the middle frame is the median"
    assert torch.allclose(back.xy[0][back.visible[0]], (body.xy - 2)[back.visible[0]], atol=1e-3), "moves stay moves"
    assert not back.visible[0, 4] and not back.visible[2].any()
    body.visible[7] = False  # where the source's wrist is nobody knows, and the dancer's goes far
    xy = moves.xy.clone()
    xy[1, 7] += 500.0
    out = fitted(replace(moves, xy=xy), replace(body))
    assert torch.equal(out.visible[1], torch.arange(18) != 7), "a joint that leaves the image is not visible"
    assert torch.allclose(out.xy[1, :7], body.xy[:7], atol=1e-3)
    nobody = replace(body, visible=torch.zeros(18, dtype=torch.bool))
    with pytest.raises(ValueError, match="no frame shares two joints with it"):
        fitted(moves, nobody)


def test_a_generator_of_upper_bodies_takes_whole_ones(people: list[PersonImage], source: PersonImage) -> None:
    model = generators.create("posewarp", size=SIZE, width=2, skeleton="upper_7", gan_steps=0).eval()
    poses = Pose.stack([p.pose for p in people[:3] if p.pose is not None])
    frames, moves = retarget(model, source, poses, batch_size=2)
    assert frames.shape == (3, *SIZE, 3) and moves.skeleton is openpose_18
    one, _ = retarget(model, source, poses[:1])
    assert np.abs(one[0].astype(int) - frames[0]).max() <= 1
    assert upper_7.name == model.skeleton.name


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (["--out", "there.png"], "there.png is there: name another one with --out"),
        (["--out", "full"], "full is there and not empty"),
        (["--out", "film.mp4"], "--out is a folder, a .gif or a .png, got 'film.mp4'"),
        (["--out", "new", "--only", "nobody"], "none of 28 rows has a name that begins with 'nobody'"),
        (["--out", "new", "--every", "0"], "--every is at least 1, got 0"),
        (["--out", "new", "--scale", "-1"], "--scale is at least 1, got -1"),
        (["--out", "new.gif", "--fps", "99"], "--fps is between 0.1 and 50"),
        (["--out", "new", "--size", "8", "4"], "--size H W says which size the poses' images have, taken for 8 4"),
        (["--out", "new", "--size", "0", "4"], "--size is height and width, both above 0, got 0 4"),
        (["--out", "new", "--size", "64", "640"], "of another shape"),
        (["--out", "new", "--source-poses", "train.csv"], "train.csv has no pose of"),
        (["--out", "new", "--checkpoint", "none.safetensors"], "no checkpoint at none.safetensors"),
    ],
)
def test_what_does_not_fit_is_one_line_and_code_2(
    change: list[str], complaint: str, call: list[str], rendered: RenderedSet, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    for file in ("there.png", "full/a.txt"):
        Path(file).write_text("something")
    Path("train.csv").write_bytes((rendered.root / "annotation-train.csv").read_bytes())
    assert main([*call, *change]) == 2
    error = capsys.readouterr().err
    assert complaint in error and "Traceback" not in error and not (tmp_path / "new").exists()


def test_the_dance_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import dance

    monkeypatch.setattr("sys.argv", ["dance.py", str(tmp_path / "moves.csv"), "--frames", "8"])
    dance.main()
    assert "8 poses in images of 128 × 64" in capsys.readouterr().out
    moves = read_keypoints(tmp_path / "moves.csv", size=(128, 64))
    height = {side: moves.pose.xy[:, openpose_18.index(f"{side}_wrist"), 1] for side in "rl"}
    assert moves.pose.visible.all()
    assert height["r"].argmin() == 2 and height["l"].argmin() == 6, "one arm is up a quarter round before the legs change, then the other"
    assert torch.allclose(moves.pose.xy[0, :2], moves.pose.xy[4, :2], atol=0.5), "half a round later the body is upright again"


def test_rows_without_a_joint_are_left_out_and_said(
    call: list[str], rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = read_keypoints(rendered.root / "annotation-test.csv", size=SIZE)
    visible = known.pose.visible[:6].clone()
    visible[2] = False
    write_keypoints(tmp_path / "moves.csv", [f"f{i}" for i in range(6)], replace(known.pose[:6], visible=visible))
    given = [*call[:2], str(tmp_path / "moves.csv"), *call[3:], "--source-poses", call[2]]
    assert main([*given, "--out", str(tmp_path / "frames")]) == 0
    assert "1 of 6 poses are left out: 1 without a joint that is seen (f2)" in capsys.readouterr().err
    assert len(list((tmp_path / "frames").iterdir())) == 5
