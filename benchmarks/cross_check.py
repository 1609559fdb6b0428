"""Train one Re-ID baseline by torchreid's own engine and by this package's loop: same data, same steps, same scores within noise?

    python benchmarks/cross_check.py [--seeds 4] [--steps 200] [--out FILE]

Data are the benchmark's rendered people at 64 × 32. Both train OSNet x0.25 from scratch by Adam with label smoothing, flips
and a cosine schedule (torchreid's moves once an epoch) on shuffled batches of 64, and both networks' features are ranked
alike. Prints both and the difference of mAP with its interval over queries and trainings, and writes
results/cross_check.json.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torchreid import data, engine, models, optim

from reid_aug import images
from reid_aug.baselines.network import features_of, labels_of
from reid_aug.baselines.ranking import Ranking, rank_gallery
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.bench.results import device_name, versions
from reid_aug.bench.statistics import mean_std, over_seeds
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.market import read_market_folder
from reid_aug.data.people import PersonImage
from reid_aug.rendered import RenderedConfig, write_rendered

RESULT = Path(__file__).parent / "results" / "cross_check.json"
SIZE, BATCH, RATE = (64, 32), 64, 1e-3
NAME = "rendered-cross-check"


def by_engine(people: list[PersonImage], steps: int, seed: int, folder: str) -> tuple[nn.Module, float]:
    """Train by torchreid's ImageSoftmaxEngine for the epochs that make `steps` steps; the network and seconds of training."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    manager = data.ImageDataManager(
        root=folder, sources=NAME, targets=NAME, height=SIZE[0], width=SIZE[1],
        transforms=["random_flip"],  # pyright: ignore[reportArgumentType] - a list is what its documentation gives
        batch_size_train=BATCH, batch_size_test=256, workers=0, use_gpu=torch.cuda.is_available(),
    )  # fmt: skip
    model = models.build_model("osnet_x0_25", manager.num_train_pids, loss="softmax", pretrained=False)
    model = model.cuda() if torch.cuda.is_available() else model
    epochs = round(steps / len(manager.train_loader))
    optimizer = optim.build_optimizer(model, optim="adam", lr=RATE, weight_decay=5e-4, adam_beta2=0.999)
    scheduler = optim.build_lr_scheduler(optimizer, lr_scheduler="cosine", max_epoch=epochs)
    run = engine.ImageSoftmaxEngine(
        manager, model, optimizer=optimizer, scheduler=scheduler, use_gpu=torch.cuda.is_available(), label_smooth=True
    )
    run.test = lambda *_, **__: 0.0  # pyright: ignore[reportAttributeAccessIssue] - it prints what is ranked alike below
    began = time.perf_counter()
    run.run(save_dir=folder, max_epoch=epochs, print_freq=10_000)
    return model.eval(), time.perf_counter() - began


def by_loop(people: list[PersonImage], steps: int, seed: int) -> tuple[nn.Module, float]:
    """Train by this package's loop on images decoded once; the network and seconds, decoding included."""
    config = BaselineConfig(
        size=SIZE, steps=steps, sampler="shuffle", identities=BATCH, instances=1, optimizer="adam", learning_rate=RATE,
        schedule="cosine", clip_norm=None, crop_px=0,
    )  # fmt: skip
    began = time.perf_counter()
    train = [p for p in people if p.split == "train"]
    training_set = TrainingSet(images.read_many([p.path for p in train], SIZE), labels_of([p.pid for p in train]))
    return train_baseline(config, training_set, seed, label=str(seed)), time.perf_counter() - began


def scored(model: nn.Module, people: list[PersonImage]) -> Ranking:
    """Rank the gallery by a network's features."""
    query, gallery = ([p for p in people if p.split == split] for split in ("query", "gallery"))
    features = [features_of(model, images.read_many([p.path for p in part], SIZE)) for part in (query, gallery)]
    labels = [[getattr(p, key) for p in part] for key in ("pid", "camid") for part in (query, gallery)]
    return rank_gallery(*features, *labels)  # type: ignore[arg-type]


class Folder(data.ImageDataset):
    """A Market-style folder as a torchreid data set."""

    def __init__(self, root: str = "", **kwargs: Any) -> None:
        people = read_market_folder(Path(root))
        label = {pid: i for i, pid in enumerate(sorted({p.pid for p in people if p.split == "train"}))}
        train = [(p.path, label[p.pid], p.camid) for p in people if p.split == "train"]
        query, gallery = ([(p.path, p.pid, p.camid) for p in people if p.split == split] for split in ("query", "gallery"))
        super().__init__(train, query, gallery, **kwargs)


def compare(seeds: int, steps: int) -> dict[str, Any]:
    """Run both trainings with every seed, in turn."""
    data.register_image_dataset(NAME, Folder)
    torch.set_flush_denormal(True)
    ap: dict[str, list[np.ndarray]] = {"torchreid": [], "reid_aug": []}
    hits: dict[str, list[float]] = {name: [] for name in ap}
    seconds: dict[str, list[float]] = {name: [] for name in ap}
    with tempfile.TemporaryDirectory() as folder:
        options = RenderedConfig(train_identities=80, test_identities=60, train_images=5, sector_deg=15, size=SIZE)
        write_rendered(folder, options)
        people = load_people(DataConfig(root=folder))
        for seed in range(seeds):
            with contextlib.redirect_stdout(io.StringIO()):
                trained = {"torchreid": by_engine(people, steps, seed, folder), "reid_aug": by_loop(people, steps, seed)}
            for name, (model, took) in trained.items():
                ranking = scored(model, people)
                ap[name].append(ranking.ap)
                hits[name].append(float(ranking.cmc[0]))
                seconds[name].append(took)
                print(f"seed {seed}, {name}: mAP {100 * ranking.map:.1f}, rank-1 {100 * ranking.cmc[0]:.1f}, {took:.0f} s", flush=True)
    test = over_seeds(np.stack(ap["reid_aug"]), np.stack(ap["torchreid"]))
    assert test is not None
    rows = {
        name: {
            "map": mean_std([float(np.nanmean(of_seed)) for of_seed in ap[name]]), "rank1": mean_std(hits[name]),
            "seconds": float(np.median(seconds[name])),
        }
        for name in ap
    }  # fmt: skip
    difference = {"map": test.interval._asdict(), "p": test.p_value}
    return {**rows, "difference": difference, "times_faster": rows["torchreid"]["seconds"] / rows["reid_aug"]["seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="trainings of each, two at least")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds is 2 at least, got {options.seeds}: one training says nothing of noise")
    result = compare(options.seeds, options.steps)
    for name in ("torchreid", "reid_aug"):
        row = result[name]
        columns = (("map", "mAP"), ("rank1", "rank-1"))
        scores = ", ".join(f"{column} {100 * row[key][0]:.1f} ± {100 * row[key][1]:.1f}" for key, column in columns)
        print(f"{name:10} {scores}, {row['seconds']:.1f} s")
    gap = result["difference"]["map"]
    print(
        f"difference of mAP {100 * gap['mean']:+.1f} [{100 * gap['low']:+.1f}, {100 * gap['high']:+.1f}] over queries and trainings, "
        f"p = {result['difference']['p']:.2f}; {result['times_faster']:.1f} times as fast"
    )
    about = {"command": " ".join(["python", "benchmarks/cross_check.py", *sys.argv[1:]]), "device": device_name(), "versions": versions()}
    about |= {"date": date.today().isoformat(), "seeds": options.seeds, "steps": options.steps}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({**about, **result}, indent=1) + "\n")
    print(f"result: {options.out}")


if __name__ == "__main__":
    main()
