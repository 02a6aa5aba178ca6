"""Progress of stages: stages report it, listeners such as the command line show it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable


class Listener(Protocol):
    """Receives the reports of stages."""

    def stage_started(self, stage: str) -> None:
        """A stage begins."""

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        """The total of the stage is known."""

    def stage_advanced(self, stage: str, amount: int) -> None:
        """Some units are done."""

    def stage_finished(self, stage: str) -> None:
        """A stage ends, successfully or not."""


@runtime_checkable
class NoteListener(Protocol):
    """Also receives notes of a stage."""

    def stage_noted(self, stage: str, note: str) -> None:
        """A stage gives a note of one line."""


@dataclass
class StageTime:
    """Time and rows of one stage, summed over the runs of a call."""

    seconds: float = 0.0
    rows: int = 0


@dataclass
class StageClock:
    """Collects the compute time of stages. The remaining wall time is orchestration."""

    stages: dict[str, StageTime] = field(default_factory=dict)

    def add(self, stage: str, seconds: float, rows: int) -> None:
        """Add a finished stage."""
        entry = self.stages.setdefault(stage, StageTime())
        entry.seconds += seconds
        entry.rows += rows

    @property
    def seconds(self) -> float:
        """Compute time of all stages."""
        return sum(entry.seconds for entry in self.stages.values())


class Progress:
    """One stage's reports."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.before: Callable[[], None] = lambda: None
        """Called before each report; an exception from it ends the stage."""

    def total(self, total: int, unit: str) -> None:
        """Announce the number of units (`records`, `texts`, `cells`, `shards`) to do."""
        for listener in _listeners:
            listener.stage_total(self.stage, total, unit)

    def note(self, note: str) -> None:
        """Give a note of one line to the user while the stage runs."""
        for listener in _listeners:
            if isinstance(listener, NoteListener):
                listener.stage_noted(self.stage, note)

    def advance(self, amount: int) -> None:
        """Report units done."""
        self.before()
        for listener in _listeners:
            listener.stage_advanced(self.stage, amount)


_listeners: list[Listener] = []
_clocks: list[StageClock] = []


@contextmanager
def listening(listener: Listener | None, clock: StageClock) -> Iterator[None]:
    """Listen to the stages of this process inside the block."""
    if listener is not None:
        _listeners.append(listener)
    _clocks.append(clock)
    try:
        yield
    finally:
        _clocks.remove(clock)
        if listener is not None:
            _listeners.remove(listener)


@contextmanager
def stage_progress(stage: str) -> Iterator[tuple[Progress, StageTime]]:
    """Time a stage and report it. Set `rows` on the yielded time to the rows it worked on."""
    spent = StageTime()
    for listener in _listeners:
        listener.stage_started(stage)
    started = time.perf_counter()
    try:
        yield Progress(stage), spent
    finally:
        spent.seconds = time.perf_counter() - started
        for clock in _clocks:
            clock.add(stage, spent.seconds, spent.rows)
        for listener in _listeners:
            listener.stage_finished(stage)
