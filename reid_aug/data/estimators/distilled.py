"""Our own pose network for Re-ID's small crops: dense convolutions at 128 × 64, learnt from any keypoints or from rendered people.

MOMI-Net (Ho et al. 2019) distils a pose detector inside of a generator; this is that branch by itself. Each joint has a map of cells of
4 pixels, and one more place, nowhere: a softmax over all of them says where the joint is, or that the image does not show it.

The checkpoint that comes with the package (configs/poses/distilled.yaml) has seen rendered people alone. Of CUHK03's photographs it finds
77 % of the joints within a tenth of the height from where MoveNet does (MediaPipe: 82 %), of rendered people 94 % that near to the truth
(MediaPipe: 89 %), at 365 images a second and thread (MediaPipe: 47). Half of its mistakes on photographs are a left joint for a right
one. Where speed matters little, MediaPipe is better. So is a network that learnt from keypoints of one's own cameras: 600 steps on CUHK03's
training people and MoveNet's keypoints of them make it 86 % (`reid-aug train distilled data.root=… data.keypoints=…`).
"""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators import Pose, openpose_18, read_header, rescale, tensors_digest
from reid_aug import images as files
from reid_aug.data.estimators import Estimated

FORMAT = "reid-aug estimator 1"
PACKAGED = Path(__file__).with_suffix(".safetensors")
CELL_PX = 4  # side of a map's cell
REACH = 2  # cells on every side of the likeliest that a position is the mean of
SEEN = 0.2  # score from which a joint counts as found
OF_TRAINING = "optimizer/"  # how tensors begin that only a training that goes on needs


