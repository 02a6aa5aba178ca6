"""A small device simulated with CPU tensors: allocations beyond its size fail as on a GPU.

It counts storages made by torch operations until they are freed. Scratch space inside an operation, fragmentation and
allocations of libraries are not simulated.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dedup_assets.compute.device import block as device_block
from dedup_assets.compute.device import cells as device_cells
from dedup_assets.compute.device import ghosts as device_ghosts
from dedup_assets.compute.device import join as device_join

TORCH_SAYS = "CUDA out of memory. Tried to allocate more than is simulated."
CUBLAS_SAYS = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


class SmallDevice(TorchDispatchMode):
    """Counts tensors made on a thread while it is active there.

    Attributes
    ----------
    capacity : int
        Bytes.
    held, peak, refused : int
        Current and peak bytes, and number of refused allocations.
    """

    def __init__(self, capacity: int, says: str = TORCH_SAYS) -> None:
        super().__init__()
        self.capacity, self.says = capacity, says
        self.held = self.peak = self.refused = 0
        self._storages: dict[int, tuple[int, int]] = {}  # tensors that share one, and its bytes
        self._lock = threading.RLock()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor)
        return out

    def _count(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            tensors, known = self._storages.get(key, (0, 0))
            if not tensors and self.held + size > self.capacity:
                self.refused += 1
                raise torch.OutOfMemoryError(self.says) if self.says == TORCH_SAYS else RuntimeError(self.says)
            self._storages[key] = (tensors + 1, size)
            self.held += size - known
            self.peak = max(self.peak, self.held)
        weakref.finalize(tensor, self._drop, key)

    def _drop(self, key: int) -> None:
        with self._lock:
            tensors, size = self._storages.pop(key)
            if tensors > 1:
                self._storages[key] = (tensors - 1, size)
            else:
                self.held -= size

    @contextmanager
    def active(self, tells: bool) -> Iterator[SmallDevice]:
        """Active in this thread and in those of the join; ``tells``: whether it reports its free memory."""

        def stream(make: Callable, items: int, threads: int, done: Any = None) -> Iterator[Any]:
            def watched(emit: Callable) -> Any:
                return _Watched(self, make(emit))

            return inner(watched, items, threads, done)

        inner = device_join.stream
        with ExitStack() as patches:
            patches.enter_context(patch.object(device_join, "stream", stream))
            if tells:
                for module in (device_block, device_cells, device_ghosts):
                    patches.enter_context(patch.object(module, "free_bytes", lambda device: self.capacity - self.held))
            with self:
                yield self


class _Watched:
    def __init__(self, device: SmallDevice, worker: Any) -> None:
        self._device, self._worker = device, worker

    def __call__(self, item: int) -> None:
        with self._device:
            self._worker(item)

    def finish(self) -> None:
        with self._device:
            self._worker.finish()
