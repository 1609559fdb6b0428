"""Predict what an H100 takes for every cell of the campaign, from FLOPs, bytes and launches that are counted on a CPU.

    python -m benchmarks.gpu.timing_model [name …]      writes benchmarks/results/gpu/predicted.json

Every operation of a step is as slow as the slowest of three: its FLOPs at a rate that convolutions reached on the card,
the bytes that it reads and writes at the card's bandwidth, and what comes with any operation: the host's launching, or,
where a CUDA graph is replayed, the least that small kernels take. Rates are those of `results/gpu/speed-h*.json`.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from tqdm import tqdm

RESULTS = Path(__file__).resolve().parents[1] / "results" / "gpu"
FILE = RESULTS / "predicted.json"
BYTES_PER_S = 3.0e12  # copies, read and written (speed-h100.json)
# 3 × 3 convolutions of 256 channels reach 500 (bfloat16) and 290 (TF32) of 10¹² FLOP/s; narrow ones of small images less than half of it.
FLOPS_PER_S = {"float32": 120e12, "bfloat16": 200e12}
# An operation of OSNet's step was 1.6 kernels, at 30 µs each by the host; its kernels took 14 µs of the card, small as they were.
LAUNCH_S, LEAST_S = 50e-6, 12e-6
SMALL = 2  # Images that a step is counted on; FLOPs and bytes grow with the batch.
# Seconds of what has no step: measured before on a card (tests.json, checks-h100.json), or chosen (`learn/…`).
FIXED_S = {"machine": 15.0, "tests": 45.0, "launches": 45.0, "stacked": 15.0, "checks": 24.0, "speed": 40.0, "compiled": 60.0}
START_S = 6.0  # Decoding, drawing and ranking of one training of the table, on 16 cores.
VIEWS = (  # operations without a kernel
    "view", "expand", "permute", "transpose", "t", "select", "slice", "alias", "detach", "unsqueeze", "squeeze", "as_strided", "split",
    "unbind",
)  # fmt: skip


@dataclass
class Work(TorchDispatchMode):
    """Within it, what every operation computes, reads and writes is counted."""

    operations: list[tuple[float, float]] = field(default_factory=list)  # FLOPs and bytes of each

    def __post_init__(self) -> None:
        super().__init__()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.overloadpacket.__name__.rstrip("_") not in VIEWS:
            count = flop_registry.get(func.overloadpacket)
            flops = count(*args, **kwargs, out_val=out) if count is not None else 0
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
            self.operations.append((float(flops), float(sum(tensor.nbytes for tensor in tensors))))
        return out

    def row(self, batch: int, precision: str = "float32") -> dict[str, float]:
        """Give FLOPs, bytes and launches of a step of `batch` images, and the seconds predicted for it."""
        images, width = batch / SMALL, 0.6 if precision == "bfloat16" else 1.0  # not all that autocast touches is half as wide
        grown = [(flops * images, size * images * width) for flops, size in self.operations]
        busy = [max(flops / FLOPS_PER_S[precision], size / BYTES_PER_S) for flops, size in grown]
        return {
            "batch": batch, "gflop": sum(flops for flops, _ in grown) / 1e9, "gbyte": sum(size for _, size in grown) / 1e9,
            "launches": len(grown), "kernel_s": sum(busy), "step_s": sum(max(s, LAUNCH_S) for s in busy),
            "graphed_step_s": sum(max(s, LEAST_S) for s in busy),
        }  # fmt: skip


def counted(call: Callable[[], Any]) -> Work:
    """Count one call, after another that makes buffers."""
    call()
    work = Work()
    with work:
        call()
    return work


def of_baseline(name: str) -> dict[str, float]:
    """Predict a training step of one of the table's baselines."""
    from benchmarks.gpu.table_cells import Table
    from reid_aug.baselines.network import build, prepare
    from reid_aug.baselines.recipes import BaselineConfig
    from reid_aug.baselines.training import optimizer_and_schedule

    config = BaselineConfig(**{**Table.values()["baselines"][name], "weights": "scratch"})
    model = build(config, 443).train()
    optimizer, _ = optimizer_and_schedule(config, model)
    images, labels = torch.randint(0, 256, (SMALL, 3, *config.size), dtype=torch.uint8), torch.arange(SMALL)

    def step() -> None:
        logits, _ = model(prepare(images))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, labels).backward()

    row = counted(step).row(config.batch, "bfloat16" if config.precision == "bf16-mixed" else "float32")
    return {**row, "steps": config.steps}


def of_forward(name: str, batch: int = 128) -> dict[str, float]:
    """Predict a forward pass of a generator at its paper's size."""
    from benchmarks.generator_speed import configurations, on_its_skeleton, pairs
    from generators import create

    [(_, config)] = configurations([name])
    model = create(name, **{key: value for key, value in config["generator"].items() if key != "name"}).eval()
    pair = on_its_skeleton(model, pairs(model, SMALL))
    with torch.no_grad():
        row = counted(lambda: model(*model.inputs_of(pair))).row(batch, "bfloat16")
    return {**row, "images_per_s": batch / row["graphed_step_s"]}


@functools.cache
def _predicted() -> dict[str, Any]:
    return json.loads(FILE.read_text()) if FILE.exists() else {"baselines": {}, "forward": {}}


def predicted_seconds(cell: str) -> float:
    """Predict how long a cell of the campaign takes on an H100."""
    from benchmarks.gpu.cells import LEARN_S

    kind, *rest = cell.split("/")
    if kind == "learn":
        return LEARN_S[rest[0]] + 25  # decoding, finding its pace
    if kind != "reid":
        return FIXED_S[kind]
    row = _predicted()["baselines"].get(rest[0])
    return START_S + (row["steps"] * row["graphed_step_s"] if row else 60.0)


def main() -> None:
    """Count every baseline's step and every generator's forward pass, and write what is predicted."""
    from benchmarks.gpu.cells import PAPERS
    from benchmarks.gpu.table_cells import Table
    from reid_aug.images import atomic_write_text

    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.timing_model", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="name", help="baselines and generators; default: all")
    names = parser.parse_args().names
    result = _predicted()
    torch.manual_seed(0)
    jobs = [("baselines", name, of_baseline) for name in Table.values()["baselines"]]
    jobs += [("forward", name, of_forward) for name in ("warpblend", *PAPERS)]
    for kind, name, job in tqdm([job for job in jobs if not names or job[1] in names], "count", disable=None):
        result[kind][name] = {key: float(f"{value:.4g}") for key, value in job(name).items()}
    result["rates"] = {"bytes_per_s": BYTES_PER_S, "flops_per_s": FLOPS_PER_S, "launch_s": LAUNCH_S, "least_s": LEAST_S}
    atomic_write_text(FILE, json.dumps(result, indent=1) + "\n")
    print(f"predictions: {FILE}")


if __name__ == "__main__":
    main()
