"""Compare what a GPU computes with what the CPU does: geometry, losses, generators, training, rendering, ranking.

    python benchmarks/gpu/checks.py OUT.json [check …] [--device cuda|cpu] [--tiny]

A check gives rows, each with how far the device is off and whether that is `ok`; OUT.json is written after every check,
and one that fails does not stop the rest. The exit code is 1 when a row is not ok. `--device cpu --tiny` compares the
CPU with itself in under a minute: do the checks run?
"""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # for `benchmarks`, wherever this is started

import generators  # noqa: E402
from benchmarks.generator_speed import on_its_skeleton, people  # noqa: E402
from benchmarks.gpu.record import begin, failure, write  # noqa: E402
from generators import SKELETONS, Generator, PosePair, convert, maps, mirror, openpose_18, rescale, warp, warp_images  # noqa: E402
from generators.losses import masked_l1  # noqa: E402
from generators.models.deformable import nearest_neighbour_l1  # noqa: E402
from generators.models.vdg import ssim  # noqa: E402
from generators.parts import body_parts  # noqa: E402
from reid_aug import Augmenter, PoseAugmentation, PoseBank, PosedImages, collate_poses  # noqa: E402
from reid_aug.baselines.neighbours import top_k  # noqa: E402
from reid_aug.baselines.ranking import rank_gallery  # noqa: E402
from reid_aug.baselines.reranking import rerank  # noqa: E402
from reid_aug.data.loading import DataConfig, load_people  # noqa: E402
from reid_aug.rendered.dataset import write_rendered  # noqa: E402
from reid_aug.rendered.plan import RenderedConfig  # noqa: E402

Rows = dict[str, dict[str, Any]]
CPU = torch.device("cpu")
# Schedules short enough that step 0 and step 15 are turns of both stages.
OPTIONS: dict[str, dict[str, Any]] = {
    "deformable": {"content_loss": "l1"},
    "momi": {"blocks": 3, "detector_blocks": 1, "dropout": 0.0, "training_pose": "teacher"},
    "pg2": {"stage1_steps": 10, "stage2_steps": 10},
    "posewarp": {"pretrain_steps": 10, "warmup_steps": 2, "gan_steps": 8},
    "vdg": {"stage1_steps": 10, "stage2_steps": 10},
}


