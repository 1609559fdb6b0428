"""What holds for every generator there is: a new file in generators/models is held to it without a line here."""

from __future__ import annotations

import ast
import copy
import inspect
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from generator_helpers import (
    CONFIGS,
    ROOT,
    MakePair,
    freeze_all_but,
    loss_of,
    rendered,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import generators
from generators import Generator, Pose, PosePair
from generators.registry import generator_class

# Beside the package's own, those of folders that a user named (see CONTRIBUTING.md).
YAMLS = [*sorted(CONFIGS.glob("*.yaml")), *(p for folder in generators.folders() for p in sorted(folder.glob("*.yaml")))]
FORBIDDEN = {"reid_aug", "benchmarks", "torchreid", "pydantic", "omegaconf", "faiss", "sklearn"}

# Built small. A generator that is not listed is built with its constructor's `size` and `width`, as far as it has them.
SMALL: dict[str, dict[str, Any]] = {
    "pg2": {"size": (32, 16), "width": 4, "bottleneck": 4, "stage1_steps": 2, "stage2_steps": 2},
}
FALLBACK: dict[str, Any] = {"size": (64, 32), "width": 8}
# With which options a generator takes scenes that otherwise takes none.
WITH_SCENES: dict[str, dict[str, Any]] = {"deformable": {"background": True}}

every_generator = pytest.mark.parametrize("name", generators.names())


def small(name: str, **more: Any) -> Generator:
    torch.manual_seed(0)
    parameters = inspect.signature(generator_class(name).__init__).parameters
    options = SMALL.get(name) or {k: v for k, v in FALLBACK.items() if k in parameters}
    return generators.create(name, **options | more)


def ways_to_render(name: str) -> list[tuple[Generator, bool]]:
    """The generator, and whether it is to be given scenes: without any, and with, where it takes them."""
    taker = small(name, **WITH_SCENES.get(name, {}))
    return [(small(name), False), *([(taker, True)] if taker.takes_scene else [])]


def pair_for(model: Generator, a_pair: MakePair, **choices: Any) -> PosePair:
    return a_pair(skeleton=model.skeleton, size=model.size, **choices)


# --- drawing ---


@every_generator
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_image_of_the_sources_shape_and_type(name: str, batch: int, dtype: torch.dtype, a_pair: MakePair) -> None:
    for model, scene in ways_to_render(name):
        model.to(dtype).eval()
        image = rendered(model, pair_for(model, a_pair, batch=batch, dtype=dtype), scene)
        assert image.shape == (batch, 3, *model.size) and image.dtype == dtype
        assert image.isfinite().all() and image.std() > 0


@every_generator
def test_images_stay_in_range_however_large_the_weights(name: str, a_pair: MakePair) -> None:
    model = small(name).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3)
    image = rendered(model, pair_for(model, a_pair, batch=4))
    assert image.isfinite().all() and image.min() >= -1 and image.max() <= 1
    assert image.abs().max() > 0.9, "the range is reached, so that its end was tried"


@every_generator
def test_a_row_alone_is_the_row_in_a_batch(name: str, a_pair: MakePair) -> None:
    for model, scene in ways_to_render(name):
        model.eval()
        pair = pair_for(model, a_pair, batch=4, missing=0.3)
        together = rendered(model, pair, scene)
        for row in range(4):
            assert torch.allclose(rendered(model, pair[row : row + 1], scene)[0], together[row], atol=1e-5)
        assert torch.allclose(rendered(model, pair[torch.tensor([2, 0, 3, 1])], scene), together[[2, 0, 3, 1]], atol=1e-5)


@every_generator
def test_drawing_the_same_twice_gives_the_same(name: str, a_pair: MakePair) -> None:
    for model, scene in ways_to_render(name):
        model.eval()
        pair = pair_for(model, a_pair)
        assert torch.equal(rendered(model, pair, scene), rendered(model, pair, scene))


@every_generator
def test_the_drawing_follows_target_pose_and_source_colours(name: str, a_pair: MakePair) -> None:
    model = small(name).double().eval()
    pair = pair_for(model, a_pair, batch=3, missing=0.0, dtype=torch.float64)
    image = rendered(model, pair)
    other_pose = model(pair.source, pair.source_pose, pair.target_pose[[1, 2, 0]])
    other_colours = model(pair.source.flip(1), pair.source_pose, pair.target_pose)
    brighter = model((pair.source + 0.5).clamp(-1, 1), pair.source_pose, pair.target_pose)
    for changed in (other_pose, other_colours, brighter):
        assert (changed - image).abs().amax((1, 2, 3)).min() > 1e-6, "every row changes"


