"""Interrupts: they end the work that they interrupt, also when the exception is lost on its way.

A handler raises in whatever the main thread is at. That may be the callback of a weak reference, a finaliser or a
callback of the garbage collector, of which Python ignores exceptions; and between the steps of a run Dagster's handlers
only take note, and forget it when the run ends. Either way the work would go on to its end. Here every interrupt is
noted below the handlers, whichever are in force, and whoever does long work looks at the note between two pieces of it.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property, wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
Result = TypeVar("Result")

_INTERRUPTS = frozenset({signal.SIGINT, signal.SIGTERM})


class _Note:
    """The signals that arrived in a block. Of the process, as signals are."""

    def __init__(self) -> None:
        self.taking = False
        self.signals = b""  # a byte each

    @cached_property  # never closed: Python writes to it from a signal handler
    def pipe(self) -> tuple[int, int]:
        reading, writing = os.pipe()
        os.set_blocking(reading, False)
        os.set_blocking(writing, False)
        return reading, writing

    def read(self) -> bytes:
        with suppress(BlockingIOError):
            while more := os.read(self.pipe[0], 4096):
                self.signals += more
        return self.signals

    def clear(self) -> bytes:
        signals, self.signals = self.read(), b""
        return signals


_note = _Note()


@contextmanager
def interrupts_noted() -> Iterator[None]:
    """While the block lasts, note SIGINT and SIGTERM for `raise_interrupt`. Within another such block, or outside the
    main thread, in which signals arrive, it adds nothing."""
    if _note.taking or threading.current_thread() is not threading.main_thread():
        yield
        return
    _note.clear()
    before = -1
    try:
        before = signal.set_wakeup_fd(_note.pipe[1], warn_on_full_buffer=False)
        _note.taking = True
        yield
    finally:
        _note.taking = False
        _give_back(before)


def _give_back(descriptor: int) -> None:
    """Let signals be told to whoever was told of them before, such as an event loop, those too that arrived since."""
    try:
        signal.set_wakeup_fd(descriptor)
    except (OSError, ValueError):  # closed by now
        signal.set_wakeup_fd(-1)
        descriptor = -1
    signals = _note.clear()
    if descriptor != -1 and signals:
        with suppress(OSError):
            os.write(descriptor, signals)


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread if an interrupt arrived in the block, even if it was raised before:
    where somebody comes by here, that ended nothing."""
    if _note.taking and threading.current_thread() is threading.main_thread() and _INTERRUPTS & {*_note.read()}:
        raise KeyboardInterrupt


def letting_go(work: Callable[P, Result]) -> Callable[P, Result]:
    """Let an interrupted call go of everything it had begun.

    An interrupt may arrive when a context manager is entered and before its block is, which then never ends: the
    traceback holds it, and a notebook holds the traceback. The next call would wait for its transaction, or its lock.
    One that sets handlers ends late, and puts back what was there in the middle of the call: so they are set as before.
    """

    @wraps(work)
    def called(*arguments: P.args, **named: P.kwargs) -> Result:
        handlers = {number: signal.getsignal(number) for number in _INTERRUPTS}
        try:
            return work(*arguments, **named)
        except KeyboardInterrupt as interrupt:
            _clear_frames(interrupt)
            if threading.current_thread() is threading.main_thread():
                for number, handler in handlers.items():
                    if handler is not None:  # one that Python knows
                        signal.signal(number, handler)
            raise

    return called


def _clear_frames(problem: BaseException) -> None:
    """Close what hangs on the frames that an exception, and those that led to it, went through."""
    waiting: list[BaseException | None] = [problem]
    known: list[BaseException] = []
    while waiting:
        cause = waiting.pop()
        if cause is not None and not any(cause is other for other in known):
            known.append(cause)
            traceback.clear_frames(cause.__traceback__)
            waiting += [cause.__cause__, cause.__context__]
    gc.collect()


def _forget() -> None:
    """In a forked child: what it is sent is nothing to its parent, whose pipe it has."""
    global _note
    if _note.taking:
        signal.set_wakeup_fd(-1)
    _note = _Note()


os.register_at_fork(after_in_child=_forget)
