"""Image quality of a generator on pairs of people it never saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from generators import PosePair, load
from generators.maps import body_mask
from generators.pose import Pose, rescale
from generators.sheet import sample_sheet
from reid_aug import images
from reid_aug.bench.quality import ssim
from reid_aug.pairs import held_out_pairs
from reid_aug.people import PersonImage

PROTOCOL = "deformable"


@torch.inference_mode()
def measure(
    checkpoint: Path, people: Sequence[PersonImage], count: int, seed: int, sheet: Path | None = None, batch_size: int = 64
) -> dict[str, Any]:
    """Mean SSIM and mask-SSIM (Deformable GAN's definition) over `count` held-out pairs, and a sheet of the first eight.

    Pairs are of query and gallery images, both at the generator's size; masks are of the target pose.
    ValueError when there are fewer pairs.
    """
    model = load(checkpoint)
    size = tuple(model.size)
    pairs = pairs_to_measure(people, count, seed)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    plain, masked = [], []
    for start in range(0, len(pairs), batch_size):
        batch = _batch(pairs[start : start + batch_size], size)  # type: ignore[arg-type]
        there = batch.on(model.skeleton).to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):  # as the augmenter draws
            drawn = model(there.source, there.source_pose, there.target_pose).float()
        mask = protocol_mask(batch.to(device).target_pose).squeeze(1).bool()
        generated, truth = images.to_uint8(drawn), images.to_uint8(there.target)
        plain.append(ssim(generated, truth, PROTOCOL))
        masked.append(ssim(generated, truth, PROTOCOL, mask=mask))
        if start == 0 and sheet is not None:
            sheet.parent.mkdir(parents=True, exist_ok=True)
            sample_sheet(batch[:8], drawn[:8].cpu()).save(sheet)
    means = {name: float(torch.cat(values).mean()) for name, values in (("ssim", plain), ("mask_ssim", masked))}
    return {"protocol": PROTOCOL, "size": list(size), "pairs": len(pairs), **means}


def protocol_mask(pose: Pose) -> Tensor:
    """The papers' body mask (B, 1, H, W): 4 px round the limbs and a closing of 5 px at 128 rows, in proportion elsewhere."""
    scale = pose.size[0] / 128
    return body_mask(pose, 4 * scale, closing_px=2 * round(2 * scale) + 1)


def pairs_to_measure(people: Sequence[PersonImage], count: int, seed: int) -> list[tuple[PersonImage, PersonImage]]:
    """The pairs image quality is measured on; ValueError says what is missing for that many."""
    try:
        return held_out_pairs(people, count, seed)
    except ValueError as error:
        if not any(p.pose is not None for p in people if p.split != "train"):
            raise ValueError("image quality needs poses of query and gallery: data.test_keypoints=FILE, or quality.pairs=0") from error
        raise


def _batch(pairs: Sequence[tuple[PersonImage, PersonImage]], size: tuple[int, int]) -> PosePair:
    sources, targets = zip(*pairs, strict=True)
    return PosePair(
        images.to_float(images.read_many([p.path for p in sources], size)),
        images.to_float(images.read_many([p.path for p in targets], size)),
        Pose.stack([rescale(p.pose, size) for p in sources]),
        Pose.stack([rescale(p.pose, size) for p in targets]),
        torch.tensor([p.pid for p in sources]),
    )
