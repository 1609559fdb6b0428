"""What image quality is measured on: pairs of people a generator never saw, or the rows of a dump."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from generators import Generator, Pose, PosePair, body_mask, openpose_18, replacing, rescale, sample_sheet
from reid_aug import images
from reid_aug.data.listed_pairs import listed
from reid_aug.data.masks import masks_digest, read_masks, with_silhouettes
from reid_aug.data.pairs import held_out_pairs, pairs_from_keypoints, read_pairs, unpaired
from reid_aug.data.people import PersonImage
from reid_aug.quality.metrics import Batch
from reid_aug.quality.protocols import MaskConfig, PairsConfig
from reid_aug.synthesis.augmenter import refuse_other_shape, render
from reid_aug.synthesis.manifest import SyntheticRow

Pair = tuple[PersonImage, PersonImage]


def pairs_to_measure(
    people: Sequence[PersonImage], settings: PairsConfig, keypoints: Path | None = None, *, posed: bool = True
) -> list[Pair]:
    """Return the pairs image quality is measured on; ValueError says what is missing for that many.

    `keypoints` is the keypoint file of query and gallery, which `order: keypoints` samples from. Images need not be `posed` where a
    generator finds poses itself.
    """
    try:
        return _pairs(people, settings, keypoints, posed)
    except ValueError as error:
        test, without = [p for p in people if p.split != "train"], "a benchmark does without by quality.pairs=0"
        if not test:
            raise ValueError(f"image quality is measured on query and gallery, and the data set has neither ({without})") from error
        if posed and not any(p.pose is not None for p in test):
            raise ValueError(f"image quality needs poses of query and gallery: give data.test_keypoints=FILE ({without})") from error
        raise


def _pairs(people: Sequence[PersonImage], settings: PairsConfig, keypoints: Path | None, posed: bool) -> list[Pair]:
    if settings.file is not None:
        pairs = listed(people, read_pairs(settings.file), settings.file, settings.kind, posed=posed)
        if "count" in settings.model_fields_set and settings.count != len(pairs):
            count = f"{settings.file} lists {len(pairs)} pairs, pairs.count is {settings.count}"
            raise ValueError(f"{count}: give pairs.count={len(pairs)}")
        return pairs
    if settings.order == "keypoints":
        if keypoints is None:
            raise ValueError("pairs.order=keypoints samples from a keypoint file: give data.test_keypoints=FILE, or pairs.order=name")
        names = pairs_from_keypoints(keypoints, settings.count, settings.seed, any_pose=settings.any_pose)
        return listed(people, names, str(keypoints), settings.kind)
    if settings.kind == "unpaired":
        return unpaired(people, settings.count, settings.seed, settings.source_identities, settings.target_identities, posed=posed)
    return held_out_pairs(people, settings.count, settings.seed, any_pose=settings.any_pose, posed=posed)


def content_digest(pairs: Sequence[Pair], scenes: bool = False) -> str:
    """Return sixteen hex digits that change with all that images of these pairs are rendered from: names, poses, sources' bytes.

    With `scenes` it changes with the target images' bytes, too, and always with the silhouettes that people have.
    """
    sha = hashlib.sha256()
    for source, target in pairs:
        for person in (source, target):
            sha.update(repr((person.name, person.pid, person.camid)).encode() + _pose_bytes(person.pose))
    read = {person.path for pair in pairs for person in pair[: 1 + scenes]}
    for path in tqdm(sorted(read), "reading images", delay=2, disable=None, leave=False):
        sha.update(hashlib.sha256(Path(path).read_bytes()).digest())
    if (masks := masks_digest([person.mask for pair in pairs for person in pair])) is not None:
        sha.update(bytes.fromhex(masks))
    return sha.hexdigest()[:16]


def _pose_bytes(pose: Pose | None) -> bytes:
    if pose is None:
        return b""
    return repr((pose.skeleton.name, tuple(pose.size))).encode() + pose.xy.numpy().tobytes() + pose.visible.numpy().tobytes()


def rendered_pairs(
    model: Generator, pairs: Sequence[Pair], mask: MaskConfig, *, jpeg: int | None = None, device: torch.device | None = None,
    batch_size: int = 64, sheet: Path | None = None, keep: Path | None = None, found: bool = False, size: tuple[int, int] | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """Yield a generator's images of pairs, in batches, as `Augmenter` would render them; write a `sheet` of the first eight.

    A generator that takes scenes is given the target images. With `found` it is given images alone, and finds the poses in them.
    `keep` is a folder of the images as they are measured, PNGs or the JPEGs of quality `jpeg`, for estimators elsewhere
    to see the same pixels: images that it holds are not rendered again, so that killed work goes on. Images are measured, and
    shown, at `size` (H, W), to which those of a generator of another size are resized, once, as photographs are; None is its own.
    """
    refuse_other_shape(model, [source.pose.size for source, _ in pairs if source.pose is not None], "these people's are")
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).eval()
    own: tuple[int, int] = tuple(model.size)  # type: ignore[assignment]
    size = own if size is None else size
    for start in range(0, len(pairs), batch_size):
        part = pairs[start : start + batch_size]
        sources, targets = zip(*part, strict=True)
        batch = _pose_pairs(sources, targets, size, model.takes_silhouettes)
        names = [f"{_stem(s)}__{_stem(t)}{'.png' if jpeg is None else '.jpg'}" for s, t in part]
        files = [] if keep is None else [keep / name for name in names]
        sheet_now = sheet if start == 0 else None
        if files and sheet_now is None and all(file.is_file() for file in files):
            generated = images.read_many(files, size, progress=False)
        else:
            inputs = batch if size == own else _pose_pairs(sources, targets, own, model.takes_silhouettes)
            generated = _rendered(model, inputs, batch, device, jpeg, files, sheet_now, found)
        paired = all(s.pid == t.pid for s, t in part)
        yield Batch(
            generated, images.to_uint8(batch.source), images.to_uint8(batch.target) if paired else None, batch.target_pose,
            protocol_mask(batch.target_pose, mask),
            [(s.name, t.name) for s, t in part], [s.pid for s in sources], [s.camid for s in sources], names,
            [t.camid for t in targets] if model.takes_scene else None, silhouettes(targets, size),
        )  # fmt: skip


@torch.inference_mode()
def _rendered(
    model: Generator, inputs: PosePair, batch: PosePair, device: torch.device, jpeg: int | None, files: Sequence[Path], sheet: Path | None,
    found: bool,
) -> Tensor:  # fmt: skip
    """Render `inputs` and return the images as they are measured, uint8 (B, 3, H, W), of the size of `batch`, the same pairs.

    They are written to files, and with `batch` on a sheet, where given. With `found` the poses are the generator's to find.
    """
    source, target = (pixels.to(device, memory_format=torch.channels_last) for pixels in (inputs.source, inputs.target))
    scene = target if model.takes_scene or found else None
    rendered = render(model, source, *((None, None) if found else (inputs.source_pose, inputs.target_pose)), scene)
    pixels = images.resized(images.to_uint8(rendered).cpu(), (batch.source.shape[-2], batch.source.shape[-1]))
    if sheet is not None:
        with replacing(sheet) as temporary:
            sample_sheet(batch[:8], images.to_float(pixels[:8])).save(temporary, "PNG")
    for file, image in zip(files, pixels, strict=False):
        images.write(image.permute(1, 2, 0).numpy(), file, quality=jpeg or 95)
    return pixels if jpeg is None else reencode(pixels, jpeg)


def photographs(
    pairs: Sequence[Pair], size: tuple[int, int], mask: MaskConfig, *, jpeg: int | None = None, batch_size: int = 64
) -> Iterator[Batch]:
    """Yield the photographs of the pairs' sources, one for each pair, as if they had been generated in their own poses."""
    for start in range(0, len(pairs), batch_size):
        sources = [source for source, _ in pairs[start : start + batch_size]]
        pixels = images.read_many([p.path for p in sources], size, progress=False)
        pose = poses_at(sources, size)
        yield Batch(
            pixels if jpeg is None else reencode(pixels, jpeg), pixels, None, pose, protocol_mask(pose, mask),
            [(p.name, p.name) for p in sources], [p.pid for p in sources], [p.camid for p in sources], [Path(p.name).name for p in sources],
        )  # fmt: skip


