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
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from dagster._core.storage.event_log.sqlite import sqlite_event_log
from dagster._core.storage.runs.sqlite import sqlite_run_storage
from sqlalchemy import event, make_url
from sqlalchemy.engine import Engine
from sqlalchemy.pool import QueuePool

MAKERS: tuple[ModuleType, ...] = (sqlite_event_log, sqlite_run_storage)
"""Dagster's modules that make an engine for every use."""


@contextmanager
def steady_sqlite(folder: Path) -> Iterator[None]:
    """Keep the SQLite files under `folder` open, and flush them less, while the block lasts. Blocks may overlap, in
    threads too, for one folder or several."""
    files = _Files(folder.resolve())
    with _lock:
        _listen()
        if not _blocks:
            for module in MAKERS:
                _makers[module] = module.create_engine
                module.create_engine = _engine_maker(module.create_engine)  # type: ignore[attr-defined]
        _blocks.append(files)
    try:
        yield
    finally:
        with _lock:
            _blocks.remove(files)
            if not _blocks:
                for module, maker in _makers.items():
                    module.create_engine = maker  # type: ignore[attr-defined]
        files.close()


class _Files:
    """The files under a folder, while a block lasts: a connection that holds each open, and an engine for each."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._held: dict[str, sqlite3.Connection] = {}
        self._steady: set[str] = set()
        self._engines: dict[str, Engine] = {}
        self._closed = False
        self._lock = threading.Lock()
        self.inside = cache(self._inside)

    def _inside(self, path: str | None) -> bool:
        return bool(path) and self._root in Path(str(path)).resolve().parents

    def hold(self, path: str) -> None:
        """Keep a file open that somebody has just connected to."""
        if path in self._steady:
            return
        with self._lock:
            if self._closed:
                return
            if path not in self._held:
                self._held[path] = sqlite3.connect(path, check_same_thread=False)
            # Only a connection that has read since the file went into write-ahead mode counts as open.
            self._held[path].execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()
            if self._held[path].execute("PRAGMA journal_mode").fetchone()[0] == "wal":
                self._steady.add(path)

    def engine(self, create_engine: Callable[..., Engine], address: str, options: dict[str, Any]) -> Engine:
        """The engine that was made for a file before, with its connections."""
        with self._lock:
            if address not in self._engines:
                # A pool in place of Dagster's none, which it empties after each use.
                engine = create_engine(address, **{**options, "poolclass": QueuePool})
                engine.dispose = lambda close=True: None  # type: ignore[method-assign]
                self._engines[address] = engine
            return self._engines[address]

    def close(self) -> None:
        """Close what is held; another thread may just have heard of a connection."""
        with self._lock:
            self._closed = True
            for engine in self._engines.values():
                Engine.dispose(engine)
            for connection in self._held.values():
                connection.close()


_blocks: list[_Files] = []
_makers: dict[ModuleType, Callable[..., Engine]] = {}
_lock = threading.Lock()


@cache
def _listen() -> None:
    """Hear of connections, from now on: who stops to listen spoils what other threads iterate over."""
    event.listen(Engine, "connect", _connected)


def _connected(connection: object, _: object) -> None:
    blocks = list(_blocks)
    if not blocks or not isinstance(connection, sqlite3.Connection):
        return
    path = connection.execute("PRAGMA database_list").fetchone()[2]
    mine = [files for files in blocks if files.inside(path)]
    if mine:
        connection.execute("PRAGMA synchronous = NORMAL")
    for files in mine:
        files.hold(path)


def _engine_maker(create_engine: Callable[..., Engine]) -> Callable[..., Engine]:
    """What takes the place of a module's `create_engine`."""

    def engine_of(address: str, **options: Any) -> Engine:
        path = make_url(address).database
        files = next((files for files in list(_blocks) if files.inside(path)), None)
        return create_engine(address, **options) if files is None else files.engine(create_engine, address, options)

    return engine_of
