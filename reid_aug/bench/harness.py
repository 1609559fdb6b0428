"""The benchmark: arms × seeds of a Re-ID baseline, one line of results.jsonl each; the report is a view of that file."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, PositiveInt, model_validator
from torch import Tensor

from generators import create, load
from generators import names as generator_names
from generators.registry import nearest, read_header
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.augmenter import plan
from reid_aug.bank import PoseBank
from reid_aug.bench.arms import COPIES, ERASING, NONE, ORACLE, draw_arm, parted, read_rows, training_set
from reid_aug.bench.baseline import BaselineConfig, TrainingSet, features, load_baseline, save_baseline, train_baseline
from reid_aug.bench.held_out import drawn, pairs_to_measure
from reid_aug.bench.networks import Networks
from reid_aug.bench.protocols import QualityConfig
from reid_aug.bench.quality import Quality, Surroundings, load_reid, measure
from reid_aug.bench.ranking import Ranking, rank_gallery
from reid_aug.config import Config, DataConfig, GeneratorConfig, PerceptualConfig, TrainConfig
from reid_aug.loading import load_people
from reid_aug.manifest import Manifest, SyntheticRow
from reid_aug.people import PersonImage
from reid_aug.rendered import RenderedConfig, RenderedSet, write_rendered
from reid_aug.train import check_perceptual, train_from

RESULTS = "results.jsonl"
BASELINE = "reid:baseline"


class GeneratorArm(Config):
    """One generator arm: how its generator is trained, or the checkpoint of one that is."""

    generator: GeneratorConfig = GeneratorConfig()
    steps: PositiveInt | None = None  # default: the paper's schedule
    batch_size: PositiveInt = 16
    flip: bool = True
    precision: str = "32-true"
    cross_camera: Literal["any", "prefer"] = "any"
    perceptual: PerceptualConfig = PerceptualConfig()  # "reid:baseline" is the network of the arm `none`, trained first
    sample_every_steps: PositiveInt = 1000
    save_every_steps: PositiveInt = 200
    checkpoint: str | None = None


class BenchConfig(Config):
    """A benchmark: one data set (rendered, or a folder's), arms, seeds, generators and the baseline all arms share."""

    name: str = "rendered"
    out: str = "runs"
    rendered: dict[str, Any] | None = None  # options of the rendered data set
    data: DataConfig | None = None  # or real images
    arms: tuple[str, ...] = (NONE, COPIES, "pg2", ORACLE)
    seeds: tuple[int, ...] = (0, 1, 2)
    per_image: PositiveInt = 2
    synthesis_seed: int = 0
    generators: dict[str, GeneratorArm] = Field(default_factory=dict)
    baseline: BaselineConfig = BaselineConfig()
    quality: QualityConfig = QualityConfig()
    record: str | None = None  # a JSON file to keep the table in

    @model_validator(mode="after")
    def _consistent(self) -> BenchConfig:
        if (self.rendered is None) == (self.data is None):
            raise ValueError("a benchmark runs on either `rendered` or `data`")
        known = [NONE, COPIES, *self.generators, *([ORACLE] if self.rendered is not None else [])]
        known += [ERASING, *(f"{arm}+{ERASING}" for arm in known[1:])]
        for arm in self.arms:
            if arm not in known:
                raise ValueError(f"no arm named {arm!r}; there are {', '.join(known)}{nearest(arm, known)}")
        if NONE not in self.arms or len(set(self.arms)) != len(self.arms) or not self.seeds:
            raise ValueError("arms are different, 'none' is one of them, and there is at least one seed")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds are different")
        return self


@dataclass(frozen=True, eq=False)
class Result:
    """A finished benchmark: its folder, its lines, and by arm image quality and what a perceptual loss compared on."""

    folder: Path
    lines: list[dict[str, Any]]
    quality: dict[str, Quality]
    perceptual: dict[str, str]


def run(config: BenchConfig) -> Result:
    """Run what is missing of a benchmark and return all of it; each (arm, seed) is on disk as soon as it is done."""
    # Fresh networks are full of denormal numbers, which make a CPU many times slower; afterwards arithmetic is exact again.
    torch.set_flush_denormal(True)
    try:
        return _Benchmark(config).run()
    finally:
        torch.set_flush_denormal(False)


class _Benchmark:
    def __init__(self, config: BenchConfig) -> None:
        self.config = config
        # Arms and seeds are left out: adding one to a finished benchmark runs that one alone.
        self.common = config.model_dump(mode="json", include={"rendered", "data", "per_image", "synthesis_seed", "baseline"})
        if config.data is not None:
            self.common["contents"] = _contents(self.people, config.data)
        self.folder = Path(config.out) / f"{config.name}-{configuration.digest(self.common)}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.results = self.folder / RESULTS

    def digest(self, arm: str) -> str:
        """Changes with whatever decides the arm's scores."""
        own = self.config.generators.get(parted(arm)[0])
        said = None if own is None else own.model_dump(mode="json", exclude={"sample_every_steps", "save_every_steps"})
        if said is not None and said["checkpoint"] is not None:
            said["checkpoint"] = read_header(said["checkpoint"])["digest"]
        return configuration.digest({**self.common, "arm": arm, "generator": said})

    def place(self, what: str, arm: str) -> Path:
        return self.folder / what / f"{arm}-{self.digest(arm)}"

    def run(self) -> Result:
        images.atomic_write_text(self.folder / "config.json", self.config.model_dump_json(indent=2) + "\n")
        done = self._lines()
        self._preflight()
        quality = {arm: self._quality(arm) for arm in self._drawing if self.config.quality.pairs}
        for seed in self.config.seeds:
            for arm in self.config.arms:
                if (arm, seed) not in done:
                    _append(self.results, self._measure(arm, seed))
        lines = self._lines()
        wanted = [(arm, seed) for arm in self.config.arms for seed in self.config.seeds]
        return Result(self.folder, [lines[key] for key in wanted], quality, self._perceptual())

    def _lines(self) -> dict[tuple[str, int], dict[str, Any]]:
        """Finished lines of this configuration by (arm, seed)."""
        arms = set(self.config.arms)
        lines = [line for line in read_results(self.results) if line["arm"] in arms and line["config"] == self.digest(line["arm"])]
        return {(line["arm"], line["seed"]): line for line in lines}

    def _preflight(self) -> None:
        """Meet what can be wrong with the data before hours are spent on training."""
        assert len(self.bank) and len(self._real)  # poses there, every image decoded
        for arm in self._drawing:
            asked = self.config.generators[arm]
            if asked.checkpoint is None and not self.place("generators", arm).exists() and asked.perceptual.weights != BASELINE:
                check_perceptual(asked.generator, asked.perceptual)
        if self.config.quality.pairs and self._drawing:
            assert self._pairs

    @property
    def _drawing(self) -> list[str]:
        """The generators whose images some arm trains on."""
        wanted = {parted(arm)[0] for arm in self.config.arms}
        return [arm for arm in self.config.generators if arm in wanted]

    @cached_property
    def rendered(self) -> RenderedSet | None:
        if self.config.rendered is None:
            return None
        options = RenderedConfig(**self.config.rendered)
        return write_rendered(self.folder / "data", options, progress=True)

    @cached_property
    def people(self) -> list[PersonImage]:
        data = self.config.data or DataConfig(root=str(self.rendered.root if self.rendered else ""))
        assert data is not None
        return load_people(data, test_poses=True)

    @cached_property
    def bank(self) -> PoseBank:
        return PoseBank.collect((p for p in self.people if p.split == "train"), self._generator_size())

    def _generator_size(self) -> tuple[int, int]:
        with torch.device("meta"):  # a paper's own size is its constructor's; shapes alone, no weights
            made = [create(arm.generator.name, **arm.generator.options) for arm in self.config.generators.values()]
        sizes = {tuple(model.size) for model in made}
        if self.rendered is not None:
            sizes.add(tuple(self.rendered.config.size))
        if len(sizes) > 1:
            raise ValueError(f"every generator of a benchmark draws one size, and rendered people have it too, got {sorted(sizes)}")
        height, width = sizes.pop() if sizes else self.config.baseline.size
        return height, width

    @cached_property
    def rows(self) -> list[SyntheticRow]:
        train = [p for p in self.people if p.split == "train"]
        return plan(train, self.bank, self.config.per_image, self.config.synthesis_seed)

    def checkpoint(self, arm: str) -> Path:
        """The arm's trained generator: the one it names, or one trained here."""
        asked = self.config.generators[arm]
        if asked.checkpoint is not None:
            return Path(asked.checkpoint)
        root = self.rendered.root if self.rendered is not None else self.config.data.root  # type: ignore[union-attr]
        weights = asked.perceptual.weights
        if weights == BASELINE:
            self._trained(NONE, self.config.synthesis_seed)
            weights = f"reid:{self._kept()}"
        trained = train_from(
            TrainConfig(
                generator=asked.generator, data=DataConfig(root=str(root)), out=str(self.place("generators", arm)),
                steps=asked.steps, batch_size=asked.batch_size, flip=asked.flip, precision=asked.precision,
                cross_camera=asked.cross_camera, perceptual=PerceptualConfig(weights=weights), sample_every_steps=asked.sample_every_steps,
                save_every_steps=asked.save_every_steps, seed=self.config.synthesis_seed,
            ),
            self.people,
        )  # fmt: skip
        if trained.stopped:
            raise KeyboardInterrupt
        return trained.checkpoint

    def synthetic(self, arm: str) -> Manifest:
        folder, config = self.place("images", arm), self.config
        checkpoint = self.checkpoint(arm) if arm in config.generators else None
        return draw_arm(
            arm, self.people, self.bank, folder, per_image=config.per_image, seed=config.synthesis_seed,
            checkpoint=checkpoint, rendered=self.rendered,
        )  # fmt: skip

    def _pixels(self, split: str) -> Tensor:
        return images.read_many([p.path for p in self.people if p.split == split], self.config.baseline.size)

    @cached_property
    def _real(self) -> dict[str, Tensor]:
        return {split: self._pixels(split) for split in ("train", "query", "gallery")}

    def _measure(self, arm: str, seed: int) -> dict[str, Any]:
        """Train one arm with one seed, rank the gallery, keep per-query scores, and give the line of results."""
        config = self.config
        model, seconds, data = self._trained(arm, seed)
        ranking = self._rank(model)
        save_scores(scores_file(self.folder, arm, self.digest(arm), seed), ranking)
        return {
            "arm": arm, "seed": seed, "config": self.digest(arm),
            "rank1": float(ranking.cmc[0]), "rank5": _cmc(ranking, 5), "rank10": _cmc(ranking, 10),
            "map": ranking.map, "minp": ranking.minp, "steps": config.baseline.steps, "seconds": round(seconds, 2),
            "train_images": len(data.labels), "synthetic_images": len(data.labels) - len(self._real["train"]),
            "identities": data.classes, "queries": int(ranking.valid.sum()), "gallery": len(self._real["gallery"]),
            "model": config.baseline.model, "pretrained": False, "device": _device(), "versions": _versions(),
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        }  # fmt: skip

    def _trained(self, arm: str, seed: int) -> tuple[torch.nn.Module, float, TrainingSet]:
        """One arm's network, how long it took, and what it learnt from; the one that others compare images on is kept."""
        drawn_by, erased = parted(arm)
        synthetic = self._cached(drawn_by, self.config.baseline.size) if drawn_by not in (NONE, COPIES) else None
        data = training_set(drawn_by, self.people, self._real["train"], self.rows, synthetic)
        config = self.config.baseline
        if erased:
            config = config.model_copy(update={"erasing": config.erasing or 0.5})
        keep = arm == NONE and seed == self.config.synthesis_seed
        if keep and self._kept().exists():
            model, header = load_baseline(self._kept())
            return model, header["about"]["seconds"], data
        began = time.perf_counter()
        model = train_baseline(config, data, seed, label=f"{arm} {seed}")
        seconds = time.perf_counter() - began
        if keep:
            save_baseline(model, self.config.baseline, data.classes, self._kept(), seconds=seconds)
        return model, seconds, data

    def _kept(self) -> Path:
        return self.place("baselines", NONE).with_suffix(f".{self.config.synthesis_seed}.safetensors")

    def _cached(self, arm: str, size: tuple[int, int]) -> Tensor:
        if arm not in self._synthetic:
            self._synthetic[arm] = read_rows(self.synthetic(arm), self.place("images", arm), size)
        return self._synthetic[arm]

    @cached_property
    def _synthetic(self) -> dict[str, Tensor]:
        return {}

    def _rank(self, model: torch.nn.Module) -> Ranking:
        query, gallery = ([p for p in self.people if p.split == split] for split in ("query", "gallery"))
        return rank_gallery(
            features(model, self._real["query"]), features(model, self._real["gallery"]),
            [p.pid for p in query], [p.pid for p in gallery], [p.camid for p in query], [p.camid for p in gallery],
        )  # fmt: skip

    def _quality(self, arm: str) -> Quality:
        """Image quality of a generator arm on held-out pairs; measured once, and again when weights that were missing have come."""
        asked = {**self.config.quality.model_dump(mode="json"), "weights": self._networks.there()}
        kept = self.place("quality", arm).with_suffix(".json")
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
        return pairs_to_measure(self.people, self.config.quality.protocol.pairs)

    @cached_property
    def _networks(self) -> Networks:
        return Networks(download=self.config.quality.download)

    @cached_property
    def _surroundings(self) -> Surroundings:
        """What image quality is measured beside: real images, the network of the arm `none`, and the truth, where known."""
        if not self._kept().exists():
            self._trained(NONE, self.config.synthesis_seed)
        reid = load_reid(str(self._kept()), self._networks.device)
        return Surroundings(self.people, self._generator_size(), self._networks, reid=reid, rendered=self.rendered)

    def _perceptual(self) -> dict[str, str]:
        """What the perceptual terms of generator arms compared images on, for those whose papers have such terms."""
        found = {arm: read_header(self.checkpoint(arm)).get("about", {}).get("perceptual") for arm in self._drawing}
        return {arm: name for arm, name in found.items() if name is not None}


def _cmc(ranking: Ranking, rank: int) -> float:
    """CMC at a rank; a gallery shorter than it has found by its end whatever there is to find."""
    return float(ranking.cmc[min(rank, len(ranking.cmc)) - 1])


def save_scores(path: Path, ranking: Ranking) -> None:
    """Keep what paired statistics need: average precision and first correct rank of every query, and the CMC."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")  # ends in .npz, which numpy would add otherwise
    np.savez_compressed(temporary, ap=ranking.ap, first_rank=ranking.first_rank, inp=ranking.inp, valid=ranking.valid, cmc=ranking.cmc)
    os.replace(temporary, path)


def _append(path: Path, line: dict[str, Any]) -> None:
    """Add a line and see it to the disk; a beginning that a killed run left is ended first."""
    with open(path, "a+b") as file:
        file.seek(0, os.SEEK_END)
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                file.write(b"\n")
        file.write(json.dumps(line).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def scores_file(folder: Path, arm: str, digest: str, seed: int) -> Path:
    """Where the per-query scores of one line of results are."""
    return folder / "scores" / f"{arm}-{digest}-{seed}.npz"


def read_results(path: Path) -> list[dict[str, Any]]:
    """The whole lines of results.jsonl whose per-query scores are there too; a torn last line is passed over."""

    def whole() -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        for text in path.read_text(errors="replace").splitlines():
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and scores_file(path.parent, line["arm"], line["config"], line["seed"]).exists():
                yield line

    return list(whole())


def _contents(people: Sequence[PersonImage], data: DataConfig) -> str:
    """Changes when images come, go or are replaced, or their poses do: a path alone does not say what is there."""
    said = [(p.split, p.name, os.path.getsize(p.path), p.pose and p.pose.xy.tolist()) for p in people]
    return configuration.digest({"people": said, "on_bad_image": data.on_bad_image})


def _device() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{cpu_name()}, {torch.get_num_threads()} threads"


def cpu_name() -> str:
    """The processor as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    from reid_aug.augmenter import package_version

    return {"reid-aug": package_version(), "python": platform.python_version()} | {
        name: version(name) for name in ("torch", "torchreid", "numpy")
    }


def load_config(path: str | None, overrides: Sequence[str]) -> BenchConfig:
    """A benchmark's configuration; unknown keys, arms and generators are refused before anything runs."""
    config = configuration.load(BenchConfig, path, overrides)
    for arm, asked in config.generators.items():
        if asked.generator.name not in generator_names():
            known = generator_names()
            hint = nearest(asked.generator.name, known)
            raise ValueError(f"arm {arm!r}: no generator named {asked.generator.name!r}; there are {', '.join(known)}{hint}")
        if asked.checkpoint is None:
            with torch.device("meta"):  # a network without memory: are its options right?
                create(asked.generator.name, **asked.generator.options)
        else:
            read_header(asked.checkpoint)
    if config.rendered is not None:
        try:
            RenderedConfig(**config.rendered)
        except TypeError as error:
            raise ValueError(f"rendered: {error}") from None
    return config
