"""Cutting a person out of one image and laying them into another: all that geometry and colours know, before anything is learnt.

A person's pixels are moved by `generators.skinning`; a matte tells them from the place around them; parts that are hidden in the
source are painted in their mean colour; the place is an image with its person filled in. For a whole batch at once, on its device.
Distances to outlines are in torso lengths; what is smooth is computed at half the image's resolution, (h, w).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from generators import skinning
from generators.maps import fill_holes
from generators.parts import on_device
from generators.pose import Pose, convert, openpose_18, rescale
from generators.warp import look_up

CANDIDATES = 4  # what a pixel may show: the source, moved; the same, limbs from the other side; the part's colour; the place
MARGIN = 0.15  # torso lengths around a body that belong to nobody's place: clothes and hair are wider than limbs
CORE = 0.05  # torso lengths inside of the outline from which on nothing but the body can be
DEPTH, COLOUR = 80.0, 30.0  # how a torso length, and a difference in colour of 1 in [−1, 1], speak for a pixel being the person's
SILHOUETTE = 4.0  # how the logit of a silhouette speaks for a pixel being the person's, in place of the distance to the outline
SURE = 0.5  # of a silhouette, from which on a pixel may be taken for the person's colour
FOUND = 0.2  # of a silhouette, from which on a pixel is nobody's place
WIDE, WIDER = 2 * CORE, 4 * CORE  # torso lengths around the target's limbs that clothes may take; the same where silhouettes tell them
SKIRT = 0.2  # torso lengths around the legs that trousers and skirts may take
FAINT = 1e-3  # weight of a candidate that geometry rules out: a network can still ask for it
_LEGS = tuple(i for i, part in enumerate(skinning.PARTS) if part.endswith(("_knee", "_ankle")))


class Looks(NamedTuple):
    """An image's person and place, apart."""

    shares: Tensor  # (B, 10, h, w) of the body's parts
    near: Tensor  # (B, 1, h, w) distance from the body's outline, in torso lengths
    colours: Tensor  # (B, 10, 3) of the parts
    area: Tensor  # (B, 10) pixels of the parts
    place: Tensor  # (B, 6) mean and deviation of the place, by channel
    person: Tensor  # (B, 6) the same of the person


class Composite(NamedTuple):
    """What geometry knows before anything is learnt."""

    candidates: Tensor  # (B, 4, 3, H, W) in [−1, 1]
    weights: Tensor  # (B, 4, H, W), 1 in sum
    shares: Tensor  # (B, 10, h, w) of the target's parts
    near: Tensor  # (B, 1, h, w) distance from the target's outline, in torso lengths
    trust: Tensor  # (B, 2, h, w) how much the moved candidates show of the part they should
    source: Looks
    place: Tensor  # (B, 6) mean and deviation of the scene's background
    held: tuple[Tensor, Tensor] | None = None  # How far the person covers, (B, 1, H, W), and in which images that is certain, (B, 1, 1, 1).

    def held_to(self, cover: Tensor, which: Tensor) -> Composite:
        """Return the composite in which the person covers this far, in the images picked, whatever is learnt."""
        return self._replace(weights=covering(self.weights, cover, which), held=(cover, which))

    def holding(self, weights: Tensor, free: Tensor) -> tuple[Tensor, Tensor]:
        """Hold what a network says, weights of candidates and how freely it adds to them, to where the person ends, if that is known."""
        if self.held is None:
            return weights, free
        cover, which = self.held
        return covering(weights, cover, which), torch.where(which, free * cover, free)

    @property
    def image(self) -> Tensor:
        """Return the candidates by their weights, (B, 3, H, W): an image for which nothing was learnt."""
        return (self.candidates * self.weights[:, :, None]).sum(1)


def compose(source: Tensor, source_pose: Pose, target_pose: Pose | None, scene: Tensor | None) -> Composite:
    """Move the pixels of `source` (B, 3, H, W) in [−1, 1] to the target's pose, and weigh them and what else may be there.

    The place is that of `scene` (B, 3, H, W), the target's image, or the source's own. Without a target pose people stay in theirs,
    and end where their silhouette does, if it is known.
    """
    with torch.autocast(source.device.type, enabled=False):  # bfloat16 counts pixels by eighths at best
        composite, matte = _compose(source, source_pose, source_pose if target_pose is None else target_pose, scene)
        known = silhouettes(source_pose, source) if target_pose is None else None
        return composite if known is None else composite.held_to(matte, known.which)


