"""PoseAugmentation: who is redrawn, how, and the same again."""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchreid import data as torchreid_data
from torchvision import transforms

import generators
from generators import Generator, Pose, keeps_options
from generators.pose import coco_17, convert, openpose_18, rescale, upper_7
from reid_aug import Augmenter, PoseBank, images
from reid_aug.data.people import PersonImage
from reid_aug.data.posed_images import PosedImages, collate_poses, poses_of, with_poses
from reid_aug.synthesis.online import PoseAugmentation, PoseDraw

SIZE = (32, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHOULDER = openpose_18.index("r_shoulder")


class Tint(Generator):
    """½ of the source, plus ¼ of how far right the target's right shoulder is, plus ⅛ of how far right the source's is."""

    @keeps_options
    def __init__(self, size: tuple[int, int] = SIZE) -> None:
        super().__init__()
        self.size, self.skeleton = (int(size[0]), int(size[1])), openpose_18
        self.weight = nn.Parameter(torch.tensor(0.5))
        self.noise = nn.Dropout(0.5)
        self.calls: list[Tensor] = []

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose) -> Tensor:
        self.check(source, source_pose, target_pose)
        self.calls.append(source)
        target, given = (pose.xy[:, SHOULDER, 0].view(-1, 1, 1, 1) / self.size[1] for pose in (target_pose, source_pose))
        return self.weight * self.noise(source) + target / 4 + given / 8

    def players(self):
        return {"generator": self}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("generator",)

    def losses(self, player: str, pair, step: int):
        return {"l1": (self(pair.source, pair.source_pose, pair.target_pose) - pair.target).abs().mean()}


def some_poses(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> Pose:
    """Everybody seen whole, joints anywhere in the image."""
    draw = torch.Generator().manual_seed(seed)
    xy = torch.rand(count, 18, 2, generator=draw) * torch.tensor([size[1] - 1, size[0] - 1])
    return Pose(xy, torch.ones(count, 18, dtype=torch.bool), openpose_18, size)


def some_images(count: int, seed: int = 0, size: tuple[int, int] = SIZE) -> Tensor:
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed))


def some_bank(count: int, seed: int = 1, size: tuple[int, int] = SIZE) -> PoseBank:
    return PoseBank(tuple(f"{seed}-{i}.jpg" for i in range(count)), some_poses(count, seed, size))


def hidden(poses: Pose, row: int, joint: str) -> Pose:
    visible = poses.visible.clone()
    visible[row, poses.skeleton.index(joint)] = False
    return replace(poses, visible=visible)


def tinted(pixels: Tensor, source: Pose, target: Pose) -> Tensor:
    """What Tint makes of one image (3, H, W) in [0, 1], by hand."""
    shoulders = [float(pose.xy[SHOULDER, 0]) / pose.size[1] for pose in (target, source)]
    return ((pixels * 2 - 1) * 0.5 + shoulders[0] / 4 + shoulders[1] / 8 + 1) / 2


