"""Outliers and samples of a workspace are those of its kept records in memory, and can be taken away as files."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import dedup_assets as da
from dedup_assets.compute.text import hash_texts
from dedup_assets.encoder.settled import open_table
from dedup_assets.errors import DedupError
from dedup_assets.lookups import typical
from dedup_assets.lookups.record_files import write_records
from dedup_assets.storage.workspace import Workspace
from dedup_assets_tests.assets.corpora import corpus, curate, write_shards
from dedup_assets_tests.cli.commands import Call, call

__all__ = ["call"]

Row = dict[str, object]


def in_memory(curation: da.Curation) -> tuple[list[Row], np.ndarray]:
    """The kept records in curation order, and their vectors as they are stored."""
    rows = [
        {**row, "row": number, "shard": path.stem}
        for path in sorted((curation.published / "deduplicated").glob("*.parquet"))
        for number, row in enumerate(pq.read_table(path).to_pylist())
    ]
    table = open_table(Workspace.open(curation.workspace))
    stored = {}
    for hashes, _, vectors in table.scan():
        stored |= {tuple(text): vector for text, vector in zip(hashes.tolist(), vectors, strict=True)}
    keys = hash_texts([str(row["text"]) for row in rows])
    return rows, np.array([stored[tuple(key)] for key in keys.tolist()])


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> da.Curation:
    """Three shards and a reference; the corpus keeps its own duplicates, exact copies too."""
    folder = tmp_path_factory.mktemp("copies")
    tables = corpus("random", [70, 60, 50, 9], seed=3)
    paths = write_shards(folder / "in", tables)
    da.curate(paths[3], workspace=folder / "ws", role="reference", embedding_column="vector", against="references")
    return da.curate(*paths[:3], workspace=folder / "ws", embedding_column="vector", against="references")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> da.Curation:
    """Three shards, of which one text stays of many."""
    folder = tmp_path_factory.mktemp("single")
    return curate(
        write_shards(folder / "in", corpus("clustered", [120, 80, 90], seed=5)), folder / "ws", threshold=0.97
    )


@pytest.mark.parametrize("name", ["copies", "single"])
def test_scores_and_choices_are_those_in_memory_bit_for_bit(
    name: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    curation = request.getfixturevalue(name)
    rows, vectors = in_memory(curation)
    assert len(rows) == len(curation.kept) > 100
    texts = [str(row["text"]) for row in rows]
    copied = len(set(texts)) < len(texts)
    assert copied == (name == "copies")
    alone = da.outliers(texts, vectors=vectors, fraction=0.2, progress=False)
    found = curation.outliers(fraction=0.2, progress=False)
    order = sorted(range(len(rows)), key=lambda at: (alone.scores[at], -at))[: len(found)]
    assert len(found) == len(alone.filtered_indices) and sorted(order) == alone.filtered_indices.tolist()
    assert found["id"].to_pylist() == [rows[at]["id"] for at in order]
    assert found["score"].to_pylist() == alone.scores[order].tolist()
    assert found["text"].to_pylist() == [texts[at] for at in order]
    assert curation.outliers(7, progress=False).to_pylist() == found.to_pylist()[:7]
    for diversity in (0.0, 0.5, 1.0):
        wanted = da.representatives(texts, vectors=vectors, n=25, diversity=diversity, progress=False)
        sample = curation.sample(25, diversity=diversity, progress=False)
        assert sample["id"].to_pylist() == [rows[at]["id"] for at in wanted.selected_indices]
        assert sample["score"].to_pylist() == wanted.scores[wanted.selected_indices].tolist()
    # The shard and row of each is that of its file.
    for record in found:
        assert curation.explain(f"{record['shard']}:{record['row']}")["id"] == record["id"]
    blocks = typical.mean_of_nearest
    monkeypatch.setattr(typical, "mean_of_nearest", lambda *a, **named: blocks(*a, **named, block_rows=17))
    assert curation.outliers(fraction=0.2, progress=False).to_pylist() == found.to_pylist()


def test_a_file_holds_the_records_in_their_own_columns_and_in_order(tmp_path: Path) -> None:
    first, second = corpus("random", [30, 30])
    first = first.append_column("made", pa.array(np.arange("2020-01-01", "2020-01-31", dtype="datetime64[D]")))
    second = second.set_column(3, "quality", second["quality"].cast(pa.float64()))
    result = curate(write_shards(tmp_path / "in", [first, second]), tmp_path / "ws")
    sample = result.sample(40, progress=False)
    pq_file = sample.save(tmp_path / "sample.parquet")
    read = pq.read_table(pq_file)
    assert read.column_names == ["id", "text", "vector", "quality", "made"]
    assert read.schema.field("quality").type == pa.float64()
    assert read.schema.field("vector").type == pa.list_(pa.float32())
    assert read["id"].to_pylist() == sample["id"].to_pylist()
    rows = {row["id"]: row for row in [*first.to_pylist(), *second.to_pylist()]}
    assert read.to_pylist() == [{"made": None, **rows[name]} for name in sample["id"].to_pylist()]
    lines = [json.loads(line) for line in sample.save(tmp_path / "sample.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == sample["id"].to_pylist()
    assert lines[0]["vector"] == read["vector"][0].as_py()
    dates = {str(line["made"])[:8] for line in lines}
    assert dates == {"2020-01-", "None"}
    with pytest.raises(DedupError, match=r"values that \.csv cannot hold"):
        sample.save(tmp_path / "sample.csv")
    with pytest.raises(DedupError, match=r"records are written as \.parquet, \.jsonl, \.csv"):
        sample.save(tmp_path / "sample.txt")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "sample.jsonl", "sample.parquet", "ws"]


def test_what_was_taken_back_and_what_is_not_decided_is_not_among_them(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "in", corpus("random", [20, 20, 20]))
    result = curate(paths[:2], tmp_path / "ws")
    da.register(paths[2], workspace=tmp_path / "ws")
    whole = result.sample(100, progress=False)
    assert set(whole["shard"].to_pylist()) == {"s00", "s01"}
    assert whole.remarks == [
        f"{len(whole)} distinct texts kept, fewer than the 100 asked for: one record of each.",
        "1 shard not decided yet, of which nothing is here: `dedup-assets curate` finishes.",
    ]
    assert all(remark in repr(whole) for remark in whole.remarks)
    gone = str(whole[0]["id"])
    da.retract(gone, workspace=tmp_path / "ws")
    again = result.outliers(100, progress=False)
    assert gone not in again["id"].to_pylist()
    with pytest.raises(DedupError, match="records were taken back while this was computed"):
        whole.records()
    assert len(again.records()) == len(again)


def test_a_workspace_that_has_no_answer_says_why(tmp_path: Path) -> None:
    tables = corpus("random", [12])
    paths = write_shards(tmp_path / "in", tables)
    da.register(*paths, workspace=tmp_path / "new", embedding_column="vector")
    da.curate(*paths, workspace=tmp_path / "exact", exact_only=True)
    one = curate(write_shards(tmp_path / "one", [tables[0].slice(0, 1)]), tmp_path / "single")
    gone = curate(paths, tmp_path / "gone")
    da.retract("s00", workspace=tmp_path / "gone")
    assert one.outliers(progress=False).to_pylist() == one.sample(progress=False).to_pylist()
    assert (one.outliers(progress=False)[0]["score"], one.outliers(progress=False).remarks) == (0.0, [])
    for result, message in (
        (da.open_curation(tmp_path / "new"), "nothing is decided yet"),
        (da.open_curation(tmp_path / "exact"), "curated without a model"),
        (gone, "keeps no record"),
    ):
        with pytest.raises(DedupError, match=message):
            result.outliers(progress=False)
        with pytest.raises(DedupError, match=message):
            result.sample(progress=False)
    for wrong, message in (({"count": 0}, "count = 0"), ({"fraction": 2}, "fraction = 2")):
        with pytest.raises(DedupError, match=message):
            one.outliers(**wrong)  # type: ignore[arg-type]
    with pytest.raises(DedupError, match="diversity = nan"):
        one.sample(diversity=float("nan"))


def test_texts_that_no_model_understood_are_said_to_be_so(single: da.Curation, monkeypatch: pytest.MonkeyPatch) -> None:
    def scores(rows: Sequence[object], **_: object) -> np.ndarray:
        return np.where(np.arange(len(rows)) < 2, 0.0, 0.5)

    monkeypatch.setattr(typical, "mean_of_nearest", scores)
    found = single.outliers(3, progress=False)
    assert found["score"].to_pylist() == [0.0, 0.0, 0.5]
    assert found.remarks == ["2 records of score 0: the model knows too little of the text."]


def test_the_commands_print_what_python_returns(copies: da.Curation, call: Call, tmp_path: Path) -> None:
    ws = copies.workspace
    assert call("outliers", "-w", ws, "--json").json() == copies.outliers(progress=False).to_pylist()
    few = ["--fraction", "0.05", "-w", ws]
    assert call("outliers", *few, "--json").json() == copies.outliers(fraction=0.05, progress=False).to_pylist()
    wanted = copies.sample(3, diversity=0.9, progress=False)
    asked = ["sample", "-n", "3", "--diversity", "0.9", "-w", ws]
    assert call(*asked, "--json").json() == wanted.to_pylist()
    shown = call(*asked).out
    assert all(name in shown for name in wanted["id"].to_pylist()) and f"{wanted[0]['score']:.4f}" in shown
    out = tmp_path / "three.jsonl"
    assert call(*asked, "-o", out).out == f"{out}\n"
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == wanted["id"].to_pylist()
    assert call(*asked, "-o", out, "--json").json() == {"records": 3, "file": str(out)}
    refused = call("outliers", "-n", "3", "--fraction", "0.1", "-w", ws)
    assert refused.status == 2 and "give one of them" in refused.err
    refused = call(*asked, "-o", tmp_path / "three.xlsx")
    assert refused.status == 1 and "records are written as" in refused.err


def test_a_csv_file_holds_what_such_a_file_can(tmp_path: Path) -> None:
    with (tmp_path / "in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "text"], ["1", "one, or\ntwo"], ["2", 'so "called"']])
    vectors = pa.table({"id": [1, 2], "text": ["one, or\ntwo", 'so "called"'], "vector": [[1.0, 0.0], [0.0, 1.0]]})
    result = curate(write_shards(tmp_path / "in", [vectors]), tmp_path / "ws")
    records = result.sample(progress=False).records().drop_columns(["vector"])
    write_records(records, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["id", "text"], ["1", "one, or\ntwo"], ["2", 'so "called"']]
