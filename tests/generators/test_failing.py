"""What stops a training that can't go on, and what it says."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from generator_helpers import (
    Plain,
    assert_equal_weights,
    run,
    tiny,
)

import generators
from generators import PosePair, checkpoints
from generators.training import CHECKPOINT, train


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"accelerator": "tpu"}, "accelerator='tpu'"),
        ({"accelerator": "gpus"}, "accelerator='gpus'"),
        ({"accelerator": "cpu", "devices": "x"}, "devices='x'"),
        ({"accelerator": "cpu", "precision": "12-bit"}, "12-bit"),
    ],
)
def test_what_is_not_here_is_told(choices: dict[str, Any], message: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        train(tiny(), stream(), tmp_path / "out", steps=1, **choices)


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


def test_players_that_share_a_parameter_are_refused(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="players 'first' and 'second' share a parameter; players are disjoint"):
        run(Plain(shared=True), stream(size=(8, 4)), tmp_path, 1)
