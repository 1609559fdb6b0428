"""`reid-aug train`: people and a configuration in, a trained generator out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt
from torch import Tensor

from generators import Generator, Perceptual, PosePair, Trained, create, load_perceptual, train
from reid_aug.config import Config
from reid_aug.data.doubts import report
from reid_aug.data.loading import DataConfig, load_people
from reid_aug.data.masks import masks_digest, masks_in_vain
from reid_aug.data.people import PersonImage, people_doubts
from reid_aug.device import torch_device
from reid_aug.digests import file_digests
from reid_aug.images import atomic_write_text
from reid_aug.synthesis.held_out import held_out_batches
from reid_aug.synthesis.training_pairs import JitterConfig, PairStream
from reid_aug.weights import find


class GeneratorConfig(BaseModel):
    """A generator's name and the options its constructor takes; the registry refuses unknown ones."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str = "pg2"  # Name of the generator, one of `generators.names()`.

    @property
    def options(self) -> dict[str, Any]:
        return dict(self.model_extra or {})


class PerceptualConfig(Config):
    """What a paper's VGG terms compare images on."""

    weights: str = "imagenet"  # Weights of the network: a PATH, "imagenet", "lite0", "reid:CHECKPOINT", or "none": such terms are off.


class LearningConfig(Config):
    """How a generator learns: from which pairs, with which weights to compare images on, for how long."""

    generator: GeneratorConfig = GeneratorConfig()  # Generator to train, and its options.
    steps: PositiveInt | None = None  # Number of steps; None is the paper's schedule.
    perceptual: PerceptualConfig = PerceptualConfig()  # Weights that images are compared on; unused by papers without such terms.
    batch_size: PositiveInt = 16  # Number of pairs in a step.
    flip: bool = True  # Whether pairs are mirrored with probability one half.
    jitter: JitterConfig | None = None  # Random changes of a pair, both images alike.
    cross_camera: Literal["any", "prefer"] = "any"  # Whether the target is of another camera where there is one.
    min_gap: Annotated[float, Field(ge=0, lt=1)] = 0.0  # Share of their clip that a pair's frames lie farther apart than.
    any_pose: bool = False  # Whether images without a shoulder or hip are in pairs, too (PG2's text drops none); one joint is needed.
    pairs: str | None = None  # CSV `from,to` of image names whose pairs alone are learnt from; None learns from all there are.
    precision: str = "32-true"  # Lightning Fabric's name of the precision: 32-true, bf16-mixed, 16-mixed.
    save_every_steps: PositiveInt = 1000  # Number of steps between checkpoints.
    sample_every_steps: PositiveInt = 1000  # Number of steps between sample sheets.
    # Teacher of a generator that finds poses itself (MOMI-Net): the keypoint file, as Gaussians, or torchvision's estimator, whose
    # activations it learns from images that need no keypoints.
    teacher: Literal["keypoints", "keypoint-rcnn"] = "keypoints"


class TrainConfig(LearningConfig):
    """Options of `reid-aug train`: which generator, on which people, for how long, to which folder."""

    data: DataConfig  # People to learn from, and their poses.
    out: str  # Folder of checkpoint, curves and sample sheets.
    seed: int = 0  # Seed of everything random.
    accelerator: str = "auto"  # Lightning Fabric's name of the kind of device.
    devices: int | str = 1  # Number of devices, or which.
    compile: bool = False  # Whether torch.compile is used.
    log_every_steps: PositiveInt = 20  # Number of steps between readings of the losses.
    samples: PositiveInt = 8  # Number of pairs on a sample sheet.
    held_out_pairs: NonNegativeInt = 0  # Number of pairs of query and gallery whose losses are measured at every checkpoint.


def train_from(
    config: TrainConfig, people: Sequence[PersonImage] | None = None, teacher: Callable[[Tensor], Tensor] | None = None
) -> Trained:
    """Train what the configuration names on its people; `config.out` holds checkpoint, curves and sample sheets.

    `teacher` is a network of one's own in place of the configuration's: images (B, 3, H, W) in [−1, 1] to heatmaps (B, 17, h, w) of
    any size, peaks of about 1. With a network as teacher pairs are of images with and without poses.
    ValueError where `config.out` holds a training on other images; `people` that are given are the caller's to tell apart.
    """
    torch.manual_seed(config.seed)  # weights are sampled here, before the loop seeds itself
    model = create(config.generator.name, **config.generator.options)
    # Weights that may be missing are looked for before images are read.
    perceptual = _perceptual(model, config.perceptual.weights)
    taught_by = _teach(model, config.teacher, teacher)
    given, people = people is not None, _people(config, model, posed=taught_by is None) if people is None else people
    report([*people_doubts(people), *masks_in_vain(config.data.masks, model)])
    stream = PairStream(
        people, tuple(model.size), config.batch_size, config.seed, flip=config.flip, cross_camera=config.cross_camera,  # type: ignore[arg-type]
        min_gap=config.min_gap, jitter=config.jitter, any_pose=config.any_pose, pairs=config.pairs, device=_where_it_trains(config),
        posed=taught_by is None, silhouettes=model.takes_silhouettes,
    )  # fmt: skip
    if not given:
        refuse_other_images(Path(config.out), people, stream.digest)
    about = {"batch_size": config.batch_size, "flip": config.flip, "cross_camera": config.cross_camera, "people": stream.digest}
    if taught_by is not None:
        about["teacher"] = taught_by
    if config.min_gap:
        about["min_gap"] = config.min_gap
    if config.any_pose:
        about["any_pose"] = True
    if config.pairs is not None:  # which they are is in the digest of people
        about["pairs"] = Path(config.pairs).name
    if (masks := masks_digest(stream.mask_files)) is not None:
        about["masks"] = masks[:16]
    if config.jitter is not None:
        about["jitter"] = config.jitter.model_dump()
    return train(
        model, stream, config.out,
        steps=config.steps, samples=first_pairs(stream, config.samples), held_out=_held_out(config, people, model),
        save_every_steps=config.save_every_steps, sample_every_steps=config.sample_every_steps,
        log_every_steps=config.log_every_steps, seed=config.seed, precision=config.precision,
        accelerator=config.accelerator, devices=config.devices, compile=config.compile,
        perceptual=perceptual, about=about,
    )  # fmt: skip


