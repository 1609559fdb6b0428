"""Augmenter: decide what to render (`plan`, pure), then render it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from generators import Generator, Pose, convert, digest, name_of, rescale, with_legs
from reid_aug import images
from reid_aug.data.masks import with_silhouettes
from reid_aug.data.people import PersonImage
from reid_aug.device import torch_device
from reid_aug.synthesis.bank import PoseBank, in_scenes
from reid_aug.synthesis.gates import pose_novelty
from reid_aug.synthesis.image_bank import IMAGES, Bank, ImageBank, as_bank, bank_size
from reid_aug.synthesis.manifest import SyntheticRow, package_version
from reid_aug.synthesis.nearness import tolerance_of
from reid_aug.synthesis.recombining import plan_recombined
from reid_aug.synthesis.sources import add, augmentable, image_path, in_train, warn_of_not_augmented
from reid_aug.synthesis.target_poses import RECOMBINED, cameras_digest, check_bank, draw_for, drawing, hash64


def plan(
    people: Iterable[PersonImage], bank: Bank, per_image: int, seed: int, folder: str = "", draw: str = "whole",
    *, first_pid: int | None = None,
) -> list[SyntheticRow]:  # fmt: skip
    """Decide what to render: for every usable training image, `per_image` target poses of the bank. Pure: the same everywhere.

    Which pose a row gets is a hash of (seed, source name, index), so neither order nor sharding changes it; `draw`
    names the strategy (DRAWS; `target_poses.drawing` describes them), of which "missing-views" and "compatible" look at all
    images of an identity, so that shards must not part them. An image is usable when shoulders and hips are seen (the
    Deformable GAN protocol); one outside train is refused: its identity would leak. Rows of "compatible", which keeps near the
    source, say how novel their pose is to the identity (`gates.pose_novelty`). "recombined" makes new people
    (`recombining.plan_recombined`), whose identities count from `first_pid`. A line warns of images that are not usable
    (`sources.not_augmented` lists them); from an ImageBank every training image gets poses, for the generator finds its own, too.
    """
    if per_image < 1:
        raise ValueError(f"per_image is at least 1, got {per_image}")
    people = list(people)
    check_bank(draw, bank)
    if draw == RECOMBINED and isinstance(bank, PoseBank):
        return plan_recombined(people, bank, per_image, seed, folder, first_pid)
    usable = in_train if isinstance(bank, ImageBank) else augmentable
    warn_of_not_augmented(people, usable)
    choose = drawing(draw, people, bank, seed)
    rows: dict[str, SyntheticRow] = {}
    for person in people:
        if not usable(person):
            continue
        for index in range(per_image):
            bits = hash64(seed, person.name, index)
            path, target = image_path(folder, person.name, index), bank.names[choose(person, index, bits)]
            add(rows, SyntheticRow(path, person.name, target, person.pid, person.camid, bits >> 32), person.name)
    planned = list(rows.values())
    if tolerance_of(draw) is None or isinstance(bank, ImageBank):
        return planned
    return [replace(row, pose_novelty=float(n)) for row, n in zip(planned, pose_novelty(planned, people, bank), strict=True)]


def render(
    generator: Generator, source: Tensor, source_pose: Pose | None, target_pose: Pose | None, scene: Tensor | None = None
) -> Tensor:
    """Make images: `source` (B, 3, H, W) in [−1, 1] in the target poses, float32, on the source's device.

    The one place of `reid_aug` that does: under bfloat16 autocast on a GPU, in float32 elsewhere. Poses (B, K) are of the generator's
    size, on any skeleton and device that its own can be had from; None leaves them to a generator that finds poses itself, the
    targets' in `scene`. That (B, 3, H, W), in [−1, 1], are the target images, else for a generator that takes them.
    """
    device = source.device
    poses = (None if pose is None else convert(pose, generator.skeleton).to(device) for pose in (source_pose, target_pose))
    scenes = () if scene is None else (scene.to(device),)
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        return generator(source, *poses, *scenes).float()


def silhouetted(
    generator: Generator, source_pose: Pose, people: Sequence[PersonImage], bank: PoseBank, targets: Sequence[int]
) -> tuple[Pose, Pose]:
    """Return source and target poses (B, K) with what is known of the silhouettes of `people` and of those on the bank's images.

    They are read here, where the generator takes any: in a bank they would fill the memory.
    """
    if not generator.takes_silhouettes:
        return source_pose, bank.pose[torch.tensor(targets)]
    return with_silhouettes(source_pose, [p.mask for p in people]), bank.silhouetted(targets)


def refuse_other_shape(generator: Generator, sizes: Sequence[tuple[int, int]], what: str) -> None:
    """Raise ValueError for images whose median shape, of sizes (H, W), is quite another than the generator's.

    Crops vary, and a resize is harmless; a full-body 2 : 1 crop squeezed to a square is not.
    """
    height, width = generator.size
    if sizes and not 1 / 1.5 < (height / width) / float(np.median([h / w for h, w in sizes])) < 1.5:
        raise ValueError(f"the generator renders {height} × {width} images, {what} {sizes[0][0]} × {sizes[0][1]}: of another shape")


class Augmenter:
    """A generator, a bank, how many poses per image, and a seed: what turns people into synthetic rows.

    `draw` names how target poses are chosen: "whole" (uniformly), "missing-views", "canonical", "camera-aware" or
    "compatible"; None is the generator's own way, "compatible" where it has `near_views`, else "whole". "recombined" makes
    new people: photographs on which the legs are those of another, drawn by the generator. A generator that takes scenes is
    given the images that the target poses came from, where the bank knows them; else it renders in the sources' places.
    With an ImageBank the generator, which `finds_poses`, is given images alone, and sources need no pose either.
    `device` is "auto" (a GPU when there is one), or any torch device.
    """

    def __init__(
        self,
        generator: Generator,
        bank: Bank,
        per_image: int = 2,
        seed: int = 0,
        *,
        draw: str | None = None,
        batch_size: int = 64,
        device: str | torch.device = "auto",
    ) -> None:
        self.draw = draw_for(generator, draw)
        check_bank(self.draw, as_bank(bank, generator))  # what does not fit is refused now, not when it is asked for
        if self.draw == RECOMBINED and bank.paths is None:
            raise ValueError("recombined needs the images that the bank's poses came from: PoseBank.collect, or PoseBank(…, paths=…)")
        self.generator, self.bank, self.per_image, self.seed = generator, bank, per_image, seed
        self.batch_size, self.device = batch_size, torch_device(device)
        self.finds_poses = isinstance(bank, ImageBank)
        self.in_scenes = in_scenes(generator, bank) if isinstance(bank, PoseBank) else generator.takes_scene
        self.by_silhouettes = generator.takes_silhouettes and isinstance(bank, PoseBank)

    def with_bank(self, bank: Bank) -> Augmenter:
        """Give the same augmenter with another bank of poses."""
        if bank is self.bank:
            return self
        how = {"draw": self.draw, "batch_size": self.batch_size, "device": self.device}
        return Augmenter(self.generator, bank, self.per_image, self.seed, **how)

    @property
    def made_by(self) -> dict[str, Any]:
        """Return what decides the pixels: the manifest's first line. Only rounding may differ between devices."""
        return self._made_by

    @cached_property
    def _made_by(self) -> dict[str, Any]:
        return {
            "reid-aug": package_version(),
            "generator": name_of(self.generator),
            "generator_digest": digest(self.generator),
            "options": {k: list(v) if isinstance(v, tuple) else v for k, v in self.generator.options.items()},
            "bank_digest": self.bank.digest,
            "per_image": self.per_image,
            "seed": self.seed,
            "size": list(self.generator.size),
            **self._drawn_how,
            **self._scenes,
            **({"bank": IMAGES} if self.finds_poses else {}),
        }

    @property
    def _drawn_how(self) -> dict[str, str]:
        """Return how poses were drawn; empty for "whole", so that folders from before there was a choice keep their names."""
        how = {} if self.draw == "whole" else {"draw": self.draw}
        if self.draw == RECOMBINED and not self.in_scenes and isinstance(self.bank, PoseBank):
            how["uppers_digest"] = self.bank.scenes_digest
        return how | ({"cameras_digest": cameras_digest(self.bank)} if self.draw == "camera-aware" else {})

    @property
    def _scenes(self) -> dict[str, str]:
        """Return which scenes were rendered in; empty for a generator that takes none."""
        if not self.generator.takes_scene or isinstance(self.bank, ImageBank):  # whose own digest is of the images
            return {}
        return {"scenes_digest": self.bank.scenes_digest, **self._masks} if self.in_scenes else {"scenes": "none"}

    @property
    def _masks(self) -> dict[str, str]:
        """Return whose silhouettes people are taken out of scenes by; empty without any. Those of sources count with the sources."""
        digest = self.bank.masks_digest if self.by_silhouettes and isinstance(self.bank, PoseBank) else None
        return {} if digest is None else {"masks_digest": digest}

    def plan(self, people: Iterable[PersonImage], folder: str = "", *, first_pid: int | None = None) -> list[SyntheticRow]:
        """Plan with this bank and seed; ValueError when the generator was made for images of quite another shape.

        New people's identities count from `first_pid`, by default the next after the largest among `people`.
        """
        people = list(people)
        unposed = (images.size_of(p.path) for p in people if p.pose is None and p.split == "train") if self.finds_poses else ()
        sizes = [p.pose.size for p in people if p.pose is not None]
        refuse_other_shape(self.generator, [*sizes, *unposed], "these people's are")
        return plan(people, self.bank, self.per_image, self.seed, folder, self.draw, first_pid=first_pid)

    @torch.inference_mode()
    def render(
        self, rows: Sequence[SyntheticRow], people: Iterable[PersonImage]
    ) -> Iterator[tuple[SyntheticRow, np.ndarray]]:
        """Render rows in batches: each row with its image, uint8 (H, W, 3), in the rows' order."""
        if not rows:
            return
        by_name = {person.name: person for person in people}
        where = {name: i for i, name in enumerate(self.bank.names)}
        self.generator.to(self.device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        batches = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
        with ThreadPoolExecutor(1) as ahead:  # decodes the next batch while this one is rendered
            coming = ahead.submit(self._inputs, batches[0], by_name, where)
            for number, batch in enumerate(batches):
                sources, *poses, scenes = coming.result()
                if number + 1 < len(batches):
                    coming = ahead.submit(self._inputs, batches[number + 1], by_name, where)
                rendered = self._rendered(sources, *poses, scenes)
                yield from zip(batch, images.to_uint8(rendered).permute(0, 2, 3, 1).cpu().numpy(), strict=True)

    def _rendered(self, sources: Tensor, source_pose: Pose | None, target_pose: Pose | None, scenes: Tensor | None) -> Tensor:
        """Render a batch, float32 (B, 3, H, W) in [−1, 1]; of new people the legs alone, on the scenes' people."""
        there = None if scenes is None else self._to_float(scenes)
        scene = there if self.in_scenes or self.finds_poses else None
        rendered = render(self.generator, self._to_float(sources), source_pose, target_pose, scene)
        if self.draw != RECOMBINED:
            return rendered
        assert there is not None and target_pose is not None
        return with_legs(there, rendered, target_pose.to(rendered.device))

    def _inputs(
        self, rows: Sequence[SyntheticRow], by_name: dict[str, PersonImage], where: dict[str, int]
    ) -> tuple[Tensor, Pose | None, Pose | None, Tensor | None]:
        """Read sources, uint8 (B, 3, H, W), their poses, the target poses and, where there are any, the scenes, as the sources.

        No poses where the generator finds them, in the sources and in the scenes.
        """
        people = [by_name[row.source] for row in rows]
        pixels = torch.from_numpy(np.stack([images.read(p.path, self.generator.size) for p in people])).permute(0, 3, 1, 2)
        targets = [where[row.target] for row in rows]
        if isinstance(self.bank, ImageBank):
            return pixels, None, None, self.bank.scenes(targets, bank_size(self.bank))
        poses = Pose.stack([rescale(p.pose, self.generator.size) for p in people if p.pose is not None])
        shown = self.in_scenes or self.draw == RECOMBINED
        scenes = self.bank.scenes(targets, self.generator.size) if shown else None
        return pixels, *silhouetted(self.generator, poses, people, self.bank, targets), scenes

    def _to_float(self, pixels: Tensor) -> Tensor:
        return images.to_float(pixels.to(self.device, memory_format=torch.channels_last))
