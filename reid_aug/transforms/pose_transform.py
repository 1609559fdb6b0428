"""What transforms of image, keypoints and visibility share, and the one that flips them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import torch
import torchvision
from PIL import Image
from torch import Tensor
from torch.utils import _pytree as pytree  # as v2 takes samples apart
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from generators import Skeleton, openpose_18
from reid_aug.synthesis.online_draw import probability

if not hasattr(tv_tensors, "KeyPoints"):
    raise ImportError(
        f"reid_aug.transforms needs tv_tensors.KeyPoints, which torchvision has from 0.23 on, and {torchvision.__version__} is installed: "
        "pip install -U torch torchvision"
    )


class PoseTransform(v2.Transform):
    """What transforms of image, keypoints and visibility share: finding the three, and `replay` of what `last` recorded (JSON)."""

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        self.skeleton, self.last = skeleton, ""

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample; `last` is the recorded parameters, a line of JSON."""
        return self._run(inputs, self.make_params)

    def replay(self, recorded: str, *inputs: Any) -> Any:
        """Do to a sample what `last` recorded, bit for bit the same to the same sample; ValueError where that can't be."""
        return self._run(inputs, lambda three: self.recorded_params(recorded, three))

    def recorded_params(self, recorded: str, three: list[Any]) -> dict[str, Any]:
        """Make the parameters for image, keypoints and visibility that `recorded` says."""
        raise NotImplementedError

    def _run(self, inputs: tuple[Any, ...], parameters: Callable[[list[Any]], dict[str, Any]]) -> Any:
        # Not v2's own forward: it passes plain tensors over beside an image, and so visibility.
        leaves, spec = pytree.tree_flatten(inputs[0] if len(inputs) == 1 else inputs)
        places = self._places(leaves)
        three = [leaves[place] for place in places]
        self.check_inputs(three)
        params = parameters(three)
        self.last = params["recorded"]
        moved = [
            self.transform(leaf, params) if i in places or isinstance(leaf, tv_tensors.TVTensor) else leaf for i, leaf in enumerate(leaves)
        ]  # fmt: skip
        return pytree.tree_unflatten(moved, spec)

    def _places(self, leaves: list[Any]) -> list[int]:
        """Find image, keypoints and visibility among the leaves of a sample; ValueError unless there is one of each."""
        plain = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and not isinstance(leaf, tv_tensors.TVTensor)]
        images = [i for i, leaf in enumerate(leaves) if isinstance(leaf, tv_tensors.Image | Image.Image)]
        images = images or [i for i in plain if leaves[i].dtype != torch.bool and leaves[i].ndim >= 3][:1]  # v2's rule
        points = [i for i, leaf in enumerate(leaves) if isinstance(leaf, tv_tensors.KeyPoints)]
        shapes = {tuple(leaves[i].shape[:-1]) for i in points}
        masks = [i for i in plain if leaves[i].dtype == torch.bool and tuple(leaves[i].shape) in shapes]
        found = {"image": images, "tv_tensors.KeyPoints (*B, K, 2)": points, "bool tensor (*B, K) of which are visible": masks}
        if wrong := [f"{len(places)} of {what}" for what, places in found.items() if len(places) != 1]:
            raise ValueError(
                f"a sample for {type(self).__name__} holds an image, its tv_tensors.KeyPoints and their visibility, one of each, got "
                f"{', '.join(wrong)} (torchreid's transforms see the image alone: PoseAugmentedDataset(online=True) is for it)"
            )
        return [images[0], points[0], masks[0]]

    def check_inputs(self, flat_inputs: list[Any]) -> None:
        """Raise ValueError for an image or keypoints of another kind, shape or skeleton, or of different sizes."""
        image, keypoints, visible = flat_inputs
        if isinstance(image, Image.Image):
            batch, size, what = [], [image.height, image.width], f"PIL of mode {image.mode}"
            known = image.mode == "RGB"
        else:
            batch, size, what = list(image.shape[:-3]), list(image.shape[-2:]), f"{image.dtype} {tuple(image.shape)}"
            known = image.ndim in (3, 4) and image.shape[-3] == 3 and (image.dtype == torch.uint8 or image.is_floating_point())
        if not known:
            raise ValueError(f"an image is PIL of mode RGB, or uint8 or float (3, H, W) or (B, 3, H, W), got {what}: v2.RGB() converts")
        wanted = (*batch, len(self.skeleton), 2)
        if tuple(keypoints.shape) != wanted:
            raise ValueError(f"keypoints of {self.skeleton.name} are {wanted} here, got {tuple(keypoints.shape)}: skeleton=… names another")
        if list(keypoints.canvas_size) != size:
            raise ValueError(f"keypoints are of the image, got an image of {tuple(size)} and a canvas of {tuple(keypoints.canvas_size)}")
        if not bool(torch.isfinite(keypoints.as_subclass(Tensor)).all(-1)[visible.to(keypoints.device)].all()):
            raise ValueError("keypoints that are visible are finite numbers, got NaN or infinity")


def rewrapped(plain: Tensor, like: Any) -> Any:
    """Make a tensor of the kind of `like` again, where that is a tv_tensor."""
    return tv_tensors.wrap(plain, like=like) if isinstance(like, tv_tensors.TVTensor) else plain  # pyright: ignore[reportCallIssue]


class FlipPose(PoseTransform):
    """Flips a sample left to right with probability `p`, as v2.RandomHorizontalFlip does, and makes left joints right ones.

    A batch is flipped as one, and so is every tv_tensor of the sample; the point at x goes to W − 1 − x.

    >>> from generators import upper_7
    >>> points = tv_tensors.KeyPoints([[9.0, 1], [2, 5], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]], canvas_size=(32, 16))
    >>> _, flipped, visible = FlipPose(1, upper_7)(torch.rand(3, 32, 16), points, torch.arange(7) < 2)
    >>> flipped[:3].tolist(), visible[:3].tolist()  # head, r_wrist, l_wrist
    ([[6.0, 1.0], [15.0, 0.0], [13.0, 5.0]], [True, False, True])
    """

    def __init__(self, p: float = 0.5, skeleton: Skeleton = openpose_18) -> None:
        super().__init__(skeleton)
        self.p = probability(p)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Toss a coin."""
        flip = bool(torch.rand(1) < self.p)
        return {"flip": flip, "recorded": json.dumps({"flip": flip})}

    def recorded_params(self, recorded: str, three: list[Any]) -> dict[str, Any]:
        """Take a recorded coin; ValueError for anything else."""
        flip = json.loads(recorded).get("flip")
        if not isinstance(flip, bool):
            raise ValueError(f'a recorded flip is {{"flip": true}} or false, got {recorded[:80]}')
        return {"flip": flip, "recorded": recorded}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Flip an image, keypoints, visibility or another tv_tensor, if the coin says so."""
        if not params["flip"]:
            return inpt
        if not isinstance(inpt, tv_tensors.KeyPoints) and not (isinstance(inpt, Tensor) and inpt.dtype == torch.bool):
            return F.horizontal_flip(inpt)
        order = torch.as_tensor(self.skeleton.mirror, device=inpt.device)
        plain = inpt.as_subclass(Tensor)
        if not isinstance(inpt, tv_tensors.KeyPoints):
            return plain.index_select(-1, order)
        x, y = plain.index_select(-2, order).unbind(-1)
        return rewrapped(torch.stack((inpt.canvas_size[1] - 1 - x, y), -1), inpt)
