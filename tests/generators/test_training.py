from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning_fabric import Fabric
from PIL import Image
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

import generators
from generators import Generator, PosePair, checkpoints, registry
from generators.models.pg2 import PG2
from generators.training import CHECKPOINT, Seekable, Trained, train

MakePair = Callable[..., PosePair]
Losses = dict[tuple[str, int], list[float]]
TINY: dict[str, Any] = {
    "size": (32, 16), "width": 4, "bottleneck": 3, "radius_px": 2.0, "stage1_steps": 3, "stage2_steps": 4, "learning_rate": 1e-3,
}  # fmt: skip


def tiny(seed: int = 0, **options: Any) -> PG2:
    torch.manual_seed(seed)
    return PG2(**TINY | options)


@pytest.fixture
def stream(a_pair: MakePair) -> Callable[..., Iterator[PosePair]]:
    def pairs(start: int = 0, batch: int = 2, size: tuple[int, int] = (32, 16)) -> Iterator[PosePair]:
        while True:
            yield a_pair(start, batch, size=size)
            start += 1

    return pairs


def run(model: Generator, pairs: Iterable[PosePair], out: Path, steps: int | None = None, **choices: Any) -> Trained:
    return train(model, pairs, out, steps=steps, accelerator="cpu", **{"log_every_steps": 1} | choices)


def curves(out: Path) -> Losses:
    """Every loss in the event files by name and step; more than one value where a step was written twice."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    found: Losses = defaultdict(list)
    for path in (out / "curves").iterdir():
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    found[value.tag, event.step].append(value.simple_value)
    return dict(found)


def assert_equal_weights(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    """Weights, optimisers' moments and random state, bit for bit."""
    ours, theirs = load_file(a / CHECKPOINT), load_file(b / CHECKPOINT)
    assert ours.keys() == theirs.keys() and any(key.startswith("optimizer/") for key in ours) and "rng/cpu" in ours
    assert not [key for key in ours if not torch.equal(ours[key], theirs[key])]
    assert checkpoints.read_header(a / CHECKPOINT) == checkpoints.read_header(b / CHECKPOINT)


# --- a sixth generator: one file, one YAML ---

SIXTH = '''
"""A sixth generator, noisy all over: dropout while it learns, noise even when it draws, its own rate and optimiser."""
import torch
from torch import nn
from generators.base import Generator
from generators.maps import gaussian_maps

class Sixth(Generator):
    paper = "Nobody et al. 2026"

    def __init__(self, size=(16, 8), drop=0.5, rate=0.1):
        super().__init__()
        self.size, self.rate = tuple(size), rate
        self.mix, self.drop, self.critic = nn.Conv2d(21, 3, 1), nn.Dropout(drop), nn.Linear(3, 1)

    def forward(self, source, source_pose, target_pose):
        x = torch.cat((source, gaussian_maps(target_pose, 2.0)), 1)
        return torch.tanh(self.mix(self.drop(x)) + 0.1 * torch.randn_like(source))

    def players(self):
        return {"generator": self.mix, "discriminator": self.critic}

    def turn(self, step):
        return ("discriminator", "discriminator", "generator") if step % 2 else ("generator",)

    def optimizer(self, player, parameters):
        return torch.optim.SGD(parameters, lr=77.0, momentum=0.9)

    def learning_rate(self, player, step):
        return self.rate / (1 + step)

    def losses(self, player, pair):
        drawn = self(pair.source, pair.source_pose, pair.target_pose)
        score = self.critic(drawn.mean((2, 3)))
        if player == "discriminator":
            return {"fake": score.square().mean(), "real": (self.critic(pair.target.mean((2, 3))) - 1).square().mean()}
        return {"l1": (drawn - pair.target).abs().mean(), "adversarial": (score - 1).square().mean()}
'''


