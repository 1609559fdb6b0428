"""The training loop of Re-ID baselines: as many steps for every arm, and everything random from one seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from generators import Pose, in_one_kernel
from reid_aug.baselines.augmentation import augment, erase, grey_patch
from reid_aug.baselines.averaging import MovingAverage
from reid_aug.baselines.graphs import as_cuda_graphs
from reid_aug.baselines.initial import initial_weights
from reid_aug.baselines.losses import CentreLoss, batch_hard_triplet, smoothed_cross_entropy
from reid_aug.baselines.mixing import Mixing, check_batches, most_synthetic
from reid_aug.baselines.network import build, fill_in, prepare
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.samplers import pk_batches, replaced, shuffled_batches
from reid_aug.device import resident


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images uint8 (N, 3, H, W) in memory, and labels (N,) from 0 without gaps.

    `source` (N,) is the row of the real image that a synthetic one was made of, and −1 for real images; None when all
    are real. `poses` (N,) are in the images' pixels, for online augmentation.
    """

    images: Tensor
    labels: Tensor
    source: Tensor | None = None
    poses: Pose | None = None

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError(f"a training set has as many labels as images, got {len(self.labels)} and {len(self.images)}")
        if not torch.equal(self.labels.unique(), torch.arange(int(self.labels.max()) + 1)):
            raise ValueError("labels run from 0 without gaps: they size the classifier")
        for name, part in (("sources", self.source), ("poses", self.poses)):
            if part is not None and len(part) != len(self.labels):
                raise ValueError(f"a training set has as many {name} as images, got {len(part)} and {len(self.labels)}")

    @property
    def classes(self) -> int:
        """Count the labels."""
        return int(self.labels.max()) + 1

    @property
    def synthetic(self) -> np.ndarray:
        """Mark the synthetic images, (N,) bool."""
        return np.zeros(len(self.labels), dtype=bool) if self.source is None else self.source.numpy() >= 0


class OnlineAugmentation(Protocol):
    """A callable module that renders images of a batch anew, as `reid_aug.PoseAugmentation` does; any such module will do.

    Images (B, 3, H, W) in [0, 1], their poses (B, K) in pixels and labels (B,) → images of the same shape and range.
    """

    def __call__(self, images: Tensor, poses: Pose, labels: Tensor, /) -> Tensor: ...

    def to(self, device: torch.device, /) -> Any: ...


class PerImage(NamedTuple):
    """What the loss needs to know of every image: each (N,)."""

    smoothing: Tensor  # of its label
    weight: Tensor  # of its loss
    known: Tensor  # whether its identity is known, which LSRO says it is not


def train_baseline(
    config: BaselineConfig, data: TrainingSet, seed: int,
    *, mixing: Mixing | None = None, online: OnlineAugmentation | None = None,
    device: str = "auto", label: str = "", start: Mapping[str, Tensor] | None = None,
) -> nn.Module:  # fmt: skip
    """Train for `config.steps` steps from the configured weights, or from `start`; everything random comes from `seed`.

    A classifier of other identities is left out of `start`. `mixing` says how synthetic images enter; `online` renders
    images of every batch anew, before flip and crop. Returns the model in eval mode. FloatingPointError when training
    diverged; ValueError for a mixing that contradicts itself or lets no synthetic image into a batch.
    """
    from lightning_fabric import Fabric

    mixing = mixing or Mixing()
    check_batches(mixing, config)
    fabric = Fabric(accelerator="auto" if device == "auto" else device, devices=1, precision=config.precision)
    torch.manual_seed(seed)
    model, pretrained = _network(config, data.classes, start)
    model = model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network = torch.compile(model) if config.compile else model
    optimizer, schedule = optimizer_and_schedule(config, model)
    frozen_steps = int(config.frozen * config.steps) if pretrained else 0
    images, labels = resident(data.images, fabric.device), data.labels.to(fabric.device)
    per_image = PerImage(*(part.to(fabric.device) for part in _per_image(config, mixing, data)))
    average = MovingAverage(model, config.ema) if config.ema else None
    noise = torch.Generator().manual_seed(seed)
    centres: CentreLoss | None = None
    if online is not None:
        online.to(fabric.device)
    model.train()
    loss = torch.zeros(())
    title = f"train {config.model} {label}".strip()
    batches = tqdm(_batches(config, mixing, data, seed), title, config.steps, unit="step", disable=None, leave=False)
    for step, batch in enumerate(batches):
        if frozen_steps and step in (0, frozen_steps):
            _freeze(model, step == 0)
        index = torch.from_numpy(batch)
        inputs = _inputs(config, mixing, images, index, data, online, noise, fabric.device)
        if config.cuda_graphs and fabric.device.type == "cuda" and step == frozen_steps:
            network = as_cuda_graphs(model, inputs, config.precision)
        with fabric.autocast():
            logits, features = network(inputs)
        if config.centre_weight and centres is None:  # as many numbers as features have
            centres = _centres(config, data.classes, features, seed)
        loss = _loss(config, logits, features, labels, per_image, index.to(fabric.device, non_blocking=True), centres)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
        if average is not None:
            average.update(step)
    if average is not None:
        average.fill_in()
    if not bool(torch.isfinite(loss)):
        raise FloatingPointError(f"{config.model} ({label}) ended with loss {float(loss)} after {config.steps} steps")
    return model.eval()


