"""The ledger: which shards there are, in which order they were admitted, and what is finished.

One SQLite file; every change is one transaction. A row in `stage` is the record of completion: it is
written after the files it speaks of were synced and renamed, so a file without its row counts as absent.
Knows neither Dagster nor the content of any file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dedup_assets.errors import WorkspaceError

FORMAT = 1
"""Version of the workspace on disk; a workspace of another format is refused."""

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE shard (
    key TEXT PRIMARY KEY, position INTEGER NOT NULL UNIQUE, uri TEXT NOT NULL UNIQUE,
    format TEXT NOT NULL, compression TEXT);
CREATE TABLE codebook (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL, cells INTEGER NOT NULL, corpus_texts INTEGER NOT NULL,
    facts TEXT NOT NULL);
CREATE TABLE admission (
    number INTEGER PRIMARY KEY, shard TEXT NOT NULL UNIQUE, fingerprint TEXT NOT NULL,
    codebook INTEGER NOT NULL, texts INTEGER NOT NULL, records INTEGER NOT NULL);
CREATE TABLE generation (
    number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL, mode TEXT NOT NULL, admissions INTEGER NOT NULL);
CREATE TABLE stage (
    shard TEXT NOT NULL, stage TEXT NOT NULL, basis TEXT NOT NULL, facts TEXT NOT NULL,
    run_id TEXT NOT NULL, seconds REAL NOT NULL, finished TEXT NOT NULL,
    PRIMARY KEY (shard, stage));
CREATE TABLE failure (
    shard TEXT PRIMARY KEY, stage TEXT NOT NULL, message TEXT NOT NULL, run_id TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Shard:
    """A registered shard: one input file."""

    key: str
    position: int
    uri: str
    format: str
    compression: str | None


@dataclass(frozen=True)
class Admission:
    """A shard's place in the curation order. `number` starts at 1; `texts` are those new with it."""

    number: int
    shard: str
    fingerprint: str
    codebook: int
    texts: int
    records: int


@dataclass(frozen=True)
class Completion:
    """A finished stage of a shard. `basis` names what it was computed from; `facts` what came out."""

    shard: str
    stage: str
    basis: str
    facts: dict[str, Any]
    run_id: str
    seconds: float
    finished: str


@dataclass(frozen=True)
class Codebook:
    """A set of centroids; the one with the highest number is in force.

    `digest` is of the centroids: what was laid out under an abandoned fit never passes for this one.
    """

    number: int
    digest: str
    cells: int
    corpus_texts: int
    facts: dict[str, Any]

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"{self.number:04d}-{self.digest}"


@dataclass(frozen=True)
class Generation:
    """One consistent set of decisions under one decision fingerprint; the highest number is in force.

    In append mode it grows with every shard; in rebuild mode it covers the first `admissions` shards.
    """

    number: int
    fingerprint: str
    mode: str
    admissions: int


Entry = tuple[str, str, Mapping[str, Any], float]
"""What a completion records: (shard, basis, facts, seconds)."""


