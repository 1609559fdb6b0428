"""Poses as images, and images at joints: heatmaps, limb masks, body masks, patches. Pure functions, batched, on the pose's device.

Every map has the pose's `size`, a leading batch shape `*B`, and zeros where a joint it needs is missing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.pose import Pose, Skeleton

# The 23 lines PG2's released code joins on openpose_18 (convert_market.py; Deformable GAN's metrics use the same).
BODY_EDGES_18: tuple[tuple[int, int], ...] = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17),
)  # fmt: skip


def _axes(pose: Pose) -> tuple[Tensor, Tensor]:
    """Return pixel centres as (H, 1) rows and (1, W) columns, in the pose's dtype and on its device."""
    h, w = pose.size
    make = {"dtype": pose.xy.dtype, "device": pose.xy.device}
    return torch.arange(h, **make)[:, None], torch.arange(w, **make)[None, :]


def gaussian_maps(pose: Pose, sigma_px: float = 6.0) -> Tensor:
    """Rasterise joints as heatmaps (*B, K, H, W) exp(−d²/2σ²), 1 at the joint; zeros for a missing one (Siarohin et al. 2018).

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> gaussian_maps(head, sigma_px=1.0)[0]
    tensor([[0.3679, 0.6065, 0.3679],
            [0.6065, 1.0000, 0.6065],
            [0.3679, 0.6065, 0.3679]])
    """
    rows, columns = _axes(pose)
    x, y = pose.xy[..., 0, None], pose.xy[..., 1, None]
    # A Gaussian is the product of its profiles: H + W exponentials a joint, not H · W.
    down = torch.exp(-((rows.squeeze(1) - y) ** 2) / (2 * sigma_px**2))
    across = torch.exp(-((columns.squeeze(0) - x) ** 2) / (2 * sigma_px**2))
    return down[..., :, None] * across[..., None, :] * pose.visible[..., None, None]


def disc_maps(pose: Pose, radius_px: float = 4.0) -> Tensor:
    """Rasterise joints as heatmaps (*B, K, H, W), 1 within `radius_px` of the joint and 0 elsewhere (Ma et al. 2017, §3.1).

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> disc_maps(head, radius_px=1.0)[0]
    tensor([[0., 1., 0.],
            [1., 1., 1.],
            [0., 1., 0.]])
    """
    rows, columns = _axes(pose)
    x, y = pose.xy[..., 0, None, None], pose.xy[..., 1, None, None]
    inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius_px**2
    return (inside & pose.visible[..., None, None]).to(pose.xy.dtype)


