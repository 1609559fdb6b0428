"""Does a generated image still show its person? Measured with Re-ID networks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from reid_aug.baselines.neighbours import rank1
from reid_aug.baselines.network import ReidNetwork
from reid_aug.quality.distributions import FrechetMeasurement
from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.surroundings import RealSplit, Surroundings


class IdentityPreservation(Metric):
    """Is the person found again? rank-1 of generated images as queries among real ones, and ID².

    A query has the source's camera, so that real images of the person by that camera, the source among them, do not count. One in a
    target image's place has that image's camera, too: a network that knows the place again has not found the person. ID² is
    the mean squared distance of unit features to the mean of the identity's real ones.
    """

    kind: Literal["identity"]

    def start(self, name: str, surroundings: Surroundings) -> Preserved:
        """Begin to measure; NotMeasurable without a Re-ID network."""
        return Preserved(name, surroundings)


class Preserved:
    """rank-1 and ID² of generated images, by their Re-ID features."""

    def __init__(self, name: str, surroundings: Surroundings) -> None:
        self.name, self.surroundings, self.network = name, surroundings, surroundings.reid
        self.features: list[Tensor] = []
        self.pids: list[int] = []
        self.camids: list[int] = []
        self.scene_camids: list[int] = []  # The source's where the place is the source's.

    def update(self, batch: Batch) -> None:
        """Keep a batch's features and labels."""
        self.features.append(_features(batch, self.network))
        self.pids += batch.pids
        self.camids += batch.camids
        self.scene_camids += batch.camids if batch.scene_camids is None else batch.scene_camids

    def compute(self) -> Measured:
        """Return both values, rank-1 only where some query has a right answer; ValueError for features that are not finite."""
        split, network, column = self.surroundings.source_split, self.network, f"{self.name} rank-1"
        generated, real = torch.cat(self.features), _real_features(self.surroundings, network, split)
        pids, camids = self.surroundings.who(split)
        values, missing = {}, {}
        if self._some_by_another_camera(pids, camids):
            who, backend = (self.pids, pids, self.camids, camids), self.surroundings.backend
            found, queries = rank1(generated, real, *who, scene_camids=self.scene_camids, backend=backend)
            scenes = "" if self.scene_camids == self.camids else ", without the person's by the source's or the scene's camera"
            how = f"{network.name}; gallery of {len(real):,} real images{scenes}"
            values[column] = Value(found, queries, how)
        else:
            scenes = "" if self.scene_camids == self.camids else " than the source's and the scene's"
            missing[column] = f"nobody shown has a real image of another camera{scenes}"
        distance, of_real = identity_distance(generated, self.pids, real, pids), identity_distance(real, pids, real, pids)
        how = f"{network.name}; {float(of_real.mean()):.3f} for the real images themselves"
        values["ID²"] = Value(float(distance.mean()), len(distance), how)
        return Measured(values, missing)

    def _some_by_another_camera(self, pids: Sequence[int], camids: Sequence[int]) -> bool:
        """Tell whether anybody shown has a real image of another camera than the query's: else no query has a right answer."""
        cameras: dict[int, set[int]] = {}
        for pid, camid in zip(pids, camids, strict=True):
            cameras.setdefault(pid, set()).add(camid)
        queries = zip(self.pids, self.camids, self.scene_camids, strict=True)
        return any(cameras.get(pid, set()) - {camid, scene} for pid, camid, scene in queries)


def identity_distance(features: Tensor, pids: Sequence[int], real: Tensor, real_pids: Sequence[int]) -> Tensor:
    """Return squared distances (N,) of unit features (N, D) to their identity's centre, the mean of its real unit features.

    ValueError when an identity has no real image.

    >>> real = torch.tensor([[2.0, 0.0], [0.0, 5.0], [3.0, 0.0]])
    >>> identity_distance(torch.tensor([[4.0, 0.0], [0.0, 1.0]]), [7, 9], real, [7, 7, 9]).tolist()
    [0.5, 2.0]
    """
    real, features = F.normalize(real.double(), dim=1), F.normalize(features.double(), dim=1)
    labels = np.asarray(real_pids)
    centres: dict[int, Tensor] = {}
    for pid in sorted(set(pids)):
        rows = torch.from_numpy(labels == pid)
        if not bool(rows.any()):
            raise ValueError(f"identity {pid} has no real image to be near to")
        centres[pid] = real[rows].mean(0)
    return (features - torch.stack([centres[pid] for pid in pids])).square().sum(1)


class ReidFrechet(Metric):
    """Fréchet distance between Re-ID features of generated and real images: no FID, whose network is another."""

    kind: Literal["reid-frechet"]
    compares: ClassVar[bool] = True
    reference: RealSplit = "train"  # Split of the real images to compare with; "test" is query and gallery.

    def start(self, name: str, surroundings: Surroundings) -> FrechetMeasurement:
        """Begin to measure; NotMeasurable without a Re-ID network."""
        network = surroundings.reid
        return FrechetMeasurement(
            name,
            lambda batch: _features(batch, network),
            lambda: _real_features(surroundings, network, self.reference),
            f"{network.name}; reference: {self.reference}",
        )


def _features(batch: Batch, network: ReidNetwork) -> Tensor:
    """Return Re-ID features of a batch's generated images, computed once for all metrics."""
    return batch.once(("reid", network.name), lambda: network.features(batch.generated))


def _real_features(surroundings: Surroundings, network: ReidNetwork, split: RealSplit) -> Tensor:
    """Return Re-ID features of the real images of a split, computed once."""
    key = ("reid", network.name, split)
    return surroundings.once(key, lambda: torch.cat([network.features(images) for images in surroundings.real(split)]))
