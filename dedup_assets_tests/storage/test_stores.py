"""Promises of the stores of shards, cells, matches and decisions: what was written is read, also when it is empty."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dedup_assets.compute.curation import NONE, TextDecisions
from dedup_assets.compute.hashes import hash_ids
from dedup_assets.compute.text import hash_text, hash_texts
from dedup_assets.errors import ShardError
from dedup_assets.storage.cells import ShardCells, read_centroids, write_centroids
from dedup_assets.storage.decisions import DecidedShard, DecisionStore, Representatives, read_record_decisions
from dedup_assets.storage.ledger import Admission
from dedup_assets.storage.raw_table import RawShard
from dedup_assets.storage.shards import (
    REJECTED,
    ROW_BITS,
    AdmittedShard,
    admission_of,
    read_column,
    read_ids,
    read_records,
    row_of,
    text_keys,
)
from dedup_assets.storage.tables import (
    PAIRS,
    RECORD_DECISIONS,
    TEXT_DECISIONS,
    pairs_table,
    read_pairs,
    write_parquet,
)
from dedup_assets.storage.workspace import Workspace, admission_name

# -- text keys ---------------------------------------------------------------------------------------


@given(st.integers(0, 2**23 - 1), st.lists(st.integers(0, 2**ROW_BITS - 1)))
def test_a_text_key_gives_back_its_admission_and_its_row(admission: int, rows: list[int]) -> None:
    keys = text_keys(admission, np.array(rows, np.int64))
    assert keys.dtype == np.int64 and (keys != REJECTED).all()
    assert row_of(keys).tolist() == rows
    assert admission_of(keys).tolist() == [admission] * len(rows)


@given(st.lists(st.tuples(st.integers(0, 2**23 - 1), st.integers(0, 2**ROW_BITS - 1)), min_size=1))
def test_text_keys_sort_by_admission_then_row(places: list[tuple[int, int]]) -> None:
    keys = [int(text_keys(admission, np.array([row]))[0]) for admission, row in places]
    assert [places[i] for i in np.argsort(keys, kind="stable")] == sorted(places)


# -- records -----------------------------------------------------------------------------------------


def write_raw(folder: Path, texts: list[str], row_group_size: int = 2) -> RawShard:
    """A shard's folder as reading a source leaves it; every third input row was rejected."""
    raw = RawShard(folder)
    folder.mkdir(parents=True)
    rows = [i + i // 2 for i in range(len(texts))]
    table = pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "position": pa.array(range(len(texts)), pa.int64()),
            "id": pa.array([f"id {i} é" for i in range(len(texts))], pa.string()),
            "text_hash": pa.array([hash_text(text) for text in texts], pa.binary(16)),
            "characters": pa.array([len(text) for text in texts], pa.int32()),
        }
    )
    pq.write_table(table, raw.records, row_group_size=row_group_size)
    pq.write_table(pa.table({"id": table["id"], "text": texts}), raw.table)
    return raw


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_records_are_read_as_they_were_written(tmp_path: Path, count: int) -> None:
    texts = [f"text {i % 3} \U0001f600" for i in range(count)]
    raw = write_raw(tmp_path / "a@0", texts)
    records = read_records(raw)
    assert len(records) == count
    assert records.rows.tolist() == [i + i // 2 for i in range(count)]
    assert records.positions.tolist() == list(range(count))
    assert records.characters.tolist() == [len(text) for text in texts]
    assert records.ids.to_pylist() == [f"id {i} é" for i in range(count)]
    assert records.hashes.shape == (count, 2) and records.hashes.dtype == np.uint64
    np.testing.assert_array_equal(records.hashes, hash_texts(texts))
    rows, ids = read_ids(raw)
    assert (rows.tolist(), ids) == (records.rows.tolist(), records.ids)
    assert records.rows.dtype == records.positions.dtype == np.int64 and ids.type == pa.string()


def test_a_column_is_read_at_the_positions_asked_for(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "a@0", ["x", "y", "z"])
    assert read_column(raw, "text", np.array([2, 0, 2])) == ["z", "x", "z"]
    assert read_column(raw, "text", np.array([], np.int64)) == []


def test_a_column_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    raw = write_raw(tmp_path / "part-1@0123", ["x"])
    with pytest.raises(ShardError, match=r"Shard part-1 has no column 'score'; its columns are id, text\..*--keep"):
        read_column(raw, "score", np.array([0]))


# -- admission ---------------------------------------------------------------------------------------


def admitted(number: int, texts: list[str], new: list[int]) -> AdmittedShard:
    """An admitted shard whose records `new` bring their texts."""
    return AdmittedShard(
        record_texts=text_keys(number, np.arange(len(texts))),
        new_records=np.array(new, np.int64),
        new_hashes=hash_texts([texts[i] for i in new]),
        id_hashes=hash_ids([f"{number}-{i}" for i in range(len(texts))]),
    )


def test_an_admitted_shard_is_read_as_it_was_written(tmp_path: Path) -> None:
    for name, shard in (("full", admitted(3, ["a", "b", "a", "c"], [0, 1, 3])), ("empty", admitted(4, [], []))):
        shard.write(tmp_path / name)
        again = AdmittedShard.read(tmp_path / name)
        for array in ("record_texts", "new_records", "new_hashes", "id_hashes"):
            np.testing.assert_array_equal(getattr(again, array), getattr(shard, array))
            assert getattr(again, array).dtype == getattr(shard, array).dtype
        np.testing.assert_array_equal(again.new_keys, shard.new_keys)
    assert row_of(AdmittedShard.read(tmp_path / "full").new_keys).tolist() == [0, 1, 3]


# -- cells -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize(("texts", "ghosts"), [(6, 4), (6, 0), (0, 0)])
def test_cells_are_read_as_they_were_written(tmp_path: Path, dtype: type, texts: int, ghosts: int) -> None:
    rng = np.random.default_rng(0)
    cells = ShardCells(
        vectors=rng.standard_normal((texts, 5)).astype(dtype),
        rows=rng.permutation(texts).astype(np.int64),
        home_offsets=np.array([0, texts // 2, texts // 2, texts], np.int64),
        ghost_rows=rng.integers(0, max(texts, 1), ghosts).astype(np.int32),
        ghost_offsets=np.array([0, 0, ghosts, ghosts], np.int64),
    )
    cells.write(tmp_path / "cells")
    again = ShardCells.read(tmp_path / "cells")
    for name in ("vectors", "rows", "home_offsets", "ghost_rows", "ghost_offsets"):
        np.testing.assert_array_equal(getattr(again, name), getattr(cells, name))
        assert getattr(again, name).dtype == getattr(cells, name).dtype
    assert again.vectors.shape == (texts, 5)
    assert again.home_counts.tolist() == [texts // 2, 0, texts - texts // 2]
    assert again.ghost_counts.tolist() == [0, ghosts, 0]
    if texts:
        assert not again.vectors.flags.writeable


def test_centroids_are_read_as_they_were_written_under_the_very_name(tmp_path: Path) -> None:
    centroids = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    write_centroids(tmp_path / "books" / "0001-aa.npy", centroids)
    np.testing.assert_array_equal(read_centroids(tmp_path / "books" / "0001-aa.npy"), centroids)
    assert [path.name for path in (tmp_path / "books").iterdir()] == ["0001-aa.npy"]


# -- matches -----------------------------------------------------------------------------------------


def some_pairs(count: int) -> pa.Table:
    ids = pa.array([f"é{i}" for i in range(count)], pa.string())
    keys = np.arange(count, dtype=np.int64)
    return pairs_table(keys, keys + 2**50, ids, ids, np.linspace(0.9, 1.0, count))


@pytest.mark.parametrize("count", [0, 11])
def test_matches_are_read_down_to_the_threshold_asked_for(tmp_path: Path, count: int) -> None:
    table = some_pairs(count)
    assert table.schema == PAIRS
    path = tmp_path / "pairs" / "a.parquet"
    write_parquet(path, table)
    assert pq.read_table(path) == table
    for threshold in (0.5, 0.9, float(np.linspace(0.9, 1.0, 11)[5]), 0.951, 1.0, 1.1):
        a, b, similarity, dense = read_pairs(path, threshold)
        assert dense == []
        expected = [i for i, s in enumerate(np.linspace(0.9, 1.0, count)) if s >= threshold]
        assert a.tolist() == expected
        assert b.tolist() == [i + 2**50 for i in expected]
        assert similarity.tolist() == np.linspace(0.9, 1.0, count)[expected].tolist()
        assert (a.dtype, b.dtype, similarity.dtype) == (np.int64, np.int64, np.float64)


def test_equal_tables_give_equal_bytes(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", some_pairs(100))
    write_parquet(tmp_path / "b.parquet", pa.concat_tables([some_pairs(100).slice(0, 100)]))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


# -- decisions ---------------------------------------------------------------------------------------

FIRST = Admission(1, "first", "print", 1, 3, 4)
EMPTY = Admission(2, "empty", "print", 1, 0, 0)
THIRD = Admission(3, "third", "print", 1, 1, 3)
ADMISSIONS = [FIRST, EMPTY, THIRD]
LATE = Admission(4, "late", "print", 1, 0, 1)


def key(admission: Admission, row: int) -> int:
    return int(text_keys(admission.number, np.array([row]))[0])


def texts(keys: list[int], keepers: list[int], similarity: list[float]) -> TextDecisions:
    keeper = np.array(keepers, np.int64)
    place = np.arange(len(keys))
    return TextDecisions(np.array(keys, np.int64), keeper == NONE, keeper, np.array(similarity, np.float64), place)


def representatives(admission: Admission, rows: list[int], ids: list[str]) -> Representatives:
    return Representatives(np.full(len(rows), admission.number), np.array(rows, np.int64), pa.array(ids, pa.string()))


def decided(admission: Admission, ids: list[str], keepers: list[int], similarity: list[float], exact: list[bool]):
    keeper = np.array(keepers, np.int64)
    return DecidedShard(
        admission=admission,
        rows=np.arange(len(ids), dtype=np.int64) * 2,
        ids=pa.array(ids, pa.string()),
        kept=keeper == NONE,
        keeper=keeper,
        similarity=np.array(similarity, np.float64),
        exact=np.array(exact, bool),
    )


NAN = float("nan")


def write_all(workspace: Workspace) -> DecisionStore:
    """Three shards, each decided by a store that has seen nothing, as a later run is."""
    # The first shard: texts in rows 0 and 4 kept, that of row 2 removed; the text of row 0 stands in row 6 too
    # and there its best record is.
    store = DecisionStore(workspace, 1)
    rows = [key(FIRST, 0), key(FIRST, 2), key(FIRST, 4)]
    first = texts(rows, [NONE, rows[2], NONE], [NAN, 0.96, NAN])
    store.write_texts(store.remember(first, representatives(FIRST, [6, 2, 4], ["d", "b", "c"])))
    store.write_records(
        decided(
            FIRST,
            ["a", "b", "c", "d"],
            [rows[0], rows[2], NONE, NONE],
            [1.0, 0.96, NAN, NAN],
            [True, False, False, False],
        )
    )
    DecisionStore(workspace, 1).write_records(decided(EMPTY, [], [], [], []))
    store = DecisionStore(workspace, 1)
    store.write_texts(store.remember(texts([key(THIRD, 2)], [NONE], [NAN]), representatives(THIRD, [2], ["y"])))
    third = decided(THIRD, ["x", "y", "z"], [rows[0], NONE, key(THIRD, 2)], [0.97, NAN, 1.0], [False, False, True])
    assert store.write_records(third) == 1, "one record went for a keeper of another shard"
    return store


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    space = Workspace.create_or_open(tmp_path / "ws", {})
    space.ledger.admit([*ADMISSIONS, LATE], [], "cluster_partitions", "run")
    return space


def test_record_decisions_name_the_keeper_by_id_shard_and_group(workspace: Workspace) -> None:
    write_all(workspace)
    first = read_record_decisions(workspace, 1, "first")
    assert first.schema == RECORD_DECISIONS
    columns = ("row", "id", "kept", "keeper_id", "keeper_shard", "similarity", "kind", "group_id")
    nothing = (None, None, None, None, None)
    assert [tuple(row[name] for name in columns) for row in first.to_pylist()] == [
        (0, "a", False, "d", "first", 1.0, "exact", "1:0"),
        (2, "b", False, "c", "first", 0.96, "semantic", "1:4"),
        (4, "c", True, *nothing),
        (6, "d", True, *nothing),
    ]
    third = read_record_decisions(workspace, 1, "third")
    assert [tuple(row[name] for name in columns) for row in third.to_pylist()] == [
        (0, "x", False, "d", "first", 0.97, "semantic", "1:0"),
        (2, "y", True, *nothing),
        (4, "z", False, "y", "third", 1.0, "exact", "3:2"),
    ]


def test_an_empty_shard_has_an_empty_table_of_the_same_schema(workspace: Workspace) -> None:
    write_all(workspace)
    records = read_record_decisions(workspace, 1, "empty")
    assert records.num_rows == 0 and records.schema == RECORD_DECISIONS
    table = pq.read_table(workspace.decisions(1, "texts", admission_name(FIRST)))
    assert table.num_rows == 3 and table.schema == TEXT_DECISIONS


def test_a_shard_of_which_every_record_stays_names_no_keeper(workspace: Workspace) -> None:
    store = DecisionStore(workspace, 1)
    store.remember(texts([key(THIRD, 0)], [NONE], [NAN]), representatives(THIRD, [0], ["x"]))
    store.write_records(decided(THIRD, ["x"], [NONE], [NAN], [False]))
    (row,) = read_record_decisions(workspace, 1, "third").to_pylist()
    assert row["kept"] and [row[name] for name in ("keeper_id", "keeper_shard", "similarity", "kind")] == [None] * 4


def test_a_shard_that_brings_no_text_is_decided_by_earlier_ones(workspace: Workspace) -> None:
    write_all(workspace)
    DecisionStore(workspace, 1).write_records(decided(LATE, ["w"], [key(FIRST, 4)], [1.0], [True]))
    (row,) = read_record_decisions(workspace, 1, "late").to_pylist()
    assert (row["keeper_id"], row["keeper_shard"], row["group_id"]) == ("c", "first", "1:4")


def test_a_text_that_outlived_its_shard_is_named_by_the_record_that_stands_for_it_now(workspace: Workspace) -> None:
    store = DecisionStore(workspace, 1)
    text = key(FIRST, 2)
    numbers = store.remember(texts([text], [NONE], [NAN]), representatives(THIRD, [2], ["y"]))
    assert numbers == [FIRST.number]
    store.write_texts(numbers)
    again = DecisionStore(workspace, 1)
    assert again.write_records(decided(LATE, ["w"], [text], [0.97], [False])) == 1
    (row,) = read_record_decisions(workspace, 1, "late").to_pylist()
    assert (row["keeper_id"], row["keeper_shard"], row["group_id"]) == ("y", "third", "1:2")


def test_texts_that_were_not_decided_are_not_found(workspace: Workspace) -> None:
    store = write_all(workspace)
    wanted = np.array([key(FIRST, 1), key(FIRST, 2), key(EMPTY, 0)])
    assert store.texts(wanted).keys.tolist() == [key(FIRST, 2)]


def test_a_later_run_reads_the_decisions_of_texts_as_they_were_taken(workspace: Workspace) -> None:
    writer = write_all(workspace)
    wanted = np.array([key(FIRST, 2), key(FIRST, 4), key(THIRD, 2)])
    reader = DecisionStore(workspace, 1)
    for store in (reader, writer, reader):
        found = store.texts(wanted)
        assert found.keys.tolist() == wanted.tolist()
        assert found.kept.tolist() == [False, True, True]
        assert found.keeper.tolist() == [key(FIRST, 4), NONE, NONE]
        np.testing.assert_array_equal(found.similarity, [0.96, NAN, NAN])
    assert len(reader.texts(np.empty(0, np.int64)).keys) == 0


def test_generations_lie_beside_each_other(workspace: Workspace) -> None:
    write_all(workspace)
    before = read_record_decisions(workspace, 1, "third")
    store = DecisionStore(workspace, 2)
    store.remember(texts([key(THIRD, 0)], [NONE], [NAN]), representatives(THIRD, [0], ["x"]))
    store.write_records(decided(THIRD, ["x"], [NONE], [NAN], [False]))
    assert read_record_decisions(workspace, 1, "third") == before
    assert read_record_decisions(workspace, 2, "third").num_rows == 1


def test_writing_the_same_decisions_again_gives_the_same_bytes(workspace: Workspace) -> None:
    def content() -> dict[str, bytes]:
        folder = workspace.root / "decisions"
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.parquet")}

    write_all(workspace)
    before = content()
    assert len(before) == 5
    write_all(workspace)
    assert content() == before


def test_a_folder_that_was_made_anew_is_read_anew(tmp_path: Path) -> None:
    folder = tmp_path / "cells"
    for first in (0, 100):
        cells = ShardCells(
            vectors=np.eye(2, dtype=np.float16),
            rows=np.array([first, first + 1]),
            home_offsets=np.array([0, 2]),
            ghost_rows=np.empty(0, np.int32),
            ghost_offsets=np.array([0, 0]),
        )
        cells.write(folder)
        assert ShardCells.read(folder).rows.tolist() == [first, first + 1]
        assert ShardCells.read(folder) is ShardCells.read(folder), "mapped once per process"
        shutil.rmtree(folder)


def test_maps_of_shards_hold_no_file_open(tmp_path: Path) -> None:
    program = """
import pathlib, resource, sys
import numpy as np
from dedup_assets.storage.cells import ShardCells
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
root = pathlib.Path(sys.argv[1])
for number in range(60):
    offsets = np.array([0, 4_096])
    arrays = np.ones((4_096, 4), np.float16), np.full(4_096, number), offsets, np.zeros(9_000, np.int32), offsets
    ShardCells(*arrays).write(root / str(number))
shards = [ShardCells.read(root / str(number)) for number in range(60)]
assert [int(shard.rows[0]) for shard in shards] == list(range(60))
assert all(hasattr(shard.vectors._mmap, "madvise") and not shard.vectors.flags.writeable for shard in shards)
for shard in shards:
    shard.vectors._mmap.madvise(4)  # the pages are read from the file again
    assert float(shard.vectors.sum()) == 4 * 4_096
"""
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