def edge_distances(pose: Pose, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Return the distance in pixels (*B, E, H, W) to each edge's segment; +inf where one of its joints is missing.

    >>> from generators.pose import upper_7
    >>> pose = Pose(torch.tensor([[0.0, 0], [2, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]), torch.arange(7) < 2, upper_7, (2, 4))
    >>> edge_distances(pose, edges=[(0, 1)])
    tensor([[[0.0000, 0.0000, 0.0000, 1.0000],
             [1.0000, 1.0000, 1.0000, 1.4142]]])
    """
    rows, columns = _axes(pose)
    start, end = (torch.as_tensor(side, device=pose.xy.device) for side in zip(*edges, strict=True))
    a, b = pose.xy.index_select(-2, start), pose.xy.index_select(-2, end)
    seen = pose.visible.index_select(-1, start) & pose.visible.index_select(-1, end)
    ax, ay = a[..., 0, None, None], a[..., 1, None, None]
    dx, dy = (b - a)[..., 0, None, None], (b - a)[..., 1, None, None]
    length2 = (dx**2 + dy**2).clamp(min=1e-12)  # both joints on one point: the segment is that point
    along = (((columns - ax) * dx + (rows - ay) * dy) / length2).clamp(0, 1)
    distance = torch.hypot(columns - ax - along * dx, rows - ay - along * dy)
    return distance.masked_fill(~seen[..., None, None], torch.inf)


def joint_distances(pose: Pose) -> Tensor:
    """Return the distance in pixels (*B, K, H, W) to each joint; +inf for a missing one.

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> joint_distances(head)[0]
    tensor([[1.4142, 1.0000, 1.4142],
            [1.0000, 0.0000, 1.0000],
            [1.4142, 1.0000, 1.4142]])
    """
    rows, columns = _axes(pose)
    distance = torch.hypot(columns - pose.xy[..., 0, None, None], rows - pose.xy[..., 1, None, None])
    return distance.masked_fill(~pose.visible[..., None, None], torch.inf)


def body_mask(
    pose: Pose, radius_px: float = 4.0, edges: Sequence[tuple[int, int]] | None = None, closing_px: int = 5
) -> Tensor:
    """Rasterise where the person is, (*B, 1, H, W) of 0 and 1: joints and edges grown by `radius_px`, then closed (Ma et al. 2017, §3.1).

    `edges` default to the 23 of PG2's code on openpose_18 and to the skeleton's own elsewhere; `closing_px` is the
    side of the square of the closing (dilation, then erosion; the frame's outside counts as neither).

    >>> from generators.pose import upper_7
    >>> pose = Pose(torch.tensor([[0.0, 0], [2, 0], [0, 0], [0, 0], [0, 0], [0, 0], [0, 0]]), torch.arange(7) < 2, upper_7, (2, 4))
    >>> body_mask(pose, radius_px=0.5, edges=[(0, 1)], closing_px=1)
    tensor([[[1., 1., 1., 0.],
             [0., 0., 0., 0.]]])
    """
    if edges is None:
        edges = BODY_EDGES_18 if pose.skeleton.name == "openpose_18" else pose.skeleton.edges
    distance = torch.minimum(edge_distances(pose, edges).amin(-3), joint_distances(pose).amin(-3))
    return close((distance <= radius_px).to(pose.xy.dtype)[..., None, :, :], closing_px)


def without_person(image: Tensor, pose: Pose) -> Tensor:
    """Paint an image's person grey (0 in [−1, 1]): the body mask, grown by a tenth of the height to be sure of hair and clothes.

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> without_person(torch.ones(1, 1, 3, 3), head[None])
    tensor([[[[1., 1., 1.],
              [1., 0., 1.],
              [1., 1., 1.]]]])
    """
    mask = body_mask(pose, radius_px=pose.size[0] / 10, closing_px=1).to(image.dtype)
    return image * (1 - mask)


def close(mask: Tensor, side_px: int) -> Tensor:
    """Close masks (*B, 1, H, W) of 0 and 1 by a square of an odd side: dilation, then erosion.

    >>> close(torch.tensor([[[1.0, 0.0, 1.0, 0.0, 0.0, 0.0]]]), side_px=3)
    tensor([[[1., 1., 1., 0., 0., 0.]]])
    """
    if side_px % 2 == 0 or side_px < 1:
        raise ValueError(f"a closing's side is an odd number of pixels, got {side_px}")
    flat, pad = mask.reshape(-1, 1, *mask.shape[-2:]), side_px // 2
    grown = F.max_pool2d(flat, side_px, stride=1, padding=pad)  # max_pool pads with −inf, so the frame never adds or takes
    return (-F.max_pool2d(-grown, side_px, stride=1, padding=pad)).reshape(mask.shape)


def fill_holes(image: Tensor, keep: Tensor) -> Tensor:
    """Fill what is not to `keep (B, 1, H, W)`, of 0 to 1, of images (B, C, H, W) from around it: push and pull (Gortler et al. 1996).

    Means are pushed to coarser and coarser grids, each weighted by what is known, and pulled back where nothing is.

    >>> fill_holes(torch.tensor([[[[1.0, 9.0, 5.0, 5.0]]]]), keep=torch.tensor([[[[1.0, 0.0, 1.0, 1.0]]]]))[0, 0, 0, [0, 2, 3]]
    tensor([1., 5., 5.])
    """
    levels = [(image * keep, keep)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False) for x in levels[-1]))  # type: ignore[arg-type]
    known, weight = levels.pop()
    filled = known / weight.clamp(min=1e-6)
    for known, weight in reversed(levels):
        coarse = F.interpolate(filled, size=known.shape[-2:], mode="bilinear", align_corners=False)
        filled = known + coarse * (1 - weight)
    return filled


def limb_masks(pose: Pose, radius_px: float = 4.0) -> Tensor:
    """Rasterise every limb of the skeleton, (*B, L, H, W) of 0 and 1: the convex hull of its joints grown by `radius_px`.

    A limb of two joints needs both; a larger one is made of the joints that are seen, and is empty under two.

    >>> from generators.pose import upper_7
    >>> xy = torch.tensor([[0.0, 0], [0, 1], [0, 0], [3, 1], [0, 0], [0, 0], [0, 0]])
    >>> lower_arm = torch.tensor([joint in ("r_wrist", "r_elbow") for joint in upper_7.joints])
    >>> limb_masks(Pose(xy, lower_arm, upper_7, (2, 5)), radius_px=0.5)[0]
    tensor([[0., 0., 0., 0., 0.],
            [1., 1., 1., 1., 0.]])
    """
    return torch.stack([_limb_mask(pose, limb, radius_px) for limb in pose.skeleton.limbs], dim=-3)


def _limb_mask(pose: Pose, limb: tuple[int, ...], radius_px: float) -> Tensor:
    near = (edge_distances(pose, tuple(combinations(limb, 2))) <= radius_px).any(-3)
    for triple in combinations(limb, 3):  # a convex hull is the union of the triangles of its points
        near |= _triangle(pose, triple)
    return near.to(pose.xy.dtype)


def _triangle(pose: Pose, joints: tuple[int, ...]) -> Tensor:
    """Rasterise the triangle of three joints, (*B, H, W) bool, edges included; nothing when one is missing."""
    rows, columns = _axes(pose)
    seen = pose.visible[..., list(joints)].all(-1)
    low, high = (end(pose.xy[..., list(joints), :], dim=-2)[..., None, None] for end in (torch.amin, torch.amax))
    # Three points on a line have it all on no side of theirs, three on one point the whole frame: stay in their box.
    inside = (columns >= low[..., 0, :, :]) & (columns <= high[..., 0, :, :]) & (rows >= low[..., 1, :, :]) & (rows <= high[..., 1, :, :])
    sides = []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = pose.xy[..., joints[i], :, None, None], pose.xy[..., joints[j], :, None, None]
        sides.append((b[..., 0, :, :] - a[..., 0, :, :]) * (rows - a[..., 1, :, :])
                     - (b[..., 1, :, :] - a[..., 1, :, :]) * (columns - a[..., 0, :, :]))  # fmt: skip
    side = torch.stack(sides)
    return ((side >= 0).all(0) | (side <= 0).all(0)) & inside & seen[..., None, None]


def maxima(heatmaps: Tensor, threshold: float, skeleton: Skeleton) -> Pose:
    """Return the pixel each heatmap (B, K, H, W) is largest at, the first of equals; missing where that is not above `threshold`.

    >>> from generators.pose import upper_7
    >>> heatmaps = torch.zeros(1, 7, 2, 4)
    >>> heatmaps[0, 0, 1, 3] = 0.9  # the head's: x = 3, y = 1
    >>> pose = maxima(heatmaps, 0.2, upper_7)
    >>> pose.xy[0, 0], pose.visible[0]
    (tensor([3., 1.]), tensor([ True, False, False, False, False, False, False]))
    """
    flat = heatmaps.flatten(2).to(torch.promote_types(heatmaps.dtype, torch.float32))  # half precision can't count pixels
    at = flat.argmax(-1)
    width = heatmaps.shape[-1]
    xy = torch.stack((at % width, at // width), dim=-1).to(flat.dtype)
    return Pose(xy, flat.amax(-1) > threshold, skeleton, (heatmaps.shape[-2], width))


def in_frame(pose: Pose) -> Tensor:
    """Tell which joints (*B, K) are seen and lie within the frame, border pixels included.

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> in_frame(head)
    tensor([ True, False, False, False, False, False, False])
    """
    x, y = pose.xy.unbind(-1)
    return pose.visible & (x >= 0) & (y >= 0) & (x <= pose.size[1] - 1) & (y <= pose.size[0] - 1)


def joint_patches(image: Tensor, pose: Pose, side_px: float, cells: int) -> Tensor:
    """Cut the square of `side_px` around every joint out of images (B, C, H, W): (B · K, C, cells, cells), 0 beyond the frame.

    A joint that is not `in_frame` gives the square around the corner, for the caller to leave out.

    >>> from generators.pose import upper_7
    >>> head = Pose(torch.ones(7, 2), torch.arange(7) < 1, upper_7, (3, 3))  # the first joint alone, in the middle
    >>> joint_patches(torch.arange(9.0).view(1, 1, 3, 3), head[None], side_px=2.0, cells=2)[0]
    tensor([[[2., 3.],
             [5., 6.]]])
    """
    from torchvision.ops import roi_align  # a second to import that rendering need not spend

    image = image.to(torch.promote_types(image.dtype, torch.float32))  # half precision has no half pixels at 100
    centre = torch.where(in_frame(pose)[..., None], pose.xy, 0).flatten(0, 1).to(image.dtype) + 0.5  # pixel i covers [i, i + 1]
    row = torch.arange(len(image), device=image.device).repeat_interleave(len(pose.skeleton))
    boxes = torch.cat((row[:, None].to(image.dtype), centre - side_px / 2, centre + side_px / 2), dim=1)
    return roi_align(image, boxes, cells, sampling_ratio=max(1, math.ceil(side_px / cells)), aligned=True)


def limb_prior(first: Tensor, second: Tensor, seen: Tensor, size: tuple[int, int], sigma_px: Tensor, shortest_px2: float) -> Tensor:
    """Rasterise where limbs are likely to be, (*B, 1 + L, H, W) in [0, 1], the background first (Balakrishnan et al. 2018).

    A limb from `first` to `second` (*B, L, 2) is a Gaussian around its middle, divided by its maximum over the image; its
    variance is `sigma_px (L)` squared across and length² / 1.5 along, at least `shortest_px2`; zeros where not `seen`
    (*B, L). The background is 1 less the largest of the limbs.

    >>> first, second = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 1.0]])
    >>> limb_prior(first, second, torch.tensor([True]), (3, 3), sigma_px=torch.tensor([1.0]), shortest_px2=0.1)[1]
    tensor([[0.5028, 0.6065, 0.5028],
            [0.8290, 1.0000, 0.8290],
            [0.5028, 0.6065, 0.5028]])
    """
    make = {"dtype": first.dtype, "device": first.device}
    y, x = torch.arange(size[0], **make)[:, None], torch.arange(size[1], **make)[None, :]
    line = second - first
    length2 = line.square().sum(-1, keepdim=True)
    unit = line / torch.where(length2 > 0, length2, 1.0).sqrt()
    (ux, uy), (cx, cy) = (v[..., None, None].unbind(-3) for v in (unit, (first + second) / 2))
    ux = torch.where(length2[..., None] > 0, ux, 1.0)  # a limb without length points anywhere: to the right, say
    along, across = (x - cx) * ux + (y - cy) * uy, (y - cy) * ux - (x - cx) * uy
    variance = (length2 / 1.5).clamp(min=shortest_px2)[..., None]
    bump = torch.exp(-(along.square() / variance + (across / sigma_px[:, None, None]).square()) / 2)
    limbs = bump / (bump.amax((-2, -1), keepdim=True) + 1e-6) * seen[..., None, None]
    return torch.cat((1 - limbs.amax(-3, keepdim=True), limbs), dim=-3)
