"""Losses on pairs that are never learnt from: what they are, where they are written, and that training does not notice them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_helpers import Plain, assert_equal_weights, curves, random_pair, run, tiny

import generators
from generators import PosePair, create
from generators.pose import mpii_14

NOISY: dict[str, Any] = {"size": (32, 16), "width": 2, "pretrain_steps": 2, "warmup_steps": 1, "gan_steps": 3}


def pairs_14(seed: int, batch: int = 2) -> PosePair:
    return random_pair(seed, batch, skeleton=mpii_14, missing=0.0)


def rows(out: Path) -> list[dict[str, str]]:
    with (out / "held_out.csv").open() as file:
        return list(csv.DictReader(file))


def trained(out: Path, held_out: list[PosePair], steps: int = 5, compute: bool = True) -> Any:
    torch.manual_seed(3)
    model = create("posewarp", **NOISY)
    pairs = [pairs_14(seed) for seed in range(60)]
    return model, generators.train(
        model, pairs, out, steps=steps, accelerator="cpu", perceptual="none", save_every_steps=2, log_every_steps=1, held_out=held_out
    )


def test_training_is_bit_for_bit_what_it_is_without_them(tmp_path: Path) -> None:
    """Of a generator that takes fresh noise at every step of training."""
    with_them, done = trained(tmp_path / "with", [pairs_14(90, 3), pairs_14(91, 1)])
    without, other = trained(tmp_path / "without", [])
    assert_equal_weights(with_them, without)
    assert done.losses == other.losses and other.held_out == {} and set(done.held_out) == set(done.losses)
    learnt = {key: value for key, value in curves(tmp_path / "with").items() if not key[0].startswith("held_out/")}
    assert learnt == curves(tmp_path / "without")
    assert not (tmp_path / "without" / "held_out.csv").exists()


def test_they_are_means_over_pairs_of_what_the_turn_pays(tmp_path: Path) -> None:
    held_out = [pairs_14(90, 3), pairs_14(91, 1)]
    model, done = trained(tmp_path, held_out)
    assert not model.training
    with torch.no_grad():
        for player in ("generator", "discriminator"):
            for term in model.losses(player, held_out[0], 4):
                one, other = (model.losses(player, pair, 4)[term].item() for pair in held_out)
                assert done.held_out[f"{player}/{term}"] == pytest.approx((3 * one + other) / 4, rel=1e-5)
    assert [row["step"] for row in rows(tmp_path)] == ["2", *["4"] * 4, *["5"] * 4]
    last = {row["loss"]: float(row["held_out"]) for row in rows(tmp_path) if row["step"] == "5"}
    assert last == pytest.approx(done.held_out, rel=1e-4)
    recorded = curves(tmp_path)
    assert recorded["held_out/generator/l1_in_place_of_vgg", 4][0] == pytest.approx(
        float(next(r["held_out"] for r in rows(tmp_path) if r["step"] == "4" and r["loss"] == "generator/l1_in_place_of_vgg")), rel=1e-4
    )
    # Beside them, what training paid since the checkpoint before: here at steps 0 and 1.
    paid = [recorded["generator/l1_in_place_of_vgg", step][0] for step in (0, 1)]
    assert float(rows(tmp_path)[0]["training"]) == pytest.approx(sum(paid) / 2, rel=1e-4)
    page = (tmp_path / "held_out.md").read_text()
    assert "Losses on 4 pairs that are never learnt from" in page and page.count("\n| ") == 2 + len(rows(tmp_path))


def test_a_resumed_training_goes_on_with_its_table(tmp_path: Path) -> None:
    held_out = [pairs_14(90)]
    trained(tmp_path / "whole", held_out)
    trained(tmp_path / "parts", held_out, steps=4)
    with (tmp_path / "parts" / "held_out.csv").open("a") as file:
        file.write("5,generator/gone,1,1\n")  # of a run that was killed after its checkpoint
    trained(tmp_path / "parts", held_out, steps=5)
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_poses_of_another_skeleton_and_a_model_that_sets_no_terms_apart(
    stream: Callable[..., Iterator[PosePair]], tmp_path: Path
) -> None:
    done = run(tiny(), stream(), tmp_path, 2, held_out=[next(stream(70))])
    assert set(done.held_out) == {"generator1/pose_mask_l1"}
    plain = run(Plain(), stream(size=(8, 4)), tmp_path / "plain", 1, held_out=[next(stream(70, size=(8, 4)))])
    assert set(plain.held_out) == set(plain.losses)
