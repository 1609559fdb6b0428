"""Jitter of training pairs: against scipy's and torchvision's ways, by hand, and from the stream."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from torchvision.transforms.functional import adjust_saturation

from generators import Pose, PosePair
from generators.maps import gaussian_maps
from generators.pose import openpose_18
from reid_aug.config import load
from reid_aug.rendered.dataset import RenderedConfig, write_rendered
from reid_aug.synthesis.train import TrainConfig, train_from
from reid_aug.synthesis.training_pairs import JitterConfig, jittered

CONFIGS = Path(__file__).parents[3] / "configs" / "generators"
POSEWARP = JitterConfig(degrees=5, scale=(0.9, 1.05), shift_px=5, saturation=(0.95, 1.05))
STILL = (0.5, 0.5, 0.5, 0.5, 0.5)  # the middle of every range


def pair(count: int = 3, size: tuple[int, int] = (48, 40), seed: int = 0) -> PosePair:
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(2, count, 3, *size, generator=rng) * 2 - 1
    xy = torch.rand(2, count, 18, 2, generator=rng) * torch.tensor([size[1] - 1.0, size[0] - 1.0])
    visible = torch.rand(2, count, 18, generator=rng) > 0.2
    poses = [Pose(a, b, openpose_18, size) for a, b in zip(xy, visible, strict=True)]
    return PosePair(images[0], images[1], poses[0], poses[1], torch.arange(count))


def draws(*rows: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def test_ranges_of_nothing_change_nothing() -> None:
    given = pair()
    same = jittered(given, torch.rand(3, 5, dtype=torch.float64), JitterConfig())
    assert torch.allclose(same.source, given.source, atol=1e-6) and torch.allclose(same.target, given.target, atol=1e-6)
    assert torch.allclose(same.source_pose.xy, given.source_pose.xy, atol=1e-5)
    assert torch.equal(same.target_pose.visible, given.target_pose.visible) and torch.equal(same.identity, given.identity)


def test_a_quarter_turn_by_hand() -> None:
    given = pair(1, (5, 5))
    pose = replace(given.source_pose, xy=torch.full((1, 18, 2), 2.0), visible=torch.ones(1, 18, dtype=torch.bool))
    pose.xy[0, 0] = torch.tensor([4.0, 2.0])  # right of the middle
    turned = jittered(replace(given, source_pose=pose), draws((1.0, *STILL[1:])), JitterConfig(degrees=90))
    assert turned.source_pose.xy[0, 0].tolist() == pytest.approx([2.0, 4.0], abs=1e-5)  # below it: clockwise, as y points down
    assert torch.allclose(turned.source, given.source.rot90(-1, (-2, -1)), atol=1e-5)


def test_a_shift_by_hand() -> None:
    given = pair(1, (6, 8))
    moved = jittered(given, draws((0.5, 0.5, 1.0, 0.0, 0.5)), JitterConfig(shift_px=2))  # two to the right, two up
    assert torch.allclose(moved.target[..., :-2, 2:], given.target[..., 2:, :-2], atol=1e-6)
    assert torch.allclose(moved.target[..., :-2, :2], given.target[..., 2:, :1].expand(-1, -1, -1, 2), atol=1e-6), "the edge repeats"
    assert torch.allclose(moved.target[..., -2:, 2:], given.target[..., -1:, :-2].expand(-1, -1, 2, -1), atol=1e-6)
    xy = given.target_pose.xy + torch.tensor([2.0, -2.0])
    inside = ((xy >= -0.5) & (xy < torch.tensor([7.5, 5.5]))).all(-1)
    assert torch.equal(moved.target_pose.visible, given.target_pose.visible & inside) and not inside.all()
    seen = moved.target_pose.visible
    assert torch.allclose(moved.target_pose.xy[seen], xy[seen], atol=1e-5) and not moved.target_pose.xy[~seen].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(48, 40), (33, 64)])
def test_images_against_scipy(size: tuple[int, int], dtype: torch.dtype) -> None:
    given = pair(4, size)
    given = replace(given, source=given.source.to(dtype), target=given.target.to(dtype))
    numbers = torch.rand(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ranges = JitterConfig(degrees=40, scale=(0.7, 1.5), shift_px=6)
    changed = jittered(given, numbers, ranges)
    assert changed.source.dtype == dtype
    for i, (turn, grow, right, down, _) in enumerate(numbers.tolist()):
        angle, scale = np.deg2rad((2 * turn - 1) * 40), 0.7 + grow * 0.8
        forward = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])  # in (y, x)
        middle, shift = (np.array(size) - 1) / 2, np.array([(2 * down - 1) * 6, (2 * right - 1) * 6])
        back = np.linalg.inv(forward)
        for channel in range(3):
            expected = ndimage.affine_transform(
                given.target[i, channel].double().numpy(), back, middle - back @ (middle + shift), order=1, mode="nearest"
            )
            assert np.abs(changed.target[i, channel].numpy() - expected).max() < 1e-4


def test_saturation_against_torchvision() -> None:
    given = pair(5)
    factors = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64)
    numbers = torch.full((5, 5), 0.5, dtype=torch.float64)
    numbers[:, 4] = factors
    changed = jittered(given, numbers, JitterConfig(saturation=(0.5, 1.5)))
    for i, factor in enumerate(0.5 + factors):
        expected = adjust_saturation((given.source[i] + 1) / 2, float(factor)) * 2 - 1
        assert torch.allclose(changed.source[i], expected, atol=1e-3)  # torchvision's luma sums to 0.9999


def test_poses_stay_on_their_bodies() -> None:
    xy = torch.tensor([[14.0, 12.0], [25.0, 20.0], [18.0, 36.0]]).repeat(6, 1)[None].expand(8, -1, -1)
    pose = Pose(xy, torch.ones(8, 18, dtype=torch.bool), openpose_18, (48, 40))
    image = gaussian_maps(pose, 2.0)[:, :3] * 2 - 1
    numbers = torch.rand(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    given = PosePair(image, image, pose, pose, torch.arange(8))
    changed = jittered(given, numbers, JitterConfig(degrees=20, scale=(0.8, 1.2), shift_px=4))
    assert torch.equal(changed.source, changed.target) and torch.equal(changed.source_pose.xy, changed.target_pose.xy)
    assert not torch.allclose(changed.source_pose.xy, pose.xy, atol=1.0)
    weight = (changed.source + 1).square()
    rows, columns = torch.arange(48.0), torch.arange(40.0)
    total = weight.sum((-2, -1))
    found = torch.stack(((weight.sum(-2) * columns).sum(-1) / total, (weight.sum(-1) * rows).sum(-1) / total), -1)
    assert (found - changed.source_pose.xy[:, :3]).abs().max() < 0.1


def test_rows_do_not_touch_each_other() -> None:
    given, numbers = pair(4), torch.rand(4, 5, dtype=torch.float64)
    whole = jittered(given, numbers, POSEWARP)
    for i in range(4):
        one = jittered(given[i : i + 1], numbers[i : i + 1], POSEWARP)
        assert torch.allclose(one.source, whole.source[i : i + 1], atol=1e-6)
        assert torch.allclose(one.target_pose.xy, whole.target_pose.xy[i : i + 1], atol=1e-5)
    assert whole.source.abs().max() <= 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"scale": (1.05, 0.9)}, "from low to high, both above 0, got .1.05, 0.9."),
        ({"saturation": (0.0, 1.0)}, "from low to high, both above 0"),
        ({"scale": (0.9, float("inf"))}, "from low to high"),
        ({"degrees": -5}, "greater than or equal to 0"),
        ({"shift_px": float("nan")}, "shift_px"),
        ({"degrees": 181}, "less than or equal to 180"),
        ({"rotation": 5}, "rotation"),
    ],
)
def test_ranges_that_are_none(given: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        JitterConfig(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_generators_yaml_is_a_training(path: Path) -> None:
    config = load(TrainConfig, path, ["data.root=people"])
    assert (config.jitter == POSEWARP) == (config.generator.name == "posewarp" and "market" not in path.stem)
    assert (config.min_gap == 0.02) == (config.jitter == POSEWARP)
    if path.stem == "posewarp-market":  # images half as high
        assert config.jitter == POSEWARP.model_copy(update={"shift_px": 2.5})


def test_jitter_and_gap_decide_what_is_learnt(tmp_path: Path) -> None:
    """A training is not gone on with under other jitter or gap; one from before they were there is."""
    options = {"size": (32, 16), "width": 4, "stage1_steps": 1, "stage2_steps": 1}
    root = str(write_rendered(tmp_path / "set", RenderedConfig(train_identities=2, test_identities=1, size=(32, 16))).root)
    given = {"generator": {"name": "pg2", **options}, "data": {"root": root}, "out": str(tmp_path / "run"), "batch_size": 2, "samples": 1}
    assert train_from(TrainConfig(**given, steps=1)).step == 1
    assert train_from(TrainConfig(**given, steps=2)).step == 2
    for other in ({"jitter": {"degrees": 5.0}}, {"min_gap": 0.1}):
        (name,) = other
        with pytest.raises(ValueError, match=f"was trained with {name} None, this run asks for"):
            train_from(TrainConfig(**given, **other, steps=3))