def _compose(source: Tensor, source_pose: Pose, target_pose: Pose, scene: Tensor | None) -> tuple[Composite, Tensor]:
    """Return the composite, and how far the source's person covers the source, (B, 1, H, W)."""
    look = looks(source, source_pose)
    own_background = filled(source, look.near, source_pose)
    source_painted = _painted(look.colours, look.shares)
    matte = _matte(source, own_background, source_painted, up(look.near), source_pose)
    cut = torch.cat((matte * source + (1 - matte) * source_painted, matte), 1)
    transforms, moves = skinning.part_transforms(source_pose, target_pose)
    opposite, _ = skinning.part_transforms(source_pose, target_pose, mirrored=True)
    shares, near = body(target_pose, source, moves)
    fine = up(shares)
    moved = [look_up(cut, *skinning.places(fine, t), "border") for t in (transforms, opposite)]
    trust = torch.cat([_trust(look.shares, shares, t) for t in (transforms, opposite)], 1)
    if scene is None:
        background, place = source * (1 - matte) + own_background * matte, look.place
    else:
        background, place = filled(scene, near, target_pose), statistics(F.avg_pool2d(scene, 2), places(near, target_pose))
    candidates = torch.stack((moved[0][:, :3], moved[1][:, :3], _painted(look.colours, shares), background), 1)
    known = silhouettes(source_pose, source)
    wide = WIDE if known is None else torch.where(known.which, WIDER, WIDE)
    weights = _weights(up(near), moved[0][:, 3:], moved[1][:, 3:], up(trust), wide)
    return Composite(candidates, weights, shares, near, trust, look, place), matte


