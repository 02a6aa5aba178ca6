"""How large the rows of Arrow data are once nothing is shared, and pieces of them that stay small.

A dictionary, a run, or a view lets many rows share one value: a file of some kilobytes may hold gigabytes. Here the
sizes are known before anything is copied.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PLACE = 4  # bytes that say where a value of a variable length ends

_VARIABLE = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)


def pieces(part: pa.RecordBatch, most_bytes: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """A batch cut into slices of at most `most_bytes` decoded bytes, or of one row; each with its bytes."""
    sizes = np.zeros(part.num_rows, np.int64)
    for column in part.columns:
        sizes += row_bytes(column)
    ends = np.cumsum(sizes)
    start = 0
    while start < part.num_rows:
        before = int(ends[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(ends, before + most_bytes, side="right")))
        yield part.slice(start, end - start), int(ends[end - 1]) - before
        start = end


def row_bytes(array: pa.Array) -> np.ndarray:
    """The bytes (n,), int64, that each row's values take when they are written out; what a null hides may count."""
    kind = array.type
    if isinstance(array, pa.ExtensionArray):
        return row_bytes(array.storage)
    if pa.types.is_dictionary(kind):
        return _taken(row_bytes(array.dictionary), pc.fill_null(array.indices, 0).to_numpy(zero_copy_only=False))
    if pa.types.is_run_end_encoded(kind):
        ends = array.run_ends.to_numpy()
        runs = np.searchsorted(ends, np.arange(array.offset, array.offset + len(array)), side="right")
        return _taken(row_bytes(array.values), runs)
    if any(is_such(kind) for is_such in _VARIABLE):
        return pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64) + _PLACE
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        views = array.buffers()[1]
        lengths = np.frombuffer(views, np.int32)[::4] if views is not None else np.zeros(0, np.int32)
        lengths = lengths[array.offset : array.offset + len(array)].astype(np.int64)
        return np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0) + _PLACE
    if pa.types.is_struct(kind):
        total = np.zeros(len(array), np.int64)
        for index in range(kind.num_fields):
            total += row_bytes(array.field(index))
        return total
    if pa.types.is_fixed_size_list(kind):
        width = kind.list_size
        if pa.types.is_primitive(kind.value_type):  # all have one size: no array of sizes is needed
            return np.full(len(array), width * _width(kind.value_type), np.int64)
        values = row_bytes(array.values.slice(array.offset * width, len(array) * width))
        return values.reshape(len(array), width).sum(axis=1) if width else np.zeros(len(array), np.int64)
    if pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        starts, lengths = array.offsets.to_numpy(), array.sizes.to_numpy()
        lengths = np.where(array.is_valid().to_numpy(zero_copy_only=False), lengths, 0)
        return _between(array.values, np.where(lengths > 0, starts, 0), lengths)
    if pa.types.is_map(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        bounds = array.offsets.to_numpy()
        inside = (array.keys, array.items) if pa.types.is_map(kind) else (array.values,)
        return np.sum([_between(values, bounds[:-1], np.diff(bounds)) for values in inside], axis=0)
    return np.full(len(array), _width(kind), np.int64)


def _width(kind: pa.DataType) -> int:
    try:
        return max(1, kind.bit_width // 8)
    except ValueError:  # null
        return 1


def _taken(sizes: np.ndarray, indices: np.ndarray) -> np.ndarray:
    return sizes[indices] if len(sizes) else np.zeros(len(indices), np.int64)


def _between(values: pa.Array, starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """The bytes of `lengths` values from `starts` on."""
    if pa.types.is_primitive(values.type):
        return lengths.astype(np.int64) * _width(values.type) + _PLACE
    ends = np.concatenate([[0], np.cumsum(row_bytes(values))])
    return ends[starts + lengths] - ends[starts] + _PLACE
