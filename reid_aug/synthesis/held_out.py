"""Pairs that a generator is watched on while it learns from others, and pictures of what it puts their images together from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from pydantic import PositiveInt

from generators import PosePair, layer_sheet, load, replacing
from reid_aug import images
from reid_aug.config import Config
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import with_silhouettes
from reid_aug.data.pairs import held_out_pairs
from reid_aug.data.people import PersonImage
from reid_aug.device import torch_device
from reid_aug.synthesis.training_pairs import batched_poses

HOW = "hold videos of YouTube Pose out with data.test_videos=10, or name keypoints of query and gallery with data.test_keypoints=FILE"


def held_out_batches(
    people: Sequence[PersonImage], size: tuple[int, int], count: int, batch_size: int, seed: int = 0, *, silhouettes: bool = False
) -> list[PosePair]:
    """Sample `count` pairs of query and gallery images with valid poses, in batches of `size` (H, W); ValueError when there are fewer.

    The same people give the same pairs, whatever else a training is told; with the `silhouettes` that people have, if wanted.
    """
    try:
        pairs = held_out_pairs(people, count, seed)
    except ValueError as error:
        raise ValueError(f"{count} held-out pairs are wanted: {error}; {HOW}") from None
    return [pose_pairs(pairs[start : start + batch_size], size, silhouettes=silhouettes) for start in range(0, count, batch_size)]


def pose_pairs(pairs: Sequence[tuple[PersonImage, PersonImage]], size: tuple[int, int], *, silhouettes: bool = False) -> PosePair:
    """Read pairs of (source, target) images, with poses, as one batch of `size` (H, W)."""
    sides = [[pair[side] for pair in pairs] for side in (0, 1)]
    source, target = (images.to_float(images.read_many([p.path for p in side], size, progress=False)) for side in sides)
    both = batched_poses([p.pose for side in sides for p in side if p.pose is not None], size)
    if silhouettes:
        both = with_silhouettes(both, [p.mask for side in sides for p in side if p.pose is not None])
    return PosePair(source, target, both[: len(pairs)], both[len(pairs) :], torch.tensor([p.pid for p in sides[0]]))


class LayersConfig(Config):
    """Options of `reid-aug layers`: a checkpoint, people, how many of their pairs, and the sheet to write."""

    checkpoint: str  # Generator's checkpoint.
    data: DataConfig  # People whose pairs are shown, and their poses.
    split: Literal["test", "train"] = "test"  # Images that the pairs are of: query and gallery, or those that were learnt from.
    pairs: PositiveInt = 4  # Number of pairs.
    seed: int = 0  # Seed of the pairs' sampling.
    out: str = "layers.png"  # PNG to write.
    device: str = "auto"  # Device that renders; "auto" is a GPU when there is one.


@torch.inference_mode()
def write_layers(config: LayersConfig) -> list[str]:
    """Picture what a generator puts a few pairs' images together from, and return the names of what is shown, from the top.

    ValueError for a generator that has nothing of the kind, FileNotFoundError or ValueError where people are missing.
    """
    if Path(config.out).suffix.lower() != ".png":
        raise ValueError(f"a sheet is a .png file, got out={config.out}")
    device = torch_device(config.device)
    model = load(config.checkpoint).to(device).eval()
    people = load_people(config.data, test_poses=config.split == "test")
    size: tuple[int, int] = (int(model.size[0]), int(model.size[1]))
    if config.split == "test":
        (pair,) = held_out_batches(people, size, config.pairs, config.pairs, config.seed)
    else:  # sampled in the same way
        people = [replace(p, split="query") for p in people if p.split == "train"]
        pair = pose_pairs(held_out_pairs(people, config.pairs, config.seed), size)
    pair = pair.on(model.skeleton)
    there = pair.to(device)
    layers = {name: layer.cpu() for name, layer in model.layers(there.source, there.source_pose, there.target_pose).items()}
    with replacing(config.out) as temporary:
        layer_sheet(pair, layers).save(temporary, "PNG")
    return ["source and target with their poses", *layers]

