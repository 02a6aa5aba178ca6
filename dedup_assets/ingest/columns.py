"""Makes texts, ids and vectors of records from the columns of an input table. Arrays in, arrays out.

Each function returns values and, if rows can fail, one reason per row ("" for valid rows).
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup_assets.compute.text import COLUMN_SEPARATOR, TEXT_HASH_BYTES, hash_texts, normalise_text
from dedup_assets.ingest import chats
from dedup_assets.ingest.chats import chat_texts, is_chat
from dedup_assets.storage.struct_columns import column_field, column_of

_UUID_BYTES = 16
_NOT_A_NUMBER = ("nan", "NaN")  # as Arrow writes the float, and as JSON and pandas do
_TEXT = pa.large_string()  # a batch of long texts may pass the 2 GiB that 32-bit offsets reach


def no_reasons(rows: int) -> np.ndarray:
    """An empty reason "" for each row: object array of shape (rows,)."""
    reasons = np.empty(rows, dtype=object)
    reasons.fill("")  # one shared object; `np.full` makes one for each row, at 500 ns a row instead of 15
    return reasons


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts; a column of nulls does, all of them missing."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return (
        isinstance(kind, pa.JsonType)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_null(kind)
    )


def is_written_as_text(kind: pa.DataType) -> bool:
    """Whether a column of this type has one obvious text for each value: texts, numbers, booleans, dates and times."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    has_unit = pa.types.is_duration(kind) or pa.types.is_interval(kind)
    return is_text(kind) or (is_sortable(kind) and not has_unit)


def is_sortable(kind: pa.DataType) -> bool:
    """Whether records can be ordered by this type: numbers, strings, dates and times, booleans."""
    return (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_temporal(kind)
        or (is_text(kind) and not pa.types.is_null(kind))
    )


def decoded(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column without dictionary encoding, and of an extension type what is stored."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if isinstance(column.type, pa.BaseExtensionType):
        chunks = [chunk.storage for chunk in column.chunks]
        column = pa.chunked_array(chunks, type=column.type.storage_type)
    return column


# ------------------------------------------------------------------------------------------- text


def join_texts(table: pa.Table, text_columns: Sequence[str]) -> pa.ChunkedArray:
    """The text columns joined by `COLUMN_SEPARATOR`, nulls skipped; null where all are null. large_string.

    Numbers, booleans, dates and times are written as Arrow writes them.
    """
    parts = [decoded(table.column(name)).cast(_TEXT) for name in text_columns]
    if len(parts) == 1:
        return parts[0]
    missing = pc.is_null(parts[0])
    for part in parts[1:]:
        missing = pc.and_(missing, pc.is_null(part))
    # Arrow drops rows in which every part is null (pyarrow 26): none may be left when it joins.
    parts[0] = pc.if_else(missing, pa.scalar("", _TEXT), parts[0])
    joined = pc.binary_join_element_wise(*parts, pa.scalar(COLUMN_SEPARATOR, _TEXT), null_handling="skip")
    return pc.if_else(missing, pa.scalar(None, _TEXT), joined)


def text_table(table: pa.Table, text_columns: Sequence[str]) -> tuple[pa.Table, np.ndarray]:
    """The text columns as a table, with fields taken out of structs and conversations written as texts. Also the reason
    why a row's conversation has no text: object array of shape (rows,), "" if it has one."""
    reasons = no_reasons(table.num_rows)
    columns = []
    for name in text_columns:
        field, column = column_field(table.schema, name), column_of(table, name)
        assert field is not None
        if is_chat(field):
            column, why = chat_texts(column, is_text(field.type))
            reasons = np.where(reasons == "", why, reasons)
        columns.append(column)
    return pa.Table.from_arrays(columns, names=list(text_columns)), reasons


def text_reasons(table: pa.Table, text_columns: Sequence[str], keep_empty: bool) -> np.ndarray:
    """Why a row has no text to compare; object array of shape (rows,), "" where it has one."""
    joined = join_texts(table, text_columns)
    reasons = no_reasons(table.num_rows)
    if not keep_empty:
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(joined)), 0)
        reasons[_mask(blank)] = "text is only white space"
        empty = pc.is_valid(joined)
        for name in text_columns:  # joined empty parts are separators: not empty, yet nothing was there
            part = decoded(table.column(name)).cast(_TEXT)
            empty = pc.and_(empty, pc.fill_null(pc.equal(pc.binary_length(part), 0), True))
        reasons[_mask(empty)] = "text is empty"
    reasons[_mask(pc.is_null(joined))] = "text is null"
    return reasons


