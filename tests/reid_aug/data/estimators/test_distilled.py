"""The distilled pose network: where it finds joints, that flipping is a flip, that sizes do not matter, which files it takes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from generators import Pose, mirror, openpose_18, rescale, tensors_digest, write_tensors
from reid_aug.data.estimators import distilled as module
from reid_aug.data.estimators import load_estimator
from reid_aug.data.estimators.distilled import CELL_PX, FORMAT, Distilled, PoseNetwork, fused, load_network, mirrored, positions
from reid_aug.data.estimators.distilling import place_targets
from reid_aug.images import resized

SIZE = (64, 32)
COLUMNS = SIZE[1] // CELL_PX


def untrained(seed: int = 0) -> PoseNetwork:
    """A small network, whose batch norms have seen something."""
    torch.manual_seed(seed)
    network = PoseNetwork(SIZE, 8)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.rand(8, 3, *SIZE))
        network.head.weight.mul_(20)
    return network.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network, path = untrained(), tmp_path_factory.mktemp("distilled") / "pose.safetensors"
    state = network.state_dict()
    write_tensors(state, {"format": FORMAT, "options": network.options, "digest": tensors_digest(state)}, path)
    return path


@pytest.fixture(scope="module")
def pictures() -> torch.Tensor:
    return torch.randint(0, 256, (5, 3, *SIZE), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)


class TestPositions:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_middle_of_a_gaussian_is_found_between_cells(self, dtype: torch.dtype) -> None:
        # A Gaussian's mean, cut off 2 to 2.5 deviations away, is off by 0.06 cells at most, and not at all where the cut is symmetric.
        xy = torch.tensor([[[13.5, 25.5], [14.5, 25.5], [15.0, 30.0], [16.4, 21.1]]], dtype=dtype)
        seen = torch.ones(1, 4, dtype=torch.bool)
        cells, scores = positions(place_targets(xy, seen, SIZE, 3.0).to(dtype), COLUMNS)
        found = cells * CELL_PX + (CELL_PX - 1) / 2
        assert (found - xy).abs().max() < 0.06 * CELL_PX
        torch.testing.assert_close(found[0, 0], xy[0, 0], atol=1e-4, rtol=0)  # the middle of a cell
        assert (scores > 0.97).all()

    def test_the_mean_of_two_cells_is_weighed_by_hand(self) -> None:
        cells = torch.zeros(1, 2, 4 * 6 + 1)
        cells[0, 0, [0, 1]], cells[0, 0, -1] = torch.tensor([0.3, 0.1]), 0.6  # in a corner: x = 0.1 / 0.4
        cells[0, 1, [23, 0]] = torch.tensor([0.75, 0.25])  # far apart: the likeliest alone
        xy, scores = positions(cells, 6)
        torch.testing.assert_close(xy, torch.tensor([[[0.25, 0.0], [5.0, 3.0]]]))
        torch.testing.assert_close(scores, torch.tensor([[0.4, 0.75]]))

    def test_a_joint_that_is_nowhere_has_no_score(self) -> None:
        xy, scores = positions(place_targets(torch.zeros(1, 1, 2), torch.zeros(1, 1, dtype=torch.bool), SIZE, 4.0), COLUMNS)
        assert scores.item() == 0 and torch.isfinite(xy).all()


class TestFlip:
    def test_probabilities_of_a_flipped_image_are_those_of_the_mirrored_pose(self) -> None:
        generator = torch.Generator().manual_seed(0)
        xy = torch.rand(2, 18, 2, generator=generator) * torch.tensor([31.0, 63.0])
        pose = Pose(xy, torch.rand(2, 18, generator=generator) < 0.7, openpose_18, SIZE)
        flipped = mirror(pose)
        there = place_targets(flipped.xy, flipped.visible, SIZE, 4.0)
        torch.testing.assert_close(mirrored(there, COLUMNS), place_targets(pose.xy, pose.visible, SIZE, 4.0), atol=1e-6, rtol=0)

    def test_it_is_the_mean_of_both_looks(self, checkpoint: Path, pictures: torch.Tensor) -> None:
        estimator = Distilled(checkpoint)
        with torch.inference_mode():
            there, back = (estimator.network(p.float() / 255).softmax(-1) for p in (pictures, pictures.flip(-1)))
        # By hand: joint by joint, column by column.
        mean = there.clone()
        for joint in range(18):
            other = openpose_18.mirror[joint]
            maps = back[:, other, :-1].reshape(len(back), -1, COLUMNS)
            for column in range(COLUMNS):
                mean[:, joint, column:-1:COLUMNS] += maps[:, :, COLUMNS - 1 - column]
            mean[:, joint, -1] += back[:, other, -1]
        cells, scores = positions(mean / 2, COLUMNS)
        found = estimator.estimate(pictures)
        torch.testing.assert_close(found.scores, scores)
        seen = found.pose.visible
        torch.testing.assert_close(found.pose.xy[seen], (cells * CELL_PX + 1.5)[seen], atol=1e-4, rtol=1e-5)

    def test_flipped_images_have_mirrored_poses(self, checkpoint: Path, pictures: torch.Tensor) -> None:
        estimator = Distilled(checkpoint)
        found, flipped = estimator.estimate(pictures), estimator.estimate(pictures.flip(-1))
        torch.testing.assert_close(mirror(flipped.pose).xy, found.pose.xy, atol=1e-3, rtol=0)
        once = Distilled(checkpoint, flip=False)
        assert not torch.equal(once.estimate(pictures).scores, found.scores) and once.name != estimator.name


class TestImages:
    def test_a_batch_is_its_images_one_by_one(self, checkpoint: Path, pictures: torch.Tensor) -> None:
        estimator = Distilled(checkpoint)
        whole = estimator.estimate(pictures)
        for i in range(len(pictures)):
            alone = estimator.estimate(pictures[i : i + 1])
            torch.testing.assert_close(alone.scores[0], whole.scores[i], atol=1e-5, rtol=0)
            torch.testing.assert_close(alone.pose.xy[0], whole.pose.xy[i], atol=1e-3, rtol=0)
        assert whole.masks is None and whole.scores.dtype == torch.float32

    @pytest.mark.parametrize("size", [(128, 64), (50, 41), (7, 200)])
    def test_any_size_is_resized_as_readers_resize(self, checkpoint: Path, size: tuple[int, int]) -> None:
        estimator = Distilled(checkpoint)
        pictures = torch.randint(0, 256, (2, 3, *size), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
        found, small = estimator.estimate(pictures), estimator.estimate(resized(pictures, SIZE))
        assert found.pose.size == size
        torch.testing.assert_close(found.pose.xy, rescale(small.pose, size).xy)
        torch.testing.assert_close(found.scores, small.scores)

    @pytest.mark.parametrize("wrong", [torch.zeros(2, 3, 8, 8), torch.zeros(3, 8, 8, dtype=torch.uint8), torch.zeros(1, 4, 8, 8).byte()])
    def test_other_images_are_refused(self, checkpoint: Path, wrong: torch.Tensor) -> None:
        with pytest.raises(TypeError, match=r"uint8 \(N, 3, H, W\), got"):
            Distilled(checkpoint).estimate(wrong)


class TestNetwork:
    def test_fused_is_the_same_function(self) -> None:
        network = untrained()
        with torch.no_grad():
            images = torch.rand(3, 3, *SIZE)
            torch.testing.assert_close(fused(network)(images), network(images), atol=1e-4, rtol=1e-4)

    def test_light_and_contrast_change_little(self) -> None:
        network, images = untrained(), torch.rand(2, 3, *SIZE) * 0.5
        with torch.no_grad():
            torch.testing.assert_close(network(images * 1.5 + 0.2), network(images), atol=0.4, rtol=0.05)

    @pytest.mark.parametrize(("options", "why"), [
        ({"size": (100, 64)}, "multiples of 16"), ({"size": (16, 16)}, "multiples of 16"), ({"width": 6}, "multiple of 4"),
    ])  # fmt: skip
    def test_sizes_that_do_not_fit_are_refused(self, options: dict, why: str) -> None:
        with pytest.raises(ValueError, match=why):
            PoseNetwork(**options)


class TestCheckpoints:
    def test_a_path_is_an_estimator(self, checkpoint: Path, pictures: torch.Tensor) -> None:
        estimator = load_estimator(str(checkpoint), "cpu")
        assert estimator.name.startswith("distilled ") and not estimator.has_masks
        torch.testing.assert_close(estimator.estimate(pictures).scores, Distilled(checkpoint).estimate(pictures).scores)

    def test_files_that_are_no_pose_network_are_refused(self, checkpoint: Path, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            load_estimator(str(tmp_path / "none.safetensors"), "cpu")
        other = tmp_path / "other.safetensors"
        save_file({"a": torch.zeros(1)}, other)
        with pytest.raises(ValueError, match="no estimator checkpoint"):
            load_estimator(str(other), "cpu")
        state = load_file(checkpoint)
        about = {"format": FORMAT, "options": {"size": list(SIZE), "width": 8}, "digest": tensors_digest(state)}
        write_tensors({**state, "head.bias": state["head.bias"] + 1}, about, other)
        with pytest.raises(ValueError, match="not the ones that were saved"):
            load_network(other)
        write_tensors(state, {**about, "options": {"size": list(SIZE), "width": 12}}, other)
        with pytest.raises(ValueError, match="weights do not fit"):
            load_network(other)
        write_tensors(state, {**about, "options": {"depth": 3}}, other)
        with pytest.raises(ValueError, match="no options of a pose network"):
            load_network(other)

    def test_without_the_packaged_one_the_way_to_train_it_is_told(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr(module, "PACKAGED", tmp_path / "gone.safetensors")
        with pytest.raises(FileNotFoundError, match="reid-aug train distilled"):
            load_estimator("distilled", "cpu")

    def test_an_unknown_name_has_the_nearest(self) -> None:
        with pytest.raises(ValueError, match="did you mean 'distilled'"):
            load_estimator("distiled", "cpu")
