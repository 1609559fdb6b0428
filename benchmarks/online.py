"""Measure what online augmentation adds to a training step of a Re-ID baseline, and what it leaves of a loader's speed.

    python benchmarks/online.py [--model osnet_x0_25] [--generator pg2] [--p 0.5] [--batch N] [--width N] [--size H W] [--out FILE]
    python benchmarks/online.py --loader [--workers 0 2] [--generator warpblend] [--p 0.5] [--batch N] [--size H W] [--out FILE]

A step is forward, cross-entropy, backward and AdamW of one of torchreid's networks at 128 × 64; the same batch of rendered
people with true poses is augmented before it by PoseAugmentation, or by a loop that renders the same images one by one. All
take turns in one process. The generator's weights are fresh: time does not depend on them. On a GPU under bfloat16 autocast,
batch 64, the generator as wide as published; on a CPU in float32, batch 16 and width 16. Prints a table and writes
benchmarks/results/online.json.

With `--loader`: images a second of a DataLoader over rendered people at 64 × 32 with torchreid's transforms, without and with
PoseAugmentedDataset(online=True), whose workers render on the CPU, each in a thread; workers stay, and the first pass of each
is not counted. Passes take turns; ratios are of passes of one round. Writes benchmarks/results/online_loader.json.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import inspect
import json
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchreid import data as torchreid_data
from tqdm import tqdm

import generators
from generators import Generator, convert, rescale
from generators.registry import generator_class
from reid_aug import PoseAugmentation, PoseAugmentedDataset, PoseBank, PosedImages, PoseDraw, collate_poses
from reid_aug.baselines.network import MEAN, STD, build
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.bench.results import cpu_name, device_name
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.people import SPLITS
from reid_aug.data.posed_images import PosedBatch
from reid_aug.images import atomic_write_text
from reid_aug.rendered import RenderedConfig, write_rendered

RESULTS = Path(__file__).parent / "results"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SIZE, CLASSES = (128, 64), 751  # the baseline's images; Market-1501's training identities


def made_up_batch(batch: int) -> tuple[PosedBatch, PoseBank]:
    """Render a batch of people with their true poses, all usable, and a bank of everybody's."""
    with tempfile.TemporaryDirectory() as folder:
        config = RenderedConfig(train_identities=-(-batch // 4) + 4, train_images=6, test_identities=2)
        root = write_rendered(Path(folder) / "set", config, progress=True).root
        people = [p for p in load_people(DataConfig(root=str(root))) if p.pose is not None and bool(valid_for_pairs(p.pose))]
        data = PosedImages(people[:batch], SIZE)
        batch_of_poses = collate_poses([data[i] for i in range(len(data))])
    if len(batch_of_poses.pids) != batch:
        raise SystemExit(f"only {len(batch_of_poses.pids)} of {batch} rendered people have a usable pose")
    return batch_of_poses, PoseBank.collect(people, SIZE)


def training_step(name: str, batch: int) -> Callable[[Tensor], None]:
    """Make the function that takes one step of the baseline on normalised images (B, 3, H, W)."""
    model = build(BaselineConfig(model=name), CLASSES).to(DEVICE, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    labels = torch.arange(batch, device=DEVICE) % CLASSES

    def step(images: Tensor) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            logits, _ = model(images)
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    return step


@torch.no_grad()
def one_at_a_time(model: Generator, bank: PoseBank, images: Tensor, batch: PosedBatch, draw: PoseDraw) -> Tensor:
    """Render as a user would without PoseAugmentation: the same images, each by a call of its own."""
    out, size = images.clone(), (int(model.size[0]), int(model.size[1]))
    mean, std = (torch.tensor(values, device=DEVICE).view(1, 3, 1, 1) for values in (MEAN, STD))
    for row, target in zip(draw.rows, draw.targets, strict=True):
        given = images[[row]] * std + mean
        poses = [rescale(convert(pose, model.skeleton), size).to(DEVICE) for pose in (batch.poses[[row]], bank.pose[[target]])]
        if size != SIZE:
            given = F.interpolate(given, size, mode="bilinear", antialias=True)
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            rendered = model(given * 2 - 1, *poses).float() / 2 + 0.5
        if size != SIZE:
            rendered = F.interpolate(rendered, SIZE, mode="bilinear", antialias=True)
        out[row] = ((rendered.clamp(0, 1) - mean) / std)[0]
    return out


def timed(call: Callable[[], Any]) -> float:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure(augment: PoseAugmentation, step: Callable[[Tensor], None], batch: PosedBatch, bank: PoseBank, arguments: Any) -> dict[str, Any]:
    """Measure median seconds of each way and of the rounds' differences; SystemExit when both ways do not render the same images."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    images = ((batch.images - mean) / std).to(DEVICE, memory_format=torch.channels_last)  # type: ignore[call-overload]
    draw = augment.draw(batch.poses)
    loop = one_at_a_time(augment.generator, bank, images, batch, draw)
    differs = float((augment.render(images, batch.poses, draw) - loop).abs().max()) * max(STD)
    if differs > (0.1 if DEVICE.type == "cuda" else 1e-3):  # of 1; bfloat16 sums over another batch round otherwise
        raise SystemExit(f"both ways render different images: {differs}")
    rows: list[int] = []
    seconds: dict[str, list[float]] = {}
    for number in tqdm(range(arguments.warm_up + arguments.repeats), unit="round", disable=None):
        augment.step = number
        draw = augment.draw(batch.poses)

        def together(number: int = number) -> Tensor:
            augment.step = number  # the round's draw again, choosing the poses included
            return augment(images, batch.poses)

        def one_by_one(draw: PoseDraw = draw) -> Tensor:
            return one_at_a_time(augment.generator, bank, images, batch, draw)

        ways: dict[str, Callable[[], Any]] = {
            "step": lambda: step(images),
            "augment": together, "augment_and_step": lambda together=together: step(together()),
            "one_by_one": one_by_one, "one_by_one_and_step": lambda one_by_one=one_by_one: step(one_by_one()),
        }  # fmt: skip
        rows.append(len(draw.rows))
        for way in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:  # nobody always comes first
            seconds.setdefault(way, []).append(timed(ways[way]))
    kept = {way: np.array(took[arguments.warm_up :]) for way, took in seconds.items()}
    # Of one round: a shared machine has fast minutes and slow ones.
    ratios = {way: float(np.median(kept[f"{way}_and_step"] / kept["step"])) for way in ("augment", "one_by_one")}
    return {
        "redrawn_per_batch": float(np.mean(rows[arguments.warm_up :])), "largest_difference": differs,
        "seconds": {way: {"median": float(np.median(t)), "fastest": float(t.min()), "slowest": float(t.max())} for way, t in kept.items()},
        "times_a_plain_step": ratios, "one_by_one_against_augment": float(np.median(kept["one_by_one"] / kept["augment"])),
    }  # fmt: skip


def loaders(arguments: argparse.Namespace, generator: Generator, folder: Path) -> dict[str, DataLoader[Any]]:
    """Make a loader over rendered people for each number of workers, with online poses and without."""
    size = (int(generator.size[0]), int(generator.size[1]))
    config = RenderedConfig(train_identities=80, train_images=4, test_identities=4, size=size)
    everybody = load_people(DataConfig(root=str(write_rendered(folder / "set", config, progress=True).root)))
    labels = {pid: label for label, pid in enumerate(sorted({p.pid for p in everybody if p.split == "train"}))}
    rows = {split: [(p.path, labels.get(p.pid, p.pid), p.camid) for p in everybody if p.split == split] for split in SPLITS}
    transform, _ = torchreid_data.transforms.build_transforms(*size, transforms="random_flip")  # pyright: ignore[reportAttributeAccessIssue]
    base = torchreid_data.ImageDataset(*rows.values(), transform=transform, verbose=False)
    poses = {p.path: p.pose for p in everybody if p.pose is not None}
    online = PoseAugmentedDataset(base, generator=generator, poses=poses, online=True, p=arguments.p, verbose=False)
    sets: dict[str, Any] = {"plain": base, "online": online}
    return {
        f"{name}, {workers} workers": DataLoader(sets[name], arguments.batch, True, num_workers=workers, persistent_workers=workers > 0)
        for workers in arguments.workers for name in sets
    }  # fmt: skip


def measure_loaders(arguments: argparse.Namespace, generator: Generator) -> dict[str, Any]:
    """Measure images a second of each loader's passes, and how many times faster a plain one is."""
    torch.set_num_threads(1)
    speeds: dict[str, list[float]] = {}
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as folder:
        ways = loaders(arguments, generator, Path(folder))
        for number in tqdm(range(1 + arguments.repeats), unit="round", disable=None):
            for name in list(ways)[number % len(ways) :] + list(ways)[: number % len(ways)]:  # nobody always comes first
                began = time.perf_counter()
                images = sum(len(batch["pid"]) for batch in ways[name])
                speeds.setdefault(name, []).append(images / (time.perf_counter() - began))
        load.append(os.getloadavg()[0])
    kept = {name: np.array(values[1:]) for name, values in speeds.items()}
    ratios = {str(n): float(np.median(kept[f"plain, {n} workers"] / kept[f"online, {n} workers"])) for n in arguments.workers}
    spread = {n: {"median": float(np.median(v)), "slowest": float(v.min()), "fastest": float(v.max())} for n, v in kept.items()}
    return {
        "images_per_second": spread,
        "plain_against_online": ratios, "processes_that_ran_or_waited": load, "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def table_of_loaders(result: dict[str, Any]) -> str:
    lines = [f"{'images/s':24}{'median':>10}{'slowest':>10}{'fastest':>10}"]
    for name, speed in result["images_per_second"].items():
        lines.append(f"{name:24}" + "".join(f"{speed[which]:>10.0f}" for which in ("median", "slowest", "fastest")))
    ratios = ", ".join(f"{ratio:.1f} times as fast with {workers} workers" for workers, ratio in result["plain_against_online"].items())
    before, after = result["processes_that_ran_or_waited"]
    return "\n".join([*lines, f"without online poses {ratios}", f"{before:.1f} to {after:.1f} processes shared {result['cores']} cores"])


def build_generator(arguments: argparse.Namespace) -> Generator:
    known = inspect.signature(generator_class(arguments.generator).__init__).parameters
    options: dict[str, Any] = {"size": tuple(arguments.size)}
    width = arguments.width or (16 if DEVICE.type == "cpu" else None)
    if width and (arguments.width or "width" in known):
        options["width"] = width
    return generators.create(arguments.generator, **options)


def table(result: dict[str, Any]) -> str:
    labels = {
        "step": f"a step of {result['model']}", "augment": f"PoseAugmentation(p={result['p']})", "augment_and_step": "  and the step",
        "one_by_one": "the same images one by one", "one_by_one_and_step": "  and the step",
    }  # fmt: skip
    lines = [f"{'ms':30}{'median':>10}{'fastest':>10}{'slowest':>10}"]
    for way, label in labels.items():
        lines.append(f"{label:30}" + "".join(f"{result['seconds'][way][which] * 1e3:>10.1f}" for which in ("median", "fastest", "slowest")))
    ratios, against = result["times_a_plain_step"], result["one_by_one_against_augment"]
    return "\n".join([
        *lines, f"{result['redrawn_per_batch']:.1f} of {result['batch']} images rendered anew",
        f"a step takes {ratios['augment']:.2f} times as long with augmentation, {ratios['one_by_one']:.2f} times with one by one",
        f"rendering one by one takes {against:.2f} times as long; its pixels differ by {result['largest_difference']:.1e} of 1 at most",
    ])  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--loader", action="store_true", help="measure a DataLoader whose workers render")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="numbers of workers of the loader")
    parser.add_argument("--model", default="osnet_x0_25", help="of torchreid's, such as resnet50")
    parser.add_argument("--generator", help=f"one of {', '.join(generators.names())}; default: pg2, with --loader warpblend")
    parser.add_argument("--p", type=float, default=0.5)
    parser.add_argument("--batch", type=int, help="default: 64 on a GPU, 16 on a CPU, 32 with --loader")
    parser.add_argument("--width", type=int, help="the generator's; default: as published on a GPU or in a loader, 16 on a CPU")
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="the generator's; default: 128 64, with --loader 64 32")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    arguments.out = arguments.out or RESULTS / ("online_loader.json" if arguments.loader else "online.json")
    arguments.generator = arguments.generator or ("warpblend" if arguments.loader else "pg2")
    arguments.batch = arguments.batch or (32 if arguments.loader else 64 if DEVICE.type == "cuda" else 16)
    arguments.size = tuple(arguments.size or ((64, 32) if arguments.loader else SIZE))
    torch.manual_seed(0)
    if arguments.loader:
        generator = generators.create(arguments.generator, size=arguments.size, **({"width": arguments.width} if arguments.width else {}))
        result = described(arguments, generator) | measure_loaders(arguments, generator)
        print(table_of_loaders(result))
    else:
        result = measure_steps(arguments)
        print(table(result))
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(f"result: {arguments.out}")


def described(arguments: argparse.Namespace, generator: Generator) -> dict[str, Any]:
    """Say what was measured, with what, where and when."""
    players = nn.ModuleList(player for name, player in generator.players().items() if "discriminator" not in name)
    made = {
        "name": arguments.generator, "size": list(generator.size), "width": generator.options.get("width"),
        "parameters": sum(p.numel() for p in players.parameters()),
    }  # fmt: skip
    if arguments.loader:
        what: dict[str, Any] = {"device": cpu_name(), "precision": "float32"}
    else:
        precision = "bfloat16 autocast" if DEVICE.type == "cuda" else "float32"
        what = {"device": device_name(), "precision": precision, "model": arguments.model, "size": SIZE}
    return what | {
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "torchreid")} | {"python": platform.python_version()},
        "command": shlex.join(["python", "benchmarks/online.py", *sys.argv[1:]]), "date": date.today().isoformat(),
        "batch": arguments.batch, "p": arguments.p, "repeats": arguments.repeats, "generator": made,
    }  # fmt: skip


def measure_steps(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a training step with each way of augmenting its batch."""
    generator = build_generator(arguments).to(DEVICE)
    batch, bank = made_up_batch(arguments.batch)
    augment = PoseAugmentation(generator, bank, arguments.p, mean=MEAN, std=STD)
    about = described(arguments, generator)
    made = about["generator"]
    small = " (small: this is a CPU)" if DEVICE.type == "cpu" and not arguments.width else ""
    print(f"{about['device']}, {about['precision']}; {arguments.generator} {tuple(made['size'])} of width {made['width']}{small}, "
          f"{made['parameters'] / 1e6:.2f} M parameters", flush=True)  # fmt: skip
    return about | measure(augment, training_step(arguments.model, arguments.batch), batch, bank, arguments)


if __name__ == "__main__":
    main()
