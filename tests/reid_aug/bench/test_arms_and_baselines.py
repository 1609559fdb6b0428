"""Two baselines, an arm of every kind, and another data set to test on."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from reid_aug import images
from reid_aug.bench import report, synthetic
from reid_aug.bench import run as bench_run
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.run import Benchmark, Result, run
from reid_aug.bench.summary import summarise, verdicts

QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=2", "baseline.steps=2", "baseline.identities=3"]


@pytest.fixture(scope="module")
def everything(configure: Callable[..., BenchConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchConfig, Result]:
    """Two baselines and an arm of every kind."""
    arms = "arms=[none,copies,erasing,pg2,pg2+gated,pg2+lsro,pg2+separate,pg2+replace,pg2+canonical,pg2+online,oracle]"
    half = "variants.gated={gate: {identity: 0.5, novelty: 0.0}}"
    small = "size: [32, 16], steps: 2, identities: 3, instances: 2, crop_px: 2, erasing: 0.0"  # a recipe's own stand over the common ones
    two = f"baselines={{plain: {{}}, strong: {{recipe: strong, model: resnet18, weights: scratch, {small}}}}}"
    config = configure(tmp_path_factory.mktemp("arms"), *QUICK, arms, half, two, "rerank=true")
    return config, run(config)


class TestArmsAndBaselines:
    def test_a_line_for_every_baseline_and_arm(self, everything: tuple[BenchConfig, Result]) -> None:
        config, result = everything
        assert [(line["baseline"], line["arm"]) for line in result.lines] == [(b, arm) for b in ("plain", "strong") for arm in config.arms]
        assert {line["model"] for line in result.lines} == {"osnet_x0_25", "resnet18"}
        assert {line["weights"] for line in result.lines} == {"scratch"}
        assert len({line["config"] for line in result.lines}) == 22
        assert all(0 < line["reranked_map"] <= 1 for line in result.lines)

    def test_what_each_arm_learns_from(self, everything: tuple[BenchConfig, Result]) -> None:
        counts = {line["arm"]: (line["train_images"], line["synthetic_images"]) for line in everything[1].lines}
        drawn = counts["pg2"][1]
        assert drawn == 40 and counts["none"] == counts["erasing"] == counts["pg2+online"] == (20, 0) and counts["copies"] == (60, 0)
        assert {counts[arm] for arm in ("pg2", "oracle", "pg2+lsro", "pg2+separate", "pg2+replace", "pg2+canonical")} == {(60, 40)}
        assert counts["pg2+gated"] == (40, 20), "the better half by identity"

    def test_gating_again_draws_and_scores_nothing(
        self, everything: tuple[BenchConfig, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, result = everything
        (folder,) = {path.parent for path in result.folder.glob("images/pg2-*/manifest.jsonl") if "canonical" not in path.read_text()}
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[1:]]
        assert all({"identity_score", "pose_novelty"} <= row.keys() for row in rows)
        benchmark = Benchmark(config.model_copy(update={"arms": ("none", "pg2+gated")}))
        monkeypatch.setattr("reid_aug.synthesis.gates.identity_scores", lambda *_: pytest.fail("scored again"))
        monkeypatch.setattr("reid_aug.synthesis.augmenter.Augmenter.render", lambda *_: pytest.fail("drawn again") if _[1] else iter(()))
        assert len(benchmark.synthetic.training_set("pg2+gated", (32, 16)).labels) == 40

    def test_gates_and_quality_search_as_the_benchmark_says(
        self, everything: tuple[BenchConfig, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, _ = everything
        benchmark = Benchmark(config.model_copy(update={"arms": ("none", "pg2+gated"), "backend": "faiss-cpu"}))
        asked = []
        monkeypatch.setattr("reid_aug.bench.synthetic.gates.score", lambda *given: asked.append(given[-1]) or given[1])
        assert len(benchmark.synthetic.training_set("pg2+gated", (32, 16)).labels) == 40
        assert asked == ["faiss-cpu"] and benchmark.quality._surroundings.backend == "faiss-cpu"

    def test_the_report_has_both_baselines_and_corrects_for_every_arm(self, everything: tuple[BenchConfig, Result]) -> None:
        config, result = everything
        summaries = summarise(result)
        text = report.compose(result, summaries, "test", "command")
        for name in ("plain", "strong"):
            part = text[text.index(f"## Baseline `{name}`") :]
            for arm in config.arms[1:]:
                assert len(re.findall(rf"^\| {re.escape(arm)} \|", part.split("## ", 2)[1], re.MULTILINE)) == 2, "scores and gains"
        assert "re-ranked mAP" in text and "None" not in text and "nan" not in text
        sentences = verdicts(summaries)
        assert len(sentences) == 20 and sentences[0].startswith("`plain`: `copies` ")

    def test_images_are_decoded_once_for_all_arms_that_draw_alike(
        self, everything: tuple[BenchConfig, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, _ = everything
        arms = ("none", "pg2", "pg2+erasing", "pg2+lsro", "pg2+gated", "pg2+gated+erasing", "pg2+canonical")
        benchmark = Benchmark(config.model_copy(update={"arms": arms}))
        read, read_rows = [], synthetic.read_rows
        monkeypatch.setattr(synthetic, "read_rows", lambda *a, **k: read.append(a[1]) or read_rows(*a, **k))
        sets = {arm: benchmark.synthetic.training_set(arm, (32, 16)) for arm in arms}
        assert len(read) == len(set(read)) == 2, "the whole set's poses, and canonical ones"
        everyone, gated = sets["pg2"], sets["pg2+gated"]
        assert torch.equal(sets["pg2+erasing"].images, everyone.images) and len(gated.labels) == 40
        manifest, folder, kept = benchmark.synthetic.gated("pg2+gated")
        expected = images.read_many([folder / manifest.rows[i].path for i in kept], (32, 16))
        assert torch.equal(gated.images[20:], expected) and torch.equal(gated.images[:20], everyone.images[:20])
        assert everyone.source is not None and gated.source is not None
        assert torch.equal(gated.source[20:], everyone.source[20:][kept])

    def test_what_memory_does_not_hold_lies_on_the_disk(
        self, everything: tuple[BenchConfig, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, result = everything
        benchmark = Benchmark(config)
        arms = ("copies", "pg2", "pg2+gated")
        held = [benchmark.synthetic.training_set(arm, (32, 16)).images for arm in arms]
        spilled, memmap = [], np.memmap
        monkeypatch.setattr(images, "_free_bytes", lambda: 0)
        monkeypatch.setattr(np, "memmap", lambda *a, **k: spilled.append(k["shape"][0]) or memmap(*a, **k))
        before = sorted(result.folder.iterdir())
        again = Benchmark(config)
        assert all(torch.equal(pixels, again.synthetic.training_set(arm, (32, 16)).images) for arm, pixels in zip(arms, held, strict=True))
        assert spilled == [20, 60, 40, 60, 40], "real images; copies; pg2's alone and behind the real ones; those that stay"
        assert sorted(result.folder.iterdir()) == before, "files without a name"

    def test_another_baseline_runs_alone(
        self, everything: tuple[BenchConfig, Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, result = everything
        trained = []
        train = bench_run.train_baseline
        monkeypatch.setattr(bench_run, "train_baseline", lambda *a, **k: trained.append(k["label"]) or train(*a, **k))
        third = {**config.baselines, "third": config.baselines["plain"].model_copy(update={"sampler": "shuffle"})}
        more = run(config.model_copy(update={"baselines": third, "arms": ("none", "copies")}))
        assert more.folder == result.folder and trained == ["none 0", "copies 0"] and len(more.lines) == 6


def test_direct_transfer_tests_on_the_other_data_set(configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
    other = "test_rendered={train_identities: 2, test_identities: 3, train_images: 3, gallery_images: 5, size: [48, 24], seed: 7}"
    config = configure(tmp_path, *QUICK, "arms=[none,copies]", other)
    (line, _) = run(config).lines
    assert (line["identities"], line["gallery"]) == (5, 15) and line["train_images"] == 20
    home = run(configure(tmp_path, *QUICK, "arms=[none]")).lines[0]
    assert home["gallery"] == 16 and home["config"] != line["config"]
