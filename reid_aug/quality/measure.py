"""Image quality of generated people: every metric of a protocol in one pass, each number with its definition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from tqdm import tqdm

from reid_aug.quality.metrics import Batch, Measurement, Value
from reid_aug.quality.networks import NotMeasurable
from reid_aug.quality.protocols import ElsewhereRow, PublishedRow, QualityProtocol
from reid_aug.quality.surroundings import Surroundings
from reid_aug.weights import MissingWeights


@dataclass(frozen=True)
class Quality:
    """What was measured: values by column, and for those that were not, why."""

    protocol: str
    images: int
    values: dict[str, Value]
    missing: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        """Return plain tables for a file."""
        return asdict(self)

    @staticmethod
    def from_json(tables: dict[str, Any]) -> Quality:
        """Read what `as_json` gave."""
        values = {name: Value(**value) for name, value in tables["values"].items()}
        return Quality(tables["protocol"], tables["images"], values, tables["missing"])


def measure(
    batches: Iterable[Batch], protocol: QualityProtocol, surroundings: Surroundings, total: int | None = None, label: str = "",
    *, watch: Callable[[Batch, Mapping[str, Measurement]], None] | None = None,
) -> Quality:  # fmt: skip
    """Measure batches of generated images by every metric of a protocol, each network asked once a batch.

    `watch` is shown every batch once it is measured, and the measurements under way.
    A metric without weights or without meaning here is said to be missing, and the rest is measured. ValueError for
    what is broken: images of another size, a mask without a body, no image at all.
    """
    running: dict[str, Measurement] = {}
    missing: dict[str, str] = {}
    for name, metric in protocol.metrics.items():
        with _reason_noted(name, missing, running):
            running[name] = metric.start(name, surroundings)
    images = 0
    with tqdm(total=total, desc=f"measure {label}".strip(), unit="image", disable=None, leave=False) as bar:
        for batch in batches:
            images += len(batch.generated)
            for name in list(running):
                with _reason_noted(name, missing, running):
                    running[name].update(batch)
            if watch is not None:
                watch(batch, running)
            bar.update(len(batch.generated))
    if not images:
        raise ValueError("there is no generated image to measure")
    values: dict[str, Value] = {}
    for name in list(running):
        with _reason_noted(name, missing, running):
            measured = running[name].compute()
            values |= measured.values
            missing |= measured.missing
    return Quality(protocol.name, images, values, missing)


@contextmanager
def _reason_noted(name: str, missing: dict[str, str], running: dict[str, Measurement]) -> Iterator[None]:
    """Note why a metric can't be measured, and let the others go on without it."""
    try:
        yield
    except (MissingWeights, NotMeasurable) as error:
        missing[name] = f"weights missing: {error}" if isinstance(error, MissingWeights) else str(error)
        running.pop(name, None)


def published(
    protocol: QualityProtocol, surroundings: Surroundings, measured: Quality, *, as_shipped: bool, pair_list: str | None = None
) -> tuple[PublishedRow, ...]:
    """Return the published rows that may stand beside what was measured: the protocol as the paper has it, on the paper's data set.

    Where the paper's pairs are known, those measured are the same: `pair_list` is their `reid_aug.data.pairs.list_digest`.
    Where they are not, there are as many.
    """
    same_data = _on_its_data(protocol, surroundings)
    pairs_of_paper = protocol.published_pairs
    same_pairs = measured.images == protocol.pairs.count if pairs_of_paper is None else pair_list == pairs_of_paper
    return protocol.published if as_shipped and same_data and same_pairs else ()


def published_elsewhere(protocol: QualityProtocol, surroundings: Surroundings, *, as_shipped: bool) -> tuple[ElsewhereRow, ...]:
    """Return the published rows to show by themselves: those of a protocol as shipped, for its data set."""
    return protocol.elsewhere if as_shipped and _on_its_data(protocol, surroundings) else ()


def _on_its_data(protocol: QualityProtocol, surroundings: Surroundings) -> bool:
    facts = protocol.data_set
    if facts is None or surroundings.source_split != "test":
        return False
    return all(surroundings.facts.get(name) == count for name, count in facts.counts.items())
