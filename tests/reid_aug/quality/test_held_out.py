"""What image quality is measured on: pairs of files and of keypoints, and images that are kept and found again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene

import generators
from generators import Pose, body_mask, openpose_18
from reid_aug import images
from reid_aug.data.pairs import pairs_from_keypoints, unpaired, write_pairs
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import content_digest, dump_batches, listed, pairs_to_measure, protocol_mask, reencode, rendered_pairs
from reid_aug.quality.protocols import MaskConfig, PairsConfig
from reid_aug.rendered import RenderedSet
from reid_aug.synthesis.manifest import SyntheticRow

SIZE = (32, 16)


class TestListedPairs:
    def names(self, people: list[PersonImage]) -> list[tuple[str, str]]:
        return [(s.name, t.name) for s, t in pairs_to_measure(people, PairsConfig(count=6, seed=5))]

    def test_a_file_is_measured_row_by_row(self, people: list[PersonImage], tmp_path: Path) -> None:
        names = self.names(people)
        write_pairs(tmp_path / "p.csv", names[::-1])
        pairs = pairs_to_measure(people, PairsConfig(file=str(tmp_path / "p.csv")))
        assert [(s.name, t.name) for s, t in pairs] == names[::-1] and all(s.split != "train" and s.pid == t.pid for s, t in pairs)

    def test_keypoint_order_is_the_published_way_of_drawing(self, people: list[PersonImage], rendered: RenderedSet) -> None:
        path = rendered.root / "annotation-test.csv"
        pairs = pairs_to_measure(people, PairsConfig(count=9, seed=2, order="keypoints"), path)
        assert [(s.name, t.name) for s, t in pairs] == pairs_from_keypoints(path, 9, 2)
        assert pairs == pairs_to_measure(people[::-1], PairsConfig(count=9, seed=2, order="keypoints"), path)
        with pytest.raises(ValueError, match="samples from a keypoint file: give data.test_keypoints=FILE"):
            pairs_to_measure(people, PairsConfig(count=9, order="keypoints"))

    def test_a_name_of_two_photographs_is_refused(self, people: list[PersonImage], tmp_path: Path) -> None:
        """Of a copy in both splits the gallery's is taken; another photograph of the name is nobody's to choose."""
        source, target = pairs_to_measure(people, PairsConfig(count=1, seed=5))[0]
        copy, other = (tmp_path / split / source.name for split in ("query", "gallery"))
        for path in (copy, other):
            path.parent.mkdir()
            path.write_bytes(Path(source.path).read_bytes())
        rest = [p for p in people if p.name != source.name]
        both = [replace(source, path=str(copy), split="query"), replace(source, path=str(other), split="gallery")]
        (pair,) = listed([*rest, *both], [(source.name, target.name)], "list")
        assert pair[0].split == "gallery"
        other.write_bytes(Path(target.path).read_bytes())
        with pytest.raises(ValueError, match=f"'{source.name}' names one image, and 2 files end so, .* as 'query/{source.name}'"):
            listed([*rest, *both], [(source.name, target.name)], "list")
        (pair,) = listed([*rest, *both], [(f"query/{source.name}", target.name)], "list")
        assert pair[0].split == "query"

    def test_without_test_images_or_their_poses_the_way_out_is_named(self, people: list[PersonImage]) -> None:
        train, bare = [p for p in people if p.split == "train"], [replace(p, pose=None) for p in people]
        for crowd, says in ((train, "the data set has neither"), (bare, "give data.test_keypoints=FILE")):
            with pytest.raises(
                ValueError, match=f"image quality .* query and gallery.*{says} .a benchmark does without by quality.pairs=0"
            ):
                pairs_to_measure(crowd, PairsConfig(count=1))

    def test_what_is_not_there_is_named(self, people: list[PersonImage], tmp_path: Path) -> None:
        path, names = tmp_path / "p.csv", self.names(people)
        train = next(p.name for p in people if p.split == "train")
        bare = [replace(p, pose=None) if p.name == names[2][1] else p for p in people]
        blind = [replace(p, pose=replace(p.pose, visible=torch.zeros_like(p.pose.visible))) if p.name == names[2][1] and p.pose else p
                 for p in people]  # fmt: skip
        stranger = [p for p in people if p.split == "gallery" and p.pose and not p.name.startswith(names[0][0][:4])][0]
        for rows, crowd, kind, complaint in (
            ([*names, ("lost.jpg", names[0][0])], people, "paired", r"p\.csv names lost\.jpg, which is no image of query or gallery"),
            ([(names[0][0], train)], people, "paired", f"names {train}, which is no image"),
            (names, bare, "paired", f"names {names[2][1]}, which has no pose"),
            (names, blind, "paired", f"names {names[2][1]}, which has no pose"),
            ([(names[0][0], stranger.name)], people, "paired", f"{stranger.name} show different people, and pairs.kind is paired"),
            (names, people, "unpaired", "show one person, and pairs.kind is unpaired"),
            ([], people, "paired", "lists no pair"),
        ):
            write_pairs(path, rows)
            with pytest.raises(ValueError, match=complaint):
                pairs_to_measure(crowd, PairsConfig.model_validate({"kind": kind, "file": str(path)}))
        write_pairs(path, names)
        with pytest.raises(ValueError, match=r"lists 6 pairs, pairs\.count is 7: give pairs\.count=6"):
            pairs_to_measure(people, PairsConfig(file=str(path), count=7))
        path.write_text("from,to\na.jpg\n")
        with pytest.raises(ValueError, match=r"p\.csv, line 2: a row is two names"):
            pairs_to_measure(people, PairsConfig(file=str(path)))

    def test_contents_tell_pairs_apart(self, people: list[PersonImage], tmp_path: Path) -> None:
        pairs = pairs_to_measure(people, PairsConfig(count=3))
        (source, target), *rest = pairs
        assert source.pose is not None and target.pose is not None
        same = tmp_path / source.name
        same.write_bytes(Path(source.path).read_bytes())
        assert content_digest([(replace(source, path=str(same)), target), *rest]) != content_digest(rest)
        first = content_digest([(replace(source, path=str(same)), target)])
        assert first == content_digest([(source, target)])
        same.write_bytes(Path(rest[0][0].path).read_bytes() + b" ")
        moved = replace(target, pose=replace(target.pose, xy=target.pose.xy + 1))
        unseen = replace(source, pose=replace(source.pose, visible=~source.pose.visible))
        others = [[(replace(source, path=str(same)), target)], [(source, moved)], [(unseen, target)], [(target, source)]]
        assert len({first, *map(content_digest, others)}) == 5


    def test_with_scenes_the_targets_images_count_too(self, people: list[PersonImage], tmp_path: Path) -> None:
        ((source, target),) = pairs_to_measure(people, PairsConfig(count=1))
        (tmp_path / target.name).write_bytes(Path(target.path).read_bytes() + b" ")
        changed = replace(target, path=str(tmp_path / target.name))
        assert content_digest([(source, changed)]) == content_digest([(source, target)])
        assert len({content_digest([(source, t)], scenes) for t in (target, changed) for scenes in (False, True)}) == 3


class TestScenes:
    def test_who_takes_scenes_gets_the_targets(self, checkpoint: Path, people: list[PersonImage]) -> None:
        pairs, cpu = pairs_to_measure(people, PairsConfig(count=5)), torch.device("cpu")
        for batch in rendered_pairs(CopiesScene(SIZE), pairs, MaskConfig(), device=cpu, batch_size=3):
            assert batch.in_scene and batch.target is not None and torch.equal(batch.generated, batch.target)
            camids = {p.name: p.camid for p in people if p.split != "train"}
            assert batch.scene_camids == [camids[target] for _, target in batch.names] != batch.camids
        plain = next(iter(rendered_pairs(generators.load(checkpoint), pairs, MaskConfig(), device=cpu)))
        assert not plain.in_scene and plain.scene_camids is None

    def test_images_of_another_size_are_resized_once(self, people: list[PersonImage], tmp_path: Path) -> None:
        """A generator of 40 × 24 is measured at 32 × 16 beside photographs, poses and masks of that size."""
        pairs, cpu = pairs_to_measure(people, PairsConfig(count=3)), torch.device("cpu")
        (batch,) = rendered_pairs(CopiesScene((40, 24)), pairs, MaskConfig(), device=cpu, size=SIZE, keep=tmp_path)
        (beside,) = rendered_pairs(CopiesScene(SIZE), pairs, MaskConfig(), device=cpu)
        own = images.read_many([target.path for _, target in pairs], (40, 24))
        assert torch.equal(batch.generated, images.resized(own, SIZE)) and not torch.equal(batch.generated, beside.generated)
        assert torch.equal(batch.generated, images.read_many([tmp_path / name for name in batch.files], SIZE)), "as they are kept"
        for name in ("source", "target", "mask"):
            assert torch.equal(getattr(batch, name), getattr(beside, name))
        assert torch.equal(batch.target_pose.xy, beside.target_pose.xy)

    @pytest.mark.parametrize("in_scene", [False, True])
    def test_rows_of_a_dump_have_their_targets_cameras(self, people: list[PersonImage], in_scene: bool) -> None:
        train = [p for p in people if p.split == "train"]
        rows = [SyntheticRow(p.name, p.name, q.name, p.pid, p.camid, 0) for p, q in zip(train, train[5:], strict=False)]
        (batch,) = dump_batches(Path(train[0].path).parent, rows, people, SIZE, MaskConfig(), in_scene=in_scene)
        assert batch.camids == [p.camid for p in train[: len(rows)]] and batch.in_scene == in_scene
        assert batch.scene_camids == ([q.camid for q in train[5:]] if in_scene else None)


class TestKeptImages:
    def test_kept_files_are_what_is_measured(self, checkpoint: Path, people: list[PersonImage], tmp_path: Path) -> None:
        """Joints that another estimator finds on them are of the pixels that the other metrics see."""
        pairs, model = pairs_to_measure(people, PairsConfig(count=4)), generators.load(checkpoint)
        plain = next(iter(rendered_pairs(model, pairs, MaskConfig(), device=torch.device("cpu"))))
        for _ in range(2):  # rendered, then read
            batch = next(iter(rendered_pairs(model, pairs, MaskConfig(), jpeg=75, device=torch.device("cpu"), keep=tmp_path)))
            assert sorted(batch.files) == sorted(file.name for file in tmp_path.iterdir())
            assert torch.equal(batch.generated, images.read_many([tmp_path / file for file in batch.files], SIZE))
            assert torch.equal(batch.generated, reencode(plain.generated, 75)) and not torch.equal(batch.generated, plain.generated)

    def test_killed_work_goes_on(
        self, checkpoint: Path, people: list[PersonImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pairs, model = pairs_to_measure(people, PairsConfig(count=9)), generators.load(checkpoint)
        first = next(iter(rendered_pairs(model, pairs, MaskConfig(), batch_size=3, keep=tmp_path)))
        assert len(list(tmp_path.iterdir())) == 3
        calls = []
        monkeypatch.setattr(type(model), "forward", lambda self, *a: calls.append(len(a[0])) or torch.zeros(len(a[0]), 3, *SIZE))
        again = list(rendered_pairs(model, pairs, MaskConfig(), batch_size=3, keep=tmp_path))
        assert calls == [3, 3] and torch.equal(again[0].generated, first.generated)


def test_jpeg_is_what_a_file_would_hold(tmp_path: Path) -> None:
    pixels = torch.randint(256, (2, 3, 24, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images.write(pixels[1].permute(1, 2, 0).numpy(), tmp_path / "a.jpg", quality=75)
    assert np.array_equal(reencode(pixels, 75)[1].permute(1, 2, 0).numpy(), images.read(tmp_path / "a.jpg"))


def test_unpaired_groups_do_not_overlap(people: list[PersonImage]) -> None:
    pairs = unpaired(people, 20, seed=3, source_identities=1, target_identities=3)
    sources, targets = {a.pid for a, _ in pairs}, {b.pid for _, b in pairs}
    assert len(sources) == 1 and len(targets) == 3 and not sources & targets and len(set(pairs)) == 20
    assert unpaired(list(reversed(people)), 20, 3, 1, 3) == pairs
    with pytest.raises(ValueError, match="376 source and 375 target identities are wanted; query and gallery have 4"):
        unpaired(people, 20, 0, 376, 375)


def test_protocol_mask_is_the_papers_at_128_rows() -> None:
    pose = Pose(torch.rand(2, 18, 2) * 60, torch.ones(2, 18, dtype=torch.bool), openpose_18, (128, 64))
    assert torch.equal(protocol_mask(pose), body_mask(pose, 4.0, closing_px=5).bool())
