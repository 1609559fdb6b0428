"""The embedded data set: drawn people with true poses and masks, so that nothing need be downloaded to start."""

from reid_aug.rendered.dataset import (
    CAMERAS,
    BodyPose,
    Camera,
    Identity,
    Rendered,
    RenderedConfig,
    RenderedSet,
    RenderedSetConfig,
    contact_sheet,
    is_rendered,
    read_rendered,
    render,
    write_rendered,
)

__all__ = [
    "CAMERAS", "BodyPose", "Camera", "Identity", "Rendered", "RenderedConfig", "RenderedSet", "RenderedSetConfig",
    "contact_sheet", "is_rendered", "read_rendered", "render", "write_rendered",
]  # fmt: skip
