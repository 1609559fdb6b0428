"""Fill the minutes that a GPU can be had with what is worth most: one cell after another, each on record when it is done.

    python -m benchmarks.gpu.campaign --minutes M --out DIR [--data PHOTOGRAPHS] [--work DIR] [--device cuda|cpu] [--tiny] [--only cell …]

DIR gets campaign.jsonl, one line for every cell that is done, and a few small files that are worth keeping: sample
sheets, a small checkpoint. Started again with the same DIR, on another day and another machine, it goes on behind them.
`--data` is a folder in Market-1501's layout with its keypoint files; without it people are rendered. Cells work in a
process of their own: one that hangs, fails or is out of time is ended, and the next goes on in a fresh process. The
exit code is 1 when a cell failed, 130 when Ctrl-C ended it. `--device cpu --tiny` runs every kind of cell in minutes: do they run?
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.cells import Cell, Setting, Workshop, cells
from benchmarks.gpu.record import begin, failure, read_lines, rounded
from benchmarks.gpu.timing_model import predicted_seconds
from generators import one_of
from reid_aug.bench.results import append

RECORDS = "campaign.jsonl"
LEAST_S = 5.0  # Seconds under which no cell is begun.


def main(words: Sequence[str] | None = None) -> int:
    """Do what is not on record yet until the minutes are over, and say what was done and what is left."""
    setting, minutes, only = _options(words)
    deadline = time.monotonic() + 60 * minutes
    try:
        head = begin("campaign", "campaign.py", torch.device(setting.device))
        listed = {cell.name: cell for cell in cells(setting)}
        for name in only:
            one_of("cell", name, list(listed))
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    setting.out.mkdir(parents=True, exist_ok=True)
    about = {key: head[key] for key in ("device", "versions", "command", "date")} | {"tiny": setting.tiny}
    records, failed, late = setting.out / RECORDS, 0, 0
    left = [cell for cell in listed.values() if (not only or cell.name in only) and not done(cell, setting)]
    worker, stopped = Worker(setting), False
    for cell in left:
        seconds = deadline - time.monotonic()
        if seconds < max(LEAST_S, predicted_seconds(cell.name) if not setting.tiny else 0):
            late += 1  # a shorter one behind it may still fit
            continue
        began = time.monotonic()
        try:
            row = worker.measure(cell, min(cell.limit_s, seconds))
        except KeyboardInterrupt:
            stopped = True
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # who presses twice waits for the process below, ten seconds at most
            print(f"interrupted in {cell.name}: started again, the campaign goes on with it", file=sys.stderr)
            break
        taken = round(time.monotonic() - began, 1)
        append(records, rounded({"cell": cell.name, **about, "wall_s": taken, "predicted_s": predicted_seconds(cell.name), **row}))
        failed += "error" in row
        print(f"{cell.name}: {row.get('error', 'done')}, {taken} s", flush=True)
    worker.end()
    if stopped:
        return 130
    print(f"{len(left) - failed - late} cells done, {failed} failed, {late} had no time; {records}")
    return int(failed > 0)


def done(cell: Cell, setting: Setting) -> bool:
    """Say whether a cell is on record without an error, in this form, and what later cells need of it is there."""
    lines = [line for line in read_lines(setting.out / RECORDS) if line["cell"] == cell.name and line["tiny"] == setting.tiny]
    return any("error" not in line for line in lines) and all(any(place.exists() for place in places) for places in cell.leaves)


class Worker:
    """A process that does cells, with what they share in its memory; a fresh one follows where it was ended."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.process: Any = None

    def measure(self, cell: Cell, limit_s: float) -> dict[str, Any]:
        """Give what a cell measured, or its error: what it raised, that its process died, or that its time was over."""
        if self.process is None:
            context = multiprocessing.get_context("spawn")
            self.pipe, other = context.Pipe()
            self.process = context.Process(target=_work, args=(self.setting, other), daemon=True)
            self.process.start()
            other.close()
        try:
            self.pipe.send(cell.name)
            if self.pipe.poll(limit_s):
                row = self.pipe.recv()
                if row.get("fatal"):  # a GPU that raised an error raises it for everything that follows in that process
                    self.end()
                return {key: value for key, value in row.items() if key != "fatal"}
            error = f"not done within {limit_s:.0f} s"
        except (EOFError, OSError):  # closed at the other end, or broken while it was written to or read
            error = "its process died"
        self.end()
        return {"error": error}

    def end(self) -> None:
        """End the process: asked first, so that a training keeps its checkpoint, then by force."""
        if self.process is None:
            return
        self.pipe.close()
        for stop in (self.process.terminate, self.process.kill):
            stop()
            self.process.join(10)
        self.process = None


def _work(setting: Setting, pipe: Connection) -> None:
    """Do the cells whose names come in, until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the campaign ends this process itself
    listed, shop = {cell.name: cell for cell in cells(setting)}, Workshop(setting)
    for name in _names(pipe):
        torch.manual_seed(0)
        try:
            row = listed[name].measure(shop)
        except KeyboardInterrupt:
            return
        except Exception as error:  # told in the record; the rest goes on
            row = {"error": failure(error), "fatal": "CUDA error" in str(error) or isinstance(error, torch.cuda.OutOfMemoryError)}
        pipe.send(row)


def _names(pipe: Connection) -> Iterator[str]:
    try:
        while True:
            yield pipe.recv()
    except (EOFError, OSError):
        return


def _options(words: Sequence[str] | None) -> tuple[Setting, float, list[str]]:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.campaign", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, required=True, metavar="M", help="end after so many minutes")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="records, and small files to keep")
    parser.add_argument("--data", metavar="PHOTOGRAPHS", help="folder in Market-1501's layout; default: rendered people")
    parser.add_argument("--work", type=Path, default=Path("runs/campaign"), metavar="DIR", help="images and checkpoints (%(default)s)")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="every kind of cell in the smallest size: does it run?")
    parser.add_argument("--only", nargs="+", default=[], metavar="cell", help="these cells alone")
    parser.add_argument("--list", action="store_true", help="list the cells and what they are predicted to take")
    options = parser.parse_args(words)
    if options.minutes <= 0:
        parser.error(f"--minutes is above 0, got {options.minutes:g}")
    if options.data is not None and not Path(options.data).is_dir():
        parser.error(f"--data is a folder in Market-1501's layout, got {options.data}")
    if options.device == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    setting = Setting(options.device, options.out, options.work, options.data, options.tiny)
    if options.list:
        print(*(f"{cell.name}: {predicted_seconds(cell.name):.0f} s" for cell in cells(setting)), sep="\n")
        sys.exit()
    return setting, options.minutes, options.only


if __name__ == "__main__":
    sys.exit(main())
