"""The report and the record: their numbers are those of the lines, their machines those that ran."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reid_aug.bench import report
from reid_aug.bench.config import BenchConfig
from reid_aug.bench.run import Result
from reid_aug.bench.summary import summarise


class TestReport:
    def test_numbers_are_those_of_the_lines(self, result: Result) -> None:
        path = report.write(result, summarise(result), "rendered", "python benchmarks/run.py")
        text = path.read_text()
        for arm in ("none", "copies", "pg2", "oracle"):
            maps = [100 * line["map"] for line in result.lines if line["arm"] == arm]
            assert f"{np.mean(maps):.1f} ± {np.std(maps, ddof=1):.1f}" in next(t for t in text.splitlines() if t.startswith(f"| {arm} "))
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (path.parent / picture).stat().st_size > 1000, picture

    def test_gain_is_the_difference_of_means(self, result: Result) -> None:
        none, _, _, oracle = summarise(result)
        assert not none.gains and oracle.gains.keys() == {"rank1", "map"}
        for score, gain in oracle.gains.items():
            assert gain.over_queries.mean == pytest.approx(oracle.scores[score][0] - none.scores[score][0])
            assert gain.over_queries.low <= gain.over_queries.mean <= gain.over_queries.high

    def test_every_machine_that_made_a_part_is_named(self, config: BenchConfig, result: Result, tmp_path: Path) -> None:
        text = report.compose(result, summarise(result), "rendered", "command")
        assert f"`command` on {result.lines[0]['device']}; reid-aug " in text and "not all on one machine" not in text
        other = {"device": "Another GPU", "date": "2021-03-04T00:00:00+00:00"}
        newer = {"versions": {**result.lines[0]["versions"], "torch": "9.9"}}
        lines = [result.lines[0], *({**line, **other} for line in result.lines[1:4]), *({**line, **newer} for line in result.lines[4:])]
        mixed = replace(result, lines=lines)
        text = report.compose(mixed, summarise(mixed), "rendered", "command")
        device = result.lines[0]["device"]
        for start, end in ((f"* 1 of 8 trainings on {device}; ", ""), ("* 3 of 8 trainings on Another GPU; ", "; 2021-03-04."),
                           (f"* 4 of 8 trainings on {device}; ", "torch 9.9, ")):  # fmt: skip
            (line,) = [line for line in text.splitlines() if line.startswith(start)]
            assert end in line
        report.record(mixed, summarise(mixed), config.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        kept = json.loads((tmp_path / "r.json").read_text())["machines"]
        assert [(machine["device"], machine["lines"]) for machine in kept] == [(device, 1), ("Another GPU", 3), (device, 4)]
        assert kept[1]["versions"] == result.lines[0]["versions"] and kept[2]["versions"]["torch"] == "9.9"

    def test_shares_name_their_machines_too(self, config: BenchConfig, result: Result, tmp_path: Path) -> None:
        other = replace(result, folder=tmp_path / "b", lines=[{**line, "device": "Another GPU"} for line in result.lines])
        for name in ("a", "b"):
            shutil.copytree(result.folder / "scores", tmp_path / name / "scores")
        shares = {0.5: replace(result, folder=tmp_path / "a"), 1.0: other}
        path = report.write_shares(shares, config.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        assert "* 8 of 16 trainings on Another GPU; " in path.read_text()
        assert [machine["lines"] for machine in json.loads((tmp_path / "r.json").read_text())["machines"]] == [8, 8]

    def test_what_intervals_take_for_granted_is_said(self, result: Result) -> None:
        text = report.compose(result, summarise(result), "rendered", "command")
        assert "Queries are taken as independent, though several are of one person" in text

    def test_record(self, config: BenchConfig, result: Result, tmp_path: Path) -> None:
        report.record(result, summarise(result), config.model_copy(update={"record": str(tmp_path / "r.json")}), "command")
        kept = json.loads((tmp_path / "r.json").read_text())
        assert kept["quality"]["pg2"]["images"] == 6 and len(kept["lines"]) == 8
        assert kept["baselines"]["osnet_x0_25"]["oracle"]["gains"]["rank1"]["query_p"] <= 1
        assert str(result.folder) not in (tmp_path / "r.json").read_text()


def test_image_quality_of_every_generator_arm_is_in_report_and_record(
    config: BenchConfig, result: Result, tmp_path: Path
) -> None:
    quality = result.quality["pg2"]
    assert {"SSIM", "mask-SSIM", "identity rank-1", "ID²", "APS", "Re-ID Fréchet", "truth PSNR", "ΔE upper"} <= quality.values.keys()
    assert all("weights missing" in quality.missing[name] for name in ("FID", "LPIPS", "DS", "PCKh") if name in quality.missing)
    assert quality.images == config.quality.pairs
    text = report.compose(result, summarise(result), "test", "command")
    assert f"| mask-SSIM | {quality.values['mask-SSIM'].value:.3f} |" in text and "| PSNR (dB) / SSIM | torso |" in text
    for name in (*quality.values, *quality.missing):
        assert " of " in name or f"| {name} |" in text


def test_perceptual_terms_that_are_turned_off_are_named() -> None:
    sentence = "`momi` was trained with its perceptual terms turned off (`perceptual.weights=none`)."
    assert list(report._perceptual({"momi": "none"}, {})) == [sentence]
