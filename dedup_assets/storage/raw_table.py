"""The files written when a shard is read; the largest holds the rows in the input's own columns.

They stay inside the workspace. Published files are written separately, with encodings that every reader supports.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


@dataclass(frozen=True)
class RawShard:
    """The files of one content of a shard.

    Attributes
    ----------
    folder : Path
    table : Path
        Every parsed row in the input's own columns, types and order.
    records : Path
        The valid records: `row` int64 (number in the input), `position` int64 (index in the table), `id` string,
        `text_hash` fixed_size_binary(16), `characters` int32 (of the normalised text), and `order_value` if there is
        an order column; one row a record, in input order.
    vectors : Path
        Only where vectors came with the data: unit vectors (records, dimension) beside the records.
    quarantine : Path
        `row`, `reason`, `record` (JSON) of the rows that were refused, by row.
    """

    folder: Path

    @property
    def table(self) -> Path:
        return self.folder / "table.parquet"

    @property
    def records(self) -> Path:
        return self.folder / "records.parquet"

    @property
    def vectors(self) -> Path:
        return self.folder / "vectors.npy"

    @property
    def quarantine(self) -> Path:
        return self.folder / "quarantine.parquet"


def raw_table_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of such a file, to be closed by the caller."""
    return pq.ParquetWriter(path, schema, compression="zstd", **_encodings(schema))


def _encodings(schema: pa.Schema) -> dict[str, Any]:
    """Options for the vectors among the columns: floats inside lists, of which hardly two are equal.

    A dictionary or minimum and maximum of them cost time without gain. zstd compresses better when the high bytes of
    all numbers are adjacent: 384 float16 a row take 10 % less space and a quarter of the time to write and read.
    """
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema).close()  # the writer knows the names of the leaves of nested columns
    leaves = pq.ParquetFile(pa.BufferReader(sink.getvalue())).schema
    vectors: list[str] = []
    others: list[str] = []
    for leaf in map(leaves.column, range(len(leaves))):
        is_float = leaf.physical_type in ("FLOAT", "DOUBLE") or leaf.logical_type.type == "FLOAT16"
        (vectors if is_float and leaf.max_repetition_level else others).append(leaf.path)
    if not vectors:
        return {}
    return {"use_dictionary": others, "write_statistics": others, "use_byte_stream_split": vectors}


def take_rows(
    file: pq.ParquetFile, positions: np.ndarray, names: list[str] | None = None
) -> Iterator[tuple[np.ndarray, pa.Table]]:
    """Rows at `positions`, one table for each row group that holds some: (indices into `positions`, rows in that
    order)."""
    starts = np.cumsum([0, *(file.metadata.row_group(group).num_rows for group in range(file.num_row_groups))])
    if len(positions) and (positions.min() < 0 or positions.max() >= starts[-1]):
        raise IndexError(f"position {positions.max()} of a table of {starts[-1]} rows")
    groups = np.searchsorted(starts, positions, side="right") - 1
    order = np.argsort(groups, kind="stable")
    for indices in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(positions) else ():
        group = groups[indices[0]]
        table = file.read_row_group(int(group), columns=names)
        yield indices, table.take(pa.array(positions[indices] - starts[group]))


def empty_table(schema: pa.Schema) -> pa.Table:
    """A table without rows. Arrow's own way fails for tensors with a permutation (pyarrow 26)."""
    return pa.Table.from_arrays([pa.nulls(0, column.type) for column in schema], schema=schema)
