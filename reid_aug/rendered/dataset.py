"""The embedded data set: drawn people with true poses and masks, in Market-1501's layout.

No Re-ID set may be shipped, so this one is drawn: the same config gives the same bytes, without a download. Any identity
can be drawn in any pose and by any camera, so the image that a pose-conditioned generator should produce is known.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from tqdm import tqdm

from generators import Pose, openpose_18
from reid_aug.rendered.figure import FACE, BodyPose, posed
from reid_aug.rendered.garments import LIMB_PARTS, PART
from reid_aug.rendered.person import Identity
from reid_aug.rendered.raster import Drawn
from reid_aug.rendered.scenes import CAMERAS, FINE, Camera, framing, land, shoot


class RenderedSetConfig(BaseModel):
    """`reid-aug rendered`: write the embedded data set to `out`; the other keys are `reid_aug.rendered.RenderedConfig`'s."""

    model_config = ConfigDict(frozen=True, extra="allow")
    out: str


Image = NDArray[np.uint8]
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
_FORMAT, _VERSION, _INDEX = "reid_aug.rendered", 1, "rendered.jsonl"


# ------------------------------------------------------------------------------------------------------- drawing


@dataclass(frozen=True, eq=False)
class Rendered:
    """A drawn person: `image` uint8 (H, W, 3) RGB; `pose` of 18 joints, visible = inside the frame; `occluded` (18,) bool,
    hidden by the person itself; `body_mask` (H, W) bool; `limb_masks` (10, H, W) bool, where each limb is, hidden or not."""

    image: Image
    pose: Pose
    occluded: NDArray[np.bool_]
    body_mask: NDArray[np.bool_]
    limb_masks: NDArray[np.bool_]


def render(identity: Identity, pose: BodyPose, camera: Camera, *, size: tuple[int, int] = (128, 64), seed: int = 0) -> Rendered:
    """Draw a person; `seed` gives crop jitter, noise and the background's window. The same arguments, the same bytes."""
    return _finish(*shoot(posed(identity, pose), camera, size, seed), size)


