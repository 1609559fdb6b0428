"""Keypoint R-CNN's heatmaps: relative probabilities laid over boxes, against torchvision's own reading of them, and by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.roi_heads import heatmaps_to_keypoints

from reid_aug.data.estimators.keypoint_rcnn import KeypointRcnn, laid_over, relative_probabilities


def test_peaks_lie_where_torchvision_finds_the_joints() -> None:
    random = torch.Generator().manual_seed(0)
    centres = torch.rand(3, 17, 2, generator=random) * 40 + 8
    y, x = torch.arange(56.0)[:, None], torch.arange(56.0)
    logits = 6 - ((x - centres[..., 0, None, None]) ** 2 + (y - centres[..., 1, None, None]) ** 2) / 18
    boxes = torch.tensor([[4.3, 6.1, 58.0, 120.4], [0.0, 0.0, 64.0, 128.0], [20.2, 30.7, 43.9, 99.0]])
    joints, scores = heatmaps_to_keypoints(logits, boxes)
    maps = laid_over(relative_probabilities(logits), boxes, (128, 64))
    at = maps.flatten(2).argmax(-1)
    found = torch.stack((at % 64, at // 64), -1) + 0.5  # torchvision's pixel i covers i to i + 1
    assert float((found - joints[..., :2]).abs().max()) < 1.6, "as far apart as places on the map of 56 × 56 are on the image"
    assert bool((scores > 0).all()) and bool((maps.amax((2, 3)) > 0.8).all())
    for i, (left, top, right, bottom) in enumerate(boxes.tolist()):
        outside = maps[i].clone()
        outside[:, round(top) : round(bottom), round(left) : round(right)] = 0
        assert not outside.any()


def test_a_shift_of_all_logits_is_nothing_to_a_softmax() -> None:
    logits = torch.tensor([[[[3.0, 1.0], [0.0, 2.0]]]])
    assert torch.allclose(relative_probabilities(logits), logits.flatten().softmax(0).view(1, 1, 2, 2) / logits.flatten().softmax(0).max())
    assert torch.allclose(relative_probabilities(logits), relative_probabilities(logits + 5))
    assert not relative_probabilities(logits - 3).any(), "no place is likelier than not: a joint that is not seen"


class Predictor(nn.Module):
    def forward(self, logits: Tensor) -> Tensor:
        return logits


class Network(nn.Module):
    """Finds two people on the first image, nobody on the second, one on the third; each one's map has its number's logit."""

    def __init__(self) -> None:
        super().__init__()
        self.roi_heads: Any = nn.Module()
        self.roi_heads.keypoint_predictor = Predictor()

    def forward(self, images: list[Tensor]) -> list[dict[str, Tensor]]:
        assert len(images) == 3 and float(images[0].max()) <= 1
        maps = torch.full((3, 17, 2, 2), -1.0)
        maps[1, 5, 0, 1], maps[2, 6, 1, 0] = 4.0, 3.0
        self.roi_heads.keypoint_predictor(maps)
        boxes, none = torch.tensor([[0.0, 0, 4, 4], [0, 0, 2, 2]]), torch.zeros(0)
        return [
            {"scores": torch.tensor([0.3, 0.9]), "boxes": boxes}, {"scores": none, "boxes": none.view(0, 4)},
            {"scores": torch.tensor([0.5]), "boxes": boxes[:1]},
        ]  # fmt: skip


def test_the_surest_person_of_each_image_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("reid_aug.data.estimators.keypoint_rcnn.torchvision_detector", lambda *_, **__: Network())
    estimate = KeypointRcnn(lambda *_: pytest.fail("no file"), torch.device("cpu"))
    maps: Any = estimate.heatmaps(torch.full((3, 3, 4, 4), 200, dtype=torch.uint8))
    assert tuple(maps.shape) == (3, 17, 4, 4) and not maps.requires_grad and not maps.is_inference() and not maps[1].any()
    low, seen = torch.exp(torch.tensor([-5.0, -4.0])), maps.flatten(2).any(2)
    assert seen[0].nonzero().tolist() == [[5]] and seen[2].nonzero().tolist() == [[6]]
    assert torch.allclose(maps[0, 5, :2, :2], torch.stack((torch.stack((low[0], torch.tensor(1.0))), low[[0, 0]])))
    assert not maps[0, 5, 2:].any(), "the box is of 2 × 2 pixels"
    assert maps[2, 6, 3, 0] == 1 and torch.allclose(maps[2, 6, 0], low[1]), "a map of 2 × 2 over four pixels"