class TestApply:
    def test_every_row_by_hand(self) -> None:
        pixels, poses, bank = some_images(9), some_poses(9), some_bank(5)
        augment = PoseAugmentation(Tint(), bank, 0.5, seed=2)
        out = augment(pixels, poses)
        draw = augment.last
        assert draw is not None and 0 < len(draw.rows) < 9
        for row in range(9):
            if row in draw.rows:
                target = draw.targets[draw.rows.index(row)]
                assert draw.names[draw.rows.index(row)] == bank.names[target]
                torch.testing.assert_close(out[row], tinted(pixels[row], poses[row], bank.pose[target]), rtol=0, atol=1e-6)
                assert not torch.equal(out[row], pixels[row])
            else:
                assert torch.equal(out[row], pixels[row])

    def test_never_and_always(self) -> None:
        pixels, poses = some_images(6), some_poses(6)
        never, always = (PoseAugmentation(Tint(), some_bank(4), p) for p in (0.0, 1.0))
        out = never(pixels, poses)
        assert torch.equal(out, pixels) and never.generator.calls == []  # type: ignore[attr-defined]
        assert out.data_ptr() != pixels.data_ptr(), "what the caller does to the result is not done to the batch"
        always(pixels, poses)
        assert always.last is not None and always.last.rows == tuple(range(6))

    def test_the_batch_given_is_left_alone(self) -> None:
        pixels, poses = some_images(6), some_poses(6)
        before, xy = pixels.clone(), poses.xy.clone()
        PoseAugmentation(Tint((16, 8)), some_bank(4), 1.0, mean=MEAN, std=STD)(pixels, poses)
        assert torch.equal(pixels, before) and torch.equal(poses.xy, xy)

    @pytest.mark.parametrize("joint", ["r_shoulder", "l_shoulder", "r_hip", "l_hip"])
    def test_who_is_not_seen_whole_is_left_alone(self, joint: str) -> None:
        pixels, poses = some_images(4), hidden(hidden(some_poses(4), 2, joint), 3, "r_wrist")
        augment = PoseAugmentation(Tint(), some_bank(4), 1.0)
        out = augment(pixels, poses)
        assert augment.last is not None and augment.last.rows == (0, 1, 3)
        assert torch.equal(out[2], pixels[2])

    def test_a_batch_of_one(self) -> None:
        pixels, poses, bank = some_images(1), some_poses(1), some_bank(1)
        out = PoseAugmentation(Tint(), bank, 1.0)(pixels, poses)
        torch.testing.assert_close(out[0], tinted(pixels[0], poses[0], bank.pose[0]), rtol=0, atol=1e-6)

    def test_an_empty_batch(self) -> None:
        assert PoseAugmentation(Tint(), some_bank(1), 1.0)(some_images(0), some_poses(0)).shape == (0, 3, *SIZE)

    @pytest.mark.parametrize("own", [(32, 16), (64, 32), (40, 24)])
    def test_through_a_generator_of_another_size(self, own: tuple[int, int]) -> None:
        """Poses are in pixels of their own size, whatever the images'."""
        pixels, poses, bank = some_images(3, size=(48, 20)), some_poses(3, size=(96, 40)), some_bank(4, size=(128, 64))
        augment = PoseAugmentation(Tint(own), bank, 0.5, seed=1)
        out = augment(pixels, poses)
        draw = augment.last
        assert draw is not None and 0 < len(draw.rows) < 3
        for row, target in zip(draw.rows, draw.targets, strict=True):
            given = F.interpolate(pixels[[row]], own, mode="bilinear", antialias=True)[0]
            drawn = tinted(given, rescale(poses[row], own), rescale(bank.pose[target], own))
            expected = F.interpolate(drawn[None], (48, 20), mode="bilinear", antialias=True)[0]
            torch.testing.assert_close(out[row], expected, rtol=0, atol=1e-6)
        rest = [row for row in range(3) if row not in draw.rows]
        assert torch.equal(out[rest], pixels[rest])

    def test_a_plain_picture_keeps_its_colour_through_another_size(self) -> None:
        """Closed form: a resize of one colour is that colour, so size must not show."""
        pixels, poses, bank = torch.full((1, 3, 50, 26), 0.3), some_poses(1), some_bank(1)
        out = PoseAugmentation(Tint(), bank, 1.0)(pixels, poses)
        expected = tinted(torch.tensor(0.3), poses[0], bank.pose[0])
        torch.testing.assert_close(out, expected.expand_as(out), rtol=0, atol=1e-6)

    def test_normalised_is_the_same_picture(self) -> None:
        pixels, poses, bank = some_images(8), some_poses(8), some_bank(5)
        plain = PoseAugmentation(Tint(), bank, 0.5, seed=4)
        normal = PoseAugmentation(Tint(), bank, 0.5, seed=4, mean=MEAN, std=STD)
        normalise = transforms.Normalize(MEAN, STD)
        given = normalise(pixels)
        out = normal(given, poses)
        torch.testing.assert_close(out, normalise(plain(pixels, poses)), rtol=0, atol=1e-5)
        assert normal.last == plain.last and normal.last is not None
        rest = [row for row in range(8) if row not in normal.last.rows]
        assert rest and torch.equal(out[rest], given[rest])

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
    def test_other_types_stay_and_are_drawn_in_float32(self, dtype: torch.dtype) -> None:
        pixels, poses, bank = some_images(8).to(dtype), some_poses(8), some_bank(5)
        augment = PoseAugmentation(Tint(), bank, 0.5, seed=4)
        out = augment(pixels, poses)
        assert out.dtype == dtype and augment.last is not None and 0 < len(augment.last.rows) < 8
        assert augment.generator.calls[0].dtype == torch.float32  # type: ignore[attr-defined]
        expected = PoseAugmentation(Tint(), bank, 0.5, seed=4)(pixels.float(), poses).to(dtype)
        assert torch.equal(out, expected)

    def test_a_cpu_draws_in_float32_also_inside_an_autocast(self) -> None:
        torch.manual_seed(0)
        pixels, poses, bank = some_images(4), some_poses(4), some_bank(3)
        augment = PoseAugmentation(generators.create("pg2", size=SIZE, width=4), bank, 1.0)
        draw = augment.draw(poses)
        with torch.autocast("cpu", torch.bfloat16):
            inside = augment.render(pixels, poses, draw)
        with torch.no_grad():
            wanted = augment.generator(pixels * 2 - 1, poses, bank.pose[list(draw.targets)]) / 2 + 0.5
        torch.testing.assert_close(inside, wanted, rtol=0, atol=1e-5)

    def test_layout_stays(self) -> None:
        for layout in (torch.contiguous_format, torch.channels_last):
            pixels = some_images(4).contiguous(memory_format=layout)
            out = PoseAugmentation(Tint(), some_bank(3), 0.5)(pixels, some_poses(4))
            assert out.is_contiguous(memory_format=layout) and out.stride() == pixels.stride()

    def test_no_joint_of_a_longer_skeleton_is_needed(self) -> None:
        """COCO's poses on a generator of openpose_18: the neck is between the shoulders, the rest as it was."""
        poses, bank = convert(some_poses(3), coco_17), some_bank(2)
        pixels = some_images(3)
        out = PoseAugmentation(Tint(), bank, 1.0)(pixels, poses)
        assert torch.equal(out, PoseAugmentation(Tint(), bank, 1.0)(pixels, convert(poses, openpose_18)))
        assert not torch.equal(out, pixels)

    def test_a_row_is_what_render_draws(self, people: list[PersonImage], checkpoint: Path) -> None:
        train = [p for p in people if p.split == "train"]
        bank = PoseBank.collect(train, SIZE)
        batch = collate_poses(list(map(PosedImages(train, SIZE).__getitem__, range(6))))
        augment = PoseAugmentation(generators.load(checkpoint), bank, 1.0, seed=5)
        out = augment(batch.images, batch.poses)
        assert augment.last is not None and augment.last.rows
        planned = Augmenter(generators.load(checkpoint), bank, 1, device="cpu")
        by_name = {row.source: row for row in planned.plan(train)}
        drawn = zip(augment.last.rows, augment.last.names, strict=True)
        rows = [replace(by_name[Path(batch.paths[i]).name], target=name) for i, name in drawn]
        for i, (_, image) in zip(augment.last.rows, planned.render(rows, train), strict=True):
            ours = images.to_uint8(out[i] * 2 - 1).permute(1, 2, 0).numpy()
            assert np.abs(ours.astype(int) - image.astype(int)).max() <= 1  # a sum over another batch may round differently


