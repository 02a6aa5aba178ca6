"""A dotted name finds the field inside a struct, its own column first, and never one of two."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_assets.storage.struct_columns import (
    AmbiguousColumn,
    alone,
    column_field,
    column_of,
    find_column,
    nothing_beside,
    read_column_of,
)

ROWS = [{"x": {"y": "a", "z": 1}, "w": 2}, None, {"x": None, "w": 3}, {"x": {"y": None, "z": None}, "w": None}]
TABLE = pa.table({"s": pa.array(ROWS), "s.w": ["own"] * 4})


def test_a_column_of_its_own_comes_first_and_a_struct_that_is_null_gives_null(tmp_path: Path) -> None:
    assert column_of(TABLE, "s.w").to_pylist() == ["own"] * 4
    assert column_of(TABLE, "s.x.y").to_pylist() == ["a", None, None, None]
    assert column_of(TABLE.slice(2), "s.x.z").to_pylist() == [None, None]
    pq.write_table(TABLE, tmp_path / "t.parquet")
    assert read_column_of(tmp_path / "t.parquet", "s.x.y").to_pylist() == ["a", None, None, None]
    assert read_column_of(tmp_path / "t.parquet", "s.w").to_pylist() == ["own"] * 4
    assert find_column(TABLE.schema, "s.y") is None and find_column(TABLE.schema, "s.x.y.q") is None
    assert column_field(TABLE.schema, "s.x.z").type == pa.int64()
    with pytest.raises(KeyError):
        column_of(TABLE, "x")


def test_a_name_that_may_be_two_columns_is_refused() -> None:
    inner = pa.struct([("b.c", pa.string()), ("b", pa.struct([("c", pa.string())]))])
    for schema in (
        pa.schema([("a", inner)]),
        pa.schema([("a.b", pa.struct([("c", pa.string())])), ("a", pa.struct([("b.c", pa.string())]))]),
        pa.schema([("a", pa.struct([pa.field("b.c", pa.string()), pa.field("b.c", pa.string())]))]),
    ):
        with pytest.raises(AmbiguousColumn, match=r"'a\.b\.c' may be .* or "):
            find_column(schema, "a.b.c")


def test_all_but_one_field_of_a_struct_can_be_taken_away_and_told_from_what_is_whole() -> None:
    column = TABLE["s"].combine_chunks()
    left = alone(column, (0, 1))
    assert left.type == column.type
    assert left.to_pylist() == [
        {"x": {"y": None, "z": 1}, "w": None},
        None,
        {"x": None, "w": None},
        {"x": {"y": None, "z": None}, "w": None},
    ]
    assert nothing_beside(left, (0, 1)).all()
    assert nothing_beside(column, (0, 1)).tolist() == [False, True, False, True]
