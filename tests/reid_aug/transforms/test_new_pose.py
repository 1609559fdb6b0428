"""NewPose, FlipPose and ReplayCompose among torchvision's own v2 transforms."""

from __future__ import annotations

import copy
import importlib.util
import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

import generators
from generators import Pose, coco_17, convert, mirror, openpose_18, rescale, upper_7
from reid_aug import PoseBank, PoseDraw, images
from reid_aug.data.body import VIEWS, view
from reid_aug.data.people import PersonImage
from reid_aug.images import to_float
from reid_aug.synthesis.augmenter import render
from reid_aug.transforms import FlipPose, NewPose, ReplayCompose

SIZE = (32, 16)


@pytest.fixture(scope="module")
def bank(people: list[PersonImage]) -> PoseBank:
    return PoseBank.collect([p for p in people if p.split == "train"], SIZE)


@pytest.fixture(scope="module")
def warpblend() -> generators.Generator:
    torch.manual_seed(0)
    return generators.create("warpblend", size=SIZE, width=4).eval()


@pytest.fixture(autouse=True)
def same_luck() -> None:
    torch.manual_seed(0)


def pixels_of(bank: PoseBank, rows: Any) -> Tensor:
    """The photographs of a bank, uint8 (B, 3, H, W)."""
    assert bank.paths is not None
    return torch.from_numpy(np.stack([images.read(bank.paths[row]) for row in rows])).permute(0, 3, 1, 2)


def sample_of(bank: PoseBank, rows: Any, image: Tensor | None = None) -> dict[str, Any]:
    """A sample of one row (an int) or of a batch (a range): bytes as a tv_tensor, unless another image is given."""
    listed = [rows] if isinstance(rows, int) else list(rows)
    pose, shown = bank.pose[listed], pixels_of(bank, listed)
    if isinstance(rows, int):
        pose, shown = pose[0], shown[0]
    points = tv_tensors.KeyPoints(pose.xy.clone(), canvas_size=SIZE)
    return {"image": tv_tensors.Image(shown) if image is None else image, "keypoints": points, "visible": pose.visible.clone(), "pid": 7}


def expected(model: Any, bank: PoseBank, row: int, target: int) -> Tensor:
    """What the generator makes of a row in a pose of the bank, in [-1, 1], asked as Augmenter does."""
    scene = to_float(pixels_of(bank, [target])) if model.takes_scene else None
    with torch.no_grad():
        return render(model, to_float(pixels_of(bank, [row])), bank.pose[[row]], bank.pose[[target]], scene)[0].clamp(-1, 1)


