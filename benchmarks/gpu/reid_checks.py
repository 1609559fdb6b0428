"""Checks of what Re-ID does on a device: rendering people in new poses, ranking, neighbours, re-ranking."""

from __future__ import annotations

import copy
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.bench import Bench, Rows, difference
from reid_aug import Augmenter, PoseAugmentation, PoseBank, PosedImages, collate_poses
from reid_aug.baselines.neighbours import top_k
from reid_aug.baselines.ranking import rank_gallery
from reid_aug.baselines.reranking import rerank
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.rendered.dataset import write_rendered
from reid_aug.rendered.plan import RenderedConfig


def augmenter(bench: Bench) -> Rows:
    """Rendered people in new poses: Augmenter's images in steps of 255, PoseAugmentation's in [0, 1]."""
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as folder:
        config = RenderedConfig(train_identities=2 if bench.tiny else 6, train_images=4, test_identities=2, size=bench.size)
        root = write_rendered(Path(folder, "set"), config).root
        persons = [person for person in load_people(DataConfig(root=str(root))) if person.split == "train"]
        bank = PoseBank.collect(persons, bench.size)
        for name in ("pg2", "deformable", "vdg", "momi"):
            images = []
            for device in bench.devices:
                renderer = Augmenter(bench.model(name), bank, 2, 0, device=device)
                rendered = [torch.from_numpy(image) for _, image in renderer.render(renderer.plan(persons), persons)]
                images.append(torch.stack(rendered).float())
            rows[f"Augmenter {name}, of 255"] = (row := difference(*images)) | {"ok": row["mean"] < 1}
        data = PosedImages(persons[: bench.batch], bench.size)
        batch = collate_poses([data[i] for i in range(len(data))])
        for name in ("pg2", "deformable", "posewarp"):
            augment = PoseAugmentation(bench.model(name), bank, 0.7, seed=1)
            device_augment = copy.deepcopy(augment).to(bench.device)
            row = difference(device_augment(batch.images.to(bench.device), batch.poses), augment(batch.images, batch.poses))
            rows[f"PoseAugmentation {name}, of 1"] = row | {"ok": row["mean"] < 0.01}
    return rows


def ranking(bench: Bench) -> Rows:
    """Ranking, neighbours and re-ranking at Market-1501's size; neighbours equally far within float32 may change places."""
    queries, gallery_size, width, identities = (40, 300, 16, 20) if bench.tiny else (3368, 15913, 512, 750)
    rng, rows = np.random.default_rng(0), {}
    centres = rng.standard_normal((identities, width), dtype=np.float32)
    pids = [rng.integers(0, identities, count) for count in (queries, gallery_size)]
    camids = [rng.integers(0, 6, count) for count in (queries, gallery_size)]
    query, gallery = (torch.from_numpy(centres[p] + 2 * rng.standard_normal((len(p), width), dtype=np.float32)) for p in pids)
    for metric in ("euclidean", "cosine"):
        call = lambda q, g, metric=metric: rank_gallery(q, g, *pids, *camids, metric=metric)  # noqa: E731
        bench.both(call, query, gallery)  # warms up
        seconds, scores = zip(*(_timed(call, query.to(device), gallery.to(device)) for device in bench.devices), strict=True)
        apart = np.abs(np.nan_to_num(scores[0].ap) - np.nan_to_num(scores[1].ap))
        swapped = int((apart > 1e-3).sum())
        rows[f"rank_gallery {metric}"] = {
            "ok": abs(scores[0].map - scores[1].map) < 1e-4 and swapped <= queries / 1000, "map": [score.map for score in scores],
            "rank1": [float(score.cmc[0]) for score in scores], "largest ap difference": float(apart.max()), "queries apart": swapped,
            "seconds": list(seconds),
        }  # fmt: skip
    device, cpu = bench.both(lambda q, g: top_k(q, g, 50), query, gallery)
    swapped = int((device[1].cpu() != cpu[1]).sum())
    rows["top_k"] = difference(device[0], cpu[0]) | {"ok": swapped <= 0.001 * cpu[1].numel(), "indices that differ": swapped}
    call = lambda q, g: torch.from_numpy(rerank(q, g))  # noqa: E731
    rows["rerank 400 x 2000"] = difference(*bench.both(call, query[:400], gallery[:2000]))
    return rows


def _timed(call: Callable[..., Any], *inputs: Tensor) -> tuple[float, Any]:
    start = time.perf_counter()
    result = call(*inputs)
    return time.perf_counter() - start, result