def _network(config: BaselineConfig, classes: int, start: Mapping[str, Tensor] | None) -> tuple[nn.Module, bool]:
    """Build the network with the weights it starts from, and say whether they were trained before."""
    model = build(config, classes)
    weights = initial_weights(config).state if start is None else start
    if weights is not None:
        fill_in(model, weights, config.weights if start is None else "start")
    return model, weights is not None


def _centres(config: BaselineConfig, classes: int, features: Tensor, seed: int) -> CentreLoss:
    """Put a centre per identity where Luo et al. released them to begin: anywhere, standard normal."""
    centres = torch.randn(classes, features.shape[1], generator=torch.Generator().manual_seed(seed))
    return CentreLoss(centres.to(features.device), config.centre_rate, config.centre_reduction)


def _loss(
    config: BaselineConfig, logits: Tensor, features: Tensor, labels: Tensor, per_image: PerImage, index: Tensor,
    centres: CentreLoss | None = None,
) -> Tensor:  # fmt: skip
    """Sum cross-entropy and, where they have a weight, triplet and centre loss of the images `index` (B,); the centres move."""
    smoothing, weight, known = (part[index] for part in per_image)
    loss = smoothed_cross_entropy(logits.float(), labels[index], smoothing, weight)
    if config.triplet_weight:
        hard = batch_hard_triplet(features.float(), labels[index], config.triplet_margin, known=known, weight=weight)
        loss = loss + config.triplet_weight * hard
    if centres is not None:
        loss = loss + config.centre_weight * centres(features.float(), labels[index], known=known, weight=weight)
    return loss


def _inputs(
    config: BaselineConfig, mixing: Mixing, images: Tensor, index: Tensor, data: TrainingSet,
    online: OnlineAugmentation | None, noise: torch.Generator, device: torch.device,
) -> Tensor:  # fmt: skip
    """Give a batch as the network takes it: rendered anew where there is `online`, flipped, cropped, partly grey, normalised, erased."""
    pixels = images[index.to(images.device, non_blocking=True)].to(device, non_blocking=True)
    if online is not None:
        assert data.poses is not None
        pixels = online(pixels.float() / 255, data.poses[index], data.labels[index]) * 255
    pixels = augment(pixels, config, noise)
    grey = config.grey_patch if mixing.grey_patch is None else mixing.grey_patch
    inputs = prepare(grey_patch(pixels, grey, noise) if grey else pixels)
    erasing = config.erasing if mixing.erasing is None else mixing.erasing
    return erase(inputs, erasing, noise) if erasing else inputs


