"""Training pairs: jitter against scipy's and torchvision's ways and by hand; the stream that all generators learn from."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage
from torchvision.transforms.functional import adjust_saturation

from generators import Pose, PosePair, coco_17, convert, gaussian_maps, openpose_18, rescale
from reid_aug import images
from reid_aug.config import load
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.pairs import write_pairs
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedConfig, write_rendered
from reid_aug.synthesis.train import TrainConfig, train_from
from reid_aug.synthesis.training_pairs import JitterConfig, PairStream, in_no_pair, jittered

CONFIGS = Path(__file__).parents[3] / "configs" / "generators"
POSEWARP = JitterConfig(degrees=5, scale=(0.9, 1.05), shift_px=5, saturation=(0.95, 1.05))
pytestmark = pytest.mark.filterwarnings("ignore:.*training images are in no pair")  # the crowd holds some
SIZE = (16, 8)
PAIRS_7_11 = [[2, 0], [0, 2], [0, 3], [1, 4]]
FLIPPED_7_11 = [False, True, True, True]
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


def test_a_training_on_other_photographs_is_not_gone_on_with(tmp_path: Path) -> None:
    """The checkpoint's header knows names and poses alone; a run from before images were noted is gone on with."""
    options = {"size": (32, 16), "width": 4, "stage1_steps": 1, "stage2_steps": 1}
    root = write_rendered(tmp_path / "set", RenderedConfig(train_identities=2, test_identities=1, size=(32, 16))).root
    out, generator = tmp_path / "run", {"name": "pg2", **options}
    given = {"generator": generator, "data": {"root": str(root)}, "out": str(out), "batch_size": 2, "samples": 1}
    assert train_from(TrainConfig(**given, steps=1)).step == 1
    assert train_from(TrainConfig(**given, steps=2)).step == 2
    photograph = next((root / "bounding_box_train").iterdir())
    images.write(255 - images.read(photograph), photograph)
    with pytest.raises(ValueError, match="run holds a training on other images, though under the same names: give another folder"):
        train_from(TrainConfig(**given, steps=3))
    (out / "images.sha256").unlink()
    assert train_from(TrainConfig(**given, steps=3)).step == 3 and not (out / "images.sha256").exists()


# ------------------------------------------------------------------------------------------------- the stream


def a_pose(seed: int = 0, missing: tuple[int, ...] = (), size: tuple[int, int] = SIZE) -> Pose:
    xy = torch.rand(18, 2, generator=torch.Generator().manual_seed(seed)) * torch.tensor([size[1] - 1, size[0] - 1])
    visible = torch.ones(18, dtype=torch.bool)
    visible[list(missing)] = False
    return Pose(xy.round(), visible, openpose_18, size)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> list[PersonImage]:
    """Train: person 0 on cameras 0 0 1, person 3 on camera 0 twice, person 5 once; the rest can't be paired."""
    folder = tmp_path_factory.mktemp("crowd")
    rows = [(0, 0), (3, 0), (0, 0), (0, 1), (3, 0), (5, 0), (-1, 0), (-1, 1)]
    people = [PersonImage(str(folder / f"{i}.png"), pid, cam, "train", a_pose(i)) for i, (pid, cam) in enumerate(rows)]
    people.append(PersonImage(str(folder / "torso.png"), 0, 1, "train", a_pose(20, (2,))))
    people.append(PersonImage(str(folder / "poseless.png"), 0, 1, "train"))
    people.append(PersonImage(str(folder / "query.png"), 0, 1, "query", a_pose(21)))
    for i, person in enumerate(people):
        images.write(np.random.default_rng(i).integers(0, 256, (*SIZE, 3), dtype=np.uint8), person.path)
    return people


def test_a_batch_holds_what_the_files_hold(crowd: list[PersonImage]) -> None:
    batch = PairStream(crowd, SIZE, 50, seed=1, flip=False)[0]
    assert batch.source.shape == (50, 3, *SIZE) and batch.source.dtype == torch.float32 and batch.identity.dtype == torch.int64
    usable = {i: images.to_float(torch.from_numpy(images.read(crowd[i].path)).permute(2, 0, 1)) for i in range(5)}
    drawn = Counter()
    for k in range(50):
        source = next(i for i, image in usable.items() if torch.equal(image, batch.source[k]))
        target = next(i for i, image in usable.items() if torch.equal(image, batch.target[k]))
        assert source != target and crowd[source].pid == crowd[target].pid == batch.identity[k]
        for pose, i in ((batch.source_pose[k], source), (batch.target_pose[k], target)):
            expected = crowd[i].pose
            assert expected is not None and torch.equal(pose.xy, expected.xy) and pose.size == SIZE
        drawn[source, target] += 1
    assert len(drawn) == 8  # six pairs of person 0, two of person 3: every one comes up


