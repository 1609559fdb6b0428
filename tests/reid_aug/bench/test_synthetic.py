"""A benchmark's generators: what they are trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from generators import read_header
from reid_aug.baselines.network import load_baseline
from reid_aug.bench import report
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.run import Benchmark, run
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


MOMI = [
    "arms=[none,momi]", "seeds=[0]", "generators={}", "generators.momi.perceptual.weights=none", "generators.momi.teacher=keypoint-rcnn",
    "generators.momi.generator={name: momi, size: [32, 16], width: 4, blocks: 1, detector_blocks: 1, patch_px: 6.0, patch_cells: 2}",
    "generators.momi.steps=2", "generators.momi.batch_size=4",
]  # fmt: skip


def test_a_missing_teacher_stops_a_benchmark_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: (_ for _ in ()).throw(OSError("no network")))
    config = load(BenchConfig, SMOKE, [*MOMI, f"out={tmp_path}"])
    with pytest.raises(FileNotFoundError, match="keypointrcnn_resnet50_fpn.*or say generators.momi.teacher=keypoints"):
        run(config)
    assert not list(tmp_path.glob("*/generators/*"))


def test_a_benchmarks_generator_has_the_teacher_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Estimator:
        name = "stand-in"

        def heatmaps(self, images: torch.Tensor) -> torch.Tensor:
            return images.float().mean(1, keepdim=True).expand(-1, 17, -1, -1) / 255

    monkeypatch.setattr("reid_aug.data.estimators.keypoint_rcnn.KeypointRcnn", lambda *_: Estimator())
    benchmark = Benchmark(load(BenchConfig, SMOKE, [*MOMI, f"out={tmp_path}"]))
    assert read_header(benchmark.synthetic.checkpoint("momi"))["about"]["teacher"] == "stand-in"
