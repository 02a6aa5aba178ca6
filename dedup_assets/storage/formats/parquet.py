"""Parquet, batch by batch. Row number = number of the row from 0. For types and odd values see `typed`."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from dedup_assets.storage.formats.batches import BLOCK_BYTES, ShardContent, empty_content, refuse_repeated_names
from dedup_assets.storage.formats.pandas_index import with_range_index
from dedup_assets.storage.formats.typed import batches_of, storable_schema
from dedup_assets.storage.source_files import SourceFile, is_empty, open_raw, reading

_FEWEST_ROWS, _MOST_ROWS = 64, 65_536


def read(source: SourceFile) -> ShardContent:
    """Open a Parquet file; see the module text. Raises `ShardError`."""
    with reading(source):
        if is_empty(source):
            return empty_content()
        with open_raw(source) as stream:
            file = pq.ParquetFile(stream)
            schema = file.schema_arrow
            rows = file.metadata.num_rows
            size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
    refuse_repeated_names(source, schema.names)
    schema = storable_schema(source, schema)
    batch_rows = min(max(BLOCK_BYTES * rows // max(size, 1), _FEWEST_ROWS), _MOST_ROWS)
    return with_range_index(ShardContent(schema, frozenset(), rows > 0, batches_of(_parts(source, batch_rows), schema)))


def _parts(source: SourceFile, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with reading(source), open_raw(source) as stream:
        yield from pq.ParquetFile(stream).iter_batches(batch_size=batch_rows)
