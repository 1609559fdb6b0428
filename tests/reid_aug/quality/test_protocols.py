"""Benchmarks beyond one baseline on one data set: several baselines, variants, parts of the data, another data set to test on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import generators
from generators import Pose
from generators.pose import openpose_18
from reid_aug import images
from reid_aug.bench import data as benchmark_data
from reid_aug.bench import report
from reid_aug.bench import run as harness
from reid_aug.bench.config import load_config
from reid_aug.bench.data import part_of
from reid_aug.cli import main
from reid_aug.data.loading import DataConfig
from reid_aug.data.people import PersonImage

ROOT = Path(__file__).parents[3]
SMALL = [
    "rendered={train_identities: 5, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}",
    "generators.pg2.generator={name: pg2, size: [32, 16], width: 4, stage1_steps: 3, stage2_steps: 2}",
    "generators.pg2.batch_size=4", "baseline.size=[32, 16]", "baseline.steps=2", "baseline.identities=3", "baseline.instances=2",
    "baseline.crop_px=2", "quality.pairs=0", "seeds=[0]", "per_image=2",
]  # fmt: skip


def config(tmp_path: Path, *more: str) -> harness.BenchConfig:
    return load_config(str(ROOT / "configs" / "benchmarks" / "rendered.yaml"), [*SMALL, f"out={tmp_path / 'runs'}", *more])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[harness.BenchConfig, harness.Result]:
    """Two baselines and an arm of every kind."""
    arms = "arms=[none,copies,erasing,pg2,pg2+gated,pg2+lsro,pg2+separate,pg2+replace,pg2+canonical,pg2+online,oracle]"
    half = "variants.gated={gate: {identity: 0.5, novelty: 0.0}}"
    small = "size: [32, 16], steps: 2, identities: 3, instances: 2, crop_px: 2, erasing: 0.0"  # a recipe's own stand over the common ones
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
        monkeypatch.setattr("reid_aug.synthesis.augmenter.Augmenter.render", lambda *_: pytest.fail("drawn again") if _[1] else iter(()))
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

    def test_images_are_decoded_once_for_all_arms_that_draw_alike(
        self, everything: tuple[harness.BenchConfig, harness.Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, _ = everything
        arms = ("none", "pg2", "pg2+erasing", "pg2+lsro", "pg2+gated", "pg2+gated+erasing", "pg2+canonical")
        benchmark = harness._Benchmark(asked.model_copy(update={"arms": arms}))
        read, read_rows = [], harness.read_rows
        monkeypatch.setattr(harness, "read_rows", lambda *a, **k: read.append(a[1]) or read_rows(*a, **k))
        sets = {arm: benchmark._training_set(arm, (32, 16)) for arm in arms}
        assert len(read) == len(set(read)) == 2, "the whole set's poses, and canonical ones"
        everyone, gated = sets["pg2"], sets["pg2+gated"]
        assert torch.equal(sets["pg2+erasing"].images, everyone.images) and len(gated.labels) == 40
        manifest, folder, kept = benchmark._entering("pg2+gated")
        wanted = images.read_many([folder / manifest.rows[i].path for i in kept], (32, 16))
        assert torch.equal(gated.images[20:], wanted) and torch.equal(gated.images[:20], everyone.images[:20])
        assert everyone.source is not None and gated.source is not None
        assert torch.equal(gated.source[20:], everyone.source[20:][kept])

    def test_what_memory_does_not_hold_lies_on_the_disk(
        self, everything: tuple[harness.BenchConfig, harness.Result], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, result = everything
        benchmark = harness._Benchmark(asked)
        arms = ("copies", "pg2", "pg2+gated")
        held = [benchmark._training_set(arm, (32, 16)).images for arm in arms]
        spilled, memmap = [], np.memmap
        monkeypatch.setattr(images, "_free_bytes", lambda: 0)
        monkeypatch.setattr(np, "memmap", lambda *a, **k: spilled.append(k["shape"][0]) or memmap(*a, **k))
        before = sorted(result.folder.iterdir())
        again = harness._Benchmark(asked)
        assert all(torch.equal(one, again._training_set(arm, (32, 16)).images) for arm, one in zip(arms, held, strict=True))
        assert spilled == [20, 60, 40, 60, 40], "real images; copies; pg2's alone and behind the real ones; those that stay"
        assert sorted(result.folder.iterdir()) == before, "files without a name"

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
        (["arms=[none,pg3]"], "named 'pg3'; there are none, copies, pg2, oracle, erasing, deformable, momi, posewarp, vdg, and .*'pg2'"),
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
        (["arms=[none,pg2+camstyle]"], "arm 'pg2.camstyle' under baseline .*share of synthetic images .* got 0.25"),
        (["generators.oracle.batch_size=4"], "generators are not called none, copies, oracle or erasing.* got 'oracle'"),
        (["generators.a+b={batch_size: 4}"], "no . or / in the name, got 'a.b'"),
        (["generators.vdg.bach_size=4"], "unknown key 'generators.vdg.bach_size'.*did you mean 'batch_size'"),
    ],
)
def test_bad_configurations_are_refused_before_anything_runs(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        config(tmp_path, *overrides)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "key", ["baseline.crop_px=-1", "baseline.model=pcb_p6", "record=FILE/r.json", "record=FOLDER", "baseline.weights=FILE"]
)
def test_the_command_says_so_in_a_line(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "w.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, file)
    key = key.replace("FILE", str(file)).replace("FOLDER", str(tmp_path))
    assert main(["bench", str(ROOT / "configs" / "benchmarks" / "rendered.yaml"), *SMALL, f"out={tmp_path / 'runs'}", key]) == 2
    said = capsys.readouterr().err.strip()
    assert len(said.splitlines()) == 1 and not (tmp_path / "runs").exists()
    asked = key.split("=")[0]
    wanted = {"record": "record", "baseline.weights": "0 of .* tensors fit", "baseline.model": "pcb_p6", "baseline.crop_px": "crop_px"}
    assert re.search(wanted[asked], said)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["arms=[none,erasing,none+erasing]"], "arms 'erasing' and 'none.erasing' are the same"),
        (["arms=[none,pg2+gated+erasing,pg2+erasing+gated]"], "arms 'pg2.gated.erasing' and 'pg2.erasing.gated' are the same"),
        (["arms=[none]", "baselines={a: {}, b: {}}"], "baselines 'a' and 'b' are the same"),
        (["arms=[none,pg2+capped,pg2+mine]", "variants.mine={share: 0.5, label: same}"], "arms 'pg2.capped' and 'pg2.mine' are the same"),
    ],
)
def test_one_training_under_two_names_is_refused(overrides: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        harness.run(config(tmp_path, *overrides))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["reid", "rendered"])
def test_recorded_lines_are_those_of_their_configuration(name: str, tmp_path: Path) -> None:
    """A key that came later changes no digest while it is off: reports of finished runs are written again without training."""
    kept = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    asked = harness.BenchConfig.model_validate({**kept["config"], "out": str(tmp_path)})
    shipped = load_config(str(ROOT / "configs" / "benchmarks" / f"{name}.yaml"), [f"out={tmp_path}"])
    for one in map(harness._Benchmark, (asked, shipped)):
        assert {line["config"] for line in kept["lines"]} == {one.digest(b, arm) for b in one.config.trained for arm in one.config.arms}
    jittered = shipped.generators["pg2"].model_copy(update={"min_gap": 0.02})
    other = harness._Benchmark(shipped.model_copy(update={"generators": {"pg2": jittered}}))
    assert other.digest(other._judge, "pg2") != harness._Benchmark(shipped).digest(other._judge, "pg2")


class TestCheckpointArms:
    @pytest.fixture
    def momi(self, tmp_path: Path) -> Path:
        path = tmp_path / "momi.safetensors"
        generators.save(generators.create("momi", size=(64, 32), width=4, blocks=1, detector_blocks=1), path)
        return path

    def test_name_and_size_are_the_checkpoints(self, momi: Path, tmp_path: Path) -> None:
        asked = config(tmp_path, "rendered.size=[64,32]", "arms=[none,mine]", f"generators.mine.checkpoint={momi}")
        said = asked.generators["mine"].generator
        assert (said.name, said.options["width"], tuple(said.options["size"])) == ("momi", 4, (64, 32))
        assert benchmark_data.BenchmarkData(asked, None, tmp_path, tmp_path).generator_size == (64, 32), "pg2 of 32 × 16 draws for no arm"
        assert harness.BenchConfig.model_validate(asked.model_dump(mode="json")) == asked, "what was said is read again"

    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("{name: pg2}", "says generator.name is 'momi', got 'pg2': leave it out"),
            ("{name: momi, size: [128, 64]}", r"says generator.size is \[64, 32\], got \[128, 64\]"),
            ("{widht: 4}", "says generator.widht is no such option, got 4"),
        ],
    )
    def test_a_generator_that_it_is_not_is_refused(self, given: str, said: str, momi: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=said):
            config(tmp_path, f"generators.mine={{checkpoint: {momi}, generator: {given}}}")
        config(tmp_path, f"generators.mine={{checkpoint: {momi}, generator: {{name: momi, size: [64, 32]}}}}")


@pytest.mark.parametrize("what", ["pid", "camid", "visible", "xy"])
def test_labels_and_poses_are_contents(what: str, people: list[PersonImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV's images stay where they are when somebody corrects who is on them."""
    first = people[0]
    assert first.pose is not None
    pose = replace(first.pose, visible=~first.pose.visible) if what == "visible" else replace(first.pose, xy=first.pose.xy + 1)
    changes = {"pid": {"pid": first.pid + 100}, "camid": {"camid": first.camid + 1}}
    other = replace(first, **changes.get(what, {"pose": pose}))  # type: ignore[arg-type]

    def digest(everybody: list[PersonImage]) -> str:
        monkeypatch.setattr(benchmark_data, "load_people", lambda *_, **__: everybody)
        return benchmark_data.contents(DataConfig(root="x"))

    assert digest(people) == digest(people[:]) != digest([other, *people[1:]])


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

    def test_parts_with_pairs_in_them_are_others(self, tmp_path: Path) -> None:
        """What `none` learns from depends on whether a generator needs pairs of everybody."""
        asked = config(tmp_path, "arms=[none,copies,oracle]")
        without = asked.model_copy(update={"generators": {}})
        for arm in asked.arms:
            part, other = (harness._Benchmark(one, 0.2).digest("osnet_x0_25", arm) for one in (asked, without))
            assert part != other
            assert harness._Benchmark(asked).digest("osnet_x0_25", arm) == harness._Benchmark(without).digest("osnet_x0_25", arm)

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
            harness.run_shares(load_config(None, ["rendered={}", "arms=[none]"]))
