"""Silhouettes on their way to a generator: read with images, in digests where they matter, flipped and jittered with images."""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import generators
from generators import Generator, Pose
from reid_aug import Augmenter, Manifest, PoseAugmentation, PoseBank, images
from reid_aug.cli import main
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.masks import mask_file, read_masks, write_mask
from reid_aug.data.people import PersonImage
from reid_aug.data.posed_images import PosedImages, collate_poses
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.dump import dump
from reid_aug.synthesis.image_bank import collect, opened
from reid_aug.synthesis.online import PoseRenderer
from reid_aug.synthesis.online_draw import PoseDraw
from reid_aug.synthesis.online_rows import OnlineRows
from reid_aug.synthesis.train import TrainConfig, train_from
from reid_aug.synthesis.training_pairs import JitterConfig, PairStream

SIZE = (32, 16)


class ShowsSilhouettes(Generator):
    """Shows the source's silhouette in red, the target's in green, and where there was none to be seen in blue."""

    takes_scene = takes_silhouettes = True

    @generators.keeps_options
    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.size = size

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        shown = [torch.zeros_like(source[:, 0]) if p.silhouette is None else p.silhouette for p in (source_pose, target_pose)]
        unknown = torch.full_like(shown[0], float(source_pose.silhouette is None and target_pose.silhouette is None))
        return 2 * torch.stack((*shown, unknown), 1) - 1

    def players(self) -> dict[str, torch.nn.Module]:
        return {}

    def turn(self, step: int) -> tuple[str, ...]:
        return ()

    def losses(self, player: str, pair: object, step: int) -> dict[str, Tensor]:  # type: ignore[override]
        return {}


@pytest.fixture
def shows(monkeypatch: pytest.MonkeyPatch) -> ShowsSilhouettes:
    monkeypatch.setattr("reid_aug.synthesis.augmenter.name_of", lambda _: "shows")  # it is in no registry
    return ShowsSilhouettes()


@pytest.fixture
def train(masked: list[PersonImage]) -> list[PersonImage]:
    return [p for p in masked if p.split == "train"]


@pytest.fixture
def warpblend() -> Generator:
    torch.manual_seed(0)
    return generators.create("warpblend", size=SIZE, width=4)


def bare(people: list[PersonImage]) -> list[PersonImage]:
    return [replace(p, mask=None) for p in people]


def seen(people: list[PersonImage]) -> np.ndarray:
    """Silhouettes of 0 and 255, uint8 (N, H, W)."""
    return read_masks([p.mask for p in people], SIZE).numpy()


def expected(rows: list[tuple[PersonImage, PersonImage]]) -> np.ndarray:
    return np.stack([seen([s for s, _ in rows]), seen([t for _, t in rows]), np.zeros((len(rows), *SIZE), np.uint8)], -1)


def test_a_bank_knows_the_files_and_holds_no_pixels(train: list[PersonImage]) -> None:
    bank, plain = PoseBank.collect(train, SIZE), PoseBank.collect(bare(train), SIZE)
    at = {p.name: p.mask for p in train}
    assert bank.masks is not None and bank.masks == tuple(at[name] for name in bank.names) and plain.masks is None
    assert bank.pose.silhouette is None
    assert bank.digest == plain.digest and bank.scenes_digest == plain.scenes_digest and plain.masks_digest is None
    assert bank.pick([3, 1]).masks == (bank.masks[3], bank.masks[1]) and bank.knows_silhouettes and not plain.knows_silhouettes
    assert replace(bank, paths=None).silhouettes([2], SIZE) is None, "without its scenes, nobody is taken out of one"
    with pytest.raises(ValueError, match="`masks` are one for each of its"):
        replace(bank, masks=bank.masks[1:])


def test_mirrored_poses_have_mirrored_silhouettes_and_a_bank_from_a_file_those_of_its_images(
    train: list[PersonImage], shows: ShowsSilhouettes, tmp_path: Path
) -> None:  # fmt: skip
    bank = PoseBank.collect(train, SIZE)
    bank.with_mirrored().save(tmp_path / "bank.safetensors")
    twice = PoseBank.load(tmp_path / "bank.safetensors").with_masks_of(train)
    shown, n = twice.silhouettes(range(len(twice)), SIZE), len(bank)
    assert shown is not None and torch.equal(shown[n:], shown[:n].flip(-1)) and not torch.equal(shown[n:], shown[:n])
    assert torch.equal(shown[:n], read_masks(bank.masks or (), SIZE))
    rows = list(range(len(twice)))
    assert torch.equal(twice.silhouetted(rows).silhouette, shown / 255)  # type: ignore[arg-type]
    batch, poses = torch.zeros(2, 3, *SIZE), bank.pose[[0, 1]]
    draw = PoseDraw(seed=0, step=0, batch=2, rows=(0, 1), targets=(n + 1, 1), names=(twice.names[n + 1], twice.names[1]))
    for keep in (True, False):  # scenes in memory, and read as they are drawn
        drawn = PoseRenderer(shows, {None: twice}, keep_scenes=keep).render(batch, poses, draw)
        assert torch.equal((drawn[:, 1] * 255).round().to(torch.uint8), shown[[n + 1, 1]])
    assert PoseBank.load(tmp_path / "bank.safetensors").with_masks_of(bare(train)).masks is None
    named = collect(train, shows, str(tmp_path / "bank.safetensors")), opened(tmp_path / "bank.safetensors", shows, train)
    assert all(isinstance(b, PoseBank) and b.masks == twice.masks for b in named), "as a dump and a data set open it"


