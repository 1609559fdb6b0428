"""Files are written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import generators


def test_the_new_file_takes_the_olds_place(tmp_path: Path) -> None:
    file = tmp_path / "folder" / "scores.npz"
    for text in ("old", "new"):
        with generators.replacing(file) as temporary:
            assert temporary.parent == file.parent and temporary.name.startswith(".") and temporary.suffix == ".tmp"
            temporary.write_text(text)
        assert file.read_text() == text
    assert os.listdir(file.parent) == ["scores.npz"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "scores.npz"
    file.write_text("old")
    with pytest.raises(KeyboardInterrupt), generators.replacing(file) as temporary:
        temporary.write_text("half of the n")
        raise KeyboardInterrupt
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["scores.npz"]


def test_a_file_as_readable_as_any(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with generators.replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "plain").stat().st_mode
