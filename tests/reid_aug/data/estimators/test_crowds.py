"""Crops made rough: joints go where their pixels go, what leaves the image is not seen, JPEG is libjpeg's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image

from generators import openpose_18
from reid_aug.data.estimators.camera_faults import compressed, fewer_pixels, noisy, relit
from reid_aug.data.estimators.crowds import Crops, RoughConfig, clouds, rough_batch

SIZE = (64, 32)
# Nothing but what a test asks for.
SMOOTH = {
    "scale": (1.0, 1.0), "stretch": (1.0, 1.0), "cut": 0.0, "shift": 0.0, "turn_deg": 0.0, "behind": 0.0, "in_front": 0.0,
    "nobody": 0.0, "objects": 0.0, "light": 0.0, "least_height_px": 64, "noise": 0.0, "least_quality": 100,
}  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dots(cut_out: bool) -> Crops:
    """One figure on black: a coloured square at its right wrist, another at its nose."""
    pixels = torch.zeros(1, 4 if cut_out else 3, *SIZE, dtype=torch.uint8)
    xy, seen = torch.zeros(1, 18, 2), torch.zeros(1, 18, dtype=torch.bool)
    for joint, (x, y), channel in (("r_wrist", (9, 40), 0), ("nose", (17, 10), 1)):
        pixels[0, channel, y - 2 : y + 3, x - 2 : x + 3] = 255
        pixels[0, 3:, y - 2 : y + 3, x - 2 : x + 3] = 255
        xy[0, openpose_18.index(joint)], seen[0, openpose_18.index(joint)] = torch.tensor([x, y]).float(), True
    return Crops(pixels, xy, seen)


def centre(plane: torch.Tensor) -> torch.Tensor:
    """The centre (x, y) of what is light in a plane (H, W)."""
    weight = plane.clamp(min=0) / plane.sum()
    y, x = torch.meshgrid(torch.arange(SIZE[0]).float(), torch.arange(SIZE[1]).float(), indexing="ij")
    return torch.stack(((weight * x).sum(), (weight * y).sum()))


class TestRoughBatch:
    @pytest.mark.parametrize("changes", [
        {}, {"scale": (0.7, 0.9)}, {"stretch": (0.6, 1.3)}, {"turn_deg": 10.0},
        {"scale": (0.8, 0.9), "turn_deg": 8.0, "stretch": (0.7, 0.9)},
    ])  # fmt: skip
    def test_joints_are_where_their_pixels_are(self, changes: dict) -> None:
        images, xy, seen = rough_batch(dots(cut_out=False), 16, RoughConfig(**{**SMOOTH, **changes}), rng())
        wrists = set()
        for image, joints, there in zip(images, xy, seen, strict=True):
            wrist = "r_wrist" if there[openpose_18.index("r_wrist")] else "l_wrist"  # a mirrored right wrist is a left one
            wrists.add(wrist)
            assert there.sum() == 2
            for joint, channel in ((wrist, 0), ("nose", 1)):
                middle = centre((image[channel] - 0.3).clamp(min=0))
                assert (middle - joints[openpose_18.index(joint)]).abs().max() < 0.5
        assert wrists == {"r_wrist", "l_wrist"}

    def test_what_leaves_the_image_is_not_seen(self) -> None:
        config = RoughConfig(**{**SMOOTH, "cut": 1.0, "cut_scale": (1.6, 1.6)})
        images, xy, seen = rough_batch(dots(cut_out=False), 32, config, rng())
        nose = openpose_18.index("nose")
        shown = torch.stack([image[1].max() > 0.5 for image in images])
        assert (shown == seen[:, nose]).float().mean() > 0.7  # a square half outside still shows
        assert 0 < seen[:, nose].sum() < 32
        inside = ((xy >= -0.5) & (xy < torch.tensor([SIZE[1], SIZE[0]]) - 0.5)).all(-1)
        assert not (seen & ~inside).any()

    def test_missing_joints_stay_missing(self) -> None:
        _, _, seen = rough_batch(dots(cut_out=True), 16, RoughConfig(), rng())
        wrists = [openpose_18.index("r_wrist"), openpose_18.index("l_wrist")]
        others = [k for k in range(18) if k not in (*wrists, openpose_18.index("nose"))]
        assert not seen[:, others].any() and (seen[:, wrists].sum(1) <= 1).all()

    def test_figures_are_put_before_places_and_photographs_are_not(self) -> None:
        place = torch.full((1, 3, 80, 100), 200, dtype=torch.uint8)
        config = RoughConfig(**{**SMOOTH, "scale": (0.5, 0.5)})
        figures, _, _ = rough_batch(dots(cut_out=True)._replace(places=place), 64, config, rng())
        assert (figures[:, :, :4, :4].mean((1, 2, 3)) - 200 / 255).abs().median() < 0.02  # but for boards before it
        photographs, _, _ = rough_batch(dots(cut_out=False), 8, config, rng())
        assert photographs[:, :, :4, :4].max() < 0.02  # the edge goes on

    def test_the_same_generator_gives_the_same_batch(self) -> None:
        crops = dots(cut_out=True)._replace(places=clouds(3, (80, 100), rng()))
        first, again, other = (rough_batch(crops, 8, RoughConfig(), rng(seed)) for seed in (3, 3, 4))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True)) and not torch.equal(first[0], other[0])
        assert first[0].shape == (8, 3, *SIZE) and first[0].min() >= 0 and first[0].max() <= 1 and torch.isfinite(first[1]).all()

    def test_people_stand_behind_and_in_front(self) -> None:
        pixels = torch.zeros(2, 4, *SIZE, dtype=torch.uint8)
        pixels[:, 3, 8:56, 8:24] = 255  # black figures before white
        white = torch.full((1, 3, 80, 100), 255, dtype=torch.uint8)
        crops = Crops(pixels, torch.zeros(2, 18, 2), torch.zeros(2, 18, dtype=torch.bool), white)

        def dark(**changes: float) -> float:
            images, _, _ = rough_batch(crops, 64, RoughConfig(**{**SMOOTH, **changes}), rng())
            return float((images.mean(1) < 0.2).float().mean())

        assert dark() + 0.005 < min(dark(behind=1.0), dark(in_front=1.0))

    def test_where_nobody_is_every_joint_is_nowhere(self) -> None:
        crops = dots(cut_out=True)._replace(places=torch.zeros(1, 3, 80, 100, dtype=torch.uint8))
        images, _, seen = rough_batch(crops, 40, RoughConfig(**{**SMOOTH, "nobody": 0.25, "stretch": (0.5, 0.5)}), rng())
        assert (~seen.any(1)).sum() == 10

    @pytest.mark.parametrize("batch", [1, 2, 5])
    def test_small_batches_do(self, batch: int) -> None:
        crops = dots(cut_out=True)._replace(places=clouds(3, (80, 100), rng()))
        assert rough_batch(crops, batch, RoughConfig(), rng())[0].shape == (batch, 3, *SIZE)

    def test_intervals_the_wrong_way_round_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"from low to high.*got \[1.2, 0.8\]"):
            RoughConfig(scale=(1.2, 0.8))


class TestCameraFaults:
    @pytest.mark.parametrize("grey", [True, False])
    @pytest.mark.parametrize("quality", [20, 50, 75, 95])
    def test_jpeg_is_as_pillow_writes_and_reads_it(self, quality: int, grey: bool) -> None:
        coarse = np.random.default_rng(0).integers(0, 255, (8, 4, 3), dtype=np.uint8)
        picture = np.array(Image.fromarray(coarse).resize((32, 64), Image.Resampling.BICUBIC))
        picture = picture[..., :1].repeat(3, 2) if grey else picture
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        expected = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).float()
        image = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        found = compressed(image / 255, torch.tensor([float(quality)]))[0] * 255
        lost = (image[0] - expected).abs().mean()
        # A luma alone differs by rounding; libjpeg rounds colour differences once more before and after it halves them.
        assert (found - expected).abs().mean() < (0.4 if grey else max(0.35 * lost, 1.0))
        assert lost > 3 * (found - expected).abs().mean() or quality == 95

    def test_each_image_has_its_quality(self) -> None:
        images = torch.rand(2, 3, *SIZE, generator=rng())
        both = compressed(images, torch.tensor([10.0, 90.0]))
        alone = compressed(images[1:], torch.tensor([90.0]))
        torch.testing.assert_close(both[1:], alone)
        assert (both[0] - images[0]).abs().mean() > (both[1] - images[1]).abs().mean()

    def test_fewer_pixels_keeps_the_first_group_and_the_means(self) -> None:
        images = torch.rand(8, 3, *SIZE, generator=rng())
        blurred = fewer_pixels(images, rng(), 16)
        assert torch.equal(blurred[:2], images[:2]) and not torch.equal(blurred[2:], images[2:])
        torch.testing.assert_close(blurred.mean((2, 3)), images.mean((2, 3)), atol=0.02, rtol=0)
        assert torch.equal(fewer_pixels(images, rng(), 64), images) or (blurred[2:].std() < images[2:].std())

    def test_noise_and_light_are_within_what_is_said(self) -> None:
        images = torch.full((64, 3, *SIZE), 0.5)
        noise = (noisy(images, rng(), 0.1) - images).flatten(1).std(1)
        assert noise.max() < 0.105 and noise.min() < 0.02 and noise.max() > 0.08
        light = relit(images, rng(), 1.0)
        assert light.min() > 0 and light.max() <= 1 and light.mean((1, 2, 3)).std() > 0.05
        torch.testing.assert_close(relit(images, rng(), 0.0), images)
