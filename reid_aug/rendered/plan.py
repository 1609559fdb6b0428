"""The plan of a rendered data set: which person stands how before which camera, and what the image is called."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid_aug.rendered.figure import BodyPose, posed
from reid_aug.rendered.person import Identity
from reid_aug.rendered.photograph import shoot
from reid_aug.rendered.raster import Raster
from reid_aug.rendered.scenes import CAMERAS

TRAIN, QUERY, GALLERY = "bounding_box_train", "query", "bounding_box_test"


@dataclass(frozen=True)
class RenderedConfig:
    """How many people and images, and from where they are seen.

    Training and gallery images see a person within `sector_deg` of a home direction that differs from person to person.
    Queries see it `query_offset_deg` (from, to) further round, so that from one side the other must be recognised. With `roads`
    it is as where cameras hang: each sees people along its own road, who walk there one way or the other.
    """

    train_identities: int = 100  # Number of people in the training split.
    test_identities: int = 50  # Number of people in query and gallery.
    train_images: int = 12  # Number of training images of each person.
    query_images: int = 2  # Number of queries of each person.
    gallery_images: int = 6  # Number of gallery images of each person.
    cameras: int = 6  # Number of cameras, the first of CAMERAS.
    size: tuple[int, int] = (128, 64)  # Size (H, W) of the images.
    sector_deg: float = 25.0  # Largest angle from the home direction, to either side.
    query_offset_deg: tuple[float, float] = (90.0, 270.0)  # Angles from the home direction between which queries lie.
    gallery_any_view: float = 0.0  # Share of the gallery that is seen from anywhere.
    # Whether each camera looks along a road of its own: views are within `sector_deg` of the road's two headings, whoever walks there.
    roads: bool = False
    train_cameras: int = 0  # Number of cameras that see a person of the training split; 0 is as many as there are images and cameras.
    seed: int = 0  # Seed of all that is picked at random, the people included.

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
        _require("roads", not (self.roads and self.gallery_any_view), "leaves no gallery_any_view", self.gallery_any_view)
        _require("train_cameras", 0 <= self.train_cameras <= self.cameras, f"lies in 0..{self.cameras}", self.train_cameras)
        _require("seed", self.seed >= 0, "is not negative", self.seed)


def _require(name: str, holds: bool, rule: str, value: object) -> None:
    """Raise ValueError, with the option's name, its rule and value, unless the rule holds."""
    if not holds:
        raise ValueError(f"rendered data set: {name} {rule}, got {value!r}")


@dataclass(frozen=True)
class RenderedRow:
    """One image of a set: all that is needed to render it again. These fields are the lines of rendered.jsonl."""

    name: str
    folder: str
    identity: int  # seed of Identity.sample
    pose: BodyPose
    camera: int  # index into CAMERAS
    seed: int  # of crop, background, exposure and noise

    def shoot(self, size: tuple[int, int]) -> tuple[NDArray[np.uint8], Raster]:
        """Take the picture: the JPEG file's bytes, and the figure in it."""
        return shoot(posed(Identity.sample(self.identity), self.pose), CAMERAS[self.camera], size, self.seed)


def plan(config: RenderedConfig) -> Iterator[RenderedRow]:
    """Plan every image of the set, in the order of their writing."""
    people = config.train_identities + config.test_identities
    start = np.random.default_rng((3, config.seed)).uniform(0, 360)
    for pid in range(1, people + 1):
        rng = np.random.default_rng((4, config.seed, pid))
        # Golden-ratio steps spread any number of home directions evenly over the circle.
        home = (start + pid * 360 * 0.6180339887) % 360
        cameras = rng.permutation(config.cameras)
        query_cameras = cameras[: max(1, config.cameras // 3)]  # they have none of the person's gallery images
        gallery_cameras = cameras[len(query_cameras) :]
        folders = {TRAIN: (config.train_images, cameras[: config.train_cameras or None])}
        if pid > config.train_identities:
            folders = {QUERY: (config.query_images, query_cameras), GALLERY: (config.gallery_images, gallery_cameras)}
        ways = rng.integers(2, size=config.cameras) * 180.0 if config.roads else None
        serial = 0
        for folder, (count, choice) in folders.items():
            for i in range(count):
                serial += 1
                camera = int(choice[i % len(choice)])
                heading = home if ways is None else CAMERAS[camera].road_deg + ways[camera]
                yaw = heading + rng.uniform(-config.sector_deg, config.sector_deg)
                if ways is not None:
                    yaw %= 360
                elif folder == QUERY:
                    yaw = home + rng.uniform(*config.query_offset_deg)
                elif folder == GALLERY and rng.random() < config.gallery_any_view:
                    yaw = rng.uniform(0, 360)
                name = f"{pid:04d}_c{camera + 1}s1_{serial * 25 + int(rng.integers(25)):06d}_00.jpg"
                pose = BodyPose.sample(rng, yaw)
                yield RenderedRow(name, folder, config.seed * 10_000 + pid, pose, camera, int(rng.integers(2**31)))
