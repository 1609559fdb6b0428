"""Online: poses near the source's in view, and the scenes they came from."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from generator_helpers import CopiesScene
from scipy.spatial.distance import cdist
from torch import Tensor

import generators
from generators import Pose, coco_17, convert, rescale, upper_7, view_descriptor
from reid_aug import PoseAugmentation, PoseBank, PoseDraw, images
from reid_aug.data.people import PersonImage
from reid_aug.synthesis.online_draw import PoseDrawer

SIZE = (32, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@pytest.fixture
def bank(people: list[PersonImage]) -> PoseBank:
    return PoseBank.collect([p for p in people if p.split == "train"], SIZE)


def files(bank: PoseBank, rows: tuple[int, ...]) -> Tensor:
    """The images of a bank's poses, in [0, 1]."""
    assert bank.paths is not None
    return torch.from_numpy(np.stack([images.read(bank.paths[row]) for row in rows])).permute(0, 3, 1, 2) / 255


class TestScenes:
    @pytest.mark.parametrize("normal", [False, True])
    def test_each_row_gets_the_image_its_pose_came_from(self, bank: PoseBank, normal: bool) -> None:
        scale = {"mean": MEAN, "std": STD} if normal else {}
        mean, std = (torch.tensor(values if normal else [fill] * 3).view(3, 1, 1) for values, fill in ((MEAN, 0.0), (STD, 1.0)))
        augment = PoseAugmentation(CopiesScene(SIZE), bank, 0.6, seed=1, **scale)  # type: ignore[arg-type]
        pixels = (torch.rand(9, 3, *SIZE, generator=torch.Generator().manual_seed(0)) - mean) / std
        for _ in range(3):
            out, draw = augment(pixels, bank.pose[:9]), augment.last
            assert draw is not None and 0 < len(draw.rows) < 9
            torch.testing.assert_close(out[list(draw.rows)] * std + mean, files(bank, draw.targets), rtol=0, atol=1e-5)
            rest = [row for row in range(9) if row not in draw.rows]
            assert torch.equal(out[rest], pixels[rest])
            assert torch.equal(augment.render(pixels, bank.pose[:9], PoseDraw.from_json(draw.to_json())), out)

    def test_every_identity_has_the_scenes_of_its_bank(self, bank: PoseBank) -> None:
        shared = bank.pick(range(6, 12))
        banks = {0: bank.pick(range(4)), 1: shared, 2: bank.pick([20]), 3: shared}
        augment = PoseAugmentation(CopiesScene(SIZE), banks, 1.0, draw="whole")
        pids = [3, 2, 1, 0, 3, 0]
        for _ in range(5):
            out, draw = augment(torch.zeros(6, 3, *SIZE), bank.pose[:6], pids), augment.last
            assert draw is not None and draw.pids == tuple(pids)
            for image, pid, target in zip(out, pids, draw.targets, strict=True):
                torch.testing.assert_close(image, files(banks[pid], (target,))[0], rtol=0, atol=1e-6)
        assert augment.renderer.scenes is not None and len(augment.renderer.scenes) == 4 + 6 + 1, "a bank that is shared is kept once"

    def test_a_copy_keeps_them(self, bank: PoseBank) -> None:
        augment = PoseAugmentation(CopiesScene(SIZE), bank, 1.0)
        twin = copy.deepcopy(augment).to("cpu")
        given = torch.zeros(4, 3, *SIZE), bank.pose[:4]
        assert torch.equal(twin(*given), augment(*given))

    def test_who_takes_none_or_whose_bank_knows_none_stays_in_place(self, bank: PoseBank) -> None:
        pixels, poses = torch.rand(4, 3, *SIZE), bank.pose[:4]
        for banks in (replace(bank, paths=None), {0: bank, 1: replace(bank, paths=None)}):
            out = PoseAugmentation(CopiesScene(SIZE), banks, 1.0)(pixels, poses, [0, 1, 0, 1])
            torch.testing.assert_close(out, pixels, rtol=0, atol=1e-6)
        assert PoseAugmentation(generators.create("pg2", size=SIZE, width=4), bank).renderer.scenes is None


