"""A training that was stopped goes on as if it had not been; a checkpoint of another one is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_helpers import (
    MakePair,
    assert_equal_checkpoints,
    assert_equal_weights,
    curves,
    run,
    tiny,
)
from torch.utils.data import DataLoader

import generators
from generators import PosePair
from generators.base import Seekable
from generators.training import CHECKPOINT


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
    expected, resumed = curves(tmp_path / "whole"), curves(tmp_path / "parts")
    assert resumed == expected and all(len(values) == 1 for values in resumed.values())
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
    torch.rand(stop)  # another process has had other random numbers
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
        self.stream, self.starts, self.made = stream, [], []

    def starting_at(self, step: int) -> Iterator[PosePair]:
        self.starts.append(step)
        for at, pair in enumerate(self.stream(step), step):
            self.made.append(at)
            yield pair

    def __iter__(self) -> Iterator[PosePair]:
        raise AssertionError("a stream that can start anywhere is not read from its beginning")


def test_a_seekable_stream_is_asked_to_start_where_it_stopped(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    pairs, whole, parts = Recorded(stream), tiny(), tiny()
    assert isinstance(pairs, Seekable) and not isinstance([], Seekable)
    for step in (2, 5):
        run(parts, pairs, tmp_path / "parts", step)
    assert pairs.starts == [0, 2] and pairs.made == [0, 1, 2, 3, 4]
    run(whole, stream(), tmp_path / "whole", 5)
    assert_equal_weights(whole, parts)


def test_a_plain_stream_is_drawn_up_to_where_it_stopped(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    made: list[int] = []

    def counted() -> Iterator[PosePair]:
        for at, pair in enumerate(stream()):
            made.append(at)
            yield pair

    model = tiny()
    run(model, counted(), tmp_path, 2)
    assert made == [0, 1], "no batch is made that no step takes"
    run(model, counted(), tmp_path, 3)
    assert made == [0, 1, 0, 1, 2]


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
    ("option", "value", "was", "current"),
    [
        ("radius_px", 3.5, "'radius_px': 2.0", "'radius_px': 3.5"),
        ("width", 5, "'width': 4", "'width': 5"),
        ("discriminator", "triplet-released", "'discriminator': 'pair'", "'discriminator': 'triplet-released'"),
        ("size", (32, 32), "'size': [32, 16]", "'size': (32, 32)"),
    ],
)
def test_a_checkpoint_of_other_options_is_refused(
    option: str, value: Any, was: str, current: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    run(tiny(), stream(), tmp_path, 1)
    before = (tmp_path / CHECKPOINT).read_bytes()
    with pytest.raises(ValueError, match="train into another folder or remove that one") as caught:
        run(tiny(**{option: value}), stream(), tmp_path, 2)
    saved_part, current_part = str(caught.value).split("this run asks for")
    assert was in saved_part and current in current_part and str(tmp_path / CHECKPOINT) in saved_part
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
