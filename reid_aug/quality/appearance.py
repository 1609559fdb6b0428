"""APS: is the source's appearance kept? Measured with a network that was fine-tuned on the people who are shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from generators import tensors_digest
from reid_aug import config as configuration
from reid_aug.baselines.initial import initial_weights
from reid_aug.baselines.network import ReidNetwork, baseline_network, labels_of, load_baseline, save_baseline
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline
from reid_aug.data.people import JUNK
from reid_aug.quality.metrics import Batch, Measured, Metric, Value
from reid_aug.quality.networks import NotMeasurable
from reid_aug.quality.surroundings import Surroundings

REID = "reid"
REID_STEPS = 100  # of fine-tuning the Re-ID network, where no number is given
UNSEEN = ("recipe", "download", "compile", "cuda_graphs", "weights")  # keys of a recipe that decide nothing, or are told by the start


def as_before(values: dict[str, Any]) -> dict[str, Any]:
    """Leave APS's `network` out of a dumped protocol where it is "reid", as it was before there was a choice: for digests of that time.

    >>> as_before({"metrics": {"APS": {"kind": "aps", "network": "reid"}, "SSIM": {"kind": "ssim"}}})
    {'metrics': {'APS': {'kind': 'aps'}, 'SSIM': {'kind': 'ssim'}}}
    """
    metrics = {
        name: {key: value for key, value in metric.items() if metric["kind"] != "aps" or (key, value) != ("network", REID)}
        for name, metric in values["metrics"].items()
    }
    return {**values, "metrics": metrics}


class AppearancePreservation(Metric):
    """APS (Ho et al. 2019): affinity in [0, 1] of generated and source image by a network that knows the people.

    The paper fine-tunes an ImageNet ResNet-50 on the test set, and takes its "score of affinity" of two images. Here the network is
    fine-tuned to classify the identities that are shown, as IDE does (Zheng et al. 2016), and the affinity is the cosine of both
    images' features: means of rectified maps, which are nowhere negative, so it is in [0, 1]; of another network's features a
    negative cosine counts as 0. The paper prints neither, nor a schedule: its numbers are not shown beside ours.
    """

    kind: Literal["aps"]
    compares: ClassVar[bool] = True
    # Network that is fine-tuned: a recipe of configs/baselines, or a YAML, "ide" being ResNet-50; or "reid", the one given as reid=.
    network: str = "ide"
    steps: PositiveInt | None = None  # Number of training steps; None is the recipe's own, or 100 of the network given as reid=.

    def start(self, name: str, surroundings: Surroundings) -> Affinity:
        """Begin to measure: fine-tune the network, once; NotMeasurable without a baseline to fine-tune, or without real images."""
        tuned = self._of_reid if self.network == REID else self._of_recipe
        return Affinity(name, surroundings.once(("aps", self.network, self.steps), lambda: tuned(surroundings)))

    def _of_reid(self, surroundings: Surroundings) -> ReidNetwork:
        start = surroundings.reid
        if start.config is None or start.module is None:
            raise NotMeasurable(f"{start.name} can't be fine-tuned: APS takes one of a benchmark's baselines")
        rate = start.config.learning_rate / 5
        config = start.config.model_copy(update={"steps": self.steps or REID_STEPS, "learning_rate": rate})
        images = torch.cat([start.resized(batch) for batch in surroundings.real(surroundings.source_split)])
        data = TrainingSet(images, labels_of(surroundings.who(surroundings.source_split)[0]))
        tuned = train_baseline(config, data, 0, label="for APS", start=start.module().state_dict())
        return baseline_network(lambda: tuned, config, f"{start.name}, fine-tuned on {data.classes} identities shown")

    def _of_recipe(self, surroundings: Surroundings) -> ReidNetwork:
        """Fine-tune the recipe's network, or read it where it is kept; its name says which weights it started from."""
        steps = {} if self.steps is None else {"steps": self.steps}
        config = BaselineConfig.model_validate({"recipe": self.network, "download": surroundings.networks.download, **steps})
        state, said = initial_weights(config)
        begun_from = said.replace("baseline.download=", "download=")  # as this command calls it
        file = _place(config, "scratch" if state is None else tensors_digest(state), surroundings)
        if file is not None and file.is_file():
            tuned, header = load_baseline(file)
            classes = int(header["classes"])
        else:
            data = _shown(config, surroundings)
            tuned, classes = train_baseline(config, data, 0, label="for APS"), data.classes
            if file is not None:
                save_baseline(tuned, config, classes, file, start=begun_from)
        on_device: nn.Module = tuned.to(surroundings.networks.device)
        name = f"{config.model} ({begun_from}), fine-tuned on {classes} identities shown in {config.steps:,} steps"
        return baseline_network(lambda: on_device, config, name)


def _place(config: BaselineConfig, start: str, surroundings: Surroundings) -> Path | None:
    """Name the file of a fine-tuned network: another one for another recipe, start, or images; None where nothing is kept."""
    if surroundings.folder is None:
        return None
    content = {"start": start, "of": surroundings.content(surroundings.source_split), **config.values(*UNSEEN)}
    return surroundings.folder / f"aps-{config.model}-{configuration.digest(content)}.safetensors"


def _shown(config: BaselineConfig, surroundings: Surroundings) -> TrainingSet:
    """Gather the real images of those who are shown, junk left out, as they are measured: at the generated images' size, then resized."""
    pids = torch.tensor(surroundings.who(surroundings.source_split)[0])
    resized = ReidNetwork(lambda images: images, config.size, "").resized
    images = torch.cat([resized(batch) for batch in surroundings.real(surroundings.source_split)])
    return TrainingSet(images[pids != JUNK], labels_of(pids[pids != JUNK].tolist()))


class Affinity:
    """The mean affinity of generated and source images."""

    def __init__(self, name: str, network: ReidNetwork) -> None:
        self.name, self.network = name, network
        self.cosines: list[Tensor] = []

    def update(self, batch: Batch) -> None:
        """Compare a batch with its sources."""
        self.cosines.append(affinity(self.network.features(batch.generated), self.network.features(batch.source)))

    def compute(self) -> Measured:
        """Return the mean."""
        cosines = torch.cat(self.cosines)
        return Measured({self.name: Value(float(cosines.mean()), len(cosines), f"cosine by {self.network.name}")})


def affinity(a: Tensor, b: Tensor) -> Tensor:
    """Return the cosine (N,) of features (N, D), 0 where it is negative.

    >>> affinity(torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[4.0, 3.0], [-1.0, 0.0]]))
    tensor([0.9600, 0.0000])
    """
    return F.cosine_similarity(a, b, dim=1).clamp(min=0)
