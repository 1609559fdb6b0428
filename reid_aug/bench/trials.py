"""The trials of equal tuning: trainings on a part of the training identities, scored on the others, each a line on disk.

Nothing that a trial learns from has seen the people it is scored on. Generators learn anew from the tuning part alone, and so do the
networks of gates and perceptual losses; target poses and scenes are the tuning part's. Only a generator that is given as a checkpoint is
what it is. Test people play no part. The setting with the best score is then trained on all training identities, with the generator that
learnt from all of them, as untuned arms are.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn
from tqdm import tqdm

from reid_aug import config as configuration
from reid_aug.baselines.network import features_of
from reid_aug.baselines.ranking import Ranking, rank_gallery
from reid_aug.bench.arms import origin_and_variants
from reid_aug.bench.data import BenchmarkData
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.results import append, device_name, read_lines, versions
from reid_aug.bench.synthetic import SyntheticImages
from reid_aug.bench.tuning import Setting, TuningConfig, best
from reid_aug.data.people import JUNK, PersonImage
from reid_aug.rendered import RenderedSet

TRIALS = "trials.jsonl"
Train = Callable[..., tuple[nn.Module, float]]  # as `run.Baselines.train`


class Tuned(NamedTuple):
    """How an arm was tuned under a baseline: the setting chosen, and by setting, in order, its score (None: diverged) and its lines."""

    baseline: str
    arm: str
    chosen: Setting
    settings: tuple[Setting, ...]
    scores: tuple[float | None, ...]
    lines: tuple[dict[str, Any], ...]


class ValidationData(BenchmarkData):
    """The training people of a benchmark's data, of whom a part is learnt from ("train") and the rest, held out, is "query"."""

    def __init__(self, data: BenchmarkData, tuning: TuningConfig, folder: Path) -> None:
        super().__init__(data.config, data.share, data.root, folder)
        self.whole, self.tuning = data, tuning

    @cached_property
    def rendered(self) -> RenderedSet | None:
        """Give the rendered people of the whole data."""
        return self.whole.rendered

    @cached_property
    def home_people(self) -> list[PersonImage]:
        """List the training images alone, in their order: those of people who are held out under "query"."""
        return held_out(self.whole.home_people, self.tuning.held_out, self.config.synthesis_seed)

    @cached_property
    def people(self) -> list[PersonImage]:
        """List the same: another data set to test on plays no part."""
        return self.home_people


def held_out(people: Sequence[PersonImage], part: float, seed: int) -> list[PersonImage]:
    """Give the training images, those of `part` of the identities as "query"; a hash of (seed, pid) chooses: the same on every machine.

    ValueError where fewer than two identities are on one of the sides, or nobody held out is seen by two cameras: each image is a
    query against all others, and those of its person by its own camera do not count.
    """
    train = [p for p in people if p.split == "train"]
    ranked = sorted({p.pid for p in train} - {JUNK}, key=lambda pid: hashlib.sha256(f"{seed}\nheld out\n{pid}".encode()).digest())
    count = round(part * len(ranked))
    if not 2 <= count <= len(ranked) - 2:
        rule = "tuning holds out two training identities at least and learns from two others at least"
        raise ValueError(f"{rule}, got {count} of {len(ranked)} with tuning.held_out={part:g}")
    chosen, cameras = set(ranked[:count]), defaultdict(set)
    for person in train:
        if person.pid in chosen:
            cameras[person.pid].add(person.camid)
    if all(len(seen) < 2 for seen in cameras.values()):
        raise ValueError(f"tuning scores by finding people across cameras, and none of the {count} held out is seen by two of them")
    return [replace(p, split="query") if p.pid in chosen else p for p in train]