class TestDraw:
    def test_the_share_is_p_and_targets_are_uniform(self) -> None:
        poses, augment = some_poses(64), PoseAugmentation(Tint(), some_bank(7), 0.3, seed=1)
        draws = [augment.draw(poses) for _ in range(400)]
        redrawn = np.bincount([row for draw in draws for row in draw.rows], minlength=64)
        assert abs(redrawn.sum() / (400 * 64) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / (400 * 64))
        assert abs(redrawn / 400 - 0.3).max() < 5 * np.sqrt(0.3 * 0.7 / 400), "no place in the batch is special"
        targets = np.bincount([target for draw in draws for target in draw.targets], minlength=7)
        share = targets.sum() / 7
        assert len(targets) == 7 and abs(targets - share).max() < 5 * np.sqrt(share)
        assert len({draw.rows for draw in draws}) == 400

    def test_only_seed_and_step_decide(self) -> None:
        poses, bank = some_poses(32), some_bank(9)
        first = PoseAugmentation(Tint(), bank, seed=7)
        torch.manual_seed(0)
        one = [first.draw(poses) for _ in range(3)]
        torch.manual_seed(1)
        np.random.seed(1)
        second = PoseAugmentation(Tint(), bank, seed=7)
        assert [second.draw(poses) for _ in range(3)] == one
        other = PoseAugmentation(Tint(), bank, seed=8).draw(poses)
        assert (other.rows, other.targets) != (one[0].rows, one[0].targets)
        assert [draw.step for draw in one] == [0, 1, 2] and {draw.seed for draw in one} == {7}

    def test_a_row_does_not_depend_on_the_others(self) -> None:
        """Neither a shorter last batch nor a neighbour's missing joint changes what a row gets."""
        poses, bank = some_poses(16), some_bank(9)

        def drawn(given: Pose) -> dict[int, str]:
            draw = PoseAugmentation(Tint(), bank, 0.7, seed=3).draw(given)
            return dict(zip(draw.rows, draw.names, strict=True))

        whole = drawn(poses)
        assert drawn(poses[:10]) == {row: name for row, name in whole.items() if row < 10}
        gone = next(iter(whole))
        assert drawn(hidden(poses, gone, "l_hip")) == {row: name for row, name in whole.items() if row != gone}

    def test_a_resumed_training_goes_on(self) -> None:
        poses, bank = some_poses(16), some_bank(9)
        whole = PoseAugmentation(Tint(), bank, seed=7)
        wanted = [whole.draw(poses) for _ in range(5)][3:]
        first = PoseAugmentation(Tint(), bank, seed=7)
        for _ in range(3):
            first.draw(poses)
        saved = nn.ModuleDict({"augment": first, "model": nn.Linear(2, 2)}).state_dict()
        second = nn.ModuleDict({"augment": PoseAugmentation(Tint(), bank, seed=7), "model": nn.Linear(2, 2)})
        second.load_state_dict(saved)
        augment = second["augment"]
        assert isinstance(augment, PoseAugmentation) and augment.step == 3
        assert [augment.draw(poses) for _ in range(2)] == wanted
        augment.step = 3
        assert augment.draw(poses) == wanted[0]

    def test_a_refused_batch_is_not_counted(self) -> None:
        augment = PoseAugmentation(Tint(), some_bank(3))
        with pytest.raises(ValueError):
            augment(some_images(3), some_poses(4))
        assert augment.step == 0 and augment.last is None


