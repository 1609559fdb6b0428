"""Measure every generator at its paper's size: images per second, training step, share of geometry, and of this machine's floor.

    python benchmarks/generator_speed.py [name …] [--batch N] [--skip train|forward|parts|compiled] [--size H W]
        [--benchmark NAME] [--quick] [--out FILE]

Each `configs/generators/<name>.yaml` (and those of REID_AUG_GENERATORS) is built as it stands, or as a benchmark has it.
Forward passes run in
float32, channels-last, bfloat16 and compiled; a training step is one turn of the loop at the YAML's batch size. FLOPs are
counted, the machine's rate is that of a 3 × 3 convolution of 256 channels, and their product is the floor. Limb
transforms, deformed skips and the nearest-neighbour loss are measured against the usual way in the same process.
Prints tables and writes benchmarks/results/generator_speed.json (on a GPU: results/gpu/generator_speed.json).
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import sys
import tempfile
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import generators
from generators import Generator, Pose, PosePair, folders, openpose_18
from generators.models.deformable import nearest_neighbour_l1
from generators.parts import FACE, LIMBS, LOWER, TORSO, body_parts
from generators.perceptual import LAYERS, VGG19
from generators.warp import carry
from reid_aug.bench.config import load_config
from reid_aug.bench.results import cpu_name
from reid_aug.config import named
from reid_aug.images import atomic_write_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Public PyTorch ports on another two-core machine (best of several quiet runs): images/s in float32 at batch 16; then the batch of a
# training step and its seconds by who moves (for MOMI-Net PATN's, whose generator has as many attention blocks).
PORTS: dict[str, tuple[float, int, dict[str, float]]] = {
    "pg2": (2.3, 16, {"generator1": 16.0, "discriminator+generator2": 10.7}),
    "deformable": (5.9, 4, {"discriminator+generator": 8.5}),
    "momi": (5.6, 16, {"discriminator+detector+generator": 16.4}),
}
STEP_MODES = {"float32": ("32-true", False), "bfloat16": ("bf16-mixed", False), "compiled": ("32-true", True)}
GEOMETRY = ("generators.maps", "generators.warp", "generators.parts", "generators.pose")


def best_of(call: Callable[[], Any], budget_s: float = 12.0, most: int = 10) -> float:
    """The fastest of several calls in seconds, after one to warm up; slow calls are repeated less."""
    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < 2 or (time.perf_counter() - began < budget_s and len(seconds) < most):
        start = time.perf_counter()
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
        if seconds[-1] > budget_s:
            break
    return min(seconds)


def machine_gflops(dtype: torch.dtype) -> float:
    """What a 3 × 3 convolution of 256 channels reaches in channels-last, in 10⁹ floating-point operations per second."""
    x = torch.randn(16, 256, 64, 32, device=DEVICE).to(dtype, memory_format=torch.channels_last)
    layer = torch.nn.Conv2d(256, 256, 3, padding=1).to(DEVICE, dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        return 2 * 9 * 256 * 256 * 64 * 32 * 16 / best_of(lambda: layer(x), 4) / 1e9


def people(batch: int, size: tuple[int, int], seed: int = 0) -> Pose:
    """Upright people on openpose_18, each joint off by some pixels, one in thirty missing, as an estimator finds them."""
    draw = torch.Generator().manual_seed(seed)
    places = torch.tensor([
        (32, 15), (32, 28), (22, 28), (18, 44), (16, 58), (42, 28), (46, 44), (48, 58), (26, 62), (25, 88), (25, 112), (38, 62), (39, 88),
        (39, 112), (30, 13), (34, 13), (28, 14), (36, 14),
    ], dtype=torch.float32) * torch.tensor([size[1] / 64, size[0] / 128])  # fmt: skip
    xy = places + torch.randn(batch, 18, 2, generator=draw) * size[0] / 32
    visible = torch.rand(batch, 18, generator=draw) > 1 / 30
    visible[:, [openpose_18.index(joint) for joint in TORSO]] = True
    return Pose(xy, visible, openpose_18, size)


def pairs(model: Generator, batch: int) -> PosePair:
    h, w = model.size
    source, target = (torch.rand(batch, 3, h, w) * 2 - 1 for _ in range(2))
    return PosePair(source, target, people(batch, (h, w), 1), people(batch, (h, w), 2), torch.arange(batch))


def on_its_skeleton(model: Generator, pair: PosePair) -> PosePair:
    """As training does it; a skeleton with joints that openpose_18 lacks gets made-up ones."""
    try:
        return pair.on(model.skeleton)
    except ValueError:
        k, (h, w) = len(model.skeleton), model.size
        poses = [
            Pose(torch.rand(len(pair), k, 2) * torch.tensor([w, h]), torch.ones(len(pair), k, dtype=torch.bool), model.skeleton, (h, w))
            for _ in range(2)
        ]
        return PosePair(pair.source, pair.target, poses[0], poses[1], pair.identity)


@contextmanager
def timed_geometry() -> Iterator[list[float]]:
    """Within it, the outermost calls of functions of `GEOMETRY` are timed, wherever they were imported to."""
    spent, depth, changed = [0.0], [0], []

    def timed(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            if not depth[0] and DEVICE.type == "cuda":
                torch.cuda.synchronize()  # what is still under way is not geometry's
            depth[0] += 1
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                depth[0] -= 1
                if not depth[0]:
                    if DEVICE.type == "cuda":
                        torch.cuda.synchronize()
                    spent[0] += time.perf_counter() - start

        return wrapper

    for name, module in list(sys.modules.items()):
        if name.startswith("generators"):
            for key, value in list(vars(module).items()):
                if callable(value) and not isinstance(value, type) and getattr(value, "__module__", "") in GEOMETRY:
                    changed.append((module, key, value))
                    setattr(module, key, timed(value))
    try:
        yield spent
    finally:
        for module, key, value in changed:
            setattr(module, key, value)


def forward(model: Generator, batch: int, compiling: bool = True) -> dict[str, Any]:
    """Images per second of every mode, FLOPs per image, and geometry's share."""
    pair = on_its_skeleton(model, pairs(model, batch)).to(DEVICE)
    given = (pair.source.contiguous(), *model.inputs_of(pair)[1:])
    row: dict[str, Any] = {}
    model = model.to(DEVICE).eval()
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            model(*(x[:1] for x in given))
        row["gflop_per_image"] = counter.get_total_flops() / 1e9
        row["float32"] = batch / best_of(lambda: model(*given))
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        last = (pair.source.contiguous(memory_format=torch.channels_last), *given[1:])
        row["channels_last"] = batch / best_of(lambda: model(*last))
        with timed_geometry() as spent:
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            model(*last)
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            row["geometry_share"] = spent[0] / (time.perf_counter() - start)
        with torch.autocast(DEVICE.type, torch.bfloat16):
            few = last if DEVICE.type == "cuda" else tuple(x[:2] for x in last)  # CPUs without bfloat16 units take minutes
            row["bfloat16"] = len(few[0]) / best_of(lambda: model(*few), 6)
        row["compiled"] = None
        if not compiling:
            return row
        try:
            torch._dynamo.reset()
            compiled = torch.compile(model)
            compiled(*last)  # compiles
            row["compiled"] = batch / best_of(lambda: compiled(*last))
        except Exception as error:  # no C++ compiler, mostly
            print(f"  not compiled: {' '.join(str(error).split())[:120]}", file=sys.stderr)
    return row