class Trials:
    """The trials of a benchmark; `train` trains a network (`run.Baselines.train`), on these people alone."""

    def __init__(self, fingerprints: Fingerprints, data: BenchmarkData, synthetic: SyntheticImages, train: Train) -> None:
        assert fingerprints.config.tuning is not None
        self.config, self.tuning = fingerprints.config, fingerprints.config.tuning
        self.fingerprints, self.data, self.synthetic, self.train = fingerprints, data, synthetic, train
        self.file = fingerprints.folder / TRIALS

    def run(self) -> dict[tuple[str, str], Tuned]:
        """Run what is missing of all arms' trials, and give how each arm is tuned, by (baseline, arm).

        FloatingPointError where every trial of an arm diverged, its own setting's, too.
        """
        pairs = [(baseline, arm) for baseline in self.config.baselines_by_name for arm in self.config.arms]
        todo = [(*pair, trial, seed) for pair in pairs for trial in range(self.tuning.trials) for seed in self.tuning.seeds]
        done, names = self._lines(), {trial: self._digest(*trial[:3]) for trial in todo}
        missing = [trial for trial in todo if (names[trial], trial[3]) not in done]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        bar = tqdm(missing, "tune", len(todo), initial=len(todo) - len(missing), unit="trial", disable=None)
        for trial in bar:
            bar.set_postfix_str(f"{trial[1]}, {trial[2] + 1} of {self.tuning.trials}")
            append(self.file, self._line(*trial, names[trial]))
        done = self._lines()
        return {pair: self._tuned(*pair, done) for pair in pairs}

    def settings(self, baseline: str, arm: str) -> list[Setting]:
        """List what is tried for an arm under a baseline."""
        origin, _ = origin_and_variants(arm)
        return self.tuning.settings(origin, self.config.variant(arm), self.config.baselines_by_name[baseline])

    def notes(self) -> str:
        """Say what trials learnt from, for a report."""
        used = self.config.generators_used
        learnt = [f"`{name}`" for name in used if self.config.generators[name].checkpoint is None]
        elsewhere = [f"`{name}`" for name in used if self.config.generators[name].checkpoint is not None]
        parts = ["Target poses and scenes of the trials, and networks of their gates and perceptual losses, are of those learnt from."]
        if learnt:
            parts.append(f"So are their generators: {', '.join(learnt)} learnt without those held out for the trials, and anew from all.")
        if elsewhere:
            parts.append(f"{', '.join(elsewhere)} learnt elsewhere, perhaps from those held out, too, which would flatter its trials.")
        return " ".join(parts)

    def _digest(self, baseline: str, arm: str, trial: int) -> str:
        """Digest what decides a trial's score: all that decides an arm's, on the people of the tuning part, and the setting."""
        values = self.settings(baseline, arm)[trial].values(self.config.baselines_by_name[baseline], self.config.variant(arm))
        return configuration.digest({"arm": self.fingerprints.digest(baseline, arm, tuned=False), "setting": values})

    def _lines(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Read the finished trials by (digest, seed); the first of two lines, as a process beside this one may have chosen by it."""
        return {(line["config"], line["seed"]): line for line in reversed(read_lines(self.file))}

    def _line(self, baseline: str, arm: str, trial: int, seed: int, digest: str) -> dict[str, Any]:
        """Train a setting with one seed, rank the people held out, and give the trial's line; without scores where it diverged."""
        config, setting = self.config.baselines_by_name[baseline], self.settings(baseline, arm)[trial]
        tried, variant = setting.applied(config, self.config.variant(arm))
        data, online = self.synthetic.training_set(arm, config.size), self.synthetic.online(arm, seed, variant)
        ranking: Ranking | None = None
        seconds, failed = None, None
        try:
            model, seconds = self.train(baseline, arm, seed, data, online, setting)
            features = features_of(model, self.data.real("query", config.size), flip_test=config.flip_test)
            if not bool(features.isfinite().all()):
                raise FloatingPointError("its features are not finite")
            people = self.data.of_split("query")
            pids, camids = [p.pid for p in people], [p.camid for p in people]
            ranking = rank_gallery(features, features, pids, pids, camids, camids, metric=tried.metric)
        except FloatingPointError as error:
            failed = str(error)
        train, queries = self.data.of_split("train"), self.data.of_split("query")
        return {
            "baseline": baseline, "arm": arm, "trial": trial, "seed": seed, "config": digest,
            "setting": setting.values(config, self.config.variant(arm)),
            "map": None if ranking is None else ranking.map, "rank1": None if ranking is None else float(ranking.cmc[0]),
            **({"failed": failed} if failed else {}), "steps": config.steps, "seconds": seconds and round(seconds, 2),
            "train_images": len(data.labels), "identities": len({p.pid for p in train}), "held_out": len({p.pid for p in queries}),
            "queries": None if ranking is None else int(ranking.valid.sum()), "device": device_name(), "versions": versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip

    def _tuned(self, baseline: str, arm: str, done: dict[tuple[str, int], dict[str, Any]]) -> Tuned:
        """Choose an arm's setting by the mean over seeds of its trials' mAP."""
        settings = self.settings(baseline, arm)
        lines = [[done[self._digest(baseline, arm, trial), seed] for seed in self.tuning.seeds] for trial in range(len(settings))]
        scores = [_mean([line["map"] for line in of_setting]) for of_setting in lines]
        if all(score is None for score in scores):
            raise FloatingPointError(f"every trial of arm {arm!r} under baseline {baseline!r} diverged: {lines[0][0]['failed']}")
        flat = tuple({**line, "baseline": baseline, "arm": arm} for of_setting in lines for line in of_setting)
        return Tuned(baseline, arm, settings[best(scores)], tuple(settings), tuple(scores), flat)


def _mean(scores: Sequence[float | None]) -> float | None:
    """Average over seeds; None where one of them diverged."""
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if len(known) == len(scores) else None