@dataclass(frozen=True)
class Texts:
    """Identity of n texts: `hashes` (n, 2) uint64 as in `hash_texts`, `characters` (n,) int32."""

    hashes: np.ndarray
    characters: np.ndarray


def identify_texts(joined: pa.ChunkedArray, form: str) -> Texts:
    """Hash and measure the normalised texts; no text may be null."""
    texts = normalised_texts(joined, form)
    characters = np.fromiter(map(len, texts), dtype=np.int32, count=len(texts))
    return Texts(hash_texts(texts), characters)


def normalised_texts(joined: pa.ChunkedArray, form: str) -> list[str]:
    """The texts in the Unicode form, "" for null."""
    return [normalise_text(text or "", form) for text in joined.to_pylist()]


def identify_vectors(vectors: np.ndarray) -> Texts:
    """Identity of records without any text: the hash of the stored vector's bytes, and no characters."""
    digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=TEXT_HASH_BYTES).digest() for row in vectors)
    hashes = np.frombuffer(digests, dtype=">u8").reshape(-1, 2).astype(np.uint64)
    return Texts(hashes, np.zeros(len(vectors), dtype=np.int32))


def hashes_to_binary(hashes: np.ndarray) -> pa.FixedSizeBinaryArray:
    """Hashes of shape (n, 2) uint64 as an Arrow array of fixed_size_binary(16)."""
    buffer = pa.py_buffer(hashes.astype(">u8").tobytes())
    return pa.Array.from_buffers(pa.binary(TEXT_HASH_BYTES), len(hashes), [None, buffer])


# --------------------------------------------------------------------------------------------- id


