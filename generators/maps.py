"""Poses as images: heatmaps, limb masks, body masks. Pure functions, batched, on the pose's own device.

Every map has the pose's `size`, a leading batch shape `*B`, and zeros where a joint it needs is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional as F

from generators.pose import Pose

# The 23 lines PG2's released code joins on openpose_18 (convert_market.py; Deformable GAN's metrics use the same).
BODY_EDGES_18: tuple[tuple[int, int], ...] = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17), (1, 16), (1, 17), (8, 11), (11, 5), (8, 2), (16, 17),
)  # fmt: skip


def _axes(pose: Pose) -> tuple[Tensor, Tensor]:
    """Pixel centres as (H, 1) rows and (1, W) columns, in the pose's dtype and on its device."""
    h, w = pose.size
    make = {"dtype": pose.xy.dtype, "device": pose.xy.device}
    return torch.arange(h, **make)[:, None], torch.arange(w, **make)[None, :]


def gaussian_maps(pose: Pose, sigma_px: float = 6.0) -> Tensor:
    """Heatmaps (*B, K, H, W) exp(−d²/2σ²), 1 at the joint; zeros for a missing one (Siarohin et al. 2018)."""
    rows, columns = _axes(pose)
    x, y = pose.xy[..., 0, None], pose.xy[..., 1, None]
    # A Gaussian is the product of its profiles: H + W exponentials a joint, not H · W.
    down = torch.exp(-((rows.squeeze(1) - y) ** 2) / (2 * sigma_px**2))
    across = torch.exp(-((columns.squeeze(0) - x) ** 2) / (2 * sigma_px**2))
    return down[..., :, None] * across[..., None, :] * pose.visible[..., None, None]


def disc_maps(pose: Pose, radius_px: float = 4.0) -> Tensor:
    """Heatmaps (*B, K, H, W), 1 within `radius_px` of the joint and 0 elsewhere (Ma et al. 2017, §3.1)."""
    rows, columns = _axes(pose)
    x, y = pose.xy[..., 0, None, None], pose.xy[..., 1, None, None]
    inside = (columns - x) ** 2 + (rows - y) ** 2 <= radius_px**2
    return (inside & pose.visible[..., None, None]).to(pose.xy.dtype)


def edge_distances(pose: Pose, edges: Sequence[tuple[int, int]]) -> Tensor:
    """Distance in pixels (*B, E, H, W) to each edge's segment; +inf where one of its joints is missing."""
    rows, columns = _axes(pose)
    start, end = (torch.as_tensor(side, device=pose.xy.device) for side in zip(*edges, strict=True))
    a, b = pose.xy.index_select(-2, start), pose.xy.index_select(-2, end)
    known = pose.visible.index_select(-1, start) & pose.visible.index_select(-1, end)
    ax, ay = a[..., 0, None, None], a[..., 1, None, None]
    dx, dy = (b - a)[..., 0, None, None], (b - a)[..., 1, None, None]
    length2 = (dx**2 + dy**2).clamp(min=1e-12)  # both joints on one point: the segment is that point
    along = (((columns - ax) * dx + (rows - ay) * dy) / length2).clamp(0, 1)
    distance = torch.hypot(columns - ax - along * dx, rows - ay - along * dy)
    return distance.masked_fill(~known[..., None, None], torch.inf)


def joint_distances(pose: Pose) -> Tensor:
    """Distance in pixels (*B, K, H, W) to each joint; +inf for a missing one."""
    rows, columns = _axes(pose)
    distance = torch.hypot(columns - pose.xy[..., 0, None, None], rows - pose.xy[..., 1, None, None])
    return distance.masked_fill(~pose.visible[..., None, None], torch.inf)


