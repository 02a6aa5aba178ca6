"""Columns by name, also those inside a struct: `doc.text` is the field `text` of the column `doc`.

A column whose own name holds the dot comes first.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class AmbiguousColumn(ValueError):
    """A name that stands for several columns."""


def find_column(schema: pa.Schema, name: str) -> tuple[int, ...] | None:
    """Where a column is: its number, and inside a struct the number of the field at each step; None where it is not.

    Raises `AmbiguousColumn` where more than one field may be meant.
    """
    if name in schema.names:
        return (schema.names.index(name),)
    found = list(_inside(list(schema), name))
    if len(found) > 1:
        readings = " or ".join(" in ".join(map(repr, reversed(_names(schema, place)))) for place in found[:3])
        raise AmbiguousColumn(f"column {name!r} may be {readings}. Rename one of them")
    return found[0] if found else None


def column_field(schema: pa.Schema, name: str) -> pa.Field | None:
    """Name, type and metadata of a column, None where it is not there. Raises `AmbiguousColumn`."""
    place = find_column(schema, name)
    if place is None:
        return None
    field = schema.field(place[0])
    for index in place[1:]:
        field = field.type.field(index)
    return field


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a table; null where a struct around it is. Raises KeyError and `AmbiguousColumn`."""
    place = find_column(table.schema, name)
    if place is None:
        raise KeyError(name)
    column = table.column(place[0])
    return pc.struct_field(column, list(place[1:])) if len(place) > 1 else column


def read_column_of(path: Path, name: str) -> pa.ChunkedArray:
    """The same of a Parquet file, of which nothing else is read."""
    with pq.ParquetFile(path) as file:  # `read_table` would give the field by its own name
        return column_of(file.read(columns=[name]), name)


def nothing_beside(column: pa.Array, place: tuple[int, ...]) -> np.ndarray:
    """Where (n,) a column holds nothing but, perhaps, the field at `place` in it."""
    nothing = np.asarray(column.is_null())
    if not place:
        return np.ones(len(column), bool)
    inside = np.ones(len(column), bool)
    for index in range(column.type.num_fields):
        part = pc.struct_field(column, [index])
        inside &= nothing_beside(part, place[1:]) if index == place[0] else np.asarray(part.is_null())
    return nothing | inside


def alone(column: pa.Array, place: tuple[int, ...]) -> pa.Array:
    """A column of which nothing is left but the field at `place` in it."""
    if not place:
        return column
    parts = [
        alone(pc.struct_field(column, [index]), place[1:])
        if index == place[0]
        else pa.nulls(len(column), column.type.field(index).type)
        for index in range(column.type.num_fields)
    ]
    return pa.StructArray.from_arrays(parts, fields=list(column.type), mask=column.is_null())


def _inside(fields: list[pa.Field], name: str) -> Iterator[tuple[int, ...]]:
    for index, field in enumerate(fields):
        if field.name == name:
            yield (index,)
        elif name.startswith(f"{field.name}.") and pa.types.is_struct(field.type):
            for place in _inside(list(field.type), name[len(field.name) + 1 :]):
                yield (index, *place)


def _names(schema: pa.Schema, place: tuple[int, ...]) -> list[str]:
    field = schema.field(place[0])
    names = [field.name]
    for index in place[1:]:
        field = field.type.field(index)
        names.append(field.name)
    return names
