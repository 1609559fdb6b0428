"""`reid-aug bank`: its options, and what it does with them. Light to import: the rest is imported where it is needed."""

from __future__ import annotations

import argparse
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reid_aug.data.people import PersonImage
    from reid_aug.synthesis.bank import PoseBank


def declare(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's options."""
    parser.epilog = "Poses are collected, mirrored, interpolated and thinned in this order. dump and bench take the file as bank=FILE."
    what = "whose poses are collected: a data set's training images, or all of any folder; or a bank that is there, or a preset"
    parser.add_argument("root", metavar="DIR | CSV | torchreid:NAME:ROOT | FILE.safetensors | canonical-8 | canonical-16", help=what)
    parser.add_argument("--out", required=True, metavar="FILE", help=".safetensors file to write")
    parser.add_argument("--keypoints", metavar="FILE", help="keypoint file of the images; else annotation-train.csv")
    parser.add_argument("--size", nargs=2, type=int, metavar=("H", "W"), help="size of the images that poses are for (the commonest)")
    parser.add_argument("--least-joints", type=int, metavar="N", help="joints that a pose has at least (five in nine, 10 of 18)")
    parser.add_argument("--mirror", action="store_true", help="add each pose as a mirror shows it")
    parser.add_argument("--between", type=int, metavar="N", help="add N poses between two near in view; their bank knows no images")
    parser.add_argument("--thin", type=int, metavar="K", help="keep K typical poses")
    parser.add_argument("--by", metavar="kmeans | kmedoids", help="what --thin goes by (kmeans)")
    parser.add_argument("--seed", type=int, default=0, help="of --between and --thin (0)")
    parser.add_argument("--sheet", metavar="FILE", help="PNG for skeletons by view")


def run(arguments: argparse.Namespace) -> list[str]:
    """Make and write a bank, and return in lines what is in it; ValueError or OSError, in one line, for what does not fit."""
    from reid_aug.data.contact_sheet import refuse_foreign, write_sheet
    from reid_aug.synthesis.bank_named import is_named
    from reid_aug.synthesis.bank_sheet import draw_bank

    _refuse(arguments)
    if arguments.sheet is not None:
        refuse_foreign(arguments.sheet)
    if is_named(arguments.root) or (arguments.root.startswith("canonical") and not Path(arguments.root).exists()):
        bank, about, lines = _opened(arguments)
        images_root = None
    else:
        bank, about, lines = _collected(arguments)
        images_root = arguments.root if Path(arguments.root).is_dir() else None
    bank, more = _changed(bank, arguments)
    bank.save(arguments.out, root=images_root, about={**about, **_provenance(arguments)})
    lines += more + [f"{'views':<10} {_views(bank)}", f"{'bank':<10} {arguments.out}: {len(bank):,} poses, {_scenes(bank)}"]
    if arguments.sheet is not None:
        write_sheet(arguments.sheet, draw_bank(bank))
        lines.append(f"{'sheet':<10} {arguments.sheet}: skeletons by view, right limbs orange, left ones blue")
    return lines


def _refuse(arguments: argparse.Namespace) -> None:
    """Raise ValueError for options that mean nothing."""
    from reid_aug.synthesis.bank_file import SUFFIX

    if Path(arguments.out).suffix.lower() != SUFFIX:
        raise ValueError(f"--out is a {SUFFIX} file, got {arguments.out!r}")
    if Path(arguments.out).exists():
        raise FileExistsError(f"{arguments.out} is there already: give another --out, or remove it")
    if arguments.by is not None and arguments.thin is None:
        raise ValueError(f"--by {arguments.by} says how --thin chooses: give --thin K, too")
    if arguments.size is not None and min(arguments.size) < 1:
        raise ValueError(f"--size is H W, 1 at least, got {arguments.size[0]} {arguments.size[1]}")
    if arguments.seed < 0:
        raise ValueError(f"--seed is 0 at least, got {arguments.seed}")


def _opened(arguments: argparse.Namespace) -> tuple[PoseBank, dict[str, Any], list[str]]:
    """Open a bank that is there, and tell how it was made."""
    from reid_aug.synthesis.bank_file import BankFile
    from reid_aug.synthesis.bank_named import CANONICAL, check_named, named_bank

    for key in ("keypoints", "least_joints"):
        if getattr(arguments, key) is not None:
            raise ValueError(f"--{key.replace('_', '-')} is of keypoints that are read, {arguments.root} is a bank already: leave it out")
    size = None if arguments.size is None else tuple(arguments.size)
    check_named(arguments.root)
    made = {} if arguments.root in CANONICAL else BankFile.read(arguments.root).about
    bank, of = named_bank(arguments.root, size), made.get("root") or made.get("bank") or "rendered people"
    lines = [f"{'read':<10} {arguments.root}: {len(bank):,} poses of {of}"]
    return bank, {"bank": arguments.root, "bank_digest": bank.digest, "made": made}, lines


def _collected(arguments: argparse.Namespace) -> tuple[PoseBank, dict[str, Any], list[str]]:
    """Collect the poses that are fit for a bank, and tell which were not."""
    from reid_aug.digests import file_digests
    from reid_aug.synthesis.bank import PoseBank
    from reid_aug.synthesis.bank_choice import choose

    people, keypoints = _people(arguments.root, arguments.keypoints)
    chosen = choose(people, arguments.least_joints)
    if not chosen.kept:
        raise ValueError(f"no pose of {arguments.root} is fit for a bank: {'; '.join(chosen.summary()[1:])}")
    bank = PoseBank.collect(chosen.kept, tuple(arguments.size) if arguments.size is not None else _commonest(chosen.kept))
    if all(person.pid == 0 and person.camid == 0 for person in people):  # a folder of images says nothing of cameras
        from dataclasses import replace

        bank = replace(bank, camids=None)
    about = {
        "root": arguments.root, "keypoints": os.fspath(keypoints) if keypoints else None,
        "keypoints_sha256": file_digests([keypoints])[0] if keypoints and Path(keypoints).is_file() else None,
        "kept": len(chosen.kept), "dropped": chosen.counts,
    }  # fmt: skip
    return bank, about, [f"{'read':<10} {arguments.root}: {len(people):,} images", *chosen.summary()]


def _people(root: str, keypoints: str | None) -> tuple[list[PersonImage], Path | str | None]:
    """Read training images, or those of a folder that is no data set, with poses, and name their keypoint file."""
    from reid_aug.data.doubts import report
    from reid_aug.data.estimate import images_of
    from reid_aug.data.loading import DataConfig, keypoint_files, load_people, read_people, with_keypoints
    from reid_aug.data.market import is_market_folder
    from reid_aug.data.people import PersonImage, people_doubts

    if Path(root).is_dir() and not is_market_folder(root):
        if keypoints is None:
            raise ValueError(f"{root} is a folder of images and no data set: name its keypoint file with --keypoints FILE")
        people = [PersonImage(path, 0, 0, "train", alias=name) for name, path in images_of(root).items()]
        return with_keypoints(people, keypoints, ("train",)), keypoints
    data = DataConfig(root=root, keypoints=keypoints, allow_overlap=True)
    people = [p for p in load_people(data) if p.split == "train"]
    report(people_doubts(people))
    return people, keypoints or keypoint_files(data, read_people(root, allow_overlap=True)[1])["train"]


def _commonest(people: list[PersonImage]) -> tuple[int, int]:
    """Give the commonest size (H, W) of images, of equals the larger."""
    counts = Counter(person.pose.size for person in people if person.pose is not None)
    height, width = max(counts, key=lambda size: (counts[size], size))
    return int(height), int(width)


def _changed(bank: PoseBank, arguments: argparse.Namespace) -> tuple[PoseBank, list[str]]:
    """Mirror, interpolate and thin a bank as options say."""
    from reid_aug.synthesis.bank import KMEANS
    from reid_aug.synthesis.between import with_between

    lines = []
    if arguments.mirror:
        bank = bank.with_mirrored()
        lines.append(f"{'mirrored':<10} {len(bank) // 2:,} more")
    if arguments.between is not None:
        bank = with_between(bank, arguments.between, arguments.seed)
        lines.append(f"{'between':<10} {arguments.between:,} more, each between two near in view")
    if arguments.thin is not None:
        before, by = len(bank), arguments.by or KMEANS
        bank = bank.thin(arguments.thin, arguments.seed, by=by)
        lines.append(f"{'thinned':<10} {before:,} to {len(bank):,} by {by}")
    return bank, lines


def _provenance(arguments: argparse.Namespace) -> dict[str, Any]:
    from reid_aug.synthesis.manifest import package_version

    options = ("size", "least_joints", "mirror", "between", "thin", "by", "seed")
    return {"reid-aug": package_version(), "options": {key: getattr(arguments, key) for key in options}}


def _views(bank: PoseBank) -> str:
    from reid_aug.data.body import UNKNOWN, VIEWS, view

    counts = Counter(view(bank.pose).tolist())
    return ", ".join(f"{counts[i]:,} {name}" for i, name in (*enumerate(VIEWS), (UNKNOWN, "unknown")) if counts[i] or i != UNKNOWN)


def _scenes(bank: PoseBank) -> str:
    return "each with its image" if bank.paths is not None else f"without images: {bank.without_images}"
