"""`reid-aug quality`: a checkpoint's images of held-out people, or a dump's, measured by a protocol and reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from generators import load, read_header
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.baselines.network import load_reid
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.market import market_named
from reid_aug.data.pairs import list_digest
from reid_aug.data.people import PersonImage
from reid_aug.quality.held_out import content_digest, drawn, dumped, pairs_to_measure
from reid_aug.quality.measure import Quality, Surroundings, limb_table, measure, published, table
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.pckh import Pckh
from reid_aug.quality.protocols import PairsConfig, PublishedRow, QualityProtocol, QualityRun
from reid_aug.rendered.dataset import RenderedSet, is_rendered, read_rendered
from reid_aug.synthesis.manifest import NAME, Manifest


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


@dataclass(frozen=True)
class _Work:
    """What is to be measured, and where its results go."""

    label: str
    around: Surroundings
    total: int
    batches: Iterable[Batch]
    folder: Path
    pair_list: str | None = None


def load_config(path: str | None, overrides: Sequence[str]) -> tuple[QualityRun, bool]:
    """The run's configuration, and whether its protocol is the packaged one of its name, whatever file it was read from.

    Where no file says which metrics there are, `metrics.NAME.option=…` changes one of all, and `metrics={…}` names all.
    """
    asked = configuration.load(QualityRun, path, overrides)
    keys = [override.partition("=")[0] for override in overrides]
    named = "metrics" in keys or (path is not None and "metrics" in configuration.read_yaml(path))
    if "metrics" in asked.model_fields_set and not named:
        asked = asked.model_copy(update={"metrics": {**QualityProtocol().metrics, **asked.metrics}})
    return asked, _is_packaged(asked.protocol)


def _packaged(name: str) -> QualityProtocol | None:
    """The protocol of that name in configs/quality."""
    try:
        path = configuration.shipped(f"quality/{name}.yaml")
    except FileNotFoundError:
        return None
    return configuration.load(QualityRun, path).protocol


def _is_packaged(protocol: QualityProtocol) -> bool:
    packaged = _packaged(protocol.name)
    if packaged is None:
        return False
    # Where the paper's list of pairs is known, it is compared itself, wherever those measured come from.
    left_out = set() if packaged.published_pairs is None else {"pairs"}
    return protocol.model_dump(exclude=left_out) == packaged.model_dump(exclude=left_out)


def run(target: str, asked: QualityRun, *, as_shipped: bool = False, networks: Networks | None = None) -> Report:
    """Measure a checkpoint (a file) or a dump (a folder with a manifest) and write quality.json and quality.md.

    FileNotFoundError or ValueError when it is neither, or the data set does not fit.
    """
    networks = networks or Networks(download=asked.download, device=asked.device)
    where = Path(target)
    if where.is_dir():
        work = _of_dump(where, asked, networks)
    elif where.is_file():
        work = _of_checkpoint(where, asked, networks)
    else:
        raise FileNotFoundError(f"no checkpoint and no dump at {target}")
    found = measure(work.batches, asked.protocol, work.around, work.total, work.label)
    rows = published(asked.protocol, work.around, found, as_shipped=as_shipped, pair_list=work.pair_list)
    report = Report(work.label, found, rows, work.folder)
    _write(report, asked)
    return report


def _of_checkpoint(path: Path, asked: QualityRun, networks: Networks) -> _Work:
    if asked.data is None:
        raise ValueError("data.root is missing: give data.root=…, whose query and gallery are drawn in each other's poses")
    header = read_header(path)
    model = load(path)
    size: tuple[int, int] = tuple(model.size)  # type: ignore[assignment]
    if asked.size is not None and tuple(asked.size) != size:
        raise ValueError(f"protocol {asked.name!r} is of images of {tuple(asked.size)}, the generator at {path} draws {size}")
    people = load_people(asked.data, test_poses=True)
    pairs = pairs_to_measure(people, asked.pairs, _test_keypoints(asked.data))
    # Images that are kept are only those of the same poses and photographs, though all lie under the same names.
    folder = _folder(asked, header["digest"], content_digest(pairs))
    around = _around(asked, people, size, networks, "test")
    keep = folder / "images" if asked.keep_images else None
    batches = drawn(
        model, pairs, asked.mask, jpeg=asked.jpeg, device=networks.device, batch_size=asked.batch_size,
        sheet=folder / "sheet.png", keep=keep,
    )  # fmt: skip
    return _Work(header["generator"], around, len(pairs), batches, folder, list_digest([(s.name, t.name) for s, t in pairs]))


def _test_keypoints(data: DataConfig) -> Path | None:
    """The keypoint file of query and gallery: the one given, or the folder's own."""
    usual = Path(data.root) / "annotation-test.csv"
    return Path(data.test_keypoints) if data.test_keypoints else usual if usual.is_file() else None


