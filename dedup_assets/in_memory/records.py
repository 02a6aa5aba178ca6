"""Records of any supported type: reads their texts and columns, and selects records in the type of the input.

Lists and arrays, data frames and series (through narwhals: pandas, polars, Arrow and what else it knows), and datasets
of Hugging Face. Knows nothing of vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_assets.display_text import counted, kind_of, short
from dedup_assets.errors import SourceError, first_line
from dedup_assets.ingest.chats import array_of_chats, is_chat
from dedup_assets.ingest.columns import decoded, is_text, is_written_as_text, join_texts, text_table
from dedup_assets.storage.struct_columns import AmbiguousColumn, column_field, column_of

T = TypeVar("T")

DEFAULT_COLUMN = "text"
"""Default text column, as in a workspace."""

Columns = str | Sequence[str] | Mapping[str, float]


@dataclass(frozen=True)
class Records(Generic[T]):
    """The records of the input, and how to read them.

    Attributes
    ----------
    native : T
    count : int
    take : callable
        Returns records by their numbers, int64 (m,), in the type of `native`.
    one : callable
        Returns a record by its number; a row of a table as a dict.
    table : callable, optional
        Returns columns by name as an Arrow table; None if there are no columns.
    names : list of str
        Names of the columns.
    texts : ChunkedArray, optional
        The texts, if the records are texts themselves.
    """

    native: T
    count: int
    take: Callable[[np.ndarray], T]
    one: Callable[[int], Any]
    table: Callable[[Sequence[str]], pa.Table] | None = None
    names: Sequence[str] = ()
    texts: pa.ChunkedArray | None = None


def read_records(native: T, what: str = "records") -> Records[T]:
    """Records of any kind. Raises SourceError for what holds none, with what to do instead."""
    found = _dataset(native, what) or _frame(native, what) or _sequence(native, what)
    if found is None:
        raise SourceError(
            f"{what} is {kind_of(native)}. Expected a list of texts or dicts, a pandas, polars or Arrow table or "
            f"column, or a Dataset. {_instead(native)}"
        )
    if found.count == 0:
        raise SourceError(f"{what} is empty: {kind_of(native)} without a record. Expected at least one.")
    return found


def _instead(native: Any) -> str:
    if isinstance(native, str | bytes):
        return "A single text has nothing to be compared with: put the texts in a list."
    if isinstance(native, Mapping):
        return "Make a table of the columns: pyarrow.table(columns)."
    if hasattr(native, "collect") and hasattr(native, "lazy"):
        return "Collect it first: frame.collect()."
    if hasattr(native, "__arrow_c_stream__"):
        return "Read it first: pyarrow.table(records)."
    return "Put the records in a list: list(records)."


# ------------------------------------------------------------------------------------------ kinds


def _dataset(native: Any, what: str) -> Records | None:
    """A Dataset of Hugging Face, which is known by its module: the library need not be there."""
    if not type(native).__module__.startswith("datasets."):
        return None
    if isinstance(native, Mapping):
        raise SourceError(f"{what} is {kind_of(native)} with the splits {', '.join(native)}. Name one: data['train'].")
    if hasattr(native, "__getitem__") and hasattr(native, "__len__") and not hasattr(native, "select"):
        return None  # a column, which is a sequence
    if not hasattr(native, "select") or not hasattr(native, "__len__"):
        raise SourceError(f"{what} is {kind_of(native)}, which is read once and has no length. Load it as a Dataset.")

    def table(names: Sequence[str]) -> pa.Table:
        return native.select_columns(list(names)).with_format("arrow")[:]

    return Records(
        native, len(native), lambda at: native.select(at.tolist()), lambda at: native[at], table, native.column_names
    )


def _frame(native: Any, what: str) -> Records | None:
    """A table or a column."""
    import narwhals as nw

    if isinstance(native, str | bytes | list | tuple | np.ndarray):
        return None
    if isinstance(native, pa.Array):
        texts = _texts_of(pa.chunked_array([native]))
        return Records(
            native, len(native), lambda at: native.take(pa.array(at)), lambda at: native[at].as_py(), texts=texts
        )
    if isinstance(native, pa.RecordBatch):
        whole = _frame(pa.Table.from_batches([native]), what)
        assert whole is not None
        return replace(whole, native=native, take=lambda at: native.take(pa.array(at)))
    try:
        read = nw.from_native(native, eager_only=True, allow_series=True)
    except TypeError:
        return None
    except nw.exceptions.DuplicateError as problem:
        raise SourceError(f"{what} has two columns of one name: {first_line(problem)} Rename one.") from problem

    def arrow(column: nw.Series) -> pa.ChunkedArray:
        try:
            return _chunked(column.to_arrow())
        except (pa.ArrowException, TypeError) as problem:
            raise SourceError(
                f"column {column.name!r} of {what} holds values of several kinds ({first_line(problem)}). Expected "
                "texts."
            ) from problem

    def take(at: np.ndarray) -> Any:
        return read[at].to_native()

    if isinstance(read, nw.Series):
        return Records(native, len(read), take, lambda at: _plain(read[at]), texts=_texts_of(arrow(read)))
    return Records(
        native,
        len(read),
        take,
        lambda at: dict(zip(read.columns, map(_plain, read.row(at)), strict=True)),
        lambda names: pa.table({name: arrow(read.get_column(name)) for name in names}),
        read.columns,
    )


def _chunked(column: Any) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _plain(value: Any) -> Any:
    """A value of a table; some releases of narwhals give Arrow's own scalars."""
    return value.as_py() if isinstance(value, pa.Scalar) else value