@dataclass(frozen=True)
class Bench:
    """The device under test and the sizes of what it is given."""

    device: torch.device
    tiny: bool

    @property
    def batch(self) -> int:
        return 2 if self.tiny else 16

    @property
    def size(self) -> tuple[int, int]:
        return (64, 32) if self.tiny else (128, 64)

    @property
    def devices(self) -> tuple[torch.device, torch.device]:
        return self.device, CPU

    def both(self, call: Callable[..., Any], *inputs: Any) -> tuple[Any, Any]:
        """Return what `call` gives on the device and on the CPU."""
        return call(*(value.to(self.device) for value in inputs)), call(*inputs)

    def model(self, name: str, width: int | None = None) -> Generator:
        """Build a small generator, the same each time."""
        torch.manual_seed(0)
        width = width or (4 if self.tiny else 16)
        return generators.create(name, size=self.size, width=width, **OPTIONS.get(name, {}))

    def pair(self, model: Generator, seed: int = 0, batch: int | None = None) -> PosePair:
        """Make images of noise and upright people on the model's skeleton."""
        batch, random = batch or self.batch, torch.Generator().manual_seed(seed)
        source, target = (torch.rand(batch, 3, *self.size, generator=random) * 2 - 1 for _ in range(2))
        poses = [people(batch, self.size, 2 * seed + i) for i in (1, 2)]
        torch.manual_seed(seed)  # a skeleton that openpose_18 can't be turned into gets joints at random
        return on_its_skeleton(model, PosePair(source, target, poses[0], poses[1], torch.arange(batch) // 2))


def difference(result: Tensor, reference: Tensor, most: float = 1e-3) -> dict[str, Any]:
    """Measure the largest, mean and relative (norm over norm) difference; ok when the relative is at most `most`."""
    a, b = result.detach().cpu().double(), reference.detach().cpu().double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, 0.0, (a - b).abs())
    relative = float(gap.norm() / b[b.isfinite()].norm().clamp(min=1e-30))
    sizes = {"max": float(gap.max()), "mean": float(gap.mean()), "relative": relative}
    return {"ok": relative <= most, **sizes, "differing": int((~same).sum()), "of": a.numel()}


@contextmanager
def tf32(convolutions: bool, products: bool) -> Iterator[None]:
    """Allow TF32 in convolutions and matrix products, or forbid it, within the block."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


def map_functions(bench: Bench) -> Rows:
    """Maps of joints and limbs, skeletons, and the ten body parts."""
    source, target = people(bench.batch, bench.size, 1), people(bench.batch, bench.size, 2)
    calls: dict[str, Callable[..., Tensor]] = {
        "gaussian_maps": maps.gaussian_maps, "disc_maps": maps.disc_maps, "body_mask": maps.body_mask, "limb_masks": maps.limb_masks,
        "joint_distances": maps.joint_distances, "edge_distances": lambda pose: maps.edge_distances(pose, openpose_18.edges),
        "mirror": lambda pose: mirror(pose).xy, "rescale": lambda pose: rescale(pose, (256, 100)).xy,
        "to coco_17": lambda pose: convert(pose, SKELETONS["coco_17"]).xy, "to mpii_14": lambda pose: convert(pose, SKELETONS["mpii_14"]).xy,
    }  # fmt: skip
    rows = {name: difference(*bench.both(call, source)) for name, call in calls.items()}
    for suffix, total in (("", False), (" total", True)):
        device, cpu = bench.both(lambda a, b, total=total: body_parts(a, b, total), source, target)
        rows[f"body_parts transforms{suffix}"] = difference(device[0], cpu[0])
        rows[f"body_parts masks{suffix}"] = difference(device[1].float(), cpu[1].float())
    return rows


def fits(bench: Bench) -> Rows:
    """Affine and similarity transforms fitted to points, and which of them fit at all."""
    random = torch.Generator().manual_seed(3)
    target, source = (torch.randn(64, 7, 2, generator=random) * 20 for _ in range(2))
    weight, rows = (torch.rand(64, 7, generator=random) > 0.4).float(), {}
    calls = {"affine": warp.fit_affine, "total": lambda *points: warp.fit_affine(*points, total=True), "similarity": warp.fit_similarity}
    for name, call in calls.items():
        device, cpu = bench.both(call, target, source, weight)
        rows[name] = difference(device[0], cpu[0], 1e-4) | {"ok differs": int((device[1].cpu() != cpu[1]).sum())}
        rows[name]["ok"] &= not rows[name]["ok differs"]
    return rows


def warps(bench: Bench) -> Rows:
    """Images moved by the transforms of body parts."""
    transforms, _ = body_parts(people(bench.batch, bench.size, 1), people(bench.batch, bench.size, 2))
    image, mask, rows = torch.randn(bench.batch, 8, *bench.size), (torch.rand(bench.batch, *bench.size) > 0.5).float(), {}
    for padding, part in itertools.product(("zeros", "border"), (0, 1, 3, 6)):
        call = lambda x, t, m, p=padding: warp_images(x, t, p, mask=m)  # noqa: E731
        rows[f"{padding} part {part}"] = difference(*bench.both(call, image, transforms[:, part], mask))
    for part in (0, 3):
        device, cpu = bench.both(warp_images, image.bfloat16(), transforms[:, part])
        rows[f"bfloat16 part {part}"] = difference(device, cpu, 1e-2)
    return rows


def carried(bench: Bench) -> Rows:
    """Deformable GAN's skips and their gradients, in both layouts."""
    transforms, masks = body_parts(people(bench.batch, bench.size, 1), people(bench.batch, bench.size, 2))
    layouts, rows = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}, {}
    for aggregate, (name, layout) in itertools.product(("max", "avg"), layouts.items()):
        features, weight = torch.randn(2, bench.batch, 16, *bench.size)
        results = []
        for device in bench.devices:
            leaf = features.to(device).contiguous(memory_format=layout).requires_grad_()
            out = warp.carry(leaf, transforms.to(device), masks.to(device), aggregate)
            results.append((out, *torch.autograd.grad((out * weight.to(device)).sum(), leaf)))
        rows[f"{aggregate} {name}"], rows[f"{aggregate} {name} gradient"] = (difference(*both) for both in zip(*results, strict=True))
    return rows


