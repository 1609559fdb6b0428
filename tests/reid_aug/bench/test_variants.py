"""Variants: combining them, refusing those without effect, and what each shipped one changes in a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from generators import Pose
from reid_aug.baselines import training
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet
from reid_aug.bench.config import load_config
from reid_aug.bench.run import Benchmark
from reid_aug.bench.variants import SHIPPED, Variant, check, combined
from reid_aug.config import shipped
from reid_aug.synthesis.gates import GateConfig


class TestCombining:
    def test_what_several_say_is_put_together(self) -> None:
        both = combined(["gated", "lsro", "erasing"], {})
        assert both == Variant(gate=GateConfig(identity="found"), label="uniform", erasing=0.5)

    def test_ways_to_draw_and_grey_patches_go_with_online_images(self) -> None:
        for draw in ("whole", "compatible"):
            assert combined(["online", draw, "grey-patch"], {}) == Variant(online=0.5, draw=draw, grey_patch=0.4)
        assert combined(["online", "near"], {"near": Variant(draw="compatible-0.3")}).draw == "compatible-0.3"

    def test_a_benchmarks_own_take_the_place_of_shipped_ones(self) -> None:
        assert combined(["gated"], {"gated": Variant(gate=GateConfig(novelty=0.2))}).gate == GateConfig(novelty=0.2)

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["lrso"], "no variant named 'lrso'; .*did you mean 'lsro'"),
            (["lsro", "separate"], "lsro\\+separate: label is both uniform and separate"),
            (["online", "lsro"], "online\\+lsro: online images are rendered in the batch, so there is no label"),
            (["online", "camera-aware"], "online, target poses are drawn by whole, compatible or view-…, got draw 'camera-aware'"),
            (["recombined", "online"], "online, target poses are drawn by whole, compatible or view-…, got draw 'recombined'"),
            (["recombined", "gated"], "neither identity nor novelty can be judged, so there is no gate"),
            (["recombined", "lsro"], "recombined people have identities of their own, got label 'uniform'"),
            (["recombined", "canonical"], "draw is both canonical and recombined|draw is both recombined and canonical"),
            (["replace", "capped"], "replace\\+capped: share caps synthetic images beside real ones.*got share 0.5"),
            (["likely"], "likely: probability is of `enter: replace`, got enter 'add'"),
            (["softer"], "softer: smoothing is of `label: smoothed`, got label 'same'"),
            (["lsro", "softer"], "smoothing is of `label: smoothed`, got label 'uniform'"),
            (["as-ever"], "as-ever: they change nothing"),
            (["never"], "never: the probability .* is above 0, got 0"),
        ],
    )
    def test_what_does_not_go_together(self, names: list[str], message: str) -> None:
        variants = {
            "likely": Variant(probability=0.9), "softer": Variant(smoothing=0.3), "as-ever": Variant(label="same"),
            "never": Variant(enter="replace", probability=0.0),
        }  # fmt: skip
        with pytest.raises(ValueError, match=message):
            combined(names, variants)

    def test_a_recorded_variant_with_every_key_is_as_good(self) -> None:
        for name, variant in SHIPPED.items():
            again = Variant.model_validate(variant.model_dump(mode="json"))
            assert combined([name], {name: again}) == variant

    def test_real_images_smoothing_is_left_out_of_what_names_a_result(self) -> None:
        """Results that were there before the key have the names that they had."""
        for name in SHIPPED.keys() - {"camstyle"}:
            assert "real_smoothing" not in SHIPPED[name].model_dump(mode="json", exclude_defaults=True)


QUICK = BaselineConfig(recipe="quick")


class TestCheck:
    """What does nothing under a baseline."""

    @pytest.mark.parametrize(
        ("variant", "baseline", "message"),
        [
            (Variant(share=0.2), QUICK, "one at least and not all of an identity's instances = 4 in a batch, got 0.2"),
            (Variant(share=0.0), QUICK, "instances = 4 in a batch, got 0$"),
            (Variant(share=1.0), QUICK, "instances = 4 in a batch, got 1$"),
            (Variant(share=0.5), BaselineConfig(instances=1), "instances = 1 in a batch, got 0.5"),
            (Variant(share=0.03), BaselineConfig(recipe="ide"), "one of a batch's 16 at least, got 0.03"),
            (Variant(share=0.5, label="separate"), QUICK, "those of `label: separate` have none beside them"),
            (Variant(share=0.5, enter="replace"), QUICK, "`enter: replace` has a probability instead; got share 0.5"),
            (Variant(probability=0.9), QUICK, "probability is of `enter: replace`"),
            (Variant(smoothing=0.3), QUICK, "smoothing is of `label: smoothed`"),
            (Variant(erasing=0.5), BaselineConfig(recipe="strong"), "itself erases with probability 0.5, so erasing in an arm"),
            (Variant(grey_patch=0.4), BaselineConfig(grey_patch=0.4), "itself has grey patches with probability 0.4, so in an arm"),
            (Variant(label="smoothed"), QUICK, "real_smoothing\\), got 0.1 for both"),
            (Variant(label="smoothed", smoothing=0.0), BaselineConfig(recipe="ide"), "got 0 for both"),
        ],
    )
    def test_is_refused(self, variant: Variant, baseline: BaselineConfig, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            check(variant, baseline)

    @pytest.mark.parametrize(
        ("variant", "baseline"),
        [
            (Variant(), QUICK),
            (Variant(share=0.25), QUICK),
            (Variant(share=1 / 3), BaselineConfig(instances=3)),
            (Variant(share=0.5, label="separate"), BaselineConfig(recipe="ide")),  # exactly half of every batch
            (Variant(share=0.04), BaselineConfig(recipe="ide")),
            (Variant(erasing=0.3), BaselineConfig(recipe="strong")),
            (Variant(erasing=0.5), BaselineConfig(recipe="strong", erasing=0.0)),
            (Variant(grey_patch=0.4), BaselineConfig(grey_patch=0.2)),
            (Variant(label="smoothed"), BaselineConfig(recipe="ide")),
        ],
    )
    def test_is_not_refused(self, variant: Variant, baseline: BaselineConfig) -> None:
        check(variant, baseline)


# PG2 draws from the whole bank anyway: `pg2+whole` is `pg2`, and refused beside it (test_targets).
OTHERS = {name: variant for name, variant in SHIPPED.items() if name != "whole"}


@pytest.fixture(scope="module")
def small_bench(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Benchmark:
    """Every shipped variant of a PG2 that nobody trained."""
    world = "{train_identities: 6, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}"
    small = "{size: [32, 16], steps: 2, identities: 3, instances: 4, crop_px: 2}"
    arms = ",".join(["none", "pg2", *(f"pg2+{name}" for name in OTHERS)])
    settings = [
        f"rendered={world}", f"baseline={small}", f"arms=[{arms}]", "seeds=[0]", "per_image=2", "quality.pairs=0",
        f"generators.pg2={{generator: {{name: pg2, size: [32, 16]}}, checkpoint: {checkpoint}}}",
    ]  # fmt: skip
    return Benchmark(load_config(None, [*settings, f"out={tmp_path_factory.mktemp('variants')}"]))


def white(images: torch.Tensor, poses: Pose, labels: torch.Tensor) -> torch.Tensor:
    """In place of online augmentation."""
    assert images.min() >= 0 and images.max() <= 1 and len(poses) == len(images) == len(labels)
    return torch.ones_like(images)


class TestShipped:
    """Every shipped variant under every shipped recipe, cut to small images."""

    def learnt_from(self, variant: Variant, recipe: BaselineConfig, data: TrainingSet) -> list[Any]:
        """Everything a training takes in: images, labels, targets, weights, and the first two batches with what is done to them."""
        batches = list(training._batches(recipe, variant, data, 0))
        noise, online = torch.Generator().manual_seed(0), None if variant.online is None else white
        inputs = [
            training._inputs(recipe, variant, data.images, torch.from_numpy(b), data, online, noise, torch.device("cpu"))  # type: ignore[arg-type]
            for b in batches
        ]
        return [data.images, data.labels, *training._per_image(recipe, variant, data), *map(torch.from_numpy, batches), *inputs]

    @pytest.mark.parametrize("name", ["ide", "lite0", "osnet_x0_25", "osnet_x1_0", "quick", "small", "strong"])
    def test_every_one_changes_something(self, name: str, small_bench: Benchmark) -> None:
        recipe = BaselineConfig(recipe=name, size=(32, 16), steps=2)
        plain = self.learnt_from(Variant(), recipe, small_bench.synthetic.training_set("pg2", (32, 16)))
        refused = []
        for called, variant in OTHERS.items():
            data = small_bench.synthetic.training_set(f"pg2+{called}", (32, 16))
            try:
                check(variant, recipe)
            except ValueError:
                refused.append(called)
                continue
            varied = self.learnt_from(variant, recipe, data)
            assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, varied, strict=True)), called
            if variant.label in ("smoothed", "uniform"):
                smoothing, _, _ = training._per_image(recipe, variant, data)
                real, synthetic = smoothing[~data.synthetic].unique().tolist(), smoothing[data.synthetic].unique().tolist()
                assert len(real) == len(synthetic) == 1 and real != synthetic, f"{called}: images are smoothed alike, {real}"
        assert refused == (["erasing"] if name == "strong" else [])

    def test_recipes_are_all_tried(self) -> None:
        recipes = {path.stem for path in shipped("baselines").glob("*.yaml")}
        assert recipes == {"ide", "lite0", "osnet_x0_25", "osnet_x1_0", "quick", "small", "strong"}
