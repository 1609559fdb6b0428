"""Bank, plan, render, manifest and dump: from poses to files."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import generators
from reid_aug import Augmenter, Manifest, PoseBank, images
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.keypoints import read_columns
from reid_aug.data.loading import with_keypoints
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage, tell_apart
from reid_aug.synthesis.augmenter import plan
from reid_aug.synthesis.dump import dump
from reid_aug.synthesis.manifest import NAME, SyntheticRow
from reid_aug.synthesis.store import STARTED, fill

SIZE = (32, 16)


def train(people: list[PersonImage]) -> list[PersonImage]:
    return [p for p in people if p.split == "train"]


@pytest.fixture
def augmenter(people: list[PersonImage], checkpoint: Path) -> Augmenter:
    return Augmenter(generators.load(checkpoint), PoseBank.collect(train(people), SIZE), per_image=2, seed=3, batch_size=5)


class TestBank:
    def test_holds_every_usable_pose_whatever_the_order(self, people: list[PersonImage]) -> None:
        usable = [p for p in train(people) if p.pose is not None and bool(valid_for_pairs(p.pose))]
        bank = PoseBank.collect(train(people), SIZE)
        assert set(bank.names) == {p.name for p in usable}
        shuffled = random.Random(0).sample(people, len(people))
        assert PoseBank.collect(train(shuffled), SIZE).digest == bank.digest

    def test_poses_are_brought_to_size(self, people: list[PersonImage]) -> None:
        small, large = PoseBank.collect(train(people), SIZE), PoseBank.collect(train(people), (64, 32))
        seen = small.pose.visible[..., None]
        torch.testing.assert_close(large.pose.xy, torch.where(seen, (small.pose.xy + 0.5) * 2 - 0.5, 0))

    def test_empty_is_refused(self, people: list[PersonImage]) -> None:
        with pytest.raises(ValueError, match="no image has a pose"):
            PoseBank.collect([replace(p, pose=None) for p in people], SIZE)

    def test_digest_sees_one_joint(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        moved = bank.pose.xy.clone()
        moved[0, 2, 0] += 1
        assert replace(bank, pose=replace(bank.pose, xy=moved)).digest != bank.digest

    def test_draw_is_uniform_and_repeats(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        drawn = bank.sample(20_000, seed=1)
        assert np.array_equal(drawn, bank.sample(20_000, seed=1))
        counts = np.bincount(drawn, minlength=len(bank))
        assert abs(counts - 20_000 / len(bank)).max() < 6 * np.sqrt(20_000 / len(bank))

    def test_thin_keeps_typical_poses(self, people: list[PersonImage]) -> None:
        bank = PoseBank.collect(train(people), SIZE)
        thin = bank.thin(4)
        assert 1 <= len(thin) <= 4 and set(thin.names) <= set(bank.names)
        assert PoseBank.collect(train(people), SIZE).thin(4).digest == thin.digest
        with pytest.raises(ValueError, match=rf"1\.\.{len(bank)}, got 0"):
            bank.thin(0)


class TestPlan:
    def test_neither_order_nor_sharding_changes_a_row(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = {row.path: row for row in augmenter.plan(train(people))}
        backwards = {row.path: row for row in augmenter.plan(train(people)[::-1])}
        shard = {row.path: row for row in augmenter.plan(train(people)[::3])}
        assert rows == backwards
        assert shard and all(rows[path] == row for path, row in shard.items())

    def test_every_usable_image_gets_per_image_rows_of_its_identity(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = augmenter.plan(train(people))
        by_name = {p.name: p for p in train(people)}
        assert len(rows) == 2 * len(augmenter.bank)
        for row in rows:
            assert (row.pid, row.camid) == (by_name[row.source].pid, by_name[row.source].camid)
            assert row.target in augmenter.bank.names
        assert len({row.target for row in rows}) > len(augmenter.bank) / 3

    def test_seed_changes_targets(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        one, other = (plan(train(people), augmenter.bank, 2, seed) for seed in (0, 1))
        assert [r.path for r in one] == [r.path for r in other]
        assert [r.target for r in one] != [r.target for r in other]

    def test_test_images_are_refused(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        with pytest.raises(ValueError, match="only training images may be augmented, got .* of query"):
            augmenter.plan([p for p in people if p.split == "query"])

    def test_equal_names_are_refused(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        twice = [train(people)[0], replace(train(people)[0], path=f"elsewhere/{train(people)[0].name}")]
        with pytest.raises(ValueError, match="two training images are named"):
            augmenter.plan(twice)  # nobody told them apart


class TestRender:
    def test_images_are_what_the_generator_draws(self, people: list[PersonImage], augmenter: Augmenter) -> None:
        rows = augmenter.plan(train(people))
        drawn = list(augmenter.render(rows, people))
        assert [row for row, _ in drawn] == rows
        row, image = drawn[7]  # in the second batch of five
        source = next(p for p in people if p.name == row.source)
        pixels = images.to_float(torch.from_numpy(images.read(source.path)).permute(2, 0, 1)[None])
        assert source.pose is not None
        target = augmenter.bank.pose[[augmenter.bank.names.index(row.target)]]
        with torch.inference_mode():
            alone = augmenter.generator(pixels, source.pose[None], target)  # type: ignore[index]
        wanted = images.to_uint8(alone)[0].permute(1, 2, 0).numpy()
        assert image.shape == (*SIZE, 3) and image.dtype == np.uint8
        assert np.abs(image.astype(int) - wanted.astype(int)).max() <= 1  # batched sums may round differently

    def test_a_bank_of_another_size_is_refused(self, people: list[PersonImage], checkpoint: Path) -> None:
        with pytest.raises(ValueError, match=r"draws images of \(32, 16\), the bank's poses are of \(64, 32\)"):
            Augmenter(generators.load(checkpoint), PoseBank.collect(train(people), (64, 32)))


class TestManifest:
    ROWS = (SyntheticRow("a.jpg", "s.jpg", "t.jpg", 1, 0, 7, None, 0.25, 3, "ab"), SyntheticRow("b.jpg", "s.jpg", "u.jpg", 1, 0, 8, 0.5))

    def test_round_trip(self, tmp_path: Path) -> None:
        one = Manifest(self.ROWS, {"seed": 3, "generator": "pg2"})
        one.save(tmp_path / NAME)
        assert Manifest.load(tmp_path / NAME) == one

    def test_merge(self) -> None:
        first, second = Manifest(self.ROWS[:1], {"seed": 3}), Manifest(self.ROWS[1:], {"seed": 3})
        assert Manifest.merge([first, second]).rows == self.ROWS
        with pytest.raises(ValueError, match="made by the same"):
            Manifest.merge([first, Manifest(self.ROWS[1:], {"seed": 4})])
        with pytest.raises(ValueError, match="share no path"):
            Manifest.merge([first, first])

    @pytest.mark.parametrize("text", ["", "{}\n", '{"format": "other"}\n', '{"format": "reid-aug manifest 1", "a": 1}\n[1]\n',
                                      '{"format": "reid-aug manifest 1", "a": 1}\n{"path": "x"}\n', "\x00\n"])  # fmt: skip
    def test_what_is_no_manifest(self, text: str, tmp_path: Path) -> None:
        (tmp_path / NAME).write_text(text)
        with pytest.raises(ValueError, match="manifest"):
            Manifest.load(tmp_path / NAME)


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


def test_dump_is_a_market_folder_of_both(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    written = dump(people, augmenter, tmp_path / "out")
    rows = written.rows
    assert written.verify(tmp_path / "out") == []
    back = read_market_folder(tmp_path / "out")
    assert {(p.name, p.pid, p.camid, p.split) for p in people} <= {(p.name, p.pid, p.camid, p.split) for p in back}
    assert len(back) == len(people) + len(rows)
    posed = {p.name: p for p in with_keypoints(back, tmp_path / "out" / "annotation-train.csv", ("train",))}
    for row in rows[:10]:
        pose, target = posed[Path(row.path).name].pose, augmenter.bank.pose[augmenter.bank.names.index(row.target)]
        assert pose is not None and torch.equal(pose.visible, target.visible)
        torch.testing.assert_close(pose.xy, target.xy)
        assert (posed[Path(row.path).name].pid, posed[Path(row.path).name].camid) == (row.pid, row.camid)


def test_check_sees_real_images_and_keypoints_too(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    written = dump(people, augmenter, tmp_path / "out")
    (tmp_path / "out" / "query" / next(p.name for p in people if p.split == "query")).unlink()
    (tmp_path / "out" / "annotation-test.csv").write_text("")
    assert len(written.verify(tmp_path / "out")) == 2
    assert dump(people, augmenter, tmp_path / "out").verify(tmp_path / "out") == []


def scattered(people: list[PersonImage], folder: Path) -> list[PersonImage]:
    """The same people as a data set keeps them that knows nothing of Market's names: a folder each, 0.jpg, 1.jpg, …"""
    out, counts = [], {}
    for person in people:
        number = counts[person.split, person.pid] = counts.get((person.split, person.pid), -1) + 1
        path = folder / person.split / f"person{person.pid}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(Path(person.path).read_bytes())
        out.append(replace(person, path=str(path)))
    return tell_apart(out)


