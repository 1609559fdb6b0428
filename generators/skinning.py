"""A body as ten soft parts: how far each pixel lies outside of each, and one smooth transform per pixel, blended of theirs.

Linear blend skinning turned round (Magnenat-Thalmann et al. 1988): every pixel of the target asks the parts near it where
it comes from in the source. One lookup moves a whole person, without seams between limbs and without ghosts. For a
whole batch at once, in closed form, on the pose's device. The parts are those of `generators.parts`: torso, head, eight limbs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from generators.parts import FACE, LIMBS, TORSO, joints, on_device, torso_length
from generators.pose import Pose, openpose_18
from generators.warp import fit_similarity

PARTS = ("torso", "head", *("_".join(limb) for limb in LIMBS))
TORSO_MARGIN = 0.16  # all lengths are in torso lengths: how far the torso's outline lies outside of shoulders and hips
HEAD_RADIUS, NECK_RADIUS = 0.26, 0.1
LIMB_RADII = (0.22, 0.22, 0.17, 0.17, 0.15, 0.15, 0.13, 0.13)  # thighs, shins, upper arms, forearms; right before left
LIMB_REACH = (0.0, 0.0, 0.22, 0.22, 0.0, 0.0, 0.25, 0.25)  # how far feet and hands reach past ankle and wrist, in the limb's length
FRONT = (1.0, 12.0, 4.0, 4.0, 8.0, 8.0, 6.0, 6.0, 12.0, 12.0)  # what a part weighs where several cover a pixel: limbs lie over the torso
SHARPNESS = 0.03  # distance over which one part's transform gives way to the next one's
STIFFNESS = 0.2  # width below which the torso's fit leans on a similarity: seen from the side, four corners are nearly on a line
_HEAD_WEIGHT = (1.0,) * 5 + (0.5,) * 3  # of the face, and of shoulders and neck, which turn otherwise
_SHORTEST = 4.0  # pixels: a torso shorter than this tells no scale


def _index(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(openpose_18.index(name) for name in names)


_TORSO, _FACE = _index(TORSO), _index(FACE)
_HEAD = _index((*FACE, "r_shoulder", "l_shoulder", "neck"))
_AROUND, _ONWARD = (*_TORSO, _TORSO[0]), (*_TORSO[1:], _TORSO[0], _TORSO[2])  # four sides and a diagonal
_START, _END = _index(tuple(a for a, _ in LIMBS)), _index(tuple(b for _, b in LIMBS))
_OTHER_START, _OTHER_END = (tuple(openpose_18.mirror[j] for j in side) for side in (_START, _END))


def unit_length(pose: Pose, other: Pose | None = None) -> Tensor:
    """Return the torso's length (B) in pixels, in place of a missing one that of the `other` pose, else a quarter of the image's height."""
    length = torso_length(pose)
    if other is not None:
        length = torch.where(length > 0, length, torso_length(other))
    return torch.where(length > 0, length, pose.size[0] / 4).clamp(min=_SHORTEST)


def outlines(pose: Pose) -> Tensor:
    """Return how far each pixel lies outside of each part, (B, 10, H, W) in torso lengths: below 0 inside, +inf for a part not seen.

    The torso is the quadrangle of shoulders and hips with a margin, the head a disc on a neck, a limb the segment between its
    joints with a radius; feet and hands reach further.

    >>> pose = Pose.unknown(openpose_18, (32, 16))
    >>> for joint, place in dict(r_shoulder=(4, 8), l_shoulder=(12, 8), r_hip=(4, 18), l_hip=(12, 18)).items():
    ...     pose.xy[openpose_18.index(joint)], pose.visible[openpose_18.index(joint)] = torch.tensor(place).float(), True
    >>> torso = outlines(pose[None])[0, 0]  # ten pixels long
    >>> torso[12, 8], torso[12, 14].round(decimals=2)
    (tensor(-0.1600), tensor(0.0400))
    """
    unit = unit_length(pose)[:, None, None, None]
    first, last, seen = _segments(pose)
    along = _to_segments(pose, first, last) / unit  # (B, S, H, W)
    along = along.masked_fill(~seen[..., None, None], torch.inf)
    torso = torch.where(_inside_torso(pose), 0.0, along[:, :5].amin(1)) - TORSO_MARGIN
    head = torch.minimum(along[:, 5] - HEAD_RADIUS, along[:, 6] - NECK_RADIUS)
    radii = on_device(LIMB_RADII, along.device, along.dtype)[:, None, None]
    return torch.cat((torso[:, None], head[:, None], along[:, 7:] - radii), 1)


def _segments(pose: Pose) -> tuple[Tensor, Tensor, Tensor]:
    """Return ends (B, 15, 2) twice, and which are seen (B, 15): the torso's sides and a diagonal, head, neck, limbs."""
    xy, seen, neck = pose.xy, pose.visible, openpose_18.index("neck")
    face_seen = joints(seen, _FACE)
    face = (joints(xy, _FACE) * face_seen[..., None]).sum(1) / face_seen.sum(1, keepdim=True).clamp(min=1)
    base = torch.where(seen[:, neck, None], xy[:, neck], face)
    up = face - base
    start, end = joints(xy, _START), joints(xy, _END)
    reach = on_device(LIMB_REACH, xy.device, xy.dtype)[:, None]
    first = (joints(xy, _AROUND), (face - 0.05 * up)[:, None], base[:, None], start)
    last = (joints(xy, _ONWARD), (face + 0.12 * up)[:, None], face[:, None], end + reach * (end - start))
    torso, limbs = (joints(seen, a) & joints(seen, b) for a, b in ((_AROUND, _ONWARD), (_START, _END)))
    return torch.cat(first, 1), torch.cat(last, 1), torch.cat((torso, face_seen.any(1, keepdim=True).expand(-1, 2), limbs), 1)


