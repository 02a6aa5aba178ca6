"""Removes the content of records that were taken down from every file of a workspace.

After a retraction nothing of a record is published, but its text and vector stay in files that live records share.
Purging overwrites them: stored rows keep only their id, vectors become zero, the table of embeddings is rewritten. The
id of a record that was taken down stays, because it must never return, and so does the hash of its text. A second purge
changes nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.corpus.live_texts import LiveTexts
from dedup_assets.corpus.maintenance import Freed, exclusive_access, maintain, prune
from dedup_assets.corpus.output import withheld
from dedup_assets.encoder.settled import open_table, settled_dimension
from dedup_assets.errors import WorkspaceError
from dedup_assets.ingest.columns import id_strings
from dedup_assets.storage.cells import ShardCells
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.publish import publish_file, storage_errors
from dedup_assets.storage.raw_table import RawShard, raw_table_writer
from dedup_assets.storage.shards import read_records, read_rejected, text_keys
from dedup_assets.storage.struct_columns import alone, column_of, find_column, nothing_beside
from dedup_assets.storage.tables import write_parquet
from dedup_assets.storage.workspace import Workspace

REMAINS = (
    "What was taken down is no longer published. Its content is still in what was read, in published generations of "
    "the past, in old versions of the table of embeddings, in Dagster's history and in report.html, until "
    "`dedup-assets maintain --purge` takes it out. Source files and copies elsewhere are yours to remove."
)
"""Message after a take-down."""


def purge(workspace: Workspace) -> Freed:
    """Remove the content of records that were taken down from the workspace's files (Dagster's history: `scrubbing`).

    Maintains the workspace, removes all past generations, and overwrites that content in the remaining files.
    Raises WorkspaceError while a retraction is not published yet.
    """
    freed = maintain(workspace, timedelta(0))
    if freed.waits:
        raise WorkspaceError(f"{freed.waits.removesuffix(', and maintain again.')}, and purge again.")
    past = prune(workspace)
    for kind, count in past.counts.items():
        freed.add(kind, count, past.bytes[kind])
    with exclusive_access(workspace), storage_errors(workspace.root):
        living = LiveTexts(workspace)
        for a in living.live:
            rows = _purge_readings(workspace, living, a)
            if rows:
                freed.add("contents of rows", rows, 0)
        for a in living.visible:
            vectors = sum(_purge_cells(workspace, living, a))
            if vectors:
                freed.add("vectors in cells", vectors, 0)
        if settled_dimension(workspace) is not None:
            open_table(workspace).rewrite()
        if workspace.report.is_file():
            workspace.report.unlink()
            freed.add("reports", 1, 0)
        workspace.ledger.vacuum()
    return freed


def _purge_readings(workspace: Workspace, living: LiveTexts, a: Admission) -> int:
    """Overwrite the rows of a shard that were taken down, and those whose id was; returns how many."""
    taken_down = living.taken_down(a)
    if not len(living.buried) and not len(taken_down):
        return 0
    raw = workspace.raw(a.shard, a.fingerprint)
    records = read_records(raw)
    gone = np.asarray(pc.is_in(records.ids, living.buried).to_numpy(zero_copy_only=False), bool).copy()
    gone[taken_down] = True
    rows = _blank_rows(a, raw, workspace.settings.id_column, records.positions[gone], living.buried)
    if gone.any() and raw.vectors.is_file():
        _blank_vectors(raw.vectors, np.flatnonzero(gone))
    rejected = read_rejected(raw)
    hidden = withheld(rejected, workspace.settings.id_column, living.buried)
    if not hidden.equals(rejected):
        write_parquet(raw.quarantine, hidden)
    return rows


def _blank_rows(a: Admission, raw: RawShard, id_column: str, positions: np.ndarray, buried: pa.Array) -> int:
    """Overwrite all but the id in some rows of the table, and in all rows whose id was taken down."""
    blanked = 0

    def groups() -> Iterator[pa.Table]:
        nonlocal blanked
        start = 0
        with pq.ParquetFile(raw.table) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                gone = np.zeros(table.num_rows, bool)
                inside = positions[(positions >= start) & (positions < start + table.num_rows)]
                gone[inside - start] = True
                if find_column(table.schema, id_column) and len(buried):
                    ids = id_strings(column_of(table, id_column))
                    gone |= np.asarray(pc.fill_null(pc.is_in(ids, buried), False))
                start += table.num_rows
                full = gone & ~_is_blank(table, id_column)
                blanked += int(full.sum())
                yield _blank(table, full, id_column, a) if full.any() else table

    if not any(_needs_it(raw, id_column, positions, buried)):
        return 0

    def write(temporary: Path) -> None:
        schema = pq.read_schema(raw.table)
        with raw_table_writer(temporary, schema) as writer:
            for table in groups():
                writer.write_table(table, row_group_size=max(1, table.num_rows))

    publish_file(raw.table, write)
    return blanked


def _needs_it(raw: RawShard, id_column: str, positions: np.ndarray, buried: pa.Array) -> Iterator[bool]:
    """Whether any row of a table must be overwritten."""
    yield len(positions) > 0
    if find_column(pq.read_schema(raw.table), id_column) and len(buried):
        with pq.ParquetFile(raw.table) as file:
            for group in range(file.num_row_groups):
                ids = id_strings(column_of(file.read_row_group(group, columns=[id_column]), id_column))
                yield bool(pc.any(pc.is_in(ids, buried)).as_py())


def _is_blank(table: pa.Table, id_column: str) -> np.ndarray:
    """Which rows (n,) already hold only their id."""
    blank = np.ones(table.num_rows, bool)
    place = find_column(table.schema, id_column) or (-1,)
    for at, column in enumerate(table.columns):
        if at != place[0]:
            blank &= np.asarray(column.is_null())
        elif len(place) > 1:
            blank &= nothing_beside(column.combine_chunks(), place[1:])
    return blank


def _blank(table: pa.Table, gone: np.ndarray, id_column: str, a: Admission) -> pa.Table:
    """A table in which some rows hold only their id: other columns are null, or have the value of another row if they
    take no null."""
    places = np.arange(table.num_rows)
    columns = []
    id_place = find_column(table.schema, id_column) or (-1,)
    for at, (field, column) in enumerate(zip(table.schema, table.columns, strict=True)):
        if at == id_place[0] and len(id_place) == 1:
            columns.append(column)
        elif at == id_place[0]:
            whole = pa.chunked_array([*column.chunks, alone(column.combine_chunks(), id_place[1:])], column.type)
            columns.append(whole.take(pa.array(np.where(gone, places + len(column), places))))
        elif field.nullable:
            columns.append(column.take(pa.array(places, mask=gone)))
        elif gone.all():
            raise WorkspaceError(
                f"Shard {a.shard}: column {field.name!r} takes no null, and no other row is beside those that were "
                f"taken down. Take the whole shard down: dedup-assets retract shard:{a.shard}."
            )
        else:
            columns.append(column.take(pa.array(np.where(gone, np.flatnonzero(~gone)[0], places))))
    return pa.Table.from_arrays(columns, schema=table.schema)


def _blank_vectors(path: Path, rows: np.ndarray) -> None:
    """Set some rows of a file of vectors to zero."""
    if not np.load(path, mmap_mode="r")[rows].any():
        return

    def write(temporary: Path) -> None:
        shutil.copyfile(path, temporary)
        vectors = np.load(temporary, mmap_mode="r+")
        vectors[rows] = 0
        vectors.flush()

    publish_file(path, write)


def _purge_cells(workspace: Workspace, living: LiveTexts, a: Admission) -> Iterator[int]:
    """Set the vectors of texts that no record has any more to zero, under every codebook; yields the number of each."""
    for book in workspace.ledger.codebooks().values():
        folder = workspace.cells(book, a)
        if not folder.is_dir():
            continue
        cells = ShardCells.read(folder)
        dead = np.flatnonzero(~living.texts(text_keys(a.number, np.asarray(cells.rows))))
        if len(dead) and np.asarray(cells.vectors[dead]).any():
            _blank_vectors(folder / "vectors.npy", dead)
            yield len(dead)