def losses(bench: Bench) -> Rows:
    """The losses that are our own; SSIM's row with TF32 products only says how far that is off."""
    rows: Rows = {}
    image, target, weight = torch.randn(bench.batch, 16, 64, 32), torch.randn(bench.batch, 16, 64, 32), torch.randn(bench.batch, 64, 32)
    for side in (3, 5):
        results = []
        for device in bench.devices:
            a, b = (x.detach().to(device).requires_grad_() for x in (image, target))
            out = nearest_neighbour_l1(a, b, side)
            results.append((out, *torch.autograd.grad((out * weight.to(device)).sum(), (a, b))))
        for name, both in zip(("", " image gradient", " target gradient"), zip(*results, strict=True), strict=True):
            rows[f"nearest_neighbour_l1 {side}{name}"] = difference(*both)
    images = [torch.rand(bench.batch, 3, *bench.size) for _ in range(2)]
    score = lambda x, y: ssim(x, y, 1.0)  # noqa: E731
    for name, products, most in (("ssim", False, 1e-3), ("ssim, matmul TF32 allowed", True, math.inf)):
        with tf32(True, products):
            rows[name] = difference(*bench.both(score, *images), most)
    with torch.autocast(bench.device.type, torch.bfloat16):
        device_score = score(*(image.to(bench.device) for image in images))
    rows["ssim under bfloat16 autocast"] = difference(device_score, score(*images))
    rows["masked_l1"] = difference(*bench.both(masked_l1, *images, (images[0][:, :1] > 0.5).float()))
    return rows


def forwards(bench: Bench) -> Rows:
    """Every generator's image, in every precision, against the CPU's in float32."""
    rows: Rows = {}
    kinds = {"bfloat16": torch.bfloat16} | ({"float16": torch.float16} if bench.device.type == "cuda" else {})
    for name in generators.names():
        model = bench.model(name).eval()
        pair = bench.pair(model)
        with torch.inference_mode():
            cpu = model(pair.source, pair.source_pose, pair.target_pose)
            model, pair = model.to(bench.device), pair.to(bench.device)
            inputs = (pair.source, pair.source_pose, pair.target_pose)
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
    steps = 4 if bench.tiny else 20
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
    """torch.compile of body parts, and of Deformable GAN where there is time for it."""
    torch._dynamo.reset()
    source, target = (people(bench.batch, bench.size, seed).to(bench.device) for seed in (1, 2))
    rows = {"body_parts masks": difference(torch.compile(body_parts)(source, target)[1].float(), body_parts(source, target)[1].float())}
    if not bench.tiny:
        model = bench.model("deformable").to(bench.device).eval()
        pair = bench.pair(model).to(bench.device)
        inputs = (pair.source, pair.source_pose, pair.target_pose)
        with torch.inference_mode(), tf32(False, False):
            rows["deformable float32"] = difference(torch.compile(model)(*inputs), model(*inputs))
    return rows


def augmenter(bench: Bench) -> Rows:
    """Rendered people in new poses: Augmenter's images in steps of 255, PoseAugmentation's in [0, 1]."""
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as folder:
        config = RenderedConfig(train_identities=2 if bench.tiny else 6, train_images=4, test_identities=2, size=bench.size)
        root = write_rendered(Path(folder, "set"), config).root
        persons = [person for person in load_people(DataConfig(root=str(root))) if person.split == "train"]
        bank = PoseBank.collect(persons, bench.size)
        for name in ("pg2", "deformable", "vdg", "momi"):
            images = []
            for device in bench.devices:
                renderer = Augmenter(bench.model(name), bank, 2, 0, device=device)
                images.append(torch.stack([torch.from_numpy(image) for _, image in renderer.render(renderer.plan(persons), persons)]).float())
            rows[f"Augmenter {name}, of 255"] = (row := difference(*images)) | {"ok": row["mean"] < 1}
        data = PosedImages(persons[: bench.batch], bench.size)
        batch = collate_poses([data[i] for i in range(len(data))])
        for name in ("pg2", "deformable", "posewarp"):
            augment = PoseAugmentation(bench.model(name), bank, 0.7, seed=1)
            device_augment = copy.deepcopy(augment).to(bench.device)
            row = difference(device_augment(batch.images.to(bench.device), batch.poses), augment(batch.images, batch.poses))
            rows[f"PoseAugmentation {name}, of 1"] = row | {"ok": row["mean"] < 0.01}
    return rows


