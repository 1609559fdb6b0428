"""The cells of the GPU campaign, in order of worth: what each measures, and how long it may take."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from benchmarks.generator_speed import configurations
from benchmarks.gpu import checks, speed
from benchmarks.gpu.bench import Bench
from benchmarks.gpu.learning import learn
from benchmarks.gpu.stacked import stacked
from benchmarks.gpu.stopwatch import Row, Stopwatch
from benchmarks.gpu.table_cells import CHECKPOINT, LEARNT, Table, launches

ROOT = Path(__file__).resolve().parents[2]
PAPERS = ("deformable", "pg2", "vdg", "momi", "posewarp")
LEARN_S = {"warpblend": 60.0, "deformable": 150.0, "pg2": 60.0, "vdg": 60.0, "momi": 60.0, "posewarp": 60.0}
TRAINING_LIMIT_S = {"small": 90.0, "osnet_x0_25": 120.0, "strong": 240.0}


@dataclass(frozen=True)
class Setting:
    """Where and on what the campaign runs; it travels to the process that does the work."""

    device: str  # "cuda" or "cpu"
    out: Path  # Folder of the records and of small files to keep.
    work: Path  # Folder of images, checkpoints and the benchmark.
    data: str | None = None  # Photographs in Market-1501's layout; None is rendered people.
    tiny: bool = False  # Every kind of cell in the smallest size: does it run?

    @property
    def seeds(self) -> tuple[int, ...]:
        return (0,) if self.tiny else (0, 1, 2, 3)


@dataclass(frozen=True)
class Cell:
    """One thing to measure: the name that its record has, its seconds at most, and what does it."""

    name: str
    limit_s: float
    measure: Callable[[Workshop], Row]
    leaves: tuple[tuple[Path, ...], ...] = ()  # Files that later cells need; of each, the places that it may be in.


class Workshop:
    """What cells share within one process: device, data in memory, the benchmark whose table they fill."""

    def __init__(self, setting: Setting) -> None:
        self.setting, self.device = setting, torch.device(setting.device)
        self.watch = Stopwatch(self.device, setting.tiny)
        self.bench = Bench(self.device, setting.tiny)

    @cached_property
    def table(self) -> Table:
        return Table(self.setting.work, self.setting.out, self.setting.data, self.setting.device, self.setting.tiny)


def cells(setting: Setting) -> Iterator[Cell]:
    """List all cells, the most informative first; of the Re-ID table one seed of every arm before the next seed."""
    yield Cell("machine", 60, lambda shop: speed.machine(shop.watch))
    yield Cell("tests", 150, gpu_tests)
    yield Cell("launches", 120, lambda shop: launches(shop.table, shop.watch))
    yield learning(setting, "warpblend")
    yield from trainings(setting, "small")
    yield speed_of("warpblend")
    yield Cell("stacked", 120, lambda shop: stacked(shop.table, shop.watch))
    yield learning(setting, "deformable")
    yield from trainings(setting, "small", of_deformable=True)
    yield from trainings(setting, "osnet_x0_25")
    yield speed_of("deformable")
    yield from trainings(setting, "strong")
    yield from (speed_of(name) for name in PAPERS[1:])
    for name in checks.CHECKS:
        yield Cell(f"checks/{name}", 120, lambda shop, name=name: checks.run(checks.CHECKS[name], shop.bench))
    yield from (compiled(name) for name in ("warpblend", *PAPERS))
    yield from (learning(setting, name) for name in PAPERS[1:])
    yield from trainings(setting, "osnet_x0_25", of_deformable=True)
    yield from trainings(setting, "strong", of_deformable=True)


def learning(setting: Setting, name: str) -> Cell:
    """Make the cell that trains a generator at its full size for a fixed time."""
    places = (setting.work / "generators" / name / CHECKPOINT, setting.out / f"{name}.safetensors")
    leaves = (places,) if name in LEARNT else ()
    return Cell(f"learn/{name}", LEARN_S[name] * 1.5 + 60, lambda shop: learn(shop.table, name, LEARN_S[name]), leaves)


def speed_of(name: str) -> Cell:
    """Make the cell that times a generator's forward pass and training step."""

    def measure(shop: Workshop) -> Row:
        config, row = _yaml(name), Row()
        speed.forward(name, config, shop.watch, row)
        speed.train(name, config, shop.watch, row)
        return row

    return Cell(f"speed/{name}", 120, measure)


def _yaml(name: str) -> Row:
    """Read a generator's YAML."""
    [(_, config)] = configurations([name])
    return config


def compiled(name: str) -> Cell:
    """Make the cell that times a generator's compiled forward pass."""
    return Cell(f"compiled/{name}", 150, lambda shop: speed.compiled(name, _yaml(name), shop.watch))


def trainings(setting: Setting, baseline: str, *, of_deformable: bool = False) -> Iterator[Cell]:
    """Make the cells of one baseline's rows in the Re-ID table: with the arms of Deformable GAN, or with all others."""
    arms = [arm for arm in Table.arms() if arm.startswith("deformable") == of_deformable]
    for seed, arm in itertools.product(setting.seeds, arms):
        name, limit = f"reid/{baseline}/{arm}/{seed}", TRAINING_LIMIT_S[baseline]
        yield Cell(name, limit, lambda shop, arm=arm, seed=seed: shop.table.line(baseline, arm, seed))


def gpu_tests(shop: Workshop) -> Row:
    """Run the tests that need a GPU; a RuntimeError names those that fail."""
    begin = time.perf_counter()
    where = "tests/reid_aug/baselines" if shop.setting.tiny else "tests"
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "-p", "no:cacheprovider", where]
    packages = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *(part for part in sys.path if part)])}
    done = subprocess.run(command, cwd=ROOT, env=packages, capture_output=True, text=True)
    last = (done.stdout.strip().splitlines() or [done.stderr[-300:]])[-1]
    if done.returncode not in (0, 5):  # 5: no test is marked so
        raise RuntimeError(f"{last}: {' '.join(line for line in done.stdout.splitlines() if line.startswith(('FAILED', 'ERROR')))[:600]}")
    return {"said": last, "seconds": round(time.perf_counter() - begin, 1)}
