"""The benchmark: baselines × arms × seeds, one line of results.jsonl each; the report is a view of that file."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import load, read_header, tensors_digest
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.baselines.network import features, initial_weights, load_baseline, load_reid, save_baseline
from reid_aug.baselines.ranking import rank_distances, rank_gallery
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.bench.arms import COPIES, NONE, parted, read_rows, render_arm, training_set
from reid_aug.bench.config import BASELINE, BenchConfig
from reid_aug.bench.data import BenchmarkData, contents
from reid_aug.bench.results import RESULTS, append, cmc_at, device_name, read_results, save_scores, scores_file, versions
from reid_aug.data.loading import DataConfig
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import drawn, pairs_to_measure
from reid_aug.quality.measure import Quality, Surroundings, measure
from reid_aug.quality.networks import Networks
from reid_aug.synthesis import gates
from reid_aug.synthesis.manifest import Manifest
from reid_aug.synthesis.online import PoseAugmentation
from reid_aug.synthesis.train import PerceptualConfig, TrainConfig, check_perceptual, train_from

# Keys of generators that came later, and are said where they are not off: digests of earlier runs stay what they were.
LATER = ("jitter", "min_gap")


@dataclass(frozen=True, eq=False)
class Result:
    """A finished benchmark: its folder, its lines, and by generator image quality and what a perceptual loss compared on."""

    folder: Path
    lines: list[dict[str, Any]]
    quality: dict[str, Quality]
    perceptual: dict[str, str]


def run(config: BenchConfig) -> Result:
    """Run what is missing of a benchmark and return all of it; each (baseline, arm, seed) is on disk as soon as it is done."""
    return _exactly(lambda: _Benchmark(config).run())


def run_shares(config: BenchConfig) -> dict[float, Result]:
    """`run` with each of `config.shares` of the training images, smallest first, generators trained on that part alone."""
    if not config.shares:
        raise ValueError("shares are the parts of the training images to learn from, e.g. shares=[0.2,0.4,0.6,0.8,1.0], got none")
    return _exactly(lambda: {share: _Benchmark(config, share).run() for share in sorted(config.shares)})


def _exactly(work: Callable[[], Any]) -> Any:
    # Fresh networks are full of denormal numbers, which make a CPU many times slower; afterwards arithmetic is exact again.
    torch.set_flush_denormal(True)
    try:
        return work()
    finally:
        torch.set_flush_denormal(False)


class _Benchmark:
    def __init__(self, config: BenchConfig, share: float | None = None) -> None:
        self.config, self.share = config, share
        # Arms, seeds and baselines are left out: adding one to a finished benchmark runs that one alone.
        said = {"rendered", "data", "test", "test_rendered", "per_image", "synthesis_seed", "rerank"}
        self.common = config.model_dump(mode="json", include=said)
        for key in ("data", "test"):
            if (asked := getattr(config, key)) is not None:
                self.common[f"contents of {key}"] = contents(asked, train_poses=key == "data")
        self.root = Path(config.out) / f"{config.name}-{configuration.digest(self.common)}"
        self.folder = self.root if share is None else self.root / f"share-{share:g}"
        self.common["share"] = share
        if share is not None:  # which images are in a part depends on it, for every arm
            self.common["pairs"] = config.wants_pairs
        self._check_twins()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = self.folder / RESULTS
        self.data = BenchmarkData(config, share, self.root, self.folder)
        self._drawn: dict[tuple[str, str], tuple[Manifest, Path]] = {}  # by source and way to draw, images and where they are
        self._kept_rows: dict[str, Tensor] = {}  # by arm, the indices of those that stay

    # What decides what: digests change with whatever decides a thing's content, and name it on disk.

    def digest(self, baseline: str, arm: str) -> str:
        """Of an arm's scores under a baseline."""
        source, _ = parted(arm)
        variant = self.config.variant(arm)
        judge = self._baseline_said(self._judge) if variant.gate is not None and variant.gate.identity is not None else None
        how = {"variant": variant.model_dump(mode="json", exclude_defaults=True), "judge": judge, "baseline": self._baseline_said(baseline)}
        return configuration.digest({**self.common, "source": source, "generator": self._generator_said(source), **how})

    def _generator_said(self, source: str) -> dict[str, Any] | None:
        own = self.config.generators.get(source)
        if own is None:
            return None
        said = own.model_dump(mode="json", exclude={"sample_every_steps", "save_every_steps"})
        said = {key: value for key, value in said.items() if value or key not in LATER}
        if own.checkpoint is not None:
            said["checkpoint"] = read_header(own.checkpoint)["digest"]
        return {**said, "judge": self._baseline_said(self._judge) if own.perceptual.weights == BASELINE else None}

    def _baseline_said(self, name: str) -> dict[str, Any]:
        said = self.config.trained[name].model_dump(mode="json", exclude={"recipe", "download", "compile", "weights"})
        return {**said, "start": self._starts[name][1]}

    def _check_twins(self) -> None:
        """ValueError when two trainings are one under two names: lines of results could not be told apart."""
        known: dict[str, tuple[str, str]] = {}
        for one in ((baseline, arm) for baseline in self.config.trained for arm in self.config.arms):
            other = known.setdefault(self.digest(*one), one)
            if other != one:
                what, names = ("arms", (other[1], one[1])) if other[1] != one[1] else ("baselines", (other[0], one[0]))
                raise ValueError(f"{what} {names[0]!r} and {names[1]!r} are the same: leave one of them out")

    @cached_property
    def _starts(self) -> dict[str, tuple[str, str | None]]:
        """By baseline, the weights it starts from: in words, and a digest of them."""
        starts = {name: initial_weights(config) for name, config in self.config.trained.items()}
        return {name: (start.said, tensors_digest(start.state) if start.state else None) for name, start in starts.items()}

    @property
    def _judge(self) -> str:
        """The baseline whose network, on real images alone, says who is on a synthetic one: the first."""
        return next(iter(self.config.trained))

    def place(self, what: str, source: str, **more: Any) -> Path:
        said = {**self.common, "source": source, "generator": self._generator_said(source), **more}
        return self.folder / what / f"{source}-{configuration.digest(said)}"

    def run(self) -> Result:
        images.atomic_write_text(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        done = self._lines()
        self._preflight()
        quality = {arm: self._quality(arm) for arm in self.config.drawing if self.config.quality.pairs}
        wanted = [(b, arm, seed) for b in self.config.trained for arm in self.config.arms for seed in self.config.seeds]
        for baseline, arm, seed in sorted(wanted, key=lambda one: self.config.seeds.index(one[2])):
            if (baseline, arm, seed) not in done:
                append(self.results, self._measure(baseline, arm, seed))
        lines = self._lines()
        return Result(self.folder, [lines[key] for key in wanted], quality, self._perceptual())

    def _lines(self) -> dict[tuple[str, str, int], dict[str, Any]]:
        """Finished lines of this configuration by (baseline, arm, seed)."""
        names = {self.digest(b, arm): (b, arm) for b in self.config.trained for arm in self.config.arms}
        lines = [line for line in read_results(self.results) if line["config"] in names]
        # A baseline may have been renamed since; what it is has not changed.
        return {(*names[line["config"]], line["seed"]): {**line, "baseline": names[line["config"]][0]} for line in lines}

    def _preflight(self) -> None:
        """Meet what can be wrong with the data before hours are spent on training."""
        assert len(self.data.bank)  # poses there
        for config in self.config.trained.values():
            for split in ("train", "query", "gallery"):
                if not len(self.data.real(split, config.size)):  # every image decoded
                    raise ValueError(f"a benchmark needs {split} images, and there are none")
        for arm in self.config.arms:
            if parted(arm)[0] != NONE and parted(arm)[0] != COPIES:
                self.data.rows(self.config.variant(arm).draw)
        for arm in self.config.drawing:
            asked = self.config.generators[arm]
            if asked.checkpoint is None and not self.place("generators", arm).exists() and asked.perceptual.weights != BASELINE:
                check_perceptual(asked.generator, asked.perceptual)
        if self.config.quality.pairs and self.config.drawing:
            assert self._pairs

    # Generators and what they draw.

    def checkpoint(self, arm: str) -> Path:
        """The arm's trained generator: the one it names, or one trained here."""
        asked = self.config.generators[arm]
        if asked.checkpoint is not None:
            return Path(asked.checkpoint)
        root = self.data.rendered.root if self.data.rendered is not None else self.config.data.root  # type: ignore[union-attr]
        weights = f"reid:{self._judge_file()}" if asked.perceptual.weights == BASELINE else asked.perceptual.weights
        learning = {**dict(asked), "perceptual": PerceptualConfig(weights=weights)}
        del learning["checkpoint"]
        data, out = DataConfig(root=str(root)), str(self.place("generators", arm))
        trained = train_from(TrainConfig(**learning, data=data, out=out, seed=self.config.synthesis_seed), self.data.own_people)
        if trained.stopped:
            raise KeyboardInterrupt
        return trained.checkpoint

    def synthetic(self, source: str, draw: str) -> tuple[Manifest, Path]:
        """A generator's images, or the oracle's, and where they are."""
        folder, config = self.place("images", source, draw=draw), self.config
        checkpoint = self.checkpoint(source) if source in config.generators else None
        drawn = render_arm(
            source, self.data.split("train"), self.data.bank, folder, per_image=config.per_image, seed=config.synthesis_seed,
            draw=draw, checkpoint=checkpoint, rendered=self.data.rendered,
        )  # fmt: skip
        return drawn, folder

    def _entering(self, arm: str) -> tuple[Manifest, Path, Tensor]:
        """An arm's synthetic images, where they are, and indices of the rows that stay; drawn and gated once."""
        variant = self.config.variant(arm)
        key = parted(arm)[0], variant.draw
        if key not in self._drawn:
            self._drawn[key] = self.synthetic(*key)
        manifest, folder = self._drawn[key]
        if arm not in self._kept_rows:
            kept = range(len(manifest.rows))
            if variant.gate is not None:
                manifest = self._scored(manifest, folder, variant.gate)
                self._drawn[key] = manifest, folder
                kept = gates.keep(manifest.rows, variant.gate).nonzero()[0]
            self._kept_rows[arm] = torch.as_tensor(kept)
        return manifest, folder, self._kept_rows[arm]

    def _scored(self, manifest: Manifest, folder: Path, gate: gates.GateConfig) -> Manifest:
        """The images with the scores a gate goes by; they are kept on disk, so that another gate scores nothing again."""
        reid = None if gate.identity is None else load_reid(self._judge_file(), "auto")
        return gates.score(folder, manifest, self.data.split("train"), self.data.bank, reid)

    def _training_set(self, arm: str, size: tuple[int, int]) -> TrainingSet:
        """What an arm learns from at one size of image."""
        source, _ = parted(arm)
        variant, real = self.config.variant(arm), self.data.real("train", size)
        if source == NONE or variant.online is not None:
            data = training_set(NONE, self.data.people, real, [], None)
            return data if variant.online is None else replace(data, poses=self.data.poses(size))
        if source == COPIES:
            return training_set(COPIES, self.data.people, real, self.data.rows("whole"), None, spill=self.folder)
        manifest, folder, kept = self._entering(arm)
        key = (f"images of {folder.name}", size)  # every arm's that draws so: what differs is which rows it has
        if key not in self.data.decoded:
            self.data.decoded[key] = read_rows(manifest, folder, size, spill=self.folder)
        return training_set(
            source, self.data.people, real, [manifest.rows[i] for i in kept], self.data.decoded[key], kept=kept,
            separate=variant.label == "separate", spill=self.folder,
        )  # fmt: skip

    # Baselines.

    def _measure(self, baseline: str, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm with one seed, rank the gallery, keep per-query scores, and give the line of results."""
        config = self.config.trained[baseline]
        model, seconds, data = self._trained(baseline, arm, seed)
        query, gallery = (features(model, self.data.real(split, config.size)) for split in ("query", "gallery"))
        ranking = rank_gallery(query, gallery, *self.data.who(), metric=config.metric)
        digest = self.digest(baseline, arm)
        save_scores(scores_file(self.folder, arm, digest, seed), ranking)
        return {
            "baseline": baseline, "arm": arm, "seed": seed, "config": digest,
            "rank1": float(ranking.cmc[0]), "rank5": cmc_at(ranking, 5), "rank10": cmc_at(ranking, 10),
            "map": ranking.map, "minp": ranking.minp, **self._reranked(config, query, gallery),
            "steps": config.steps, "seconds": round(seconds, 2),
            "train_images": len(data.labels), "synthetic_images": int(data.synthetic.sum()),
            "identities": len({p.pid for p in self.data.split("train")}), "queries": int(ranking.valid.sum()),
            "gallery": len(self.data.split("gallery")), "size": list(config.size), "share": self.share, "model": config.model,
            "weights": self._starts[baseline][0], "device": device_name(), "versions": versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip

    def _reranked(self, config: BaselineConfig, query: Tensor, gallery: Tensor) -> dict[str, float]:
        if not self.config.rerank:
            return {}
        from reid_aug.baselines.reranking import rerank  # brings SciPy's sparse matrices, which few benchmarks need

        ranking = rank_distances(rerank(query, gallery, metric=config.metric), *self.data.who())
        return {"reranked_rank1": float(ranking.cmc[0]), "reranked_map": ranking.map}

    def _trained(self, baseline: str, arm: str, seed: int) -> tuple[nn.Module, float, TrainingSet]:
        """One arm's network, how long it took, and what it learnt from; the judge is kept."""
        config, variant = self.config.trained[baseline], self.config.variant(arm)
        judge = (baseline, arm, seed) == (self._judge, NONE, self.config.synthesis_seed)
        data = self._training_set(arm, config.size)
        if judge and self._kept().exists():
            model, header = load_baseline(self._kept())
            return model, header["about"]["seconds"], data
        online = None
        if variant.online is not None:
            online = PoseAugmentation(load(self.checkpoint(parted(arm)[0])), self.data.bank, variant.online, seed=seed)
        began = time.perf_counter()
        model = train_baseline(config, data, seed, mixing=variant, online=online, label=f"{arm} {seed}")
        seconds = time.perf_counter() - began
        if judge:
            save_baseline(model, config, data.classes, self._kept(), seconds=seconds)
        return model, seconds, data

    def _kept(self) -> Path:
        name = f"{NONE}-{self.digest(self._judge, NONE)}.{self.config.synthesis_seed}.safetensors"
        return self.folder / "baselines" / name

    def _judge_file(self) -> Path:
        """The file of the network trained on real images alone, trained if it is not there."""
        if not self._kept().exists():
            self._trained(self._judge, NONE, self.config.synthesis_seed)
        return self._kept()

    # Image quality.

    def _quality(self, arm: str) -> Quality:
        """Image quality of a generator on held-out pairs; measured once, and again when weights that were missing have come."""
        judge = self._baseline_said(self._judge)
        asked = {**self.config.quality.model_dump(mode="json"), "weights": self._networks.there()}
        kept = self.place("quality", arm, judge=judge).with_suffix(".json")
        if kept.exists() and (known := json.loads(kept.read_text())).get("asked") == asked:
            return Quality.from_json(known)
        sheet = self.folder / "samples" / f"{arm}.png"
        protocol = self.config.quality.protocol
        batches = drawn(load(self.checkpoint(arm)), self._pairs, protocol.mask, sheet=sheet)
        found = measure(batches, protocol, self._surroundings, len(self._pairs), arm)
        images.atomic_write_text(kept, json.dumps({"asked": asked, **found.as_json()}, indent=2) + "\n")
        return found

    @cached_property
    def _pairs(self) -> list[tuple[PersonImage, PersonImage]]:
        return pairs_to_measure(self.data.own_people, self.config.quality.protocol.pairs)

    @cached_property
    def _networks(self) -> Networks:
        return Networks(download=self.config.quality.download)

    @cached_property
    def _surroundings(self) -> Surroundings:
        """What image quality is measured beside: real images, the network of the arm `none`, and the truth, where known."""
        reid = load_reid(str(self._judge_file()), self._networks.device)
        return Surroundings(self.data.own_people, self.data.generator_size, self._networks, reid=reid, rendered=self.data.rendered)

    def _perceptual(self) -> dict[str, str]:
        """What the perceptual terms of generators compared images on, for those whose papers have such terms."""
        found = {arm: read_header(self.checkpoint(arm)).get("about", {}).get("perceptual") for arm in self.config.drawing}
        return {arm: name for arm, name in found.items() if name is not None}
