"""Digests: one training under two names is refused, recorded runs keep theirs, and labels and poses are contents."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from reid_aug.bench import data as bench_data
from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.run import run
from reid_aug.config import shipped
from reid_aug.data.loading import DataConfig
from reid_aug.data.masks import write_mask
from reid_aug.data.people import PersonImage

ROOT = Path(__file__).parents[3]
QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=2", "baseline.steps=2", "baseline.identities=3"]


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        (["arms=[none,erasing,none+erasing]"], "arms 'erasing' and 'none.erasing' are the same"),
        (["arms=[none,pg2+gated+erasing,pg2+erasing+gated]"], "arms 'pg2.gated.erasing' and 'pg2.erasing.gated' are the same"),
        (["arms=[none]", "baselines={a: {}, b: {}}"], "baselines 'a' and 'b' are the same"),
        (["arms=[none,pg2+half-weight,pg2+mine]", "variants.mine={weight: 0.5, label: same}"], "arms 'pg2.half-weight' and 'pg2.mine' are"),
    ],
)
def test_one_training_under_two_names_is_refused(
    overrides: list[str], complaint: str, configure: Callable[..., BenchConfig], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=complaint):
        run(configure(tmp_path, *QUICK, *overrides))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", ["reid", "pg2", "few", "rendered"])
def test_recorded_lines_are_those_of_their_configuration(name: str, tmp_path: Path) -> None:
    """A key that came later changes no digest while it is off: reports of finished runs are written again without training."""
    record = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    recorded = BenchConfig.model_validate({**record["config"], "out": str(tmp_path)})
    packaged = load_config(str(shipped(f"benchmarks/{name}.yaml")), [f"out={tmp_path}"])
    for config in (recorded, packaged):
        digest = Fingerprints(config).digest
        assert {line["config"] for line in record["lines"]} == {digest(b, arm) for b in config.baselines_by_name for arm in config.arms}
    (generator,) = packaged.generators
    for later in ({"min_gap": 0.02}, {"teacher": "keypoint-rcnn"}):
        changed = packaged.generators[generator].model_copy(update=later)
        other = Fingerprints(packaged.model_copy(update={"generators": {generator: changed}}))
        assert other.digest(other.judge, generator) != Fingerprints(packaged).digest(other.judge, generator)


def test_what_came_later_for_generators_counts_where_it_is_set(configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
    """Defaults spelled out, in a YAML or by hand, are the training of before; a list of pairs is known by its names, not its path."""

    def digest(*overrides: str) -> str:
        config = configure(tmp_path, *QUICK, "arms=[none,pg2]", *overrides)
        return Fingerprints(config).digest(next(iter(config.baselines_by_name)), "pg2")

    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("from,to\nx.jpg,y.jpg\n")
    (tmp_path / "c.csv").write_text("from,to\ny.jpg,x.jpg\n")
    plain = digest()
    assert digest("generators.pg2.generator.discs=signed-released", "generators.pg2.generator.second_stage=asymmetric-released") == plain
    assert digest("generators.pg2.any_pose=false", "generators.pg2.pairs=null") == plain
    lists = [digest(f"generators.pg2.pairs={tmp_path / name}.csv") for name in "abc"]
    assert lists[0] == lists[1] != lists[2]
    others = [digest(f"generators.pg2.{key}") for key in ("any_pose=true", "generator.discs=zero-one", "generator.second_stage=symmetric")]
    assert len({plain, lists[0], lists[2], *others}) == 6


def test_who_searches_counts_for_gated_arms_alone(configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
    """torch is what it was before there was a choice; faiss may round another way, which a gate by identity alone could feel."""
    settings = ["arms=[none,pg2,pg2+gated,pg2+new]", "variants.new={gate: {novelty: 0.1}}"]
    auto, by_torch, by_faiss = (Fingerprints(configure(tmp_path, *settings, f"backend={b}")) for b in ("auto", "torch", "faiss-cpu"))
    assert auto.root == by_torch.root == by_faiss.root
    digests = [[of.digest(of.judge, arm) for arm in of.config.arms] for of in (auto, by_torch, by_faiss)]
    assert digests[0] == digests[1]
    assert [a == b for a, b in zip(digests[0], digests[2], strict=True)] == [True, True, False, True]


def test_a_search_that_cannot_be_had_is_refused_before_anything_runs(
    configure: Callable[..., BenchConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ModuleNotFoundError, match="backend 'faiss-cpu' needs faiss: pip install faiss-cpu$"):
        configure(tmp_path, "backend=faiss-cpu")
    with pytest.raises(ValueError, match="backend: no backend named 'fais-cpu'.*did you mean 'faiss-cpu'"):
        configure(tmp_path, "backend=fais-cpu")


@pytest.mark.parametrize("what", ["pid", "camid", "visible", "xy"])
def test_labels_and_poses_are_contents(what: str, people: list[PersonImage], monkeypatch: pytest.MonkeyPatch) -> None:
    """A CSV's images stay where they are when somebody corrects who is on them."""
    first = people[0]
    assert first.pose is not None
    pose = replace(first.pose, visible=~first.pose.visible) if what == "visible" else replace(first.pose, xy=first.pose.xy + 1)
    changes = {"pid": {"pid": first.pid + 100}, "camid": {"camid": first.camid + 1}}
    other = replace(first, **changes.get(what, {"pose": pose}))  # type: ignore[arg-type]

    def digest(everybody: list[PersonImage]) -> str:
        monkeypatch.setattr(bench_data, "load_people", lambda *_, **__: everybody)
        return bench_data.content_digest(DataConfig(root="x"))

    assert digest(people) == digest(people[:]) != digest([other, *people[1:]])


def test_other_photographs_of_the_same_names_and_sizes_are_another_data_set(folder: Path) -> None:
    """A finished benchmark is not that of photographs that took the place of those it was run on."""
    data = DataConfig(root=str(folder))
    before = bench_data.content_digest(data)
    assert bench_data.content_digest(data) == before
    photograph = next((folder / "query").iterdir())
    content = bytearray(photograph.read_bytes())
    content[-3] ^= 1  # the last bits of the picture
    photograph.write_bytes(content)
    assert bench_data.content_digest(data) != before


def test_silhouettes_are_contents_where_there_are_any(
    people: list[PersonImage], masked: list[PersonImage], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def digest(everybody: list[PersonImage]) -> str:
        monkeypatch.setattr(bench_data, "load_people", lambda *_, **__: everybody)
        return bench_data.content_digest(DataConfig(root="x"))

    assert digest(masked) == digest(masked[:]) != digest(people)
    first = next(p for p in masked if p.mask)
    write_mask(tmp_path, "other", torch.ones(32, 16))
    assert digest([replace(p, mask=str(tmp_path / "other.png")) if p is first else p for p in masked]) != digest(masked)
    assert "masks" not in DataConfig(root="x").model_dump()