def _of_dump(path: Path, asked: QualityRun, networks: Networks) -> _Work:
    _refuse_in_vain(asked)
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
    return _Work(label, around, len(manifest.rows), batches, _folder(asked, configuration.digest(manifest.made_by)))


def _refuse_in_vain(asked: QualityRun) -> None:
    """ValueError for what a dump can't heed. A packaged protocol's own pairs are left be: its metrics serve a dump, too."""
    packaged = _packaged(asked.name)
    own = PairsConfig() if packaged is None else packaged.pairs
    if "pairs" in asked.model_fields_set and (packaged is None or asked.pairs != own):
        raise ValueError(f"a dump's pairs are those of its manifest: leave out pairs, got {_changed(asked.pairs, own)}")
    if "keep_images" in asked.model_fields_set:
        raise ValueError(f"a dump's images are kept already: leave out keep_images, got {asked.keep_images}")
    if asked.jpeg is not None and any(isinstance(metric, Pckh) and metric.keypoints for metric in asked.metrics.values()):
        raise ValueError(
            f"joints of PCKh.keypoints were found on the dump's own files, and jpeg={asked.jpeg} measures others: give jpeg=null"
        )


def _changed(pairs: PairsConfig, own: PairsConfig) -> str:
    """What of the pairs' settings was given."""
    changed = {name: getattr(pairs, name) for name in PairsConfig.model_fields if getattr(pairs, name) != getattr(own, name)}
    return ", ".join(f"pairs.{name}={value}" for name, value in (changed or pairs.model_dump(exclude_unset=True)).items())


def _around(asked: QualityRun, people: Sequence[PersonImage], size: tuple[int, int], networks: Networks, home: Any) -> Surroundings:
    reid = None if asked.reid is None else load_reid(asked.reid, networks.device)
    return Surroundings(people, size, networks, home=home, reid=reid, rendered=_rendered(asked), batch_size=asked.batch_size)


def _rendered(asked: QualityRun) -> RenderedSet | None:
    """The data set as a rendered one, which knows the truth."""
    return read_rendered(asked.data.root) if asked.data is not None and is_rendered(asked.data.root) else None


def _folder(asked: QualityRun, drawn_by: str, drawn_from: str | None = None) -> Path:
    """Where this measurement's results go: another protocol, data set, drawer or pairs, another folder."""
    kept = {*QualityProtocol.model_fields, "data", "reid"} - {"published", "published_pairs"}
    said = {**asked.model_dump(mode="json", include=kept), "drawn_by": drawn_by, "drawn_from": drawn_from}
    return Path(asked.out) / f"quality-{asked.name}-{configuration.digest(said)}"


def _write(report: Report, asked: QualityRun) -> None:
    kept = {
        "label": report.label, **report.quality.as_json(), "published": [row.model_dump() for row in report.rows],
        "asked": asked.protocol.model_dump(mode="json", exclude={"published", "published_pairs"}),
    }  # fmt: skip
    parts = [
        f"# Image quality of {report.label}: protocol {asked.name}",
        asked.paper or "", report.table, limb_table({report.label: report.quality}),
        f"{report.quality.images:,} images. Files are measured {'as drawn' if asked.jpeg is None else f'as JPEG of quality {asked.jpeg}'}.",
        "![source, target pose, result, photograph](sheet.png)" if (report.folder / "sheet.png").exists() else "",
    ]  # fmt: skip
    images.atomic_write_text(report.folder / "quality.md", "\n\n".join(part for part in parts if part) + "\n")
    images.atomic_write_text(report.folder / "quality.json", json.dumps(kept, indent=1) + "\n")