class TestCompatible:
    def test_by_default_for_who_moves_pixels(self, bank: PoseBank) -> None:
        still, moving = generators.create("pg2", size=SIZE, width=4), CopiesScene(SIZE)
        for model, draw, tolerance in ((still, None, None), (moving, None, 0.5), (moving, "whole", None), (still, "compatible-0.25", 0.25)):
            assert PoseAugmentation(model, bank, draw=draw).drawer.tolerance == tolerance

    @pytest.mark.parametrize("size", [(32, 16), (128, 64)])
    def test_who_is_drawn_by_a_table_of_all_distances(self, bank: PoseBank, size: tuple[int, int]) -> None:
        """The source's own pose is left out, also where a loader brought it to another size, and one that can't be told from it."""
        poses = rescale(bank.pose[:12], size)
        table = cdist(view_descriptor(bank.pose[:12]).numpy(), view_descriptor(bank.pose).numpy())
        drawer = PoseDrawer({None: bank}, 1.0, 0, "compatible-0.8")
        drawn: list[set[int]] = [set() for _ in range(12)]
        for _ in range(300):
            for row, target in enumerate(drawer.draw(poses).targets):
                drawn[row].add(target)
        few = 0
        for row in range(12):
            others = [int(j) for j in table[row].argsort() if table[row, j] > 1e-9]
            wanted = [j for j in others if table[row, j] <= 0.8]
            few += len(wanted) < 8
            assert row not in others and drawn[row] == set(wanted if len(wanted) >= 8 else others[:8])
        assert 0 < few < 12, "both rules were tried"

    def test_uniform_over_those_near(self, bank: PoseBank) -> None:
        drawer, poses = PoseDrawer({None: bank}, 1.0, 3, "compatible-0"), bank.pose[:1]
        counts = Counter(drawer.draw(poses).targets[0] for _ in range(4000))
        assert len(counts) == 8 and all(abs(n - 500) < 5 * (4000 * 7 / 64) ** 0.5 for n in counts.values())

    def test_a_row_does_not_depend_on_the_others_nor_on_skeleton_and_type(self, bank: PoseBank) -> None:
        def drawn(poses: Pose) -> dict[int, str]:
            draw = PoseDrawer({None: bank}, 0.7, 3, "compatible").draw(poses)
            return dict(zip(draw.rows, draw.names, strict=True))

        poses = bank.pose[:16]
        whole = drawn(poses)
        assert len(whole) > 5 and drawn(poses[:7]) == {row: name for row, name in whole.items() if row < 7}
        assert drawn(poses.to(torch.float64)) == drawn(convert(poses, coco_17)) == whole

    def test_whom_it_redraws_is_as_ever(self, bank: PoseBank) -> None:
        """Only the pose is chosen otherwise: the same rows, and whole's targets are what they always were."""
        near, whole = (PoseDrawer({None: bank}, 0.5, 5, draw).draw(bank.pose) for draw in ("compatible", "whole"))
        bits = np.random.Philox(key=np.array([5, 0], dtype=np.uint64)).random_raw((len(bank), 2)).tolist()
        assert near.rows == whole.rows and near.targets != whole.targets
        assert whole.targets == tuple(bits[row][1] % len(bank) for row in whole.rows)

    def test_each_identity_from_its_own_bank(self, bank: PoseBank) -> None:
        """Of one pose, and that the source's own, there is no other: it is drawn all the same."""
        banks = {0: bank.pick([0]), 1: bank.pick([1, 2]), 2: replace(bank, pose=rescale(bank.pose, (64, 48)))}
        drawer = PoseDrawer(banks, 1.0, 0, "compatible")
        for _ in range(20):
            assert drawer.draw(bank.pose[:3], [0, 1, 2]).names[:2] == (bank.names[0], bank.names[2])
        assert drawer.draw(bank.pose[:3], [7, 8, 9]).rows == ()

    def test_what_is_refused(self, bank: PoseBank) -> None:
        for draw in ("canonical", "missing-views", "camera-aware"):
            with pytest.raises(ValueError, match=f"online, target poses are drawn by whole, compatible or view-…, got draw='{draw}'"):
                PoseAugmentation(CopiesScene(SIZE), bank, draw=draw)
        with pytest.raises(ValueError, match=r"no way of drawing poses named 'compatibl'; .* \(did you mean 'compatible'\?\)"):
            PoseAugmentation(CopiesScene(SIZE), bank, draw="compatibl")
        upper = PoseBank(("a",), Pose(torch.ones(1, 7, 2), torch.ones(1, 7, dtype=torch.bool), upper_7, SIZE))
        with pytest.raises(ValueError, match=r"no pose of the bank \(upper_7\) shows"):
            PoseDrawer({None: upper}, 0.5, 0, "compatible")