def test_equal_file_names_are_told_apart(people: list[PersonImage], checkpoint: Path, tmp_path: Path) -> None:
    """Every image is drawn from its own file, and the dump is a Market folder all the same."""
    spread = scattered(people, tmp_path / "in")
    assert len({(p.split, p.name) for p in spread}) == len(people)
    augmenter = Augmenter(generators.load(checkpoint), PoseBank.collect(train(spread), SIZE), 2, 3)
    rows = augmenter.plan(train(spread))
    assert len({row.path for row in rows}) == len(rows) == 48 and not any("/" in row.path for row in rows)
    by_name = {p.name: p for p in spread}
    assert all(by_name[row.source].pid == row.pid for row in rows)
    written = dump(spread, augmenter, tmp_path / "out")
    back = read_market_folder(tmp_path / "out")
    assert len(back) == len(people) + 48 and written.verify(tmp_path / "out") == []
    assert sorted((p.pid, p.camid, p.split) for p in people) == sorted((p.pid, p.camid, p.split) for p in back if "_p" not in p.name)


def test_photographs_of_several_sizes_keep_their_own_pixels(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    from PIL import Image

    from generators.pose import rescale

    mixed = []
    for person in people[::-1]:
        if person.name == train(people)[0].name or person.name == people[-1].name:
            path = tmp_path / person.name
            Image.open(person.path).resize((32, 64)).save(path)
            assert person.pose is not None
            person = replace(person, path=str(path), pose=rescale(person.pose, (64, 32)))
        mixed.append(person)
    dump(mixed, augmenter, tmp_path / "out")
    names, yx = read_columns(tmp_path / "out" / "annotation-test.csv")
    pose = next(p.pose for p in mixed if p.name == people[-1].name)
    assert pose is not None and pose.size == (64, 32)
    found = torch.from_numpy(yx[names.index(people[-1].name)][:, ::-1].copy()).float()
    torch.testing.assert_close(found[pose.visible], pose.xy[pose.visible])


def test_a_bad_image_stops_a_dump_before_it_begins(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    (tmp_path / "cut.jpg").write_bytes(Path(people[0].path).read_bytes()[:200])
    spoilt = [replace(p, path=str(tmp_path / "cut.jpg")) if p.name == people[-1].name else p for p in people]
    with pytest.raises(images.ImageError, match="cut.jpg"):
        dump(spoilt, augmenter, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_options_that_are_no_weights_make_another_plan(people: list[PersonImage], checkpoint: Path) -> None:
    bank = PoseBank.collect(train(people), SIZE)
    one, other = (generators.create("pg2", size=SIZE, width=4, radius_px=radius) for radius in (4.0, 1.0))
    other.load_state_dict(one.state_dict())
    assert Augmenter(one, bank).made_by != Augmenter(other, bank).made_by


def test_a_mark_half_written_does_not_lock_the_folder(people: list[PersonImage], augmenter: Augmenter, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / ".0123.tmp").write_text("{")
    assert fill(tmp_path / "c", augmenter, augmenter.plan(train(people))[:3], people).verify(tmp_path / "c") == []
