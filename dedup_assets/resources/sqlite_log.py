"""Less work for Dagster's SQLite files, without losing their consistency.

Dagster makes an engine and opens a connection for every statement or two, some twelve for each event, and closes
them after. That costs twice. In SQLite's write-ahead mode the last connection to close copies the log into the
database and flushes both: 170 flushes for each partition of a seven-asset run, three quarters of its time on a slow
disk. And a new engine compiles every statement anew: half of the processor's time beyond the stages' own.

Here one more connection to each file stays open for the duration, commits are flushed with the log
(`synchronous = NORMAL`), a tenth of the flushes, and an engine is made once for each file. A killed process loses
nothing; a power failure can lose the last events of Dagster's history and corrupts nothing. What the curation itself
rests on is the workspace's ledger, which flushes every transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

MAKERS: tuple[ModuleType, ...] = (sqlite_event_log, sqlite_run_storage)
"""Dagster's modules that make an engine for every use."""


@contextmanager
def steady_sqlite(folder: Path) -> Iterator[None]:
    """Keep the SQLite files under `folder` open, and flush them less, while the block lasts."""
    root = folder.resolve()
    held: dict[str, sqlite3.Connection] = {}
    steady: set[str] = set()
    lock = threading.Lock()

    @cache
    def inside(path: str) -> bool:
        return bool(path) and root in Path(path).resolve().parents

    def connected(connection: object, _: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        if not inside(path):
            return
        connection.execute("PRAGMA synchronous = NORMAL")
        if path in steady:
            return
        with lock:
            if path not in held:
                held[path] = sqlite3.connect(path, check_same_thread=False)
            # Only a connection that has read since the file went into write-ahead mode counts as open.
            held[path].execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            if held[path].execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                steady.add(path)

    event.listen(Engine, "connect", connected)
    try:
        with ExitStack() as open_engines:
            for module in MAKERS:
                maker = open_engines.enter_context(_once(module.create_engine))
                open_engines.enter_context(patch.object(module, "create_engine", maker))
            yield
    finally:
        event.remove(Engine, "connect", connected)
        for connection in held.values():
            connection.close()


@contextmanager
def _once(create_engine: Callable[..., Engine]) -> Iterator[Callable[..., Engine]]:
    """Give the engine that was made for a file before, with its connections, until the block ends."""
    engines: dict[str, Engine] = {}
    lock = threading.Lock()

    def engine_of(address: str, **options: Any) -> Engine:
        with lock:
            if address not in engines:
                # A pool in place of Dagster's none, which it empties after each use.
                engines[address] = create_engine(address, **{**options, "poolclass": QueuePool})
                engines[address].dispose = lambda close=True: None  # type: ignore[method-assign]
            return engines[address]

    try:
        yield engine_of
    finally:
        for engine in engines.values():
            Engine.dispose(engine)
