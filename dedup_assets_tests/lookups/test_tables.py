"""A lazy table behaves as users of pandas, polars and datasets expect, whatever its files, and reads what it must."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from dedup_assets.errors import DedupError, MissingPackageError, WorkspaceError
from dedup_assets.lookups.tables import LazyTable

ROWS = 23


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows 0 to 22 over four files, one of them empty, in row groups of three; a column differs in type."""
    folder = tmp_path_factory.mktemp("rows")
    for name, rows, kind in (
        ("a", range(10), pa.int64()),
        ("b", range(0), pa.int64()),
        ("c", range(10, 22), pa.string()),
    ):
        table = pa.table(
            {
                "n": pa.array(rows, pa.int64()),
                "text": [f"text {n}" for n in rows],
                "v": pa.array(map(str, rows)).cast(kind),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=3)
    pq.write_table(
        pa.table({"n": [22], "text": [None]}, pa.schema([("n", pa.int64()), ("text", pa.string())])),
        folder / "d.parquet",
    )
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> LazyTable:
    return LazyTable.of_folder(folder)


@pytest.fixture(scope="module")
def rows(table: LazyTable) -> list[dict[str, Any]]:
    found = table.to_arrow().to_pylist()
    assert [row["n"] for row in found] == list(range(ROWS)) and found[21]["v"] == "21" and found[22]["v"] is None
    return found


BOUNDS = st.none() | st.integers(-30, 30)


@given(start=BOUNDS, stop=BOUNDS, step=st.none() | st.integers(-5, 5).filter(bool), again=st.booleans())
@settings(max_examples=150, deadline=None)
def test_slices_are_those_of_a_list(
    table: LazyTable, rows: list[dict[str, Any]], start: int | None, stop: int | None, step: int | None, again: bool
) -> None:
    part, expected = table[start:stop:step], rows[start:stop:step]
    if again:
        part, expected = part[1:], expected[1:]
    assert list(part) == part.to_arrow().to_pylist() == expected
    assert len(part) == part.num_rows == len(expected) and part.shape == (len(expected), 3)
    assert pa.table(part).to_pylist() == expected
    assert part["n"].to_pylist() == [row["n"] for row in expected]
    assert part.to_pandas().shape == (len(expected), 3)
    assert part.to_polars().collect().to_dicts() == expected


def test_rows_columns_and_previews(table: LazyTable, rows: list[dict[str, Any]]) -> None:
    assert list(table) == rows and [table[n] for n in range(-ROWS, ROWS)] == [rows[n] for n in range(-ROWS, ROWS)]
    assert table.columns == table.column_names == ["n", "text", "v"] and table.shape == (ROWS, 3)
    assert table["text"].to_pylist() == [row["text"] for row in rows]
    assert table[["v", "n"]].columns == table.select(["v", "n"]).columns == ["v", "n"]
    assert table[["v", "n"]][5:7].to_pylist() == [{"v": str(n), "n": n} for n in (5, 6)]
    assert table.head(4).to_pylist() == rows[:4] and table.tail(4).to_pylist() == rows[-4:]
    assert table.head().num_rows == 10 and len(table.head(100)) == len(table.tail(100)) == ROWS
    assert table.tail(0).num_rows == 0 and "n" in table and "id" not in table and rows[3] in table
    for wrong in (ROWS, -ROWS - 1):
        with pytest.raises(IndexError, match=f"row {wrong} of a table of 23"):
            table[wrong]
    with pytest.raises(WorkspaceError, match="No column 'id': the columns are n, text, v"):
        table["id"]
    with pytest.raises(WorkspaceError, match="No column 'id'"):
        table[["n", "id"]]
    for odd in (None, 1.5, {"n": 1}):
        with pytest.raises(TypeError, match="takes a row number, a slice, a column or a list of columns"):
            table[odd]  # type: ignore[call-overload]


def test_a_head_does_what_the_arrow_table_of_its_rows_does(table: LazyTable) -> None:
    head = table.head(5)
    assert head.column("n").to_pylist() == list(range(5)) and head.to_pydict()["n"] == list(range(5))
    assert head.sort_by([("n", "descending")]).num_rows == head.num_rows == 5 and head.num_columns == 3
    assert head[1:3].to_pylist() == head.to_pylist()[1:3] and head[["n"]].columns == ["n"]
    with pytest.raises(AttributeError):
        head.nothing_of_the_kind  # noqa: B018


def test_a_row_is_read_from_its_row_group_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LazyTable.of_folder(folder)
    assert len(table) == ROWS
    for name in ("a", "b", "d"):
        (folder / f"{name}.parquet").rename(folder / f"{name}.hidden")
    try:
        assert table[12]["n"] == 12 and [row["n"] for row in table[12:15]] == [12, 13, 14]
        with pytest.raises(OSError):
            table[0]
        assert repr(table).startswith("LazyTable(23 rows: n, text, v)\nits files cannot be read: ")
    finally:
        for name in ("a", "b", "d"):
            (folder / f"{name}.hidden").rename(folder / f"{name}.parquet")


def test_duckdb_reads_it_by_name_and_as_a_relation(table: LazyTable) -> None:
    relation = table.to_duckdb()
    assert relation.aggregate("sum(n)").fetchall() == [(sum(range(ROWS)),)]
    assert table[5:8].to_duckdb().aggregate("sum(n)").fetchall() == [(18,)]
    kept = table
    assert duckdb.sql("select count(*) from kept").fetchall() == [(ROWS,)]
    assert len(kept) == ROWS and pl.DataFrame(table[2:4])["n"].to_list() == [2, 3]


@pytest.mark.parametrize("package", ["pandas", "polars", "duckdb"])
def test_a_missing_library_is_one_line_that_names_the_install(
    table: LazyTable, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    for part in (table, table[:3], table.head(1)):
        with pytest.raises(MissingPackageError) as caught:
            getattr(part, f"to_{package}")()
        assert isinstance(caught.value, DedupError) and isinstance(caught.value, ImportError)
        assert str(caught.value).startswith(
            f"to_{package} needs {package}, which is not installed: pip install {package}."
        )
        assert "\n" not in str(caught.value)


HOSTILE = "\x1b[2J<script>alert(1)</script>\u202e\nnext line\t"


@pytest.mark.parametrize("columns", [20, 80, 200])
def test_a_look_at_a_table_is_short_narrow_and_harmless(
    table: LazyTable, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    wide = LazyTable(
        ds.dataset(
            pa.table(
                {
                    HOSTILE: [HOSTILE * 100] * 50,
                    "v": [[0.125] * 384] * 50,
                    "b": [b"x" * 99] * 50,
                    "日本": ["日本語" * 30] * 50,
                }
                | {f"more {n}": [n / 3] * 50 for n in range(30)}
            )
        )
    )
    for look in (table, wide, wide[::-1], wide.head(3), wide[:0], table[["n"]]):
        lines = repr(look).split("\n")
        assert len(lines) <= 10 and lines[0].startswith(f"LazyTable({len(look)} rows: ")
        assert all(cell_len(line) <= columns for line in lines[1:])
        html = look._repr_html_()
        assert "<script" not in html
        for shown in ("".join(lines), html):
            assert not any(character in shown for character in "\x1b\u202e\t\n")
    assert "… 18 more rows" in repr(table) and "text 3" in repr(table) and "… 13 more rows" in table._repr_html_()
    assert "&lt;script&gt;" in wide._repr_html_()


def test_a_table_without_columns_or_rows_can_be_looked_at(tmp_path: Path) -> None:
    for nothing in (LazyTable.of_folder(tmp_path), LazyTable.of_folder(tmp_path, pa.schema([("id", pa.string())]))):
        assert list(nothing) == [] and len(nothing) == 0 and list(nothing[::2]) == []
        assert repr(nothing).startswith("LazyTable(0 rows: ") and nothing._repr_html_()
        assert nothing.head().num_rows == 0
