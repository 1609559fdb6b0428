"""SSIM and mask-SSIM of generated images, as each paper measures them, and SSIM by regions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from generators import no_such

_CHUNK_PIXELS = 2**18  # Pixels of a chunk's images, of one channel; 32 pairs at (128, 64).
_LOW_RANGE = 64  # Grey levels that a data range has at least for float32 to do.
_STRIP_PIXELS = 2**9  # Pixels in a row of images side by side; 8 images at a width of 64.


@dataclass(frozen=True)
class SsimProtocol:
    """What papers vary under one name; every choice is scikit-image's, and only windows inside the image count."""

    window_px: int  # Side of the window.
    sigma_px: float | None  # Spread of a Gaussian window; None is a uniform one.
    sample_covariance: bool  # Whether a window's variances are divided by N − 1 rather than N.
    data_range: float | None  # Range of grey levels; None is max − min of the generated image, over all channels.


SSIM_PROTOCOLS = {
    # Siarohin et al. 2018 (test.py), and the later papers that took its script over.
    "deformable": SsimProtocol(window_px=11, sigma_px=1.5, sample_covariance=False, data_range=None),
    # Ma et al. 2017 (score.py): scikit-image's defaults of the time, which for 8 bits meant a range of 255.
    "pg2": SsimProtocol(window_px=7, sigma_px=None, sample_covariance=True, data_range=255.0),
    # Ren et al. 2020 (script/metrics.py): images / 255 with a range of 1, which is 255 here.
    "gfla": SsimProtocol(window_px=51, sigma_px=None, sample_covariance=True, data_range=255.0),
}


