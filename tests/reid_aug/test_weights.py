"""Weights that others trained: found in torch's cache, fetched once, or said to be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from reid_aug import weights

URL = "https://example.org/models/net-0123456789ab.pth"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    return tmp_path / "checkpoints"


def test_what_is_cached_is_not_fetched(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *_: pytest.fail("fetched"))
    cache.mkdir()
    weights.cached(URL).touch()
    assert weights.find(URL, "a net", download=True) == weights.find(URL, "a net", download=False) == cache / "net-0123456789ab.pth"


def test_what_is_missing_is_fetched_where_it_may_be(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(weights.MissingWeights, match=f"a net: put {URL} into torch's cache .*, or say download=true"):
        weights.find(URL, "a net", download=False)
    calls: list[Any] = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *words: calls.append(words))
    assert weights.find(URL, "a net", download=True) == cache / "net-0123456789ab.pth"
    assert calls == [(URL, str(cache / "net-0123456789ab.pth"), "0123456789ab")], "the name's signature is checked"


def test_only_tensors_are_weights(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pth")
    complaint = "list.pth is damaged, or another network's .*: remove it and put"
    with pytest.raises(weights.MissingWeights, match=complaint), weights.tensors_in(tmp_path / "list.pth", URL):
        pytest.fail("opened")
    torch.save({"weight": torch.ones(2)}, tmp_path / "net.pth")
    with pytest.raises(weights.MissingWeights, match="do not fit"), weights.tensors_in(tmp_path / "net.pth", URL) as tensors:
        assert torch.equal(tensors["weight"], torch.ones(2))
        raise RuntimeError("they do not fit")
