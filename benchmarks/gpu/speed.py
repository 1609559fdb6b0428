"""Measure how much of a GPU the generators and Re-ID baselines use: rates beside the GPU's own, kernels' time, CUDA graphs.

    python -m benchmarks.gpu.speed OUT.json [name …] [--parts forward train baselines] [--device cuda|cpu] [--quick]

What benchmarks/generator_speed.py does not measure; that has compiled networks, geometry against the usual way, and CPUs.
Seconds are medians of synchronised runs. `kernel_s` is kernels' own time by the profiler, copies included: what is
missing to the seconds, the GPU waited. OUT.json is written after every part. `--quick` calls everything once.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import generators
from benchmarks.generator_speed import configurations, on_its_skeleton, pairs, timed_geometry, vgg_for
from benchmarks.gpu.bench import tf32
from benchmarks.gpu.record import begin, failure, write
from benchmarks.gpu.stopwatch import Row, Stopwatch
from generators import Generator
from generators.fabric import make_fabric
from generators.training import _Loop
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline

BASELINES: tuple[Row, ...] = (
    {"model": "osnet_x0_25", "size": (128, 64), "precision": "32-true"},
    {"model": "osnet_x0_25", "size": (128, 64), "precision": "bf16-mixed"},
    {"model": "resnet50", "size": (256, 128), "precision": "bf16-mixed", "last_stride": 1},
)


def machine(watch: Stopwatch) -> Row:
    """Measure what the device reaches: matrix products, copies, and 3 × 3 convolutions of 256 channels."""
    rates: Row = {}
    n, numbers = (256, 2**20) if watch.quick else (8192, 2**30)
    kinds = {"bfloat16": torch.bfloat16, "float16": torch.float16, "tf32": torch.float32, "float32": torch.float32}
    for name, dtype in kinds.items():
        a, b = torch.randn(2, n, n, device=watch.device).to(dtype)
        with tf32(True, name == "tf32"):
            rates[f"matmul_{name}_tflops"] = 2 * n**3 / watch.seconds(lambda a=a, b=b: a @ b, 0.3) / 1e12
    source = torch.zeros(numbers, device=watch.device)
    target = torch.empty_like(source)
    rates["copy_tb_per_s"] = 2 * source.nbytes / watch.seconds(lambda: target.copy_(source), 0.3) / 1e12
    for batch in batches(watch):
        for name, dtype in (("bfloat16", torch.bfloat16), ("tf32", torch.float32)):
            x = torch.randn(batch, 256, 64, 32, device=watch.device).to(dtype, memory_format=torch.channels_last)
            layer = nn.Conv2d(256, 256, 3, padding=1).to(watch.device, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
            with torch.no_grad():
                taken = watch.seconds(lambda layer=layer, x=x: layer(x), 0.2)
            rates[f"conv256_{name}_batch{batch}_tflops"] = 2 * 9 * 256 * 256 * 64 * 32 * batch / taken / 1e12
    return rates


def batches(watch: Stopwatch) -> tuple[int, ...]:
    return (2,) if watch.quick else (16, 128)


def build(name: str, config: Row, watch: Stopwatch) -> Generator:
    """Build a generator as its YAML says; narrow and small where it is only to run."""
    options = {key: value for key, value in config["generator"].items() if key != "name"}
    return generators.create(name, **(options | ({"width": 8, "size": (64, 32)} if watch.quick else {})))


def forward(name: str, config: Row, watch: Stopwatch, row: Row) -> None:
    """Measure images per second in every precision and layout."""
    model = build(name, config, watch).to(watch.device).eval()
    row["size"] = list(model.size)
    row["parameters"] = sum(p.numel() for key, m in model.players().items() if "discriminator" not in key for p in m.parameters())
    with torch.inference_mode():
        for batch in batches(watch):
            row[f"batch {batch}"] = forward_of(model, batch, watch)
            row["gflop_per_image"] = row[f"batch {batch}"].pop("gflop_per_image")


def forward_of(model: Generator, batch: int, watch: Stopwatch) -> Row:
    """Measure one batch size: contiguous with and without TF32, channels-last, and bfloat16 in channels-last."""
    pair = on_its_skeleton(model, pairs(model, batch)).to(watch.device)
    plain = (pair.source.contiguous(), *model.inputs_of(pair)[1:])
    last = (pair.source.contiguous(memory_format=torch.channels_last), *plain[1:])
    model = model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    with FlopCounterMode(display=False) as counter:
        model(*plain)
    cell: Row = {"gflop_per_image": counter.get_total_flops() / batch / 1e9}
    with tf32(False, False):
        cell["float32_images_per_s"] = batch / watch.seconds(lambda: model(*plain))
    cell["tf32_images_per_s"] = batch / watch.seconds(lambda: model(*plain))
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    cell["tf32_channels_last_images_per_s"] = batch / watch.seconds(lambda: model(*last))
    in_bfloat16(model, last, watch, cell)
    cell["bfloat16_tflops"] = cell["gflop_per_image"] * cell["bfloat16_channels_last_images_per_s"] / 1e3
    return cell


def in_bfloat16(model: Generator, inputs: tuple[Any, ...], watch: Stopwatch, cell: Row) -> None:
    """Measure a model under bfloat16 autocast: kernels, geometry, memory, and the same as a CUDA graph."""
    batch = len(inputs[0])
    with torch.autocast(watch.device.type, torch.bfloat16):  # around all calls: weights are cast once
        with watch.peak(cell):
            cell["bfloat16_channels_last_images_per_s"] = batch / watch.seconds(lambda: model(*inputs))
        cell |= {f"bfloat16_{key}": value for key, value in watch.kernels(lambda: model(*inputs)).items()}
        with timed_geometry() as spent:
            taken = watch.run(lambda: model(*inputs))
        cell["bfloat16_geometry_share"] = spent[0] / taken

    def call() -> torch.Tensor:
        with torch.autocast(watch.device.type, torch.bfloat16, cache_enabled=False):  # a graph can't hold weights that were cast before
            return model(*inputs)

    if watch.cuda:
        try:
            cell |= graphed(call, batch, watch)
        except RuntimeError as error:
            cell["cuda_graph_error"] = failure(error)


def compiled(name: str, config: Row, watch: Stopwatch) -> Row:
    """Measure images per second of a compiled model under bfloat16 autocast, at the largest batch, and what compiling took."""
    model, batch = build(name, config, watch).to(watch.device, memory_format=torch.channels_last).eval(), batches(watch)[-1]  # type: ignore[call-overload]
    pair = on_its_skeleton(model, pairs(model, batch)).to(watch.device)
    # What compiles is Inductor's part; the tiny form asks whether the model can be traced.
    call = torch.compile(model, backend="eager" if watch.quick else "inductor")
    with torch.inference_mode(), torch.autocast(watch.device.type, torch.bfloat16):
        taken = watch.run(lambda: call(*model.inputs_of(pair)))
        return {"compiling_s": taken, "images_per_s": batch / watch.seconds(lambda: call(*model.inputs_of(pair)))}


def graphed(call: Callable[[], torch.Tensor], batch: int, watch: Stopwatch) -> Row:
    """Capture a call as a CUDA graph; measure its rate and how far its result is off."""
    plain = call().float()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call()
    taken = watch.seconds(graph.replay)
    return {"bfloat16_cuda_graph_images_per_s": batch / taken, "cuda_graph_difference": float((out.float() - plain).abs().max())}


def train(name: str, config: Row, watch: Stopwatch, row: Row) -> None:
    """Measure a step of each kind of turn but the discriminator's own, at the YAML's batch size and at 64 where images are small."""
    model = build(name, config, watch)
    end, first_of = model.schedule_steps(), {}
    for step in range(0, end, max(end // 500, 1)):
        first_of.setdefault(model.turn(step), step)
    size = row["batch_size"] = 2 if watch.quick else config["batch_size"]
    cases = [(size, "32-true"), (size, "bf16-mixed"), (64, "bf16-mixed")]
    if watch.quick:  # bfloat16 takes minutes on many CPUs
        cases = cases[:1]
    elif size >= 64 or model.size[0] >= 200:
        cases = cases[:2]
    cells = row.setdefault("training", {})
    for turn, step in first_of.items():
        for batch, precision in cases if turn != ("discriminator",) else ():
            model = build(name, config, watch)
            cells[f"{'+'.join(turn)}, batch {batch}, {precision}"] = measured_step(model, batch, precision, step, watch)


def measured_step(model: Generator, batch: int, precision: str, step: int, watch: Stopwatch) -> Row:
    """Measure one step of the training loop on a batch, its FLOPs, kernels and memory."""
    pair, cell, network = pairs(model, batch), Row(), vgg_for(model)
    model.perceptual = None if isinstance(network, str) else network
    with tempfile.TemporaryDirectory() as out, watch.peak(cell):
        loop = _Loop(model, Path(out), make_fabric(precision, watch.device.type, 1), 0, {})

        def call() -> None:
            loop.step(step, pair)
            loop.pending.clear()

        call()
        with FlopCounterMode(display=False) as counter:
            call()
        taken, flops = watch.seconds(call), counter.get_total_flops()
        cell |= {"step_s": taken, "pairs_per_s": batch / taken, "gflop": flops / 1e9, "tflops": flops / taken / 1e12}
        cell |= watch.kernels(call)
    return cell


def baselines(watch: Stopwatch) -> dict[str, Row]:
    """Measure a step of Re-ID baselines, by trainings of n and 2 n steps: their start cancels."""
    rows: dict[str, Row] = {}
    steps, identities = (1, 2) if watch.quick else (20, 16)
    for options in BASELINES[:1] if watch.quick else BASELINES:
        images = torch.randint(0, 256, (8 if watch.quick else 4328, 3, *options["size"]), dtype=torch.uint8)
        data = TrainingSet(images, torch.arange(len(images)) % (len(images) // 2 if watch.quick else 443))
        shared = {"identities": identities, "instances": 2 if watch.quick else 4, "triplet_weight": 1.0, "neck": True}

        def learn(steps: int, options: Row = options, data: TrainingSet = data, shared: Row = shared) -> None:
            train_baseline(BaselineConfig(**options, **shared, steps=steps), data, 0, device=watch.device.type)

        learn(steps)  # warms up
        short, long = (watch.run(lambda n=n, learn=learn: learn(n)) for n in (steps, 2 * steps))
        few, many = (watch.kernels(lambda n=n, learn=learn: learn(n)) for n in (steps, 2 * steps))
        per_step = {key: (many[key] - few[key]) / steps for key in many if key != "longest"}
        h, w = options["size"]
        rows[f"{options['model']} {h}x{w} batch {identities * shared['instances']} {options['precision']}"] = {
            "step_s": (long - short) / steps, **per_step,
        }  # fmt: skip
    return rows


def main() -> None:
    """Measure every part of every generator named, and write after each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("names", nargs="*", metavar="name", help="generators; default: all")
    parser.add_argument("--parts", nargs="+", choices=("forward", "train", "baselines"), default=["forward", "train", "baselines"])
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--quick", action="store_true", help="every call once, narrow: does it run?")
    options = parser.parse_args()
    watch = Stopwatch(torch.device(options.device), options.quick)
    try:
        record = begin("Generators and Re-ID baselines on a GPU, beside what it reaches itself", "speed.py", watch.device)
    except RuntimeError as error:
        parser.error(str(error))
    torch.manual_seed(0)
    record |= {"machine": machine(watch), "generators": {}, "errors": {}}
    jobs: list[tuple[str, Callable[[], None]]] = []
    for name, config in configurations(options.names):
        row = record["generators"].setdefault(name, {})
        for part, measure in (("forward", forward), ("train", train)):
            if part in options.parts:
                jobs.append((f"{part} {name}", lambda m=measure, n=name, c=config, r=row: m(n, c, watch, r)))
    if "baselines" in options.parts:
        jobs.append(("baselines", lambda: record.update(baselines=baselines(watch))))
    for title, job in jobs:
        start = time.perf_counter()
        try:
            job()
        except Exception as error:  # told in the record; the rest goes on
            record["errors"][title] = failure(error)
        write(options.out, record)
        print(f"{title}: {record['errors'].get(title, 'done')}, {time.perf_counter() - start:.1f} s", flush=True)
    sys.exit(bool(record["errors"]))


if __name__ == "__main__":
    main()
