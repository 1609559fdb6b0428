"""BlazePose's geometry by hand, with a stand-in for the network; the network itself where it is at hand."""

from __future__ import annotations

import hashlib
import io
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from generators import Pose, coco_17, openpose_18
from reid_aug import images
from reid_aug.data.estimators import load_estimator, mediapipe, on_skeleton
from reid_aug.data.estimators.mediapipe import SHA256, BlazePose, far_from, network_file, square_of
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import plausible
from reid_aug.rendered import RenderedConfig, write_rendered
from reid_aug.weights import MissingWeights


class FindsRed:
    """A network that puts all landmarks on the reddest pixel, with a mask of it; `radius` says how large it takes the body to be."""

    def __init__(self, radius: float, somebody: float = 0.9) -> None:
        self.radius, self.somebody, self.looks = radius, somebody, []

    def set_tensor(self, _: int, image: np.ndarray) -> None:
        assert image.shape == (1, 256, 256, 3) and image.dtype == np.float32 and image.min() >= 0 and image.max() <= 1.1
        red = image[0, :, :, 0] - image[0, :, :, 1]
        row, column = np.nonzero(red > 0.5 * red.max())
        self.at = np.array([column.mean() + 0.5, row.mean() + 0.5])
        self.mask = np.where(red > 0.5 * red.max(), 9.0, -9.0)
        self.looks.append(self.at)

    def invoke(self) -> None: ...

    def get_tensor(self, place: int) -> np.ndarray:
        rows = np.full((39, 5), 4.0)
        rows[:, :2] = self.at
        rows[34, 1] -= self.radius
        rows[16, 3] = -4.0  # the right wrist is hidden
        return {0: rows.reshape(1, -1), 1: np.array([[self.somebody]]), 2: self.mask[None, :, :, None]}[place]


@pytest.fixture
def looking(monkeypatch: pytest.MonkeyPatch):
    def make(network: FindsRed) -> BlazePose:
        monkeypatch.setattr(mediapipe, "needs", lambda *_: None)
        monkeypatch.setattr(mediapipe, "network_file", lambda variant: Path("none"))
        monkeypatch.setattr(mediapipe, "_network", lambda file: (network, 0, [0, 1, 2]))
        return BlazePose()

    return make


@pytest.mark.parametrize("size", [(128, 64), (64, 32), (300, 200), (40, 90)])
@pytest.mark.parametrize("radius", [91.0, 40.0])  # of the square the network expects; of a body half as large: it looks twice
def test_a_spot_is_found_where_it_is_and_its_mask_laid_back(looking, size: tuple[int, int], radius: float) -> None:
    network = FindsRed(radius)
    image = torch.zeros(1, 3, *size, dtype=torch.uint8)
    row, column = size[0] // 2 - 6, size[1] // 2 + 5
    image[0, 0, row - 2 : row + 3, column - 2 : column + 3] = 255
    estimated = looking(network).estimate(image, masks=True)
    assert len(network.looks) == (1 if radius == 91 else 2)
    seen = estimated.pose.visible[0]
    assert seen.sum() == 16 and not seen[coco_17.index("r_wrist")] and estimated.scores[0, coco_17.index("r_wrist")] < 0.1
    step = 1.4 * max(size) / 256
    torch.testing.assert_close(estimated.pose.xy[0, 0], torch.tensor([column, row]).float(), atol=max(0.3, step), rtol=0)
    assert estimated.masks is not None and estimated.masks.shape == (1, *size)
    where = (estimated.masks[0] > 0.5).nonzero().float()
    torch.testing.assert_close(where.mean(0), torch.tensor([row, column]).float(), atol=max(0.6, step), rtol=0)


def test_nobody_and_joints_beyond_the_edge_are_not_found(looking) -> None:
    image = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    image[:, 0, 30:33, 14:17] = 255
    nobody = looking(FindsRed(91.0, somebody=0.01)).estimate(image)
    assert not nobody.pose.visible.any() and not nobody.scores.any() and nobody.masks is None

    class BeyondTheEdge(FindsRed):
        def set_tensor(self, _: int, image: np.ndarray) -> None:
            self.at, self.mask = np.array([20.0, 128.0]), np.zeros((256, 256))

    assert not looking(BeyondTheEdge(91.0)).estimate(image).pose.visible.any()


def test_the_second_square_is_the_bodys() -> None:
    landmarks = np.zeros((39, 2))
    landmarks[33], landmarks[34] = (30, 60), (30, 20)
    assert square_of(landmarks, 64, 128) == (30, 60, 2 * 40 * 1.4)
    assert square_of(landmarks - 40, 64, 128) is None
    landmarks[34] = landmarks[33]
    assert square_of(landmarks, 64, 128) is None
    assert far_from((0, 0, 100), (21, 0, 100)) and far_from((0, 0, 100), (0, 0, 126)) and not far_from((0, 0, 100), (19, 0, 124))


