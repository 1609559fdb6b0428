"""Limb transforms, fitted in closed form for a whole batch, and moving images or features by them.

A transform (*B, 2, 3) maps target pixels to source pixels, x right, y down, pixel centres at integers: to render a target
pixel, look where it comes from.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

FAR_PX = 1000.0  # "no point": looks so far outside the source that it finds nothing (Deformable GAN's released code)


def no_point(like: Tensor) -> Tensor:
    """Return the transform (2, 3) that leads nowhere, a shift of 1000 pixels, in the kind of `like`.

    >>> no_point(torch.zeros(1))
    tensor([[   1.,    0., 1000.],
            [   0.,    1., 1000.]])
    """
    # Made where it is used: numbers copied to a GPU would make it wait.
    transform = torch.eye(2, 3, dtype=like.dtype, device=like.device)
    transform[:, 2] = FAR_PX
    return transform


def fit_affine(target: Tensor, source: Tensor, weight: Tensor | None = None, total: bool = False) -> tuple[Tensor, Tensor]:
    """Fit, by least squares, affine transforms (*B, 2, 3) that take points `target (*B, N, 2)` to `source (*B, N, 2)`.

    `weight (*B, N)` 0 leaves a point out. `total` minimises as scikit-image's `estimate_transform("affine")` does: the
    total least squares of normalised points, the same as the ordinary one where a fit is exact. Also returns `ok (*B)`
    bool: False where the points left lie on a line or are fewer than three; the transform there is "no point".

    >>> corners = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    >>> transform, ok = fit_affine(corners, 2 * corners + torch.tensor([3.0, 4.0]))
    >>> transform.round().int(), ok
    (tensor([[2, 0, 3],
            [0, 2, 4]], dtype=torch.int32), tensor(True))
    """
    t, s, w = _double(target, source, weight)
    t_mean, s_mean, t, s = _centred(t, s, w)
    # Normal equations of centred points: A · cov(t, t) = cov(s, t), 2 × 2 both.
    tt, st = (t * w).mT @ t, (s * w).mT @ t
    a, b, d = tt[..., 0, 0], tt[..., 0, 1], tt[..., 1, 1]
    # Relative to the points' spread: 1e-9 is a triangle 10⁻⁴·⁵ as high as it is long.
    ok = a * d - b * b > 1e-9 * (a + d) ** 2
    if total:
        eased = _total_ease(a, b, d, st, (w * s * s).sum((-2, -1)))
        a, d = a - eased, d - eased
    det = torch.where(ok, a * d - b * b, torch.ones_like(a))
    inverse = torch.stack((d, -b, -b, a), dim=-1).unflatten(-1, (2, 2)) / det[..., None, None]
    return _assemble(st @ inverse, t_mean, s_mean, ok, target)


def _total_ease(a: Tensor, b: Tensor, d: Tensor, st: Tensor, ss: Tensor) -> Tensor:
    """Return what total least squares takes off the diagonal of cov(t, t): the least eigenvalue of its normal matrix.

    Of [[S, 0, −x], [0, S, −y], [−x, −y, c]] for points scaled to a mean square distance of 2; the cubic's least root.
    """
    spread = (a + d).clamp(min=1e-300)
    scale = 2 / spread  # both sums of squares become 2 (the count of points cancels)
    a, b, d = a * scale, b * scale, d * scale
    st2 = st.mT @ st * (scale * 2 / ss.clamp(min=1e-300))[..., None, None]
    p, q, r = st2[..., 0, 0], st2[..., 0, 1], st2[..., 1, 1]
    # (2 − λ)((a − λ)(d − λ) − b²) = (d − λ) p − 2 b q + (a − λ) r, as λ³ − 4 λ² + c1 λ − c0 = 0 (a + d = 2)
    det = a * d - b * b
    c1, c0 = 4 + det - p - r, 2 * det - d * p + 2 * b * q - a * r
    third = 4 / 3
    radius = (third**2 - c1 / 3).clamp(min=1e-300).sqrt()  # three real roots: the matrix is symmetric
    cosine = (third**3 - third * c1 / 2 + c0 / 2) / radius**3
    least = third + 2 * radius * torch.cos((torch.acos(cosine.clamp(-1, 1)) + 2 * torch.pi) / 3)
    for _ in range(2):  # arc cosine is coarse near its ends
        value, slope = ((least - 4) * least + c1) * least - c0, (3 * least - 8) * least + c1
        least = least - torch.where(slope.abs() > 1e-12, value / slope, torch.zeros_like(value))
    return least.clamp(min=0) / scale


def fit_similarity(target: Tensor, source: Tensor, weight: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fit similarity transforms (rotation, scale, shift), as `fit_affine` does affine ones; two points are enough.

    `ok` is False where the target points left are fewer than two or all on one point (Umeyama 1991, in the plane).

    >>> transform, ok = fit_similarity(torch.tensor([[0.0, 0.0], [1.0, 0.0]]), torch.tensor([[5.0, 5.0], [5.0, 7.0]]))
    >>> transform.round().int(), ok
    (tensor([[ 0, -2,  5],
            [ 2,  0,  5]], dtype=torch.int32), tensor(True))
    """
    t, s, w = _double(target, source, weight)
    t_mean, s_mean, t, s = _centred(t, s, w)
    spread = (w * t * t).sum((-2, -1))
    ok = spread > 1e-9
    spread = torch.where(ok, spread, torch.ones_like(spread))
    along = (w * t * s).sum((-2, -1)) / spread
    across = (w[..., 0] * (t[..., 0] * s[..., 1] - t[..., 1] * s[..., 0])).sum(-1) / spread
    linear = torch.stack((along, -across, across, along), dim=-1).unflatten(-1, (2, 2))
    return _assemble(linear, t_mean, s_mean, ok, target)