def _texts_of(column: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """A column whose values are texts; None where they are something else."""
    plain = decoded(column)
    return plain.cast(pa.large_string()) if is_text(plain.type) else None


def _sequence(native: Any, what: str) -> Records | None:
    if (
        isinstance(native, str | bytes | Mapping)
        or not hasattr(native, "__len__")
        or not hasattr(native, "__getitem__")
    ):
        return None
    count = len(native)
    if isinstance(native, np.ndarray):
        take: Callable[[np.ndarray], Any] = native.__getitem__
    else:
        kind = tuple if isinstance(native, tuple) else list

        def take(at: np.ndarray) -> Any:
            return kind(native[index] for index in at.tolist())

    plain = Records(native, count, take, native.__getitem__)
    items: Sequence[Any] = ()
    if isinstance(native, list | tuple):
        items = native
    elif isinstance(native, np.ndarray) and native.ndim == 1:
        items = native.tolist()
    elif count and isinstance(native[0], str | Mapping):  # else, as of images on disk, none is loaded
        items = list(native)
    if items and isinstance(items[0], Mapping):
        return _dicts(plain, items, what)
    if any(isinstance(item, str) for item in items):
        for index, item in enumerate(items):
            if not isinstance(item, str):
                raise SourceError(f"record {index} of {what} is {short(item)}, {kind_of(item)}. Expected a text.")
        return Records(native, count, take, native.__getitem__, texts=_strings(items, what))
    return plain


def _strings(items: Sequence[str], what: str) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([pa.array(items, pa.large_string())])
    except UnicodeEncodeError as problem:
        for index, item in enumerate(items):
            if not item.isprintable() and any("\ud800" <= character <= "\udfff" for character in item):
                raise SourceError(
                    f"record {index} of {what} holds half a surrogate pair, which is no Unicode text: {short(item)}."
                ) from problem
        raise


def _dicts(plain: Records, items: Sequence[Mapping], what: str) -> Records:
    names: dict[str, None] = {}
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise SourceError(
                f"record {index} of {what} is {short(item)}, {kind_of(item)}. Expected a dict like others."
            )
        names |= dict.fromkeys(item)

    def table(wanted: Sequence[str]) -> pa.Table:
        columns, fields = [], []
        for name in wanted:
            values = [item.get(name) for item in items]
            try:
                column, field = array_of_chats(name, values) or (pa.array(values), None)
                columns.append(column)
                fields.append(field or pa.field(name, column.type))
            except (pa.ArrowException, UnicodeEncodeError) as problem:
                raise SourceError(
                    f"column {name!r} of {what} holds values of several kinds ({first_line(problem)}). Expected texts."
                ) from problem
        return pa.Table.from_arrays(columns, schema=pa.schema(fields))

    return Records(plain.native, plain.count, plain.take, plain.one, table, list(names))


# ------------------------------------------------------------------------------------------ texts


@dataclass(frozen=True)
class TextPart:
    """One text of each record, null where it has none, and its weight among the parts."""

    texts: pa.ChunkedArray
    weight: float = 1.0


def text_parts(records: Records, columns: Columns | None, what: str = "records") -> list[TextPart]:
    """The texts that are compared: one part, or with weights one part a column.

    Several columns without weights are joined by one empty line, as in a workspace.

    Raises
    ------
    SourceError
        A column is not there, holds no text, or a record has no text at all.
    """
    if records.texts is not None:
        if columns is not None:
            raise SourceError(f"columns = {columns!r}: {what} are texts, which have no columns. Leave it out.")
        parts = [TextPart(records.texts)]
    elif records.table is None:
        raise SourceError(
            f"{what} hold no texts: the first is {short(records.one(0))}, {kind_of(records.one(0))}. Give their "
            "vectors: vectors=array."
        )
    else:
        weights = _weights(columns)
        table = _columns(records, list(weights or _names(columns, records, what)), what)
        if weights is None:
            parts = [TextPart(join_texts(table, table.column_names))]
        else:
            parts = [TextPart(join_texts(table, [name]), weight) for name, weight in weights.items()]
    missing = pc.is_null(parts[0].texts)
    for part in parts[1:]:
        missing = pc.and_(missing, pc.is_null(part.texts))
    rows = np.flatnonzero(missing.to_numpy())
    if len(rows):
        raise SourceError(
            f"{counted(len(rows), 'record')} of {what} without a text (None), the first at {rows[0]}. Leave them out, "
            'or write "" where an empty text is meant.'
        )
    return parts


def _names(columns: Columns | None, records: Records, what: str) -> list[str]:
    if columns is None:
        if DEFAULT_COLUMN not in records.names:
            raise SourceError(
                f"which column holds the text? {what} has {', '.join(map(repr, records.names)) or 'none'}. "
                'Name it: columns="...".'
            )
        return [DEFAULT_COLUMN]
    names = [columns] if isinstance(columns, str) else list(columns)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise SourceError(f"columns = {columns!r}: expected the name of a column, or several that differ.")
    return names


def _weights(columns: Columns | None) -> dict[str, float] | None:
    if not isinstance(columns, Mapping):
        return None
    for name, weight in columns.items():
        good = isinstance(weight, int | float) and not isinstance(weight, bool) and 0 < weight < float("inf")
        if not isinstance(name, str) or not good:
            raise SourceError(f"columns = {dict(columns)!r}: expected a weight above 0 for each column.")
    if not columns:
        raise SourceError("columns is empty. Name at least one column.")
    return {name: float(weight) for name, weight in columns.items()}


def _columns(records: Records, names: Sequence[str], what: str) -> pa.Table:
    table = _table_with(records, names)
    try:
        fields = {name: column_field(table.schema, name) for name in names}
    except AmbiguousColumn as problem:
        raise SourceError(f"{what}: {problem}.") from problem
    missing = [name for name, field in fields.items() if field is None]
    if missing:
        raise SourceError(
            f"{what} has no column {', '.join(map(repr, missing))}: the columns are "
            f"{', '.join(map(repr, records.names)) or 'none'}."
        )
    for name, field in fields.items():
        assert field is not None
        if not is_written_as_text(field.type) and not pa.types.is_null(field.type) and not is_chat(field):
            raise SourceError(
                f"column {name!r} of {what} holds {field.type}. Expected texts, numbers, dates, times, or "
                "conversations: lists of structs with role and content, or from and value."
            )
    texts, reasons = text_table(table, names)
    wrong = np.flatnonzero(reasons != "")
    if len(wrong):
        raise SourceError(
            f"{counted(len(wrong), 'record')} of {what} without a text, the first at {wrong[0]}: {reasons[wrong[0]]}. "
            "Leave them out."
        )
    return texts


def _table_with(records: Records, names: Sequence[str]) -> pa.Table:
    """Table of the columns that have these names or contain fields with these names."""
    assert records.table is not None
    outer = [own for name in names for own in records.names if own == name or name.startswith(f"{own}.")]
    return records.table(list(dict.fromkeys(outer)))


def column_values(records: Records, name: str) -> list[Any]:
    """The values of a column to order by. Raises SourceError if it does not exist or has no order."""
    if records.table is None:
        raise SourceError(f"keep = 'column:{name}': the records have no columns.")
    table = _table_with(records, [name])
    try:
        field = column_field(table.schema, name)
        if field is not None and is_chat(field):
            raise SourceError(f"keep = 'column:{name}': it holds conversations, which have no order.")
        return column_of(table, name).to_pylist()
    except AmbiguousColumn as problem:
        raise SourceError(f"keep = 'column:{name}': {problem}.") from problem
    except KeyError:
        raise SourceError(f"keep = 'column:{name}': the columns are {', '.join(map(repr, records.names))}.") from None
