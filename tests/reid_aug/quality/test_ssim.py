"""SSIM against scikit-image under each paper's own arguments."""

import warnings

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from reid_aug.quality.ssim import SSIM_PROTOCOLS, _ssim_map, ssim, to_uint8

# Each protocol as the paper's script calls scikit-image, on (H, W, 3) uint8.
ORACLES = {
    "deformable": lambda gen, true: structural_similarity(
        gen,
        true,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        channel_axis=-1,
        data_range=int(gen.max()) - int(gen.min()),
    ),
    "pg2": lambda gen, true: structural_similarity(gen, true, channel_axis=-1),
    "gfla": lambda gen, true: structural_similarity(gen / 255.0, true / 255.0, win_size=51, channel_axis=-1, data_range=1),
}


def photographs(count, size, seed):
    """Smooth blobs with grain, each with a contrast of its own: uint8 (B, 3, H, W), as photographs more or less are."""
    rng = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, max(2, size[0] // 16), max(2, size[1] // 16), generator=rng)
    images = torch.nn.functional.interpolate(coarse, size, mode="bicubic", align_corners=True)
    images = images + 0.08 * torch.randn(count, 3, *size, generator=rng)
    contrast = 0.2 + 0.8 * torch.rand(count, 1, 1, 1, generator=rng)
    return (images * contrast * 255).clamp(0, 255).to(torch.uint8)


def pairs(count=5, size=(128, 64), seed=0):
    """Generated and true images, from alike to unrelated."""
    truth, other = photographs(count, size, seed), photographs(count, size, seed + 1000)
    blend = torch.linspace(0, 1, count).view(-1, 1, 1, 1)
    return (truth * (1 - blend) + other * blend).to(torch.uint8), truth


def by_oracle(protocol, generated, truth):
    images = [x.permute(0, 2, 3, 1).numpy() for x in (generated, truth)]
    return np.array([ORACLES[protocol](*pair) for pair in zip(*images, strict=True)])


def test_every_protocol_has_an_oracle():
    assert ORACLES.keys() == SSIM_PROTOCOLS.keys()


@pytest.mark.parametrize("size", [(128, 64), (51, 51), (77, 60)])
@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_ssim_equals_scikit_image(protocol, size):
    generated, truth = pairs(size=size)
    expected = by_oracle(protocol, generated, truth)
    assert np.ptp(expected) > 0.2  # or the comparison would say little
    np.testing.assert_allclose(ssim(generated, truth, protocol).numpy(), expected, rtol=0, atol=1e-9)
    single = ssim(generated, truth, protocol, dtype=torch.float32)
    assert single.dtype == torch.float32
    np.testing.assert_allclose(single.numpy(), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_noise_and_extremes_equal_scikit_image(protocol):
    noise = torch.randint(0, 256, (4, 3, 64, 64), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    generated = torch.cat((noise[:2], (noise[:1] > 127) * torch.tensor(255, dtype=torch.uint8)))
    truth = noise[1:]
    np.testing.assert_allclose(ssim(generated, truth, protocol).numpy(), by_oracle(protocol, generated, truth), rtol=0, atol=1e-9)


@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_a_mask_multiplies_both_images_first(protocol):
    generated, truth = pairs(seed=3)
    mask = torch.zeros(5, 128, 64, dtype=torch.bool)
    mask[:, 30:100, 15:50] = True
    result = ssim(generated, truth, protocol, mask)
    expected = by_oracle(protocol, generated * mask[:, None], truth * mask[:, None])
    np.testing.assert_allclose(result.numpy(), expected, rtol=0, atol=1e-9)
    assert torch.equal(result, ssim(generated, truth, protocol, mask[:, None]))
    assert torch.equal(ssim(generated, truth, protocol, torch.ones_like(mask)), ssim(generated, truth, protocol))
    assert ssim(generated, truth, protocol, torch.zeros_like(mask)).tolist() == [1.0] * 5


@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_identical_images_give_one(protocol):
    truth = photographs(3, (64, 64), 0)
    np.testing.assert_allclose(ssim(truth, truth, protocol).numpy(), 1.0, rtol=0, atol=1e-12)


@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_an_image_is_scored_alike_alone_and_in_a_batch(protocol, monkeypatch):
    generated, truth = pairs(seed=5)
    together = ssim(generated, truth, protocol)
    alone = torch.cat([ssim(generated[i : i + 1], truth[i : i + 1], protocol) for i in range(5)])
    monkeypatch.setattr("reid_aug.quality.ssim._CHUNK_PIXELS", 2 * 128 * 64)
    for other in (alone, ssim(generated, truth, protocol)):
        torch.testing.assert_close(other, together, rtol=0, atol=1e-12)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("chunk", "strip"), [(4, 1), (4, 2), (7, 3), (16, 8), (64, 64)])
def test_what_lies_beside_an_image_does_not_count(chunk, strip, masked, monkeypatch):
    """Between black, white and flat images, in chunks and strips that eleven images do not fill."""
    generated, truth = (images.repeat(3, 1, 1, 1)[:11, :, :40, :32].clone() for images in pairs(seed=6))
    for i, grey in ((1, 0), (4, 255), (7, 90)):
        generated[i], truth[i] = grey, 255 - grey
    mask = torch.zeros(11, 40, 32, dtype=torch.bool)
    mask[:, 5:30, 8:20] = True
    mask = mask if masked else None
    expected = torch.cat([ssim(generated[i : i + 1], truth[i : i + 1], mask=None if mask is None else mask[i : i + 1]) for i in range(11)])
    monkeypatch.setattr("reid_aug.quality.ssim._CHUNK_PIXELS", chunk * 40 * 32)
    monkeypatch.setattr("reid_aug.quality.ssim._STRIP_PIXELS", strip * 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for dtype, off in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
            torch.testing.assert_close(ssim(generated, truth, mask=mask, dtype=dtype).double(), expected, rtol=0, atol=off)


@pytest.mark.parametrize("masked", [False, True])
def test_low_contrast_is_scored_as_well_in_float32(masked, monkeypatch):
    """Where the range is the generated image's own, constants shrink with it, and float32's rounding would tell."""
    generated, truth = (images.repeat(3, 1, 1, 1)[:12, :, :64, :48].clone() for images in pairs(seed=8))
    for i, levels in enumerate((1, 2, 3, 5, 8, 12, 20, 30, 45, 62, 80, 255)):
        generated[i] = 128 + (generated[i].float() / 255 * levels).round().to(torch.uint8) if levels < 127 else generated[i]
        truth[i, :, 20:] = 131  # flat, so that nothing but rounding varies there
    mask = torch.ones(12, 64, 48, dtype=torch.bool)
    mask[6:, :, :9] = False
    for device_way in (False, True):
        if device_way:
            monkeypatch.setattr("reid_aug.quality.ssim._on_cpu", None)
            monkeypatch.setattr("reid_aug.quality.ssim._runs_on_cpu", lambda images: False)
        exact, single = (ssim(generated, truth, mask=mask if masked else None, dtype=dtype) for dtype in (torch.float64, torch.float32))
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), exact, rtol=0, atol=1e-4)


def test_a_constant_generated_image_has_a_score():
    truth = photographs(1, (64, 64), 0)
    flat = torch.full_like(truth, 90)
    assert 0 <= ssim(flat, truth).item() < 0.01
    assert ssim(flat, flat).item() == 1.0
    # Under a range of 1, C1 = 1e-4 and C2 = 9e-4; two constants have no variance, so the means' term is all.
    expected = (2 * 90 * 80 + 1e-4) / (90**2 + 80**2 + 1e-4)
    assert ssim(flat, flat - 10).item() == pytest.approx(expected, abs=1e-6)


def test_to_uint8_rounds_to_the_nearest_grey_level_and_undoes_scaling():
    grey = torch.arange(256).to(torch.uint8)
    assert torch.equal(to_uint8(grey.float() / 127.5 - 1), grey)
    assert to_uint8(torch.tensor([-1.0, 0.0, 1.0005, 2 * 100.4 / 255 - 1])).tolist() == [0, 128, 255, 100]


IMAGES = torch.zeros(2, 3, 64, 64, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ssim(IMAGES.float(), IMAGES), TypeError, "generated images are uint8, got torch.float32.*to_uint8"),
        (lambda: ssim(IMAGES, IMAGES.double()), TypeError, "truth images are uint8, got torch.float64"),
        (lambda: ssim(IMAGES, IMAGES[:1]), ValueError, r"truth has the shape of generated.*got \(1, 3, 64, 64\)"),
        (lambda: ssim(IMAGES, IMAGES[..., :60]), ValueError, r"truth has the shape of generated.*got \(2, 3, 64, 60\)"),
        (lambda: ssim(IMAGES[:0], IMAGES[:0]), ValueError, r"B of 1 at least, got \(0, 3, 64, 64\)"),
        (lambda: ssim(IMAGES[:, :1], IMAGES[:, :1]), ValueError, r"\(B, 3, H, W\).*got \(2, 1, 64, 64\)"),
        (lambda: ssim(IMAGES[..., :40], IMAGES[..., :40], "gfla"), ValueError, r"'gfla' are 51 x 51.*got \(64, 40\)"),
        (lambda: ssim(IMAGES, IMAGES, "deform"), ValueError, r"no SSIM protocol named 'deform'.*did you mean 'deformable'"),
        (lambda: ssim(IMAGES, IMAGES, mask=torch.ones(2, 64, 64)), TypeError, "a mask is bool, got torch.float32"),
        (lambda: ssim(IMAGES, IMAGES, mask=torch.ones(1, 64, 64).bool()), ValueError, r"a mask for 2 images.*got \(1, 64, 64\)"),
        (lambda: to_uint8(IMAGES), TypeError, "got torch.uint8"),
        (lambda: to_uint8(torch.tensor([0.0, 1.2, float("nan")])), ValueError, "got 2 of 3"),
    ],
)
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("size", [(128, 64), (61, 53)])
@pytest.mark.parametrize("protocol", SSIM_PROTOCOLS)
def test_what_a_gpu_computes_is_what_a_cpu_does(protocol, size):
    generated, truth = pairs(size=size, count=3)
    mapped = _ssim_map(generated, truth, SSIM_PROTOCOLS[protocol], torch.float64)
    window = SSIM_PROTOCOLS[protocol].window_px
    assert mapped.shape == (3, 3, size[0] - window + 1, size[1] - window + 1)
    torch.testing.assert_close(mapped.flatten(1).mean(1), ssim(generated, truth, protocol), rtol=0, atol=1e-9)


def test_threads_share_the_work_without_changing_it():
    generated, truth = pairs(count=101)
    mask = torch.rand(101, 128, 64, generator=torch.Generator().manual_seed(0)) > 0.5
    together = ssim(generated, truth, mask=mask)
    alone = torch.cat([ssim(a[None], b[None], mask=m[None]) for a, b, m in zip(generated, truth, mask, strict=True)])
    assert torch.equal(together, alone)
