"""How a body stands."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from reid_aug.rendered import BodyPose


def test_a_body_pose_is_plain_numbers():
    pose = BodyPose.sample(np.random.default_rng(0), yaw_deg=-30)
    assert pose.yaw_deg == 330 and all(type(getattr(pose, f.name)) is float for f in fields(pose))
