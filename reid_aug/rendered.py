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
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from generators.pose import Pose, openpose_18
from reid_aug.figure import FACE, LIMB_PARTS, PART, Body, BodyPose, Drawn, Framing, Identity, draw, extent, posed, project, view

__all__ = [
    "CAMERAS", "BodyPose", "Camera", "Identity", "Rendered", "RenderedConfig", "RenderedSet",
    "contact_sheet", "read_rendered", "render", "write_rendered",
]  # fmt: skip

Image = NDArray[np.uint8]
TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"
_FINE = 2  # figures are drawn this many times finer, then averaged
_FORMAT, _VERSION, _INDEX = "reid_aug.rendered", 1, "rendered.jsonl"


# ------------------------------------------------------------------------------------------------------- cameras


@dataclass(frozen=True)
class Camera:
    """A place and its camera."""

    background: str
    pitch_deg: float  # how far it looks down
    light: tuple[float, float, float]  # towards the lamp: right, up, near
    ambient: float  # share of the light that comes from everywhere
    gain: tuple[float, float, float]  # colour cast, RGB
    gamma: float
    blur_px: float  # at 128 pixels' height
    noise: float  # standard deviation, bytes
    jitter: float  # of the crop, in crops
    jpeg_quality: int


CAMERAS: tuple[Camera, ...] = (
    Camera("bricks", 8, (-0.5, 0.6, 0.7), 0.50, (1.02, 1.00, 0.96), 1.00, 0.30, 3.0, 0.020, 92),
    Camera("lawn", 12, (0.7, 0.6, 0.5), 0.42, (1.08, 1.05, 0.92), 0.95, 0.45, 3.5, 0.025, 88),
    Camera("corridor", 4, (0.0, 0.8, 0.6), 0.62, (0.96, 1.01, 1.04), 1.05, 0.40, 4.0, 0.020, 85),
    Camera("crossing", 15, (-0.8, 0.4, 0.4), 0.40, (1.00, 1.00, 1.00), 1.10, 0.50, 4.5, 0.030, 82),
    Camera("shutters", 6, (0.4, 0.5, 0.9), 0.55, (0.90, 0.95, 1.10), 1.12, 0.65, 5.0, 0.025, 78),
    Camera("plaza", 10, (0.2, 0.7, 0.7), 0.48, (1.04, 0.98, 0.98), 0.90, 0.35, 2.5, 0.020, 90),
)


