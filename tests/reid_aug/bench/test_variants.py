"""How synthetic images enter training: combining variants, and what each does to a batch and its loss."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from generators import Pose
from generators.pose import openpose_18
from reid_aug.baselines import training
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, rate_at, train_baseline
from reid_aug.bench import run as harness
from reid_aug.bench.arms import parted, training_set
from reid_aug.bench.config import load_config
from reid_aug.bench.variants import SHIPPED, Variant, check, combined
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.gates import GateConfig
from reid_aug.synthesis.manifest import SyntheticRow

SMALL = BaselineConfig(size=(32, 16), steps=2, identities=3, instances=4, crop_px=1, label_smoothing=0.0)


def mixed(count: int = 3, real: int = 3, drawn: int = 6) -> TrainingSet:
    """`count` identities with so many real images, all 50 grey, and so many drawn ones, all 200."""
    labels = torch.cat((torch.arange(count).repeat_interleave(real), torch.arange(count).repeat_interleave(drawn)))
    source = torch.cat((torch.full((count * real,), -1), torch.arange(count).repeat_interleave(drawn) * real))
    images = torch.where(source >= 0, 200, 50).to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 16).contiguous()
    return TrainingSet(images, labels, source)


class TestCombining:
    def test_an_arms_name_says_its_variants(self) -> None:
        assert parted("pg2+gated+erasing") == ("pg2", ["gated", "erasing"])
        assert parted("erasing") == ("none", ["erasing"]) and parted("none") == ("none", [])

    def test_what_several_say_is_put_together(self) -> None:
        both = combined(["gated", "lsro", "erasing"], {})
        assert both == Variant(gate=GateConfig(identity="found"), label="uniform", erasing=0.5)

    def test_a_benchmarks_own_take_the_place_of_shipped_ones(self) -> None:
        assert combined(["gated"], {"gated": Variant(gate=GateConfig(novelty=0.2))}).gate == GateConfig(novelty=0.2)

    @pytest.mark.parametrize(
        ("names", "said"),
        [
            (["lrso"], "no variant named 'lrso'; .*did you mean 'lsro'"),
            (["lsro", "separate"], "lsro\\+separate: label is both uniform and separate"),
            (["online", "lsro"], "online\\+lsro: online images are drawn in the batch, so there is no label"),
            (["replace", "capped"], "replace\\+capped: share caps synthetic images beside real ones.*got share 0.5"),
            (["likely"], "likely: probability is of `enter: replace`, got enter 'add'"),
            (["softer"], "softer: smoothing is of `label: smoothed`, got label 'same'"),
            (["lsro", "softer"], "smoothing is of `label: smoothed`, got label 'uniform'"),
            (["as-ever"], "as-ever: they change nothing"),
            (["never"], "never: the probability .* is above 0, got 0"),
        ],
    )
    def test_what_does_not_go_together(self, names: list[str], said: str) -> None:
        own = {
            "likely": Variant(probability=0.9), "softer": Variant(smoothing=0.3), "as-ever": Variant(label="same"),
            "never": Variant(enter="replace", probability=0.0),
        }  # fmt: skip
        with pytest.raises(ValueError, match=said):
            combined(names, own)

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
        ("variant", "baseline", "said"),
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
            (Variant(label="smoothed"), QUICK, "real_smoothing\\), got 0.1 for both"),
            (Variant(label="smoothed", smoothing=0.0), BaselineConfig(recipe="ide"), "got 0 for both"),
        ],
    )
    def test_is_refused(self, variant: Variant, baseline: BaselineConfig, said: str) -> None:
        with pytest.raises(ValueError, match=said):
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
            (Variant(label="smoothed"), BaselineConfig(recipe="ide")),
        ],
    )
    def test_is_not_refused(self, variant: Variant, baseline: BaselineConfig) -> None:
        check(variant, baseline)

    def test_no_training_is_emptied_of_its_synthetic_images(self) -> None:
        for variant in (Variant(share=0.2), Variant(share=0.5, label="separate"), Variant(probability=0.9)):
            with pytest.raises(ValueError):
                train_baseline(SMALL, mixed(), 0, mixing=variant)


@pytest.fixture(scope="module")
def benchmark(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> harness._Benchmark:
    """Every shipped variant of a PG2 that nobody trained."""
    world = "{train_identities: 6, test_identities: 4, train_images: 4, gallery_images: 4, size: [32, 16]}"
    small = "{size: [32, 16], steps: 2, identities: 3, instances: 4, crop_px: 2}"
    arms = ",".join(["none", "pg2", *(f"pg2+{name}" for name in SHIPPED)])
    asked = [
        f"rendered={world}", f"baseline={small}", f"arms=[{arms}]", "seeds=[0]", "per_image=2", "quality.pairs=0",
        f"generators.pg2={{generator: {{name: pg2, size: [32, 16]}}, checkpoint: {checkpoint}}}",
    ]  # fmt: skip
    return harness._Benchmark(load_config(None, [*asked, f"out={tmp_path_factory.mktemp('variants')}"]))


class White(torch.nn.Module):
    def forward(self, images: torch.Tensor, poses: Pose, pids: torch.Tensor) -> torch.Tensor:
        assert images.min() >= 0 and images.max() <= 1 and len(poses) == len(images) == len(pids)
        return torch.ones_like(images)


class TestShipped:
    """Every shipped variant under every shipped recipe, cut to small images."""

    def learnt_from(self, variant: Variant, recipe: BaselineConfig, data: TrainingSet) -> list[Any]:
        """Everything a training takes in: images, labels, targets, weights, and the first two batches with what is done to them."""
        batches = list(training._batches(recipe, variant, data, 0))
        noise, online = torch.Generator().manual_seed(0), None if variant.online is None else White()
        seen = [
            training._inputs(recipe, variant, data.images, torch.from_numpy(b), data, online, noise, torch.device("cpu"))  # type: ignore[arg-type]
            for b in batches
        ]
        return [data.images, data.labels, *training._per_image(recipe, variant, data), *map(torch.from_numpy, batches), *seen]

    @pytest.mark.parametrize("name", ["ide", "osnet_x0_25", "osnet_x1_0", "quick", "strong"])
    def test_every_one_changes_something(self, name: str, benchmark: harness._Benchmark) -> None:
        recipe = BaselineConfig(recipe=name, size=(32, 16), steps=2)
        plain = self.learnt_from(Variant(), recipe, benchmark._training_set("pg2", (32, 16)))
        refused = []
        for called, variant in SHIPPED.items():
            data = benchmark._training_set(f"pg2+{called}", (32, 16))
            try:
                check(variant, recipe)
            except ValueError:
                refused.append(called)
                continue
            found = self.learnt_from(variant, recipe, data)
            assert any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(plain, found, strict=True)), called
            if variant.label in ("smoothed", "uniform"):
                smoothing, _, _ = training._per_image(recipe, variant, data)
                real, drawn = smoothing[~data.synthetic].unique().tolist(), smoothing[data.synthetic].unique().tolist()
                assert len(real) == len(drawn) == 1 and real != drawn, f"{called}: images are smoothed alike, {real}"
        assert refused == (["erasing"] if name == "strong" else [])

    def test_recipes_are_all_tried(self) -> None:
        shipped = {path.stem for path in (Path(__file__).parents[3] / "configs" / "baselines").glob("*.yaml")}
        assert shipped == {"ide", "osnet_x0_25", "osnet_x1_0", "quick", "strong"}


class TestPerImage:
    """Smoothing, weight and known identity of real and synthetic images under each label."""

    @pytest.mark.parametrize(
        ("variant", "smoothing", "weight", "known"),
        [
            (Variant(), (0.1, 0.1), (1.0, 1.0), (True, True)),
            (Variant(label="smoothed", smoothing=0.3), (0.1, 0.3), (1.0, 1.0), (True, True)),
            (SHIPPED["camstyle"], (0.0, 0.1), (1.0, 1.0), (True, True)),
            (Variant(real_smoothing=0.2), (0.2, 0.1), (1.0, 1.0), (True, True)),
            (Variant(label="uniform", weight=0.5), (0.1, 1.0), (1.0, 0.5), (True, False)),
        ],
    )
    def test_synthetic_ones_have_their_own(self, variant: Variant, smoothing: Any, weight: Any, known: Any) -> None:
        data = mixed()
        found = training._per_image(SMALL.model_copy(update={"label_smoothing": 0.1}), variant, data)
        for values, (real, drawn) in zip(found, (smoothing, weight, known), strict=True):
            assert values[~data.synthetic].unique().tolist() == [pytest.approx(real)]
            assert values[data.synthetic].unique().tolist() == [pytest.approx(drawn)]

    def test_separate_classes(self) -> None:
        people = [PersonImage(f"{i}.jpg", pid, 0, "train") for i, pid in enumerate((5, 5, 9, 12))]
        real = torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
        rows = [SyntheticRow("x", "2.jpg", "t", 9, 0, 0), SyntheticRow("y", "0.jpg", "t", 5, 0, 0)]
        data = training_set("pg2", people, real, rows, torch.ones(2, 3, 2, 2, dtype=torch.uint8), separate=True)
        assert data.labels.tolist() == [0, 0, 1, 2, 4, 3] and data.classes == 5
        assert data.source is not None and data.source.tolist() == [-1, -1, -1, -1, 2, 0]
        assert not training_set("copies", people, real, rows, None).synthetic.any(), "a copy is a real image"


class TestBatches:
    def dealt(self, variant: Variant, **config: Any) -> tuple[TrainingSet, list[np.ndarray]]:
        data = mixed()
        asked = SMALL.model_copy(update={"steps": 60, **config})
        return data, list(training._batches(asked, variant, data, seed=0))

    def test_as_they_come(self) -> None:
        data, batches = self.dealt(Variant())
        assert len(batches) == 60 and data.synthetic[np.concatenate(batches)].mean() == pytest.approx(2 / 3, abs=0.06)

    def test_a_share_caps_every_group(self) -> None:
        data, batches = self.dealt(Variant(share=0.25))
        assert max(data.synthetic[b].reshape(3, 4).sum(1).max() for b in batches) == 1

    def test_a_share_of_shuffled_batches_is_exact(self) -> None:
        data, batches = self.dealt(Variant(share=0.25), sampler="shuffle")
        assert {int(data.synthetic[b].sum()) for b in batches} == {3}

    def test_replacement_keeps_identities_and_sources(self) -> None:
        data, batches = self.dealt(Variant(enter="replace", probability=0.5))
        assert data.source is not None
        for batch in batches:
            assert np.ptp(data.labels.numpy()[batch].reshape(3, 4), axis=1).max() == 0
        drawn = data.synthetic[np.concatenate(batches)].mean()
        # One image in three has stand-ins, half the time one of them takes its place.
        assert drawn == pytest.approx(1 / 6, abs=0.05)
        none = list(training._batches(SMALL, Variant(enter="replace", probability=0.0), data, 0))
        assert not data.synthetic[np.concatenate(none)].any()


class TestTraining:
    def test_real_images_alone_train_as_ever_whatever_the_variant(self) -> None:
        data = replace(mixed(), images=torch.randint(0, 256, (27, 3, 32, 16), dtype=torch.uint8), source=None)
        plain, other = (train_baseline(SMALL, data, 0, mixing=v) for v in (None, Variant(label="uniform", weight=0.0, share=0.25)))
        for name, value in plain.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name

    def test_weightless_synthetic_images_teach_nothing_but_statistics(self) -> None:
        """With loss weight 0 the classifier's gradient comes from real images alone: shuffling synthetic labels changes nothing."""
        data = mixed()
        moved = data.labels.clone()
        moved[data.synthetic] = (moved[data.synthetic] + 1) % 3
        asked = SMALL.model_copy(update={"sampler": "shuffle", "weight_decay": 0.0})
        models = [train_baseline(asked, replace(data, labels=labels), 0, mixing=Variant(weight=0.0)) for labels in (data.labels, moved)]
        for name, value in models[0].state_dict().items():
            assert torch.equal(value, models[1].state_dict()[name]), name
        counts = [train_baseline(asked, replace(data, labels=labels), 0) for labels in (data.labels, moved)]
        assert not torch.equal(counts[0].state_dict()["classifier.weight"], counts[1].state_dict()["classifier.weight"])

    def test_online_images_reach_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pose = Pose(torch.full((27, 18, 2), 8.0), torch.ones(27, 18, dtype=torch.bool), openpose_18, (32, 16))
        data = replace(mixed(), source=None, poses=pose)
        seen: list[torch.Tensor] = []

        monkeypatch.setattr(training, "augment", lambda images, *_: seen.append(images) or images)
        train_baseline(SMALL, data, 0, mixing=Variant(online=1.0), online=White())  # type: ignore[arg-type]
        assert len(seen) == 2 and all(bool((one == 255).all()) for one in seen)

    def test_erasing_over_the_baselines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[float] = []
        monkeypatch.setattr(training, "erase", lambda inputs, probability, noise: asked.append(probability) or inputs)
        train_baseline(SMALL, mixed(), 0, mixing=Variant(erasing=0.5))
        train_baseline(SMALL.model_copy(update={"erasing": 0.3}), mixed(), 0)
        train_baseline(SMALL, mixed(), 0)
        assert asked == [0.5, 0.5, 0.3, 0.3]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"schedule": "steps", "milestones": (0.5, 0.8)}, {0: 1.0, 49: 1.0, 50: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}),
        ({"schedule": "steps", "warmup": 0.1, "warmup_from": 0.1}, {0: 0.1, 5: 0.55, 10: 1.0, 60: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.5, 25: 0.8535534}),
    ],
)
def test_learning_rates(config: dict[str, Any], expected: dict[int, float]) -> None:
    asked = BaselineConfig(steps=100, **config)
    assert {step: rate_at(asked, step) for step in expected} == pytest.approx(expected)