class Clock:
    """The same batch for ever; notes when each was taken."""

    def __init__(self, pair: PosePair) -> None:
        self.pair, self.taken = pair, [time.perf_counter()]

    def __iter__(self) -> Iterator[PosePair]:
        while True:
            if DEVICE.type == "cuda":
                torch.cuda.synchronize()
            self.taken.append(time.perf_counter())
            yield self.pair


def vgg_for(model: Generator) -> VGG19 | str:
    """VGG-19 of the real size with made-up weights: as fast as the real ones, and always there."""
    features = model.features()
    if features is None:
        return "none"
    keys, state, before, at = [], {}, 3, 0
    for layer in LAYERS:
        after = 64 * min(2 ** (int(layer[4]) - 1), 8)
        keys.append(at)
        state[f"features.{at}.weight"], state[f"features.{at}.bias"] = torch.randn(after, before, 3, 3) * 0.03, torch.zeros(after)
        at += 2 + (layer in ("conv1_2", "conv2_2", "conv3_4", "conv4_4"))
        before = after
    return VGG19(state, features, "vgg19:made-up")


def training(name: str, options: dict[str, Any], batch: int, mode: str, steps: int) -> dict[str, float]:
    """Seconds of one step of each kind of turn of a generator's schedule, by the players who move; channels-last, as ever."""
    precision, compiled = STEP_MODES[mode]
    model = generators.create(name, **options)
    first_of: dict[tuple[str, ...], int] = {}
    end = model.schedule_steps()
    for step in range(0, end, max(end // 500, 1)):
        first_of.setdefault(model.turn(step), step)
    seconds_of = {}
    for turn, step in first_of.items():
        model = generators.create(name, **options)
        # Every step is this one. Bound now: the loop's variables change.
        model.turn = lambda _, at=step, turn_of=model.turn: turn_of(at)  # type: ignore[method-assign]
        model.losses = lambda player, pair, _, at=step, losses_of=model.losses: losses_of(player, pair, at)  # type: ignore[method-assign]
        model.prepare_steps = 0  # type: ignore[misc] - what is measured before the first step is no part of one
        clock = Clock(pairs(model, batch))
        with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as out:
            generators.train(
                model, clock, out, steps=steps, precision=precision, perceptual=vgg_for(model), log_every_steps=10**6,
                accelerator="cuda" if DEVICE.type == "cuda" else "cpu", compile=compiled,
            )  # fmt: skip
        times = clock.taken[1:]
        seconds_of["+".join(turn)] = min(b - a for a, b in zip(times, times[1:], strict=False))
    return seconds_of


# --- parts, against the usual way ---


class Peak(TorchDispatchMode):
    """The most bytes of tensors alive at once beyond those that were `there` before."""

    def __init__(self, *there: Tensor) -> None:
        super().__init__()
        self.alive, self.most, self.known = 0, 0, {tensor.untyped_storage()._cdata for tensor in there}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self.known:
                    self.known.add(storage._cdata)
                    self.alive += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata, storage.nbytes())
        self.most = max(self.most, self.alive)
        return out

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.alive -= size


def scikit_image_parts(source: Pose, target: Pose) -> None:
    """Transforms and masks one image at a time, as public ports get them."""
    import numpy as np
    from skimage.draw import polygon2mask
    from skimage.transform import estimate_transform

    def rectangle(a: Any, b: Any, half: float, after: float) -> Any:
        along = b - a
        across = np.array([-along[1], along[0]]) / max(float(np.linalg.norm(along)), 1e-6) * half
        return np.array([a - 0.1 * along - across, a - 0.1 * along + across, b + after * along + across, b + after * along - across])

    torso, face = ([openpose_18.index(j) for j in names] for names in (TORSO, (*FACE, "r_shoulder", "l_shoulder")))
    for row in range(len(source)):
        of_source, of_target, seen = source.xy[row].numpy(), target.xy[row].numpy(), (source.visible[row] & target.visible[row]).numpy()
        scale = float(np.linalg.norm(of_target[2] - of_target[8]))
        estimate_transform("affine", of_target[torso], of_source[torso])
        known = [j for j in face if seen[j]]
        estimate_transform("affine", of_target[known], of_source[known])
        for a, b in LIMBS:
            i, j = openpose_18.index(a), openpose_18.index(b)
            if seen[i] and seen[j]:
                after = 0.3 if (a, b) in LOWER else 0.1
                box = rectangle(of_target[i], of_target[j], 0.2 * scale, after)
                estimate_transform("affine", box, rectangle(of_source[i], of_source[j], 0.2 * scale, after))
                polygon2mask(target.size, box[:, ::-1])


def stacked_nearest_neighbour(image: Tensor, target: Tensor, side: int) -> Tensor:
    """The usual way: all shifts of the target side by side, then the least."""
    pad = side // 2
    padded = F.pad(target, (pad, pad, pad, pad), value=-10_000.0)
    h, w = target.shape[-2:]
    shifted = torch.stack([padded[..., y : y + h, x : x + w] for y in range(side) for x in range(side)], dim=-1)
    return (image[..., None] - shifted).abs().sum(1).amin(-1)


def stacked_deform(features: Tensor, transforms: Tensor, masks: Tensor) -> Tensor:
    """The usual way: the features once per part, moved by grid_sample, masked, and the maximum."""
    b, c, h, w = features.shape
    parts = transforms.shape[1]
    many = features[:, None].expand(b, parts, c, h, w).reshape(b * parts, c, h, w)
    matrix = transforms.reshape(b * parts, 2, 3)
    to_pixels = torch.tensor([[(w - 1) / 2, 0, (w - 1) / 2], [0, (h - 1) / 2, (h - 1) / 2], [0, 0, 1.0]], device=features.device)
    theta = to_pixels.inverse()[:2, :2] @ (matrix @ to_pixels)
    theta[..., 2] += to_pixels.inverse()[:2, 2]
    grid = F.affine_grid(theta, [b * parts, c, h, w], align_corners=True)
    moved = F.grid_sample(many, grid, align_corners=True).view(b, parts, c, h, w)
    return (moved * masks[:, :, None]).amax(1)


def learning(call: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], None]:
    def run() -> None:
        leaf = inputs[0].detach().requires_grad_()
        torch.autograd.grad(call(leaf, *inputs[1:]).mean(), leaf)

    return run


