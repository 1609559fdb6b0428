"""What every generator keeps, and what it keeps apart: options, frozen networks, a turn's shared results; streams of pairs."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from generator_helpers import MakePair, Plain
from torch import nn

import generators
from generators import Generator, PosePair, checkpoints, keeps_options
from generators.base import batches_from
from generators.models.pg2 import PG2

TEACHES = r"put @keeps_options \(generators\.keeps_options\) on"


class Undecorated(Plain):
    """A constructor of its own, whose arguments nobody keeps: those its parent was built with would not build it again."""

    def __init__(self, depth: int = 3) -> None:
        super().__init__(start=float(depth))


class Twice(Plain):
    """A decorated constructor that calls a decorated one."""

    @keeps_options
    def __init__(self, depth: int = 3, *, name: str = "x") -> None:
        super().__init__(float(depth))


class Inherited(Plain):
    """No constructor of its own."""


class WithTeacher(Plain):
    outside: ClassVar[tuple[str, ...]] = (*Generator.outside, "teacher")
    teacher: nn.Module | None = None


# --- options ---


def test_options_are_the_arguments_with_their_defaults() -> None:
    assert Plain().options == {"start": 0.5, "shared": False}
    assert Plain(2.0).options == Plain(start=2.0).options == {"start": 2.0, "shared": False}
    assert Inherited(shared=True).options == {"start": 0.5, "shared": True}
    assert Twice(4).options == {"depth": 4, "name": "x"}, "its own, not its parent's"


def test_a_decorated_constructor_looks_like_itself() -> None:
    assert list(inspect.signature(PG2.__init__).parameters)[:3] == ["self", "size", "width"]
    assert PG2.__init__.__name__ == "__init__"
    with pytest.raises(TypeError, match="unexpected keyword argument 'depth'"):
        Plain(depth=3)  # type: ignore[call-arg]


def test_options_are_there_after_the_constructor_and_not_to_be_set() -> None:
    class Early(Plain):
        @keeps_options
        def __init__(self, depth: int = 3) -> None:
            super().__init__()
            self.early = self.options

    with pytest.raises(ValueError, match=TEACHES):
        Early()
    with pytest.raises(AttributeError):
        Plain().options = {}  # type: ignore[misc]


def test_a_copy_has_options_of_its_own() -> None:
    model = PG2(size=[32, 16], width=2, bottleneck=2)  # type: ignore[arg-type]
    twin = copy.deepcopy(model)
    twin.options["size"].append(1)
    assert model.options["size"] == [32, 16]


def test_a_model_without_options_is_refused_with_the_way_out(tmp_path: Path, a_pair: MakePair) -> None:
    model = Undecorated()
    uses = (
        lambda: model.options, lambda: checkpoints.header(model), lambda: generators.save(model, tmp_path / "model.safetensors"),
        lambda: generators.train(model, [a_pair(size=(8, 4))], tmp_path / "run", steps=1, accelerator="cpu"),
    )  # fmt: skip
    for use in uses:
        with pytest.raises(ValueError, match=rf"Undecorated does not say what it was built with: {TEACHES} Undecorated\.__init__"):
            use()
    assert list(tmp_path.iterdir()) == [], "not after hours of training"


# --- networks that are no part of the model ---


@pytest.mark.parametrize("name", ["perceptual", "teacher"])
def test_networks_outside_are_no_submodules(name: str) -> None:
    model, network = WithTeacher(), nn.Linear(1, 1)
    assert getattr(model, name) is None
    keys, parameters = list(model.state_dict()), list(model.parameters())
    setattr(model, name, network)
    assert getattr(model, name) is network
    assert list(model.state_dict()) == keys and all(module is not network for module in model.modules())
    assert [id(p) for p in model.parameters()] == [id(p) for p in parameters]
    assert model.double() and network.weight.dtype == torch.float32, "moving the model does not move it"
    setattr(model, name, None)
    assert getattr(model, name) is None and getattr(WithTeacher(), name) is None


def test_any_other_network_is_a_submodule() -> None:
    model, network = Plain(), nn.Linear(1, 1)
    model.teacher = network
    assert any(module is network for module in model.modules())


# --- sharing ---


def test_what_is_shared_ends_with_the_turn_even_by_an_error() -> None:
    model = Plain()
    with pytest.raises(RuntimeError, match="mid-turn"), model.sharing():
        model.share("x", lambda: torch.zeros(()))
        raise RuntimeError("mid-turn")
    assert model.share("x", lambda: torch.ones(())) == 1


# --- streams ---


class FromAnywhere:
    def __init__(self, pairs: list[PosePair]) -> None:
        self.pairs, self.starts = pairs, []

    def starting_at(self, step: int) -> Iterator[PosePair]:
        self.starts.append(step)
        return iter(self.pairs[step:])

    def __iter__(self) -> Iterator[PosePair]:
        raise AssertionError("never from the beginning")


def test_batches_from_a_step(a_pair: MakePair) -> None:
    pairs: list[Any] = [a_pair(seed) for seed in range(4)]
    seekable = FromAnywhere(pairs)
    for stream in (pairs, iter(pairs), seekable):
        assert next(batches_from(stream, 2)) is pairs[2]
    assert seekable.starts == [2]
    assert list(batches_from(pairs, 9)) == []
