"""A small benchmark, run once for the tests of its loop and of its report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.run import Result, run
from reid_aug.config import shipped

SMALL = [
    "rendered={train_identities: 5, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}",
    "generators.pg2.generator={name: pg2, size: [32, 16], width: 4, stage1_steps: 3, stage2_steps: 2}",
    "generators.pg2.batch_size=4", "baseline.size=[32, 16]", "baseline.steps=3", "baseline.identities=4", "baseline.instances=2",
    "baseline.crop_px=2", "quality.pairs=6", "seeds=[0,1]", "per_image=1",
]  # fmt: skip


@pytest.fixture(scope="session")
def small() -> list[str]:
    """Settings that make the shipped benchmark small."""
    return SMALL


@pytest.fixture(scope="session")
def configure() -> Callable[..., BenchConfig]:
    """The small benchmark below a folder, with more settings."""

    def load(folder: Path, *settings: str) -> BenchConfig:
        return load_config(str(shipped("benchmarks/pg2.yaml")), [*SMALL, f"out={folder / 'runs'}", *settings])

    return load


@pytest.fixture(scope="session")
def config(configure: Callable[..., BenchConfig], tmp_path_factory: pytest.TempPathFactory) -> BenchConfig:
    return configure(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="session")
def result(config: BenchConfig) -> Result:
    return run(config)