@lru_cache(maxsize=16)
def _scene(kind: str, size: tuple[int, int]) -> NDArray[np.float32]:
    """A camera's whole view (3, 1.2 H, 6 W), 0 to 255, of which each image shows a window."""
    h, w = round(size[0] * 1.2), size[1] * 6
    unit = size[0] / 128
    rng = np.random.default_rng((0xB6, *kind.encode()))
    x, y = np.arange(w)[None] / unit, np.arange(h)[:, None] / unit
    horizon = {"corridor": 92, "lawn": 74, "crossing": 58}.get(kind, 82)
    down = np.maximum(y - horizon, 0) + 6
    gx, gy = (x - 192) / down, 260 / down  # the ground's own coordinates, in perspective
    wall, ground = np.zeros((h, w, 3)), np.zeros((h, w, 3))

    def paint(where: NDArray, canvas: NDArray, colour: Sequence[float]) -> None:
        canvas[np.broadcast_to(where, (h, w))] = colour

    def cells(a: NDArray, b: NDArray, spread: float) -> NDArray:
        """A fixed random brightness for each cell of a grid."""
        table = rng.normal(1, spread, (97, 89))
        return table[np.floor(a).astype(int) % 97, np.floor(b).astype(int) % 89][..., None]

    if kind == "bricks":
        shift = x + 7 * (np.floor(y / 6) % 2)
        wall[:] = np.array((150, 92, 74)) * cells(shift / 14, y / 6 + 0 * x, 0.1)
        paint((shift % 14 < 1) | (y % 6 < 1), wall, (184, 172, 160))
        paint((x % 190 > 120) & (x % 190 < 158) & (y > 8) & (y < 52), wall, (62, 74, 88))
        ground[:] = np.array((150, 146, 140)) * cells(gx * 3, gy, 0.05)
    elif kind == "lawn":
        wall[:] = np.array((62, 92, 54)) * cells(x / 3, y / 3, 0.2)
        paint(y + 0 * x < 22, wall, (176, 196, 214))
        paint((x % 83 < 7) & (y > 5), wall, (84, 66, 50))
        ground[:] = np.array((96, 132, 68)) * cells(x / 2, y * 0.8, 0.09)
        paint((gy > 7) & (gy < 14) & (x >= 0), ground, (182, 168, 140))
    elif kind == "corridor":
        wall[:] = (206, 204, 194)
        paint((x % 110 > 70) & (y > 18), wall, (128, 98, 74))
        paint((abs(x % 110 - 71) < 1.5) & (y > 16), wall, (88, 70, 56))
        paint((x % 110 < 46) & (x % 110 > 16) & (y > 20) & (y < 48), wall, (70, 104, 150))
        paint((y > 84) & (x >= 0), wall, (110, 112, 116))
        odd = (np.floor(gx * 2.4) + np.floor(gy * 0.6)) % 2 == 0
        ground[:] = np.where(odd[..., None], (172, 174, 176), (132, 136, 142))
    elif kind == "crossing":
        wall[:] = np.array((112, 116, 124)) * cells(x / 24, y / 60 + 0 * x, 0.12)
        paint((x % 24 < 15) & (y % 20 < 11), wall, (58, 70, 84))
        ground[:] = np.array((86, 86, 90)) * cells(x / 2, y / 2, 0.05)
        paint((gx % 0.9 < 0.42) & (gy < 18), ground, (212, 210, 202))
    elif kind == "shutters":
        wall[:] = np.array((126, 138, 148)) * (1 + 0.16 * np.sin(y * 1.6 + 0 * x))[..., None]
        paint((x % 96 < 16) & (y >= 0), wall, (190, 176, 142))
        paint((x % 96 > 30) & (x % 96 < 82) & (y > 4) & (y < 17), wall, (166, 60, 54))
        ground[:] = np.array((74, 76, 80)) * cells(x / 2, y, 0.06)
        paint((gy > 17) & (gy < 24) & (x >= 0), ground, (196, 170, 60))
    else:
        wall[:] = (168, 186, 196)
        paint((x % 30 < 3) | (y % 34 < 2), wall, (92, 98, 104))
        paint((np.floor(x / 30) % 3 == 1) & (y > 34), wall, (134, 128, 116))
        ground[:] = np.array((186, 174, 158)) * cells(gx * 2, gy * 0.5, 0.06)
        paint((gx * 2 % 1 < 0.06) | (gy * 0.5 % 1 < 0.1), ground, (140, 130, 118))
    scene = np.where((y > horizon)[..., None], ground, wall)
    scene *= 1 + 0.06 * np.sin(x / 47)[..., None] - 0.12 * (abs(y - horizon) < 2)[..., None]
    return scene.clip(0, 255).astype(np.float32).transpose(2, 0, 1).copy()


@lru_cache(maxsize=4)
def _grain(size: tuple[int, int]) -> NDArray[np.float32]:
    """Standard normal noise, larger than an image, of which each image takes a window."""
    return np.random.default_rng(0x6A).standard_normal((3, size[0] * 3, size[1] * 3), dtype=np.float32)


@lru_cache(maxsize=16)
def _curve(gamma: float) -> NDArray[np.uint8]:
    return (255 * (np.arange(256) / 255) ** gamma).round().astype(np.uint8)


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
    body = posed(identity, pose)
    return _finish(*_shoot(body, camera, _framing(body, camera, size, seed), size, seed), size)


def _framing(body: Body, camera: Camera, size: tuple[int, int], seed: int) -> Framing:
    """The crop a detector would give: the body fills it, up to the camera's jitter."""
    rng = np.random.default_rng((1, seed))
    left, right, bottom, top = extent(body, view(body.pose.yaw_deg, camera.pitch_deg))
    scale = min(0.93 * size[0] / (top - bottom), 0.98 * size[1] / (right - left)) * (1 + camera.jitter * rng.uniform(-1.5, 1))
    dx, dy = camera.jitter * rng.standard_normal(2).clip(-2, 2) * (size[1], size[0] * 0.6)
    x, y = (size[1] - 1) / 2 - scale * (left + right) / 2 + dx, (size[0] - 1) / 2 + scale * (bottom + top) / 2 + dy
    return Framing(float(scale), float(x), float(y), camera.pitch_deg)


