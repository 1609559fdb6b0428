"""APS: affinities by hand, and a network fine-tuned on those who are shown, kept, and independent of `reid=`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from reid_aug.baselines.network import ReidNetwork
from reid_aug.data.people import JUNK, PersonImage
from reid_aug.quality import appearance
from reid_aug.quality.appearance import Affinity, AppearancePreservation, affinity, as_before
from reid_aug.quality.metrics import Batch
from reid_aug.quality.networks import Networks, NotMeasurable
from reid_aug.quality.surroundings import Surroundings

SIZE = (32, 16)
RECIPE = """model: small
size: [32, 16]
widths: [8, 8, 8, 8]
steps: 25
identities: 4
instances: 3
crop_px: 1
"""


def test_affinity_by_hand() -> None:
    generated = torch.tensor([[3.0, 4.0], [2.0, 0.0], [1.0, 0.0], [1.0, 1.0]])
    source = torch.tensor([[4.0, 3.0], [5.0, 0.0], [-1.0, 0.0], [0.0, 7.0]])
    assert affinity(generated, source).tolist() == pytest.approx([24 / 25, 1.0, 0.0, 0.5**0.5])


def test_the_mean_over_all_batches_by_hand(batch_of: Callable[..., Batch]) -> None:
    """Features are the mean red, green and blue: (3, 4, 0) of every generated image, (4, 3, 0), then (0, 0, 9) of the sources."""
    network = ReidNetwork(lambda images: images.float().mean((2, 3)), SIZE, "mean colours")
    measurement = Affinity("APS", network)

    def plain(colour: list[int], count: int) -> Tensor:
        return torch.tensor(colour, dtype=torch.uint8).view(1, 3, 1, 1).expand(count, 3, *SIZE).contiguous()

    for source, count in (([4, 3, 0], 3), ([0, 0, 9], 1)):
        measurement.update(replace(batch_of(plain([3, 4, 0], count)), source=plain(source, count)))
    value = measurement.compute().values["APS"]
    assert value.value == pytest.approx((3 * 0.96 + 0) / 4) and value.count == 4 and value.how == "cosine by mean colours"


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    (tmp_path / "tiny.yaml").write_text(RECIPE)
    return str(tmp_path / "tiny.yaml")


def around(people: list[PersonImage], networks: Networks, folder: Path) -> Surroundings:
    return Surroundings(people, SIZE, networks, folder=folder)


def test_it_learns_who_is_shown_and_is_kept(
    people: list[PersonImage], networks: Networks, recipe: str, tmp_path: Path, batch_of: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    metric, seen = AppearancePreservation(kind="aps", network=recipe), []
    monkeypatch.setattr(appearance, "train_baseline", lambda *given, **more: seen.append(given[1]) or TRAIN(*given, **more))
    junk = replace(next(p for p in people if p.split == "gallery"), pid=JUNK)
    surroundings = around([*people, junk], networks, tmp_path / "kept")
    measurement = metric.start("APS", surroundings)  # without reid=
    test = [p for p in people if p.split != "train"]
    assert seen[0].classes == len({p.pid for p in test}) == 4 and len(seen[0].labels) == len(test), "query and gallery, without junk"
    real = torch.cat(list(around(people, networks, tmp_path).real("test")))
    pids = torch.tensor([p.pid for p in test])
    features = torch.nn.functional.normalize(measurement.network.features(real))
    cosine, same = features @ features.T, pids[:, None] == pids
    assert float(cosine[same].mean()) > float(cosine[~same].mean()) + 0.1, "it knows the people"
    measurement.update(replace(batch_of(real[:6]), source=real[:6]))
    value = measurement.compute().values["APS"]
    assert value.value == pytest.approx(1.0)
    assert value.how == "cosine by small (scratch), fine-tuned on 4 identities shown in 25 steps"
    again = metric.start("APS", around([*people, junk], networks, tmp_path / "kept"))
    assert len(seen) == 1 and torch.allclose(again.network.features(real), measurement.network.features(real)), "read, not trained anew"
    short = AppearancePreservation(kind="aps", network=recipe, steps=2)
    for shown in (people, [p for p in people if p.pid != test[0].pid]):
        short.start("APS", around(shown, networks, tmp_path / "kept"))
    assert len(seen) == 3 and len(list((tmp_path / "kept").iterdir())) == 3, "other steps, other people"


TRAIN = appearance.train_baseline


def test_by_default_it_is_a_resnet_50_from_imagenet_where_its_weights_are(
    people: list[PersonImage], networks: Networks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = []
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(appearance, "train_baseline", lambda config, *_, **__: configs.append(config) or torch.nn.Identity())
    network = AppearancePreservation(kind="aps").start("APS", Surroundings(people, SIZE, networks)).network
    assert (configs[0].model, configs[0].weights, configs[0].steps) == ("resnet50", "imagenet-or-scratch", 100_000)
    assert network.name.startswith("resnet50 (scratch, as ImageNet weights are missing (torchvision's resnet50: put https://")
    assert "or say download=true" in network.name


def test_the_network_given_as_reid_is_the_option(people: list[PersonImage], networks: Networks, surroundings: Surroundings) -> None:
    metric = AppearancePreservation(kind="aps", network="reid", steps=100)
    assert type(metric).model_validate(metric.model_dump()) == metric, "what was said is read again"
    as_it_was = as_before({"metrics": {"APS": metric.model_dump()}})
    assert as_it_was == {"metrics": {"APS": {"kind": "aps", "steps": 100}}}, "reports of before there was a choice keep their digests"
    with pytest.raises(NotMeasurable, match="no Re-ID network given"):
        metric.start("APS", Surroundings(people, SIZE, networks))
    one = AppearancePreservation(kind="aps", network="reid", steps=1).start("APS", surroundings)
    assert one.network.name.startswith(f"{surroundings.reid.name}, fine-tuned on 4 identities shown")
