"""Pieces of work done side by side on threads, whose results are taken in the order of the pieces."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Stopped(Exception):
    """Nobody wants the result of this piece of work any more."""


@contextmanager
def ahead(
    work: Callable[[Item, Callable[[], None]], Result], items: Sequence[Item], threads: int
) -> Iterator[Iterator[tuple[Item, Callable[[], Result]]]]:
    """Yield an iterator over items, each with a call that gives ``work(item, look)`` or raises what that raised.

    At most twice as many pieces as threads are begun before their turn. A piece calls ``look`` now and then: it raises
    `Stopped` once the block is left, by an interrupt for instance, and what is under way ends there. With one thread,
    or one item, the work is done in the calling thread when its result is asked for.
    """
    stop = threading.Event()

    def look() -> None:
        if stop.is_set():
            raise Stopped

    def results(pool: ThreadPoolExecutor) -> Iterator[tuple[Item, Callable[[], Result]]]:
        waiting: deque[tuple[Item, Callable[[], Result]]] = deque()
        for item in items:
            if len(waiting) == 2 * threads:
                yield waiting.popleft()
            waiting.append((item, pool.submit(work, item, look).result))
        yield from waiting

    if threads <= 1 or len(items) <= 1:
        yield ((item, partial(work, item, look)) for item in items)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            yield results(pool)
        finally:
            stop.set()
            pool.shutdown(wait=False, cancel_futures=True)
