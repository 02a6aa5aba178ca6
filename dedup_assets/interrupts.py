"""Interrupts end the work that they interrupt, even if the exception is lost on its way.

A signal handler raises in the code that the main thread is running. That may be the callback of a weak reference, a
finaliser or a callback of the garbage collector, whose exceptions Python ignores. Between the steps of a run, Dagster's
handlers only take a note, which is lost when the run ends. In both cases the work would continue to its end. Here every
interrupt is also recorded below the handlers, and long work checks the record between its parts.
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
    """The signals that arrived in a block. One for the process, like signals."""

    def __init__(self) -> None:
        self.taking = False
        self.signals = b""  # one byte each

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
    """Inside the block, record SIGINT and SIGTERM for `raise_interrupt`. It does nothing within another such block, or
    outside the main thread, which receives the signals."""
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
    """Restore the previous receiver of signals, such as an event loop, and pass on the signals that arrived since."""
    try:
        signal.set_wakeup_fd(descriptor)
    except (OSError, ValueError):  # already closed
        signal.set_wakeup_fd(-1)
        descriptor = -1
    signals = _note.clear()
    if descriptor != -1 and signals:
        with suppress(OSError):
            os.write(descriptor, signals)


def raise_interrupt() -> None:
    """Raise KeyboardInterrupt in the main thread if an interrupt arrived in the block, even if it was raised before:
    the exception ended nothing if the code gets here."""
    if _note.taking and threading.current_thread() is threading.main_thread() and _INTERRUPTS & {*_note.read()}:
        raise KeyboardInterrupt


def letting_go(work: Callable[P, Result]) -> Callable[P, Result]:
    """Make an interrupted call release all its resources.

    An interrupt may arrive after a context manager was entered and before its block begins. The manager then never
    exits: the traceback holds it, and a notebook holds the traceback. The next call would wait for its transaction or
    lock. A manager that sets signal handlers would exit late and restore handlers from the middle of the call, so the
    handlers are restored here.
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
                    if handler is not None:  # a handler that Python knows
                        signal.signal(number, handler)
            raise

    return called


def _clear_frames(problem: BaseException) -> None:
    """Clear the frames of an exception and its causes, which closes the objects they hold."""
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
    """In a forked child, which has its parent's pipe: its signals must not reach the parent."""
    global _note
    if _note.taking:
        signal.set_wakeup_fd(-1)
    _note = _Note()


os.register_at_fork(after_in_child=_forget)
