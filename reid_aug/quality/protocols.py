"""Protocols of image quality as data: which pairs, masks, files and metrics, and what others published under them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)  # fmt: skip

from generators import nearest
from reid_aug.baselines.neighbours import Backend
from reid_aug.config import Config
from reid_aug.data.loading import DataConfig
from reid_aug.quality.appearance import AppearancePreservation
from reid_aug.quality.identity import IdentityPreservation, ReidFrechet
from reid_aug.quality.image_scores import DetectionScore, Lpips, SilhouetteSsim, Ssim
from reid_aug.quality.inception import FrechetInception, InceptionScore, KernelInception
from reid_aug.quality.pckh import Pckh
from reid_aug.quality.truth import Truth

AnyMetric = Annotated[
    Ssim | SilhouetteSsim | InceptionScore | FrechetInception | KernelInception | Lpips | DetectionScore | Pckh
    | AppearancePreservation | IdentityPreservation | ReidFrechet | Truth,
    Field(discriminator="kind"),
]  # fmt: skip


class PairsConfig(Config):
    """Which pairs of test images are measured.

    Pairs are sampled by `seed` from all there are. With `order: keypoints` these are counted in the order of
    data.test_keypoints' rows, as the field's published list was, which 12,000 and seed 0 then give on Market-1501.
    """

    # Who is on a pair: "paired" is one person twice; "unpaired" takes one of a source and one of a target group, without overlap.
    kind: Literal["paired", "unpaired"] = "paired"
    count: PositiveInt = 12000  # Number of pairs to sample.
    seed: int = 0  # Seed of the sampling.
    order: Literal["name", "keypoints"] = "name"  # Order in which pairs are counted before some are sampled.
    any_pose: bool = False  # Whether images without a shoulder or hip are in pairs, too (PG2's text drops none); one joint is needed.
    file: str | None = None  # CSV `from,to` of image names (`reid-aug pairs`) whose pairs are measured; none are sampled then.
    source_identities: PositiveInt | None = None  # Number of people in the source group of unpaired; half of all, rounded up.
    target_identities: PositiveInt | None = None  # Number of people in the target group of unpaired; the other half.

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> PairsConfig:
        for name in ("source_identities", "target_identities"):
            number = getattr(self, name)
            if number is not None and (self.kind == "paired" or self.file is not None):
                of = "pairs of a file" if self.kind == "unpaired" else "kind: paired"
                raise ValueError(f"{name} is of pairs sampled with kind: unpaired, got {number} for {of}")
        if self.any_pose and (self.kind == "unpaired" or self.file is not None):
            of = "kind: unpaired" if self.file is None else "pairs of a file"
            raise ValueError(f"any_pose is of pairs sampled with kind: paired, got it for {of}")
        if self.order == "keypoints" and self.kind == "unpaired":
            raise ValueError("order: keypoints is of kind: paired, got it for kind: unpaired")
        return self

    @model_serializer(mode="wrap")
    def _without_later_keys(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what came later and is off: it must not change the folders of earlier measurements."""
        values = write(self)
        return values if values.get("any_pose") else {key: value for key, value in values.items() if key != "any_pose"}


def _odd(side_px: int) -> int:
    if side_px % 2 == 0:
        raise ValueError(f"a closing's side is an odd number of pixels, got {side_px}")
    return side_px


class MaskConfig(Config):
    """The body mask of a target pose: discs and limbs, then a closing; pixels at 128 rows, in proportion elsewhere."""

    limb_px: PositiveFloat = 4.0  # Radius of the discs around joints, and half the width of limbs.
    closing_px: Annotated[PositiveInt, AfterValidator(_odd)] = 5  # Side of the closing's square, an odd number.


class DataSetFacts(Config):
    """A public data set, recognised by what it holds: published numbers are shown beside numbers measured on it only."""

    name: str  # Name of the data set.
    images: PositiveInt | None = None  # Number of all images, where that is what is known.
    train_images: PositiveInt | None = None  # Number of training images.
    train_identities: PositiveInt | None = None  # Number of people in the training split.
    query_images: PositiveInt | None = None  # Number of queries.
    query_identities: PositiveInt | None = None  # Number of people among the queries.

    @model_validator(mode="after")
    def _says_something(self) -> DataSetFacts:
        if not self.counts:
            raise ValueError(f"{self.name} is recognised by a count at least, as train_images")
        return self

    @property
    def counts(self) -> dict[str, int]:
        """Return the counts that are known."""
        return {name: count for name in type(self).model_fields if name != "name" and (count := getattr(self, name)) is not None}

    @model_serializer(mode="plain")
    def _known(self) -> dict[str, Any]:
        return {"name": self.name, **self.counts}


class PublishedRow(Config):
    """One method's published numbers, by metric, and where they stand in print."""

    method: str  # Name of the method.
    values: dict[str, float]  # Published numbers by the metric's name.
    source: str  # Paper and table that the numbers stand in.


class ElsewhereRow(PublishedRow):
    """One method's published numbers that can't stand beside ours: they are shown by themselves, with the reason."""

    why: str  # What differs: the network, the definition, or the images.


