"""reid-aug: find and keep poses, inspect data, train a generator, list pairs, write and check dumps, measure quality, run the benchmark."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

USAGE_ERRORS = (ValueError, OSError, KeyError, ModuleNotFoundError)  # bad input, or a package of an extra is missing: one line, exit code 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; 0 when it went well, 1 when `check` or `inspect` found something, 2 for bad input, 130 when stopped half-way.

    What is doubtful in the data goes to standard error, each doubt once.
    """
    from reid_aug.data.doubts import doubts_in_lines

    arguments = _parser().parse_args(argv)
    try:
        with doubts_in_lines(lambda line: print(f"reid-aug: doubt: {line}", file=sys.stderr)):
            return arguments.run(arguments)
    except KeyboardInterrupt:
        print("reid-aug: interrupted", file=sys.stderr)
        return 130
    except FloatingPointError as error:
        return _complain(error, 1)
    except USAGE_ERRORS as error:
        if os.environ.get("REID_AUG_TRACEBACK"):
            raise
        return _complain(error, 2)


def _complain(error: BaseException, code: int) -> int:
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    print(f"reid-aug: {' '.join(message.split())}", file=sys.stderr)
    return code


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"reid-aug: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    from reid_aug.data import poses_options
    from reid_aug.quality import user_study_options
    from reid_aug.synthesis import bank_options, retarget_options
    from reid_aug.synthesis.manifest import package_version

    parser = _Parser(prog="reid-aug", description=__doc__)
    parser.add_argument("--version", action="version", version=f"reid-aug {package_version()}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", parser_class=_Parser)

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=text, description=text)
        added.set_defaults(run=run)
        return added

    def configured(name: str, run: Callable[[argparse.Namespace], int], text: str, folder: str | None = None) -> None:
        first, which = "config.yaml", "one YAML file"
        if folder is not None:
            first, which = "NAME | config.yaml", f"a YAML of configs/{folder} by name, or a file"
        verb(name, run, text).add_argument(
            "settings", nargs="*", metavar=f"{first} | key=value", help=f"{which}, and values that override its keys"
        )

    inspected = verb("inspect", _inspect, "show what is understood of a data set and its keypoints, what is doubtful, and skeletons")
    inspected.epilog = "Exit code 0 without doubts, 1 with some, 2 for what can't be read. train, dump and bench say the same doubts."
    inspected.add_argument("root", metavar="DIR | CSV | MAT | torchreid:NAME:ROOT", help="the people, as data.root names them")
    inspected.add_argument("keypoints", nargs="?", metavar="KEYPOINTS", help="keypoint file of training images; else annotation-train.csv")
    inspected.add_argument("--test-keypoints", metavar="FILE", help="keypoint file of query and gallery; else annotation-test.csv")
    inspected.add_argument("--sheet", metavar="FILE", default="inspect.png", help="PNG for 24 images with skeletons (inspect.png)")
    poses = verb("poses", _poses, "find the joints of the person on every image, or read them from a file, and write a keypoint file")
    poses_options.declare(poses)
    bank_options.declare(verb("bank", _bank, "collect target poses into a file that dump and bench draw from, without the broken ones"))
    configured("train", _train, "train a generator on pairs of images of one person, or a pose estimator (distilled)", "generators")
    configured("layers", _layers, "picture what posewarp puts images together from: heatmaps, limbs, masks, background")
    configured("dump", _dump, "write a data set's people in new poses, as a Market-style folder with a manifest")
    retarget_options.declare(verb("retarget", _retarget, "render one person through a sequence of poses: frames, a .gif or a strip"))
    gate = verb("gate", _gate, "score a dump's images by identity and pose, and write a dump of those that pass")
    gate.add_argument("dump", metavar="DUMP")
    gate.add_argument("settings", nargs="*", metavar="config.yaml | key=value", help="e.g. reid=FILE identity=found novelty=0.1 out=DIR")
    configured("rendered", _rendered, "write the embedded data set of rendered people")
    configured("bench", _bench, "train Re-ID baselines with and without augmentation and report rank-1 and mAP", "benchmarks")
    quality = verb("quality", _quality, "measure the images of a generator, of a dump or real ones by a protocol of configs/quality")
    quality.add_argument("target", metavar="CHECKPOINT | DUMP | real", help="real: the pairs' sources themselves")
    quality.add_argument(
        "settings", nargs="*", metavar="NAME | protocol.yaml | key=value", help="e.g. deformable data.root=DIR pairs.count=1000 out=DIR"
    )
    user_study_options.declare(
        verb("user-study", user_study_options.run_study, "write a page on which people tell real images from generated ones"),
        verb("user-study-merge", user_study_options.run_merge, "put the results of several raters together"),
    )
    check = verb("check", _check, "open every image a dump's manifest names and compare it with what was written")
    check.add_argument("folder")
    pairs = verb("pairs", _pairs, "list the papers' pairs of a keypoint file: ordered pairs of images of one person")
    pairs.add_argument("keypoints", help="keypoint file, with Market-style names")
    pairs.add_argument("--out", required=True, help="CSV to write, header from,to")
    pairs.add_argument("--sample", type=int, help="this many, sampled as pandas' DataFrame.sample does")
    pairs.add_argument("--seed", type=int, default=0)
    pairs.add_argument("--any-pose", action="store_true", help="images without a shoulder or hip, too")
    return parser


