"""Signals save and stop a training after the step under way."""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from generator_helpers import (
    assert_equal_weights,
    curves,
    run,
    tiny,
)

import generators
from generators import PosePair, checkpoints
from generators.training import CHECKPOINT, Trained


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


def test_a_process_told_to_stop_saves_and_goes(script: Path, environment: dict[str, str], tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, script, "interrupted", tmp_path], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
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
    module = runpy.run_path(str(script))
    assert len(ended) == 2
    for name, end in zip(("SIGTERM", "SIGINT"), ended, strict=True):
        assert end["stopped"] and 6 <= end["step"] < 100_000 and checkpoints.read_header(end["checkpoint"])["step"] == end["step"]
        assert [p.name for p in (tmp_path / name).iterdir() if p.name.startswith(".")] == [], "no half-written file"
        whole, parts = module["model"](), generators.load(end["checkpoint"])
        steps = end["step"] + 2
        run(parts, module["pairs"](), tmp_path / name, steps)
        run(whole, module["pairs"](), tmp_path / f"whole after {name}", steps)
        assert_equal_weights(whole, parts)
        assert curves(tmp_path / name) == curves(tmp_path / f"whole after {name}")
