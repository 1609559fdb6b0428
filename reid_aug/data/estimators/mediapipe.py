"""BlazePose (Bazarevsky et al. 2020), the pose network of Google's MediaPipe, on the TensorFlow Lite runtime: any Python, no mediapipe.

The network is looked for in torch's cache, then in an installed `mediapipe` wheel (up to 0.10.21), else fetched once out of the npm package
`@mediapipe/pose`. Apache-2.0 all three.

Differs from MediaPipe: there a detector finds the person first; an image of Re-ID is already that person's, and the whole of it is shown
to the network, in a square 1.4 times as high as the person may be. Where that was far from the square that the network itself would
choose, it looks a second time, in that square, upright.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock, local
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from generators import Pose, coco_17, replacing
from reid_aug.data.estimators import Estimated, needs
from reid_aug.weights import MissingWeights, cache, find

PACKAGE = "https://registry.npmjs.org/@mediapipe/pose/-/pose-0.5.1675469404.tgz"
SHA256 = {
    "lite": "f17bfbecadb61c3be1baa8b8d851cc6619c870a87167b32848ad20db306b9d61",
    "full": "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    "heavy": "59e42d71bcd44cbdbabc419f0ff76686595fd265419566bd4009ef703ea8e1fe",
}
SIDE = 256  # pixels of the network's square
MARGIN = 1.4  # side of the square that is looked at, in heights of the person
SEEN = 0.1  # score from which a joint counts as found
SOMEBODY = 0.1  # score of the whole from which there is a person
# BlazePose's 33 landmarks by our names, in coco_17's order; 33 is the middle of the hips, 34 a point one radius of the body from it.
_LANDMARKS = {
    "nose": 0, "l_eye": 2, "r_eye": 5, "l_ear": 7, "r_ear": 8, "l_shoulder": 11, "r_shoulder": 12, "l_elbow": 13, "r_elbow": 14,
    "l_wrist": 15, "r_wrist": 16, "l_hip": 23, "r_hip": 24, "l_knee": 25, "r_knee": 26, "l_ankle": 27, "r_ankle": 28,
}  # fmt: skip
_ROWS = [_LANDMARKS[joint] for joint in coco_17.joints]
_MIDDLE, _RADIUS = 33, 34

Square = tuple[float, float, float]  # middle x, middle y and side, in pixels whose first begins at 0


class BlazePose:
    """MediaPipe's pose network: "lite", "full" or "heavy". Images are looked at in threads, one each; the device is the CPU."""

    has_masks = True

    def __init__(self, variant: str = "full") -> None:
        needs("ai_edge_litert", "mediapipe", "'reid-aug[pose]'")
        self.name = f"BlazePose {variant} (MediaPipe 0.5.1675469404)"
        self.file = network_file(variant)
        self._of_thread, self._one_at_a_time = local(), Lock()

    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the joints (N, 17) of the person on each of uint8 images (N, 3, H, W); the masks too where asked for."""
        pictures = images.permute(0, 2, 3, 1).cpu().numpy()
        height, width = pictures.shape[1:3]
        with ThreadPoolExecutor(min(len(pictures), torch.get_num_threads())) as pool:
            found = list(pool.map(lambda picture: self._look_twice(picture, masks), pictures))
        xy = torch.from_numpy(np.stack([joints for joints, _, _ in found])).float()
        scores = torch.from_numpy(np.stack([score for _, score, _ in found])).float()
        pose = Pose(xy, scores >= SEEN, coco_17, (int(height), int(width)))
        persons = [mask for _, _, mask in found if mask is not None]
        return Estimated(pose, scores, torch.from_numpy(np.stack(persons)) if persons else None)

    def _look_twice(self, picture: np.ndarray, masks: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Give joints (17, 2) in pixels, scores (17,) and the person's mask (H, W) of one image (H, W, 3)."""
        height, width = picture.shape[:2]
        square = width / 2, height / 2, MARGIN * max(height, width)
        seen = self._look(picture, square)
        better = square_of(seen.landmarks, width, height)
        if seen.somebody >= SOMEBODY and better is not None and far_from(square, better):
            again = self._look(picture, better)
            if again.somebody >= seen.somebody:
                square, seen = better, again
        scores = seen.scores[_ROWS] if seen.somebody >= SOMEBODY else np.zeros(len(_ROWS), np.float32)
        inside = ((seen.landmarks[_ROWS] >= 0) & (seen.landmarks[_ROWS] < (width, height))).all(1)
        mask = _laid_back(seen.mask, square, height, width) if masks else None
        return seen.landmarks[_ROWS] - 0.5, np.where(inside, scores, 0).astype(np.float32), mask

    def _look(self, picture: np.ndarray, square: Square) -> _Seen:
        """Run the network on a square of an image (H, W, 3)."""
        if not hasattr(self._of_thread, "network"):
            with self._one_at_a_time:
                self._of_thread.network = _network(self.file)
        network, image, places = self._of_thread.network
        network.set_tensor(image, _cut_out(picture, square)[None])
        network.invoke()
        landmarks, somebody, mask = (network.get_tensor(place)[0] for place in places)
        rows = landmarks.reshape(-1, 5)
        scores = 1 / (1 + np.exp(-rows[:, 3:5].min(1).clip(-60, 60)))  # visible, and inside the square: both as logits
        x, y, side = square
        return _Seen(rows[:, :2] / SIDE * side + (x - side / 2, y - side / 2), scores, float(somebody[0]), mask[..., 0])


