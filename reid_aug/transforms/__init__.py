"""torchvision v2 transforms of images with their KeyPoints: people in new poses, flips that know left from right, replays.

A sample is anything v2 takes that holds one image, its `tv_tensors.KeyPoints` (*B, K, 2), and which of them are visible, a bool
tensor (*B, K), as KeyPoints have no place for it. Images are PIL, or tensors (3, H, W) or (B, 3, H, W), uint8 or float in [0, 1].

    augment = transforms.ReplayCompose([
        transforms.NewPose(generator, bank, p=0.5), transforms.FlipPose(), v2.RandomCrop((128, 64), padding=8),
    ])
    sample = augment({"image": image, "keypoints": keypoints, "visible": visible})
    again = augment.replay(sample["replay"], {"image": image, "keypoints": keypoints, "visible": visible})
"""

from reid_aug.transforms.new_pose import NewPose
from reid_aug.transforms.pose_transform import FlipPose
from reid_aug.transforms.replay import ReplayCompose

__all__ = ["FlipPose", "NewPose", "ReplayCompose"]
