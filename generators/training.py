"""The one training loop: whose turn it is, what each player pays, checkpoints, resuming, curves and sample sheets."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import safetensors
import torch
from torch import Tensor, nn
from tqdm import tqdm

from generators.base import Generator, PosePair
from generators.checkpoints import FORMAT, header, load_weights, read_header, write_tensors
from generators.perceptual import Perceptual, load_perceptual
from generators.registry import name_of
from generators.sheet import sample_sheet

if TYPE_CHECKING:
    from lightning_fabric import Fabric
    from torch.utils.tensorboard.writer import SummaryWriter

CHECKPOINT = "last.safetensors"


@runtime_checkable
class Seekable(Protocol):
    """A stream of batches that can start anywhere: resuming need not draw what was drawn before."""

    def starting_at(self, step: int) -> Iterator[PosePair]: ...


@dataclass(frozen=True)
class Trained:
    """How a training ended: steps done, whether a signal stopped it, where its checkpoint is, its last losses."""

    step: int
    stopped: bool
    checkpoint: Path
    losses: dict[str, float]


def train(
    model: Generator,
    pairs: Iterable[PosePair],
    out: str | Path,
    *,
    steps: int | None = None,  # default: the paper's schedule
    samples: PosePair | None = None,  # drawn on every sample sheet
    save_every_steps: int = 1000,
    sample_every_steps: int = 1000,
    log_every_steps: int = 20,
    seed: int = 0,
    precision: str = "32-true",
    accelerator: str = "auto",
    devices: int | str = 1,
    compile: bool = False,
    fabric: Fabric | None = None,
    perceptual: str | Perceptual = "imagenet",  # for papers that compare on features: weights, a network, or "none"
    about: Mapping[str, Any] | None = None,  # what else decides the result: data, batches; kept in the checkpoint's header
) -> Trained:
    """Train `model` in place and return how it went; `out` holds checkpoint, curves and sample sheets.

    `pairs` is an iterable of PosePair batches, the same in every process; each process takes its share of every
    batch. A checkpoint in `out` is resumed: on CPU the next step's losses equal an uninterrupted run's bit for bit
    (a stream with `starting_at(step)` is asked to start there, any other is drawn from up to there).
    SIGINT or SIGTERM save and stop after the step under way. FloatingPointError names the step and the term of a
    loss that is not finite; ValueError says when the checkpoint in `out` is of another model or of other `about`.
    Of several processes each has its own share's batch norm, and all draw the same noise.
    A paper that compares images on VGG-19 gets it before anything else; FileNotFoundError says where its weights belong.
    """
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
    fabric = fabric or _fabric(precision, accelerator, devices)
    loop = _Loop(model, Path(out), fabric, seed, about)
    done = loop.resume()
    if compile:
        loop.compile()
    stream = iter(pairs.starting_at(done)) if isinstance(pairs, Seekable) else _skip(iter(pairs), done)
    if not done and model.prepare_steps:
        stream = loop.prepare(stream)
    loop.resume_random()  # not before: finding its place, a stream may draw from the same generator (a DataLoader does)
    bar = tqdm(total=steps, initial=min(done, steps), desc=f"train {name_of(model)}", unit="step",
               disable=None if fabric.is_global_zero else True)  # fmt: skip
    writer = _writer(Path(out), done) if fabric.is_global_zero else None
    step = done
    with _stopping() as stop, bar:
        while step < steps and not _agreed(fabric, stop):
            try:
                pair = next(stream)
            except StopIteration:
                raise ValueError(f"the pairs ran out at step {step} of {steps}: give a stream that does not end") from None
            loop.step(step, pair)
            step += 1
            bar.update()
            if step % log_every_steps == 0 or step == steps:
                bar.set_postfix_str(loop.flush(writer), refresh=False)
            if samples is not None and (step % sample_every_steps == 0 or step == steps):
                loop.sample(samples, step, writer)
            if step % save_every_steps == 0 and step < steps:
                loop.save(step, writer)
        stopped = step < steps
        if step > done:
            loop.save(step, writer)
    if writer is not None:
        writer.close()
    model.requires_grad_(True).eval()
    return Trained(step, stopped, loop.checkpoint, loop.last)


class _Loop:
    """Model, optimisers and what they have paid since the last flush."""

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
        self.losses = model.losses
        self.pending: list[tuple[int, str, list[str], Tensor]] = []
        self.last: dict[str, float] = {}
        self.random: dict[str, Tensor] = {}
        self.about = _plain(about)
        if fabric.world_size > 1:  # the loop averages gradients itself, so all must start alike
            for tensor in model.state_dict().values():
                torch.distributed.broadcast(tensor, src=0)

    def compile(self) -> None:
        """Compile every player's forward; what lies between them stays eager."""
        for player in self.players.values():
            player.compile()

    def prepare(self, stream: Iterator[PosePair]) -> Iterator[PosePair]:
        """Show the model the stream's first batches, and give the stream back whole."""
        first = list(islice(stream, self.model.prepare_steps))
        with torch.no_grad():
            self.model.prepare([pair.on(self.model.skeleton).to(self.fabric.device) for pair in first])
        return chain(first, stream)

    def step(self, step: int, pair: PosePair) -> None:
        """One turn: every player whose turn it is pays its losses and moves."""
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if world > 1:
            if len(pair) % world:
                raise ValueError(f"a batch of {len(pair)} pairs can't be shared evenly by {world} processes")
            pair = pair[torch.arange(rank, len(pair), world)]
        # Converted where it is: what is counted joint by joint would make a GPU wait.
        pair = pair.on(self.model.skeleton).to(self.fabric.device, non_blocking=True)
        turn = self.model.turn(step)
        # Who moves twice in a turn needs a new drawing the second time.
        once = len(set(turn)) == len(turn)
        with self.model.sharing(self.players[name] for name in turn) if once else nullcontext():
            for name in turn:
                self._freeze_all_but(name)
                self._move(step, name, pair)

    def _move(self, step: int, name: str, pair: PosePair) -> None:
        with self.fabric.autocast():
            terms = self.losses(name, pair)
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

    def flush(self, writer: SummaryWriter | None) -> str:
        """Read the losses back, refuse any that is not finite, write them to the curves; the newest as a line."""
        if not self.pending:
            return ""
        values = torch.cat([row for *_, row in self.pending]).tolist()
        at = 0
        for step, player, terms, _ in self.pending:
            for term in terms:
                value, at = values[at], at + 1
                if not -float("inf") < value < float("inf"):
                    raise FloatingPointError(
                        f"loss {term!r} of player {player!r} is {value} at step {step}; the checkpoint in "
                        f"{self.checkpoint.parent} is of an earlier step"
                    )
                self.last[f"{player}/{term}"] = value
                if writer is not None:
                    writer.add_scalar(f"{player}/{term}", value, step)
        self.pending.clear()
        return " ".join(f"{name.split('/')[0][:4]}/{name.split('/')[1]} {value:.3f}" for name, value in self.last.items())

    @torch.no_grad()
    def sample(self, pair: PosePair, step: int, writer: SummaryWriter | None) -> None:
        """Draw the sample pairs as they look now, to samples/<step>.png and the curves' page."""
        if not self.fabric.is_global_zero:
            return
        self.model.eval()
        # A generator may draw noise: what a sheet takes must not change what training draws next.
        with torch.random.fork_rng(devices=[self.fabric.device] if self.fabric.device.type == "cuda" else []):
            pair = pair.on(self.model.skeleton).to(self.fabric.device)
            with self.fabric.autocast():
                image = self.model(pair.source, pair.source_pose, pair.target_pose)
        self.model.train()
        sheet = sample_sheet(pair.to("cpu"), image.float().cpu())
        folder = self.checkpoint.parent / "samples"
        folder.mkdir(exist_ok=True)
        sheet.save(folder / f"{step:07d}.png")
        if writer is not None:
            import numpy as np

            writer.add_image("samples", np.asarray(sheet), step, dataformats="HWC")

    def save(self, step: int, writer: SummaryWriter | None) -> None:
        """Write weights, optimiser state and random state to one file, atomically; losses are checked first."""
        self.flush(writer)
        if self.fabric.is_global_zero:
            about = {"format": FORMAT, **header(self.model), "step": step, "about": self.about}
            write_tensors({**self.model.state_dict(), **self._state()}, about, self.checkpoint)
        self.fabric.barrier()

    def _state(self) -> dict[str, Tensor]:
        tensors: dict[str, Tensor] = {"rng/cpu": torch.get_rng_state()}
        if self.fabric.device.type == "cuda":
            tensors["rng/cuda"] = torch.cuda.get_rng_state(self.fabric.device)
        for player, optimizer in self.optimizers.items():
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer/{player}/{index}/{key}": torch.as_tensor(value) for key, value in state.items()}
        return tensors

    def resume(self) -> int:
        """Take up the checkpoint in `out` when there is one; the number of steps already done."""
        if not self.checkpoint.exists():
            return 0
        kept = read_header(self.checkpoint)
        mine = header(self.model)
        for key in ("generator", "options", "size", "skeleton"):
            if _plain(kept[key]) != _plain(mine[key]):
                raise ValueError(
                    f"{self.checkpoint} was trained with {key} {kept[key]!r}, this run asks for {mine[key]!r}: "
                    "train into another folder or remove that one"
                )
        if "step" not in kept:
            raise ValueError(f"{self.checkpoint} holds weights alone: nothing to resume from")
        for key in sorted({*kept["about"], *self.about}):
            if kept["about"].get(key) != self.about.get(key):
                raise ValueError(
                    f"{self.checkpoint} was trained with {key} {kept['about'].get(key)!r}, this run asks for "
                    f"{self.about.get(key)!r}: train into another folder or remove that one"
                )
        load_weights(self.model, self.checkpoint)
        with safetensors.safe_open(str(self.checkpoint), framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys() if "/" in key}  # noqa: SIM118
        for player, optimizer in self.optimizers.items():
            _restore(optimizer, {k.split("/", 2)[2]: v for k, v in state.items() if k.startswith(f"optimizer/{player}/")})
        self.random = {key: value for key, value in state.items() if key.startswith("rng/")}
        return int(kept["step"])

    def resume_random(self) -> None:
        """Draw on from where the checkpoint stopped drawing; nothing when there was none."""
        if "rng/cpu" in self.random:
            torch.set_rng_state(self.random["rng/cpu"])
        if self.fabric.device.type == "cuda" and "rng/cuda" in self.random:
            torch.cuda.set_rng_state(self.random["rng/cuda"], self.fabric.device)