def _double(target: Tensor, source: Tensor, weight: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Widen points and weights (*B, N, 1): fits are a few numbers each, so float64 costs nothing and is exact to 10⁻⁴ pixels."""
    w = torch.ones(target.shape[:-1], device=target.device) if weight is None else weight
    return target.double(), source.double(), w.double()[..., None]


def _centred(t: Tensor, s: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the weighted means (*B, 1, 2) of both sets of points, and the points less their mean."""
    total = w.sum(-2, keepdim=True).clamp(min=1e-12)
    t_mean, s_mean = (t * w).sum(-2, keepdim=True) / total, (s * w).sum(-2, keepdim=True) / total
    return t_mean, s_mean, t - t_mean, s - s_mean


def _assemble(linear: Tensor, t_mean: Tensor, s_mean: Tensor, ok: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Add to the linear part (*B, 2, 2) the shift that takes one mean to the other; "no point" where not `ok`."""
    shift = s_mean.mT - linear @ t_mean.mT  # (*B, 2, 1)
    fitted = torch.cat((linear, shift), dim=-1)
    # A fit of nearly degenerate points may leave every number's range in float32: that is no point either.
    ok = ok & (fitted.abs() < 1e6).all((-2, -1))
    return torch.where(ok[..., None, None], fitted, no_point(fitted)).to(like.dtype), ok


def at_scale(transform: Tensor, scale: float | Tensor) -> Tensor:
    """Return the transform on a feature map `scale` times the image's size: the shift shrinks, the rest stays (Siarohin et al. 2018).

    >>> at_scale(torch.tensor([[1.0, 0.0, 8.0], [0.0, 1.0, -4.0]]), 1 / 4)
    tensor([[ 1.,  0.,  2.],
            [ 0.,  1., -1.]])
    """
    factor = torch.ones_like(transform)
    factor[..., 2] = scale
    return transform * factor


def warp_images(
    image: Tensor, transform: Tensor, padding: str = "zeros", size: tuple[int, int] | None = None, mask: Tensor | None = None
) -> Tensor:
    """Move `image (B, C, H, W)` by `transform (B, 2, 3)`, bilinearly; `padding` outside it: "zeros" or "border".

    The result is of `size` (H', W') or of the image's; `mask (B, H', W')` multiplies it.

    >>> one_to_the_right = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])  # from which the target's pixels come
    >>> warp_images(torch.tensor([[[[1.0, 2.0, 3.0]]]]), one_to_the_right)
    tensor([[[[2., 3., 0.]]]])
    """
    if padding not in ("zeros", "border"):
        raise ValueError(f"warp_images pads with zeros or border, got {padding!r}")
    size = size or (image.shape[-2], image.shape[-1])
    return look_up(image, *_places(transform, size), padding, mask)


def look_up(image: Tensor, x: Tensor, y: Tensor, padding: str = "zeros", mask: Tensor | None = None) -> Tensor:
    """Look pixels of `image (B, C, H, W)` up at places x and y (B, H', W'), bilinearly: (B, C, H', W'), as `warp_images` does.

    >>> look_up(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.tensor([[[0.5, 2.0]]]), torch.tensor([[[0.0, 0.0]]]))
    tensor([[[[1.5000, 3.0000]]]])
    """
    return (_gather if image.device.type == "cpu" else _sample)(image, x, y, padding, mask)


def _places(transform: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return where each pixel of the result looks, x and y (B, H', W') in source pixels."""
    make = {"dtype": transform.dtype, "device": transform.device}
    rows, columns = torch.arange(size[0], **make)[:, None], torch.arange(size[1], **make)[None, :]
    m = transform[..., None, None]  # (B, 2, 3, 1, 1)
    return m[:, 0, 0] * columns + m[:, 0, 1] * rows + m[:, 0, 2], m[:, 1, 0] * columns + m[:, 1, 1] * rows + m[:, 1, 2]


