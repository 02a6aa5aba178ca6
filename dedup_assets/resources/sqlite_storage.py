"""Dagster's SQLite storage with less work for each event and the same consistency.

Dagster makes an engine and opens a connection for every one or two statements, about twelve for each event, and closes
them afterwards. That has two costs. In SQLite's write-ahead mode the last connection to close copies the log into the
database and flushes both: 170 flushes for each partition of a seven-asset run, three quarters of its time on a slow
disk. And a new engine compiles every statement again: half of the processor time outside the stages.

Here each file has one engine that keeps its connections, and commits are flushed with the log (`synchronous = NORMAL`),
which needs a tenth of the flushes. A killed process loses nothing; a power failure can lose the last events of
Dagster's history and corrupts nothing. The curation itself relies on the workspace's ledger, which flushes every
transaction.

The file format is Dagster's: both storages can read and write the files, even concurrently.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.sqlite_storage import DagsterSqliteStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, create_engine, event, inspect

_BUSY_SECONDS = 30
_MOST_ENGINES = 8
"""Number of event files whose connections stay open: a history has one file for each run, and a process has few
descriptors."""


def with_steady_storage(reference: InstanceRef) -> InstanceRef:
    """The same instance with this storage instead of Dagster's own SQLite; another storage is left unchanged."""
    storage = reference.storage_data
    if storage is None or storage.class_name != DagsterSqliteStorage.__name__:
        return reference
    steady = ConfigurableClassData(__name__, SteadySqliteStorage.__name__, storage.config_yaml)
    return reference._replace(storage_data=steady)


class SteadySqliteStorage(DagsterSqliteStorage):
    """Dagster's SQLite storage with few flushes for runs and events."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__(base_dir, inst_data)
        self._run_storage = SteadyRunStorage(self._run_storage._conn_string)
        self._event_log_storage = SteadyEventLogStorage(self._event_log_storage._base_dir)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> SteadySqliteStorage:
        """Called by Dagster with the settings of an instance."""
        return cls.from_local(inst_data=inst_data, **config_value)


class SteadyRunStorage(SqliteRunStorage):
    """The runs, in one file."""

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engine = _engine(conn_string)
        super().__init__(conn_string, inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A transaction."""
        with self._engine.begin() as connection:
            yield connection

    def dispose(self) -> None:
        """Close the connections."""
        super().dispose()
        self._engine.dispose()


class SteadyEventLogStorage(SqliteEventLogStorage):
    """The events: a file for each run, and one for all asset events."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: OrderedDict[str, Engine] = OrderedDict()
        self._engines_lock = threading.Lock()
        super().__init__(base_dir, inst_data)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engine_of(shard)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
            with engine.begin() as connection:
                yield connection

    def has_table(self, table_name: str) -> bool:
        """Whether the file of asset events has a table. Dagster also calls this inside a transaction."""
        return inspect(self._engine_of(INDEX_SHARD_NAME)).has_table(table_name)

    def _engine_of(self, shard: str) -> Engine:
        with self._engines_lock:
            if shard not in self._engines:
                self._engines[shard] = _engine(self.conn_string_for_shard(shard))
            self._engines.move_to_end(shard)
            if len(self._engines) > _MOST_ENGINES:
                self._engines.popitem(last=False)[1].dispose()
            return self._engines[shard]

    def wipe(self) -> None:
        """Remove all events."""
        self._close()
        super().wipe()

    def dispose(self) -> None:
        """Close the connections."""
        super().dispose()
        self._close()

    def _close(self) -> None:
        with self._engines_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


def _engine(address: str) -> Engine:
    engine = create_engine(address, connect_args={"timeout": _BUSY_SECONDS}, max_overflow=-1)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = NORMAL"))
    return engine
