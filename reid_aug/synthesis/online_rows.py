"""Fresh poses in a DataLoader's workers: the rows of a data set, each in a pose that its epoch draws, rendered on the CPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from generators import Generator, Pose, rescale
from reid_aug import images
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.augmenter import Augmenter, refuse_other_shape, render, silhouetted
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.image_bank import ImageBank
from reid_aug.synthesis.manifest import SyntheticRow
from reid_aug.synthesis.online_draw import probability
from reid_aug.synthesis.sources import augmentable, image_path, in_train, warn_of_not_augmented
from reid_aug.synthesis.target_poses import RECOMBINED, drawing, hash64


class OnlineRows:
    """Says in which pose an epoch shows an image, and renders it: each image with probability `p`, else it stays.

    Epoch e draws what `augmenter.plan` would draw for the e-th synthetic image of the source: a hash of (seed, source name, e),
    by any strategy but "recombined", which makes other people. Nothing is read before an image is asked for, scenes included.
    It pickles without a tensor for each pose: workers that are spawned would run out of file handles. ValueError where no image
    of `people` (training images) can be augmented, or the generator is not on the CPU.
    """

    def __init__(self, augmenter: Augmenter, people: Sequence[PersonImage], p: float) -> None:
        if augmenter.draw == RECOMBINED:
            raise ValueError("online, people keep their identity: draw='recombined' makes new people, which are written to files")
        self.augmenter, self.p = augmenter, probability(p)
        refuse_gpu(augmenter.generator)
        self._set(people)
        warn_of_not_augmented(people, in_train if augmenter.finds_poses else augmentable)
        if not self.usable:
            raise ValueError("no training image has a pose with both shoulders and both hips: nothing to augment")
        refuse_other_shape(augmenter.generator, [p.pose.size for p in people if p.pose is not None], "these people's are")
        augmenter.generator.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def _set(self, people: Sequence[PersonImage]) -> None:
        self.people = list(people)
        usable = in_train if self.augmenter.finds_poses else augmentable
        self.usable = {person.path: person for person in self.people if usable(person)}
        self.by_name = {person.name: person for person in self.people}
        self.where = {name: i for i, name in enumerate(self.augmenter.bank.names)}
        self.choose = drawing(self.augmenter.draw, self.people, self.augmenter.bank, self.augmenter.seed)

    def draw(self, path: str, epoch: int) -> SyntheticRow | None:
        """Choose the pose that the image at `path` is shown in at an epoch; None where it is shown as it is."""
        person, seed = self.usable.get(path), self.augmenter.seed
        if person is None or (hash64(seed, person.name, epoch, "redrawn") >> 11) * 2.0**-53 >= self.p:
            return None
        bits = hash64(seed, person.name, epoch)
        target = self.augmenter.bank.names[self.choose(person, epoch, bits)]
        return SyntheticRow(image_path("", person.name, epoch), person.name, target, person.pid, person.camid, bits >> 32)

    @torch.inference_mode()
    def render(self, rows: Sequence[SyntheticRow]) -> np.ndarray:
        """Render what was drawn, uint8 (B, H, W, 3) of the generator's size; a pixel may round otherwise beside others."""
        generator, most = self.augmenter.generator.eval(), self.augmenter.batch_size
        refuse_gpu(generator)
        if get_worker_info() is not None:
            torch.set_num_threads(1)  # DataLoader sets it; whoever sets another in worker_init_fn has workers that wait for each other
        parts = [self._render(rows[i : i + most]) for i in range(0, len(rows), most)]
        return np.concatenate(parts) if parts else np.empty((0, *generator.size, 3), np.uint8)

    def _render(self, rows: Sequence[SyntheticRow]) -> np.ndarray:
        generator, bank = self.augmenter.generator, self.augmenter.bank
        size = (int(generator.size[0]), int(generator.size[1]))
        people, targets = [self.by_name[row.source] for row in rows], [self.where[row.target] for row in rows]
        sources = _read([p.path for p in people], size)
        shown = bank.paths if self.augmenter.in_scenes or self.augmenter.finds_poses else None
        scenes = None if shown is None else _read([shown[i] for i in targets], size)
        if scenes is not None and isinstance(bank, PoseBank):
            scenes = bank.as_posed(scenes, targets)
        if isinstance(bank, ImageBank):  # the generator finds the poses
            rendered = render(generator, sources, None, None, scenes)
        else:
            poses = Pose.stack([rescale(person.pose, size) for person in people if person.pose is not None])
            rendered = render(generator, sources, *silhouetted(generator, poses, people, bank, targets), scenes)
        return images.to_uint8(rendered).permute(0, 2, 3, 1).contiguous().numpy()

    def __getstate__(self) -> dict[str, Any]:
        return {"augmenter": self.augmenter, "p": self.p, "people": [_packed(person) for person in self.people]}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.augmenter, self.p = state["augmenter"], state["p"]
        self._set([_unpacked(*packed) for packed in state["people"]])


def refuse_gpu(generator: Generator) -> None:
    """Raise ValueError for a generator that is not on the CPU, where loader workers render."""
    device = next((tensor.device for tensor in (*generator.parameters(), *generator.buffers())), torch.device("cpu"))
    if device.type != "cpu":
        raise ValueError(
            f"online=True renders in loader workers, on the CPU, the generator is on {device}: generator.cpu(), or render whole "
            f"batches on the GPU with reid_aug.PoseAugmentation(generator, bank, p)"
        )


def refuse_other_mode(online: bool, files_only: Mapping[str, Any], p: float | None, device: str) -> None:
    """Raise ValueError for arguments that have no meaning in this mode."""
    if not online and p is not None:
        raise ValueError(f"p is the probability of a fresh pose with online=True, got p={p} without")
    if online and (given := [name for name, value in files_only.items() if value is not None]):
        raise ValueError(
            f"{', '.join(given)}: for synthetic images that are written to files; online=True writes none, and draws with probability p "
            "in every epoch: leave it out, or leave online out"
        )
    if online and device not in ("auto", "cpu"):
        raise ValueError(
            f"online=True renders in loader workers, on the CPU, got device={device!r}: leave it out, or render whole batches on the "
            "GPU with reid_aug.PoseAugmentation(generator, bank, p)"
        )


def _read(paths: Sequence[str], size: tuple[int, int]) -> Tensor:
    """Read images, float (B, 3, H, W) in [−1, 1]; one after the other: loaders have a worker for every core already."""
    pixels = torch.from_numpy(np.stack([images.read(path, size) for path in paths])).permute(0, 3, 1, 2)
    return images.to_float(pixels.contiguous(memory_format=torch.channels_last))


def _packed(person: PersonImage) -> tuple[PersonImage, tuple[Any, ...] | None]:
    pose = person.pose
    arrays = None if pose is None else (pose.xy.numpy(), pose.visible.numpy(), pose.skeleton, pose.size)
    return replace(person, pose=None), arrays


def _unpacked(person: PersonImage, arrays: tuple[Any, ...] | None) -> PersonImage:
    if arrays is None:
        return person
    xy, visible, skeleton, size = arrays
    return replace(person, pose=Pose(torch.from_numpy(xy), torch.from_numpy(visible), skeleton, size))
