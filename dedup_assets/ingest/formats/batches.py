"""The result of every format reader: batches of parsed rows, and the rows that could not be parsed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from dedup_assets.errors import ShardError
from dedup_assets.ingest.source_files import SourceFile

BLOCK_BYTES = 16 * 2**20
"""Raw bytes parsed at a time: large enough for the parsers' full speed, small beside any worker's memory."""

MOST_COLUMNS = 4_096
"""Columns of a file at most: a file with more is a matrix, or an object used as a dictionary."""

LONGEST_RECORD = 2**28
"""Maximum bytes of one record of JSON, CSV or plain text."""

LONGEST_STRING = 10_000
"""Characters of a string that a quarantined record shows; the input itself still has the rest."""

_RENDERED_AT_ONCE = 256  # rows; as Python objects they may be large

LONGEST_LIST = 2_000  # longer than any common embedding, so that a bad one is shown whole


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that could not be parsed: its number, a stable kind, the reason in full, the row as JSON."""

    row: int
    kind: str
    reason: str
    record: str


@dataclass(frozen=True)
class Batch:
    """Parsed rows in the input's own columns, with their row numbers (int64, shape (table.num_rows,))."""

    table: pa.Table
    rows: np.ndarray
    rejected: list[Rejected] = field(default_factory=list)


@dataclass(frozen=True)
class ShardContent:
    """A file opened for reading.

    Attributes
    ----------
    schema : pyarrow.Schema
        The one schema of all batches. Without columns if no row could be parsed.
    json_encoded : frozenset of str
        Columns whose values had no common type in a JSON file: every value is JSON text there.
    has_rows : bool
        Whether at least one row could be parsed: only then do the columns have to fit the settings.
    batches : iterator of Batch
        To be read once. Raises `ShardError` when the file turns out truncated or corrupt.
    """

    schema: pa.Schema
    json_encoded: frozenset[str]
    has_rows: bool
    batches: Iterator[Batch]


def empty_content() -> ShardContent:
    """The content of an empty file."""
    return ShardContent(pa.schema([]), frozenset(), False, iter(()))


def refuse_repeated_names(source: SourceFile, names: list[str]) -> None:
    """Raise `ShardError` if two columns share a name: columns are addressed by name everywhere."""
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ShardError(
            f"{source.uri!r} (shard {source.key}) has several columns named {repeated[0]!r}; its columns are "
            f"{', '.join(map(repr, names))}. Rename them so that every name occurs once."
        )


def refuse_many_columns(source: SourceFile, columns: int) -> None:
    """Raise `ShardError` if a file has more columns than a table can sensibly have."""
    if columns > MOST_COLUMNS:
        raise ShardError(
            f"{source.uri!r} (shard {source.key}) has {columns} columns or more, expected at most {MOST_COLUMNS}. Put "
            "the values under one name, or leave columns out, and run again."
        )


def render_record(record: dict[str, Any]) -> str:
    """A parsed row as JSON for people: long values are truncated with a note, bytes by `repr`, the rest by `str`."""
    return json.dumps({str(name): _showable(value) for name, value in record.items()}, ensure_ascii=False)


def render_row(table: pa.Table, index: int) -> str:
    """Row `index` of a table by `render_record`, also where a value has no Python equivalent."""
    record: dict[str, Any] = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        cell = column.take([index])  # a copy: for a nested slice Arrow would check the neighbours too
        try:
            record[name] = cell.to_pylist()[0]
        except UnicodeDecodeError:
            is_string = pa.types.is_string(cell.type) or pa.types.is_large_string(cell.type)
            record[name] = cell.cast(pa.large_binary()).to_pylist()[0] if is_string else "[invalid UTF-8]"
        except (ValueError, OverflowError):  # a date outside Python's calendar
            record[name] = f"[{cell.type} outside Python's range]"
    return render_record(record)


def render_rows(table: pa.Table, indices: np.ndarray) -> list[str]:
    """`render_row` for several rows; `indices` is int64 (n,)."""
    rendered: list[str] = []
    for start in range(0, len(indices), _RENDERED_AT_ONCE):
        some = indices[start : start + _RENDERED_AT_ONCE]
        try:
            rendered += map(render_record, table.take(pa.array(some, pa.int64())).to_pylist())
        except (ValueError, OverflowError):  # one row fails; includes UnicodeDecodeError
            rendered += (render_row(table, index) for index in some.tolist())
    return rendered


def rendered_value(record: str | None, column: str) -> str | None:
    """A value of a row that `render_record` rendered, as text; None where it has none."""
    try:
        value = _value_at(json.loads(record or "null"), column)
    except ValueError:
        return None
    return None if value is None else str(value)


def _value_at(record: Any, column: str) -> Any:
    """The value of a column or of a field inside objects (`doc.text`); None if there is none."""
    if not isinstance(record, dict):
        return None
    if column in record:
        return record[column]
    inside = (_value_at(record[key], column[len(key) + 1 :]) for key in record if column.startswith(f"{key}."))
    return next((value for value in inside if value is not None), None)


def render_unparsed(raw: bytes | str) -> str:
    """A row that could not be parsed, as JSON with its raw text under "unparsed"."""
    text = raw[: 4 * LONGEST_STRING + 4] if isinstance(raw, bytes) else raw
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    return json.dumps({"unparsed": _showable(text)}, ensure_ascii=False)


def _showable(value: Any) -> Any:
    if isinstance(value, str):
        # Lone surrogates cannot be stored as UTF-8.
        text = value[:LONGEST_STRING].encode("utf-8", "backslashreplace").decode("utf-8")
        cut = len(value) - LONGEST_STRING
        return text if cut <= 0 else f"{text}… [{cut} more characters]"
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return _showable(repr(value[:LONGEST_STRING]))
    if isinstance(value, dict):
        return {str(name): _showable(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        shown = [_showable(item) for item in value[:LONGEST_LIST]]
        cut = len(value) - LONGEST_LIST
        return shown if cut <= 0 else [*shown, f"… [{cut} more items]"]
    return str(value)
