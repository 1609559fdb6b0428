"""The benchmark: its arms, its resuming, its report; and the baseline it trains."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid_aug.baselines.network import build, features, labels_of, prepare
from reid_aug.baselines.ranking import Ranking
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, augment, erase, train_baseline
from reid_aug.bench import report
from reid_aug.bench import run as harness
from reid_aug.bench.arms import training_set
from reid_aug.bench.config import load_config
from reid_aug.bench.results import read_results, save_scores, scores_file
from reid_aug.bench.statistics import over_seeds, paired_bootstrap
from reid_aug.bench.variants import Variant
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.manifest import SyntheticRow

SMALL = [
    "rendered={train_identities: 5, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}",
    "generators.pg2.generator={name: pg2, size: [32, 16], width: 4, stage1_steps: 3, stage2_steps: 2}",
    "generators.pg2.batch_size=4", "baseline.size=[32, 16]", "baseline.steps=3", "baseline.identities=4", "baseline.instances=2",
    "baseline.crop_px=2", "quality.pairs=6", "seeds=[0,1]", "per_image=1",
]  # fmt: skip
ROOT = Path(__file__).parents[3]


def config(tmp_path: Path, *more: str) -> harness.BenchConfig:
    return load_config(str(ROOT / "configs" / "benchmarks" / "rendered.yaml"), [*SMALL, f"out={tmp_path / 'runs'}", *more])


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> harness.BenchConfig:
    return config(tmp_path_factory.mktemp("bench"))


@pytest.fixture(scope="module")
def result(asked: harness.BenchConfig) -> harness.Result:
    return harness.run(asked)


class TestHarness:
    def test_a_line_for_every_arm_and_seed(self, result: harness.Result) -> None:
        arms = ("none", "copies", "pg2", "oracle")
        assert [(line["arm"], line["seed"]) for line in result.lines] == [(arm, seed) for arm in arms for seed in (0, 1)]
        written = [json.loads(text) for text in (result.folder / "results.jsonl").read_text().splitlines()]
        assert len(written) == 8
        for line in written:
            assert {"arm", "seed", "rank1", "rank5", "rank10", "map", "minp", "steps", "seconds"} <= set(line)
            assert {"config", "versions", "device"} <= set(line)
            assert 0 <= line["rank1"] <= line["rank5"] <= line["rank10"] <= 1 and 0 < line["map"] <= 1

    def test_every_arm_has_the_same_steps_and_the_augmented_ones_the_same_images(self, result: harness.Result) -> None:
        assert {line["steps"] for line in result.lines} == {3}
        images = {line["arm"]: line["train_images"] for line in result.lines}
        assert images["none"] == 20 and images["copies"] == images["pg2"] == images["oracle"] == 40

    def test_lines_agree_with_the_scores_kept_for_statistics(self, result: harness.Result) -> None:
        for line in result.lines:
            kept = np.load(scores_file(result.folder, line["arm"], line["config"], line["seed"]))
            assert np.nanmean(kept["ap"]) == pytest.approx(line["map"])
            assert (kept["first_rank"][kept["valid"]] == 0).mean() == pytest.approx(line["rank1"])

    def test_oracle_draws_what_pg2_is_asked_to_draw(self, result: harness.Result) -> None:
        folders = {p.name.split("-")[0]: p for p in (result.folder / "images").iterdir()}
        manifests = {arm: [json.loads(t) for t in (p / "manifest.jsonl").read_text().splitlines()] for arm, p in folders.items()}
        assert [(r["source"], r["target"]) for r in manifests["pg2"][1:]] == [(r["source"], r["target"]) for r in manifests["oracle"][1:]]
        assert manifests["oracle"][1]["sha256"] != manifests["pg2"][1]["sha256"]

    def test_nothing_is_done_twice(self, asked: harness.BenchConfig, result: harness.Result, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(harness, "train_baseline", lambda *_, **__: pytest.fail("trained again"))
        assert harness.run(asked).lines == result.lines

    def test_a_torn_line_is_done_again(self, asked: harness.BenchConfig, result: harness.Result) -> None:
        whole = (result.folder / "results.jsonl").read_bytes()
        (result.folder / "results.jsonl").write_bytes(whole[: whole.rstrip().rfind(b"\n") + 30])
        again = harness.run(asked)
        assert [line["map"] for line in again.lines] == [line["map"] for line in result.lines], "the same seed gives the same scores"
        assert len(read_results(result.folder / "results.jsonl")) == 8

    def test_another_seed_runs_alone(self, asked: harness.BenchConfig, result: harness.Result) -> None:
        more = harness.run(asked.model_copy(update={"seeds": (0, 1, 2), "arms": ("none",)}))
        assert more.folder == result.folder and [line["seed"] for line in more.lines] == [0, 1, 2]
        assert more.lines[:2] == result.lines[:2]

    def test_erasing_is_an_arm_and_goes_with_others(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        trained = []
        train = harness.train_baseline

        def spy(config: BaselineConfig, data: TrainingSet, seed: int, **options: Any) -> torch.nn.Module:
            trained.append((options["label"], options["mixing"], len(data.labels)))
            return train(config, data, seed, **options)

        monkeypatch.setattr(harness, "train_baseline", spy)
        asked = config(tmp_path, "arms=[none,erasing,pg2+erasing]", "seeds=[0]", "quality.metrics={SSIM: {}}")
        result = harness.run(asked)
        images = {line["arm"]: line["train_images"] for line in result.lines}
        assert images == {"none": 20, "erasing": 20, "pg2+erasing": 40} and result.quality.keys() == {"pg2"}
        erasing = Variant(erasing=0.5)
        assert trained == [("none 0", Variant(), 20), ("erasing 0", erasing, 20), ("pg2+erasing 0", erasing, 40)]

    def test_another_generator_leaves_the_other_arms(self, asked: harness.BenchConfig, result: harness.Result) -> None:
        arm = asked.generators["pg2"].model_copy(update={"batch_size": 5})
        other = harness._Benchmark(asked.model_copy(update={"generators": {"pg2": arm}}))
        assert other.folder == result.folder
        assert {arm for _, arm, _ in other._lines()} == {"none", "copies", "oracle"}


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["arms=[none, pg3]"], "no arm named 'pg3'; there are none, copies, pg2, oracle, erasing, .*did you mean 'pg2'"),
        (["arms=[copies]"], "'none' is one of them"),
        (["seeds=[]"], "at least one seed"),
        (["rendered.train_idents=3"], "train_idents"),
        (["generators.pg2.generator.name=pg3"], "no generator named 'pg3'"),
        (["generators.pg2.generator.width=wide"], "width is of type int like 128, got 'wide'"),
        (["generators.pg2.checkpoint=nowhere.safetensors"], "no checkpoint at nowhere.safetensors"),
        (["data.root=here"], "either `rendered` or `data`"),
        (["baseline.setps=3"], "unknown key 'baseline.setps'.*did you mean 'steps'"),
    ],
)
def test_bad_configurations_are_refused_before_anything_runs(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        config(tmp_path, *overrides)


def test_oracle_needs_rendered_people(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no arm named 'oracle'"):
        load_config(None, ["data.root=x", "arms=[none, oracle]"])


def test_unknown_networks_are_named() -> None:
    with pytest.raises(ValueError, match="torchreid has no model 'osnet_x0_52'.*did you mean 'osnet_x0_5'"):
        build(BaselineConfig(model="osnet_x0_52"), 3)


def test_killed_it_goes_on_and_ends_alike(result: harness.Result, tmp_path: Path) -> None:
    """kill -9 after the second line; the same command again redoes no finished line and ends with the same scores."""
    asked = [sys.executable, str(ROOT / "benchmarks" / "run.py"), *SMALL, f"out={tmp_path / 'runs'}"]
    process = subprocess.Popen(asked, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def lines() -> list[dict]:
        return [line for path in (tmp_path / "runs").glob("*/results.jsonl") for line in read_results(path)]

    deadline = time.monotonic() + 200
    while len(lines()) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate()
    before = lines()
    assert process.returncode == -signal.SIGKILL and 2 <= len(before) < 8, out.decode()
    done = subprocess.run(asked, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = lines()
    assert after[: len(before)] == before, "finished lines stand as they were, dates and seconds too"
    maps = [{(line["arm"], line["seed"]): line["map"] for line in found} for found in (after, result.lines)]
    assert maps[0] == pytest.approx(maps[1])
    assert re.search(r"report: .*report\.md", done.stdout)


class TestReport:
    def test_numbers_are_those_of_the_lines(self, result: harness.Result) -> None:
        path = report.write(result, "rendered", "python benchmarks/run.py")
        text = path.read_text()
        for arm in ("none", "copies", "pg2", "oracle"):
            maps = [100 * line["map"] for line in result.lines if line["arm"] == arm]
            assert f"{np.mean(maps):.1f} ± {np.std(maps, ddof=1):.1f}" in next(t for t in text.splitlines() if t.startswith(f"| {arm} "))
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (path.parent / picture).stat().st_size > 1000, picture

    def test_gain_is_the_difference_of_means(self, result: harness.Result) -> None:
        none, _, _, oracle = report.summarise(result)
        assert not none.gains and oracle.gains.keys() == {"rank1", "map"}
        for score, gain in oracle.gains.items():
            assert gain.over_queries.mean == pytest.approx(oracle.scores[score][0] - none.scores[score][0])
            assert gain.over_queries.low <= gain.over_queries.mean <= gain.over_queries.high

    def test_every_machine_that_made_a_part_is_named(self, asked: harness.BenchConfig, result: harness.Result, tmp_path: Path) -> None:
        text = report.render(result, report.summarise(result), "rendered", "command")
        assert f"`command` on {result.lines[0]['device']}; reid-aug " in text and "not all on one machine" not in text
        other = {"device": "Another GPU", "date": "2021-03-04T00:00:00+00:00"}
        newer = {"versions": {**result.lines[0]["versions"], "torch": "9.9"}}
        lines = [result.lines[0], *({**line, **other} for line in result.lines[1:4]), *({**line, **newer} for line in result.lines[4:])]
        mixed = replace(result, lines=lines)
        text = report.render(mixed, report.summarise(mixed), "rendered", "command")
        device = result.lines[0]["device"]
        for start, end in ((f"* 1 of 8 trainings on {device}; ", ""), ("* 3 of 8 trainings on Another GPU; ", "; 2021-03-04."),
                           (f"* 4 of 8 trainings on {device}; ", "torch 9.9, ")):  # fmt: skip
            (line,) = [line for line in text.splitlines() if line.startswith(start)]
            assert end in line
        report.record(mixed, report.summarise(mixed), asked.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        kept = json.loads((tmp_path / "r.json").read_text())["machines"]
        assert [(one["device"], one["lines"]) for one in kept] == [(device, 1), ("Another GPU", 3), (device, 4)]
        assert kept[1]["versions"] == result.lines[0]["versions"] and kept[2]["versions"]["torch"] == "9.9"

    def test_shares_name_their_machines_too(self, asked: harness.BenchConfig, result: harness.Result, tmp_path: Path) -> None:
        other = replace(result, folder=tmp_path / "b", lines=[{**line, "device": "Another GPU"} for line in result.lines])
        for name in ("a", "b"):
            shutil.copytree(result.folder / "scores", tmp_path / name / "scores")
        shares = {0.5: replace(result, folder=tmp_path / "a"), 1.0: other}
        path = report.write_shares(shares, asked.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        assert "* 8 of 16 trainings on Another GPU; " in path.read_text()
        assert [one["lines"] for one in json.loads((tmp_path / "r.json").read_text())["machines"]] == [8, 8]

    def test_what_intervals_take_for_granted_is_said(self, result: harness.Result) -> None:
        text = report.render(result, report.summarise(result), "rendered", "command")
        assert "Queries are taken as independent, though several are of one person" in text

    def test_record(self, asked: harness.BenchConfig, result: harness.Result, tmp_path: Path) -> None:
        asked = asked.model_copy(update={"record": str(tmp_path / "r.json")})
        report.record(result, report.summarise(result), asked, "command")
        kept = json.loads((tmp_path / "r.json").read_text())
        assert kept["quality"]["pg2"]["images"] == 6 and len(kept["lines"]) == 8
        assert kept["baselines"]["osnet_x0_25"]["oracle"]["gains"]["rank1"]["query_p"] <= 1
        assert str(result.folder) not in (tmp_path / "r.json").read_text()


class TestBaseline:
    def test_augment_moves_and_mirrors_whole_images(self) -> None:
        images = torch.arange(8 * 3 * 12 * 6, dtype=torch.float32).reshape(8, 3, 12, 6).remainder(251).add(1).to(torch.uint8)
        out = augment(images, BaselineConfig(crop_px=2), torch.Generator().manual_seed(0))
        assert out.shape == images.shape and out.dtype == torch.uint8
        padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
        places, flips = set(), set()
        for one, wide in zip(out, padded, strict=True):
            found = [
                (y, x, flip) for y in range(5) for x in range(5) for flip in (False, True)
                if torch.equal(one, (wide.flip(-1) if flip else wide)[:, y : y + 12, x : x + 6])
            ]  # fmt: skip
            assert len(found) == 1
            places.add(found[0][:2])
            flips.add(found[0][2])
        assert len(places) > 3 and flips == {True, False}
        still = augment(images, BaselineConfig(crop_px=0, flip=False), torch.Generator())
        assert torch.equal(still, images)

    def test_erasing_blanks_one_rectangle_of_some_images(self) -> None:
        ones = torch.ones(400, 3, 64, 32)
        gone = erase(ones, 0.5, torch.Generator().manual_seed(0))[:, 0] == 0
        hit = gone.flatten(1).any(1)
        assert 0.4 < hit.float().mean() < 0.6
        for mask in gone[hit]:
            rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            block = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            assert block.all() and block.sum() == mask.sum()  # one rectangle, whole
            assert mask.sum() <= 0.41 * 64 * 32
        shares = gone[hit].float().mean((1, 2))
        assert shares.max() > 0.3 and shares.min() < 0.06
        assert gone[:, :8].any() and gone[:, -8:].any() and gone[:, :, :4].any() and gone[:, :, -4:].any()
        assert torch.equal(erase(ones, 0.0, torch.Generator().manual_seed(0)), ones)
        assert torch.equal(erase(ones, 1.0, torch.Generator().manual_seed(3)), erase(ones, 1.0, torch.Generator().manual_seed(3)))

    def test_prepare_is_torchvisions_normalisation(self) -> None:
        images = torch.randint(0, 256, (2, 3, 4, 5), dtype=torch.uint8)
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        torch.testing.assert_close(prepare(images), (images / 255 - mean) / std)

    def test_a_seed_is_a_run(self) -> None:
        data = TrainingSet(torch.randint(0, 256, (12, 3, 32, 16), dtype=torch.uint8), torch.arange(12) % 4)
        small = BaselineConfig(size=(32, 16), steps=2, identities=3, instances=2, crop_px=1)
        one, same, other = (features(train_baseline(small, data, seed), data.images) for seed in (0, 0, 1))
        assert torch.equal(one, same) and not torch.equal(one, other)
        assert one.dtype == torch.float32 and len(one) == 12

    def test_it_learns_to_tell_people_apart(self) -> None:
        """Four flat colours with noise: any working training finds them."""
        torch.manual_seed(0)
        labels = torch.arange(64) % 4
        colours = torch.tensor([[200.0, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
        images = (colours[labels][:, :, None, None] + 30 * torch.randn(64, 3, 32, 16)).clamp(0, 255).to(torch.uint8)
        small = BaselineConfig(size=(32, 16), steps=30, identities=4, instances=4, crop_px=1)
        found = features(train_baseline(small, TrainingSet(images, labels), 0), images)
        near = torch.cdist(found, found).fill_diagonal_(torch.inf).argmin(1)
        assert (labels[near] == labels).float().mean() > 0.9

    def test_labels_have_no_gaps(self) -> None:
        assert labels_of([7, 3, 7, 12]).tolist() == [1, 0, 1, 2]
        with pytest.raises(ValueError, match="without gaps"):
            TrainingSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]))


def test_copies_repeat_the_sources_of_the_other_arms() -> None:
    people = [PersonImage(f"{i}.jpg", pid, 0, "train") for i, pid in enumerate((5, 5, 9))]
    real = torch.arange(3, dtype=torch.uint8)[:, None, None, None].expand(3, 3, 2, 2)
    rows = [SyntheticRow("x", "2.jpg", "t", 9, 0, 0), SyntheticRow("y", "0.jpg", "t", 5, 0, 0)]
    copies = training_set("copies", people, real, rows, None)
    assert copies.images[:, 0, 0, 0].tolist() == [0, 1, 2, 2, 0] and copies.labels.tolist() == [0, 0, 1, 1, 0]
    drawn = training_set("pg2", people, real, rows, torch.full((2, 3, 2, 2), 7, dtype=torch.uint8))
    assert drawn.images[:, 0, 0, 0].tolist() == [0, 1, 2, 7, 7] and drawn.labels.tolist() == [0, 0, 1, 1, 0]


def test_image_quality_of_every_generator_arm_is_in_report_and_record(
    asked: harness.BenchConfig, result: harness.Result, tmp_path: Path
) -> None:
    found = result.quality["pg2"]
    assert {"SSIM", "mask-SSIM", "identity rank-1", "ID²", "APS", "Re-ID Fréchet", "truth PSNR", "ΔE upper"} <= found.values.keys()
    assert all("weights missing" in found.missing[name] for name in ("FID", "LPIPS", "DS", "PCKh") if name in found.missing)
    assert found.images == asked.quality.pairs
    text = report.render(result, report.summarise(result), "test", "command")
    assert f"| mask-SSIM | {found.values['mask-SSIM'].value:.3f} |" in text and "| PSNR (dB) / SSIM | torso |" in text
    for name in (*found.values, *found.missing):
        assert " of " in name or f"| {name} |" in text


def test_quality_is_measured_again_when_weights_have_come(
    asked: harness.BenchConfig, result: harness.Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    measured = result.quality["pg2"]
    monkeypatch.setattr(harness, "measure", lambda *a, **k: calls.append(1) or measured)
    harness.run(asked)
    assert not calls
    monkeypatch.setattr(harness.Networks, "there", lambda self: ["alexnet-owt-7be5be79.pth"])
    harness.run(asked)
    assert calls == [1]
    monkeypatch.undo()
    harness.run(asked)


def test_quality_without_test_poses_says_what_to_do(people: list[PersonImage]) -> None:
    from reid_aug.quality.held_out import pairs_to_measure
    from reid_aug.quality.protocols import PairsConfig

    with pytest.raises(ValueError, match="quality.pairs=0"):
        pairs_to_measure([replace(p, pose=None) for p in people], PairsConfig(count=10))


def test_every_shipped_benchmark_configuration_loads() -> None:
    shipped = sorted((ROOT / "configs" / "benchmarks").glob("*.yaml"))
    assert shipped
    for path in shipped:
        text = path.read_text()
        load_config(str(path), ["data.root=x"] if "???" in text else [])



class TestVerdicts:
    """What the report says of arms whose scores are drawn here, with a truth that is known."""

    def simulated(self, folder: Path, gains: dict[str, float], luck: float, seed: int, seeds: int = 3) -> harness.Result:
        rng = np.random.default_rng(seed)
        hardness, lines = rng.random(80), []
        for arm, gain in gains.items():
            for number in range(seeds):
                ap = (0.2 + 0.4 * hardness + gain + luck * rng.standard_normal() + 0.1 * rng.standard_normal(80)).clip(0, 1)
                first = np.where(rng.random(80) < ap, 0, 3)
                cmc = np.array([(first <= rank).mean() for rank in range(20)])
                kept = Ranking(cmc, float(ap.mean()), 0.1, ap, ap, first, np.ones(80, dtype=bool))
                save_scores(scores_file(folder, arm, "x", number), kept)
                scores = {"rank1": cmc[0], "rank5": cmc[4], "rank10": cmc[9], "map": kept.map, "minp": 0.1}
                about = {"baseline": "quick", "arm": arm, "seed": number, "config": "x", "steps": 1, "seconds": 1.0, "train_images": 9}
                lines.append({**about, **scores})
        return harness.Result(folder, lines, {}, {})

    def test_a_planted_gain_is_found_and_equal_arms_are_not_told_apart(self, tmp_path: Path) -> None:
        found = {"planted": 0, "equal": 0, "harmful": 0}
        for trial in range(20):
            gains = {"none": 0.0, "planted": 0.15, "equal": 0.0, "harmful": -0.15}
            said = report.verdicts(report.summarise(self.simulated(tmp_path / str(trial), gains, luck=0.02, seed=trial)))
            for sentence, arm, word in zip(said, ("planted", "equal", "harmful"), ("helps", "no measurable effect", "hurts"), strict=True):
                assert sentence.startswith(f"`{arm}` ")
                found[arm] += word in sentence
        assert found["equal"] >= 19 and found["planted"] >= 19 and found["harmful"] >= 19

    def test_one_training_is_said_to_be_one(self, tmp_path: Path) -> None:
        result = self.simulated(tmp_path, {"none": 0.0, "planted": 0.3}, luck=0.02, seed=0, seeds=1)
        (said,) = report.verdicts(report.summarise(result))
        assert "`planted` helps" in said and "of these trainings alone" in said and "(Holm's p < 0.001)" in said

    def test_p_values_pay_for_every_arm_tried(self, tmp_path: Path) -> None:
        gains = {"none": 0.0, "planted": 0.06}
        alone = report.summarise(self.simulated(tmp_path / "a", gains, luck=0.01, seed=5))[1]
        many = report.summarise(self.simulated(tmp_path / "b", gains | {f"arm{i}": 0.0 for i in range(4)}, luck=0.01, seed=5))[1]
        one, five = alone.gains["map"], many.gains["map"]
        assert one.over_trainings == five.over_trainings and one.training_p is not None and five.training_p is not None
        assert five.training_p == pytest.approx(min(1.0, 5 * one.training_p))

    def test_erasings_gain_is_not_credited_to_what_goes_with_it(self, tmp_path: Path) -> None:
        gains = {"none": 0.0, "erasing": 0.15, "copies": 0.0, "pg2": 0.0, "pg2+erasing": 0.15, "pg2+gated+erasing": 0.4}
        found = {"erasing": 0, "pg2": 0, "pg2+erasing": 0, "pg2+gated+erasing": 0}
        for trial in range(20):
            summaries = report.summarise(self.simulated(tmp_path / str(trial), gains, luck=0.02, seed=trial))
            said = {one.arm: text for one, text in zip(summaries[1:], report.verdicts(summaries), strict=True)}
            for arm in found:
                found[arm] += f"`{arm}` helps" in said[arm]
            assert all("beyond `erasing` alone: mAP" in said[arm] and "`copies`" not in said[arm] for arm in list(said)[-2:])
            assert "against `copies`" in said["pg2"] and "beyond" not in said["pg2"] + said["erasing"]
            table, none = {one.arm: one for one in summaries}, summaries[0].scores["map"][0]
            both = table["pg2+erasing"]
            assert both.gains["map"].over_queries.mean == pytest.approx(both.scores["map"][0] - none)
            assert both.gains_beyond["map"].over_queries.mean == pytest.approx(both.scores["map"][0] - table["erasing"].scores["map"][0])
        assert found["pg2+erasing"] <= 1 and found["pg2"] <= 1 and found["erasing"] >= 19 and found["pg2+gated+erasing"] >= 19

    @pytest.mark.parametrize(
        ("arm", "others", "alone", "control"),
        [
            ("pg2", ("none", "copies", "erasing"), None, "copies"),
            ("erasing", ("none", "copies"), None, "copies"),
            ("copies", ("none", "erasing"), None, None),
            ("pg2+erasing", ("none", "copies"), None, "copies"),
            ("pg2+erasing", ("none", "copies", "erasing", "pg2+gated"), "erasing", None),
            ("pg2+erasing", ("none", "copies", "copies+erasing", "erasing", "vdg+erasing"), "erasing", "copies+erasing"),
            ("pg2+more", ("none", "none+more", "erasing"), "none+more", None),
            ("copies+erasing", ("none", "copies", "erasing"), "erasing", None),
        ],
    )
    def test_what_an_arm_is_compared_with(
        self, arm: str, others: tuple[str, ...], alone: str | None, control: str | None, tmp_path: Path
    ) -> None:
        found = report.summarise(self.simulated(tmp_path, dict.fromkeys((*others, arm), 0.0), luck=0.02, seed=0))[-1]
        assert (found.arm, found.alone, found.control) == (arm, alone, control)
        assert bool(found.gains_beyond) == (alone is not None) and (found.map_gain_over_control is None) == (control is None)
        (said,) = report.verdicts([found])
        assert ("an arm `erasing` would tell" in said) == (arm == "pg2+erasing" and alone is None)

    def test_equal_arms_are_not_told_from_copies_by_the_luck_of_their_trainings(self, tmp_path: Path) -> None:
        """An interval over queries alone leaves out 0 in many a comparison of equal arms, so it does not stand there with many seeds."""
        wrong = np.zeros(2, dtype=int)
        for trial in range(40):
            result = self.simulated(tmp_path / str(trial), {"none": 0.0, "copies": 0.0, "equal": 0.0}, luck=0.02, seed=trial)
            summaries = report.summarise(result)
            ap = {
                arm: np.stack([np.load(scores_file(result.folder, arm, "x", seed))["ap"] for seed in range(3)])
                for arm in ("copies", "equal")
            }
            for kind, gain in enumerate((summaries[2].map_gain_over_control, paired_bootstrap(ap["equal"], ap["copies"]))):
                assert gain is not None and gain.mean == pytest.approx(float(ap["equal"].mean() - ap["copies"].mean()))
                wrong[kind] += not gain.low <= 0 <= gain.high
            assert re.search(r"; against `copies` \S+ \[.*\] over queries and trainings\.$", report.verdicts(summaries)[1])
        assert wrong[0] <= 6 and wrong[1] >= 10, wrong

    def test_one_seed_is_compared_with_copies_over_queries(self, tmp_path: Path) -> None:
        summaries = report.summarise(self.simulated(tmp_path, {"none": 0.0, "copies": 0.0, "equal": 0.0}, luck=0.0, seed=0, seeds=1))
        ap = [np.load(scores_file(tmp_path, arm, "x", 0))["ap"] for arm in ("equal", "copies")]
        assert summaries[2].map_gain_over_control == paired_bootstrap(*ap)
        assert re.search(r"; against `copies` \S+ \[.*\] over queries\.$", report.verdicts(summaries)[1])

    def test_p_values_pay_for_comparisons_with_erasing(self, tmp_path: Path) -> None:
        """Four gains over `none` and one beyond `erasing`: the least p of five is multiplied by five."""
        gains = {"none": 0.0, "erasing": 0.0, "planted": 0.06, "pg2": 0.0, "pg2+erasing": 0.0}
        result = self.simulated(tmp_path, gains, luck=0.01, seed=5)
        planted = report.summarise(result)[2].gains["map"]
        ap = [np.stack([np.load(scores_file(tmp_path, arm, "x", seed))["ap"] for seed in range(3)]) for arm in ("planted", "none")]
        test = over_seeds(*ap)
        assert test is not None and planted.training_p == pytest.approx(min(1.0, 5 * test.p_value))

    def test_none_alone_has_no_verdict(self, tmp_path: Path) -> None:
        assert report.verdicts(report.summarise(self.simulated(tmp_path, {"none": 0.0}, luck=0.02, seed=0))) == []