def test_pairs_are_drawn_uniformly(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 4000, seed=5)
    pairs, flipped, draws = stream._sample(0)
    counts = list(Counter(map(tuple, pairs.tolist())).values())
    assert len(counts) == stream.population.count == 8 and all(abs(c - 500) < 5 * 21 for c in counts)  # five sigma
    assert abs(flipped.mean() - 0.5) < 5 * 0.008
    assert draws.shape == (4000, 5) and draws.min() >= 0 and draws.max() < 1 and np.abs(draws.mean(0) - 0.5).max() < 5 * 0.0046


def test_prefer_draws_from_other_cameras(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 300, cross_camera="prefer")
    pairs = {tuple(Path(stream.people[i].path).stem for i in pair) for pair in stream._sample(0)[0].tolist()}
    assert pairs == {("0", "3"), ("2", "3"), ("3", "0"), ("3", "2"), ("1", "4"), ("4", "1")}


def test_a_step_depends_on_seed_and_step_alone(crowd: list[PersonImage]) -> None:
    stream = PairStream(crowd, SIZE, 6, seed=2)
    first = list(itertools.islice(stream, 5))
    other = PairStream(crowd[::-1], SIZE, 6, seed=2)
    for step, again in zip((3, 4), other.starting_at(3), strict=False):
        for a, b in ((first[step].source, again.source), (first[step].target_pose.xy, again.target_pose.xy)):
            assert torch.equal(a, b)
        assert torch.equal(first[step].identity, again.identity)
    assert not torch.equal(first[0].source, first[1].source)
    assert not torch.equal(PairStream(crowd, SIZE, 6, seed=3)[0].source, first[0].source)


def test_the_drawn_numbers_never_change(crowd: list[PersonImage]) -> None:
    pairs, flipped, _ = PairStream(crowd, SIZE, 4, seed=7)._sample(11)
    assert pairs.tolist() == PAIRS_7_11 and flipped.tolist() == FLIPPED_7_11


def test_flips_mirror_both_images_and_poses(crowd: list[PersonImage]) -> None:
    plain, flipped = (PairStream(crowd, SIZE, 12, seed=4, flip=f)[0] for f in (False, True))
    which = PairStream(crowd, SIZE, 12, seed=4)._sample(0)[1]
    expected = plain.mirrored(torch.from_numpy(which))
    assert 0 < which.sum() < 12
    assert torch.equal(flipped.source, expected.source) and torch.equal(flipped.target, expected.target)
    assert torch.equal(flipped.source_pose.xy, expected.source_pose.xy)
    assert torch.equal(flipped.target_pose.visible, expected.target_pose.visible)


def test_jitter_comes_after_the_flip_and_depends_on_seed_and_step_alone(crowd: list[PersonImage]) -> None:
    ranges = JitterConfig(degrees=5, scale=(0.9, 1.05), shift_px=1, saturation=(0.95, 1.05))
    plain, jumpy = PairStream(crowd, SIZE, 12, seed=4), PairStream(crowd, SIZE, 12, seed=4, jitter=ranges)
    draws = torch.from_numpy(plain._sample(3)[2])
    expected, batch = jittered(plain[3], draws, ranges), jumpy[3]
    for side in ("source", "target"):
        assert torch.equal(getattr(batch, side), getattr(expected, side))
        assert torch.equal(getattr(batch, f"{side}_pose").xy, getattr(expected, f"{side}_pose").xy)
    assert torch.equal(jumpy[3].source, batch.source) and not torch.equal(plain[3].source, batch.source)


def test_frames_are_in_the_order_of_their_names(crowd: list[PersonImage]) -> None:
    frames = [replace(crowd[0], path=f"clip/frame_{i}.jpg") for i in (10, 9, 2, 1, 11)]  # as text 1, 10, 11, 2, 9
    stream = PairStream(frames, SIZE, 4, min_gap=0.5)
    assert [p.name for p in stream.people] == [f"frame_{i}.jpg" for i in (1, 2, 9, 10, 11)]
    pairs = stream.population.pair(np.arange(stream.population.count)).tolist()
    assert sorted(map(tuple, pairs)) == [(0, 3), (0, 4), (1, 4), (3, 0), (4, 0), (4, 1)]
    with pytest.raises(ValueError, match="no identity has two images farther apart than min_gap, 0.9 of its images"):
        PairStream(frames, SIZE, 4, min_gap=0.9)


