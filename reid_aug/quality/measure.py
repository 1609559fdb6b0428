"""Image quality of generated people: every metric of a protocol in one pass, each number with its definition."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from reid_aug import images
from reid_aug.baselines.network import ReidNetwork
from reid_aug.data.people import PersonImage
from reid_aug.quality.identity import AroundPeople
from reid_aug.quality.metrics import Batch, Metric, Reference, Running, Value
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.quality.protocols import PublishedRow, QualityProtocol
from reid_aug.quality.truth import AroundTruth, TrueImages
from reid_aug.rendered.dataset import RenderedSet
from reid_aug.weights import MissingWeights

T = TypeVar("T")
SPLITS: dict[Reference, tuple[str, ...]] = {"train": ("train",), "test": ("query", "gallery")}


@dataclass(frozen=True)
class Quality:
    """What was measured: values by column, and for those that were not, why."""

    protocol: str
    images: int
    values: dict[str, Value]
    missing: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Plain tables for a file."""
        return asdict(self)

    @staticmethod
    def from_json(kept: dict[str, Any]) -> Quality:
        """What `as_json` gave."""
        values = {name: Value(**value) for name, value in kept["values"].items()}
        return Quality(kept["protocol"], kept["images"], values, kept["missing"])


class Surroundings(AroundPeople, AroundTruth):
    """A data set's real images, its people, a Re-ID network and, for rendered people, the truth; shared by generators.

    `home` is the split whose people are drawn. Whatever is computed of real images is computed once.
    """

    def __init__(
        self, people: Sequence[PersonImage], size: tuple[int, int], networks: Networks, *, home: Reference = "test",
        reid: ReidNetwork | None = None, rendered: RenderedSet | None = None, batch_size: int = 64,
    ) -> None:  # fmt: skip
        self.networks, self.size, self.home, self.rendered, self.batch_size = networks, size, home, rendered, batch_size
        self._people = {split: [p for p in people if p.split in splits] for split, splits in SPLITS.items()}
        self._reid = reid
        self._known: dict[Hashable, Any] = {}

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    def real(self, split: Reference) -> Iterator[Tensor]:
        paths = [p.path for p in self._people[split]]
        if not paths:
            raise NotMeasurable(f"there are no real images in {' or '.join(SPLITS[split])}")
        for start in range(0, len(paths), self.batch_size):
            yield images.read_many(paths[start : start + self.batch_size], self.size, progress=False)

    def who(self, split: Reference) -> tuple[list[int], list[int]]:
        return [p.pid for p in self._people[split]], [p.camid for p in self._people[split]]

    @property
    def reid(self) -> ReidNetwork:
        if self._reid is None:
            raise NotMeasurable("no Re-ID network given (reid=CHECKPOINT, one of a benchmark's baselines/)")
        return self._reid

    def truth(self, batch: Batch) -> TrueImages:
        if self.rendered is None:
            raise NotMeasurable("true images are known of rendered people only")
        if self.size != tuple(self.rendered.config.size):
            raise NotMeasurable(f"true images are of {tuple(self.rendered.config.size)}, these of {self.size}")
        rendered = self.rendered
        # Every generator of a benchmark is asked for the same pairs.
        drawn = [self.once(("true", names), lambda names=names: rendered.true_image(*names)) for names in batch.names]
        return TrueImages(
            torch.from_numpy(np.stack([one.image for one in drawn])).permute(0, 3, 1, 2),
            torch.from_numpy(np.stack([one.body_mask for one in drawn])),
            torch.from_numpy(np.stack([one.limb_masks for one in drawn])),
        )  # fmt: skip

    @cached_property
    def facts(self) -> dict[str, int]:
        """What `DataSetFacts` recognises a public data set by."""
        query = [p for p in self._people["test"] if p.split == "query"]
        return {
            "train_images": len(self._people["train"]), "train_identities": len({p.pid for p in self._people["train"]}),
            "query_images": len(query), "query_identities": len({p.pid for p in query}),
        }  # fmt: skip