def dump_batches(
    root: Path, rows: Sequence[SyntheticRow], people: Sequence[PersonImage], size: tuple[int, int], mask: MaskConfig,
    *, jpeg: int | None = None, batch_size: int = 64, in_scene: bool = False, found: bool = False,
) -> Iterator[Batch]:  # fmt: skip
    """Yield a dump's synthetic images in batches; poses and sources are those of `people`, KeyError for a name they lack.

    `in_scene` says whether they were rendered in the target images' places, `found` whether the generator found the poses itself:
    then target images need no keypoints.
    """
    train = {p.name: p for p in people if p.split == "train"}
    for start in range(0, len(rows), batch_size):
        part = rows[start : start + batch_size]
        for row in part:
            for name in (row.source, row.target):
                if name not in train:
                    raise KeyError(f"{root}: the manifest names {name}, which is no training image of the data set")
        sources, targets = [train[row.source] for row in part], [train[row.target] for row in part]
        if not found and (bare := next((t for t in targets if t.pose is None), None)):
            raise ValueError(f"{root}: the target pose {bare.name} has no keypoints")
        generated = _of_size([root / row.path for row in part], size)
        pose = poses_at(targets, size)
        yield Batch(
            generated if jpeg is None else reencode(generated, jpeg),
            images.read_many([s.path for s in sources], size, progress=False), None, pose, protocol_mask(pose, mask),
            [(row.source, row.target) for row in part], [row.pid for row in part], [row.camid for row in part],
            [Path(row.path).name for row in part], [t.camid for t in targets] if in_scene else None, silhouettes(targets, size),
        )  # fmt: skip