class TestReplay:
    @pytest.mark.parametrize("name", ["tint", *generators.names()])
    def test_the_same_again_also_from_json(self, name: str) -> None:
        torch.manual_seed(0)
        size = {"momi": (64, 32), "posewarp": (64, 32), "vdg": (32, 16)}.get(name, SIZE)
        model = Tint() if name == "tint" else generators.create(name, size=size, width=4)
        pixels, poses = some_images(5), some_poses(5)
        augment = PoseAugmentation(model, some_bank(4), 0.6, seed=1)
        first = augment(pixels, poses)
        recorded = augment.last
        assert recorded is not None and 0 < len(recorded.rows) < 5
        assert not torch.equal(augment(pixels, poses), first), "the next epoch is another"
        read = PoseDraw.from_json(recorded.to_json())
        assert read == recorded and PoseDraw(**json.loads(json.dumps(asdict(recorded)))) == recorded
        step = augment.step
        assert torch.equal(augment.render(pixels, poses, read), first)
        assert augment.step == step, "a replay draws nothing"

    def test_identities_too(self) -> None:
        augment = PoseAugmentation(Tint(), {3: some_bank(2, 1), 5: some_bank(4, 2)}, 0.9)
        pixels, poses = some_images(4), some_poses(4)
        first = augment(pixels, poses, [3, 5, 5, 3])
        assert augment.last is not None
        assert torch.equal(augment.render(pixels, poses, PoseDraw.from_json(augment.last.to_json())), first)

    @given(st.data())
    @settings(max_examples=30, deadline=None)
    def test_any_draw_survives_json(self, data: st.DataObject) -> None:
        batch = data.draw(st.integers(0, 12))
        rows = sorted(data.draw(st.sets(st.integers(0, batch - 1)))) if batch else []
        columns = [data.draw(st.lists(kind, min_size=len(rows), max_size=len(rows))) for kind in (st.integers(0, 99), st.text())]
        pids = data.draw(st.one_of(st.just([]), st.lists(st.integers(), min_size=len(rows), max_size=len(rows))))
        seed, step = data.draw(st.tuples(st.integers(0, 2**64 - 1), st.integers(0)))
        draw = PoseDraw(seed, step, batch, tuple(rows), tuple(columns[0]), tuple(columns[1]), tuple(pids))  # type: ignore[arg-type]
        assert PoseDraw.from_json(draw.to_json()) == draw and hash(draw) == hash(PoseDraw.from_json(draw.to_json()))

    @pytest.mark.parametrize("text", ["", "[]", "{}", '{"rows": 1}', '{"seed":0,"step":0,"batch":2,"rows":[2],"targets":[0],"names":["a"]}',
                                      '{"seed":0,"step":0,"batch":2,"rows":[1,0],"targets":[0,0],"names":["a","b"]}',
                                      '{"seed":0,"step":0,"batch":2,"rows":[0],"targets":[],"names":["a"]}',
                                      '{"seed":0,"step":0,"batch":2,"rows":[0],"targets":[1],"names":["a"],"pids":[1,2]}'])  # fmt: skip
    def test_what_is_no_draw(self, text: str) -> None:
        with pytest.raises(ValueError):
            PoseDraw.from_json(text)

    def test_p_may_follow_a_schedule(self) -> None:
        augment = PoseAugmentation(Tint(), some_bank(3), 1.0, seed=5)
        assert (augment.p, augment.seed) == (1.0, 5)
        augment.p = 0
        assert augment.draw(some_poses(4)).rows == ()
        with pytest.raises(ValueError, match=r"p is a probability in \[0, 1\], got 1.5"):
            augment.p = 1.5

    def test_another_bank_or_batch_is_refused(self) -> None:
        pixels, poses = some_images(4), some_poses(4)
        draw = PoseAugmentation(Tint(), some_bank(3), 1.0).draw(poses)
        with pytest.raises(ValueError, match=r"another bank: the bank has no pose \d named '1-\d.jpg'"):
            PoseAugmentation(Tint(), some_bank(3, seed=2), 1.0).render(pixels, poses, draw)
        with pytest.raises(ValueError, match="a draw for a batch of 4 can't be rendered on 2 images"):
            PoseAugmentation(Tint(), some_bank(3), 1.0).render(pixels[:2], poses[:2], draw)
        with pytest.raises(ValueError, match="the bank has no pose"):
            PoseAugmentation(Tint(), {1: some_bank(3)}, 1.0).render(pixels, poses, draw)


