"""Scores of sets of images, from a network's features: inception score, Fréchet and kernel distances."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from reid_aug.quality.metrics import Batch, Measured, Value
from reid_aug.quality.networks import NotMeasurable


def inception_score(logits: Tensor, splits: int = 10) -> tuple[float, float]:
    """Return mean and standard deviation over `splits` runs of consecutive rows of logits (N, C); NotMeasurable for N below splits.

    Salimans et al. 2016: exp of the mean Kullback-Leibler divergence of p(y|x) from p(y). One split has a deviation of 0.

    >>> inception_score(torch.zeros(4, 3), splits=2)  # every image is as likely of every class
    (1.0, 0.0)
    """
    _check(logits, "logits")
    if len(logits) < splits:
        raise NotMeasurable(f"an inception score of {splits} splits takes as many images at least, got {len(logits)}")
    log_p = logits.double().log_softmax(1)
    edges = [len(logits) * i // splits for i in range(splits + 1)]
    scores = torch.stack([_score(log_p[a:b]) for a, b in zip(edges, edges[1:], strict=False)])
    return float(scores.mean()), float(scores.std(unbiased=False))


def _score(log_p: Tensor) -> Tensor:
    p = log_p.exp()
    return (p * (log_p - p.mean(0).log())).nan_to_num(0.0).sum(1).mean().exp()


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Fréchet distance between Gaussians fitted to features (N, D) and (M, D) (Heusel et al. 2017).

    tr (Σ_a Σ_b)^½ is the nuclear norm of R_a R_bᵀ, where RᵀR = Σ: exact for sets smaller than D too, whose Σ has no
    inverse, and 0 for equal sets. NotMeasurable below two rows, ValueError for features that are not finite.

    >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[5.0], [5.0]]))  # means 1 and 5, variances 2 and 0
    18.0
    """
    for name, features in (("the first", a), ("the second", b)):
        _check(features, f"features of {name} set")
        if len(features) < 2:
            raise NotMeasurable(f"a Fréchet distance takes two images a set at least, got {len(features)} in {name}")
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"features of both sets are as long, got {a.shape[1]} and {b.shape[1]}")
    (mean_a, root_a), (mean_b, root_b) = _gaussian(a), _gaussian(b)
    shared = torch.linalg.svdvals(root_a @ root_b.T).sum()
    distance = (mean_a - mean_b).square().sum() + root_a.square().sum() + root_b.square().sum() - 2 * shared
    return max(float(distance), 0.0)


def _gaussian(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (D,) and a root R (min(N, D), D) of the covariance RᵀR with N − 1 below."""
    features = features.double()
    mean = features.mean(0)
    centred = (features - mean) / (len(features) - 1) ** 0.5
    return mean, centred if len(centred) <= centred.shape[1] else torch.linalg.qr(centred, mode="r").R


def kernel_distance(
    a: Tensor, b: Tensor, subsets: int = 100, subset_size: int = 1000, seed: int = 0,
    keys: tuple[Sequence[bytes], Sequence[bytes]] | None = None,
) -> tuple[float, float]:  # fmt: skip
    """Return mean and deviation of the polynomial MMD over random subsets of features (N, D), (M, D) (Bińkowski et al. 2018).

    torchmetrics'; subsets are sampled from `seed` and no larger than the smaller set. Rows are sorted by `keys` first, those
    of `a` and of `b` (default: a hash of each row), so that no order of images decides which are sampled. NotMeasurable below
    two rows; ValueError for features that are not finite, or keys that are not as many.

    >>> kernel_distance(torch.tensor([[0.0], [1.0]]), torch.tensor([[1.0], [2.0]]), subsets=2)  # 1³ + 3³ − 2 · (1³ + 1³ + 2³ + 3³) / 4
    (9.5, 0.0)
    """
    from torchmetrics.image.kid import KernelInceptionDistance

    size = min(subset_size, len(a), len(b))
    if size < 2:
        raise NotMeasurable(f"a kernel distance takes two images a set at least, got {size}")
    for features in (a, b):
        _check(features, "features")
    a, b = (_sorted(features, None if keys is None else keys[i]) for i, features in enumerate((a, b)))
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore", UserWarning)  # that it keeps what it is given
        torch.manual_seed(seed)
        metric = KernelInceptionDistance(_FeaturesThemselves(), subsets=subsets, subset_size=size)
        metric.update(b, real=True)
        metric.update(a, real=False)
        mean, std = metric.compute()
    return float(mean), float(std)


class _FeaturesThemselves(nn.Module):
    """Stands where torchmetrics expects a network: it is given features, not images."""

    num_features = 0

    def forward(self, features: Tensor) -> Tensor:
        return features


def row_keys(rows: Tensor) -> list[bytes]:
    """Return a hash of every row of images or features (N, …): what they can be sorted by, whatever order they came in."""
    return [hashlib.sha256(row.tobytes()).digest() for row in rows.detach().cpu().numpy()]


def _sorted(features: Tensor, keys: Sequence[bytes] | None) -> Tensor:
    keys = row_keys(features) if keys is None else keys
    if len(keys) != len(features):
        raise ValueError(f"there is a key for every row of features, got {len(keys)} for {len(features)}")
    return features[sorted(range(len(keys)), key=keys.__getitem__)]


def _check(features: Tensor, what: str) -> None:
    if features.ndim != 2 or not len(features):
        raise ValueError(f"{what} are (N, D) with N of 1 at least, got {tuple(features.shape)}")
    if not bool(torch.isfinite(features).all()):
        raise ValueError(f"{what} are finite, got {int((~torch.isfinite(features)).sum())} values that are not")


class FrechetMeasurement:
    """The Fréchet distance between features of all generated images and those of a set of real ones."""

    def __init__(self, name: str, features: Callable[[Batch], Tensor], real_features: Callable[[], Tensor], how: str) -> None:
        self.name, self.how = name, how
        self._features, self._real_features = features, real_features
        self._batches: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Keep a batch's features."""
        self._batches.append(self._features(batch))

    def compute(self) -> Measured:
        """Return the distance; NotMeasurable with less than two images."""
        features, real = torch.cat(self._batches), self._real_features()
        return Measured({self.name: Value(frechet_distance(features, real), len(features), f"{self.how}; {len(real):,} real images")})