def ssim(
    generated: Tensor, truth: Tensor, protocol: str = "deformable", mask: Tensor | None = None, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return the structural similarity (B,) of uint8 images (B, 3, H, W) under a protocol of `SSIM_PROTOCOLS` (Wang et al. 2004).

    `mask`, bool (B, H, W) or (B, 1, H, W), blackens both images outside it: with the target's body mask this is
    mask-SSIM. float32 is within 1e-4 of it, 2e-6 on photographs: where the data range is the generated image's own and
    below 64 grey levels, rounding would tell, and the pair is scored in float64. A constant generated image has a range
    of 0; it gets 1 grey level, the least that another can have. TypeError: images not uint8, mask not bool. ValueError:
    sizes that do not fit.

    >>> grey = torch.full((1, 3, 16, 16), 90, dtype=torch.uint8)
    >>> round(ssim(grey, grey - 10, "pg2").item(), 4)  # (2 · 90 · 80 + C1) / (90² + 80² + C1), C1 = (0.01 · 255)²
    0.9931
    """
    rule = _rule(protocol)
    _check_images(generated, truth, rule.window_px, protocol)
    mask = None if mask is None else _checked_mask(mask, generated)
    if _runs_on_cpu(generated):
        return _on_cpu(generated, truth, mask, rule, dtype)
    chunk = max(1, 2**22 // (generated.shape[-2] * generated.shape[-1]))  # planes of 200 MB in float64
    scores = []
    for start in range(0, len(generated), chunk):
        a, b = generated[start : start + chunk], truth[start : start + chunk]
        if mask is not None:
            a, b = a * mask[start : start + chunk], b * mask[start : start + chunk]
        score = _ssim_map(a, b, rule, dtype).flatten(1).mean(1)
        if dtype != torch.float64 and rule.data_range is None:
            low = a.flatten(1).amax(1) - a.flatten(1).amin(1) < _LOW_RANGE
            score[low] = _ssim_map(a[low], b[low], rule, torch.float64).flatten(1).mean(1).to(dtype)
        scores.append(score)
    return torch.cat(scores)


def regional_ssim(generated: Tensor, truth: Tensor, regions: Tensor, protocol: str = "deformable") -> Tensor:
    """Return the mean SSIM (B, R) of the windows whose middle lies in each region, bool (B, R, H, W); nan where there is none.

    >>> image = torch.arange(64, dtype=torch.uint8).expand(1, 3, 64).reshape(1, 3, 8, 8)
    >>> regional_ssim(image, image, torch.tensor([[[[True]], [[False]]]]).expand(1, 2, 8, 8), "pg2").tolist()
    [[1.0, nan]]
    """
    rule = _rule(protocol)
    _check_images(generated, truth, rule.window_px, protocol)
    edge = (rule.window_px - 1) // 2
    inner = regions[..., edge : edge + generated.shape[-2] - 2 * edge, edge : edge + generated.shape[-1] - 2 * edge].double()
    similarity = _ssim_map(generated, truth, rule, torch.float64).mean(1, keepdim=True)
    return (similarity * inner).sum((2, 3)) / inner.sum((2, 3))


def to_uint8(images: Tensor) -> Tensor:
    """Turn floats in [-1, 1] into 8-bit images, to the nearest grey level; ValueError when some lie outside or are nan.

    >>> to_uint8(torch.tensor([-1.0, 0.0, 1.0])).tolist()
    [0, 128, 255]
    """
    if not images.is_floating_point():
        raise TypeError(f"images to turn into 8 bits are floats in [-1, 1], got {images.dtype}")
    if bad := int((~(images.abs() <= 1 + 1e-3)).sum()):  # the slack is bfloat16's and a warp's rounding
        raise ValueError(f"images to turn into 8 bits lie in [-1, 1], got {bad} of {images.numel()} values that do not")
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def _runs_on_cpu(images: Tensor) -> bool:
    return images.device.type == "cpu"


def _rule(protocol: str) -> SsimProtocol:
    if protocol not in SSIM_PROTOCOLS:
        names = sorted(SSIM_PROTOCOLS)
        raise ValueError(no_such("SSIM protocol", protocol, names))
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
    """Return the mask as (B, 1, H, W)."""
    count, _, height, width = images.shape
    if mask.dtype != torch.bool:
        raise TypeError(f"a mask is bool, got {mask.dtype}")
    if tuple(mask.shape) not in ((count, height, width), (count, 1, height, width)):
        shapes = f"({count}, {height}, {width}) or ({count}, 1, {height}, {width})"
        raise ValueError(f"a mask for {count} images of {(height, width)} is {shapes}, got {tuple(mask.shape)}")
    return mask.reshape(count, 1, height, width)


def _on_cpu(generated: Tensor, truth: Tensor, mask: Tensor | None, rule: SsimProtocol, dtype: torch.dtype) -> Tensor:
    """Return SSIM (B,) by numpy and OpenCV, which let go of Python's lock: chunks on as many threads as torch may use."""
    count, _, height, width = generated.shape
    chunk = max(1, _CHUNK_PIXELS // (height * width))
    arrays = [None if part is None else part.numpy() for part in (generated, truth, mask)]
    out = np.empty(count, dtype=torch.empty(0, dtype=dtype).numpy().dtype)
    workers = min(torch.get_num_threads(), -(-count // chunk))

    def work(first: int) -> None:
        room = _Room(min(chunk, count), height, width, out.dtype)  # Once a thread: fresh memory is what costs most.
        for start in range(first * chunk, count, workers * chunk):
            at = slice(start, start + chunk)
            a, b, inside = (None if part is None else part[at] for part in arrays)
            assert a is not None and b is not None
            out[at], spread = (values[: len(a)] for values in _ssim_chunk(a, b, inside, rule, room))
            low = spread < _LOW_RANGE
            if out.dtype != np.float64 and rule.data_range is None and low.any():
                some = a[low], b[low], None if inside is None else inside[low]
                exact = _Room(len(some[0]), height, width, np.dtype(np.float64))
                out[at][low] = _ssim_chunk(*some, rule, exact)[0][: len(some[0])]

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, range(workers)))
    return torch.from_numpy(out)


class _Room:
    """Memory for a chunk of pairs, images laid out as one: strips below each other, of some images side by side.

    So Python is asked for few and long calls, and the rows that a filter looks at stay in cache. Where windows reach from
    one image into the next, they do not count. What a chunk does not fill is left as it was: any bytes are an image.
    """

    def __init__(self, count: int, height: int, width: int, dtype: np.dtype) -> None:
        across = min(count, max(1, _STRIP_PIXELS // width))
        self.shape = (-(-count // across), height, across, 3, width)
        place = (self.shape[0] * height, across * 3 * width)
        self.bytes = np.zeros((2, *place), np.uint8)
        self.planes, self.means = np.empty((2, *place), dtype), np.empty((4, *place), dtype)

    def lay(self, images: np.ndarray, mask: np.ndarray | None, out: np.ndarray) -> None:
        """Write uint8 images (B, 3, H, W) to `out`, black outside the mask (B, 1, H, W)."""
        across = self.shape[2]
        for i, strip in enumerate(out.reshape(self.shape)):
            some = images[i * across : (i + 1) * across].transpose(2, 0, 1, 3)
            if mask is None:
                np.copyto(strip[:, : some.shape[1]], some)
            else:
                np.multiply(some, mask[i * across : (i + 1) * across].transpose(2, 0, 1, 3), out=strip[:, : some.shape[1]])

    def ranges(self, images: np.ndarray) -> np.ndarray:
        """Return max − min of each laid out image (B,)."""
        high, low = images.reshape(self.shape).max(1), images.reshape(self.shape).min(1)
        return high.max((2, 3)).astype(self.planes.dtype).reshape(-1) - low.min((2, 3)).reshape(-1)

    def fill(self, plane: np.ndarray, values: np.ndarray) -> None:
        """Fill a plane with one value an image (B,)."""
        strips, height, across, channels, width = self.shape
        rows = np.repeat(values.reshape(strips, across), channels * width, axis=1)  # Whole rows copy six times as fast.
        np.copyto(plane.reshape(strips, height, -1), rows[:, None])

    def inner_means(self, plane: np.ndarray, edge: int) -> np.ndarray:
        """Return each image's mean (B,), without the edge."""
        columns = plane.reshape(self.shape)[:, edge : self.shape[1] - edge].mean(1)
        return columns[..., edge : self.shape[4] - edge].mean((2, 3)).reshape(-1)


def _ssim_chunk(
    generated: np.ndarray, truth: np.ndarray, mask: np.ndarray | None, rule: SsimProtocol, room: _Room
) -> tuple[np.ndarray, np.ndarray]:
    """Return SSIM (B,) of a chunk and the generated images' ranges (B,), in `room` alone and in as few passes as there can be.

    With P = E[x]E[y], Q = E[x]² + E[y]² and u = N / (N − 1) or 1, equation 13 of Wang et al. is
    (2P + c1)(2u(E[xy] − P) + c2) / ((Q + c1)(u(E[x² + y²] − Q) + c2)) = 4 p (a − p) / (q (b − q)) where p = P + c1/2,
    q = Q + c1, a = E[xy + c1/2 + c2/2u] and b = E[x² + y² + c1 + c2/u]: u cancels, and what is constant is put there
    before its mean is taken.
    """
    import cv2

    (x, y), (q, p), (mean_x, mean_y, b, a) = room.bytes, room.planes, room.means
    room.lay(generated, mask, x)
    room.lay(truth, mask, y)
    spread = room.ranges(x)
    scale = np.maximum(spread, 1) if rule.data_range is None else np.full_like(spread, rule.data_range)
    c1, c2 = ((k * scale) ** 2 for k in (0.01, 0.03))
    if rule.sample_covariance:
        c2 *= (rule.window_px**2 - 1) / rule.window_px**2
    _fill_means(rule, room, c1 + c2)
    room.fill(p, c1 / 2)
    cv2.accumulateProduct(mean_x, mean_y, p)
    room.fill(q, c1)
    cv2.accumulateSquare(mean_x, q)
    cv2.accumulateSquare(mean_y, q)
    a -= p
    b -= q
    p *= a
    q *= b
    with np.errstate(all="ignore"):  # between images anything may stand
        p /= q
        return 4 * room.inner_means(p, (rule.window_px - 1) // 2), spread


def _fill_means(rule: SsimProtocol, room: _Room, constants: np.ndarray) -> None:
    """Fill the room's means with the windows' of x, y, x² + y² + constants and xy + constants / 2."""
    import cv2

    (x, y), (squares, product) = room.bytes, room.planes
    room.fill(squares, constants)
    cv2.accumulateSquare(x, squares)
    cv2.accumulateSquare(y, squares)
    room.fill(product, constants / 2)
    cv2.accumulateProduct(x, y, product)
    kernel, depth = _weights(rule.window_px, rule.sigma_px).numpy(), cv2.CV_32F if squares.dtype == np.float32 else cv2.CV_64F
    for plane, into in zip((x, y, squares, product), room.means, strict=True):
        cv2.sepFilter2D(plane, depth, kernel, kernel, dst=into, borderType=cv2.BORDER_REFLECT)


def _ssim_map(generated: Tensor, truth: Tensor, rule: SsimProtocol, dtype: torch.dtype) -> Tensor:
    """Return SSIM (B, 3, H − window + 1, W − window + 1) of every window, equation 13 of Wang et al."""
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
    """Return the weighted mean of every window that lies in the image, (*, H, W) → (*, H − window + 1, W − window + 1).

    As two products with banded matrices: a window is separable, and dense products outrun convolutions at these sizes.
    """
    rows, columns = (_band(n, rule.window_px, rule.sigma_px, planes.dtype, planes.device) for n in planes.shape[-2:])
    return rows @ (planes @ columns.t())


@lru_cache(maxsize=32)
def _band(size_px: int, window_px: int, sigma_px: float | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the matrix (size − window + 1, size) whose row i holds the window's weights from column i on."""
    band = torch.zeros(size_px - window_px + 1, size_px, dtype=torch.float64)
    for i in range(len(band)):
        band[i, i : i + window_px] = _weights(window_px, sigma_px)
    return band.to(device, dtype)


def _weights(window_px: int, sigma_px: float | None) -> Tensor:
    """Return a window's weights (window,) float64, which sum to 1.

    >>> _weights(3, None).tolist() == [1 / 3] * 3, _weights(3, 1.0).round(decimals=3).tolist()
    (True, [0.274, 0.452, 0.274])
    """
    offset = torch.arange(window_px, dtype=torch.float64) - (window_px - 1) / 2
    weights = torch.ones_like(offset) if sigma_px is None else torch.exp(-0.5 * (offset / sigma_px) ** 2)
    return weights / weights.sum()
