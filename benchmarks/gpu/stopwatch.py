"""Measure a call on a GPU: seconds, kernels by the profiler, memory."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

Row = dict[str, Any]


@dataclass(frozen=True)
class Stopwatch:
    """A device, and whether everything is called just once."""

    device: torch.device
    quick: bool

    @property
    def cuda(self) -> bool:
        return self.device.type == "cuda"

    def synchronise(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def seconds(self, call: Callable[[], Any], budget_s: float = 0.15) -> float:
        """Measure a call's median seconds, after two to warm up; short calls are timed several at a time."""
        if self.quick:
            return self.run(call)
        self.run(call)
        calls = max(1, min(20, int(0.02 / max(self.run(call), 1e-6))))
        runs, start = [self.run(call, calls) for _ in range(3)], time.perf_counter()
        while time.perf_counter() - start < budget_s and len(runs) < 30:
            runs.append(self.run(call, calls))
        return statistics.median(runs)

    def run(self, call: Callable[[], Any], calls: int = 1) -> float:
        """Measure the seconds of a call, as the mean of several in a row."""
        self.synchronise()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        self.synchronise()
        return (time.perf_counter() - start) / calls

    def kernels(self, call: Callable[[], Any], longest: int = 6) -> Row:
        """Count a call's kernels, copies and waits, and add up their time; nothing on a CPU."""
        call()
        if not self.cuda:
            return {}
        self.synchronise()
        with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
            call()
            self.synchronise()
        kernels: dict[str, list[float]] = {}
        events: list[Any] = list(profiler.events() or ())
        names: list[str] = [event.name for event in events]
        for event in events:
            if event.device_type.name == "CUDA":
                kernels.setdefault(event.name, []).append(event.time_range.elapsed_us() / 1e6)
        by_time = sorted(kernels.items(), key=lambda item: -sum(item[1]))[:longest]
        return {
            "kernel_s": sum(map(sum, kernels.values())), "kernels": sum(map(len, kernels.values())),
            "synchronisations": names.count("cudaStreamSynchronize") + names.count("cudaDeviceSynchronize"),
            "copies": names.count("cudaMemcpyAsync"), "longest": [[name[:70], len(times), sum(times)] for name, times in by_time],
        }  # fmt: skip

    @contextmanager
    def peak(self, row: Row) -> Iterator[None]:
        """Note in `row` how many GiB tensors took at most within the block."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        yield
        if self.cuda:
            row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
