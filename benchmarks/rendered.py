"""How fast people are rendered and written, JPEG and keypoints included, on one core.

    taskset -c 0 python benchmarks/rendered.py [folder]

Writes benchmarks/results/rendered_speed.json. A folder on a memory file system measures rendering, not the disk.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from datetime import date
from importlib.metadata import version
from pathlib import Path

from reid_aug.rendered import RenderedConfig, write_rendered

RESULT = Path(__file__).parent / "results" / "rendered_speed.json"
RUNS = 3


def main() -> None:
    config = RenderedConfig()
    images = config.train_identities * config.train_images + config.test_identities * (config.query_images + config.gallery_images)
    seconds = []
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else None) as folder:
        for run in range(RUNS):
            began = time.perf_counter()
            write_rendered(Path(folder) / str(run), config)
            seconds.append(time.perf_counter() - began)
    rates = sorted(images / s for s in seconds)
    # Not before: torchreid comes with it, whose thousands of objects Python's garbage collector then visits again and again.
    from reid_aug.bench.results import cpu_name

    result = {
        "images": images, "size": list(config.size),
        "images_per_second": {"median": rates[RUNS // 2], "slowest": rates[0], "fastest": rates[-1]},
        "cores": 1, "cpu": cpu_name(), "versions": {name: version(name) for name in ("numpy", "opencv-python-headless", "torch")},
        "command": "taskset -c 0 python benchmarks/rendered.py", "date": str(date.today()),
    }  # fmt: skip
    RESULT.write_text(json.dumps(result, indent=1) + "\n")
    print(f"{images} images of {config.size[0]} × {config.size[1]}: {rates[RUNS // 2]:.0f} a second on one core (median of {RUNS})")


if __name__ == "__main__":
    main()
