"""Distances between the centroids of a codebook, computed once for all shards that a process assigns to its cells.

The distances of 12,000 centroids take 560 MB, so those of one codebook are kept on the host and of one on a device,
until `forget`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np

from dedup_assets.compute.device.memory import Room, by_slices, free_bytes, is_out_of_memory, release
from dedup_assets.compute.similarity import accumulation_error
from dedup_assets.later import torch

ROWS_AT_ONCE = 256
"""Centroids whose distances are computed in float64 at a time on the host: 24 MB for 12,000 cells."""

DEVICE_BYTES = 256 << 20
"""The same on a device."""

SMALLEST_STEP = 16
"""Centroids. A device without memory for the distances of these leaves them to the host."""

Value = TypeVar("Value")


class _Kept(Generic[Value]):
    """The latest value, for one codebook and place. One thread computes it while others wait."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last: tuple[np.ndarray, str, Value] | None = None

    def get(self, book: np.ndarray, where: str, make: Callable[[], Value]) -> Value:
        """The value for a codebook with this content; computed unless it is the latest."""
        with self._lock:
            last = self._last
            if last is None or last[1] != where or not np.array_equal(last[0], book):
                self._last = last = None  # freed before the next is computed: never two at once
                self._last = last = (book.copy(), where, make())
            return last[2]

    def forget(self) -> None:
        with self._lock:
            self._last = None


_on_host: _Kept[np.ndarray] = _Kept()
_on_device: _Kept[torch.Tensor] = _Kept()


def distances(book: np.ndarray) -> np.ndarray:
    """Upper bounds of ‖c_i - c_j‖, float32 (k, k), of a codebook float32 (k, d). Not to be written to."""
    return _on_host.get(book, "host", lambda: _computed(book))


def distances_on(device: str, book: np.ndarray) -> torch.Tensor:
    """`distances` on a device where they fit a quarter of its free memory. Otherwise they stay on the host, and each
    tile uploads the rows it needs: 40 GB at 100,000 cells."""
    free, size = free_bytes(device), 4 * len(book) ** 2
    if free is not None and size > free // 4:
        return torch.from_numpy(distances(book))
    try:
        return _on_device.get(book, device, lambda: _computed_on(device, book))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    release(device)
    return torch.from_numpy(distances(book))


def forget_distances() -> None:
    """Free the kept distances: after the assignment, other steps need the memory."""
    _on_host.forget()
    _on_device.forget()


def _slack(book: np.ndarray, norms: np.ndarray) -> float:
    """float32 products: the squared distance is off by at most 2·γ_d·max‖c‖² (and again as much for norms)."""
    return 4.0 * accumulation_error(book.shape[1]) * float(norms.max()) ** 2


def _norms(book: np.ndarray) -> np.ndarray:
    return np.linalg.norm(book.astype(np.float64), axis=1)


def _computed(book: np.ndarray) -> np.ndarray:
    """The distances, rounded up: a distance that is too large only lists more ghosts."""
    norms = _norms(book)
    gram = (torch.from_numpy(book) @ torch.from_numpy(book).T).numpy()
    slack = _slack(book, norms)
    for start in range(0, len(book), ROWS_AT_ONCE):
        part = gram[start : start + ROWS_AT_ONCE]
        squared = (norms[start : start + ROWS_AT_ONCE] ** 2)[:, None] + (norms**2)[None, :] - 2.0 * part
        part[:] = np.sqrt(np.maximum(squared, 0.0) + slack) * (1 + 1e-6)
    return gram


def _computed_on(device: str, book: np.ndarray) -> torch.Tensor:
    """The same on a device, in float64, independent of the TF32 setting; the remaining rounding error is far below the
    slack."""
    k, slack = len(book), _slack(book, _norms(book))
    wide = torch.from_numpy(book).to(device).double()
    squares = (wide * wide).sum(dim=1)
    out = torch.empty(k, k, device=device)

    def fill(at: slice) -> None:
        part = wide[at] @ wide.T
        part.mul_(-2).add_(squares[at][:, None]).add_(squares).clamp_min_(0.0).add_(slack)
        out[at] = part.sqrt_().mul_(1 + 1e-6)

    def what(rows: int) -> str:
        return f"the distances of {rows} of {k} centroids"

    step = max(SMALLEST_STEP, DEVICE_BYTES // (8 * k))
    for _ in by_slices(k, step, fill, Room(device), least=SMALLEST_STEP, what=what):
        pass
    return out
