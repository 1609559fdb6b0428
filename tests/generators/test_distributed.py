"""Several processes train as one."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from generator_helpers import (
    run,
)

import generators
from generators import checkpoints
from generators.training import CHECKPOINT


@pytest.mark.slow
def test_two_processes_train_as_one(script: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """Exactly so without batch norm, which sees half a batch each: stage I. In stage II both keep equal weights."""
    subprocess.run([sys.executable, script, "shared", tmp_path], check=True, capture_output=True, timeout=180, env=environment)
    module = runpy.run_path(str(script))
    alone, start = module["model"](100), module["model"](100)
    run(alone, module["pairs"](), tmp_path / "alone", 4)
    together = generators.load(tmp_path / "one" / CHECKPOINT)
    for key, value in alone.state_dict().items():
        assert torch.allclose(together.state_dict()[key], value, rtol=0, atol=1e-5), key
    assert (alone.stage1.end.weight - start.stage1.end.weight).abs().max() > 1e-3, "it went far further than the tolerance"
    for name in ("one", "two"):
        first, second = (generators.load(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b), f"{name}: {key} differs between the processes"
    assert checkpoints.read_header(tmp_path / "two" / CHECKPOINT)["step"] == 4
