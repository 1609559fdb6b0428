"""The embedded data set: rendered people with true poses and masks, so that nothing need be downloaded to start."""

from reid_aug.rendered.dataset import RenderedSet, RenderedSetConfig, is_rendered, read_rendered, write_rendered
from reid_aug.rendered.figure import BodyPose
from reid_aug.rendered.person import Identity
from reid_aug.rendered.plan import RenderedConfig
from reid_aug.rendered.rendering import Rendered, contact_sheet, render
from reid_aug.rendered.scenes import CAMERAS, Camera

__all__ = [
    "CAMERAS", "BodyPose", "Camera", "Identity", "Rendered", "RenderedConfig", "RenderedSet", "RenderedSetConfig",
    "contact_sheet", "is_rendered", "read_rendered", "render", "write_rendered",
]  # fmt: skip
