"""The GPU campaign without a GPU: every kind of cell in its tiny form, what is on record is not done again, tables from records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from benchmarks.gpu import tables
from benchmarks.gpu.campaign import RECORDS, Worker, done, main
from benchmarks.gpu.cells import Cell, Setting, cells
from benchmarks.gpu.record import read_lines
from benchmarks.gpu.stacked import together
from benchmarks.gpu.table_cells import Table
from benchmarks.gpu.timing_model import BYTES_PER_S, FLOPS_PER_S, LAUNCH_S, LEAST_S, SMALL, counted, predicted_seconds
from reid_aug.baselines.network import build
from reid_aug.baselines.recipes import BaselineConfig

ROOT = Path(__file__).resolve().parents[1]


def campaign(folder: Path, *words: str, minutes: float = 9) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.gpu.campaign", "--minutes", str(minutes), "--device", "cpu", "--tiny"]
    command += ["--out", str(folder / "out"), "--work", str(folder / "work"), *words]
    return subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=900)


def setting(folder: Path, **changed: Any) -> Setting:
    return Setting(**{"device": "cpu", "out": folder / "out", "work": folder / "work", "tiny": True, **changed})


def record(folder: Path, *lines: dict[str, Any]) -> None:
    (folder / "out").mkdir(exist_ok=True)
    (folder / "out" / RECORDS).write_text("".join(json.dumps({"tiny": True, **line}) + "\n" for line in lines))


@pytest.mark.slow
def test_every_kind_of_cell_runs_and_what_is_on_record_is_not_done_again(tmp_path: Path) -> None:
    first = campaign(tmp_path)
    assert first.returncode == 0, first.stdout[-3000:] + first.stderr[-3000:]
    lines = read_lines(tmp_path / "out" / RECORDS)
    assert [line["cell"] for line in lines] == [cell.name for cell in cells(setting(tmp_path))]
    assert not any("error" in line for line in lines) and all(line["wall_s"] >= 0 and line["versions"] for line in lines)
    home = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sum(path.suffix == ".png" for path in home) == 6 and all(path.stat().st_size < 16 * 2**20 for path in home)
    assert str(tmp_path) not in (tmp_path / "out" / RECORDS).read_text()
    again = campaign(tmp_path)
    assert again.returncode == 0 and "0 cells done, 0 failed, 0 had no time" in again.stdout


@pytest.mark.slow
def test_a_cell_that_is_out_of_time_or_fails_costs_itself_alone(tmp_path: Path) -> None:
    worker = Worker(setting(tmp_path))
    try:
        assert worker.measure(Cell("checks/fits", 0.01, lambda shop: {}), 0.01) == {"error": "not done within 0 s"}
        # Without a trained generator its arm can't be drawn.
        missing = worker.measure(Cell("reid/small/warpblend/0", 60, lambda shop: {}), 60)
        assert "the cell learn/warpblend comes first" in missing["error"]
        assert worker.measure(Cell("checks/fits", 60, lambda shop: {}), 60)["ok"]
        os.kill(worker.process.pid, 9)
        assert worker.measure(Cell("checks/fits", 60, lambda shop: {}), 60) == {"error": "its process died"}
        assert worker.measure(Cell("checks/fits", 60, lambda shop: {}), 60)["ok"]
    finally:
        worker.end()


@pytest.mark.parametrize(("words", "says"), [
    (["--minutes", "1", "--only", "speed/pg3"], "did you mean 'speed/pg2'?"), (["--minutes", "0"], "--minutes is above 0, got 0"),
    (["--minutes", "1", "--data", "nowhere"], "--data is a folder in Market-1501's layout, got nowhere"),
])  # fmt: skip
def test_wrong_options_are_told_in_a_line(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    try:
        code = main([*words, "--device", "cpu", "--tiny", "--out", str(tmp_path / "out")])
    except SystemExit as stopped:
        code = stopped.code
    assert code == 2 and says in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_cell_is_done_when_it_is_on_record_and_what_it_leaves_is_there(tmp_path: Path) -> None:
    places = (tmp_path / "work" / "a", tmp_path / "out" / "b")
    plain, leaving = Cell("plain", 1, lambda shop: {}), Cell("leaving", 1, lambda shop: {}, (places,))
    assert not done(plain, setting(tmp_path))
    record(tmp_path, {"cell": "plain", "error": "no"}, {"cell": "leaving"})
    assert not done(plain, setting(tmp_path)) and not done(leaving, setting(tmp_path))
    places[1].touch()
    assert done(leaving, setting(tmp_path))
    record(tmp_path, {"cell": "plain", "error": "no"}, {"cell": "plain"}, {"cell": "leaving"})
    assert done(plain, setting(tmp_path))
    assert not done(plain, setting(tmp_path, tiny=False))  # the tiny form is no measurement


def test_a_torn_line_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "lines").write_text('{"cell": "a"}\n{"cell": "b", "ma')
    assert read_lines(tmp_path / "lines") == [{"cell": "a"}] and read_lines(tmp_path / "none") == []


def test_of_the_table_one_seed_of_every_arm_comes_before_the_next_seed(tmp_path: Path) -> None:
    names = [cell.name for cell in cells(setting(tmp_path, tiny=False))]
    assert len(names) == len(set(names)) and sum(name.startswith("reid/") for name in names) == 3 * len(Table.arms()) * 4
    small = [name.split("/")[-1] for name in names if name.startswith("reid/small/") and "deformable" not in name]
    assert small == sorted(small)
    assert names.index("learn/warpblend") < names.index("reid/small/none/0") < names.index("reid/osnet_x0_25/none/0")
    assert names.index("learn/deformable") < names.index("reid/small/deformable+gated/0")
    assert all(predicted_seconds(name) > 0 for name in names)


def test_stacked_networks_have_the_losses_of_each() -> None:
    torch.manual_seed(0)
    config = BaselineConfig(model="small", widths=(8, 8, 8, 8), neck=True, size=(32, 16))
    models = [build(config, 4).train() for _ in range(3)]
    images, labels = torch.rand(3, 4, 3, 32, 16), torch.arange(4).expand(3, -1)
    losses = together(models)(images, labels)
    alone = [nn.functional.cross_entropy(model(image)[0], label) for model, image, label in zip(models, images, labels, strict=True)]
    torch.testing.assert_close(losses, torch.stack(alone))


def test_work_is_counted_and_predicted_by_the_slowest_of_three() -> None:
    layer = nn.Conv2d(3, 8, 3, padding=1, bias=False)
    images = torch.rand(SMALL, 3, 10, 6)
    with torch.no_grad():
        work = counted(lambda: layer(images))
    flops, sizes = 2 * 9 * 3 * 8 * 60 * SMALL, 4 * (SMALL * 60 * (3 + 8) + 8 * 27)
    assert work.operations == [(flops, sizes)]
    row = work.row(batch=64)
    assert row["gflop"] == pytest.approx(flops * 64 / SMALL / 1e9) and row["launches"] == 1
    assert row["kernel_s"] == pytest.approx(max(flops * 64 / SMALL / FLOPS_PER_S["float32"], sizes * 64 / SMALL / BYTES_PER_S))
    assert row["step_s"] == LAUNCH_S and row["graphed_step_s"] == LEAST_S  # so little work waits for the host


def test_the_page_is_what_the_records_say() -> None:
    assert tables.main(["--check"]) == 0, "run python -m benchmarks.gpu.tables"


def test_tables_by_hand() -> None:
    def line(ap: list[float], rank1: float) -> dict[str, Any]:
        about = {"device": "a card", "tiny": False, "steps": 10, "weights": "scratch", "seconds": 3.0}
        return {**about, "rank1": rank1, "map": sum(ap) / len(ap), "ap": ap}

    records = {
        "reid/small/none/0": line([0.1, 0.3], 0.5), "reid/small/none/1": line([0.3, 0.5], 0.7),
        "reid/small/erasing/0": line([0.4, 0.4], 0.5), "reid/small/erasing/1": line([0.4, 0.4], 0.5),
        "reid/small/warpblend+erasing/0": line([0.5, 0.5], 0.5), "reid/small/warpblend+erasing/1": line([0.5, 0.5], 0.5),
    }  # fmt: skip
    text = tables.compose(records, json.loads(tables.FILE.read_text()))
    assert "Measured on a card." in text and "`osnet_x0_25`: not run yet" in text
    cells_of = [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.splitlines() if row.startswith("| `")]
    rows = {first: rest for first, *rest in cells_of}
    assert rows["`none`"] == ["2", "60.0 ± 14.1", "30.0 ± 14.1", "", "3"]
    assert rows["`erasing`"][3].startswith("+10.0 [") and rows["`warpblend+erasing`"][3] == "+10.0 [+10.0, +10.0] over `erasing`"
    assert rows["`copies`"] == ["not run yet"] * 5


def test_the_share_of_the_floor_by_hand() -> None:
    records = {"machine": {"matmul_bfloat16_tflops": 500.0, "copy_tb_per_s": 2.0}}
    # 1,000 GFLOP take 2 ms there, 8 GB 4 ms: 100 images in 8 ms are half of what is possible.
    model = {"gflop": 1000.0, "gbyte": 8.0, "batch": 100.0}
    assert tables._share(12500.0, model, records) == "50%" and tables._share(None, model, records) == tables.NOT_YET
