"""Finds columns by name, also fields inside structs: `doc.text` is the field `text` of the column `doc`.

A column whose own name is `doc.text` has priority.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq


class AmbiguousColumn(ValueError):
    """A name that fits several columns."""


def find_column(schema: pa.Schema, name: str) -> tuple[int, ...] | None:
    """Path of a column: its number, then the number of the field at each level of structs; None if it does not exist.

    Raises `AmbiguousColumn` if the name fits several fields.
    """
    if name in schema.names:
        return (schema.names.index(name),)
    found = list(_inside(list(schema), name))
    if len(found) > 1:
        readings = " or ".join(" in ".join(map(repr, reversed(_names(schema, place)))) for place in found[:3])
        raise AmbiguousColumn(f"column {name!r} may be {readings}. Rename one of them")
    return found[0] if found else None


def column_field(schema: pa.Schema, name: str) -> pa.Field | None:
    """Name, type and metadata of a column; None if it does not exist. Raises `AmbiguousColumn`."""
    place = find_column(schema, name)
    if place is None:
        return None
    field = schema.field(place[0])
    for index in place[1:]:
        field = field.type.field(index)
    return field


def column_of(table: pa.Table, name: str) -> pa.ChunkedArray:
    """A column of a table; a field is null where its struct is null. Raises KeyError and `AmbiguousColumn`."""
    place = find_column(table.schema, name)
    if place is None:
        raise KeyError(name)
    column = table.column(place[0])
    return pc.struct_field(column, list(place[1:])) if len(place) > 1 else column


def read_column_of(path: Path, name: str) -> pa.ChunkedArray:
    """`column_of` for a Parquet file, without reading other columns."""
    with pq.ParquetFile(path) as file:  # `read_table` would return the field under its own name
        return column_of(file.read(columns=[name]), name)


def nothing_beside(column: pa.Array, place: tuple[int, ...]) -> np.ndarray:
    """Mask (n,) bool of the rows in which all fields are null, except possibly the one at the path `place`."""
    nothing = np.asarray(column.is_null())
    if not place:
        return np.ones(len(column), bool)
    inside = np.ones(len(column), bool)
    for index in range(column.type.num_fields):
        part = pc.struct_field(column, [index])
        inside &= nothing_beside(part, place[1:]) if index == place[0] else np.asarray(part.is_null())
    return nothing | inside


def alone(column: pa.Array, place: tuple[int, ...]) -> pa.Array:
    """The column with all fields null except the one at the path `place`."""
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
