"""Checks of every generator: images, losses and gradients, training and resuming, torch.compile."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import generators
from benchmarks.gpu.bench import Bench, Rows, difference, tf32
from generators import Generator, PosePair, parts


def forwards(bench: Bench) -> Rows:
    """Every generator's image, in every precision, against the CPU's in float32."""
    rows: Rows = {}
    kinds = {"bfloat16": torch.bfloat16} | ({"float16": torch.float16} if bench.device.type == "cuda" else {})
    for name in generators.names():
        model = bench.model(name).eval()
        pair = bench.pair(model)
        with torch.inference_mode():
            cpu = model(*model.inputs_of(pair))
            model, pair = model.to(bench.device), pair.to(bench.device)
            inputs = model.inputs_of(pair)
            with tf32(False, False):
                rows[f"{name} float32"] = difference(model(*inputs), cpu)
            rows[f"{name} default (TF32 convolutions)"] = difference(model(*inputs), cpu, 0.05)
            for kind, dtype in kinds.items():
                with torch.autocast(bench.device.type, dtype):
                    rows[f"{name} {kind} autocast"] = difference(model(*inputs).float(), cpu, 0.05)
    return rows


def losses_and_gradients_of_a_turn(bench: Bench) -> Rows:
    """Every player's terms and gradient, in eval mode so that no dropout is sampled."""
    rows: Rows = {}
    for name in generators.names():
        with tf32(False, False):
            device, cpu = (_turns(bench, name, device) for device in bench.devices)
        for key, (terms, gradient) in cpu.items():
            apart = max(abs(device[key][0][term] - value) / max(abs(value), 1e-6) for term, value in terms.items())
            relative = difference(device[key][1], gradient)["relative"]
            rows[f"{name} {key}"] = {"ok": apart < 1e-3 and relative < 1e-2, "terms": apart, "gradient": relative}
    return rows


def _turns(bench: Bench, name: str, device: torch.device) -> dict[str, tuple[dict[str, float], Tensor]]:
    """Compute losses and gradient of every player who moves at steps 0 and 15."""
    model = bench.model(name).to(device).eval()
    pair, players, turns = bench.pair(model).to(device), dict(model.players()), {}
    for step in (0, 15):
        for player in model.turn(step):
            for other, module in players.items():
                module.requires_grad_(other == player)
            torch.manual_seed(1)
            terms = model.losses(player, pair, step)
            gradients = torch.autograd.grad(sum(terms.values()), tuple(players[player].parameters()), allow_unused=True)  # type: ignore[arg-type]
            flat = torch.cat([gradient.flatten().cpu() for gradient in gradients if gradient is not None])
            turns[f"step {step} {player}"] = {term: float(value) for term, value in terms.items()}, flat
    return turns


class Stream:
    """Another batch for each step, the same in every training."""

    def __init__(self, bench: Bench, model: Generator) -> None:
        self.bench, self.model = bench, model

    def starting_at(self, step: int) -> Iterator[PosePair]:
        return (self.bench.pair(self.model, 100 + at, 2 if self.bench.tiny else 4) for at in itertools.count(step))

    def __iter__(self) -> Iterator[PosePair]:
        return self.starting_at(0)


def training_and_resuming(bench: Bench) -> Rows:
    """A training cut in two is off from an uninterrupted one no further than two equal ones are; its checkpoint loads."""
    rows: Rows = {}
    steps = 2 if bench.tiny else 20
    precisions = ("32-true", "bf16-mixed", "16-mixed") if bench.device.type == "cuda" else ("32-true", "bf16-mixed")
    for precision, name in itertools.product(precisions, generators.names()):
        with tempfile.TemporaryDirectory() as folder:
            runs = [("whole", steps), ("again", steps), ("cut", steps // 2), ("cut", steps)]
            whole, again, _, resumed = (_weights(bench, name, Path(folder, run), count, precision) for run, count in runs)
            generators.load(Path(folder, "whole", "last.safetensors"))
        apart, repeated = (max(float((a - b).abs().max()) for a, b in zip(whole, other, strict=True)) for other in (resumed, again))
        rows[f"{name} {precision}"] = {"ok": apart <= max(10 * repeated, 1e-5), "resumed_apart": apart, "repeated_apart": repeated}
    return rows


def _weights(bench: Bench, name: str, out: Path, steps: int, precision: str) -> list[Tensor]:
    """Train, which refuses losses that are not finite, and return the weights."""
    model = bench.model(name, 4 if bench.tiny else 8)
    options: dict[str, Any] = {"precision": precision, "accelerator": bench.device.type, "perceptual": "none", "log_every_steps": 2}
    generators.train(model, Stream(bench, model), out, steps=steps, **options)
    return [value.double().cpu() for value in model.state_dict().values() if value.numel()]


def compiled(bench: Bench) -> Rows:
    """torch.compile of part masks, on which Inductor once failed, and of Deformable GAN where there is time for it."""
    torch._dynamo.reset()
    low, high = torch.rand(2, bench.batch, 10, bench.size[0], device=bench.device) * bench.size[1]
    fast, plain = (call(low, high, bench.size[1]).float() for call in (torch.compile(parts._intervals), parts._intervals))
    rows = {"part masks": difference(fast, plain)}
    if not bench.tiny:
        model = bench.model("deformable").to(bench.device).eval()
        pair = bench.pair(model).to(bench.device)
        inputs = model.inputs_of(pair)
        with torch.inference_mode(), tf32(False, False):
            rows["deformable float32"] = difference(torch.compile(model)(*inputs), model(*inputs))
    return rows
