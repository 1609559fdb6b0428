"""Devices by name."""

from __future__ import annotations

import pytest
import torch

from reid_aug.device import torch_device


def test_auto_is_a_gpu_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto") == torch_device("cpu") == torch_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(ValueError, match="no device 'cuda' here; there are auto, cpu"):
        torch_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert torch_device("auto") == torch.device("cuda") and torch_device("cuda:1").index == 1
    with pytest.raises(ValueError, match=r"no device 'cuda:2' here; there are auto, cpu, cuda:0, cuda:1 \(did you mean 'cuda:1'\?\)"):
        torch_device("cuda:2")


@pytest.mark.parametrize("name", ["foo", "meta", "", "cpuu"])
def test_what_is_no_device(name: str) -> None:
    with pytest.raises(ValueError, match=f"no device {name!r} here; there are auto, cpu"):
        torch_device(name)