def split_settings(settings: Sequence[str], folder: str | None = None) -> tuple[str | None, list[str]]:
    """Part a configuration file, if one is named first, from the overrides; ValueError for a second file.

    `pg2` and the like, without a suffix, are files of that `folder` of the shipped configurations.
    """
    files = [s for s in settings if "=" not in s]
    if len(files) > 1 or (files and settings[0] != files[0]):
        raise ValueError(f"one configuration file may be named, first, and then key=value, got {files[-1]!r}")
    path = files[0] if files else None
    if path is not None and folder is not None:
        from generators import folders
        from reid_aug.config import named, shipped

        path = str(named(path, folder, beside=(*folders(), shipped("poses")) if folder == "generators" else ()))
    return path, [s for s in settings if "=" in s]


def _inspect(arguments: argparse.Namespace) -> int:
    from reid_aug.data.contact_sheet import draw_sheet, refuse_foreign, write_sheet
    from reid_aug.data.inspect import inspect, sheet_people, summary
    from reid_aug.data.loading import DataConfig

    refuse_foreign(arguments.sheet)
    inspection = inspect(DataConfig(root=arguments.root, keypoints=arguments.keypoints, test_keypoints=arguments.test_keypoints))
    print(*summary(inspection), sep="\n")
    doubtful = {name for doubt in inspection.doubts for name in doubt.names}
    shown = sheet_people(inspection, 24)
    write_sheet(arguments.sheet, draw_sheet(shown, doubtful))
    print(f"{'sheet':<10} {arguments.sheet}: {len(shown)} images with their skeletons, right limbs orange, left ones blue")
    return 1 if inspection.doubts else 0


def _poses(arguments: argparse.Namespace) -> int:
    from reid_aug.data.poses_options import run

    print(*(found := run(arguments)).summary(), sep="\n")
    return int(found.nobody_usable)


def _bank(arguments: argparse.Namespace) -> int:
    from reid_aug.synthesis.bank_options import run

    print(*run(arguments), sep="\n")
    return 0


def _train(arguments: argparse.Namespace) -> int:
    from reid_aug import config
    from reid_aug.synthesis.train import TrainConfig, train_from
    from reid_aug.synthesis.train_estimator import is_estimators, train_estimator

    settings = split_settings(arguments.settings, "generators")
    trained = train_estimator(*settings) if is_estimators(*settings) else train_from(config.load(TrainConfig, *settings))
    state = "stopped at" if trained.stopped else "trained"
    print(f"{state} step {trained.step}: {trained.checkpoint}")
    if trained.held_out:
        losses = ", ".join(f"{name} {value:.4f} (in training {trained.losses[name]:.4f})" for name, value in trained.held_out.items())
        print(f"held out: {losses}; over time: {trained.checkpoint.with_name('held_out.md')}")
    return 130 if trained.stopped else 0


def _layers(arguments: argparse.Namespace) -> int:
    from reid_aug import config
    from reid_aug.synthesis.held_out import LayersConfig, write_layers

    settings = config.load(LayersConfig, *split_settings(arguments.settings))
    print(f"{settings.out}: {settings.pairs} pairs, for each from the top {', '.join(write_layers(settings))}")
    return 0


