"""Types of JSON values: as Arrow infers them, their common types, and whether these can be stored as a schema."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_DEEPEST_TYPE = 32  # Parquet readers refuse schemas that nest much deeper

MOST_FIELDS = 1_000
"""Maximum fields of all structs of a column: an object used as a dictionary of words is a value, not a thousand
columns."""

EXACT_IN_DOUBLE = 2.0**53
"""Integers from this size on may change when converted to doubles."""


def may_be_rounded(column: pa.ChunkedArray) -> bool:
    """Whether Arrow may have read integers as doubles too large to hold them exactly."""
    if pa.types.is_list(column.type):
        return may_be_rounded(pc.list_flatten(column))
    if pa.types.is_struct(column.type):
        return any(map(may_be_rounded, column.flatten()))
    if not pa.types.is_floating(column.type):
        return False
    largest = pc.max(pc.abs(column)).as_py()
    return largest is not None and largest >= EXACT_IN_DOUBLE


def type_of(values: list[Any]) -> pa.DataType | None:
    """The type that Arrow infers for some values; None if there is none."""
    try:
        return pa.array(values).type
    except (pa.ArrowException, OverflowError, ValueError, TypeError, RecursionError):
        return None


def common_type(first: pa.DataType, second: pa.DataType) -> pa.DataType | None:
    """A type for the values of both types; None if there is none."""
    if first == second:
        return first
    try:
        schemas = [pa.schema([("value", first)]), pa.schema([("value", second)])]
        return pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def without_times(seen: pa.DataType) -> pa.DataType:
    """The type with strings wherever Arrow parsed strings as dates or times."""
    if pa.types.is_temporal(seen):
        return pa.string()
    if pa.types.is_list(seen):
        return pa.list_(without_times(seen.value_type))
    if pa.types.is_struct(seen):
        return pa.struct([(item.name, without_times(item.type)) for item in seen.fields])
    return seen


def _inside(seen: pa.DataType) -> Iterator[tuple[pa.DataType, int]]:
    """A type and all types inside it, each with its depth from 1."""
    todo = [(seen, 1)]
    while todo:
        part, level = todo.pop()
        yield part, level
        todo += [(part.field(index).type, level + 1) for index in range(part.num_fields)]


def storable(seen: pa.DataType) -> bool:
    """Whether Parquet can store the type: not nested too deeply, not too many fields, no empty struct."""
    if any(pa.types.is_struct(part) and not part.num_fields for part, _ in _inside(seen)):
        return False
    return not nests_deeper(seen, _DEEPEST_TYPE) and not nests_wider(seen, MOST_FIELDS)


def nests_deeper(seen: pa.DataType, most: int) -> bool:
    """Whether lists and structs are nested more than `most` levels deep."""
    return seen.num_fields > 0 and any(level > most for _, level in _inside(seen))


def nests_wider(seen: pa.DataType, most: int) -> bool:
    """Whether all structs together have more fields than `most`."""
    return seen.num_fields > 0 and sum(part.num_fields for part, _ in _inside(seen) if pa.types.is_struct(part)) > most


def leaves(schema: pa.Schema) -> int:
    """Number of types in a schema, nested ones included."""
    return sum(1 for kind in schema.types for _ in _inside(kind))


# ------------------------------------------------------------------------------- fields inside structs


def type_at(kind: pa.DataType, path: Sequence[str]) -> pa.DataType | None:
    """The type of the field at a path of names through structs; None if there is none."""
    for name in path:
        if not pa.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return None
        kind = kind.field(name).type
    return kind


def with_type_at(kind: pa.DataType, path: Sequence[str], new: pa.DataType) -> pa.DataType:
    """The type with the field at an existing path replaced by `new`."""
    if not path:
        return new
    inside = {field.name: field.type for field in kind}
    inside[path[0]] = with_type_at(inside[path[0]], path[1:], new)
    return pa.struct(list(inside.items()))


def value_at(value: Any, path: Sequence[str]) -> Any:
    """The value at a path of names through objects; None if there is none."""
    for name in path:
        if not isinstance(value, dict):
            return None
        value = value.get(name)
    return value


def without_value_at(value: Any, path: Sequence[str]) -> Any:
    """A copy of an object with null at an existing path."""
    return {**value, path[0]: without_value_at(value[path[0]], path[1:])} if path else None
