"""Small worlds the tests share: a handful of rendered people, and an untrained PG2 that draws at their size."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import pytest
import torch

import generators
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.loading import with_keypoints
from reid_aug.data.market import read_market_folder
from reid_aug.data.masks import with_masks, write_mask
from reid_aug.data.people import SPLITS, PersonImage
from reid_aug.rendered import RenderedConfig, RenderedSet, write_rendered

SIZE = (32, 16)


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> RenderedSet:
    """Six people to train on, four to find; read only."""
    config = RenderedConfig(train_identities=6, test_identities=4, train_images=4, query_images=2, gallery_images=5, size=SIZE)
    return write_rendered(tmp_path_factory.mktemp("rendered") / "set", config)


@pytest.fixture(scope="session")
def people(rendered: RenderedSet) -> list[PersonImage]:
    everybody = read_market_folder(rendered.root)
    everybody = with_keypoints(everybody, rendered.root / "annotation-train.csv", ("train",))
    return with_keypoints(everybody, rendered.root / "annotation-test.csv", ("query", "gallery"))


@pytest.fixture(scope="session")
def masks(rendered: RenderedSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """True silhouettes of the rendered people, but for every fifth image; read only."""
    folder = tmp_path_factory.mktemp("masks")
    for number, name in enumerate(sorted(rendered.rows)):
        if number % 5:
            write_mask(folder, name, torch.from_numpy(rendered.truth(name).body_mask).float())
    return folder


@pytest.fixture(scope="session")
def masked(people: list[PersonImage], masks: Path) -> list[PersonImage]:
    """The people with the files of their silhouettes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataDoubt)
        return with_masks(people, masks, splits=SPLITS)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PG2 that nobody trained."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("checkpoint") / "pg2.safetensors"
    generators.save(generators.create("pg2", size=SIZE, width=4), path)
    return path


@pytest.fixture
def folder(rendered: RenderedSet, tmp_path: Path) -> Path:
    """A copy of the rendered folder that a test may spoil."""
    return Path(shutil.copytree(rendered.root, tmp_path / "data"))


@pytest.fixture(scope="session")
def momi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A MOMI-Net that nobody trained, whose detector sees a joint everywhere: poses differ between images, and matter."""
    torch.manual_seed(0)
    model = generators.create("momi", size=SIZE, width=4, blocks=1, detector_blocks=1, sigma_px=2.0, threshold=-100.0)
    path = tmp_path_factory.mktemp("momi") / "momi.safetensors"
    generators.save(model, path)
    return path


@pytest.fixture
def bare(rendered: RenderedSet, tmp_path: Path) -> Path:
    """The rendered people without any keypoint file."""
    return Path(shutil.copytree(rendered.root, tmp_path / "bare", ignore=shutil.ignore_patterns("annotation-*")))
