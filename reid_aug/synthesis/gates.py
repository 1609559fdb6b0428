"""Gates: which synthetic images enter training. Scores are kept in the manifest, so that gating again renders nothing."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, ValidationError, field_validator
from torch import Tensor
from tqdm import tqdm

from generators import Pose, convert, rescale
from reid_aug import images
from reid_aug.baselines.neighbours import usable
from reid_aug.config import Config, explain
from reid_aug.data.body import valid_for_pairs
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.bank import MIRRORED, PoseBank
from reid_aug.synthesis.identity_scores import identity_scores
from reid_aug.synthesis.image_bank import IMAGES, Bank
from reid_aug.synthesis.manifest import NAME, SCORED_BY, Manifest, SyntheticRow
from reid_aug.synthesis.novelty import bodies, nearest
from reid_aug.synthesis.target_poses import RECOMBINED

if TYPE_CHECKING:  # it brings torchreid, which is slow to import, and dumps need none
    from reid_aug.baselines.network import ReidNetwork

BATCH = 256
RECORDS = {
    "identity": "reid-aug gate DUMP reid=FILE, or reid_aug.synthesis.gates.score with a Re-ID network",
    "novelty": "reid-aug gate DUMP, or reid_aug.synthesis.gates.score",
}


class GateConfig(Config):
    """Which synthetic images enter training; a gate that is None is open. Both together: what passes both."""

    # Images to keep by identity: "found" keeps those whose person a Re-ID network finds again; a number in [0, 1) drops that share
    # of the lowest scores.
    identity: Literal["found"] | float | None = None
    # Least distance, in torso lengths, of a kept image's pose from the nearest of the identity's own.
    novelty: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None

    @field_validator("identity", mode="before")
    @classmethod
    def _share(cls, identity: Any) -> Any:
        is_share = isinstance(identity, int | float) and not isinstance(identity, bool) and 0 <= identity < 1
        if identity not in (None, "found") and not is_share:
            raise ValueError(f"'found', or the share in [0, 1) of lowest scores to drop, got {identity!r}")
        return identity


# ------------------------------------------------------------------------------------------------------- scores


def pose_novelty(rows: Sequence[SyntheticRow], people: Sequence[PersonImage], bank: PoseBank) -> np.ndarray:
    """Measure how far each row's target pose is from its identity's photographed ones: float64 (N,), in torso lengths.

    The distance of two poses is the mean over the joints visible in both of the joints' Euclidean distance, once both
    are brought to the bank's image size, centred on the middle of shoulders and hips, and divided by the torso's
    length (for a skeleton without hips, by the body's visible height); the novelty is that to the nearest pose of the
    identity's training images in `people`. (No L2 search, which faiss could do: a mean of lengths, each pair's over joints of its
    own, among the few images of a person.) 0: the person has been photographed in just this pose. Like everything
    here it takes poses with both shoulders and hips only, so that any two can be compared. ValueError for a target
    that is not in the bank or lacks them, and for an identity that has no such pose.
    """
    where = {name: i for i, name in enumerate(bank.names)}
    photographed: dict[int, list[Pose]] = defaultdict(list)
    for person in people:
        if person.split == "train" and person.pose is not None and bool(valid_for_pairs(person.pose)):
            photographed[person.pid].append(rescale(convert(person.pose, bank.pose.skeleton), bank.pose.size))
    rows_of: dict[int, list[int]] = defaultdict(list)
    for i, row in enumerate(rows):
        if row.target not in where:
            raise ValueError(f"{row.path}: its target pose {row.target!r} is not in the bank of {len(bank)} poses")
        if row.pid not in photographed:
            raise ValueError(f"{row.path}: identity {row.pid} has no training image with both shoulders and both hips to compare with")
        rows_of[row.pid].append(i)
    targets = np.array([where[row.target] for row in rows], dtype=int)
    usable = valid_for_pairs(bank.pose).numpy()
    if len(bad := np.flatnonzero(~usable[targets])):
        raise ValueError(f"{rows[bad[0]].path}: its target pose {rows[bad[0]].target!r} lacks a shoulder or hip")
    about, novelty = bodies(bank.pose), np.zeros(len(rows))
    for pid, numbers in tqdm(rows_of.items(), "pose novelty", unit="identity", disable=None, delay=2, leave=False):
        novelty[numbers] = nearest(about[torch.from_numpy(targets[numbers])], bodies(Pose.stack(photographed[pid])))
    return novelty


# --------------------------------------------------------------------------------------------------------- gates


def passing(rows: Sequence[SyntheticRow], gate: GateConfig) -> dict[str, np.ndarray]:
    """Tell by each gate that is set, in words, which rows it lets through, bool (N,); ValueError where a score is not recorded."""
    by_gate = {}
    if gate.identity is not None:
        scores = _recorded(rows, "identity_score", "identity")
        if gate.identity == "found":
            by_gate["identity found"] = scores > 0
        else:
            lowest = np.quantile(scores, gate.identity) if rows else 0.0
            by_gate[f"identity without the lowest {100 * gate.identity:g} %"] = scores >= lowest
    if gate.novelty is not None:
        by_gate[f"novelty at least {gate.novelty:g}"] = _recorded(rows, "pose_novelty", "novelty") >= gate.novelty
    return by_gate


def keep(rows: Sequence[SyntheticRow], gate: GateConfig) -> np.ndarray:
    """Tell which rows every gate lets through, bool (N,), all where none is set.

    ValueError where a score that is needed is not recorded, and, with the counts, when no row is left.
    """
    by_gate = passing(rows, gate)
    kept = np.logical_and.reduce([np.ones(len(rows), dtype=bool), *by_gate.values()])
    if not kept.any():
        counts = ", ".join(f"{name}: {passed.sum()}" for name, passed in by_gate.items())
        raise ValueError(f"the gate keeps none of {len(rows)} synthetic images{f' ({counts})' if counts else ''}")
    return kept


def refuse_novelty(manifest: Manifest, gate: GateConfig) -> None:
    """Raise ValueError for a gate on novelty and images whose poses the generator found itself: there is nothing to compare."""
    if gate.novelty is not None and manifest.made_by.get("bank") == IMAGES:
        raise ValueError(f"novelty={gate.novelty:g} compares target poses, and these images' were found by the generator: gate by identity")


def _recorded(rows: Sequence[SyntheticRow], name: str, gate: str) -> np.ndarray:
    scores = [getattr(row, name) for row in rows]
    if missing := scores.count(None):
        raise ValueError(f"the gate {gate!r} needs {name}, which {missing} of {len(rows)} rows lack: record it with {RECORDS[gate]}")
    return np.array(scores, dtype=np.float64)


def as_gate(values: GateConfig | dict[str, Any]) -> GateConfig:
    """Make a gate from its settings; ValueError in one line for what does not fit."""
    try:
        return values if isinstance(values, GateConfig) else GateConfig.model_validate(values)
    except ValidationError as error:
        raise ValueError(f"gate: {explain(GateConfig, error)}") from None


# -------------------------------------------------------------------------------------------------------- record


def record_scores(
    folder: str | os.PathLike[str], manifest: Manifest,
    *, novelty: np.ndarray | None = None, identity: np.ndarray | None = None, scored_by: str | None = None,
) -> Manifest:  # fmt: skip
    """Write scores, one a row, into the manifest of `folder`, atomically; the manifest with them.

    `scored_by` names the network the identity scores are from: those of another are replaced, all at once. ValueError
    without it, for another number of scores than rows, or for one that is not finite.
    """
    if identity is not None and not scored_by:
        raise ValueError("identity scores are recorded with scored_by: which network gave them")
    rows, made_by = manifest.rows, dict(manifest.made_by)
    for name, scores in (("pose_novelty", novelty), ("identity_score", identity)):
        if scores is None:
            continue
        if len(scores) != len(rows):
            raise ValueError(f"{name} is one number a row, got {len(scores)} for {len(rows)} rows")
        if not (finite := np.isfinite(scores)).all():
            raise ValueError(f"{name} is a finite number, that of {rows[int(finite.argmin())].path} is not")
        rows = tuple(replace(row, **{name: float(score)}) for row, score in zip(rows, scores, strict=True))
    if identity is not None:
        made_by[SCORED_BY] = scored_by
    scored = replace(manifest, rows=rows, made_by=made_by)
    if scored != manifest:
        scored.save(Path(folder) / NAME)
    return scored


def score(
    folder: str | os.PathLike[str], manifest: Manifest, people: Sequence[PersonImage], bank: Bank | None, reid: ReidNetwork | None = None,
    backend: str = "auto",
) -> Manifest:  # fmt: skip
    """Record what gates go by in the manifest of `folder`, as far as it is not recorded; the manifest with it.

    The pose novelty, but with no bank of poses, as of images whose poses the generator found; with a Re-ID network identity scores
    too, against the training images among `people`: what another network said is replaced. `backend` searches for neighbours
    (`baselines.neighbours`). ValueError when a row's source is not
    among them, and for new people ("recombined"), whom nobody has photographed.
    """
    if manifest.made_by.get("draw") == RECOMBINED:
        raise ValueError(f"{folder} holds recombined people: of people nobody has photographed, neither identity nor novelty can be judged")
    novelty = identity = None
    rows = manifest.rows
    if isinstance(bank, PoseBank) and (todo := [row for row in rows if row.pose_novelty is None]):
        novelty = _filled([row.pose_novelty for row in rows], pose_novelty(todo, people, bank))
    if reid is not None:
        known = [row.identity_score if manifest.made_by.get(SCORED_BY) == reid.name else None for row in rows]
        if unscored := [row for row, score in zip(rows, known, strict=True) if score is None]:
            identity = _filled(known, _identity(Path(folder), unscored, people, reid, manifest.in_scenes, backend))
    return record_scores(folder, manifest, novelty=novelty, identity=identity, scored_by=reid and reid.name)


def _filled(known: Sequence[float | None], new: np.ndarray) -> np.ndarray:
    """Fill the gaps of what is known, in order, with what is new."""
    scores = np.array([np.nan if value is None else value for value in known], dtype=np.float64)
    scores[[value is None for value in known]] = new
    return scores


def _identity(
    folder: Path, rows: Sequence[SyntheticRow], people: Sequence[PersonImage], reid: ReidNetwork, in_scenes: bool, backend: str
) -> np.ndarray:
    usable(backend)  # or its lack would show after every image was read
    train = [p for p in people if p.split == "train"]
    where = {person.name: i for i, person in enumerate(train)}
    if lost := [row for row in rows if row.source not in where]:
        raise ValueError(f"{lost[0].path}: its source {lost[0].source} is not among the {len(train)} training images given")
    real = torch.cat(list(_features([p.path for p in train], reid, "features of real images")))
    synthetic = torch.cat(list(_features([folder / row.path for row in rows], reid, "features of synthetic images")))
    sources, scenes = [where[row.source] for row in rows], None
    if in_scenes:
        scenes = [where.get(row.target.removesuffix(MIRRORED), -1) for row in rows]
    return identity_scores(synthetic, [row.pid for row in rows], real, [p.pid for p in train], sources, scenes, backend)


def _features(paths: Sequence[str | Path], reid: ReidNetwork, title: str) -> Iterator[Tensor]:
    with tqdm(total=len(paths), desc=title, unit="image", disable=None, delay=2, leave=False) as bar:
        for start in range(0, len(paths), BATCH):
            batch = images.read_many(paths[start : start + BATCH], reid.size, progress=False)
            yield reid.features(batch).detach().cpu()
            bar.update(len(batch))