def id_strings(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Ids as strings.

    Strings stay as they are; sixteen bytes are a UUID, in its canonical form; other binaries of a fixed size are
    written in hexadecimal digits; numbers, booleans, dates and times are cast.

    Raises
    ------
    TypeError
        Binaries of any length: whether their bytes are text is chance.
    pyarrow.ArrowException
        A type that has no text.
    """
    plain = decoded(column)
    if pa.types.is_fixed_size_binary(plain.type):
        return pa.chunked_array([[_id_of(value) for value in plain.to_pylist()]], type=pa.string())
    if pa.types.is_binary(plain.type) or pa.types.is_large_binary(plain.type):
        raise TypeError("bytes are no text; convert the column to strings or to fixed_size_binary")
    return plain.cast(pa.large_string()).cast(pa.string())


def _id_of(value: bytes | None) -> str | None:
    if value is None:
        return None
    return str(uuid.UUID(bytes=value)) if len(value) == _UUID_BYTES else value.hex()


def id_reasons(ids: pa.ChunkedArray) -> np.ndarray:
    """Why a row has no id; object array of shape (rows,), "" if it has one. Rows without ids are never equal."""
    reasons = no_reasons(len(ids))
    reasons[_mask(pc.is_in(ids, pa.array(_NOT_A_NUMBER)))] = "id is not a number (NaN)"
    reasons[_mask(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(ids)), 0))] = "id is empty"
    reasons[_mask(pc.is_null(ids))] = "id is null"
    return reasons


# ----------------------------------------------------------------------------------------- vectors


_ROWS_AT_ONCE = 256  # a MB in float64: they stay in the cache


@dataclass(frozen=True)
class Vectors:
    """Unit vectors of a batch: `unit` (rows, dimension) with rows of 0 where `reasons` is not ""."""

    unit: np.ndarray
    reasons: np.ndarray
    dimension: int | None


def read_vectors(column: pa.ChunkedArray, eligible: np.ndarray, dimension: int | None, dtype: str) -> Vectors:
    """Normalise the embeddings of a batch.

    Parameters
    ----------
    column : pyarrow.ChunkedArray
        Lists of numbers (any list type), or strings that hold JSON arrays.
    eligible : ndarray of bool, shape (rows,)
        Rows that may settle the dimension if it is not known yet.
    dimension : int or None
        The dimension expected; None: that of the first eligible row with a valid embedding.
    dtype : str
        "float16" or "float32"; normalised in float64 and cast once.

    Raises
    ------
    TypeError
        The column holds something else.
    """
    lists = _as_lists(column)
    valid = ~_mask(pc.is_null(lists))
    lengths = np.zeros(len(lists), dtype=np.int64)
    lengths[valid] = pc.list_value_length(lists.filter(pa.array(valid)) if lists.null_count else lists).to_numpy()
    values, missing = _numbers(pc.list_flatten(lists))
    starts = np.cumsum(lengths) - lengths
    filled = lengths > 0
    largest = np.zeros(len(lists))
    if filled.any():  # of rows without numbers there is nothing between two starts
        first = starts[filled]
        largest[filled] = np.maximum(np.maximum.reduceat(values, first), -np.minimum.reduceat(values, first))

    reasons = no_reasons(len(lists))
    for wrong, reason in (  # the later ones say more and win
        (valid & (largest == 0), "embedding has zero norm"),
        (np.isinf(largest), "embedding has infinity"),
        (np.isnan(largest), "embedding has NaN"),
        (
            np.bincount(np.searchsorted(starts + lengths, missing, "right"), minlength=len(lists)) > 0,
            "embedding has a missing number",
        ),
        (valid & ~filled, "embedding has no numbers"),
        (~valid, "embedding is null"),
    ):
        reasons[wrong] = reason
    if dimension is None:
        candidates = np.flatnonzero(eligible & (reasons == ""))
        if not len(candidates):
            return Vectors(np.zeros((len(lists), 0), dtype), reasons, None)
        dimension = int(lengths[candidates[0]])
    for index in np.flatnonzero(valid & (lengths != dimension)):
        reasons[index] = f"embedding has {lengths[index]} numbers, expected {dimension}"

    fits = lengths == dimension
    matrix = (values if fits[filled].all() else values[np.repeat(fits, lengths)]).reshape(-1, dimension)
    line = np.cumsum(fits) - 1
    good = np.flatnonzero(reasons == "")
    unit = np.zeros((len(lists), dimension), dtype)
    for start in range(0, len(good), _ROWS_AT_ONCE):
        rows = good[start : start + _ROWS_AT_ONCE]
        exact = matrix[line[rows]].astype(np.float64)
        # First, so that squares neither overflow nor vanish. A number of at least 1/√dimension is left in every row.
        exact /= largest[rows][:, None]
        exact /= np.sqrt(np.einsum("ij,ij->i", exact, exact))[:, None]
        unit[rows] = exact + 0.0  # no negative zeros: equal vectors have equal bytes
    return Vectors(unit, reasons, dimension)


def _numbers(flat: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a column, nulls as 0, in a type that holds every float exactly; and the indexes of the nulls."""
    wide = pa.float32() if flat.type in (pa.float16(), pa.float32()) else pa.float64()
    missing = np.flatnonzero(_mask(pc.is_null(flat))) if flat.null_count else np.empty(0, np.int64)
    numbers = flat.cast(wide, safe=False)
    return (pc.fill_null(numbers, 0.0) if flat.null_count else numbers).to_numpy(), missing


def reason_kind(reason: str) -> str:
    """The short, stable name under which a reason is counted."""
    if reason.startswith("embedding has ") and " numbers, expected " in reason:
        return "embedding has another dimension"
    return chats.reason_kind(reason)


def _as_lists(column: pa.ChunkedArray) -> pa.Array:
    kind = column.type
    if isinstance(kind, pa.FixedShapeTensorType) and kind.permutation not in (None, sorted(kind.permutation or ())):
        raise TypeError(f"{kind}: in which order its numbers make a vector depends on the permutation")
    if isinstance(kind, pa.BaseExtensionType):
        column = decoded(column)
        kind = column.type
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.large_list(pa.float64()))
    if is_text(kind):
        parsed = [_json_numbers(text) for text in decoded(column).to_pylist()]
        return pa.array(parsed, type=pa.large_list(pa.float64()))
    is_list = (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or pa.types.is_list_view(kind)
        or pa.types.is_large_list_view(kind)
    )
    item = kind.value_type if is_list else None
    if item is None or not (pa.types.is_floating(item) or pa.types.is_integer(item) or pa.types.is_null(item)):
        raise TypeError(str(kind))
    lists = column.cast(pa.large_list(item))
    return lists.combine_chunks() if lists.num_chunks != 1 else lists.chunk(0)


def _json_numbers(text: str | None) -> list[float | None] | None:
    """The numbers of a JSON array; an empty list if it is something else."""
    if text is None or text.strip() in ("", "null"):
        return None
    try:
        value = json.loads(text)
        if not isinstance(value, list) or any(isinstance(item, bool) for item in value):
            return []
        return [None if item is None else float(item) for item in value]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []


def _mask(flags: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """A boolean Arrow array as numpy, null as False."""
    return np.asarray(pc.fill_null(flags, False), dtype=bool)
