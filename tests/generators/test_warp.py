"""Limb transforms and warps against scikit-image, numpy and scipy."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
import pytest
import torch
from generator_helpers import MakePose
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import estimate_transform
from torch import Tensor

import generators.warp as warps
from generators.pose import mpii_14, openpose_18
from generators.warp import FAR_PX, at_scale, fit_affine, fit_similarity, no_point, warp_images


def homogeneous(points: np.ndarray) -> np.ndarray:
    return np.concatenate((points, np.ones((*points.shape[:-1], 1))), axis=-1)


def skimage_moves(kind: str, target: torch.Tensor, source: torch.Tensor) -> np.ndarray:
    """Where scikit-image's transform puts the target points."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # estimate_transform is on its way out, and still what the authors called
        matrix = estimate_transform(kind, target.double().numpy(), source.double().numpy()).params
    return (homogeneous(target.double().numpy()) @ matrix.T)[:, :2]


def moves(transform: torch.Tensor, target: torch.Tensor) -> np.ndarray:
    return homogeneous(target.double().numpy()) @ transform.double().numpy().T


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("kind", "points"), [("affine", 3), ("affine", 4), ("affine", 7), ("similarity", 2), ("similarity", 4)])
def test_fits_are_scikit_images_on_thousands_of_random_poses(kind: str, points: int, dtype: torch.dtype, a_pose: MakePose) -> None:
    """The joints of random limbs of random poses; the affine one as scikit-image minimises it (`total`)."""
    target, source = (a_pose(seed=seed, batch=(1500,), missing=0.0, dtype=dtype, size=(128, 64)).xy[:, :points] for seed in (1, 2))
    fitted, ok = fit_affine(target, source, total=True) if kind == "affine" else fit_similarity(target, source)
    # What a triangle of nearly no height does to float32 is no matter of method: judge those a pose estimator could find.
    span = torch.linalg.svdvals((target - target.mean(1, keepdim=True)).double())[:, -1 if kind == "affine" else 0]
    judged = torch.nonzero(ok & (span > 3)).flatten()
    assert len(judged) > 1200
    for i in judged.tolist():
        expected = skimage_moves(kind, target[i], source[i])
        # Total least squares makes huge matrices of unrelated points, whose float32 steps are larger than 1e-4 pixels.
        assert np.abs(moves(fitted[i], target[i]) - expected).max() < 1e-4 * max(1, fitted[i].abs().max().item() / 50)


def test_the_ordinary_affine_fit_is_numpys_least_squares(a_pose: MakePose) -> None:
    target, source = (a_pose(seed=seed, batch=(500,), missing=0.0, dtype=torch.float64).xy[:, :6] for seed in (1, 2))
    fitted, ok = fit_affine(target, source)
    assert ok.all()
    for i in range(500):
        expected = np.linalg.lstsq(homogeneous(target[i].numpy()), source[i].numpy(), rcond=None)[0].T
        assert np.allclose(fitted[i].numpy(), expected, atol=1e-8)


@pytest.mark.parametrize("total", [False, True])
def test_an_affine_map_is_found_again(total: bool) -> None:
    random = torch.Generator().manual_seed(3)
    truth = torch.randn(50, 2, 3, generator=random, dtype=torch.float64) * torch.tensor([1.0, 1.0, 30.0])
    target = torch.rand(50, 5, 2, generator=random, dtype=torch.float64) * 64
    source = torch.einsum("bij,bnj->bni", truth[..., :2], target) + truth[:, None, :, 2]
    fitted, ok = fit_affine(target, source, total=total)
    assert ok.all() and torch.allclose(fitted, truth, atol=1e-6)


def test_weights_leave_points_out(a_pose: MakePose) -> None:
    target, source = (a_pose(seed=seed, batch=(40,), missing=0.0, dtype=torch.float64).xy[:, :7] for seed in (1, 2))
    weight = torch.ones(40, 7)
    weight[:, 4:] = 0
    for fit in (fit_affine, fit_similarity, lambda *given: fit_affine(*given, total=True)):
        left_out, _ = fit(target, source, weight)
        without, _ = fit(target[:, :4], source[:, :4], None)
        assert torch.allclose(left_out, without, atol=1e-7)


def test_too_few_points_and_points_on_a_line_have_no_transform() -> None:
    line = torch.tensor([[[1.0, 1.0], [2.0, 2.0], [5.0, 5.0]]])
    point = torch.tensor([[[3.0, 3.0]] * 3])
    elsewhere = torch.rand(1, 3, 2) * 20
    for total in (False, True):
        for degenerate in (line, point):
            fitted, ok = fit_affine(degenerate, elsewhere, total=total)
            assert not ok.any() and torch.equal(fitted[0], no_point(fitted))
    fitted, ok = fit_similarity(point, elsewhere)
    assert not ok.any() and fitted[0, 0, 2] == FAR_PX
    assert fit_similarity(line, elsewhere)[1].all(), "two places are enough for a similarity"
    assert not fit_similarity(line, elsewhere, torch.tensor([[1.0, 0.0, 0.0]]))[1].any()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_fits_are_finite_whatever_the_points(data: st.DataObject) -> None:
    number = st.floats(-1e4, 1e4, width=32)
    target, source = (
        torch.tensor(data.draw(st.lists(number, min_size=8, max_size=8))).view(1, 4, 2).requires_grad_() for _ in range(2)
    )
    for fitted, _ in (fit_affine(target, source), fit_affine(target, source, total=True), fit_similarity(target, source)):
        assert fitted.isfinite().all()


