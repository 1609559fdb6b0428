"""ReplayCompose: transforms that are recorded with the sample, and done again."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torchvision.transforms import v2

from reid_aug.transforms.pose_transform import PoseTransform


class ReplayCompose(v2.Transform):
    """v2.Compose for samples that are mappings, which come back with "replay": a line of JSON by which `replay` does the same again.

    So it is recorded in loader workers, too, and collates. NewPose and FlipPose record what they did; of each other transform
    it is the seed that the line holds (on the CPU: noise made on a GPU is not replayed). ValueError for a flip of v2's, which leaves
    left joints left, alone or in another container.
    """

    def __init__(self, transforms: Sequence[Callable[..., Any]], key: str = "replay") -> None:
        super().__init__()
        self.transforms, self.key = list(transforms), key
        if not self.transforms:
            raise ValueError("ReplayCompose takes at least one transform, got none")
        _refuse_flips(self.transforms)

    def forward(self, *inputs: Any) -> Any:
        """Transform a sample, a mapping, and add its replay."""
        steps = [{"name": type(step).__name__, "seed": int(torch.randint(2**63 - 1, ()))} for step in self.transforms]
        return self._run(inputs, steps, again=False)

    def replay(self, recorded: str, *inputs: Any) -> Any:
        """Do to a sample what another's replay says: the same image again, bit for bit, where the sample is the same."""
        steps, own = json.loads(recorded), [type(step).__name__ for step in self.transforms]
        try:
            names = [step["name"] for step in steps if type(step["seed"]) is int]
        except (TypeError, KeyError):
            raise ValueError(f"a replay is what ReplayCompose puts into a sample under {self.key!r}, got {recorded[:80]}") from None
        if names != own:
            raise ValueError(f"the replay is of {', '.join(map(str, names))}, these transforms are {', '.join(own)}")
        return self._run(inputs, steps, again=True)

    def _run(self, inputs: tuple[Any, ...], steps: list[dict[str, Any]], again: bool) -> Any:
        if len(inputs) != 1 or not isinstance(inputs[0], Mapping):
            kinds = ", ".join(type(one).__name__ for one in inputs)
            raise ValueError(f"ReplayCompose takes a mapping, as {{'image': …, 'keypoints': …, 'visible': …}}, got {kinds}")
        sample: Any = {key: value for key, value in inputs[0].items() if key != self.key}
        done = []
        for step, how in zip(self.transforms, steps, strict=True):
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(how["seed"])
                sample = step.replay(str(how.get("params")), sample) if again and isinstance(step, PoseTransform) else step(sample)
            done.append(how | ({"params": step.last} if isinstance(step, PoseTransform) else {}))
        return sample | {self.key: json.dumps(done)}


def _refuse_flips(transforms: Sequence[Any]) -> None:
    """Raise ValueError where v2 would flip keypoints without exchanging left and right."""
    for step in transforms:
        if isinstance(step, v2.RandomHorizontalFlip | v2.RandomVerticalFlip):
            raise ValueError(f"{type(step).__name__} moves joints but leaves left ones left: FlipPose(p) exchanges them")
        children = step.children() if isinstance(step, nn.Module) else ()
        _refuse_flips([*getattr(step, "transforms", ()), *children])
