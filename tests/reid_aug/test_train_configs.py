"""`reid-aug train` on every shipped configuration of a generator, small, through every stage of its schedule."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from generators import load
from generators.registry import read_header
from reid_aug.cli import main
from reid_aug.rendered import RenderedSet

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted((ROOT / "configs" / "generators").glob("*.yaml"))
SHORT = {
    "stage1_steps": 1, "stage2_steps": 1, "pretrain_steps": 1, "warmup_steps": 1, "gan_steps": 2, "constant_steps": 1, "decay_steps": 1,
}  # fmt: skip
SMALL = {"size": [32, 16], "width": 4, "blocks": 1, "detector_blocks": 1}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_it_trains(config: Path, rendered: RenderedSet, tmp_path: Path) -> None:
    said = yaml.safe_load(config.read_text())
    options = said["generator"]
    small = {key: value for key, value in (SMALL | SHORT).items() if key in options and options[key]}
    if "steps" in options:
        small["steps"] = 2
    words = [f"generator.{key}={str(value).replace(' ', '')}" for key, value in small.items()]
    out = tmp_path / "run"
    done = main([
        "train", str(config), f"data.root={rendered.root}", f"out={out}", "batch_size=2", "samples=1", "steps=null",
        "perceptual.weights=none", *words,
    ])  # fmt: skip
    assert done == 0
    header = read_header(out / "last.safetensors")
    model = load(out / "last.safetensors")
    assert header["step"] == model.schedule_steps() <= 4 and header["generator"] == options["name"]
    assert (out / "samples").is_dir()


def test_weights_that_can_not_be_had_are_named(
    rendered: RenderedSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The default asks for torchvision's VGG-19; here its cache is empty and the network is not there."""
    import torch

    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    for name in ("deformable", "momi", "posewarp"):
        config = ROOT / "configs" / "generators" / f"{name}.yaml"
        assert main(["train", str(config), f"data.root={rendered.root}", f"out={tmp_path / 'out'}", "generator.width=4"]) == 2
        said = capsys.readouterr().err
        assert "vgg19-dcbb9e9d.pth" in said and "perceptual.weights=" in said and str(tmp_path) in said and "Traceback" not in said
        assert not (tmp_path / "out").exists()
