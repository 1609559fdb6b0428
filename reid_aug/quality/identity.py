"""Does a generated image still show its person? Measured with Re-ID networks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional as F

from reid_aug.baselines.network import ReidNetwork, labels_of, of_baseline
from reid_aug.baselines.ranking import rank_gallery
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.quality.distributions import frechet_distance
from reid_aug.quality.metrics import Around, Batch, Metric, Reference, Running, SetDistance, Value
from reid_aug.quality.networks import NotMeasurable


class AroundPeople(Around):
    """What identity metrics ask for besides: who is on the real images, and a Re-ID network."""

    home: Reference  # the split whose people were drawn

    @abstractmethod
    def who(self, split: Reference) -> tuple[Sequence[int], Sequence[int]]:
        """Identities and cameras of `real(split)`, in its order."""

    @property
    @abstractmethod
    def reid(self) -> ReidNetwork:
        """The network that judges identity; NotMeasurable when none is given."""

    def real_features(self, network: ReidNetwork, split: Reference) -> Tensor:
        """Features of the real images of a split, computed once."""
        return self.once(("reid", network.name, split), lambda: torch.cat([network.features(images) for images in self.real(split)]))


def _people(around: Around) -> AroundPeople:
    if not isinstance(around, AroundPeople):
        raise NotMeasurable("no identities are known")
    return around


def _own(batch: Batch, network: ReidNetwork) -> Tensor:
    return batch.once(("reid", network.name), lambda: network.features(batch.generated))


class IdentityPreservation(Metric):
    """Is the person found again? rank-1 of generated images as queries among real ones, and ID².

    A query has the source's camera, so that real images of that camera, the source among them, do not count. ID² is the
    mean squared distance of unit features to the mean of the identity's real ones.
    """

    kind: Literal["identity"]

    def start(self, around: Around) -> Running:
        people = _people(around)
        network = people.reid

        class Preserved(Running):
            def __init__(self) -> None:
                self.kept, self.pids, self.camids = [], [], []

            def update(self, batch: Batch) -> None:
                self.kept.append(_own(batch, network))
                self.pids += batch.pids
                self.camids += batch.camids

            def values(self, name: str) -> dict[str, Value]:
                own, real = torch.cat(self.kept), people.real_features(network, people.home)
                pids, camids = people.who(people.home)
                found = {}
                if self._seen_elsewhere():
                    ranking = rank_gallery(own, real, self.pids, pids, self.camids, camids)
                    how = f"{network.name}; gallery of {len(real):,} real images"
                    found[f"{name} rank-1"] = Value(float(ranking.cmc[0]), int(ranking.valid.sum()), how)
                mine, theirs = identity_distance(own, self.pids, real, pids), identity_distance(real, pids, real, pids)
                how = f"{network.name}; {float(theirs.mean()):.3f} for the real images themselves"
                return found | {"ID²": Value(float(mine.mean()), len(mine), how)}

            def missing(self, name: str) -> dict[str, str]:
                return {} if self._seen_elsewhere() else {f"{name} rank-1": "nobody drawn has a real image of another camera"}

            def _seen_elsewhere(self) -> bool:
                """Is anybody found by another camera than the source's? Else no query has a right answer."""
                cameras: dict[int, set[int]] = {}
                for pid, camid in zip(*people.who(people.home), strict=True):
                    cameras.setdefault(pid, set()).add(camid)
                return any(cameras.get(pid, set()) - {camid} for pid, camid in zip(self.pids, self.camids, strict=True))

        return Preserved()


def identity_distance(own: Tensor, own_pids: Sequence[int], real: Tensor, real_pids: Sequence[int]) -> Tensor:
    """Squared distances (N,) of unit features (N, D) to their identity's centre, the mean of its real unit features.

    ValueError when an identity has no real image.
    """
    real, own = F.normalize(real.double(), dim=1), F.normalize(own.double(), dim=1)
    there = np.asarray(real_pids)
    centres: dict[int, Tensor] = {}
    for pid in sorted(set(own_pids)):
        rows = torch.from_numpy(there == pid)
        if not bool(rows.any()):
            raise ValueError(f"identity {pid} has no real image to be near to")
        centres[pid] = real[rows].mean(0)
    return (own - torch.stack([centres[pid] for pid in own_pids])).square().sum(1)


class AppearancePreservation(Metric):
    """APS (Ho et al. 2019): affinity in [0, 1] of generated and source image by a network that knows the people.

    The paper fine-tunes an ImageNet ResNet-50 on the test set and does not say how it turns two images into an
    affinity. Here the benchmark's Re-ID network is fine-tuned on the identities that are drawn, and the affinity is
    the cosine of both images' features, 0 where it is negative: it compares generators with each other only.
    """

    kind: Literal["aps"]
    steps: PositiveInt = 100

    def start(self, around: Around) -> Running:
        people = _people(around)
        network = people.once(("aps", self.steps), lambda: self._tuned(people))
        kept: list[Tensor] = []

        class Affinity(Running):
            def update(self, batch: Batch) -> None:
                mine, theirs = network.features(batch.generated), network.features(batch.source)
                kept.append(F.cosine_similarity(mine, theirs, dim=1).clamp(min=0))

            def values(self, name: str) -> dict[str, Value]:
                scores = torch.cat(kept)
                return {name: Value(float(scores.mean()), len(scores), f"cosine by {network.name}")}

        return Affinity()

    def _tuned(self, people: AroundPeople) -> ReidNetwork:
        start = people.reid
        if start.config is None or start.module is None:
            raise NotMeasurable(f"{start.name} can't be fine-tuned: APS takes one of a benchmark's baselines")
        images = torch.cat([start.resized(batch) for batch in people.real(people.home)])
        config = start.config.model_copy(update={"steps": self.steps, "learning_rate": start.config.learning_rate / 5})
        data = TrainingSet(images, labels_of(people.who(people.home)[0]))
        tuned = train_baseline(config, data, 0, label="for APS", start=start.module().state_dict())
        return of_baseline(lambda: tuned, config, f"{start.name}, fine-tuned on {data.classes} drawn identities")


class ReidFrechet(Metric):
    """Fréchet distance between Re-ID features of generated and real images: no FID, whose network is another."""

    kind: Literal["reid-frechet"]
    reference: Reference = "train"

    def start(self, around: Around) -> Running:
        people = _people(around)
        network = people.reid
        return SetDistance(
            lambda batch: _own(batch, network), lambda: people.real_features(network, self.reference),
            lambda a, b: (frechet_distance(a, b), None), f"{network.name}; reference: {self.reference}",
        )  # fmt: skip
