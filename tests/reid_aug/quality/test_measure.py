"""Image quality as a whole: one pass, named definitions, missing weights said, broken input refused."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import generators
from reid_aug import images
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import pairs_to_measure, rendered_pairs
from reid_aug.quality.measure import Quality, measure
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.protocols import MaskConfig, PairsConfig, QualityProtocol
from reid_aug.quality.ssim import ssim
from reid_aug.quality.surroundings import Surroundings
from reid_aug.quality.tables import table
from reid_aug.quality.truth import LIMBS

SIZE = (32, 16)
# A network that is fine-tuned for two steps knows nobody; that one is, is what matters here.
EVERYTHING = QualityProtocol.model_validate({"metrics": {name: {} for name in QualityProtocol().metrics} | {"APS": {"steps": 2}}})


def permuted(batch: Batch, order: Tensor) -> Batch:
    def pick(values: Sequence) -> list:
        return [values[i] for i in order.tolist()]

    assert batch.target is not None
    return Batch(
        batch.generated[order], batch.source[order], batch.target[order], batch.target_pose[order], batch.mask[order],
        pick(batch.names), pick(batch.pids), pick(batch.camids), pick(batch.files),
    )  # fmt: skip


class TestMeasure:
    def test_every_metric_has_a_number_and_a_definition(self, batches: list[Batch], surroundings: Surroundings) -> None:
        quality = measure(batches, EVERYTHING, surroundings)
        assert not quality.missing and quality.images == 24
        names = {
            "SSIM", "mask-SSIM", "LPIPS", "mask-LPIPS", "IS", "mask-IS", "FID", "KID", "DS", "PCKh", "identity rank-1", "ID²", "APS",
            "Re-ID Fréchet", "truth PSNR", "truth SSIM", "ΔE upper", "ΔE lower",
        }  # fmt: skip
        assert names <= quality.values.keys()
        assert {f"truth PSNR of {limb}" for limb in LIMBS} <= quality.values.keys()
        for name, value in quality.values.items():
            assert math.isfinite(value.value) and value.how and 0 < value.count <= 24, name
        assert Quality.from_json(json.loads(json.dumps(quality.as_json()))) == quality

    def test_numbers_are_those_of_the_functions(
        self, batches: list[Batch], whole: Batch, networks: Networks, surroundings: Surroundings
    ) -> None:
        values = measure(batches, EVERYTHING, surroundings).values
        assert whole.target is not None
        assert values["SSIM"].value == pytest.approx(float(ssim(whole.generated, whole.target).mean()), abs=2e-6)
        assert values["mask-SSIM"].value == pytest.approx(float(ssim(whole.generated, whole.target, mask=whole.mask).mean()), abs=2e-6)
        assert values["DS"].value == pytest.approx(float(networks.detector("any")(whole.generated).mean()))
        masked = networks.lpips(whole.generated * whole.mask, whole.target * whole.mask)
        assert values["mask-LPIPS"].value == pytest.approx(float(masked.mean()))

    def test_neither_order_nor_batches_matter(self, batches: list[Batch], whole: Batch, surroundings: Surroundings) -> None:
        metrics = {name: metric for name, metric in EVERYTHING.metrics.items() if name != "APS"}  # trains a network
        protocol = EVERYTHING.model_copy(update={"metrics": metrics})
        first = measure(batches, protocol, surroundings)
        order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
        second = measure([permuted(whole, part) for part in order.split(10)], protocol, surroundings)
        assert first.values.keys() == second.values.keys()
        for name, value in first.values.items():
            assert second.values[name].value == pytest.approx(value.value, rel=1e-5, abs=1e-7), name

    def test_photographs_themselves_are_perfect(self, batches: list[Batch], surroundings: Surroundings) -> None:
        perfect = [replace(b, generated=b.target, cache={}) for b in batches if b.target is not None]
        values = measure(perfect, EVERYTHING, surroundings).values
        assert [values[name].value for name in ("SSIM", "mask-SSIM")] == pytest.approx([1.0, 1.0])
        assert values["LPIPS"].value == values["mask-LPIPS"].value == 0.0

    @pytest.mark.parametrize("in_scene", [False, True])
    def test_the_truth_itself_is_perfect(self, batches: list[Batch], surroundings: Surroundings, in_scene: bool) -> None:
        true = [
            replace(b, generated=surroundings.truth(b.names, in_scene).images, scene_camids=b.camids if in_scene else None, cache={})
            for b in batches
        ]
        values = measure(true, EVERYTHING, surroundings).values
        assert values["truth PSNR"].value == pytest.approx(10 * math.log10(255**2 * 12))
        assert values["truth SSIM"].value == pytest.approx(1.0) and values["ΔE upper"].value == values["ΔE lower"].value == 0.0

    def test_real_images_against_themselves(self, people: list[PersonImage], surroundings: Surroundings, whole: Batch) -> None:
        real = [images.read(p.path, SIZE) for p in people if p.split == "train"]
        pixels = torch.from_numpy(np.stack(real)).permute(0, 3, 1, 2)
        pick = torch.arange(len(pixels)) % 24
        batch = replace(permuted(whole, pick), generated=pixels)
        values = measure([batch], EVERYTHING, surroundings).values
        assert values["FID"].value == pytest.approx(0.0, abs=1e-6) and values["Re-ID Fréchet"].value == pytest.approx(0.0, abs=1e-6)

    def test_what_is_missing_is_said_and_the_rest_measured(
        self, batches: list[Batch], people: list[PersonImage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
        surroundings = Surroundings(people, SIZE, Networks(download=False, device="cpu"))
        quality = measure(batches, EVERYTHING, surroundings)
        assert quality.values.keys() == {"SSIM", "mask-SSIM"}
        for name in ("LPIPS", "mask-LPIPS", "IS", "mask-IS", "FID", "KID", "DS", "PCKh"):
            assert quality.missing[name].startswith("weights missing: ") and "https://" in quality.missing[name]
            assert str(tmp_path) not in quality.missing[name]  # a record says what, not where
        for name in ("identity", "APS", "Re-ID Fréchet"):
            assert "no Re-ID network given" in quality.missing[name]
        assert "rendered people only" in quality.missing["truth"]
        text = table({"pg2": quality})
        assert text.count("not measured") == len(quality.missing) and "alexnet" in text

    def test_unpaired_images_have_no_photograph(self, checkpoint: Path, people: list[PersonImage], surroundings: Surroundings) -> None:
        pairs = pairs_to_measure(people, PairsConfig(kind="unpaired", count=12))
        assert all(a.pid != b.pid for a, b in pairs)
        quality = measure(rendered_pairs(generators.load(checkpoint), pairs, MaskConfig()), EVERYTHING, surroundings)
        assert "no photograph" in quality.missing["SSIM"] and {"IS", "FID", "APS", "truth PSNR"} <= quality.values.keys()

    def test_a_mask_without_a_body_is_named(self, batches: list[Batch], surroundings: Surroundings) -> None:
        mask = batches[0].mask.clone()
        mask[2] = False
        for metric in ("mask-SSIM", "mask-IS", "mask-LPIPS"):
            protocol = QualityProtocol(metrics={metric: EVERYTHING.metrics[metric]})
            with pytest.raises(ValueError, match=f"the mask of {batches[0].names[2][1]} holds no body"):
                measure([replace(batches[0], mask=mask, cache={})], protocol, surroundings)

    def test_nothing_to_measure(self, surroundings: Surroundings) -> None:
        with pytest.raises(ValueError, match="no generated image"):
            measure([], EVERYTHING, surroundings)
