"""Cells that train a generator at its paper's size for a fixed time: how far does it get, and at what pace?"""

from __future__ import annotations

import json
import math
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.stopwatch import Row
from benchmarks.gpu.table_cells import Table
from generators import load, read_header
from reid_aug import config as configuration
from reid_aug.images import atomic_write_text
from reid_aug.synthesis.train import TrainConfig, train_from

WARM_UP = 12  # Steps of the shorter of two trainings that tell the pace.
# Pairs of a step that fill a GPU. The rate grows with the batch's square root, as is usual for Adam (Krizhevsky 2014, "one weird trick").
BATCH = {"warpblend": 64, "deformable": 64, "pg2": 64, "vdg": 32, "momi": 64, "posewarp": 16}
# VGG-19's weights are not on a bare machine: where a paper has a row that learns by L1, that is taken.
YAML = {"deformable": "deformable-dsc"}
NARROW = {"size": [64, 32], "width": 8}


def learn(table: Table, name: str, seconds: float) -> Row:
    """Train a generator for about `seconds`; a training that was cut off goes on, to the end that it was given at first."""
    config, folder = _options(table, name), table.generator_folder(name)
    begun, plan = table.checkpoint(name), folder / "steps.json"
    if not begun.exists():
        pace = math.inf if table.tiny else _pace(config, folder.with_name(f"{name}-pace"), table)
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write_text(plan, json.dumps(max(2 if table.tiny else 50, int(seconds / pace))))
    steps = json.loads(plan.read_text()) if plan.exists() else int(read_header(begun)["step"])
    begin = time.perf_counter()
    # The schedule of warpblend's rates is as long as its training.
    options: dict[str, Any] = config | ({"generator": {**config["generator"], "steps": steps}} if name == "warpblend" else {})
    trained = train_from(TrainConfig(**options, out=str(folder), steps=steps), table.people)
    taken = time.perf_counter() - begin
    if trained.stopped:
        raise KeyboardInterrupt
    table.bring_home(name)
    pairs = trained.step * config["batch_size"]
    return {
        "steps": trained.step, "batch": config["batch_size"], "seconds": round(taken, 1), "pairs_per_s": pairs / taken,
        "schedule_steps": load(trained.checkpoint).schedule_steps(), "losses": trained.losses,
    }  # fmt: skip


def _options(table: Table, name: str) -> dict[str, Any]:
    """Give the options of a generator's training: its YAML's, in batches for a GPU; narrow and short in the tiny form."""
    values = configuration.read_yaml(configuration.named(YAML.get(name, name), "generators", "generator"))
    usual = int(values.get("batch_size", 16))
    values = {key: value for key, value in values.items() if key != "out"}
    values |= {"data": {"root": table.root}, "accelerator": table.device, "perceptual": {"weights": "none"}, "save_every_steps": 500}
    values |= {"teacher": "keypoints"}  # an estimator's weights are not on a bare machine either
    if table.tiny:
        narrow = {key: value for key, value in NARROW.items() if key == "size" or key in values["generator"]}
        return values | {"batch_size": 2, "samples": 2, "generator": {**values["generator"], **narrow}}
    if "learning_rate" in values["generator"]:
        values["generator"]["learning_rate"] *= math.sqrt(BATCH[name] / usual)
    return values | {"batch_size": BATCH[name], "precision": "32-true" if name == "warpblend" else "bf16-mixed"}


def _pace(config: dict[str, Any], folder: Path, table: Table) -> float:
    """Measure the seconds of a step, by two trainings in a scratch folder: their start cancels."""
    taken = []
    for steps in (WARM_UP, 3 * WARM_UP):
        shutil.rmtree(folder, ignore_errors=True)
        begin = time.perf_counter()
        train_from(TrainConfig(**config, out=str(folder), steps=steps), table.people)
        taken.append(time.perf_counter() - begin)
    shutil.rmtree(folder, ignore_errors=True)
    return max(taken[1] - taken[0], 1e-3) / (2 * WARM_UP)
