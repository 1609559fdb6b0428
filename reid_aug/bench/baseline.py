"""A Re-ID baseline: train one of torchreid's networks for a number of steps, and give features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F
from torchreid import losses as torchreid_losses
from torchreid import models as torchreid_models
from tqdm import tqdm

from generators.registry import nearest, read_header, tensors_digest, write_tensors
from reid_aug.config import Config

FORMAT = "reid-aug baseline 1"
# ImageNet's mean and spread, as torchreid normalises.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BaselineConfig(Config):
    """A network of torchreid's and how it is trained; every arm gets the same."""

    model: str = "osnet_x0_25"
    size: tuple[PositiveInt, PositiveInt] = (128, 64)  # (H, W)
    steps: PositiveInt = 300
    identities: PositiveInt = 16  # per batch (P)
    instances: PositiveInt = 4  # of each (K)
    learning_rate: PositiveFloat = 5e-3  # the peak of a one-cycle schedule
    weight_decay: float = 5e-4
    clip_norm: PositiveFloat = 2.0  # of the gradient: at this rate and from scratch, runs differ widely without
    label_smoothing: float = 0.1
    triplet_weight: float = 0.0  # of torchreid's hard-mined triplet loss; from scratch and this short it does harm
    triplet_margin: float = 0.3
    crop_px: int = 6  # padding of the random crop
    flip: bool = True
    erasing: Annotated[float, Field(ge=0, le=1)] = 0.0  # probability of random erasing (Zhong et al. 2020); 0.5 in arms that name it
    precision: Literal["32-true", "bf16-mixed"] = "32-true"


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """Images uint8 (N, 3, H, W) in memory, and labels (N,) from 0 without gaps."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.images) != len(self.labels) or not len(self.labels):
            raise ValueError(f"a training set has as many labels as images, got {len(self.labels)} and {len(self.images)}")
        if not torch.equal(self.labels.unique(), torch.arange(int(self.labels.max()) + 1)):
            raise ValueError("labels run from 0 without gaps: they size the classifier")

    @property
    def classes(self) -> int:
        return int(self.labels.max()) + 1


def pk_batches(labels: np.ndarray, identities: int, instances: int, steps: int, seed: int) -> list[np.ndarray]:
    """Indices of `steps` batches: P identities, each with K images, with replacement where an identity has fewer.

    Identities are dealt from a shuffled deck, so that none waits longer than one pass; the same for the same seed.
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    members = [order[a:b] for a, b in zip(starts, starts[1:], strict=False)]
    identities, deck, batches = min(identities, len(members)), [], []
    for _ in range(steps):
        if len(deck) < identities:
            deck += [i for i in rng.permutation(len(members)).tolist() if i not in deck]
        chosen, deck = deck[:identities], deck[identities:]
        picks = [rng.choice(members[i], instances, replace=len(members[i]) < instances) for i in chosen]
        batches.append(np.concatenate(picks))
    return batches


def build(config: BaselineConfig, classes: int) -> nn.Module:
    """The network, from scratch, with logits and features in training; ValueError names the nearest that torchreid has."""
    factory = getattr(torchreid_models, "__model_factory", {})
    if factory and config.model not in factory:
        known = sorted(factory)
        raise ValueError(f"torchreid has no model {config.model!r}; it has {', '.join(known[:6])}, …{nearest(config.model, known)}")
    return torchreid_models.build_model(config.model, classes, loss="triplet", pretrained=False, use_gpu=False)


def train_baseline(
    config: BaselineConfig, data: TrainingSet, seed: int,
    *, device: str = "auto", label: str = "", start: Mapping[str, Tensor] | None = None,
) -> nn.Module:  # fmt: skip
    """Train for `config.steps` steps, from scratch or from the weights `start`; everything random comes from `seed`.

    A classifier of other identities is left out of `start`. The model in eval mode.
    """
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="auto" if device == "auto" else device, devices=1, precision=config.precision)
    torch.manual_seed(seed)
    model = build(config, data.classes)
    if start is not None:
        own = model.state_dict()
        model.load_state_dict({k: v for k, v in start.items() if v.shape == own[k].shape}, strict=False)
    model = model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.steps, pct_start=0.15)
    triplet = torchreid_losses.TripletLoss(margin=config.triplet_margin)
    images, labels = data.images.to(fabric.device), data.labels.to(fabric.device)
    batches = pk_batches(data.labels.numpy(), config.identities, config.instances, config.steps, seed)
    noise = torch.Generator().manual_seed(seed)
    model.train()
    for batch in tqdm(batches, desc=f"train {config.model} {label}".strip(), unit="step", disable=None, leave=False):
        index = torch.from_numpy(batch).to(fabric.device)
        inputs, targets = prepare(augment(images[index], config, noise)), labels[index]
        if config.erasing:
            inputs = erase(inputs, config.erasing, noise)
        with fabric.autocast():
            logits, features = model(inputs)
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=config.label_smoothing)
            if config.triplet_weight:
                loss = loss + config.triplet_weight * triplet(features.float(), targets)
        optimizer.zero_grad(set_to_none=True)
        fabric.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimizer.step()
        schedule.step()
    if not bool(torch.isfinite(loss)):  # type: ignore[possibly-undefined]
        raise FloatingPointError(f"{config.model} ({label}) ended with loss {float(loss)} after {config.steps} steps")  # type: ignore[possibly-undefined]
    return model.eval()


