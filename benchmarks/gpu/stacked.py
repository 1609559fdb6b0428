"""Several seeds of one baseline as one batched model: is a step of four faster than four steps?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from benchmarks.gpu.stopwatch import Row, Stopwatch
from benchmarks.gpu.table_cells import Table
from reid_aug.baselines.network import build
from reid_aug.baselines.recipes import BaselineConfig

SEEDS = 4


def together(models: Sequence[nn.Module]) -> Callable[[Tensor, Tensor], Tensor]:
    """Stack networks of one kind; what comes back takes images (S, B, 3, H, W) and labels (S, B), and gives each one's loss (S,).

    Its parameters are copies, stacked, with gradients of their own; statistics of batch normalisation move in the stack.
    """
    parameters, buffers = stack_module_state(list(models))
    base = copy.deepcopy(models[0]).to("meta")

    def loss_of(parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        logits, _ = functional_call(base, (parameters, buffers), (images,))
        return F.cross_entropy(logits, labels)

    every = vmap(loss_of, randomness="different")
    return lambda images, labels: every(parameters, buffers, images, labels)


def stacked(table: Table, watch: Stopwatch) -> Row:
    """Measure forward and backward pass of every baseline, of four seeds one after another and stacked, in float32."""
    rows: Row = {}
    for name in table.values()["baselines"]:
        config = BaselineConfig(**{**table.baseline(name), "weights": "scratch"})
        models = [build(config, 16).train().to(watch.device) for _ in range(SEEDS)]
        images = torch.rand(SEEDS, config.batch, 3, *config.size, device=watch.device)
        labels = (torch.arange(config.batch, device=watch.device) % 16).expand(SEEDS, -1)
        stack = together(models)

        def one_by_one(models: Sequence[nn.Module] = models, images: Tensor = images, labels: Tensor = labels) -> None:
            for i, model in enumerate(models):
                F.cross_entropy(model(images[i])[0], labels[i]).backward()

        def at_once(stack: Callable[[Tensor, Tensor], Tensor] = stack, images: Tensor = images, labels: Tensor = labels) -> None:
            stack(images, labels).sum().backward()

        rows[name] = {"seeds": SEEDS, "one_by_one_s": watch.seconds(one_by_one), "stacked_s": watch.seconds(at_once)}
    return rows
