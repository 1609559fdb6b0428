"""Checks of poses, maps, transforms, warps and losses; every function gives rows by name."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.generator_speed import people
from benchmarks.gpu.bench import Bench, Rows, difference, tf32
from generators import SKELETONS, convert, maps, mirror, openpose_18, rescale, warp, warp_images
from generators.losses import masked_l1
from generators.models.deformable import nearest_neighbour_l1
from generators.models.vdg import ssim
from generators.parts import body_parts


def map_functions(bench: Bench) -> Rows:
    """Maps of joints and limbs, skeletons, and the ten body parts."""
    source, target = people(bench.batch, bench.size, 1), people(bench.batch, bench.size, 2)
    calls: dict[str, Callable[..., Tensor]] = {
        "gaussian_maps": maps.gaussian_maps, "disc_maps": maps.disc_maps, "body_mask": maps.body_mask, "limb_masks": maps.limb_masks,
        "joint_distances": maps.joint_distances, "edge_distances": lambda pose: maps.edge_distances(pose, openpose_18.edges),
        "mirror": lambda pose: mirror(pose).xy, "rescale": lambda pose: rescale(pose, (256, 100)).xy,
        "to coco_17": lambda pose: convert(pose, SKELETONS["coco_17"]).xy,
        "to mpii_14": lambda pose: convert(pose, SKELETONS["mpii_14"]).xy,
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
