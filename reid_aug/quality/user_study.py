"""A user study in one page (Ma et al. 2017, section 4.4): which images are real? And the results of many raters as one."""

from __future__ import annotations

import base64
import codecs
import json
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt, StrictBool, ValidationError

from reid_aug import images
from reid_aug.config import SHOWN, Config, digest, explain

FORMAT = "reid-aug user study 1"
PAGE = Path(__file__).with_name("user_study.html")


class _Answer(Config):
    """What a rater answered to one image."""

    image: str
    real: StrictBool
    said_real: StrictBool
    seconds: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]


class _Rating(Config):
    """One rater's file, as the page writes it."""

    format: str = Field(pattern=f"^{FORMAT}$")
    study: str
    rater: str
    answers: tuple[_Answer, ...]


class _Study(Config):
    """What a study is made from."""

    count: PositiveInt
    practice: NonNegativeInt
    # Browsers' clocks count to 2^31 ms: what is longer would be over at once.
    seconds: Annotated[float, Field(gt=0, le=2_147_483, allow_inf_nan=False)]
    seed: NonNegativeInt


def write_study(
    real: str | os.PathLike[str], fake: str | os.PathLike[str], out: str | os.PathLike[str],
    *, count: int = 55, practice: int = 10, seconds: float = 1.0, seed: int = 0,
) -> Path:  # fmt: skip
    """Write out/index.html: `count` real and `count` generated images in a random order, each shown for `seconds`.

    The first `practice` do not count. The page needs no network and no other file. ValueError: too few images in a
    folder, images of different sizes, practice that leaves nothing to count, a time or seed that is none.
    """
    try:
        study = _Study(count=count, practice=practice, seconds=seconds, seed=seed)
    except ValidationError as error:
        raise ValueError(explain(_Study, error)) from None
    if practice >= 2 * count:
        raise ValueError(f"practice is less than all {2 * count} images, got {practice}")
    rng = np.random.default_rng(seed)
    folders = ((Path(real), True), (Path(fake), False))
    chosen = [(path, path.relative_to(at).as_posix(), is_real) for at, is_real in folders for path in _sample(at, count, rng)]
    sizes = {images.read(path).shape[:2]: path for path, _, _ in chosen}
    if len(sizes) > 1:
        (a, first), (b, second) = list(sizes.items())[:2]
        raise ValueError(f"images of a study have one size, or it gives them away: {first.name} is {a}, {second.name} {b}")
    # Everything is written as PNG: a JPEG's blocks on one side only would tell.
    mixed = [chosen[i] for i in rng.permutation(len(chosen))]
    trials = [{"image": name, "real": is_real, "data": _data(path)} for path, name, is_real in mixed]
    name = digest({"images": [trial["data"] for trial in trials], **study.model_dump()})
    values = {"format": FORMAT, "study": name, "practice": practice, "seconds": seconds, "trials": trials}
    page = PAGE.read_text(encoding="utf-8").replace("/*STUDY*/null", _script(values))
    path = Path(out) / "index.html"
    images.atomic_write_text(path, page)
    return path


def _script(values: dict[str, Any]) -> str:
    """Return JSON that may stand in a page's script: nothing in it ends the script."""
    return json.dumps(values).replace("<", "\\u003c")


def _sample(folder: Path, count: int, rng: np.random.Generator) -> list[Path]:
    """Sample `count` different images of a folder and the folders below it."""
    if not folder.is_dir():
        raise NotADirectoryError(f"no folder at {folder}")
    # Hidden files are none: macOS leaves ._x.jpg beside x.jpg on other file systems.
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in images.SUFFIXES and not p.name.startswith("."))
    if len(files) < count:
        raise ValueError(f"{folder} holds {len(files)} images, {count} are wanted")
    return [files[i] for i in rng.permutation(len(files))[:count]]


def _data(path: Path) -> str:
    return base64.b64encode(images.encode(images.read(path), ".png")).decode()


def merge(results: Sequence[str | os.PathLike[str]], out: str | os.PathLike[str] | None = None) -> str:
    """Return the results of several raters of one study as a line, and write them in full to the JSON `out`.

    R2G is the share of real images taken for generated, G2R that of generated ones taken for real, means over raters
    with the standard deviation between them. ValueError: a file that is no result, of another study, given twice, or
    with an image that is answered twice.
    """
    ratings = [_read(Path(path)) for path in results]
    studies = {rating.study for rating in ratings}
    if len(studies) > 1:
        raise ValueError(f"results to merge are of one study, got {', '.join(sorted(studies))}")
    raters = [rating.rater for rating in ratings]
    if len(set(raters)) != len(raters):
        twice = next(r for r in raters if raters.count(r) > 1)
        raise ValueError(f"every rater counts once, {twice} is there twice")
    rows = [{"rater": rating.rater, "answers": len(rating.answers), **rates(rating.answers)} for rating in ratings]
    merged: dict[str, Any] = {"format": FORMAT, "study": ratings[0].study, "raters": rows}
    for name in ("R2G", "G2R"):
        values = [row[name] for row in rows if row[name] is not None]
        spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
        merged[name] = {"mean": float(np.mean(values)), "std": spread} if values else None
    if out is not None:
        images.atomic_write_text(out, json.dumps(merged, indent=1) + "\n")
    return f"{len(rows)} rater{'s' * (len(rows) != 1)}: " + ", ".join(f"{name} {_percent(merged[name])}" for name in ("R2G", "G2R"))


def rates(answers: Sequence[_Answer]) -> dict[str, float | None]:
    """Return R2G and G2R of one rater's answers, as fractions; None without images of that kind.

    >>> answers = [("a.png", True, True), ("b.png", True, False), ("c.png", False, False)]
    >>> rates([_Answer(image=image, real=real, said_real=said_real, seconds=1.0) for image, real, said_real in answers])
    {'R2G': 0.5, 'G2R': 0.0}
    """

    def wrong(real: bool) -> float | None:
        mistakes = [a.said_real != real for a in answers if a.real == real]
        return float(np.mean(mistakes)) if mistakes else None

    return {"R2G": wrong(True), "G2R": wrong(False)}


def _read(path: Path) -> _Rating:
    if not path.is_file():
        raise FileNotFoundError(f"no result at {path}")
    try:
        rating = _Rating.model_validate_json(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise ValueError(f"{path} is no result of a user study: {explain(_Rating, error)}") from None
    if not rating.answers:
        raise ValueError(f"{path}: a rater who answered nothing")
    (image, real), times = Counter((answer.image, answer.real) for answer in rating.answers).most_common(1)[0]
    if times > 1:
        kind = "real" if real else "generated"
        raise ValueError(f"{path}: every image is answered once, the {kind} image {image[:SHOWN]!r} is there {times} times")
    return rating


def _percent(rate: dict[str, float | None] | None) -> str:
    if rate is None or rate["mean"] is None:
        return "–"
    return f"{100 * rate['mean']:.1f} %" + ("" if rate["std"] is None else f" ± {100 * rate['std']:.1f}")
