"""Parquet files of matches and decisions: their schemas, and writing them so that equal content gives
equal bytes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
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
        ("record_row", pa.int64()),
        ("record_id", pa.string()),
        ("keeper_text", pa.int64()),
        ("similarity", pa.float64()),
    ]
)
"""One row per text new with the shard: the record that stands for it, and its keeper where removed."""

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
    ]
)
"""Records whose decision or keeper a new generation changed."""

QUARANTINE = pa.schema([("row", pa.int64()), ("reason", pa.string()), ("record", pa.string())])


def write_parquet(path: Path, table: pa.Table) -> None:
    """Publish a table as Parquet with zstd."""
    publish_file(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))


def pairs_table(
    keys_a: np.ndarray, keys_b: np.ndarray, ids_a: pa.Array, ids_b: pa.Array, similarity: np.ndarray
) -> pa.Table:
    """Arrange matches by the schema `PAIRS`."""
    return pa.table([ids_a, ids_b, pa.array(similarity), pa.array(keys_a), pa.array(keys_b)], schema=PAIRS)


def read_pairs(path: Path, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Text keys (m,), (m,) and similarities (m,) of the matches at or above a threshold."""
    table = pq.read_table(path, columns=["key_a", "key_b", "similarity"], filters=[("similarity", ">=", threshold)])
    return (
        table.column("key_a").to_numpy(),
        table.column("key_b").to_numpy(),
        table.column("similarity").to_numpy(),
    )
