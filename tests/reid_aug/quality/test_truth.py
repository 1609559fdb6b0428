"""Scores of regions against scikit-image, and which regions they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from generators import openpose_18
from reid_aug.quality.ssim import regional_ssim
from reid_aug.quality.surroundings import Surroundings
from reid_aug.quality.truth import LIMBS, clothes, colour_error, regional_psnr
from reid_aug.rendered import RenderedSet


class TestRegions:
    def test_psnr_and_ssim_against_scikit_image(self) -> None:
        rng = torch.Generator().manual_seed(0)
        a, b = (torch.randint(256, (2, 3, 40, 30), generator=rng, dtype=torch.uint8) for _ in range(2))
        region = torch.zeros(2, 2, 40, 30, dtype=torch.bool)
        region[:, 0] = True
        region[:, 1, 10:30, 8:20] = True
        psnr, like = regional_psnr(a, b, region), regional_ssim(a, b, region)
        for i in range(2):
            x, y = (t[i].permute(1, 2, 0).numpy() for t in (a, b))
            assert float(psnr[i, 0]) == pytest.approx(peak_signal_noise_ratio(y, x, data_range=255))
            assert float(psnr[i, 1]) == pytest.approx(peak_signal_noise_ratio(y[10:30, 8:20], x[10:30, 8:20], data_range=255))
            spread = int(x.max()) - int(x.min())
            full = structural_similarity(
                x, y, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, channel_axis=-1, data_range=spread, full=True
            )[1]
            assert float(like[i, 1]) == pytest.approx(full[10:30, 8:20].mean(), abs=1e-9)

    def test_an_empty_region_has_no_number(self) -> None:
        same = torch.zeros(1, 3, 20, 20, dtype=torch.uint8)
        empty = torch.zeros(1, 1, 20, 20, dtype=torch.bool)
        assert regional_psnr(same, same, empty).isnan().all() and regional_ssim(same, same, empty).isnan().all()

    def test_colour_error_is_scikit_images(self) -> None:
        rng = torch.Generator().manual_seed(1)
        a, b = (torch.randint(256, (1, 3, 9, 7), generator=rng, dtype=torch.uint8) for _ in range(2))
        region = torch.zeros(1, 1, 9, 7, dtype=torch.bool)
        region[..., 2:6, 1:5] = True
        means = [rgb2lab(x[0].permute(1, 2, 0).numpy())[2:6, 1:5].reshape(-1, 3).mean(0) for x in (a, b)]
        assert float(colour_error(a, b, region)) == pytest.approx(np.linalg.norm(means[0] - means[1]), abs=0.02)

    def test_clothes_are_torso_and_thighs_without_arms(self) -> None:
        limbs = torch.zeros(1, 10, 1, 4, dtype=torch.bool)
        limbs[0, LIMBS.index("torso"), 0, :2] = True
        limbs[0, LIMBS.index("l_thigh"), 0, 2:] = True
        limbs[0, LIMBS.index("r_forearm"), 0, 1:3] = True
        assert clothes(limbs)[0, :, 0].tolist() == [[True, False, False, False], [False, False, False, True]]

    def test_limbs_are_named_in_the_rendered_sets_order(self, rendered: RenderedSet) -> None:
        truth = rendered.truth(next(iter(rendered.rows)))
        joints = truth.pose
        for name, joint in (("head", "nose"), ("r_shin", "r_ankle"), ("l_shin", "l_ankle")):
            mask = truth.limb_masks[LIMBS.index(name)]
            rows, columns = np.nonzero(mask)
            x, y = joints.xy[openpose_18.index(joint)].tolist()
            others = [np.nonzero(truth.limb_masks[i]) for i, n in enumerate(LIMBS) if n in ("torso",)]
            nearest = np.hypot(rows - y, columns - x).min()
            assert nearest <= min(np.hypot(r - y, c - x).min() for r, c in others)


@pytest.mark.parametrize("in_scene", [False, True])
def test_the_truth_is_in_the_place_it_is_asked_in(surroundings: Surroundings, rendered: RenderedSet, in_scene: bool) -> None:
    names = list(rendered.rows)
    pairs = list(zip(names[:3], names[9:12], strict=True))
    for _ in range(2):  # rendered, then kept: neither place is taken for the other
        true = {place: surroundings.truth(pairs, place).images for place in (in_scene, not in_scene)}
    for image, other, pair in zip(true[in_scene], true[not in_scene], pairs, strict=True):
        assert np.array_equal(image.permute(1, 2, 0), rendered.true_image(*pair, scene=in_scene).image)
        assert not torch.equal(image, other)
