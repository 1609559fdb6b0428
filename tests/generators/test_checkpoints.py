"""Checkpoints: what is saved, loaded, refused, and its digest."""

from __future__ import annotations

import copy
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from generator_helpers import MakePair

import generators
from generators import checkpoints
from generators.models.pg2 import PG2

TINY: dict[str, Any] = {"size": (32, 16), "width": 2, "bottleneck": 3}


@pytest.fixture
def model() -> PG2:
    return PG2(**TINY, l1_weight=50.0)


@pytest.fixture
def saved(model: PG2, tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    generators.save(model, path)
    return path


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor], dict[str, str]], Any]) -> None:
    """Open a checkpoint as a stranger would, change something, write it back."""
    with safetensors.safe_open(str(path), framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = safetensors.torch.load_file(path)
    change(tensors, metadata)
    safetensors.torch.save_file(tensors, path, metadata)


# --- save and load ---


@pytest.mark.parametrize("kind", [str, Path])
def test_save_makes_its_folder_and_leaves_one_file(kind: type, model: PG2, tmp_path: Path) -> None:
    generators.save(model, kind(tmp_path / "a" / "b" / "model.safetensors"))
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["model.safetensors"]
    generators.save(model, kind(tmp_path / "a" / "b" / "model.safetensors"))
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["model.safetensors"]
    assert type(generators.load(kind(tmp_path / "a" / "b" / "model.safetensors"))) is PG2


def test_a_saved_file_is_as_readable_as_any(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    assert stat.S_IMODE(saved.stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_saving_leaves_the_umask_alone(model: PG2, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        generators.save(model, tmp_path / "model.safetensors")
        assert os.umask(0o027) == 0o027
        assert stat.S_IMODE((tmp_path / "model.safetensors").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_the_header_says_what_was_saved(model: PG2, saved: Path) -> None:
    header = checkpoints.read_header(saved)
    assert header == {
        "generator": "pg2", "options": json.loads(json.dumps(model.options)), "size": [32, 16], "skeleton": "openpose_18",
        "digest": checkpoints.digest(model), "torch": torch.__version__,
    }  # fmt: skip
    assert header["options"]["l1_weight"] == 50.0


def test_load_gives_weights_buffers_and_options_back(model: PG2, saved: Path, tmp_path: Path, a_pair: MakePair) -> None:
    model.losses("discriminator", a_pair(), 0)  # moves batch norm's buffers
    generators.save(model, tmp_path / "moved.safetensors")
    for path, same in ((tmp_path / "moved.safetensors", True), (saved, False)):
        loaded = generators.load(path)
        assert isinstance(loaded, PG2) and loaded.l1_weight == 50.0 and not loaded.training
        state, other = model.state_dict(), loaded.state_dict()
        assert list(state) == list(other)
        assert all(torch.equal(state[key], other[key]) for key in state if key.startswith("stage"))
        buffers = [key for key in state if "running" in key or "num_batches" in key]
        assert all(torch.equal(state[key], other[key]) is same for key in buffers) and buffers


def test_a_channels_last_model_saves_like_any_other(model: PG2, saved: Path, tmp_path: Path) -> None:
    strided = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    generators.save(strided, tmp_path / "strided.safetensors")
    a, b = (safetensors.torch.load_file(path) for path in (tmp_path / "strided.safetensors", saved))
    assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert checkpoints.read_header(tmp_path / "strided.safetensors") == checkpoints.read_header(saved)


class Crash(Exception):
    pass


def test_a_save_that_fails_leaves_the_old_file_whole(model: PG2, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, seen = saved.read_bytes(), []

    def half(tensors: Any, filename: Any, metadata: Any = None) -> None:
        seen.append(Path(filename))
        Path(filename).write_bytes(b"half a file")
        raise Crash

    monkeypatch.setattr(safetensors.torch, "save_file", half)
    with torch.no_grad():
        model.stage1.end.bias += 1
    with pytest.raises(Crash):
        generators.save(model, saved)
    assert saved.read_bytes() == before and type(generators.load(saved)) is PG2
    assert seen[0] != saved and seen[0].parent == saved.parent, "written beside it: a rename between disks is a copy"
    assert [p.name for p in saved.parent.iterdir()] == [saved.name], "nothing half-written stays"


def test_a_full_disk_is_an_oserror(model: PG2, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the command line tells it: safetensors raises an error of its own kind."""
    before = saved.read_bytes()

    def full(*_: object) -> None:
        raise safetensors.SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError, match=f"{saved.name} can't be written: .*No space left"):
        generators.save(model, saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_a_rename_that_fails_leaves_the_old_file_whole(model: PG2, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def refuse(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", refuse)
        generators.save(model, saved)
    assert saved.read_bytes() == before and [p.name for p in saved.parent.iterdir()] == [saved.name]


# --- files that are something else ---


def test_no_file_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint at {path}"):
            checkpoints.read_header(path)
        with pytest.raises(FileNotFoundError, match="no checkpoint at"):
            generators.load(path)


@pytest.mark.parametrize("junk", [b"", b"\0", b"hello, world", b"\x08" + b"\0" * 7 + b"{}      ", bytes(range(256)) * 20, b"\xff" * 64])
def test_junk_is_no_checkpoint(junk: bytes, tmp_path: Path) -> None:
    path = tmp_path / "junk.safetensors"
    path.write_bytes(junk)
    for read in (checkpoints.read_header, generators.load):
        with pytest.raises(ValueError, match="junk.safetensors is no "):
            read(path)


@pytest.mark.parametrize("keep", [0.0, 1e-4, 0.01, 0.1, 0.5, 0.9, 0.999, -1])
def test_a_cut_off_checkpoint_is_no_checkpoint(keep: float, saved: Path) -> None:
    whole = saved.read_bytes()
    saved.write_bytes(whole[: -1 if keep == -1 else int(len(whole) * keep)])
    for read in (checkpoints.read_header, generators.load):
        with pytest.raises(ValueError, match="is no whole safetensors file"):
            read(saved)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}, {"format": "reid-aug generator 9"}])
def test_another_tools_safetensors_is_no_checkpoint(metadata: dict[str, str] | None, tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.ones(2)}, path, metadata)
    kind = (metadata or {}).get("format")
    for read in (checkpoints.read_header, generators.load):
        with pytest.raises(ValueError, match=f"is no generator checkpoint: its header says format {kind!r}, not '{checkpoints.FORMAT}'"):
            read(path)


# --- weights that fit and weights that do not ---


def test_a_checkpoint_without_its_discriminator_still_draws(model: PG2, saved: Path, a_pair: MakePair) -> None:
    def drop(tensors: dict[str, torch.Tensor], _: dict[str, str]) -> None:
        for key in [k for k in tensors if k.startswith("discriminator.")]:
            del tensors[key]

    size = saved.stat().st_size
    rewrite(saved, drop)
    assert saved.stat().st_size < size
    pair, loaded = a_pair(), generators.load(saved)
    output = loaded(pair.source, pair.source_pose, pair.target_pose)
    assert torch.equal(output, model.eval()(pair.source, pair.source_pose, pair.target_pose))


@pytest.mark.parametrize("key", ["stage1.end.bias", "stage2.start.weight"])
def test_a_checkpoint_without_a_weight_it_needs_is_refused(key: str, saved: Path) -> None:
    rewrite(saved, lambda tensors, _: tensors.__delitem__(key))
    with pytest.raises(ValueError, match=rf"weights do not fit 'pg2': missing \['{key}'\], unexpected \[\]"):
        generators.load(saved)


def test_a_checkpoint_with_a_weight_too_many_is_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors, _: tensors.update({"stage3.weight": torch.ones(1)}))
    with pytest.raises(ValueError, match=r"weights do not fit 'pg2': missing \[\], unexpected \['stage3.weight'\]"):
        generators.load(saved)


def test_a_checkpoint_of_other_shapes_is_refused(saved: Path) -> None:
    rewrite(saved, lambda tensors, _: tensors.update({"stage1.end.bias": torch.zeros(4)}))
    with pytest.raises(ValueError, match=r"(?s)weights do not fit 'pg2'.*stage1\.end\.bias"):
        generators.load(saved)


@pytest.mark.parametrize("key", ["stage1.start.weight", "discriminator.logit.bias", "discriminator.features.3.running_mean"])
def test_weights_changed_after_saving_are_refused(key: str, saved: Path) -> None:
    rewrite(saved, lambda tensors, _: tensors[key].view(-1)[0].add_(1e-3))
    with pytest.raises(ValueError, match="weights are not the ones that were saved"):
        generators.load(saved)


def test_rewriting_alone_is_no_change(saved: Path) -> None:
    rewrite(saved, lambda tensors, metadata: None)
    assert type(generators.load(saved)) is PG2


def test_options_a_newer_version_does_not_know_are_refused(saved: Path) -> None:
    def rename(_: dict[str, torch.Tensor], metadata: dict[str, str]) -> None:
        metadata["reid-aug"] = metadata["reid-aug"].replace('"radius_px"', '"disc_radius_px"')

    rewrite(saved, rename)
    with pytest.raises(ValueError, match=r"has no option 'disc_radius_px'.*did you mean 'radius_px'"):
        generators.load(saved)


# --- digests ---


def test_the_digest_is_of_the_weights_and_of_nothing_else(model: PG2) -> None:
    twin = copy.deepcopy(model)
    assert checkpoints.digest(twin) == checkpoints.digest(model) and len(checkpoints.digest(model)) == 64
    assert checkpoints.digest(twin.eval().to(memory_format=torch.channels_last)) == checkpoints.digest(model)  # type: ignore[call-overload]
    assert checkpoints.digest(twin.double()) != checkpoints.digest(model), "equal values of another type"


@pytest.mark.parametrize("key", ["stage1.end.bias", "discriminator.features.3.num_batches_tracked", "stage2.end.weight"])
def test_one_changed_number_changes_the_digest(key: str, model: PG2) -> None:
    before = checkpoints.digest(model)
    tensor = model.state_dict()[key]
    with torch.no_grad():
        tensor.view(-1)[-1] += 1
    assert checkpoints.digest(model) != before
    with torch.no_grad():
        tensor.view(-1)[-1] -= 1


def test_the_digest_sees_names_shapes_and_types() -> None:
    base = {"a": torch.zeros(2, 3), "b": torch.ones(1)}
    others = [
        {"a": torch.zeros(3, 2), "b": torch.ones(1)}, {"c": torch.zeros(2, 3), "b": torch.ones(1)},
        {"a": torch.zeros(2, 3, dtype=torch.int32), "b": torch.ones(1)}, {"a": torch.zeros(2, 3)}, {"b": base["a"], "a": base["b"]},
    ]  # fmt: skip
    digests = [checkpoints.tensors_digest(tensors) for tensors in (base, *others)]
    assert len(set(digests)) == len(digests)
    assert checkpoints.tensors_digest(dict(reversed(base.items()))) == digests[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.bool, torch.uint8, torch.int64])
def test_every_type_has_a_digest(dtype: torch.dtype) -> None:
    tensors = {"x": torch.ones(3, dtype=dtype), "empty": torch.empty(0, dtype=dtype), "scalar": torch.tensor(1).to(dtype)}
    assert checkpoints.tensors_digest(tensors) != checkpoints.tensors_digest(tensors | {"scalar": torch.tensor(0).to(dtype)})
