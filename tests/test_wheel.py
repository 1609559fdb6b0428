"""An installed wheel is whole: configurations are found by name, and the package lists what there is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def toml_list(key: str) -> list[str]:
    """A list of strings in pyproject.toml (Python 3.10 has no reader)."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(rf"^{key} = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert found is not None
    return re.findall(r'"([^"]+)"', found[1])


def test_every_package_is_listed() -> None:
    folders = {
        ".".join(init.parent.relative_to(ROOT).parts)
        for package in ("generators", "reid_aug") for init in (ROOT / package).rglob("__init__.py")
    }  # fmt: skip
    assert set(toml_list("packages")) == folders | {"reid_aug.configs"}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel of this checkout unpacked by pip, as in site-packages."""
    place = tmp_path_factory.mktemp("wheel")
    # A copy of what git would take along: a build leaves folders behind.
    for name in ("generators", "reid_aug", "configs"):
        shutil.copytree(ROOT / name, place / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, place / "tree" / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = [*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "-w", str(place), str(place / "tree")]
    done = subprocess.run(build, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = place.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert not [name for name in names if name.startswith(("tests/", "benchmarks/", "configs/"))]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", str(place / "site"), str(wheel)], check=True)
    return place / "site"


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "reid_aug.cli", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


@pytest.mark.slow
def test_configurations_are_found_by_name(installed: Path, tmp_path: Path) -> None:
    assert {p.relative_to(ROOT / "configs") for p in (ROOT / "configs").rglob("*.yaml")} == {
        p.relative_to(installed / "reid_aug" / "configs") for p in (installed / "reid_aug" / "configs").rglob("*.yaml")
    }
    people = ["train_identities=4", "test_identities=3", "train_images=3", "query_images=1", "gallery_images=3", "size=[32,16]"]
    assert run(installed, tmp_path, "rendered", "out=people", *people).returncode == 0
    small = ["generator.size=[32,16]", "generator.width=4", "generator.stage1_steps=1", "generator.stage2_steps=1", "batch_size=2"]
    trained = run(installed, tmp_path, "train", "pg2", "data.root=people", "out=pg2", "accelerator=cpu", *small)
    assert trained.returncode == 0 and "trained step 2: pg2/last.safetensors" in trained.stdout, trained.stderr
    measured = run(
        installed, tmp_path, "quality", "pg2/last.safetensors", "deformable", "data.root=people", "size=null", "pairs.count=3",
        "download=false", "device=cpu", "out=quality",
    )  # fmt: skip
    assert measured.returncode == 0 and "| mask-SSIM |" in measured.stdout, measured.stderr
    tiny = [
        "rendered={train_identities: 4, test_identities: 3, train_images: 3, query_images: 1, gallery_images: 3, size: [32, 16]}",
        "generators.pg2.generator={size: [32, 16], width: 4, stage1_steps: 1, stage2_steps: 1}", "generators.pg2.batch_size=2",
        "baseline={size: [32, 16], steps: 1, identities: 2, instances: 2, crop_px: 2}", "quality.pairs=2", "quality.metrics={SSIM: {}}",
        "seeds=[0]", "per_image=1", "arms=[none,pg2]",
    ]  # fmt: skip
    reported = run(installed, tmp_path, "bench", "pg2", *tiny)
    assert reported.returncode == 0, reported.stderr
    (results,) = tmp_path.glob("runs/pg2-*/results.jsonl")
    assert [json.loads(line)["arm"] for line in results.read_text().splitlines()] == ["none", "pg2"]
    recipe = run(installed, tmp_path, "bench", "pg2", *tiny, "baseline.recipe=stong")
    assert recipe.returncode == 2 and "no recipe named 'stong'" in recipe.stderr and "did you mean 'strong'" in recipe.stderr


@pytest.mark.slow
def test_the_installed_package_is_the_one_that_runs(installed: Path, tmp_path: Path) -> None:
    code = "import reid_aug, generators; print(reid_aug.__file__); print(generators.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert all(Path(line).is_relative_to(installed) for line in done.stdout.split())
    preset = run(installed, tmp_path, "bank", "canonical-8", "--out", "canonical.safetensors")  # whose poses lie beside the code
    assert preset.returncode == 0 and "8 poses" in preset.stdout, preset.stderr