def _sample(image: Tensor, x: Tensor, y: Tensor, padding: str, mask: Tensor | None) -> Tensor:
    """Do `warp_images` on a GPU: by grid_sample, which counts from −1 to 1 between the outer edges of the outermost pixels."""
    sides = zip((x, y), (image.shape[-1], image.shape[-2]), strict=True)
    grid = torch.stack([(places + 0.5) * (2 / side) - 1 for places, side in sides], dim=-1)
    # In the places' own precision: bfloat16 counts pixels by eighths at best.
    moved = F.grid_sample(image.to(grid.dtype), grid, mode="bilinear", padding_mode=padding, align_corners=False)
    return (moved if mask is None else moved * mask[:, None]).to(image.dtype)


def _gather(image: Tensor, x: Tensor, y: Tensor, padding: str, mask: Tensor | None) -> Tensor:
    """Do `warp_images` on a CPU: each result pixel is a weighted bag of four rows of a (pixels, C) table, 6 × grid_sample's speed."""
    b, c, h, w = image.shape
    if padding == "border":
        x, y = x.clamp(0, w - 1), y.clamp(0, h - 1)
    index, weight = _taps(x, y, torch.arange(b, device=image.device).view(b, 1, 1), (h, w))
    if mask is not None:
        weight = weight * mask[..., None]
    moved = _bags(_table(image), index.view(-1, 4), weight.view(-1, 4))
    return moved.view(b, *x.shape[1:], c).permute(0, 3, 1, 2).to(image.dtype)


def _table(image: Tensor) -> Tensor:
    """Return pixels as rows (B · H · W, C): no copy where the image is channels-last."""
    return image.permute(0, 2, 3, 1).reshape(-1, image.shape[1])