def up(x: Tensor) -> Tensor:
    """Double the resolution of maps (B, C, h, w)."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)


def body(pose: Pose, like: Tensor, moves: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the shares (B, 10, h, w) of a body's parts, and the distance (B, 1, h, w) to the nearest outline, of those that move."""
    outside = skinning.outlines(rescale(replace(pose, silhouette=None), (pose.size[0] // 2, pose.size[1] // 2)))
    shares = skinning.shares(outside, moves)
    if moves is not None:
        outside = outside.masked_fill(~moves[..., None, None], torch.inf)
    return shares.to(like.dtype), outside.amin(1, keepdim=True).clamp(max=2).to(like.dtype)


def looks(image: Tensor, pose: Pose) -> Looks:
    """Tell person and place of images (B, 3, H, W) apart."""
    small, (shares, near) = F.avg_pool2d(image, 2), body(pose, image)
    core = near < -CORE
    if (known := silhouettes(pose, image)) is not None:
        core = core & ((F.avg_pool2d(known.shown, 2) > SURE) | ~known.which)
    cores = (core & (shares > 0.6)).to(image.dtype)  # pixels that are one part's alone
    return Looks(
        shares, near, part_colours(small, cores), cores.sum((2, 3)), statistics(small, places(near, pose)), statistics(small, core)
    )  # fmt: skip


class Silhouettes(NamedTuple):
    """The silhouettes of a batch of images."""

    shown: Tensor  # (B, 1, H, W) in [0, 1]
    which: Tensor  # (B, 1, 1, 1) bool: whose is known


def silhouettes(pose: Pose | None, like: Tensor) -> Silhouettes | None:
    """Return the silhouettes that poses (B, K) have, as images of a type; None where they have none."""
    if pose is None or pose.silhouette is None:
        return None
    shown = pose.silhouette[:, None].to(like.dtype)
    return Silhouettes(shown, shown.amax((2, 3), keepdim=True) > 0)


def places(near: Tensor, pose: Pose | None) -> Tensor:
    """Tell which pixels (B, 1, h, w) show the place: far from the limbs' outline; outside of that and of the silhouette, if known."""
    apart = near > MARGIN
    if (known := silhouettes(pose, near)) is None:
        return apart
    return torch.where(known.which, (F.avg_pool2d(known.shown, 2) < FOUND) & (near > 0), apart)


def filled(image: Tensor, near: Tensor, pose: Pose | None = None) -> Tensor:
    """Fill an image's person in from around it, (B, 3, H, W); `near` (B, 1, h, w) is the distance to the outline of the `pose`."""
    place = places(near, pose).to(image.dtype)
    keep = F.interpolate(place, scale_factor=2.0)
    return image * keep + up(fill_holes(F.avg_pool2d(image, 2), place)) * (1 - keep)


def _painted(colours: Tensor, shares: Tensor) -> Tensor:
    """Paint every part, of shares (B, 10, h, w), in its colour (B, 10, 3): (B, 3, 2 h, 2 w)."""
    return up((colours.mT @ shares.flatten(2)).unflatten(2, shares.shape[2:]))


def _matte(source: Tensor, background: Tensor, painted: Tensor, near: Tensor, pose: Pose) -> Tensor:
    """Tell what of the source is person, (B, 1, H, W): deep inside of the outline all, at the outline what looks like the part.

    `background` is the source's with its person filled in, `painted` each part in its mean colour, `near` the distance to the outline,
    in place of which a silhouette speaks where it is known.
    """
    closer = (source - background).abs().mean(1, keepdim=True) - (source - painted).abs().mean(1, keepdim=True)
    matte = torch.sigmoid(DEPTH * -near + COLOUR * closer)
    if (known := silhouettes(pose, source)) is None:
        return matte
    return torch.where(known.which, torch.sigmoid(SILHOUETTE * known.shown.logit(1e-3) + COLOUR * closer), matte)


def _weights(near: Tensor, matte: Tensor, opposite_matte: Tensor, trust: Tensor, wide: Tensor | float) -> Tensor:
    """Weigh the candidates (B, 4, H, W) by what is person in the source, and by how deep in the target's outline a pixel lies."""
    wide, core = torch.sigmoid(DEPTH * (wide - near)), torch.sigmoid(2 * DEPTH * (-CORE - near))
    person = torch.maximum(matte * wide, core)
    first, second = trust.split(1, 1)
    second = (1 - first) * second * opposite_matte
    weights = torch.cat((person * first, person * second, person * (1 - first - second), 1 - person), 1)
    return (weights + FAINT) / (1 + CANDIDATES * FAINT)


def covering(weights: Tensor, cover: Tensor, which: Tensor) -> Tensor:
    """Return weights of candidates (B, 4, H, W) in which the person's come to `cover` (B, 1, H, W), in the images that `which` picks.

    >>> covering(torch.tensor([0.1, 0.1, 0.2, 0.6]).view(1, 4, 1, 1), torch.tensor([[[[0.8]]]]), torch.tensor(True)).flatten()
    tensor([0.2000, 0.2000, 0.4000, 0.2000])
    """
    person = weights[:, :-1]
    held = torch.cat((person / person.sum(1, keepdim=True).clamp(min=1e-6) * cover, 1 - cover), 1)
    return torch.where(which, held, weights)


def _trust(source_shares: Tensor, shares: Tensor, transforms: Tensor) -> Tensor:
    """Tell how far what is found in the source is of the part wanted there, (B, 1, h, w) of 0 to 1, at half resolution."""
    found = look_up(source_shares, *skinning.places(shares, skinning.at_half(transforms)), "border")
    alike = torch.minimum(found, shares).sum(1, keepdim=True)
    return (3 * alike - 0.2).clamp(0, 1)


def with_legs(image: Tensor, other: Tensor, pose: Pose) -> Tensor:
    """Put the legs of `other` on the person of `image`, both (B, 3, H, W) and in the same pose (B, K): (B, 3, H, W).

    Thighs, shins and what is worn on them, up to 0.2 torso lengths around; where none are seen, `image` stays as it is.
    """
    with torch.autocast(image.device.type, enabled=False):
        pose = convert(pose, openpose_18)
        outside = skinning.outlines(rescale(replace(pose, silhouette=None), (pose.size[0] // 2, pose.size[1] // 2)))
        parts = on_device(_LEGS, outside.device)
        near = outside.index_select(1, parts).amin(1, keepdim=True)
        legs = skinning.shares(outside).index_select(1, parts).sum(1, keepdim=True) * torch.sigmoid(DEPTH * (SKIRT - near))
        return image + up(legs.to(image.dtype)) * (other - image)


def part_colours(image: Tensor, weight: Tensor) -> Tensor:
    """Average an image (B, 3, H, W) over weights (B, 10, H, W): (B, 10, 3); a part without weight has the whole body's colour."""
    flat, weight = image.flatten(2).mT, weight.flatten(2).to(image.dtype)  # (B, H·W, 3), (B, 10, H·W)
    total, area = weight @ flat, weight.sum(-1, keepdim=True)
    whole = total.sum(1, keepdim=True) / area.sum(1, keepdim=True).clamp(min=1e-6)
    return (total + whole) / (area + 1)


def colour_error(colours: Tensor, others: Tensor, area: Tensor) -> Tensor:
    """Average the difference of part colours (B, 10, 3), parts weighing as much as they cover, `area (B, 10)`."""
    weight = area / area.sum(1, keepdim=True).clamp(min=1e-6)
    return ((colours - others).abs().mean(-1) * weight).sum(1).mean()


def statistics(image: Tensor, where: Tensor) -> Tensor:
    """Return mean and deviation (B, 6) of an image over a mask (B, 1, h, w) bool, by channel."""
    mask = where.to(image.dtype)
    area = mask.sum((2, 3)).clamp(min=1)
    mean = (image * mask).sum((2, 3)) / area
    deviation = ((image.square() * mask).sum((2, 3)) / area - mean.square()).clamp(min=1e-4).sqrt()
    return torch.cat((mean, deviation), 1)
