"""Targets: whose poses and places an arm's images have, what of it names results, and what a report says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from generators import read_header
from reid_aug import images
from reid_aug.baselines.mixing import Mixing
from reid_aug.bench import report
from reid_aug.bench import run as bench_run
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.run import Benchmark, Result, run
from reid_aug.bench.summary import summarise
from reid_aug.bench.targets import Targets, notes, targets_of, trained_on
from reid_aug.data.loading import DataConfig
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.manifest import Manifest

# Minutes of warpblend are not needed to tell what it is asked for.
WARPBLEND = "generators.warpblend={generator: {name: warpblend, size: [32, 16], steps: 2}, batch_size: 4, perceptual: {weights: none}}"
QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=1", "baseline.steps=2", "baseline.identities=3", WARPBLEND]
WHOLE, NEAR = Targets("whole", False), Targets("compatible", True)


@pytest.fixture
def shown(configure: Callable[..., BenchConfig], tmp_path: Path) -> Callable[..., list[Targets | None]]:
    def targets(arms: str, *settings: str) -> list[Targets | None]:
        config = configure(tmp_path, *QUICK, f"arms=[{arms}]", *settings)
        return [targets_of(config, arm) for arm in config.arms]

    return targets


class TestTargets:
    def test_a_generator_has_its_own_way(self, shown: Callable[..., list[Targets | None]]) -> None:
        assert shown("none,copies,erasing,pg2,pg2+canonical") == [None, None, None, WHOLE, Targets("canonical", False)]
        arms = "none,warpblend,warpblend+gated,warpblend+online,warpblend+whole"
        assert shown(arms) == [None, NEAR, NEAR, NEAR, Targets("whole", True)]

    def test_recombined_people_stand_in_the_others_places(self, shown: Callable[..., list[Targets | None]]) -> None:
        recombined = Targets("recombined", True)
        assert shown("none,copies+recombined,pg2+recombined,warpblend+recombined") == [None, *[recombined] * 3]

    def test_the_oracle_has_those_of_the_first_generator_among_the_arms(self, shown: Callable[..., list[Targets | None]]) -> None:
        assert shown("none,warpblend,pg2,oracle")[-1] == shown("none,oracle,warpblend,pg2")[1] == NEAR
        assert shown("none,pg2,warpblend,oracle")[-1] == shown("none,pg2+canonical,oracle")[-1] == WHOLE
        assert shown("none,warpblend+online,oracle")[-1] == NEAR
        assert shown("none,oracle") == [None, WHOLE], "as ever, without a generator"
        assert shown("none,oracle+whole,oracle+canonical,warpblend")[1:3] == [Targets("whole", True), Targets("canonical", True)]

    def test_another_generator_can_be_chosen(self, shown: Callable[..., list[Targets | None]]) -> None:
        assert shown("none,pg2,warpblend,oracle", "oracle_of=warpblend")[-1] == NEAR
        assert shown("none,warpblend,oracle", "oracle_of=pg2")[-1] == WHOLE
        assert shown("none,oracle", "oracle_of=warpblend")[-1] == NEAR


class TestDigests:
    """Only what is unlike earlier benchmarks changes the name of a result."""

    @pytest.fixture
    def digest(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> Callable[..., str]:
        def name(arm: str, beside: str, *settings: str) -> str:
            fingerprints = Fingerprints(configure(tmp_path, *QUICK, f"arms=[none,{beside}{arm}]", *settings))
            return fingerprints.digest("osnet_x0_25", arm)

        return name

    def test_the_oracles(self, digest: Callable[..., str]) -> None:
        alone = digest("oracle", "")
        assert alone == digest("oracle", "pg2,") == digest("oracle+whole", "pg2,") == digest("oracle", "warpblend,", "oracle_of=pg2")
        assert alone == digest("oracle", "pg2,warpblend,")
        others = [digest("oracle", "warpblend,"), digest("oracle+whole", "warpblend,"), digest("oracle+compatible", "pg2,")]
        assert len({alone, *others}) == 4

    def test_the_generators(self, digest: Callable[..., str]) -> None:
        assert digest("pg2", "") == digest("pg2+whole", "") != digest("pg2+compatible", "")
        assert digest("warpblend", "") == digest("warpblend+compatible", "") != digest("warpblend+whole", "")

    def test_mixing(self, digest: Callable[..., str]) -> None:
        replace = "mixing={enter: replace, probability: 0.25}"
        for arm in ("pg2", "pg2+lsro", "oracle", "copies", "erasing", "pg2+online"):
            assert (digest(arm, "") != digest(arm, "", replace)) == (arm in ("pg2", "pg2+lsro", "oracle")), arm
            assert digest(arm, "") == digest(arm, "", "mixing={label: same, weight: 1.0}")
        assert digest("pg2", "", "mixing={enter: replace}") == digest("pg2+replace", "")

    @pytest.mark.parametrize("arms", ["pg2,pg2+whole", "warpblend,warpblend+compatible", "pg2,oracle,oracle+whole"])
    def test_the_same_under_two_names_is_refused(self, arms: str, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        twins = arms.split(",")[-2:]
        with pytest.raises(ValueError, match=re.escape(f"arms {twins[0]!r} and {twins[1]!r} are the same")):
            Fingerprints(configure(tmp_path, *QUICK, f"arms=[none,{arms}]"))


@pytest.fixture(scope="module")
def near(configure: Callable[..., BenchConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchConfig, Result, list[Any]]:
    """A benchmark beside a generator of near views in scenes, and with what its trainings were called."""
    arms = "arms=[none,copies,grey-patch,warpblend,warpblend+online,oracle,oracle+whole]"
    settings = [arms, "mixing={enter: replace, probability: 0.5}", "baseline.flip_test=true"]
    config, trained, train = configure(tmp_path_factory.mktemp("near"), *QUICK, *settings), [], bench_run.train_baseline

    def spy(*given: Any, **options: Any) -> torch.nn.Module:
        trained.append((options["label"], options["mixing"], options["online"]))
        return train(*given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_run, "train_baseline", spy)
        return config, run(config), trained


class TestRun:
    def test_the_oracle_is_the_true_image_of_what_the_generator_was_asked_for(self, near: tuple[BenchConfig, Result, list[Any]]) -> None:
        config, result, _ = near
        benchmark = Benchmark(config)
        manifests = {arm: benchmark.synthetic.gated(arm)[:2] for arm in ("warpblend", "oracle", "oracle+whole")}
        pairs = {arm: [(row.source, row.target) for row in manifest.rows] for arm, (manifest, _) in manifests.items()}
        data, train = benchmark.data, benchmark.data.of_split("train")
        near_views, whole = (plan(train, data.bank, 1, 0, draw=draw) for draw in ("compatible", "whole"))
        assert pairs["oracle"] == pairs["warpblend"] == [(row.source, row.target) for row in near_views]
        assert pairs["oracle+whole"] == [(row.source, row.target) for row in whole] != pairs["oracle"]
        assert data.rendered is not None
        for arm in ("oracle", "oracle+whole"):
            manifest, folder = manifests[arm]
            assert manifest.in_scenes
            for row in [row for row in manifest.rows if row.source != row.target][:4]:
                true, in_sources_place = (data.rendered.true_image(row.source, row.target, scene).image for scene in (True, False))
                assert (folder / row.path).read_bytes() == images.encode(true, ".jpg") != images.encode(in_sources_place, ".jpg")
        assert len(list(result.folder.glob("images/*"))) == 3

    def test_arms_enter_as_the_mixing_says(self, near: tuple[BenchConfig, Result, list[Any]]) -> None:
        mixing = {label: how for label, how, _ in near[2]}
        assert {label for label, how in mixing.items() if how.enter == "replace"} == {"warpblend 0", "oracle 0", "oracle+whole 0"}
        assert mixing["grey-patch 0"].grey_patch == 0.4 and mixing["none 0"] == mixing["copies 0"] == type(mixing["none 0"])()
        (online,) = (online for label, _, online in near[2] if label == "warpblend+online 0")
        assert online.p == 0.5 and online.drawer.tolerance == 0.5, "near views, as on disk"

    def test_features_are_of_image_and_mirror_image(
        self, near: tuple[BenchConfig, Result, list[Any]], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, flips = near[0], []
        monkeypatch.setattr(bench_run, "features_of", lambda _, pixels, flip_test: flips.append(flip_test) or torch.rand(len(pixels), 4))
        monkeypatch.setattr(bench_run.Baselines, "train", lambda *_: (torch.nn.Identity(), 0.0))
        monkeypatch.setattr(bench_run, "save_scores", lambda *_: None)
        for flip_test in (True, False):
            baseline = config.baseline.model_copy(update={"flip_test": flip_test})
            Benchmark(config.model_copy(update={"baseline": baseline}))._line(next(iter(config.baselines_by_name)), "none", 0)
        assert flips == [True, True, False, False], "query and gallery alike"

    def test_the_report_says_so(self, near: tuple[BenchConfig, Result, list[Any]]) -> None:
        text = report.compose(near[1], summarise(near[1]), "test", "command")
        assert (
            "Synthetic images show target poses drawn by `compatible`, in the target images' places (`warpblend`, `warpblend+online`, "
            "`oracle`); `whole`, in the target images' places (`oracle+whole`). The oracle has the targets and scenes of `warpblend`: true "
            "images of what that is asked for, unless a variant draws other poses. Where an arm's variants say nothing else, synthetic "
            "images on disk enter by the benchmark's mixing: enter replace, probability 0.5. `warpblend` learnt from the same training "
            "images as the baselines."
        ) in text

    def test_what_was_recorded_names_the_same_results(self, near: tuple[BenchConfig, Result, list[Any]]) -> None:
        config, result, _ = near
        again = BenchConfig.model_validate(json.loads((result.folder / "config.json").read_text()))
        assert {Fingerprints(again).digest("osnet_x0_25", arm) for arm in config.arms} == {line["config"] for line in result.lines}


class TestNotes:
    def text(self, config: BenchConfig, share: float | None = None) -> str:
        return " ".join(notes(config, {arm: shown for arm in config.arms if (shown := targets_of(config, arm))}, share))

    def test_an_oracle_alone(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        config = configure(tmp_path, *QUICK, "arms=[none,oracle]")
        assert self.text(config) == "Synthetic images show target poses drawn by `whole`, in the sources' places (`oracle`)."
        assert self.text(configure(tmp_path, *QUICK, "arms=[none,copies]", "mixing={enter: replace}")) == ""

    def test_what_generators_learnt_from(self, configure: Callable[..., BenchConfig], tmp_path: Path, checkpoint: Path) -> None:
        other = f"generators.other={{checkpoint: {checkpoint}}}"
        config = configure(tmp_path, *QUICK, "arms=[none,pg2,warpblend,other]", other)
        assert read_header(checkpoint)["generator"] == "pg2"
        assert self.text(config, 0.2).endswith(
            " `pg2`, `warpblend` learnt from the same 20 % of the training images as the baselines. "
            "`other` learnt elsewhere, from images that this report does not know."
        )
        assert list(trained_on(config.model_copy(update={"arms": ("none",)}), "training images")) == []

    def test_mixing_of_online_arms_alone_is_not_told(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        settings = ["arms=[none,pg2+online]", "mixing={label: smoothed, smoothing: 0.3}"]
        assert "mixing" not in self.text(configure(tmp_path, *QUICK, *settings))
        told = self.text(configure(tmp_path, *QUICK, "arms=[none,pg2]", *settings[1:]))
        assert "by the benchmark's mixing: label smoothed, smoothing 0.3." in told


def test_where_generators_take_scenes_their_manifests_say_so(near: tuple[BenchConfig, Result, list[Any]]) -> None:
    """Gates and quality leave the scene's own images out by it."""
    (folder,) = near[1].folder.glob("images/warpblend-*")
    assert Manifest.load(folder / "manifest.jsonl").in_scenes and near[0].mixing == Mixing(enter="replace", probability=0.5)


def test_a_report_says_whose_people_are_cut_out_by_silhouettes(configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
    own_pose = "generators.warpblend-background={generator: {size: [32, 16], width: 4, steps: 2}}"
    config = configure(tmp_path, *QUICK, "arms=[none,pg2,warpblend,warpblend-background+erasing]", own_pose)
    targets = {arm: shown for arm in config.arms if (shown := targets_of(config, arm))}
    masked = config.model_copy(update={"rendered": None, "data": DataConfig(root="x", masks="m")})
    said = "People are cut out by silhouettes (`data.masks=m`), where they are known, in `warpblend`, `warpblend-background+erasing`."
    assert said in list(notes(masked, targets, None))
    assert "silhouettes" not in " ".join(notes(config, targets, None))
