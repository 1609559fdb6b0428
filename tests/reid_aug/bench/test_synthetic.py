"""A benchmark's generators: what they are trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generators import read_header
from reid_aug.baselines.network import load_baseline
from reid_aug.bench import report
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.run import run
from reid_aug.bench.summary import summarise
from reid_aug.config import load, shipped

SMOKE = shipped("benchmarks/smoke.yaml")


def test_the_benchmark_compares_on_its_own_baseline(tmp_path: Path) -> None:
    config = load(BenchConfig, SMOKE, [
        "arms=[none,deformable]", "seeds=[0]", f"out={tmp_path}", "quality.pairs=4", "generators={}",
        "generators.deformable.generator={name: deformable, size: [32, 16], width: 4, steps: 2}",
        "generators.deformable.batch_size=4", "generators.deformable.perceptual.weights=reid:baseline",
    ])  # fmt: skip
    result = run(config)
    (judge,) = (result.folder / "baselines").iterdir()
    (trained,) = (result.folder / "generators").iterdir()
    network = read_header(trained / "last.safetensors")["about"]["perceptual"]
    assert network == f"reid:osnet_x0_25:{load_baseline(judge)[1]['digest'][:12]}"
    assert result.perceptual["deformable"] == network
    text = report.write(result, summarise(result), "x", "y").read_text()
    assert f"`deformable` was trained to look alike to `{network}`, too. The same network judges its identity below" in text
    assert [line["arm"] for line in result.lines] == ["none", "deformable"] and result.lines[0]["seconds"] > 0
    assert json.loads((result.folder / "config.json").read_text())["generators"]["deformable"]["perceptual"] == {"weights": "reid:baseline"}


def test_missing_weights_stop_a_benchmark_before_it_trains(tmp_path: Path) -> None:
    config = load(BenchConfig, SMOKE, [
        "arms=[none,pg2,deformable]", "seeds=[0]", f"out={tmp_path}",
        "generators.deformable.generator={name: deformable, size: [32, 16], width: 4, steps: 2}",
        f"generators.deformable.perceptual.weights={tmp_path / 'vgg.pth'}",
    ])  # fmt: skip
    with pytest.raises(FileNotFoundError, match="no perceptual weights at"):
        run(config)
    assert not list(tmp_path.glob("*/generators/*"))
