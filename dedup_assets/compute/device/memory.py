"""Memory of a device: how much is free, and the one place where work that does not fit is halved and retried.

All work whose memory grows with its input runs through `in_halves`.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from dedup_assets.errors import NoRoomError, first_line
from dedup_assets.later import torch

Part = TypeVar("Part")
Result = TypeVar("Result")

REMEDY = "Free the device, or use --device cpu: the decisions are the same."

_SIGNS = (
    "out of memory",
    "out_of_memory",
    "bad_alloc",
    "cublas_status_alloc_failed",
    # The error of cuBLAS where there is no memory for its handle (karpathy/llama2.c issue 279 and many others).
    "cublas_status_not_initialized",
    "cusolver_status_alloc_failed",
    "cudnn_status_alloc_failed",
)


@dataclass
class Room:
    """The largest work a device accepts at a time: an initial value, lowered whenever the device refuses work.

    Attributes
    ----------
    device : str
    most : float
        In the unit of the work: rows, products or bytes.
    """

    device: str
    most: float = math.inf


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a device was out of memory: torch's own error, one of a CUDA library, or one that RMM raises under torch.

    A pluggable allocator's C++ exception arrives as a plain RuntimeError (pytorch issue 133280), and so do the status
    codes of cuBLAS, which allocates memory outside of any allocator.
    """
    if isinstance(error, (torch.OutOfMemoryError, MemoryError, NoRoomError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _SIGNS)


def release(device: str) -> None:
    """Free cached memory before a smaller attempt. Call it outside the except block: a traceback holds the tensors of
    the frames it passed."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()


def free_bytes(device: str) -> int | None:
    """Bytes that a GPU has free for this process, including torch's unused cache; None on CPU tensors."""
    if torch.device(device).type != "cuda":
        return None
    free, _ = torch.cuda.mem_get_info(device)
    if torch.cuda.get_allocator_backend() != "pluggable":  # RMM's pool, for example, reports nothing to torch
        free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(free)


def in_halves(
    whole: Part,
    work: Callable[[Part], Iterable[Result]],
    halves: Callable[[Part], list[Part] | None],
    size: Callable[[Part], float],
    room: Room,
    what: Callable[[Part], str],
    make_room: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """Yield the results of some work in order; a part that does not fit the device is halved until it does.

    Parameters
    ----------
    whole
        The whole work.
    work
        Does a part and yields results. A part that fails half way is repeated in halves, so its earlier results come
        twice.
    halves
        Splits a part into smaller ones that are the same work together; None if it cannot be divided, empty if nothing
        is left to do.
    size
        Size of a part, in the unit of `room`.
    room
        A part larger than its limit is halved without an attempt.
    what
        Describes a part, for the error.
    make_room
        Frees memory that is held between parts; called before the next attempt.

    Raises
    ------
    NoRoomError
        The device refuses a part that cannot be divided.
    """
    waiting = [whole]
    while waiting:
        part = waiting.pop()
        if size(part) > room.most and (smaller := halves(part)) is not None:
            waiting += reversed(smaller)
            continue
        try:
            yield from work(part)
            continue
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            # Without its traceback, which holds the tensors of the attempt.
            inner = error.with_traceback(None) if isinstance(error, NoRoomError) else None
            problem = first_line(error)
        make_room()
        release(room.device)
        room.most = min(room.most, size(part)) / 2
        divided = halves(part)
        if divided is None:
            raise inner or NoRoomError(f"{room.device} has no memory for {what(part)}: {problem}. {REMEDY}")
        waiting += reversed(divided)


def by_slices(
    n: int,
    step: int,
    work: Callable[[slice], Result],
    room: Room,
    *,
    least: int,
    what: Callable[[int], str],
    unit: int = 1,
    make_room: Callable[[], None] = lambda: None,
) -> Iterator[Result]:
    """`in_halves` over the numbers 0 to n - 1: `work` does a slice of at most ``step`` numbers, halved down to
    ``least``. Each number counts ``unit`` towards the room."""

    def halves(at: slice) -> list[slice] | None:
        length = at.stop - at.start
        if length <= least:
            return None
        middle = at.start + max(least, length // 2)
        return [slice(at.start, middle), slice(middle, at.stop)]

    for start in range(0, n, max(1, step)):
        yield from in_halves(
            slice(start, min(start + step, n)),
            lambda at: (work(at),),
            halves,
            lambda at: unit * (at.stop - at.start),
            room,
            lambda at: what(at.stop - at.start),
            make_room,
        )


def broken(device: str) -> str:
    """Why a GPU no longer works for this process; empty if it does.

    After an illegal access, a device-side assertion or an uncorrectable memory error, every later call of the process
    fails with the same error, and the process must end. A lack of memory is not such a state.
    """
    if torch.device(device).type != "cuda" or not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize(device)
        if float(torch.ones(1, device=device) + 1) != 2:
            return "it adds wrongly"
    except Exception as error:
        return "" if is_out_of_memory(error) else first_line(error)
    return ""
