"""Pose estimators: joints found on images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generators import Pose, coco_17
from reid_aug.weights import tensors_in

Estimator = Callable[[Tensor], Pose]  # images → a pose (B, K) in their pixels, all joints invisible where nobody is found


class KeypointRcnn:
    """torchvision's Keypoint R-CNN: the joints of the person it is surest of, in COCO's order.

    A joint counts as seen where its heatmap's peak is above 0 (a logit: more likely there than not, the detector
    being told that a person is). Images are enlarged to `side_px` on their shorter side, not to its usual 800.
    """

    def __init__(self, file: Callable[[str, str], Path], device: torch.device, side_px: int = 256) -> None:
        self.name, self.device = f"keypointrcnn_resnet50_fpn at {side_px} px, COCO (torchvision)", device
        self.network = torchvision_detector("keypointrcnn_resnet50_fpn", file, min_size=side_px, max_size=4 * side_px).to(device).eval()

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Pose:
        found = self.network(list(images.to(self.device).float() / 255))
        xy = torch.zeros(len(images), len(coco_17.joints), 2)
        seen = torch.zeros(len(images), len(coco_17.joints), dtype=torch.bool)
        for i, one in enumerate(found):
            if len(one["scores"]):
                best = int(one["scores"].argmax())
                xy[i] = one["keypoints"][best, :, :2].cpu()
                seen[i] = (one["keypoints_scores"][best] > 0).cpu()
        height, width = images.shape[-2:]
        return Pose(xy * seen[..., None], seen, coco_17, (height, width))


def torchvision_detector(name: str, file: Callable[[str, str], Path], **options: Any) -> nn.Module:
    """A torchvision detection model with its default weights, which `file` finds: as `weights="DEFAULT"` would make it."""
    from torchvision.models import get_model, get_model_weights

    weights = get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    path = file(weights.url, name)
    if name == "keypointrcnn_resnet50_fpn":
        network = _keypoint_rcnn(**options)
    else:  # the SSDs are the same networks with weights and without
        network = get_model(name, weights=None, weights_backbone=None, **options)
    with tensors_in(path, weights.url) as kept:
        network.load_state_dict(kept)
    return network


def _keypoint_rcnn(**options: Any) -> nn.Module:
    """Keypoint R-CNN as its weights of COCO were trained: torchvision builds it otherwise when asked for none."""
    from torchvision.models.detection import KeypointRCNN
    from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
    from torchvision.ops import FrozenBatchNorm2d

    backbone = resnet_fpn_backbone(backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d)
    network = KeypointRCNN(backbone, num_classes=2, num_keypoints=len(coco_17.joints), **options)
    for module in network.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.eps = 0.0  # the frozen layers had none when it was trained
    return network