class _Seen:
    """What the network says of a square: landmarks (39, 2) in the image's pixels, scores (39,), is somebody there, mask logits."""

    def __init__(self, landmarks: np.ndarray, scores: np.ndarray, somebody: float, mask: np.ndarray) -> None:
        self.landmarks, self.scores, self.somebody, self.mask = landmarks, scores, somebody, mask


def square_of(landmarks: np.ndarray, width: int, height: int) -> Square | None:
    """Give the square that MediaPipe would look at next: around the middle of the hips, as wide as the body's circle and a margin.

    None where that lies outside the image or is no size.
    """
    (x, y), radius = landmarks[_MIDDLE], float(np.linalg.norm(landmarks[_RADIUS] - landmarks[_MIDDLE]))
    side = 2 * radius * MARGIN
    return (float(x), float(y), side) if 0 <= x < width and 0 <= y < height and side >= 8 else None


def far_from(square: Square, other: Square) -> bool:
    """Tell whether one square would show the person a quarter larger or smaller than the other, or a fifth of its side aside.

    >>> far_from((32.0, 64.0, 180.0), (33.0, 70.0, 190.0)), far_from((32.0, 64.0, 180.0), (32.0, 64.0, 90.0))
    (False, True)
    """
    apart = max(abs(square[0] - other[0]), abs(square[1] - other[1]))
    return not 0.8 <= other[2] / square[2] <= 1.25 or apart > 0.2 * square[2]


def _cut_out(picture: np.ndarray, square: Square) -> np.ndarray:
    """Cut a square out of an image (H, W, 3), black beyond its edges: float32 (256, 256, 3) in [0, 1]."""
    x, y, side = square
    step = side / SIDE
    at = (step, 0.0, x - side / 2, 0.0, step, y - side / 2)
    # bicubic: most crops are enlarged; a square much larger than the network's is first made smaller by area
    image = Image.fromarray(picture)
    if step >= 2:
        times = int(step)
        image = image.reduce(times)
        at = tuple(value / times for value in at)
    cut = image.transform((SIDE, SIDE), Image.Transform.AFFINE, at, Image.Resampling.BICUBIC)
    return np.asarray(cut, dtype=np.float32) / 255


def _laid_back(logits: np.ndarray, square: Square, height: int, width: int) -> np.ndarray:
    """Lay a square's mask of logits back into the image: float32 (H, W) in [0, 1], 0 outside of the square."""
    x, y, side = square
    step = SIDE / side
    probability = 1 / (1 + np.exp(-logits.clip(-60, 60)))
    mask = Image.fromarray(probability.astype(np.float32), mode="F")
    at = (step, 0.0, (side / 2 - x) * step, 0.0, step, (side / 2 - y) * step)
    return np.asarray(mask.transform((width, height), Image.Transform.AFFINE, at, Image.Resampling.BILINEAR), dtype=np.float32)


def _network(file: Path) -> tuple[Any, int, list[int]]:
    """Open a network, for one thread: with the number of its image, and those of landmarks, presence and mask."""
    from ai_edge_litert.interpreter import Interpreter

    with _quiet():
        network = Interpreter(str(file), num_threads=1)
        network.allocate_tensors()
    place = {tuple(tensor["shape"]): tensor["index"] for tensor in network.get_output_details()}
    wanted = [(1, 195), (1, 1), (1, SIDE, SIDE, 1)]
    if not all(shape in place for shape in wanted):
        raise ValueError(f"{file} is no BlazePose: it gives tensors of shapes {', '.join(map(str, place))}")
    return network, network.get_input_details()[0]["index"], [place[shape] for shape in wanted]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the runtime's C++ says of itself, which no setting turns off, from the user's terminal."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def network_file(variant: str) -> Path:
    """Give the file of a variant: in torch's cache, in an installed mediapipe, or downloaded; MissingWeights says how to get it."""
    name = f"pose_landmark_{variant}.tflite"
    kept = cache() / name
    wheel = find_spec("mediapipe")
    places = [kept, *(Path(folder) / "modules/pose_landmark" / name for folder in (wheel and wheel.submodule_search_locations) or ())]
    for file in places:
        if file.is_file() and _is_variant(file.read_bytes(), variant):
            return file
    package = find(PACKAGE, f"BlazePose {variant}", download=True)
    try:
        with tarfile.open(package) as archive:
            member = archive.extractfile(f"package/{name}")
            content = b"" if member is None else member.read()
    except (OSError, KeyError, tarfile.TarError) as error:
        raise MissingWeights(f"{package} is damaged ({error}): remove it, and it is fetched anew") from None
    if not _is_variant(content, variant):
        raise MissingWeights(f"{name} in {package} is not the one this code knows (SHA-256 {SHA256[variant]}): remove {package}")
    with replacing(kept) as temporary:
        Path(temporary).write_bytes(content)
    os.unlink(package)  # 41 MB, of which this was the part that is needed
    return kept


def _is_variant(content: bytes, variant: str) -> bool:
    return hashlib.sha256(content).hexdigest() == SHA256[variant]
