"""The plan of a rendered set: from where people are seen, and what is no plan."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reid_aug.rendered import RenderedConfig, write_rendered

SMALL = RenderedConfig(train_identities=5, test_identities=4, train_images=6, query_images=2, gallery_images=4, seed=3)
FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def away(yaw: float, home: float) -> float:
    """Angle between two directions, 0 to 180 degrees."""
    return abs((yaw - home + 180) % 360 - 180)


@pytest.mark.parametrize("sector, offset", [(25.0, (90.0, 270.0)), (10.0, (150.0, 210.0))])
def test_home_sectors(tmp_path, sector, offset):
    config = replace(SMALL, train_identities=12, sector_deg=sector, query_offset_deg=offset, size=(32, 16))
    views: dict[tuple[str, str], list[float]] = {}
    for name, row in write_rendered(tmp_path / "set", config).rows.items():
        views.setdefault((row.folder, name[:4]), []).append(row.pose.yaw_deg)
    train = [v for (folder, _), v in views.items() if folder == FOLDERS[0]]
    assert all(away(a, b) <= 2 * sector for v in train for a in v for b in v)
    assert {int(y // 60) for v in train for y in v} == set(range(6))  # together they see every side
    for (folder, pid), yaws in views.items():
        if folder == "query":
            gallery = views["bounding_box_test", pid]
            assert all(away(q, g) >= offset[0] - 2 * sector - 1e-6 for q in yaws for g in gallery)
            assert all(away(q, g) > 0 for q in yaws for g in gallery)


@pytest.mark.parametrize(
    "change, complaint",
    [
        ({"train_identities": 0}, "train_identities is at least 1, got 0"),
        ({"test_identities": 9999}, "four digits"),
        ({"cameras": 7}, "cameras lies in 2..6, got 7"),
        ({"cameras": 1}, "cameras lies in 2..6, got 1"),
        ({"size": (8, 64)}, "size is"),
        ({"sector_deg": 180.0}, "sector_deg lies in"),
        ({"query_offset_deg": (20.0, 90.0)}, "query_offset_deg is"),
        ({"query_offset_deg": (270.0, 90.0)}, "query_offset_deg is"),
        ({"gallery_any_view": 1.5}, "gallery_any_view lies in"),
        ({"seed": -1}, "seed is not negative, got -1"),
    ],
)
def test_a_wrong_config_is_refused_by_name(change, complaint):
    with pytest.raises(ValueError, match=complaint):
        replace(SMALL, **change)