def _of_size(paths: Sequence[Path], size: tuple[int, int]) -> Tensor:
    """Read images uint8 (N, 3, H, W) as they are; ValueError for one of another size, which resizing would make another image."""
    pixels = [images.read(path) for path in paths]
    for path, image in zip(paths, pixels, strict=True):
        if image.shape[:2] != size:
            raise ValueError(f"images to measure have one size, {size}: {path} is {image.shape[:2]}")
    return torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)


def protocol_mask(pose: Pose, mask: MaskConfig | None = None) -> Tensor:
    """Return the papers' body mask, bool (B, 1, H, W), in proportion to 128 rows."""
    mask = mask or MaskConfig()
    scale = pose.size[0] / 128
    return body_mask(pose, mask.limb_px * scale, closing_px=2 * round((mask.closing_px - 1) / 2 * scale) + 1).bool()


def silhouettes(people: Sequence[PersonImage], size: tuple[int, int]) -> Tensor | None:
    """Return the silhouettes of people, bool (B, 1, H, W), empty where one has none; None where nobody has one."""
    return read_masks([p.mask for p in people], size)[:, None] > 127 if any(p.mask for p in people) else None


def reencode(pixels: Tensor, quality: int) -> Tensor:
    """Return what a JPEG file of this quality leaves of uint8 images (B, 3, H, W)."""
    files = [images.encode(image, ".jpg", quality=quality) for image in pixels.permute(0, 2, 3, 1).numpy()]
    decoded = [np.array(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    return torch.from_numpy(np.stack(decoded)).permute(0, 3, 1, 2)


def _stem(person: PersonImage) -> str:
    """Return a file name for an image, long enough to tell two images of one name apart."""
    return f"{Path(person.name).stem}-{hashlib.sha256(person.path.encode()).hexdigest()[:6]}"


def _pose_pairs(sources: Sequence[PersonImage], targets: Sequence[PersonImage], size: tuple[int, int], masked: bool) -> PosePair:
    """Read pairs as one batch of `size` (H, W), their poses with the silhouettes that people have where they are to be `masked`."""

    def pixels(people: Sequence[PersonImage]) -> Tensor:
        return images.to_float(images.read_many([p.path for p in people], size, progress=False))

    def poses(people: Sequence[PersonImage]) -> Pose:
        return with_silhouettes(poses_at(people, size), [p.mask if masked else None for p in people])

    pids = torch.tensor([p.pid for p in sources])
    return PosePair(pixels(sources), pixels(targets), poses(sources), poses(targets), pids)


def poses_at(people: Sequence[PersonImage], size: tuple[int, int]) -> Pose:
    """Give the poses (B, K) of people in images of `size`; nothing is visible where an image has none."""
    unknown = Pose.unknown(next((p.pose.skeleton for p in people if p.pose is not None), openpose_18), size)
    return Pose.stack([unknown if p.pose is None else rescale(p.pose, size) for p in people])
