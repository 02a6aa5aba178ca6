"""Promises of curation from Python: three lines, and results that pandas, polars and Arrow read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets.api import Curation, open_curation
from dedup_assets.errors import DedupError, SettingsError, WorkspaceError
from dedup_assets.lookups.tables import LazyTable, merged_schema
from dedup_assets_tests.cli.commands import write_corpus, write_jsonl


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("api")


@pytest.fixture(scope="module")
def result(folder: Path) -> Curation:
    """The small corpus, and shards that lack a column or hold it in another type."""
    shards = write_corpus(folder / "shards")
    write_jsonl(shards / "c.jsonl", [{"id": "c0", "text": "number", "v": [-1.0, 0.0, 0.0], "n": 1, "year": 2020}])
    write_jsonl(shards / "d.jsonl", [{"id": "d0", "text": "fraction", "v": [0.0, -1.0, 0.0], "n": 0.5, "year": "'21"}])
    write_jsonl(shards / "e.jsonl", [])
    return da.curate(shards, workspace=folder / "ws", threshold=0.9, embedding_column="v")


def test_three_lines_give_the_tables_and_the_ratios(result: Curation) -> None:
    assert sorted(result.kept.to_pandas()["id"]) == ["a0", "a2", "b1", "c0", "d0"]
    removed = result.removed.to_pandas().set_index("id")
    assert removed["keeper_id"].to_dict() == {"a1": "a0", "b0": "a0", "b2": "b1"}
    assert removed["kind"].to_dict() == {"a1": "semantic", "b0": "exact", "b2": "semantic"}
    assert sorted(result.quarantined.to_pandas()["row"]) == [3, 3]
    assert {(pair["id_a"], pair["id_b"]) for pair in result.pairs.to_arrow().to_pylist()} == {
        ("a0", "a1"),
        ("b1", "b2"),
    }
    assert result.duplicate_ratio == 3 / 10 and result.exact_ratio == 1 / 10
    assert result.failures == {} and result.summary["threshold"] == 0.9


def test_matches_show_ids_and_no_numbers_of_our_own(result: Curation) -> None:
    assert result.pairs.columns == ["id_a", "id_b", "similarity"]
    assert result.pairs[0].keys() == {"id_a", "id_b", "similarity"} and len(list(result.pairs)) == 2
    assert [row["id"] for row in result.removed[::-1]] == ["b2", "b0", "a1"]
    assert result.kept["id"].to_pylist() == [row["id"] for row in result.kept]


def test_a_result_is_shown_in_ten_lines(result: Curation) -> None:
    shown = repr(result)
    assert shown.splitlines()[0] == "Curation of 5 shards at threshold 0.9" and len(shown.splitlines()) <= 10
    for line in (
        r"rows in +10$",
        r"kept +5 +50\.0%  \.kept$",
        r"removed +3 +30\.0%  \.removed: 1 exact, 2 by similarity; matches in \.pairs$",
        r"quarantined +2 +20\.0%  \.quarantined: 1 .+, 1 .+$",
        rf"output +{re.escape(str(result.output))}$",
    ):
        assert re.search(rf"^  {line}", shown, re.MULTILINE), (line, shown)
    page = result._repr_html_()
    assert "<td>5</td>" in page and str(result.output) in page
    troubled = Curation(
        result.workspace,
        Path("/tmp/<b>\x1b[2J"),
        {**result.summary, "reference": 4, "rows_in": 0},
        {f"shard {n}": "a\nreason" for n in range(99)},
        {"asset: check\x1b": "found"},
    )
    assert len(repr(troubled).splitlines()) <= 10
    assert "shard 0, shard 1, shard 2" in repr(troubled) and "failed checks" in repr(troubled)
    for look in (repr(troubled), troubled._repr_html_()):
        assert "\x1b" not in look
    assert "<b>\x1b" not in troubled._repr_html_() and "&lt;b&gt;" in troubled._repr_html_()


def test_what_was_curated_can_be_opened_again(result: Curation) -> None:
    again = open_curation(result.workspace)
    assert again.removed.to_arrow() == result.removed.to_arrow()
    assert again.duplicate_ratio == result.duplicate_ratio
    with pytest.raises(WorkspaceError, match="is not a workspace"):
        open_curation(result.workspace / "nothing")


def test_a_table_is_read_by_pandas_polars_and_anything_that_speaks_arrow(result: Curation) -> None:
    kept = result.kept
    assert len(kept) == 5 and repr(kept).splitlines()[0] == "LazyTable(5 rows: id, text, v, n, year)"
    expected = kept.to_arrow().to_pylist()
    assert kept.head(2).to_pylist() == expected[:2] and kept.head(0).num_rows == 0
    assert kept.to_arrow(["id"]).column_names == list(kept.to_pandas(["id"])) == ["id"]
    with pytest.raises(WorkspaceError, match="No column 'title', 'author': the columns are id, text, v, n, year"):
        kept.to_arrow(["title", "id", "author"])
    assert pa.table(kept).to_pylist() == expected
    assert pa.RecordBatchReader.from_stream(kept).read_all().to_pylist() == expected
    assert pl.DataFrame(kept).to_dicts() == expected
    scan = kept.to_polars()
    assert isinstance(scan, pl.LazyFrame)
    assert scan.filter(pl.col("id") == "c0").select("n").collect().item() == 1.0
    assert isinstance(kept.to_pandas(), pd.DataFrame)


def test_columns_that_differ_among_shards_read_in_a_type_that_holds_all(result: Curation) -> None:
    rows = {row["id"]: row for row in result.kept.to_arrow().to_pylist()}
    assert (rows["c0"]["n"], rows["d0"]["n"], rows["a0"]["n"]) == (1.0, 0.5, None)
    assert (rows["c0"]["year"], rows["d0"]["year"]) == ("2020", "'21")
    own = pq.read_schema(result.output / "deduplicated" / "c.parquet")
    assert own.field("year").type == pa.int64(), "each file keeps its own"


COLUMNS = {
    "dictionary": (pa.array(["x"]).dictionary_encode(), pa.array(["y"]), ["x", "y"]),
    "large string": (pa.array(["x"], pa.large_string()), pa.array(["y"]), ["x", "y"]),
    "null": (pa.array([None]), pa.array(["y"]), [None, "y"]),
    "truth and number": (pa.array([True]), pa.array([2]), ["true", "2"]),
    "list": (pa.array([[1]]), pa.array([[0.5]]), [[1.0], [0.5]]),
    "struct": (pa.array([{"a": 1}]), pa.array([{"b": "y"}]), [{"a": 1, "b": None}, {"a": None, "b": "y"}]),
}


def lazy(folder: Path, columns: Sequence[pa.Array]) -> LazyTable:
    for number, column in enumerate(columns):
        pq.write_table(pa.table({"value": column}), folder / f"{number}.parquet")
    return LazyTable.of_folder(folder)


@pytest.mark.parametrize("name", COLUMNS)
def test_pairs_of_types_have_one_that_reads_both(tmp_path: Path, name: str) -> None:
    first, second, expected = COLUMNS[name]
    table = lazy(tmp_path, [first, second])
    assert table.to_arrow()["value"].to_pylist() == expected
    assert table.to_polars().collect().height == len(table.to_pandas()) == 2


def test_types_that_no_column_can_hold_are_named(tmp_path: Path) -> None:
    with pytest.raises(WorkspaceError, match=r"Column 'value' has types .* list<element: int64>, string"):
        lazy(tmp_path, [pa.array([[1]]), pa.array(["x"])])


FLAT = st.sampled_from([pa.int8(), pa.int64(), pa.float32(), pa.float64(), pa.bool_(), pa.string(), pa.null()])


@given(st.lists(st.dictionaries(st.sampled_from("abc"), FLAT), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_a_merged_schema_holds_every_column_once_in_order_of_appearance(types: list[dict[str, Any]]) -> None:
    schemas = [pa.schema(list(columns.items())) for columns in types]
    merged = merged_schema(schemas, "here")
    assert merged.names == list(dict.fromkeys(name for schema in schemas for name in schema.names))
    assert merged_schema([merged, *schemas], "here") == merged
    for name in merged.names:
        alike = {schema.field(name).type for schema in schemas if name in schema.names}
        assert len(alike) > 1 or merged.field(name).type == alike.pop()


def test_an_empty_corpus_is_empty_tables_with_their_columns(tmp_path: Path) -> None:
    shard = write_jsonl(tmp_path / "e.jsonl", [])
    assert da.register(shard, workspace=tmp_path / "ws", embedding_column="v") == ["e"]
    before = open_curation(tmp_path / "ws")
    after = da.curate(workspace=tmp_path / "ws")
    for result in (before, after):
        for table in (result.kept, result.removed, result.quarantined, result.pairs):
            assert len(table) == len(table.to_pandas()) == table.to_polars().collect().height == 0
        assert result.removed.schema.names[:3] == ["id", "shard", "keeper_id"]
        assert result.pairs.columns == ["id_a", "id_b", "similarity"]
        assert result.duplicate_ratio == result.exact_ratio == 0.0


def test_a_failed_shard_raises_after_the_others_are_finished(tmp_path: Path) -> None:
    shards = write_corpus(tmp_path / "shards")
    (shards / "broken.csv").write_text("no,such\n1,2\n")
    with pytest.raises(DedupError, match=r"(?s)1 shard failed; all others are finished.*broken.*'no'"):
        da.curate(shards, workspace=tmp_path / "ws", embedding_column="v")
    assert len(open_curation(tmp_path / "ws").kept) == 3
    unchecked = da.curate(workspace=tmp_path / "ws", check=False)
    assert list(unchecked.failures) == ["broken"]


def test_options_are_checked_before_anything_is_made(tmp_path: Path) -> None:
    shard = write_jsonl(tmp_path / "s.jsonl", [])
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"threshold": 0.9, "eps": 0.1}, "say the same thing"),
        ({"eps": 1.0}, "expected a number from 0 to below 1"),
        ({"eps": "0.1"}, "expected a number from 0 to below 1"),
        ({"treshold": 0.9}, "unknown setting 'treshold'"),
        ({"clusters": -1}, "expected 0"),
    ]
    for options, message in wrong:
        with pytest.raises(SettingsError, match=message):
            da.curate(shard, workspace=tmp_path / "ws", **options)
    assert not (tmp_path / "ws" / "curation.toml").exists()
    for sources in ([], [tmp_path / "missing"]):
        with pytest.raises(DedupError):
            da.curate(*sources, workspace=tmp_path / "ws")


def test_a_listener_hears_every_stage_once_and_all_of_its_work(tmp_path: Path) -> None:
    heard: list[tuple[str, str]] = []
    totals: dict[str, int] = {}
    done: dict[str, int] = {}

    class Listener:
        def stage_started(self, stage: str) -> None:
            heard.append(("started", stage))

        def stage_total(self, stage: str, total: int, unit: str) -> None:
            totals[stage] = totals.get(stage, 0) + total

        def stage_advanced(self, stage: str, amount: int) -> None:
            done[stage] = done.get(stage, 0) + amount

        def stage_finished(self, stage: str) -> None:
            heard.append(("finished", stage))

    result = da.curate(
        write_corpus(tmp_path / "s"), workspace=tmp_path / "ws", embedding_column="v", listener=Listener()
    )
    stages = list(result.summary["stages"])
    assert heard == [(what, stage) for stage in stages for what in ("started", "finished")]
    assert done == totals and set(totals) == set(stages)
