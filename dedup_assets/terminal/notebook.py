"""Progress in a Jupyter notebook: one output below the cell, redrawn as stages report. It needs no widgets."""

from __future__ import annotations

import sys
import threading
import time
from dataclasses import dataclass, field
from html import escape
from typing import Any

REDRAW_SECONDS = 0.2
"""Seconds between two updates: each is a message to the browser."""


def in_notebook() -> bool:
    """Whether this process is the kernel of a notebook. IPython is queried only if it is already loaded."""
    get_ipython = getattr(sys.modules.get("IPython"), "get_ipython", None)
    return get_ipython is not None and getattr(get_ipython(), "kernel", None) is not None


@dataclass
class _Bar:
    total: int | None = None
    done: int = 0
    unit: str = ""
    started: float = field(default_factory=time.perf_counter)
    seconds: float | None = None

    def texts(self) -> tuple[str, str]:
        """The amount done, and the time it took."""
        count = f"{self.done:,}/{self.total:,} {self.unit}".rstrip() if self.total else ""
        spent = time.perf_counter() - self.started if self.seconds is None else self.seconds
        return count, f"{spent:.0f} s"


class NotebookBars:
    """Listens to the stages and draws a bar for each."""

    def __init__(self) -> None:
        self._bars: dict[str, _Bar] = {"starting": _Bar()}
        self._lock = threading.Lock()  # stages report from several threads
        self._handle: Any = None
        self._drawn = 0.0

    def __enter__(self) -> NotebookBars:
        from IPython.display import display

        self._handle = display(self, display_id=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.pop("starting", None)
        self._draw()

    def stage_started(self, stage: str) -> None:
        """Show the stage; a stopped one continues."""
        with self._lock:
            self._bars.pop("starting", None)
            self._bars.setdefault(stage, _Bar()).seconds = None
        self._draw()

    def stage_noted(self, stage: str, note: str) -> None:
        """Print a note of a stage below the cell."""
        print(f"{stage}: {note}")

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """Set the total of the bar."""
        with self._lock:
            bar = self._bars[stage]
            bar.total, bar.unit = (bar.total or 0) + total, unit
        self._draw()

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Advance the bar."""
        with self._lock:
            self._bars[stage].done += amount
        if time.perf_counter() - self._drawn >= REDRAW_SECONDS:
            self._draw()

    def stage_finished(self, stage: str) -> None:
        """Stop the clock of a stage."""
        with self._lock:
            bar = self._bars[stage]
            bar.seconds = time.perf_counter() - bar.started
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.perf_counter()
        self._handle.update(self)

    def __repr__(self) -> str:
        with self._lock:
            return "\n".join("  ".join([stage, *filter(None, bar.texts())]) for stage, bar in self._bars.items())

    def _repr_html_(self) -> str:
        with self._lock:
            return f"<table>{''.join(_row(stage, bar) for stage, bar in self._bars.items())}</table>"


def _row(stage: str, bar: _Bar) -> str:
    # Without a total the bar is animated.
    length = f"value='{bar.done}' max='{bar.total}'" if bar.total else "" if bar.seconds is None else "value='1'"
    count, spent = bar.texts()
    return (
        f"<tr><td style='text-align:left'>{escape(stage)}</td><td><progress {length}></progress></td>"
        f"<td>{escape(count)}</td><td>{spent}</td></tr>"
    )
