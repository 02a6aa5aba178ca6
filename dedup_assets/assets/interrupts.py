"""An interrupt that ends a run, also where it arrives at a bad moment.

Dagster's handler raises in whatever the main thread is at. That may be the callback of a weak reference or a finaliser,
of which Python ignores exceptions: the run would go on to its end although it was cancelled. Here the handler notes the
interrupt too, and the stages look at the note between two pieces of work.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import dagster as dg

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_noted = threading.Event()  # of the process, as signals are


@contextmanager
def interrupts_noted() -> Iterator[Callable[[], None]]:
    """While the block lasts, note what Dagster's handlers are called for; yields a function that raises it again."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None  # signals arrive in the main thread
        return
    handlers = {number: signal.getsignal(number) for number in _SIGNALS}

    def note(number: int, frame: FrameType | None) -> None:
        _noted.set()
        handler = handlers[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    for number, handler in handlers.items():
        if callable(handler):
            signal.signal(number, note)
    try:
        yield _raise_noted
        _raise_noted()
    finally:
        for number, handler in handlers.items():
            if callable(handler):
                signal.signal(number, handler)
        _noted.clear()


def _raise_noted() -> None:
    if _noted.is_set() and threading.current_thread() is threading.main_thread():
        _noted.clear()
        raise dg.DagsterExecutionInterruptedError