def _shoot(body: Body, camera: Camera, frame: Framing, size: tuple[int, int], seed: int) -> tuple[NDArray[np.uint8], Drawn]:
    """The JPEG file's bytes and the figure in it."""
    import cv2

    rng = np.random.default_rng((2, seed))
    drawn = draw(body, frame, size, camera.light, camera.ambient, _FINE)
    scene, grain = _scene(camera.background, size), _grain(size)
    (y, x), (gy, gx) = (rng.integers(0, (b.shape[0] - size[0] + 1, b.shape[1] - size[1] + 1)) for b in (scene[0], grain[0]))
    # One plane a colour: numpy is several times faster along rows than along three bytes of a pixel.
    canvas = scene[:, y : y + size[0], x : x + size[1]] * _ground_shadow(drawn, frame, size)
    figure = cv2.resize(drawn.rgba, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    *colours, alpha = (plane.astype(np.float32) for plane in cv2.split(figure))
    canvas *= 1 - alpha / 255
    canvas += colours
    sigma = camera.blur_px * size[0] / 128
    if sigma > 0.1:
        canvas = np.stack([cv2.GaussianBlur(plane, (0, 0), sigma) for plane in canvas])
    canvas *= np.array(camera.gain, np.float32)[:, None, None] * np.float32(rng.uniform(0.93, 1.07))
    canvas += grain[:, gy : gy + size[0], gx : gx + size[1]] * np.float32(camera.noise)
    pixels = cv2.LUT(cv2.merge(list(np.rint(canvas[::-1].clip(0, 255)).astype(np.uint8))), _curve(camera.gamma))  # BGR
    ok, data = cv2.imencode(".jpg", pixels, (cv2.IMWRITE_JPEG_QUALITY, camera.jpeg_quality))
    if not ok:
        raise RuntimeError(f"OpenCV could not encode a JPEG of quality {camera.jpeg_quality}")
    return data, drawn


def _ground_shadow(drawn: Drawn, frame: Framing, size: tuple[int, int]) -> NDArray[np.float32]:
    """How bright the ground stays around the feet, (H, W)."""
    feet = drawn.joints[[10, 13]]
    x, y, spread = feet[:, 0].mean(), frame.y_px - 0.012 * frame.scale_px, abs(feet[0, 0] - feet[1, 0]) / 2
    wide, tall = 0.075 * frame.scale_px + spread, 0.03 * frame.scale_px
    across = np.exp(-0.5 * ((np.arange(size[1]) - x) / wide) ** 2)
    down = np.exp(-0.5 * ((np.arange(size[0]) - y) / tall) ** 2)
    return (1 - 0.55 * down[:, None] * across[None]).astype(np.float32)


def _joints(drawn: Drawn, size: tuple[int, int]) -> tuple[NDArray, NDArray[np.bool_]]:
    """Joints (18, 2) in pixels and whether the rounded position lies inside the frame."""
    at = np.rint(drawn.joints)
    return drawn.joints, np.all((at >= 0) & (at < (size[1], size[0])), axis=1)


def _finish(data: NDArray[np.uint8], drawn: Drawn, size: tuple[int, int]) -> Rendered:
    """Open the file again, so that the image is what a reader of the set gets, and add the truth."""
    import cv2

    image = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR_RGB), np.uint8)
    xy, inside = _joints(drawn, size)
    pose = Pose(torch.from_numpy(xy.astype(np.float32)), torch.from_numpy(inside), openpose_18, size)
    body = drawn.rgba[..., 3].reshape(size[0], _FINE, size[1], _FINE).mean((1, 3)) >= 127
    return Rendered(image, pose, drawn.occluded, body, np.stack([_mask(drawn, parts, size) for parts in LIMB_PARTS]))


def _mask(drawn: Drawn, parts: Mapping[str, float], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Pixels (H, W) of which at least half lies on one of the parts."""
    fine = np.zeros(size[0] * size[1] * _FINE**2, np.float32)
    for name, height in parts.items():
        fine[drawn.pixels[(drawn.parts == PART[name]) & (drawn.heights >= height)]] = 1
    return fine.reshape(size[0], _FINE, size[1], _FINE).mean((1, 3)) >= 0.5


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
        body, camera = posed(Identity.draw(self.identity), self.pose), CAMERAS[self.camera]
        return _shoot(body, camera, _framing(body, camera, size, self.seed), size, self.seed)


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
        frame = _land(body, wanted, _framing(wanted, CAMERAS[target.camera], size, target.seed))
        return _finish(*_shoot(body, CAMERAS[source.camera], frame, size, source.seed), size)


def _land(body: Body, wanted: Body, frame: Framing) -> Framing:
    """The framing in which the joints of `body` come closest, in least squares, to those of `wanted` in `frame`."""
    turn = view(wanted.pose.yaw_deg, frame.pitch_deg)
    have, goal = (project(b.joints, turn, frame)[:, :2] for b in (body, wanted))
    centre, aim = have.mean(0), goal.mean(0)
    ratio = ((have - centre) * (goal - aim)).sum() / ((have - centre) ** 2).sum()
    x, y = aim + ratio * (np.array((frame.x_px, frame.y_px)) - centre)
    return Framing(float(frame.scale_px * ratio), float(x), float(y), frame.pitch_deg)


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
    xy, known = _joints(drawn, size)
    known = known.copy()
    known[FACE] &= ~drawn.occluded[FACE]
    x, y = np.where(known[:, None], np.rint(xy), -1).astype(int).T.tolist()
    return f"{name}: {y}: {x}"


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
