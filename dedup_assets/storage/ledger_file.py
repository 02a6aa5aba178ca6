"""The ledger's file: one SQLite database. Every change is one transaction, which is on disk when it ends.

It creates the tables; `ledger` gives their rows a meaning.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.ledger_schema import ADDED_COLUMNS, FORMAT, SCHEMA


class LedgerFile:
    """Opens transactions on the file, creates its tables, and stores named values. Use one instance per thread."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @contextmanager
    def _transaction(self, *, write: bool) -> Iterator[sqlite3.Connection]:
        # A waiting writer gives up after a minute: transactions here last milliseconds.
        connection: sqlite3.Connection | None = None
        try:
            connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield connection
            except BaseException:
                if connection.in_transaction:  # SQLite has already rolled back when the disk is full
                    connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")
        except sqlite3.OperationalError as problem:
            if "full" in str(problem) or "readonly" in str(problem) or "unable to open" in str(problem):
                raise WorkspaceError(
                    f"Cannot write {self._path}: {problem}. Free space or correct the permissions, and run "
                    "the same command again; nothing half-written was published."
                ) from problem
            raise
        finally:
            if connection is not None:
                connection.close()

    def _rows(self, query: str, *values: object) -> list[sqlite3.Row]:
        with self._transaction(write=False) as connection:
            return connection.execute(query, values).fetchall()

    def create(self) -> None:
        """Create missing tables, and check the format of existing ones."""
        with self._transaction(write=True) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()
            if tables[0] == 0:
                for statement in SCHEMA.split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
            for table, column, kind in ADDED_COLUMNS:
                known = {row["name"] for row in connection.execute(f"PRAGMA table_info({table})")}
                if known and column not in known:
                    connection.execute(f"ALTER TABLE {table} ADD COLUMN {column} {kind}")
        found = self.meta("format")
        if found != str(FORMAT):
            raise WorkspaceError(
                f"{self._path} has workspace format {found}, this version reads format {FORMAT}: use the "
                "version that made it, or curate into a new workspace."
            )

    def vacuum(self) -> None:
        """Rewrite the file without deleted or replaced content."""
        connection = sqlite3.connect(self._path, timeout=60, isolation_level=None)
        try:
            connection.execute("VACUUM")
        finally:
            connection.close()

    def meta(self, name: str) -> str | None:
        """A single named value of the workspace, or None."""
        rows = self._rows("SELECT value FROM meta WHERE name = ?", name)
        return rows[0]["value"] if rows else None

    def settle_meta(self, name: str, value: str) -> str:
        """Set a named value unless it is already set; returns the stored value."""
        with self._transaction(write=True) as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
            return connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()["value"]
