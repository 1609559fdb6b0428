"""Identity: distances by hand, ranks with and without another camera, and a network that is given images of its size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from generators import read_header, write_tensors
from reid_aug.baselines import neighbours
from reid_aug.baselines.network import FORMAT, load_reid
from reid_aug.quality import identity
from reid_aug.quality.identity import IdentityPreservation, identity_distance
from reid_aug.quality.metrics import Batch, Measured
from reid_aug.quality.surroundings import Surroundings

SIZE = (32, 16)


def test_identity_distance_by_hand() -> None:
    real = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]])  # unit: (1, 0), (0, 1) of 7, and (1, 0) of 9
    features = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    assert identity_distance(features, [7, 9], real, [7, 7, 9]).tolist() == pytest.approx([0.5, 2.0])
    with pytest.raises(ValueError, match="identity 8 has no real image"):
        identity_distance(features, [7, 8], real, [7, 7, 9])


class TestIdentity:
    @pytest.fixture
    def measured(self, batch_of: Callable[..., Batch]) -> Callable[..., Measured]:
        def measure(surroundings: Surroundings, pids: Sequence[int], scene_camids: Sequence[int] | None = None) -> Measured:
            measurement = IdentityPreservation(kind="identity").start("identity", surroundings)
            generated = torch.randint(256, (len(pids), 3, *SIZE), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
            measurement.update(batch_of(generated, pids, scene_camids))
            return measurement.compute()

        return measure

    def test_one_camera_has_no_rank_and_says_so(self, measured: Callable[..., Measured], noise_around: type) -> None:
        result = measured(noise_around(4, [1, 1, 2, 2], [0, 0, 0, 1]), [1, 1])
        assert list(result.values) == ["ID²"]
        assert result.missing == {"identity rank-1": "nobody shown has a real image of another camera"}

    def test_one_person_of_two_cameras_is_enough(self, measured: Callable[..., Measured], noise_around: type) -> None:
        result = measured(noise_around(4, [1, 1, 2, 2], [0, 0, 0, 1]), [1, 2])
        assert list(result.values) == ["identity rank-1", "ID²"] and not result.missing
        assert result.values["identity rank-1"].count == 1

    def test_what_is_broken_is_no_reason(
        self, measured: Callable[..., Measured], noise_around: type, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        surroundings = noise_around(4, [1, 1, 2, 2], [0, 1, 0, 1])
        monkeypatch.setattr(surroundings.module, "forward", lambda self, images: images.mean((2, 3)) * float("nan"))
        with pytest.raises(ValueError, match="finite"):
            measured(surroundings, [1, 2])


class TestScenes:
    """A person in a target image's place: that camera's images of them show the place, too, and do not count."""

    # Person 1 by three cameras and a stranger; the network sees an image's grey level alone.
    LEVELS, PIDS, CAMIDS = (10, 100, 200, 150), [1, 1, 1, 2], [0, 1, 2, 1]

    @pytest.fixture
    def rank1(self, batch_of: Callable[..., Batch], noise_around: type) -> Callable[..., Measured]:
        def measure(level: int, scene_camids: Sequence[int] | None) -> Measured:
            surroundings = noise_around(4, self.PIDS, self.CAMIDS)
            surroundings.images = torch.tensor(self.LEVELS, dtype=torch.uint8).view(4, 1, 1, 1).expand(4, 3, *SIZE)
            measurement = IdentityPreservation(kind="identity").start("identity", surroundings)
            measurement.update(batch_of(torch.full((1, 3, *SIZE), level, dtype=torch.uint8), [1], scene_camids))
            return measurement.compute()

        return measure

    @pytest.mark.parametrize(
        ("level", "scene", "found"),
        [
            (105, None, 1.0),  # nearest: 100, the person by camera 1
            (105, [1], 0.0),  # that is the scene's camera: 150, the stranger, is nearer than 200 and counts, whatever camera saw them
            (105, [2], 1.0),  # 200 is left out, 100 stays
            (105, [0], 1.0),  # the source's own place
            (190, [1], 1.0),  # 200, by camera 2, which had no part in it
            (190, [2], 0.0),
        ],
    )
    def test_ranks_by_hand(self, level: int, scene: list[int] | None, found: float, rank1: Callable[..., Measured]) -> None:
        result = rank1(level, scene)
        assert result.values["identity rank-1"].value == found
        left_out = ", without the person's by the source's or the scene's camera" if scene in ([1], [2]) else ""
        assert result.values["identity rank-1"].how.endswith(f"gallery of 4 real images{left_out}")

    def test_whoever_searches(self, rank1: Callable[..., Measured], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Surroundings, "backend", property(lambda self: "faiss-cpu", lambda self, value: None), raising=False)
        asked: list[str] = []

        def noted(*given: object, backend: str, **options: object) -> tuple[float, int]:
            asked.append(backend)
            return neighbours.rank1(*given, backend=backend, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(identity, "rank1", noted)
        assert rank1(105, None).values["identity rank-1"].value == 1.0 and rank1(105, [1]).values["identity rank-1"].value == 0.0
        assert asked == ["faiss-cpu"] * 2

    def test_nobody_by_a_third_camera(self, batch_of: Callable[..., Batch], noise_around: type) -> None:
        surroundings = noise_around(4, [1, 1, 2, 2], [0, 1, 0, 1])
        measurement = IdentityPreservation(kind="identity").start("identity", surroundings)
        measurement.update(batch_of(torch.zeros(2, 3, *SIZE, dtype=torch.uint8), [1, 2], [1, 1]))
        result = measurement.compute()
        assert result.missing == {"identity rank-1": "nobody shown has a real image of another camera than the source's and the scene's"}
        assert list(result.values) == ["ID²"]


def test_a_network_is_given_images_of_the_size_it_was_trained_on(reid: Path, tmp_path: Path) -> None:
    network = load_reid(str(reid))
    assert network.module is not None
    assert network.size == SIZE and tuple(network.resized(torch.zeros(2, 3, 64, 32, dtype=torch.uint8)).shape[-2:]) == SIZE
    header = dict(read_header(reid, FORMAT), format=FORMAT)
    del header["config"]
    write_tensors(network.module().state_dict(), header, tmp_path / "old.safetensors")
    with pytest.raises(ValueError, match="before checkpoints said what images"):
        load_reid(str(tmp_path / "old.safetensors"))
