"""Fewer disk flushes for Dagster's SQLite files, without losing their consistency.

Dagster opens a connection for every event and closes it after. In SQLite's write-ahead mode the last
connection to close copies the log into the database and flushes both: 170 flushes for each partition of a
seven-asset run, three quarters of its time on a slow disk. Here one more connection to each file stays open
for the duration, and commits are flushed with the log (`synchronous = NORMAL`): a tenth of the flushes, 3 to 5
times as fast for 20 partitions. A killed process loses nothing; a power failure can lose the last events of
Dagster's history and corrupts nothing. What the curation itself rests on is the workspace's ledger, which
flushes every transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import event
from sqlalchemy.engine import Engine


@contextmanager
def steady_sqlite(folder: Path) -> Iterator[None]:
    """Keep the SQLite files under `folder` open, and flush them less, while the block lasts."""
    root = folder.resolve()
    held: dict[str, sqlite3.Connection] = {}
    lock = threading.Lock()

    def connected(connection: object, _: object) -> None:
        if not isinstance(connection, sqlite3.Connection):
            return
        path = connection.execute("PRAGMA database_list").fetchone()[2]
        if not path or root not in Path(path).resolve().parents:
            return
        connection.execute("PRAGMA synchronous = NORMAL")
        with lock:
            if path not in held:
                held[path] = sqlite3.connect(path, check_same_thread=False)
            # Only a connection that has read since the file went into write-ahead mode counts as open.
            held[path].execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchall()

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)
        for connection in held.values():
            connection.close()