def _batches(config: BaselineConfig, mixing: Mixing, data: TrainingSet, seed: int) -> Iterator[np.ndarray]:
    """Yield the indices of every step's images, as the mixing lets synthetic ones in."""
    synthetic, labels, share = data.synthetic, data.labels.numpy(), mixing.share
    replace = mixing.enter == "replace" and bool(synthetic.any())
    # Real images come first, so that their rows are the same with and without synthetic ones behind them.
    pool = labels[~synthetic] if replace else labels
    among = None if replace else synthetic
    if config.sampler == "pk":
        most = None if share is None else most_synthetic(share, config.instances)
        batches = pk_batches(pool, config.identities, config.instances, config.steps, seed, synthetic=among, most_synthetic=most)
    else:
        batches = shuffled_batches(len(pool), config.batch, config.steps, seed, synthetic=among, share=share)
    if not replace:
        yield from batches
        return
    assert data.source is not None
    order = np.argsort(data.source.numpy(), kind="stable")
    bounds = np.searchsorted(data.source.numpy()[order], np.arange(len(pool) + 1))
    stand_ins = [order[a:b] for a, b in zip(bounds, bounds[1:], strict=False)]
    rng = np.random.default_rng((seed, 1))
    yield from (replaced(batch, stand_ins, mixing.probability, rng) for batch in batches)


def _per_image(config: BaselineConfig, mixing: Mixing, data: TrainingSet) -> PerImage:
    """Say what the loss needs to know of real and of synthetic images."""
    synthetic = torch.from_numpy(data.synthetic)
    of_synthetic = {"smoothed": mixing.smoothing, "uniform": 1.0}.get(mixing.label, config.label_smoothing)
    of_real = config.label_smoothing if mixing.real_smoothing is None else mixing.real_smoothing
    smoothing = torch.where(synthetic, of_synthetic, of_real)
    weight = torch.where(synthetic, mixing.weight, 1.0)
    return PerImage(smoothing, weight, ~synthetic if mixing.label == "uniform" else torch.ones_like(synthetic))


def optimizer_and_schedule(config: BaselineConfig, model: nn.Module) -> tuple[torch.optim.Optimizer, Any]:
    """Make what moves the weights, and what changes its learning rate after every step.

    One-cycle changes momentum, too, against the rate, from 0.95 to 0.85 and back (Smith and Topin 2019): sgd's, in place
    of the configured `momentum` (0 included), and the first beta of the Adams.
    """
    classifier: Any = model.classifier
    ids = {id(p) for p in classifier.parameters()}
    body = [p for p in model.parameters() if id(p) not in ids and p.requires_grad]
    head = [p for p in classifier.parameters() if p.requires_grad]
    rate = config.learning_rate
    groups: Any = [{"params": body, "lr": rate}, {"params": head, "lr": rate * config.head_rate}]
    if config.head_rate == 1:
        groups = [p for p in model.parameters() if p.requires_grad]
    options: dict[str, Any] = {"lr": rate, "weight_decay": config.weight_decay, "fused": in_one_kernel(list(model.parameters()))}
    if config.optimizer == "sgd":
        optimizer: Any = torch.optim.SGD(groups, **options, momentum=config.momentum, nesterov=config.momentum > 0)
    elif config.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, **options)
    else:
        optimizer = torch.optim.Adam(groups, **options, amsgrad=config.optimizer == "amsgrad")
    if config.schedule == "one-cycle":
        peaks = [group["lr"] for group in optimizer.param_groups]
        return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, peaks, config.steps, pct_start=0.15)
    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(config, step))


def rate_at(config: BaselineConfig, step: int) -> float:
    """Give the learning rate of a step (0-based) as a multiple of the configured one; for schedules other than one-cycle.

    >>> config = BaselineConfig(schedule="steps", steps=100, milestones=(0.5,))
    >>> rate_at(config, 49), rate_at(config, 50)
    (1.0, 0.1)
    """
    done = step / config.steps
    rise = 1.0
    if config.warmup and done < config.warmup:
        rise = config.warmup_from + (1 - config.warmup_from) * done / config.warmup
    if config.schedule == "cosine":
        return rise * 0.5 * (1 + float(np.cos(np.pi * done)))
    return rise * config.gamma ** sum(done >= milestone for milestone in config.milestones)


def _freeze(model: nn.Module, frozen: bool) -> None:
    """Let only the classifier learn, and keep its inputs' statistics still; or let everything learn again, but the neck's bias."""
    classifier: Any = model.classifier
    ids = {id(p) for p in classifier.parameters()}
    model.train()
    for parameter in model.parameters():
        if id(parameter) not in ids:
            parameter.requires_grad_(not frozen)
    for child in model.children():
        child.train(not frozen or child is classifier)
