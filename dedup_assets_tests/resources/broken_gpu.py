"""A GPU that breaks, as a preloaded module of Dask workers: torch fails in every call after the first bad one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from dedup_assets.errors import NoRoomError
from dedup_assets.resources import worker_device

STICKY = "CUDA error: an illegal memory access was encountered"
_state = {"broken": False}


def dask_setup(worker: object) -> None:
    """Called by Dask when a worker starts: it has a GPU, which works until it breaks."""
    worker_device._cuda = True
    worker_device._broken = lambda device: STICKY if _state["broken"] else ""


def work(number: int, marker: str) -> tuple[int, int]:
    """(number, process); the very first call, marked by a file, permanently breaks the GPU of its process."""
    try:
        Path(marker).open("x").close()
        _state["broken"] = True
    except FileExistsError:
        pass
    if _state["broken"]:
        raise torch.AcceleratorError(STICKY)
    return number, os.getpid()


def no_room(marker: str) -> Any:
    """Fails for lack of memory, and counts the calls."""
    with Path(marker).open("a") as file:
        file.write("tried\n")
    raise NoRoomError("cuda has no memory for a tile of 16 × 16 products")
