"""The benchmark: baselines × arms × seeds, one line of results.jsonl each; the report is a view of that file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import load, read_header
from reid_aug import images
from reid_aug.baselines.network import features_of, load_baseline, load_reid, save_baseline
from reid_aug.baselines.ranking import rank_distances, rank_gallery
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import OnlineAugmentation, TrainingSet, train_baseline
from reid_aug.bench.arms import NONE, training_set
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.data import BenchmarkData
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.results import RESULTS, append, cmc_at, device_name, read_results, save_scores, scores_file, versions
from reid_aug.bench.sizes import outline
from reid_aug.bench.synthetic import SyntheticImages
from reid_aug.bench.targets import notes
from reid_aug.bench.trials import Trials, Tuned, ValidationData
from reid_aug.bench.tuning import OWN, Setting
from reid_aug.data.people import PersonImage
from reid_aug.quality.appearance import as_before
from reid_aug.quality.held_out import pairs_to_measure, rendered_pairs
from reid_aug.quality.measure import Quality, measure
from reid_aug.quality.networks import Networks
from reid_aug.quality.surroundings import Surroundings
from reid_aug.synthesis.augmenter import refuse_other_shape


@dataclass(frozen=True, eq=False)
class Result:
    """A finished benchmark: its folder, its lines, and by generator image quality and what a perceptual loss compared on.

    `notes` are what a report says of its arms, `tuned` how each was tuned, where they were, and `tuning` what trials learnt from.
    """

    folder: Path
    lines: list[dict[str, Any]]
    quality: dict[str, Quality]
    perceptual: dict[str, str]
    notes: tuple[str, ...] = ()
    tuned: tuple[Tuned, ...] = ()
    tuning: str = ""


def run(config: BenchConfig) -> Result:
    """Run what is missing of a benchmark and return all of it; each (baseline, arm, seed) is on disk as soon as it is done."""
    return _exactly(lambda: Benchmark(config).run())


def run_shares(config: BenchConfig) -> dict[float, Result]:
    """Do what `run` does with each of `config.shares` of the training images, smallest first; generators learn from that part alone."""
    if not config.shares:
        raise ValueError("shares are the parts of the training images to learn from, e.g. shares=[0.2,0.4,0.6,0.8,1.0], got none")
    return _exactly(lambda: {share: Benchmark(config, share).run() for share in sorted(config.shares)})


def _exactly(work: Callable[[], Any]) -> Any:
    # Fresh networks are full of denormal numbers, which make a CPU many times slower; afterwards arithmetic is exact again.
    torch.set_flush_denormal(True)
    try:
        return work()
    finally:
        torch.set_flush_denormal(False)


class Benchmark:
    """One benchmark, with all training images or the part `share` of them; making it refuses what can't be told apart on disk."""

    def __init__(self, config: BenchConfig, share: float | None = None) -> None:
        self.config, self.share = config, share
        self.fingerprints = Fingerprints(config, share)
        self.folder = self.fingerprints.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = BenchmarkData(config, share, self.fingerprints.root, self.folder)
        self.baselines = Baselines(self.fingerprints, self.data)
        self.synthetic = SyntheticImages(self.fingerprints, self.data, self.baselines.judge_file)
        self.quality = ImageQuality(self.fingerprints, self.data, self.synthetic, self.baselines)
        self.trials = self._trials() if config.tuning is not None else None

    @cached_property
    def tuned(self) -> dict[tuple[str, str], Tuned]:
        """Run the trials that are missing, and tell how each arm is tuned, by (baseline, arm); nothing where none is."""
        return {} if self.trials is None else self.trials.run()

    def _trials(self) -> Trials:
        """Put together what trials are made of: all of a benchmark's parts, on the people of the tuning part alone."""
        assert self.config.tuning is not None
        fingerprints = Fingerprints(self.config, self.share, trials=True)
        data = ValidationData(self.data, self.config.tuning, fingerprints.folder)
        baselines = Baselines(fingerprints, data)
        return Trials(fingerprints, data, SyntheticImages(fingerprints, data, baselines.judge_file), baselines.train)

    def run(self) -> Result:
        """Run what is missing, and return all of it."""
        images.atomic_write_text(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        done = self.lines()
        self._preflight()
        quality = {name: self.quality.of(name) for name in self.config.generators_used if self.config.quality.pairs}
        assert self.trials is None or self.tuned  # every setting chosen, before the first arm trains on all
        trainings = [(name, arm, seed) for name in self.config.baselines_by_name for arm in self.config.arms for seed in self.config.seeds]
        for baseline, arm, seed in sorted(trainings, key=lambda training: self.config.seeds.index(training[2])):
            if (baseline, arm, seed) not in done:
                self.add(baseline, arm, seed)
        done = self.lines()
        targets = {arm: shown for arm in self.config.arms if (shown := self.fingerprints.targets(arm))}
        about_arms = tuple(notes(self.config, targets, self.share))
        return Result(
            self.folder, [done[training] for training in trainings], quality, self._perceptual(), about_arms, tuple(self.tuned.values()),
            "" if self.trials is None else self.trials.notes(),
        )  # fmt: skip

    def add(self, baseline: str, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm with one seed, put its line on disk, and give it."""
        line = self._line(baseline, arm, seed)
        append(self.folder / RESULTS, line)
        return line

    def lines(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """Read the finished lines of this configuration, by (baseline, arm, seed)."""
        names = {self.fingerprints.digest(name, arm): (name, arm) for name in self.config.baselines_by_name for arm in self.config.arms}
        lines = [line for line in read_results(self.folder / RESULTS) if line["config"] in names]
        # A baseline may have been renamed since; what it is has not changed.
        return {(*names[line["config"]], line["seed"]): {**line, "baseline": names[line["config"]][0]} for line in lines}

    def _preflight(self) -> None:
        """Meet what can be wrong with the data before hours are spent on training."""
        assert len(self.data.bank)  # every pose read
        if self.trials is not None:
            assert len(self.trials.data.bank)  # and there are people to hold out
        for config in self.config.baselines_by_name.values():
            for split in ("train", "query", "gallery"):
                if not len(self.data.real(split, config.size)):  # every image decoded
                    advice = "give data.root, or test.root, of a data set that has them"
                    raise ValueError(f"a benchmark needs {split} images, and there are none: {advice}")
        for arm in self.config.arms:
            if shown := self.fingerprints.targets(arm):
                self.data.rows(shown.draw)
        shapes = [p.pose.size for p in self.data.of_split("train") if p.pose is not None]
        for name in self.config.generators_used:
            try:
                refuse_other_shape(outline(self.config, name), shapes, "these people's are")
            except ValueError as error:
                advice = "give a generator.size of theirs, or another YAML, as posewarp-market is for posewarp"
                raise ValueError(f"generators.{name}: {error}: {advice}") from None
        self.synthetic.check_weights()
        if self.config.quality.pairs and self.config.generators_used:
            assert self.quality.pairs

    def _line(self, baseline: str, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm with one seed, rank the gallery, keep per-query scores, and give the line of results."""
        config = self.config.baselines_by_name[baseline]
        data, variant = self.synthetic.training_set(arm, config.size), self.config.variant(arm)
        tuned = self.tuned.get((baseline, arm))
        setting = OWN if tuned is None else tuned.chosen
        online = self.synthetic.online(arm, seed, setting.applied(config, variant)[1])
        model, seconds = self.baselines.train(baseline, arm, seed, data, online, setting)
        tested = (self.data.real(split, config.size) for split in ("query", "gallery"))
        query, gallery = (features_of(model, pixels, flip_test=config.flip_test) for pixels in tested)
        ranking = rank_gallery(query, gallery, *self.data.identities_and_cameras(), metric=config.metric)
        digest = self.fingerprints.digest(baseline, arm)
        save_scores(scores_file(self.folder, arm, digest, seed), ranking)
        return {
            "baseline": baseline, "arm": arm, "seed": seed, "config": digest,
            "rank1": float(ranking.cmc[0]), "rank5": cmc_at(ranking, 5), "rank10": cmc_at(ranking, 10),
            "map": ranking.map, "minp": ranking.minp, **self._reranked(config, query, gallery),
            "steps": config.steps, "seconds": round(seconds, 2),
            "train_images": len(data.labels), "synthetic_images": int(data.synthetic.sum()),
            "identities": len({p.pid for p in self.data.of_split("train")}), "queries": int(ranking.valid.sum()),
            "gallery": len(self.data.of_split("gallery")), "size": list(config.size), "share": self.share, "model": config.model,
            **({} if tuned is None else {"tuned": setting.values(config, variant)}),
            "weights": self.fingerprints.starts[baseline][0], "device": device_name(), "versions": versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip

    def _reranked(self, config: BaselineConfig, query: Tensor, gallery: Tensor) -> dict[str, float]:
        if not self.config.rerank:
            return {}
        from reid_aug.baselines.reranking import rerank  # brings SciPy's sparse matrices, which few benchmarks need

        ranking = rank_distances(rerank(query, gallery, metric=config.metric), *self.data.identities_and_cameras())
        return {"reranked_rank1": float(ranking.cmc[0]), "reranked_map": ranking.map}

    def _perceptual(self) -> dict[str, str]:
        """Name what the perceptual terms of generators compared images on, for those whose papers have such terms."""
        headers = {name: read_header(self.synthetic.checkpoint(name)) for name in self.config.generators_used}
        names = {name: header.get("about", {}).get("perceptual") for name, header in headers.items()}
        return {name: weights for name, weights in names.items() if weights is not None}


class Baselines:
    """A benchmark's Re-ID networks: trained anew for every line of results, but for the judge, which is kept."""

    def __init__(self, fingerprints: Fingerprints, data: BenchmarkData) -> None:
        self.config, self.fingerprints, self.data = fingerprints.config, fingerprints, data

    def train(
        self, baseline: str, arm: str, seed: int, data: TrainingSet, online: OnlineAugmentation | None = None, setting: Setting = OWN,
    ) -> tuple[nn.Module, float]:  # fmt: skip
        """Train one arm's network, and say how many seconds it took; the judge, which is untuned, is trained once and loaded afterwards."""
        config, variant = setting.applied(self.config.baselines_by_name[baseline], self.config.variant(arm))
        file = self.fingerprints.judge_place
        is_judge = setting.is_own and (baseline, arm, seed) == (self.fingerprints.judge, NONE, self.config.synthesis_seed)
        if is_judge and file.exists():
            model, header = load_baseline(file)
            return model, header["about"]["seconds"]
        began = time.perf_counter()
        model = train_baseline(config, data, seed, mixing=variant, online=online, label=f"{arm} {seed}")
        seconds = time.perf_counter() - began
        if is_judge:
            save_baseline(model, config, data.classes, file, seconds=seconds)
        return model, seconds

    def judge_file(self) -> Path:
        """Give the judge's file; the judge is trained, on real images alone, if it is not there."""
        file, judge = self.fingerprints.judge_place, self.fingerprints.judge
        if not file.exists():
            real = self.data.real("train", self.config.baselines_by_name[judge].size)
            self.train(judge, NONE, self.config.synthesis_seed, training_set(NONE, self.data.people, real, [], None))
        return file


class ImageQuality:
    """Image quality of a benchmark's generators on held-out pairs, each measured once."""

    def __init__(self, fingerprints: Fingerprints, data: BenchmarkData, synthetic: SyntheticImages, baselines: Baselines) -> None:
        self.config, self.fingerprints, self.data = fingerprints.config, fingerprints, data
        self.synthetic, self.baselines = synthetic, baselines

    def of(self, name: str) -> Quality:
        """Measure a generator, or read what was measured; again when weights that were missing have come."""
        asked = as_before(self.config.quality.model_dump(mode="json"))
        settings = {**asked, "weights": self._networks.available(), **self.fingerprints.search}
        file, size = self.fingerprints.quality_place(name), self.data.sizes.home
        if file.exists() and (measured := json.loads(file.read_text())).get("asked") == settings:
            return Quality.from_json(measured)
        protocol, sheet = self.config.quality.protocol, self.fingerprints.folder / "samples" / f"{name}.png"
        batches = rendered_pairs(load(self.synthetic.checkpoint(name)), self.pairs, protocol.mask, sheet=sheet, size=size)
        quality = measure(batches, protocol, self._surroundings, len(self.pairs), name)
        images.atomic_write_text(file, json.dumps({"asked": settings, **quality.as_json()}, indent=2) + "\n")
        return quality

    @cached_property
    def pairs(self) -> list[tuple[PersonImage, PersonImage]]:
        """Choose the pairs that every generator is measured on; ValueError says what is missing for that many."""
        return pairs_to_measure(self.data.home_people, self.config.quality.protocol.pairs)

    @cached_property
    def _networks(self) -> Networks:
        return Networks(download=self.config.quality.download)

    @cached_property
    def _surroundings(self) -> Surroundings:
        """Gather what image quality is measured beside: real images, the judge, and the truth, where it is known."""
        reid = load_reid(str(self.baselines.judge_file()), self._networks.device)
        return Surroundings(
            self.data.home_people, self.data.sizes.home, self._networks, reid=reid, rendered=self.data.rendered,
            folder=self.fingerprints.folder / "quality", backend=self.config.backend,
        )  # fmt: skip
