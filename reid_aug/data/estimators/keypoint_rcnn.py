"""torchvision's Keypoint R-CNN: its joints and scores, and the heatmaps that it teaches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Pose, coco_17
from reid_aug.data.estimators import Estimated
from reid_aug.weights import tensors_in

# From uint8 images (B, 3, H, W) to poses (B, K) in their pixels; nothing is visible where nobody is detected.
Estimator = Callable[[Tensor], Pose]


class KeypointRcnn:
    """torchvision's Keypoint R-CNN: the joints of the person it is surest of, in COCO's order.

    A joint counts as seen where its heatmap's peak, a logit, is above 0: given that a person is there, the joint more
    likely is than not. Images are enlarged to `side_px` on their shorter side; the network's default is 800.
    `heatmaps` are its activations, for a student to learn.
    """

    has_masks = False

    def __init__(self, file: Callable[[str, str], Path], device: torch.device, side_px: int = 256) -> None:
        self.name, self.device = f"keypointrcnn_resnet50_fpn at {side_px} px, COCO (torchvision)", device
        self.network = torchvision_detector("keypointrcnn_resnet50_fpn", file, min_size=side_px, max_size=4 * side_px).to(device).eval()

    def __call__(self, images: Tensor) -> Pose:
        """Estimate the pose (B, 17) of the surest person on each of the uint8 images (B, 3, H, W)."""
        return self.estimate(images).pose

    @torch.inference_mode()
    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the surest person's joints (B, 17) on uint8 images (B, 3, H, W); scores are the sigmoids of peaks; no masks."""
        detections = self.network(list(images.to(self.device).float() / 255))
        xy = torch.zeros(len(images), len(coco_17.joints), 2)
        logits = torch.full(xy.shape[:2], -torch.inf)
        for i, people in enumerate(detections):
            if len(people["scores"]):
                best = int(people["scores"].argmax())
                xy[i], logits[i] = people["keypoints"][best, :, :2].cpu(), people["keypoints_scores"][best].cpu()
        height, width = images.shape[-2:]
        return Estimated(Pose(xy, logits > 0, coco_17, (int(height), int(width))), logits.sigmoid())

    @torch.no_grad()  # what is made in inference mode can't be learnt from
    def heatmaps(self, images: Tensor) -> Tensor:
        """Compute heatmaps (B, 17, H, W), float32, of the surest person on uint8 images (B, 3, H, W): what a student is taught.

        The network is trained by a softmax over its heatmap of 56 × 56, which lies over the person's box, so its activations are
        probabilities of places; they are given relative to the likeliest, so that a joint's peak is 1, as SimpleBaseline's is, and
        resized to the box. Zeros outside of it, for joints that are not seen, and where nobody is detected.
        """
        logits: list[Tensor] = []
        hook = self.network.roi_heads.keypoint_predictor.register_forward_hook(lambda *call: logits.append(call[2]))  # type: ignore
        try:
            detections = self.network(list(images.to(self.device).float() / 255))
        finally:
            hook.remove()
        count, (height, width) = len(images), (images.shape[-2], images.shape[-1])
        maps = torch.zeros(count, len(coco_17.joints), height, width, device=self.device)
        starts = np.cumsum([0, *(len(people["scores"]) for people in detections)])  # the rows of all detections lie one after another
        best = [int(people["scores"].argmax()) for people in detections if len(people["scores"])]
        found = [i for i, people in enumerate(detections) if len(people["scores"])]
        if found:
            rows = torch.tensor([int(starts[i]) + row for i, row in zip(found, best, strict=True)], device=self.device)
            boxes = torch.stack([detections[i]["boxes"][row] for i, row in zip(found, best, strict=True)])
            maps[found] = laid_over(relative_probabilities(logits[0][rows].float()), boxes, (height, width))
        return maps


def relative_probabilities(logits: Tensor) -> Tensor:
    """Return each map's softmax over places relative to its largest, (B, K, h, w) in [0, 1]; zeros where no logit is above 0.

    >>> import math
    >>> relative_probabilities(torch.tensor([[[[2.0, 2 - math.log(4)]], [[-1.0, -3.0]]]]))
    tensor([[[[1.0000, 0.2500]],
    <BLANKLINE>
             [[0.0000, 0.0000]]]])
    """
    peak = logits.amax((-2, -1), keepdim=True)
    return (logits - peak).exp() * (peak > 0)


def laid_over(maps: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (B, K, h, w), bilinearly, to the boxes (B, 4) that they lie over, x and y of two corners: (B, K, H, W), 0 outside.

    Pixel i of an image of `size` (H, W) covers i to i + 1.

    >>> laid_over(torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[1.0, 0.0, 3.0, 1.0]]), (1, 4))
    tensor([[[[0., 1., 3., 0.]]]])
    """
    y, x = (torch.arange(side, dtype=maps.dtype, device=maps.device) + 0.5 for side in size)
    left, top, right, bottom = boxes.to(maps.dtype).unbind(1)
    across = (x - left[:, None]) / (right - left).clamp(min=1e-6)[:, None]  # (B, W), 0 to 1 within the box
    down = (y - top[:, None]) / (bottom - top).clamp(min=1e-6)[:, None]  # (B, H)
    shape = (len(maps), *size)
    grid = torch.stack((across[:, None].expand(shape), down[:, :, None].expand(shape)), -1)
    sampled = F.grid_sample(maps, 2 * grid - 1, padding_mode="border", align_corners=False)
    return sampled * ((grid >= 0) & (grid <= 1)).all(-1)[:, None]


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