@pytest.mark.parametrize("padding", ["zeros", "border"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [(17, 11), (9, 30)])
def test_warps_are_scipys(padding: str, dtype: torch.dtype, size: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(5)
    image = torch.rand(4, 2, 17, 11, generator=random, dtype=torch.float64).to(dtype)
    noise = torch.randn(4, 2, 3, generator=random, dtype=torch.float64) * torch.tensor([0.3, 0.3, 4.0])
    transform = torch.eye(2, 3, dtype=torch.float64) + noise
    moved = warp_images(image, transform.to(dtype), padding, size)
    assert moved.shape == (4, 2, *size) and moved.dtype == dtype
    rows, columns = np.mgrid[: size[0], : size[1]]
    mode = {"zeros": "grid-constant", "border": "nearest"}[padding]
    for row in range(4):
        x, y = (transform[row, i, 0].item() * columns + transform[row, i, 1].item() * rows + transform[row, i, 2].item() for i in (0, 1))
        for channel in range(2):
            expected = ndimage.map_coordinates(image[row, channel].double().numpy(), (y, x), order=1, mode=mode)
            assert np.abs(moved[row, channel].double().numpy() - expected).max() < (1e-4 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("way", [warps._gather, warps._sample])
@pytest.mark.parametrize("size", [(8, 6), (1, 5), (4, 1), (1, 1)])
@pytest.mark.parametrize(("padding", "mode"), [("zeros", "grid-constant"), ("border", "nearest")])
def test_both_ways_to_warp_are_scipys(way: Callable[..., Tensor], size: tuple[int, int], padding: str, mode: str) -> None:
    """What a CPU runs (bags) and what a GPU runs (grid_sample), both here; a side of one pixel, too."""
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.rand(2, 3, *size, generator=generator), torch.randn(2, 2, 3, generator=generator)
    transform = torch.eye(2, 3) + noise * torch.tensor([0.3, 0.3, 1.0])
    mask = torch.rand(2, *size, generator=generator)
    x, y = warps._places(transform, size)
    moved = way(image, x, y, padding, mask)
    for i in range(2):
        for channel in range(3):
            places = torch.stack((y[i], x[i])).double().numpy()
            expected = ndimage.map_coordinates(image[i, channel].double().numpy(), places, order=1, mode=mode) * mask[i].numpy()
            np.testing.assert_allclose(moved[i, channel].numpy(), expected, atol=2e-5)
    if padding == "zeros":
        assert not way(image, x + 50, y, padding, None).any()


def test_warp_by_whole_pixels_and_by_nothing() -> None:
    image = torch.arange(12.0).view(1, 1, 3, 4)
    stay = torch.eye(2, 3)[None]
    assert torch.equal(warp_images(image, stay), image)
    shift = stay.clone()
    shift[0, 0, 2] = 1  # looks one to the right
    assert warp_images(image, shift)[0, 0, 0].tolist() == [1, 2, 3, 0]
    assert warp_images(image, shift, "border")[0, 0, 0].tolist() == [1, 2, 3, 3]
    assert not warp_images(image, no_point(image)[None]).any()
    with pytest.raises(ValueError, match="zeros or border"):
        warp_images(image, shift, "reflect")


@pytest.mark.parametrize("padding", ["zeros", "border"])
def test_warps_have_the_gradients_they_should(padding: str) -> None:
    image = torch.rand(2, 2, 5, 4, dtype=torch.float64, requires_grad=True)
    transform = torch.tensor([[[0.9, 0.2, 0.37], [-0.1, 1.1, -0.41]], [[1.2, -0.3, 0.61], [0.2, 0.8, 0.13]]], dtype=torch.float64)
    mask = torch.rand(2, 5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda i, t: warp_images(i, t, padding, mask=mask), (image, transform.requires_grad_()))


def test_a_transform_at_half_the_size_moves_half_as_far() -> None:
    transform = torch.tensor([[2.0, 0.5, 8.0], [0.1, 1.0, -6.0]])
    assert torch.equal(at_scale(transform, 0.5), torch.tensor([[2.0, 0.5, 4.0], [0.1, 1.0, -3.0]]))


def test_skeletons_of_the_papers_have_the_limbs_they_name() -> None:
    assert len(openpose_18.limbs) == 10 and len(mpii_14.limbs) == 10
