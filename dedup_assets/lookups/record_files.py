"""Records of several shards as one table in their own columns, and as a file of the kind that its name ends in."""

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
"""A table on disk, the places (m,) of some of its rows in the whole, and their positions (m,) in it."""


def table_of(parts: Sequence[Part], rows: int) -> pa.Table:
    """Rows of several tables, each in its place; columns as in `LazyTable.of_folder`: absent ones are null, and types
    that differ become the one that holds all of them, or text."""
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
    """A date or a time as ISO 8601, a decimal as its digits, a number of numpy as such."""
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
    """Raises SettingsError for a file name that says nothing of how records are to be written."""
    if path.suffix.lower() not in _WRITERS:
        raise SettingsError(
            f"{path}: records are written as {', '.join(_WRITERS)}. Give the file one of these endings."
        )


def write_records(table: pa.Table, path: Path) -> None:
    """Write a table, whole or not at all. Raises SettingsError for another ending, and for what the format lacks."""
    require_known_kind(path)
    try:
        publish_file(path, lambda temporary: _WRITERS[path.suffix.lower()](table, temporary))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError, ValueError) as problem:
        raise SettingsError(
            f"{path}: these records have values that {path.suffix} cannot hold: {first_line(problem)}. Give a "
            "name that ends in .parquet, which takes every column as it is."
        ) from problem