def _dump(arguments: argparse.Namespace) -> int:
    from generators import load
    from reid_aug import config
    from reid_aug.data.doubts import report
    from reid_aug.data.loading import load_people
    from reid_aug.data.masks import masks_in_vain
    from reid_aug.data.people import people_doubts
    from reid_aug.synthesis.augmenter import Augmenter
    from reid_aug.synthesis.dump import DumpConfig, dump
    from reid_aug.synthesis.image_bank import collect, draws_images
    from reid_aug.synthesis.sources import augmentable, in_train, not_augmented, recombinable
    from reid_aug.synthesis.target_poses import RECOMBINED

    settings = config.load(DumpConfig, *split_settings(arguments.settings))
    model = load(settings.checkpoint)
    people = load_people(settings.data, test_poses=True, posed=not draws_images(model, settings.bank), masked=("train",))
    report([*people_doubts(people), *masks_in_vain(settings.data.masks, model)])
    bank = collect((p for p in people if p.split == "train"), model, settings.bank)
    how = {"draw": settings.draw, "batch_size": settings.batch_size, "device": settings.device}
    augmenter = Augmenter(model, bank, settings.per_image, settings.seed, **how)
    rows = dump(people, augmenter, settings.out, copy_real=settings.copy_real).rows
    usable = recombinable if augmenter.draw == RECOMBINED else in_train if augmenter.finds_poses else augmentable
    as_they_are = ", ".join(f"{count} {why}" for why, count in Counter(one.why for one in not_augmented(people, usable)).items())
    rest = as_they_are and f"; training images left as they are: {as_they_are}"
    print(f"{len(rows)} synthetic images of {len({row.pid for row in rows})} people: {settings.out}{rest}")
    return 0


def _retarget(arguments: argparse.Namespace) -> int:
    from reid_aug.synthesis.retarget_options import run

    print(run(arguments))
    return 0


def _gate(arguments: argparse.Namespace) -> int:
    from reid_aug import config
    from reid_aug.synthesis.dump import GateRun, gate_dump

    settings = config.load(GateRun, *split_settings(arguments.settings))
    gated = gate_dump(arguments.dump, settings)
    total = len(gated.manifest.rows)
    for name, count in gated.passed.items():
        print(f"{name}: {count:,} of {total:,} pass")
    where = f": {settings.out}" if gated.written is not None else ""
    print(f"{gated.kept:,} of {total:,} synthetic images kept{where}" if gated.passed else f"{total:,} synthetic images scored")
    return 0


def _quality(arguments: argparse.Namespace) -> int:
    from reid_aug.quality import run as quality

    settings, as_shipped = quality.load_config(*split_settings(arguments.settings, "quality"))
    report = quality.run(arguments.target, settings, as_shipped=as_shipped)
    print(report.table, f"report: {report.folder / 'quality.md'}", sep="\n")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from reid_aug.synthesis.manifest import NAME, Manifest

    folder = Path(arguments.folder)
    manifest = Manifest.load(folder / NAME)
    complaints = manifest.verify(folder)
    for complaint in complaints:
        print(complaint)
    total = len(manifest.rows) + len(manifest.files)
    print(f"{total - len(complaints)} of {total} files ({len(manifest.rows)} synthetic images) are as they were written")
    return 1 if complaints else 0


def _rendered(arguments: argparse.Namespace) -> int:
    from reid_aug import config
    from reid_aug.rendered import RenderedConfig, RenderedSetConfig, write_rendered

    settings = config.load(RenderedSetConfig, *split_settings(arguments.settings))
    try:
        options = RenderedConfig(**(settings.model_extra or {}))
    except TypeError as error:
        raise ValueError(f"rendered data set: {error}") from None
    written = write_rendered(settings.out, options, progress=True)
    print(f"rendered people: {written.root}")
    return 0


def _bench(arguments: argparse.Namespace) -> int:
    from reid_aug.bench import report
    from reid_aug.bench.config import load_config
    from reid_aug.bench.run import run, run_shares
    from reid_aug.bench.summary import summarise, verdicts
    from reid_aug.config import shipped

    path, overrides = split_settings(arguments.settings, "benchmarks")
    config = load_config(path or str(shipped("benchmarks/rendered.yaml")), overrides)
    command = " ".join(["python benchmarks/run.py", *arguments.settings])
    if config.shares:
        print(f"report: {report.write_shares(run_shares(config), config, command)}")
        return 0
    result = run(config)
    summaries = summarise(result)
    written = report.write(result, summaries, config.name, command)
    print(*filter(None, report.tables(result, summaries)), sep="\n\n")
    print(*verdicts(summaries), sep="\n")
    if config.record:
        report.record(result, summaries, config, command)
        print(f"record: {config.record}")
    print(f"report: {written}")
    return 0


def _pairs(arguments: argparse.Namespace) -> int:
    from reid_aug.data.pairs import pairs_from_keypoints, write_pairs

    pairs = pairs_from_keypoints(arguments.keypoints, arguments.sample, arguments.seed, any_pose=arguments.any_pose)
    write_pairs(arguments.out, pairs)
    print(f"{len(pairs):,} pairs: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
