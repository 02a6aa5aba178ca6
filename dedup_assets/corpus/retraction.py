"""Retracts shards and records in the ledger and in the stored matches.

A retraction is only an entry in the ledger; the next decision makes a new generation without the retracted records
(`dedup_assets.api.retract` does both). A retraction is idempotent.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets.storage.ledger import TAKEDOWN, VANISHED, Admission
from dedup_assets.storage.locks import Lock
from dedup_assets.storage.shards import AdmittedShard, read_ids
from dedup_assets.storage.tables import dense_cells_in, pairs_table, write_pairs
from dedup_assets.storage.workspace import Workspace


@dataclass(frozen=True)
class Record:
    """A live record, identified by admission and row."""

    admission: Admission
    row: int
    id: str


def retract_shards(workspace: Workspace, keys: Sequence[str], reason: str) -> list[Admission]:
    """Retract shards; returns the admissions that this ended.

    Parameters
    ----------
    workspace : Workspace
    keys : sequence of str
        Registered shards. A shard that was not admitted yet will not be.
    reason : {"vanished", "takedown"}
        A vanished shard may return and is then admitted again. A shard that was taken down stays out, and so do the ids
        of its records, in any shard.

    Raises
    ------
    WorkspaceError
        A shard is not registered; no shard is retracted then.
    """
    if reason not in (VANISHED, TAKEDOWN):
        raise ValueError(f"reason {reason!r}: expected {VANISHED!r} or {TAKEDOWN!r}")
    known = {shard.key for shard in workspace.ledger.shards()}
    unknown = [key for key in keys if key not in known]
    if unknown:
        raise WorkspaceError(
            f"{', '.join(unknown)}: no such shard in {workspace.root}. Name one as `dedup-assets history` or the "
            "file names in output/deduplicated do."
        )
    ended = []
    # Admission holds this lock, so a running admission finishes before the retraction.
    with workspace.lock(Lock.ADMISSION):
        for key in keys:
            # Read first: finding ids that moved to other shards takes longer than a writer of the ledger waits.
            buried = list(_records_of(workspace, key)) if reason == TAKEDOWN else []
            admission = workspace.ledger.retract_shard(key, reason, buried)
            if admission is not None:
                ended.append(admission)
    return ended


def retract_ids(workspace: Workspace, names: Sequence[str]) -> list[Record]:
    """Permanently take down records, each named by its id or as SHARD:ROW; returns those that were still there or may
    return with a vanished shard.

    Raises WorkspaceError if a name belongs to no record, or to a vanished one whose id another record has now; no
    record is taken down then. A record that was already taken down is no error.
    """
    with workspace.lock(Lock.ADMISSION):
        living = LiveTexts(workspace)
        buried = {*workspace.ledger.tombstones(), *workspace.ledger.tombstone_places()}
        wanted = [name for name in names if name not in buried]
        found = find_records(workspace, living, wanted)
        absent = [name for name in wanted if name not in found]
        vanished = find_records(workspace, living, absent, _vanished(workspace, living)) if absent else {}
        moved = find_records(workspace, living, [record.id for record in vanished.values()])
        for name, record in vanished.items():
            if record.id in moved:
                raise WorkspaceError(
                    f"{name} vanished with its shard, and its id {record.id!r} is now that of a record in shard "
                    f"{moved[record.id].admission.shard}: an id is taken down in all shards. Name {record.id!r} if "
                    "that record is to go too."
                )
        found |= vanished
        unknown = [name for name in names if name not in found and name not in buried]
        if unknown:
            raise WorkspaceError(
                f"{', '.join(unknown)}: no such record in {workspace.root}. Name the id of a kept or removed record, "
                "or SHARD:ROW; the rows of a quarantine file go with their whole shard."
            )
        records = list(found.values())
        for number in sorted({record.admission.number for record in records}):
            mine = [record for record in records if record.admission.number == number]
            rows = [(record.row, record.id) for record in mine]
            workspace.ledger.retract_records(mine[0].admission, rows)
        return records


def _vanished(workspace: Workspace, living: LiveTexts) -> list[Admission]:
    """The last admission of each vanished shard, which may return, if it is still stored."""
    away = {shard.key for shard in workspace.ledger.shards() if shard.retracted == VANISHED}
    last = {a.shard: a for a in living.all if a.shard in away}
    return [
        a
        for a in last.values()
        if workspace.raw(a.shard, a.fingerprint).folder.is_dir() and workspace.admitted(a).is_dir()
    ]


def find_records(
    workspace: Workspace, living: LiveTexts, names: Sequence[str], among: Sequence[Admission] | None = None
) -> dict[str, Record]:
    """Look up names, each an id or SHARD:ROW, among the live records of some admissions, by default of live ones."""
    found: dict[str, Record] = {}
    wanted = pa.array(names, pa.string())
    admissions = living.live if among is None else among
    by_shard = {a.shard: a for a in admissions}
    for a in admissions if len(names) else ():
        rows, ids = read_ids(workspace.raw(a.shard, a.fingerprint))
        counting = living.accepted(a, AdmittedShard.read(workspace.admitted(a)))
        for at in counting[pc.is_in(ids.take(pa.array(counting)), wanted).to_numpy(zero_copy_only=False)].tolist():
            found[ids[at].as_py()] = Record(a, int(rows[at]), ids[at].as_py())
    for name in names:
        shard, _, row = name.rpartition(":")
        if name in found or shard not in by_shard or not (row.isascii() and row.isdecimal()):
            continue
        a = by_shard[shard]
        rows, ids = read_ids(workspace.raw(a.shard, a.fingerprint))
        counting = living.accepted(a, AdmittedShard.read(workspace.admitted(a)))
        for at in counting[rows[counting] == int(row)].tolist():
            found[name] = Record(a, int(row), ids[at].as_py())
    return found


def _records_of(workspace: Workspace, key: str) -> Iterator[tuple[int, str]]:
    """(row, id) of the records of a shard's last content, without ids that moved to another shard."""
    admissions = [a for a in workspace.ledger.admissions() if a.shard == key]
    if not admissions:
        return
    last = admissions[-1]
    rows, ids = read_ids(workspace.raw(last.shard, last.fingerprint))
    accepted = np.flatnonzero(AdmittedShard.read(workspace.admitted(last)).record_texts >= 0)
    names = ids.take(pa.array(accepted)).to_pylist()
    elsewhere: set[str] = set()
    if last.retracted is not None:
        elsewhere.update(find_records(workspace, LiveTexts(workspace), names))
    for row, record_id in zip(rows[accepted].tolist(), names, strict=True):
        if record_id not in elsewhere:
            yield row, record_id