class TestBanks:
    def test_each_identity_draws_from_its_own(self) -> None:
        banks = {3: some_bank(2, 1), 5: some_bank(4, 2)}
        pids = torch.tensor([3, 5, 9, 5, 3])
        pixels, poses, augment = some_images(5), some_poses(5), PoseAugmentation(Tint(), banks, 1.0)
        seen: dict[int, set[str]] = {3: set(), 5: set()}
        for _ in range(60):
            out = augment(pixels, poses, pids)
            draw = augment.last
            assert draw is not None and draw.rows == (0, 1, 3, 4) and draw.pids == (3, 5, 5, 3)
            assert torch.equal(out[2], pixels[2]), "who has no bank stays"
            for row, pid, target, name in zip(draw.rows, draw.pids, draw.targets, draw.names, strict=True):
                seen[pid].add(name)
                torch.testing.assert_close(out[row], tinted(pixels[row], poses[row], banks[pid].pose[target]), rtol=0, atol=1e-6)
        assert seen == {pid: set(bank.names) for pid, bank in banks.items()}

    def test_banks_of_other_sizes_and_skeletons(self) -> None:
        bank = some_bank(3)
        large = replace(bank, pose=rescale(bank.pose, (128, 64)))
        coco = replace(bank, pose=convert(bank.pose, coco_17))
        pixels, poses = some_images(4), some_poses(4)
        plain = PoseAugmentation(Tint(), {0: bank}, 1.0)(pixels, poses, [0] * 4)
        for other in (large, coco):
            torch.testing.assert_close(PoseAugmentation(Tint(), {0: other}, 1.0)(pixels, poses, [0] * 4), plain, rtol=0, atol=1e-6)

    def test_pids_are_needed_and_counted(self) -> None:
        augment = PoseAugmentation(Tint(), {3: some_bank(2)}, 1.0)
        with pytest.raises(ValueError, match="bank of its own: pids"):
            augment(some_images(2), some_poses(2))
        with pytest.raises(ValueError, match="got 3 pids and 2 poses"):
            augment(some_images(2), some_poses(2), [3, 3, 3])
        # One bank for all: pids may come along.
        assert PoseAugmentation(Tint(), some_bank(2), 1.0)(some_images(2), some_poses(2), [1, 2]).shape == (2, 3, *SIZE)


