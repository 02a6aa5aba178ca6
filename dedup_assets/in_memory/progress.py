"""Progress of a call in memory, for display."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from dedup_assets.progress import Listener


class Stages:
    """The stages of one call, reported to its own listener, because several calls may run in threads."""

    def __init__(self, listener: Listener | None) -> None:
        self._listener = listener

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[int, int, str], None]]:
        """Report a stage; call the yielded function with the amount done, the total and its unit."""
        listener, told = self._listener, False
        if listener is None:
            yield lambda amount, total, unit: None
            return

        def advance(amount: int, total: int, unit: str) -> None:
            nonlocal told
            if not told:
                told = True
                listener.stage_total(name, total, unit)
            listener.stage_advanced(name, amount)

        listener.stage_started(name)
        try:
            yield advance
        finally:
            listener.stage_finished(name)


@contextmanager
def shown_stages(progress: bool) -> Iterator[Stages]:
    """Stages shown in a notebook, or on standard error if it is a terminal; False: not shown."""
    if not progress:
        yield Stages(None)
        return
    from dedup_assets.terminal.live import caller_progress

    with caller_progress() as listener:
        yield Stages(listener)