def _everything() -> dict[str, AnyMetric]:
    """Return every metric, with its standard options, by its standard name."""
    return {
        "SSIM": Ssim(kind="ssim"),
        "mask-SSIM": Ssim(kind="ssim", masked=True),
        "LPIPS": Lpips(kind="lpips"),
        "mask-LPIPS": Lpips(kind="lpips", masked=True),
        "IS": InceptionScore(kind="inception-score"),
        "mask-IS": InceptionScore(kind="inception-score", masked=True),
        "FID": FrechetInception(kind="fid"),
        "KID": KernelInception(kind="kid"),
        "DS": DetectionScore(kind="detection"),
        "PCKh": Pckh(kind="pckh"),
        "identity": IdentityPreservation(kind="identity"),
        "APS": AppearancePreservation(kind="aps", network="reid", steps=100),  # of a network that is there: minutes, not a night
        "Re-ID Fréchet": ReidFrechet(kind="reid-frechet"),
        "truth": Truth(kind="truth"),
    }


def _where_asked_for() -> dict[str, AnyMetric]:
    """Return the metrics that are measured where they are named only, by the names that need no kind: `metrics.NAME={}`."""
    return {"mask-SSIM-silhouette": SilhouetteSsim(kind="silhouette-ssim")}


def _with_kind(metrics: Any) -> Any:
    """Give metrics that have a standard one's name its kind, unless they name another: `metrics.IS.splits=5` will do."""
    if not isinstance(metrics, dict):
        return metrics
    standard = {name: {"kind": metric.kind, **({"masked": True} if getattr(metric, "masked", False) else {})}
                for name, metric in {**_everything(), **_where_asked_for()}.items()}  # fmt: skip
    standard["APS"]["network"] = "reid"
    for name, value in metrics.items():
        if isinstance(value, dict) and "kind" not in value and name not in standard:
            near = nearest(str(name), list(standard))
            raise ValueError(f"a metric of a name of its own says its kind, got {name!r}; standard ones are {', '.join(standard)}{near}")
    return {
        name: {**standard[name], **value} if isinstance(value, dict) and "kind" not in value and name in standard else value
        for name, value in metrics.items()
    }


Metrics = Annotated[dict[str, AnyMetric], BeforeValidator(_with_kind)]


class QualityProtocol(Config):
    """How image quality is measured: a file of configs/quality; without one, every metric there is."""

    name: str = "everything"  # Name of the protocol.
    paper: str | None = None  # Citation of the paper that measures so.
    size: tuple[PositiveInt, PositiveInt] | None = None  # Size (H, W) that generated images must have; None allows any.
    pairs: PairsConfig = PairsConfig()  # Pairs of test images to measure.
    # Poses that a generator renders by: "given" ones of keypoint files, or those "found" by one that finds poses itself, in images that
    # need no keypoints; others are given theirs under both.
    poses: Literal["given", "found"] = "given"
    mask: MaskConfig = MaskConfig()  # Body mask, outside which masked metrics see black.
    jpeg: Annotated[int, Field(ge=1, le=100)] | None = None  # JPEG quality that generated images go through first.
    metrics: Metrics = Field(default_factory=_everything)  # Metrics by name; one with a standard name need not give its kind.
    data_set: DataSetFacts | None = None  # Data set that `published` is of.
    published: tuple[PublishedRow, ...] = ()  # Rows of published numbers to show beside the measured ones.
    elsewhere: tuple[ElsewhereRow, ...] = ()  # Rows of published numbers that are of something else, and what of.
    published_pairs: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # sha256sum of the published pairs' CSV, where known.

    @model_validator(mode="after")
    def _rows_of_metrics(self) -> QualityProtocol:
        if not self.metrics:
            raise ValueError("a protocol has one metric at least")
        for row in (*self.published, *self.elsewhere):
            if unknown := [name for name in row.values if name not in self.metrics]:
                raise ValueError(f"published row {row.method!r} has {unknown[0]!r}, which is none of the protocol's metrics")
        return self


class QualityRun(QualityProtocol):
    """`reid-aug quality`: a protocol, the data set, networks, and where results go."""

    data: DataConfig | None = None  # Real images; a dump that holds its own may leave it out.
    out: str = "runs"  # Folder of results.
    reid: str | None = None  # Checkpoint of a Re-ID network, as a benchmark keeps it in baselines/.
    download: bool = True  # Whether to download weights of networks that are not there.
    device: str = "auto"  # Device that measures; "auto" is a GPU when there is one.
    backend: Backend = "auto"  # What searches for the nearest real images: torch (which auto is), faiss-cpu or faiss-gpu.
    batch_size: PositiveInt = 64  # Number of images rendered and measured at a time.
    keep_images: bool = True  # Whether generated images stay beside the results.
    strata: bool = False  # Whether scores are also given by what is difficult about a pair, with the worst images of each stratum.
    worst: PositiveInt = 10  # Number of the worst images of a stratum.

    @property
    def protocol(self) -> QualityProtocol:
        """Return the protocol alone."""
        return QualityProtocol.model_validate({name: getattr(self, name) for name in QualityProtocol.model_fields})


class QualityConfig(Config):
    """A benchmark's image quality: on how many held-out pairs (0 measures none), by which metrics."""

    pairs: NonNegativeInt = 500  # Number of held-out pairs; 0 measures nothing.
    seed: int = 0  # Seed of the pairs' sampling.
    metrics: Metrics = Field(default_factory=_everything)  # Metrics by name; one with a standard name need not give its kind.
    download: bool = False  # Whether to download weights: hundreds of megabytes, and minutes of a CPU for what uses them.

    @property
    def protocol(self) -> QualityProtocol:
        """Return the protocol of that many pairs."""
        return QualityProtocol(name="benchmark", pairs=PairsConfig(count=self.pairs, seed=self.seed), metrics=self.metrics)
