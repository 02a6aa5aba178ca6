"""Runs workers over numbered items and streams their output. It has no notion of cells or matches."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import Empty, Full, Queue
from typing import Any, Protocol


class Worker(Protocol):
    """Works on one item per call; emits through the function given at its construction."""

    def __call__(self, item: int, /) -> None: ...

    def finish(self) -> None: ...


def stream(
    make: Callable[[Callable[[Any], None]], Worker],
    items: int,
    threads: int,
    done: Callable[[], None] | None = None,
) -> Iterator[Any]:
    """Yield the values that workers emit for items 0 … items - 1, in no particular order.

    At most two emitted values per thread wait for the consumer: a worker may emit any number of values within an item
    without growing memory. `done` is called after each item, by the thread that worked on it. A consumer that stops
    early stops the workers. An error in a worker is raised here.
    """
    return _threaded(make, items, max(1, min(threads, items)), done)


def _threaded(make: Callable, items: int, threads: int, done: Callable[[], None] | None) -> Iterator[Any]:
    queue: Queue = Queue(maxsize=2 * threads)
    stop = threading.Event()
    numbers = iter(range(items))
    turn = threading.Lock()

    def emit(value: Any) -> None:
        while not stop.is_set():
            try:
                queue.put(value, timeout=0.1)
                return
            except Full:
                continue
        raise _Stopped

    def run() -> None:
        outcome: Any = _DONE
        try:
            worker = make(emit)
            while not stop.is_set():
                with turn:
                    item = next(numbers, None)
                if item is None:
                    break
                worker(item)
                if done is not None:
                    done()
            worker.finish()
        except _Stopped:
            return
        except BaseException as error:  # the consumer has it
            outcome = error
        try:
            emit((_DONE, outcome))
        except _Stopped:
            return

    pool = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
    for thread in pool:
        thread.start()
    try:
        running = threads
        while running:
            try:
                value = queue.get(timeout=1.0)
            except Empty:
                continue
            if isinstance(value, tuple) and len(value) == 2 and value[0] is _DONE:
                running -= 1
                if value[1] is not _DONE:
                    raise value[1]
            else:
                yield value
    finally:
        stop.set()
        for thread in pool:
            thread.join()


_DONE = object()


class _Stopped(Exception):
    """The consumer has stopped."""
