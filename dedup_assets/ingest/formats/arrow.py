"""Arrow IPC: the file format, which Feather 2 is too, and the stream format. Row number = number of the row from 0.

For types and odd values see `typed`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.ipc as ipc

from dedup_assets.ingest.formats.batches import (
    ShardContent,
    empty_content,
    refuse_many_columns,
    refuse_repeated_names,
)
from dedup_assets.ingest.formats.pandas_index import with_range_index
from dedup_assets.ingest.formats.typed import batches_of, storable_schema
from dedup_assets.ingest.source_files import SourceFile, is_empty, open_raw, reading

_FILE_MAGIC = b"ARROW1"


def read(source: SourceFile) -> ShardContent:
    """Open an Arrow file; see the module text. Raises `ShardError`."""
    with reading(source):
        if is_empty(source):
            return empty_content()
        with open_raw(source) as stream:
            schema, parts = _opened(stream)
            has_rows = any(part.num_rows for part in parts)
    refuse_many_columns(source, len(schema))
    refuse_repeated_names(source, schema.names)
    schema = storable_schema(source, schema)
    return with_range_index(ShardContent(schema, frozenset(), has_rows, batches_of(source, _parts(source), schema)))


def _parts(source: SourceFile) -> Iterator[pa.RecordBatch]:
    with reading(source), open_raw(source) as stream:
        yield from _opened(stream)[1]


def _opened(stream: pa.NativeFile) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    magic = stream.read(len(_FILE_MAGIC))
    stream.seek(0)
    if magic == _FILE_MAGIC:
        file = ipc.open_file(stream)
        return file.schema, map(file.get_batch, range(file.num_record_batches))
    reader = ipc.open_stream(stream)
    return reader.schema, iter(reader)
