"""Image quality by what is difficult about a pair."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import generators
from generators import Pose, openpose_18, upper_7
from reid_aug.cli import main
from reid_aug.data.people import PersonImage
from reid_aug.quality import run as quality_run
from reid_aug.quality.held_out import pairs_to_measure, rendered_pairs
from reid_aug.quality.networks import Networks
from reid_aug.quality.pair_facts import pair_facts, pose_distance, scale_ratio, self_occluded
from reid_aug.quality.protocols import MaskConfig, PairsConfig
from reid_aug.quality.ssim import ssim
from reid_aug.quality.strata import FACTS, Strata
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.dump import dump

SIZE = (32, 16)
STANDING = {
    "nose": (50, 10), "neck": (50, 25), "r_shoulder": (40, 25), "l_shoulder": (60, 25), "r_elbow": (30, 40), "l_elbow": (70, 40),
    "r_wrist": (25, 55), "l_wrist": (75, 55), "r_hip": (43, 60), "l_hip": (57, 60), "r_knee": (42, 80), "l_knee": (58, 80),
    "r_ankle": (41, 100), "l_ankle": (59, 100),
}  # fmt: skip


def body(dtype: torch.dtype = torch.float32, **moved: tuple[float, float] | None) -> Pose:
    xy, seen = torch.zeros(1, 18, 2, dtype=dtype), torch.zeros(1, 18, dtype=torch.bool)
    for joint, at in {**STANDING, **moved}.items():
        if at is not None:
            xy[0, openpose_18.index(joint)], seen[0, openpose_18.index(joint)] = torch.tensor(at, dtype=dtype), True
    return Pose(xy, seen, openpose_18, (120, 100))


def hidden(pose: Pose) -> set[str]:
    return {openpose_18.joints[k] for k in self_occluded(pose)[0].nonzero().flatten().tolist()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_joints_on_another_part_of_the_body(dtype: torch.dtype) -> None:
    assert hidden(body(dtype)) == set()
    assert hidden(body(dtype, r_wrist=(50, 45))) == {"r_wrist"}, "before the belly"
    assert hidden(body(dtype, r_wrist=(50, 45), l_hip=None)) == set(), "nobody knows where the torso is"
    assert hidden(body(dtype, r_wrist=(58, 75))) == {"r_wrist"}, "before the other thigh"
    assert hidden(body(dtype, l_ankle=(42, 81))) == {"l_ankle", "r_knee"}, "crossed legs"
    assert hidden(body(dtype, r_wrist=None)) == set()
    assert hidden(body(dtype, r_elbow=None, r_wrist=(31, 41))) == set(), "an arm without an elbow has no line"


def test_a_skeleton_without_hips_has_arms_alone() -> None:
    xy = torch.tensor([[[50.0, 10], [71, 41.5], [75, 55], [30, 40], [70, 40], [40, 25], [60, 25]]])
    pose = Pose(xy, torch.ones(1, 7, dtype=torch.bool), upper_7, (120, 100))
    assert [upper_7.joints[k] for k in self_occluded(pose)[0].nonzero().flatten()] == ["r_wrist", "l_elbow"]


def test_distance_and_ratio_are_of_the_joints_that_both_show() -> None:
    source = body(r_wrist=None)
    target = replace(source, xy=source.xy * 1.5 + torch.tensor([6.0, 8.0]), visible=source.visible.clone())
    target.visible[0, openpose_18.index("l_wrist")] = False
    target.visible[0, openpose_18.index("r_wrist")] = True
    shared = (source.visible & target.visible)[0]
    by_hand = np.mean([np.hypot(*(b - a)) for a, b in zip(source.xy[0][shared].numpy(), target.xy[0][shared].numpy(), strict=True)])
    assert pose_distance(source, target).item() == pytest.approx(by_hand / 120, rel=1e-6)
    assert scale_ratio(source, target).item() == pytest.approx(1.5, rel=1e-6)
    nobody = replace(source, visible=torch.zeros_like(source.visible))
    assert pose_distance(source, nobody).isnan().all() and scale_ratio(source, nobody).isnan().all()


def test_facts_of_pairs(people: list[PersonImage]) -> None:
    pairs = pairs_to_measure(people, PairsConfig(count=5))
    facts = pair_facts(pairs, SIZE)
    assert list(facts) == list(FACTS) and all(values.shape == (5,) and values.dtype == torch.float64 for values in facts.values())
    missing = [sum(int((~p.pose.visible).sum()) for p in pair if p.pose is not None) for pair in pairs]
    assert facts["missing joints"].tolist() == missing and facts["image resolution"].tolist() == [32.0] * 5
    with pytest.raises(ValueError, match=f"strata are of poses, and {pairs[0][0].name} has none"):
        pair_facts([(replace(pairs[0][0], pose=None), pairs[0][1])], SIZE)


def test_strata_of_a_checkpoint(checkpoint: Path, people: list[PersonImage], rendered: RenderedSet, tmp_path: Path) -> None:
    asked = [f"data.root={rendered.root}", "pairs.count=24", f"out={tmp_path}", "strata=true", "worst=3", "device=cpu", "batch_size=7"]
    assert main(["quality", str(checkpoint), *asked, "metrics={SSIM: {}, mask-SSIM: {}, truth: {}}"]) == 0
    (file,) = tmp_path.rglob("quality.json")
    record = json.loads(file.read_text())
    assert list(record["strata"]) == list(FACTS)
    pairs = pairs_to_measure(people, PairsConfig(count=24))
    batches = list(rendered_pairs(generators.load(checkpoint), pairs, MaskConfig(), device=torch.device("cpu")))
    scores = torch.cat([ssim(b.generated, b.target, "deformable", mask=b.mask) for b in batches if b.target is not None]).numpy()
    facts = pair_facts(pairs, SIZE)
    for fact, strata in record["strata"].items():
        assert sum(s["pairs"] for s in strata) == 24
        mean = sum(s["SSIM"]["mean"] * s["SSIM"]["count"] for s in strata) / 24
        assert mean == pytest.approx(record["values"]["SSIM"]["value"], abs=1e-6)
        where = FACTS[fact].strata(facts[fact])
        labels = [FACTS[fact].label(i) for i in where]
        for stratum in strata:
            members = [i for i in range(24) if labels[i] == stratum["stratum"]]
            assert stratum["pairs"] == len(members)
            assert stratum["mask-SSIM"]["mean"] == pytest.approx(scores[members].mean(), abs=1e-5)
            if len(members) > 1:
                assert stratum["mask-SSIM"]["error"] == pytest.approx(scores[members].std(ddof=1) / len(members) ** 0.5, abs=1e-5)
            assert stratum["worst"] == sorted(members, key=lambda i: scores[i])[:3]
    page = (file.parent / "quality.md").read_text()
    rho = spearmanr(facts["pose distance"].numpy(), scores).statistic
    assert "## By stratum" in page and f"ρ {rho:+.2f}" in page
    assert "![the worst of each stratum by mask-SSIM](worst-pose-distance.png)" in page
    strata = record["strata"]["pose distance"]
    with Image.open(file.parent / "worst-pose-distance.png") as sheet:
        assert sheet.size == (320, 4 + len(strata) * (14 + 4 * (32 + 4) + 14 + 4))
    assert (file.parent / "strata.png").is_file()


def test_what_is_measured_does_not_depend_on_strata(checkpoint: Path, rendered: RenderedSet, tmp_path: Path) -> None:
    records = []
    for strata in ("false", "true"):
        asked = [f"data.root={rendered.root}", "pairs.count=6", f"out={tmp_path / strata}", f"strata={strata}", "device=cpu"]
        assert main(["quality", str(checkpoint), *asked, "metrics={SSIM: {}}"]) == 0
        (file,) = (tmp_path / strata).rglob("quality.json")
        records.append(json.loads(file.read_text()))
        assert file.parent.name == next((tmp_path / "false").iterdir()).name
    assert "strata" not in records[0]
    records[1].pop("strata")
    assert records[0] == records[1]


def test_strata_of_a_dump(checkpoint: Path, people: list[PersonImage], networks: Networks, tmp_path: Path) -> None:
    """It has no photographs to compare with: the detector's score alone is of single images."""
    bank = PoseBank.collect((p for p in people if p.split == "train"), SIZE)
    rows = dump(people, Augmenter(generators.load(checkpoint), bank, 1, 0, device="cpu"), tmp_path / "dump").rows
    settings, _ = quality_run.load_config(None, [f"out={tmp_path}", "metrics={DS: {}, SSIM: {}, IS: {}}", "strata=true"])
    report = quality_run.run(str(tmp_path / "dump"), settings, networks=networks)
    strata = json.loads((report.folder / "quality.json").read_text())["strata"]
    for fact in strata.values():
        assert sum(s["pairs"] for s in fact) == len(rows) and all(set(s) == {"stratum", "pairs", "DS", "worst"} for s in fact)
    with Image.open(report.folder / "worst-scale-ratio.png") as sheet:
        assert sheet.size[1] == 4 + len(strata["scale ratio"]) * (14 + 3 * (32 + 4) + 14 + 4), "no photograph"


