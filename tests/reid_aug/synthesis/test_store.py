"""Synthetic images on disk: kept, completed, refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from reid_aug import Augmenter, Manifest
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.manifest import NAME, SyntheticRow
from reid_aug.synthesis.store import STARTED, fill

SIZE = (32, 16)


def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


def disturb(folder: Path, rows: list[SyntheticRow]) -> None:
    """Take one file away, cut one short, and swap one's bytes for another's."""
    (folder / rows[0].path).unlink()
    data = (folder / rows[1].path).read_bytes()
    (folder / rows[1].path).write_bytes(data[: len(data) // 2])


class TestFill:
    def test_second_time_nothing_is_drawn(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        rows = augmenter.plan(train(people))
        first = fill(tmp_path / "c", augmenter, rows, people)
        assert first.verify(tmp_path / "c") == []
        augmenter.generator.forward = None  # type: ignore[assignment] - drawing anything would fail now
        assert fill(tmp_path / "c", augmenter, rows, people) == first

    def test_missing_and_cut_files_are_drawn_again(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        rows = augmenter.plan(train(people))
        first = fill(tmp_path / "c", augmenter, rows, people)
        disturb(tmp_path / "c", rows)
        assert len(first.verify(tmp_path / "c")) == 2
        assert fill(tmp_path / "c", augmenter, rows, people).verify(tmp_path / "c") == []

    def test_half_written_is_completed_not_trusted(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        rows, folder = augmenter.plan(train(people)), tmp_path / "c"
        whole = fill(folder, augmenter, rows, people)
        # As a killed run leaves it: a mark, no manifest, some files, one of them torn.
        (folder / STARTED).write_text(json.dumps({"plan": whole.made_by["plan"]}))
        (folder / NAME).unlink()
        disturb(folder, rows)
        kept = (folder / rows[5].path).stat().st_mtime_ns
        again = fill(folder, augmenter, rows, people)
        assert again.verify(folder) == [] and [r.path for r in again.rows] == [r.path for r in rows]
        assert (folder / rows[5].path).stat().st_mtime_ns == kept, "a whole file is not drawn again"
        assert not (folder / STARTED).exists()

    def test_another_plan_is_refused(self, people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
        rows = augmenter.plan(train(people))
        fill(tmp_path / "c", augmenter, rows, people)
        with pytest.raises(ValueError, match="another plan"):
            fill(tmp_path / "c", augmenter, rows[:3], people)
        (tmp_path / "d").mkdir()
        (tmp_path / "d" / "thesis.txt").write_text("precious")
        with pytest.raises(FileExistsError, match="is not empty and holds no manifest"):
            fill(tmp_path / "d", augmenter, rows, people)
        assert os.listdir(tmp_path / "d") == ["thesis.txt"]

    def test_killed_half_way_it_goes_on(self, rendered, checkpoint: Path, tmp_path: Path) -> None:
        script = tmp_path / "draw.py"
        script.write_text(textwrap.dedent(f"""
            import os, signal
            import generators
            from reid_aug import Augmenter, PoseBank
            from reid_aug.synthesis.store import fill
            from reid_aug.data.loading import DataConfig, load_people
            people = [p for p in load_people(DataConfig(root={str(rendered.root)!r})) if p.split == "train"]
            augmenter = Augmenter(generators.load({str(checkpoint)!r}), PoseBank.collect(people, {SIZE}), 2, 3, batch_size=4)
            render, left = augmenter.render, int(os.environ.get("KILL_AFTER", 10**9))
            def killed(rows, people):
                for number, pair in enumerate(render(rows, people)):
                    if number == left:
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield pair
            augmenter.render = killed
            fill({str(tmp_path / "c")!r}, augmenter, augmenter.plan(people), people)
        """))
        run = [sys.executable, str(script)]
        dead = subprocess.run(run, env={**os.environ, "KILL_AFTER": "30"}, capture_output=True, check=False)
        assert dead.returncode == -signal.SIGKILL
        assert not (tmp_path / "c" / NAME).exists()
        subprocess.run(run, check=True, capture_output=True)
        written = Manifest.load(tmp_path / "c" / NAME)
        assert len(written.rows) == 48 and written.verify(tmp_path / "c") == []


def test_a_mark_half_written_does_not_lock_the_folder(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".0123.tmp").write_text("{")
    assert fill(tmp_path / "c", augmenter, augmenter.plan(train(people))[:3], people).verify(tmp_path / "c") == []
