"""The stored data of one shard before the join: its valid records, and its admission to the corpus.

A text has a 64-bit key: the admission number of the shard that introduced it, then the row of its first record there.
Keys sort in the order of admission and never change.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.compute.hashes import empty_hashes
from dedup_assets.errors import ShardError
from dedup_assets.storage.publish import identity, publish_folder
from dedup_assets.storage.raw_table import RawShard
from dedup_assets.storage.struct_columns import find_column, read_column_of

ROW_BITS = 40
"""A shard has fewer than 2^40 rows, a corpus fewer than 2^23 shards."""

REJECTED = -1
"""Text key of a record whose id an earlier shard already uses; the record goes to quarantine."""

RETRACTED_ID = -2
"""Text key of a record whose id was permanently taken down; the record goes to quarantine without its content."""


def text_keys(admission: int, rows: np.ndarray) -> np.ndarray:
    """Keys (n,) int64 of texts whose first records are in `rows` of an admitted shard."""
    return (np.int64(admission) << np.int64(ROW_BITS)) | rows.astype(np.int64)


def admission_of(keys: np.ndarray) -> np.ndarray:
    """Admission numbers (n,) int64 of text keys."""
    return keys >> np.int64(ROW_BITS)


def row_of(keys: np.ndarray) -> np.ndarray:
    """Row numbers (n,) int64 of text keys."""
    return keys & np.int64((1 << ROW_BITS) - 1)


@dataclass(frozen=True)
class Records:
    """The valid records of a shard, in row order."""

    rows: np.ndarray  # (n,) int64, row in the source
    positions: np.ndarray  # (n,) int64, row in the table
    ids: pa.Array  # (n,) string
    hashes: np.ndarray  # (n, 2) uint64
    characters: np.ndarray  # (n,) int32

    def __len__(self) -> int:
        return len(self.rows)


def read_records(raw: RawShard) -> Records:
    """Read the valid records of a shard."""
    table = pq.read_table(raw.records, columns=["row", "position", "id", "text_hash", "characters"])
    table = table.combine_chunks()
    hashes = empty_hashes()
    if table.num_rows:
        column = table.column("text_hash").chunk(0)
        start = column.offset * 16
        data = column.buffers()[1].to_pybytes()[start : start + len(column) * 16]
        hashes = np.frombuffer(data, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    ids = table.column("id").chunk(0) if table.num_rows else pa.array([], pa.string())
    return Records(
        rows=table.column("row").to_numpy(),
        positions=table.column("position").to_numpy(),
        ids=ids,
        hashes=hashes,
        characters=table.column("characters").to_numpy(),
    )


def read_ids(raw: RawShard) -> tuple[np.ndarray, pa.Array]:
    """Rows (n,) int64 and ids (n,) of a shard's valid records; read once per process."""
    return _read_ids(raw, identity(raw.folder))


@lru_cache(maxsize=512)
def _read_ids(raw: RawShard, _: tuple[int, int, int]) -> tuple[np.ndarray, pa.Array]:
    table = pq.read_table(raw.records, columns=["row", "id"]).combine_chunks()
    ids = table.column("id").chunk(0) if table.num_rows else pa.array([], pa.string())
    return table.column("row").to_numpy(), ids


@dataclass(frozen=True)
class AdmittedShard:
    """The result of admission for a shard: the text of each record, and the new texts.

    Attributes
    ----------
    record_texts : (n,) int64
        Text key of each valid record, or `REJECTED` or `RETRACTED_ID`.
    new_records : (m,) int64
        Index of the first record of each text that this shard introduces.
    new_hashes : (m, 2) uint64
    id_hashes : (n_accepted, 2) uint64
        Hashes of the ids that are in use from now on.
    """

    record_texts: np.ndarray
    new_records: np.ndarray
    new_hashes: np.ndarray
    id_hashes: np.ndarray

    def write(self, folder: Path) -> None:
        """Publish to the `admitted` folder of the shard."""
        with publish_folder(folder) as temporary:
            for name in ("record_texts", "new_records", "new_hashes", "id_hashes"):
                np.save(temporary / f"{name}.npy", getattr(self, name))

    @classmethod
    def read(cls, folder: Path) -> AdmittedShard:
        """Read what `write` published."""
        names = ("record_texts", "new_records", "new_hashes", "id_hashes")
        return cls(**{name: np.load(folder / f"{name}.npy") for name in names})

    @property
    def new_keys(self) -> np.ndarray:
        """Keys (m,) int64 of the texts that this shard introduces, in row order."""
        return self.record_texts[self.new_records]


def read_column(raw: RawShard, name: str, positions: np.ndarray) -> list[object]:
    """Values of one input column at some positions of the table. Raises ShardError if it is not there."""
    schema = pq.read_schema(raw.table)
    if find_column(schema, name) is None:
        there = ", ".join(schema.names)
        raise ShardError(
            f"Shard {raw.folder.name.partition('@')[0]} has no column {name!r}; its columns are {there}. "
            "Name one of these with --keep column:NAME."
        )
    return read_column_of(raw.table, name).take(pa.array(positions)).to_pylist()


def read_rejected(raw: RawShard) -> pa.Table:
    """Rows quarantined while the shard was read: `row, reason, record`."""
    return pq.read_table(raw.quarantine)
