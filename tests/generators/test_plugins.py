"""A generator of the user's own: one file and one YAML in a folder, and everything there is picks it up."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import generators

ROOT = Path(__file__).resolve().parents[2]
SIXTH = '''
"""A sixth generator: one convolution over image, poses and skeleton. Nobody et al., 2021.

Differs from the paper: there is none.
"""
import torch
from torch import nn
from generators import Generator, gaussian_maps, keeps_options
from generators.losses import fake_loss, real_loss

class Sixth(Generator):
    """One convolution."""

    paper = "Nobody et al. 2021"

    @keeps_options
    def __init__(self, size=(64, 32), width=8, steps=3):
        super().__init__()
        self.size, self.steps = tuple(size), steps
        self.net = nn.Sequential(nn.Conv2d(39, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))
        self.critic = nn.Conv2d(6, 1, 4, stride=4)

    def forward(self, source, source_pose, target_pose, scene=None):
        self.check(source, source_pose, target_pose, scene)
        maps = [gaussian_maps(pose, 3.0).to(source.dtype) for pose in (source_pose, target_pose)]
        return torch.tanh(3 * self.net(torch.cat((source, *maps), dim=1)))

    def players(self):
        return {"generator": self.net, "discriminator": self.critic}

    def turn(self, step):
        return ("discriminator", "generator")

    def schedule_steps(self):
        return self.steps

    def losses(self, player, pair, step):
        image = self.share("image", lambda: self(pair.source, pair.source_pose, pair.target_pose))
        judge = lambda images: self.critic(torch.cat((pair.source, images), dim=1))
        if player == "discriminator":
            return {"real": real_loss(judge(pair.target)), "fake": fake_loss(judge(image.detach()))}
        return {"adversarial": real_loss(judge(image)), "l1": (image - pair.target).abs().mean()}
'''
YAML = "generator:\n  name: sixth\n  size: [64, 32]\n  width: 8\n  steps: 3\nout: runs/sixth\nbatch_size: 4\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "sixth.py").write_text(SIXTH)
    (folder / "sixth.yaml").write_text(YAML)
    return folder


def run(folder: Path, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    variables = os.environ | {"REID_AUG_GENERATORS": str(folder), "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *words], cwd=cwd, env=variables, capture_output=True, text=True, timeout=400)


@pytest.mark.slow
def test_every_shared_test_takes_it_up(folder: Path) -> None:
    laws = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/generators/test_laws.py", "-k", "sixth or yaml")
    done = run(folder, *laws)
    assert done.returncode == 0, done.stdout[-3000:]
    assert done.stdout.count(".") >= 25, "laws are over generators.names(), YAMLs over every folder"
    (folder / "sixth.yaml").unlink()
    assert "one file and one YAML" in run(folder, *laws[:-1], "test_every_generator_has_its_yaml").stdout


def test_tests_of_other_rooms_take_it_up(folder: Path) -> None:
    """What it draws in a batch is drawn again from the record, as every generator's is."""
    done = run(folder, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/reid_aug/synthesis/test_online.py", "-k", "sixth")
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout[-3000:]


@pytest.mark.slow
def test_the_benchmark_takes_it_up(folder: Path, tmp_path: Path) -> None:
    words = (
        str(ROOT / "benchmarks" / "run.py"), str(ROOT / "configs" / "benchmarks" / "smoke.yaml"), "arms=[none,sixth]", "seeds=[0]",
        "rendered.size=[64,32]", f"out={tmp_path / 'runs'}",
    )  # fmt: skip
    done = run(folder, *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "| sixth |" in done.stdout
    (kept,) = (tmp_path / "runs").glob("*/config.json")
    arm = json.loads(kept.read_text())["generators"]["sixth"]
    assert arm["batch_size"] == 4 and arm["generator"] == {"name": "sixth", "size": [64, 32], "width": 8, "steps": 3}, "as its YAML says"
    (folder / "sixth.yaml").unlink()
    done = run(folder, *words)
    assert done.returncode == 2 and "arm 'sixth': no sixth.yaml in" in done.stderr and str(folder) in done.stderr


@pytest.mark.slow
def test_the_speed_benchmark_takes_it_up(folder: Path, tmp_path: Path) -> None:
    words = ("sixth", "--batch", "2", "--skip", "parts", "--quick", "--out", str(tmp_path / "speed.json"))
    done = run(folder, str(ROOT / "benchmarks" / "generator_speed.py"), *words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "sixth [64, 32]" in done.stdout and (tmp_path / "speed.json").exists()


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REID_AUG_GENERATORS", str(tmp_path / "absent"))
    with pytest.raises(NotADirectoryError, match="REID_AUG_GENERATORS names .*absent"):
        generators.names()


def test_nothing_takes_a_name_of_the_packages_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pg2.py").write_text("raise RuntimeError('not this one')")
    monkeypatch.setenv("REID_AUG_GENERATORS", str(folder))
    assert generators.names().count("pg2") == 1
    assert generators.create("pg2", size=(32, 16), width=4).paper.startswith("Ma et al.")
