"""The command as a user meets it: every verb, and what careless input says."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import generators
from generators import coco_17, openpose_18
from reid_aug import Manifest
from reid_aug.cli import main
from reid_aug.data.keypoints import HEADER, read_columns
from reid_aug.data.market import read_market_folder
from reid_aug.rendered import RenderedSet, read_rendered

SMALL = ["generator.name=pg2", "generator.size=[32,16]", "generator.width=4", "generator.stage1_steps=3", "generator.stage2_steps=2",
         "batch_size=4", "samples=2"]  # fmt: skip


def run(*arguments: str | Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as stop:
        code = int(stop.code or 0)
    said = capsys.readouterr()
    return code, said.out, said.err


def refused(code: int, out: str, err: str) -> str:
    """The one line of a refusal."""
    assert code == 2, (code, out, err)
    line = err.strip().splitlines()[-1]
    assert line.startswith("reid-aug: ") and "Traceback" not in err
    return line


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--version", capsys=capsys)
    assert code == 0 and out.startswith("reid-aug ")


def test_train_dump_check(rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("train", *SMALL, f"data.root={rendered.root}", f"out={tmp_path / 'run'}", capsys=capsys)
    checkpoint = tmp_path / "run" / "last.safetensors"
    assert code == 0 and f"trained step 5: {checkpoint}" in out
    assert generators.load(checkpoint).options["width"] == 4
    assert sorted((tmp_path / "run" / "samples").iterdir()) and list((tmp_path / "run" / "curves").iterdir())

    wanted = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'dump'}", "per_image=2", "seed=4"]
    code, out, _ = run(*wanted, capsys=capsys)
    assert code == 0 and "48 synthetic images of 6 people" in out
    assert len(Manifest.load(tmp_path / "dump" / "manifest.jsonl").rows) == 48
    assert len(read_market_folder(tmp_path / "dump")) == 24 + 8 + 20 + 48
    assert run("check", tmp_path / "dump", capsys=capsys)[:2] == (0, "102 of 102 files (48 synthetic images) are as they were written\n")

    victim = sorted((tmp_path / "dump" / "bounding_box_train").glob("*_p0.jpg"))[0]
    victim.write_bytes(victim.read_bytes()[:-20])
    code, out, _ = run("check", tmp_path / "dump", capsys=capsys)
    assert code == 1 and f"{victim.name}: changed since it was written" in out and "101 of 102" in out
    assert run(*wanted, capsys=capsys)[0] == 0, "the same command again mends it"
    assert run("check", tmp_path / "dump", capsys=capsys)[0] == 0


def test_another_skeleton_learns_and_draws(rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["train", *SMALL, "generator.skeleton=mpii_14", f"data.root={rendered.root}", f"out={tmp_path / 'run'}"]
    assert run(*asked, capsys=capsys)[0] == 0
    dump = ["dump", f"checkpoint={tmp_path / 'run' / 'last.safetensors'}", f"data.root={rendered.root}", f"out={tmp_path / 'd'}"]
    assert run(*dump, capsys=capsys)[0] == 0


def test_rendered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("rendered", f"out={tmp_path / 'r'}", "train_identities=2", "test_identities=1", "size=[32,16]", capsys=capsys)
    assert code == 0 and str(tmp_path / "r") in out
    assert read_rendered(tmp_path / "r").config.size == (32, 16)
    assert "tran_identities" in refused(*run("rendered", f"out={tmp_path / 'q'}", "tran_identities=2", capsys=capsys))


def table(path: Path) -> list[list[str]]:
    with open(path, newline="") as file:
        return list(csv.reader(file))


def test_pairs(rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keypoints = rendered.root / "annotation-train.csv"
    code, out, _ = run("pairs", keypoints, "--out", tmp_path / "p.csv", capsys=capsys)
    rows = table(tmp_path / "p.csv")
    assert code == 0 and rows[0] == ["from", "to"] and f"{len(rows) - 1:,} pairs" in out
    assert all(a[:4] == b[:4] and a != b for a, b in rows[1:])
    run("pairs", keypoints, "--out", tmp_path / "s.csv", "--sample", "10", "--seed", "1", capsys=capsys)
    sampled = table(tmp_path / "s.csv")
    assert len(sampled) == 11 and {tuple(r) for r in sampled} <= {tuple(r) for r in rows}
    assert "99999" in refused(*run("pairs", keypoints, "--out", tmp_path / "x.csv", "--sample", "99999", capsys=capsys))
    assert not (tmp_path / "x.csv").exists()


class TestInspect:
    """Exit code 0 clean, 1 with doubts, 2 for what can't be read; other verbs say the same doubts once."""

    def coco_order(self, folder: Path) -> None:
        order = [openpose_18.index(joint) for joint in (*coco_17.joints, "neck")]
        for file in folder.glob("annotation-*.csv"):
            names, yx = read_columns(file)
            rows = zip(names, *yx[:, order].astype(int).transpose(2, 0, 1).tolist(), strict=True)
            file.write_text("\n".join([HEADER, *(f"{name}: {y}: {x}" for name, y, x in rows)]) + "\n")

    def test_clean(
        self, rendered: RenderedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for _ in range(2):  # its own sheet is drawn anew
            code, out, err = run("inspect", rendered.root, capsys=capsys)
            assert (code, err) == (0, "") and "doubts     none" in out and "inspect.png: 24 images" in out
        assert [p.name for p in tmp_path.iterdir()] == ["inspect.png"]
        (tmp_path / "mine.png").write_text("mine")
        assert "name another file with --sheet FILE" in refused(*run("inspect", rendered.root, "--sheet", "mine.png", capsys=capsys))
        assert "no folder" in refused(*run("inspect", tmp_path / "nowhere", capsys=capsys))

    def test_doubts(self, folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.coco_order(folder)
        code, out, err = run("inspect", folder, "--sheet", tmp_path / "new" / "sheet.png", capsys=capsys)
        assert (code, err) == (1, "") and out.count("joints in another order?") == 2 and (tmp_path / "new" / "sheet.png").is_file()
        code, _, err = run(
            "dump", f"checkpoint={checkpoint}", f"data.root={folder}", f"out={tmp_path / 'dump'}", "per_image=1", capsys=capsys
        )
        lines = [line for line in err.splitlines() if "joints in another order?" in line]
        assert code == 0 and len(lines) == 2 and all(line.startswith("reid-aug: doubt: ") for line in lines)
        code, _, err = run("train", *SMALL, f"data.root={folder}", f"out={tmp_path / 'run'}", capsys=capsys)
        assert code == 0 and err.count("joints in another order?") == 1
        code, out, _ = run("inspect", tmp_path / "dump", "--sheet", tmp_path / "new" / "sheet.png", capsys=capsys)
        assert code == 1 and "training images are named as a dump names what it rendered" in out

    def test_zeros_for_missing(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        file, zeros = folder / "annotation-train.csv", [0] * 18
        lines = file.read_text().splitlines()
        lines[1:] = [f"{line.split(':')[0]}: {zeros}: {zeros}" if i % 4 else line for i, line in enumerate(lines[1:])]  # one of each person
        file.write_text("\n".join(lines) + "\n")
        code, out, err = run("pairs", file, "--out", tmp_path / "p.csv", capsys=capsys)
        assert code == 0 and out.startswith("0 pairs") and "(0, 0) is taken for missing, 324 joints in 18 of 24 rows" in err
        code, out, _ = run("inspect", folder, "--sheet", tmp_path / "sheet.png", capsys=capsys)
        assert code == 1 and "train: 6 of 24 images" in out


class TestBadInput:
    """Issue after issue of the field: each is one line that says what to do."""

    def train(self, folder: Path | str, *more: str, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
        return refused(*run("train", *SMALL, f"data.root={folder}", f"out={out}", *more, capsys=capsys))

    def test_folders(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "run"
        assert "no folder" in self.train(tmp_path / "nowhere", out=out, capsys=capsys)
        assert "bounding_box_train, query, bounding_box_test" in self.train(tmp_path, out=out, capsys=capsys)
        for image in (folder / "query").iterdir():
            image.unlink()
        assert "query holds no images" in self.train(folder, out=out, capsys=capsys)
        assert not out.exists()

    def test_identities_in_train_and_test(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        victim = next((folder / "bounding_box_train").iterdir())
        victim.rename(folder / "query" / victim.name)
        assert "train and test share no identity, but 1 are in both" in self.train(folder, out=tmp_path / "run", capsys=capsys)

    def test_keypoints(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, csv_file = tmp_path / "run", folder / "annotation-train.csv"
        assert "no keypoint file at" in self.train(folder, "data.keypoints=nowhere.csv", out=out, capsys=capsys)
        lines = csv_file.read_text().splitlines()
        csv_file.write_text("\n".join(lines[:6]) + "\n")
        assert "5 of 24 train images have a pose, at least half must" in self.train(folder, out=out, capsys=capsys)
        csv_file.write_text("\n".join([lines[0], *(line.replace("[", "[x") for line in lines[1:])]) + "\n")
        assert "annotation-train.csv, line 2" in self.train(folder, out=out, capsys=capsys)
        csv_file.unlink()
        assert "name one with data.keypoints=FILE" in self.train(folder, out=out, capsys=capsys)
        assert not out.exists()

    def test_images(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        cut, text = sorted((folder / "bounding_box_train").iterdir())[:2]
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        assert cut.name in self.train(folder, out=tmp_path / "run", capsys=capsys)
        text.write_text("no image at all")
        code, _, err = run(
            "train", *SMALL, f"data.root={folder}", f"out={tmp_path / 'skip'}", "data.on_bad_image=skip", capsys=capsys
        )
        assert code == 0 and f"skipped: image '{cut}'" in err and f"skipped: image '{text}'" in err

    def test_names_and_keys(self, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out, root = tmp_path / "run", rendered.root
        assert "no generator named 'pg3'; there are" in self.train(root, "generator.name=pg3", out=out, capsys=capsys)
        assert "(did you mean 'width'?)" in self.train(root, "generator.widht=3", out=out, capsys=capsys)
        assert "unknown key 'stepz'" in self.train(root, "stepz=3", out=out, capsys=capsys)
        assert "no configuration file at nowhere.yaml" in refused(*run("train", "nowhere.yaml", capsys=capsys))
        assert "one configuration file may be named" in refused(*run("train", "a.yaml", "b.yaml", capsys=capsys))
        assert "tarin" in refused(*run("tarin", capsys=capsys))
        assert not out.exists()

    def test_checkpoints(self, rendered: RenderedSet, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def dump(file: Path, out: str = "dump") -> str:
            return refused(*run("dump", f"checkpoint={file}", f"data.root={rendered.root}", f"out={tmp_path / out}", capsys=capsys))

        (tmp_path / "junk.safetensors").write_bytes(os.urandom(1000))
        assert "is no whole safetensors file" in dump(tmp_path / "junk.safetensors")
        (tmp_path / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:5000])
        assert "is no whole safetensors file" in dump(tmp_path / "cut.safetensors")
        assert "no checkpoint at" in dump(tmp_path / "nowhere.safetensors")
        told = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'dump'}", "device=cudaa"]
        assert "no device 'cudaa'" in refused(*run(*told, capsys=capsys))
        for device in ("foo", "cuda:x", "cuda:99", "meta"):
            told[-1] = f"device={device}"
            assert f"device: no device {device!r} here; there are auto, cpu" in refused(*run(*told, capsys=capsys))
        square = tmp_path / "square.safetensors"
        generators.save(generators.create("pg2", size=(32, 32), width=4), square)
        assert "the generator renders 32 × 32 images, these people's are 32 × 16" in dump(square)
        assert not (tmp_path / "dump").exists()
        (tmp_path / "full").mkdir()
        (tmp_path / "full" / "thesis.txt").write_text("precious")
        assert "is not empty" in dump(checkpoint, "full")
        assert os.listdir(tmp_path / "full") == ["thesis.txt"]

    def test_other_options_in_the_folder(self, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        asked = ["train", *SMALL, f"data.root={rendered.root}", f"out={tmp_path / 'run'}"]
        assert run(*asked, capsys=capsys)[0] == 0
        for other in ("generator.bottleneck=3", "generator.size=[64,32]", "generator.skeleton=mpii_14"):
            said = refused(*run(*asked, other, capsys=capsys))
            assert "was trained with options" in said and "train into another folder" in said

    def test_other_people_in_the_folder(
        self, rendered: RenderedSet, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        asked = ["train", *SMALL, f"out={tmp_path / 'run'}"]
        assert run(*asked, f"data.root={rendered.root}", capsys=capsys)[0] == 0
        next((folder / "bounding_box_train").iterdir()).unlink()
        assert "was trained with people" in refused(*run(*asked, f"data.root={folder}", capsys=capsys))
        assert "was trained with flip True" in refused(*run(*asked, f"data.root={rendered.root}", "flip=false", capsys=capsys))

    def test_values_of_the_wrong_kind(self, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        root, out = rendered.root, tmp_path / "run"
        assert "width is of type int like 128, got 'wide'" in self.train(root, "generator.width=wide", out=out, capsys=capsys)
        assert "size is of type tuple like (128, 64), got 64" in self.train(root, "generator.size=64", out=out, capsys=capsys)
        assert "radius_px is of type float" in self.train(root, "generator.radius_px=x", out=out, capsys=capsys)

    @pytest.mark.parametrize("device", ["foo", "cuda:x", "cuda:99"])
    def test_devices(self, device: str, checkpoint: Path, rendered: RenderedSet, capsys: pytest.CaptureFixture[str]) -> None:
        for told in (["quality", checkpoint, f"data.root={rendered.root}"], ["gate", rendered.root]):
            assert f"no device {device!r} here; there are auto, cpu" in refused(*run(*told, f"device={device}", capsys=capsys))

    def test_metrics_in_words(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        def said(setting: str) -> str:
            return refused(*run("quality", checkpoint, setting, capsys=capsys))

        told = said("metrics.IS.splitz=5")
        assert "unknown key 'metrics.IS.splitz'; there are kind, splits, masked, resize (did you mean 'splits'?)" in told
        assert "metrics.IS.splits: input should be greater than 0, got 0" in said("metrics.IS.splits=0")
        told = said("metrics.Foo.kind=fud")
        assert "metrics.Foo: no kind 'fud'; there are ssim, " in told and "(did you mean 'fid'?)" in told
        assert "SSIM" in said("metrics.SIM={}") and "(did you mean 'SSIM'?)" in said("metrics.SIM={}")
        assert len(said(f"pairs.count={'x' * 9000}")) < 300

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_unwritable_output(self, rendered: RenderedSet, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tmp_path.chmod(0o500)
        wanted = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'dump'}"]
        assert "ermission" in refused(*run(*wanted, capsys=capsys))

    def test_output_below_a_file(self, rendered: RenderedSet, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("in the way")
        wanted = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'file' / 'dump'}"]
        assert "file" in refused(*run(*wanted, capsys=capsys))
        assert (tmp_path / "file").read_text() == "in the way"

    def test_check_without_a_manifest(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "no manifest at" in refused(*run("check", tmp_path, capsys=capsys))


class TestWhatMessagesAdvise:
    """What a message tells to type works when it is typed."""

    def dump(self, root: Path, checkpoint: Path, out: Path, *more: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
        return run("dump", f"checkpoint={checkpoint}", f"data.root={root}", f"out={out}", "per_image=1", *more, capsys=capsys)

    def test_an_overlap_is_read_by_every_verb(
        self, folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for path in (folder / "bounding_box_train").iterdir():
            (folder / "bounding_box_test" / path.name).write_bytes(path.read_bytes())
        said = refused(*self.dump(folder, checkpoint, tmp_path / "d", capsys=capsys))
        assert said.endswith("(to read it anyway: data.allow_overlap=true, in Python allow_overlap=True)")
        assert self.dump(folder, checkpoint, tmp_path / "d", "data.allow_overlap=true", capsys=capsys)[0] == 0
        assert run("gate", tmp_path / "d", "novelty=0.0", f"out={tmp_path / 'g'}", capsys=capsys)[0] == 0
        trained = ["train", *SMALL, f"data.root={folder}", f"out={tmp_path / 'run'}", "data.allow_overlap=true"]
        assert run(*trained, capsys=capsys)[0] == 0

    def test_training_images_alone(self, folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name in ("query", "bounding_box_test"):
            (folder / name).rename(tmp_path / name)
        out = tmp_path / "d"
        assert self.dump(folder, checkpoint, out, capsys=capsys)[0] == 0 and run("check", out, capsys=capsys)[0] == 0
        assert run("gate", out, "novelty=0.0", f"out={tmp_path / 'g'}", capsys=capsys)[0] == 0
        assert run("train", *SMALL, f"data.root={out}", f"out={tmp_path / 'run'}", capsys=capsys)[0] == 0
        said = refused(*run("quality", checkpoint, f"data.root={folder}", f"out={tmp_path / 'q'}", capsys=capsys))
        assert "the data set has neither" in said

    def test_what_is_left_out_is_said_once(
        self, folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        path = folder / "annotation-train.csv"
        lines = path.read_text().splitlines()
        lost, other = (line.split(":")[0] for line in lines[1:3])
        path.write_text("\n".join([lines[0], lines[2].replace(".jpg", ".JPG"), *lines[3:]]) + "\n")
        (folder / "query" / "notes.txt").touch()
        code, out, err = self.dump(folder, checkpoint, tmp_path / "d", capsys=capsys)
        assert code == 0 and "; training images left as they are: 2 without a pose" in out
        said = [line.removeprefix("reid-aug: doubt: ") for line in err.splitlines() if line.startswith("reid-aug: ")]
        assert said == [
            f"{folder}, left out: 1 of another kind than .jpg, .jpeg, .png and 8 more (query/notes.txt)",
            f"2 of 24 train images have no pose among the keypoints: 1 not named there ({lost}); "
            f"1 named otherwise there, in capitals or suffix ({other})",
            f"2 of 24 training images are not augmented: 2 without a pose ({lost}, {other})",
        ]

    def test_a_benchmark_names_its_own_keys(self, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        bench = ["bench", "rendered", "rendered=null", f"data.root={folder}", f"out={tmp_path / 'b'}", "seeds=[0]", "quality.pairs=0"]
        said = refused(*run(*bench, "arms=[none]", "baseline.weights=imagenet", capsys=capsys))
        assert said.endswith("say baseline.weights=scratch")
        option = "generators.deformable.perceptual.weights="
        size = "generators.deformable.generator.size=[32,16]"
        said = refused(*run(*bench, "arms=[none,deformable]", f"{option}nowhere.pth", size, capsys=capsys))
        assert f"no perceptual weights at nowhere.pth; say {option}PATH | imagenet" in said


def test_a_signal_saves_and_stops(rendered: RenderedSet, tmp_path: Path) -> None:
    asked = [sys.executable, "-m", "reid_aug.cli", "train", *SMALL, "generator.stage1_steps=100000", f"data.root={rendered.root}",
             f"out={tmp_path / 'run'}", "save_every_steps=5"]  # fmt: skip
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not (tmp_path / "run" / "last.safetensors").exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "stopped at step" in out, (out, err)
    from generators.checkpoints import read_header

    assert read_header(tmp_path / "run" / "last.safetensors")["step"] == int(out.split("step ")[1].split(":")[0])


def test_results_shipped_are_json() -> None:
    for path in (Path(__file__).parents[2] / "benchmarks" / "results").rglob("*.json"):
        assert json.loads(path.read_text()), path