def _restore(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Give an optimiser back its state, from tensors named "<parameter's index>/<key>"."""
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _plain(value: Any) -> Any:
    """A value as JSON would give it back: tuples are lists."""
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value


def _check_disjoint(players: Mapping[str, nn.Module]) -> None:
    owner: dict[int, str] = {}
    for name, player in players.items():
        for parameter in player.parameters():
            if owner.setdefault(id(parameter), name) != name:
                raise ValueError(f"players {owner[id(parameter)]!r} and {name!r} share a parameter; players are disjoint")


def _skip(stream: Iterator[PosePair], steps: int) -> Iterator[PosePair]:
    for _ in range(steps):
        next(stream, None)
    return stream


def _fabric(precision: str, accelerator: str, devices: int | str) -> Fabric:
    try:
        from lightning_fabric import Fabric
    except ImportError:  # the same class where only the umbrella package is installed
        from lightning.fabric import Fabric
    try:
        fabric = Fabric(accelerator=accelerator, devices=devices, precision=precision)  # type: ignore[arg-type]
    except (RuntimeError, TypeError, ImportError) as error:  # what Lightning raises for what is not here
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"no training with accelerator={accelerator!r}, devices={devices!r}, precision={precision!r}: {said}") from None
    fabric.launch()
    return fabric


def _writer(out: Path, done: int) -> SummaryWriter | None:
    """Curves for TensorBoard; a resumed run hides what an earlier one wrote past its checkpoint."""
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(out / "curves"), purge_step=done)


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second SIGINT interrupts at once, as ever."""
    stop, before = threading.Event(), {}

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handlers
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _agreed(fabric: Fabric, stop: threading.Event) -> bool:
    """Whether any process was asked to stop: all must leave the loop at one step."""
    if fabric.world_size == 1:
        return stop.is_set()
    asked = torch.tensor(float(stop.is_set()), device=fabric.device)
    total = fabric.all_reduce(asked, reduce_op="sum")
    assert isinstance(total, Tensor)
    return bool(total > 0)
