"""RTMPose (Jiang et al. 2023) by rtmlib and onnxruntime, which fetch the network from OpenMMLab on first use."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from generators import Pose, coco_17
from reid_aug.data.estimators import Estimated, needs

# RTMPose-m trained on seven data sets of bodies, whose 17 joints are COCO's.
NETWORK = (
    "https://download.openmmlab.com/mmpose/v1/projects/rtmposev1/onnx_sdk/rtmpose-m_simcc-body7_pt-body7_420e-256x192-e48f03d0_20230504.zip"
)
SEEN = 0.3  # score from which a joint counts as found, as rtmlib draws them


class RtmPose:
    """RTMPose-m, shown the whole image as the person's box."""

    name = "RTMPose-m body7 256 x 192 (rtmlib)"
    has_masks = False

    def __init__(self, device: torch.device) -> None:
        needs("rtmlib", "rtmpose", "rtmlib onnxruntime")
        needs("onnxruntime", "rtmpose", "onnxruntime, or onnxruntime-gpu")
        from rtmlib import RTMPose  # pyright: ignore[reportMissingImports]

        self.network = RTMPose(NETWORK, model_input_size=(192, 256), backend="onnxruntime", device=str(device))

    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the joints (N, 17) of the person on each of uint8 images (N, 3, H, W); there are no masks."""
        height, width = images.shape[-2:]
        pictures = images.flip(1).permute(0, 2, 3, 1).cpu().numpy()  # rtmlib takes OpenCV's order of colours
        found = [self.network(np.ascontiguousarray(picture)) for picture in pictures]
        xy = torch.from_numpy(np.stack([joints[0] for joints, _ in found])).float()
        scores = torch.from_numpy(np.stack([score[0] for _, score in found])).float().clamp(0, 1)
        return Estimated(Pose(xy, scores >= SEEN, coco_17, (int(height), int(width))), scores)