@pytest.fixture
def sixth(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A generator's name that exists while its file, in another folder, is on the models' path."""
    folder = tmp_path / "my_models"
    folder.mkdir()
    (folder / "sixth.py").write_text(SIXTH)
    (folder / "sixth.yaml").write_text("generator:\n  name: sixth\n  size: [16, 8]\n  drop: 0.25\n")
    importlib.invalidate_caches()
    monkeypatch.setenv("REID_AUG_GENERATORS", str(folder))
    yield "sixth"
    sys.modules.pop("generators.models.sixth", None)
    if hasattr(registry.models, "sixth"):
        del registry.models.sixth


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"accelerator": "tpu"}, "accelerator='tpu'"),
        ({"accelerator": "gpus"}, "accelerator='gpus'"),
        ({"accelerator": "cpu", "devices": "x"}, "devices='x'"),
        ({"accelerator": "cpu", "precision": "12-bit"}, "12-bit"),
    ],
)
def test_what_is_not_here_is_told(asked: dict[str, Any], said: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=said):
        train(tiny(), stream(), tmp_path / "out", steps=1, **asked)



def test_a_sixth_generator_is_a_file_and_a_yaml(sixth: str, tmp_path: Path, stream: Callable[..., Iterator[PosePair]]) -> None:
    assert generators.names() == sorted({*generators.names(), "pg2", sixth})
    options = yaml.safe_load((tmp_path / "my_models" / "sixth.yaml").read_text())["generator"]
    model = generators.create(options.pop("name"), **options)
    assert model.drop.p == 0.25 and registry.name_of(model) == sixth
    with pytest.raises(ValueError, match=r"no generator named 'sixt'.*did you mean 'sixth'"):
        generators.create("sixt")
    trained = run(model, stream(size=(16, 8)), tmp_path / "run", 3, samples=next(stream(7, size=(16, 8))))
    assert trained.step == 3
    assert set(trained.losses) == {"generator/l1", "generator/adversarial", "discriminator/fake", "discriminator/real"}
    generators.save(model, tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.safetensors", trained.checkpoint):
        loaded = generators.load(path)
        assert_equal_weights(loaded, model)
        assert loaded.drop.p == 0.25


# --- resuming ---


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 6])
def test_stopping_and_resuming_is_going_on(stop: int, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    """Stage I is three steps: a stop before the switch, at it and after it."""
    whole, first, second = tiny(), tiny(), tiny(seed=99)
    run(whole, stream(), tmp_path / "whole", 7)
    assert run(first, stream(), tmp_path / "parts", stop).step == stop
    before = curves(tmp_path / "parts")
    trained = run(second, stream(), tmp_path / "parts", 7)
    assert (trained.step, trained.stopped, trained.checkpoint) == (7, False, tmp_path / "parts" / CHECKPOINT)
    assert_equal_weights(whole, second)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    expected, found = curves(tmp_path / "whole"), curves(tmp_path / "parts")
    assert found == expected and all(len(values) == 1 for values in found.values())
    assert {step for _, step in expected} == set(range(7)) and {step for _, step in before} == set(range(stop))
    assert {name for name, _ in expected} == {
        "generator1/pose_mask_l1", "generator2/adversarial", "generator2/pose_mask_l1", "discriminator/real", "discriminator/fake",
    }  # fmt: skip
    newest = {name: values[0] for (name, step), values in sorted(expected.items()) if step >= stop}
    assert trained.losses == newest, "the last of each since it was resumed"
    different = tiny(seed=99)
    assert not torch.equal(different.stage1.end.weight, second.stage1.end.weight)


def test_a_run_of_single_steps_is_one_run(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    whole, parts = tiny(), tiny()
    run(whole, stream(), tmp_path / "whole", 6, save_every_steps=2)
    for step in range(1, 7):
        run(parts, stream(), tmp_path / "parts", step)
    assert_equal_weights(whole, parts)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("stop", [1, 2, 5])
def test_noise_goes_on_where_it_stopped(stop: int, sixth: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    torch.manual_seed(0)
    whole, first, second = (generators.create(sixth) for _ in range(3))
    first.load_state_dict(whole.state_dict())
    run(whole, stream(size=(16, 8)), tmp_path / "whole", 6)
    run(first, stream(size=(16, 8)), tmp_path / "parts", stop)
    torch.rand(stop)  # another process has drawn other numbers
    run(second, stream(size=(16, 8)), tmp_path / "parts", 6)
    assert_equal_weights(whole, second)
    assert_equal_checkpoints(tmp_path / "whole", tmp_path / "parts")
    assert {k: sorted(v) for k, v in curves(tmp_path / "parts").items()} == {k: sorted(v) for k, v in curves(tmp_path / "whole").items()}
    other = generators.create(sixth)
    other.load_state_dict({**whole.state_dict()})
    run(other, stream(size=(16, 8)), tmp_path / "other", 6, seed=1)
    assert not torch.equal(other.mix.weight, whole.mix.weight)


def test_the_seed_decides_the_noise(sixth: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    start = generators.create(sixth).state_dict()
    after = []
    for i, seed in enumerate((5, 5, 6)):
        model = generators.create(sixth)
        model.load_state_dict(start)
        torch.rand(i)
        run(model, stream(size=(16, 8)), tmp_path / str(i), 2, seed=seed)
        after.append(model.mix.weight.detach().clone())
    assert torch.equal(after[0], after[1]) and not torch.equal(after[0], after[2])


def one_pair(rows: list[PosePair]) -> PosePair:
    return rows[0]


def test_a_shuffling_data_loader_resumes_too(a_pair: MakePair, tmp_path: Path) -> None:
    """It draws its order from torch's own generator when it starts: resuming draws it anew, then leaves that alone."""
    pairs = [a_pair(i) for i in range(12)]
    loader = DataLoader(pairs, shuffle=True, collate_fn=one_pair)  # type: ignore[arg-type]
    whole, parts = tiny(), tiny()
    run(whole, loader, tmp_path / "whole", 7)
    run(parts, loader, tmp_path / "parts", 4)
    run(parts, loader, tmp_path / "parts", 7)
    assert_equal_weights(whole, parts)
    assert curves(tmp_path / "whole") == curves(tmp_path / "parts")


class Recorded:
    """A stream that can start anywhere and says where it was asked to."""

    def __init__(self, stream: Callable[..., Iterator[PosePair]]) -> None:
        self.stream, self.asked, self.drawn = stream, [], []

    def starting_at(self, step: int) -> Iterator[PosePair]:
        self.asked.append(step)
        for at, pair in enumerate(self.stream(step), step):
            self.drawn.append(at)
            yield pair

    def __iter__(self) -> Iterator[PosePair]:
        raise AssertionError("a stream that can start anywhere is not drawn from the beginning")


def test_a_seekable_stream_is_asked_to_start_where_it_stopped(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    pairs, whole, parts = Recorded(stream), tiny(), tiny()
    assert isinstance(pairs, Seekable) and not isinstance([], Seekable)
    for step in (2, 5):
        run(parts, pairs, tmp_path / "parts", step)
    assert pairs.asked == [0, 2] and pairs.drawn == [0, 1, 2, 3, 4]
    run(whole, stream(), tmp_path / "whole", 5)
    assert_equal_weights(whole, parts)


def test_a_plain_stream_is_drawn_up_to_where_it_stopped(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    drawn: list[int] = []

    def counted() -> Iterator[PosePair]:
        for at, pair in enumerate(stream()):
            drawn.append(at)
            yield pair

    model = tiny()
    run(model, counted(), tmp_path, 2)
    assert drawn == [0, 1], "no batch is drawn that no step takes"
    run(model, counted(), tmp_path, 3)
    assert drawn == [0, 1, 0, 1, 2]


def test_what_was_written_past_the_checkpoint_is_hidden(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from torch.utils.tensorboard.writer import SummaryWriter

    run(tiny(), stream(), tmp_path, 2)
    with SummaryWriter(str(tmp_path / "curves")) as writer:  # steps that a killed run logged and never saved
        for step in (2, 3):
            writer.add_scalar("generator1/pose_mask_l1", -1.0, step)
    time.sleep(1.1)  # event files sort by the second they were made in
    run(tiny(), stream(), tmp_path, 3)
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    scalars = events.Scalars("generator1/pose_mask_l1")
    assert [event.step for event in scalars] == [0, 1, 2] and all(event.value > 0 for event in scalars)


def test_a_run_that_is_done_does_nothing(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model, other = tiny(), tiny(seed=5)
    run(model, stream(), tmp_path, 3)
    before = (tmp_path / CHECKPOINT).read_bytes()
    for steps in (3, 2):
        trained = run(other, stream(), tmp_path, steps)
        assert (trained.step, trained.stopped, trained.losses) == (3, False, {})
    assert_equal_weights(other, model)
    assert (tmp_path / CHECKPOINT).read_bytes() == before


@pytest.mark.parametrize(
    ("option", "value", "was", "asked"),
    [
        ("radius_px", 3.5, "'radius_px': 2.0", "'radius_px': 3.5"),
        ("width", 5, "'width': 4", "'width': 5"),
        ("discriminator", "triplet-released", "'discriminator': 'pair'", "'discriminator': 'triplet-released'"),
        ("size", (32, 32), "'size': [32, 16]", "'size': (32, 32)"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(
    option: str, value: Any, was: str, asked: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    run(tiny(), stream(), tmp_path, 1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="train into another folder or remove that one") as caught:
        run(tiny(**{option: value}), stream(), tmp_path, 2)
    theirs, ours = str(caught.value).split("this run asks for")
    assert was in theirs and asked in ours and str(tmp_path / CHECKPOINT) in theirs
    assert (tmp_path / CHECKPOINT).read_bytes() == before


def test_a_checkpoint_of_another_generator_or_of_weights_alone_is_refused(
    sixth: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    run(tiny(), stream(), tmp_path / "a", 1)
    with pytest.raises(ValueError, match="was trained with generator 'pg2', this run asks for 'sixth'"):
        run(generators.create(sixth), stream(size=(16, 8)), tmp_path / "a", 2)
    generators.save(tiny(), tmp_path / "b" / CHECKPOINT)
    with pytest.raises(ValueError, match="holds weights alone: nothing to resume from"):
        run(tiny(), stream(), tmp_path / "b", 2)
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / CHECKPOINT).write_bytes(b"junk")
    with pytest.raises(ValueError, match="is no whole safetensors file"):
        run(tiny(), stream(), tmp_path / "c", 2)


def test_options_read_from_yaml_resume_what_tuples_began(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    run(tiny(size=(32, 16)), stream(), tmp_path, 1)
    assert run(tiny(size=[32, 16]), stream(), tmp_path, 2).step == 2


# --- being stopped ---


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 2, 4])
def test_a_signal_saves_and_stops_after_the_step_under_way(
    number: int, at: int, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    def interrupted() -> Iterator[PosePair]:
        for step, pair in enumerate(stream()):
            if step == at:
                os.kill(os.getpid(), number)
            yield pair

    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    whole, parts = tiny(), tiny()
    trained = run(parts, interrupted(), tmp_path / "parts", 6)
    assert (trained.step, trained.stopped) == (at + 1, True)
    assert checkpoints.read_header(trained.checkpoint)["step"] == at + 1
    assert_equal_weights(generators.load(trained.checkpoint), parts)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not run(parts, stream(), tmp_path / "parts", 6).stopped
    run(whole, stream(), tmp_path / "whole", 6)
    assert_equal_weights(whole, parts)
    assert curves(tmp_path / "whole") == curves(tmp_path / "parts")


def test_a_second_interrupt_does_not_wait(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    def impatient() -> Iterator[PosePair]:
        for step, pair in enumerate(stream()):
            for _ in range(2 * (step == 3)):
                os.kill(os.getpid(), signal.SIGINT)
            yield pair

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(tiny(), impatient(), tmp_path, 6, save_every_steps=2)
    assert signal.getsignal(signal.SIGINT) == handler
    assert checkpoints.read_header(tmp_path / CHECKPOINT)["step"] == 2


def test_a_stop_on_the_last_step_is_no_stop(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    def late() -> Iterator[PosePair]:
        for step, pair in enumerate(stream()):
            if step == 1:
                os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    trained = run(tiny(), late(), tmp_path, 2)
    assert (trained.step, trained.stopped) == (2, False)


def test_training_works_in_a_thread(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    ended: list[Trained] = []
    thread = threading.Thread(target=lambda: ended.append(run(tiny(), stream(), tmp_path, 2)))
    thread.start()
    thread.join(60)
    assert ended and ended[0].step == 2


SCRIPT = '''
import json, sys, time
from pathlib import Path
import torch
from generators import Pose, PosePair, registry, save, train
from generators.models.pg2 import PG2
from generators.pose import openpose_18

def model(stage1_steps=4):
    torch.manual_seed(0)
    return PG2(size=(32, 16), width=4, bottleneck=3, stage1_steps=stage1_steps, learning_rate=1e-3)

def pairs(pause=0.0):
    step = 0
    while True:
        draw = torch.Generator().manual_seed(step)
        source, target = torch.rand(2, 4, 3, 32, 16, generator=draw) * 2 - 1
        poses = [Pose(torch.rand(4, 18, 2, generator=draw) * 15, torch.rand(4, 18, generator=draw) > 0.2, openpose_18, (32, 16))
                 for _ in range(2)]
        if pause:
            print("step", step, flush=True)
            time.sleep(pause)
        yield PosePair(source, target, *poses, torch.arange(4))
        step += 1

def interrupted(out):
    """One run after another, each until somebody stops it."""
    for name in ("SIGTERM", "SIGINT"):
        ended = train(model(), pairs(0.01), Path(out) / name, steps=100_000, accelerator="cpu", log_every_steps=1)
        print(json.dumps({"step": ended.step, "stopped": ended.stopped, "checkpoint": str(ended.checkpoint)}), flush=True)

def shared(out):
    """Two processes that began with different weights, through stage I alone and on into stage II."""
    import os
    rank = os.environ.get("LOCAL_RANK", "0")
    for name, stage1_steps in (("one", 100), ("two", 2)):
        net = model(stage1_steps)
        if rank != "0":
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(1)
        train(net, pairs(), Path(out) / name, steps=4, accelerator="cpu", devices=2, log_every_steps=1)
        save(net, Path(out) / f"{name}-{rank}.safetensors")

if __name__ == "__main__":
    {"interrupted": interrupted, "shared": shared}[sys.argv[1]](sys.argv[2])
'''


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train_it.py"
    path.write_text(SCRIPT)
    return path


def environment() -> dict[str, str]:
    root = str(Path(generators.__file__ or "").resolve().parents[1])
    # One thread as in here (conftest): sums are equal bit for bit only in equal order.
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")])}


def test_a_process_told_to_stop_saves_and_goes(script: Path, tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, script, "interrupted", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment()
    )
    killer = threading.Timer(120, child.kill)
    killer.start()
    ended = []
    try:
        assert child.stdout is not None
        for number in (signal.SIGTERM, signal.SIGINT):
            for line in child.stdout:
                if line.strip() == "step 5":
                    child.send_signal(number)
                elif line.startswith("{"):
                    ended.append(json.loads(line))
                    break
        assert child.wait() == 0
    finally:
        killer.cancel()
        child.kill()
        child.wait()
    there = runpy.run_path(str(script))
    assert len(ended) == 2
    for name, end in zip(("SIGTERM", "SIGINT"), ended, strict=True):
        assert end["stopped"] and 6 <= end["step"] < 100_000 and checkpoints.read_header(end["checkpoint"])["step"] == end["step"]
        assert [p.name for p in (tmp_path / name).iterdir() if p.name.startswith(".")] == [], "no half-written file"
        whole, parts = there["model"](), generators.load(end["checkpoint"])
        steps = end["step"] + 2
        run(parts, there["pairs"](), tmp_path / name, steps)
        run(whole, there["pairs"](), tmp_path / f"whole after {name}", steps)
        assert_equal_weights(whole, parts)
        assert curves(tmp_path / name) == curves(tmp_path / f"whole after {name}")


@pytest.mark.slow
def test_two_processes_train_as_one(script: Path, tmp_path: Path) -> None:
    """Exactly so without batch norm, which sees half a batch each: stage I. In stage II both keep equal weights."""
    subprocess.run([sys.executable, script, "shared", tmp_path], check=True, capture_output=True, timeout=180, env=environment())
    there = runpy.run_path(str(script))
    alone, start = there["model"](100), there["model"](100)
    run(alone, there["pairs"](), tmp_path / "alone", 4)
    together = generators.load(tmp_path / "one" / CHECKPOINT)
    for key, value in alone.state_dict().items():
        assert torch.allclose(together.state_dict()[key], value, rtol=0, atol=1e-5), key
    assert (alone.stage1.end.weight - start.stage1.end.weight).abs().max() > 1e-3, "it went far further than the tolerance"
    for name in ("one", "two"):
        first, second = (generators.load(tmp_path / f"{name}-{rank}.safetensors") for rank in (0, 1))
        for (key, a), b in zip(first.named_parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b), f"{name}: {key} differs between the processes"
    assert checkpoints.read_header(tmp_path / "two" / CHECKPOINT)["step"] == 4


# --- what goes wrong ---


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("at", [2, 3, 5])
@pytest.mark.parametrize("log_every_steps", [1, 100])
def test_a_loss_that_is_not_finite_is_named_and_not_saved(
    bad: float, at: int, log_every_steps: int, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    def poisoned() -> Iterator[PosePair]:
        for step, pair in enumerate(stream()):
            if step == at:
                pair.target[0, 0, 0, 0] = bad
            yield pair

    player, term = ("generator1", "pose_mask_l1") if at < 3 else ("discriminator", "real")
    with pytest.raises(FloatingPointError, match=rf"loss '{term}' of player '{player}' is (nan|inf) at step {at}; ") as caught:
        run(tiny(), poisoned(), tmp_path / "parts", 7, save_every_steps=2, log_every_steps=log_every_steps)
    assert str(tmp_path / "parts") in str(caught.value)
    header = checkpoints.read_header(tmp_path / "parts" / CHECKPOINT)
    assert header["step"] == at // 2 * 2, "the last one saved before it"
    assert all(p.isfinite().all() for p in generators.load(tmp_path / "parts" / CHECKPOINT).parameters())
    whole, parts = tiny(), tiny(seed=3)
    run(whole, stream(), tmp_path / "whole", 6)
    run(parts, stream(), tmp_path / "parts", 6)
    assert_equal_weights(whole, parts)


def test_a_signal_does_not_save_weights_that_are_not_finite(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    def poisoned() -> Iterator[PosePair]:
        for step, pair in enumerate(stream()):
            if step == 1:
                pair.target.fill_(float("nan"))
                os.kill(os.getpid(), signal.SIGTERM)
            yield pair

    with pytest.raises(FloatingPointError, match="at step 1"):
        run(tiny(), poisoned(), tmp_path, 6, log_every_steps=100)
    assert not (tmp_path / CHECKPOINT).exists()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_pairs_that_run_out_are_said_to_at_their_step(count: int, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    pairs = [pair for pair, _ in zip(stream(), range(count), strict=False)]
    with pytest.raises(ValueError, match=f"the pairs ran out at step {count} of 5: give a stream that does not end"):
        run(tiny(), pairs, tmp_path, 5)
    run(tiny(), stream(), tmp_path, 4)
    with pytest.raises(ValueError, match="the pairs ran out at step 4 of 5"):
        run(tiny(), pairs, tmp_path, 5)


@pytest.mark.parametrize("count", ["steps", "save_every_steps", "sample_every_steps", "log_every_steps"])
@pytest.mark.parametrize("value", [0, -3])
def test_counts_below_one_are_refused(count: str, value: int, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"^{count} is at least 1, got {value}$"):
        run(tiny(), stream(), tmp_path / "out", **{"steps": 1} | {count: value})
    assert not (tmp_path / "out").exists()


class Plain(Generator):
    """Defined here, in no file of models: it trains and resumes, though `create` cannot know it."""

    def __init__(self, start: float = 0.5, shared: bool = False) -> None:
        super().__init__()
        self.size = (8, 4)
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.first.weight, start)
        nn.init.constant_(self.second.weight, start)
        if shared:
            self.second.weight = self.first.weight

    def forward(self, source: Any, source_pose: Any, target_pose: Any) -> Any:
        return source

    def players(self) -> dict[str, nn.Module]:
        return {"first": self.first, "second": self.second}

    def turn(self, step: int) -> tuple[str, ...]:
        return (("first",), ("second", "second"), ("first", "second"))[step % 3]

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5)

    def learning_rate(self, player: str, step: int) -> float | None:
        return None if step < 3 else 0.125

    def losses(self, player: str, pair: PosePair) -> dict[str, torch.Tensor]:
        # Both weights are in both terms: whoever moves, the other must not. Slopes of 1 and 2 add up to 3.
        both = self.first.weight.sum() + self.second.weight.sum()
        return {"one": both, "two": 2 * both}


def test_movers_pay_the_sum_of_their_terms_and_nobody_else_moves(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model = Plain(start=10.0)
    weights = [10.0, 10.0]
    pairs = stream(size=(8, 4))
    # What one step takes off: 3 x rate, per move. Rate 0.5 for three steps, then 0.125.
    for step, moved in enumerate([(1.5, 0), (0, 3.0), (1.5, 1.5), (0.375, 0), (0, 0.75)], 1):
        run(model, pairs if step == 1 else stream(size=(8, 4)), tmp_path, step)
        weights = [w - m for w, m in zip(weights, moved, strict=True)]
        assert [model.first.weight.item(), model.second.weight.item()] == weights, f"after {step} steps"
    again = Plain(start=10.0)
    run(again, stream(size=(8, 4)), tmp_path / "whole", 5)
    assert_equal_weights(again, model)
    with pytest.raises(TypeError, match="Plain names no schedule: say how many steps to train"):
        run(model, stream(), tmp_path)


def test_everybody_but_the_mover_is_frozen_while_it_pays(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    """Else the generator's turn would work out the discriminator's gradients too, for nothing."""
    free: list[tuple[str, bool, bool]] = []

    class Watched(Plain):
        def losses(self, player: str, pair: PosePair) -> dict[str, torch.Tensor]:
            free.append((player, self.first.weight.requires_grad, self.second.weight.requires_grad))
            return super().losses(player, pair)

    run(Watched(), stream(size=(8, 4)), tmp_path, 3)
    first, second = ("first", True, False), ("second", False, True)
    assert free == [first, second, second, first, second]


def test_players_that_share_a_parameter_are_refused(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="players 'first' and 'second' share a parameter; players are disjoint"):
        run(Plain(shared=True), stream(size=(8, 4)), tmp_path, 1)


# --- sheets, schedules, precision ---


def test_sample_sheets_are_written_on_time_and_in_size(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    samples = next(stream(50, batch=3))
    run(tiny(), stream(), tmp_path, 5, samples=samples, sample_every_steps=2)
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["0000002.png", "0000004.png", "0000005.png"]
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert image.size == (4 * (16 + 4) + 4, 3 * (32 + 4) + 4), "four columns, a row a pair"
    assert sheets[0].read_bytes() != sheets[2].read_bytes()


def test_no_samples_no_sheets(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    run(tiny(), stream(), tmp_path, 2, sample_every_steps=1)
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, "curves"}


@pytest.mark.parametrize("noisy", [False, True])
def test_drawing_samples_does_not_change_training(
    noisy: bool, sixth: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    size = (16, 8) if noisy else (32, 16)
    first = generators.create(sixth) if noisy else tiny()
    second = generators.create(sixth) if noisy else tiny()
    second.load_state_dict(first.state_dict())
    run(first, stream(size=size), tmp_path / "with", 5, samples=next(stream(50, size=size)), sample_every_steps=1)
    run(second, stream(size=size), tmp_path / "without", 5)
    assert_equal_weights(first, second)
    assert curves(tmp_path / "with") == curves(tmp_path / "without")
    assert len(list((tmp_path / "with" / "samples").iterdir())) == 5


def test_without_steps_the_papers_schedule_runs_and_stages_keep_apart(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model, after_one = tiny(), tiny()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    run(after_one, stream(), tmp_path / "one", 3)
    assert run(model, stream(), tmp_path / "all").step == model.schedule_steps() == 7

    def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
        return {key.split(".")[0] for key in a if not torch.equal(a[key], b[key])}

    assert moved(start, after_one.state_dict()) == {"stage1"}
    assert moved(after_one.state_dict(), model.state_dict()) == {"stage2", "discriminator"}
    assert not [key for key, p in model.named_parameters() if torch.equal(p, start[key])], "every weight takes part"


def test_training_leaves_the_model_ready_to_draw(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model = tiny()
    trained = run(model, stream(), tmp_path, 4)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    pair, loaded = next(stream(9)), generators.load(trained.checkpoint)
    images = [m(pair.source, pair.source_pose, pair.target_pose) for m in (model, loaded)]
    assert torch.allclose(*images, atol=1e-6)
    assert_equal_weights(model, loaded)


def test_a_checkpoint_is_there_every_so_often(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    seen: list[int | None] = []

    def watching() -> Iterator[PosePair]:
        for pair in stream():
            path = tmp_path / CHECKPOINT
            seen.append(checkpoints.read_header(path)["step"] if path.exists() else None)
            yield pair

    run(tiny(), watching(), tmp_path, 6, save_every_steps=2)
    assert seen == [None, None, 2, 2, 4, 4] and checkpoints.read_header(tmp_path / CHECKPOINT)["step"] == 6


def test_stage_one_learns_a_pair_by_heart(a_pair: MakePair, tmp_path: Path) -> None:
    pair = a_pair(batch=1)
    target = torch.linspace(-0.5, 0.5, 16).expand(1, 3, 32, 16).contiguous()
    pair = PosePair(pair.source, target, pair.source_pose, pair.target_pose, pair.identity)
    model = tiny(width=8, stage1_steps=1000, learning_rate=3e-3)
    run(model, iter([pair] * 100), tmp_path, 100)
    first, *_, last = (values[0] for _, values in sorted(curves(tmp_path).items()))
    assert last < first / 3


def test_bf16_mixed_trains(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    exact, mixed = tiny(), tiny()
    run(exact, stream(), tmp_path / "exact", 5)
    trained = run(mixed, stream(), tmp_path / "mixed", 5, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in mixed.parameters())
    assert not torch.equal(mixed.stage2.end.weight, exact.stage2.end.weight)
    assert trained.losses["generator1/pose_mask_l1"] == pytest.approx(curves(tmp_path / "exact")["generator1/pose_mask_l1", 2][0], rel=0.05)


@pytest.mark.parametrize(("scale", "moves"), [(1.0, True), (1024.0, True), (2.0**127, False)])
def test_scaled_gradients_are_scaled_back_and_overflows_skipped(
    scale: float, moves: bool, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    """What 16-mixed does on a GPU, with a scaler for the CPU: a step must not see the scale."""
    from lightning_fabric.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("bf16-mixed", device="cpu")
    plugin.scaler = scaler
    model = Plain(start=10.0)
    train(model, stream(size=(8, 4)), tmp_path, steps=1, fabric=Fabric(accelerator="cpu", devices=1, plugins=plugin))
    assert model.first.weight.item() == (8.5 if moves else 10.0) and scaler.get_scale() == (scale if moves else scale / 2)


def test_compile_compiles_every_player_and_changes_nothing(
    stream: Callable[..., Iterator[PosePair]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def eager(call: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        compiled.append(call.__self__)  # type: ignore[attr-defined]
        return call

    monkeypatch.setattr(torch, "compile", eager)
    plain, model = tiny(), tiny()
    run(model, stream(), tmp_path / "compiled", 5, compile=True)
    assert compiled == [model.stage1, model.stage2, model.discriminator]
    run(plain, stream(), tmp_path / "plain", 5)
    assert len(compiled) == 3
    assert_equal_weights(plain, model)
