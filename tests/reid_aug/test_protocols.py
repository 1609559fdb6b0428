"""Benchmarks beyond one baseline on one data set: several baselines, variants, parts of the data, another data set to test on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import Pose
from generators.pose import openpose_18
from reid_aug.bench import harness, report
from reid_aug.bench.low_data import part_of
from reid_aug.people import PersonImage

ROOT = Path(__file__).parents[2]
SMALL = [
    "rendered={train_identities: 5, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}",
    "generators.pg2.generator={name: pg2, size: [32, 16], width: 4, stage1_steps: 3, stage2_steps: 2}",
    "generators.pg2.batch_size=4", "baseline.size=[32, 16]", "baseline.steps=2", "baseline.identities=3", "baseline.instances=2",
    "baseline.crop_px=2", "quality.pairs=0", "seeds=[0]", "per_image=2",
]  # fmt: skip


def config(tmp_path: Path, *more: str) -> harness.BenchConfig:
    return harness.load_config(str(ROOT / "configs" / "benchmarks" / "rendered.yaml"), [*SMALL, f"out={tmp_path / 'runs'}", *more])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[harness.BenchConfig, harness.Result]:
    """Two baselines and an arm of every kind."""
    arms = "arms=[none,copies,erasing,pg2,pg2+gated,pg2+lsro,pg2+separate,pg2+replace,pg2+canonical,pg2+online,oracle]"
    half = "variants.gated={gate: {identity: 0.5, novelty: 0.0}}"
    small = "size: [32, 16], steps: 2, identities: 3, instances: 2, crop_px: 2"  # a recipe's own stand over the common ones
    two = f"baselines={{plain: {{}}, strong: {{recipe: strong, model: resnet18, weights: scratch, {small}}}}}"
    asked = config(tmp_path_factory.mktemp("arms"), arms, half, two, "rerank=true")
    return asked, harness.run(asked)


class TestArmsAndBaselines:
    def test_a_line_for_every_baseline_and_arm(self, everything: tuple[harness.BenchConfig, harness.Result]) -> None:
        asked, result = everything
        assert [(line["baseline"], line["arm"]) for line in result.lines] == [(b, arm) for b in ("plain", "strong") for arm in asked.arms]
        assert {line["model"] for line in result.lines} == {"osnet_x0_25", "resnet18"}
        assert {line["weights"] for line in result.lines} == {"scratch"}
        assert len({line["config"] for line in result.lines}) == 22
        assert all(0 < line["reranked_map"] <= 1 for line in result.lines)

    def test_what_each_arm_learns_from(self, everything: tuple[harness.BenchConfig, harness.Result]) -> None:
        counts = {line["arm"]: (line["train_images"], line["synthetic_images"]) for line in everything[1].lines}
        drawn = counts["pg2"][1]
        assert drawn == 40 and counts["none"] == counts["erasing"] == counts["pg2+online"] == (20, 0) and counts["copies"] == (60, 0)
        assert {counts[arm] for arm in ("pg2", "oracle", "pg2+lsro", "pg2+separate", "pg2+replace", "pg2+canonical")} == {(60, 40)}
        assert counts["pg2+gated"] == (40, 20), "the better half by identity"

    def test_gating_again_draws_and_scores_nothing(
        self, everything: tuple[harness.BenchConfig, harness.Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, result = everything
        (folder,) = {path.parent for path in result.folder.glob("images/pg2-*/manifest.jsonl") if "canonical" not in path.read_text()}
        rows = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[1:]]
        assert all({"identity_score", "pose_novelty"} <= row.keys() for row in rows)
        benchmark = harness._Benchmark(asked.model_copy(update={"arms": ("none", "pg2+gated")}))
        monkeypatch.setattr(harness.gates, "identity_scores", lambda *_: pytest.fail("scored again"))
        monkeypatch.setattr("reid_aug.augmenter.Augmenter.render", lambda *_: pytest.fail("drawn again") if _[1] else iter(()))
        assert len(benchmark._training_set("pg2+gated", (32, 16)).labels) == 40

    def test_the_report_has_both_baselines_and_corrects_for_every_arm(self, everything: tuple[harness.BenchConfig, harness.Result]) -> None:
        asked, result = everything
        summaries = report.summarise(result)
        text = report.render(result, summaries, "test", "command")
        for name in ("plain", "strong"):
            part = text[text.index(f"## Baseline `{name}`") :]
            for arm in asked.arms[1:]:
                assert len(re.findall(rf"^\| {re.escape(arm)} \|", part.split("## ", 2)[1], re.MULTILINE)) == 2, "scores and gains"
        assert "re-ranked mAP" in text and "None" not in text and "nan" not in text
        said = report.verdicts(summaries)
        assert len(said) == 20 and said[0].startswith("`plain`: `copies` ")

    def test_another_baseline_runs_alone(
        self, everything: tuple[harness.BenchConfig, harness.Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, result = everything
        trained = []
        train = harness.train_baseline
        monkeypatch.setattr(harness, "train_baseline", lambda *a, **k: trained.append(k["label"]) or train(*a, **k))
        third = {**asked.baselines, "third": asked.baselines["plain"].model_copy(update={"sampler": "shuffle"})}
        more = harness.run(asked.model_copy(update={"baselines": third, "arms": ("none", "copies")}))
        assert more.folder == result.folder and trained == ["none 0", "copies 0"] and len(more.lines) == 6


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["arms=[none,pg2+lrso]"], "no variant named 'lrso'.*did you mean 'lsro'"),
        (["arms=[none,copies+lsro]"], "'copies' has no synthetic images that a variant other than erasing"),
        (["arms=[none,oracle+online]"], "online images are a generator's"),
        (["arms=[none,pg2+odd]", "variants.odd={draw: canonicle}"], "odd.draw: .* named 'canonicle'.*did you mean 'canonical'"),
        (["baselines={strong: {recipe: stong}}"], "no recipe named 'stong'"),
        (["baselines={strong: {setps: 3}}"], "unknown key 'baselines.strong.setps'"),
        (["baselines={a: {model: osnet_x9}}"], "torchreid has no model 'osnet_x9'"),
        (["shares=[0.5,0.5]"], "seeds are different, and so are shares"),
        (["shares=[0]"], "greater than 0, got 0"),
        (["test_rendered={sice: 3}"], "test_rendered: .*sice"),
        (["test_rendered={}", "test.root=x"], "either `test_rendered` or `test`"),
    ],
)
def test_bad_configurations_are_refused_before_anything_runs(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        config(tmp_path, *overrides)


def test_a_baselines_recipe_stands_over_what_is_said_of_all(tmp_path: Path) -> None:
    own = config(tmp_path, "baseline.learning_rate=0.5", "baselines={plain: {}, strong: {recipe: strong, steps: 7}}").baselines
    assert (own["plain"].learning_rate, own["plain"].size) == (0.5, (32, 16))
    assert (own["strong"].learning_rate, own["strong"].size, own["strong"].steps) == (3.5e-4, (256, 128), 7)


def test_direct_transfer_tests_on_the_other_data_set(tmp_path: Path) -> None:
    other = "test_rendered={train_identities: 2, test_identities: 3, train_images: 3, gallery_images: 5, size: [48, 24], seed: 7}"
    asked = config(tmp_path, "arms=[none,copies]", other)
    (line, _) = harness.run(asked).lines
    assert (line["identities"], line["gallery"]) == (5, 15) and line["train_images"] == 20
    home = harness.run(config(tmp_path, "arms=[none]")).lines[0]
    assert home["gallery"] == 16 and home["config"] != line["config"]


class TestLowData:
    def test_curves_of_every_arm(self, tmp_path: Path) -> None:
        asked = config(tmp_path, "arms=[none,pg2]", "shares=[1.0,0.5]", f"record={tmp_path / 'r.json'}")
        results = harness.run_shares(asked)
        assert list(results) == [0.5, 1.0]
        assert [r.lines[0]["train_images"] for r in results.values()] == [10, 20]
        assert [line["arm"] for line in results[0.5].lines] == ["none", "pg2"] and results[0.5].folder != results[1.0].folder
        path = report.write_shares(results, asked, "command")
        text = path.read_text()
        assert "| arm | 50 % (10) | 100 % (20) |" in text and (path.parent / "shares.png").stat().st_size > 1000
        kept = json.loads((tmp_path / "r.json").read_text())
        assert kept["shares"]["0.5"]["baselines"]["osnet_x0_25"]["pg2"]["train_images"] == 30
        assert harness.run_shares(asked)[0.5].lines == results[0.5].lines, "nothing is done twice"

    def people(self) -> list[PersonImage]:
        pose = Pose(torch.full((18, 2), 8.0), torch.ones(18, dtype=torch.bool), openpose_18, (32, 16))
        sizes = np.random.default_rng(0).integers(1, 12, 30)
        train = [PersonImage(f"{pid}_{i}.jpg", pid, 0, "train", pose if i % 3 else None) for pid, n in enumerate(sizes) for i in range(n)]
        return [*train, PersonImage("q.jpg", 99, 0, "query"), PersonImage("g.jpg", 99, 1, "gallery")]

    @pytest.mark.parametrize("pairs", [False, True])
    def test_parts_hold_everybody_and_grow(self, pairs: bool) -> None:
        people = self.people()
        total = sum(p.split == "train" for p in people)
        before: set[str] = set()
        for share in (0.3, 0.6, 0.9, 1.0):
            part = part_of(people, share, 0, pairs=pairs)
            train = [p for p in part if p.split == "train"]
            assert {p.pid for p in train} == set(range(30)) and [p.split for p in part[-2:]] == ["query", "gallery"]
            least = 30 if not pairs else sum(min(2, max(1, sum(p.pose is not None for p in people if p.pid == pid))) for pid in range(30))
            assert len(train) == max(round(share * total), least)
            assert before <= {p.path for p in train} and part == [p for p in people if p in part]
            before = {p.path for p in train}
        if pairs:
            small = part_of(people, 0.01, 0, pairs=True)
            for pid in range(30):
                could = sum(p.pose is not None for p in people if p.pid == pid)
                assert sum(p.pose is not None for p in small if p.pid == pid) == min(2, could)

    def test_seeds_and_shares(self) -> None:
        people = self.people()
        assert part_of(people, 0.5, 0, pairs=False) == part_of(people[:], 0.5, 0, pairs=False) != part_of(people, 0.5, 1, pairs=False)
        with pytest.raises(ValueError, match="above 0 and at most 1, got 1.5"):
            part_of(people, 1.5, 0, pairs=False)
        with pytest.raises(ValueError, match="shares are the parts"):
            harness.run_shares(harness.load_config(None, ["rendered={}", "arms=[none]"]))
