"""PoseAugmentedDataset: a torchreid image data set whose training split also shows its people in new poses."""

from __future__ import annotations

import copy
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from generators import Generator, Pose
from generators import load as load_generator
from reid_aug import images
from reid_aug.baselines.neighbours import usable
from reid_aug.baselines.network import FeatureFunction, ReidNetwork, reid_network
from reid_aug.data.doubts import report
from reid_aug.data.epochs import SharedEpoch
from reid_aug.data.keypoints import checked_poses
from reid_aug.data.loading import with_keypoints
from reid_aug.data.masks import mask_digests, masks_in_vain, with_masks
from reid_aug.data.people import JUNK, SPLITS, PersonImage, attach_poses, people_doubts
from reid_aug.data.torchreid_sets import OnlineIndex, four, from_torchreid, joined_rows, named_dataset, torchreid_data, warn_of_labels
from reid_aug.digests import cache_folder, file_digests
from reid_aug.synthesis.augmenter import Augmenter
from reid_aug.synthesis.gates import GateConfig, as_gate, keep, refuse_novelty, score
from reid_aug.synthesis.image_bank import POSES, Bank, ImageBank, bank_size, collect, draws_images, opened
from reid_aug.synthesis.manifest import Manifest, SyntheticRow
from reid_aug.synthesis.online_rows import OnlineRows, refuse_other_mode
from reid_aug.synthesis.store import fill
from reid_aug.synthesis.target_poses import RECOMBINED

Poses = str | os.PathLike[str] | Mapping[str, Pose]


