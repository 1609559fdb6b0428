"""Likeness of generated images to the true ones: SSIM and mask-SSIM, as each paper measures them, and by regions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from generators.registry import nearest

_CHUNK_PIXELS = 2**18  # per channel and image of a pair; 32 pairs at (128, 64), which keeps the work in cache


@dataclass(frozen=True)
class SsimProtocol:
    """What papers vary under one name; every choice is scikit-image's, and only windows inside the image count."""

    window_px: int
    sigma_px: float | None  # None is a uniform window
    sample_covariance: bool  # N − 1 rather than N below the variances of a window
    data_range: float | None  # None is max − min of the generated image, over all channels


SSIM_PROTOCOLS = {
    # Siarohin et al. 2018 (test.py), and the later papers that took its script over.
    "deformable": SsimProtocol(window_px=11, sigma_px=1.5, sample_covariance=False, data_range=None),
    # Ma et al. 2017 (score.py): scikit-image's defaults of the time, which for 8 bits meant a range of 255.
    "pg2": SsimProtocol(window_px=7, sigma_px=None, sample_covariance=True, data_range=255.0),
    # Ren et al. 2020 (script/metrics.py): images / 255 with a range of 1, which is 255 here.
    "gfla": SsimProtocol(window_px=51, sigma_px=None, sample_covariance=True, data_range=255.0),
}