def _inside(drawn: Drawn, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Whether each joint's rounded position lies inside the frame, (18,)."""
    at = np.rint(drawn.joints)
    return np.all((at >= 0) & (at < (size[1], size[0])), axis=1)


def _share(fine: NDArray, size: tuple[int, int]) -> NDArray:
    """Means (H, W) over the finer grid's pixels."""
    return fine.reshape(size[0], FINE, size[1], FINE).mean((1, 3))


def _finish(data: NDArray[np.uint8], drawn: Drawn, size: tuple[int, int]) -> Rendered:
    """Open the file again, so that the image is what a reader of the set gets, and add the truth."""
    import cv2

    image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
    xy, inside = torch.from_numpy(drawn.joints.astype(np.float32)), torch.from_numpy(_inside(drawn, size))
    pose, body = Pose(xy, inside, openpose_18, size), _share(drawn.rgba[..., 3], size) >= 127
    return Rendered(image, pose, drawn.occluded, body, np.stack([_mask(drawn, parts, size) for parts in LIMB_PARTS]))


def _mask(drawn: Drawn, parts: Mapping[str, float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) of which at least half lies on one of the parts."""
    fine = np.zeros(size[0] * size[1] * FINE**2, np.float32)
    for name, height in parts.items():
        fine[drawn.pixels[(drawn.parts == PART[name]) & (drawn.heights >= height)]] = 1
    return _share(fine, size) >= 0.5


def contact_sheet(images: Sequence[Image], columns: int) -> Image:
    """Images of one size (H, W, 3) side by side, `columns` in a row, on white."""
    h, w = images[0].shape[:2]
    rows = -(-len(images) // columns)
    sheet = np.full((rows * (h + 2) - 2, columns * (w + 2) - 2, 3), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (h + 2), i % columns * (w + 2)
        sheet[y : y + h, x : x + w] = image
    return sheet


# ------------------------------------------------------------------------------------------------------ data set


@dataclass(frozen=True)
class RenderedConfig:
    """How many people and images, and from where they are seen.

    Training and gallery images see a person within `sector_deg` of a home direction of its own; queries see it
    `query_offset_deg` (from, to) further round, so that who has seen one side must recognise another.
    """

    train_identities: int = 100
    test_identities: int = 50
    train_images: int = 12  # per identity
    query_images: int = 2  # per identity
    gallery_images: int = 6  # per identity
    cameras: int = 6
    size: tuple[int, int] = (128, 64)
    sector_deg: float = 25.0  # to either side
    query_offset_deg: tuple[float, float] = (90.0, 270.0)
    gallery_any_view: float = 0.0  # share of the gallery seen from anywhere
    seed: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", tuple(self.size))
        object.__setattr__(self, "query_offset_deg", tuple(self.query_offset_deg))
        for name in ("train_identities", "test_identities", "train_images", "query_images", "gallery_images"):
            _require(name, getattr(self, name) >= 1, "is at least 1", getattr(self, name))
        people = self.train_identities + self.test_identities
        _require("train_identities + test_identities", people <= 9999, "fits four digits of a file name", people)
        _require("cameras", 2 <= self.cameras <= len(CAMERAS), f"lies in 2..{len(CAMERAS)}", self.cameras)
        _require("size", len(self.size) == 2 and min(self.size) >= 16, "is (H, W), each at least 16", self.size)
        _require("sector_deg", 0 <= self.sector_deg < 180, "lies in [0, 180)", self.sector_deg)
        low, high = self.query_offset_deg if len(self.query_offset_deg) == 2 else (0.0, 0.0)
        outside = self.sector_deg < low <= high < 360 - self.sector_deg
        _require("query_offset_deg", outside, "is (from, to), both outside of ±sector_deg", self.query_offset_deg)
        _require("gallery_any_view", 0 <= self.gallery_any_view <= 1, "lies in [0, 1]", self.gallery_any_view)
        _require("seed", self.seed >= 0, "is not negative", self.seed)


def _require(name: str, holds: bool, rule: str, value: object) -> None:
    if not holds:
        raise ValueError(f"rendered data set: {name} {rule}, got {value!r}")


@dataclass(frozen=True)
class _Row:
    """One image: all that is needed to draw it again."""

    name: str
    folder: str
    identity: int  # Identity.draw's seed
    pose: BodyPose
    camera: int  # 0-based
    seed: int

    def shoot(self, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Drawn]:
        return shoot(posed(Identity.draw(self.identity), self.pose), CAMERAS[self.camera], size, self.seed)


def _plan(config: RenderedConfig) -> Iterable[_Row]:
    """Every image of the set, in the order of their writing."""
    people = config.train_identities + config.test_identities
    start = np.random.default_rng((3, config.seed)).uniform(0, 360)
    for pid in range(1, people + 1):
        rng = np.random.default_rng((4, config.seed, pid))
        # Golden-ratio steps spread any number of home directions evenly over the circle.
        home = (start + pid * 360 * 0.6180339887) % 360
        cameras = rng.permutation(config.cameras)
        askers = cameras[: max(1, config.cameras // 3)]  # a query's camera has none of its gallery images
        others = cameras[len(askers) :]
        folders = {TRAIN: (config.train_images, cameras)}
        if pid > config.train_identities:
            folders = {QUERY: (config.query_images, askers), GALLERY: (config.gallery_images, others)}
        serial = 0
        for folder, (count, choice) in folders.items():
            for i in range(count):
                serial += 1
                camera = int(choice[i % len(choice)])
                yaw = home + rng.uniform(-config.sector_deg, config.sector_deg)
                if folder == QUERY:
                    yaw = home + rng.uniform(*config.query_offset_deg)
                elif folder == GALLERY and rng.random() < config.gallery_any_view:
                    yaw = rng.uniform(0, 360)
                name = f"{pid:04d}_c{camera + 1}s1_{serial * 25 + int(rng.integers(25)):06d}_00.jpg"
                pose = BodyPose.draw(rng, yaw)
                yield _Row(name, folder, config.seed * 10_000 + pid, pose, camera, int(rng.integers(2**31)))


@dataclass(frozen=True, eq=False)
class RenderedSet:
    """A written set."""

    root: Path
    config: RenderedConfig
    rows: dict[str, _Row] = field(repr=False)

    def _row(self, name: str) -> _Row:
        try:
            return self.rows[name]
        except KeyError:
            raise KeyError(f"{self.root} has no image named {name!r}; names look like {next(iter(self.rows))!r}") from None

    def truth(self, name: str) -> Rendered:
        """The image of this name again, with its joints and masks."""
        row = self._row(name)
        return _finish(*row.shoot(self.config.size), self.config.size)

    def true_image(self, source_name: str, target_name: str) -> Rendered:
        """What a generator should draw: the source's person and place, in the target's pose, on the target's joints."""
        source, target, size = self._row(source_name), self._row(target_name), self.config.size
        body, wanted = (posed(Identity.draw(row.identity), target.pose) for row in (source, target))
        frame = land(body, wanted, framing(wanted, CAMERAS[target.camera], size, target.seed))
        return _finish(*shoot(body, CAMERAS[source.camera], size, source.seed, frame), size)


# ------------------------------------------------------------------------------------------------------ on disk


def write_rendered(root: str | os.PathLike[str], config: RenderedConfig | None = None, *, progress: bool = False) -> RenderedSet:
    """Draw a set into `root`, all or nothing; the same set already there is returned as it is.

    FileExistsError says what else is there.
    """
    root, config = Path(root), config or RenderedConfig()
    if found := _existing(root, config):
        return found
    root.parent.mkdir(parents=True, exist_ok=True)
    draft = root.parent / f".{root.name}.{uuid.uuid4().hex}"
    try:
        rows = list(_plan(config))
        _write(draft, rows, config, progress)
        try:
            os.rename(draft, root)
        except OSError:  # another process was faster
            if found := _existing(root, config):
                return found
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return RenderedSet(root, config, {row.name: row for row in rows})


def _existing(root: Path, config: RenderedConfig) -> RenderedSet | None:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return None
    if not (root / _INDEX).is_file():
        what = f"a folder with {sorted(p.name for p in root.iterdir())[:3]}" if root.is_dir() else "a file"
        raise FileExistsError(f"{root} is {what}, not a rendered data set; choose another place")
    try:
        found = read_rendered(root)
    except (ValueError, TypeError, KeyError) as error:
        raise FileExistsError(f"{root} is a rendered data set that can't be read ({error}); choose another place") from error
    if found.config != config:
        theirs, ours = asdict(found.config), asdict(config)
        differ = ", ".join(f"{k}={theirs[k]!r} (wanted {ours[k]!r})" for k in ours if theirs[k] != ours[k])
        raise FileExistsError(f"{root} is a rendered data set with {differ}; choose another place")
    return found


@contextmanager
def _one_thread():
    """OpenCV on one thread: on images this small its threads cost more than they do."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _write(root: Path, rows: list[_Row], config: RenderedConfig, progress: bool) -> None:
    for folder in (TRAIN, QUERY, GALLERY):
        (root / folder).mkdir(parents=True)
    lines: dict[str, list[str]] = {"train": [], "test": []}
    with _one_thread():
        for row in tqdm(rows, desc="drawing people", unit="image", disable=None if progress else True):
            data, drawn = row.shoot(config.size)
            (root / row.folder / row.name).write_bytes(data.tobytes())
            lines["train" if row.folder == TRAIN else "test"].append(_csv_line(row.name, drawn, config.size))
    for split, body in lines.items():
        (root / f"annotation-{split}.csv").write_text("\n".join(["name:keypoints_y:keypoints_x", *body]) + "\n")
    head = {"format": _FORMAT, "version": _VERSION, "config": asdict(config)}
    records = (vars(row) | {"pose": vars(row.pose)} for row in rows)
    (root / _INDEX).write_text("".join(json.dumps(line) + "\n" for line in (head, *records)))


def _csv_line(name: str, drawn: Drawn, size: tuple[int, int]) -> str:
    """As a pose estimator gives it: hidden body joints are guessed, hidden eyes, ears and noses missing."""
    known = _inside(drawn, size)
    known[FACE] &= ~drawn.occluded[FACE]
    x, y = np.where(known[:, None], np.rint(drawn.joints), -1).astype(int).T.tolist()
    return f"{name}: {y}: {x}"


def is_rendered(root: str | os.PathLike[str]) -> bool:
    """Whether a folder holds a rendered data set."""
    return (Path(root) / _INDEX).is_file()


def read_rendered(root: str | os.PathLike[str]) -> RenderedSet:
    """Open a written set."""
    root = Path(root)
    if not (root / _INDEX).is_file():
        raise FileNotFoundError(f"{root} is not a rendered data set: it has no {_INDEX}; write_rendered makes one")
    with (root / _INDEX).open() as file:
        head = json.loads(file.readline())
        if (head.get("format"), head.get("version")) != (_FORMAT, _VERSION):
            raise ValueError(f"{root / _INDEX}: format is {_FORMAT} {_VERSION}, got {head.get('format')} {head.get('version')}")
        rows = [_Row(**(line | {"pose": BodyPose(**line["pose"])})) for line in map(json.loads, file)]
    return RenderedSet(root, RenderedConfig(**head["config"]), {row.name: row for row in rows})
