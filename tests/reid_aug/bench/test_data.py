"""Low data: curves over parts of the training images, and which images a part has."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from generators import Pose, openpose_18
from reid_aug.bench import report
from reid_aug.bench.config import BenchConfig, load_config
from reid_aug.bench.data import part_of
from reid_aug.bench.fingerprints import Fingerprints
from reid_aug.bench.run import run_shares
from reid_aug.data.people import PersonImage

QUICK = ["quality.pairs=0", "seeds=[0]", "per_image=2", "baseline.steps=2", "baseline.identities=3"]


class TestLowData:
    def test_curves_of_every_arm(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        config = configure(tmp_path, *QUICK, "arms=[none,pg2]", "shares=[1.0,0.5]", f"record={tmp_path / 'r.json'}")
        results = run_shares(config)
        assert list(results) == [0.5, 1.0]
        assert [r.lines[0]["train_images"] for r in results.values()] == [10, 20]
        assert [line["arm"] for line in results[0.5].lines] == ["none", "pg2"] and results[0.5].folder != results[1.0].folder
        path = report.write_shares(results, config, "command")
        text = path.read_text()
        assert "`pg2` learnt from the same part of the training images as the baselines." in text
        half = (results[0.5].folder / "report.md").read_text()
        assert "`pg2` learnt from the same 50 % of the training images as the baselines." in half
        assert "| arm | 50 % (10) | 100 % (20) |" in text and (path.parent / "shares.png").stat().st_size > 1000
        record = json.loads((tmp_path / "r.json").read_text())
        assert record["shares"]["0.5"]["baselines"]["osnet_x0_25"]["pg2"]["train_images"] == 30
        assert run_shares(config)[0.5].lines == results[0.5].lines, "nothing is done twice"

    def test_parts_with_pairs_in_them_are_others(self, configure: Callable[..., BenchConfig], tmp_path: Path) -> None:
        """What `none` learns from depends on whether a generator needs pairs of everybody."""
        config = configure(tmp_path, *QUICK, "arms=[none,copies,oracle]")
        without = config.model_copy(update={"generators": {}})
        for arm in config.arms:
            part, other = (Fingerprints(each, 0.2).digest("osnet_x0_25", arm) for each in (config, without))
            assert part != other
            assert Fingerprints(config).digest("osnet_x0_25", arm) == Fingerprints(without).digest("osnet_x0_25", arm)

    def people(self) -> list[PersonImage]:
        pose = Pose(torch.full((18, 2), 8.0), torch.ones(18, dtype=torch.bool), openpose_18, (32, 16))
        sizes = np.random.default_rng(0).integers(1, 12, 30)
        train = [PersonImage(f"{pid}_{i}.jpg", pid, 0, "train", pose if i % 3 else None) for pid, n in enumerate(sizes) for i in range(n)]
        return [*train, PersonImage("q.jpg", 99, 0, "query"), PersonImage("g.jpg", 99, 1, "gallery")]

    @pytest.mark.parametrize("pairs", [False, True])
    def test_parts_hold_everybody_and_grow(self, pairs: bool) -> None:
        people = self.people()
        total = sum(p.split == "train" for p in people)
        before: set[str] = set()
        for share in (0.3, 0.6, 0.9, 1.0):
            part = part_of(people, share, 0, pairs=pairs)
            train = [p for p in part if p.split == "train"]
            assert {p.pid for p in train} == set(range(30)) and [p.split for p in part[-2:]] == ["query", "gallery"]
            least = 30 if not pairs else sum(min(2, max(1, sum(p.pose is not None for p in people if p.pid == pid))) for pid in range(30))
            assert len(train) == max(round(share * total), least)
            assert before <= {p.path for p in train} and part == [p for p in people if p in part]
            before = {p.path for p in train}
        if pairs:
            small = part_of(people, 0.01, 0, pairs=True)
            for pid in range(30):
                could = sum(p.pose is not None for p in people if p.pid == pid)
                assert sum(p.pose is not None for p in small if p.pid == pid) == min(2, could)

    def test_seeds_and_shares(self) -> None:
        people = self.people()
        assert part_of(people, 0.5, 0, pairs=False) == part_of(people[:], 0.5, 0, pairs=False) != part_of(people, 0.5, 1, pairs=False)
        with pytest.raises(ValueError, match="above 0 and at most 1, got 1.5"):
            part_of(people, 1.5, 0, pairs=False)
        with pytest.raises(ValueError, match="shares are the parts"):
            run_shares(load_config(None, ["rendered={}", "arms=[none]"]))
