"""`reid-aug quality`: a checkpoint's images of held-out people, or a dump's, measured by a protocol and reported."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from generators import load, read_header
from reid_aug import config as configuration
from reid_aug import images
from reid_aug.baselines.neighbours import usable
from reid_aug.baselines.network import load_reid
from reid_aug.data.loading import DataConfig, load_people, test_keypoints
from reid_aug.data.pairs import list_digest
from reid_aug.data.people import PersonImage
from reid_aug.quality.appearance import as_before
from reid_aug.quality.held_out import Pair, content_digest, dump_batches, pairs_to_measure, photographs, rendered_pairs
from reid_aug.quality.measure import Quality, measure, published, published_elsewhere
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks
from reid_aug.quality.pckh import Pckh
from reid_aug.quality.protocols import ElsewhereRow, PairsConfig, PublishedRow, QualityProtocol, QualityRun
from reid_aug.quality.strata import Strata
from reid_aug.quality.strata_pictures import write_pictures
from reid_aug.quality.surroundings import RealSplit, Surroundings
from reid_aug.quality.tables import elsewhere_table, limb_table, table
from reid_aug.rendered import RenderedSet, is_rendered, read_rendered
from reid_aug.synthesis.dump import people_of
from reid_aug.synthesis.image_bank import IMAGES
from reid_aug.synthesis.manifest import NAME, Manifest

REAL, FOUND = "real", "found"


@dataclass(frozen=True)
class Report:
    """What was measured, the published rows that may stand beside it, the folder both were written to, and rows of something else."""

    label: str
    quality: Quality
    rows: tuple[PublishedRow, ...]
    folder: Path
    elsewhere: tuple[ElsewhereRow, ...] = ()

    @property
    def table(self) -> str:
        """Return the metrics as a table in Markdown."""
        return table({self.label: self.quality}, self.rows)


@dataclass(frozen=True)
class _Work:
    """What is to be measured, and where its results go."""

    label: str
    surroundings: Surroundings
    total: int  # Number of images in `batches`.
    batches: Iterable[Batch]
    folder: Path
    pair_list: str | None = None  # Digest of the pairs' names; a dump has none.
    pairs: Sequence[Pair] = ()  # Source and target of each image, in the order of `batches`.


def load_config(path: str | None, overrides: Sequence[str]) -> tuple[QualityRun, bool]:
    """Return the run's configuration, and whether its protocol is the packaged one of its name, whatever file it was read from.

    Where no file says which metrics there are, `metrics.NAME.option=…` changes one of all, and `metrics={…}` names all.
    """
    settings = configuration.load(QualityRun, path, overrides)
    keys = [override.partition("=")[0] for override in overrides]
    named = "metrics" in keys or (path is not None and "metrics" in configuration.read_yaml(path))
    if "metrics" in settings.model_fields_set and not named:
        settings = settings.model_copy(update={"metrics": {**QualityProtocol().metrics, **settings.metrics}})
    return settings, _is_packaged(settings.protocol)


def _packaged(name: str) -> QualityProtocol | None:
    """Read the protocol of that name in configs/quality; None where there is none."""
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


def run(target: str, settings: QualityRun, *, as_shipped: bool = False, networks: Networks | None = None) -> Report:
    """Measure a checkpoint (a file), a dump (a folder with a manifest), or "real", the pairs' sources; write quality.json and quality.md.

    FileNotFoundError or ValueError when it is neither, or the data set does not fit; errors of `neighbours.usable`.
    """
    usable(settings.backend)
    networks = networks or Networks(download=settings.download, device=settings.device)
    path = Path(target)
    protocol, comparing = (settings.protocol, {}) if target != REAL else _of_single_images(settings.protocol)
    if target == REAL:
        work = _of_photographs(settings, networks)
    elif path.is_dir():
        work = _of_dump(path, settings, networks)
    elif path.is_file():
        work = _of_checkpoint(path, settings, networks)
    else:
        raise FileNotFoundError(f"no checkpoint and no dump at {target}")
    strata = Strata(work.pairs, work.surroundings.size, settings.worst) if settings.strata else None
    quality = measure(work.batches, protocol, work.surroundings, work.total, work.label, watch=strata)
    quality = replace(quality, missing={**quality.missing, **comparing})
    rows = published(settings.protocol, work.surroundings, quality, as_shipped=as_shipped, pair_list=work.pair_list)
    elsewhere = published_elsewhere(settings.protocol, work.surroundings, as_shipped=as_shipped)
    report = Report(work.label, quality, rows, work.folder, elsewhere)
    _write(report, settings, strata)
    return report


def _of_single_images(protocol: QualityProtocol) -> tuple[QualityProtocol, dict[str, str]]:
    """Give the protocol with those metrics alone that say something of photographs, and why by those that do not."""
    metrics = {name: metric for name, metric in protocol.metrics.items() if not metric.compares}
    if not metrics:
        raise ValueError(f"protocol {protocol.name!r} compares with photographs, and says nothing of photographs themselves")
    why = {name: "it compares with photographs, and these are some" for name in protocol.metrics if name not in metrics}
    return protocol.model_copy(update={"metrics": metrics}), why


def _data(settings: QualityRun) -> DataConfig:
    if settings.data is None:
        raise ValueError("data.root is missing: give data.root=…, whose query and gallery are rendered in each other's poses")
    return settings.data


def _of_photographs(settings: QualityRun, networks: Networks) -> _Work:
    """Measure the sources of the pairs themselves: the row "Real (source)" of Ho et al. 2019, Table I."""
    data, posed = _data(settings), settings.poses != FOUND
    people = load_people(data, test_poses=True, posed=posed)
    pairs = pairs_to_measure(people, settings.pairs, test_keypoints(data), posed=posed)
    height, width = settings.size or images.size_of(pairs[0][0].path)
    folder = _folder(settings, REAL, content_digest(pairs))
    surroundings = _surroundings(settings, people, (height, width), networks, "test")
    batches = photographs(pairs, (height, width), settings.mask, jpeg=settings.jpeg, batch_size=settings.batch_size)
    names = [(s.name, t.name) for s, t in pairs]
    return _Work("Real (source)", surroundings, len(pairs), batches, folder, list_digest(names), pairs)


def _of_checkpoint(path: Path, settings: QualityRun, networks: Networks) -> _Work:
    data = _data(settings)
    header = read_header(path)
    model = load(path)
    size: tuple[int, int] = tuple(model.size)  # type: ignore[assignment]
    if settings.size is not None and tuple(settings.size) != size:
        raise ValueError(f"protocol {settings.name!r} is of images of {tuple(settings.size)}, the generator at {path} renders {size}")
    found = settings.poses == FOUND and model.finds_poses
    people = load_people(data, test_poses=True, posed=not found)
    pairs = pairs_to_measure(people, settings.pairs, test_keypoints(data), posed=not found)
    # Images that are kept are only those of the same poses and photographs, though all lie under the same names.
    folder = _folder(settings, header["digest"], content_digest(pairs, model.takes_scene or found))
    surroundings = _surroundings(settings, people, size, networks, "test")
    keep = folder / "images" if settings.keep_images else None
    batches = rendered_pairs(
        model, pairs, settings.mask, jpeg=settings.jpeg, device=networks.device, batch_size=settings.batch_size,
        sheet=folder / "sheet.png", keep=keep, found=found,
    )  # fmt: skip
    label = header["generator"] + (" with given poses" if model.finds_poses and not found else "")
    return _Work(label, surroundings, len(pairs), batches, folder, list_digest([(s.name, t.name) for s, t in pairs]), pairs)


def _of_dump(path: Path, settings: QualityRun, networks: Networks) -> _Work:
    _refuse_in_vain(settings)
    manifest = Manifest.load(path / NAME)
    if not manifest.rows:
        raise ValueError(f"{path}: its manifest lists no synthetic image")
    people = people_of(path, manifest, settings.data)
    height, width = settings.size or images.read(path / manifest.rows[0].path).shape[:2]
    size = (height, width)
    surroundings = _surroundings(settings, people, size, networks, "train")
    batches = dump_batches(
        path, manifest.rows, people, size, settings.mask, jpeg=settings.jpeg, batch_size=settings.batch_size, in_scene=manifest.in_scenes,
        found=manifest.made_by.get("bank") == IMAGES,
    )  # fmt: skip
    label = str(manifest.made_by.get("generator", path.name))
    train = {p.name: p for p in people if p.split == "train"} if settings.strata else {}
    pairs = [(train[row.source], train[row.target]) for row in manifest.rows] if settings.strata else []
    return _Work(label, surroundings, len(manifest.rows), batches, _folder(settings, configuration.digest(manifest.made_by)), pairs=pairs)


def _refuse_in_vain(settings: QualityRun) -> None:
    """Raise ValueError for what a dump can't heed. A packaged protocol's pairs pass: its metrics serve a dump, too."""
    packaged = _packaged(settings.name)
    usual = PairsConfig() if packaged is None else packaged.pairs
    if "pairs" in settings.model_fields_set and (packaged is None or settings.pairs != usual):
        raise ValueError(f"a dump's pairs are those of its manifest: leave out pairs, got {_changed(settings.pairs, usual)}")
    if "poses" in settings.model_fields_set and settings.poses != (packaged or QualityProtocol()).poses:
        raise ValueError(f"a dump's images are rendered already: leave out poses, got {settings.poses}")
    if "keep_images" in settings.model_fields_set:
        raise ValueError(f"a dump's images are kept already: leave out keep_images, got {settings.keep_images}")
    if settings.jpeg is not None and any(isinstance(metric, Pckh) and metric.keypoints for metric in settings.metrics.values()):
        raise ValueError(
            f"joints of PCKh.keypoints were found on the dump's own files, and jpeg={settings.jpeg} measures others: give jpeg=null"
        )


def _changed(pairs: PairsConfig, usual: PairsConfig) -> str:
    """List the settings of pairs that differ from the usual ones, or all that were given."""
    changed = {name: getattr(pairs, name) for name in PairsConfig.model_fields if getattr(pairs, name) != getattr(usual, name)}
    return ", ".join(f"pairs.{name}={value}" for name, value in (changed or pairs.model_dump(exclude_unset=True)).items())


def _surroundings(
    settings: QualityRun, people: Sequence[PersonImage], size: tuple[int, int], networks: Networks, source_split: RealSplit
) -> Surroundings:
    reid = None if settings.reid is None else load_reid(settings.reid, networks.device)
    if reid is not None and reid.module is not None:
        reid.module()  # broken weights are met now, not after images were rendered
    return Surroundings(
        people, size, networks, source_split=source_split, reid=reid, rendered=_rendered_set(settings), batch_size=settings.batch_size,
        folder=Path(settings.out), backend=settings.backend,
    )  # fmt: skip


def _rendered_set(settings: QualityRun) -> RenderedSet | None:
    """Open the data set as a rendered one, which knows the truth; None where it is not."""
    return read_rendered(settings.data.root) if settings.data is not None and is_rendered(settings.data.root) else None


def _folder(settings: QualityRun, drawn_by: str, drawn_from: str | None = None) -> Path:
    """Name the folder of results: another one for another protocol, data set, generator or pairs."""
    decisive = {*QualityProtocol.model_fields, "data", "reid"} - {"published", "published_pairs", "elsewhere"}
    values = {**as_before(settings.model_dump(mode="json", include=decisive)), "drawn_by": drawn_by, "drawn_from": drawn_from}
    if settings.poses != FOUND:  # a key that came later must not rename the folders of earlier reports
        del values["poses"]
    return Path(settings.out) / f"quality-{settings.name}-{configuration.digest(values)}"


def _write(report: Report, settings: QualityRun, strata: Strata | None = None) -> None:
    record = {
        "label": report.label, **report.quality.as_json(), "published": [row.model_dump() for row in report.rows],
        **({"published elsewhere": [row.model_dump() for row in report.elsewhere]} if report.elsewhere else {}),
        "asked": settings.protocol.model_dump(mode="json", exclude={"published", "published_pairs", "elsewhere"}),
    }  # fmt: skip
    if strata is not None:
        record["strata"] = strata.as_json()
        write_pictures(strata, report.folder)
    files = "as rendered" if settings.jpeg is None else f"as JPEG of quality {settings.jpeg}"
    parts = [
        f"# Image quality of {report.label}: protocol {settings.name}",
        settings.paper or "", report.table, limb_table({report.label: report.quality}),
        elsewhere_table(report.elsewhere),
        f"{report.quality.images:,} images. Files are measured {files}.",
        "![source, target pose, result, photograph](sheet.png)" if (report.folder / "sheet.png").exists() else "",
        "" if strata is None else strata.page(),
    ]  # fmt: skip
    images.atomic_write_text(report.folder / "quality.md", "\n\n".join(part for part in parts if part) + "\n")
    images.atomic_write_text(report.folder / "quality.json", json.dumps(record, indent=1) + "\n")