class PoseAugmentedDataset(torchreid_data.ImageDataset):
    """`base`, whose training images are also seen in poses that nobody photographed: as images of their own, or on the fly.

    `generator` is a model or a checkpoint; `poses` a keypoint file of any format that is read, or a mapping from
    image name to Pose; `bank` the target poses, or their file, by default those of the training set, with its images as the scenes
    of a generator that takes scenes; `masks` a folder of silhouettes (`reid-aug poses --masks DIR`), for one that takes silhouettes.
    Without `poses`, a generator that finds poses itself (MOMI-Net) is given images alone, as
    with an ImageBank as `bank`: every training image is a source, and the images of the training set are the targets.
    `base` in query or gallery mode stays as it is. `draw` names how target poses are chosen
    (`synthesis.target_poses.DRAWS`); None is the generator's own way: "compatible" where it moves the source's pixels
    (`near_views`), else "whole". Adding data sets, samplers and worker processes see plain torchreid rows.

    * As images of their own: `per_image` (2) synthetic images of every training image whose pose is known are added to
      `train`. They are rendered once into `cache_dir` (default: the user's cache folder), under a name that changes with
      generator, bank, seed, per_image or source images; the next construction finds them there. draw="recombined" adds new
      people instead, under identities of their own: everybody with the legs of `per_image` others. `gate` (a GateConfig, or
      its keys) leaves images out of `train` by scores that are kept beside the images, so that another gate renders nothing;
      one on identity asks `reid`, a baseline file of the benchmark's that was trained on the real images alone, or a function
      from uint8 images (N, 3, H, W) to features (N, D); `backend` searches for the nearest real images (torch, which auto is,
      faiss-cpu or faiss-gpu). `synthetic_dsetid` gives synthetic rows a data set index of their own
      (for RandomDatasetSampler). `manifest` is of all that was rendered, `synthetic_paths` are those in `train`.
    * On the fly, with `online=True`: `train` keeps its rows, and each time one is asked for it is rendered with probability `p`
      in a fresh pose, in the loader's workers, on the CPU, without files. Which pose is a hash of (seed, epoch, image), the
      same whatever the number of workers; `draw_of(epoch, index)` says it, `render(epoch, index)` shows it again, and
      items say their `epoch`. It moves on with each pass of a loader (`data.epochs.SharedEpoch`), or as `set_epoch` says. Put an
      online data set first among several: torchreid's own data sets don't know how to add it, and it says so.
    """

    def __init__(
        self,
        base: Any,
        *,
        generator: Generator | str | os.PathLike[str],
        poses: Poses | None = None,
        masks: str | os.PathLike[str] | None = None,
        per_image: int | None = None,
        seed: int = 0,
        draw: str | None = None,
        gate: GateConfig | dict[str, Any] | None = None,
        reid: ReidNetwork | FeatureFunction | str | os.PathLike[str] | None = None,
        backend: str = "auto",
        cache_dir: str | os.PathLike[str] | None = None,
        bank: Bank | str | os.PathLike[str] | None = None,
        synthetic_dsetid: int | None = None,
        online: bool = False,
        p: float | None = None,
        device: str = "auto",
        batch_size: int = 64,
        verbose: bool = True,
    ) -> None:
        rows = {split: [four(row, split) for row in getattr(base, split)] for split in SPLITS}
        self.base, self.manifest, self.synthetic_paths = base, None, frozenset[str]()
        self.online: dict[int, OnlineRows] = {}  # What renders the rows of a data set index.
        self.passes: SharedEpoch | None = None  # Counts epochs online.
        files_only = {"per_image": per_image, "gate": gate, "reid": reid, "cache_dir": cache_dir, "synthetic_dsetid": synthetic_dsetid}
        refuse_other_mode(online, files_only, p, device)
        if base.mode == "train":
            warn_of_labels([row[1] for row in rows["train"]])
            gate, backend = as_gate(gate or {}), usable(backend)
            if gate.identity is not None and reid is None:
                raise ValueError("a gate on identity asks a Re-ID network: give reid=, a baseline file or a function of images")
            model = generator if isinstance(generator, Generator) else load_generator(generator)
            if poses is None and not (draws_images(model, None) if bank is None else isinstance(bank, ImageBank)):
                raise ValueError(f"{type(model).__name__} is given poses: name them with poses=, a keypoint file or a mapping to Pose")
            people = _sources(base, poses, masks)
            report(masks_in_vain(masks, model))
            bank = collect(people, model, None if poses is None else POSES) if bank is None else opened(bank, model, people)
            where = "cpu" if online else device
            augmenter = Augmenter(model, bank, 2 if per_image is None else per_image, seed, draw=draw, batch_size=batch_size, device=where)
            if online:
                by_image = OnlineRows(augmenter, people, 0.5 if p is None else p)
                self.online, self.passes = {row[3]: by_image for row in rows["train"]}, SharedEpoch(len(rows["train"]))
                rows["train"] = [(*row[:3], OnlineIndex(row[3])) for row in rows["train"]]
            else:
                rows["train"] = rows["train"] + self._added(
                    augmenter, people, rows["train"], gate, reid, backend, cache_dir, synthetic_dsetid
                )
        super().__init__(
            rows["train"], rows["query"], rows["gallery"],
            transform=base.transform, k_tfm=base.k_tfm, mode=base.mode, combineall=False, verbose=verbose,
        )  # fmt: skip

    def _added(
        self, augmenter: Augmenter, people: list[PersonImage], train: list[tuple[str, int, int, int]], gate: GateConfig, reid: Any,
        backend: str, cache_dir: str | os.PathLike[str] | None, dsetid: int | None,
    ) -> list[tuple[str, int, int, int]]:  # fmt: skip
        """Render synthetic images into the cache, unless they are there, and return the rows of those that the gate keeps."""
        first_pid = max((row[1] for row in train), default=-1) + 1
        self.folder = _folder(augmenter, people, cache_dir, first_pid)
        network = None if gate.identity is None or reid is None else reid_network(reid, bank_size(augmenter.bank), augmenter.device)
        self.manifest = synthesise(augmenter, people, self.folder, first_pid)
        rows_kept = self._gated(gate, network, people, augmenter.bank, backend)
        dsetids = {row[0]: row[3] for row in train}
        by_name = {person.name: person.path for person in people}
        added = [
            (str(self.folder / row.path), row.pid, row.camid, dsetids[by_name[row.source]] if dsetid is None else dsetid)
            for row in rows_kept
        ]  # fmt: skip
        self.synthetic_paths = frozenset(row[0] for row in added)
        return added

    def _gated(
        self, gate: GateConfig, network: ReidNetwork | None, people: list[PersonImage], bank: Bank, backend: str
    ) -> list[SyntheticRow]:
        """Find the rows the gate keeps, once the manifest in the cache has the scores it goes by."""
        assert self.manifest is not None
        refuse_novelty(self.manifest, gate)
        if gate != GateConfig():
            self.manifest = score(self.folder, self.manifest, people, bank, network, backend)
        return [row for row, kept in zip(self.manifest.rows, keep(self.manifest.rows, gate), strict=True) if kept]

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Return {img, pid, camid, impath, dsetid, synthetic}, online the epoch, too; an unreadable file is an error, no endless retry."""
        return self._items([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Return the items of a batch, as DataLoader asks for them: online they are rendered together."""
        if type(self).__getitem__ is not PoseAugmentedDataset.__getitem__:  # a subclass has items of its own
            return [self[index] for index in indices]
        return self._items(indices)

    def _items(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        if self.passes is None:
            return [self._item(i, images.read(self._row(i)[0])) for i in indices]
        rows = [range(len(self.data))[i] for i in indices]  # from the end, too
        epoch = self.passes.of(rows)
        shown = self._shown(epoch, rows)
        return [
            self._item(i, images.read(self._row(i)[0])) | {"epoch": epoch} if (pixels := shown.get(i)) is None
            else self._item(i, pixels) | {"epoch": epoch, "synthetic": 1} for i in rows
        ]  # fmt: skip

    def _item(self, index: int, pixels: np.ndarray) -> dict[str, Any]:
        path, pid, camid, dsetid = self._row(index)
        image = Image.fromarray(pixels)
        if self.transform is not None:
            image = self._transform_image(self.transform, self.k_tfm, image)
        synthetic = int(path in self.synthetic_paths)
        return {"img": image, "pid": pid, "camid": camid, "impath": path, "dsetid": int(dsetid), "synthetic": synthetic}

    def _row(self, index: int) -> tuple[str, int, int, int]:
        return self.data[index]

    # ------------------------------------------------------------------------------------------------------ online

    @property
    def epoch(self) -> int:
        """Return the epoch of the rows that were asked for last; 0 where it is all the same."""
        return 0 if self.passes is None else self.passes.epoch

    def set_epoch(self, epoch: int, *, hold: bool = True) -> None:
        """Say which epoch it is, in workers, too: until the next call, or with `hold=False` (a resumed engine's) it moves on from there."""
        if self.passes is not None:
            self.passes.set(epoch, hold=hold)

    def draw_of(self, epoch: int, index: int) -> SyntheticRow | None:
        """Say in which pose the row `index` is shown at an epoch: source, target and seed; None where it is shown as it is."""
        path, _, _, dsetid = self._row(index)
        return self.online[dsetid].draw(path, epoch) if dsetid in self.online else None

    def render(self, epoch: int, index: int) -> np.ndarray:
        """Render what the row `index` shows at an epoch, before the transform, uint8 (H, W, 3); a pixel may round otherwise in a batch."""
        shown = self._shown(epoch, [index])
        return shown[index] if shown else images.read(self._row(index)[0])

    def _shown(self, epoch: int, indices: Sequence[int]) -> dict[int, np.ndarray]:
        """Render those of the rows that an epoch shows in new poses, uint8 (H, W, 3) by index."""
        drawn = {i: row for i in indices if (row := self.draw_of(epoch, i)) is not None}
        shown: dict[int, np.ndarray] = {}
        for of in set(self.online.values()):  # a sum of data sets has several
            its = [i for i in drawn if self.online[self._row(i)[3]] is of]
            shown |= dict(zip(its, of.render([drawn[i] for i in its]), strict=True))
        return shown

    def __add__(self, other: Any) -> Any:
        """Join training rows as torchreid does, identities, cameras and data set indices of `other` after these; online stays online."""
        others: dict[int, OnlineRows] = getattr(other, "online", {})
        if not self.online and not others:
            return super().__add__(other)
        joined, dsetids = copy.copy(self), self.num_datasets
        joined.online = self.online | {dsetid + dsetids: rows for dsetid, rows in others.items()}
        joined.train = train = joined_rows(self, other, joined.online)
        joined.data = joined.train if self.mode == "train" else self.data
        joined.num_train_pids, joined.num_train_cams = self.get_num_pids(train), self.get_num_cams(train)
        joined.num_datasets = self.get_num_datasets(train)
        joined.synthetic_paths = self.synthetic_paths | getattr(other, "synthetic_paths", frozenset())
        joined.passes = SharedEpoch(len(train), self.epoch)
        return joined

    def show_summary(self) -> None:
        """Print the table torchreid's data sets print, and how many training images are synthetic."""
        what = f"{len(self.synthetic_paths)} of {len(self.train)} training images synthetic"
        if self.online:
            usable = sum(row[0] in self.online[row[3]].usable for row in self.train if row[3] in self.online)
            what = f"{usable} of {len(self.train)} training images rendered anew, with p = {next(iter(self.online.values())).p:g}"
        print(f"=> Loaded {type(self).__name__} ({what})")
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


def _sources(base: Any, poses: Poses | None, masks: str | os.PathLike[str] | None = None) -> list[PersonImage]:
    """Collect the training images that may be augmented, with poses and silhouettes: with `combineall`, train holds test images too."""
    tested = {os.fspath(row[0]) for split in (base.query, base.gallery) for row in split}
    people = [p for p in from_torchreid(base) if p.split == "train" and p.pid != JUNK and p.path not in tested]
    people.sort(key=lambda p: p.name)  # torchreid lists folders in the file system's order
    report(people_doubts(people))
    if poses is None:
        if masks is not None:
            raise ValueError(f"masks={os.fspath(masks)} are silhouettes of images with poses, and none are given: leave them out")
        return people
    if isinstance(poses, Mapping):
        posed = attach_poses(people, checked_poses(poses))
    elif not Path(poses).exists():
        raise FileNotFoundError(f"no keypoint file at {os.fspath(poses)}")
    else:
        posed = with_keypoints(people, poses, ("train",))
    return posed if masks is None else with_masks(posed, masks)


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
    masks = mask_digests(people if augmenter.by_silhouettes else [])
    sources = [
        (p.name, p.pid, p.camid, content, _visible(p), *masks.get(p.path, ())) for p, content in zip(people, contents, strict=True)
    ]  # fmt: skip
    numbering = [first_pid] if augmenter.draw == RECOMBINED else []
    content = json.dumps([augmenter.made_by, sources, *numbering], sort_keys=True)
    return cache_dir / f"{augmenter.made_by['generator']}-{hashlib.sha256(content.encode()).hexdigest()[:16]}"


def _visible(person: PersonImage) -> str | None:
    """Give a fingerprint of the source's pose, which some generators look at."""
    if person.pose is None:
        return None
    return hashlib.sha256(person.pose.xy.numpy().tobytes() + person.pose.visible.numpy().tobytes()).hexdigest()[:16]