def test_sources_and_scenes_come_with_theirs(train: list[PersonImage], shows: ShowsSilhouettes) -> None:
    """On disk, in loader workers and on batches: each way is held to what the files hold."""
    bank, by = PoseBank.collect(train, SIZE), {p.name: p for p in train}
    augmenter = Augmenter(shows, bank, 1, seed=3, batch_size=5)
    rows = augmenter.plan(train)
    pairs = [(by[row.source], by[row.target]) for row in rows]
    assert any(s.mask and t.mask for s, t in pairs) and any(not (s.mask and t.mask) for s, t in pairs)
    drawn = np.stack([image for _, image in augmenter.render(rows, train)])
    assert (drawn[..., :2] == expected(pairs)[..., :2]).all()
    online = OnlineRows(augmenter, train, 1.0)
    assert (online.render(rows)[..., :2] == expected(pairs)[..., :2]).all()
    batch = collate_poses([PosedImages(train, SIZE)[i] for i in range(len(train))])
    augment = PoseAugmentation(shows, bank, 1.0, draw="whole")
    out, last = augment(batch.images, batch.poses), augment.last
    assert last is not None
    those = expected([(train[row], by[name]) for row, name in zip(last.rows, last.names, strict=True)])
    assert torch.equal((out[list(last.rows)] * 255).round().permute(0, 2, 3, 1)[..., :2], torch.from_numpy(those[..., :2]).float())
    augment.renderer.scenes = augment.renderer.silhouettes = None  # what loader workers have: read as they are drawn
    assert torch.equal(augment.render(batch.images, batch.poses, last), out)


def test_of_a_flipped_batch_silhouettes_are_flipped(train: list[PersonImage], shows: ShowsSilhouettes) -> None:
    batch = collate_poses([PosedImages(train, SIZE)[i] for i in range(8)])
    augment = PoseAugmentation(shows, PoseBank.collect(bare(train), SIZE), 1.0, draw="whole")
    out = augment(batch.images, batch.poses)
    assert augment.last is not None and len(augment.last.rows) == 8
    flipped = augment.render(batch.images.flip(-1), generators.mirror(batch.poses), augment.last)
    assert torch.equal(flipped[:, 0], out[:, 0].flip(-1)) and not torch.equal(flipped, out)
    plain = augment.render(batch.images, replace(batch.poses, silhouette=None), augment.last)
    assert (plain[:, 2] == 1).all(), "without any, poses have none"


def test_digests_change_where_silhouettes_decide_pixels_and_nowhere_else(
    train: list[PersonImage], warpblend: Generator, checkpoint: Path
) -> None:
    pg2 = generators.load(checkpoint)
    for people in (train, bare(train)):
        bank = PoseBank.collect(people, SIZE)
        made_by = Augmenter(warpblend, bank).made_by
        assert made_by.get("masks_digest") == bank.masks_digest and ("masks_digest" in made_by) == (people is train)
        assert "masks_digest" not in Augmenter(warpblend, replace(bank, paths=None)).made_by
        assert Augmenter(pg2, bank).made_by == Augmenter(pg2, PoseBank.collect(bare(train), SIZE)).made_by


def test_a_dump_says_so_and_is_not_gone_on_with_without(masked: list[PersonImage], warpblend: Generator, tmp_path: Path) -> None:
    train = [p for p in masked if p.split == "train"]
    out, bank = tmp_path / "out", PoseBank.collect(train, SIZE)
    written = dump(masked, Augmenter(warpblend, bank, 1), out)
    assert written.made_by["masks_digest"] == bank.masks_digest and written.verify(out) == []
    (out / written.rows[0].path).unlink()
    assert dump(masked, Augmenter(warpblend, bank, 1), out) == written, "what is missing comes back the same"
    for people, other in ((bare(masked), PoseBank.collect(bare(train), SIZE)), (bare(masked), bank)):
        with pytest.raises(ValueError, match="made from other images, or from other poses of them, or silhouettes: give another folder"):
            dump(people, Augmenter(warpblend, other, 1), out)
    plain = dump(bare(masked), Augmenter(warpblend, PoseBank.collect(bare(train), SIZE), 1), tmp_path / "plain")
    there = {row.path: row.sha256 for row in plain.rows}
    assert any(there[row.path] != row.sha256 for row in written.rows)
    unknown = {p.name for p in train if p.mask is None}
    same = [row for row in written.rows if row.source in unknown and row.target in unknown]
    assert same and all(there[row.path] == row.sha256 for row in same), "who has none is drawn as without"


