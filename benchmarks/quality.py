"""Time SSIM and mask-SSIM of many pairs against scikit-image's loop, in one process, and write results/quality.json.

    python benchmarks/quality.py [--pairs 12000] [--loop 500] [--rounds 5] [--out FILE]

Images are rendered people at 128 × 64. scikit-image's loop is timed on `--loop` pairs and scaled, which is
fair to a loop; both take turns, and the best of each counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.metrics import structural_similarity
from torch import Tensor
from tqdm import tqdm

from reid_aug import images
from reid_aug.bench.results import cpu_name
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.pairs import held_out_pairs
from reid_aug.quality.held_out import protocol_mask
from reid_aug.quality.ssim import ssim
from reid_aug.rendered import RenderedConfig, write_rendered

RESULT = Path(__file__).parent / "results" / "quality.json"


def people(count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return two images of one person and the second one's body mask, `count` times."""
    with tempfile.TemporaryDirectory() as folder:
        root = write_rendered(Path(folder) / "set", RenderedConfig(train_identities=2, test_identities=60), progress=True).root
        pairs = held_out_pairs(load_people(DataConfig(root=str(root)), test_poses=True), min(count, 2000))
        first, second = (images.read_many([p.path for p in side], (128, 64)) for side in zip(*pairs, strict=True))
        mask = protocol_mask(type(pairs[0][1].pose).stack([target.pose for _, target in pairs])).squeeze(1)  # type: ignore[union-attr]
    pick = torch.arange(count) % len(pairs)
    return first[pick], second[pick], mask[pick]


def loop(generated: Tensor, truth: Tensor, mask: Tensor) -> list[tuple[float, float]]:
    """Score pairs by scikit-image as Deformable GAN's test.py calls it."""

    def score(a: np.ndarray, b: np.ndarray) -> float:
        spread = int(a.max()) - int(a.min())
        options: dict[str, Any] = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": max(spread, 1)}
        return float(structural_similarity(a, b, channel_axis=-1, **options))  # type: ignore[arg-type]

    scores = []
    for a, b, inside in zip(generated.permute(0, 2, 3, 1).numpy(), truth.permute(0, 2, 3, 1).numpy(), mask.numpy(), strict=True):
        scores.append((score(a, b), score(a * inside[..., None], b * inside[..., None])))
    return scores


def ours(generated: Tensor, truth: Tensor, mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Return both scores of every pair, (N, 2)."""
    return torch.stack((ssim(generated, truth, dtype=dtype), ssim(generated, truth, mask=mask, dtype=dtype)), 1)


def timed(call: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call took, and its result."""
    began = time.perf_counter()
    result = call()
    return time.perf_counter() - began, result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12000)
    parser.add_argument("--loop", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    generated, truth, mask = people(arguments.pairs)
    # In turns, the best of each: a shared machine has fast minutes and slow ones.
    best: dict[str, float] = {}
    off: dict[str, tuple[float, float]] = {}
    dtypes = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float64, torch.float32)}
    per_round = arguments.loop // arguments.rounds
    for i in tqdm(range(arguments.rounds), unit="round", disable=None):
        some = slice(i * per_round, (i + 1) * per_round)
        seconds, kept = timed(lambda some=some: loop(generated[some], truth[some], mask[some]))
        best["loop"] = min(best.get("loop", np.inf), seconds * arguments.pairs / per_round)
        expected = torch.tensor(kept)
        for name, dtype in dtypes.items():
            seconds, scores = timed(lambda dtype=dtype: ours(generated, truth, mask, dtype))
            best[name] = min(best.get(name, np.inf), seconds)
            differs = scores[some].double() - expected
            off[name] = float(differs.abs().max()), float(differs.mean(0).abs().max())
    result: dict[str, Any] = {"pairs": arguments.pairs, "scikit_image_s": round(best["loop"], 2), "scikit_image_pairs_a_round": per_round}
    print(f"{arguments.pairs:,} pairs, SSIM and mask-SSIM: scikit-image's loop {best['loop']:.1f} s")
    for name in dtypes:
        ratio, (largest, mean) = best["loop"] / best[name], off[name]
        print(f"  {name}: {best[name]:.2f} s, {ratio:.1f} ×; a score differs by {largest:.1e} at most, a mean by {mean:.1e}")
        result[name] = {"seconds": round(best[name], 3), "ratio": round(ratio, 1), "largest_difference": largest, "of_means": mean}
    about = {"device": f"{cpu_name()}, {torch.get_num_threads()} threads", "torch": torch.__version__, "date": date.today().isoformat()}
    images.atomic_write_text(arguments.out, json.dumps({"command": "python benchmarks/quality.py", **about, **result}, indent=1) + "\n")
    print(f"result: {arguments.out}")


if __name__ == "__main__":
    main()
