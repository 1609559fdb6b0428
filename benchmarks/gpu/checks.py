"""Compare what a GPU computes with what the CPU does: geometry, losses, generators, training, rendering, ranking.

    python -m benchmarks.gpu.checks OUT.json [check …] [--device cuda|cpu] [--tiny]

A check gives rows, each with how far the device is off and whether that is `ok`; OUT.json is written after every check,
and one that fails does not stop the rest. The exit code is 1 when a row is not ok. `--device cpu --tiny` compares the
CPU with itself in under a minute: do the checks run?
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import generator_checks, geometry_checks, reid_checks
from benchmarks.gpu.bench import Bench, Rows
from benchmarks.gpu.record import begin, failure, write
from generators import one_of

CHECKS: dict[str, Callable[[Bench], Rows]] = {check.__name__: check for check in (
    geometry_checks.map_functions, geometry_checks.fits, geometry_checks.warps, geometry_checks.carried, geometry_checks.losses,
    generator_checks.forwards, generator_checks.losses_and_gradients_of_a_turn, generator_checks.training_and_resuming,
    generator_checks.compiled, reid_checks.augmenter, reid_checks.ranking,
)}  # fmt: skip



WHAT = "A device against the CPU: largest and mean absolute difference, and norm of the difference over the CPU's norm"


def main() -> int:
    """Run the checks, print a line for each, and return 1 when one is not ok."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("out", type=Path, metavar="OUT.json")
    parser.add_argument("checks", nargs="*", metavar="check", help=f"of {', '.join(CHECKS)}; default: all")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--tiny", action="store_true", help="small sizes: do the checks run?")
    options = parser.parse_args()
    try:
        for name in options.checks:
            one_of("check", name, CHECKS)
        record = begin(WHAT, "checks.py", torch.device(options.device)) | {"checks": {}}
    except (ValueError, RuntimeError) as error:
        parser.error(str(error))
    bench = Bench(torch.device(options.device), options.tiny)
    for name in options.checks or CHECKS:
        result = record["checks"][name] = run(CHECKS[name], bench)
        write(options.out, record)
        bad = [key for key, row in result.items() if isinstance(row, dict) and not row["ok"]]
        verdict = "ok" if result["ok"] else f"NOT OK ({result.get('error', ', '.join(bad))})"
        print(f"{name}: {verdict}, {result['seconds']} s", flush=True)
    return int(not all(result["ok"] for result in record["checks"].values()))


def run(check: Callable[[Bench], Rows], bench: Bench) -> dict[str, Any]:
    """Give a check's rows, whether all are ok, and its seconds; of one that raises, the error."""
    start = time.perf_counter()
    torch.manual_seed(0)
    try:
        rows = check(bench)
        result: dict[str, Any] = {"ok": all(row["ok"] for row in rows.values()), **rows}
    except Exception as error:  # told in the record; the rest goes on
        result = {"ok": False, "error": failure(error)}
    return result | {"seconds": round(time.perf_counter() - start, 2)}


if __name__ == "__main__":
    sys.exit(main())