def _package(folder: Path, content: bytes) -> Path:
    file = folder / mediapipe.PACKAGE.rsplit("/", 1)[-1]
    with tarfile.open(file, "w:gz") as archive:
        member = tarfile.TarInfo("package/pose_landmark_lite.tflite")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file


def test_the_network_is_taken_out_of_its_package_once_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe, "cache", lambda: tmp_path)
    monkeypatch.setattr(mediapipe, "find", lambda url, what, download: tmp_path / url.rsplit("/", 1)[-1])
    monkeypatch.setitem(SHA256, "lite", hashlib.sha256(b"network").hexdigest())
    package = _package(tmp_path, b"another")
    with pytest.raises(MissingWeights, match="is not the one this code knows"):
        network_file("lite")
    package.write_bytes(b"no archive")
    with pytest.raises(MissingWeights, match="is damaged"):
        network_file("lite")
    package = _package(tmp_path, b"network")
    file = network_file("lite")
    assert file.read_bytes() == b"network" and not package.exists()
    assert network_file("lite") == file  # without the package


def test_an_installed_mediapipe_serves_without_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mediapipe, "cache", lambda: tmp_path / "cache")
    monkeypatch.setitem(SHA256, "full", hashlib.sha256(b"network").hexdigest())
    file = tmp_path / "modules" / "pose_landmark" / "pose_landmark_full.tflite"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"network")
    monkeypatch.setattr(mediapipe, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)]))
    assert network_file("full") == file


def test_what_is_missing_is_said_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_aug.data.estimators.find_spec", lambda name: None)
    for name, command in (("mediapipe", r"pip install 'reid-aug\[pose\]'"), ("rtmpose", "pip install rtmlib onnxruntime")):
        with pytest.raises(ModuleNotFoundError, match=command):
            load_estimator(name, "cpu")


@pytest.mark.skipif(
    find_spec("ai_edge_litert") is None or not (mediapipe.cache() / "pose_landmark_full.tflite").is_file(),
    reason="needs ai-edge-litert and BlazePose's network, as after reid-aug poses",
)
def test_the_real_network_finds_rendered_people(tmp_path: Path) -> None:
    config = RenderedConfig(train_identities=4, train_images=4, test_identities=2, size=(128, 64))
    people = load_people(DataConfig(root=str(write_rendered(tmp_path / "set", config).root)))
    train = [p for p in people if p.split == "train" and p.pose is not None]
    pictures = torch.stack([torch.from_numpy(images.read(p.path)).permute(2, 0, 1) for p in train])
    found = on_skeleton(load_estimator("mediapipe", "cpu").estimate(pictures, masks=True), openpose_18)
    truth = Pose.stack([p.pose for p in train if p.pose is not None])
    both = found.pose.visible & truth.visible
    near = (found.pose.xy - truth.xy).norm(dim=-1)[both] <= 12.8
    assert both.float().mean() > 0.7 and near.float().mean() > 0.8
    assert found.masks is not None and plausible(found.masks, found.pose).float().mean() > 0.8


def test_rtmpose_and_keypoint_rcnn_speak_the_same_language(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Network:
        def __init__(self, url: str, **options: object) -> None:
            calls.append((url, options))

        def __call__(self, picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            blue, _, red = picture[0, 0]
            return np.full((1, 17, 2), [red, blue], np.float32), np.full((1, 17), 0.8 if red else 0.1, np.float32)

    monkeypatch.setitem(sys.modules, "rtmlib", SimpleNamespace(RTMPose=Network, __spec__=None))
    monkeypatch.setattr("reid_aug.data.estimators.rtmpose.needs", lambda *_: None)
    estimator = load_estimator("rtmpose", "cpu")
    pictures = torch.zeros(2, 3, 64, 32, dtype=torch.uint8)
    pictures[0, 0], pictures[0, 2] = 12, 7  # red, blue
    estimated = estimator.estimate(pictures)
    assert calls[0][1]["device"] == "cpu"
    assert estimated.pose.xy[0, 3].tolist() == [12, 7] and estimated.pose.visible.all(1).tolist() == [True, False]
    assert estimated.scores[:, 0].tolist() == pytest.approx([0.8, 0.1])

    from reid_aug.data.estimators.keypoint_rcnn import KeypointRcnn

    rcnn = KeypointRcnn.__new__(KeypointRcnn)
    rcnn.device = torch.device("cpu")
    joints, logits = torch.rand(2, 17, 3), torch.linspace(-4, 4, 34).view(2, 17)
    someone = {"scores": torch.tensor([0.3, 0.8]), "keypoints": joints, "keypoints_scores": logits}
    nobody = {"scores": torch.zeros(0), "keypoints": torch.zeros(0, 17, 3), "keypoints_scores": torch.zeros(0, 17)}
    rcnn.network = lambda _: [someone, nobody]  # type: ignore[assignment]
    estimated = rcnn.estimate(pictures)
    torch.testing.assert_close(estimated.scores[0], logits[1].sigmoid())
    assert (estimated.pose.visible[0] == (logits[1] > 0)).all() and not estimated.pose.visible[1].any()
