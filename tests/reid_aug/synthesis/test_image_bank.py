"""A bank of images: what MOMI-Net draws from without any keypoints, in dumps, data sets and online, against the model called by hand."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import generators
from generators import Generator, Pose, openpose_18
from reid_aug import Augmenter, ImageBank, Manifest, PersonImage, PoseAugmentation, PoseAugmentedDataset, PoseBank, PoseDraw, relabel
from reid_aug.cli import main
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import JUNK
from reid_aug.data.torchreid_sets import torchreid_data
from reid_aug.images import encode, read, read_many, to_float, to_uint8
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.target_poses import DRAWS

SIZE = (32, 16)


@pytest.fixture
def unposed(train: list[PersonImage]) -> list[PersonImage]:
    return [replace(p, pose=None) for p in train]


def by_hand(model: Generator, sources: Sequence[str | Path], targets: Sequence[str | Path]) -> Tensor:
    """Call the model on images alone: uint8 (B, 3, H, W)."""
    source, scene = (to_float(read_many(paths, SIZE)) for paths in (sources, targets))
    with torch.no_grad():
        return to_uint8(model.eval()(source, None, None, scene=scene))


class TestTheBank:
    def test_every_image_but_junk_is_in_it_by_name(self, unposed: list[PersonImage]) -> None:
        junk = replace(unposed[0], path="junk.jpg", pid=JUNK)
        bank = ImageBank.collect([junk, *reversed(unposed)], SIZE)
        assert bank.names == tuple(sorted(p.name for p in unposed)) and len(bank) == len(bank.paths) == len(unposed)
        assert bank.camids == tuple(p.camid for p in sorted(unposed, key=lambda p: p.name)) and bank.size == SIZE
        assert bank.pick([2, 0]).names == (bank.names[2], bank.names[0]) and bank.pick([2]).camids == (bank.camids or ())[2:3]
        assert torch.equal(bank.scenes([1], SIZE), read_many(bank.paths[1:2], SIZE))

    def test_its_digest_is_of_content(self, unposed: list[PersonImage], tmp_path: Path) -> None:
        copied = [replace(p, path=str(tmp_path / p.name)) for p in unposed]
        for before, after in zip(unposed, copied, strict=True):
            shutil.copy(before.path, after.path)
        digest = ImageBank.collect(unposed, SIZE).digest
        assert ImageBank.collect(copied, SIZE).digest == digest != ImageBank.collect(unposed, (64, 32)).digest
        shutil.copy(copied[1].path, copied[0].path)
        assert ImageBank.collect(copied, SIZE).digest != digest

    def test_images_take_other_names_and_cameras(self, unposed: list[PersonImage]) -> None:
        bank = ImageBank.collect(unposed, SIZE)
        assert bank.renamed(unposed, unposed) is bank
        moved = bank.renamed(unposed, [replace(p, alias=f"x{p.name}", camid=p.camid + 1) for p in unposed])
        assert moved.names == tuple(f"x{name}" for name in bank.names) and moved.camids == tuple(c + 1 for c in bank.camids or ())

    @pytest.mark.parametrize(
        ("names", "paths", "camids", "complaint"),
        [
            ((), (), None, "at least one image and a name for each, got 0 names and 0 files"),
            (("a", "b"), ("a",), None, "got 2 names and 1 files"),
            (("a", "a"), ("a", "b"), None, "names each image once, got 'a' twice"),
            (("a",), ("a",), (0, 1), "a camera for each of its 1 images or none, got 2"),
        ],
    )
    def test_what_is_no_bank(
        self, names: tuple[str, ...], paths: tuple[str, ...], camids: tuple[int, ...] | None, complaint: str
    ) -> None:
        with pytest.raises(ValueError, match=complaint):
            ImageBank(names, paths, SIZE, camids)

    def test_who_can_draw_from_it(self, unposed: list[PersonImage], checkpoint: Path, momi: Path) -> None:
        bank, model = ImageBank.collect(unposed, SIZE), generators.load(momi)
        with pytest.raises(ValueError, match="PG2 finds no poses itself: it takes a PoseBank, got an ImageBank of 24 images"):
            Augmenter(generators.load(checkpoint), bank)
        with pytest.raises(ValueError, match="PG2 finds no poses itself: it takes a source pose, got None"):
            generators.load(checkpoint)(torch.zeros(1, 3, *SIZE), None, None)
        with pytest.raises(ValueError, match=r"renders images of \(32, 16\), the bank's images are \(64, 32\)"):
            Augmenter(model, ImageBank.collect(unposed, (64, 32)))
        for draw in {*DRAWS, "recombined"} - {"whole", "camera-aware"}:
            with pytest.raises(ValueError, match=f"draw={draw} goes by poses, and a bank of images knows none"):
                Augmenter(model, bank, draw=draw)
        cameras = Augmenter(model, bank, per_image=3, draw="camera-aware").plan(unposed)
        at = dict(zip(bank.names, bank.camids or (), strict=True))
        assert len(cameras) == 3 * len(unposed) and all(at[row.target] != row.camid for row in cameras)


def test_rendered_rows_are_the_model_called_by_hand(unposed: list[PersonImage], train: list[PersonImage], momi: Path) -> None:
    model, bank = generators.load(momi), ImageBank.collect(unposed, SIZE)
    augmenter = Augmenter(model, bank, per_image=1, seed=3, batch_size=5, device="cpu")
    rows = augmenter.plan(unposed)
    assert len(rows) == len(unposed), "nobody is dropped for want of a pose"
    at = {p.name: p.path for p in unposed}
    wanted = by_hand(model, [at[row.source] for row in rows], [at[row.target] for row in rows])
    shown = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for _, image in augmenter.render(rows, unposed)])
    assert int((shown.int() - wanted.int()).abs().max()) <= 1 and len({tuple(i.flatten()[:300].tolist()) for i in shown}) > 1
    given = Augmenter(model, PoseBank.collect(train, SIZE), per_image=1, seed=3, device="cpu")
    assert augmenter.made_by["bank"] == "images" and "bank" not in given.made_by
    with pytest.raises(ValueError, match="only training images may be augmented"):
        augmenter.plan([replace(unposed[0], split="query")])


class TestDumps:
    def test_of_people_without_keypoints(self, bare: Path, momi: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out = tmp_path / "dump"
        ask = ["dump", f"checkpoint={momi}", f"data.root={bare}", f"out={out}", "per_image=1", "seed=5", "device=cpu"]
        assert main(ask) == 0
        assert "24 synthetic images of 6 people" in capsys.readouterr().out and not list(out.glob("annotation-*"))
        manifest = Manifest.load(out / "manifest.jsonl")
        assert not manifest.in_scenes, "the place is the source's affair"
        at = {p.name: p.path for p in read_market_folder(bare)}
        row = manifest.rows[7]
        (image,) = by_hand(generators.load(momi), [at[row.source]], [at[row.target]])
        (tmp_path / "one.jpg").write_bytes(encode(image.permute(1, 2, 0).numpy(), ".jpg"))
        difference = read(out / row.path).astype(int) - read(tmp_path / "one.jpg").astype(int)
        assert abs(difference).max() <= 8 and abs(difference).mean() < 0.5, "but for a grey level before JPEG"
        assert main(["check", str(out)]) == 0
        assert main(["gate", str(out), "novelty=0.1", f"out={tmp_path / 'gated'}"]) == 2
        assert "novelty=0.1 compares target poses, and these images' were found by the generator" in capsys.readouterr().err

    def test_poses_are_the_option(self, rendered: RenderedSet, momi: Path, tmp_path: Path, checkpoint: Path,
                                  capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
        made_by = {}
        for bank in ("images", "poses"):
            out = tmp_path / bank
            ask = ["dump", f"checkpoint={momi}", f"data.root={rendered.root}", f"out={out}", "per_image=1", "device=cpu", f"bank={bank}"]
            assert main(ask) == 0
            made_by[bank] = Manifest.load(out / "manifest.jsonl").made_by
            lines = (out / "annotation-train.csv").read_text().splitlines()
            assert len(lines) == 1 + 48, "what keypoints there are go along, those of target poses too"
        assert made_by["images"]["bank"] == "images" and "bank" not in made_by["poses"]
        ask = ["dump", f"checkpoint={checkpoint}", f"data.root={rendered.root}", f"out={tmp_path / 'pg2'}", "bank=images"]
        assert main(ask) == 2
        assert "bank=images is for generators that find poses in images themselves, as momi does, PG2 does not" in capsys.readouterr().err


def test_a_torchreid_data_set_without_poses(unposed: list[PersonImage], momi: Path, checkpoint: Path, tmp_path: Path) -> None:
    labels = relabel(unposed)
    rows = [(p.path, labels[p.pid], p.camid) for p in unposed]
    base = torchreid_data.ImageDataset(rows, [("query.jpg", 90, 0)], [("gallery.jpg", 90, 1)], verbose=False)
    options = {"per_image": 1, "cache_dir": tmp_path / "cache", "device": "cpu", "verbose": False}
    posed = PoseAugmentedDataset(base, generator=momi, **options)
    assert posed.manifest is not None and len(posed.train) == 2 * len(rows)
    at = {p.name: p.path for p in unposed}
    row = posed.manifest.rows[3]
    (image,) = by_hand(generators.load(momi), [at[row.source]], [at[row.target]])
    assert abs(read(posed.folder / row.path).astype(int) - image.permute(1, 2, 0).numpy()).mean() < 6, "but for JPEG"
    few = ImageBank.collect(unposed[:3], SIZE)
    again = PoseAugmentedDataset(base, generator=momi, bank=few, **options)
    assert again.manifest is not None and {row.target for row in again.manifest.rows} <= set(few.names) and again.folder != posed.folder
    with pytest.raises(ValueError, match="PG2 is given poses: name them with poses="):
        PoseAugmentedDataset(base, generator=checkpoint, **options)
    with pytest.raises(ValueError, match="novelty=0.2 compares target poses"):
        PoseAugmentedDataset(base, generator=momi, gate={"novelty": 0.2}, **options)
    online = PoseAugmentedDataset(base, generator=momi, online=True, p=1.0, verbose=False)
    assert len(online.train) == len(base.train)
    for index in (0, 3):
        row, bank = online.draw_of(2, index), ImageBank.collect(unposed, SIZE)
        assert row is not None
        scene = bank.paths[bank.names.index(row.target)]
        torch.testing.assert_close(
            torch.from_numpy(online.render(2, index)).permute(2, 0, 1), by_hand(generators.load(momi), [online.train[index][0]], [scene])[0]
        )


class TestOnline:
    def test_batches_without_poses(self, unposed: list[PersonImage], momi: Path) -> None:
        model, bank = generators.load(momi), ImageBank.collect(unposed, SIZE)
        augmentation = PoseAugmentation(model, bank, p=0.6, seed=2)
        paths = [p.path for p in unposed[:8]]
        images = read_many(paths, SIZE).float() / 255
        shown, draw = augmentation(images), augmentation.last
        assert draw is not None and 0 < len(draw.rows) < 8
        wanted = by_hand(model, [paths[i] for i in draw.rows], [bank.paths[i] for i in draw.targets])
        assert float((shown[list(draw.rows)] * 255 - wanted).abs().max()) <= 1
        rest = [i for i in range(8) if i not in draw.rows]
        assert torch.equal(shown[rest], images[rest])
        unknown = Pose.unknown(openpose_18, SIZE)
        poses = Pose.stack([unknown] * 8)
        again = PoseDraw.from_json(draw.to_json())
        assert all(torch.equal(augmentation.render(images, given, again), shown) for given in (poses, None))

    def test_what_does_not_fit(self, unposed: list[PersonImage], train: list[PersonImage], momi: Path, checkpoint: Path) -> None:
        model, bank, posed = generators.load(momi), ImageBank.collect(unposed, SIZE), PoseBank.collect(train, SIZE)
        with pytest.raises(ValueError, match="PG2 finds no poses itself"):
            PoseAugmentation(generators.load(checkpoint), bank)
        with pytest.raises(ValueError, match="all of poses or all of images, got both"):
            PoseAugmentation(model, {0: bank, 1: posed})
        with pytest.raises(ValueError, match="draw=compatible goes by poses"):
            PoseAugmentation(model, bank, draw="compatible")
        with pytest.raises(ValueError, match="poses of the images are needed, got None"):
            PoseAugmentation(model, posed)(torch.zeros(2, 3, *SIZE))

    def test_every_identity_its_own_images(self, unposed: list[PersonImage], momi: Path) -> None:
        banks = {pid: ImageBank.collect([p for p in unposed if p.pid == pid], SIZE) for pid in {p.pid for p in unposed[:8]}}
        augmentation = PoseAugmentation(generators.load(momi), banks, p=1.0)
        pids = [p.pid for p in unposed[:8]]
        augmentation(read_many([p.path for p in unposed[:8]], SIZE).float() / 255, None, pids)
        assert augmentation.last is not None and augmentation.last.pids == tuple(pids)
        assert all(name in banks[pid].names for pid, name in zip(pids, augmentation.last.names, strict=True))
