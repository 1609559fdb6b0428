"""What players of one turn share, what a model sees before it starts, and the networks it compares images on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_helpers import MakePair
from torch import Tensor, nn

from generators import Generator, PosePair, keeps_options, train
from generators.checkpoints import read_header
from generators.perceptual import VGG19, Features

NarrowVGG = Callable[..., dict[str, Tensor]]


class Drawn(Generator):
    """A drawing that discriminator and generator both look at; counts how often it is made."""

    @keeps_options
    def __init__(self, sharing: bool = True, turns: tuple[str, ...] = ("discriminator", "generator")) -> None:
        super().__init__()
        self.size, self.shares, self.turns, self.made = (8, 4), sharing, turns, 0
        self.mix, self.critic = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 1, 1)

    def forward(self, source: Tensor, source_pose: Any, target_pose: Any) -> Tensor:
        self.made += 1
        return self.mix(source).tanh()

    def players(self) -> dict[str, nn.Module]:
        return {"generator": self.mix, "discriminator": self.critic}

    def turn(self, step: int) -> tuple[str, ...]:
        return self.turns

    def optimizer(self, player: str, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=0.1)

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        def compute() -> Tensor:
            return self(pair.source, pair.source_pose, pair.target_pose)

        output = self.share("image", compute) if self.shares else compute()
        if player == "discriminator":
            return {"fake": self.critic(output.detach()).mean(), "real": -self.critic(pair.target).mean()}
        return {"adversarial": -self.critic(output).mean(), "l1": (output - pair.target).abs().mean()}


class Prepared(Drawn):
    prepare_steps = 3

    @keeps_options
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[int] = []
        self.register_buffer("mean", torch.zeros(()))

    def prepare(self, pairs: Sequence[PosePair]) -> None:
        self.seen = [int(pair.identity[0]) for pair in pairs]
        self.mean.fill_(sum(self.seen))

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        if player == "generator":
            self.seen.append(int(pair.identity[0]))
        return super().losses(player, pair, step)


class Compared(Drawn):
    def features(self) -> Features | None:
        return Features(("conv1_2", "conv2_1"))

    def losses(self, player: str, pair: PosePair, step: int) -> Mapping[str, Tensor]:
        terms = dict(super().losses(player, pair, step))
        if player == "generator" and self.perceptual is not None:
            output = self(pair.source, pair.source_pose, pair.target_pose)
            terms["perceptual"] = torch.stack([layer.mean() for layer in self.perceptual(output)]).sum()
        return terms


@pytest.fixture
def stream(a_pair: MakePair) -> Callable[[], Iterator[PosePair]]:
    def endless() -> Iterator[PosePair]:
        seed = 0
        while True:
            pair = a_pair(seed=seed, size=(8, 4))
            yield PosePair(pair.source, pair.target, pair.source_pose, pair.target_pose, torch.full((2,), seed))
            seed += 1

    return endless


def run(model: Generator, stream: Iterable[PosePair], out: Path, steps: int, **choices: Any) -> dict[str, Tensor]:
    train(model, stream, out, steps=steps, accelerator="cpu", **choices)
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("turns", [("discriminator", "generator"), ("generator", "discriminator")])
def test_a_turn_draws_once_and_learns_as_if_it_had_drawn_twice(turns: Any, stream: Any, tmp_path: Path) -> None:
    results = []
    for sharing in (True, False):
        torch.manual_seed(0)
        model = Drawn(sharing, turns)
        results.append((run(model, stream(), tmp_path / str(sharing), 4), model.made))
    (shared, once), (apart, twice) = results
    assert (once, twice) == (4, 8)
    if turns[0] == "discriminator":  # else the discriminator is shown what the generator drew before it moved
        assert all(torch.allclose(shared[key], apart[key], atol=1e-6) for key in shared)


def test_who_moves_twice_in_a_turn_draws_anew(stream: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Drawn(turns=("generator", "generator", "discriminator"))
    run(model, stream(), tmp_path, 2)
    assert model.made == 6


def test_nothing_is_shared_outside_of_a_turn(a_pair: MakePair) -> None:
    model, pair = Drawn(), a_pair(size=(8, 4))
    model.losses("discriminator", pair, 0)
    model.losses("generator", pair, 0)
    assert model.made == 2


def test_a_model_sees_the_first_batches_and_trains_on_them_too(stream: Any, tmp_path: Path) -> None:
    model = Prepared()
    run(model, stream(), tmp_path, 5)
    assert model.seen == [0, 1, 2, 0, 1, 2, 3, 4]
    again = Prepared()
    run(again, stream(), tmp_path, 6)
    assert again.seen == [5], "a resumed run has what it learnt in its checkpoint"
    assert again.mean.item() == 3


def test_what_images_are_compared_on_is_no_part_of_the_model(narrow_vgg: NarrowVGG, stream: Any, tmp_path: Path) -> None:
    model = Compared()
    before = set(model.state_dict())
    features = model.features()
    assert features is not None
    network = VGG19(narrow_vgg(), features, "narrow")
    run(model, stream(), tmp_path, 2, perceptual=network)
    assert model.perceptual is network
    assert set(model.state_dict()) == before and not any(m is network for m in model.modules())
    assert read_header(tmp_path / "last.safetensors")["about"]["perceptual"] == "narrow"
    assert not any(p.requires_grad for p in network.parameters())
    with pytest.raises(ValueError, match="trained with perceptual 'narrow', this run asks for 'none'"):
        run(Compared(), stream(), tmp_path, 3, perceptual="none")


def test_none_turns_the_terms_off_and_says_so(stream: Any, tmp_path: Path) -> None:
    trained = train(Compared(), stream(), tmp_path, steps=1, accelerator="cpu", perceptual="none")
    assert "generator/perceptual" not in trained.losses
    assert read_header(trained.checkpoint)["about"]["perceptual"] == "none"


def test_missing_weights_stop_before_anything_is_written(stream: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no perceptual weights at .*vgg\.pth; say perceptual\.weights="):
        train(Compared(), stream(), tmp_path / "out", steps=1, accelerator="cpu", perceptual=str(tmp_path / "vgg.pth"))
    assert not (tmp_path / "out").exists()


def test_papers_without_such_terms_ask_for_nothing(stream: Any, tmp_path: Path) -> None:
    trained = train(Drawn(), stream(), tmp_path, steps=1, accelerator="cpu")  # "imagenet" is the default
    assert "perceptual" not in read_header(trained.checkpoint)["about"]
