"""Training a baseline on a GPU: nothing waits for it inside the loop, and CUDA graphs compute what single kernels do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from reid_aug.baselines import graphs
from reid_aug.baselines.augmentation import augment, erase, grey_patch
from reid_aug.baselines.network import build, prepare
from reid_aug.baselines.recipes import BaselineConfig
from reid_aug.baselines.training import TrainingSet, train_baseline

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
SMALL: dict[str, Any] = {"model": "small", "widths": (8, 8, 8, 8), "neck": True, "size": (32, 16), "identities": 4, "instances": 4}


def some_people(count: int = 32) -> TrainingSet:
    torch.manual_seed(0)
    return TrainingSet(torch.randint(0, 256, (count, 3, 32, 16), dtype=torch.uint8), torch.arange(count) // 4)


@contextmanager
def waiting_is_an_error() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_captured_network_keeps_weights_and_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    """Capturing runs the network a few times; what that changes is put back. (A CPU can't capture: the calls alone are made here.)"""

    def warmed_up(module: nn.Module, arguments: tuple[torch.Tensor], **options: Any) -> nn.Module:
        for _ in range(3):
            module(*arguments)
        return module

    monkeypatch.setattr(torch.cuda, "make_graphed_callables", warmed_up)
    model = build(BaselineConfig(**SMALL), 8).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    captured = graphs.as_cuda_graphs(model, torch.rand(16, 3, 32, 16), "32-true")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    logits, features = captured(torch.rand(16, 3, 32, 16))
    assert logits.shape == (16, 8) and features.shape == (16, 8)
    assert int(model.state_dict()["conv1.1.num_batches_tracked"]) == 1  # the network itself is inside, not a copy


def test_a_cpu_does_without_graphs_and_ends_with_the_same_weights() -> None:
    configs = [BaselineConfig(**SMALL, steps=2, cuda_graphs=graphs) for graphs in (False, True)]
    ends = [train_baseline(config, some_people(), 0, device="cpu") for config in configs]
    assert all(torch.equal(a, b) for a, b in zip(*(end.state_dict().values() for end in ends), strict=True))


def test_compiling_and_graphs_are_not_asked_for_together() -> None:
    with pytest.raises(ValueError, match="two ways to launch a network"):
        BaselineConfig(compile=True, cuda_graphs=True)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_graphs_compute_what_single_kernels_do(precision: str) -> None:
    config = BaselineConfig(**SMALL, steps=20, precision=precision, triplet_weight=1.0, erasing=0.5)  # type: ignore[arg-type]
    plain, graphed = (
        train_baseline(config.model_copy(update={"cuda_graphs": graphs}), some_people(), 0, device="cuda") for graphs in (False, True)
    )
    images = prepare(some_people().images.cuda())
    with torch.no_grad():
        torch.testing.assert_close(graphed(images), plain(images), rtol=0.05, atol=0.05)


@pytest.mark.gpu
@needs_gpu
def test_what_happens_to_a_batch_makes_nobody_wait() -> None:
    config, noise = BaselineConfig(**SMALL), torch.Generator().manual_seed(0)
    images = some_people().images.cuda()
    with waiting_is_an_error():
        erase(prepare(grey_patch(augment(images, config, noise), 0.5, noise)), 0.5, noise)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("graphed", [False, True])
def test_steps_make_nobody_wait(graphed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the third step to the last but one; the first ones make buffers, and the end reads the loss."""
    steps, waits = 8, iter(range(100))

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        step = next(waits)
        torch.cuda.set_sync_debug_mode("error" if 2 <= step < steps - 2 else "default")
        return original(self, *args, **kwargs)

    original = torch.optim.lr_scheduler.LRScheduler.step
    monkeypatch.setattr(torch.optim.lr_scheduler.LRScheduler, "step", counted)
    try:
        train_baseline(BaselineConfig(**SMALL, steps=steps, triplet_weight=1.0, cuda_graphs=graphed), some_people(), 0, device="cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")
