"""Photographs of a turned camera: every door sees what a viewer shows, which is what keypoints are of."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchreid import data as torchreid_data
from torchvision import transforms

import generators
from reid_aug import Augmenter, PersonImage, PoseAugmentedDataset, PoseBank, images, with_poses
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.posed_images import PosedImages
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.dump import dump
from reid_aug.synthesis.training_pairs import PairStream

SIZE = (32, 16)


@pytest.fixture(scope="module", params=[3, 6])
def turned(rendered: RenderedSet, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """The rendered people again, as a camera upside down (3) or on its side (6) stores them, without loss."""
    root = Path(shutil.copytree(rendered.root, tmp_path_factory.mktemp("turned") / "set"))
    way = {3: Image.Transpose.ROTATE_180, 6: Image.Transpose.ROTATE_90}[request.param]
    exif = Image.Exif()
    exif[274] = request.param
    for path in root.glob("*/*.jpg"):
        Image.open(path).convert("RGB").transpose(way).save(path, "PNG", exif=exif)
    return root


def test_people_and_poses(turned: Path, people: list[PersonImage]) -> None:
    seen = load_people(DataConfig(root=str(turned)), test_poses=True)
    for person, upright in zip(seen, people, strict=True):
        assert person.name == upright.name and np.array_equal(images.read(person.path), images.read(upright.path))
        assert person.pose is not None and upright.pose is not None and person.pose.size == upright.pose.size == SIZE
        assert torch.equal(person.pose.xy, upright.pose.xy)


def test_pairs_batches_and_scenes(turned: Path, people: list[PersonImage]) -> None:
    seen = load_people(DataConfig(root=str(turned)))
    train = [p for p in people if p.split == "train"]
    assert torch.equal(PairStream(seen, SIZE, 4)[0].source, PairStream(people, SIZE, 4)[0].source)
    assert torch.equal(PosedImages(seen, SIZE)[0].image, PosedImages(people, SIZE)[0].image)
    banks = [PoseBank.collect([p for p in some if p.split == "train"], SIZE) for some in (seen, train)]
    assert torch.equal(banks[0].scenes([0], SIZE), banks[1].scenes([0], SIZE))


def test_a_dump_is_upright_for_tools_that_know_no_exif(turned: Path, people: list[PersonImage], checkpoint: Path, tmp_path: Path) -> None:
    seen = load_people(DataConfig(root=str(turned)), test_poses=True)
    bank = PoseBank.collect([p for p in seen if p.split == "train"], SIZE)
    written = dump(seen, Augmenter(generators.load(checkpoint), bank, 1, 0), tmp_path / "out")
    assert not written.verify(tmp_path / "out")
    for split, folder in (("train", "bounding_box_train"), ("query", "query")):
        person = next(p for p in people if p.split == split)
        raw = np.asarray(Image.open(tmp_path / "out" / folder / person.name).convert("RGB")).astype(int)
        assert raw.shape == (*SIZE, 3) and np.abs(raw - images.read(person.path)).mean() < 8, "but for the JPEG"


def test_torchreids_data_sets(turned: Path, people: list[PersonImage], checkpoint: Path, tmp_path: Path) -> None:
    seen = load_people(DataConfig(root=str(turned)), test_poses=True)
    rows = {split: [(p.path, p.pid - 1 if split == "train" else p.pid, p.camid) for p in seen if p.split == split]
            for split in ("train", "query", "gallery")}  # fmt: skip
    base = torchreid_data.ImageDataset(**rows, transform=transforms.ToTensor(), verbose=False)
    upright = torch.from_numpy(images.read(people[0].path)).permute(2, 0, 1) / 255
    item = with_poses(base, {p.name: p.pose for p in seen if p.pose is not None})[0]
    assert torch.equal(item["img"], upright) and people[0].pose is not None and torch.equal(item["pose_xy"], people[0].pose.xy)
    posed = PoseAugmentedDataset(
        base, generator=checkpoint, poses=turned / "annotation-train.csv", per_image=1, cache_dir=tmp_path, verbose=False
    )
    assert torch.equal(posed[0]["img"], upright)
