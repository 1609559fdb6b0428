"""A network's forward and backward pass as CUDA graphs: hundreds of small kernels launched at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Whole(nn.Module):
    """A module around a network: capturing takes no module with hooks and replaces its `forward`, and the network's own stays."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        return self.model(images)


def as_cuda_graphs(model: nn.Module, inputs: Tensor, precision: str) -> nn.Module:
    """Capture both passes of a network in train mode on batches like `inputs`; its weights and statistics stay as they are.

    What comes back takes batches of that shape alone and must not outlive the training. Nothing inside the network may ask
    the GPU for a number. `precision` is Lightning Fabric's name of it.
    """
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    # A graph can't hold weights that autocast kept from an earlier call.
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False):
        graphed: Any = torch.cuda.make_graphed_callables(Whole(model), (inputs,), allow_unused_input=True)
    with torch.no_grad():  # warming up moved the statistics of batch normalisation
        for name, value in model.state_dict().items():
            value.copy_(kept[name])
    return graphed