def ssim(
    generated: Tensor,
    truth: Tensor,
    protocol: str = "deformable",
    mask: Tensor | None = None,
    dtype: torch.dtype = torch.float64,
) -> Tensor:
    """Structural similarity (B,) of uint8 images (B, 3, H, W) under a protocol of `SSIM_PROTOCOLS` (Wang et al. 2004).

    `mask`, bool (B, H, W) or (B, 1, H, W), blackens both images outside it: with the target's body mask this is
    mask-SSIM. float32 is within 1e-4 of it. A constant generated image has a range of 0; it gets 1 grey level, the least
    that another can have. TypeError: images not uint8, mask not bool. ValueError: sizes that do not fit.
    """
    rule = _rule(protocol)
    _check_images(generated, truth, rule.window_px, protocol)
    mask = None if mask is None else _checked_mask(mask, generated)
    if generated.device.type == "cpu":
        return _on_cpu(generated, truth, mask, rule, dtype)
    chunk = max(1, 2**22 // (generated.shape[-2] * generated.shape[-1]))  # planes of 200 MB in float64
    scores = []
    for start in range(0, len(generated), chunk):
        a, b = generated[start : start + chunk], truth[start : start + chunk]
        if mask is not None:
            a, b = a * mask[start : start + chunk], b * mask[start : start + chunk]
        scores.append(_ssim_map(a, b, rule, dtype).flatten(1).mean(1))
    return torch.cat(scores)


def regional_ssim(generated: Tensor, truth: Tensor, regions: Tensor, protocol: str = "deformable") -> Tensor:
    """Mean SSIM (B, R) of the windows whose middle lies in each region, bool (B, R, H, W); nan where there is none."""
    rule = _rule(protocol)
    _check_images(generated, truth, rule.window_px, protocol)
    edge = (rule.window_px - 1) // 2
    inner = regions[..., edge : edge + generated.shape[-2] - 2 * edge, edge : edge + generated.shape[-1] - 2 * edge].double()
    similarity = _ssim_map(generated, truth, rule, torch.float64).mean(1, keepdim=True)
    return (similarity * inner).sum((2, 3)) / inner.sum((2, 3))


def regional_psnr(generated: Tensor, truth: Tensor, regions: Tensor) -> Tensor:
    """Peak signal-to-noise ratio (B, R) in dB over each region, bool (B, R, H, W); nan where it is empty.

    At most 58.9 dB: rounding to 8 bits alone has a mean squared error of 1/12.
    """
    squares = (generated.double() - truth.double()).square().mean(1, keepdim=True)
    error = (squares * regions).sum((2, 3)) / regions.sum((2, 3))
    return 10 * (255**2 / error.clamp(min=1 / 12)).log10()


def to_uint8(images: Tensor) -> Tensor:
    """8-bit images from floats in [-1, 1], to the nearest grey level; ValueError when some lie outside or are nan."""
    if not images.is_floating_point():
        raise TypeError(f"images to turn into 8 bits are floats in [-1, 1], got {images.dtype}")
    if bad := int((~(images.abs() <= 1 + 1e-3)).sum()):  # the slack is bfloat16's and a warp's rounding
        raise ValueError(f"images to turn into 8 bits lie in [-1, 1], got {bad} of {images.numel()} values that do not")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _rule(protocol: str) -> SsimProtocol:
    if protocol not in SSIM_PROTOCOLS:
        known = sorted(SSIM_PROTOCOLS)
        raise ValueError(f"no SSIM protocol named {protocol!r}; there are {', '.join(known)}{nearest(protocol, known)}")
    return SSIM_PROTOCOLS[protocol]


def _check_images(generated: Tensor, truth: Tensor, window_px: int, protocol: str) -> None:
    for name, images in (("generated", generated), ("truth", truth)):
        if images.dtype != torch.uint8:
            raise TypeError(
                f"{name} images are uint8, got {images.dtype}: published SSIM is measured on 8-bit images, "
                "and rounding changes it; to_uint8 turns floats in [-1, 1] into them"
            )
    if generated.ndim != 4 or generated.shape[1] != 3 or not len(generated):
        raise ValueError(f"generated images are (B, 3, H, W) with B of 1 at least, got {tuple(generated.shape)}")
    if truth.shape != generated.shape:
        raise ValueError(f"truth has the shape of generated, {tuple(generated.shape)}, got {tuple(truth.shape)}")
    if min(generated.shape[-2:]) < window_px:
        size = tuple(generated.shape[-2:])
        raise ValueError(f"images under SSIM protocol {protocol!r} are {window_px} x {window_px} pixels at least, got {size}")


def _checked_mask(mask: Tensor, images: Tensor) -> Tensor:
    """The mask as (B, 1, H, W)."""
    count, _, height, width = images.shape
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is bool, got {mask.dtype}")
    if tuple(mask.shape) not in ((count, height, width), (count, 1, height, width)):
        wanted = f"({count}, {height}, {width}) or ({count}, 1, {height}, {width})"
        raise ValueError(f"a mask for {count} images of {(height, width)} is {wanted}, got {tuple(mask.shape)}")
    return mask.reshape(count, 1, height, width)


def _on_cpu(generated: Tensor, truth: Tensor, mask: Tensor | None, rule: SsimProtocol, dtype: torch.dtype) -> Tensor:
    """SSIM (B,) by numpy and OpenCV, which let go of Python's lock: chunks on as many threads as torch may use."""
    count, _, height, width = generated.shape
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    given = [None if part is None else part.numpy() for part in (generated, truth, mask)]
    out = np.empty(count, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    workers = min(torch.get_num_threads(), -(-count // chunk))

    def work(first: int) -> None:
        room = np.empty((2, 4, height, 3 * chunk, width), out.dtype)  # once a thread: fresh memory is what costs most
        black = np.empty((2, chunk, 3, height, width), np.uint8)
        for start in range(first * chunk, count, workers * chunk):
            at = slice(start, start + chunk)
            a, b, inside = (None if part is None else part[at] for part in given)
            assert a is not None and b is not None
            if inside is not None:
                a, b = (np.multiply(part, inside, out=to[: len(part)]) for part, to in zip((a, b), black, strict=True))
            if len(a) < chunk:
                room = np.empty((2, 4, height, 3 * len(a), width), out.dtype)
            _ssim_chunk(a, b, rule, room, out[at])

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return torch.from_numpy(out)


def _ssim_chunk(generated: np.ndarray, truth: np.ndarray, rule: SsimProtocol, room: np.ndarray, out: np.ndarray) -> None:
    """SSIM (B,) of a chunk into `out`, as `_ssim_map` computes it, in two rooms (4, H, B·3, W) and in place.

    Images lie side by side, as one wide image: a filter has fewest borders to look after so. Where windows reach from
    one image into the next, they do not count.
    """
    planes, means = room
    x, y, squares, product = planes
    for plane, images in ((x, generated), (y, truth)):
        np.copyto(plane, images.reshape(-1, *images.shape[2:]).transpose(1, 0, 2))
    np.multiply(x, x, out=squares)
    np.multiply(y, y, out=product)
    squares += product
    np.multiply(x, y, out=product)
    spread = np.maximum(generated.max((1, 2, 3)).astype(out.dtype) - generated.min((1, 2, 3)), 1)
    scale = spread if rule.data_range is None else np.full_like(spread, rule.data_range)
    c1, c2 = (np.repeat((k * scale) ** 2, 3)[:, None] for k in (0.01, 0.03))
    _filter(planes, means, rule)
    mean_x, mean_y, mean_squares, mean_product = means
    unbiased = rule.window_px**2 / (rule.window_px**2 - 1) if rule.sample_covariance else 1.0
    means_product = np.multiply(mean_x, mean_y, out=x)
    mean_x *= mean_x
    mean_y *= mean_y
    means_squared = np.add(mean_x, mean_y, out=mean_x)
    mean_product -= means_product
    if unbiased != 1.0:
        mean_product *= unbiased
    mean_product += c2 / 2  # the numerator's two factors of 2 come last, once an image
    mean_squares -= means_squared
    if unbiased != 1.0:
        mean_squares *= unbiased
    mean_squares += c2
    means_product += c1 / 2
    means_squared += c1
    means_product *= mean_product
    means_squared *= mean_squares
    means_product /= means_squared
    edge = (rule.window_px - 1) // 2
    of_windows = means_product[edge : x.shape[0] - edge, :, edge : x.shape[2] - edge]
    out[:] = 4 * of_windows.mean((0, 2)).reshape(len(out), 3).mean(1)


def _filter(planes: np.ndarray, out: np.ndarray, rule: SsimProtocol) -> None:
    """Window means of planes (4, H, N, W) over H and W, right at every pixel whose window lies in its image."""
    import cv2

    kernel = _weights(rule.window_px, rule.sigma_px).numpy()
    for plane, into in zip(planes, out, strict=True):
        height = len(plane)
        cv2.sepFilter2D(plane.reshape(height, -1), -1, kernel, kernel, dst=into.reshape(height, -1), borderType=cv2.BORDER_REFLECT)


def _ssim_map(generated: Tensor, truth: Tensor, rule: SsimProtocol, dtype: torch.dtype) -> Tensor:
    """SSIM (B, 3, H − window + 1, W − window + 1) of every window, equation 13 of Wang et al."""
    flat = generated.flatten(1)
    spread = (flat.amax(1).to(dtype) - flat.amin(1).to(dtype)).clamp(min=1.0)
    scale = spread if rule.data_range is None else torch.full_like(spread, rule.data_range)
    c1, c2 = ((k * scale).square()[:, None, None, None] for k in (0.01, 0.03))
    x, y = generated.to(dtype), truth.to(dtype)
    # One product for all: means of x, y, x² + y² and x·y; the two variances are only ever needed summed.
    mean_x, mean_y, mean_squares, mean_product = _window_means(torch.stack((x, y, x * x + y * y, x * y)), rule)
    points = rule.window_px**2
    unbiased = points / (points - 1) if rule.sample_covariance else 1.0
    means_squared, means_product = mean_x * mean_x + mean_y * mean_y, mean_x * mean_y
    variances = unbiased * (mean_squares - means_squared)
    covariance = unbiased * (mean_product - means_product)
    return (2 * means_product + c1) * (2 * covariance + c2) / ((means_squared + c1) * (variances + c2))


def _window_means(planes: Tensor, rule: SsimProtocol) -> Tensor:
    """Weighted mean of every window that lies in the image, (*, H, W) → (*, H − window + 1, W − window + 1).

    As two products with banded matrices: a window is separable, and dense products outrun convolutions at these sizes.
    """
    rows, columns = (_band(n, rule.window_px, rule.sigma_px, planes.dtype, planes.device) for n in planes.shape[-2:])
    return rows @ (planes @ columns.t())


@lru_cache(maxsize=32)
def _band(size_px: int, window_px: int, sigma_px: float | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Matrix (size − window + 1, size) whose row i holds the window's weights from column i on."""
    band = torch.zeros(size_px - window_px + 1, size_px, dtype=torch.float64)
    for i in range(len(band)):
        band[i, i : i + window_px] = _weights(window_px, sigma_px)
    return band.to(device, dtype)


def _weights(window_px: int, sigma_px: float | None) -> Tensor:
    """A window's weights (window,) float64, which sum to 1."""
    offset = torch.arange(window_px, dtype=torch.float64) - (window_px - 1) / 2
    weights = torch.ones_like(offset) if sigma_px is None else torch.exp(-0.5 * (offset / sigma_px) ** 2)
    return weights / weights.sum()