class TestNewPose:
    @pytest.mark.parametrize("kind", ["image", "pure", "float", "half", "double", "PIL"])
    def test_the_image_is_what_the_generator_makes_of_source_and_target(self, kind: str, bank: PoseBank, warpblend: Any) -> None:
        sample, new_pose = sample_of(bank, 3), NewPose(warpblend, bank, p=1)
        shown = sample["image"]
        sample["image"] = {
            "image": shown, "pure": shown.as_subclass(Tensor), "float": tv_tensors.Image(shown / 255),
            "half": tv_tensors.Image((shown / 255).half()), "double": tv_tensors.Image(shown.double() / 255),
            "PIL": Image.fromarray(shown.permute(1, 2, 0).numpy()),
        }[kind]  # fmt: skip
        out = new_pose(sample)
        (target,) = PoseDraw.from_json(new_pose.last).targets
        assert type(out["image"]) is type(sample["image"]) and out["pid"] == 7 and not torch.equal(out["keypoints"], sample["keypoints"])
        wanted = expected(warpblend, bank, 3, target) / 2 + 0.5
        if kind in ("image", "pure", "PIL"):
            got = F.pil_to_tensor(out["image"]) if kind == "PIL" else out["image"]
            assert got.dtype == torch.uint8 and (got.int() - (wanted * 255).round().int()).abs().max() <= 1
        else:
            assert out["image"].dtype == sample["image"].dtype
            assert (out["image"] - wanted).abs().max() < (2e-3 if kind == "half" else 1e-5)

    def test_keypoints_are_the_targets_scaled_to_the_image(self, bank: PoseBank, warpblend: Any) -> None:
        """Of an image twice as high and thrice as wide: x' = 3 x + 1, y' = 2 y + ½, pixel centres at integers."""
        bank = replace(bank, pose=replace(bank.pose, visible=bank.pose.visible & (torch.arange(18) != 4)))
        pose, new_pose = rescale(bank.pose[5], (64, 48)), NewPose(warpblend, bank, p=1)
        points = tv_tensors.KeyPoints(pose.xy.double(), canvas_size=(64, 48))
        with pytest.raises(ValueError, match="of another shape"):
            new_pose({"image": torch.rand(3, 64, 48), "keypoints": points, "visible": pose.visible})
        points = tv_tensors.KeyPoints(rescale(bank.pose[5], (64, 40)).xy.double(), canvas_size=(64, 40))
        out = new_pose({"image": torch.rand(3, 64, 40), "keypoints": points, "visible": pose.visible})
        (target,) = PoseDraw.from_json(new_pose.last).targets
        xy = bank.pose.xy[target].double() * torch.tensor([2.5, 2.0]) + torch.tensor([0.75, 0.5])
        seen = bank.pose.visible[target]
        assert out["keypoints"].canvas_size == (64, 40) and out["keypoints"].dtype == torch.float64
        assert torch.allclose(out["keypoints"][seen], xy[seen]) and not out["keypoints"][~seen].any()
        assert torch.equal(out["visible"], seen) and not out["visible"][4]

    def test_whole_numbers_stay_whole(self, bank: PoseBank, warpblend: Any) -> None:
        sample, new_pose = sample_of(bank, 0), NewPose(warpblend, bank, p=1)
        sample["keypoints"] = tv_tensors.KeyPoints(sample["keypoints"].round().long(), canvas_size=SIZE)
        out = new_pose(sample)["keypoints"]
        (target,) = PoseDraw.from_json(new_pose.last).targets
        assert out.dtype == torch.int64 and torch.equal(out.as_subclass(Tensor), bank.pose.xy[target].round().long())

    def test_each_of_a_batch_on_its_own_and_the_rest_bit_for_bit(self, bank: PoseBank, warpblend: Any) -> None:
        sample, new_pose = sample_of(bank, range(16)), NewPose(warpblend, bank, p=0.5)
        sample["visible"][2, 8] = False  # a hip
        out, draw = new_pose(sample), PoseDraw.from_json(new_pose.last)
        assert 3 < len(draw.rows) < 13 and 2 not in draw.rows and len(set(draw.targets)) > 1
        for row in range(16):
            if row in draw.rows:
                target = draw.targets[draw.rows.index(row)]
                wanted = ((expected(warpblend, bank, row, target) / 2 + 0.5) * 255).round()
                assert (out["image"][row].int() - wanted.int()).abs().max() <= 1
                assert torch.equal(out["keypoints"][row].as_subclass(Tensor), bank.pose.xy[target])
                assert torch.equal(out["visible"][row], bank.pose.visible[target])
            else:
                assert all(torch.equal(out[key][row], sample[key][row]) for key in ("image", "keypoints", "visible"))
        assert torch.equal(sample["image"], pixels_of(bank, range(16))), "the sample that was given is as before"

    def test_in_the_scene_of_its_pose_near_in_view_and_never_the_sources_own(self, bank: PoseBank) -> None:
        new_pose = NewPose(CopiesScene(SIZE), bank, p=1)
        out = new_pose(sample_of(bank, range(8)))
        targets = PoseDraw.from_json(new_pose.last).targets
        assert torch.equal(out["image"].as_subclass(Tensor), pixels_of(bank, targets)) and new_pose.renderer.scenes is None
        assert new_pose.drawer.tolerance == 0.5 and all(target != row for row, target in enumerate(targets))
        alone = NewPose(CopiesScene(SIZE), replace(bank, paths=None), p=1)(sample_of(bank, 0))
        assert torch.equal(alone["image"], sample_of(bank, 0)["image"]), "without images, in its own place"

    @pytest.mark.parametrize("p", [0, 1])
    def test_never_and_always(self, p: float, bank: PoseBank) -> None:
        new_pose = NewPose(CopiesScene(SIZE), bank, p=0.5)
        new_pose.p = p
        new_pose(sample_of(bank, range(10)))
        assert len(PoseDraw.from_json(new_pose.last).rows) == 10 * p

    def test_on_another_skeleton(self, bank: PoseBank, warpblend: Any) -> None:
        pose, new_pose = convert(bank.pose[1], coco_17), NewPose(warpblend, bank, p=1, skeleton=coco_17)
        _, points, visible = new_pose(torch.rand(3, *SIZE), tv_tensors.KeyPoints(pose.xy, canvas_size=SIZE), pose.visible)
        (target,) = PoseDraw.from_json(new_pose.last).targets
        assert torch.equal(points.as_subclass(Tensor), convert(bank.pose[target], coco_17).xy) and visible.shape == (17,)
        with pytest.raises(ValueError, match="a upper_7 pose has nothing to make openpose_18's"):
            NewPose(warpblend, bank, skeleton=upper_7)

    def test_pickled_it_draws_the_same(self, bank: PoseBank, warpblend: Any) -> None:
        new_pose = NewPose(warpblend, bank, p=1)
        outs = []
        for twin in (new_pose, pickle.loads(pickle.dumps(new_pose)), copy.deepcopy(new_pose)):
            torch.manual_seed(5)
            outs.append(twin(sample_of(bank, range(4)))["image"])
        assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])

    @pytest.mark.gpu
    @pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    def test_on_a_gpu_the_same_draws_and_nearly_the_same_pixels(self, bank: PoseBank, warpblend: Any) -> None:
        on_cpu, on_gpu = NewPose(warpblend, bank, p=0.7), NewPose(copy.deepcopy(warpblend), bank, p=0.7).to("cuda")
        there = {key: value.cuda() if isinstance(value, Tensor) else value for key, value in sample_of(bank, range(12)).items()}
        here, record = on_cpu(sample_of(bank, range(12))), on_cpu.last
        out = on_gpu.replay(record, there)
        assert out["image"].is_cuda and out["keypoints"].is_cuda and type(out["image"]) is tv_tensors.Image
        assert torch.equal(out["keypoints"].cpu(), here["keypoints"]) and torch.equal(out["visible"].cpu(), here["visible"])
        assert (out["image"].cpu().float() - here["image"].float()).abs().mean() < 2
        assert torch.equal(on_gpu.replay(record, there)["image"], out["image"])
        with pytest.raises(ValueError, match="the generator is on cuda.*, the images are on cpu"):
            on_gpu(sample_of(bank, range(12)))


