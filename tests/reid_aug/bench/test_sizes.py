"""Generators of several sizes in one benchmark: each renders at its own, all draw alike, and what is compared has one size."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import generators
from reid_aug import images
from reid_aug.bench import report
from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.run import Benchmark, Result, run
from reid_aug.bench.sizes import Sizes, notes_of_sizes, sizes_of
from reid_aug.bench.summary import summarise
from reid_aug.config import load, shipped
from reid_aug.synthesis.train import LearningConfig, TrainConfig

# Of 32 × 20 bodies look wider than of 32 × 16, so that drawing by views at each generator's own size would draw others.
LARGE = "generators.large={generator: {name: pg2, size: [32, 20], width: 4, stage1_steps: 1, stage2_steps: 1}, batch_size: 4}"
QUICK = ["seeds=[0]", "per_image=1", "baseline.steps=1", "baseline.identities=3", LARGE]


class TestSizes:
    def test_home_is_of_rendered_people_or_the_first_arms_generator(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        rendered = configure(tmp_path, *QUICK, "arms=[none,large,pg2]")
        assert sizes_of(rendered) == Sizes((32, 16), {"pg2": (32, 16), "large": (32, 20)}) and sizes_of(rendered).differ
        photographs = rendered.model_copy(update={"rendered": None})
        assert sizes_of(photographs).home == (32, 20)
        assert sizes_of(photographs.model_copy(update={"arms": ("none", "pg2", "large")})).home == (32, 16)
        assert sizes_of(photographs.model_copy(update={"arms": ("none", "copies")})) == Sizes((32, 16), {}), "the first of generators"
        assert sizes_of(photographs.model_copy(update={"generators": {}, "arms": ("none",)})).home == rendered.baseline.size
        assert not list(notes_of_sizes(rendered.model_copy(update={"arms": ("none", "pg2")})))

    def test_who_was_there_keeps_every_digest(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        arms = "none,copies,pg2,pg2+compatible,pg2+online,oracle,oracle+canonical,copies+recombined"
        alone, beside = (Fingerprints(configure(tmp_path, *QUICK, f"arms=[{names}]")) for names in (arms, f"{arms},large"))
        for arm in arms.split(","):
            assert alone.digest("osnet_x0_25", arm) == beside.digest("osnet_x0_25", arm)
        assert alone.images_place("pg2+compatible") == beside.images_place("pg2+compatible")
        assert alone.quality_place("pg2") == beside.quality_place("pg2")

    def test_poses_drawn_at_another_size_are_another_arm(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        """On photographs the first generator's size decides which views are near, and at which size people are cut."""
        config = configure(tmp_path, *QUICK, "arms=[none,large]").model_copy(update={"rendered": None})
        arms = ("large", "large+whole", "large+compatible", "copies+recombined")

        def digests(*first: str) -> list[str]:
            fingerprints = Fingerprints(config.model_copy(update={"arms": ("none", *first), "generators": config.generators}))
            return [fingerprints.digest("osnet_x0_25", arm) for arm in arms]

        alone, behind = digests("large"), digests("pg2", "large")
        assert [a == b for a, b in zip(alone, behind, strict=True)] == [True, True, False, False]

    def test_a_generator_of_quite_another_shape_is_refused(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        square = "generators.square={generator: {name: pg2, size: [32, 32], width: 4}}"
        config = configure(tmp_path, *QUICK, square, "arms=[none,square]", "quality.pairs=0")
        with pytest.raises(ValueError, match="generators.square: the generator renders 32 × 32 images, these people's are 32 × 16"):
            run(config)


@pytest.fixture(scope="module")
def several(configure: Callable[..., BenchConfig], tmp_path_factory: pytest.TempPathFactory) -> tuple[BenchConfig, Result]:
    arms = "arms=[none,pg2+compatible,large+compatible,oracle+compatible]"
    config = configure(tmp_path_factory.mktemp("sizes"), *QUICK, arms, "quality.metrics={SSIM: {}, truth: {}}")
    return config, run(config)


class TestRun:
    def test_each_renders_at_its_own_size_what_all_were_asked_for(self, several: tuple[BenchConfig, Result]) -> None:
        config, result = several
        folders = {path.name.split("-")[0]: path for path in (result.folder / "images").iterdir()}
        rows, sizes = {}, {}
        for origin, folder in folders.items():
            lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_text().splitlines()[1:]]
            rows[origin] = [(line["source"], line["target"], line["pose_novelty"]) for line in lines]
            sizes[origin] = {images.size_of(folder / line["path"]) for line in lines}
        assert rows["large"] == rows["pg2"] == rows["oracle"]
        assert sizes == {"pg2": {(32, 16)}, "large": {(32, 20)}, "oracle": {(32, 16)}}
        own, home = Benchmark(config).data, config.model_copy(update={"arms": ("none", "large")})
        assert own.bank_at((32, 20)).pose.size == (32, 20) and own.bank.names == own.bank_at((32, 20)).names
        assert Benchmark(home).data.bank.pose.size == (32, 16), "that of the rendered people, whoever is there"

    def test_baselines_see_them_resized_once_as_photographs(self, several: tuple[BenchConfig, Result]) -> None:
        config, _ = several
        benchmark = Benchmark(config)
        data = benchmark.synthetic.training_set("large+compatible", (32, 16))
        manifest, folder, _ = benchmark.synthetic.gated("large+compatible")
        with Image.open(folder / manifest.rows[0].path) as file:
            resized = np.array(file.resize((16, 32), Image.Resampling.BILINEAR))
        assert torch.equal(data.images[20], torch.from_numpy(resized).permute(2, 0, 1))

    def test_quality_and_sheets_have_one_size(self, several: tuple[BenchConfig, Result]) -> None:
        _, result = several
        sheets = []
        for name in ("pg2", "large"):
            assert not result.quality[name].missing and {"SSIM", "truth PSNR"} <= result.quality[name].values.keys()
            with Image.open(result.folder / "samples" / f"{name}.png") as sheet:
                sheets.append(sheet.size)
        assert sheets[0] == sheets[1]

    def test_the_report_says_so(self, several: tuple[BenchConfig, Result]) -> None:
        _, result = several
        text = report.compose(result, summarise(result), "test", "command")
        assert "Generators render at their own sizes: `pg2` at 32 × 16; `large` at 32 × 20. Target poses are drawn at 32 × 16" in text
        assert "Image quality is measured, and sample sheets are shown, at 32 × 16" in text


