"""A benchmark's synthetic images: the generators that render them, the gates they pass, and what every arm trains on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from generators import load
from reid_aug.baselines.network import load_reid
from reid_aug.baselines.training import TrainingSet
from reid_aug.bench.arms import COPIES, NONE, origin_and_variants, read_rows, render_arm, training_set
from reid_aug.bench.config import BASELINE
from reid_aug.bench.data import BenchmarkData
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.variants import Variant
from reid_aug.data.loading import DataConfig
from reid_aug.synthesis import gates
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.manifest import Manifest
from reid_aug.synthesis.online import PoseAugmentation
from reid_aug.synthesis.train import PerceptualConfig, TrainConfig, check_perceptual, check_teacher, train_from


class GatedImages(NamedTuple):
    """An arm's synthetic images, the folder they are in, and the indices (N,) of the rows that its gate lets in."""

    manifest: Manifest
    folder: Path
    kept: Tensor


class SyntheticImages:
    """The synthetic images of a benchmark's arms: rendered, gated and decoded once, on disk and in memory.

    `judge_file` gives the Re-ID network's file for gates and perceptual losses, and trains it first where it is not there.
    """

    def __init__(self, fingerprints: Fingerprints, data: BenchmarkData, judge_file: Callable[[], Path]) -> None:
        self.config, self.fingerprints, self.data, self.judge_file = fingerprints.config, fingerprints, data, judge_file
        self._rendered: dict[Path, Manifest] = {}  # by folder
        self._kept: dict[str, Tensor] = {}  # by arm

    def training_set(self, arm: str, size: tuple[int, int]) -> TrainingSet:
        """Put together what an arm learns from, in images of one size."""
        origin, _ = origin_and_variants(arm)
        variant, real = self.config.variant(arm), self.data.real("train", size)
        if origin == NONE or variant.online is not None:
            data = training_set(NONE, self.data.people, real, [], None)
            return data if variant.online is None else replace(data, poses=self.data.poses(size))
        if origin == COPIES and self.fingerprints.targets(arm) is None:
            return training_set(COPIES, self.data.people, real, self.data.rows("whole"), None, spill=self.fingerprints.folder)
        manifest, folder, kept = self.gated(arm)
        return training_set(
            origin, self.data.people, real, [manifest.rows[i] for i in kept], self._decoded(manifest, folder, size), kept=kept,
            separate=variant.label == "separate", spill=self.fingerprints.folder,
        )  # fmt: skip

    def _decoded(self, manifest: Manifest, folder: Path, size: tuple[int, int]) -> Tensor:
        """Decode all images of a folder once: arms that share it differ in which rows they take."""
        key = (f"images of {folder.name}", size)
        if key not in self.data.decoded:
            self.data.decoded[key] = read_rows(manifest, folder, size, spill=self.fingerprints.folder)
        return self.data.decoded[key]

    def gated(self, arm: str) -> GatedImages:
        """Render an arm's images and put them through its gate, each once."""
        variant = self.config.variant(arm)
        folder = self.fingerprints.images_place(arm)
        if folder not in self._rendered:
            self._rendered[folder] = self._render(arm, folder)
        manifest = self._rendered[folder]
        if arm not in self._kept:
            kept = range(len(manifest.rows))
            if variant.gate is not None:
                bank = self.data.bank_at(self.data.sizes.of(origin_and_variants(arm)[0]))
                self._rendered[folder] = manifest = self._scored(manifest, folder, variant.gate, bank)
                kept = gates.keep(manifest.rows, variant.gate).nonzero()[0]
            self._kept[arm] = torch.as_tensor(kept)
        return GatedImages(manifest, folder, self._kept[arm])

    def _render(self, arm: str, folder: Path) -> Manifest:
        """Render the images of a generator, or of the oracle."""
        origin, shown = origin_and_variants(arm)[0], self.fingerprints.targets(arm)
        assert shown is not None
        checkpoint = self.checkpoint(origin) if origin in self.config.generators else None
        return render_arm(
            origin, self.data.of_split("train"), self.data.bank_at(self.data.sizes.of(origin)), folder, per_image=self.config.per_image,
            seed=self.config.synthesis_seed, draw=shown.draw, checkpoint=checkpoint, rendered=self.data.rendered, scene=shown.scene,
            drawn_from=self.data.bank,
        )  # fmt: skip

    def _scored(self, manifest: Manifest, folder: Path, gate: gates.GateConfig, bank: PoseBank) -> Manifest:
        """Add the scores that a gate goes by; they are kept on disk, so that another gate scores nothing again."""
        reid = None if gate.identity is None else load_reid(self.judge_file(), "auto")
        return gates.score(folder, manifest, self.data.of_split("train"), bank, reid, self.config.backend)

    def checkpoint(self, name: str) -> Path:
        """Give a generator's checkpoint: the one that the configuration names, or one trained here, once."""
        arm = self.config.generators[name]
        if arm.checkpoint is not None:
            return Path(arm.checkpoint)
        root = self.data.rendered.root if self.data.rendered is not None else self.config.data.root  # type: ignore[union-attr]
        weights = f"reid:{self.judge_file()}" if arm.perceptual.weights == BASELINE else arm.perceptual.weights
        learning = {**dict(arm), "perceptual": PerceptualConfig(weights=weights)}
        del learning["checkpoint"]
        data, out = DataConfig(root=str(root)), str(self.fingerprints.place("generators", name))
        trained = train_from(TrainConfig(**learning, data=data, out=out, seed=self.config.synthesis_seed), self.data.home_people)
        if trained.stopped:
            raise KeyboardInterrupt
        return trained.checkpoint

    def check_weights(self) -> None:
        """Raise FileNotFoundError or ValueError for weights that the training of a generator would miss hours later."""
        for name in self.config.generators_used:
            arm = self.config.generators[name]
            trained = arm.checkpoint is not None or self.fingerprints.place("generators", name).exists()
            if trained:
                continue
            try:
                check_teacher(arm.generator, arm.teacher)
                if arm.perceptual.weights != BASELINE:
                    check_perceptual(arm.generator, arm.perceptual)
            except (FileNotFoundError, ValueError) as error:  # options have a place of their own here
                said = str(error)
                for option in ("perceptual.weights=", "teacher="):
                    said = said.replace(option, f"generators.{name}.{option}")
                raise type(error)(said) from None

    def online(self, arm: str, seed: int, variant: Variant) -> PoseAugmentation | None:
        """Give what renders an arm's images batch by batch, as its `variant` says; None for arms whose images are on disk."""
        if variant.online is None:
            return None
        model = load(self.checkpoint(origin_and_variants(arm)[0]))
        return PoseAugmentation(model, self.data.bank, variant.online, seed=seed, draw=variant.draw)