class TestRefusals:
    @pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
    def test_p(self, p: float) -> None:
        with pytest.raises(ValueError, match=r"p is a probability in \[0, 1\], got"):
            PoseAugmentation(Tint(), some_bank(2), p)

    @pytest.mark.parametrize(("options", "says"), [
        ({"seed": -1}, r"a seed is in 0\.\."), ({"mean": MEAN}, "or both None"), ({"std": STD}, "or both None"),
        ({"mean": MEAN, "std": (0.2, 0.2)}, "three numbers each"), ({"mean": MEAN, "std": (0.2, 0.0, 0.2)}, "std above 0"),
    ])  # fmt: skip
    def test_options(self, options: dict, says: str) -> None:
        with pytest.raises(ValueError, match=says):
            PoseAugmentation(Tint(), some_bank(2), **options)

    def test_banks(self) -> None:
        for bank in ({}, {1: some_poses(3)}, "bank", None):
            with pytest.raises(ValueError, match="bank is a PoseBank, or a mapping"):
                PoseAugmentation(Tint(), bank)  # type: ignore[arg-type]
        lacking = PoseBank(("a",), convert(some_poses(1), coco_17))
        with pytest.raises(ValueError, match="nothing to make"):
            PoseAugmentation(Tint(), replace(lacking, pose=Pose(torch.ones(1, 7, 2), torch.ones(1, 7, dtype=torch.bool), upper_7, SIZE)))

    @pytest.mark.parametrize(("shape", "says"), [
        ((3, *SIZE), r"float \(B, 3, H, W\)"), ((2, 1, *SIZE), r"float \(B, 3, H, W\)"), ((4, 3, *SIZE), "got 4 images and poses of batch"),
    ])  # fmt: skip
    def test_shapes(self, shape: tuple[int, ...], says: str) -> None:
        with pytest.raises(ValueError, match=says):
            PoseAugmentation(Tint(), some_bank(2))(torch.zeros(shape), some_poses(2))

    @pytest.mark.parametrize("own", [(32, 32), (32, 8)])
    def test_a_generator_of_another_shape(self, own: tuple[int, int]) -> None:
        with pytest.raises(ValueError, match=rf"renders 32 × {own[1]} images, these are 32 × 16: of another shape"):
            PoseAugmentation(Tint(own), some_bank(2))(some_images(2), some_poses(2))

    def test_single_poses_and_bytes(self) -> None:
        augment = PoseAugmentation(Tint(), some_bank(2))
        with pytest.raises(ValueError, match=r"float \(B, 3, H, W\), got torch.uint8"):
            augment(torch.zeros(2, 3, *SIZE, dtype=torch.uint8), some_poses(2))
        with pytest.raises(ValueError, match=r"poses are a batch \(B, K\), got \(18,\)"):
            augment.draw(some_poses(2)[0])

    def test_images_of_another_convention(self) -> None:
        """Bytes as floats, or normalised without saying so; the first batch shows it."""
        poses = some_poses(4)
        normal = transforms.Normalize(MEAN, STD)(some_images(4))
        for pixels, options in ((some_images(4) * 255, {}), (normal, {}), (some_images(4) * 255, {"mean": MEAN, "std": STD}),
                                (some_images(4) * float("nan"), {})):  # fmt: skip
            with pytest.raises(ValueError, match=r"images lie in \[0, 1\]"):
                PoseAugmentation(Tint(), some_bank(2), 1.0, **options)(pixels, poses)


