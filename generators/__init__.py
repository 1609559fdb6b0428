"""Pose-conditioned person generators: one paper a file, one contract for all. This is the front door."""

from generators.atomic import replacing
from generators.base import Generator, PosePair, in_one_kernel, keeps_options
from generators.checkpoints import digest, load, read_header, refuse_other, restore_optimizer, save, tensors_digest, write_tensors
from generators.choices import nearest, no_such, one_of
from generators.composite import with_legs
from generators.curves import open_curves
from generators.fabric import make_fabric
from generators.lite0 import Lite0, lite0_weights
from generators.maps import body_mask, gaussian_maps
from generators.perceptual import Features, Perceptual, load_perceptual
from generators.pose import (
    SKELETONS,
    Pose,
    Skeleton,
    coco_17,
    convert,
    made_of,
    mirror,
    mpii_14,
    named_joints,
    openpose_18,
    rescale,
    upper_7,
)  # fmt: skip
from generators.registry import complete, create, decisive, folders, name_of, names
from generators.sheet import layer_sheet, pose_picture, sample_sheet
from generators.stopping import agreed
from generators.stopping import stopping as until_signalled  # not to be taken for the module
from generators.training import Trained, train
from generators.views import view_descriptor
from generators.warp import warp_images

__all__ = [
    "SKELETONS", "Features", "Generator", "Lite0", "Perceptual", "Pose", "PosePair", "Skeleton", "Trained", "agreed", "body_mask",
    "coco_17", "complete", "convert", "create", "decisive", "digest", "folders", "gaussian_maps", "in_one_kernel", "keeps_options",
    "layer_sheet", "lite0_weights", "load", "load_perceptual", "made_of", "make_fabric", "mirror", "mpii_14", "name_of", "named_joints",
    "names", "nearest", "no_such", "one_of", "open_curves", "openpose_18", "pose_picture", "read_header", "refuse_other", "replacing",
    "rescale", "restore_optimizer", "sample_sheet", "save", "tensors_digest", "train", "until_signalled", "upper_7", "view_descriptor",
    "warp_images", "with_legs", "write_tensors",
]  # fmt: skip