def ranking(bench: Bench) -> Rows:
    """Ranking, neighbours and re-ranking at Market-1501's size; neighbours equally far within float32 may change places."""
    queries, gallery_size, width, identities = (40, 300, 16, 20) if bench.tiny else (3368, 15913, 512, 750)
    rng, rows = np.random.default_rng(0), {}
    centres = rng.standard_normal((identities, width), dtype=np.float32)
    pids = [rng.integers(0, identities, count) for count in (queries, gallery_size)]
    camids = [rng.integers(0, 6, count) for count in (queries, gallery_size)]
    query, gallery = (torch.from_numpy(centres[p] + 2 * rng.standard_normal((len(p), width), dtype=np.float32)) for p in pids)
    for metric in ("euclidean", "cosine"):
        call = lambda q, g, metric=metric: rank_gallery(q, g, *pids, *camids, metric=metric)  # noqa: E731
        bench.both(call, query, gallery)  # warms up
        seconds, scores = zip(*(_timed(call, query.to(device), gallery.to(device)) for device in bench.devices), strict=True)
        apart = np.abs(np.nan_to_num(scores[0].ap) - np.nan_to_num(scores[1].ap))
        swapped = int((apart > 1e-3).sum())
        rows[f"rank_gallery {metric}"] = {
            "ok": abs(scores[0].map - scores[1].map) < 1e-4 and swapped <= queries / 1000, "map": [score.map for score in scores],
            "rank1": [float(score.cmc[0]) for score in scores], "largest ap difference": float(apart.max()), "queries apart": swapped,
            "seconds": list(seconds),
        }  # fmt: skip
    device, cpu = bench.both(lambda q, g: top_k(q, g, 50), query, gallery)
    swapped = int((device[1].cpu() != cpu[1]).sum())
    rows["top_k"] = difference(device[0], cpu[0]) | {"ok": swapped <= 0.001 * cpu[1].numel(), "indices that differ": swapped}
    results = [torch.from_numpy(rerank(query[:400].to(device), gallery[:2000].to(device))) for device in bench.devices]
    rows["rerank 400 x 2000"] = difference(*results)
    return rows


def _timed(call: Callable[..., Any], *inputs: Tensor) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*inputs)
    return time.perf_counter() - start, result


CHECKS: dict[str, Callable[[Bench], Rows]] = {check.__name__: check for check in (
    map_functions, fits, warps, carried, losses, forwards, losses_and_gradients_of_a_turn, training_and_resuming, compiled, augmenter, ranking,
)}  # fmt: skip


def main() -> int:
    """Run the checks, print a line for each, and return 1 when one is not ok."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("checks", nargs="*", metavar="check", help=f"of {', '.join(CHECKS)}; default: all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small sizes: do the checks run?")
    options = parser.parse_args()
    for name in options.checks:
        generators.one_of("check", name, CHECKS)
    bench = Bench(torch.device(options.device), options.tiny)
    record = begin("A device against the CPU: absolute differences, and norm of the difference over the CPU's norm", "checks.py", bench.device)
    results: dict[str, Any] = record.setdefault("checks", {})
    for name in options.checks or CHECKS:
        start = time.perf_counter()
        try:
            torch.manual_seed(0)
            rows = CHECKS[name](bench)
            results[name] = {"ok": all(row["ok"] for row in rows.values()), **rows}
        except Exception as error:  # told in the record; the rest goes on
            results[name] = {"ok": False, "error": failure(error)}
        results[name]["seconds"] = round(time.perf_counter() - start, 2)
        write(options.out, record)
        bad = [key for key, row in results[name].items() if isinstance(row, dict) and not row["ok"]]
        reason = results[name].get("error", ", ".join(bad))
        print(f"{name}: {'ok' if results[name]['ok'] else f'NOT OK ({reason})'}, {results[name]['seconds']} s", flush=True)
    return int(not all(result["ok"] for result in results.values()))


if __name__ == "__main__":
    sys.exit(main())
