"""Data augmentation for person re-identification by pose-conditioned generation. This is the front door.

torchreid is imported when PoseAugmentedDataset or register is first asked for, torchvision with `transforms`, not before.
"""

import importlib
from typing import TYPE_CHECKING, Any

from reid_aug.baselines.samplers import CappedIdentitySampler
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.keypoints import read_keypoints
from reid_aug.data.loading import with_keypoints
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage, relabel
from reid_aug.data.people_csv import read_csv
from reid_aug.data.posed_images import PosedImages, collate_poses, poses_of, with_poses
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.image_bank import ImageBank
from reid_aug.synthesis.manifest import Manifest, SyntheticRow
from reid_aug.synthesis.online import PoseAugmentation
from reid_aug.synthesis.online_draw import PoseDraw

if TYPE_CHECKING:
    from reid_aug.dataset import PoseAugmentedDataset, register

__all__ = [
    "Augmenter", "CappedIdentitySampler", "DataDoubt", "ImageBank", "Manifest", "PersonImage", "PoseAugmentation", "PoseAugmentedDataset",
    "PoseBank", "PoseDraw", "PosedImages", "SyntheticRow", "collate_poses", "poses_of", "read_csv", "read_keypoints", "read_market_folder",
    "register", "relabel", "with_keypoints", "with_poses",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("PoseAugmentedDataset", "register"):
        from reid_aug import dataset

        return getattr(dataset, name)
    if name == "transforms":  # which needs torchvision
        return importlib.import_module("reid_aug.transforms")
    raise AttributeError(f"module 'reid_aug' has no attribute {name!r}")
