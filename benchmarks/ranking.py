"""Measure rank_gallery against torchreid's evaluation at the size of Market-1501, in one process.

    python benchmarks/ranking.py [--queries N] [--repeats N]

Features, identities and cameras are made up (3,368 queries, 15,913 gallery images, 512 numbers each). torchreid is
measured as PyPI's users get it: its distance matrix, then its Python ranking. Prints a table, checks that both give
the same scores and writes benchmarks/results/ranking.json. Needs torchreid; memory is read from Linux' /proc.
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Scripts find what lies beside them first, and generators.py beside this one is a benchmark, not the package.
sys.path[:] = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

from reid_aug.bench.ranking import Ranking, rank_gallery

QUERIES, GALLERY, WIDTH, PEOPLE, CAMERAS = 3_368, 15_913, 512, 750, 6
RESULT = Path(__file__).parent / "results" / "ranking.json"


def made_up_market(queries: int) -> tuple[list[torch.Tensor], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Features of queries and gallery, and their labels: 2,793 distractors of pid 0, junk where chance puts it."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((PEOPLE + 1, WIDTH), dtype=np.float32)
    q_pids = rng.integers(1, PEOPLE + 1, QUERIES)
    g_pids = np.concatenate([np.zeros(2_793, dtype=np.int64), rng.integers(1, PEOPLE + 1, GALLERY - 2_793)])
    # So much noise that matches are spread over the whole ranking: no method can stop early.
    features = [
        torch.from_numpy(centres[pids] + 4 * rng.standard_normal((len(pids), WIDTH), dtype=np.float32))
        for pids in (q_pids, g_pids)
    ]
    q_camids, g_camids = rng.integers(0, CAMERAS, QUERIES), rng.integers(0, CAMERAS, GALLERY)
    return [features[0][:queries], features[1]], (q_pids[:queries], g_pids, q_camids[:queries], g_camids)


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What the call returns, its seconds, and the most memory it held on top of what was there, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present size
    before, start = memory_mb("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return result, seconds, memory_mb("VmHWM") - before


def memory_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def torchreid_modules() -> tuple[Any, Any]:
    """torchreid's distance and rank modules, under either of its package names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "torchreid.reid.metrics" if importlib.util.find_spec("torchreid.reid") else "torchreid.metrics"
        return importlib.import_module(f"{package}.distance"), importlib.import_module(f"{package}.rank")


def differences(ours: Ranking, cmc: np.ndarray, mean_ap: float) -> dict[str, float]:
    return {"map": abs(ours.map - float(mean_ap)), "cmc": float(np.abs(ours.cmc - cmc).max())}


def machine() -> dict[str, object]:
    """What a time means nothing without."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


def compare(queries: int, repeats: int) -> dict[str, Any]:
    """Both systems on the same features; ours several times before and after torchreid's, which runs once."""
    host = machine()
    features, who = made_up_market(queries)
    query, gallery = features
    distance, rank = torchreid_modules()
    distance.compute_distance_matrix(query[:64], gallery[:64])  # wakes the maths library up for both
    runs = [measured(lambda: rank_gallery(query, gallery, *who)) for _ in range(repeats)]
    matrix, matrix_s, matrix_mb = measured(lambda: distance.compute_distance_matrix(query, gallery).numpy())
    scores, rank_s, rank_mb = measured(lambda: rank.evaluate_rank(matrix, *who, use_cython=False))
    runs += [measured(lambda: rank_gallery(query, gallery, *who)) for _ in range(repeats)]
    ours, seconds = runs[0][0], sorted(run[1] for run in runs)
    median = float(np.median(seconds))
    return {
        "queries": queries,
        "gallery": GALLERY,
        "width": WIDTH,
        "machine": host,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "torchreid")}
        | {"python": platform.python_version()},
        "command": shlex.join(["python", *sys.argv]),
        "date": datetime.date.today().isoformat(),
        "torchreid": {
            "distance_s": matrix_s,
            "ranking_s": rank_s,
            "total_s": matrix_s + rank_s,
            "peak_extra_mb": max(matrix_mb, matrix.nbytes / 1e6 + rank_mb),
        },
        "reid_aug": {
            "median_s": median,
            "fastest_s": seconds[0],
            "slowest_s": seconds[-1],
            "runs": len(seconds),
            "peak_extra_mb": max(run[2] for run in runs),
        },
        "times_faster": (matrix_s + rank_s) / median,
        "scores": {"map": ours.map, "minp": ours.minp, "rank-1": float(ours.cmc[0])},
        "differences": differences(ours, *scores),
    }


def table(result: dict[str, Any]) -> str:
    theirs, ours = result["torchreid"], result["reid_aug"]
    return "\n".join(
        [
            f"measured on {result['queries']:,} queries x {result['gallery']:,} gallery images x {result['width']}",
            f"{'':24}{'seconds':>10}{'extra MB':>10}",
            f"{'torchreid (Python)':24}{theirs['total_s']:>10.2f}{theirs['peak_extra_mb']:>10.0f}",
            f"{'rank_gallery, median':24}{ours['median_s']:>10.2f}{ours['peak_extra_mb']:>10.0f}",
            f"{'  fastest, slowest':24}{ours['fastest_s']:>10.2f}{ours['slowest_s']:>10.2f} s",
            f"{result['times_faster']:.0f} times as fast; largest differences: mAP {result['differences']['map']:.1e}, "
            f"CMC {result['differences']['cmc']:.1e}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES, help="measure on the first N queries only")
    parser.add_argument("--repeats", type=int, default=5, help="runs of rank_gallery before, and again after, torchreid's")
    options = parser.parse_args()
    result = compare(options.queries, options.repeats)
    print(table(result))
    # torchreid breaks ties in any order and counts CMC in float32: equal up to both, or something is wrong.
    if result["differences"]["map"] > 1e-6 or result["differences"]["cmc"] > 1e-6:
        raise SystemExit("the scores differ; nothing was written")
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
