"""One person through a sequence of poses: somebody else's moves, frame by frame (Suresh & Sonarkar 2019, §1: copied from a dancer)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from generators import Generator, Pose, pose_picture, replacing, rescale
from reid_aug import images
from reid_aug.data.keypoints import Keypoints, read_keypoints
from reid_aug.data.left_out import LeftOut, warn_of
from reid_aug.data.people import PersonImage, keys_of
from reid_aug.synthesis.augmenter import refuse_other_shape, render

GROUND, GAP = (32, 32, 32), 4
COLUMNS = 12  # frames side by side on a strip
KINDS = "a folder, a .gif or a .png"


def source_of(path: Path, keypoints: Path) -> PersonImage:
    """Return the image with its pose, which a keypoint file of images of its size has; ValueError where it has none."""
    person = PersonImage(str(path), 0, 0, "query")
    known = read_keypoints(keypoints, size=images.size_of(path))
    name = keys_of([person], known).get(person.path)
    if name is None:
        raise ValueError(f"{keypoints} has no pose of {path.name}: give a keypoint file that has one with --source-poses FILE")
    if not bool(known[name].visible.any()):
        raise ValueError(f"{keypoints} has no joint of {path.name} that is seen")
    return replace(person, pose=known[name])


def moves_of(keypoints: Path, size: tuple[int, int], *, only: str = "", every: int = 1) -> Keypoints:
    """Read a sequence of poses of images of `size` (H, W), in the file's order: every so manieth row whose name begins with `only`.

    Rows without a joint are left out, which a line says. ValueError when none is left, or most are no bodies in images of that size.
    """
    try:
        known = read_keypoints(keypoints, size=size)
    except ValueError as error:
        raise ValueError(f"{error}; --size H W says which size the poses' images have, taken for {size[0]} {size[1]}") from None
    rows = [i for i, name in enumerate(known.names) if name.startswith(only)][::every]
    seen = known.pose.visible.any(-1)
    empty = [known.names[i] for i in rows if not seen[i]]
    rows = [i for i in rows if seen[i]]
    if not rows:
        raise ValueError(f"{keypoints}: none of {len(known)} rows has a name that begins with {only!r} and a joint that is seen")
    left_out = [LeftOut(name, "without a joint that is seen") for name in empty]
    warn_of(f"{len(empty)} of {len(empty) + len(rows)} poses are left out", left_out)
    return Keypoints(tuple(known.names[i] for i in rows), known.pose[torch.tensor(rows)])


def fitted(moves: Pose, body: Pose) -> Pose:
    """Bring moves (N, K, 2) to the place and size of a body (K, 2) by one shift and one factor, both of one size and skeleton.

    The factor is the median over frames of how far apart the joints lie that both show, the shift that of their means. A joint that
    leaves the image is not visible. ValueError where no frame shares two joints with the body.

    >>> from generators import upper_7
    >>> body = Pose(torch.arange(14.0).view(7, 2), torch.ones(7, dtype=torch.bool), upper_7, (32, 32))
    >>> torch.allclose(fitted(replace(body, xy=body.xy / 2 + 5)[None], body).xy[0], body.xy)
    True
    """
    both = (moves.visible & body.visible)[..., None]  # (N, K, 1)
    count = both.sum(1, keepdim=True)
    means = [(pose.xy * both).sum(1, keepdim=True) / count.clamp(min=1) for pose in (moves, body)]  # (N, 1, 2)
    spreads = [((pose.xy - mean).square() * both).sum((1, 2)).sqrt() for pose, mean in zip((moves, body), means, strict=True)]
    usable = (count.flatten() > 1) & (spreads[0] > 0) & (spreads[1] > 0)
    if not bool(usable.any()):
        raise ValueError("moves can't be fitted to the source: no frame shares two joints with it")
    factor = (spreads[1] / spreads[0])[usable].median()
    shift = (means[1] - factor * means[0])[usable, 0].median(0).values
    xy = factor * moves.xy + shift
    edge = torch.tensor([moves.size[1], moves.size[0]], dtype=xy.dtype) - 0.5
    return replace(moves, xy=xy, visible=moves.visible & ((xy >= -0.5) & (xy < edge)).all(-1))


@torch.inference_mode()
def retarget(
    model: Generator, source: PersonImage, moves: Pose, *, fit: bool = False, device: torch.device | str = "cpu", batch_size: int = 64
) -> tuple[np.ndarray, Pose]:
    """Render the source's person in every pose of `moves` (N, K, 2): frames uint8 (N, H, W, 3), and the poses at their size.

    `fit` brings the moves to the source's body first. ValueError where image or poses are of quite another shape than the generator's.
    """
    assert source.pose is not None
    size = (int(model.size[0]), int(model.size[1]))
    refuse_other_shape(model, [source.pose.size], "the source is")
    refuse_other_shape(model, [moves.size], "the poses' images are")
    model.to(device).eval()
    body, moves = rescale(source.pose, size), rescale(moves, size)
    if fit:
        moves = fitted(moves, body)
    pixels = images.to_float(images.read_many([source.path], size, progress=False).to(device))
    frames = []
    for start in range(0, len(moves), batch_size):
        part = moves[start : start + batch_size]
        bodies = replace(body, xy=body.xy.expand(len(part), -1, -1), visible=body.visible.expand(len(part), -1))
        frames.append(images.to_uint8(render(model, pixels.expand(len(part), -1, -1, -1), bodies, part)).cpu())
    return torch.cat(frames).permute(0, 2, 3, 1).numpy(), moves


def refuse_out(out: Path) -> None:
    """Raise ValueError for a file of another kind, FileExistsError for a file, or a folder with something in it, that is there."""
    if out.suffix.lower() not in (".gif", ".png", ""):
        raise ValueError(f"--out is {KINDS}, got {str(out)!r}")
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise FileExistsError(f"{out} is there{' and not empty' if out.is_dir() else ''}: name another one with --out, or remove it")


def write_frames(
    out: Path, source: PersonImage, frames: np.ndarray, poses: Pose, names: Sequence[str], *, fps: float = 10.0, scale: int = 1
) -> None:
    """Write a folder of PNGs, an animated .gif, or a .png of all frames below their skeletons, `scale` times as large as rendered.

    In a .gif and a .png the source comes first.
    """
    refuse_out(out)
    height, width = frames.shape[1] * scale, frames.shape[2] * scale
    pictures = [Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS) for frame in frames]
    if out.suffix == "":
        for i, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            images.write(np.asarray(picture), out / f"{i:05d}_{Path(name).stem}.png")
        return
    first = Image.fromarray(images.read(source.path)).resize((width, height), Image.Resampling.LANCZOS)
    skeletons = [pose_picture(poses[i], scale=scale) for i in range(len(poses))]
    if out.suffix.lower() == ".png":
        with replacing(out) as temporary:
            _strip(first, skeletons, pictures).save(temporary, "PNG", optimize=True)
        return
    shown = [_beside(first, skeleton, picture) for skeleton, picture in zip(skeletons, pictures, strict=True)]
    with replacing(out) as temporary:
        shown[0].save(temporary, "GIF", save_all=True, append_images=shown[1:], duration=max(20, round(100 / fps) * 10), loop=0)


def _beside(*pictures: Image.Image) -> Image.Image:
    """Lay pictures of one size side by side."""
    width, height = pictures[0].size
    row = Image.new("RGB", (len(pictures) * (width + GAP) - GAP, height), GROUND)
    for i, picture in enumerate(pictures):
        row.paste(picture, (i * (width + GAP), 0))
    return row


def _strip(source: Image.Image, skeletons: Sequence[Image.Image], pictures: Sequence[Image.Image]) -> Image.Image:
    """Lay out frames below their skeletons in rows, the source at the left of the first."""
    width, height = source.size
    across, down = min(COLUMNS, len(pictures)), -(-len(pictures) // COLUMNS)
    strip = Image.new("RGB", ((across + 1) * (width + GAP) + GAP, down * 2 * (height + GAP) + GAP), GROUND)
    strip.paste(source, (GAP, height + 2 * GAP))
    for i, (skeleton, picture) in enumerate(zip(skeletons, pictures, strict=True)):
        left, top = GAP + (1 + i % COLUMNS) * (width + GAP), GAP + i // COLUMNS * 2 * (height + GAP)
        strip.paste(skeleton, (left, top))
        strip.paste(picture, (left, top + height + GAP))
    return strip
