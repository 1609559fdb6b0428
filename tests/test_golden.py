"""What must not change without a decision: digests, folder names, headers and manifest lines that users' folders are known by.

Everything is asked through the front doors (command line, `generators`, `reid_aug`), so that these literals outlive any move of
code. Whoever changes one on purpose says so in CHANGELOG: finished runs and drawn images on users' disks are not found any more.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from PIL import Image

import generators
from reid_aug.cli import main

SIZE = (32, 16)
GOLDEN = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))


def constant(name: str, **options: Any) -> generators.Generator:
    """A generator of which every weight is written down: what is seeded may differ between versions of torch."""
    model = generators.create(name, **options)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) % 7 * 0.01)
    return model


def header(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(str(path), framework="pt") as file:
        metadata = file.metadata()
    return {"format": metadata["format"], **json.loads(metadata["reid-aug"])}


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in values.items() if key not in keys}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder: paths that users give are relative to it, and are part of some digests."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("golden")
        patch.chdir(folder)
        Path("empty.yaml").write_text("{}\n", encoding="utf-8")  # or a benchmark begins with the shipped one's settings
        yield folder


@pytest.fixture(scope="module")
def photographs(place: Path) -> str:
    """A Market-style folder whose files are the same bytes everywhere: uncompressed bitmaps under the names of others."""
    for number, folder in enumerate(("bounding_box_train", "query", "bounding_box_test")):
        (place / "photographs" / folder).mkdir(parents=True)
        lines = ["name:keypoints_y:keypoints_x"]
        for pid in range(1, 4):
            for camera in (1, 2):
                name = f"{pid + 10 * (number > 0):04d}_c{camera}s1_{100 * number + pid:06d}_00.jpg"
                shade = 40 * pid + camera
                Image.new("RGB", SIZE[::-1], (shade, 255 - shade, 30 * camera)).save(place / "photographs" / folder / name, "BMP")
                ys = [4 + (joint + pid) % 20 for joint in range(18)]
                xs = [2 + (joint * camera + pid) % 12 for joint in range(18)]
                lines.append(f"{name}: {ys}: {xs}")
        kind = "train" if number == 0 else "test"
        with (place / "photographs" / f"annotation-{kind}.csv").open("a", encoding="utf-8") as file:
            file.write("\n".join(lines if number < 2 else lines[1:]) + "\n")
    return "photographs"


@pytest.fixture(scope="module")
def checkpoint(place: Path) -> str:
    generators.save(constant("pg2", size=SIZE, width=4), "pg2.safetensors")
    return "pg2.safetensors"


@pytest.mark.parametrize("name", ["deformable", "momi", "pg2", "posewarp", "vdg"])
def test_checkpoint_headers(name: str, place: Path) -> None:
    generators.save(constant(name, size=SIZE, width=4), place / f"{name}.safetensors")
    assert without(header(place / f"{name}.safetensors"), "torch") == GOLDEN["checkpoint headers"][name]


def manifest_lines(path: Path) -> list[dict[str, Any]]:
    """Without what the JPEG encoder decides."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [without(line, *(("sha256",) if str(line.get("file")).endswith(".jpg") else ("bytes", "sha256") if "path" in line else ()))
            for line in lines]  # fmt: skip


def test_manifest_of_a_dump(photographs: str, checkpoint: str) -> None:
    code = main(["dump", f"checkpoint={checkpoint}", f"data.root={photographs}", "out=dump", "per_image=2", "seed=3", "device=cpu"])
    assert code == 0
    assert manifest_lines(Path("dump/manifest.jsonl")) == GOLDEN["dump"]
    assert main(["gate", "dump", "novelty=0.0", "out=gated", "device=cpu"]) == 0
    lines = manifest_lines(Path("gated/manifest.jsonl"))
    novelties = [line.pop("pose_novelty") for line in lines if "path" in line]
    assert novelties == pytest.approx(GOLDEN["pose novelties"], abs=1e-6)
    assert lines[0] == GOLDEN["gated"]


def test_cache_folder_of_a_data_set(photographs: str, checkpoint: str) -> None:
    from torchreid import data

    import reid_aug

    people = [Path(photographs) / folder for folder in ("bounding_box_train", "query", "bounding_box_test")]
    rows = [[(str(path), int(path.name[:4]), int(path.name[6]) - 1) for path in sorted(folder.iterdir())] for folder in people]
    order = {pid: label for label, pid in enumerate(sorted({pid for _, pid, _ in rows[0]}))}
    rows[0] = [(path, order[pid], camid) for path, pid, camid in rows[0]]
    poses = f"{photographs}/annotation-train.csv"
    names = []
    for options in ({}, {"seed": 1, "per_image": 1}, {"draw": "missing-views"}, {"draw": "camera-aware"}, {"draw": "canonical-3"}):
        base = data.ImageDataset(*rows, verbose=False)
        given = {"generator": checkpoint, "poses": poses, "cache_dir": "cache", "device": "cpu", "verbose": False}
        posed = reid_aug.PoseAugmentedDataset(base, **given, **options)
        names.append(posed.folder.name)
    assert names == GOLDEN["cache folders"]