def _held_out(config: TrainConfig, people: Sequence[PersonImage], model: Generator) -> list[PosePair]:
    """Read the pairs that losses are measured on; none unless they are wanted."""
    if not config.held_out_pairs:
        return []
    size = (int(model.size[0]), int(model.size[1]))
    return held_out_batches(people, size, config.held_out_pairs, config.batch_size, silhouettes=model.takes_silhouettes)


def _where_it_trains(config: TrainConfig) -> torch.device:
    """Name the one GPU that will train, so that batches are put together there; the CPU where it trains, or several devices do."""
    on_a_gpu = config.devices == 1 and config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda" if on_a_gpu else "cpu")


def refuse_other_images(out: Path, people: Sequence[PersonImage], names_and_poses: str) -> None:
    """Raise ValueError where the training in `out` learnt from images of these names and poses, but of other content; note these.

    The checkpoint's header does not know content. Of other names, or of poses, `train` itself says what is otherwise.
    """
    record, trained = out / "images.sha256", any(out.glob("*.safetensors"))
    contents = file_digests([p.path for p in people if p.split == "train"])
    digest = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    if trained and not record.exists():  # from before images were recorded
        return
    known = record.read_text(encoding="utf-8").split() if trained else []
    if known[:1] == [names_and_poses] and known[1:] != [digest]:
        raise ValueError(f"{out} holds a training on other images, though under the same names: give another folder or remove it")
    if not trained:
        atomic_write_text(record, f"{names_and_poses} {digest}\n")


def _people(config: TrainConfig, model: Generator, *, posed: bool) -> list[PersonImage]:
    """Read the people to learn from; FileNotFoundError without keypoints says how a generator that finds poses learns without."""
    try:
        return load_people(config.data, test_poses=config.held_out_pairs > 0, posed=posed)
    except FileNotFoundError as error:
        if not posed or not hasattr(model, "teacher") or "no keypoint file" not in str(error):
            raise
        raise FileNotFoundError(f"{error}, or learn poses from images with teacher=keypoint-rcnn") from None


def _teach(model: Generator, name: str, network: Callable[[Tensor], Tensor] | None = None) -> str | None:
    """Set a network, or the estimator of that name, as the model's teacher; its name, or None where the people's keypoints are.

    ValueError for a generator that learns no poses, FileNotFoundError where the estimator's weights can't be had.
    """
    if name == "keypoints" and network is None:
        return None
    if not hasattr(model, "teacher"):
        which = f"teacher={name}" if network is None else "a teacher"
        raise ValueError(f"{which} is for generators that learn to find poses, as momi does, {type(model).__name__} does not")
    if network is not None:
        model.teacher = network  # type: ignore[assignment]
        return str(getattr(network, "name", type(network).__name__))
    from reid_aug.data.estimators.keypoint_rcnn import KeypointRcnn  # slow to import, and seldom needed here

    try:
        estimate = KeypointRcnn(partial(find, download=True), torch_device("auto"))
    except FileNotFoundError as error:
        raise type(error)(f"{error}, or say teacher=keypoints to learn from a keypoint file") from None

    def heatmaps(images: Tensor) -> Tensor:
        return estimate.heatmaps(((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)).to(images.device)

    model.teacher = heatmaps  # type: ignore[assignment]
    return estimate.name


def check_teacher(generator: GeneratorConfig, teacher: str) -> None:
    """Raise ValueError or FileNotFoundError where a generator can't have this teacher."""
    if teacher != "keypoints":
        _teach(create(generator.name, **generator.options), teacher)


def first_pairs(stream: PairStream, count: int) -> PosePair:
    """Take `count` pairs of the stream's first batches: the same on every sheet."""
    batches, have, step = [], 0, 0
    while have < count:
        batches.append(stream[step])
        have, step = have + len(batches[-1]), step + 1
    return PosePair.cat(batches)[:count]


def check_perceptual(generator: GeneratorConfig, perceptual: PerceptualConfig) -> None:
    """Raise FileNotFoundError or ValueError when the weights that a generator's training would ask for can't be had."""
    _perceptual(create(generator.name, **generator.options), perceptual.weights)


def _perceptual(model: Generator, weights: str) -> str | Perceptual:
    """Return `weights` where nothing is to be loaded, or the network it names; FileNotFoundError says where its weights belong."""
    features = model.features()
    if features is None or weights == "none":
        return weights
    if not weights.startswith("reid:"):
        return load_perceptual(weights, features) or weights
    from reid_aug.baselines.perceptual import load_reid_features  # torchreid is slow to import, and seldom needed here

    return load_reid_features(weights.removeprefix("reid:"), features)