class TestModule:
    def test_an_optimiser_of_everything_gets_none_of_the_generator(self) -> None:
        augment, model = PoseAugmentation(Tint(), some_bank(3), 0.5), nn.Conv2d(3, 2, 3)
        whole = nn.Sequential(augment, model)
        assert {id(p) for p in whole.parameters()} == {id(p) for p in model.parameters()}
        assert set(augment.state_dict()) == {"_extra_state"}

    def test_no_gradient_reaches_the_generator_but_pixels_that_stayed_have_one(self) -> None:
        pixels = some_images(6).requires_grad_()
        augment = PoseAugmentation(Tint(), some_bank(3), 0.5, seed=2)
        out = augment(pixels, some_poses(6))
        (out * 3).sum().backward()
        assert augment.last is not None and 0 < len(augment.last.rows) < 6 and pixels.grad is not None
        for row in range(6):
            assert torch.equal(pixels.grad[row], torch.full((3, *SIZE), 0.0 if row in augment.last.rows else 3.0))
        assert all(p.grad is None and p.requires_grad for p in augment.generator.parameters())

    def test_a_training_step_leaves_the_generator_as_it_was(self) -> None:
        torch.manual_seed(0)
        augment = PoseAugmentation(generators.create("pg2", size=SIZE, width=4), some_bank(3), 0.5, seed=2)
        model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        before = copy.deepcopy(augment.generator.state_dict())
        optimizer = torch.optim.SGD([*augment.parameters(), *model.parameters()], 0.1)
        loss = F.cross_entropy(model(augment(some_images(8), some_poses(8))), torch.arange(8) % 2)
        loss.backward()
        optimizer.step()
        assert all(torch.equal(value, before[key]) for key, value in augment.generator.state_dict().items())

    def test_the_generator_draws_in_eval_mode_whatever_happens(self) -> None:
        generator = Tint().train()
        augment = PoseAugmentation(generator, some_bank(3), 1.0)
        assert not generator.training
        pixels, poses = some_images(4), some_poses(4)
        draw = augment.draw(poses)
        first = augment.train().render(pixels, poses, draw)
        generator.train()  # its own training went on meanwhile: dropout would show
        assert torch.equal(augment.render(pixels, poses, draw), first)

    def test_to_a_type_does_not_change_what_is_drawn(self) -> None:
        augment = PoseAugmentation(Tint(), some_bank(3), 1.0, mean=MEAN, std=STD)
        pixels, poses = transforms.Normalize(MEAN, STD)(some_images(2)), some_poses(2)
        draw = augment.draw(poses)
        first = augment.render(pixels, poses, draw)
        nn.Sequential(augment).to(torch.bfloat16)
        assert augment.generator.weight.dtype == torch.float32  # type: ignore[attr-defined]
        assert torch.equal(augment.render(pixels, poses, draw), first)

    def test_to_a_device_moves_the_generator(self) -> None:
        augment = nn.Sequential(PoseAugmentation(Tint(), some_bank(3), 1.0)).to("meta")[0]
        assert isinstance(augment, PoseAugmentation) and augment.device.type == "meta"
        assert augment.generator.weight.device.type == "meta"  # type: ignore[attr-defined]
        with pytest.raises(ValueError, match=r"generator is on meta, the images are on cpu: call .to\('cpu'\)"):
            augment(some_images(2), some_poses(2))

    def test_modules_apply_still_works(self) -> None:
        """A model around this one initialises itself with `apply(fn)`."""
        seen: list[nn.Module] = []
        augment = PoseAugmentation(Tint(), some_bank(3))
        nn.Sequential(augment, nn.Linear(1, 1)).apply(seen.append)
        assert [type(m) for m in seen] == [PoseAugmentation, nn.Linear, nn.Sequential]

    def test_a_deep_copy_draws_the_same_with_its_own_generator(self) -> None:
        augment = PoseAugmentation(Tint(), some_bank(3), 0.7)
        pixels, poses = some_images(4), some_poses(4)
        twin = copy.deepcopy(augment)
        assert twin.generator is not augment.generator
        assert torch.equal(twin(pixels, poses), augment(pixels, poses))

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_the_same_rows_and_nearly_the_same_pixels(self) -> None:
        torch.manual_seed(0)
        bank, poses, pixels = some_bank(5), some_poses(8), some_images(8)
        on_cpu = PoseAugmentation(generators.create("pg2", size=SIZE, width=4), bank, seed=3)
        on_gpu = copy.deepcopy(on_cpu).to("cuda")
        wanted = on_cpu(pixels, poses)
        for where in (poses, poses.to("cuda")):
            on_gpu.step = 0
            out = on_gpu(pixels.cuda(), where)
            assert out.is_cuda and on_gpu.last == on_cpu.last and on_cpu.last is not None
            rest = [row for row in range(8) if row not in on_cpu.last.rows]
            assert torch.equal(out[rest].cpu(), pixels[rest])
            torch.testing.assert_close(out.cpu(), wanted, rtol=0, atol=0.05)  # bfloat16: 8 bits of mantissa, several layers


