"""Tests in this folder are skipped without a GPU, with that reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One probe for a GPU decides for all tests of this folder marked `gpu`."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="no NVIDIA GPU: torch.cuda.is_available() is False")
    for item in items:
        if Path(__file__).parent in item.path.parents and item.get_closest_marker("gpu"):
            item.add_marker(skip)
