"""Body parts that move rigidly: where each is, and which transform brings it from the source to the target's pose.

The ten of Deformable GAN are torso, head and eight limbs of openpose_18 (Siarohin et al. 2018, §3.1; rectangles as in the
released code), by affine transforms; those of posewarp are the limbs of any skeleton, by similarities (Balakrishnan et al.
2018). For a whole batch at once, in closed form, on the pose's device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generators.maps import limb_prior
from generators.pose import Pose, Skeleton, openpose_18
from generators.warp import fit_affine, fit_similarity, no_point

TORSO = ("r_hip", "l_hip", "l_shoulder", "r_shoulder")
FACE = ("nose", "r_eye", "l_eye", "r_ear", "l_ear")
UPPER = (("r_hip", "r_knee"), ("l_hip", "l_knee"), ("r_shoulder", "r_elbow"), ("l_shoulder", "l_elbow"))
LOWER = (("r_knee", "r_ankle"), ("l_knee", "l_ankle"), ("r_elbow", "r_wrist"), ("l_elbow", "l_wrist"))
LIMBS = (UPPER[0], UPPER[1], LOWER[0], LOWER[1], UPPER[2], UPPER[3], LOWER[2], LOWER[3])
BEFORE, AFTER_UPPER, AFTER_LOWER = 0.1, 0.1, 0.3  # how far a limb's rectangle reaches past its joints, in its own length
HALF_WIDTH, HEAD_HALF_SIDE = 0.2, 0.4  # in torso lengths
_AFTER = tuple(AFTER_LOWER if limb in LOWER else AFTER_UPPER for limb in LIMBS)


def _indices(names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(openpose_18.index(name) for name in names)


_TORSO, _FACE, _HEAD = _indices(TORSO), _indices(FACE), _indices((*FACE, "r_shoulder", "l_shoulder"))
_START, _END = _indices(tuple(a for a, _ in LIMBS)), _indices(tuple(b for _, b in LIMBS))
_OTHER_START, _OTHER_END = (tuple(openpose_18.mirror[j] for j in side) for side in (_START, _END))


_KEPT: dict[tuple[tuple[float, ...], torch.device, torch.dtype], Tensor] = {}


def on_device(numbers: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.int64) -> Tensor:
    """Return numbers as a tensor on a device, made once: copied each time they would make a GPU wait."""
    if torch.compiler.is_compiling():  # a constant of what is compiled
        return torch.tensor(numbers, dtype=dtype, device=device)
    key = (numbers, device, dtype)
    if key not in _KEPT:
        with torch.inference_mode(False):  # what rendering keeps here, learning may need
            _KEPT[key] = torch.tensor(numbers, dtype=dtype, device=device)
    return _KEPT[key]


def joints(values: Tensor, which: tuple[int, ...]) -> Tensor:
    """Pick joints of xy (B, K, 2) or visible (B, K)."""
    return values.index_select(1, on_device(which, values.device))


def body_parts(source: Pose, target: Pose, total: bool = False) -> tuple[Tensor, Tensor]:
    """Return transforms (B, 10, 2, 3), target → source pixels, and the target's part masks (B, 10, H, W) bool.

    A limb missing in the target has an empty mask and a transform that leads nowhere; one missing in the source is taken
    from the mirrored limb, and leads nowhere when that is missing too. `total` fits as scikit-image does.

    >>> pose = Pose.stack([Pose.unknown(openpose_18, (8, 4))])  # nobody is seen: the torso stays in place, over the whole image
    >>> transforms, masks = body_parts(pose, pose)
    >>> transforms[0, 0].tolist(), masks.sum((2, 3)).tolist()
    ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[32, 0, 0, 0, 0, 0, 0, 0, 0, 0]])
    """
    scale, target_scale = torso_length(source), torso_length(target)
    unknown = target.size[0] / 4
    scale, target_scale = (
        torch.where(a > 0, a, torch.where(b > 0, b, unknown)) for a, b in ((scale, target_scale), (target_scale, scale))
    )
    in_target = joints(target.visible, _START) & joints(target.visible, _END)  # (B, 8)
    in_source = joints(source.visible, _START) & joints(source.visible, _END)
    mirrored = joints(source.visible, _OTHER_START) & joints(source.visible, _OTHER_END)
    start = torch.where(in_source[..., None], joints(source.xy, _START), joints(source.xy, _OTHER_START))
    end = torch.where(in_source[..., None], joints(source.xy, _END), joints(source.xy, _OTHER_END))
    both = source.visible & target.visible
    # One fit for all: torso and limbs have four points, the head seven; those that a part lacks weigh nothing.
    points = _points(target.xy, _corners(joints(target.xy, _START), joints(target.xy, _END), HALF_WIDTH * target_scale))
    source_points = _points(source.xy, _corners(start, end, HALF_WIDTH * scale))
    torso, head = F.pad(joints(both, _TORSO).to(scale.dtype), (0, 3)), joints(both, _HEAD).to(scale.dtype)
    fitted, ok = fit_affine(points, source_points, torch.cat((torso[:, None], head[:, None], _four(scale)), dim=1), total)
    face = joints(both, _FACE).any(-1, keepdim=True)
    moves = torch.cat((ok[:, :1], ok[:, 1:2] & face, ok[:, 2:] & in_target & (in_source | mirrored)), dim=1)
    # The torso stays where it can't be fitted, everything else is nowhere.
    otherwise = no_point(fitted).repeat(10, 1, 1)
    otherwise[0, :, 2] = 0
    return torch.where(moves[..., None, None], fitted, otherwise), _masks(target, in_target, target_scale)


def _points(xy: Tensor, corners: Tensor) -> Tensor:
    """Return the points that each part is fitted on, (B, 10, 7, 2)."""
    return torch.cat((F.pad(joints(xy, _TORSO), (0, 0, 0, 3))[:, None], joints(xy, _HEAD)[:, None], F.pad(corners, (0, 0, 0, 3))), dim=1)


def _four(like: Tensor) -> Tensor:
    """Return the limbs' weights (B, 8, 7): 1 for their four corners."""
    return (torch.arange(7, device=like.device) < 4).to(like.dtype).expand(len(like), 8, 7)


