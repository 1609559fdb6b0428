"""What tests of generators share: random poses and pairs, small networks, and ways to look into a model or compare two.

`conftest.py` puts this folder on the path; some of these are also fixtures there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from generators import Generator, Pose, PosePair, Skeleton, Trained, checkpoints, keeps_options, openpose_18, perceptual, train
from generators.models.pg2 import PG2
from generators.training import CHECKPOINT

MakePose = Callable[..., Pose]
MakePair = Callable[..., PosePair]
Model = TypeVar("Model", bound=nn.Module)
Losses = dict[tuple[str, int], list[float]]
ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs" / "generators"

# --- random input ---


def random_pose(
    seed: int = 0,
    batch: tuple[int, ...] = (2,),
    skeleton: Skeleton = openpose_18,
    size: tuple[int, int] = (32, 16),
    missing: float = 0.0,  # Share of joints that nobody saw.
    dtype: torch.dtype = torch.float32,
) -> Pose:
    """Make joints anywhere in the frame, and a few pixels out of it."""
    random = torch.Generator().manual_seed(seed)
    shape = (*batch, len(skeleton))
    xy = torch.rand(*shape, 2, generator=random, dtype=torch.float64) * torch.tensor([size[1] + 4.0, size[0] + 4.0]) - 2
    return Pose(xy.to(dtype), torch.rand(*shape, generator=random) >= missing, skeleton, size)


def random_pair(
    seed: int = 0,
    batch: int = 2,
    skeleton: Skeleton = openpose_18,
    size: tuple[int, int] = (32, 16),
    missing: float = 0.2,
    dtype: torch.dtype = torch.float32,
) -> PosePair:
    """Make two images of noise per row, each with a random pose."""
    random = torch.Generator().manual_seed(seed)
    source, target = (torch.rand(batch, 3, *size, generator=random, dtype=torch.float64).to(dtype) * 2 - 1 for _ in range(2))
    poses = [random_pose(2 * seed + i + 1, (batch,), skeleton, size, missing, dtype) for i in range(2)]
    return PosePair(source, target, poses[0], poses[1], torch.arange(batch))


def narrow_vgg_weights(width: int = 2) -> dict[str, Tensor]:
    """Make weights of a VGG-19 whose first level is `width` wide in place of 64, by torchvision's names."""
    random, state, before = torch.Generator().manual_seed(0), {}, 3
    for layer, key in zip(perceptual.LAYERS, perceptual._keys(), strict=True):
        after = width * min(2 ** (int(layer[4]) - 1), 8)
        spread = (2 / (9 * before)) ** 0.5
        state[f"{key}.weight"] = torch.randn(after, before, 3, 3, generator=random) * spread
        state[f"{key}.bias"] = torch.randn(after, generator=random) * 0.1
        before = after
    return state


# --- looking into a model ---


def rendered(model: Generator, pair: PosePair, scene: bool = False) -> Tensor:
    """Render a pair; with its target image as scene, where the model takes scenes, if `scene`."""
    return model(*model.inputs_of(pair)) if scene else model(pair.source, pair.source_pose, pair.target_pose)


def loss_of(model: Generator, player: str, pair: PosePair, step: int = 0) -> Tensor:
    """Return what a player pays at a step, summed as the loop does."""
    return torch.stack(list(model.losses(player, pair, step).values())).sum()


