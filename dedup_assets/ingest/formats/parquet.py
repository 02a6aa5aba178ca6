"""Parquet, batch by batch. Row number = number of the row from 0. For types and odd values see `typed`.

Strings are read as dictionaries where the file has them so: then a value that many rows share is in memory once,
and batches are cut by what they take when it is written out.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.errors import ShardError
from dedup_assets.ingest.compression import LEAST_SWOLLEN, MOST_EXPANSION
from dedup_assets.ingest.formats.batches import (
    BLOCK_BYTES,
    ShardContent,
    empty_content,
    refuse_many_columns,
    refuse_repeated_names,
)
from dedup_assets.ingest.formats.pandas_index import with_range_index
from dedup_assets.ingest.formats.typed import batches_of, storable_schema
from dedup_assets.ingest.source_files import SourceFile, is_empty, open_raw, reading

_FEWEST_ROWS, _MOST_ROWS = 64, 65_536
_WIDTHS = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8}


def read(source: SourceFile) -> ShardContent:
    """Open a Parquet file; see the module text. Raises `ShardError`."""
    with reading(source):
        if is_empty(source):
            return empty_content()
        with open_raw(source) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            rows = file.metadata.num_rows
            refuse_many_columns(source, len(schema))
            size = max(sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)), 1)
            _refuse_swollen_lists(source, file)
            fixed = sum(max(0, file.schema.column(leaf).length) for leaf in range(len(file.schema)))
            shared = _shared_strings(file)
    refuse_repeated_names(source, schema.names)
    schema = storable_schema(source, schema)
    batch_rows = min(max(BLOCK_BYTES // max(size // max(rows, 1), fixed, 1), _FEWEST_ROWS), _MOST_ROWS)
    parts = _parts(source, batch_rows, shared)
    return with_range_index(ShardContent(schema, frozenset(), rows > 0, batches_of(source, parts, schema)))


def _parts(source: SourceFile, batch_rows: int, shared: list[str]) -> Iterator[pa.RecordBatch]:
    with reading(source), open_raw(source) as stream:
        yield from pq.ParquetFile(stream, read_dictionary=shared).iter_batches(batch_size=batch_rows)


def _shared_strings(file: pq.ParquetFile) -> list[str]:
    """The leaves of strings or bytes that some row group has as a dictionary."""
    metadata, schema = file.metadata, file.schema
    return [
        schema.column(leaf).path
        for leaf in range(len(schema))
        if schema.column(leaf).physical_type == "BYTE_ARRAY"
        and any(metadata.row_group(i).column(leaf).has_dictionary_page for i in range(metadata.num_row_groups))
    ]


def _refuse_swollen_lists(source: SourceFile, file: pq.ParquetFile) -> None:
    """Raise `ShardError` where lists hold far more values than their bytes: one row may be all of them."""
    for leaf in range(len(file.schema)):
        column = file.schema.column(leaf)
        if not column.max_repetition_level:
            continue
        width = column.length if column.length > 0 else _WIDTHS.get(column.physical_type, 4)
        for group in range(file.metadata.num_row_groups):
            chunk = file.metadata.row_group(group).column(leaf)
            decoded = chunk.num_values * width
            if decoded > max(LEAST_SWOLLEN, MOST_EXPANSION * chunk.total_compressed_size):
                raise ShardError(
                    f"{source.uri!r} (shard {source.key}): row group {group} holds {chunk.num_values} values of "
                    f"{column.path!r} in {chunk.total_compressed_size} bytes, which take {decoded} decoded. "
                    "Expected row groups that fit into memory. Write the file with smaller ones, and run again."
                )
