"""The moving average of a network's weights: by hand, beside torch's own, and as the result of a training."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from reid_aug.baselines.averaging import MovingAverage, decay_at
from reid_aug.baselines.network import build
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline


def test_three_steps_by_hand() -> None:
    """Weights 0, then 1, 2, 3; decays 1/10, 2/11 and, capped, 0.2."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(layer.weight)
    average = MovingAverage(layer, 0.2)
    for step in range(3):
        nn.init.constant_(layer.weight, step + 1)
        average.update(step)
    first = 0.9 * 1
    second = 2 / 11 * first + 9 / 11 * 2
    average.fill_in()
    assert torch.allclose(layer.weight, torch.tensor(0.2 * second + 0.8 * 3)) and decay_at(0.2, 2) == 0.2


def test_late_in_training_it_is_torchs_with_the_statistics() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(network)  # their first is a copy
    average = MovingAverage(network, 0.9)
    for step in range(1000, 1004):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(8, 3) * 3 + 1)  # moves the statistics
        theirs.update_parameters(network)
        average.update(step)
    average.fill_in()
    expected = theirs.module.state_dict()
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name])
    assert int(network.state_dict()["1.num_batches_tracked"]) == 4, "a counter is no average"


def test_a_training_returns_the_average() -> None:
    """After one step it is a tenth of the start and nine tenths of the trained weights, statistics included."""
    config = BaselineConfig(model="small", widths=(8, 8, 8, 8), size=(32, 16), steps=1, identities=2, instances=2, crop_px=1)
    data = TrainingSet(torch.randint(0, 256, (8, 3, 32, 16), dtype=torch.uint8), torch.arange(8) % 4)
    torch.manual_seed(5)
    start = {name: value.clone() for name, value in build(config, 4).state_dict().items()}
    trained = train_baseline(config, data, 5).state_dict()
    averaged = train_baseline(config.model_copy(update={"ema": 0.99}), data, 5).state_dict()
    assert not torch.equal(start["conv1.1.running_mean"], trained["conv1.1.running_mean"])
    for name, value in averaged.items():
        if value.is_floating_point():
            torch.testing.assert_close(value, 0.1 * start[name] + 0.9 * trained[name])
