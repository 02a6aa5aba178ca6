"""Curations in separate processes that start quickly: forked from a server that has imported everything.

The server has no Python threads, so its children behave like new processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import dedup_assets as da

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    ["dedup_assets.api", "dedup_assets.definitions", "dedup_assets.compute.join", "distributed"]
)


class Watch:
    """Listens to stages; `stage` is the current one."""

    def __init__(self, started: Callable[[str], None] = lambda stage: None) -> None:
        self.stage = ""
        self._started = started

    def stage_started(self, stage: str) -> None:
        self.stage = stage
        self._started(stage)

    def stage_total(self, stage: str, total: int, unit: str) -> None:
        pass

    def stage_advanced(self, stage: str, amount: int) -> None:
        pass

    def stage_finished(self, stage: str) -> None:
        pass


def die() -> None:
    """End this process as `kill -9` does: nothing is flushed, closed or rolled back."""
    os.kill(os.getpid(), signal.SIGKILL)
    signal.pause()


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """Run a function of a test module in a child."""
    process = _CONTEXT.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def barrier(parties: int) -> Any:
    """A barrier that children can be given."""
    return _CONTEXT.Barrier(parties)


def curate(paths: Sequence[Path], workspace: Path, log: Path, watch: Watch, **options: Any) -> None:
    """Curate in this child; errors are written to `log`."""
    with said_to(log):
        da.curate(*paths, workspace=workspace, listener=watch, embedding_column="vector", **options)


def curate_until(paths: Sequence[Path], workspace: Path, log: Path, last: str) -> None:
    """Curate in this child until a stage begins, which kills it."""
    curate(paths, workspace, log, Watch(lambda stage: die() if stage == last else None))


@contextmanager
def said_to(log: Path) -> Iterator[None]:
    """Write errors of this child to `log`."""
    try:
        yield
    except BaseException:
        log.write_text(traceback.format_exc())
        raise
