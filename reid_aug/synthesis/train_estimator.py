"""`reid-aug train` of a pose estimator: rendered figures, or anybody's images and keypoints, in; a checkpoint for `reid-aug poses` out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt

from generators import Pose, Trained, convert, openpose_18, rescale
from reid_aug.config import Config, load, read_yaml
from reid_aug.data.estimators.crowds import Crops, clouds
from reid_aug.data.estimators.distilled import PoseNetwork
from reid_aug.data.estimators.distilling import DistillingConfig, check, distil, fabric_of
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.images import read_many
from reid_aug.rendered.figures import places, render_figures

CLOUDS = 24  # further places, of nothing but colours


def _buildable(network: NetworkConfig) -> NetworkConfig:
    PoseNetwork(**network.options)
    return network


class NetworkConfig(Config):
    """The pose network that is trained."""

    name: Literal["distilled"] = "distilled"  # Name of the estimator; the others come trained.
    size: tuple[int, int] = (128, 64)  # Size (H, W) that it sees images in, multiples of 16.
    width: PositiveInt = 64  # Number of channels at an eighth of the size; a multiple of 4.

    @property
    def options(self) -> dict[str, Any]:
        return {"size": self.size, "width": self.width}


class FiguresConfig(Config):
    """The rendered figures to learn from, where no data are named."""

    count: Annotated[int, Field(ge=1, le=10**6)] = 12_000  # Number of figures, each person in four poses; 33 KB of memory each.
    seed: NonNegativeInt = 0  # Seed of the people and how they stand.


class EstimatorTrainConfig(DistillingConfig):
    """Options of `reid-aug train` for a pose estimator: which network, on what, for how long, to which folder."""

    estimator: Annotated[NetworkConfig, AfterValidator(_buildable)]  # Network to train.
    data: DataConfig | None = None  # People to learn from, and their poses; None learns from figures that are rendered first.
    rendered: FiguresConfig = FiguresConfig()  # Those figures; unused where data are named.
    out: str  # Folder of checkpoint and curves.


def is_estimators(path: str | Path | None, overrides: Sequence[str] = ()) -> bool:
    """Tell whether settings are of a pose estimator's training: they have a section `estimator`."""
    named = any(override.split("=")[0].split(".")[0] == "estimator" for override in overrides)
    return named or (path is not None and Path(path).is_file() and "estimator" in read_yaml(path))


def train_estimator(path: str | Path | None, overrides: Sequence[str] = ()) -> Trained:
    """Train the pose network that a YAML file and its overrides describe; ValueError names what is wrong with them."""
    return train_estimator_from(load(EstimatorTrainConfig, path, overrides))


def train_estimator_from(config: EstimatorTrainConfig) -> Trained:
    """Train a pose network; `config.out` holds the checkpoint (last.safetensors) and, in the end, the weights alone."""
    size = config.estimator.size
    learning = DistillingConfig(**{key: getattr(config, key) for key in DistillingConfig.model_fields})
    fabric = fabric_of(learning)
    check(config.out, learning, config.estimator.options)
    crops = figure_crops(config.rendered, size) if config.data is None else people_crops(config.data, size)
    return distil(crops, config.out, learning, config.estimator.options, fabric)


def figure_crops(config: FiguresConfig, size: tuple[int, int]) -> Crops:
    """Render figures, every joint of which is known, and what they are put before."""
    figures = render_figures(config.count, size, config.seed, progress=True)
    painted = torch.from_numpy(places(size))
    rng = torch.Generator().manual_seed(config.seed)
    further = clouds(CLOUDS, (painted.shape[2], painted.shape[3]), rng)
    xy = torch.from_numpy(figures.joints)
    return Crops(torch.from_numpy(figures.rgba), xy, torch.ones(xy.shape[:2], dtype=torch.bool), torch.cat((painted, further)))


def people_crops(data: DataConfig, size: tuple[int, int]) -> Crops:
    """Read the training images that keypoints are given for, resized; a joint that is missing there is learnt as missing."""
    people = [p for p in load_people(data) if p.split == "train" and p.pose is not None]
    if not people:
        raise ValueError(f"{data.root} has no training image with a pose: data.keypoints names their file")
    poses = [rescale(convert(p.pose, openpose_18, lacking="missing"), size) for p in people if p.pose is not None]
    pose = Pose.stack(poses)
    return Crops(read_many([p.path for p in people], size), pose.xy.float(), pose.visible)
