"""Measure rank_gallery against torchreid's evaluation at the size of Market-1501, in one process.

    python benchmarks/ranking.py [--queries N] [--repeats N] [--cython DIR] [--out FILE]

Features, identities and cameras are made up (3,368 queries, 15,913 gallery images, 512 numbers each). torchreid is
measured as PyPI's users get it: its distance matrix, then its Python ranking; and its Cython ranking, where that is
compiled, or can be from DIR's rank_cy.pyx (GitHub's torchreid has it in torchreid/metrics/rank_cylib, PyPI's has not;
needs cython and a C compiler). Prints a table, checks that all give the same scores and writes
benchmarks/results/ranking.json. Needs torchreid; memory is read from Linux' /proc.
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
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from reid_aug.baselines.ranking import Ranking, rank_gallery
from reid_aug.images import atomic_write_text

QUERIES, GALLERY, WIDTH, PEOPLE, CAMERAS = 3_368, 15_913, 512, 750, 6
RESULT = Path(__file__).parent / "results" / "ranking.json"


def made_up_market(queries: int) -> tuple[list[torch.Tensor], tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """Make up features of queries and gallery, and their labels: 2,793 distractors of pid 0, junk where chance puts it."""
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
    """Return the call's result, its seconds, and the most memory it held on top of what was there, in MB."""
    Path("/proc/self/clear_refs").write_text("5")  # sets the high-water mark back to the present size
    before, start = memory_mb("VmRSS"), time.perf_counter()
    result = call()
    seconds = time.perf_counter() - start
    return result, seconds, memory_mb("VmHWM") - before


def memory_mb(field: str) -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field + ":"))
    return int(line.split()[1]) * 1024 / 1e6


def torchreid_modules() -> tuple[Any, Any]:
    """Import torchreid's distance and rank modules, under either of its package names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "torchreid.reid.metrics" if importlib.util.find_spec("torchreid.reid") else "torchreid.metrics"
        return importlib.import_module(f"{package}.distance"), importlib.import_module(f"{package}.rank")


def differences(ours: Ranking, cmc: np.ndarray, mean_ap: float) -> dict[str, float]:
    return {"map": abs(ours.map - float(mean_ap)), "cmc": float(np.abs(ours.cmc - cmc).max())}


def machine() -> dict[str, object]:
    """Describe the machine, without which a time means nothing."""
    names = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    ]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "torch_threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2),
    }


# What torchreid's own setup.py does, in a folder of its own.
BUILD = """
import numpy, setuptools
from Cython.Build import cythonize
extension = setuptools.Extension("rank_cy", ["rank_cy.pyx"], include_dirs=[numpy.get_include()])
setuptools.setup(name="rank_cy", script_args=["build_ext", "--inplace"], ext_modules=cythonize([extension]))
"""


def cython_ranking(folder: Path | None) -> tuple[Callable[..., Any] | None, str]:
    """Find torchreid's compiled evaluate_cy, or None, and where it came from, or why there is none."""
    if torchreid_modules()[1].IS_CYTHON_AVAI:
        return torchreid_modules()[1].evaluate_cy, "compiled with torchreid"
    if folder is None:
        return None, "torchreid has none compiled here, and no --cython DIR was given"
    if not (folder / "rank_cy.pyx").is_file():
        raise SystemExit(f"--cython is a folder with torchreid's rank_cy.pyx, got {folder}")
    if importlib.util.find_spec("Cython") is None or importlib.util.find_spec("setuptools") is None:
        return None, "it takes two packages to compile: pip install cython setuptools"
    with tempfile.TemporaryDirectory() as build:
        shutil.copy(folder / "rank_cy.pyx", build)
        done = subprocess.run([sys.executable, "-c", BUILD], cwd=build, capture_output=True, text=True)
        compiled = next(Path(build).glob("rank_cy*.so"), None)
        if done.returncode or compiled is None:
            return None, f"rank_cy.pyx does not compile: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}"
        spec = importlib.util.spec_from_file_location("rank_cy", compiled)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return module.evaluate_cy, f"rank_cy.pyx compiled with Cython {importlib.metadata.version('cython')}"