def test_metrics_of_sets_alone_have_no_strata(checkpoint: Path, rendered: RenderedSet, networks: Networks, tmp_path: Path) -> None:
    asked = [f"data.root={rendered.root}", "pairs.count=4", f"out={tmp_path}", "metrics={IS: {}}", "strata=true"]
    settings, _ = quality_run.load_config(None, asked)
    with pytest.raises(ValueError, match="strata are of metrics that score single images .* none of them is measured"):
        quality_run.run(str(checkpoint), settings, networks=networks)


def test_the_worst_of_a_distance_are_the_largest(people: list[PersonImage], checkpoint: Path) -> None:
    class Distance:
        higher_is_better = False

        def latest(self) -> dict[str, torch.Tensor]:
            return {"LPIPS": torch.tensor([0.1, 0.9, torch.nan, 0.5])}

    pairs = pairs_to_measure(people, PairsConfig(count=4))
    (batch,) = rendered_pairs(generators.load(checkpoint), pairs, MaskConfig(), device=torch.device("cpu"))
    strata = Strata(pairs, SIZE, worst=2)
    strata(batch, {"LPIPS": Distance()})  # type: ignore[dict-item]
    (resolution,) = strata.strata["image resolution"].values()
    assert [image.number for image in resolution.worst] == [1, 3] and resolution.label == "below 64"
    summary = {"mean": pytest.approx(0.5), "error": pytest.approx(0.2309, abs=1e-3), "count": 3}
    assert strata.as_json()["image resolution"][0]["LPIPS"] == summary
