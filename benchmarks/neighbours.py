"""Measure what searches for neighbours, torch and faiss, where this package asks for them, and ranking a gallery on disk.

    OMP_NUM_THREADS=1 python benchmarks/neighbours.py [--repeats N] [--scale S] [--distractors N] [--folder DIR] [--out FILE]

Features are made up, 512 numbers each at Market-1501's size. Each backend that can be had here takes its turn, several times
round; seconds are the fastest turn's, of processor time on a CPU (a shared machine's clock says little) and of the clock on a GPU.
Every result is compared with torch's. The large gallery is Market-1501's with a million distractors, 2.1 GB in a temporary file
of DIR, and 64 queries of it are compared with `rank_gallery`, which holds all of it in memory. Prints tables and writes
benchmarks/results/neighbours.json. `--scale 0.05` makes everything so much smaller. Memory is read from Linux' /proc.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranking import CAMERAS, GALLERY, PEOPLE, QUERIES, WIDTH, machine, made_up_market, memory_mb, provenance

from reid_aug.baselines.large_gallery import rank_large_gallery
from reid_aug.baselines.neighbours import BACKENDS, rank1, top_k, usable
from reid_aug.baselines.ranking import rank_gallery
from reid_aug.images import atomic_write_text
from reid_aug.synthesis.identity_scores import identity_scores
from reid_aug.synthesis.nearness import distances, near

RESULT = Path(__file__).resolve().parent / "results" / "neighbours.json"
# What is searched: queries, gallery, numbers each, neighbours.
SEARCHES = {
    "Market-1501's queries, top 50": (QUERIES, GALLERY, WIDTH, 50),
    "a batch of queries, a large gallery": (64, 200_000, WIDTH, 50),
    "training images, 36 numbers (18 joints)": (12_936, 12_936, 36, 1),
    "training images, 4 numbers (a view)": (12_936, 12_936, 4, 8),
}
TRAIN, PER_IMAGE, PAIRS = 12_936, 2, 12_000


def here() -> list[str]:
    """List the backends that can be had on this machine."""
    backends = []
    for backend in BACKENDS[1:]:
        try:
            backends.append(usable(backend))
        except (ModuleNotFoundError, ValueError) as error:
            print(f"not measured: {error}")
    return backends


def in_turns(calls: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Run every call `repeats` times, taking turns; the last results, and the fastest turns' seconds."""
    results, seconds = {}, dict.fromkeys(calls, float("inf"))
    for _ in range(repeats):
        for name, call in calls.items():
            clock = time.perf_counter if "gpu" in name.lower() else time.process_time
            start = clock()
            results[name] = call()
            seconds[name] = min(seconds[name], clock() - start)
    return results, {name: round(value, 3) for name, value in seconds.items()}


def searches(backends: list[str], repeats: int, scale: float) -> dict[str, Any]:
    """Compare `top_k` by each backend: seconds, and how many neighbours are others than torch's."""
    table = {}
    for name, (queries, gallery, width, k) in SEARCHES.items():
        random = torch.Generator().manual_seed(0)
        queries, gallery = max(8, int(queries * scale)), max(64, int(gallery * scale))
        query, rows = torch.randn(queries, width, generator=random), torch.randn(gallery, width, generator=random)
        calls: dict[str, Callable[[], Any]] = {b: partial(top_k, query, rows, k, backend=b) for b in backends}
        if torch.cuda.is_available():
            calls["torch on the GPU"] = partial(_to_cpu, query.cuda(), rows.cuda(), k)
        found, seconds = in_turns(calls, repeats)
        others = {name: int((found[name][1] != found["torch"][1]).sum()) for name in calls}
        table[name] = {"size": [queries, gallery, width], "k": k, "seconds": seconds, "other neighbours": others, "of": queries * k}
        print(name, seconds, others, flush=True)
    return table


def _to_cpu(query: torch.Tensor, rows: torch.Tensor, k: int) -> list[torch.Tensor]:
    return [part.cpu() for part in top_k(query, rows, k)]  # which waits for them


def people(rng: np.random.Generator, pids: np.ndarray) -> torch.Tensor:
    """Make up features of people, noisy enough that many are mistaken."""
    centres = np.random.default_rng(0).standard_normal((PEOPLE + 1, WIDTH), dtype=np.float32)
    return torch.from_numpy(centres[pids] + 4 * rng.standard_normal((len(pids), WIDTH), dtype=np.float32))


def gate(backends: list[str], repeats: int, scale: float) -> dict[str, Any]:
    """Compare identity scores of two synthetic images for each training image, in scenes, by each backend."""
    rng, total = np.random.default_rng(1), int(TRAIN * scale)
    real_pids = rng.integers(1, PEOPLE + 1, total)
    sources, scenes = np.tile(np.arange(total), PER_IMAGE), rng.integers(0, total, PER_IMAGE * total)
    synthetic, real = people(rng, real_pids[sources]), people(rng, real_pids)
    given: Any = synthetic, real_pids[sources], real, real_pids, sources, scenes
    scores, seconds = in_turns({backend: lambda b=backend: identity_scores(*given, backend=b) for backend in backends}, repeats)
    apart = {backend: float(np.abs(scores[backend] - scores["torch"]).max()) for backend in backends}
    found = {backend: int((scores[backend] > 0).sum()) for backend in backends}
    print("identity gate", seconds, apart, found, flush=True)
    return {"size": [len(synthetic), total, WIDTH], "seconds": seconds, "largest difference": apart, "found": found}


