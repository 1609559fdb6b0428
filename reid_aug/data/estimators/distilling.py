"""Training of the pose network: rough crops made anew at every step, where each joint is or that it is nowhere, one file to go on from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import safetensors.torch
import torch
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor
from tqdm import tqdm

from generators import (
    Trained,
    agreed,
    make_fabric,
    open_curves,
    read_header,
    refuse_other,
    restore_optimizer,
    tensors_digest,
    until_signalled,
    write_tensors,
)
from reid_aug.config import Config
from reid_aug.data.estimators.crowds import Crops, RoughConfig, rough_batch
from reid_aug.data.estimators.distilled import CELL_PX, FORMAT, OF_TRAINING, PoseNetwork, load_network
from reid_aug.device import resident

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard.writer import SummaryWriter

CHECKPOINT, WEIGHTS = "last.safetensors", "weights.safetensors"


class DistillingConfig(Config):
    """How the pose network learns."""

    steps: PositiveInt = 3000  # Number of steps, over which the rate falls to 0 along half a cosine.
    batch_size: PositiveInt = 32  # Number of crops in a step.
    rate: PositiveFloat = 2e-3  # Largest rate of AdamW.
    warm_up_steps: NonNegativeInt = 100  # Number of steps over which the rate rises.
    weight_decay: Annotated[float, Field(ge=0)] = 0.02  # AdamW's.
    sigma_px: PositiveFloat = 4.0  # Deviation of the Gaussian that a joint's cells are to share, in pixels of the network's images.
    rough: RoughConfig = RoughConfig()  # How rough the crops are made.
    precision: Literal["32-true", "bf16-mixed"] = "32-true"  # Lightning Fabric's name of the precision.
    accelerator: str = "auto"  # Lightning Fabric's name of the kind of device.
    save_every_steps: PositiveInt = 500  # Number of steps between checkpoints.
    log_every_steps: PositiveInt = 20  # Number of steps between readings of the loss.
    seed: NonNegativeInt = 0  # Seed of everything random.


def distil(crops: Crops, out: str | Path, config: DistillingConfig, options: Mapping[str, Any], fabric: Fabric | None = None) -> Trained:
    """Train a pose network of these options on crops of its size; `out` holds the checkpoint, curves, and in the end the weights alone.

    A checkpoint in `out` is resumed: on a CPU the weights end as an uninterrupted run's, bit for bit. SIGINT or SIGTERM save and stop
    after the step under way. ValueError where `out` holds another training, FloatingPointError for a loss that is not finite.
    """
    fabric = fabric or fabric_of(config)
    loop = _Loop(crops, Path(out), config, options, fabric)
    step = done = loop.resume()
    writer = open_curves(Path(out), done)
    bar = tqdm(total=config.steps, initial=min(done, config.steps), desc="train distilled", unit="step", disable=None)
    with until_signalled() as stop, bar:
        while step < config.steps and not agreed(fabric, stop):
            loop.step(step)
            step += 1
            bar.update()
            if step % config.log_every_steps == 0 or step == config.steps:
                bar.set_postfix_str(f"loss {loop.flush(writer):.3f}", refresh=False)
            if step % config.save_every_steps == 0 and step < config.steps:
                loop.save(step, writer)
        if step > done:
            loop.save(step, writer)
    if step >= config.steps:
        loop.save_weights()
    if writer is not None:
        writer.close()
    return Trained(step, step < config.steps, loop.checkpoint, {} if loop.last is None else {"distilled/place": loop.last})


class _Loop:
    """The network, its optimiser, the crops, and what was paid since the last flush."""

    def __init__(self, crops: Crops, out: Path, config: DistillingConfig, options: Mapping[str, Any], fabric: Fabric) -> None:
        self.config, self.fabric, self.checkpoint = config, fabric, out / CHECKPOINT
        torch.manual_seed(config.seed)  # the weights to begin with
        self.network = PoseNetwork(**options)
        if tuple(crops.pixels.shape[-2:]) != self.network.size:
            raise ValueError(f"crops to learn from are of the network's size {self.network.size}, got {tuple(crops.pixels.shape[-2:])}")
        digest = tensors_digest({key: value for key, value in crops._asdict().items() if value is not None})
        self.about = {**_decisive(config), "crops": digest}
        device = fabric.device
        places = None if crops.places is None else crops.places.to(device)
        self.crops = Crops(resident(crops.pixels, device), crops.xy.to(device), crops.seen.to(device), places)
        self.network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr=config.rate, weight_decay=config.weight_decay)
        self.pending: list[tuple[int, Tensor]] = []
        self.last: float | None = None

    def step(self, step: int) -> None:
        """Pay for one batch, which seed and step alone decide, and move."""
        config = self.config
        (number,) = np.random.SeedSequence((config.seed, step)).generate_state(1, np.uint64) >> np.uint64(1)
        rng = torch.Generator(self.fabric.device).manual_seed(int(number))
        images, xy, seen = rough_batch(self.crops, config.batch_size, config.rough, rng)
        for group in self.optimizer.param_groups:
            group["lr"] = rate_at(step, config)
        with self.fabric.autocast():
            logits = self.network(images)
        loss = place_loss(logits.float(), place_targets(xy, seen, self.network.size, config.sigma_px))
        self.optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.fabric.strategy.optimizer_step(self.optimizer)  # type: ignore[arg-type]
        self.pending.append((step, loss.detach()))  # kept on the device: reading it would make a GPU wait

    def flush(self, writer: SummaryWriter | None) -> float:
        """Read the losses back, refuse one that is not finite, write them down; return their mean."""
        values = torch.stack([loss for _, loss in self.pending]).tolist() if self.pending else []
        for (step, _), value in zip(self.pending, values, strict=True):
            if not -float("inf") < value < float("inf"):
                raise FloatingPointError(f"loss 'place' is {value} at step {step}; the checkpoint in {self.checkpoint.parent} is earlier")
            if writer is not None:
                writer.add_scalar("distilled/place", value, step)
        self.pending.clear()
        self.last = sum(values) / len(values) if values else self.last
        return float("nan") if self.last is None else self.last

    def save(self, step: int, writer: SummaryWriter | None) -> None:
        """Write everything that training goes on from, atomically."""
        self.flush(writer)
        state = self.network.state_dict()
        moments = {
            f"{OF_TRAINING}{index}/{key}": torch.as_tensor(value)
            for index, values in self.optimizer.state_dict()["state"].items() for key, value in values.items()
        }  # fmt: skip
        write_tensors({**state, **moments}, {**self._header(state), "step": step, "about": self.about}, self.checkpoint)

    def save_weights(self) -> None:
        """Write the weights alone, in half precision: the file to pass on."""
        state = {key: value.half() if value.is_floating_point() else value for key, value in self.network.state_dict().items()}
        write_tensors(state, self._header(state), self.checkpoint.with_name(WEIGHTS))

    def _header(self, state: Mapping[str, Tensor]) -> dict[str, Any]:
        return {"format": FORMAT, "options": self.network.options, "digest": tensors_digest(state), "torch": torch.__version__}

    def resume(self) -> int:
        """Take up the checkpoint in `out` when there is one; return the number of steps done."""
        if not self.checkpoint.exists():
            return 0
        _refuse_other(self.checkpoint, {"network": self.network.options, **self.about})
        self.network.load_state_dict(load_network(self.checkpoint)[0].state_dict())
        tensors = safetensors.torch.load_file(str(self.checkpoint))
        moments = {key.removeprefix(OF_TRAINING): value for key, value in tensors.items() if key.startswith(OF_TRAINING)}
        restore_optimizer(self.optimizer, moments)
        return int(read_header(self.checkpoint, FORMAT)["step"])


def fabric_of(config: DistillingConfig) -> Fabric:
    """Make what knows devices and precision; ValueError for what is not available here."""
    return make_fabric(config.precision, config.accelerator, 1)


def check(out: str | Path, config: DistillingConfig, options: Mapping[str, Any]) -> None:
    """Raise ValueError where `out` holds a training of another network or with other settings, before anything is read for this one."""
    checkpoint = Path(out) / CHECKPOINT
    if checkpoint.exists():
        _refuse_other(checkpoint, {"network": PoseNetwork(**options).options, **_decisive(config)})


def _refuse_other(checkpoint: Path, wanted: Mapping[str, Any]) -> None:
    """Raise ValueError with what of `wanted` a checkpoint has otherwise."""
    head = read_header(checkpoint, FORMAT)
    if "about" not in head:
        raise ValueError(f"{checkpoint} holds weights alone: nothing to resume from")
    saved = {"network": head["options"], **head["about"]}
    refuse_other(checkpoint, {key: saved.get(key) for key in wanted}, wanted)


def _decisive(config: DistillingConfig) -> dict[str, Any]:
    return config.model_dump(mode="json", exclude={"accelerator", "save_every_steps", "log_every_steps"})


def rate_at(step: int, config: DistillingConfig) -> float:
    """Give the rate at a step: rising in a line, then falling along half a cosine.

    >>> [round(rate_at(step, DistillingConfig(steps=8, rate=1.0, warm_up_steps=2)), 3) for step in (0, 1, 4)]
    [0.5, 0.962, 0.5]
    """
    rising = min(1.0, (step + 1) / max(1, config.warm_up_steps))
    return float(config.rate * rising * (1 + np.cos(np.pi * step / config.steps)) / 2)


def place_targets(xy: Tensor, seen: Tensor, size: tuple[int, int], sigma_px: float) -> Tensor:
    """Give the probabilities (B, K, cells + 1) that are learnt: a Gaussian around each joint (B, K, 2) in pixels, or nowhere."""
    at = (xy - (CELL_PX - 1) / 2) / CELL_PX

    def along(place: Tensor, cells: int) -> Tensor:
        away = (place[..., None] - torch.arange(cells, device=place.device)) * (CELL_PX / sigma_px)
        return (-away.square() / 2).softmax(-1)

    rows, columns = along(at[..., 1], size[0] // CELL_PX), along(at[..., 0], size[1] // CELL_PX)
    cells = (rows[..., :, None] * columns[..., None, :]).flatten(-2) * seen[..., None]
    return torch.cat((cells, (~seen)[..., None].to(cells)), -1)


def place_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Give the cross-entropy of probabilities (B, K, places), a mean over images and joints."""
    return -(targets * logits.log_softmax(-1)).sum(-1).mean()