def count_parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def output_shapes(module: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """Return the output's shape, batch first, of every submodule by name, at one forward; of several outputs the last one's."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda _, __, out: shapes.__setitem__(name, tuple((out if isinstance(out, Tensor) else out[-1]).shape))

    for name, part in module.named_modules():
        part.register_forward_hook(note(name))
    module(*inputs)
    return shapes


def shapes_of(module: nn.Module, *inputs: Tensor) -> dict[str, tuple[int, ...]]:
    """Return `output_shapes` without the batch."""
    return {name: shape[1:] for name, shape in output_shapes(module, *inputs).items()}


def recorded_inputs(module: nn.Module) -> list[Tensor]:
    """Return a list that every forward of the module adds a copy of its first input to."""
    inputs: list[Tensor] = []
    module.register_forward_hook(lambda _, given, __: inputs.append(given[0].detach().clone()))
    return inputs


def recorded_calls(module: nn.Module) -> list[tuple[Tensor, ...]]:
    """Return a list that every forward of the module adds its inputs and, at the end, its output to."""
    calls: list[tuple[Tensor, ...]] = []
    module.register_forward_hook(lambda _, inputs, out: calls.append((*inputs, out)))
    return calls


def recorded_graphs(module: nn.Module) -> list[bool]:
    """Return a list that every forward of the module adds to whether its output carries a graph."""
    graphs: list[bool] = []
    module.register_forward_hook(lambda _, __, out: graphs.append(out.requires_grad))
    return graphs


def freeze_all_but(model: Generator, mover: str) -> None:
    for name, player in model.players().items():
        player.requires_grad_(name == mover)


def grown(model: Model) -> Model:
    """Make weights large enough that no part's contribution is lost in rounding."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    return model


# --- comparing ---


def assert_same_terms(terms: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    assert list(terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].shape == () and terms[name].item() == pytest.approx(value.item(), rel=1e-9), name


def assert_equal_weights(a: nn.Module, b: nn.Module) -> None:
    _assert_equal_tensors(a.state_dict(), b.state_dict())


def assert_equal_checkpoints(a: Path, b: Path) -> None:
    """Compare weights, optimisers' moments and random state, bit for bit."""
    tensors = load_file(a / CHECKPOINT)
    _assert_equal_tensors(tensors, load_file(b / CHECKPOINT))
    assert any(key.startswith("optimizer/") for key in tensors) and "rng/cpu" in tensors
    assert checkpoints.read_header(a / CHECKPOINT) == checkpoints.read_header(b / CHECKPOINT)


def _assert_equal_tensors(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert not [key for key in a if not torch.equal(a[key], b[key])]


# --- training ---

TINY: dict[str, Any] = {
    "size": (32, 16), "width": 4, "bottleneck": 3, "radius_px": 2.0, "stage1_steps": 3, "stage2_steps": 4, "learning_rate": 1e-3,
}  # fmt: skip


def tiny(seed: int = 0, **options: Any) -> PG2:
    torch.manual_seed(seed)
    return PG2(**TINY | options)


def run(model: Generator, pairs: Iterable[PosePair], out: Path, steps: int | None = None, **choices: Any) -> Trained:
    return train(model, pairs, out, steps=steps, accelerator="cpu", **{"log_every_steps": 1} | choices)


def curves(out: Path) -> Losses:
    """Return every loss in the event files by name and step; more than one value where a step was written twice."""
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    losses: Losses = defaultdict(list)
    for path in (out / "curves").iterdir():
        for event in LegacyEventFileLoader(str(path)).Load():
            for value in event.summary.value:
                if value.WhichOneof("value") == "simple_value":
                    losses[value.tag, event.step].append(value.simple_value)
    return dict(losses)


class Plain(Generator):
    """Defined here, in no file of models: it trains and resumes, though `create` cannot know it."""

    @keeps_options
    def __init__(self, start: float = 0.5, shared: bool = False) -> None:
        super().__init__()
        self.size = (8, 4)
        self.first, self.second = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.constant_(self.first.weight, start)
        nn.init.constant_(self.second.weight, start)
        if shared:
            self.second.weight = self.first.weight

    def forward(self, source: Any, source_pose: Any, target_pose: Any) -> Any:
        return source

    def players(self) -> dict[str, nn.Module]:
        return {"first": self.first, "second": self.second}

    def turn(self, step: int) -> tuple[str, ...]:
        return (("first",), ("second", "second"), ("first", "second"))[step % 3]

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.5)

    def learning_rate(self, player: str, step: int) -> float | None:
        return None if step < 3 else 0.125

    def losses(self, player: str, pair: PosePair, step: int) -> dict[str, Tensor]:
        # Both weights are in both terms: whoever moves, the other must not. Slopes of 1 and 2 add up to 3.
        both = self.first.weight.sum() + self.second.weight.sum()
        return {"one": both, "two": 2 * both}


class CopiesScene(Generator):
    """Gives back the scene, or the source where there is none: what reached it can be read off the image."""

    takes_scene, near_views = True, True

    @keeps_options
    def __init__(self, size: tuple[int, int] = (32, 16)) -> None:
        super().__init__()
        self.size, self.weight = (int(size[0]), int(size[1])), nn.Parameter(torch.ones(1))

    def forward(self, source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None = None) -> Tensor:
        self.check(source, source_pose, target_pose, scene)
        return self.weight * (source if scene is None else scene)

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self}

    def turn(self, step: int) -> tuple[str, ...]:
        return ("generator",)

    def losses(self, player: str, pair: PosePair, step: int) -> dict[str, Tensor]:
        return {"l1": (self(*self.inputs_of(pair)) - pair.target).abs().mean()}


# A generator as a user's file defines it, noisy all over.
SIXTH = '''
"""A sixth generator, noisy all over: dropout while it learns, noise even when it renders, its own rate and optimiser."""
import torch
from torch import nn
from generators import Generator, gaussian_maps, keeps_options

class Sixth(Generator):
    paper = "Nobody et al. 2026"

    @keeps_options
    def __init__(self, size=(16, 8), drop=0.5, rate=0.1):
        super().__init__()
        self.size, self.rate = tuple(size), rate
        self.mix, self.drop, self.critic = nn.Conv2d(21, 3, 1), nn.Dropout(drop), nn.Linear(3, 1)

    def forward(self, source, source_pose, target_pose, scene=None):
        x = torch.cat((source, gaussian_maps(target_pose, 2.0)), 1)
        return torch.tanh(self.mix(self.drop(x)) + 0.1 * torch.randn_like(source))

    def players(self):
        return {"generator": self.mix, "discriminator": self.critic}

    def turn(self, step):
        return ("discriminator", "discriminator", "generator") if step % 2 else ("generator",)

    def optimizer(self, player, parameters):
        return torch.optim.SGD(parameters, lr=77.0, momentum=0.9)

    def learning_rate(self, player, step):
        return self.rate / (1 + step)

    def losses(self, player, pair, step):
        image = self(pair.source, pair.source_pose, pair.target_pose)
        score = self.critic(image.mean((2, 3)))
        if player == "discriminator":
            return {"fake": score.square().mean(), "real": (self.critic(pair.target.mean((2, 3))) - 1).square().mean()}
        return {"l1": (image - pair.target).abs().mean(), "adversarial": (score - 1).square().mean()}
'''

# A training in a process of its own.
SCRIPT = '''
import json, sys, time
from pathlib import Path
import torch
from generators import Pose, PosePair, openpose_18, save, train
from generators.models.pg2 import PG2

def model(stage1_steps=4):
    torch.manual_seed(0)
    return PG2(size=(32, 16), width=4, bottleneck=3, stage1_steps=stage1_steps, learning_rate=1e-3)

def pairs(pause=0.0):
    step = 0
    while True:
        random = torch.Generator().manual_seed(step)
        source, target = torch.rand(2, 4, 3, 32, 16, generator=random) * 2 - 1
        poses = [Pose(torch.rand(4, 18, 2, generator=random) * 15, torch.rand(4, 18, generator=random) > 0.2, openpose_18, (32, 16))
                 for _ in range(2)]
        if pause:
            print("step", step, flush=True)
            time.sleep(pause)
        yield PosePair(source, target, *poses, torch.arange(4))
        step += 1

def interrupted(out):
    """One run after another, each until somebody stops it."""
    for name in ("SIGTERM", "SIGINT"):
        ended = train(model(), pairs(0.01), Path(out) / name, steps=100_000, accelerator="cpu", log_every_steps=1)
        print(json.dumps({"step": ended.step, "stopped": ended.stopped, "checkpoint": str(ended.checkpoint)}), flush=True)

def shared(out):
    """Two processes that began with different weights, through stage I alone and on into stage II."""
    import os
    rank = os.environ.get("LOCAL_RANK", "0")
    for name, stage1_steps in (("one", 100), ("two", 2)):
        net = model(stage1_steps)
        if rank != "0":
            with torch.no_grad():
                for parameter in net.parameters():
                    parameter.add_(1)
        train(net, pairs(), Path(out) / name, steps=4, accelerator="cpu", devices=2, log_every_steps=1)
        save(net, Path(out) / f"{name}-{rank}.safetensors")

if __name__ == "__main__":
    {"interrupted": interrupted, "shared": shared}[sys.argv[1]](sys.argv[2])
'''
