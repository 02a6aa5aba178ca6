"""The check of little memory, with torch's own functions and a stand-in for its CUDA part."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dedup_assets_tests.gpu import parity


@pytest.mark.parametrize(("device", "index"), [("cuda", 3), ("cuda:1", 1)])
def test_memory_is_left_to_a_device_named_without_its_number_too(device, index, monkeypatch):
    given = []
    monkeypatch.setattr(torch.cuda.memory, "_lazy_init", lambda: None)
    monkeypatch.setattr(torch._C, "_cuda_setMemoryFraction", lambda *told: given.append(told), raising=False)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    properties = SimpleNamespace(total_memory=1000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda at: properties if at == index else None)
    with parity.little_memory(device, 250):
        assert given == [(0.25, index)]
    assert given[1:] == [(1.0, index)]


def test_the_check_works_on_a_simulated_device_and_fails_where_there_is_room_enough():
    assert "all of them" in parity.check_memory("cpu:0", 2_000, 64, 900_000, 4)
    with pytest.raises(AssertionError, match="leave less"):
        parity.check_memory("cpu:0", 600, 64, 1 << 30, 2)
