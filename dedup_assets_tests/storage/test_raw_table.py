"""Promises of the table of a shard's rows: every type comes back, and rows of it are published in the same bytes
however it is cut into row groups."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dedup_assets.corpus import output
from dedup_assets.storage.raw_table import raw_table_writer, take_rows

ROWS, DIMENSION = 300, 16


def numbers(item: pa.DataType) -> pa.Array:
    return pa.array(np.random.default_rng(0).standard_normal(ROWS * DIMENSION)).cast(item, safe=False)


def vectors(item: pa.DataType) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(numbers(item), DIMENSION)


PLAIN = pa.table(
    {
        "id": [f"r{i}" for i in range(ROWS)],
        "a.b": pa.array([f"text {i % 50}" if i % 7 else None for i in range(ROWS)], pa.large_string()),
        "score": numbers(pa.float64()).slice(0, ROWS),
        "kind": pa.array([f"k{i * i % 90}" for i in range(ROWS)]).dictionary_encode(),
        "tags": [[f"t{i % 3}"] * (i % 4) for i in range(ROWS)],
    }
).replace_schema_metadata({"made": "by a test"})

TABLE = (
    PLAIN.append_column("half", vectors(pa.float16()))
    .append_column("single", vectors(pa.float32()).cast(pa.list_(pa.float32())))
    .append_column("nested", pa.StructArray.from_arrays([vectors(pa.float64()), PLAIN["id"].chunk(0)], ["v", "name"]))
    .append_column("holes", pa.array([None if i % 5 == 0 else [float(i), None] for i in range(ROWS)]))
)


def written(path: Path, table: pa.Table, group_rows: int) -> Path:
    with raw_table_writer(path, table.schema) as writer:
        for first in range(0, table.num_rows, group_rows):
            writer.write_table(table.slice(first, group_rows), group_rows)
    return path


@pytest.mark.parametrize("group_rows", [ROWS, 70])
def test_every_type_is_read_back_as_from_a_plain_file(tmp_path: Path, group_rows: int) -> None:
    pq.write_table(TABLE, tmp_path / "plain")
    stored = pq.read_table(written(tmp_path / "table", TABLE, group_rows))
    assert stored.schema.equals(pq.read_schema(tmp_path / "plain"), check_metadata=True)
    assert [column.to_pylist() for column in stored.columns] == [column.to_pylist() for column in TABLE.columns]


def test_only_floats_in_lists_have_an_encoding_of_their_own(tmp_path: Path) -> None:
    group = pq.read_metadata(written(tmp_path / "table", TABLE, ROWS)).row_group(0)
    leaves = [group.column(index) for index in range(group.num_columns)]
    split = {leaf.path_in_schema for leaf in leaves if "BYTE_STREAM_SPLIT" in leaf.encodings}
    assert split == {f"{name}.list.element" for name in ("half", "single", "nested.v", "holes")}
    assert all(leaf.has_dictionary_page != (leaf.path_in_schema in split) for leaf in leaves)


def test_a_table_without_vectors_has_the_bytes_that_the_defaults_give(tmp_path: Path) -> None:
    pq.write_table(PLAIN, tmp_path / "plain", compression="zstd")
    assert written(tmp_path / "table", PLAIN, ROWS).read_bytes() == (tmp_path / "plain").read_bytes()


@pytest.mark.parametrize("group_rows", [ROWS, 70, 1])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.6, 1.0])
def test_rows_are_published_in_the_bytes_that_the_whole_table_gives(
    tmp_path: Path, group_rows: int, share: float
) -> None:
    path = written(tmp_path / "table", TABLE.drop_columns("kind"), group_rows)
    positions = np.flatnonzero(np.random.default_rng(1).random(ROWS) < share)
    rows = pq.read_table(path).take(pa.array(positions))
    with pq.ParquetWriter(tmp_path / "expected", rows.schema, compression="zstd") as writer:
        for _ in range(min(1, rows.num_rows)):  # no row group without rows
            writer.write_table(rows)
    output._write_rows(tmp_path / "published", path, positions, lambda: None)
    assert (tmp_path / "published").read_bytes() == (tmp_path / "expected").read_bytes()


def test_rows_of_columns_with_dictionaries_are_taken_from_row_groups_with_different_ones(tmp_path: Path) -> None:
    path = written(tmp_path / "table", PLAIN.select(["id", "kind"]), 70)
    positions = np.array([3, 69, 70, 299])
    with pq.ParquetFile(path) as file:
        found = [row for _, rows in take_rows(file, positions) for row in rows.to_pylist()]
        assert found == PLAIN.select(["id", "kind"]).take(positions).to_pylist()


def test_what_is_published_is_cut_into_row_groups_that_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "_GROUP_ROWS", 64)
    path = written(tmp_path / "table", TABLE, 100)
    positions = np.arange(0, ROWS, 2)
    output._write_rows(tmp_path / "published", path, positions, lambda: None)
    published = pq.ParquetFile(tmp_path / "published")
    assert [published.metadata.row_group(i).num_rows for i in range(published.num_row_groups)] == [64, 64, 22]
    assert published.read().to_pylist() == TABLE.take(positions).to_pylist()


def test_positions_outside_the_table_are_refused(tmp_path: Path) -> None:
    with pq.ParquetFile(written(tmp_path / "table", PLAIN, 70)) as file:
        for position in (-1, ROWS):
            with pytest.raises(IndexError, match=f"of a table of {ROWS} rows"):
                list(take_rows(file, np.array([0, position])))