def _to_segments(pose: Pose, first: Tensor, last: Tensor) -> Tensor:
    """Return the distance in pixels (B, S, H, W) of every pixel to segments with ends (B, S, 2)."""
    (height, width), make = pose.size, {"dtype": pose.xy.dtype, "device": pose.xy.device}
    rows, columns = torch.arange(height, **make)[:, None], torch.arange(width, **make)
    (ax, ay), (dx, dy) = (v[..., None, None].unbind(-3) for v in (first, last - first))
    length2 = (dx * dx + dy * dy).clamp(min=1e-6)
    x, y = columns - ax, rows - ay  # (B, S, 1, W), (B, S, H, 1)
    share = ((x * (dx / length2)) + (y * (dy / length2))).clamp_(0, 1)
    return (x - share * dx).square_().add_((y - share * dy).square_()).sqrt_()


def _inside_torso(pose: Pose) -> Tensor:
    """Tell which pixels lie in the quadrangle of shoulders and hips, (B, H, W) bool; none where one of them is missing."""
    (height, width), make = pose.size, {"dtype": pose.xy.dtype, "device": pose.xy.device}
    rows, columns = torch.arange(height, **make)[:, None], torch.arange(width, **make)
    corner = joints(pose.xy, _TORSO)
    side = corner.roll(-1, 1) - corner
    (x, y), (dx, dy) = (v[..., None, None].unbind(-3) for v in (corner, side))
    turn = dx * (rows - y) - dy * (columns - x)  # (B, 4, H, W)
    return ((turn >= 0).all(1) | (turn <= 0).all(1)) & joints(pose.visible, _TORSO).all(1)[:, None, None]


def part_transforms(source: Pose, target: Pose, mirrored: bool = False) -> tuple[Tensor, Tensor]:
    """Return transforms (B, 10, 2, 3), target → source pixels, and which parts have one, (B, 10) bool.

    Torso and head move by affine maps that lean on a similarity, a limb by the map that takes joints to joints and its width
    by the torsos' ratio. A limb missing in the source is taken from the other side; `mirrored` takes every limb from there.
    """
    unit, target_unit = unit_length(source, target), unit_length(target, source)
    both = (source.visible & target.visible).to(source.xy.dtype)
    torso, torso_fits = _leaning(joints(target.xy, _TORSO), joints(source.xy, _TORSO), joints(both, _TORSO), STIFFNESS * target_unit)
    weight = joints(both, _HEAD) * on_device(_HEAD_WEIGHT, both.device, both.dtype)
    head, head_fits = _leaning(joints(target.xy, _HEAD), joints(source.xy, _HEAD), weight, 2 * STIFFNESS * target_unit)
    limbs, limbs_move = _limbs(source, target, unit / target_unit, target_unit, mirrored)
    head_fits = head_fits & joints(both, _FACE).bool().any(1)
    # Where the torso can't be fitted it stays in place: somebody has to be there.
    stay = torch.eye(2, 3, dtype=torso.dtype, device=torso.device)
    torso = torch.where(torso_fits[:, None, None], torso, stay)
    transforms = torch.cat((torso[:, None], head[:, None], limbs), 1)
    return transforms, torch.cat((torch.ones_like(torso_fits)[:, None], head_fits[:, None], limbs_move), 1)


def _leaning(target: Tensor, source: Tensor, weight: Tensor, stiffness_px: Tensor) -> tuple[Tensor, Tensor]:
    """Fit affine maps (B, 2, 3) to points (B, N, 2), drawn to the best similarity where the points spread less than the stiffness (B)."""
    similarity, fits = fit_similarity(target, source, weight)
    weight = (weight / weight.sum(1, keepdim=True).clamp(min=1e-6))[..., None]
    target_mean, source_mean = (weight * target).sum(1, keepdim=True), (weight * source).sum(1, keepdim=True)
    t, s = target - target_mean, source - source_mean
    # Ridge regression towards the similarity: (st + λ S)(tt + λ 1)⁻¹, with a 2 × 2 inverse in closed form.
    ridge = stiffness_px.square()[:, None, None]
    tt = (t * weight).mT @ t + ridge * torch.eye(2, dtype=t.dtype, device=t.device)
    st = (s * weight).mT @ t + ridge * similarity[..., :2]
    a, b, d = tt[:, 0, 0], tt[:, 0, 1], tt[:, 1, 1]
    inverse = torch.stack((d, -b, -b, a), -1).unflatten(-1, (2, 2)) / (a * d - b * b)[:, None, None]
    linear = st @ inverse
    return torch.cat((linear, source_mean.mT - linear @ target_mean.mT), -1), fits


