"""Files of pose banks: what is read is what was saved, with its images, without them, and never with others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import generators
from reid_aug import Augmenter, PersonImage, PoseAugmentation, PoseBank, images
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.synthesis.bank_file import BankFile
from reid_aug.synthesis.bank_named import named_bank

SIZE = (32, 16)


@pytest.fixture
def there(folder: Path) -> PoseBank:
    """The bank of a folder that a test may spoil."""
    people = load_people(DataConfig(root=str(folder)))
    return PoseBank.collect([p for p in people if p.split == "train"], SIZE)


def same(bank: PoseBank, other: PoseBank) -> None:
    assert (bank.names, bank.camids, bank.digest) == (other.names, other.camids, other.digest)
    assert torch.equal(bank.pose.xy, other.pose.xy) and bank.pose.size == other.pose.size and bank.pose.skeleton == other.pose.skeleton


def test_what_is_loaded_is_what_was_saved(there: PoseBank, folder: Path, tmp_path: Path) -> None:
    there.save(tmp_path / "bank.safetensors", root=folder, about={"root": "data"})
    loaded = PoseBank.load(tmp_path / "bank.safetensors")
    same(loaded, there)
    assert loaded.scenes_digest == there.scenes_digest and torch.equal(loaded.scenes([3, 1], SIZE), there.scenes([3, 1], SIZE))
    read = BankFile.read(tmp_path / "bank.safetensors")
    assert read.images == tuple(f"bounding_box_train/{name}" for name in there.names) and read.about == {"root": "data"}
    thin = replace(there, camids=None, paths=None).pick([4, 0])
    thin.save(tmp_path / "thin.safetensors")
    same(PoseBank.load(tmp_path / "thin.safetensors"), thin)


@pytest.mark.parametrize("size", [SIZE, (64, 32)])
def test_other_skeletons_dtypes_and_a_single_pose(there: PoseBank, tmp_path: Path, size: tuple[int, int]) -> None:
    pose = generators.convert(there.pose.to(torch.float64), generators.coco_17)[:1]
    bank = PoseBank(("a",), pose).at(size)
    bank.save(tmp_path / "bank.safetensors")
    same(PoseBank.load(tmp_path / "bank.safetensors"), replace(bank, pose=bank.pose.to(torch.float32)))


class TestMoved:
    def moved(self, bank: PoseBank, folder: Path, to: Path) -> Path:
        bank.save(to / "bank.safetensors", root=folder)
        shutil.move(folder, to / "elsewhere")
        return to / "bank.safetensors"

    def test_without_its_images_it_draws_without_scenes_and_says_so(
        self, there: PoseBank, folder: Path, tmp_path: Path, train: list[PersonImage]
    ) -> None:
        bank = PoseBank.load(self.moved(there, folder, tmp_path))
        same(bank, there)
        assert bank.paths is None
        with pytest.raises(ValueError, match=r"24 of its 24 images are not there.*root=DIR\) says where they are"):
            bank.scenes([0], SIZE)
        warp, pg2 = generators.create("warpblend", size=SIZE, width=4), generators.create("pg2", size=SIZE, width=4)
        with pytest.warns(DataDoubt, match="people stay in their own places, for the pose bank has no images.*24 of its 24 images"):
            augmenter = Augmenter(warp, bank, device="cpu")
        assert not augmenter.in_scenes and augmenter.made_by["scenes"] == "none"
        rows = augmenter.plan(train)[:2]
        assert [image.shape for _, image in augmenter.render(rows, train)] == [(*SIZE, 3)] * 2
        with pytest.warns(DataDoubt, match="people stay in their own places"):
            assert not PoseAugmentation(warp, bank).renderer.in_scenes
        assert not Augmenter(pg2, bank, device="cpu").in_scenes  # takes none, and nothing is said: warnings are errors here

    pytestmark = pytest.mark.filterwarnings("error::reid_aug.data.doubts.DataDoubt")

    def test_where_they_are_may_be_said(self, there: PoseBank, folder: Path, tmp_path: Path) -> None:
        expected = there.scenes([0, 5], SIZE)
        file = self.moved(there, folder, tmp_path)
        bank = PoseBank.load(file, root=tmp_path / "elsewhere")
        assert torch.equal(bank.scenes([0, 5], SIZE), expected)
        shutil.copy(file, tmp_path / "elsewhere" / "bank.safetensors")  # beside them they are found
        assert torch.equal(PoseBank.load(tmp_path / "elsewhere" / "bank.safetensors").scenes([0, 5], SIZE), expected)

    def test_one_that_is_missing_is_named(self, there: PoseBank, folder: Path, tmp_path: Path) -> None:
        there.save(tmp_path / "bank.safetensors", root=folder)
        (folder / "bounding_box_train" / there.names[7]).unlink()
        bank = PoseBank.load(tmp_path / "bank.safetensors")
        says = f"1 of its 24 images are not there, as {folder}/bounding_box_train/{there.names[7]}"
        assert bank.paths is None and says in bank.without_images

    def test_another_image_under_a_name_is_refused(self, there: PoseBank, folder: Path, tmp_path: Path) -> None:
        there.save(tmp_path / "bank.safetensors", root=folder)
        assert there.paths is not None
        shutil.copy(there.paths[1], there.paths[0])
        bank = PoseBank.load(tmp_path / "bank.safetensors")
        says = rf"{there.names[0]} is another image than the one the bank was made of, by SHA-256: collect it anew"
        uses: list[Callable[[], object]] = [
            lambda: bank.scenes([3], SIZE), lambda: bank.scenes_digest, lambda: bank.save(tmp_path / "again.safetensors"),
            lambda: Augmenter(generators.create("warpblend", size=SIZE, width=4), bank, device="cpu"),
            lambda: PoseAugmentation(generators.create("warpblend", size=SIZE, width=4), bank),
        ]  # fmt: skip
        for use in uses:
            with pytest.raises(ValueError, match=says):
                use()
        assert len(replace(bank, paths=None)) == 24  # poses are poses

    def test_a_relative_folder_is_looked_for_from_here_and_from_the_file(
        self, there: PoseBank, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        there.save("bank.safetensors")  # the folder that all have in common
        assert BankFile.read("bank.safetensors").root == "data/bounding_box_train"
        (tmp_path / "other").mkdir()
        monkeypatch.chdir(tmp_path / "other")
        assert PoseBank.load("../bank.safetensors").paths is not None


def test_mirrored_poses_have_mirrored_images(there: PoseBank, tmp_path: Path) -> None:
    bank = there.with_mirrored()
    assert len(bank) == 48 and bank.names[24] == f"{there.names[0]}#mirrored"
    assert torch.equal(bank.scenes([24 + 3], SIZE)[0], there.scenes([3], SIZE)[0].flip(-1))
    assert torch.equal(bank.scenes([3], SIZE), there.scenes([3], SIZE))
    twice = generators.mirror(bank.pose[24:])
    torch.testing.assert_close(twice.xy, there.pose.xy)
    assert torch.equal(twice.visible, there.pose.visible) and bank.camids == (there.camids or ()) * 2
    assert bank.scenes_digest != replace(bank, mirrored=None).scenes_digest
    bank.pick([30, 2]).save(tmp_path / "bank.safetensors")
    loaded = PoseBank.load(tmp_path / "bank.safetensors")
    assert loaded.mirrored == (True, False) and torch.equal(loaded.scenes([0], SIZE), bank.scenes([30], SIZE))
    with pytest.raises(ValueError, match="holds mirrored poses already"):
        loaded.with_mirrored()


def test_new_names_reach_mirrored_poses_too(there: PoseBank, train: list[PersonImage]) -> None:
    assert there.paths is not None
    before = [PersonImage(path, 1, 0, "train") for path in there.paths]
    after = [replace(p, alias=f"{i}.jpg") for i, p in enumerate(before)]
    for bank in (there, replace(there, paths=None)):
        named = bank.with_mirrored().renamed(before, after).names
        assert (named[0], named[24 + 5]) == ("0.jpg", "5.jpg#mirrored")


def test_of_a_side(there: PoseBank) -> None:
    from reid_aug.data.body import VIEWS, view

    sides = [VIEWS[v] for v in view(there.pose).tolist()]
    for side in set(sides):
        assert there.of_view(side).names == tuple(name for name, s in zip(there.names, sides, strict=True) if s == side)
    with pytest.raises(ValueError, match="a view is one of front, right, back, left, got 'fron'"):
        there.of_view("fron")
    only = there.of_view(sides[0])
    other = next(name for name in VIEWS if name != sides[0])
    with pytest.raises(ValueError, match=f"none of the bank's {len(only)} poses is seen from the {other}"):
        only.of_view(other)


@pytest.mark.parametrize("by", ["kmeans", "kmedoids"])
def test_thinning_keeps_what_belongs_to_each(there: PoseBank, by: str) -> None:
    thin = there.thin(5, by=by)
    assert 1 <= len(thin) <= 5 and thin.digest == there.thin(5, by=by).digest
    of = dict(zip(there.names, zip(there.camids or (), there.paths or (), strict=True), strict=True))
    assert [of[name] for name in thin.names] == list(zip(thin.camids or (), thin.paths or (), strict=True))
    with pytest.raises(ValueError, match="a way of thinning is one of kmeans, kmedoids, got 'kmean'"):
        there.thin(5, by="kmean")


def test_what_is_no_bank_is_refused(there: PoseBank, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "text.safetensors").write_text("no")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    for path, says in (
        (tmp_path / "none.safetensors", "no pose bank at .*reid-aug bank ROOT --out"),
        (tmp_path / "text.safetensors", "no whole safetensors"),
        (tmp_path / "plain.safetensors", "is no pose bank: its header says format None"),
        (checkpoint, "is no pose bank: its header says format 'reid-aug generator 1'"),
    ):  # fmt: skip
        with pytest.raises((ValueError, OSError), match=says):
            PoseBank.load(path)
    there.save(tmp_path / "bank.safetensors")
    with pytest.raises(ValueError, match="has poses of 32 × 16 images, 16 × 16 are wanted"):
        named_bank(tmp_path / "bank.safetensors", (16, 16))
    assert named_bank(tmp_path / "bank.safetensors", (64, 32)).pose.size == (64, 32)
    with pytest.raises(ValueError, match="no pose bank named 'canonical-9'; there are canonical-8, canonical-16.*or a .safetensors file"):
        named_bank("canonical-9")


def test_images_are_what_they_were(there: PoseBank) -> None:
    """A bank that was collected knows no digests, and checks none."""
    assert there.digests is None and there.paths is not None
    assert np.array_equal(there.scenes([0], SIZE)[0].permute(1, 2, 0), images.read(there.paths[0], SIZE))