def augment(images: Tensor, config: BaselineConfig, noise: torch.Generator) -> Tensor:
    """Flip left to right with probability ½ and crop back from `crop_px` of zero padding; uint8 (B, 3, H, W)."""
    size, pad = len(images), config.crop_px
    height, width = images.shape[-2:]
    if config.flip:
        flipped = torch.rand(size, generator=noise) < 0.5
        images = torch.where(flipped[:, None, None, None].to(images.device), images.flip(-1), images)
    if pad:
        padded = F.pad(images, (pad, pad, pad, pad))
        down = torch.randint(2 * pad + 1, (size, 1), generator=noise) + torch.arange(height)
        across = torch.randint(2 * pad + 1, (size, 1), generator=noise) + torch.arange(width)
        rows = torch.arange(size)[:, None, None, None]
        index = [t.to(images.device) for t in (rows, torch.arange(3)[:, None, None], down[:, None, :, None], across[:, None, None, :])]
        images = padded[tuple(index)]
    return images


def erase(inputs: Tensor, probability: float, noise: torch.Generator) -> Tensor:
    """Random erasing of normalised images (B, 3, H, W): a rectangle of each, with some probability, becomes ImageNet's mean, 0.

    Its area is 2 to 40 % of the image's, its height over its width 0.3 to 3.3 (Zhong et al. 2020); what would not fit is cut.
    """
    size, (height, width) = len(inputs), inputs.shape[-2:]
    chosen, area, shape, top, left = torch.rand(5, size, generator=noise)
    pixels = (0.02 + 0.38 * area) * height * width
    ratio = torch.exp(np.log(0.3) + shape * (np.log(3.3) - np.log(0.3)))  # even over log, so that none lies down more than stands
    tall, wide = (pixels * ratio).sqrt().clamp(max=height).round(), (pixels / ratio).sqrt().clamp(max=width).round()
    rows, columns = torch.arange(height), torch.arange(width)
    first_row, first_column = (top * (height - tall + 1)).floor(), (left * (width - wide + 1)).floor()
    down = (rows >= first_row[:, None]) & (rows < (first_row + tall)[:, None])
    across = (columns >= first_column[:, None]) & (columns < (first_column + wide)[:, None])
    gone = down[:, :, None] & across[:, None, :] & (chosen < probability)[:, None, None]
    return inputs.masked_fill(gone[:, None].to(inputs.device), 0.0)


def prepare(images: Tensor) -> Tensor:
    """uint8 (B, 3, H, W) as the network takes it: float, ImageNet-normalised, channels-last."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) * 255 for v in (MEAN, STD))
    return images.float().sub_(mean).div_(std).contiguous(memory_format=torch.channels_last)


def save_baseline(model: nn.Module, config: BaselineConfig, classes: int, path: str | os.PathLike[str], **about: Any) -> None:
    """Write a trained network and what builds it again to one safetensors file, atomically."""
    state = model.state_dict()
    own = config.model_dump(mode="json")
    header = {"format": FORMAT, "model": config.model, "config": own, "classes": classes, "digest": tensors_digest(state), "about": about}
    write_tensors(state, header, path)


def load_baseline(path: str | os.PathLike[str]) -> tuple[nn.Module, Mapping[str, Any]]:
    """A network that `save_baseline` wrote, in eval mode on the CPU, and its header; errors as `read_header`'s."""
    header = read_header(path, FORMAT)
    model = build(BaselineConfig(model=header["model"]), header["classes"])
    model.load_state_dict(safetensors.torch.load_file(str(path)))
    return model.eval(), header


@torch.inference_mode()
def features(model: nn.Module, images: Tensor, *, batch_size: int = 256) -> Tensor:
    """Features (N, D) float32 on the CPU of uint8 images (N, 3, H, W)."""
    device = next(model.parameters()).device
    parts = [model(prepare(part.to(device))).float().cpu() for part in images.split(batch_size)]
    return torch.cat(parts)


def labels_of(pids: Sequence[int]) -> Tensor:
    """Labels 0..N−1 of identity numbers, in the numbers' order."""
    order: dict[Any, int] = {pid: i for i, pid in enumerate(sorted(set(pids)))}
    return torch.tensor([order[pid] for pid in pids])