def torso_length(pose: Pose) -> Tensor:
    """Return the root mean square (*B) of the two shoulder-hip lengths, of one where only one is seen, 0 where none is.

    >>> pose = Pose.unknown(openpose_18, (128, 64))
    >>> for joint, place in {"r_shoulder": (20.0, 30.0), "r_hip": (23.0, 34.0)}.items():
    ...     pose.xy[openpose_18.index(joint)], pose.visible[openpose_18.index(joint)] = torch.tensor(place), True
    >>> torso_length(pose)
    tensor(5.)
    """
    squares, counts = [], []
    for shoulder, hip in (("r_shoulder", "r_hip"), ("l_shoulder", "l_hip")):
        i, j = openpose_18.index(shoulder), openpose_18.index(hip)
        seen = pose.visible[..., i] & pose.visible[..., j]
        squares.append(((pose.xy[..., i, :] - pose.xy[..., j, :]) ** 2).sum(-1) * seen)
        counts.append(seen.to(pose.xy.dtype))
    return ((squares[0] + squares[1]) / (counts[0] + counts[1]).clamp(min=1)).sqrt()


def _corners(start: Tensor, end: Tensor, half_width: Tensor) -> Tensor:
    """Return the corners (B, 8, 4, 2) of the rectangles around segments (B, 8, 2): all on one point where a segment has no length."""
    along = end - start
    length = along.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()
    across = torch.stack((-along[..., 1], along[..., 0]), dim=-1) / length * half_width[:, None, None]
    after = on_device(_AFTER, along.device, along.dtype)[:, None]
    first, last = start - BEFORE * along, end + after * along
    return torch.stack((first - across, first + across, last + across, last - across), dim=-2)


def _masks(pose: Pose, seen: Tensor, torso: Tensor) -> Tensor:
    """Rasterise the parts (B, 10, H, W) bool, edges included: in each row of pixels, an interval.

    The torso's is everything, and fills the background; the head's a square, the limbs' the rectangles of `_corners`.
    """
    make = {"dtype": pose.xy.dtype, "device": pose.xy.device}
    rows = torch.arange(pose.size[0], **make)
    everywhere = torch.full((len(pose), 1, len(rows)), torch.inf, **make)
    head, limbs = _head(pose, rows, HEAD_HALF_SIDE * torso), _rectangles(pose, rows, seen, HALF_WIDTH * torso)
    low, high = torch.cat((-everywhere, head[0], limbs[0]), dim=1), torch.cat((everywhere, head[1], limbs[1]), dim=1)
    return _intervals(low, high, pose.size[1])


