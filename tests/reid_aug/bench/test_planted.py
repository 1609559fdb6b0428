"""Does the benchmark find what is there, and nothing where nothing is? Real trainings on people whose truth is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from torch import Tensor, nn
from torchreid import models as torchreid_models

from reid_aug.bench import arms
from reid_aug.bench.config import load_config
from reid_aug.bench.results import scores_file
from reid_aug.bench.run import Result, run_shares
from reid_aug.bench.statistics import over_seeds
from reid_aug.bench.summary import summarise, verdicts
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.manifest import SyntheticRow

pytestmark = pytest.mark.slow

# Twelve images of a person by several cameras; `none` learns from one of them, the planted arm from all as if they were synthetic.
PEOPLE, IMAGES = 40, 12
WORLD = [
    f"rendered={{train_identities: {PEOPLE}, test_identities: 30, train_images: {IMAGES}, gallery_images: 4, size: [32, 16]}}",
    "baseline={model: tiny, size: [32, 16], steps: 150, identities: 10, instances: 4, crop_px: 2, learning_rate: 5.0e-3}",
    "quality.pairs=0", "generators={}", f"shares=[{1 / IMAGES}]", f"per_image={IMAGES - 1}",
]  # fmt: skip
POOL, SEEDS = 12, 5


class Tiny(nn.Module):
    """Two convolutions, as torchreid's networks answer: logits and features in training, features otherwise; seconds a training."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(128, 64), nn.BatchNorm1d(64),
        )  # fmt: skip
        self.classifier = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Any:
        features = self.body(images)
        return (self.classifier(features), features) if self.training else features


def other_images(
    truth: arms.Oracle, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]
) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
    """In place of the oracle's drawing: every other training image of the source's person, each once.

    The oracle keeps a source's camera; these are seen by others, too, which is what `none` can't learn from one image.
    """
    by_person: dict[str, list[str]] = defaultdict(list)
    for name, row in truth.rendered.rows.items():
        if row.folder == "bounding_box_train":
            by_person[name[:4]].append(name)
    others = {row.source: iter([name for name in by_person[row.source[:4]] if name != row.source]) for row in rows}
    for row in rows:
        yield row, truth.rendered.truth(next(others[row.source])).image


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """`none` with few images and the planted arm, five trainings of each; seven more of `none` lie in the same folder."""
    folder = tmp_path_factory.mktemp("planted")

    def run(names: str, seeds: int) -> Result:
        config = load_config(None, [*WORLD, f"arms=[{names}]", f"seeds={list(range(seeds))}", f"out={folder}"])
        return run_shares(config)[1 / IMAGES]

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(vars(torchreid_models)["__model_factory"], "tiny", lambda num_classes, **_: Tiny(num_classes))
        patch.setattr(arms.Oracle, "render", other_images)
        run("none", POOL)
        return run("none,oracle", SEEDS)


def test_true_extra_images_that_enter_as_synthetic_ones_are_found_to_help(result: Result) -> None:
    """From drawing to verdict: were they dropped on the way, both arms would be the same trainings."""
    counts = {(line["arm"], line["train_images"], line["synthetic_images"]) for line in result.lines}
    assert counts == {("none", PEOPLE, 0), ("oracle", PEOPLE * IMAGES, PEOPLE * (IMAGES - 1))}
    summaries = summarise(result)
    (verdict,) = verdicts(summaries)
    gain = summaries[1].gains["map"]
    assert verdict.startswith("`oracle` helps") and gain.training_p is not None and gain.training_p < 0.05, verdict
    assert gain.over_queries.low > 0 and gain.query_p < 0.01


def test_equal_arms_are_not_told_apart_in_19_of_20(result: Result) -> None:
    """Two times five trainings of `none`, drawn from a pool of them: whoever sees a difference is wrong."""
    digest = result.lines[0]["config"]
    ap = np.stack([np.load(scores_file(result.folder, "none", digest, seed))["ap"] for seed in range(POOL)])
    assert np.ptp(np.nanmean(ap, axis=1)) > 0.005, "trainings differ"
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        chosen = rng.permutation(POOL)[: 2 * SEEDS]
        test = over_seeds(ap[chosen[:SEEDS]], ap[chosen[SEEDS:]])
        assert test is not None
        wrong += test.p_value < 0.05
    assert wrong <= 200 / 20, f"{wrong} of 200 comparisons of equal arms are called significant"