class TestYamls:
    """An arm called as a YAML of configs/generators learns as that says."""

    def test_an_arm_or_an_entry_names_one(self) -> None:
        config = load_config(None, [
            "data.root=x", "arms=[none,vdg-w,posewarp,posewarp-market+gated]", "generators.posewarp=posewarp-market",
            "generators.posewarp-market.batch_size=5",
        ])  # fmt: skip
        weighted, posewarp, market = (config.generators[name] for name in ("vdg-w", "posewarp", "posewarp-market"))
        assert (weighted.generator.name, weighted.generator.options["loss"], weighted.batch_size) == ("vdg", "weighted", 16)
        assert posewarp.generator == market.generator and tuple(posewarp.generator.options["size"]) == (128, 64)
        assert (posewarp.batch_size, market.batch_size, market.jitter and market.jitter.degrees) == (4, 5, 5.0)
        assert BenchConfig.model_validate(config.model_dump(mode="json")) == config, "what was said is read again"

    def test_a_users_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "mine.yaml").write_text("generator: {name: pg2, width: 12}\nbatch_size: 3\nout: runs/mine\n")
        monkeypatch.setenv("REID_AUG_GENERATORS", str(tmp_path))
        mine = load_config(None, ["data.root=x", "arms=[none,mine]"]).generators["mine"]
        assert (mine.generator.options["width"], mine.batch_size) == (12, 3)

    @pytest.mark.parametrize(
        ("setting", "complaint"),
        [
            ("generators.posewarp=posewarp-markt", "generators.posewarp: no YAML .* 'posewarp-markt'.*did you mean 'posewarp-market'"),
            ("arms=[none,vdg-ww]", "no arm named 'vdg-ww'; there are .*the YAMLs of configs/generators, .*did you mean 'vdg-w'"),
        ],
    )
    def test_one_that_there_is_not(self, setting: str, complaint: str) -> None:
        with pytest.raises(ValueError, match=complaint):
            load_config(None, ["data.root=x", "arms=[none,posewarp]", setting])

    def test_full_has_all_papers_as_their_yamls_say(self) -> None:
        config = load(BenchConfig, shipped("benchmarks/full.yaml"), ["data.root=x"])
        assert {arm.generator.name for arm in config.generators.values()} == set(generators.names())
        assert set(sizes_of(config).generators.values()) == {(128, 64)} and len(config.generators_used) == len(generators.names())
        for name, arm in config.generators.items():
            alone = load(TrainConfig, shipped(f"generators/{name}.yaml"), ["data.root=x"])  # what `reid-aug train NAME` does
            for key in LearningConfig.model_fields.keys() - {"precision", "save_every_steps"}:
                assert getattr(arm, key) == getattr(alone, key), (name, key)
