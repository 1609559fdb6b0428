"""What happens to the images of a batch: mirrored and cropped whole, erased, and patches of them grey."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from reid_aug.baselines.augmentation import augment, erase, grey_patch
from reid_aug.baselines.recipes import BaselineConfig


def test_augment_moves_and_mirrors_whole_images() -> None:
    images = torch.arange(8 * 3 * 12 * 6, dtype=torch.float32).reshape(8, 3, 12, 6).remainder(251).add(1).to(torch.uint8)
    out = augment(images, BaselineConfig(crop_px=2), torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.dtype == torch.uint8
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    places, flips = set(), set()
    for image, wide in zip(out, padded, strict=True):
        matches = [
            (y, x, flip) for y in range(5) for x in range(5) for flip in (False, True)
            if torch.equal(image, (wide.flip(-1) if flip else wide)[:, y : y + 12, x : x + 6])
        ]  # fmt: skip
        assert len(matches) == 1
        places.add(matches[0][:2])
        flips.add(matches[0][2])
    assert len(places) > 3 and flips == {True, False}
    still = augment(images, BaselineConfig(crop_px=0, flip=False), torch.Generator())
    assert torch.equal(still, images)


def test_erasing_blanks_one_rectangle_of_some_images() -> None:
    ones = torch.ones(400, 3, 64, 32)
    erased = erase(ones, 0.5, torch.Generator().manual_seed(0))[:, 0] == 0
    hit = erased.flatten(1).any(1)
    assert 0.4 < hit.float().mean() < 0.6
    for mask in erased[hit]:
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        block = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert block.all() and block.sum() == mask.sum()  # one rectangle, whole
        assert mask.sum() <= 0.41 * 64 * 32
    shares = erased[hit].float().mean((1, 2))
    assert shares.max() > 0.3 and shares.min() < 0.06
    assert erased[:, :8].any() and erased[:, -8:].any() and erased[:, :, :4].any() and erased[:, :, -4:].any()
    assert torch.equal(erase(ones, 0.0, torch.Generator().manual_seed(0)), ones)
    assert torch.equal(erase(ones, 1.0, torch.Generator().manual_seed(3)), erase(ones, 1.0, torch.Generator().manual_seed(3)))


def test_grey_patches_are_pils_grey_in_rectangles_of_some_images() -> None:
    images = torch.randint(0, 256, (200, 3, 64, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    patched = grey_patch(images, 0.4, torch.Generator().manual_seed(0))
    assert patched.dtype == torch.uint8
    erased = erase(torch.ones(200, 3, 64, 32), 0.4, torch.Generator().manual_seed(0))[:, 0] == 0  # the same rectangles
    assert 0.3 < erased.flatten(1).any(1).float().mean() < 0.5
    assert torch.equal(patched.permute(0, 2, 3, 1)[~erased], images.permute(0, 2, 3, 1)[~erased])
    for image, after, mask in zip(images, patched, erased, strict=True):
        grey = torch.from_numpy(np.array(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L"), dtype=np.int16))
        # Pillow's weights are in 1/65536: a rounding may go the other way.
        assert mask.sum() == 0 or int((after[:, mask].short() - grey[mask]).abs().max()) <= 1
        assert torch.equal(after[0][mask], after[1][mask]) and torch.equal(after[0][mask], after[2][mask])


def test_grey_patches_of_other_types_and_of_one_image() -> None:
    colours = torch.tensor([100.5, 0.0, 200.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    patched = grey_patch(colours, 1.0, torch.Generator().manual_seed(0))
    grey = patched[0, 0] != 100.5
    assert grey.any() and torch.allclose(patched[0, :, grey], torch.tensor(0.299 * 100.5 + 0.114 * 200)), "not rounded"
    for kind in (torch.float16, torch.float64, torch.uint8):
        assert grey_patch(colours.to(kind), 1.0, torch.Generator().manual_seed(0)).dtype == kind
    assert torch.equal(grey_patch(colours, 0.0, torch.Generator().manual_seed(0)), colours)
