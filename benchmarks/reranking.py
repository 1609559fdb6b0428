"""Measure rerank against torchreid's k-reciprocal re-ranking at the size of Market-1501, in one process.

    python benchmarks/reranking.py [--queries N] [--gallery N] [--repeats N] [--out FILE]

Features are made up: 750 people in clusters and distractors between them (3,368 queries, 15,913 gallery images, 512
numbers each; fewer of all for a smaller gallery). torchreid is measured as its engine runs it: three distance matrices,
then re_ranking on their squares. Ours takes the features to the same numbers. Prints a table, checks that both give
the same distances and scores and writes benchmarks/results/reranking.json. At full size torchreid needs 9 GB of
memory and minutes. Needs torchreid; memory is read from Linux' /proc.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ranking import CAMERAS, GALLERY, PEOPLE, QUERIES, WIDTH, machine, measured, provenance, torchreid_modules

from reid_aug.baselines.ranking import Ranking, rank_distances
from reid_aug.baselines.reranking import rerank
from reid_aug.images import atomic_write_text

K1, K2, LAMBDA = 20, 6, 0.3
RESULT = Path(__file__).resolve().parent / "results" / "reranking.json"


def clustered_market(queries: int, gallery: int) -> tuple[list[torch.Tensor], list[np.ndarray]]:
    """Make up features of queries and gallery, and their labels; a distractor (pid 0) is a cluster of its own."""
    rng = np.random.default_rng(0)
    people, distractors = max(2, PEOPLE * gallery // GALLERY), 2_793 * gallery // GALLERY
    centres = rng.standard_normal((people + 1, WIDTH), dtype=np.float32)
    pids = [rng.integers(1, people + 1, queries)]
    pids.append(np.concatenate([np.zeros(distractors, dtype=np.int64), rng.integers(1, people + 1, gallery - distractors)]))
    features = []
    for of in pids:
        points = centres[of]
        points[of == 0] = rng.standard_normal((int((of == 0).sum()), WIDTH), dtype=np.float32)
        # So much noise that neighbours are often wrong.
        features.append(torch.from_numpy(points + 2.75 * rng.standard_normal(points.shape, dtype=np.float32)))
    return features, [*pids, *(rng.integers(0, CAMERAS, len(of)) for of in pids)]


def torchreid_reranking() -> Any:
    """Import torchreid's re_ranking, under either of its package names."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        package = "torchreid.reid.utils.rerank" if importlib.util.find_spec("torchreid.reid") else "torchreid.utils.rerank"
        return importlib.import_module(package).re_ranking


def by_torchreid(query: torch.Tensor, gallery: torch.Tensor) -> tuple[np.ndarray, dict[str, float]]:
    """Re-rank by torchreid, and say what it costs: the three matrices are held while it ranks."""
    matrix = torchreid_modules()[0].compute_distance_matrix
    re_ranking = torchreid_reranking()
    pairs = ((query, gallery), (query, query), (gallery, gallery))
    matrices, matrix_s, matrix_mb = measured(lambda: [matrix(a, b).numpy() for a, b in pairs])
    result, rank_s, rank_mb = measured(lambda: re_ranking(*matrices, K1, K2, LAMBDA))
    held = sum(m.nbytes for m in matrices) / 1e6
    # The result is a view of all N columns; a copy lets go of the rest.
    return result.copy(), {
        "distance_s": matrix_s,
        "reranking_s": rank_s,
        "total_s": matrix_s + rank_s,
        "peak_extra_mb": max(matrix_mb, held + rank_mb),
    }


def scores(ranking: Ranking) -> dict[str, float]:
    return {"map": ranking.map, "minp": ranking.minp, "rank-1": float(ranking.cmc[0])}


def compare(queries: int, gallery: int, repeats: int) -> dict[str, Any]:
    """Run both systems on the same features; ours before and after torchreid's, which runs once."""
    host = machine()
    (query, rows), (q_pids, g_pids, q_camids, g_camids) = clustered_market(queries, gallery)
    who = q_pids, g_pids, q_camids, g_camids
    torchreid_modules()[0].compute_distance_matrix(query[:64], rows[:64])  # wakes the maths library up for both

    def ours() -> np.ndarray:
        return rerank(query, rows, K1, K2, LAMBDA, distance="squared-twice")

    runs = [measured(ours) for _ in range(repeats)]
    expected, cost = by_torchreid(query, rows)
    runs += [measured(ours) for _ in range(repeats)]
    seconds = sorted(run[1] for run in runs)
    peak_mb, median = max(run[2] for run in runs), float(np.median(seconds))
    apart = np.abs(runs[0][0] - expected)
    before, after = scores(rank_distances(expected, *who)), scores(rank_distances(runs[0][0], *who))
    return {
        "queries": queries,
        "gallery": gallery,
        "width": WIDTH,
        "k1": K1,
        "k2": K2,
        "lambda": LAMBDA,
        **provenance(host),
        "torchreid": cost,
        "reid_aug": {"median_s": median, "fastest_s": seconds[0], "slowest_s": seconds[-1], "runs": len(runs), "peak_extra_mb": peak_mb},
        "times_faster": cost["total_s"] / median,
        "times_less_memory": cost["peak_extra_mb"] / peak_mb,
        "scores": after,
        "differences": {name: abs(after[name] - before[name]) for name in after},
        "largest_distance_difference": float(apart.max()),
        "share_of_distances_over_1e-5_apart": float((apart > 1e-5).mean()),
    }


def table(result: dict[str, Any]) -> str:
    torchreid, ours = result["torchreid"], result["reid_aug"]
    return "\n".join(
        [
            f"measured on {result['queries']:,} queries x {result['gallery']:,} gallery images x {result['width']}",
            f"{'':24}{'seconds':>10}{'extra MB':>10}",
            f"{'torchreid':24}{torchreid['total_s']:>10.2f}{torchreid['peak_extra_mb']:>10.0f}",
            f"{'rerank, median':24}{ours['median_s']:>10.2f}{ours['peak_extra_mb']:>10.0f}",
            f"{'  fastest, slowest':24}{ours['fastest_s']:>10.2f}{ours['slowest_s']:>10.2f} s",
            f"{result['times_faster']:.1f} times as fast in 1/{result['times_less_memory']:.1f} of the memory; largest differences: "
            f"mAP {result['differences']['map']:.1e}, rank-1 {result['differences']['rank-1']:.1e}, "
            f"distance {result['largest_distance_difference']:.1e} "
            f"({result['share_of_distances_over_1e-5_apart']:.1e} of all over 1e-5)",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--gallery", type=int, default=GALLERY)
    parser.add_argument("--repeats", type=int, default=2, help="runs of rerank before, and again after, torchreid's")
    parser.add_argument("--out", type=Path, default=RESULT, metavar="FILE", help="where the result goes")
    options = parser.parse_args()
    result = compare(options.queries, options.gallery, options.repeats)
    print(table(result))
    # Two neighbours as far away as float32 can tell may change places, which moves few distances by little.
    if result["differences"]["map"] > 1e-5 or result["share_of_distances_over_1e-5_apart"] > 1e-4:
        raise SystemExit("the results differ; nothing was written")
    atomic_write_text(options.out, json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
