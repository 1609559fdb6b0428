"""Cells of the Re-ID table: one training of one baseline on one arm with one seed each, on generators trained before."""

from __future__ import annotations

import json
import shutil
import time
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.stopwatch import Row, Stopwatch
from reid_aug import config as configuration
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.results import scores_file
from reid_aug.bench.run import Benchmark
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.people import PersonImage
from reid_aug.images import atomic_write_text
from reid_aug.rendered import RenderedConfig, write_rendered

CHECKPOINT = "last.safetensors"
LEARNT = ("warpblend", "deformable")  # generators that cells of their own train, and arms take from there
TRAVELS = 16 * 2**20  # Bytes that a file may have to come home with the records.
STEPS = 40  # of a training that tells how a network is launched fastest
TINY: dict[str, Any] = {"size": [64, 32], "identities": 4, "instances": 2, "steps": 1, "crop_px": 2, "weights": "scratch"}
TINY_PEOPLE: dict[str, Any] = {"train_identities": 6, "test_identities": 4, "train_images": 4, "size": (64, 32), "roads": True}
PEOPLE: dict[str, Any] = {"train_identities": 400, "test_identities": 150, "train_images": 8, "size": (128, 64), "roads": True}


class Table:
    """The Re-ID table's data, generators and benchmark below the folder `work`; small results that come home go to `out`."""

    def __init__(self, work: Path, out: Path, data: str | None, device: str, tiny: bool) -> None:
        self.work, self.out, self.photographs, self.device, self.tiny = work, out, data, device, tiny
        self._benchmarks: dict[bool, Benchmark] = {}  # by whether Deformable GAN's arms are among them

    @staticmethod
    def values() -> dict[str, Any]:
        """Read configs/benchmarks/campaign.yaml."""
        return configuration.read_yaml(configuration.named("campaign", "benchmarks", "benchmark"))

    @classmethod
    def arms(cls) -> list[str]:
        """List the table's arms, the most informative first."""
        return list(cls.values()["arms"])

    @cached_property
    def root(self) -> str:
        """Name the data set's folder; rendered people are written there first."""
        if self.photographs is not None:
            return self.photographs
        return str(write_rendered(self.work / "people", RenderedConfig(**(TINY_PEOPLE if self.tiny else PEOPLE))).root)

    @cached_property
    def people(self) -> list[PersonImage]:
        return load_people(DataConfig(root=self.root), test_poses=True)

    def generator_folder(self, name: str) -> Path:
        return self.work / "generators" / name

    def checkpoint(self, name: str) -> Path:
        """Name a generator's checkpoint; one that came from another machine is put in its place."""
        place, brought = self.generator_folder(name) / CHECKPOINT, self.out / f"{name}.safetensors"
        if not place.exists() and brought.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(brought, place)
        return place

    def bring_home(self, name: str) -> None:
        """Copy a generator's last sample sheet to what comes home, and the checkpoint that arms need where it is small."""
        folder = self.generator_folder(name)
        shutil.copy(sorted((folder / "samples").glob("*.png"))[-1], self.out / f"{name}.png")
        if name in LEARNT and (folder / CHECKPOINT).stat().st_size <= TRAVELS:
            shutil.copy(folder / CHECKPOINT, self.out / f"{name}.safetensors")

    def config(self, of_deformable: bool) -> BenchConfig:
        """Load the benchmark with generators that have learnt, and networks launched the way that was fastest."""
        arms = [arm for arm in self.arms() if arm == "none" or arm.startswith("deformable") == of_deformable]
        learnt = [name for name in LEARNT if any(arm.startswith(f"{name}+") or arm == name for arm in arms)]
        values = self.values()
        dropped = [name for name in values["generators"] if name.startswith("deformable") != of_deformable]
        given: dict[str, Any] = {"data": {"root": self.root}, "arms": arms, "out": str(self.work / "table")}
        given["generators"] = {name: keys for name, keys in values["generators"].items() if name not in dropped}
        for name in learnt:
            if not self.checkpoint(name).exists():
                raise FileNotFoundError(f"no {self.checkpoint(name)}: the cell learn/{name} comes first")
            given["generators"][name] = {"checkpoint": str(self.checkpoint(name))}
        given["baselines"] = {name: {**self.baseline(name), **self._launching(name)} for name in values["baselines"]}
        if self.tiny:
            given |= {"per_image": 1}
            for keys in given["generators"].values():
                if "checkpoint" not in keys:
                    keys |= {"batch_size": 2, "generator": {**keys["generator"], "size": [64, 32], "width": 8, "steps": 1}}
        file = self.work / f"campaign-{'deformable' if of_deformable else 'all'}.json"
        atomic_write_text(file, json.dumps({**values, **given}))
        return load_config(str(file), [])

    def benchmark(self, of_deformable: bool) -> Benchmark:
        """Give the benchmark, its images decoded once in this process."""
        if of_deformable not in self._benchmarks:
            self._benchmarks[of_deformable] = Benchmark(self.config(of_deformable))
        return self._benchmarks[of_deformable]

    def line(self, baseline: str, arm: str, seed: int) -> Row:
        """Train one baseline on one arm with one seed, and give scores, seconds and every query's average precision."""
        begin = time.perf_counter()
        benchmark = self.benchmark(arm.startswith("deformable"))
        line = benchmark.lines().get((baseline, arm, seed)) or benchmark.add(baseline, arm, seed)
        scores = np.load(scores_file(benchmark.folder, arm, line["config"], seed))
        kept = ("rank1", "map", "minp", "steps", "seconds", "train_images", "synthetic_images", "size", "weights", "queries", "gallery")
        return {
            **{key: line[key] for key in kept}, "step_s": line["seconds"] / line["steps"], "cell_s": round(time.perf_counter() - begin, 1),
            "cuda_graphs": benchmark.config.baselines_by_name[baseline].cuda_graphs, "ap": [round(float(ap), 4) for ap in scores["ap"]],
        }  # fmt: skip

    def baseline(self, name: str) -> dict[str, Any]:
        """Give the keys of a baseline; few images and a single step in the tiny form."""
        keys = self.values()["baselines"][name]
        narrow = {"widths": [8, 8, 8, 8]} if "widths" in keys else {}
        return keys | TINY | {"precision": "32-true"} | narrow if self.tiny else keys

    def _launching(self, baseline: str) -> dict[str, bool]:
        """Say whether CUDA graphs are to launch a network: where the cell `launches` found them faster, and as exact."""
        file = self.work / "launches.json"
        return {"cuda_graphs": baseline in json.loads(file.read_text())["graphed"]} if file.exists() else {}