@every_generator
def test_images_and_poses_that_do_not_fit_are_refused(name: str, a_pair: MakePair) -> None:
    model = small(name)
    pair = pair_for(model, a_pair)
    height, width = model.size
    other = a_pair(skeleton=model.skeleton, size=(height * 2, width * 2))
    with pytest.raises(ValueError, match=f"{type(model).__name__} takes images"):
        model(other.source, pair.source_pose, pair.target_pose)
    with pytest.raises(ValueError, match="poses of size"):
        model(pair.source, pair.source_pose, other.target_pose)
    with pytest.raises(ValueError, match="poses of size"):
        model(pair.source, other.source_pose, pair.target_pose)


@every_generator
def test_a_scene_is_followed_by_who_takes_it(name: str, a_pair: MakePair) -> None:
    for model, scene in ways_to_render(name):
        pair = pair_for(model.double().eval(), a_pair, batch=3, missing=0.0, dtype=torch.float64)
        inputs = (pair.source, pair.source_pose, pair.target_pose)
        assert len(model.inputs_of(pair)) == 3 + model.takes_scene
        if scene:
            place, other_place = model(*inputs, pair.target), model(*inputs, -pair.target)
            assert (place - other_place).abs().amax((1, 2, 3)).min() > 1e-6, "every row changes"
            with pytest.raises(ValueError, match=f"{type(model).__name__} takes a scene for each source"):
                model(*inputs, pair.target[:2])
        elif not model.takes_scene:
            with pytest.raises(ValueError, match=rf"{type(model).__name__} takes no scene: .*got one \(3, 3, "):
                model(*inputs, pair.target)


# --- players, turns, losses ---


@every_generator
def test_players_are_disjoint_and_hold_every_parameter_that_learns(name: str) -> None:
    model = small(name)
    owned = [id(p) for player in model.players().values() for p in player.parameters()]
    assert len(owned) == len(set(owned))
    assert set(owned) == {id(p) for p in model.parameters() if p.requires_grad}
    assert all(sum(1 for _ in player.parameters()) for player in model.players().values())


