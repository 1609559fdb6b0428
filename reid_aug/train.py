"""`reid-aug train`: people and a configuration in, a trained generator out."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from generators import PosePair, create
from generators.training import Trained, train
from reid_aug.config import TrainConfig
from reid_aug.loading import load_people
from reid_aug.pairs import PairStream
from reid_aug.people import PersonImage


def train_from(config: TrainConfig, people: Sequence[PersonImage] | None = None) -> Trained:
    """Train what the configuration names on its people; `config.out` holds checkpoint, curves and sample sheets."""
    torch.manual_seed(config.seed)  # weights are drawn here, before the loop seeds itself
    model = create(config.generator.name, **config.generator.options)
    people = load_people(config.data) if people is None else people
    stream = PairStream(
        people, tuple(model.size), config.batch_size, config.seed, flip=config.flip, cross_camera=config.cross_camera  # type: ignore[arg-type]
    )
    return train(
        model, stream, config.out,
        steps=config.steps, samples=first_pairs(stream, config.samples),
        save_every_steps=config.save_every_steps, sample_every_steps=config.sample_every_steps,
        log_every_steps=config.log_every_steps, seed=config.seed, precision=config.precision,
        accelerator=config.accelerator, devices=config.devices, compile=config.compile,
        about={"batch_size": config.batch_size, "flip": config.flip, "cross_camera": config.cross_camera, "people": stream.digest},
    )  # fmt: skip


def first_pairs(stream: PairStream, count: int) -> PosePair:
    """`count` pairs of the stream's first batches: the same on every sheet."""
    batches, have, step = [], 0, 0
    while have < count:
        batches.append(stream[step])
        have, step = have + len(batches[-1]), step + 1
    joined = PosePair(
        torch.cat([b.source for b in batches]),
        torch.cat([b.target for b in batches]),
        type(batches[0].source_pose).cat([b.source_pose for b in batches]),
        type(batches[0].target_pose).cat([b.target_pose for b in batches]),
        torch.cat([b.identity for b in batches]),
    )
    return joined[:count]
