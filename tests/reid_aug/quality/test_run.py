"""`reid-aug quality`: checkpoints and dumps measured, what is kept, and what is refused in a line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import generators
from reid_aug import images
from reid_aug.cli import main
from reid_aug.data.pairs import write_pairs
from reid_aug.data.people import PersonImage
from reid_aug.quality import run as quality_run
from reid_aug.quality.held_out import pairs_to_measure
from reid_aug.quality.networks import Networks
from reid_aug.quality.protocols import PairsConfig
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.dump import dump

ROOT = Path(__file__).parents[3]
SIZE = (32, 16)


class TestCommand:
    def test_kept_images_of_other_poses_or_photographs_are_not_taken_for_ours(self, checkpoint: Path, folder: Path, tmp_path: Path) -> None:
        settings, _ = quality_run.load_config(
            None, [f"data.root={folder}", "pairs.count=4", f"out={tmp_path / 'out'}", "metrics={SSIM: {}}", "batch_size=2"]
        )

        def kept() -> tuple[Path, dict[str, bytes]]:
            where = quality_run.run(str(checkpoint), settings, networks=Networks(download=False, device="cpu")).folder
            return where, {file.name: file.read_bytes() for file in (where / "images").iterdir()}

        first, drawn_first = kept()
        assert kept() == (first, drawn_first)
        path = folder / "annotation-test.csv"
        path.write_text(re.sub(r"(?m)(: \[)(\d+)", lambda match: f"{match[1]}{(int(match[2]) + 9) % 30}", path.read_text()))
        second, drawn_second = kept()
        assert second != first and drawn_second.keys() == drawn_first.keys() and drawn_second != drawn_first
        for file in (folder / "query").iterdir():
            images.write(255 - images.read(file), file)
        for file in (folder / "bounding_box_test").iterdir():
            images.write(255 - images.read(file), file)
        third, drawn_third = kept()
        assert third not in (first, second) and drawn_third.keys() == drawn_first.keys() and drawn_third != drawn_second

    def test_pairs_of_a_file(self, checkpoint: Path, people: list[PersonImage], rendered: RenderedSet, tmp_path: Path) -> None:
        names = [(s.name, t.name) for s, t in pairs_to_measure(people, PairsConfig(count=5, seed=8))]
        write_pairs(tmp_path / "p.csv", names)
        settings = [f"data.root={rendered.root}", f"pairs.file={tmp_path / 'p.csv'}", f"out={tmp_path / 'out'}", "metrics={SSIM: {}}"]
        assert main(["quality", str(checkpoint), *settings, "device=cpu"]) == 0
        (kept,) = (tmp_path / "out").rglob("quality.json")
        assert json.loads(kept.read_text())["images"] == 5
        assert {file.name.split("-")[0] for file in (kept.parent / "images").iterdir()} == {Path(s).stem for s, _ in names}

    @pytest.mark.parametrize(
        ("path", "given", "complaint"),
        [
            (None, ["pairs.count=12000"], r"a dump's pairs are those of its manifest: leave out pairs, got pairs\.count=12000"),
            ("vdg", ["pairs.seed=3"], r"leave out pairs, got pairs\.seed=3"),
            (None, ["pairs.file=p.csv"], r"leave out pairs, got pairs\.file=p\.csv"),
            (None, ["keep_images=false"], "a dump's images are kept already: leave out keep_images, got False"),
            ("patn", ["metrics.PCKh.keypoints=found.csv"], "joints of PCKh.keypoints were found on the dump's own files, and jpeg=75"),
            ("vdg", [], "no manifest at"),  # whose own pairs are no request
        ],
    )
    def test_what_a_dump_cannot_heed_is_refused(self, path: str | None, given: list[str], complaint: str, tmp_path: Path) -> None:
        file = None if path is None else str(ROOT / "configs" / "quality" / f"{path}.yaml")
        settings, _ = quality_run.load_config(file, [*given, f"out={tmp_path}"])
        with pytest.raises((ValueError, OSError), match=complaint):
            quality_run.run(str(tmp_path), settings, networks=Networks(download=False, device="cpu"))

    def test_checkpoint(self, checkpoint: Path, rendered: RenderedSet, reid: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
        settings = [f"data.root={rendered.root}", "pairs.count=12", f"out={tmp_path}", "download=false", f"reid={reid}", "device=cpu"]
        settings += ["metrics={SSIM: {}, mask-SSIM: {}, FID: {}, identity: {}, truth: {}}"]
        assert main(["quality", str(checkpoint), *settings, "backend=faiss-cpu"]) == 0
        printed = capsys.readouterr().out
        (folder,) = tmp_path.iterdir()
        assert "| mask-SSIM | 0." in printed and str(folder / "quality.md") in printed and "not measured" in printed
        kept = json.loads((folder / "quality.json").read_text())
        assert kept["images"] == 12 and kept["values"]["SSIM"]["count"] == 12 and "truth PSNR" in kept["values"]
        assert (folder / "sheet.png").exists() and len(list((folder / "images").glob("*.png"))) == 12

    def test_dump(
        self, checkpoint: Path, people: list[PersonImage], rendered: RenderedSet, reid: Path, networks: Networks, tmp_path: Path
    ) -> None:
        bank = PoseBank.collect((p for p in people if p.split == "train"), SIZE)
        dump(people, Augmenter(generators.load(checkpoint), bank, 1, 0, device="cpu"), tmp_path / "dump")
        networks = Networks(download=False, device="cpu", inception=networks.inception, detector=networks.detector("any"))
        metrics = "metrics={IS: {splits: 2}, FID: {}, KID: {}, DS: {}, identity: {}, SSIM: {}, truth: {}}"
        settings, _ = quality_run.load_config(None, [f"out={tmp_path}", f"reid={reid}", metrics])
        report = quality_run.run(str(tmp_path / "dump"), settings, networks=networks)
        quality = report.quality
        assert quality.images == sum(p.split == "train" for p in people)
        assert {"IS", "FID", "KID", "DS", "identity rank-1", "ID²"} <= quality.values.keys()
        assert "no photograph" in quality.missing["SSIM"] and "rendered people only" in quality.missing["truth"]
        # With the rendered set it came from, the truth is known.
        settings, _ = quality_run.load_config(None, [f"out={tmp_path}", f"data.root={rendered.root}", metrics])
        assert "truth PSNR" in quality_run.run(str(tmp_path / "dump"), settings, networks=networks).quality.values

    @pytest.mark.parametrize(
        ("target", "more", "complaint"),
        [
            ("nothing.safetensors", ["data.root={root}"], "no checkpoint and no dump at"),
            ("{checkpoint}", [], "data.root is missing"),
            ("{checkpoint}", ["data.root={root}", "size=[128,64]"], "the generator at"),
            ("{checkpoint}", ["data.root={root}", "pairs.count=99999"], "pairs"),
            ("{checkpoint}", ["data.root={root}", "pears.count=9"], "did you mean 'pairs'"),
            ("{checkpoint}", ["data.root={root}", "backend=torhc"], "no backend named 'torhc'; there are auto, torch, faiss-cpu"),
            ("{empty}", [], "no manifest at"),
        ],
    )
    def test_bad_input_is_one_line_and_code_2(
        self, target: str, more: list[str], complaint: str,
        checkpoint: Path, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture,
    ) -> None:  # fmt: skip
        places = {"checkpoint": checkpoint, "root": rendered.root, "empty": tmp_path}
        words = [word.format(**places) for word in (target, *more, "out={empty}/out", "download=false")]
        assert main(["quality", *words]) == 2
        error = capsys.readouterr().err
        assert complaint in error and error.count("\n") == 1 and "Traceback" not in error
        assert not (tmp_path / "out").exists() or not list((tmp_path / "out").rglob("quality.json"))

    def test_a_dump_with_a_lost_or_another_image_is_refused(
        self, checkpoint: Path, people: list[PersonImage], networks: Networks, tmp_path: Path
    ) -> None:
        bank = PoseBank.collect((p for p in people if p.split == "train"), SIZE)
        rows = dump(people, Augmenter(generators.load(checkpoint), bank, 1, 0, device="cpu"), tmp_path / "dump").rows
        settings, _ = quality_run.load_config(None, [f"out={tmp_path}", "metrics={DS: {}}"])
        images.write(np.zeros((40, 16, 3), np.uint8), tmp_path / "dump" / rows[3].path)
        with pytest.raises(ValueError, match=rf"have one size, \(32, 16\): .*{Path(rows[3].path).name} is \(40, 16\)"):
            quality_run.run(str(tmp_path / "dump"), settings, networks=networks)
        (tmp_path / "dump" / rows[3].path).unlink()
        with pytest.raises(OSError, match=Path(rows[3].path).name):
            quality_run.run(str(tmp_path / "dump"), settings, networks=networks)
