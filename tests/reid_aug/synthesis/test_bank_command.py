"""`reid-aug bank`, and everywhere that its file goes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

import generators
from reid_aug import Manifest, PersonImage, PoseAugmentedDataset, PoseBank
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.data import BenchmarkData
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.targets import notes, targets_of
from reid_aug.cli import main
from reid_aug.digests import file_digests
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.bank_file import BankFile

SIZE = (32, 16)


@pytest.fixture
def file(rendered: RenderedSet, tmp_path: Path) -> Path:
    assert main(["bank", str(rendered.root), "--out", str(tmp_path / "bank.safetensors")]) == 0
    return tmp_path / "bank.safetensors"


def test_it_collects_and_says_how(rendered: RenderedSet, bank: PoseBank, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, sheet = tmp_path / "bank.safetensors", tmp_path / "bank.png"
    assert main(["bank", str(rendered.root), "--out", str(out), "--sheet", str(sheet)]) == 0
    made = PoseBank.load(out)
    printed = capsys.readouterr().out
    assert f"kept       {len(made)} of 24 poses" in printed and f"{out}: {len(made)} poses, each with its image" in printed
    rows = [bank.names.index(name) for name in made.names]
    assert made.digest == bank.pick(rows).digest and made.scenes_digest == bank.pick(rows).scenes_digest
    about = BankFile.read(out).about
    assert about["root"] == str(rendered.root) and about["kept"] == len(made) == 24 - sum(about["dropped"].values())
    assert about["keypoints_sha256"] == file_digests([rendered.root / "annotation-train.csv"])[0]
    assert about["options"]["seed"] == 0 and about["reid-aug"]
    with Image.open(sheet) as picture:
        assert picture.width > 100 and picture.height > 200
    assert main(["bank", str(rendered.root), "--out", str(tmp_path / "b.safetensors"), "--sheet", str(sheet)]) == 0  # a sheet of ours
    (tmp_path / "mine.png").write_bytes(b"mine")
    assert main(["bank", str(rendered.root), "--out", str(tmp_path / "c.safetensors"), "--sheet", str(tmp_path / "mine.png")]) == 2
    assert (tmp_path / "mine.png").read_bytes() == b"mine" and not (tmp_path / "c.safetensors").exists()


def test_mirrored_interpolated_and_thinned(rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["bank", str(rendered.root), "--mirror", "--between", "5", "--thin", "7", "--by", "kmedoids", "--seed", "2", "--size", "64", "32"]
    for name in ("a", "b"):
        assert main([*ask, "--out", str(tmp_path / f"{name}.safetensors")]) == 0
    a, b = (PoseBank.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert a.digest == b.digest and len(a) == 7 and a.pose.size == (64, 32) and a.paths is None
    printed = capsys.readouterr().out
    assert "between    5 more" in printed and "to 7 by kmedoids" in printed and "without images: poses between two others" in printed
    assert main(["bank", str(tmp_path / "a.safetensors"), "--thin", "3", "--by", "kmedoids", "--out", str(tmp_path / "c.safetensors")]) == 0
    assert set(PoseBank.load(tmp_path / "c.safetensors").names) < set(a.names)
    assert BankFile.read(tmp_path / "c.safetensors").about["made"]["root"] == str(rendered.root)


def test_any_folder_of_images_with_keypoints(rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path(shutil.copytree(rendered.root / "bounding_box_train", tmp_path / "mine"))
    ask = ["bank", str(folder), "--out", str(tmp_path / "bank.safetensors")]
    assert main(ask) == 2 and "is a folder of images and no data set: name its keypoint file" in capsys.readouterr().err
    assert main([*ask, "--keypoints", str(rendered.root / "annotation-train.csv")]) == 0
    bank = PoseBank.load(tmp_path / "bank.safetensors")
    assert bank.camids is None and bank.paths is not None and BankFile.read(tmp_path / "bank.safetensors").images == bank.names


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--by", "kmedoids"], "--by kmedoids says how --thin chooses: give --thin K, too"),
        (["--thin", "99"], "can be thinned to 1..24, got 99"),
        (["--thin", "2", "--by", "kmean"], "a way of thinning is one of kmeans, kmedoids, got 'kmean'"),
        (["--least-joints", "19"], "the least number of joints is in 1..18"),
        (["--between", "0"], "at least 1, got 0"),
        (["--size", "0", "16"], "--size is H W, 1 at least, got 0 16"),
        (["--seed", "-1"], "--seed is 0 at least, got -1"),
        (["--out", "bank.csv"], "--out is a .safetensors file, got 'bank.csv'"),
        (["--keypoints", "none.csv"], "none.csv"),
    ],
)
def test_bad_input_is_one_line(
    words: list[str], says: str, rendered: RenderedSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    assert main(["bank", str(rendered.root), "--out", str(tmp_path / "bank.safetensors"), *words]) == 2
    err = capsys.readouterr().err
    assert says in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "bank.safetensors").exists()


def test_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bank.safetensors"
    assert main(["bank", "canonical-8", "--size", "64", "32", "--out", str(out), "--sheet", str(tmp_path / "bank.png")]) == 0
    bank = PoseBank.load(out)
    assert len(bank) == 8 and bank.pose.size == (64, 32) and "without images: canonical-8 are poses of no image" in capsys.readouterr().out
    assert main(["bank", "canonical-8", "--out", str(out)]) == 2 and "is there already" in capsys.readouterr().err
    assert main(["bank", "canonical-8", "--least-joints", "4", "--out", str(tmp_path / "b.safetensors")]) == 2
    assert "--least-joints is of keypoints that are read, canonical-8 is a bank already" in capsys.readouterr().err
    assert main(["bank", "canonical-9", "--out", str(tmp_path / "b.safetensors")]) == 2
    assert "no pose bank named 'canonical-9'; there are canonical-8, canonical-16" in capsys.readouterr().err


class TestUse:
    def test_dumps_draw_from_it(
        self, rendered: RenderedSet, file: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:  # fmt: skip
        small = tmp_path / "small.safetensors"
        PoseBank.load(file).pick([0, 3, 6]).save(small)
        common = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", "device=cpu", "per_image=1"]
        banks = {"small": PoseBank.load(small), "canonical-8": None}
        for what in (str(small), "canonical-8"):
            out = tmp_path / f"dump-{Path(what).stem}"
            assert main([*common, f"bank={what}", f"out={out}"]) == 0
            manifest = Manifest.load(out / "manifest.jsonl")
            drawn = {row.target for row in manifest.rows}
            bank = banks.get(Path(what).stem)
            if bank is None:
                assert all(name.startswith("canonical-8-") for name in drawn)
            else:
                assert drawn == set(bank.names) and manifest.made_by["bank_digest"] == bank.digest
            assert len(manifest.rows) == 24
            assert main(["gate", str(out), "novelty=0.0"]) == 0
        assert main([*common, f"out={tmp_path / 'own'}"]) == 0
        own = Manifest.load(tmp_path / "own" / "manifest.jsonl").made_by
        assert "bank" not in own and own["bank_digest"] != PoseBank.load(small).digest
        assert main([*common, "bank=pose", f"out={tmp_path / 'x'}"]) == 2
        assert "no bank named 'pose'; there are poses, images, canonical-8, canonical-16 (did you mean 'poses'?)" in capsys.readouterr().err

    @pytest.mark.parametrize("online", [False, True])
    def test_data_sets_draw_from_it(
        self, online: bool, rendered: RenderedSet, file: Path, train: list[PersonImage], tmp_path: Path
    ) -> None:  # fmt: skip
        from torchreid import data

        pids = {pid: label for label, pid in enumerate(sorted({p.pid for p in train}))}
        rows = [(p.path, pids[p.pid], p.camid) for p in train]
        base = data.ImageDataset(rows, rows[:2], rows[2:4], verbose=False, mode="train")
        warp = generators.create("warpblend", size=SIZE, width=4)
        typical = PoseBank.load(file).thin(3, by="kmedoids").with_mirrored()
        typical.save(tmp_path / "typical.safetensors")
        common = {"generator": warp, "poses": rendered.root / "annotation-train.csv", "device": "cpu", "verbose": False, "draw": "whole"}
        how = {"online": True, "p": 1.0} if online else {"cache_dir": tmp_path / "cache", "per_image": 1}
        sets = [PoseAugmentedDataset(base, bank=bank, **common, **how) for bank in (tmp_path / "typical.safetensors", typical)]
        if online:
            drawn = [[ds.draw_of(0, i) for i in range(24)] for ds in sets]
            assert drawn[0] == drawn[1] and {row.target for row in drawn[0] if row} == set(typical.names)
            assert all((ds.render(0, 3) == sets[0].render(0, 3)).all() for ds in sets)
        else:
            assert sets[0].folder == sets[1].folder and {row.target for row in sets[0].manifest.rows} == set(typical.names)

    def test_benchmarks_draw_from_it(self, file: Path) -> None:
        few = {"train_identities": 4, "test_identities": 2, "train_images": 2, "query_images": 1, "gallery_images": 2, "size": [32, 16]}
        common = {"rendered": few, "arms": ["none", "pg2"], "generators": {"pg2": {"generator": {"size": [32, 16], "width": 4}}}}
        banks = ({}, {"bank": str(file)}, {"bank": "canonical-8"})
        own, banked, canonical = (BenchConfig.model_validate({**common, **bank}) for bank in banks)
        prints = [Fingerprints(config) for config in (own, banked, canonical)]
        assert len({p.root for p in prints}) == 3
        assert Fingerprints(BenchConfig.model_validate({**common, "bank": None})).root == prints[0].root
        assert "bank" not in json.dumps(prints[0].common)
        data = BenchmarkData(banked, None, file.parent, file.parent)
        assert data.bank.digest == PoseBank.load(file).digest
        targets = targets_of(canonical, "pg2")
        assert targets is not None and "Target poses are those of the bank `canonical-8`." in list(notes(canonical, {"pg2": targets}, None))
        with pytest.raises(ValueError, match="oracle knows true images of the rendered people's own poses alone"):
            BenchConfig.model_validate({**common, "arms": ["none", "pg2", "oracle"], "bank": str(file)})
        with pytest.raises(ValueError, match="no pose bank named 'canonical-9'"):
            BenchConfig.model_validate({**common, "bank": "canonical-9"})
