"""Images with their poses: through a DataLoader and through torchreid's data sets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader
from torchreid import data as torchreid_data
from torchvision import transforms

from generators import coco_17, convert, rescale
from reid_aug import images
from reid_aug.data.doubts import DataDoubt
from reid_aug.data.people import PersonImage, attach_poses
from reid_aug.data.posed_images import PosedImages, collate_poses, poses_of, with_poses

SIZE = (32, 16)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TestPosedImages:
    def test_items(self, people: list[PersonImage]) -> None:
        posed, poseless = people[0], replace(people[1], pose=None)
        small = PosedImages([posed, poseless], SIZE)
        large = PosedImages([posed, poseless], (64, 32))
        assert posed.pose is not None and len(large) == 2
        assert torch.equal(small[0].image, torch.from_numpy(images.read(posed.path)).permute(2, 0, 1))
        assert large[0].image.shape == (3, 64, 32) and large[0].image.dtype == torch.uint8
        seen = posed.pose.visible[:, None]
        torch.testing.assert_close(large[0].pose.xy, torch.where(seen, (posed.pose.xy + 0.5) * 2 - 0.5, 0))
        assert large[0].pose.size == (64, 32)
        assert not large[1].pose.visible.any() and large[1].pose.size == (64, 32)
        assert (large[1].pid, large[1].camid, large[1].path) == (poseless.pid, poseless.camid, poseless.path)

    def test_mixed_skeletons_meet_on_openpose(self, people: list[PersonImage]) -> None:
        first, second = people[0], people[1]
        assert first.pose is not None and second.pose is not None
        coco = replace(first, pose=convert(first.pose, coco_17))
        assert PosedImages([coco], SIZE)[0].pose.skeleton is coco_17
        mixed = PosedImages([coco, second], SIZE)
        assert [item.pose.skeleton.name for item in (mixed[0], mixed[1])] == ["openpose_18"] * 2

    def test_through_worker_processes(self, people: list[PersonImage]) -> None:
        train = [p for p in people if p.split == "train"]
        alone = list(DataLoader(PosedImages(train, SIZE), 5, collate_fn=collate_poses))
        shared = list(DataLoader(PosedImages(train, SIZE), 5, collate_fn=collate_poses, num_workers=2))
        assert len(shared) == len(alone) == 5 and len(shared[-1].images) == 4
        for plain, worked in zip(alone, shared, strict=True):
            assert torch.equal(plain.images, worked.images) and torch.equal(plain.pids, worked.pids) and plain.paths == worked.paths
            assert torch.equal(plain.poses.xy, worked.poses.xy) and torch.equal(plain.poses.visible, worked.poses.visible)
        batch = shared[0]
        assert batch.images.dtype == torch.float32 and batch.images.shape == (5, 3, *SIZE)
        assert float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
        assert batch.pids.tolist() == [p.pid for p in train[:5]] and batch.camids.tolist() == [p.camid for p in train[:5]]
        assert batch.pids.dtype == torch.int64
        pixel = images.read(train[3].path)[20, 7]
        torch.testing.assert_close(batch.images[3, :, 20, 7], torch.from_numpy(pixel) / 255)


class TestTorchreid:
    @staticmethod
    def dataset(people: list[PersonImage], *more: object, **options: object) -> torchreid_data.ImageDataset:
        rows = {split: [(p.path, p.pid, p.camid) for p in people if p.split == split] for split in ("train", "query", "gallery")}
        steps = transforms.Compose([transforms.Resize((64, 32)), *more, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
        return torchreid_data.ImageDataset(rows["train"], rows["query"], rows["gallery"], transform=steps, verbose=False, **options)

    def test_poses_come_along_in_the_images_pixels(self, people: list[PersonImage]) -> None:
        dataset, train = self.dataset(people), [p for p in people if p.split == "train"]
        poses = {p.name: p.pose for p in train[1:-1] if p.pose is not None} | {train[-1].path: train[-1].pose}
        posed = with_poses(dataset, poses)  # type: ignore[arg-type]
        batch = next(iter(DataLoader(posed, len(train), num_workers=2)))
        assert {"img", "pid", "camid", "impath", "dsetid"} < set(batch) and torch.equal(batch["img"][2], dataset[2]["img"])
        collated = poses_of(batch)
        assert collated.size == (64, 32) and not collated.visible[0].any()
        for row in range(1, len(train)):
            pose = train[row].pose
            assert pose is not None and torch.equal(collated.visible[row], pose.visible)
            torch.testing.assert_close(collated.xy[row], rescale(pose, (64, 32)).xy)

    @pytest.mark.filterwarnings("error")
    def test_names_are_those_of_every_door(self, people: list[PersonImage], tmp_path: Path) -> None:
        """Two cameras' 0.jpg are told apart by their folders, as PoseAugmentedDataset does; one pose for both is refused."""
        train = [p for p in people if p.split == "train"][:4]
        moved = []
        for i, person in enumerate(train):
            path = tmp_path / f"cam_{'ab'[i % 2]}" / f"{i // 2}.jpg"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(Path(person.path).read_bytes())
            moved.append(replace(person, path=str(path)))
        dataset = self.dataset([*moved, *(p for p in people if p.split != "train")])
        by_end = {"/".join(Path(p.path).parts[-2:]): p.pose for p in moved if p.pose is not None}
        item = with_poses(dataset, by_end)[1]
        assert moved[1].pose is not None and torch.equal(item["pose_visible"], moved[1].pose.visible)
        assert {p.pose is not None for p in attach_poses(moved, by_end)} == {True}
        by_base = {f"{i}.jpg": pose for i, pose in enumerate(list(by_end.values())[:2])}
        with pytest.raises(ValueError, match="'0.jpg' names one image, and 2 files end so, .* as 'cam_a/0.jpg'"):
            with_poses(dataset, by_base)
        with pytest.raises(ValueError, match="'0.jpg' names one image"):
            attach_poses(moved, by_base)

    def test_how_many_have_no_pose_is_said(self, people: list[PersonImage]) -> None:
        poses = {p.name: p.pose for p in people[2:] if p.pose is not None}
        with pytest.warns(DataDoubt, match=f"2 of 24 images have no pose: 2 not named there .{people[0].name}, {people[1].name}"):
            with_poses(self.dataset(people), poses)

    def test_another_skeleton(self, people: list[PersonImage]) -> None:
        dataset = self.dataset(people)
        poses = {p.name: p.pose for p in people if p.pose is not None}
        batch = next(iter(DataLoader(with_poses(dataset, poses, coco_17), 3)))
        assert poses_of(batch, coco_17).xy.shape == (3, 17, 2)
        with pytest.raises(ValueError, match="'openpose_18' has xy"):
            poses_of(batch)

    def test_poses_are_checked(self, people: list[PersonImage]) -> None:
        poses = {p.name: p.pose for p in people if p.pose is not None}
        first = next(p for p in people if p.split == "train")
        assert first.pose is not None
        zeros = replace(first.pose, xy=first.pose.xy * 0, visible=torch.ones_like(first.pose.visible))
        with pytest.warns(DataDoubt, match=r"poses: \(0, 0\) is taken for missing, 18 joints in 1 of"):
            posed = with_poses(self.dataset(people), poses | {first.name: zeros})
        assert not posed[0]["pose_visible"].any() and posed[1]["pose_visible"].any()
        with pytest.raises(ValueError, match="poses: 52 of 52 rows have joints outside"):
            with_poses(self.dataset(people), {name: replace(pose, size=(8, 4)) for name, pose in poses.items()})

    def test_what_a_pose_cannot_follow_is_refused(self, people: list[PersonImage]) -> None:
        poses = {p.name: p.pose for p in people if p.pose is not None}
        with pytest.raises(ValueError, match="can't follow RandomHorizontalFlip"):
            with_poses(self.dataset(people, transforms.RandomHorizontalFlip()), poses)
        with pytest.raises(ValueError, match=r"none of 24 images has a pose under its path or name, as '\d{4}_c\d"):
            with_poses(self.dataset(people), {"elsewhere.jpg": next(iter(poses.values()))})
        with pytest.raises(ValueError, match="k_tfm is 1"):
            with_poses(self.dataset(people, k_tfm=2), poses)[0]
        with pytest.raises(ValueError, match="this one holds img, pid"):
            poses_of({"img": torch.zeros(1), "pid": torch.zeros(1)})