class TestFlipPose:
    def test_against_the_mirrored_image_and_pose(self, bank: PoseBank, warpblend: Any) -> None:
        """Of a rendered image, too: the picture mirrored by numpy, the pose by `generators.mirror`."""
        drawn = NewPose(warpblend, bank, p=1)(sample_of(bank, range(6)))
        out = FlipPose(p=1)(drawn)
        assert np.array_equal(out["image"].numpy(), drawn["image"].numpy()[..., ::-1])
        mirrored = mirror(Pose(drawn["keypoints"].as_subclass(Tensor), drawn["visible"], openpose_18, SIZE))
        seen = mirrored.visible
        assert torch.equal(out["visible"], seen) and torch.equal(out["keypoints"].as_subclass(Tensor)[seen], mirrored.xy[seen])
        back = FlipPose(p=1)(out)
        assert all(torch.equal(back[key], drawn[key]) for key in ("image", "keypoints", "visible"))

    def test_fronts_stay_fronts_as_after_v2s_own_they_do_not(self, bank: PoseBank) -> None:
        sample = sample_of(bank, range(len(bank)))

        def views(flipped: dict[str, Any]) -> list[str]:
            return [VIEWS[i] for i in view(Pose(flipped["keypoints"].as_subclass(Tensor), flipped["visible"], openpose_18, SIZE))]

        swapped = {"front": "front", "back": "back", "left": "right", "right": "left"}
        assert views(FlipPose(1)(sample)) == [swapped[name] for name in views(sample)]
        assert views(v2.RandomHorizontalFlip(1)(sample)) != [swapped[name] for name in views(sample)]

    @pytest.mark.parametrize("kind", ["PIL", "float"])
    def test_other_images_and_what_else_the_sample_holds(self, kind: str, bank: PoseBank) -> None:
        sample = sample_of(bank, 2)
        pixels = sample["image"]
        sample["image"] = Image.fromarray(pixels.permute(1, 2, 0).numpy()) if kind == "PIL" else pixels.as_subclass(Tensor) / 255
        boxes = tv_tensors.BoundingBoxes([[1, 2, 5, 9]], format="XYXY", canvas_size=SIZE)  # type: ignore[call-overload]
        out = FlipPose(1)(sample | {"box": boxes})
        got = F.pil_to_tensor(out["image"]) if kind == "PIL" else (out["image"] * 255).round().to(torch.uint8)
        assert torch.equal(got, pixels.flip(-1).as_subclass(Tensor)) and out["box"].tolist() == [[11, 2, 15, 9]] and out["pid"] == 7

    def test_as_often_as_it_says(self, bank: PoseBank) -> None:
        flip, sample = FlipPose(0.3), sample_of(bank, 0)
        flipped = 0
        for _ in range(300):
            flip(sample)
            flipped += json.loads(flip.last)["flip"]
        assert 60 < flipped < 120  # 90 ± 8


