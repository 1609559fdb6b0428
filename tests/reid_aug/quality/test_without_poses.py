"""MOMI-Net's own protocol: images alone, with and without keypoints; real sources beside it; masks where poses are known."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import generators
from generators import Pose
from reid_aug.cli import main
from reid_aug.data.people import PersonImage
from reid_aug.images import read, read_many, to_float, to_uint8
from reid_aug.quality import run as quality
from reid_aug.quality.held_out import pairs_to_measure
from reid_aug.quality.image_scores import Ssim
from reid_aug.quality.inception import InceptionScore
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.protocols import PairsConfig
from reid_aug.quality.surroundings import Surroundings
from reid_aug.rendered import RenderedSet

SIZE = (32, 16)
ROOT = Path(__file__).parents[3]
SMALL = ["pairs.count=20", "pairs.source_identities=2", "pairs.target_identities=2", "size=null", "metrics.IS.splits=2",
         "metrics.mask-IS.splits=2", "device=cpu", "download=false"]  # fmt: skip


@pytest.fixture
def measured(networks: Networks, tmp_path: Path) -> Callable[..., quality.Report]:
    def measure(target: Path | str, name: str, root: Path, *more: str) -> quality.Report:
        ask = [f"data.root={root}", f"out={tmp_path / 'out'}", *SMALL, "metrics.APS.network=reid", *more]
        settings, _ = quality.load_config(str(ROOT / f"configs/quality/{name}.yaml"), ask)
        return quality.run(str(target), settings, networks=networks)

    return measure


def test_its_protocol_asks_it_for_poses(
    momi: Path, bare: Path, rendered: RenderedSet, measured: Callable[..., quality.Report], checkpoint: Path
) -> None:
    found = measured(momi, "momi", bare)
    assert found.label == "momi" and found.quality.images == 20 and {"IS", "FID"} <= found.quality.values.keys()
    assert "no target image has a known pose" in found.quality.missing["mask-IS"]
    model, shown = generators.load(momi), sorted((found.folder / "images").iterdir())
    at = {path.stem: path for split in ("query", "bounding_box_test") for path in (bare / split).iterdir()}
    for file in shown[:4]:
        source, target = (at[part.rsplit("-", 1)[0]] for part in file.stem.split("__"))
        with torch.no_grad():
            image = model(*(to_float(read_many([source], SIZE)), None, None), scene=to_float(read_many([target], SIZE)))
        assert abs(read(file).astype(int) - to_uint8(image)[0].permute(1, 2, 0).numpy()).max() <= 1
    with_masks = measured(momi, "momi", rendered.root)
    assert with_masks.quality.values["IS"] == found.quality.values["IS"], "the same images, whatever keypoints there are"
    assert with_masks.quality.values["mask-IS"].count == 20
    given = measured(momi, "momi-given-poses", rendered.root)
    assert given.label == "momi with given poses" and given.folder != with_masks.folder
    assert given.quality.values["IS"] != found.quality.values["IS"]
    assert measured(checkpoint, "momi", rendered.root).label == "pg2"
    with pytest.raises(FileNotFoundError, match="no keypoint file"):
        measured(checkpoint, "momi", bare)


def test_real_sources_are_a_row(bare: Path, rendered: RenderedSet, measured: Callable[..., quality.Report],
                                people: list[PersonImage]) -> None:  # fmt: skip
    real = measured("real", "momi", rendered.root)
    assert real.label == "Real (source)" and real.quality.images == 20
    assert real.quality.missing.keys() == {"FID", "APS"} and "these are some" in real.quality.missing["FID"], "as the paper's table has it"
    pairs = PairsConfig(kind="unpaired", count=20, source_identities=2, target_identities=2)
    sources = [source for source, _ in pairs_to_measure(people, pairs, posed=False)]
    batch = next(quality.photographs([(s, s) for s in sources], SIZE, quality.QualityProtocol().mask))
    assert torch.equal(batch.generated, read_many([p.path for p in sources], SIZE)) and batch.target is None
    pose = Pose.stack([p.pose for p in sources if p.pose is not None])
    assert torch.equal(batch.target_pose.visible, pose.visible), "masks are of the sources' own poses"
    assert "mask-IS" in measured("real", "momi", bare).quality.missing
    with pytest.raises(ValueError, match="compares with photographs, and says nothing of photographs themselves"):
        quality.run("real", quality.load_config(None, [f"data.root={rendered.root}", "metrics={FID: {}}"])[0])


def test_masked_metrics_count_images_whose_pose_is_known(batch_of: Callable[..., Batch], surroundings: Surroundings) -> None:
    whole = batch_of(torch.randint(256, (6, 3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8))
    known = torch.tensor([True, False, True, True, False, True])
    pose = whole.target_pose
    partly = replace(whole, target_pose=replace(pose, visible=pose.visible & known[:, None]), mask=whole.mask & known[:, None, None, None],
                     cache={})  # fmt: skip
    rows = known.nonzero().flatten()
    tensors = {name: getattr(whole, name)[rows] for name in ("generated", "source", "target", "target_pose", "mask")}
    lists = {name: [getattr(whole, name)[row] for row in rows] for name in ("names", "pids", "camids", "files")}
    part = replace(whole, **tensors, **lists, cache={})
    for metric in (InceptionScore(kind="inception-score", splits=2, masked=True), Ssim(kind="ssim", masked=True)):
        values = []
        for batch in (partly, part):
            measurement = metric.start("m", surroundings)
            measurement.update(batch)
            values.append(measurement.compute().values["m"])
        assert values[0].value == pytest.approx(values[1].value, rel=1e-9) and values[0].count == values[1].count == 4
        assert values[0].how == f"{values[1].how}, where its pose is known: 4 of 6 images"
    assert whole.posed() is whole and replace(partly, target_pose=replace(pose, visible=pose.visible & False), cache={}).posed() is None


def test_a_dump_of_images_is_measured(momi: Path, bare: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "dump"
    assert main(["dump", f"checkpoint={momi}", f"data.root={bare}", f"out={dump}", "per_image=1", "device=cpu"]) == 0
    ask = ["quality", str(dump), "metrics={mask: {kind: ssim}, identity: {kind: identity}}", f"out={tmp_path / 'out'}", "download=false"]
    assert main(ask) == 0
    (file,) = (tmp_path / "out").glob("*/quality.json")
    assert json.loads(file.read_text())["images"] == 24
    capsys.readouterr()
    assert main([*ask, "poses=found"]) == 2
    assert "a dump's images are rendered already: leave out poses, got found" in capsys.readouterr().err


def test_pairs_of_all_images_or_of_posed_ones(people: list[PersonImage]) -> None:
    half = [replace(p, pose=None) if i % 2 else p for i, p in enumerate(people)]
    for kind in ("paired", "unpaired"):
        settings = PairsConfig(kind=kind, count=12)
        posed, every = (pairs_to_measure(half, settings, posed=only) for only in (True, False))
        assert all(p.pose is not None for pair in posed for p in pair) and any(p.pose is None for pair in every for p in pair)
        assert all((s.pid == t.pid) == (kind == "paired") for s, t in every)
