from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from generator_helpers import ROOT, SCRIPT, SIXTH, MakePair, MakePose, narrow_vgg_weights, random_pair, random_pose

from generators import PosePair, registry


# Session-wide, so that Hypothesis has nothing against them.
@pytest.fixture(scope="session")
def a_pose() -> MakePose:
    return random_pose


@pytest.fixture(scope="session")
def a_pair() -> MakePair:
    return random_pair


@pytest.fixture(scope="session")
def narrow_vgg() -> Callable[..., dict[str, torch.Tensor]]:
    return narrow_vgg_weights


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Weights made in a test are the same at every run, whatever ran before."""
    torch.manual_seed(0)


# --- training ---


@pytest.fixture
def stream(a_pair: MakePair) -> Callable[..., Iterator[PosePair]]:
    """Random pairs without end, the same from the same start."""

    def pairs(start: int = 0, batch: int = 2, size: tuple[int, int] = (32, 16)) -> Iterator[PosePair]:
        while True:
            yield a_pair(start, batch, size=size)
            start += 1

    return pairs


@pytest.fixture
def sixth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A generator's name that exists while its file, in another folder, is on the models' path."""
    folder = tmp_path / "my_models"
    folder.mkdir()
    (folder / "sixth.py").write_text(SIXTH)
    (folder / "sixth.yaml").write_text("generator:\n  name: sixth\n  size: [16, 8]\n  drop: 0.25\n")
    importlib.invalidate_caches()
    monkeypatch.setenv("REID_AUG_GENERATORS", str(folder))
    yield "sixth"
    sys.modules.pop("generators.models.sixth", None)
    if hasattr(registry.models, "sixth"):
        del registry.models.sixth


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """A file that trains in processes of its own."""
    path = tmp_path / "train_it.py"
    path.write_text(SCRIPT)
    return path


@pytest.fixture
def environment() -> dict[str, str]:
    # One thread as in here (tests/conftest.py): sums are equal bit for bit only in equal order.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
