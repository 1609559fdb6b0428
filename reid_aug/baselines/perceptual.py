"""A trained Re-ID network in VGG-19's place: the network on which `perceptual: {weights: reid:CHECKPOINT}` compares images."""

from __future__ import annotations

import os
from typing import Any

from torch import Tensor, nn

from generators import Features, Perceptual
from reid_aug.baselines.network import config_and_name, load_baseline

# The stages that stand for VGG-19's five blocks, by the names that torchreid's families of networks give them.
# The last of them stands in for two where there are four, as in lite0.
STAGES = (
    ("conv1", "conv2", "conv3", "conv4", "conv5"), ("relu", "layer1", "layer2", "layer3", "layer4"),
    ("conv1", "conv2", "conv3", "conv4", "conv4"),
)  # fmt: skip


class ReidFeatures(Perceptual):
    """A Re-ID network's stages in place of VGG-19's blocks: "conv3_2" is the third stage. Half VGG's resolution or less; frozen."""

    def __init__(self, network: nn.Module, features: Features, name: str) -> None:
        super().__init__()
        children = dict(network.named_children())
        stages = next((names for names in STAGES if all(n in children for n in names)), None)
        if stages is None:
            raise ValueError(f"{name}: a network with stages {' or '.join('/'.join(names) for names in STAGES)}, got {list(children)[:8]}")
        self.name, self.network = name, network
        self.stages = [stages[int(layer[4]) - 1] for layer in features.layers]  # in the order of `features.layers`
        self.maps: dict[str, Tensor] = {}  # by stage, of the forward pass that is running
        for stage in set(self.stages):
            children[stage].register_forward_hook(self._keep(stage))
        self.requires_grad_(False).eval()

    def _keep(self, stage: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            self.maps[stage] = output

        return hook

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        self.network(self.normalised(images))
        outputs = tuple(self.maps[stage] for stage in self.stages)
        self.maps.clear()
        return outputs


def load_reid_features(path: str | os.PathLike[str], features: Features) -> ReidFeatures:
    """Load the network of a benchmark's checkpoint; FileNotFoundError or ValueError when the file is none."""
    return ReidFeatures(load_baseline(path)[0], features, f"reid:{config_and_name(path)[1]}")