def measure(
    batches: Iterable[Batch], protocol: QualityProtocol, around: Surroundings, total: int | None = None, label: str = ""
) -> Quality:
    """Every metric of a protocol over batches of generated images, each network asked once a batch.

    A metric without weights or without meaning here is said to be missing, and the rest is measured. ValueError for
    what is broken: images of another size, a mask without a body, no image at all.
    """
    under_way, missing = _start(protocol.metrics, around)
    counts: Counter[str] = Counter()
    with tqdm(total=total, desc=f"measure {label}".strip(), unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            counts["images"] += len(batch.generated)
            for name in list(under_way):
                with _Excused(name, missing, under_way):
                    under_way[name].update(batch)
            bar.update(len(batch.generated))
    if not counts["images"]:
        raise ValueError("there is no generated image to measure")
    values: dict[str, Value] = {}
    for name in list(under_way):
        with _Excused(name, missing, under_way):
            values |= under_way[name].values(name)
            missing |= under_way[name].missing(name)
    return Quality(protocol.name, counts["images"], values, missing)


def _start(metrics: dict[str, Any], around: Surroundings) -> tuple[dict[str, Running], dict[str, str]]:
    under_way: dict[str, Running] = {}
    missing: dict[str, str] = {}
    for name, metric in metrics.items():
        assert isinstance(metric, Metric)
        with _Excused(name, missing, under_way):
            under_way[name] = metric.start(around)
    return under_way, missing


class _Excused:
    """Notes why a metric can't be measured, and lets the others go on."""

    def __init__(self, name: str, missing: dict[str, str], under_way: dict[str, Running]) -> None:
        self.name, self.missing, self.under_way = name, missing, under_way

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, MissingWeights | NotMeasurable):
            self.missing[self.name] = f"weights missing: {error}" if isinstance(error, MissingWeights) else str(error)
            self.under_way.pop(self.name, None)
            return True
        return False


def published(
    protocol: QualityProtocol, around: Surroundings, measured: Quality, *, as_shipped: bool, pair_list: str | None = None
) -> tuple[PublishedRow, ...]:
    """Published rows that may stand beside what was measured: the protocol as the paper has it, on the paper's data set.

    Where the paper's pairs are known, those measured are the same: `pair_list` is their `reid_aug.pairs.list_digest`.
    Where they are not, there are as many.
    """
    facts = protocol.data_set
    same_data = facts is not None and facts.model_dump(exclude={"name"}) == around.facts and around.home == "test"
    known = protocol.published_pairs
    same_pairs = measured.images == protocol.pairs.count if known is None else pair_list == known
    return protocol.published if as_shipped and same_data and same_pairs else ()


def table(measured: dict[str, Quality], rows: Sequence[PublishedRow] = ()) -> str:
    """Markdown: a row a metric with its definition or why it is not measured, a column for everything measured or published."""
    names = list(dict.fromkeys(name for one in measured.values() for name in (*one.values, *one.missing) if " of " not in name))
    lines = [["metric", *measured, *[f"{row.method} (published)" for row in rows], "how"]]
    lines.append(["---", *["---:"] * (len(measured) + len(rows)), "---"])
    for name in names:
        cells = [_cell(one.values.get(name)) for one in measured.values()]
        lines.append([name, *cells, *[f"{row.values[name]:.4g}" if name in row.values else "" for row in rows], _how(name, measured)])
    said = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return said + "".join(f"\n\n{row.method}: {row.source}." for row in rows)


def _cell(value: Value | None) -> str:
    if value is None:
        return "not measured"
    digits = 3 if abs(value.value) < 10 else 1
    return f"{value.value:.{digits}f}" + ("" if value.std is None else f" ± {value.std:.{digits}f}")


def _how(name: str, measured: dict[str, Quality]) -> str:
    """A metric's definition, and why there is no number of it where there is none."""
    defined = [one.values[name].how for one in measured.values() if name in one.values]
    reasons: dict[str, list[str]] = {}
    for label, one in measured.items():
        if name in one.missing:
            reasons.setdefault(one.missing[name], []).append(label)
    everywhere = sum(map(len, reasons.values())) == len(measured) and len(reasons) == 1
    said = [reason if everywhere else f"{', '.join(labels)} not measured: {reason}" for reason, labels in reasons.items()]
    return "; ".join([*defined[:1], *said])


def limb_table(measured: dict[str, Quality]) -> str:
    """Markdown: PSNR and SSIM against the truth, limb by limb; empty where no truth is known."""
    limbs = list(dict.fromkeys(name.split(" of ")[1] for one in measured.values() for name in one.values if " of " in name))
    if not limbs:
        return ""
    lines = [["PSNR (dB) / SSIM", *limbs], ["---", *["---:"] * len(limbs)]]
    for label, one in measured.items():
        if any(" of " in name for name in one.values):
            lines.append([label, *[_pair(one, limb) for limb in limbs]])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _pair(one: Quality, limb: str) -> str:
    found = [next((v.value for n, v in one.values.items() if n.endswith(f"{what} of {limb}")), None) for what in ("PSNR", "SSIM")]
    return " / ".join("–" if value is None else f"{value:.{digits}f}" for value, digits in zip(found, (1, 3), strict=True))