class PoseNetwork(nn.Module):
    """Maps of 18 OpenPose joints from crops: images (B, 3, H, W) in [0, 1] to logits of H/4 · W/4 cells and of nowhere, last."""

    def __init__(self, size: tuple[int, int] = (128, 64), width: int = 96) -> None:
        super().__init__()
        if len(size) != 2 or min(size) < 32 or size[0] % 16 or size[1] % 16:
            raise ValueError(f"a pose network's size is (H, W), multiples of 16 from 32 on, got {tuple(size)}")
        if width < 4 or width % 4:
            raise ValueError(f"a pose network's width is a multiple of 4, from 4 on, got {width}")
        self.size, self.options = (size[0], size[1]), {"size": list(size), "width": width}
        joints = len(openpose_18)
        self.stem = nn.Sequential(_conv(3, width // 4, 2), _conv(width // 4, width // 2, 2), _conv(width // 2, width, 2))
        self.before = _Residual(width)
        self.deep = nn.Sequential(_conv(width, 2 * width, 2), _Residual(2 * width))
        self.up = _conv(2 * width, width, side=1)
        self.after = _Residual(width)
        self.head = nn.Conv2d(width, 4 * joints, 1)  # four cells of each joint at every place
        self.nowhere = nn.Linear(2 * width, joints)

    def forward(self, images: Tensor) -> Tensor:
        # Every image in its own light: crops are darker or paler than one another, and no joint depends on that.
        images = images - images.mean((1, 2, 3), keepdim=True)
        # Torch's own std takes a tenth of all the time on a CPU.
        spread = (images.square().sum((1, 2, 3), keepdim=True) / (images[0].numel() - 1)).sqrt()
        images = images / (spread + 0.02)
        fine = self.before(self.stem(images.contiguous(memory_format=torch.channels_last)))  # (B, width, H/8, W/8)
        deep = self.deep(fine)  # (B, 2 width, H/16, W/16)
        both = self.after(fine + F.interpolate(self.up(deep), scale_factor=2.0))
        maps = F.pixel_shuffle(self.head(both), 2)  # (B, 18, H/4, W/4)
        return torch.cat((maps.flatten(2), self.nowhere(deep.mean((2, 3)))[..., None]), 2)


class _Residual(nn.Module):
    """Two convolutions beside which the input goes on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = _conv(width, width)
        self.second = nn.Sequential(*list(_conv(width, width))[:2])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(self.first(x)), inplace=True)


def _conv(inputs: int, outputs: int, stride: int = 1, side: int = 3) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, side, stride, side // 2, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def fused(network: PoseNetwork) -> PoseNetwork:
    """Give a copy in eval mode whose batch norms are in the convolutions before them: the same function, a third faster."""
    network = copy.deepcopy(network).eval()
    for module in list(network.modules()):
        convolution, norm = list(module)[:2] if isinstance(module, nn.Sequential) else (None, None)
        if isinstance(module, nn.Sequential) and isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            module[0], module[1] = nn.utils.fuse_conv_bn_eval(convolution, norm), nn.Identity()
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def mirrored(probabilities: Tensor, columns: int) -> Tensor:
    """Give the probabilities (B, 18, cells + 1) of flipped images as those of the images: left is right, and so are cells."""
    swapped = probabilities[:, list(openpose_18.mirror)]
    cells = swapped[..., :-1].unflatten(-1, (-1, columns)).flip(-1).flatten(-2)
    return torch.cat((cells, swapped[..., -1:]), -1)


def positions(probabilities: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """Find joints in probabilities (B, K, cells + 1), the last of which is nowhere's: x, y (B, K, 2) in cells, and scores (B, K).

    A position is the mean over the cells around the likeliest one, up to two away (soft-argmax); the score is the probability of these:
    that the joint is there, rather than elsewhere or nowhere.

    >>> cells = torch.zeros(4, 6).index_put((torch.tensor([1, 1]), torch.tensor([2, 3])), torch.tensor([0.6, 0.2]))
    >>> xy, score = positions(torch.cat((cells.flatten(), torch.tensor([0.2]))).view(1, 1, -1), columns=6)
    >>> xy.tolist(), round(score.item(), 3)
    ([[[2.25, 1.0]]], 0.8)
    """
    cells = probabilities[..., :-1].unflatten(-1, (-1, columns))  # (B, K, h, w)
    best = cells.flatten(-2).argmax(-1)
    near = torch.arange(-REACH, REACH + 1, device=best.device)
    y, x = (best // columns)[..., None] + near, (best % columns)[..., None] + near  # (B, K, 5)
    width = columns + 2 * REACH
    flat = ((y + REACH)[..., :, None] * width + (x + REACH)[..., None, :]).flatten(-2)  # (B, K, 25) in the padded map
    mass = F.pad(cells, (REACH,) * 4).flatten(-2).gather(-1, flat).unflatten(-1, (len(near), len(near)))
    total = mass.sum((-2, -1))
    weight = mass / total.clamp(min=1e-12)[..., None, None]
    return torch.stack(((weight.sum(-2) * x).sum(-1), (weight.sum(-1) * y).sum(-1)), -1), total


class Distilled:
    """A pose network of a checkpoint: the one that comes with this package, or one of `reid-aug train`.

    Images of any size are resized to the network's; with `flip` each is seen
    mirrored, too, and what is found of both averaged.
    """

    has_masks = False

    def __init__(self, file: str | os.PathLike[str] | None = None, device: torch.device | None = None, *, flip: bool = True) -> None:
        network, digest = load_network(packaged() if file is None else file)
        self.device, self.flip = device or torch.device("cpu"), flip
        self.network = fused(network).to(self.device)
        self.name = f"distilled {digest[:12]}{'' if flip else ', no flip test'} (reid-aug)"

    @torch.inference_mode()
    def estimate(self, images: Tensor, *, masks: bool = False) -> Estimated:
        """Find the joints (N, 18) of the person on each of uint8 images (N, 3, H, W); there are no masks."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise TypeError(f"images to find poses on are uint8 (N, 3, H, W), got {images.dtype} {tuple(images.shape)}")
        size, (height, width) = self.network.size, images.shape[-2:]
        pixels = files.resized(images.cpu(), size).to(self.device, non_blocking=True).float() / 255
        columns = size[1] // CELL_PX
        probabilities = self.network(pixels).softmax(-1)
        if self.flip:
            probabilities = (probabilities + mirrored(self.network(pixels.flip(-1)).softmax(-1), columns)) / 2
        cells, scores = (found.cpu() for found in positions(probabilities, columns))
        pose = Pose(cells * CELL_PX + (CELL_PX - 1) / 2, scores >= SEEN, openpose_18, size)
        return Estimated(rescale(pose, (int(height), int(width))), scores.clamp(0, 1))


def packaged() -> Path:
    """Give the checkpoint that comes with this package; FileNotFoundError says how to train one."""
    if not PACKAGED.is_file():
        raise FileNotFoundError(
            f"no pose network at {PACKAGED}: train one (reid-aug train distilled out=runs/distilled), then "
            "--estimator runs/distilled/last.safetensors"
        )
    return PACKAGED


def load_network(path: str | os.PathLike[str]) -> tuple[PoseNetwork, str]:
    """Build the network of a checkpoint, on the CPU and in eval mode, with its digest; ValueError for a file that is no such thing."""
    head = read_header(path, FORMAT)
    network = build(head["options"], path)
    tensors = safetensors.torch.load_file(str(path))
    weights = {key: value for key, value in tensors.items() if not key.startswith(OF_TRAINING)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path}: weights do not fit a pose network: {' '.join(str(error).split())[:200]}") from None
    if (digest := tensors_digest(weights)) != head["digest"]:
        raise ValueError(f"{path}: weights are not the ones that were saved (digest {digest[:12]}, header says {head['digest'][:12]})")
    return network.eval(), digest


def build(options: dict[str, Any], path: str | os.PathLike[str]) -> PoseNetwork:
    """Build an untrained network of a header's options."""
    try:
        return PoseNetwork(**{**options, "size": tuple(options["size"])})
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: no options of a pose network: {error}") from None
