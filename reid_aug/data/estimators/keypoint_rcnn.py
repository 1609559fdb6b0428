"""torchvision's Keypoint R-CNN with scores."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from generators import Pose, coco_17
from reid_aug.data.estimator import KeypointRcnn
from reid_aug.data.estimators import Estimated
from reid_aug.weights import find


class ScoredKeypointRcnn(KeypointRcnn):
    """Keypoint R-CNN's surest person; a joint's score is the sigmoid of its heatmap's peak."""

    has_masks = False

    @torch.inference_mode()
    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the joints (N, 17) of the person on each of uint8 images (N, 3, H, W); there are no masks."""
        detections = self.network(list(images.to(self.device).float() / 255))
        xy, scores = torch.zeros(len(images), len(coco_17.joints), 2), torch.zeros(len(images), len(coco_17.joints))
        for i, people in enumerate(detections):
            if len(people["scores"]):
                best = int(people["scores"].argmax())
                xy[i] = people["keypoints"][best, :, :2].cpu()
                scores[i] = people["keypoints_scores"][best].sigmoid().cpu()
        height, width = images.shape[-2:]
        return Estimated(Pose(xy, scores > 0.5, coco_17, (int(height), int(width))), scores)


def scored_keypoint_rcnn(device: torch.device) -> ScoredKeypointRcnn:
    """Load Keypoint R-CNN; MissingWeights where its weights are neither in torch's cache nor to be had."""
    return ScoredKeypointRcnn(partial(find, download=True), device)
