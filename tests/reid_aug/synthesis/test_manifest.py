"""The record of synthetic images."""

from __future__ import annotations

from pathlib import Path

import pytest

from reid_aug import Manifest
from reid_aug.synthesis.manifest import NAME, SyntheticRow

SIZE = (32, 16)


class TestManifest:
    ROWS = (SyntheticRow("a.jpg", "s.jpg", "t.jpg", 1, 0, 7, None, 0.25, 3, "ab"), SyntheticRow("b.jpg", "s.jpg", "u.jpg", 1, 0, 8, 0.5))

    def test_round_trip(self, tmp_path: Path) -> None:
        one = Manifest(self.ROWS, {"seed": 3, "generator": "pg2"})
        one.save(tmp_path / NAME)
        assert Manifest.load(tmp_path / NAME) == one

    def test_whether_in_the_targets_scenes(self) -> None:
        assert all(Manifest(self.ROWS, made_by).in_scenes for made_by in ({"scenes_digest": "ab"}, {"scene": True}))
        assert not any(Manifest(self.ROWS, made_by).in_scenes for made_by in ({"scenes": "none"}, {"seed": 3}))

    def test_merge(self) -> None:
        first, second = Manifest(self.ROWS[:1], {"seed": 3}), Manifest(self.ROWS[1:], {"seed": 3})
        assert Manifest.merge([first, second]).rows == self.ROWS
        with pytest.raises(ValueError, match="made by the same"):
            Manifest.merge([first, Manifest(self.ROWS[1:], {"seed": 4})])
        with pytest.raises(ValueError, match="share no path"):
            Manifest.merge([first, first])

    @pytest.mark.parametrize("text", ["", "{}\n", '{"format": "other"}\n', '{"format": "reid-aug manifest 1", "a": 1}\n[1]\n',
                                      '{"format": "reid-aug manifest 1", "a": 1}\n{"path": "x"}\n', "\x00\n"])  # fmt: skip
    def test_what_is_no_manifest(self, text: str, tmp_path: Path) -> None:
        (tmp_path / NAME).write_text(text)
        with pytest.raises(ValueError, match="manifest"):
            Manifest.load(tmp_path / NAME)
