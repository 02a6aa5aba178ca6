"""The device of a Dask worker, its free memory, and tasks that report a failing device.

Runs on the workers: in this process, in other processes of this machine, or on other machines, whose GPUs the client
cannot see.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from dedup_assets.errors import NoRoomError
from dedup_assets.later import is_loaded, torch

GPU_TASKS = 2
"""Concurrent tasks on a GPU worker: while one uses the GPU, the other reads, gathers and orders on the host. More would
wait, and each holds its gathered rows."""

_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory.high",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)

heard_here: dict[str, Callable[[Any], None]] = {}
"""Listeners by topic for tasks that run in the client's own thread; tasks on workers send events through Dask."""

_turn = threading.Lock()


def device_turn(device: str) -> AbstractContextManager[Any]:
    """Hold this process's GPU inside the block, because its memory serves one task at a time. Does nothing on a CPU."""
    return nullcontext() if device == "cpu" else _turn


@dataclass(frozen=True)
class WorkerRoom:
    """The resources of one worker.

    Attributes
    ----------
    machine : str
        Workers of one machine share its memory.
    threads : int
        Concurrent tasks.
    free : int
        Free bytes of the machine's memory, within the limit of its container.
    device : {"cpu", "cuda"}
    device_free : int, optional
        Free bytes of its GPU.
    cores : int
        Cores of the machine that the worker may use.
    """

    machine: str
    threads: int
    free: int
    device: str
    device_free: int | None
    cores: int = 1


@dataclass(frozen=True)
class Refused:
    """The result of a task whose device is out of memory or broken, where a repetition would fail again.

    Dask would repeat a task with an exception on the same worker. `broken` is the error of the GPU, empty if it only
    lacks memory; `process` identifies the worker, because another may have its address later.
    """

    worker: str
    problem: str
    broken: str = ""
    process: int = 0


def worker_device(device: str) -> str:
    """The device for `auto` on a worker: its GPU if it has one."""
    if device != "auto":
        return device
    return "cuda" if cuda_available() else "cpu"


async def device_here() -> str:
    """The device for `auto` on the queried worker. Loading torch takes seconds, during which the worker still sends
    heartbeats."""
    return await asyncio.to_thread(worker_device, "auto")


_cuda: bool | None = None


def cuda_available() -> bool:
    """Whether torch can use a GPU here; determined once per process, and without loading torch where possible."""
    global _cuda
    if _cuda is None:
        _cuda = _may_have_cuda() and torch.cuda.is_available()
    return _cuda


def _may_have_cuda() -> bool:
    """Whether torch might find a GPU: without the driver's library its CUDA builds find none."""
    try:
        ctypes.CDLL("libcuda.so.1" if sys.platform == "linux" else None)
    except OSError:
        # Builds for AMD use the same name for their GPUs and include their own libraries.
        return is_loaded("torch") or "rocm" in metadata.version("torch")
    return True


def gpu_count() -> int:
    """Number of GPUs that this process may use."""
    return torch.cuda.device_count()


def cores_here() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def free_memory() -> int:
    """Free bytes of this machine's memory, within the limit of the container."""
    import psutil

    return min([int(psutil.virtual_memory().available), *_container_limits()])


def _container_limits() -> Iterator[int]:
    """Memory limits of the container in bytes, if there are any. They are read as in `distributed.system`, whose import
    takes a second."""
    for name in _CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # "max": no limit
            yield int(Path(name).read_text(encoding="ascii"))


def room_here(device: str, dask_worker: Any = None) -> WorkerRoom:
    """The resources of this process, as a Dask worker or on its own."""
    device = worker_device(device)
    free = None
    if device != "cpu":
        from dedup_assets.compute.device.memory import free_bytes

        free = free_bytes(device)
    threads = 1 if dask_worker is None else dask_worker.state.nthreads
    return WorkerRoom(socket.gethostname(), threads, free_memory(), device, free, cores_here())


def guarded(device: str, task: Callable[..., Any], *arguments: Any) -> Any:
    """Run a task; returns `Refused` if its device is out of memory or broken."""
    try:
        return task(*arguments)
    except Exception as problem:
        if isinstance(problem, NoRoomError):
            return Refused(_address(), str(problem))
        sign = _broken(worker_device(device))
        if not sign:
            raise
        return Refused(_address(), f"{type(problem).__name__}: {problem}", sign, os.getpid())


def nanny_runs(dask_worker: Any) -> bool:
    """Whether the worker of the nanny that runs this function is running."""
    return bool(dask_worker.status.name == "running")


def _broken(device: str) -> str:
    if device == "cpu":
        return ""
    from dedup_assets.compute.device.memory import broken

    return broken(device)


def _address() -> str:
    """Address of the worker that runs this task."""
    from distributed import get_worker

    try:
        return str(get_worker().address)
    except ValueError:  # not in a Dask task
        return ""
