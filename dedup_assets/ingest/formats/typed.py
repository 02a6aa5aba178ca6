"""Rows of the formats that know types (Parquet, Arrow): which types go on, as what, and rows with broken strings.

Columns keep their types. What Arrow cannot yet select rows of, or Parquet cannot hold, becomes the nearest type that
holds the same values; where there is none, the file is refused when it is opened, and not when it is published.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dedup_assets.errors import ShardError, reason
from dedup_assets.ingest.compression import refuse_swollen
from dedup_assets.ingest.formats.batches import BLOCK_BYTES, Batch, Rejected, render_row
from dedup_assets.ingest.formats.decoded_sizes import pieces
from dedup_assets.ingest.source_files import SourceFile, reading, stored_bytes
from dedup_assets.storage.raw_table import empty_table

_VIEWS = {pa.string_view(): pa.string(), pa.binary_view(): pa.binary()}


def storable_schema(source: SourceFile, schema: pa.Schema) -> pa.Schema:
    """The schema under which a file's columns go on. Raises `ShardError` for a type that cannot.

    Views become plain strings, binaries and lists, run-length encoded columns plain ones, and dictionaries of what is
    nested or a view plain values.
    """
    fields = [column.with_type(_plain(column.type)) for column in schema]
    for field, column in zip(fields, schema, strict=True):
        try:
            if _holds(field.type, _is_empty_list):
                raise pa.ArrowNotImplementedError("lists of a fixed size of 0 cannot be read back")
            inner = [column.type.field(index).type for index in range(column.type.num_fields)]
            if any(_holds(part, lambda kind: _is_list_view(kind) and _plain(kind) != kind) for part in inner):
                raise pa.ArrowNotImplementedError("Arrow does not convert list views that lie deeper")
            sink = pa.BufferOutputStream()
            rows = empty_table(pa.schema([field]))
            pq.write_table(rows, sink)
            rows.take(pa.array([], pa.int64()))  # rows are selected later
        except (pa.ArrowException, NotImplementedError) as problem:
            raise ShardError(
                f"{source.uri!r} (shard {source.key}): column {column.name!r} holds {column.type}, which Parquet "
                f"cannot store ({reason(problem)}). Leave the column out, or convert it, and run again."
            ) from problem
    return pa.schema(fields, metadata=schema.metadata)


def batches_of(source: SourceFile, parts: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[Batch]:
    """Batches under `schema` of what a reader gives, cut by their decoded bytes; rows that hold invalid UTF-8 are
    rejected."""
    first = decoded = 0
    stored = stored_bytes(source)
    for part, size in (piece for whole in parts for piece in pieces(whole, BLOCK_BYTES)):
        decoded += size
        with reading(source):
            refuse_swollen(decoded, stored)
        columns = [_as_plain(column, field.type) for column, field in zip(part.columns, schema, strict=True)]
        table = pa.Table.from_arrays(columns, schema=schema)
        rows = np.arange(first, first + table.num_rows, dtype=np.int64)
        first += table.num_rows
        wrong = _invalid_utf8(table)
        if not wrong:
            yield Batch(table, rows)
            continue
        kept = np.setdiff1d(np.arange(table.num_rows), list(wrong))
        yield Batch(table.take(kept), rows[kept], [_reject(table, rows, *item) for item in wrong.items()])


# ------------------------------------------------------------------------------------------ types


def _plain(kind: pa.DataType) -> pa.DataType:
    if kind in _VIEWS:
        return _VIEWS[kind]
    if pa.types.is_run_end_encoded(kind):
        return _plain(kind.value_type)
    if pa.types.is_dictionary(kind):
        value = kind.value_type
        return _plain(value) if pa.types.is_nested(value) or value in _VIEWS else kind
    if pa.types.is_map(kind):
        key, item = (field.with_type(_plain(field.type)) for field in (kind.key_field, kind.item_field))
        return pa.map_(key, item, keys_sorted=kind.keys_sorted)
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_plain(field.type)) for field in kind])
    for is_kind, make in (
        (pa.types.is_list, pa.list_),
        (pa.types.is_large_list, pa.large_list),
        (pa.types.is_list_view, pa.list_),
        (pa.types.is_large_list_view, pa.large_list),
    ):
        if is_kind(kind):
            plain = _plain(kind.value_type)
            return kind if plain == kind.value_type else make(kind.value_field.with_type(plain))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain(kind.value_type)), kind.list_size)
    return kind


def _as_plain(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type == kind:
        return column
    if pa.types.is_run_end_encoded(column.type):
        return _as_plain(pc.run_end_decode(column), kind)
    if pa.types.is_dictionary(column.type):
        # The values are made plain first: Arrow cannot take views, which decoding does.
        return _as_plain(column.dictionary, kind).take(column.indices)
    if _is_list_view(column.type):
        # Arrow's own cast gives broken offsets (pyarrow 26).
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64())
        make = pa.LargeListArray if pa.types.is_large_list(kind) else pa.ListArray
        if make is pa.ListArray:
            offsets = offsets.cast(pa.int32())
        return make.from_arrays(offsets, _as_plain(column.flatten(), kind.value_type), type=kind, mask=column.is_null())
    return column.cast(kind)


def _holds(kind: pa.DataType, is_such: Callable[[pa.DataType], bool]) -> bool:
    """Whether a type, or one inside it, is such a one."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return is_such(kind) or any(_holds(part, is_such) for part in inner)


def _is_list_view(kind: pa.DataType) -> bool:
    return pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind)


def _is_empty_list(kind: pa.DataType) -> bool:
    return pa.types.is_fixed_size_list(kind) and kind.list_size == 0


# ------------------------------------------------------------------------------------------- rows


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
