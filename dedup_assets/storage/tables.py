"""Parquet files of matches and decisions: their schemas, and writing them so that equal content gives
equal bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.storage.publish import publish_file

PAIRS = pa.schema(
    [
        ("id_a", pa.string()),
        ("id_b", pa.string()),
        ("similarity", pa.float64()),
        ("key_a", pa.int64()),
        ("key_b", pa.int64()),
    ]
)
"""Matches between distinct texts: `id_*` of the first record with the text, `key_*` its key; a before b."""

RECORD_DECISIONS = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("kept", pa.bool_()),
        ("keeper_id", pa.string()),
        ("keeper_shard", pa.string()),
        ("similarity", pa.float64()),
        ("kind", pa.string()),
        ("group_id", pa.string()),
    ]
)
"""One row per admitted record; keeper, similarity, kind and group are null where it is kept."""

TEXT_DECISIONS = pa.schema(
    [
        ("text", pa.int64()),
        ("kept", pa.bool_()),
        ("record_admission", pa.int64()),
        ("record_row", pa.int64()),
        ("record_id", pa.string()),
        ("keeper_text", pa.int64()),
        ("similarity", pa.float64()),
        ("place", pa.int64()),
    ]
)
"""One row per text that an admission introduced: the record that represents it (possibly of another admission), its
keeper if removed, and its position in the curation order."""

DUPLICATES = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.string()),
        ("keeper_id", pa.string()),
        ("keeper_shard", pa.string()),
        ("similarity", pa.float64()),
        ("kind", pa.string()),
        ("group_id", pa.string()),
    ]
)

CHANGES = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.string()),
        ("before", pa.string()),
        ("after", pa.string()),
        ("keeper_before", pa.string()),
        ("keeper_after", pa.string()),
        ("similarity_before", pa.float64()),
        ("similarity_after", pa.float64()),
        ("keeper_shard_before", pa.string()),
        ("keeper_shard_after", pa.string()),
        ("why", pa.string()),
    ]
)
"""Records whose decision or keeper a new generation changed. `before` and `after` are "kept", "removed",
"reference", or "retracted" for retracted records; `why` describes the cause of the change."""

QUARANTINE = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("record", pa.string())])


def write_parquet(path: Path, table: pa.Table) -> None:
    """Publish a table as Parquet with zstd. An empty table has no row group, because some readers fail at an empty
    one."""

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, table.schema, compression="zstd") as writer:
            if table.num_rows:
                writer.write_table(table)

    publish_file(path, write)


def pairs_table(
    keys_a: np.ndarray, keys_b: np.ndarray, ids_a: pa.Array, ids_b: pa.Array, similarity: np.ndarray
) -> pa.Table:
    """Arrange matches by the schema `PAIRS`."""
    return pa.table([ids_a, ids_b, pa.array(similarity), pa.array(keys_a), pa.array(keys_b)], schema=PAIRS)


PAIR_ROWS = 1 << 20
"""Rows per row group of matches."""

DENSE_CELLS = b"dense_cells"
"""Key in a file's metadata: the cells, in the codebook of its shard's admission, whose matches are not listed. It is in
the file itself, so that it always agrees with the listed matches."""


def write_pairs(path: Path, parts: Iterator[pa.Table], dense_cells: Sequence[int] = ()) -> None:
    """Publish matches, given in parts of any size; the bytes do not depend on the parts."""
    schema = PAIRS
    if dense_cells:
        schema = PAIRS.with_metadata({DENSE_CELLS: json.dumps(sorted(dense_cells))})

    def write(temporary: Path) -> None:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            waiting = PAIRS.empty_table()
            for part in parts:
                waiting = pa.concat_tables([waiting, part])
                while waiting.num_rows >= PAIR_ROWS:
                    writer.write_table(_whole(waiting.slice(0, PAIR_ROWS), schema), PAIR_ROWS)
                    waiting = waiting.slice(PAIR_ROWS)
            if waiting.num_rows:
                writer.write_table(_whole(waiting, schema), PAIR_ROWS)

    publish_file(path, write)


def dense_cells_of(path: Path) -> list[int]:
    """The dense cells that a file of matches names."""
    return dense_cells_in(pq.read_schema(path))


def dense_cells_in(schema: pa.Schema) -> list[int]:
    """The dense cells that a file of matches with this schema names."""
    return json.loads((schema.metadata or {}).get(DENSE_CELLS, b"[]"))


def _whole(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table in one chunk, because chunks affect the pages of a file."""
    return table.combine_chunks().cast(schema)


def read_pairs(path: Path, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[int]]:
    """Text keys (m,), (m,) and similarities (m,) of the matches at or above a threshold, and the dense cells.

    They are read row group by row group from one open file, because an equivalent file may replace it meanwhile.
    """
    parts = []
    with path.open("rb") as handle, pq.ParquetFile(handle) as file:
        dense = dense_cells_in(file.schema_arrow)
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, columns=["key_a", "key_b", "similarity"])
            parts.append(table.filter(pc.field("similarity") >= threshold))
    table = pa.concat_tables(parts) if parts else PAIRS.empty_table()
    return (
        table.column("key_a").to_numpy(),
        table.column("key_b").to_numpy(),
        table.column("similarity").to_numpy(),
        dense,
    )
