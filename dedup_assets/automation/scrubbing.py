"""Removes texts from Dagster's history: the metadata tables in which assets show records.

It empties all of these tables and does not search for a text; the next run writes them again, without retracted
records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.storage.event_log import SqlEventLogStorage
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage

from dedup_assets.assets.metadata import TABLE_OF_TEXTS, TEXT_COLUMN
from dedup_assets.errors import WorkspaceError

_COLUMNS = (("event_logs", "id", "event"), ("asset_keys", "id", "last_materialization"))
"""Where Dagster stores metadata: table, key and the column with JSON."""


def scrub_history(instance: dg.DagsterInstance) -> int:
    """Empty the tables of texts in the metadata of all events; returns how many events had one.

    Raises WorkspaceError where the history is in a storage that cannot be rewritten.
    """
    storage = instance.event_log_storage
    if not isinstance(storage, SqlEventLogStorage):
        raise WorkspaceError(
            f"Dagster's history is in {type(storage).__name__}, which cannot be rewritten: wipe the assets there."
        )
    if not isinstance(storage, SqliteEventLogStorage):
        with storage.index_connection() as connection:
            return _scrub(connection)
    found = 0
    for path in sorted(Path(storage._base_dir).glob("*.db")):
        with _sqlite(path) as connection:
            found += _scrub(connection)
    return found


@contextmanager
def _sqlite(path: Path) -> Iterator[sa.Connection]:
    """A connection to a file that overwrites deleted content."""
    engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 60}, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(sa.text("PRAGMA secure_delete = ON"))
            yield connection
            connection.execute(sa.text("VACUUM"))
            connection.execute(sa.text("PRAGMA wal_checkpoint(TRUNCATE)"))
    finally:
        engine.dispose()


def _scrub(connection: sa.Connection) -> int:
    tables = sa.inspect(connection).get_table_names()
    found = 0
    for table, key, column in _COLUMNS:
        if table not in tables:
            continue
        rows = sa.table(table, sa.column(key), sa.column(column))
        likely = rows.c[column].like(f'%"{TABLE_OF_TEXTS}"%')
        keys = connection.execute(sa.select(rows.c[key]).where(likely)).scalars().all()
        for number in keys:  # one at a time: each may be large
            text = connection.execute(sa.select(rows.c[column]).where(rows.c[key] == number)).scalar_one()
            value = json.loads(text)
            if _emptied(value):
                connection.execute(sa.update(rows).where(rows.c[key] == number).values({column: json.dumps(value)}))
                found += table == _COLUMNS[0][0]
    return found


def _emptied(value: Any) -> bool:
    """Empty the tables of texts inside a JSON value; returns whether any had rows."""
    changed = False
    if isinstance(value, dict):
        if value.get("label") == TABLE_OF_TEXTS and isinstance(value.get("entry_data"), dict):
            records = value["entry_data"].get("records") or []
            if any(TEXT_COLUMN in json.dumps(record) for record in records):  # not a table of other metadata
                value["entry_data"]["records"], changed = [], True
        return any([changed, *map(_emptied, value.values())])
    return any(map(_emptied, value)) if isinstance(value, list) else False
