"""Does the benchmark find what is there, and nothing where nothing is? Real trainings on people whose truth is known."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid_aug.bench import harness, report
from reid_aug.bench.results import scores_file
from reid_aug.bench.statistics import over_seeds

pytestmark = pytest.mark.slow

# Twelve images of a person from all sides; `none` learns from one of them.
WORLD = [
    "rendered={train_identities: 40, test_identities: 30, train_images: 12, gallery_images: 4, size: [32, 16]}",
    "baseline={size: [32, 16], steps: 80, identities: 10, instances: 4, crop_px: 2, learning_rate: 5.0e-3}",
    "arms=[none]", "quality.pairs=0", "generators={}",
]  # fmt: skip
FEW, POOL, SEEDS = 1 / 12, 12, 5


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[float, harness.Result]:
    """The baseline with few images, many times, and with true extra images of the same people."""
    folder = tmp_path_factory.mktemp("planted")

    def run(share: float, seeds: int) -> harness.Result:
        asked = harness.load_config(None, [*WORLD, f"shares=[{share}]", f"seeds={list(range(seeds))}", f"out={folder}"])
        return harness.run_shares(asked)[share]

    return {FEW: run(FEW, POOL), 1.0: run(1.0, SEEDS)}


def test_true_extra_images_are_found_to_help(results: dict[float, harness.Result], tmp_path: Path) -> None:
    """An arm whose extra images are true ones, beside `none`: the report says that it helps."""
    lines = []
    for share, arm in ((FEW, "none"), (1.0, "planted")):
        for line in results[share].lines[:SEEDS]:
            lines.append({**line, "arm": arm})
            kept = scores_file(tmp_path, arm, line["config"], line["seed"])
            kept.parent.mkdir(exist_ok=True)
            shutil.copy(scores_file(results[share].folder, "none", line["config"], line["seed"]), kept)
    summaries = report.summarise(replace(results[1.0], folder=tmp_path, lines=lines))
    (said,) = report.verdicts(summaries)
    gain = summaries[1].gains["map"]
    assert said.startswith("`planted` helps") and gain.training_p is not None and gain.training_p < 0.05, said
    assert gain.over_queries.low > 0 and gain.query_p < 0.01


def test_equal_arms_are_not_told_apart_in_19_of_20(results: dict[float, harness.Result]) -> None:
    """Two times five trainings of `none`, drawn from a pool of them: whoever sees a difference is wrong."""
    few = results[FEW]
    ap = np.stack([np.load(scores_file(few.folder, "none", line["config"], line["seed"]))["ap"] for line in few.lines])
    assert np.ptp(np.nanmean(ap, axis=1)) > 0.005, "trainings differ"
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(200):
        chosen = rng.permutation(POOL)[: 2 * SEEDS]
        test = over_seeds(ap[chosen[:SEEDS]], ap[chosen[SEEDS:]])
        assert test is not None
        wrong += test.p_value < 0.05
    assert wrong <= 200 / 20, f"{wrong} of 200 comparisons of equal arms are called significant"
