"""`reid-aug train` on every shipped configuration of a generator, small, through every stage of its schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from pydantic import ValidationError

import generators
from generators import load
from generators.checkpoints import read_header
from reid_aug import config
from reid_aug.bench.config import BenchConfig
from reid_aug.cli import main
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.train import LearningConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[3]
CONFIGS = sorted((ROOT / "configs" / "generators").glob("*.yaml"))
OF_MARKET = [path for path in CONFIGS if not path.stem.endswith("-fashion")]
SHORT = {
    "stage1_steps": 1, "stage2_steps": 1, "pretrain_steps": 1, "warmup_steps": 1, "gan_steps": 2, "constant_steps": 1, "decay_steps": 1,
}  # fmt: skip
SMALL = {"size": [32, 16], "width": 4, "blocks": 1, "detector_blocks": 1}


@pytest.mark.parametrize("path", OF_MARKET, ids=lambda path: path.stem)
def test_it_trains(path: Path, rendered: RenderedSet, tmp_path: Path) -> None:
    said = yaml.safe_load(path.read_text())
    options = said["generator"]
    small = {key: value for key, value in (SMALL | SHORT).items() if key in options and options[key]}
    if "steps" in options:
        small["steps"] = 2
    words = [f"generator.{key}={str(value).replace(' ', '')}" for key, value in small.items()]
    out = tmp_path / "run"
    done = main([
        "train", str(path), f"data.root={rendered.root}", f"out={out}", "batch_size=2", "samples=1", "steps=null",
        "perceptual.weights=none", "teacher=keypoints", *words,
    ])  # fmt: skip
    assert done == 0
    header = read_header(out / "last.safetensors")
    model = load(out / "last.safetensors")
    assert header["step"] == model.schedule_steps() <= 4 and header["generator"] == options["name"]
    assert (out / "samples").is_dir()


OF_FASHION = {  # what a row on DeepFashion has otherwise than on Market-1501, by generator: the papers' own numbers
    "pg2": {"size": [256, 256], "l1_weight": 50.0, "stage1_steps": 30000, "stage2_steps": 20000, "batch_size": 8, "cross_camera": "any"},
    "deformable": {"size": [256, 256], "nn_side_px": 5, "batch_size": 4},
    "vdg": {"size": [256, 256], "image_weight": 50.0, "stage1_steps": 40000, "stage2_steps": 30000, "batch_size": 6},
}


@pytest.mark.parametrize("path", [path for path in CONFIGS if path not in OF_MARKET], ids=lambda path: path.stem)
def test_a_row_on_deepfashion_is_its_row_on_market_at_the_papers_other_numbers(path: Path) -> None:
    """What they train by is the same, so that one training of each row is tried."""
    fashion, market = (yaml.safe_load(p.read_text()) for p in (path, path.with_stem(path.stem.removesuffix("-fashion"))))
    other = dict(OF_FASHION[fashion["generator"]["name"]])
    if path.stem == "deformable-fashion":
        other["batch_size"] = 2  # of the full model
    expected = {**market, "out": f"runs/{path.stem}", **{k: v for k, v in other.items() if k in market}}
    expected["generator"] = {**market["generator"], **{k: v for k, v in other.items() if k in market["generator"]}}
    assert fashion == expected
    with torch.device("meta"):
        model = generators.create(fashion["generator"].pop("name"), **fashion["generator"])
    assert tuple(model.size) == (256, 256) and f"reid-aug train {path.stem} data.root=deepfashion:DIR" in path.read_text()


@pytest.mark.parametrize("name", generators.names())
def test_it_is_what_a_benchmarks_arm_learns_by(name: str) -> None:
    path = ROOT / "configs" / "generators" / f"{name}.yaml"
    arm = BenchConfig.model_validate({"rendered": {}, "arms": ["none", name]}).generators[name]
    wanted = config.load(TrainConfig, path, ["data.root=x"])
    of_both = LearningConfig.model_fields.keys() - {"save_every_steps"}
    assert arm.model_dump(include=of_both) == wanted.model_dump(include=of_both)
    own = {"batch_size": 3, "generator": {"learning_rate": 0.5}}
    mine = BenchConfig.model_validate({"rendered": {}, "arms": ["none", name], "generators": {name: own}}).generators[name]
    assert mine.batch_size == 3 and mine.generator.options == {**wanted.generator.options, "learning_rate": 0.5}
    said = {"generator": {"name": name}}
    whole = BenchConfig.model_validate({"rendered": {}, "arms": ["none"], "generators": {name: said}}).generators[name]
    assert not whole.generator.options and whole.batch_size == 16, "an entry that says which generator it is says all"


def test_a_misspelt_key_of_such_a_yaml_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sixth.py").write_text("")
    (tmp_path / "sixth.yaml").write_text("generator: {name: sixth}\nout: x\nseed: 3\nbach_size: 4\n")
    monkeypatch.setenv("REID_AUG_GENERATORS", str(tmp_path))
    with pytest.raises(ValidationError, match="generators.sixth.bach_size"):
        BenchConfig.model_validate({"rendered": {}, "arms": ["none", "sixth"]})
    (tmp_path / "sixth.yaml").unlink()
    with pytest.raises(ValidationError, match="arm 'sixth': no sixth.yaml in .*configs/generators, .*"):
        BenchConfig.model_validate({"rendered": {}, "arms": ["none", "sixth"]})


def test_weights_that_can_not_be_had_are_named(
    rendered: RenderedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default asks for torchvision's VGG-19; here its cache is empty and the network is not there."""

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for name in ("deformable", "momi", "posewarp"):
        path = ROOT / "configs" / "generators" / f"{name}.yaml"
        assert main(["train", str(path), f"data.root={rendered.root}", f"out={tmp_path / 'out'}", "generator.width=4"]) == 2
        said = capsys.readouterr().err
        assert "vgg19-dcbb9e9d.pth" in said and "perceptual.weights=" in said and str(tmp_path) in said and "Traceback" not in said
        assert not (tmp_path / "out").exists()
