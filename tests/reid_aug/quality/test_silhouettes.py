"""mask-SSIM inside silhouettes: the same as by limbs where silhouettes are the limbs, and refused where there are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import generators
from reid_aug.cli import main
from reid_aug.data.masks import write_mask
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import content_digest, dump_batches, pairs_to_measure, protocol_mask, rendered_pairs, silhouettes
from reid_aug.quality.measure import measure
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.protocols import MaskConfig, PairsConfig, QualityProtocol
from reid_aug.quality.ssim import ssim
from reid_aug.quality.surroundings import Surroundings
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.manifest import SyntheticRow

SIZE = (32, 16)
NAME = "mask-SSIM-silhouette"
BOTH = QualityProtocol.model_validate({"metrics": {"SSIM": {}, "mask-SSIM": {}, NAME: {}}})


@pytest.fixture
def pairs(masked: list[PersonImage]) -> list[tuple[PersonImage, PersonImage]]:
    return pairs_to_measure(masked, PairsConfig(count=12))


def batches(model: generators.Generator, pairs: list[tuple[PersonImage, PersonImage]]) -> list[Batch]:
    return list(rendered_pairs(model, pairs, MaskConfig(), device=torch.device("cpu"), batch_size=5))


def beside(people: list[PersonImage]) -> Surroundings:
    return Surroundings(people, SIZE, Networks(download=False, device="cpu"))


def test_it_is_ssim_inside_the_targets_silhouette_where_that_is_known(
    masked: list[PersonImage], pairs: list[tuple[PersonImage, PersonImage]], checkpoint: Path, rendered: RenderedSet
) -> None:
    made = batches(generators.load(checkpoint), pairs)
    value = measure(made, BOTH, beside(masked)).values[NAME]
    known = [i for i, (_, target) in enumerate(pairs) if target.mask]
    assert 0 < len(known) < len(pairs) and value.count == len(known)
    body = torch.stack([torch.from_numpy(rendered.truth(pairs[i][1].name).body_mask) for i in known])
    generated, target = (torch.cat([getattr(batch, part) for batch in made])[known] for part in ("generated", "target"))
    assert value.value == pytest.approx(float(ssim(generated, target, mask=body).mean()), abs=1e-5)
    assert "black outside the target's silhouette" in value.how


def test_silhouettes_of_limbs_give_mask_ssim(people: list[PersonImage], checkpoint: Path, tmp_path: Path) -> None:
    pairs = pairs_to_measure(people, PairsConfig(count=6))
    masked = []
    for source, target in pairs:
        assert target.pose is not None
        write_mask(tmp_path, target.name, protocol_mask(target.pose[None])[0, 0].float())
        masked.append((source, replace(target, mask=str(tmp_path / f"{target.name}.png"))))
    values = measure(batches(generators.load(checkpoint), masked), BOTH, beside([t for _, t in masked])).values
    assert values[NAME].value == values["mask-SSIM"].value and values[NAME].count == 6


def test_without_silhouettes_it_says_what_to_do(people: list[PersonImage], checkpoint: Path) -> None:
    quality = measure(batches(generators.load(checkpoint), pairs_to_measure(people, PairsConfig(count=3))), BOTH, beside(people))
    what_to_do = "give data.masks=DIR, from reid-aug poses --masks DIR"
    assert quality.missing == {NAME: f"it compares inside silhouettes, and there are none: {what_to_do}"}
    assert NAME not in QualityProtocol().metrics, "it is measured where it is named, or earlier reports would have other names"


def test_a_dumps_images_have_no_photograph_to_compare_with(masked: list[PersonImage], tmp_path: Path, rendered: RenderedSet) -> None:
    source = next(p for p in masked if p.split == "train" and p.mask)
    (tmp_path / "a.jpg").write_bytes(Path(source.path).read_bytes())
    row = SyntheticRow("a.jpg", source.name, source.name, source.pid, source.camid, 0)
    (batch,) = dump_batches(tmp_path, [row], masked, SIZE, MaskConfig())
    assert batch.silhouette is not None
    assert torch.equal(batch.silhouette[0, 0], torch.from_numpy(rendered.truth(source.name).body_mask).bool())
    assert "no photograph" in measure([batch], BOTH, beside(masked)).missing[NAME]


def test_generators_are_given_them_and_folders_told_apart(masked: list[PersonImage], pairs: list[tuple[PersonImage, PersonImage]]) -> None:
    torch.manual_seed(0)
    model = generators.create("warpblend", size=SIZE, width=4)
    bare = [(replace(s, mask=None), replace(t, mask=None)) for s, t in pairs]
    plain, known = (torch.cat([batch.generated for batch in batches(model, each)]) for each in (bare, pairs))
    differ = (plain != known).flatten(1).any(1)
    assert differ.any() and not any(differ[i] for i, (s, t) in enumerate(pairs) if not (s.mask or t.mask))
    assert content_digest(pairs) != content_digest(bare)
    assert silhouettes([t for _, t in bare], SIZE) is None and all(batch.silhouette is None for batch in batches(model, bare))


def test_the_command_measures_it_by_name(rendered: RenderedSet, masks: Path, checkpoint: Path, tmp_path: Path) -> None:
    settings = [f"data.root={rendered.root}", "pairs.count=4", "metrics={SSIM: {}, mask-SSIM-silhouette: {}}", f"out={tmp_path}"]
    assert main(["quality", str(checkpoint), *settings, f"data.masks={masks}"]) == 0
    assert main(["quality", str(checkpoint), *settings]) == 0
    pages = [page.read_text(encoding="utf-8") for page in tmp_path.glob("*/quality.md")]
    assert len(pages) == 2 and sum("give data.masks=DIR" in page for page in pages) == 1