def _limbs(source: Pose, target: Pose, ratio: Tensor, target_unit: Tensor, mirrored: bool) -> tuple[Tensor, Tensor]:
    """Return the limbs' transforms (B, 8, 2, 3) and which have one: along a limb by its lengths, across it by `ratio (B)`."""
    seen, opposite = (joints(source.visible, a) & joints(source.visible, b) for a, b in ((_START, _END), (_OTHER_START, _OTHER_END)))
    same_side = (seen & ~opposite if mirrored else seen)[..., None]
    start = torch.where(same_side, joints(source.xy, _START), joints(source.xy, _OTHER_START))
    end = torch.where(same_side, joints(source.xy, _END), joints(source.xy, _OTHER_END))
    target_start, target_end = joints(target.xy, _START), joints(target.xy, _END)
    length, target_length = ((b - a).square().sum(-1).clamp(min=1e-9).sqrt() for a, b in ((start, end), (target_start, target_end)))
    along, target_along = (end - start) / length[..., None], (target_end - target_start) / target_length[..., None]
    across, target_across = (torch.stack((-v[..., 1], v[..., 0]), -1) for v in (along, target_along))
    across_scale = ratio[:, None]
    # A limb that points at the camera has no length to speak of: its scale is the body's.
    scale = torch.where(target_length < 0.15 * target_unit[:, None], across_scale, length / target_length)
    scale = torch.minimum(torch.maximum(scale, 0.3 * across_scale), 3 * across_scale)
    linear = scale[..., None, None] * along[..., :, None] * target_along[..., None, :]
    linear = linear + across_scale[..., None, None] * across[..., :, None] * target_across[..., None, :]
    shift = (start + end)[..., None] / 2 - linear @ ((target_start + target_end)[..., None] / 2)
    moves = (seen | opposite) & joints(target.visible, _START) & joints(target.visible, _END)
    return torch.cat((linear, shift), -1), moves


def shares(outside: Tensor, moves: Tensor | None = None) -> Tensor:
    """Return how much each part has of each pixel, (B, 10, H, W), 1 in sum: all to the nearest part, blended where two are as near.

    `outside (B, 10, H, W)` is of `outlines`; a part that does not move, `moves (B, 10)` bool, has nothing. Where nobody is
    seen, the torso has it all.
    """
    front = on_device(FRONT, outside.device, outside.dtype).log()[:, None, None]
    logits = front - (outside.clamp(min=0, max=1e3) / SHARPNESS).square() / 2
    absent = torch.isinf(outside) if moves is None else torch.isinf(outside) | ~moves[..., None, None]
    nobody = absent.all(1, keepdim=True)
    torso = torch.arange(outside.shape[1], device=outside.device)[:, None, None] == 0
    return logits.masked_fill(absent & ~(nobody & torso), -torch.inf).softmax(1)


def places(shares: Tensor, transforms: Tensor) -> tuple[Tensor, Tensor]:
    """Return where each pixel of the target comes from, x and y (B, H, W) in source pixels: by the parts' transforms, blended by shares.

    >>> one = torch.zeros(1, 10, 1, 2)
    >>> one[:, 0] = 1
    >>> x, y = places(one, torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]).expand(1, 10, 2, 3))
    >>> x.tolist(), y.tolist()
    ([[[3.0, 4.0]]], [[[0.0, 0.0]]])
    """
    b, parts, h, w = shares.shape
    blended = transforms.flatten(2).mT.to(shares.dtype) @ shares.flatten(2)  # (B, 6, H · W)
    m = blended.view(b, 6, h, w)
    make = {"dtype": shares.dtype, "device": shares.device}
    rows, columns = torch.arange(h, **make)[:, None], torch.arange(w, **make)
    return m[:, 0] * columns + m[:, 1] * rows + m[:, 2], m[:, 3] * columns + m[:, 4] * rows + m[:, 5]


def at_half(transforms: Tensor) -> Tensor:
    """Return transforms (*B, 2, 3) between images of half the size: pixel i there covers 2 i and 2 i + 1.

    >>> at_half(torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 0.0]]))
    tensor([[1.0000, 0.0000, 1.5000],
            [0.0000, 1.0000, 0.0000]])
    """
    linear, shift = transforms[..., :2], transforms[..., 2:]
    return torch.cat((linear, (shift + 0.5 * linear.sum(-1, keepdim=True) - 0.5) / 2), -1)