def launches(table: Table, watch: Stopwatch) -> Row:
    """Measure a step of every baseline launched kernel by kernel and as CUDA graphs; the table's trainings take the faster one."""
    rows: Row = {}
    for name in table.values()["baselines"]:
        rows[name] = {}
        for graphed in (False, True):
            config = BaselineConfig(**{**table.baseline(name), "weights": "scratch", "cuda_graphs": graphed})
            try:
                rows[name]["graphs_step_s" if graphed else "step_s"] = _step_seconds(config, watch)
            except RuntimeError as error:  # a network that can't be captured is launched as before
                rows[name]["error"] = " ".join(str(error).split())[:300]
    faster = [name for name, row in rows.items() if row.get("graphs_step_s", torch.inf) < row["step_s"]] if watch.cuda else []
    table.work.mkdir(parents=True, exist_ok=True)
    atomic_write_text(table.work / "launches.json", json.dumps({"graphed": faster}))
    return {**rows, "graphed": faster}


def _step_seconds(config: BaselineConfig, watch: Stopwatch) -> float:
    """Measure the seconds of a step on noise, by trainings of n and 2 n steps: their start cancels."""
    steps = 1 if watch.quick else STEPS
    images = torch.randint(0, 256, (64 if watch.quick else 4328, 3, *config.size), dtype=torch.uint8)
    data = TrainingSet(images, torch.arange(len(images)) % 16)

    def learn(steps: int) -> None:
        train_baseline(config.model_copy(update={"steps": steps}), data, 0, device=watch.device.type)

    learn(steps)  # warms up
    short, long = (watch.run(lambda n=n: learn(n)) for n in (steps, 2 * steps))
    return max(long - short, 1e-6) / steps