def some_steps(model: Generator) -> list[int]:
    try:
        end = model.schedule_steps()
    except TypeError:
        end = 10_000
    return sorted({*range(200), end // 2, end - 1, end})


def first_and_last_move(model: Generator, player: str) -> tuple[int, int]:
    """Return the first and the last step of its schedule at which a player moves: what it pays may change in between."""
    steps = [step for step in some_steps(model) if player in model.turn(step)]
    return steps[0], steps[-1]


@every_generator
def test_turns_name_players_and_everyone_moves_some_time(name: str) -> None:
    model = small(name)
    turns = [model.turn(step) for step in some_steps(model)]
    assert all(turns) and all(isinstance(turn, tuple) for turn in turns)
    assert {player for turn in turns for player in turn} == set(model.players())


@every_generator
def test_losses_are_named_finite_scalars(name: str, a_pair: MakePair) -> None:
    model = small(name)
    for player, step in [(mover, step) for mover in model.players() for step in first_and_last_move(model, mover)]:
        terms = model.losses(player, pair_for(model, a_pair), step)
        assert terms and all(isinstance(term, str) and term for term in terms)
        assert all(value.shape == () and value.isfinite() and value.requires_grad for value in terms.values()), player


@every_generator
def test_only_the_mover_gets_a_gradient_and_all_of_it_does(name: str, a_pair: MakePair) -> None:
    for mover in small(name).players():
        model = small(name)
        freeze_all_but(model, mover)
        loss_of(model, mover, pair_for(model, a_pair, batch=3), first_and_last_move(model, mover)[1]).backward()
        for player, module in model.players().items():
            grads = {key: p.grad for key, p in module.named_parameters()}
            if player == mover:
                assert not [key for key, grad in grads.items() if grad is None], f"parts of {player} that no term reaches"
                assert any(grad.abs().sum() > 0 for grad in grads.values() if grad is not None)
            else:
                assert not [key for key, grad in grads.items() if grad is not None], player


def without(pair: PosePair, source: torch.Tensor, target: torch.Tensor) -> PosePair:
    """The pair with only these joints left of what was seen."""
    poses = [
        Pose(pose.xy, pose.visible & seen, pose.skeleton, pose.size)
        for pose, seen in ((pair.source_pose, source), (pair.target_pose, target))
    ]
    return PosePair(pair.source, pair.target, poses[0], poses[1], pair.identity)


def assert_finite_drawing_and_gradients(model: Generator, pair: PosePair) -> None:
    image = rendered(model, pair)
    assert image.isfinite().all() and image.min() >= -1 and image.max() <= 1
    for mover in model.players():
        model.zero_grad(set_to_none=True)
        freeze_all_but(model, mover)
        terms = model.losses(mover, pair, first_and_last_move(model, mover)[1])
        assert all(value.isfinite() for value in terms.values())
        torch.stack(list(terms.values())).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@every_generator
@pytest.mark.parametrize("which", ["source", "target", "both"])
def test_nobody_seen_at_all_is_still_finite(name: str, which: str, a_pair: MakePair) -> None:
    model = small(name)
    pair = pair_for(model, a_pair, missing=0.0)
    none, everything = (torch.full((len(model.skeleton),), seen) for seen in (False, True))
    pair = without(pair, everything if which == "target" else none, everything if which == "source" else none)
    assert_finite_drawing_and_gradients(model, pair)


@every_generator
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_any_joints_missing_is_still_finite(name: str, data: st.DataObject, a_pair: MakePair) -> None:
    model = small(name)
    k = len(model.skeleton)
    seen = [torch.tensor(data.draw(st.lists(st.booleans(), min_size=2 * k, max_size=2 * k))).view(2, k) for _ in range(2)]
    assert_finite_drawing_and_gradients(model, without(pair_for(model, a_pair, missing=0.0), *seen))


@every_generator
def test_joints_on_one_point_or_far_outside_are_still_finite(name: str, a_pair: MakePair) -> None:
    model = small(name)
    pair = pair_for(model, a_pair, missing=0.0)
    for place in (0.0, 7.0, -500.0, 1e4):
        pose = Pose(torch.full_like(pair.target_pose.xy, place), pair.target_pose.visible, model.skeleton, model.size)
        assert_finite_drawing_and_gradients(model, PosePair(pair.source, pair.target, pose, pair.target_pose, pair.identity))
        assert_finite_drawing_and_gradients(model, PosePair(pair.source, pair.target, pair.source_pose, pose, pair.identity))


# --- files, copies, machinery ---


def as_json(options: dict[str, Any]) -> Any:
    return json.loads(json.dumps(options))


@every_generator
def test_what_was_saved_loads_bit_for_bit(name: str, a_pair: MakePair, tmp_path: Path) -> None:
    model = small(name)
    pair = pair_for(model, a_pair)
    for player in model.players():  # in train mode: buffers, such as running means, are no longer what they were made with
        model.losses(player, pair, first_and_last_move(model, player)[1])
    generators.save(model, tmp_path / "model.safetensors")
    loaded = generators.load(tmp_path / "model.safetensors")
    assert type(loaded) is type(model) and not loaded.training
    assert as_json(loaded.options) == as_json(model.options)
    assert loaded.size == model.size and loaded.skeleton == model.skeleton
    state, loaded_state = model.state_dict(), loaded.state_dict()
    assert list(state) == list(loaded_state) and all(torch.equal(state[key], loaded_state[key]) for key in state)
    assert torch.equal(rendered(loaded, pair), rendered(model.eval(), pair))
    for player in model.players():
        step = first_and_last_move(model, player)[1]
        terms, loaded_terms = model.losses(player, pair, step), loaded.losses(player, pair, step)
        assert {k: v.item() for k, v in loaded_terms.items()} == {k: v.item() for k, v in terms.items()}


@every_generator
def test_a_deep_copy_is_equal_and_its_own(name: str, a_pair: MakePair) -> None:
    model = small(name).eval()
    pair = pair_for(model, a_pair)
    image, twin = rendered(model, pair), copy.deepcopy(model)
    assert twin.options == model.options and twin.options is not model.options
    assert torch.equal(rendered(twin, pair), image)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    assert torch.equal(rendered(model, pair), image) and not torch.equal(rendered(twin, pair), image)
    assert not {id(p) for player in twin.players().values() for p in player.parameters()} & {id(p) for p in model.parameters()}


@every_generator
def test_bf16_autocast_draws_and_trains(name: str, a_pair: MakePair) -> None:
    model = small(name)
    pair = pair_for(model, a_pair)
    for either, scene in ways_to_render(name):
        either.eval()  # where there is noise, training draws it anew each time
        with torch.no_grad():
            exact = rendered(either, pair, scene)
            with torch.autocast("cpu", torch.bfloat16):
                image = rendered(either, pair, scene)
        assert image.isfinite().all() and image.min() >= -1 and image.max() <= 1
        assert (image.float() - exact).abs().max() < 0.1
    with torch.autocast("cpu", torch.bfloat16):
        terms = [model.losses(player, pair, first_and_last_move(model, player)[1]) for player in model.players()]
        losses = [torch.stack([value.float() for value in values.values()]).sum() for values in terms]
    for loss in losses:
        loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    "name", [name if name == "vdg" else pytest.param(name, marks=pytest.mark.slow) for name in generators.names()]
)
def test_drawing_compiles_without_a_graph_break(name: str, a_pair: MakePair) -> None:
    for model, scene in ways_to_render(name):
        model.eval()
        pair = pair_for(model, a_pair)
        inputs = model.inputs_of(pair) if scene else (pair.source, pair.source_pose, pair.target_pose)
        torch._dynamo.reset()
        explained = torch._dynamo.explain(model)(*inputs)
        assert explained.graph_break_count == 0, explained.break_reasons
        assert explained.graph_count == 1
        torch._dynamo.reset()
        whole = torch.compile(model, backend="eager", fullgraph=True)
        assert torch.allclose(whole(*inputs), rendered(model, pair, scene), atol=1e-6)
        torch._dynamo.reset()


# --- one file, one YAML ---


def test_every_generator_has_its_yaml_and_every_yaml_its_generator() -> None:
    assert set(generators.names()) <= {path.stem for path in YAMLS}, "a generator is one file and one YAML"
    for path in YAMLS:  # pg2.yaml is the paper's own, pg2-ce.yaml an ablation
        name = yaml.safe_load(path.read_text())["generator"]["name"]
        assert name in generators.names() and (path.stem == name or path.stem.startswith(f"{name}-")), path.name


@pytest.mark.parametrize("path", YAMLS, ids=lambda p: p.stem)
def test_every_yamls_options_build_its_generator(path: Path) -> None:
    options = yaml.safe_load(path.read_text())["generator"]
    name = options.pop("name")
    with torch.device("meta"):  # shapes alone: at paper size there are gigabytes of weights among them
        model = generators.create(name, **options)
    built = generators.complete(name, model.options)
    assert as_json(built) == as_json(built | options), "what the YAML says is what was built"
    assert model.paper, "a generator names its paper"
    spelled = set(inspect.signature(generator_class(name).__init__).parameters) - {"self", "skeleton"}
    assert path.stem != name or spelled <= {*options, "skeleton"}, "the paper's own YAML spells every option out"


def test_yamls_of_one_generator_differ_and_write_to_folders_of_their_own() -> None:
    configs = {path: yaml.safe_load(path.read_text()) for path in YAMLS}
    assert len({values["out"] for values in configs.values()}) == len(YAMLS)
    assert len({json.dumps(values | {"out": ""}, sort_keys=True) for values in configs.values()}) == len(YAMLS)


@pytest.mark.parametrize("path", sorted((ROOT / "generators").rglob("*.py")), ids=lambda p: p.stem)
def test_generators_know_nothing_of_reid(path: Path) -> None:
    imported = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            imported.add(node.module.split(".")[0])
    assert not imported & FORBIDDEN


@every_generator
def test_a_models_file_opens_with_its_paper_and_how_it_differs(name: str) -> None:
    text = inspect.getdoc(inspect.getmodule(generator_class(name))) or ""
    assert "Differs from the paper" in text and any(year in text for year in ("2016", "2017", "2018", "2019", "2020", "2021"))