class TestReplay:
    def test_the_same_image_bit_for_bit(self, bank: PoseBank, warpblend: Any) -> None:
        new_pose = NewPose(warpblend, bank, p=0.6)
        for rows in (4, range(8)):
            out = new_pose(sample_of(bank, rows))
            record = new_pose.last
            new_pose(sample_of(bank, rows))
            again = NewPose(warpblend, bank, p=0).replay(json.loads(json.dumps(record)), sample_of(bank, rows))
            assert all(torch.equal(again[key], out[key]) for key in ("image", "keypoints", "visible"))

    def test_a_pipeline_with_v2s_own_comes_back_from_workers(self, bank: PoseBank, warpblend: Any) -> None:
        steps = [
            NewPose(warpblend, bank, p=0.5), FlipPose(0.5), v2.RandomCrop((28, 14)), v2.RandomApply([v2.GaussianNoise()], p=0.5),
            v2.RandomChoice([v2.Identity(), v2.ColorJitter(0.5)]), v2.ToDtype(torch.float32, scale=True), v2.RandomErasing(0.5),
        ]  # fmt: skip
        steps.insert(3, v2.ToDtype(torch.float32, scale=True))
        augment = ReplayCompose(steps)

        class Samples(torch.utils.data.Dataset):
            def __len__(self) -> int:
                return 12

            def __getitem__(self, row: int) -> dict[str, Any]:
                return augment(sample_of(bank, row))

        seen = [(batch, batch["replay"]) for batch in DataLoader(Samples(), 6, num_workers=1, multiprocessing_context="fork")]
        assert len({line for _, lines in seen for line in lines}) == 12
        for number, (batch, lines) in enumerate(seen):
            for place, line in enumerate(lines):
                torch.manual_seed(place)  # not what it goes by
                state = torch.get_rng_state()
                again = augment.replay(line, sample_of(bank, 6 * number + place))
                assert torch.equal(torch.get_rng_state(), state)
                assert all(torch.equal(again[key].as_subclass(Tensor), batch[key][place]) for key in ("image", "keypoints", "visible"))
                assert again["replay"] == line and again["keypoints"].canvas_size == (28, 14)

    def test_its_rows_can_be_read(self, bank: PoseBank) -> None:
        out = ReplayCompose([NewPose(CopiesScene(SIZE), bank, p=1), FlipPose(0)])(sample_of(bank, 0))
        first, second = json.loads(out["replay"])
        assert first["name"] == "NewPose" and PoseDraw.from_json(first["params"]).names[0] in bank.names
        assert json.loads(second["params"]) == {"flip": False}

    @pytest.mark.parametrize(
        ("line", "words"),
        [
            ("[]", "the replay is of , these transforms are NewPose"), ('{"a": 1}', "a replay is what ReplayCompose puts"),
            ("7", "a replay is what ReplayCompose puts into a sample under 'replay', got 7"), ("nonsense", "Expecting value"),
            ('[{"name": "NewPose", "seed": 1}]', "Expecting value"),
        ],
    )
    def test_what_is_no_replay(self, line: str, words: str, bank: PoseBank) -> None:
        with pytest.raises(ValueError, match=words):
            ReplayCompose([NewPose(CopiesScene(SIZE), bank)]).replay(line, sample_of(bank, 0))

    def test_of_another_bank_or_batch(self, bank: PoseBank) -> None:
        new_pose = NewPose(CopiesScene(SIZE), bank, p=1, draw="whole")
        new_pose(sample_of(bank, range(3)))
        with pytest.raises(ValueError, match="the draw was made with another bank: this one has no pose"):
            NewPose(CopiesScene(SIZE), bank.pick([0, 1])).replay(new_pose.last, sample_of(bank, range(3)))
        with pytest.raises(ValueError, match="a draw for a batch of 3 can't be replayed on 1 images"):
            new_pose.replay(new_pose.last, sample_of(bank, 0))
        with pytest.raises(ValueError, match='a recorded flip is {"flip": true} or false, got {"flip": 1}'):
            FlipPose().replay('{"flip": 1}', sample_of(bank, 0))


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "line"),
        [
            ({"keypoints": None}, r"one of each, got 0 of tv_tensors.KeyPoints \(\*B, K, 2\), 0 of bool tensor .*online=True\) is for it"),
            ({"visible": torch.ones(17, dtype=torch.bool)}, r"got 0 of bool tensor \(\*B, K\) of which are visible"),
            ({"visible": torch.ones(18)}, r"got 0 of bool tensor"),
            ({"image": tv_tensors.Image(torch.rand(1, *SIZE))}, r"float \(3, H, W\) or \(B, 3, H, W\), got torch.float32 \(1, 32, 16\)"),
            ({"image": Image.new("L", SIZE[::-1])}, "PIL of mode RGB, .* got PIL of mode L"),
            ({"image": tv_tensors.Image(torch.rand(2, 3, *SIZE))}, r"keypoints of openpose_18 are \(2, 18, 2\) here, got \(18, 2\)"),
            ({"image": tv_tensors.Image(torch.rand(3, 64, 32))}, r"an image of \(64, 32\) and a canvas of \(32, 16\)"),
            ({"image": tv_tensors.Image(torch.randn(3, *SIZE) * 3)}, "NewPose comes before Normalize"),
            ({"mask": tv_tensors.Mask(torch.zeros(SIZE))}, "of a new pose, whose Mask nobody knows: take it out before"),
            ({"keypoints": tv_tensors.KeyPoints(torch.full((18, 2), torch.nan), canvas_size=SIZE)}, "finite numbers, got NaN"),
        ],
    )
    def test_samples(self, change: dict, line: str, bank: PoseBank, warpblend: Any) -> None:
        with pytest.raises(ValueError, match=line):
            NewPose(warpblend, bank, p=1)(sample_of(bank, 0) | change)

    def test_a_flip_of_v2s_before_it_is_seen_in_the_faces(self, bank: PoseBank) -> None:
        """Of fronts every second is wrong after such a flip, and none after FlipPose."""
        fronts = [i for i in range(len(bank)) if VIEWS[view(bank.pose[i])] == "front"]
        pose = replace(bank.pose, visible=torch.ones_like(bank.pose.visible))
        pose.xy[:, [0, 14, 15]] = pose.xy[:, [1]] + torch.tensor([[0.0, -2], [-1, -3], [1, -3]])
        bank = replace(bank, pose=pose)
        sample = sample_of(bank, (fronts * 40)[:40])
        for flip, refused in ((FlipPose(1), False), (v2.RandomHorizontalFlip(1), True)):
            new_pose, halves = NewPose(CopiesScene(SIZE), bank, p=0), v2.RandomApply([flip], p=0.5)
            for _ in range(6):
                new_pose(halves(sample))
            if refused:
                with pytest.raises(ValueError, match=r"of \d+ faces: left and right joints are exchanged; v2.RandomHorizontalFlip does"):
                    for _ in range(20):
                        new_pose(halves(sample))
            else:
                assert new_pose.faces == 240 and not new_pose.exchanged

    def test_a_flip_of_v2s_in_a_replay(self, bank: PoseBank) -> None:
        nested = v2.Compose([v2.RandomApply([v2.RandomVerticalFlip()])]), torch.nn.Sequential(v2.RandomHorizontalFlip())
        for steps in ([v2.RandomHorizontalFlip()], *([one] for one in nested)):
            with pytest.raises(ValueError, match=r"Random\w+Flip moves joints but leaves left ones left: FlipPose\(p\) exchanges them"):
                ReplayCompose(steps)
        with pytest.raises(ValueError, match="ReplayCompose takes a mapping, .* got Tensor"):
            ReplayCompose([v2.Identity()])(torch.rand(3, 4, 4))
        with pytest.raises(ValueError, match="at least one transform, got none"):
            ReplayCompose([])

    def test_probabilities(self, bank: PoseBank, warpblend: Any) -> None:
        for make in (FlipPose, lambda p: NewPose(warpblend, bank, p)):
            with pytest.raises(ValueError, match=r"p is a probability in \[0, 1\], got -1"):
                make(-1)


def test_an_older_torchvision_is_refused_in_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(importlib.util.find_spec("reid_aug").submodule_search_locations[0]) / "transforms" / "pose_transform.py"  # type: ignore
    spec = importlib.util.spec_from_file_location("older", path)
    assert spec is not None and spec.loader is not None
    monkeypatch.delattr(tv_tensors, "KeyPoints")
    with pytest.raises(ImportError, match=r"needs tv_tensors.KeyPoints, which torchvision has from 0.23 on, and \S+ is installed: pip"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
