"""The one training loop: whose turn it is, what each player pays, when to save and stop, curves and sample sheets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from generators.atomic import replacing
from generators.base import Generator, PosePair, batches_from
from generators.checkpoints import load_training, restore_random, save_training
from generators.curves import HeldOut, open_curves
from generators.fabric import make_fabric
from generators.perceptual import Perceptual, load_perceptual
from generators.registry import name_of
from generators.sheet import sample_sheet
from generators.stopping import agreed, stopping

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard.writer import SummaryWriter

CHECKPOINT = "last.safetensors"


@dataclass(frozen=True)
class Trained:
    """How a training ended: steps done, whether a signal stopped it, where its checkpoint is, its last losses by "player/term".

    `held_out` are the last losses on pairs that it never learnt from, where it was given any.
    """

    step: int
    stopped: bool
    checkpoint: Path
    losses: dict[str, float]
    held_out: dict[str, float] = field(default_factory=dict)


def train(
    model: Generator,
    pairs: Iterable[PosePair],
    out: str | Path,
    *,
    steps: int | None = None,  # Number of steps; None is the paper's schedule.
    samples: PosePair | None = None,  # Pairs that every sample sheet shows.
    held_out: Sequence[PosePair] = (),  # Batches never learnt from, whose losses are measured at every checkpoint.
    save_every_steps: int = 1000,  # Steps from one checkpoint to the next; the last step is always saved.
    sample_every_steps: int = 1000,  # Steps from one sample sheet to the next.
    log_every_steps: int = 20,  # Steps after which losses are read back and checked.
    seed: int = 0,  # Seed of dropout and noise.
    precision: str = "32-true",  # Lightning's name of a precision: "bf16-mixed", "16-mixed" …
    accelerator: str = "auto",  # Lightning's name of a kind of device: "cpu", "cuda" …
    devices: int | str = 1,  # Number of devices, or Lightning's "auto".
    compile: bool = False,  # Whether torch.compile takes every player.
    fabric: Fabric | None = None,  # A ready Fabric, in place of precision, accelerator and devices.
    perceptual: str | Perceptual = "imagenet",  # Network for papers that compare images on features: its weights, itself, or "none".
    about: Mapping[str, Any] | None = None,  # What else decides the result, such as data; kept in the checkpoint's header.
) -> Trained:
    """Train `model` in place and return how it went; `out` holds checkpoint, curves, sample sheets and held-out losses.

    `pairs` is an iterable of PosePair batches, the same in every process; each process takes its share of every
    batch. A checkpoint in `out` is resumed: on CPU the next step's losses equal an uninterrupted run's bit for bit
    (a stream with `starting_at(step)` is asked to start there; of any other, earlier batches are skipped).
    SIGINT or SIGTERM save and stop after the step under way. FloatingPointError names the step and the term of a
    loss that is not finite; ValueError says when the checkpoint in `out` is of another model or of other `about`.
    Where several processes train, batch norm sees each one's share alone, and the random numbers are the same in all.
    A paper that compares images on VGG-19 gets it before anything else; FileNotFoundError says where its weights belong.
    """
    _ = model.options  # TypeError now, not at the first checkpoint
    steps = model.schedule_steps() if steps is None else steps
    for name, value in (("steps", steps), ("save_every_steps", save_every_steps),
                        ("sample_every_steps", sample_every_steps), ("log_every_steps", log_every_steps)):  # fmt: skip
        if value < 1:
            raise ValueError(f"{name} is at least 1, got {value}")
    about = {"seed": seed, **(about or {})}
    features = model.features()
    if features is not None:
        network = load_perceptual(perceptual, features) if isinstance(perceptual, str) else perceptual
        model.perceptual, about["perceptual"] = network, network.name if network is not None else "none"
    loop = _Loop(model, Path(out), fabric or make_fabric(precision, accelerator, devices), seed, about)
    done = loop.resume()
    if compile:
        loop.compile()
    stream = loop.start(pairs, done, held_out)
    step = done
    with stopping() as stop, _bar(model, steps, done, loop.fabric) as bar:
        while step < steps and not agreed(loop.fabric, stop):
            loop.step(step, _next(stream, step, steps))
            step += 1
            bar.update()
            if step % log_every_steps == 0 or step == steps:
                bar.set_postfix_str(loop.flush(), refresh=False)
            if samples is not None and (step % sample_every_steps == 0 or step == steps):
                loop.sample(samples, step)
            if step % save_every_steps == 0 and step < steps:
                loop.save(step)
        stopped = step < steps
        if step > done:
            loop.save(step)
    loop.close()
    return Trained(step, stopped, loop.checkpoint, loop.last, loop.last_held_out)


class _Loop:
    """Model, optimisers, curves, and what was paid since the last flush."""

    def __init__(self, model: Generator, out: Path, fabric: Fabric, seed: int, about: Mapping[str, Any]) -> None:
        self.model, self.fabric, self.checkpoint = model, fabric, out / CHECKPOINT
        out.mkdir(parents=True, exist_ok=True)
        fabric.seed_everything(seed, verbose=False)
        model.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        model.train()
        if model.perceptual is not None:
            model.perceptual = model.perceptual.to(fabric.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.players = dict(model.players())
        _check_disjoint(self.players)
        self.optimizers = {name: model.optimizer(name, player.parameters()) for name, player in self.players.items()}
        self.scaler: torch.amp.GradScaler | None = getattr(fabric.strategy.precision, "scaler", None)  # of 16-mixed alone
        self.pending: list[tuple[int, str, list[str], Tensor]] = []
        self.last: dict[str, float] = {}
        self.held_out: HeldOut | None = None
        self.last_held_out: dict[str, float] = {}
        self.random: dict[str, Tensor] = {}
        self.about = about
        self.writer: SummaryWriter | None = None
        if fabric.world_size > 1:  # the loop averages gradients itself, so all must start alike
            for tensor in model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def compile(self) -> None:
        """Compile every player's forward; what lies between them stays eager."""
        for player in self.players.values():
            player.compile()

    def start(self, pairs: Iterable[PosePair], done: int, held_out: Sequence[PosePair] = ()) -> Iterator[PosePair]:
        """Return the batches from step `done` on; at step 0, show the model the first ones it wants to see."""
        stream = batches_from(pairs, done)
        if not done and self.model.prepare_steps:
            stream = self._prepare(stream)
        # Not before: finding its place, a stream may take random numbers too (a DataLoader does).
        restore_random(self.random, self.fabric.device)
        if self.fabric.is_global_zero:
            self.writer = open_curves(self.checkpoint.parent, done)
            if held_out:
                self.held_out = HeldOut(held_out, self.checkpoint.parent, done)
        return stream

    def _prepare(self, stream: Iterator[PosePair]) -> Iterator[PosePair]:
        """Show the model the stream's first batches, and give the stream back whole."""
        first = list(islice(stream, self.model.prepare_steps))
        with torch.no_grad():
            self.model.prepare([pair.on(self.model.skeleton).to(self.fabric.device) for pair in first])
        return chain(first, stream)

    def step(self, step: int, pair: PosePair) -> None:
        """Let every player whose turn it is pay its losses and move."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if world > 1:
            if len(pair) % world:
                raise ValueError(f"a batch of {len(pair)} pairs can't be shared evenly by {world} processes")
            pair = pair[torch.arange(rank, len(pair), world)]
        # Converted where it is: what is counted joint by joint would make a GPU wait.
        pair = pair.on(self.model.skeleton).to(self.fabric.device, non_blocking=True)
        turn = self.model.turn(step)
        # Who moves twice in a turn needs a new image the second time.
        once = len(set(turn)) == len(turn)
        with self.model.sharing(self.players[name] for name in turn) if once else nullcontext():
            for name in turn:
                self._freeze_all_but(name)
                self._move(step, name, pair)

    def _move(self, step: int, name: str, pair: PosePair) -> None:
        """Let one player pay the sum of its losses and take a step of its optimiser."""
        with self.fabric.autocast():
            terms = self.model.losses(name, pair, step)
            total = torch.stack(tuple(terms.values())).sum()
        optimizer = self.optimizers[name]
        rate = self.model.learning_rate(name, step)
        if rate is not None:
            for group in optimizer.param_groups:
                group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        self.fabric.backward(total)
        self._average_gradients(self.players[name])
        self.fabric.strategy.optimizer_step(optimizer)  # 16-mixed takes its scale back out of the gradients here
        # Kept on the device: reading a number back would make the GPU wait at every step.
        self.pending.append((step, name, list(terms), torch.stack([t.detach().float() for t in terms.values()])))

    def _freeze_all_but(self, mover: str) -> None:
        for name, player in self.players.items():
            player.requires_grad_(name == mover)

    def _average_gradients(self, player: nn.Module) -> None:
        if self.fabric.world_size == 1:
            return
        grads = [p.grad for p in player.parameters() if p.grad is not None]
        flat = self.fabric.all_reduce(torch.cat([g.reshape(-1) for g in grads]), reduce_op="mean")
        for grad, part in zip(grads, flat.split([g.numel() for g in grads]), strict=True):  # type: ignore[union-attr]
            grad.copy_(part.view_as(grad))

    def flush(self) -> str:
        """Read the losses back, refuse any that is not finite, write them to the curves; return the newest as a line."""
        if not self.pending:
            return ""
        values = torch.cat([row for *_, row in self.pending]).tolist()
        names = [(step, player, term) for step, player, terms, _ in self.pending for term in terms]
        for (step, player, term), value in zip(names, values, strict=True):
            if not -float("inf") < value < float("inf"):
                raise FloatingPointError(
                    f"loss {term!r} of player {player!r} is {value} at step {step}; the checkpoint in "
                    f"{self.checkpoint.parent} is of an earlier step"
                )
            self.last[f"{player}/{term}"] = value
            if self.held_out is not None:
                self.held_out.note(f"{player}/{term}", value)
            if self.writer is not None:
                self.writer.add_scalar(f"{player}/{term}", value, step)
        self.pending.clear()
        return " ".join(f"{name.split('/')[0][:4]}/{name.split('/')[1]} {value:.3f}" for name, value in self.last.items())

    @torch.no_grad()
    def sample(self, pair: PosePair, step: int) -> None:
        """Render the sample pairs as they look now, to samples/<step>.png and the curves' page."""
        if not self.fabric.is_global_zero:
            return
        self.model.eval()
        # A generator may take noise: a sheet must not change the random numbers that training gets next.
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            pair = pair.on(self.model.skeleton).to(self.fabric.device)
            with self.fabric.autocast():
                image = self.model(*self.model.inputs_of(pair))
        self.model.train()
        sheet = sample_sheet(pair.to("cpu"), image.float().cpu())
        with replacing(self.checkpoint.parent / "samples" / f"{step:07d}.png") as temporary:
            sheet.save(temporary, "PNG")
        if self.writer is not None:
            import numpy as np

            self.writer.add_image("samples", np.asarray(sheet), step, dataformats="HWC")

    def save(self, step: int) -> None:
        """Write everything that training goes on from, atomically; losses are checked first, held-out ones measured last."""
        self.flush()
        if self.fabric.is_global_zero:
            save_training(self.model, self.optimizers, self.checkpoint, step, self.about, self.scaler)
            if self.held_out is not None:
                self.last_held_out = self.held_out.measure(self.model, self.fabric, step, self.writer)
        self.fabric.barrier()

    def resume(self) -> int:
        """Take up the checkpoint in `out` when there is one; return the number of steps already done."""
        if not self.checkpoint.exists():
            return 0
        done, self.random = load_training(self.model, self.optimizers, self.checkpoint, self.about, self.scaler)
        return done

    def close(self) -> None:
        """Close the curves and leave the model ready to render."""
        if self.writer is not None:
            self.writer.close()
        self.model.requires_grad_(True).eval()


def _check_disjoint(players: Mapping[str, nn.Module]) -> None:
    """Raise ValueError where two players share a parameter."""
    owner: dict[int, str] = {}
    for name, player in players.items():
        for parameter in player.parameters():
            if owner.setdefault(id(parameter), name) != name:
                raise ValueError(f"players {owner[id(parameter)]!r} and {name!r} share a parameter; players are disjoint")


def _next(stream: Iterator[PosePair], step: int, steps: int) -> PosePair:
    try:
        return next(stream)
    except StopIteration:
        raise ValueError(f"the pairs ran out at step {step} of {steps}: give a stream that does not end") from None


def _bar(model: Generator, steps: int, done: int, fabric: Fabric) -> tqdm:
    """Show progress, in the first process alone."""
    disable = None if fabric.is_global_zero else True
    return tqdm(total=steps, initial=min(done, steps), desc=f"train {name_of(model)}", unit="step", disable=disable)