ARMS = ["none", "copies", "pg2", "oracle", "erasing", "pg2+lsro", "pg2+mine", "oracle+canonical", "pg2+online"]
BENCHMARK = [
    "name=golden", "out=runs", "per_image=1", "seeds=[0]", "synthesis_seed=1", f"arms=[{','.join(ARMS)}]",
    "rendered={train_identities: 3, test_identities: 2, train_images: 2, query_images: 1, gallery_images: 2, size: [32, 16]}",
    "generators.pg2.generator={size: [32, 16], width: 4, stage1_steps: 1, stage2_steps: 1}", "generators.pg2.batch_size=2",
    "generators.pg2.jitter={degrees: 5}",
    "variants.mine={label: smoothed, smoothing: 0.2, gate: {identity: 0.3}}",
    # Before `strong` had a centre loss.
    "baselines={plain: {}, other: {centre_weight: 0, recipe: strong, "
    "model: osnet_x0_25, weights: scratch, last_stride: 2, steps: 1, erasing: 0.0}}",
    "baseline={size: [32, 16], steps: 1, identities: 2, instances: 2, crop_px: 2}",
    "quality={pairs: 2, metrics: {SSIM: {}, identity: {}, truth: {}}}",
]  # fmt: skip


@pytest.fixture(scope="module")
def bench(place: Path) -> Path:
    assert main(["bench", "empty.yaml", *BENCHMARK]) == 0
    (folder,) = Path("runs").iterdir()
    return folder


def test_run_digests(bench: Path) -> None:
    lines = [json.loads(line) for line in (bench / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {f"{line['baseline']} {line['arm']}": line["config"] for line in lines} == GOLDEN["run digests"]
    assert sorted(lines[0]) == GOLDEN["keys of results.jsonl"]


def test_folders_of_a_run(bench: Path) -> None:
    shown = [path.relative_to("runs").as_posix() for path in sorted(bench.rglob("*")) if "data" not in path.parts]
    # Images are many, and when curves were written is the clock's.
    kept = [path for path in shown if not path.endswith(".jpg") and "/curves/" not in path]
    assert kept == GOLDEN["folders of a run"]


def test_header_of_a_trained_generator(bench: Path) -> None:
    (trained,) = bench.glob("generators/*/last.safetensors")
    assert without(header(trained), "torch", "digest") == GOLDEN["trained generator"]


def test_header_of_a_reid_network(bench: Path) -> None:
    (trained,) = bench.glob("baselines/*.safetensors")
    found = header(trained)
    assert without(found["about"], "seconds") == {} and without(found, "digest", "about") == GOLDEN["Re-ID network"]


def test_manifest_of_the_oracle(bench: Path) -> None:
    manifest = sorted(bench.glob("images/oracle-*/manifest.jsonl"))[0]
    assert manifest_lines(manifest) == GOLDEN["oracle"]


def test_folder_of_real_images_and_of_image_quality(photographs: str, checkpoint: str, capsys: pytest.CaptureFixture[str]) -> None:
    ask = ["quality", checkpoint, f"data.root={photographs}", "out=quality", "pairs.count=3", "metrics={SSIM: {}}", "device=cpu"]
    assert main(ask) == 0
    found = re.search(r"report: (\S+)", capsys.readouterr().out)
    assert found is not None and found[1] == GOLDEN["quality"]
    settings = [
        f"data.root={photographs}", "name=photographs", "out=runs-of-photographs", "arms=[none]", "seeds=[0]", "quality.pairs=0",
        "baseline={size: [32, 16], steps: 1, identities: 2, instances: 2, crop_px: 2}",
    ]  # fmt: skip
    assert main(["bench", "empty.yaml", *settings]) == 0
    (folder,) = Path("runs-of-photographs").iterdir()
    line = json.loads((folder / "results.jsonl").read_text(encoding="utf-8"))
    assert {"folder": folder.name, "digest": line["config"]} == GOLDEN["benchmark on photographs"]
    shutil.rmtree("runs-of-photographs")
