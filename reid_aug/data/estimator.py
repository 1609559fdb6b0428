"""Pose estimators: from images to the joints seen on them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import Pose, coco_17
from reid_aug.weights import tensors_in

# From uint8 images (B, 3, H, W) to poses (B, K) in their pixels; nothing is visible where nobody is detected.
Estimator = Callable[[Tensor], Pose]


class KeypointRcnn:
    """torchvision's Keypoint R-CNN: the joints of the person it is surest of, in COCO's order.

    A joint counts as seen where its heatmap's peak, a logit, is above 0: given that a person is there, the joint more
    likely is than not. Images are enlarged to `side_px` on their shorter side; the network's default is 800.
    """

    def __init__(self, file: Callable[[str, str], Path], device: torch.device, side_px: int = 256) -> None:
        self.name, self.device = f"keypointrcnn_resnet50_fpn at {side_px} px, COCO (torchvision)", device
        self.network = torchvision_detector("keypointrcnn_resnet50_fpn", file, min_size=side_px, max_size=4 * side_px).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Pose:
        """Estimate the pose (B, 17) of the surest person on each of the uint8 images (B, 3, H, W)."""
        detections = self.network(list(images.to(self.device).float() / 255))
        xy = torch.zeros(len(images), len(coco_17.joints), 2)
        seen = torch.zeros(len(images), len(coco_17.joints), dtype=torch.bool)
        for i, people in enumerate(detections):
            if len(people["scores"]):
                best = int(people["scores"].argmax())
                xy[i] = people["keypoints"][best, :, :2].cpu()
                seen[i] = (people["keypoints_scores"][best] > 0).cpu()
        height, width = images.shape[-2:]
        return Pose(xy * seen[..., None], seen, coco_17, (height, width))


def torchvision_detector(name: str, file: Callable[[str, str], Path], **options: Any) -> nn.Module:
    """Build a torchvision detection model with its default weights, as `weights="DEFAULT"` would.

    `file(url, name)` gives the path of the weights.
    """
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    path = file(weights.url, name)
    if name == "keypointrcnn_resnet50_fpn":
        network = _keypoint_rcnn(**options)
    else:  # the SSDs are the same networks with weights and without
        network = get_model(name, weights=None, weights_backbone=None, **options)
    with tensors_in(path, weights.url) as state:
        network.load_state_dict(state)
    return network


def _keypoint_rcnn(**options: Any) -> nn.Module:
    """Build Keypoint R-CNN as its COCO weights were trained; torchvision builds it otherwise when it loads no weights."""
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    network = KeypointRCNN(backbone, num_classes=2, num_keypoints=len(coco_17.joints), **options)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # the frozen layers had none when it was trained
    return network
