"""`reid-aug quality`: a checkpoint's images of held-out people, or a dump's, measured by a protocol and reported."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators import load
from generators.registry import read_header
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.bench.held_out import drawn, dumped, pairs_to_measure
from reid_aug.bench.metrics import Batch
from reid_aug.bench.networks import Networks
from reid_aug.bench.protocols import PublishedRow, QualityProtocol, QualityRun
from reid_aug.bench.quality import Quality, Surroundings, limb_table, load_reid, measure, published, table
from reid_aug.config import DataConfig
from reid_aug.dump import market_named
from reid_aug.loading import load_people
from reid_aug.manifest import NAME, Manifest
from reid_aug.people import PersonImage
from reid_aug.rendered import RenderedSet, is_rendered, read_rendered


@dataclass(frozen=True)
class Report:
    """What was measured, the published rows that may stand beside it, and the folder both were written to."""

    label: str
    quality: Quality
    rows: tuple[PublishedRow, ...]
    folder: Path

    @property
    def table(self) -> str:
        return table({self.label: self.quality}, self.rows)


def load_config(path: str | None, overrides: Sequence[str]) -> tuple[QualityRun, bool]:
    """The run's configuration, and whether its protocol is the file's own: an override of it makes another protocol."""
    asked = configuration.load(QualityRun, path, overrides)
    mine = {override.partition("=")[0].partition(".")[0] for override in overrides}
    return asked, path is not None and not mine & set(QualityProtocol.model_fields)


def run(target: str, asked: QualityRun, *, as_shipped: bool = False, networks: Networks | None = None) -> Report:
    """Measure a checkpoint (a file) or a dump (a folder with a manifest) and write quality.json and quality.md.

    FileNotFoundError or ValueError when it is neither, or the data set does not fit.
    """
    networks = networks or Networks(download=asked.download, device=asked.device)
    where = Path(target)
    if where.is_dir():
        label, around, total, batches, folder = _of_dump(where, asked, networks)
    elif where.is_file():
        label, around, total, batches, folder = _of_checkpoint(where, asked, networks)
    else:
        raise FileNotFoundError(f"no checkpoint and no dump at {target}")
    found = measure(batches, asked.protocol, around, total, label)
    report = Report(label, found, published(asked.protocol, around, found, as_shipped=as_shipped), folder)
    _write(report, asked)
    return report


def _of_checkpoint(path: Path, asked: QualityRun, networks: Networks) -> tuple[str, Surroundings, int, Iterator[Batch], Path]:
    if asked.data is None:
        raise ValueError("data.root is missing: give data.root=…, whose query and gallery are drawn in each other's poses")
    header = read_header(path)
    model = load(path)
    size: tuple[int, int] = tuple(model.size)  # type: ignore[assignment]
    if asked.size is not None and tuple(asked.size) != size:
        raise ValueError(f"protocol {asked.name!r} is of images of {tuple(asked.size)}, the generator at {path} draws {size}")
    people = load_people(asked.data, test_poses=True)
    pairs = pairs_to_measure(people, asked.pairs)
    folder = _folder(asked, header["digest"])
    around = _around(asked, people, size, networks, "test")
    keep = folder / "images" if asked.keep_images else None
    batches = drawn(
        model, pairs, asked.mask, jpeg=asked.jpeg, device=networks.device, batch_size=asked.batch_size,
        sheet=folder / "sheet.png", keep=keep,
    )  # fmt: skip
    return header["generator"], around, len(pairs), batches, folder


def _of_dump(path: Path, asked: QualityRun, networks: Networks) -> tuple[str, Surroundings, int, Iterator[Batch], Path]:
    manifest = Manifest.load(path / NAME)
    if not manifest.rows:
        raise ValueError(f"{path}: its manifest lists no synthetic image")
    made = {Path(row.path).name for row in manifest.rows}
    data = asked.data or DataConfig(root=str(path))
    people = [p for p in market_named(load_people(data)) if p.name not in made]
    first = images.read(path / manifest.rows[0].path).shape[:2]
    size = tuple(asked.size or first)
    around = _around(asked, people, size, networks, "train")  # type: ignore[arg-type]
    batches = dumped(path, manifest.rows, people, size, asked.mask, jpeg=asked.jpeg, batch_size=asked.batch_size)  # type: ignore[arg-type]
    label = str(manifest.made_by.get("generator", path.name))
    return label, around, len(manifest.rows), batches, _folder(asked, configuration.digest(manifest.made_by))


def _around(asked: QualityRun, people: Sequence[PersonImage], size: tuple[int, int], networks: Networks, home: Any) -> Surroundings:
    reid = None if asked.reid is None else load_reid(asked.reid, networks.device)
    return Surroundings(people, size, networks, home=home, reid=reid, rendered=_rendered(asked), batch_size=asked.batch_size)


def _rendered(asked: QualityRun) -> RenderedSet | None:
    """The data set as a rendered one, which knows the truth."""
    return read_rendered(asked.data.root) if asked.data is not None and is_rendered(asked.data.root) else None


def _folder(asked: QualityRun, drawn_by: str) -> Path:
    """Where this measurement's results go: another protocol, data set or drawer, another folder."""
    said = asked.model_dump(mode="json", include={*QualityProtocol.model_fields, "data", "reid"}, exclude={"published"})
    return Path(asked.out) / f"quality-{asked.name}-{configuration.digest({**said, 'drawn_by': drawn_by})}"


def _write(report: Report, asked: QualityRun) -> None:
    kept = {
        "label": report.label, **report.quality.as_json(), "published": [row.model_dump() for row in report.rows],
        "asked": asked.protocol.model_dump(mode="json", exclude={"published"}),
    }  # fmt: skip
    parts = [
        f"# Image quality of {report.label}: protocol {asked.name}",
        asked.paper or "", report.table, limb_table({report.label: report.quality}),
        f"{report.quality.images:,} images. Files are measured {'as drawn' if asked.jpeg is None else f'as JPEG of quality {asked.jpeg}'}.",
        "![source, target pose, result, photograph](sheet.png)" if (report.folder / "sheet.png").exists() else "",
    ]  # fmt: skip
    images.atomic_write_text(report.folder / "quality.md", "\n\n".join(part for part in parts if part) + "\n")
    images.atomic_write_text(report.folder / "quality.json", json.dumps(kept, indent=1) + "\n")