def compare(queries: int, repeats: int, cython: Path | None) -> dict[str, Any]:
    """Run all systems on the same features; ours several times before and after torchreid's, whose Python runs once."""
    host = machine()
    evaluate_cy, provenance_of_cython = cython_ranking(cython)
    features, who = made_up_market(queries)
    query, gallery = features
    distance, rank = torchreid_modules()
    distance.compute_distance_matrix(query[:64], gallery[:64])  # wakes the maths library up for both
    runs = [measured(lambda: rank_gallery(query, gallery, *who)) for _ in range(repeats)]
    matrices = [measured(lambda: distance.compute_distance_matrix(query, gallery).numpy()) for _ in range(min(3, repeats))]
    matrix = (matrices[-1][0], *np.median([run[1:] for run in matrices], axis=0).tolist())
    del matrices
    compiled = []
    if evaluate_cy is not None:
        compiled = [measured(partial(evaluate_cy, matrix[0], *who, 50)) for _ in range(min(3, repeats))]
    scores, *cost = measured(lambda: rank.evaluate_rank(matrix[0], *who, use_cython=False))
    runs += [measured(lambda: rank_gallery(query, gallery, *who)) for _ in range(repeats)]
    ours, seconds = runs[0][0], sorted(run[1] for run in runs)
    median = float(np.median(seconds))
    python = total(matrix, *cost)
    faster: dict[str, Any] = {"times_faster": python["total_s"] / median, "cython": provenance_of_cython}
    faster |= {"torchreid_cython": None, "times_faster_than_cython": None}
    if compiled:
        cy = total(matrix, *np.median([run[1:] for run in compiled], axis=0).tolist())
        faster |= {"torchreid_cython": cy, "times_faster_than_cython": cy["total_s"] / median}
        faster["cython_differences"] = differences(ours, *compiled[0][0])
    return {
        "queries": queries,
        "gallery": GALLERY,
        "width": WIDTH,
        **provenance(host),
        "torchreid": python,
        "reid_aug": {
            "median_s": median,
            "fastest_s": seconds[0],
            "slowest_s": seconds[-1],
            "runs": len(seconds),
            "peak_extra_mb": max(run[2] for run in runs),
        },
        **faster,
        "scores": {"map": ours.map, "minp": ours.minp, "rank-1": float(ours.cmc[0])},
        "differences": differences(ours, *scores),
    }


def total(matrix: tuple[np.ndarray, float, float], seconds: float, extra_mb: float) -> dict[str, float]:
    """Add distance matrix and ranking: seconds, and the most memory, the matrix still being held."""
    _, matrix_s, matrix_mb = matrix
    return {
        "distance_s": matrix_s,
        "ranking_s": seconds,
        "total_s": matrix_s + seconds,
        "peak_extra_mb": max(matrix_mb, matrix[0].nbytes / 1e6 + extra_mb),
    }


def provenance(host: dict[str, object]) -> dict[str, Any]:
    """Say where, with what and when; the machine as it was before."""
    return {
        "machine": host,
        "versions": {name: importlib.metadata.version(name) for name in ("torch", "numpy", "torchreid")}
        | {"python": platform.python_version()},
        "command": shlex.join(["python", *("DIR" if before == "--cython" else word for before, word in pairwise(["", *sys.argv]))]),
        "date": datetime.date.today().isoformat(),
    }


def table(result: dict[str, Any]) -> str:
    python, ours, cython = result["torchreid"], result["reid_aug"], result["torchreid_cython"]
    lines = [
        f"measured on {result['queries']:,} queries x {result['gallery']:,} gallery images x {result['width']}",
        f"{'':24}{'seconds':>10}{'extra MB':>10}",
        f"{'torchreid (Python)':24}{python['total_s']:>10.2f}{python['peak_extra_mb']:>10.0f}",
        f"{'torchreid (Cython)':24}"
        + (f"{cython['total_s']:>10.2f}{cython['peak_extra_mb']:>10.0f}" if cython else f" not measured: {result['cython']}"),
        f"{'rank_gallery, median':24}{ours['median_s']:>10.2f}{ours['peak_extra_mb']:>10.0f}",
        f"{'  fastest, slowest':24}{ours['fastest_s']:>10.2f}{ours['slowest_s']:>10.2f} s",
        f"{result['times_faster']:.0f} times as fast; largest differences: mAP {result['differences']['map']:.1e}, "
        f"CMC {result['differences']['cmc']:.1e}",
    ]
    if cython:
        lines.append(f"{result['times_faster_than_cython']:.1f} times as fast as Cython's")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES, help="measure on the first N queries only")
    parser.add_argument("--repeats", type=int, default=5, help="runs of rank_gallery before, and again after, torchreid's")
    parser.add_argument("--cython", type=Path, metavar="DIR", help="folder of torchreid's rank_cy.pyx, compiled in a temporary one")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="where the result goes")
    options = parser.parse_args()
    result = compare(options.queries, options.repeats, options.cython)
    print(table(result))
    # torchreid breaks ties in any order and counts CMC in float32: equal up to both, or something is wrong.
    if max(*result["differences"].values(), *result.get("cython_differences", {}).values()) > 1e-6:
        raise SystemExit("the scores differ; nothing was written")
    atomic_write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