def test_other_sizes_and_skeletons_arrive_on_openpose_18_at_the_image_size(crowd: list[PersonImage]) -> None:
    mixed = list(crowd)
    for i in (0, 3):
        pose = crowd[i].pose
        assert pose is not None
        mixed[i] = replace(crowd[i], pose=rescale(pose, (64, 24)))
    pose = crowd[4].pose
    assert pose is not None
    mixed[4] = replace(crowd[4], pose=convert(pose, coco_17))
    a, b = PairStream(crowd, SIZE, 4), PairStream(mixed, SIZE, 4)
    assert b.pose.size == SIZE and b.pose.skeleton is openpose_18
    joints = [j for j in range(18) if j != 1]  # a neck made again is the middle of the shoulders
    assert torch.allclose(a.pose.xy[:, joints], b.pose.xy[:, joints], atol=1e-4)
    assert PairStream(crowd, (32, 16), 2)[0].source.shape == (2, 3, 32, 16)


def test_images_are_decoded_at_first_use_and_only_those_in_pairs(crowd: list[PersonImage], tmp_path: Path) -> None:
    stream = PairStream(crowd, SIZE, 2)
    assert "images" not in vars(stream) and [p.name for p in stream.people] == [f"{i}.png" for i in range(5)]
    assert stream.images.shape == (5, 3, *SIZE) and stream.images is stream.images
    assert torch.equal(pickle.loads(pickle.dumps(stream))[9].source, stream[9].source)
    lost = [replace(p, path=str(tmp_path / p.name)) for p in crowd]
    with pytest.raises(images.ImageError, match=r"0\.png' does not exist"):
        next(iter(PairStream(lost, SIZE, 2)))


def test_who_is_in_no_pair_is_named_with_the_reason(crowd: list[PersonImage]) -> None:
    with pytest.warns(DataDoubt) as caught:
        stream = PairStream(crowd, SIZE, 2)
    reasons = "1 alone of their identity (5.png); 1 that lack a shoulder or hip (torso.png); 1 without a pose (poseless.png)"
    assert [str(one.message) for one in caught] == [f"3 of 8 training images are in no pair: {reasons}"]
    assert [one.name for one in in_no_pair(crowd, stream.people) if one.expected] == ["6.png", "7.png"], "junk is expected"


def test_any_pose_lets_in_whoever_shows_a_joint(crowd: list[PersonImage], tmp_path: Path) -> None:
    """PG2's text drops no image for a missing shoulder or hip; an image without any joint has no target pose."""
    base = crowd[0]
    images.write(np.full((*SIZE, 3), 7, np.uint8), tmp_path / "one.png")
    images.write(np.full((*SIZE, 3), 9, np.uint8), tmp_path / "none.png")
    one, none = (
        PersonImage(str(tmp_path / name), base.pid, 0, "train", a_pose(1, tuple(missing)))
        for name, missing in (("one.png", range(1, 18)), ("none.png", range(18)))
    )
    given = [*crowd, one, none]
    strict, loose = PairStream(given, SIZE, 2), PairStream(given, SIZE, 2, any_pose=True)
    assert {p.name for p in loose.people} - {p.name for p in strict.people} == {"torso.png", "one.png"}
    assert [p.name for p in strict.people] == [p.name for p in PairStream(crowd, SIZE, 2).people] and strict.digest != loose.digest
    assert any("one.png" in {loose.people[i].name for i in pair} for pair in loose.population.pair(np.arange(loose.population.count)))


