"""The training loop: who moves when, sample sheets, schedules, precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from generator_helpers import (
    CopiesScene,
    MakePair,
    Plain,
    assert_equal_weights,
    curves,
    run,
    tiny,
)
from lightning_fabric import Fabric
from PIL import Image

import generators
from generators import PosePair, checkpoints, registry
from generators.training import CHECKPOINT, train


def test_a_sixth_generator_is_a_file_and_a_yaml(sixth: str, tmp_path: Path, stream: Callable[..., Iterator[PosePair]]) -> None:
    assert generators.names() == sorted({*generators.names(), "pg2", sixth})
    options = yaml.safe_load((tmp_path / "my_models" / "sixth.yaml").read_text())["generator"]
    model = generators.create(options.pop("name"), **options)
    assert model.drop.p == 0.25 and registry.name_of(model) == sixth
    with pytest.raises(ValueError, match=r"no generator named 'sixt'.*did you mean 'sixth'"):
        generators.create("sixt")
    trained = run(model, stream(size=(16, 8)), tmp_path / "run", 3, samples=next(stream(7, size=(16, 8))))
    assert trained.step == 3
    assert set(trained.losses) == {"generator/l1", "generator/adversarial", "discriminator/fake", "discriminator/real"}
    generators.save(model, tmp_path / "weights.safetensors")
    for path in (tmp_path / "weights.safetensors", trained.checkpoint):
        loaded = generators.load(path)
        assert_equal_weights(loaded, model)
        assert loaded.drop.p == 0.25


# --- whose turn it is ---


def test_movers_pay_the_sum_of_their_terms_and_nobody_else_moves(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model = Plain(start=10.0)
    weights = [10.0, 10.0]
    pairs = stream(size=(8, 4))
    # What one step takes off: 3 x rate, per move. Rate 0.5 for three steps, then 0.125.
    for step, moved in enumerate([(1.5, 0), (0, 3.0), (1.5, 1.5), (0.375, 0), (0, 0.75)], 1):
        run(model, pairs if step == 1 else stream(size=(8, 4)), tmp_path, step)
        weights = [w - m for w, m in zip(weights, moved, strict=True)]
        assert [model.first.weight.item(), model.second.weight.item()] == weights, f"after {step} steps"
    again = Plain(start=10.0)
    run(again, stream(size=(8, 4)), tmp_path / "whole", 5)
    assert_equal_weights(again, model)
    with pytest.raises(TypeError, match="Plain names no schedule: say how many steps to train"):
        run(model, stream(), tmp_path)


def test_everybody_but_the_mover_is_frozen_while_it_pays(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    """Else the generator's turn would work out the discriminator's gradients too, for nothing."""
    free: list[tuple[str, bool, bool]] = []

    class Watched(Plain):
        def losses(self, player: str, pair: PosePair, step: int) -> dict[str, torch.Tensor]:
            free.append((player, self.first.weight.requires_grad, self.second.weight.requires_grad))
            return super().losses(player, pair, step)

    run(Watched(), stream(size=(8, 4)), tmp_path, 3)
    first, second = ("first", True, False), ("second", False, True)
    assert free == [first, second, second, first, second]


# --- sheets, schedules, precision ---


def test_sample_sheets_are_written_on_time_and_in_size(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    samples = next(stream(50, batch=3))
    run(tiny(), stream(), tmp_path, 5, samples=samples, sample_every_steps=2)
    sheets = sorted((tmp_path / "samples").iterdir())
    assert [sheet.name for sheet in sheets] == ["0000002.png", "0000004.png", "0000005.png"]
    for sheet in sheets:
        with Image.open(sheet) as image:
            assert image.size == (4 * (16 + 4) + 4, 3 * (32 + 4) + 4), "four columns, a row a pair"
    assert sheets[0].read_bytes() != sheets[2].read_bytes()


def test_sample_sheets_show_the_targets_scene_to_who_takes_it(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    run(CopiesScene((8, 4)), stream(size=(8, 4)), tmp_path, 1, samples=next(stream(50, size=(8, 4))))
    with Image.open(tmp_path / "samples" / "0000001.png") as sheet:
        source, _, result, truth = (sheet.crop((left, 4, left + 4, 12)) for left in range(4, 36, 8))
    # Its one weight has moved by a step of Adam.
    assert np.allclose(result, truth, atol=1) and not np.allclose(result, source, atol=50)


def test_no_samples_no_sheets(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    run(tiny(), stream(), tmp_path, 2, sample_every_steps=1)
    assert {p.name for p in tmp_path.iterdir()} == {CHECKPOINT, "curves"}


@pytest.mark.parametrize("noisy", [False, True])
def test_drawing_samples_does_not_change_training(
    noisy: bool, sixth: str, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    size = (16, 8) if noisy else (32, 16)
    first = generators.create(sixth) if noisy else tiny()
    second = generators.create(sixth) if noisy else tiny()
    second.load_state_dict(first.state_dict())
    run(first, stream(size=size), tmp_path / "with", 5, samples=next(stream(50, size=size)), sample_every_steps=1)
    run(second, stream(size=size), tmp_path / "without", 5)
    assert_equal_weights(first, second)
    assert curves(tmp_path / "with") == curves(tmp_path / "without")
    assert len(list((tmp_path / "with" / "samples").iterdir())) == 5


def test_without_steps_the_papers_schedule_runs_and_stages_keep_apart(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model, after_one = tiny(), tiny()
    start = {key: value.clone() for key, value in model.state_dict().items()}
    run(after_one, stream(), tmp_path / "one", 3)
    assert run(model, stream(), tmp_path / "all").step == model.schedule_steps() == 7

    def moved(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> set[str]:
        return {key.split(".")[0] for key in a if not torch.equal(a[key], b[key])}

    assert moved(start, after_one.state_dict()) == {"stage1"}
    assert moved(after_one.state_dict(), model.state_dict()) == {"stage2", "discriminator"}
    assert not [key for key, p in model.named_parameters() if torch.equal(p, start[key])], "every weight takes part"


def test_training_leaves_the_model_ready_to_draw(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    model = tiny()
    trained = run(model, stream(), tmp_path, 4)
    assert not model.training and all(p.requires_grad for p in model.parameters())
    pair, loaded = next(stream(9)), generators.load(trained.checkpoint)
    images = [m(pair.source, pair.source_pose, pair.target_pose) for m in (model, loaded)]
    assert torch.allclose(*images, atol=1e-6)
    assert_equal_weights(model, loaded)


def test_a_checkpoint_is_there_every_so_often(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    seen: list[int | None] = []

    def watching() -> Iterator[PosePair]:
        for pair in stream():
            path = tmp_path / CHECKPOINT
            seen.append(checkpoints.read_header(path)["step"] if path.exists() else None)
            yield pair

    run(tiny(), watching(), tmp_path, 6, save_every_steps=2)
    assert seen == [None, None, 2, 2, 4, 4] and checkpoints.read_header(tmp_path / CHECKPOINT)["step"] == 6


def test_stage_one_learns_a_pair_by_heart(a_pair: MakePair, tmp_path: Path) -> None:
    pair = a_pair(batch=1)
    target = torch.linspace(-0.5, 0.5, 16).expand(1, 3, 32, 16).contiguous()
    pair = PosePair(pair.source, target, pair.source_pose, pair.target_pose, pair.identity)
    model = tiny(width=8, stage1_steps=1000, learning_rate=3e-3)
    run(model, iter([pair] * 100), tmp_path, 100)
    first, *_, last = (values[0] for _, values in sorted(curves(tmp_path).items()))
    assert last < first / 3


def test_bf16_mixed_trains(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    exact, mixed = tiny(), tiny()
    run(exact, stream(), tmp_path / "exact", 5)
    trained = run(mixed, stream(), tmp_path / "mixed", 5, precision="bf16-mixed")
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in mixed.parameters())
    assert not torch.equal(mixed.stage2.end.weight, exact.stage2.end.weight)
    assert trained.losses["generator1/pose_mask_l1"] == pytest.approx(curves(tmp_path / "exact")["generator1/pose_mask_l1", 2][0], rel=0.05)


@pytest.mark.parametrize(("scale", "moves"), [(1.0, True), (1024.0, True), (2.0**127, False)])
def test_scaled_gradients_are_scaled_back_and_overflows_skipped(
    scale: float, moves: bool, stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    """What 16-mixed does on a GPU, with a scaler for the CPU: a step must not see the scale."""
    from lightning_fabric.plugins.precision import MixedPrecision

    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    plugin = MixedPrecision("bf16-mixed", device="cpu")
    plugin.scaler = scaler
    model = Plain(start=10.0)
    train(model, stream(size=(8, 4)), tmp_path, steps=1, fabric=Fabric(accelerator="cpu", devices=1, plugins=plugin))
    assert model.first.weight.item() == (8.5 if moves else 10.0) and scaler.get_scale() == (scale if moves else scale / 2)


def test_a_resumed_training_has_the_scale_it_had(stream: Callable[..., Iterator[PosePair]], tmp_path: Path) -> None:
    """16-mixed's scaler halves its scale at overflows; one that began anew at 65,536 would lose the steps until it had halved again."""
    from lightning_fabric.plugins.precision import MixedPrecision

    scalers = []
    for steps, scale in ((3, 2.0**127), (4, 65536.0)):  # the first run's first step overflows
        plugin = MixedPrecision("bf16-mixed", device="cpu")
        plugin.scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=50)
        train(Plain(start=10.0), stream(size=(8, 4)), tmp_path, steps=steps, fabric=Fabric(accelerator="cpu", devices=1, plugins=plugin))
        scalers.append(plugin.scaler)
    first, resumed = (scaler.state_dict() for scaler in scalers)
    assert first["scale"] == resumed["scale"] == 2.0**126 and resumed["growth_interval"] == 50
    assert 0 < first["_growth_tracker"] < resumed["_growth_tracker"]


def test_compile_compiles_every_player_and_changes_nothing(
    stream: Callable[..., Iterator[PosePair]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []

    def eager(call: Callable[..., Any], *_: Any, **__: Any) -> Callable[..., Any]:
        compiled.append(call.__self__)  # type: ignore[attr-defined]
        return call

    monkeypatch.setattr(torch, "compile", eager)
    plain, model = tiny(), tiny()
    run(model, stream(), tmp_path / "compiled", 5, compile=True)
    assert compiled == [model.stage1, model.stage2, model.discriminator]
    run(plain, stream(), tmp_path / "plain", 5)
    assert len(compiled) == 3
    assert_equal_weights(plain, model)
