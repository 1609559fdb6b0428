"""The benchmark's loop: what it runs, what it does not run again, and that a killed run goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet
from reid_aug.bench import run as bench_run
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.results import read_results, scores_file
from reid_aug.bench.run import Benchmark, Result, run
from reid_aug.bench.variants import Variant
from reid_aug.data.people import PersonImage

ROOT = Path(__file__).parents[3]


class TestRun:
    def test_a_line_for_every_arm_and_seed(self, result: Result) -> None:
        arms = ("none", "copies", "pg2", "oracle")
        assert [(line["arm"], line["seed"]) for line in result.lines] == [(arm, seed) for arm in arms for seed in (0, 1)]
        written = [json.loads(text) for text in (result.folder / "results.jsonl").read_text().splitlines()]
        assert len(written) == 8
        for line in written:
            assert {"arm", "seed", "rank1", "rank5", "rank10", "map", "minp", "steps", "seconds"} <= set(line)
            assert {"config", "versions", "device"} <= set(line)
            assert 0 <= line["rank1"] <= line["rank5"] <= line["rank10"] <= 1 and 0 < line["map"] <= 1

    def test_every_arm_has_the_same_steps_and_the_augmented_ones_the_same_images(self, result: Result) -> None:
        assert {line["steps"] for line in result.lines} == {3}
        images = {line["arm"]: line["train_images"] for line in result.lines}
        assert images["none"] == 20 and images["copies"] == images["pg2"] == images["oracle"] == 40

    def test_lines_agree_with_the_scores_kept_for_statistics(self, result: Result) -> None:
        for line in result.lines:
            kept = np.load(scores_file(result.folder, line["arm"], line["config"], line["seed"]))
            assert np.nanmean(kept["ap"]) == pytest.approx(line["map"])
            assert (kept["first_rank"][kept["valid"]] == 0).mean() == pytest.approx(line["rank1"])

    def test_oracle_draws_what_pg2_is_asked_to_draw(self, result: Result) -> None:
        folders = {p.name.split("-")[0]: p for p in (result.folder / "images").iterdir()}
        manifests = {arm: [json.loads(t) for t in (p / "manifest.jsonl").read_text().splitlines()] for arm, p in folders.items()}
        assert [(r["source"], r["target"]) for r in manifests["pg2"][1:]] == [(r["source"], r["target"]) for r in manifests["oracle"][1:]]
        assert manifests["oracle"][1]["sha256"] != manifests["pg2"][1]["sha256"]

    def test_nothing_is_done_twice(self, config: BenchConfig, result: Result, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bench_run, "train_baseline", lambda *_, **__: pytest.fail("trained again"))
        assert run(config).lines == result.lines

    def test_a_torn_line_is_done_again(self, config: BenchConfig, result: Result) -> None:
        whole = (result.folder / "results.jsonl").read_bytes()
        (result.folder / "results.jsonl").write_bytes(whole[: whole.rstrip().rfind(b"\n") + 30])
        again = run(config)
        assert [line["map"] for line in again.lines] == [line["map"] for line in result.lines], "the same seed gives the same scores"
        assert len(read_results(result.folder / "results.jsonl")) == 8

    def test_another_seed_runs_alone(self, config: BenchConfig, result: Result) -> None:
        more = run(config.model_copy(update={"seeds": (0, 1, 2), "arms": ("none",)}))
        assert more.folder == result.folder and [line["seed"] for line in more.lines] == [0, 1, 2]
        assert more.lines[:2] == result.lines[:2]

    def test_erasing_is_an_arm_and_goes_with_others(
        self, configure: Callable[..., BenchConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        trained = []
        train = bench_run.train_baseline

        def spy(config: BaselineConfig, data: TrainingSet, seed: int, **options: Any) -> torch.nn.Module:
            trained.append((options["label"], options["mixing"], len(data.labels)))
            return train(config, data, seed, **options)

        monkeypatch.setattr(bench_run, "train_baseline", spy)
        result = run(configure(tmp_path, "arms=[none,erasing,pg2+erasing]", "seeds=[0]", "quality.metrics={SSIM: {}}"))
        images = {line["arm"]: line["train_images"] for line in result.lines}
        assert images == {"none": 20, "erasing": 20, "pg2+erasing": 40} and result.quality.keys() == {"pg2"}
        erasing = Variant(erasing=0.5)
        assert trained == [("none 0", Variant(), 20), ("erasing 0", erasing, 20), ("pg2+erasing 0", erasing, 40)]

    def test_another_generator_leaves_the_other_arms(self, config: BenchConfig, result: Result) -> None:
        arm = config.generators["pg2"].model_copy(update={"batch_size": 5})
        other = Benchmark(config.model_copy(update={"generators": {"pg2": arm}}))
        assert other.folder == result.folder
        assert {arm for _, arm, _ in other.lines()} == {"none", "copies", "oracle"}



def test_killed_it_goes_on_and_ends_alike(result: Result, small: list[str], tmp_path: Path) -> None:
    """kill -9 after the second line; the same command again redoes no finished line and ends with the same scores."""
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "pg2", *small, f"out={tmp_path / 'runs'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def lines() -> list[dict]:
        return [line for path in (tmp_path / "runs").glob("*/results.jsonl") for line in read_results(path)]

    deadline = time.monotonic() + 200
    while len(lines()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    before = lines()
    assert process.returncode == -signal.SIGKILL and 2 <= len(before) < 8, out.decode()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = lines()
    assert after[: len(before)] == before, "finished lines stand as they were, dates and seconds too"
    maps = [{(line["arm"], line["seed"]): line["map"] for line in part} for part in (after, result.lines)]
    assert maps[0] == pytest.approx(maps[1])
    assert re.search(r"report: .*report\.md", done.stdout)


def test_quality_is_measured_again_when_weights_have_come(
    config: BenchConfig, result: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    measured = result.quality["pg2"]
    monkeypatch.setattr(bench_run, "measure", lambda *a, **k: calls.append(1) or measured)
    run(config)
    assert not calls
    monkeypatch.setattr(bench_run.Networks, "available", lambda self: ["alexnet-owt-7be5be79.pth"])
    run(config)
    assert calls == [1]
    monkeypatch.undo()
    run(config)


def test_quality_without_test_poses_says_what_to_do(people: list[PersonImage]) -> None:
    from reid_aug.quality.held_out import pairs_to_measure
    from reid_aug.quality.protocols import PairsConfig

    with pytest.raises(ValueError, match="quality.pairs=0"):
        pairs_to_measure([replace(p, pose=None) for p in people], PairsConfig(count=10))
