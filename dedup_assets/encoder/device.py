"""Batches of an encoder on a GPU: started in a shape that never changes, their vectors on the way meanwhile.

Runs alike on CPU tensors. Knows neither texts nor models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dedup_assets.compute.device.memory import is_out_of_memory, release
from dedup_assets.compute.device.rows import float32_sums
from dedup_assets.errors import NoRoomError, first_line
from dedup_assets.later import torch


@dataclass(frozen=True)
class Flight:
    """Vectors on their way to the host."""

    rows: npt.NDArray[np.int64]
    vectors: torch.Tensor
    arrival: torch.cuda.Event | None

    def land(self, out: npt.NDArray[np.float32]) -> None:
        """Wait for them, and put them into their rows."""
        if self.arrival is not None:
            self.arrival.synchronize()
        out[self.rows] = self.vectors.numpy()


def event(device: str) -> torch.cuda.Event | None:
    """A mark behind what was given to the device so far; None on CPU tensors, where nothing is under way."""
    if not device.startswith("cuda"):
        return None
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def in_fixed_shape(work: Callable[[], torch.Tensor], device: str, shape: tuple[int, int]) -> torch.Tensor:
    """Vectors of a batch on their way to the host; from a GPU they have arrived when its work so far is done.

    The shape (texts, tokens) decides how products are summed, and so the last bits of the vectors: where the device has
    no room, what is cached is given back and the same is tried once more, never less. Sums are in float32 whatever else
    the process computes. Raises NoRoomError.
    """
    problem = ""
    for attempt in range(2):
        if attempt:
            release(device)
        try:
            with float32_sums():
                vectors = work()
            host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=vectors.device.type == "cuda")
            return host.copy_(vectors, non_blocking=True)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = first_line(error)
    raise NoRoomError(
        f"{device} has no memory for a batch of {shape[0]} texts of {shape[1]} tokens: {problem}. Free the device, "
        "take a smaller model or max_length, or use --device cpu"
    )
