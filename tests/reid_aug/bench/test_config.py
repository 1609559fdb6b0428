"""Configurations of benchmarks: what is refused before anything runs, and what a name or a checkpoint stands for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch

import generators
from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.data import BenchmarkData
from reid_aug.cli import main
from reid_aug.config import shipped

QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=2", "baseline.steps=2", "baseline.identities=3"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
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
        (["arms=[none,pg2+lrso]"], "no variant named 'lrso'.*did you mean 'lsro'"),
        (["arms=[none,copies+lsro]"], "'copies' has no synthetic images that a variant other than erasing and grey-patch"),
        (["arms=[none,grey-patch+whole]"], "'none' has no synthetic images that a variant other than erasing and grey-patch"),
        (["arms=[none,oracle+online]"], "online images are a generator's"),
        (["arms=[none,none+recombined]"], "recombined people are a generator's, or of `copies`"),
        (["arms=[none,oracle+recombined]"], "of recombined people there is no true image"),
        (["arms=[none,pg2+online+canonical]"], "online, target poses are drawn by whole, compatible or view-…, got draw 'canonical'"),
        (["oracle_of=pg3"], "oracle_of: no generator of the benchmark named 'pg3'; there are pg2 .did you mean 'pg2'"),
        (["mixing={probability: 0.3}"], "mixing: probability is of `enter: replace`, got enter 'add'"),
        (["mixing={entr: replace}"], "unknown key 'mixing.entr'.*did you mean 'enter'"),
        (["mixing={erasing: 0.5}"], "synthetic images enter; erasing changes real ones, too: set baseline.erasing, got 0.5"),
        (["mixing={grey_patch: 0.4}"], "set baseline.grey_patch, got 0.4"),
        (["mixing={share: 0.2}"], "arm 'pg2' under baseline .*share of synthetic images .* got 0.2"),
        (["mixing={enter: replace}", "arms=[none,pg2+capped]"], "variants capped with the mixing of all: share caps .* got share 0.5"),
        (["mixing={enter: replace}", "arms=[none,pg2+replace]"], "variants replace with the mixing of all: they change nothing"),
        (["arms=[none,pg2+odd]", "variants.odd={draw: canonicle}"], "odd.draw: .* named 'canonicle'.*did you mean 'canonical'"),
        (["baselines={strong: {recipe: stong}}"], "no recipe named 'stong'"),
        (["baselines={strong: {setps: 3}}"], "unknown key 'baselines.strong.setps'"),
        (["baselines={a: {model: osnet_x9}}"], "torchreid has no model 'osnet_x9'"),
        (["shares=[0.5,0.5]"], "seeds are different, and so are shares"),
        (["shares=[0]"], "greater than 0, got 0"),
        (["test_rendered={sice: 3}"], "test_rendered: .*sice"),
        (["test_rendered={}", "test.root=x"], "either `test_rendered` or `test`"),
        (["arms=[none,pg3]"], "named 'pg3'; there are none, copies, pg2, oracle, erasing, grey-patch, deformable, momi, .*, and .*'pg2'"),
        (["seeds=[-1]"], "seeds.0: .*greater than or equal to 0, got -1"),
        (["synthesis_seed=-1"], "synthesis_seed: .*greater than or equal to 0, got -1"),
        (["baseline.crop_px=-1"], "baseline.crop_px: .*greater than or equal to 0, got -1"),
        (["baseline.size=[1,1]"], "baseline 'osnet_x0_25': osnet_x0_25 at 1 × 1 can't be trained on batches of 6: .*too small"),
        (["baseline.model=pcb_p6"], "pcb_p6 at 32 × 16 can't be trained on batches of 6: .* gives \\['list', .6, 12288.\\]"),
        (["baseline.model=mudeep"], "mudeep at 32 × 16 can't be trained"),
        (["baseline.model=hacnn"], "hacnn at 32 × 16 can't be trained .*160, 64"),
        (["baseline.model=hacnn", "baseline.size=[160,64]"], "hacnn at 160 × 64 can't be trained .* logits and features"),
        (["baselines={a: {}, b: {model: inceptionv4}}"], "baseline 'b': inceptionv4 at 32 × 16 can't be trained"),
        (["arms=[none,erasing]", "baseline.erasing=0.5"], "arm 'erasing' under baseline 'osnet_x0_25': .*erases with probability 0.5"),
        (["arms=[none,grey-patch]", "baseline.grey_patch=0.4"], "arm 'grey-patch' under baseline .* grey patches with probability 0.4"),
        (["arms=[none,pg2+camstyle]"], "arm 'pg2.camstyle' under baseline .*share of synthetic images .* got 0.25"),
        (["generators.oracle.batch_size=4"], "generators are not called none, copies, oracle, erasing or grey-patch.* got 'oracle'"),
        (["generators.grey-patch.batch_size=4"], "generators are not called .* got 'grey-patch'"),
        (["generators.a+b={batch_size: 4}"], "no . or / in the name, got 'a.b'"),
        (["generators.vdg.bach_size=4"], "unknown key 'generators.vdg.bach_size'.*did you mean 'batch_size'"),
    ],
)
def test_bad_configurations_are_refused_before_anything_runs(
    overrides: list[str], complaint: str, configure: Callable[..., BenchConfig], tmp_path: Path
) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=complaint):
        configure(tmp_path, *QUICK, *overrides)
    assert not (tmp_path / "runs").exists()


def test_oracle_needs_rendered_people() -> None:
    with pytest.raises(ValueError, match="no arm named 'oracle'"):
        load_config(None, ["data.root=x", "arms=[none, oracle]"])


def test_every_shipped_benchmark_configuration_loads() -> None:
    files = sorted(shipped("benchmarks").glob("*.yaml"))
    assert files
    for file in files:
        load_config(str(file), ["data.root=x"] if "???" in file.read_text() else [])


@pytest.mark.parametrize(
    "key", ["baseline.crop_px=-1", "baseline.model=pcb_p6", "record=FILE/r.json", "record=FOLDER", "baseline.weights=FILE"]
)
def test_the_command_says_so_in_a_line(key: str, small: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, file)
    key = key.replace("FILE", str(file)).replace("FOLDER", str(tmp_path))
    assert main(["bench", str(shipped("benchmarks/pg2.yaml")), *small, f"out={tmp_path / 'runs'}", key]) == 2
    complaint = capsys.readouterr().err.strip()
    assert len(complaint.splitlines()) == 1 and not (tmp_path / "runs").exists()
    reasons = {"record": "record", "baseline.weights": "0 of .* tensors fit", "baseline.model": "pcb_p6", "baseline.crop_px": "crop_px"}
    assert re.search(reasons[key.split("=")[0]], complaint)


class TestCheckpointArms:
    @pytest.fixture
    def momi(self, tmp_path: Path) -> Path:
        path = tmp_path / "momi.safetensors"
        generators.save(generators.create("momi", size=(64, 32), width=4, blocks=1, detector_blocks=1), path)
        return path

    def test_name_and_size_are_the_checkpoints(self, momi: Path, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        config = configure(tmp_path, *QUICK, "rendered.size=[64,32]", "arms=[none,mine]", f"generators.mine.checkpoint={momi}")
        generator = config.generators["mine"].generator
        assert (generator.name, generator.options["width"], tuple(generator.options["size"])) == ("momi", 4, (64, 32))
        assert BenchmarkData(config, None, tmp_path, tmp_path).sizes.home == (64, 32), "pg2 of 32 × 16 draws for no arm"
        assert BenchConfig.model_validate(config.model_dump(mode="json")) == config, "what was said is read again"

    @pytest.mark.parametrize(
        ("given", "complaint"),
        [
            ("{name: pg2}", "says generator.name is 'momi', got 'pg2': leave it out"),
            ("{name: momi, size: [128, 64]}", r"says generator.size is \[64, 32\], got \[128, 64\]"),
            ("{widht: 4}", "says generator.widht is no such option, got 4"),
        ],
    )
    def test_a_generator_that_it_is_not_is_refused(
        self, given: str, complaint: str, momi: Path, configure: Callable[..., BenchConfig], tmp_path: Path
    ) -> None:
        with pytest.raises(ValueError, match=complaint):
            configure(tmp_path, *QUICK, f"generators.mine={{checkpoint: {momi}, generator: {given}}}")
        configure(tmp_path, *QUICK, f"generators.mine={{checkpoint: {momi}, generator: {{name: momi, size: [64, 32]}}}}")


    def test_options_that_came_after_a_checkpoint_are_defaults_in_it(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        path = tmp_path / "pg2.safetensors"
        generators.save(generators.create("pg2", size=(32, 16), width=4), path)
        arm = f"generators.mine={{checkpoint: {path}, generator: {{second_stage: "
        config = configure(tmp_path, *QUICK, f"{arm}asymmetric-released}}}}")
        assert "second_stage" not in config.generators["mine"].generator.options
        with pytest.raises(ValueError, match="says generator.second_stage is 'asymmetric-released', got 'symmetric'"):
            configure(tmp_path, *QUICK, f"{arm}symmetric}}}}")


def test_a_baselines_recipe_stands_over_what_is_said_of_all(configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
    settings = ["baseline.learning_rate=0.5", "baselines={plain: {}, strong: {recipe: strong, steps: 7}}"]
    baselines = configure(tmp_path, *QUICK, *settings).baselines
    assert (baselines["plain"].learning_rate, baselines["plain"].size) == (0.5, (32, 16))
    assert (baselines["strong"].learning_rate, baselines["strong"].size, baselines["strong"].steps) == (3.5e-4, (256, 128), 7)


class TestMixing:
    """How synthetic images enter where an arm's variants say nothing."""

    REPLACE = "mixing={enter: replace, probability: 0.25}"

    def test_every_arm_with_images_on_disk_has_it(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        arms = "arms=[none,copies,erasing,pg2,pg2+erasing,pg2+lsro,pg2+often,pg2+beside,pg2+online,oracle]"
        variants = ["variants.often={probability: 0.75}", "variants.beside={enter: add, probability: 0.5}"]
        config = configure(tmp_path, *QUICK, arms, *variants, self.REPLACE)
        entering = {arm: (config.variant(arm).enter, config.variant(arm).probability) for arm in config.arms}
        assert {arm for arm, how in entering.items() if how == ("replace", 0.25)} == {"pg2", "pg2+erasing", "pg2+lsro", "oracle"}
        assert entering["pg2+often"] == ("replace", 0.75)
        assert {entering[arm] for arm in ("none", "copies", "erasing", "pg2+online", "pg2+beside")} == {("add", 0.5)}
        assert config.variant("pg2+lsro").label == "uniform" and config.variant("pg2+erasing").erasing == 0.5
        assert config.variant("pg2+online").online == 0.5

    def test_it_is_read_again_as_it_was_written(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        """A variant that asks for a default stands over the mixing, one that says nothing does not: neither is so by being recorded."""
        settings = ["arms=[none,pg2+gated,pg2+beside]", "variants.beside={enter: add}", "variants.gated={gate: {identity: 0.5}}"]
        config = configure(tmp_path, *QUICK, *settings, "mixing={enter: replace}")
        again = BenchConfig.model_validate(config.model_dump(mode="json"))
        assert again == config and again.variant("pg2+gated").enter == "replace" and again.variant("pg2+beside").enter == "add"
        assert again.variant("pg2+gated") == config.variant("pg2+gated")