def _head(pose: Pose, rows: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends (B, 1, H) of the square around the middle of what is seen of the face; it has none when nothing is."""
    seen = joints(pose.visible, _FACE)
    middle = joints(pose.xy, _FACE).sum(-2) / seen.sum(-1, keepdim=True).clamp(min=1)  # invisible joints are 0
    inside = ((rows - middle[:, 1:]).abs() <= half[:, None]) & seen.any(-1, keepdim=True)
    x = middle[:, :1]
    return (x - half[:, None]).expand_as(inside)[:, None], torch.where(inside, x + half[:, None], -torch.inf)[:, None]


def _rectangles(pose: Pose, rows: Tensor, seen: Tensor, half: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ends (B, 8, H) of the limbs' rectangles; none where a limb is not `seen (B, 8)` or has no length."""
    start, along = joints(pose.xy, _START), joints(pose.xy, _END) - joints(pose.xy, _START)
    length = along.square().sum(-1, keepdim=True).sqrt()
    ux, uy = (along / length.clamp(min=1e-6)).split(1, dim=-1)  # (B, 8, 1)
    y, after = rows - start[..., 1:], on_device(_AFTER, rows.device, rows.dtype)[:, None]
    side = half[:, None, None].expand_as(length)
    # Along the limb ux·x + uy·y, across it −uy·x + ux·y, both within bounds.
    least, most = torch.stack((-BEFORE * length, -side)), torch.stack(((1 + after) * length, side))
    low, high = _between(torch.stack((ux, -uy)), torch.stack((uy * y, ux * y)), least, most)
    high = torch.where(seen[..., None] & (length > 1e-6), high.amin(0), -torch.inf)
    return low.amax(0) + start[..., :1], high + start[..., :1]


def _between(slope: Tensor, value: Tensor, least: Tensor, most: Tensor) -> tuple[Tensor, Tensor]:
    """Return where least ≤ slope · x + value ≤ most: an interval of x, all of it or none where the slope is 0."""
    flat = slope.abs() < 1e-9
    steep = torch.where(flat, 1.0, slope)
    at_least, at_most = (least - value) / steep, (most - value) / steep
    # On the level, x is free or nowhere: ends that any comparison takes for infinite.
    free = torch.where((value >= least) & (value <= most), torch.inf, -torch.inf)
    return torch.where(flat, -free, torch.minimum(at_least, at_most)), torch.where(flat, free, torch.maximum(at_least, at_most))


def _intervals(low: Tensor, high: Tensor, width: int) -> Tensor:
    """Return masks (…, width) bool of the pixels from `low` to `high` (…), by rows of two tables, a word of eight pixels at a time.

    >>> _intervals(torch.tensor([0.5]), torch.tensor([2.0]), width=4)
    tensor([[False,  True,  True, False]])
    """
    first, last = low.ceil().clamp(0, width).long(), high.floor().clamp(-1, width - 1).long() + 1
    columns, ends = torch.arange(width, device=low.device), torch.arange(width + 1, device=low.device)[:, None]
    from_first, to_last = columns >= ends, columns < ends  # (width + 1, width)
    if width % 8 == 0 and not torch.compiler.is_compiling():  # Inductor of torch 2.11 can't read bools as words
        from_first, to_last = from_first.view(torch.int64), to_last.view(torch.int64)
    words = from_first.index_select(0, first.flatten()).bitwise_and_(to_last.index_select(0, last.flatten()))
    return words.view(torch.bool).view(*low.shape, width)


class Limbs(nn.Module):
    """A skeleton's limbs as matrices (L, K) over its joints: who belongs to one, and the mean at its two ends.

    The first half of a limb's joints is one end, the rest the other: shoulders and hips, head and shoulders.
    """

    members: Tensor
    ends: Tensor

    def __init__(self, skeleton: Skeleton) -> None:
        super().__init__()
        members, ends = torch.zeros(len(skeleton.limbs), len(skeleton)), torch.zeros(2, len(skeleton.limbs), len(skeleton))
        for row, limb in enumerate(skeleton.limbs):
            members[row, list(limb)] = 1
            for end, part in enumerate((limb[: len(limb) // 2], limb[len(limb) // 2 :])):
                ends[end, row, list(part)] = 1 / len(part)
        self.register_buffer("members", members, persistent=False)
        self.register_buffer("ends", ends, persistent=False)

    def seen(self, pose: Pose) -> Tensor:
        """Tell whether all of a limb's joints are visible, (B, L) bool."""
        return (pose.visible[:, None] | (self.members == 0)).all(-1)

    def prior(self, pose: Pose, sigma_px: float, torso_sigma_px: float, shortest_px2: float) -> Tensor:
        """Rasterise where the limbs are likely to be, (B, 1 + L, H, W), by `limb_prior`; those of four joints are the wide ones."""
        # A sum, not a matrix product: autocast would round the coordinates to bfloat16.
        first, second = ((end[..., None].to(pose.xy.dtype) * pose.xy[:, None]).sum(-2) for end in self.ends)
        sigma = torch.where(self.members.sum(-1) == 4, torso_sigma_px, sigma_px).to(pose.xy.dtype)
        return limb_prior(first, second, self.seen(pose), pose.size, sigma, shortest_px2)

    def transforms(self, source_pose: Pose, target_pose: Pose) -> tuple[Tensor, Tensor]:
        """Return similarity transforms (B, L, 2, 3) from target to source pixels, and which limbs have one, (B, L) bool."""
        target, source = target_pose.xy[:, None].expand(-1, len(self.members), -1, -1), source_pose.xy[:, None]
        transform, fits = fit_similarity(target, source.expand_as(target), self.members.expand(target.shape[:-1]))
        return transform, fits & self.seen(source_pose) & self.seen(target_pose)