class TestPosedBatches:
    """Batches of images with poses, as reid_aug.data.posed_images makes them."""

    def test_nobody_has_a_pose(self, people: list[PersonImage]) -> None:
        bare = [replace(p, pose=None) for p in people[:3]]
        batch = collate_poses([PosedImages(bare, SIZE)[i] for i in range(3)])
        augment = PoseAugmentation(Tint(), some_bank(2), 1.0)
        assert torch.equal(augment(batch.images, batch.poses), batch.images) and augment.last is not None and augment.last.rows == ()

    def test_a_collated_batch_is_redrawn(self, people: list[PersonImage]) -> None:
        train = [p for p in people if p.split == "train"]
        batch = collate_poses([PosedImages(train, SIZE)[i] for i in range(5)])
        out = PoseAugmentation(Tint(), PoseBank.collect(train, SIZE), 1.0)(batch.images, batch.poses, batch.pids)
        assert not torch.equal(out, batch.images)

    def test_a_batch_of_torchreids_is_redrawn_where_a_pose_came_along(self, people: list[PersonImage]) -> None:
        train = [p for p in people if p.split == "train"]
        rows = [(p.path, p.pid, p.camid) for p in train]
        steps = transforms.Compose([transforms.Resize((64, 32)), transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        dataset = torchreid_data.ImageDataset(rows, rows[:1], rows[:1], transform=steps, verbose=False)
        poses = {p.name: p.pose for p in train[1:] if p.pose is not None}
        batch = next(iter(DataLoader(with_poses(dataset, poses), len(train))))
        augment = PoseAugmentation(Tint(), PoseBank.collect(train, SIZE), 1.0, mean=MEAN, std=STD)
        out = augment(batch["img"], poses_of(batch), batch["pid"])
        assert torch.equal(out[0], batch["img"][0]) and not torch.equal(out[1], batch["img"][1])