class Ledger:
    """The ledger of one workspace. Instances are cheap; use one per thread."""

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
                if connection.in_transaction:  # SQLite has rolled back by itself when the disk is full
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

    def create(self) -> None:
        """Make the tables if they are not there, and check the format of those that are."""
        with self._transaction(write=True) as connection:
            tables = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'meta'").fetchone()
            if tables[0] == 0:
                for statement in _SCHEMA.split(";"):
                    if statement.strip():
                        connection.execute(statement)
                connection.execute("INSERT INTO meta VALUES ('format', ?)", (str(FORMAT),))
        found = self.meta("format")
        if found != str(FORMAT):
            raise WorkspaceError(
                f"{self._path} has workspace format {found}, this version reads format {FORMAT}: use the "
                "version that made it, or curate into a new workspace."
            )

    # -- meta ---------------------------------------------------------------------------------------

    def meta(self, name: str) -> str | None:
        """A single named fact of the workspace, or None."""
        with self._transaction(write=False) as connection:
            row = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return None if row is None else row["value"]

    def set_meta(self, name: str, value: str) -> None:
        """Set a named fact."""
        with self._transaction(write=True) as connection:
            connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))

    def settle_meta(self, name: str, value: str) -> str:
        """Set a named fact unless it is set already; returns the value in force."""
        with self._transaction(write=True) as connection:
            connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (name, value))
            return connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()["value"]

    # -- shards -------------------------------------------------------------------------------------

    def register(self, shards: Iterable[tuple[str, str, str, str | None]]) -> list[str]:
        """Register (key, uri, format, compression) in the order given; returns the keys that are new.

        A key that is registered for the same uri stays as it is; for another uri it is refused.
        """
        new: list[str] = []
        with self._transaction(write=True) as connection:
            for key, uri, form, compression in shards:
                known = connection.execute("SELECT key, uri FROM shard WHERE key = ? OR uri = ?", (key, uri)).fetchone()
                if known is not None and (known["key"], known["uri"]) != (key, uri):
                    raise WorkspaceError(
                        f"Shard key {key!r} for {uri} collides with shard {known['key']!r} registered for "
                        f"{known['uri']}: one file is one shard, with one key. Name the sources as in the "
                        "first call, or rename the new file."
                    )
                if known is None:
                    connection.execute(
                        "INSERT INTO shard SELECT ?, coalesce(max(position), 0) + 1, ?, ?, ? FROM shard",
                        (key, uri, form, compression),
                    )
                    new.append(key)
        return new

    def shards(self) -> list[Shard]:
        """All registered shards in the order of their registration."""
        with self._transaction(write=False) as connection:
            return [Shard(**row) for row in connection.execute("SELECT * FROM shard ORDER BY position")]

    # -- completion ---------------------------------------------------------------------------------

    def complete(self, stage: str, entries: Sequence[Entry], run_id: str) -> None:
        """Record finished shards of a stage. One transaction for all."""
        with self._transaction(write=True) as connection:
            _record(connection, stage, entries, run_id)

    def completions(self, stage: str) -> dict[str, Completion]:
        """Finished shards of a stage, by shard key."""
        with self._transaction(write=False) as connection:
            rows = connection.execute("SELECT * FROM stage WHERE stage = ?", (stage,)).fetchall()
        return {row["shard"]: _completion(row) for row in rows}

    def history(self, shard: str) -> list[Completion]:
        """All finished stages of one shard in the order in which they finished."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT * FROM stage WHERE shard = ? ORDER BY finished, rowid", (shard,)
            ).fetchall()
        return [_completion(row) for row in rows]

    def fail(self, shard: str, stage: str, message: str, run_id: str) -> None:
        """Record why a shard could not be processed; a later completion clears it."""
        with self._transaction(write=True) as connection:
            connection.execute("INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?)", (shard, stage, message, run_id))

    def failures(self) -> dict[str, tuple[str, str, str]]:
        """Shards that could not be processed, with (stage, message, run id)."""
        with self._transaction(write=False) as connection:
            rows = connection.execute("SELECT * FROM failure").fetchall()
        return {row["shard"]: (row["stage"], row["message"], row["run_id"]) for row in rows}

    # -- codebooks and admissions -------------------------------------------------------------------

    def codebook(self) -> Codebook | None:
        """The codebook in force, or None before the first."""
        with self._transaction(write=False) as connection:
            row = connection.execute("SELECT * FROM codebook ORDER BY number DESC LIMIT 1").fetchone()
        return None if row is None else _codebook(row)

    def codebooks(self) -> dict[int, Codebook]:
        """All codebooks by number."""
        with self._transaction(write=False) as connection:
            rows = connection.execute("SELECT * FROM codebook").fetchall()
        return {row["number"]: _codebook(row) for row in rows}

    def add_codebook(self, codebook: Codebook) -> None:
        """Put a codebook in force. Its centroids, and the admitted shards' cells, are on disk already."""
        with self._transaction(write=True) as connection:
            connection.execute(
                "INSERT INTO codebook VALUES (?, ?, ?, ?, ?)",
                (
                    codebook.number,
                    codebook.digest,
                    codebook.cells,
                    codebook.corpus_texts,
                    json.dumps(codebook.facts, sort_keys=True),
                ),
            )

    def admissions(self) -> list[Admission]:
        """Admitted shards in curation order."""
        with self._transaction(write=False) as connection:
            return [Admission(**row) for row in connection.execute("SELECT * FROM admission ORDER BY number")]

    def admit(self, admissions: Sequence[Admission], entries: Sequence[Entry], stage: str, run_id: str) -> None:
        """Admit shards and record the completion of the admitting stage, in one transaction."""
        with self._transaction(write=True) as connection:
            for a in admissions:
                connection.execute(
                    "INSERT INTO admission VALUES (?, ?, ?, ?, ?, ?)",
                    (a.number, a.shard, a.fingerprint, a.codebook, a.texts, a.records),
                )
            _record(connection, stage, entries, run_id)

    # -- generations --------------------------------------------------------------------------------

    def generation(self) -> Generation | None:
        """The generation of decisions in force, or None before the first."""
        with self._transaction(write=False) as connection:
            row = connection.execute("SELECT * FROM generation ORDER BY number DESC LIMIT 1").fetchone()
        return None if row is None else Generation(**row)

    def add_generation(self, generation: Generation, entries: Sequence[Entry], stage: str, run_id: str) -> None:
        """Put a generation in force together with the completion of its shards, in one transaction."""
        with self._transaction(write=True) as connection:
            connection.execute(
                "INSERT INTO generation VALUES (?, ?, ?, ?)",
                (generation.number, generation.fingerprint, generation.mode, generation.admissions),
            )
            _record(connection, stage, entries, run_id)


def _record(connection: sqlite3.Connection, stage: str, entries: Sequence[Entry], run_id: str) -> None:
    for shard, basis, facts, seconds in entries:
        connection.execute(
            "INSERT OR REPLACE INTO stage VALUES (?, ?, ?, ?, ?, ?, strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))",
            (shard, stage, basis, json.dumps(facts, sort_keys=True), run_id, seconds),
        )
        connection.execute("DELETE FROM failure WHERE shard = ? AND stage = ?", (shard, stage))


def _completion(row: sqlite3.Row) -> Completion:
    return Completion(**{**dict(row), "facts": json.loads(row["facts"])})


def _codebook(row: sqlite3.Row) -> Codebook:
    return Codebook(**{**dict(row), "facts": json.loads(row["facts"])})
