"""Work on several items in parallel threads, with the results in the order of the items."""

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
    """The result of this piece of work is no longer needed."""


@contextmanager
def ahead(
    work: Callable[[Item, Callable[[], None]], Result], items: Sequence[Item], threads: int
) -> Iterator[Iterator[tuple[Item, Callable[[], Result]]]]:
    """Yield an iterator over the items, each with a function that returns the result of ``work(item, look)`` or raises
    its exception.

    At most twice as many items as threads are submitted ahead of the one yielded. ``work`` should call ``look``
    regularly: it raises `Stopped` once the ``with`` block is left, for instance by an interrupt, which ends running
    work. With one thread or one item, the calling thread does the work when it calls the function.
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