def first_rank(backends: list[str], repeats: int, scale: float) -> dict[str, Any]:
    """Compare identity rank-1 of a protocol's 12,000 pairs by each backend, and by ranking the gallery."""
    rng = np.random.default_rng(2)
    queries, gallery = int(PAIRS * scale), int((QUERIES + GALLERY) * scale)
    pids = rng.integers(1, PEOPLE + 1, queries), rng.integers(1, PEOPLE + 1, gallery)
    who = *pids, rng.integers(0, CAMERAS, queries), rng.integers(0, CAMERAS, gallery)
    query, rows = people(rng, pids[0]), people(rng, pids[1])
    calls = {backend: lambda b=backend: rank1(query, rows, *who, backend=b)[0] for backend in backends}
    scores, seconds = in_turns({**calls, "rank_gallery": lambda: float(rank_gallery(query, rows, *who).cmc[0])}, repeats)
    print("identity rank-1", seconds, scores, flush=True)
    return {"size": [queries, gallery, WIDTH], "seconds": seconds, "rank-1": scores}


def views(repeats: int, scale: float) -> dict[str, Any]:
    """Measure drawing poses by view, of every training image among the bank's poses: as it is done, in float64, one after the other."""
    bank = np.asfortranarray(np.random.default_rng(3).standard_normal((int(TRAIN * scale), 4)))
    _, seconds = in_turns({"compatible": lambda: [len(near(distances(view, bank), 0.5)) for view in bank]}, repeats)
    print("views", seconds, flush=True)
    return {"size": [len(bank), len(bank), 4], "seconds": seconds}


def large_gallery(distractors: int, folder: Path | None, scale: float) -> dict[str, Any]:
    """Rank a gallery on disk: seconds and memory, and the scores of 64 queries beside those of `rank_gallery` in memory."""
    (query, gallery), (q_pids, g_pids, q_camids, g_camids) = made_up_market(max(64, int(QUERIES * scale)))
    rng, total = np.random.default_rng(4), GALLERY + distractors
    order = rng.permutation(total)
    pids, camids = np.append(g_pids, np.full(distractors, -1))[order], np.append(g_camids, rng.integers(0, CAMERAS, distractors))[order]
    who = q_pids, pids, q_camids, camids
    with tempfile.TemporaryDirectory(dir=folder) as place:
        path = Path(place) / "gallery.npy"
        file = np.lib.format.open_memmap(path, "w+", np.float32, (total, WIDTH))
        for start in range(0, total, 2**14):
            of = order[start : start + 2**14]
            file[start : start + len(of)] = 4.1 * rng.standard_normal((len(of), WIDTH), dtype=np.float32)  # as long as Market's
            file[start : start + len(of)][of < GALLERY] = gallery[torch.from_numpy(of[of < GALLERY])]
        file.flush()
        del file, gallery
        Path("/proc/self/clear_refs").write_text("5")
        before, clock, start = memory_mb("VmRSS"), time.perf_counter(), time.process_time()
        ranking = rank_large_gallery(query, path, *who)
        cost = {"processor_s": time.process_time() - start, "clock_s": time.perf_counter() - clock,
                "peak_extra_mb": memory_mb("VmHWM") - before, "file_mb": path.stat().st_size / 1e6}  # fmt: skip
        print("large gallery", cost, ranking.map, flush=True)
        few = q_pids[:64], pids, q_camids[:64], camids
        Path("/proc/self/clear_refs").write_text("5")
        before, start = memory_mb("VmRSS"), time.process_time()
        in_memory = rank_gallery(query[:64], np.load(path), *few)
        beside = {"processor_s": time.process_time() - start, "peak_extra_mb": memory_mb("VmHWM") - before}
        start = time.process_time()
        on_disk = rank_large_gallery(query[:64], path, *few)
        seconds = time.process_time() - start
    pairs = [(getattr(in_memory, name), getattr(on_disk, name)) for name in ("cmc", "ap", "inp", "first_rank")]
    same = all(np.array_equal(*pair, equal_nan=True) for pair in pairs)
    return {
        "size": [len(query), total, WIDTH], **cost, "map": ranking.map, "minp": ranking.minp, "rank-1": float(ranking.cmc[0]),
        "64 queries": {"rank_gallery": beside, "rank_large_gallery": {"processor_s": seconds}, "equal to the last bit": same},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3, help="turns that each backend takes")
    parser.add_argument("--scale", type=float, default=1.0, help="share of every size")
    parser.add_argument("--distractors", type=int, default=1_000_000, help="images beside Market-1501's in the large gallery")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the large gallery's file goes for a while")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="where the result goes")
    options = parser.parse_args()
    host, backends = machine(), here()
    result = {
        **provenance(host), "backends": backends,
        "searches": searches(backends, options.repeats, options.scale),
        "identity gate": gate(backends, options.repeats, options.scale),
        "identity rank-1": first_rank(backends, options.repeats, options.scale),
        "nearest views": views(options.repeats, options.scale),
        "large gallery": large_gallery(int(options.distractors * options.scale), options.folder, options.scale),
    }  # fmt: skip
    result["versions"] |= {name: importlib.metadata.version(name) for name in ("faiss-cpu", "faiss-gpu-cu12") if _installed(name)}
    if options.folder is not None:
        result["command"] = result["command"].replace(str(options.folder), "DIR")
    if not result["large gallery"]["64 queries"]["equal to the last bit"]:
        raise SystemExit("the rankings differ; nothing was written")
    atomic_write_text(options.out, json.dumps(result, indent=2) + "\n")


def _installed(package: str) -> bool:
    try:
        return bool(importlib.metadata.version(package))
    except importlib.metadata.PackageNotFoundError:
        return False


if __name__ == "__main__":
    main()
