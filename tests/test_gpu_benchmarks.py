"""The checks that compare a GPU with the CPU run without one: the CPU against itself, small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_every_check_runs_on_a_cpu_and_agrees_with_itself(tmp_path: Path) -> None:
    out = tmp_path / "checks.json"
    command = [sys.executable, "-m", "benchmarks.gpu.checks", str(out), "--device", "cpu", "--tiny"]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    checks = json.loads(out.read_text())["checks"]
    assert len(checks) == 11 and all(check["ok"] for check in checks.values())


def test_an_unknown_check_is_refused_with_the_nearest(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.checks", str(tmp_path / "checks.json"), "warp", "--device", "cpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "did you mean 'warps'?" in done.stderr
    assert not (tmp_path / "checks.json").exists()
