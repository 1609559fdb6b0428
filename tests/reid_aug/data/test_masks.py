"""Silhouettes as files: which image each is of, what is missing is told, what can't be one is refused by name."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from generators import Pose, openpose_18
from reid_aug import images
from reid_aug.cli import main
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import mask_file, masks_digest, read_mask, read_masks, with_masks, with_silhouettes, write_mask
from reid_aug.data.people import PersonImage
from reid_aug.data.posed_images import PosedImages, collate_poses
from reid_aug.rendered import RenderedSet

SIZE = (32, 16)


@pytest.fixture
def own(masks: Path, tmp_path: Path) -> Path:
    """A copy of the silhouettes that a test may spoil."""
    return Path(shutil.copytree(masks, tmp_path / "m"))


@pytest.fixture
def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


def test_who_has_none_is_counted_and_told_once(train: list[PersonImage], masks: Path) -> None:
    missing = [p.name for p in train if not mask_file(masks, p.name).exists()]
    assert 0 < len(missing) < len(train)
    with pytest.warns(DataDoubt, match=rf"{len(missing)} of {len(train)} images have no silhouette in .*: {missing[0]}") as warned:
        masked = with_masks(train, masks)
    assert len(warned) == 1
    assert [p.name for p in masked if p.mask is None] == missing
    assert all(p.mask == os.fspath(mask_file(masks, p.name)) for p in masked if p.mask) and [replace(p, mask=None) for p in masked] == train
    poseless = replace(train[0], pose=None)
    assert with_masks([poseless], masks)[0].mask is None, "nobody is rendered from an image without a pose"


def test_names_are_those_of_poses(tmp_path: Path) -> None:
    """Whole names, ends of paths where names are not enough, and names without the image's own suffix, as other tools write them."""
    pose = Pose.unknown(openpose_18, SIZE)
    people = [PersonImage(f"/set/{name}", 1, 0, "train", pose) for name in ("a/1.jpg", "b/1.jpg", "2.jpg", "3.bmp")]
    for name in ("a/1.jpg", "b/1.jpg", "2", "3.bmp"):
        write_mask(tmp_path, name, torch.ones(SIZE))
    assert [Path(p.mask or "").relative_to(tmp_path).as_posix() for p in with_masks(people, tmp_path)] == [
        "a/1.jpg.png", "b/1.jpg.png", "2.png", "3.bmp.png",
    ]  # fmt: skip


def test_a_folder_of_nobodys_silhouettes_is_an_error_with_an_example(train: list[PersonImage], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no folder of silhouettes at .*nowhere: make one with reid-aug poses"):
        with_masks(train, tmp_path / "nowhere")
    expected = f"has a silhouette of none of {len(train)} images: .* as {train[0].name}.png"
    with pytest.raises(ValueError, match=expected + "$"):
        with_masks(train, tmp_path)
    write_mask(tmp_path, "somebody.jpg", torch.ones(SIZE))
    with pytest.raises(ValueError, match=expected + r", it has somebody\.jpg\.png$"):
        with_masks(train, tmp_path)


@pytest.mark.filterwarnings("ignore::reid_aug.data.doubts.DataDoubt")
def test_one_of_another_shape_is_refused_and_one_of_another_size_resized(people: list[PersonImage], own: Path) -> None:
    there = next(p for p in people if p.split == "train" and mask_file(own, p.name).exists())
    write_mask(own, there.name, torch.ones(64, 32))
    (masked,) = (p for p in with_masks(people, own) if p.name == there.name)
    assert torch.equal(read_masks([masked.mask], SIZE), torch.full((1, *SIZE), 255, dtype=torch.uint8))
    write_mask(own, there.name, torch.ones(32, 32))
    with pytest.raises(ValueError, match=rf"mask .*{there.name}\.png' is of 32 × 32 pixels, and its image of 32 × 16: another shape"):
        with_masks(people, own)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (np.eye(32, 16, dtype=np.uint8), "values are 0 and 1, and a silhouette's 0 to 255"),
        (np.full((32, 16), 700, np.uint16), "more than 8 bits"),
        (b"", "empty or no image format"),
    ],
)
def test_what_is_no_silhouette_is_refused_by_name(content: np.ndarray | bytes, why: str, tmp_path: Path) -> None:
    file = mask_file(tmp_path, "a.jpg")
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        Image.fromarray(content).save(file)
    with pytest.raises(images.ImageError, match=rf"mask '.*a\.jpg\.png' can't be used: .*{why}"):
        read_mask(tmp_path, "a.jpg", SIZE)


def test_black_and_white_palettes_and_colours_are_read(tmp_path: Path) -> None:
    person = np.zeros((32, 16), bool)
    person[4:28, 4:12] = True
    for mode in ("1", "L", "P", "RGB"):
        Image.fromarray(person).convert(mode).save(mask_file(tmp_path, mode))
        shown = read_mask(tmp_path, mode, SIZE)
        assert shown is not None and torch.equal(shown, torch.from_numpy(person).float()), mode


def test_poses_get_what_is_known_and_stay_as_they_are_without() -> None:
    pose = Pose.unknown(openpose_18, SIZE)[None]
    assert with_silhouettes(pose, None) is pose and with_silhouettes(pose, [None]) is pose and masks_digest([None]) is None


def test_a_digest_is_of_content_and_order(own: Path) -> None:
    files: list[str | None] = [os.fspath(file) for file in sorted(own.glob("*.png"))[:3]]
    first = masks_digest(files)
    assert first == masks_digest(files) and first is not None and first != masks_digest(files[::-1]) != masks_digest([*files[:2], None])
    write_mask(own, Path(files[0] or "").name.removesuffix(".png"), torch.ones(SIZE))
    assert masks_digest(files) != first


def test_items_of_a_loader_have_them_in_worker_processes_too(masked: list[PersonImage], rendered: RenderedSet) -> None:
    some = [p for p in masked if p.split == "train"][:6]
    assert any(p.mask is None for p in some)
    for workers in (0, 1):
        (batch,) = DataLoader(PosedImages(some, SIZE), 6, collate_fn=collate_poses, num_workers=workers)
        true = torch.from_numpy(np.stack([rendered.truth(p.name).body_mask * (p.mask is not None) for p in some])).float()
        assert batch.poses.silhouette is not None and torch.equal(batch.poses.silhouette, true)
    (plain,) = DataLoader(PosedImages([replace(p, mask=None) for p in some], SIZE), 6, collate_fn=collate_poses)
    assert plain.poses.silhouette is None


@pytest.mark.filterwarnings("ignore::reid_aug.data.doubts.DataDoubt")
def test_a_configuration_names_the_folder(rendered: RenderedSet, own: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    data = DataConfig(root=str(rendered.root), masks=str(own))
    assert "masks" in data.model_dump() and "masks" not in DataConfig(root="x").model_dump()
    of_train, of_all = load_people(data), load_people(data, test_poses=True)
    assert {p.split for p in of_train if p.mask} == {"train"} and {p.split for p in of_all if p.mask} == {"train", "query", "gallery"}
    assert all(p.mask is None for p in load_people(data, test_poses=True, masked=()))
    broken = sorted(own.glob("*.png"))[0]
    broken.write_bytes(broken.read_bytes()[:40])
    settings = ["train", "warpblend", f"data.root={rendered.root}", f"data.masks={own}", f"out={tmp_path / 'run'}"]
    assert main([*settings, "generator.size=[32,16]", "steps=1"]) == 2
    said = capsys.readouterr().err
    assert f"mask '{broken}' can't be used" in said and "Traceback" not in said
