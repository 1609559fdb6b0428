"""The real images of a dump: copied as JPEG files, and known by content, so that a dump of others is not taken for one of these."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from generators import Pose
from reid_aug import images
from reid_aug.data.doubts import first_few
from reid_aug.data.market import MARKET_FOLDERS
from reid_aug.data.masks import mask_digests
from reid_aug.data.people import PersonImage
from reid_aug.digests import file_digests
from reid_aug.synthesis.manifest import NAME, SOURCES, Manifest

_JPEG = b"\xff\xd8\xff"


def copy_images(people: Sequence[PersonImage], out: Path) -> dict[str, str]:
    """Copy images into the folders of their splits below `out`, under their names, as JPEG files; digests by path below `out`.

    A JPEG file is copied byte for byte, unless EXIF says to turn it, which many readers do not; anything else is encoded, and
    a line on standard error says how many.
    """
    digests, encoded = {}, []
    for person in tqdm(people, desc="copy real images", unit="image", disable=None):
        path = _place(person)
        if plain_jpeg(person.path):
            data = Path(person.path).read_bytes()
        else:
            data = images.encode(images.read(person.path), ".jpg")
            encoded.append(os.path.basename(person.path))
        digests[path] = _write(data, out / path)
    if encoded:
        print(
            f"note: {len(encoded)} of {len(people)} real images are encoded as upright JPEG, quality 95: {first_few(encoded)}",
            file=sys.stderr,
        )
    return digests


def plain_jpeg(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is a JPEG that every reader shows as it is stored."""
    with open(path, "rb") as file:
        return file.read(len(_JPEG)) == _JPEG and not images.turned(path)


def copy_file(source: Path, target: Path) -> str:
    """Copy one file, atomically, and give its digest."""
    return _write(source.read_bytes(), target)


def _write(data: bytes, target: Path) -> str:
    """Write a file, atomically, unless it is there already, and give its digest."""
    if not target.exists() or target.read_bytes() != data:
        images.atomic_write_bytes(target, data)
    return hashlib.sha256(data).hexdigest()


def _place(person: PersonImage) -> str:
    return f"{MARKET_FOLDERS[person.split]}/{person.name}"


def sources_digest(people: Sequence[PersonImage], *, masks: bool = False) -> str:
    """Digest what a dump is made from: content, name, identity, camera and pose of its images, in any order; silhouettes, with `masks`."""
    contents = file_digests([p.path for p in people])
    known = mask_digests(people if masks else [])
    lines = [
        repr((_place(p), p.pid, p.camid, content, _pose(p.pose), *known.get(p.path, ())))
        for p, content in zip(people, contents, strict=True)
    ]  # fmt: skip
    return hashlib.sha256("\n".join(sorted(lines)).encode("utf-8", "backslashreplace")).hexdigest()


def _pose(pose: Pose | None) -> str | None:
    if pose is None:
        return None
    numbers = pose.xy.contiguous().numpy().tobytes() + pose.visible.contiguous().numpy().tobytes()
    return hashlib.sha256(f"{pose.skeleton.name} {tuple(pose.size)}".encode() + numbers).hexdigest()


def refuse_other_sources(out: Path, sources: str, people: Sequence[PersonImage]) -> None:
    """Raise ValueError for a dump in `out` that was made from other images than these `people`, with what is known of the difference."""
    if not (out / NAME).exists():
        return
    known = Manifest.load(out / NAME)
    if SOURCES not in known.made_by:
        print(f"note: {out} is from before dumps recorded their sources: whether its images are of these can't be told", file=sys.stderr)
    elif known.made_by[SOURCES] != sources:
        raise ValueError(f"{out} was made from other images{_difference(known, people)}: give another folder or remove it")


def _difference(known: Manifest, people: Sequence[PersonImage]) -> str:
    """Say which images came, went, or changed since a dump was written, as far as its manifest knows them."""
    there = {path: digest for path, digest in known.files.items() if not path.endswith(".csv")}
    at = {_place(p): p.path for p in people}
    digests = dict(zip(at, file_digests(list(at.values())), strict=True))
    came, went = sorted(at.keys() - there.keys()), sorted(there.keys() - at.keys())
    # What was encoded has another digest than its source anyway.
    changed = [
        path for path in sorted(at.keys() & there.keys()) if digests[path] != there[path] and plain_jpeg(at[path])
    ]
    parts = [f"{len(paths)} {what} ({first_few(paths)})" for what, paths in (("new", came), ("gone", went), ("changed", changed)) if paths]
    return f", {', '.join(parts)}" if parts else ", or from other poses of them, or silhouettes" if people else ""
