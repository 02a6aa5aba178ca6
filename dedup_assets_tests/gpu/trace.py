"""Counts launches, host waits and host seconds of a device, on CPU tensors.

A launch is an operation of torch that computes or writes: views and empty tensors are none. A wait is where the host
goes on only when the device has reached it: a number or an array comes to the host, an operation whose result has a
size that the device finds out (nonzero, a mask as an index, unique), or memory that is not pinned is sent. Some
operations launch several kernels, so launches on a GPU are more. Which tensors lie on the host is known from where they
come from; what is done with those alone counts as work of the host.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dedup_assets.compute.device import join as device_join

WAITS = (
    *("_local_scalar_dense", "is_nonzero", "item", "nonzero", "equal", "masked_select"),
    *("_unique2", "unique_dim", "unique_consecutive"),
)
"""Operations that return a number or a size to the host."""

EMPTY = ("empty", "new_empty", "empty_like", "empty_strided", "new_empty_strided", "lift_fresh", "detach", "alias")


class Operations(TorchDispatchMode):
    """Counts while it is active on a thread, and on those of a join.

    Attributes
    ----------
    launches, waits : Counter of str
        By operation.
    inside, workers : float
        Processor seconds of the operations themselves, which a device would spend, and of the join's threads.
    met : int
        Operations of any kind, including those that launch nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.launches: Counter[str] = Counter()
        self.waits: Counter[str] = Counter()
        self.inside = self.workers = 0.0
        self.met = 0
        self._lock = threading.Lock()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, torch.Tensor)]
        on_host = bool(given) and all(map(_is_on_host, given))
        waits = name in WAITS or _hidden_wait(name, args, kwargs)
        started = time.thread_time()
        out = func(*args, **kwargs)
        spent = time.thread_time() - started
        if on_host:
            self.met += 1
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    tensor.lies_on_host = True  # type: ignore[attr-defined]
            return out
        with self._lock:
            self.inside += spent
            self.met += 1
            if not func.is_view and name not in EMPTY:
                self.launches[name] += 1
            if waits:
                self.waits[name] += 1
        return out

    @contextmanager
    def active(self) -> Iterator[Operations]:
        """Active in this thread and in those of a join."""
        inner, to_host, send, take = device_join.stream, torch.Tensor.cpu, torch.Tensor.to, torch.from_numpy

        def cpu(tensor: torch.Tensor) -> torch.Tensor:
            if not _is_on_host(tensor):
                self._moved("to the host", True)
            return _marked(to_host(tensor), True)

        def to(tensor: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
            there = send(tensor, *arguments, **named)
            if not _is_on_host(tensor) or not _names_device(arguments, named):
                return there
            self._moved("to the device", not named.get("non_blocking"))
            return _marked(there, False)

        def from_numpy(array: Any) -> torch.Tensor:
            return _marked(take(array), True)

        def stream(make: Callable, items: int, threads: int, done: Any = None) -> Iterator[Any]:
            return inner(lambda emit: _Watched(self, make(emit)), items, threads, done)

        with ExitStack() as patches:
            patches.enter_context(patch.object(torch.Tensor, "cpu", cpu))
            patches.enter_context(patch.object(torch.Tensor, "to", to))
            patches.enter_context(patch.object(torch, "from_numpy", from_numpy))
            patches.enter_context(patch.object(device_join, "stream", stream))
            patches.enter_context(self)
            yield self

    def _moved(self, where: str, waits: bool) -> None:
        with self._lock:
            self.launches[where] += 1
            self.waits[where] += waits

    def host(self, work: Callable[[], Any]) -> tuple[Any, float]:
        """The result of some work, and processor seconds of this thread and of the join's threads outside of
        operations, without the cost of counting."""
        before = self.mark()
        started = time.thread_time()
        with self.active():
            result = work()
        return result, self.host_since(before, time.thread_time() - started)

    def mark(self) -> tuple[float, float, int]:
        """The current state, for `host_since`."""
        return self.inside, self.workers, self.met

    def host_since(self, mark: tuple[float, float, int], own: float = 0.0) -> float:
        """Processor seconds outside of operations: ``own`` of this thread, plus those of the join's threads."""
        inside, workers, met = mark
        spent = own + self.workers - workers - (self.inside - inside)
        return max(0.0, spent - (self.met - met) * _cost_of_counting())

    @property
    def total(self) -> int:
        """Launches."""
        return sum(self.launches.values())


class _Watched:
    """A worker of a join whose operations are counted."""

    def __init__(self, operations: Operations, worker: Any) -> None:
        self._operations, self._worker = operations, worker

    def __call__(self, item: int) -> None:
        self._count(lambda: self._worker(item))

    def finish(self) -> None:
        self._count(self._worker.finish)

    def _count(self, work: Callable[[], None]) -> None:
        started = time.thread_time()
        try:
            with self._operations:
                work()
        finally:
            with self._operations._lock:
                self._operations.workers += time.thread_time() - started


def _is_on_host(tensor: torch.Tensor) -> bool:
    """Whether the tensor derives from an array of the host."""
    return getattr(tensor, "lies_on_host", False)


def _marked(tensor: torch.Tensor, on_host: bool) -> torch.Tensor:
    """A tensor with the same numbers and the mark."""
    tensor = tensor.view_as(tensor)
    tensor.lies_on_host = on_host  # type: ignore[attr-defined]
    return tensor


def _names_device(arguments: Any, named: Any) -> bool:
    return named.get("device") is not None or any(isinstance(given, (str, torch.device)) for given in arguments)


def _hidden_wait(name: str, args: Any, kwargs: Any) -> bool:
    """Whether an operation determines a size internally."""
    if name in ("index", "index_put_", "_index_put_impl_"):
        return any(at is not None and at.dtype in (torch.bool, torch.uint8) for at in args[1])
    if name == "repeat_interleave":
        return kwargs.get("output_size") is None and len(args) < 3
    return name == "bincount"


_cost: list[float] = []


def _cost_of_counting() -> float:
    """Processor seconds for counting one operation, without the operation."""
    if not _cost:
        one, times, operations = torch.zeros(1), 5_000, Operations()
        with operations:
            started = time.thread_time()
            for _ in range(times):
                one.add_(1)
            spent = time.thread_time() - started
        _cost.append(max(0.0, spent - operations.inside) / times)
    return _cost[0]
