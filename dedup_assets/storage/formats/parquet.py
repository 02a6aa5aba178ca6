"""Parquet, batch by batch. Row number = number of the row from 0.

Columns keep their types, except that string and binary views become plain strings and binaries: what Parquet
stores is the same, and Arrow cannot yet select rows of views.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.storage.formats.batches import (
    BLOCK_BYTES,
    Batch,
    Rejected,
    ShardContent,
    empty_content,
    refuse_repeated_names,
    render_row,
)
from dedup_assets.storage.source_files import SourceFile, is_empty, open_raw, reading

_FEWEST_ROWS, _MOST_ROWS = 64, 65_536


def read(source: SourceFile) -> ShardContent:
    """Open a Parquet file; see the module text. Raises `ShardError`."""
    with reading(source):
        if is_empty(source):
            return empty_content()
        with open_raw(source) as stream:
            file = pq.ParquetFile(stream)
            schema = _plain_schema(file.schema_arrow)
            rows = file.metadata.num_rows
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
    refuse_repeated_names(source, schema.names)
    batch_rows = min(max(BLOCK_BYTES * rows // max(size, 1), _FEWEST_ROWS), _MOST_ROWS)
    return ShardContent(schema, frozenset(), rows > 0, _batches(source, schema, batch_rows))


def _batches(source: SourceFile, schema: pa.Schema, batch_rows: int) -> Iterator[Batch]:
    first = 0
    with reading(source), open_raw(source) as stream:
        file = pq.ParquetFile(stream)
        for record_batch in file.iter_batches(batch_size=batch_rows):
            table = pa.Table.from_batches([record_batch])
            if table.schema != schema:
                table = table.cast(schema)
            rows = np.arange(first, first + table.num_rows, dtype=np.int64)
            first += table.num_rows
            wrong = _invalid_utf8(table)
            if not wrong:
                yield Batch(table, rows)
                continue
            kept = np.setdiff1d(np.arange(table.num_rows), list(wrong))
            yield Batch(table.take(kept), rows[kept], [_reject(table, rows, *item) for item in wrong.items()])


def _plain_schema(schema: pa.Schema) -> pa.Schema:
    plain = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}
    for index, column in enumerate(schema):
        if column.type in plain:
            schema = schema.set(index, column.with_type(plain[column.type]))
    return schema


def _invalid_utf8(table: pa.Table) -> dict[int, str]:
    """Rows that hold a string of invalid UTF-8, with the column it is in; ordered by row."""
    wrong: dict[int, str] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _is_valid(column):
            continue
        # Only a batch that holds an invalid string is looked at row by row. `take` copies the row, so that
        # nested values are checked alone.
        for row in range(len(column)):
            if not _is_valid(column.take([row])):
                wrong.setdefault(row, name)
    return dict(sorted(wrong.items()))


def _is_valid(column: pa.ChunkedArray) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _reject(table: pa.Table, rows: np.ndarray, index: int, name: str) -> Rejected:
    reason = f"invalid UTF-8 in column {name!r}"
    return Rejected(int(rows[index]), "invalid UTF-8", reason, render_row(table, index))