def _taps(x: Tensor, y: Tensor, image: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return rows of the table (…, 4) around the places x and y in the images of that number, and their bilinear weights; 0 outside."""
    h, w = size
    # Farther than a pixel outside nothing is found, wherever exactly; keeps the integers in range.
    x, y = x.clamp(-2, w + 1), y.clamp(-2, h + 1)
    left, top = x.detach().floor(), y.detach().floor()
    right, low = x - left, y - top  # shares of the right and the lower neighbour
    index, weight = [], []
    for dy, across in ((0, 1 - low), (1, low)):
        for dx, share in ((0, 1 - right), (1, right)):
            column, row = left + dx, top + dy
            inside = (column >= 0) & (column < w) & (row >= 0) & (row < h)
            index.append((row.clamp(0, h - 1) * w + column.clamp(0, w - 1)).long() + image * (h * w))
            weight.append(across * share * inside)
    return torch.stack(index, dim=-1), torch.stack(weight, dim=-1)


def _bags(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sum four weighted rows each, to (N, C); half precision is widened, as not every kind of bag knows it."""
    wide = table.double() if table.dtype == torch.float64 else table.float()
    return F.embedding_bag(index, wide, mode="sum", per_sample_weights=weight.to(wide.dtype))


def carry(features: Tensor, transforms: Tensor, masks: Tensor, aggregate: str = "max") -> Tensor:
    """Carry features (B, C, h, w) to where the target's parts are: each part's warp times its mask, then the maximum over parts.

    `transforms (B, P, 2, 3)` and `masks (B, P, h, w)` are of the features' size (Siarohin et al. 2018, eq. 4). With
    `aggregate` "avg" the mean over the parts that cover a pixel, 0 where none does.

    >>> stay, left = torch.eye(2, 3), torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    >>> masks = torch.tensor([[[[True, True, False]], [[False, True, True]]]])
    >>> carry(torch.tensor([[[[1.0, 2.0, 3.0]]]]), torch.stack((stay, left))[None], masks)
    tensor([[[[1., 3., 0.]]]])
    """
    parts = transforms.shape[1]
    if aggregate == "avg":
        moved = [warp_images(features, transforms[:, p], mask=masks[:, p]) for p in range(parts)]
        return torch.stack(moved).sum(0) / masks.sum(1, keepdim=True).clamp(min=1).to(features.dtype)
    if features.device.type == "cpu" and not torch.compiler.is_compiling() and not transforms.requires_grad:
        return _Carry.apply(features, transforms, masks)
    best = warp_images(features, transforms[:, 0], mask=masks[:, 0])
    for p in range(1, parts):
        best = torch.maximum(best, warp_images(features, transforms[:, p], mask=masks[:, p]))
    return best


class _Carry(torch.autograd.Function):
    """`carry` on a CPU: only pixels that a part's mask covers are looked up, and only the winner's number is kept for the gradient."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, transforms: Tensor, masks: Tensor) -> Tensor:
        b, c, h, w = features.shape
        covered = masks.transpose(0, 1).bool()  # (P, B, h, w): sorted by part
        part, image, row, column = covered.nonzero(as_tuple=True)
        m = transforms[image, part]  # (M, 2, 3)
        places = m[:, :, 0] * column[:, None] + m[:, :, 1] * row[:, None] + m[:, :, 2]
        index, weight = _taps(places[:, 0], places[:, 1], image, (h, w))
        moved = _bags(_table(features), index, weight)
        rows, counts = (image * h + row) * w + column, covered.flatten(1).sum(1).tolist()
        # A part whose mask leaves a pixel out offers it a zero.
        offered = covered.all(0).view(-1, 1).expand(-1, c)
        best = torch.where(offered, -torch.inf, 0.0).to(moved.dtype)
        winner = torch.zeros(best.shape, dtype=torch.uint8)
        for number, (values, pixels) in enumerate(zip(moved.split(counts), rows.split(counts), strict=True), start=1):
            before = best.index_select(0, pixels)
            better = values > before
            best.index_copy_(0, pixels, torch.maximum(before, values))
            winner.index_copy_(0, pixels, torch.where(better, number, winner.index_select(0, pixels)))
        ctx.save_for_backward(index, weight, rows, part, winner)
        ctx.shape, ctx.dtype = features.shape, features.dtype
        return best.view(b, h, w, c).permute(0, 3, 1, 2).to(features.dtype)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        index, weight, rows, part, winner = ctx.saved_tensors
        b, c, h, w = ctx.shape
        received = _table(grad).index_select(0, rows) * (winner.index_select(0, rows) == (part + 1)[:, None])
        with torch.enable_grad():  # what a table gets back from its bags
            wide = torch.float64 if received.dtype == torch.float64 else torch.float32
            table = torch.zeros(b * h * w, c, dtype=wide, requires_grad=True)
            (back,) = torch.autograd.grad(_bags(table, index, weight), table, received.to(table.dtype))
        return back.view(b, h, w, c).permute(0, 3, 1, 2).to(ctx.dtype), None, None
