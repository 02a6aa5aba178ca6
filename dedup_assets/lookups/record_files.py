"""Records of several shards as one table in their own columns, and as a file in the format of its suffix."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from dedup_assets.errors import SettingsError, first_line
from dedup_assets.lookups.tables import merged_schema
from dedup_assets.storage.publish import publish_file
from dedup_assets.storage.raw_table import take_rows

Part = tuple[Path, np.ndarray, np.ndarray]
"""A table on disk, the positions (m,) of some of its rows in the result, and their positions (m,) in the table."""


def table_of(parts: Sequence[Part], rows: int) -> pa.Table:
    """Rows of several tables in the given order. Columns are merged as in `LazyTable.of_folder`: absent ones are null,
    and different types become a common type, or text."""
    schema = merged_schema([pq.read_schema(path) for path, _, _ in parts], "the shards")
    found, places = [], [np.empty(0, np.int64)]
    for path, mine, positions in parts:
        with pq.ParquetFile(path) as file:
            for indices, table in take_rows(file, positions):
                found.append(_cast(table, schema))
                places.append(mine[indices])
    order = np.empty(rows, np.int64)
    order[np.concatenate(places)] = np.arange(rows)
    return pa.concat_tables(found).take(pa.array(order)) if found else schema.empty_table()


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    return pa.table(
        [
            table.column(field.name).cast(field.type)
            if field.name in table.column_names
            else pa.nulls(table.num_rows, field.type)
            for field in schema
        ],
        schema=schema,
    )


def _write_lines(table: pa.Table, path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for batch in table.to_batches(max_chunksize=1_024):
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, allow_nan=False, default=_as_plain) + "\n")


def _as_plain(value: object) -> object:
    """A date or time as ISO 8601, a decimal as a string, a numpy number as a Python number. Raises TypeError for
    bytes."""
    if isinstance(value, bytes):
        raise TypeError("bytes have no place in JSON")
    if isinstance(value, np.generic):
        return value.item()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_WRITERS: Mapping[str, Callable[[pa.Table, Path], None]] = {
    ".parquet": lambda table, path: pq.write_table(table, path),
    ".jsonl": _write_lines,
    ".csv": lambda table, path: pyarrow.csv.write_csv(table, path),
}


def require_known_kind(path: Path) -> None:
    """Raise SettingsError for a file name without a supported suffix."""
    if path.suffix.lower() not in _WRITERS:
        raise SettingsError(
            f"{path}: records are written as {', '.join(_WRITERS)}. Give the file one of these endings."
        )


def write_records(table: pa.Table, path: Path) -> None:
    """Write a table atomically. Raises SettingsError for an unsupported suffix, and for values that the format cannot
    hold."""
    require_known_kind(path)
    try:
        publish_file(path, lambda temporary: _WRITERS[path.suffix.lower()](table, temporary))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError) as problem:
        raise SettingsError(
            f"{path}: these records have values that {path.suffix} cannot hold: {first_line(problem)}. Give a "
            "name that ends in .parquet, which takes every column as it is."
        ) from problem
