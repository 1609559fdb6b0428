"""Stopping a training when a signal asks for it: after the step under way, and in all of its processes at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@contextmanager
def stopping() -> Iterator[threading.Event]:
    """Give an event that SIGINT and SIGTERM set; a second SIGINT interrupts at once, as ever."""
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


def agreed(fabric: Fabric, stop: threading.Event) -> bool:
    """Tell whether any process was asked to stop: all must leave the loop at one step."""
    if fabric.world_size == 1:
        return stop.is_set()
    votes = fabric.all_reduce(torch.tensor(float(stop.is_set()), device=fabric.device), reduce_op="sum")
    assert isinstance(votes, Tensor)
    return bool(votes > 0)
