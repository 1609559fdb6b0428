"""Training a baseline: what happens to a batch, how synthetic images enter it, and what the loss makes of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from generators import Pose, openpose_18
from reid_aug.baselines import training
from reid_aug.baselines.mixing import Mixing
from reid_aug.baselines.network import build, features_of, labels_of
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, optimizer_and_schedule, rate_at, train_baseline

SMALL = BaselineConfig(size=(32, 16), steps=2, identities=3, instances=4, crop_px=1, label_smoothing=0.0)


def mixed(count: int = 3, real: int = 3, synthetic: int = 6) -> TrainingSet:
    """`count` identities with so many real images, all 50 grey, and so many synthetic ones, all 200."""
    labels = torch.cat((torch.arange(count).repeat_interleave(real), torch.arange(count).repeat_interleave(synthetic)))
    source = torch.cat((torch.full((count * real,), -1), torch.arange(count).repeat_interleave(synthetic) * real))
    images = torch.where(source >= 0, 200, 50).to(torch.uint8)[:, None, None, None].expand(-1, 3, 32, 16).contiguous()
    return TrainingSet(images, labels, source)


class White(torch.nn.Module):
    def forward(self, images: torch.Tensor, poses: Pose, pids: torch.Tensor) -> torch.Tensor:
        assert images.min() >= 0 and images.max() <= 1 and len(poses) == len(images) == len(pids)
        return torch.ones_like(images)


class TestBaseline:
    def test_a_seed_is_a_run(self) -> None:
        data = TrainingSet(torch.randint(0, 256, (12, 3, 32, 16), dtype=torch.uint8), torch.arange(12) % 4)
        small = BaselineConfig(size=(32, 16), steps=2, identities=3, instances=2, crop_px=1)
        first, same, other = (features_of(train_baseline(small, data, seed), data.images) for seed in (0, 0, 1))
        assert torch.equal(first, same) and not torch.equal(first, other)
        assert first.dtype == torch.float32 and len(first) == 12

    def test_it_learns_to_tell_people_apart(self) -> None:
        """Four flat colours with noise: any working training finds them."""
        torch.manual_seed(0)
        labels = torch.arange(64) % 4
        colours = torch.tensor([[200.0, 40, 40], [40, 200, 40], [40, 40, 200], [200, 200, 40]])
        images = (colours[labels][:, :, None, None] + 30 * torch.randn(64, 3, 32, 16)).clamp(0, 255).to(torch.uint8)
        small = BaselineConfig(size=(32, 16), steps=30, identities=4, instances=4, crop_px=1)
        features = features_of(train_baseline(small, TrainingSet(images, labels), 0), images)
        near = torch.cdist(features, features).fill_diagonal_(torch.inf).argmin(1)
        assert (labels[near] == labels).float().mean() > 0.9

    def test_the_centre_loss_is_asked_once_a_step_and_its_weight_reaches_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[Any, ...]] = []

        class Spy(training.CentreLoss):
            def __call__(self, features: torch.Tensor, labels: torch.Tensor, **more: Any) -> torch.Tensor:
                value = super().__call__(features, labels, **more)
                asked.append((self, self.rate, self.reduction, tuple(self.centres.shape), labels.tolist(), bool(more["known"].all())))
                return value

        monkeypatch.setattr(training, "CentreLoss", Spy)
        model = SMALL.model_copy(update={"model": "small", "widths": (8, 8, 8, 8)})
        plain = train_baseline(model, mixed(), 0).state_dict()
        assert not asked
        drawn = train_baseline(model.model_copy(update={"centre_weight": 1.0, "centre_rate": 0.25}), mixed(), 0).state_dict()
        assert len(asked) == SMALL.steps and asked[0][0] is asked[1][0], "the same centres all along"
        assert all(call[1:4] == (0.25, "sum", (3, 8)) and sorted(call[4]) == [0] * 4 + [1] * 4 + [2] * 4 and call[5] for call in asked)
        assert any(not torch.equal(plain[key], drawn[key]) for key in plain)

    def test_labels_have_no_gaps(self) -> None:
        assert labels_of([7, 3, 7, 12]).tolist() == [1, 0, 1, 2]
        with pytest.raises(ValueError, match="without gaps"):
            TrainingSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 2]))


class TestPerImage:
    """Smoothing, weight and known identity of real and synthetic images under each label."""

    @pytest.mark.parametrize(
        ("mixing", "smoothing", "weight", "known"),
        [
            (Mixing(), (0.1, 0.1), (1.0, 1.0), (True, True)),
            (Mixing(label="smoothed", smoothing=0.3), (0.1, 0.3), (1.0, 1.0), (True, True)),
            (Mixing(label="smoothed", smoothing=0.1, real_smoothing=0.0, share=0.25), (0.0, 0.1), (1.0, 1.0), (True, True)),
            (Mixing(real_smoothing=0.2), (0.2, 0.1), (1.0, 1.0), (True, True)),
            (Mixing(label="uniform", weight=0.5), (0.1, 1.0), (1.0, 0.5), (True, False)),
        ],
    )
    def test_synthetic_ones_have_their_own(self, mixing: Mixing, smoothing: Any, weight: Any, known: Any) -> None:
        data = mixed()
        per_image = training._per_image(SMALL.model_copy(update={"label_smoothing": 0.1}), mixing, data)
        for values, (real, synthetic) in zip(per_image, (smoothing, weight, known), strict=True):
            assert values[~data.synthetic].unique().tolist() == [pytest.approx(real)]
            assert values[data.synthetic].unique().tolist() == [pytest.approx(synthetic)]


class TestBatches:
    def dealt(self, mixing: Mixing, **settings: Any) -> tuple[TrainingSet, list[np.ndarray]]:
        data = mixed()
        config = SMALL.model_copy(update={"steps": 60, **settings})
        return data, list(training._batches(config, mixing, data, seed=0))

    def test_as_they_come(self) -> None:
        data, batches = self.dealt(Mixing())
        assert len(batches) == 60 and data.synthetic[np.concatenate(batches)].mean() == pytest.approx(2 / 3, abs=0.06)

    def test_a_share_caps_every_group(self) -> None:
        data, batches = self.dealt(Mixing(share=0.25))
        assert max(data.synthetic[b].reshape(3, 4).sum(1).max() for b in batches) == 1

    def test_a_share_of_shuffled_batches_is_exact(self) -> None:
        data, batches = self.dealt(Mixing(share=0.25), sampler="shuffle")
        assert {int(data.synthetic[b].sum()) for b in batches} == {3}

    def test_replacement_keeps_identities_and_sources(self) -> None:
        data, batches = self.dealt(Mixing(enter="replace", probability=0.5))
        assert data.source is not None
        for batch in batches:
            assert np.ptp(data.labels.numpy()[batch].reshape(3, 4), axis=1).max() == 0
        replaced = data.synthetic[np.concatenate(batches)].mean()
        # One image in three has stand-ins, half the time one of them takes its place.
        assert replaced == pytest.approx(1 / 6, abs=0.05)
        none = list(training._batches(SMALL, Mixing(enter="replace", probability=0.0), data, 0))
        assert not data.synthetic[np.concatenate(none)].any()


class TestTraining:
    def test_real_images_alone_train_as_ever_whatever_the_variant(self) -> None:
        data = replace(mixed(), images=torch.randint(0, 256, (27, 3, 32, 16), dtype=torch.uint8), source=None)
        plain, other = (train_baseline(SMALL, data, 0, mixing=mixing) for mixing in (None, Mixing(label="uniform", weight=0.0, share=0.25)))
        for name, value in plain.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name

    def test_weightless_synthetic_images_teach_nothing_but_statistics(self) -> None:
        """With loss weight 0 the classifier's gradient comes from real images alone: shuffling synthetic labels changes nothing."""
        data = mixed()
        moved = data.labels.clone()
        moved[data.synthetic] = (moved[data.synthetic] + 1) % 3
        config = SMALL.model_copy(update={"sampler": "shuffle", "weight_decay": 0.0})
        models = [train_baseline(config, replace(data, labels=labels), 0, mixing=Mixing(weight=0.0)) for labels in (data.labels, moved)]
        for name, value in models[0].state_dict().items():
            assert torch.equal(value, models[1].state_dict()[name]), name
        counts = [train_baseline(config, replace(data, labels=labels), 0) for labels in (data.labels, moved)]
        assert not torch.equal(counts[0].state_dict()["classifier.weight"], counts[1].state_dict()["classifier.weight"])

    def test_online_images_reach_the_network(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pose = Pose(torch.full((27, 18, 2), 8.0), torch.ones(27, 18, dtype=torch.bool), openpose_18, (32, 16))
        data = replace(mixed(), source=None, poses=pose)
        seen: list[torch.Tensor] = []

        monkeypatch.setattr(training, "augment", lambda images, *_: seen.append(images) or images)
        train_baseline(SMALL, data, 0, online=White())
        assert len(seen) == 2 and all(bool((images == 255).all()) for images in seen)

    def test_erasing_over_the_baselines(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probabilities: list[float] = []
        monkeypatch.setattr(training, "erase", lambda inputs, probability, noise: probabilities.append(probability) or inputs)
        train_baseline(SMALL, mixed(), 0, mixing=Mixing(erasing=0.5))
        train_baseline(SMALL.model_copy(update={"erasing": 0.3}), mixed(), 0)
        train_baseline(SMALL, mixed(), 0)
        assert probabilities == [0.5, 0.5, 0.3, 0.3]

    def test_grey_patches_over_the_baselines_come_before_normalisation(self, monkeypatch: pytest.MonkeyPatch) -> None:
        probabilities: list[float] = []

        def patch(pixels: torch.Tensor, probability: float, noise: torch.Generator) -> torch.Tensor:
            assert pixels.dtype == torch.uint8
            probabilities.append(probability)
            return pixels

        monkeypatch.setattr(training, "grey_patch", patch)
        train_baseline(SMALL, mixed(), 0, mixing=Mixing(grey_patch=0.4))
        train_baseline(SMALL.model_copy(update={"grey_patch": 0.3}), mixed(), 0)
        train_baseline(SMALL.model_copy(update={"grey_patch": 0.3}), mixed(), 0, mixing=Mixing(grey_patch=0.0))
        train_baseline(SMALL, mixed(), 0)
        assert probabilities == [0.4, 0.4, 0.3, 0.3]

    def test_no_training_is_emptied_of_its_synthetic_images(self) -> None:
        for mixing in (Mixing(share=0.2), Mixing(share=0.5, label="separate"), Mixing(probability=0.9)):
            with pytest.raises(ValueError):
                train_baseline(SMALL, mixed(), 0, mixing=mixing)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"schedule": "steps", "milestones": (0.5, 0.8)}, {0: 1.0, 49: 1.0, 50: 0.1, 79: 0.1, 80: 0.01, 99: 0.01}),
        ({"schedule": "steps", "warmup": 0.1, "warmup_from": 0.1}, {0: 0.1, 5: 0.55, 10: 1.0, 60: 1.0}),
        ({"schedule": "cosine"}, {0: 1.0, 50: 0.5, 25: 0.8535534}),
    ],
)
def test_learning_rates(config: dict[str, Any], expected: dict[int, float]) -> None:
    baseline = BaselineConfig(steps=100, **config)
    assert {step: rate_at(baseline, step) for step in expected} == pytest.approx(expected)


def test_the_classifier_has_its_own_rate() -> None:
    config = BaselineConfig(model="resnet18", optimizer="sgd", learning_rate=0.01, head_rate=10.0, schedule="steps")
    model = build(config, 5)
    optimizer, _ = optimizer_and_schedule(config, model)
    body, head = optimizer.param_groups
    assert (body["lr"], head["lr"]) == (0.01, 0.1) and len(head["params"]) == 2
    assert len(body["params"]) + 2 == len(list(model.parameters()))
