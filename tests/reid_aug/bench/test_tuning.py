"""Equal tuning: what is tried, on whom, what is chosen, and that a killed run goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from generators import read_header
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.bench import report
from reid_aug.bench import run as bench_run
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.results import read_lines
from reid_aug.bench.run import Benchmark, Result, run
from reid_aug.bench.summary import summarise
from reid_aug.bench.trials import Tuned, held_out
from reid_aug.bench.tuning import Setting, TuningConfig, best
from reid_aug.bench.tuning_report import tuning_section
from reid_aug.bench.variants import Variant
from reid_aug.cli import main
from reid_aug.config import shipped
from reid_aug.data.people import PersonImage

QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=1", "baseline.steps=1", "baseline.identities=3"]
TUNING = "tuning={rates: [0.1], shares: [0.75], decays: [10], held_out: 0.4}"
SETTINGS = [*QUICK, "baseline.instances=4", TUNING]


class TestSettings:
    def test_as_many_for_every_arm_the_own_first(self) -> None:
        tuning, baseline = TuningConfig(rates=(0.3, 3.0), shares=(0.25,), decays=(10.0,)), BaselineConfig(learning_rate=0.01)
        assert tuning.trials == 6
        real = [setting.values(baseline, Variant()) for setting in tuning.settings("none", Variant(), baseline)]
        assert real == [{"learning_rate": 0.01 * r, "weight_decay": 5e-4 * d} for d in (1, 10) for r in (1, 0.3, 3)]
        for origin, variant, knob, own in [
            ("pg2", Variant(), "share", None), ("oracle", Variant(enter="replace", probability=0.7), "probability", 0.7),
            ("pg2", Variant(online=0.5), "online", 0.5), ("copies", Variant(draw="recombined", enter="replace"), "probability", 0.5),
        ]:  # fmt: skip
            tried = [setting.values(baseline, variant) for setting in tuning.settings(origin, variant, baseline)]
            assert tried == [{"learning_rate": 0.01 * r, knob: share} for share in (own, 0.25) for r in (1, 0.3, 3)]
        recombined = Variant(draw="recombined")  # classes without real images, which P × K batches do not cap
        assert tuning.settings("pg2", recombined, baseline)[-1].knob == "weight_decay"
        assert tuning.settings("pg2", recombined, baseline.model_copy(update={"sampler": "shuffle"}))[-1].knob == "share"

    def test_the_own_setting_is_the_untuned_training(self) -> None:
        baseline, variant = BaselineConfig(), Variant(share=0.5)
        assert Setting(knob="share").is_own and Setting(knob="share").applied(baseline, variant) == (baseline, variant)

    def test_the_first_of_the_best_is_chosen(self) -> None:
        assert best([0.2, 0.5, 0.4]) == 1 and best([0.5, 0.5]) == 0 and best([None, 0.0]) == 1 and best([0.3, None]) == 0
        with pytest.raises(ValueError, match="no trial has a score"):
            best([None, None])

    @pytest.mark.parametrize(
        ("settings", "complaint"),
        [
            (["tuning={rates: [1, 3]}"], "tuning's rates are different, and are not 1, which is always tried, got .1.0, 3.0"),
            (["tuning={shares: [0.25, 0.5]}"], "as many trials on every arm, so there are as many shares as decays, got 2 and 1"),
            (["tuning={rates: [], shares: [], decays: []}"], "tries something beside an arm's own setting"),
            (["tuning={held_out: 1.0}"], "tuning.held_out: .*less than 1, got 1.0"),
            (["tuning={rate: [3]}"], "unknown key 'tuning.rate'.*did you mean 'rates'"),
            (["tuning={shares: [0.2]}"], "arm 'pg2' under baseline .*: tuning.shares: a share of synthetic images is .* got 0.2"),
            (["tuning={shares: [0.25, 0.3], decays: [3, 10]}"], "tuning.shares: share 0.3 is the same training as 0.25"),
            (["tuning={shares: [0.5]}", "arms=[none,pg2+online]"], "arm 'pg2.online' .* online 0.5 is the same training as the arm's own"),
            (["tuning={}", "baseline.weight_decay=0"], "arm 'none' under .* tuning.decays are multiples of .* weight_decay, which is 0"),
        ],
    )
    def test_what_can_mean_nothing_is_refused(
        self, settings: list[str], complaint: str, configure: Callable[..., BenchConfig], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=complaint):
            configure(tmp_path, *QUICK, "baseline.instances=4", "arms=[none,pg2]", *settings)


class TestHeldOut:
    def people(self, cameras: int = 2) -> list[PersonImage]:
        train = [PersonImage(f"{pid}_{i}.jpg", pid, i % cameras, "train") for pid in range(10) for i in range(3)]
        tested = [PersonImage("q.jpg", 99, 0, "query"), PersonImage("g.jpg", 99, 1, "gallery")]
        return [*train, PersonImage("junk.jpg", -1, 0, "train"), *tested]

    def test_people_are_on_one_side_alone_and_test_people_on_none(self) -> None:
        people = self.people()
        parted = held_out(people, 0.3, 0)
        sides = {split: {p.pid for p in parted if p.split == split} for split in ("train", "query", "gallery")}
        assert len(sides["query"]) == 3 and not sides["gallery"] and 99 not in sides["train"] | sides["query"]
        assert sides["train"] == {-1, *range(10)} - sides["query"] and [p.name for p in parted] == [p.name for p in people[:31]]
        again = held_out(list(reversed(people)), 0.3, 0)
        assert {p.name: p.split for p in again} == {p.name: p.split for p in parted} != {p.name: p.split for p in held_out(people, 0.3, 1)}

    @pytest.mark.parametrize(
        ("cameras", "part", "complaint"),
        [
            (2, 0.1, "two training identities at least and learns from two others at least, got 1 of 10 with tuning.held_out=0.1"),
            (2, 0.9, "got 9 of 10"),
            (1, 0.3, "across cameras, and none of the 3 held out is seen by two"),
        ],
    )
    def test_too_few_are_refused(self, cameras: int, part: float, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            held_out(self.people(cameras), part, 0)


class TestDigests:
    def test_only_what_is_tuned_has_another_name(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        arms = "arms=[none,pg2,pg2+gated,oracle]"
        plain, tuned, more = (
            Fingerprints(configure(tmp_path, *QUICK, "baseline.instances=4", arms, *settings))
            for settings in ([], [TUNING], [TUNING.replace("0.75", "0.5")])
        )
        assert plain.folder == tuned.folder and plain.judge_place == tuned.judge_place
        assert plain.place("generators", "pg2") == tuned.place("generators", "pg2")
        assert plain.images_place("pg2") == tuned.images_place("pg2")
        digests = [[each.digest("osnet_x0_25", arm) for arm in ("none", "pg2")] for each in (plain, tuned, more)]
        assert digests[0][0] != digests[1][0] == digests[2][0], "what real images alone try is the same"
        assert len({digests[i][1] for i in range(3)}) == 3
        assert tuned.digest("osnet_x0_25", "pg2", tuned=False) == digests[0][1]
        trials = Fingerprints(tuned.config, trials=True)
        assert trials.folder == tuned.folder / "tuning" and trials.judge_place.name != tuned.judge_place.name
        assert trials.place("generators", "pg2").name != tuned.place("generators", "pg2").name, "learnt from others"


@pytest.fixture(scope="module")
def tuned(configure: Callable[..., BenchConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchConfig, Result, list[Any]]:
    """A tuned benchmark, and what each of its trainings was."""
    config, trained = configure(tmp_path_factory.mktemp("tuned"), *SETTINGS, "arms=[none,pg2,pg2+online]"), []
    train = bench_run.train_baseline

    def spy(config: BaselineConfig, data: Any, seed: int, **options: Any) -> nn.Module:
        shares = options["mixing"].share, options["online"] and options["online"].p
        trained.append((options["label"], config.learning_rate, config.weight_decay, *shares, data.classes))
        return train(config, data, seed, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_run, "train_baseline", spy)
        return config, run(config), trained


class TestRun:
    def test_every_arm_has_as_many_trials_on_the_same_people(self, tuned: tuple[BenchConfig, Result, list[Any]]) -> None:
        config, result, trained = tuned
        lines = read_lines(result.folder / "tuning" / "trials.jsonl")
        assert [(line["arm"], line["trial"]) for line in lines] == [(arm, trial) for arm in config.arms for trial in range(4)]
        assert {(line["identities"], line["held_out"], line["steps"]) for line in lines} == {(3, 2, 1)}
        assert all(0 < line["map"] <= 1 for line in lines)
        rate, decay = config.baseline.learning_rate, config.baseline.weight_decay
        assert trained[:12] == [
            *(("none 0", rate * r, decay * d, None, None, 3) for d in (1, 10) for r in (1, 0.1)),
            *(("pg2 0", rate * r, decay, share, None, 3) for share in (None, 0.75) for r in (1, 0.1)),
            *(("pg2+online 0", rate * r, decay, None, p, 3) for p in (0.5, 0.75) for r in (1, 0.1)),
        ]

    def test_the_best_setting_is_trained_on_all(self, tuned: tuple[BenchConfig, Result, list[Any]]) -> None:
        config, result, trained = tuned
        lines = read_lines(result.folder / "tuning" / "trials.jsonl")
        for line, training in zip(result.lines, trained[12:], strict=True):
            tried = [each for each in lines if each["arm"] == line["arm"]]
            chosen = max(tried, key=lambda each: each["map"])["setting"]  # the first of equals
            assert line["tuned"] == chosen and training[5] == 5
            knob = next(key for key in chosen if key != "learning_rate")
            assert (training[1], training[{"weight_decay": 2, "share": 3, "online": 4}[knob]]) == (chosen["learning_rate"], chosen[knob])

    def test_generators_of_trials_have_not_seen_those_held_out(self, tuned: tuple[BenchConfig, Result, list[Any]]) -> None:
        config, result, _ = tuned
        (trials,), (final,) = ((folder / "generators").iterdir() for folder in (result.folder / "tuning", result.folder))
        assert read_header(trials / "last.safetensors")["about"]["people"] != read_header(final / "last.safetensors")["about"]["people"]
        benchmark = Benchmark(config)
        assert benchmark.trials is not None
        data = benchmark.trials.data
        learnt, scored = ({p.pid for p in data.of_split(split)} for split in ("train", "query"))
        assert not learnt & scored and {p.pid for p in benchmark.data.of_split("train")} == learnt | scored
        people = {p.name: p.pid for p in benchmark.data.of_split("train")}
        (images,) = (result.folder / "tuning" / "images").iterdir()
        rows = [json.loads(text) for text in (images / "manifest.jsonl").read_text().splitlines()[1:]]
        assert {people[row[name]] for row in rows for name in ("source", "target")} <= learnt

    def test_nothing_is_done_twice(self, tuned: tuple[BenchConfig, Result, list[Any]], monkeypatch: pytest.MonkeyPatch) -> None:
        config, result, _ = tuned
        monkeypatch.setattr(bench_run, "train_baseline", lambda *_, **__: pytest.fail("trained again"))
        again = run(config)
        assert again.lines == result.lines and again.tuned == result.tuned

    def test_killed_it_goes_on_with_the_trial_it_was_at(
        self, tuned: tuple[BenchConfig, Result, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A run stopped in its third-last trial, whose line is torn, ends with the same choices."""
        config, result, _ = tuned
        file, train, trained = result.folder / "tuning" / "trials.jsonl", bench_run.train_baseline, []
        whole = file.read_text().splitlines(keepends=True)
        file.write_text("".join(whole[:-3]) + whole[-3][:40])
        monkeypatch.setattr(bench_run, "train_baseline", lambda *a, **k: trained.append(k["label"]) or train(*a, **k))
        again = run(config)
        assert trained == ["pg2+online 0"] * 3 and again.lines == result.lines
        assert [(each.chosen, each.scores) for each in again.tuned] == [(each.chosen, each.scores) for each in result.tuned]

    def test_the_report_has_every_trial(self, tuned: tuple[BenchConfig, Result, list[Any]], tmp_path: Path) -> None:
        config, result, _ = tuned
        text = report.compose(result, summarise(result), "test", "command")
        assert "Every arm was tuned by 4 trials under each baseline (see Tuning)" in text and "No arm was tuned" not in text
        assert "on 3 of the training identities, and is scored by mAP on the other 2" in text
        assert "`pg2` learnt without those held out for the trials, and anew from all" in text
        for heads in ("own | rate × 0.1 | decay × 10 | rate × 0.1, decay × 10", "share 0.75 | rate × 0.1, share 0.75", "online 0.75"):
            assert heads in text
        report.record(result, summarise(result), config.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        assert len(json.loads((tmp_path / "r.json").read_text())["trials"]) == 12

    def test_untuned_lines_beside_them_are_as_ever(
        self, tuned: tuple[BenchConfig, Result, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, result, _ = tuned
        train, trained = bench_run.train_baseline, []
        monkeypatch.setattr(bench_run, "train_baseline", lambda *a, **k: trained.append(k["label"]) or train(*a, **k))
        plain = run(config.model_copy(update={"tuning": None, "arms": ("none",)}))
        assert plain.folder == result.folder and "tuned" not in plain.lines[0] and trained in ([], ["none 0"])
        assert "No arm was tuned" in report.compose(plain, summarise(plain), "test", "command")


def test_a_trial_that_diverges_loses_and_an_arm_of_such_alone_is_said(
    configure: Callable[..., BenchConfig], small: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = configure(tmp_path, *SETTINGS, "arms=[none]")
    train = bench_run.train_baseline

    def fragile(config: BaselineConfig, *a: Any, **k: Any) -> nn.Module:
        if config.weight_decay > 5e-4 or config.learning_rate > 5e-3:
            raise FloatingPointError("ended with loss nan")
        return train(config, *a, **k)

    monkeypatch.setattr(bench_run, "train_baseline", fragile)
    (outcome,) = run(config).tuned
    assert outcome.scores[2:] == (None, None) and outcome.lines[2]["failed"] == "ended with loss nan"
    assert "| diverged | diverged |" in "\n".join(tuning_section([outcome], ""))

    def broken(*_: Any, **__: Any) -> nn.Module:
        raise FloatingPointError("ended with loss nan")

    monkeypatch.setattr(bench_run, "train_baseline", broken)
    settings = [*SETTINGS, "arms=[none]", f"out={tmp_path / 'other'}"]
    assert main(["bench", str(shipped("benchmarks/pg2.yaml")), *small, *settings]) == 1
    assert "every trial of arm 'none' under baseline 'osnet_x0_25' diverged: ended with loss nan" in capsys.readouterr().err


def test_means_over_seeds_choose(configure: Callable[..., BenchConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: own (.2 + .6) / 2 = .40; rate × 0.1 (.5 + .4) / 2 = .45, chosen; decay × 10 (.9 and diverged); both .1."""
    config = configure(tmp_path, *SETTINGS, "arms=[none]", "tuning.seeds=[0,1]")
    trials = Benchmark(config).trials
    assert trials is not None
    scores = {(0, 0): 0.2, (0, 1): 0.6, (1, 0): 0.5, (1, 1): 0.4, (2, 0): 0.9, (2, 1): None, (3, 0): 0.1, (3, 1): 0.1}
    monkeypatch.setattr(trials, "_line", lambda baseline, arm, trial, seed, digest: {
        "baseline": baseline, "arm": arm, "trial": trial, "seed": seed, "config": digest, "map": scores[trial, seed],
    })  # fmt: skip
    tuned = trials.run()["osnet_x0_25", "none"]
    assert isinstance(tuned, Tuned) and tuned.chosen == Setting(0.1, "weight_decay", None)
    assert tuned.scores == pytest.approx((0.4, 0.45, None, 0.1), nan_ok=True)
