"""The ledger: the registered shards, the order of their admission, retractions, and finished stages.

One SQLite file; every change is one transaction. A row in `stage` is the record of completion: it is written after its
files were synced and renamed, so a file without its row counts as absent. The module knows neither Dagster nor the
content of any file.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence

from dedup_assets.errors import WorkspaceError
from dedup_assets.storage.ledger_file import LedgerFile
from dedup_assets.storage.ledger_schema import (
    CHANGED,
    CORPUS,
    FORMAT,
    REFERENCE,
    STAGES,
    TAKEDOWN,
    VANISHED,
    WITHDRAWN,
    Admission,
    Codebook,
    Completion,
    CorpusState,
    Entry,
    Generation,
    Rebuild,
    Registration,
    Retraction,
    Shard,
)

__all__ = [
    "CHANGED",
    "CORPUS",
    "FORMAT",
    "REFERENCE",
    "STAGES",
    "TAKEDOWN",
    "VANISHED",
    "WITHDRAWN",
    "Admission",
    "Codebook",
    "Completion",
    "CorpusState",
    "Entry",
    "Generation",
    "Ledger",
    "Rebuild",
    "Registration",
    "Retraction",
    "Shard",
]

_NOW = "strftime('%Y-%m-%dT%H:%M:%SZ', 'now')"
# The columns keep the names that existing workspaces have.
_COMPLETION = "shard, stage, basis AS input_version, facts AS stats, run_id, seconds, finished, void"


class Ledger(LedgerFile):
    """The ledger of one workspace. Instances are cheap."""

    # -- shards -------------------------------------------------------------------------------------

    def register(self, shards: Iterable[Registration], role: str = CORPUS) -> list[str]:
        """Register files in the order given; returns the keys to curate: new ones, and those that had vanished and are
        back.

        A key that is registered for the same uri is left unchanged; for another uri or role it is refused. A shard that
        was taken down is skipped: it stays out.
        """
        due: list[str] = []
        with self._transaction(write=True) as connection:
            for key, uri, form, compression, *place in shards:
                name, partition = place or ("", "[]")
                known = connection.execute("SELECT * FROM shard WHERE key = ? OR uri = ?", (key, uri)).fetchone()
                if known is None:
                    connection.execute(
                        "INSERT INTO shard SELECT ?, coalesce(max(position), 0) + 1, ?, ?, ?, ?, NULL, "
                        f"{_NOW}, ?, ? FROM shard",
                        (key, uri, form, compression, role, name, partition),
                    )
                    due.append(key)
                    continue
                if known["key"] == key and known["uri"] != uri and known["retracted"] == TAKEDOWN:
                    raise WorkspaceError(
                        f"Shard {key} was taken down when it was {known['uri']}, and stays out: {uri} cannot have its "
                        "name. Rename the new file if it is another shard."
                    )
                if (known["key"], known["uri"]) != (key, uri):
                    raise WorkspaceError(
                        f"Shard key {key!r} for {uri} collides with shard {known['key']!r} registered for "
                        f"{known['uri']}: one file is one shard, with one key. Name the sources as in the "
                        "first call, or rename the new file."
                    )
                if known["role"] != role:
                    raise WorkspaceError(
                        f"Shard {key} ({uri}) is registered as {known['role']}, asked for as {role}: a file has "
                        "one role. Name it as before, or put the content into a file of another name."
                    )
                if known["retracted"] == VANISHED:
                    connection.execute(f"UPDATE shard SET retracted = NULL, registered = {_NOW} WHERE key = ?", (key,))
                    due.append(key)
        return due

    def move(self, shard: Registration) -> None:
        """Point a registered shard to another file: the same content elsewhere, or the first readable file. Its key and
        its position in the order stay."""
        key, uri, form, compression, name, partition = shard
        with self._transaction(write=True) as connection:
            connection.execute(
                "UPDATE shard SET uri = ?, format = ?, compression = ?, name = ?, partition = ? WHERE key = ?",
                (uri, form, compression, name, partition, key),
            )

    def shards(self) -> list[Shard]:
        """All registered shards in the order of their registration, including retracted ones."""
        return [Shard(**row) for row in self._rows("SELECT * FROM shard ORDER BY position")]

    # -- completion ---------------------------------------------------------------------------------

    def complete(self, stage: str, entries: Sequence[Entry], run_id: str) -> None:
        """Record finished shards of a stage. One transaction for all; retracted shards are skipped."""
        with self._transaction(write=True) as connection:
            _record(connection, stage, entries, run_id)

    def completions(self, stage: str) -> dict[str, Completion]:
        """The last valid completion of a stage, by shard key."""
        rows = self._rows(
            f"SELECT {_COMPLETION} FROM stage WHERE number IN "
            "(SELECT max(number) FROM stage WHERE stage = ? AND NOT void GROUP BY shard) ORDER BY number",
            stage,
        )
        return {row["shard"]: _completion(row) for row in rows}

    def versions(self, stage: str) -> dict[tuple[str, str], Completion]:
        """The last completion of a stage by shard key and input version, including content that was replaced since."""
        rows = self._rows(f"SELECT {_COMPLETION} FROM stage WHERE stage = ? ORDER BY number", stage)
        return {(row["shard"], row["input_version"]): _completion(row) for row in rows}

    def ever_finished(self, stage: str) -> set[str]:
        """Shards for which a stage was finished, including content that was replaced or retracted since."""
        return {row["shard"] for row in self._rows("SELECT DISTINCT shard FROM stage WHERE stage = ?", stage)}

    def history(self, shard: str) -> list[Completion]:
        """All completions of one shard in the order in which they finished, including void ones."""
        rows = self._rows(f"SELECT {_COMPLETION} FROM stage WHERE shard = ? ORDER BY number", shard)
        return [_completion(row) for row in rows]

    def fail(self, shard: str, stage: str, message: str, run_id: str) -> None:
        """Record why a shard could not be processed; a later completion clears it. Unknown and retracted shards are
        skipped, because nothing would ever clear their failure."""
        with self._transaction(write=True) as connection:
            connection.execute(
                "INSERT OR REPLACE INTO failure SELECT key, ?, ?, ? FROM shard WHERE key = ? AND retracted IS NULL",
                (stage, message, run_id, shard),
            )

    def recover(self, stage: str, shards: Collection[str]) -> None:
        """Delete the failures of shards at a stage: the content that failed was withdrawn, and nothing is left to
        do."""
        over = [shard for shard, (failed, _, _) in self.failures().items() if failed == stage and shard in shards]
        if over:
            with self._transaction(write=True) as connection:
                connection.executemany(
                    "DELETE FROM failure WHERE shard = ? AND stage = ?", [(shard, stage) for shard in over]
                )

    def failures(self) -> dict[str, tuple[str, str, str]]:
        """Shards that could not be processed, with (stage, message, run id)."""
        rows = self._rows("SELECT * FROM failure")
        return {row["shard"]: (row["stage"], row["message"], row["run_id"]) for row in rows}

    # -- codebooks and admissions -------------------------------------------------------------------

    def codebook(self) -> Codebook | None:
        """The current codebook, or None before the first."""
        rows = self._rows("SELECT * FROM codebook ORDER BY number DESC LIMIT 1")
        return _codebook(rows[0]) if rows else None

    def codebooks(self) -> dict[int, Codebook]:
        """All codebooks by number."""
        return {row["number"]: _codebook(row) for row in self._rows("SELECT * FROM codebook")}

    def add_codebook(self, codebook: Codebook) -> None:
        """Make a codebook current. Its centroids and the cells of the admitted shards are already on disk.

        It satisfies every request for a rebuild that still waits for a fit.
        """
        with self._transaction(write=True) as connection:
            connection.execute(
                "INSERT INTO codebook VALUES (?, ?, ?, ?, ?)",
                (
                    codebook.number,
                    codebook.digest,
                    codebook.cells,
                    codebook.corpus_texts,
                    json.dumps(codebook.stats, sort_keys=True),
                ),
            )
            connection.execute("UPDATE rebuild SET codebook = ? WHERE codebook IS NULL", (codebook.number,))

    def standing(self) -> CorpusState:
        """The state of the corpus, read in one transaction: a retraction is in all of it or in none."""
        with self._transaction(write=False) as connection:
            return CorpusState(_admissions(connection), _taken_down(connection), _last_retraction(connection))

    def admissions(self) -> list[Admission]:
        """All admissions in curation order, including retracted ones: other shards may still have their texts."""
        with self._transaction(write=False) as connection:
            return _admissions(connection)

    def live_admissions(self) -> list[Admission]:
        """The live admissions in curation order: one for each shard in the corpus."""
        return [a for a in self.admissions() if a.retracted is None]

    def admit(self, admissions: Sequence[Admission], entries: Sequence[Entry], stage: str, run_id: str) -> None:
        """Admit shards and record the completion of the admitting stage, in one transaction.

        It also retracts a live admission of the same shard with other content, which the new content replaces.
        """
        with self._transaction(write=True) as connection:
            for a in admissions:
                old = _live(connection, a.shard)
                if old is not None and old["fingerprint"] != a.fingerprint:
                    _retract(connection, a.shard, old["number"], CHANGED, run_id)
                    _void(connection, a.shard, STAGES[STAGES.index("cluster_partitions") :])
                connection.execute(
                    "INSERT INTO admission VALUES (?, ?, ?, ?, ?, ?, NULL)",
                    (a.number, a.shard, a.fingerprint, a.codebook, a.texts, a.records),
                )
            _record(connection, stage, entries, run_id)

    def withdraw(self, shard: str, run_id: str = "") -> None:
        """End the live admission of a shard for which a stage fails, so that the others are decided without it. The
        next run admits it again, after them."""
        with self._transaction(write=True) as connection:
            live = _live(connection, shard)
            if live is not None:
                _retract(connection, shard, live["number"], WITHDRAWN, run_id)
                _void(connection, shard, STAGES[STAGES.index("cluster_partitions") :])

    # -- retractions --------------------------------------------------------------------------------

    def retract_shard(
        self, key: str, reason: str, tombstones: Iterable[tuple[int, str]] = (), run_id: str = ""
    ) -> Admission | None:
        """Retract a shard as vanished or taken down; returns the admission that this ended, if one was live.

        `tombstones` are (row, id) of its last admission: ids that never return. A shard that is already retracted for
        that reason, or was taken down, is left unchanged.
        """
        live = {a.shard: a for a in self.live_admissions()}.get(key)
        with self._transaction(write=True) as connection:
            shard = connection.execute("SELECT retracted FROM shard WHERE key = ?", (key,)).fetchone()
            if shard is None or shard["retracted"] in (reason, TAKEDOWN):
                return None
            row = _live(connection, key)
            last = connection.execute("SELECT max(number) FROM admission WHERE shard = ?", (key,)).fetchone()[0]
            retraction = _retract(connection, key, None if row is None else row["number"], reason, run_id)
            if last is not None:
                _add_tombstones(connection, key, last, retraction, tombstones)
            connection.execute("UPDATE shard SET retracted = ? WHERE key = ?", (reason, key))
            connection.execute("DELETE FROM failure WHERE shard = ?", (key,))
            _void(connection, key, STAGES)
        return live

    def retract_records(self, admission: Admission, records: Iterable[tuple[int, str]], run_id: str = "") -> int:
        """Permanently take down single records (row, id) of a live admission; returns how many were still there."""
        with self._transaction(write=True) as connection:
            new = [
                (row, record_id)
                for row, record_id in records
                if connection.execute("SELECT 1 FROM tombstone WHERE id = ?", (record_id,)).fetchone() is None
            ]
            if new:
                retraction = _retract(connection, admission.shard, admission.number, TAKEDOWN, run_id, whole=False)
                _add_tombstones(connection, admission.shard, admission.number, retraction, new)
        return len(new)

    def retractions(self) -> list[Retraction]:
        """All retractions in the order in which they happened."""
        return [Retraction(**row) for row in self._rows("SELECT * FROM retraction ORDER BY number")]

    def last_retraction(self) -> int:
        """Number of the last retraction that removed something from the corpus; 0 where there is none."""
        with self._transaction(write=False) as connection:
            return _last_retraction(connection)

    def tombstones(self) -> list[str]:
        """The ids that never return."""
        return [row["id"] for row in self._rows("SELECT id FROM tombstone ORDER BY id")]

    def tombstone_places(self) -> set[str]:
        """The former positions, as SHARD:ROW, of records whose ids never return."""
        return {f"{row['shard']}:{row['row']}" for row in self._rows("SELECT shard, row FROM tombstone")}

    # -- generations --------------------------------------------------------------------------------

    def generation(self) -> Generation | None:
        """The current generation of decisions, or None before the first."""
        rows = self._rows("SELECT * FROM generation ORDER BY number DESC LIMIT 1")
        return Generation(**rows[0]) if rows else None

    def generations(self) -> list[Generation]:
        """All generations, the oldest first."""
        return [Generation(**row) for row in self._rows("SELECT * FROM generation ORDER BY number")]

    def add_generation(
        self,
        generation: Generation,
        entries: Sequence[Entry],
        stage: str,
        run_id: str,
        rebuilds: Sequence[Rebuild] = (),
    ) -> None:
        """Make a generation current and record the completion of its shards and of the rebuilds that it satisfies, in
        one transaction."""
        g = generation
        with self._transaction(write=True) as connection:
            connection.execute(
                "INSERT INTO generation VALUES (?, ?, ?, ?, ?, ?)",
                (g.number, g.fingerprint, g.mode, g.admissions, g.rebuilt, g.retractions),
            )
            for request in rebuilds:
                connection.execute(
                    f"UPDATE rebuild SET generation = ?, finished = {_NOW} WHERE token = ?", (g.number, request.token)
                )
            _record(connection, stage, entries, run_id)

    def request_rebuild(self, token: str) -> None:
        """Request a rebuild: new centroids and one order over all live records. At most one for each token."""
        with self._transaction(write=True) as connection:
            connection.execute("INSERT OR IGNORE INTO rebuild VALUES (?, NULL, NULL, NULL)", (token,))

    def last_rebuild(self) -> str | None:
        """When the last request for a rebuild was satisfied (UTC); None before the first."""
        return self._rows("SELECT max(finished) AS last FROM rebuild")[0]["last"]

    def rebuilds(self) -> list[Rebuild]:
        """The requests for a rebuild that no generation has satisfied yet."""
        return [Rebuild(**row) for row in self._rows("SELECT * FROM rebuild WHERE generation IS NULL ORDER BY rowid")]


def _record(connection: sqlite3.Connection, stage: str, entries: Sequence[Entry], run_id: str) -> None:
    # A shard that was retracted during the stage is not finished: if it returns, the stage runs again.
    retracted = {row["key"] for row in connection.execute("SELECT key FROM shard WHERE retracted IS NOT NULL")}
    for shard, input_version, stats, seconds in entries:
        text = json.dumps(stats, sort_keys=True)
        if shard in retracted:
            continue
        connection.execute(
            "INSERT INTO stage (shard, stage, basis, facts, run_id, seconds, finished) "
            f"VALUES (?, ?, ?, ?, ?, ?, {_NOW})",
            (shard, stage, input_version, text, run_id, seconds),
        )
        connection.execute("DELETE FROM failure WHERE shard = ? AND stage = ?", (shard, stage))


def _admissions(connection: sqlite3.Connection) -> list[Admission]:
    rows = connection.execute(
        "SELECT admission.*, coalesce(shard.role, ?) AS role FROM admission "
        "LEFT JOIN shard ON shard.key = admission.shard ORDER BY number",
        (CORPUS,),
    )
    return [Admission(**row) for row in rows]


def _taken_down(connection: sqlite3.Connection) -> dict[int, list[int]]:
    rows: dict[int, list[int]] = {}
    for found in connection.execute(
        "SELECT tombstone.admission, tombstone.row FROM tombstone JOIN admission "
        "ON admission.number = tombstone.admission WHERE admission.retracted IS NULL ORDER BY tombstone.row"
    ):
        rows.setdefault(found["admission"], []).append(found["row"])
    return rows


def _last_retraction(connection: sqlite3.Connection) -> int:
    found = connection.execute("SELECT coalesce(max(number), 0) FROM retraction WHERE admission IS NOT NULL")
    return int(found.fetchone()[0])


def _live(connection: sqlite3.Connection, shard: str) -> sqlite3.Row | None:
    return connection.execute("SELECT * FROM admission WHERE shard = ? AND retracted IS NULL", (shard,)).fetchone()


def _retract(
    connection: sqlite3.Connection, shard: str, admission: int | None, reason: str, run_id: str, whole: bool = True
) -> int:
    """Record a retraction of a whole admission or of records of it; returns its number."""
    number = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM retraction").fetchone()[0]
    connection.execute(
        f"INSERT INTO retraction VALUES (?, ?, ?, ?, ?, {_NOW})", (number, shard, admission, reason, run_id)
    )
    if whole:
        connection.execute("UPDATE admission SET retracted = ? WHERE number = ?", (number, admission))
    return number


def _void(connection: sqlite3.Connection, shard: str, stages: Sequence[str]) -> None:
    connection.executemany(
        "UPDATE stage SET void = 1 WHERE shard = ? AND stage = ?", [(shard, stage) for stage in stages]
    )


def _add_tombstones(
    connection: sqlite3.Connection, shard: str, admission: int, retraction: int, records: Iterable[tuple[int, str]]
) -> None:
    connection.executemany(
        "INSERT OR IGNORE INTO tombstone VALUES (?, ?, ?, ?, ?)",
        ((record_id, shard, admission, row, retraction) for row, record_id in records),
    )


def _completion(row: sqlite3.Row) -> Completion:
    return Completion(**{**dict(row), "stats": json.loads(row["stats"]), "void": bool(row["void"])})


def _codebook(row: sqlite3.Row) -> Codebook:
    values = dict(row)
    return Codebook(stats=json.loads(values.pop("facts")), **values)
