"""Protocols of image quality as data: which pairs, masks, files and metrics, and what others published under them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt, model_validator

from generators import nearest
from reid_aug.config import Config
from reid_aug.data.loading import DataConfig
from reid_aug.quality.identity import AppearancePreservation, IdentityPreservation, ReidFrechet
from reid_aug.quality.metrics import DetectionScore, FrechetInception, InceptionScore, KernelInception, Lpips, Ssim
from reid_aug.quality.pckh import Pckh
from reid_aug.quality.truth import Truth

AnyMetric = Annotated[
    Ssim | InceptionScore | FrechetInception | KernelInception | Lpips | DetectionScore | Pckh
    | AppearancePreservation | IdentityPreservation | ReidFrechet | Truth,
    Field(discriminator="kind"),
]  # fmt: skip


class PairsConfig(Config):
    """Which pairs of test images: "paired" of one person, "unpaired" of a source and a target group of people without overlap.

    Pairs are drawn by `seed` from all there are. With `order: keypoints` these are counted in the order of
    data.test_keypoints' rows, as the field's published list was, which 12,000 and seed 0 then give on Market-1501.
    """

    kind: Literal["paired", "unpaired"] = "paired"
    count: PositiveInt = 12000
    seed: int = 0
    order: Literal["name", "keypoints"] = "name"
    file: str | None = None  # a CSV `from,to` of image names (`reid-aug pairs`): these, and none are drawn
    source_identities: PositiveInt | None = None  # unpaired only; default: half of them, rounded up
    target_identities: PositiveInt | None = None  # the other half

    @model_validator(mode="after")
    def _nothing_in_vain(self) -> PairsConfig:
        for name in ("source_identities", "target_identities"):
            number = getattr(self, name)
            if number is not None and (self.kind == "paired" or self.file is not None):
                of = "pairs of a file" if self.kind == "unpaired" else "kind: paired"
                raise ValueError(f"{name} is of pairs drawn with kind: unpaired, got {number} for {of}")
        if self.order == "keypoints" and self.kind == "unpaired":
            raise ValueError("order: keypoints is of kind: paired, got it for kind: unpaired")
        return self


def _odd(side_px: int) -> int:
    if side_px % 2 == 0:
        raise ValueError(f"a closing's side is an odd number of pixels, got {side_px}")
    return side_px


class MaskConfig(Config):
    """The body mask of a target pose: discs and limbs, then a closing; pixels at 128 rows, in proportion elsewhere."""

    limb_px: PositiveFloat = 4.0
    closing_px: Annotated[PositiveInt, AfterValidator(_odd)] = 5


class DataSetFacts(Config):
    """A public data set, recognised by what it holds: published numbers are shown beside its own only."""

    name: str
    train_images: PositiveInt
    train_identities: PositiveInt
    query_images: PositiveInt
    query_identities: PositiveInt


class PublishedRow(Config):
    """One method's published numbers, by metric, and where they stand in print."""

    method: str
    values: dict[str, float]
    source: str


def _everything() -> dict[str, AnyMetric]:
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
        "APS": AppearancePreservation(kind="aps"),
        "Re-ID Fréchet": ReidFrechet(kind="reid-frechet"),
        "truth": Truth(kind="truth"),
    }


def _with_kind(metrics: Any) -> Any:
    """Metrics that have the name of a standard one are of its kind unless they say otherwise: `metrics.IS.splits=5` will do."""
    if not isinstance(metrics, dict):
        return metrics
    standard = {name: {"kind": metric.kind, **({"masked": True} if getattr(metric, "masked", False) else {})}
                for name, metric in _everything().items()}  # fmt: skip
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

    name: str = "everything"
    paper: str | None = None
    size: tuple[PositiveInt, PositiveInt] | None = None  # (H, W) generators draw; None: any
    pairs: PairsConfig = PairsConfig()
    mask: MaskConfig = MaskConfig()
    jpeg: Annotated[int, Field(ge=1, le=100)] | None = None  # measure what this JPEG quality leaves of generated images
    metrics: Metrics = Field(default_factory=_everything)
    data_set: DataSetFacts | None = None
    published: tuple[PublishedRow, ...] = ()
    published_pairs: Annotated[str, Field(pattern="^[0-9a-f]{64}$")] | None = None  # sha256sum of the pairs `published` is of, if known

    @model_validator(mode="after")
    def _rows_of_metrics(self) -> QualityProtocol:
        if not self.metrics:
            raise ValueError("a protocol has one metric at least")
        for row in self.published:
            if unknown := [name for name in row.values if name not in self.metrics]:
                raise ValueError(f"published row {row.method!r} has {unknown[0]!r}, which is none of the protocol's metrics")
        return self


class QualityRun(QualityProtocol):
    """`reid-aug quality`: a protocol, the data set, networks, and where results go."""

    data: DataConfig | None = None  # may be left out for a dump that holds its real images
    out: str = "runs"
    reid: str | None = None  # the checkpoint of a Re-ID network, as a benchmark keeps it in baselines/
    download: bool = True  # of networks' weights
    device: str = "auto"
    batch_size: PositiveInt = 64
    keep_images: bool = True

    @property
    def protocol(self) -> QualityProtocol:
        return QualityProtocol.model_validate({name: getattr(self, name) for name in QualityProtocol.model_fields})


class QualityConfig(Config):
    """A benchmark's image quality: on how many held-out pairs (0 measures none), by which metrics."""

    pairs: NonNegativeInt = 500
    seed: int = 0
    metrics: Metrics = Field(default_factory=_everything)
    download: bool = False  # weights that are not there yet; hundreds of megabytes, and minutes of a CPU for what uses them

    @property
    def protocol(self) -> QualityProtocol:
        return QualityProtocol(name="benchmark", pairs=PairsConfig(count=self.pairs, seed=self.seed), metrics=self.metrics)