# -- matches -----------------------------------------------------------------------------------------


def forget_dead_pairs(workspace: Workspace, living: LiveTexts) -> None:
    """Remove dead texts from all stored matches, and name the others by live records. The caller holds the decision
    lock, so that no file of matches vanishes during a decision.

    A dead text never lives again, so nothing is lost.
    """
    visible = {a.number for a in living.visible}
    for a in living.all:
        if a.number not in visible:
            workspace.pairs(a).unlink(missing_ok=True)
    forget_dead_pairs_of(workspace, living, [a for a in living.all if a.number in visible])


def forget_dead_pairs_of(workspace: Workspace, living: LiveTexts, admissions: Sequence[Admission]) -> None:
    """The same for the matches of some admissions, without a lock: a retracted admission keeps an empty file until the
    next decision. The files are rewritten one by one, each atomically."""
    for a in admissions:
        path = workspace.pairs(a)
        try:
            handle = path.open("rb")
        except FileNotFoundError:
            continue
        # From one open file: a run that computes the same matches may replace it with an equivalent one, which may name
        # other dense cells.
        with handle, pq.ParquetFile(handle) as stored:
            if _touches(stored, living):
                write_pairs(path, _living_pairs(stored, living), dense_cells_in(stored.schema_arrow))


def _touches(stored: pq.ParquetFile, living: LiveTexts) -> bool:
    """Whether a file has a match of a text that is dead or has the key of a record that is gone."""
    for group in range(stored.num_row_groups):
        table = stored.read_row_group(group, columns=["key_a", "key_b", "id_a", "id_b"])
        for side in ("a", "b"):
            keys = table[f"key_{side}"].to_numpy()
            stale = np.flatnonzero(living.stale(keys))
            if len(stale):
                lives = living.texts(keys[stale])
                if not lives.all():
                    return True
                named = table[f"id_{side}"].take(pa.array(stale)).combine_chunks()
                if not named.equals(living.names(keys[stale])):
                    return True
    return False


def _living_pairs(stored: pq.ParquetFile, living: LiveTexts) -> Iterator[pa.Table]:
    for group in range(stored.num_row_groups):
        table = stored.read_row_group(group)
        a, b = table["key_a"].to_numpy(), table["key_b"].to_numpy()
        lives = living.texts(a) & living.texts(b)
        a, b = a[lives], b[lives]
        yield pairs_table(a, b, living.names(a), living.names(b), table["similarity"].to_numpy()[lives])


def shards_and_ids(space: Workspace, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Separate names of shards from names of records; an ambiguous name is refused."""
    if not names or not all(names):
        raise SettingsError("Name at least one shard or record id to retract; an empty name is neither.")
    known = {shard.key for shard in space.ledger.shards()}
    prefixed = {name: name.partition(":")[::2] for name in names if name.startswith(("shard:", "id:"))}
    unclear = [name for name in names if name in known] + [
        each for name, (_, rest) in prefixed.items() for each in (name, rest) if each
    ]
    records = find_records(space, LiveTexts(space), unclear) if unclear else {}
    shards, ids = [], []
    for name in names:
        kind, rest = prefixed.get(name, ("", ""))
        if name in known and name in records:
            raise SettingsError(
                f"{name!r} is a shard and the id of a record in {records[name].admission.shard}: write shard:{name} or "
                f"id:{name}."
            )
        meant = rest in known if kind == "shard" else rest in records or rest in space.ledger.tombstones()
        if kind and meant and name in records:
            # A take-down is permanent, so an ambiguous name is never guessed.
            raise SettingsError(
                f"{name!r} is itself the id of a record in {records[name].admission.shard}: write id:{name} for "
                f"that one. The other is named {'' if kind == 'shard' else 'as SHARD:ROW or '}without {kind}:."
            )
        if name in known:
            shards.append(name)
        elif kind == "shard" and meant:
            shards.append(rest)
        else:
            ids.append(rest if kind == "id" and rest and name not in records else name)
    return shards, ids