def test_the_command_dumps_and_checks(rendered: RenderedSet, masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generators.save(generators.create("warpblend", size=SIZE, width=4), tmp_path / "wb.safetensors")
    generators.save(generators.create("pg2", size=SIZE, width=4), tmp_path / "pg2.safetensors")
    data = [f"data.root={rendered.root}", f"data.masks={masks}", "per_image=1"]
    assert main(["dump", f"checkpoint={tmp_path / 'wb.safetensors'}", *data, f"out={tmp_path / 'd'}"]) == 0
    said = capsys.readouterr().err
    assert said.count("have no silhouette in") == 1
    assert "masks_digest" in Manifest.load(tmp_path / "d" / "manifest.jsonl").made_by
    assert main(["check", str(tmp_path / "d")]) == 0
    assert main(["dump", f"checkpoint={tmp_path / 'pg2.safetensors'}", *data, f"out={tmp_path / 'p'}"]) == 0
    assert f"PG2 does not look at silhouettes: those of {masks} change no image" in capsys.readouterr().err


# --- learning ---


@pytest.fixture
def images_as_masks(rendered: RenderedSet, train: list[PersonImage], tmp_path: Path) -> Iterator[list[PersonImage]]:
    """People whose photographs are their silhouettes: what is done to the one must be done to the other."""
    out = []
    for p in train:
        shown = torch.from_numpy(rendered.truth(p.name).body_mask).float() * torch.linspace(0.2, 1, SIZE[1])
        write_mask(tmp_path / "m", p.name, shown)
        path = tmp_path / "i" / Path(p.name).with_suffix(".png")
        images.write(read_masks([os.fspath(mask_file(tmp_path / "m", p.name))], SIZE)[0][..., None].expand(-1, -1, 3).numpy(), path)
        out.append(replace(p, path=str(path), alias=p.name, mask=os.fspath(mask_file(tmp_path / "m", p.name))))
    yield out


@pytest.mark.parametrize("jitter", [None, JitterConfig(degrees=30, scale=(0.8, 1.2), shift_px=3)])
def test_pairs_are_flipped_and_jittered_with_their_silhouettes(images_as_masks: list[PersonImage], jitter: JitterConfig | None) -> None:
    stream = PairStream(images_as_masks, SIZE, 8, 0, silhouettes=True, jitter=jitter)
    for step in range(2):
        pair = stream[step]
        for image, pose in ((pair.source, pair.source_pose), (pair.target, pair.target_pose)):
            assert pose.silhouette is not None
            torch.testing.assert_close(2 * pose.silhouette - 1, image[:, 0], rtol=0, atol=1e-4)
    assert stream.digest == PairStream(bare(images_as_masks), SIZE, 8, 0, silhouettes=True).digest
    for people, wanted in ((bare(images_as_masks), True), (images_as_masks, False)):
        assert PairStream(people, SIZE, 8, 0, silhouettes=wanted)[0].source_pose.silhouette is None


def test_a_training_is_of_its_silhouettes_and_resumes_with_them_alone(rendered: RenderedSet, masks: Path, tmp_path: Path) -> None:
    own = shutil.copytree(masks, tmp_path / "m")

    def trained(steps: int, **data: object) -> Path:
        config = TrainConfig.model_validate({
            "generator": {"name": "warpblend", "size": SIZE, "width": 4, "steps": 4, "adversarial_weight": 0.0}, "steps": steps,
            "batch_size": 2, "samples": 1, "out": str(tmp_path / "run"), "data": {"root": str(rendered.root), **data},
        })  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DataDoubt)
            return train_from(config).checkpoint

    about = generators.read_header(trained(1, masks=str(own)))["about"]
    assert len(about["masks"]) == 16
    assert generators.read_header(trained(2, masks=str(own)))["step"] == 2
    with pytest.raises(ValueError, match=f"was trained with masks '{about['masks']}', this run asks for None"):
        trained(2)
    for file in own.glob("*.png"):
        write_mask(own, file.name.removesuffix(".png"), torch.ones(SIZE))
    with pytest.raises(ValueError, match=f"was trained with masks '{about['masks']}', this run asks for '"):
        trained(2, masks=str(own))
