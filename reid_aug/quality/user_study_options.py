"""`reid-aug user-study` and `user-study-merge`: their options, and what they do with them. Light to import."""

from __future__ import annotations

import argparse


def declare(study: argparse.ArgumentParser, merge: argparse.ArgumentParser) -> None:
    """Declare the two verbs' options."""
    study.add_argument("real", metavar="REAL_DIR")
    study.add_argument("fake", metavar="FAKE_DIR")
    study.add_argument("--out", required=True, help="folder to write index.html to")
    study.add_argument("--count", type=int, default=55, help="images of each kind")
    study.add_argument("--practice", type=int, default=10, help="first images, which do not count")
    study.add_argument("--seconds", type=float, default=1.0, help="how long an image is shown")
    study.add_argument("--seed", type=int, default=0)
    merge.add_argument("results", nargs="+", metavar="RESULT.json")
    merge.add_argument("--out", help="JSON to write")


def run_study(arguments: argparse.Namespace) -> int:
    """Write a page."""
    from reid_aug.quality.user_study import write_study

    page = write_study(
        arguments.real, arguments.fake, arguments.out,
        count=arguments.count, practice=arguments.practice, seconds=arguments.seconds, seed=arguments.seed,
    )  # fmt: skip
    print(f"user study: {page}")
    return 0


def run_merge(arguments: argparse.Namespace) -> int:
    """Put results together."""
    from reid_aug.quality.user_study import merge

    merged = merge(arguments.results, arguments.out)
    print(merged)
    if arguments.out:
        print(f"merged: {arguments.out}")
    return 0