def test_pairs_of_a_list_are_learnt_from_alone(crowd: list[PersonImage], tmp_path: Path) -> None:
    """Each as often as another, in the list's direction, whatever their torsos."""
    path = tmp_path / "pairs.csv"
    same = [p for p in crowd if p.split == "train" and p.pid == crowd[0].pid and p.pose is not None]
    names = [(same[0].name, same[1].name), (same[2].name, same[0].name)]
    write_pairs(path, names)
    stream = PairStream(crowd, SIZE, 600, seed=3, flip=False, pairs=str(path))
    assert stream.population.count == 2 and {p.name for p in stream.people} == {name for pair in names for name in pair}
    batch = stream[0]
    rows = {tuple(pair): [stream.people[i].name for i in pair] for pair in stream.population.pair(np.arange(2)).tolist()}
    assert [tuple(row) for row in rows.values()] == names
    seen = Counter()
    for pair in rows:
        source, target = (images.read(stream.people[i].path)[0, 0] for i in pair)
        looks = [(((x[:, :, 0, 0] + 1) * 127.5).round() == torch.tensor(p.astype(float))).all(1) for x, p in (
            (batch.source, source), (batch.target, target))]  # fmt: skip
        seen[pair] = int((looks[0] & looks[1]).sum())
    assert sum(seen.values()) >= 600 and min(seen.values()) > 240
    write_pairs(tmp_path / "again.csv", names[::-1])
    assert PairStream(crowd, SIZE, 2, pairs=str(tmp_path / "again.csv")).digest != stream.digest
    with pytest.warns(DataDoubt, match=r"not named in .*pairs\.csv"):
        PairStream(crowd, SIZE, 2, pairs=str(path))


@pytest.mark.parametrize(
    ("rows", "options", "says"),
    [
        ([("a.png", "b.png")], {}, r"pairs\.csv names a\.png, which is no image of train"),
        ([("0.png", "poseless.png")], {}, r"names poseless\.png, which has no pose"),
        ([("0.png", "5.png")], {}, r"0\.png and 5\.png show different people"),
        ([], {}, r"pairs\.csv lists no pair"),
        ([("0.png", "1.png")], {"cross_camera": "prefer"}, "pairs of a file are taken as they are: .* got cross_camera=prefer, min_gap=0"),
        ([("0.png", "1.png")], {"any_pose": True}, "any_pose=true"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(
    rows: list[tuple[str, str]], options: dict[str, object], says: str, crowd: list[PersonImage], tmp_path: Path
) -> None:
    write_pairs(tmp_path / "pairs.csv", rows)
    with pytest.raises(ValueError, match=says):
        PairStream(crowd, SIZE, 2, pairs=str(tmp_path / "pairs.csv"), **options)  # type: ignore[arg-type]


def test_no_pairs_says_why(crowd: list[PersonImage]) -> None:
    few = [crowd[0], crowd[1], crowd[5], *crowd[8:]]
    says = (
        "no training pairs: of 5 train images 4 have a pose, 3 of these show shoulders and hips, of 3 identities, none with two"
    )
    with pytest.raises(ValueError, match=says):
        PairStream(few, SIZE, 2)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
        ({"seed": -1}, r"a seed is in 0..2\*\*64 - 1, got -1"),
        ({"min_gap": 1.0}, r"min_gap is a share of a clip's frames in \[0, 1\), got 1.0"),
        ({"min_gap": 0.1, "cross_camera": "prefer"}, "either cross_camera or min_gap"),
        ({"cross_camera": "never"}, "cross_camera is one of any, prefer, got 'never'"),
    ],
)
def test_stream_refuses(crowd: list[PersonImage], options: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        PairStream(crowd, SIZE, **({"batch_size": 2} | options))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="steps count from 0, got -1"):
        PairStream(crowd, SIZE, 2)[-1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("jitter", [None, POSEWARP])
def test_batches_put_together_on_a_gpu_are_the_cpus_and_make_nobody_wait(crowd: list[PersonImage], jitter: JitterConfig | None) -> None:
    there, here = (PairStream(crowd, SIZE, 4, seed=1, jitter=jitter, device=device) for device in ("cuda", "cpu"))
    assert there[0].source.is_cuda  # decoded and moved
    torch.cuda.set_sync_debug_mode("error")
    try:
        batch = there[3]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(batch.source.cpu(), here[3].source, rtol=0, atol=1e-4)
    torch.testing.assert_close(batch.target.cpu(), here[3].target, rtol=0, atol=1e-4)
    assert torch.equal(batch.target_pose.xy, here[3].target_pose.xy) and torch.equal(batch.identity, here[3].identity)


def test_images_elsewhere_than_poses_are_mirrored_and_jittered_where_they_are(crowd: list[PersonImage]) -> None:
    """The meta device stands for a GPU: numbers left on the CPU beside images there would raise."""
    stream = PairStream(crowd, SIZE, 4, seed=1, jitter=POSEWARP, device="meta")
    batch = stream[0]
    assert batch.source.is_meta and batch.target.is_meta and batch.source.shape == (4, 3, *SIZE)
    assert not batch.source_pose.xy.is_meta
