"""PoseAugmentedDataset: a torchreid image data set whose training split also holds its people in new poses."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from generators import Generator, Pose
from generators import load as load_generator
from reid_aug import images
from reid_aug.baselines.neighbours import usable
from reid_aug.baselines.network import FeatureFunction, ReidNetwork, reid_network
from reid_aug.data.doubts import first_few, report
from reid_aug.data.keypoints import checked_poses
from reid_aug.data.loading import with_keypoints
from reid_aug.data.people import JUNK, SPLITS, PersonImage, attach_poses, people_doubts
from reid_aug.data.torchreid_sets import four, from_torchreid, named_dataset, torchreid_data
from reid_aug.digests import cache_folder, file_digests
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.bank import PoseBank
from reid_aug.synthesis.gates import GateConfig, as_gate, keep, score
from reid_aug.synthesis.manifest import Manifest, SyntheticRow
from reid_aug.synthesis.store import fill
from reid_aug.synthesis.target_poses import RECOMBINED

Poses = str | os.PathLike[str] | Mapping[str, Pose]


class PoseAugmentedDataset(torchreid_data.ImageDataset):
    """`base`, with `per_image` synthetic images of every training image whose pose is known added to `train`.

    `generator` is a model or a checkpoint; `poses` a keypoint file (name:keypoints_y:keypoints_x) or a mapping from
    image name to Pose; `bank` the target poses, by default those of the whole training set, with its images as the scenes
    of a generator that takes scenes. Images are rendered once into `cache_dir` (default: the user's cache folder), under a
    name that changes with generator, bank, seed, per_image or source images; the next construction finds them there.
    `base` in query or gallery mode stays as it is. `draw` names how target poses are chosen
    (`synthesis.target_poses.DRAWS`); None is the generator's own way: "compatible" where it moves the source's pixels
    (`near_views`), else "whole". "recombined" adds new people instead, under identities of their own: everybody with the
    legs of `per_image` others. `gate` (a GateConfig, or its keys) leaves images out of `train` by scores that are kept
    beside the images, so that another gate renders nothing; one on identity asks `reid`, a baseline file of the benchmark's
    that was trained on the real images alone, or a function from uint8 images (N, 3, H, W) to features (N, D); `backend` searches
    for the nearest real images (torch, which auto is, faiss-cpu or faiss-gpu).
    `synthetic_dsetid` gives synthetic rows a data set index of their own (for RandomDatasetSampler). Rows point at files:
    adding data sets, samplers and worker processes see plain torchreid rows. `manifest` is of all that was rendered,
    `synthetic_paths` are those in `train`.
    """

    def __init__(
        self,
        base: Any,
        *,
        generator: Generator | str | os.PathLike[str],
        poses: Poses,
        per_image: int = 2,
        seed: int = 0,
        draw: str | None = None,
        gate: GateConfig | dict[str, Any] | None = None,
        reid: ReidNetwork | FeatureFunction | str | os.PathLike[str] | None = None,
        backend: str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        bank: PoseBank | None = None,
        synthetic_dsetid: int | None = None,
        device: str = "auto",
        batch_size: int = 64,
        verbose: bool = True,
    ) -> None:
        rows = {split: [four(row, split) for row in getattr(base, split)] for split in SPLITS}
        self.base, self.manifest, self.synthetic_paths = base, None, frozenset[str]()
        if base.mode == "train":
            _warn_of_labels([row[1] for row in rows["train"]])
            gate, backend = as_gate(gate or {}), usable(backend)
            if gate.identity is not None and reid is None:
                raise ValueError("a gate on identity asks a Re-ID network: give reid=, a baseline file or a function of images")
            model = generator if isinstance(generator, Generator) else load_generator(generator)
            people = _sources(base, poses)
            bank = bank or PoseBank.collect(people, tuple(model.size))  # type: ignore[arg-type]
            augmenter = Augmenter(model, bank, per_image, seed, draw=draw, batch_size=batch_size, device=device)
            first_pid = max((row[1] for row in rows["train"]), default=-1) + 1
            self.folder = _folder(augmenter, people, cache_dir, first_pid)
            network = None if gate.identity is None or reid is None else reid_network(reid, bank.pose.size, device)
            self.manifest = synthesise(augmenter, people, self.folder, first_pid)
            rows_kept = self._gated(gate, network, people, bank, backend)
            dsetids = {row[0]: row[3] for row in rows["train"]}
            by_name = {person.name: person.path for person in people}
            added = [
                (str(self.folder / row.path), row.pid, row.camid,
                 dsetids[by_name[row.source]] if synthetic_dsetid is None else synthetic_dsetid)
                for row in rows_kept
            ]  # fmt: skip
            rows["train"] = rows["train"] + added
            self.synthetic_paths = frozenset(row[0] for row in added)
        super().__init__(
            rows["train"], rows["query"], rows["gallery"],
            transform=base.transform, k_tfm=base.k_tfm, mode=base.mode, combineall=False, verbose=verbose,
        )  # fmt: skip

    def _gated(
        self, gate: GateConfig, network: ReidNetwork | None, people: list[PersonImage], bank: PoseBank, backend: str
    ) -> list[SyntheticRow]:
        """Find the rows the gate keeps, once the manifest in the cache has the scores it goes by."""
        assert self.manifest is not None
        if gate != GateConfig():
            self.manifest = score(self.folder, self.manifest, people, bank, network, backend)
        return [row for row, kept in zip(self.manifest.rows, keep(self.manifest.rows, gate), strict=True) if kept]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {img, pid, camid, impath, dsetid, synthetic}; an unreadable file is an error here, not an endless retry."""
        path, pid, camid, dsetid = self.data[index]
        image = Image.fromarray(images.read(path))
        if self.transform is not None:
            image = self._transform_image(self.transform, self.k_tfm, image)
        synthetic = int(path in self.synthetic_paths)
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": dsetid, "synthetic": synthetic}

    def show_summary(self) -> None:
        """Print the table torchreid's data sets print, and how many training images are synthetic."""
        print(f"=> Loaded {type(self).__name__} ({len(self.synthetic_paths)} of {len(self.train)} training images synthetic)")
        print(self)


def register(name: str, base: str | type = "market1501", **options: Any) -> None:
    """Make `name` a torchreid data set: `base` with PoseAugmentedDataset's `options` around it.

    `ImageDataManager(sources=name, targets=name)` then trains on both real and synthetic images and tests on `base`.
    `base` is a torchreid name or a data set class. ValueError for a name torchreid already knows.
    """

    def build(verbose: bool = True, **kwargs: Any) -> PoseAugmentedDataset:
        inner = named_dataset(base, verbose=False, **kwargs) if isinstance(base, str) else base(verbose=False, **kwargs)
        return PoseAugmentedDataset(inner, verbose=verbose, **options)

    torchreid_data.register_image_dataset(name, build)


def _warn_of_labels(pids: Sequence[int]) -> None:
    """Warn of training labels that are not 0..N-1: torchreid sizes its classifier by their number, and takes them for columns."""
    labels = sorted(set(pids))
    if wrong := [label for label in labels if not 0 <= label < len(labels)]:
        relabel = "labels = {pid: label for label, pid in enumerate(sorted({row[1] for row in train}))}, then labels[row[1]] in each row"
        warnings.warn(
            f"torchreid needs training labels 0..{len(labels) - 1}, one for each of {len(labels)} people; {len(wrong)} are outside: "
            f"{first_few(wrong)}. Relabel: {relabel}",
            stacklevel=3,
        )


def _sources(base: Any, poses: Poses) -> list[PersonImage]:
    """Collect the training images that may be augmented, with poses: with `combineall`, train holds test images too."""
    tested = {os.fspath(row[0]) for split in (base.query, base.gallery) for row in split}
    people = [p for p in from_torchreid(base) if p.split == "train" and p.pid != JUNK and p.path not in tested]
    people.sort(key=lambda p: p.name)  # torchreid lists folders in the file system's order
    report(people_doubts(people))
    if isinstance(poses, Mapping):
        return attach_poses(people, checked_poses(poses))
    if not Path(poses).exists():
        raise FileNotFoundError(f"no keypoint file at {os.fspath(poses)}")
    return with_keypoints(people, poses, ("train",))


def synthesise(augmenter: Augmenter, people: list[PersonImage], folder: Path, first_pid: int | None = None) -> Manifest:
    """Render `people` in new poses into `folder`, unless they are there already; identities of new people count from `first_pid`."""
    rows = augmenter.plan(people, first_pid=first_pid)
    if not rows:
        raise ValueError("no training image has a pose with both shoulders and both hips: nothing to augment")
    return fill(folder, augmenter, rows, people)


def _folder(augmenter: Augmenter, people: list[PersonImage], cache_dir: str | os.PathLike[str] | None, first_pid: int) -> Path:
    """Name the cache folder of exactly these images: everything that decides a pixel is in its name's digest."""
    cache_dir = Path(cache_dir or cache_folder()).expanduser()
    contents = file_digests([p.path for p in people], remember_in=cache_dir)
    sources = [(p.name, p.pid, p.camid, content, _visible(p)) for p, content in zip(people, contents, strict=True)]
    numbering = [first_pid] if augmenter.draw == RECOMBINED else []
    content = json.dumps([augmenter.made_by, sources, *numbering], sort_keys=True)
    return cache_dir / f"{augmenter.made_by['generator']}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _visible(person: PersonImage) -> str | None:
    """Give a fingerprint of the source's pose, which some generators look at."""
    if person.pose is None:
        return None
    return hashlib.sha256(person.pose.xy.numpy().tobytes() + person.pose.visible.numpy().tobytes()).hexdigest()[:16]
