"""Train Re-ID baselines with and without pose augmentation, and report rank-1 and mAP beside image quality.

    python benchmarks/run.py                                             the embedded data set, about ten minutes on two cores
    python benchmarks/run.py market_layout data.root=DIR data.keypoints=FILE
    python benchmarks/run.py [name | config.yaml] [key=value …]          any key of the configuration

A run that was killed goes on where it stopped. `reid-aug bench` is the same command.
"""

import sys

from reid_aug.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