def body_mask(
    pose: Pose, radius_px: float = 4.0, edges: Sequence[tuple[int, int]] | None = None, closing_px: int = 5
) -> Tensor:
    """Where the person is, (*B, 1, H, W) of 0 and 1: joints and edges grown by `radius_px`, then closed (Ma et al. 2017, §3.1).

    `edges` default to the 23 of PG2's code on openpose_18 and to the skeleton's own elsewhere; `closing_px` is the
    side of the square of the closing (dilation, then erosion; the frame's outside counts as neither).
    """
    if edges is None:
        edges = BODY_EDGES_18 if pose.skeleton.name == "openpose_18" else pose.skeleton.edges
    nearest = torch.minimum(edge_distances(pose, edges).amin(-3), joint_distances(pose).amin(-3))
    return close((nearest <= radius_px).to(pose.xy.dtype)[..., None, :, :], closing_px)


def close(mask: Tensor, side_px: int) -> Tensor:
    """Morphological closing of 0/1 masks (*B, 1, H, W) by an odd square: dilation, then erosion."""
    if side_px % 2 == 0 or side_px < 1:
        raise ValueError(f"a closing's side is an odd number of pixels, got {side_px}")
    flat, pad = mask.reshape(-1, 1, *mask.shape[-2:]), side_px // 2
    grown = F.max_pool2d(flat, side_px, stride=1, padding=pad)  # max_pool pads with −inf, so the frame never adds or takes
    return (-F.max_pool2d(-grown, side_px, stride=1, padding=pad)).reshape(mask.shape)


def limb_masks(pose: Pose, radius_px: float = 4.0) -> Tensor:
    """One mask of 0 and 1 per limb of the skeleton, (*B, L, H, W): the convex hull of its joints grown by `radius_px`.

    A limb of two joints needs both; a larger one is made of the joints that are there, and is empty under two.
    """
    return torch.stack([_limb_mask(pose, limb, radius_px) for limb in pose.skeleton.limbs], dim=-3)


def _limb_mask(pose: Pose, limb: tuple[int, ...], radius_px: float) -> Tensor:
    near = (edge_distances(pose, tuple(combinations(limb, 2))) <= radius_px).any(-3)
    for triple in combinations(limb, 3):  # a convex hull is the union of the triangles of its points
        near |= _triangle(pose, triple)
    return near.to(pose.xy.dtype)


def _triangle(pose: Pose, joints: tuple[int, ...]) -> Tensor:
    """Pixels (*B, H, W) bool inside the triangle of three joints, edges included; none when one is missing."""
    rows, columns = _axes(pose)
    known = pose.visible[..., list(joints)].all(-1)
    low, high = (end(pose.xy[..., list(joints), :], dim=-2)[..., None, None] for end in (torch.amin, torch.amax))
    # Three points on a line have it all on no side of theirs, three on one point the whole frame: stay in their box.
    inside = (columns >= low[..., 0, :, :]) & (columns <= high[..., 0, :, :]) & (rows >= low[..., 1, :, :]) & (rows <= high[..., 1, :, :])
    sides = []
    for i, j in ((0, 1), (1, 2), (2, 0)):
        a, b = pose.xy[..., joints[i], :, None, None], pose.xy[..., joints[j], :, None, None]
        sides.append((b[..., 0, :, :] - a[..., 0, :, :]) * (rows - a[..., 1, :, :])
                     - (b[..., 1, :, :] - a[..., 1, :, :]) * (columns - a[..., 0, :, :]))  # fmt: skip
    side = torch.stack(sides)
    return ((side >= 0).all(0) | (side <= 0).all(0)) & inside & known[..., None, None]


def limb_prior(first: Tensor, second: Tensor, seen: Tensor, size: tuple[int, int], sigma_px: Tensor, shortest_px2: float) -> Tensor:
    """Where limbs are likely to be, (*B, 1 + L, H, W) in [0, 1], the background first (Balakrishnan et al. 2018).

    A limb from `first` to `second` (*B, L, 2) is a Gaussian around its middle, divided by its maximum over the image; its
    variance is `sigma_px (L)` squared across and length² / 1.5 along, at least `shortest_px2`; zeros where not `seen`
    (*B, L). The background is 1 less the largest of the limbs.
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
