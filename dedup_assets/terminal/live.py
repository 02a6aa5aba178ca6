"""Live progress on a terminal, separated from other output."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TextIO

from rich.console import Console, ConsoleDimensions
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.text import Text

from dedup_assets.display_text import visible
from dedup_assets.progress import Listener
from dedup_assets.terminal.notebook import NotebookBars, in_notebook

NARROW = 60
"""Width below which a line has only names and counts."""


class ProgressBars:
    """One live bar for each stage."""

    def __init__(self, console: Console) -> None:
        columns: list[ProgressColumn] = [SpinnerColumn(), TextColumn("{task.description}")]
        if console.width >= NARROW:
            columns += [BarColumn(bar_width=None)]
        columns += [MofNCompleteColumn()]
        if console.width >= NARROW:
            columns += [TextColumn("{task.fields[unit]}"), TimeElapsedColumn()]
        self._bars = Progress(
            *columns,
            console=console,
            expand=True,
            # `live_progress` redirects the file descriptors, which covers Python's streams too.
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._tasks: dict[str, TaskID] = {}
        # Loading the libraries takes a few seconds, during which an empty screen would look like a hang.
        self._starting: TaskID | None = None

    def __enter__(self) -> ProgressBars:
        self._bars.start()
        self._starting = self._bars.add_task("starting", total=None, unit="")
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_starting()
        self._bars.stop()

    def print(self, line: str) -> None:
        """Show a line of other output above the bars."""
        self._bars.console.print(Text(visible(line)))

    def stage_noted(self, stage: str, note: str) -> None:
        """Show a note of a stage above the bars."""
        self.print(f"{stage}: {note}")

    def stage_started(self, stage: str) -> None:
        """Show the bar of a stage, without a total yet; a stopped bar continues."""
        self._remove_starting()
        if stage in self._tasks:
            self._entry(stage).stop_time = None
        else:
            self._tasks[stage] = self._bars.add_task(stage, total=None, unit="")

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """Set the total of the bar."""
        before = self._entry(stage).total or 0
        self._bars.update(self._tasks[stage], total=before + total, unit=unit)

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Advance the bar."""
        self._bars.advance(self._tasks[stage], amount)

    def stage_finished(self, stage: str) -> None:
        """Fill the bar of a stage that had nothing to do, and stop its clock."""
        if self._entry(stage).total is None:
            self._bars.update(self._tasks[stage], total=1, completed=1, unit="")
        self._bars.stop_task(self._tasks[stage])

    def _entry(self, stage: str) -> Task:
        return self._bars.tasks[self._bars.task_ids.index(self._tasks[stage])]

    def _remove_starting(self) -> None:
        if self._starting is not None:
            self._bars.remove_task(self._starting)
            self._starting = None


class Notes:
    """Prints only the notes of stages, a line each, where no bars can be drawn."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def stage_noted(self, stage: str, note: str) -> None:
        """Write the line."""
        self._out.write(visible(f"{stage}: {note}") + "\n")
        self._out.flush()

    def stage_started(self, stage: str) -> None:
        """Say nothing."""

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """Say nothing."""

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Say nothing."""

    def stage_finished(self, stage: str) -> None:
        """Say nothing."""


class _Terminal(Console):
    """A console that takes its size from its own file, because the standard streams are redirected meanwhile."""

    @property  # type: ignore[misc]  # never set here
    def size(self) -> ConsoleDimensions:
        if "COLUMNS" in os.environ:
            return super().size
        try:
            size = os.get_terminal_size(self.file.fileno())
        except OSError:
            return super().size
        return ConsoleDimensions(*size) if size.columns else super().size  # some report 0 for an unknown size


@contextmanager
def live_progress() -> Iterator[Listener]:
    """Bars if standard error is a terminal, otherwise notes only; standard output stays clean in both cases.

    Inside the block, writes to standard output go to standard error, so that libraries that print do not mix with the
    result. On a terminal, standard error goes through a pipe to lines above the bars. Both redirect the file
    descriptors, because compiled libraries and child processes write there, and because Dagster redirects them where it
    captures the output of a step.
    """
    sys.stdout.flush()
    with ExitStack() as stack:
        if _can_draw():
            listener: Listener = stack.enter_context(_bars_on_terminal())
        else:
            # A copy of the descriptor, because Dagster captures the output of a step.
            listener = Notes(stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8")))
        stack.enter_context(_redirected(1, 2))
        yield listener


@contextmanager
def caller_progress() -> Iterator[Listener | None]:
    """Progress for a caller of the Python functions: below the cell in a notebook, as bars on standard error on a
    terminal, none elsewhere.

    Standard output belongs to the caller: lines written to it go above the bars only if it is a terminal too.
    """
    with ExitStack() as stack:
        if in_notebook():
            yield stack.enter_context(NotebookBars())
        elif _is_own_terminal(sys.stderr, 2) and _can_draw() and _drawing.acquire(blocking=False):
            stack.callback(_drawing.release)
            both = _is_own_terminal(sys.stdout, 1)
            if both:
                sys.stdout.flush()
            bars = stack.enter_context(_bars_on_terminal())
            if both:
                stack.enter_context(_redirected(1, 2))
            yield bars
        else:
            yield None


_drawing = threading.Lock()
"""Held by the one call of a process whose bars are shown, because the descriptors can be redirected only once at a
time."""


def _can_draw() -> bool:
    return os.isatty(2) and os.environ.get("TERM") not in ("dumb", "unknown")


def _is_own_terminal(stream: TextIO | None, descriptor: int) -> bool:
    """Whether Python's stream is the terminal of the process and is not captured."""
    try:
        return stream is not None and stream.fileno() == descriptor and os.isatty(descriptor)
    except (OSError, ValueError, AttributeError):  # a stand-in without a descriptor, or closed
        return False


@contextmanager
def _bars_on_terminal() -> Iterator[ProgressBars]:
    with ExitStack() as stack:
        # Through a copy of the descriptor, the bars reach the terminal even where Dagster captures a step.
        terminal = stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8"))
        bars = stack.enter_context(ProgressBars(_Terminal(file=terminal)))
        stack.enter_context(_lines_above(bars))
        yield bars


@contextmanager
def _redirected(descriptor: int, target: int) -> Iterator[None]:
    """Redirect a file descriptor to the target of another."""
    saved = os.dup(descriptor)
    os.dup2(target, descriptor)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        os.dup2(saved, descriptor)
        os.close(saved)


@contextmanager
def _lines_above(bars: ProgressBars) -> Iterator[None]:
    """Show writes to standard error above the bars, line by line."""
    source, sink = os.pipe()

    def show() -> None:
        with os.fdopen(source, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                bars.print(line.rstrip("\n"))

    reader = threading.Thread(target=show, daemon=True)
    reader.start()
    try:
        with _redirected(2, sink):
            os.close(sink)
            yield
    finally:
        # A child process that outlives the block keeps the pipe open: do not wait for it indefinitely.
        reader.join(timeout=2)
