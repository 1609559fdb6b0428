"""Data augmentation for person re-identification by pose-conditioned generation. This is the front door.

torchreid is imported when PoseAugmentedDataset or register is first asked for, not before.
"""

from typing import TYPE_CHECKING, Any

from reid_aug.augmenter import Augmenter
from reid_aug.bank import PoseBank
from reid_aug.manifest import Manifest
from reid_aug.online import PoseAugmentation, PosedImages, collate_poses
from reid_aug.samplers import CappedIdentitySampler

if TYPE_CHECKING:
    from reid_aug.dataset import PoseAugmentedDataset, register

__all__ = [
    "Augmenter", "CappedIdentitySampler", "Manifest", "PoseAugmentation", "PoseAugmentedDataset", "PoseBank", "PosedImages",
    "collate_poses", "register",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in ("PoseAugmentedDataset", "register"):
        from reid_aug import dataset

        return getattr(dataset, name)
    raise AttributeError(f"module 'reid_aug' has no attribute {name!r}")