def against_the_usual_way() -> dict[str, Any]:
    source, target = people(64, (128, 64), 1), people(64, (128, 64), 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = best_of(lambda: scikit_image_parts(source, target), 5)
    here = (source.to(DEVICE), target.to(DEVICE))
    ours = best_of(lambda: body_parts(*here), 5, 50)
    rows = {"limb transforms and masks, batch of 64": {"ours_s": ours, "usual_s": usual, "usual": "scikit-image, image by image"}}

    features, want = (torch.rand(4, 64, 128, 64, device=DEVICE).to(memory_format=torch.channels_last) for _ in range(2))
    transforms, masks = body_parts(here[0][:4], here[1][:4])
    assert torch.allclose(carry(features, transforms, masks), stacked_deform(features, transforms, masks), atol=1e-3)
    cases: list[tuple[str, Callable[..., Tensor], Callable[..., Tensor], tuple[Any, ...]]] = [
        ("deformed skip of 64 × 128 × 64, batch of 4, with gradients", carry, stacked_deform, (transforms, masks)),
        ("nearest-neighbour loss 3 × 3, same size, with gradients", nearest_neighbour_l1, stacked_nearest_neighbour, (want, 3)),
        ("nearest-neighbour loss 5 × 5, same size, with gradients", nearest_neighbour_l1, stacked_nearest_neighbour, (want, 5)),
    ]
    for what, ours_call, usual_call, rest in cases:
        row: dict[str, Any] = {"usual": "all at once, stacked"}
        for key, call in (("ours", ours_call), ("usual", usual_call)):
            # Bound now: the loop's variables change.
            run = learning(lambda x, call=call, rest=rest: call(x, *rest), features)
            row[f"{key}_s"] = best_of(run, 5)
            with Peak(features, *(x for x in rest if isinstance(x, Tensor))) as peak:
                run()
            row[f"{key}_maps"] = peak.most / (features.numel() * features.element_size())
        rows[what] = row
    return rows


def configurations(names: list[str], benchmark: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield generators as their YAML has them, or those of a benchmark's arms as that has them: by class, options and batch size."""
    if benchmark is not None:
        config = load_config(str(named(benchmark, "benchmarks")), [])
        unknown = [name for name in names if name not in config.generators]
        if unknown:
            sys.exit(f"no generator {unknown[0]} in {benchmark}; there are {', '.join(config.generators)}")
        for name in names or config.generators_used:
            yield name, config.generators[name].model_dump(mode="json")
        return
    for name in names or generators.names():
        files = [folder / f"{name}.yaml" for folder in (ROOT / "configs" / "generators", *folders())]
        file = next((f for f in files if f.exists()), None)
        if file is None:
            sys.exit(f"no {name}.yaml; there are {', '.join(generators.names())}")
        yield name, yaml.safe_load(file.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, nargs=2, metavar=("H", "W"), help="of the images, in place of the YAML's")
    parser.add_argument("--skip", action="append", default=[], choices=["train", "forward", "parts", "compiled"])
    parser.add_argument("--benchmark", help="a benchmark whose generators are measured, a name of configs/benchmarks or a file")
    parser.add_argument("--step-modes", nargs="+", choices=list(STEP_MODES), help="of training steps; default: float32, on a GPU all")
    parser.add_argument("--quick", action="store_true", help="every call once: does it run?")
    parser.add_argument("--out", type=Path, default=(RESULTS / "gpu" if DEVICE.type == "cuda" else RESULTS) / "generator_speed.json")
    arguments = parser.parse_args()
    if arguments.quick:
        best_of.__defaults__ = (0.0, 1)
    torch.manual_seed(0)
    modes = arguments.step_modes or (list(STEP_MODES) if DEVICE.type == "cuda" else ["float32"])
    rate = {"float32": machine_gflops(torch.float32)} | ({"bfloat16": machine_gflops(torch.bfloat16)} if DEVICE.type == "cuda" else {})
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"{cpu_name()}, {torch.get_num_threads()} threads",
        "versions": {"torch": torch.__version__, "python": platform.python_version()}, "batch": arguments.batch,
        "bfloat16_batch": arguments.batch if DEVICE.type == "cuda" else 2,
        "tf32": torch.backends.cudnn.allow_tf32 and DEVICE.type == "cuda",
        "machine_gflops": rate, "command": shlex.join(["python", "benchmarks/generator_speed.py", *sys.argv[1:]]),
        "date": str(date.today()),
        "generators": {},
    }  # fmt: skip
    print(f"{result['device']}: {rate['float32']:.0f} GFLOP/s in a 3 × 3 convolution of 256 channels (float32)")
    for name, config in configurations(arguments.names, arguments.benchmark):
        options = {key: value for key, value in config["generator"].items() if key != "name"}
        kind, ported = config["generator"].get("name", name), "" if arguments.benchmark else name  # ports are of the papers' sizes
        options |= {"size": tuple(arguments.size)} if arguments.size else {}
        row: dict[str, Any] = {"size": list(generators.create(kind, **options).size)}
        if "forward" not in arguments.skip:
            model = generators.create(kind, **options)
            # What is needed to render: discriminators stay at home.
            row["parameters"] = sum(p.numel() for k, m in model.players().items() if "discriminator" not in k for p in m.parameters())
            row |= forward(model, arguments.batch, compiling=not arguments.quick and "compiled" not in arguments.skip)
            best = max(row[mode] or 0 for mode in ("float32", "channels_last", "compiled"))
            rate["float32"] = max(rate["float32"], machine_gflops(torch.float32))  # a busy machine's first reading may be low
            row["share_of_floor"] = best * row["gflop_per_image"] / rate["float32"]
            print(
                f"{name} {row['size']}: {row['parameters'] / 1e6:.1f} M, {row['gflop_per_image']:.1f} GFLOP/image; images/s "
                + ", ".join(f"{mode} {row[mode]:.2f}" for mode in ("float32", "channels_last", "bfloat16", "compiled") if row[mode])
                + f"; geometry {row['geometry_share']:.1%}; {row['share_of_floor']:.0%} of the floor"
                + (f"; {best / PORTS[ported][0]:.1f} × a public port's {PORTS[ported][0]} (another machine)" if ported in PORTS else ""),
                flush=True,
            )  # fmt: skip
        if "train" not in arguments.skip:
            row["batch_size"] = config["batch_size"]
            count = 3 if DEVICE.type == "cpu" else 10
            row["step_s"] = {mode: training(kind, options, config["batch_size"], mode, count) for mode in modes}
            for mode, taken in row["step_s"].items():
                size = row["batch_size"]
                steps = ", ".join(f"{turn} {taken[turn]:.2f} s{_beside_the_port(ported, turn, taken[turn] / size)}" for turn in taken)
                print(f"  a step at batch {size}, {mode}: {steps}", flush=True)
        result["generators"][name] = row
        atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    if "parts" not in arguments.skip:
        result["parts"] = against_the_usual_way()
        for what, row in result["parts"].items():
            maps = f"; {row['ours_maps']:.1f} feature maps alive at most against {row['usual_maps']:.1f}" if "ours_maps" in row else ""
            print(f"{what}: {row['ours_s'] * 1e3:.1f} ms against {row['usual_s'] * 1e3:.1f} ms ({row['usual']}), "
                  f"{row['usual_s'] / row['ours_s']:.1f} ×{maps}")  # fmt: skip
    atomic_write_text(arguments.out, json.dumps(result, indent=1) + "\n")
    print(f"written to {arguments.out}")


def _beside_the_port(name: str, turn: str, seconds_per_image: float) -> str:
    """How much faster a step is than a public port's, image for image."""
    if turn not in (PORTS[name][2] if name in PORTS else {}):
        return ""
    _, batch, steps = PORTS[name]
    return f" ({steps[turn] / batch / seconds_per_image:.1f} × a public port's, another machine)"


if __name__ == "__main__":
    main()
