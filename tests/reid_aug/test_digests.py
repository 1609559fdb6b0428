"""Digests of content: of every change, and computed once."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from reid_aug import digests
from reid_aug.digests import file_digests


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two files, written long enough ago."""
    monkeypatch.setattr(digests, "SETTLED_S", -1.0)
    for name in "ab":
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "0.jpg").write_bytes(name.encode() * 9)
    return sorted((tmp_path / "data").glob("*/0.jpg"))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_they_are_of_the_content_and_computed_once(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [sha256(file) for file in files]
    assert file_digests(files, tmp_path) == expected
    monkeypatch.setattr(digests, "_sha256", None)  # reading anything would fail now
    assert file_digests(files[::-1], tmp_path) == expected[::-1] and file_digests([], tmp_path) == []


@pytest.mark.parametrize("how", ["written", "renamed"])
def test_other_content_of_the_same_size_and_time_is_noticed(how: str, files: list[Path], tmp_path: Path) -> None:
    """As `cp -p`, `rsync` and `tar` leave files: another content under the old times."""
    before, status = file_digests(files, tmp_path), files[0].stat()
    other = files[0] if how == "written" else tmp_path / "other"
    other.write_bytes(b"z" * 9)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.rename(files[0])
    assert files[0].stat().st_mtime_ns == status.st_mtime_ns and files[0].stat().st_size == status.st_size
    assert file_digests(files, tmp_path) == [sha256(files[0]), before[1]] != before


def test_what_was_just_written_is_read_again(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be written again within the same tick of the file system's clock."""
    monkeypatch.setattr(digests, "SETTLED_S", 60.0)
    file_digests(files, tmp_path)
    assert not (tmp_path / "digests").exists()


@pytest.mark.parametrize("spoilt", ["{", "[]", '{"x": 1}'])
def test_a_spoilt_cache_is_written_anew(spoilt: str, files: list[Path], tmp_path: Path) -> None:
    before = file_digests(files, tmp_path)
    (cache,) = (tmp_path / "digests").iterdir()
    cache.write_text(spoilt)
    assert file_digests(files, tmp_path) == before and len(cache.read_text()) > 100


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(files: list[Path], tmp_path: Path) -> None:
    (tmp_path / "digests").write_text("a file")
    assert file_digests(files, tmp_path) == [sha256(file) for file in files]


def test_a_missing_file_is_named(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no.jpg"):
        file_digests([*files, tmp_path / "no.jpg"], tmp_path)
