"""Promises of ingesting a shard: each row is a record or in quarantine, with a reason, and nothing is lost."""

from __future__ import annotations

import hashlib
import io
import json
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup_assets.compute.text import hash_text
from dedup_assets.errors import ShardError
from dedup_assets.ingest import records as ingest_module
from dedup_assets.ingest.formats import parquet as parquet_format
from dedup_assets.ingest.records import IngestReport, IngestSpec, ingest_shard, read_texts
from dedup_assets.ingest.sources import discover
from dedup_assets.storage.raw_table import RawShard

SPEC = IngestSpec(text_columns=("text",))


class Ingested:
    """An ingested shard, read back."""

    def __init__(self, folder: Path, name: str, data: bytes, **changes: Any) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self.path.write_bytes(data)
        self.out = folder / f"{name}.out"
        self.out.mkdir()
        self.spec = IngestSpec(**{"text_columns": ("text",), **changes})
        self.report: IngestReport = ingest_shard(discover([str(self.path)])[0], self.out, self.spec)
        self.table = pq.read_table(RawShard(self.out).table)
        self.records = pq.read_table(RawShard(self.out).records)
        self.quarantine = pq.read_table(RawShard(self.out).quarantine)

    def ids(self) -> list[str]:
        return self.records.column("id").to_pylist()

    def reasons(self) -> dict[int, str]:
        rows = self.quarantine.to_pylist()
        return {row["row"]: row["reason"] for row in rows}

    def vectors(self) -> np.ndarray:
        return np.load(RawShard(self.out).vectors)


def lines(*objects: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


def parquet(columns: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------- text


def test_rows_without_text_are_quarantined_each_with_its_reason(tmp_path: Path) -> None:
    data = lines(*({"text": text} for text in ("a", None, "", " \n\u00a0", 5, "b"))) + b"{bad\n\xff\n"
    shard = Ingested(tmp_path, "a.jsonl", data)
    reasons = shard.reasons()
    assert {row: reasons[row] for row in (1, 2, 3, 4)} == {
        1: "text is null",
        2: "text is empty",
        3: "text is only white space",
        4: "text is not a string (int)",
    }
    assert reasons[6].startswith("invalid JSON") and reasons[7].startswith("invalid UTF-8")
    assert shard.ids() == ["a:0", "a:5"] and shard.report.rows == 8
    assert shard.report.quarantined["text is not a string"] == 1
    assert shard.report.rows == shard.report.records + sum(shard.report.quarantined.values())
    assert json.loads(shard.quarantine.column("record")[0].as_py()) == {"text": None}


def test_keep_empty_keeps_empty_texts_but_never_null(tmp_path: Path) -> None:
    data = lines({"text": ""}, {"text": " "}, {"text": None}, {"text": "a"})
    shard = Ingested(tmp_path, "a.jsonl", data, keep_empty=True)
    assert shard.ids() == ["a:0", "a:1", "a:3"] and shard.reasons() == {2: "text is null"}


def test_several_text_columns_are_joined_and_nulls_skipped(tmp_path: Path) -> None:
    columns = {"a": ["x", None, None, "", "p"], "b": ["y", "z", None, "", None]}
    shard = Ingested(tmp_path, "s.parquet", parquet(columns), text_columns=("b", "a"))
    assert shard.reasons() == {2: "text is null", 3: "text is empty"}
    positions = shard.records.column("position").to_numpy()
    assert read_texts(RawShard(shard.out), shard.spec, positions) == ["y\n\nx", "z", "p"]
    assert shard.report.text_column_types == ("string", "string")


@given(texts=st.lists(st.text(max_size=6), max_size=12), form=st.sampled_from(["none", "NFC", "NFKC"]))
@settings(max_examples=30, deadline=None)
def test_hash_and_length_are_of_the_normalised_text_and_rows_are_conserved(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], form: Any
) -> None:
    folder = tmp_path_factory.mktemp("shard")
    shard = Ingested(folder, "a.parquet", parquet({"text": pa.array(texts, pa.string())}), unicode_form=form)
    rows = shard.records.column("row").to_pylist()
    expected = [texts[row] if form == "none" else unicodedata.normalize(form, texts[row]) for row in rows]
    assert shard.records.column("text_hash").to_pylist() == [hash_text(text) for text in expected]
    assert shard.records.column("characters").to_pylist() == [len(text) for text in expected]
    assert read_texts(RawShard(shard.out), shard.spec, np.array(rows, dtype=np.int64)) == expected
    assert sorted([*rows, *shard.reasons()]) == list(range(len(texts)))
    assert shard.records.schema.field("text_hash").type == pa.binary(16)


def test_texts_are_read_back_in_any_order_over_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "_MOST_ROWS", 64)
    texts = [f"text {i}" for i in range(300)]
    shard = Ingested(tmp_path, "a.parquet", parquet({"text": pa.array(texts).dictionary_encode()}))
    assert pq.ParquetFile(shard.out / "table.parquet").num_row_groups > 1
    positions = np.random.default_rng(0).integers(0, 300, 500)
    assert read_texts(RawShard(shard.out), SPEC, positions) == [texts[i] for i in positions]
    assert read_texts(RawShard(shard.out), SPEC) == texts
    assert read_texts(RawShard(shard.out), SPEC, np.array([], dtype=np.int64)) == []


def test_positions_lead_to_the_table_also_behind_rejected_rows(tmp_path: Path) -> None:
    shard = Ingested(tmp_path, "a.jsonl", lines({"text": "a"}) + b"bad\n\n" + lines({"text": ""}, {"text": "b"}))
    assert shard.records.select(["row", "position"]).to_pylist() == [
        {"row": 0, "position": 0},
        {"row": 4, "position": 2},
    ]
    assert read_texts(RawShard(shard.out), SPEC, np.array([2, 0])) == ["b", "a"]


def test_missing_and_wrong_columns_are_refused_with_the_columns_that_are_there(tmp_path: Path) -> None:
    data = lines({"body": "a", "n": 1, "v": [1]})
    for number, (changes, words) in enumerate(
        [
            ({}, "no text column 'text'.*'body' .string., 'n' .int64.*--text-column"),
            ({"text_columns": ("v",)}, "text is not a string: column 'v' holds .*'body'"),
            ({"text_columns": ("body", "text")}, "no text column 'text'"),
            ({"text_columns": ("body=2",)}, "no text column 'body=2'.*a column takes no weight"),
            ({"text_columns": ("body",), "id_column": "key", "id_column_required": True}, "'key'.*--id-column"),
            ({"text_columns": ("body",), "order_column": "q"}, "'q'.*'body'"),
            ({"text_columns": ("body",), "embedding_column": "e"}, "'e'.*--embedding-column"),
            ({"text_columns": ("body",), "embedding_column": "n"}, "holds int64. Expected lists of numbers"),
        ]
    ):
        with pytest.raises(ShardError, match=words):
            Ingested(tmp_path / str(number), "a.jsonl", data, **changes)


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_empty_shards_give_empty_tables_of_the_usual_columns(tmp_path: Path, name: str) -> None:
    spec = {"embedding_column": "e", "order_column": "q"}
    shard = Ingested(tmp_path, name, b"", **spec)
    assert (shard.report.rows, shard.report.records, shard.report.quarantined) == (0, 0, {})
    assert shard.records.column_names == ["row", "position", "id", "text_hash", "characters", "order_value"]
    assert shard.vectors().shape == (0, 0) and read_texts(RawShard(shard.out), shard.spec) == []


def test_a_shard_of_bad_rows_only_is_quarantined_whole(tmp_path: Path) -> None:
    shard = Ingested(tmp_path, "a.jsonl", b"{\n[\n")
    assert shard.report.records == 0 and shard.report.quarantined == {"invalid JSON": 2}


# -------------------------------------------------------------------------------------------- ids


def test_ids_are_strings_and_null_ids_are_quarantined(tmp_path: Path) -> None:
    shard = Ingested(tmp_path, "a.parquet", parquet({"text": ["a", "b", "c"], "id": [1, None, 3]}))
    assert shard.ids() == ["1", "3"] and shard.reasons() == {1: "id is null"}


def test_the_later_of_two_valid_records_with_one_id_is_quarantined(tmp_path: Path) -> None:
    columns = {
        "text": [None, "a", "b", "c", "d"],
        "id": ["x", "x", "y", "x", "y"],
        "e": [[1.0, float(i)] for i in range(5)],
    }
    shard = Ingested(tmp_path, "a.parquet", parquet(columns), embedding_column="e", embedding_dtype="float32")
    assert shard.ids() == ["x", "y"]
    assert shard.reasons() == {
        0: "text is null",
        3: "duplicate id: row 1 has it already",
        4: "duplicate id: row 2 has it already",
    }
    assert json.loads(shard.quarantine.column("record")[1].as_py())["text"] == "c"
    assert np.allclose(shard.vectors() @ [1, 0], [1 / np.sqrt(2), 1 / np.sqrt(5)])
    assert shard.quarantine.column("row").to_pylist() == [0, 3, 4]


def test_repeated_ids_can_be_refused(tmp_path: Path) -> None:
    data = lines({"text": "a", "id": "x"}, {"text": "b", "id": "x"})
    with pytest.raises(ShardError, match="'x' occurs in rows 0 and 1"):
        Ingested(tmp_path, "a.jsonl", data, duplicate_ids="refuse")


# -------------------------------------------------------------------------------------- embeddings


BAD_VECTORS: list[tuple[Any, str]] = [
    ([3.0, 4.0], ""),
    ([float("nan"), 1.0], "embedding has NaN"),
    ([float("inf"), 1.0], "embedding has infinity"),
    ([0.0, -0.0], "embedding has zero norm"),
    (None, "embedding is null"),
    ([None, 1.0], "embedding has a missing number"),
    ([1.0, 2.0, 3.0], "embedding has 3 numbers, expected 2"),
    ([], "embedding has 0 numbers, expected 2"),
    ([1e300, 1e300], ""),
    ([1e-300, 0.0], ""),
    ([0.0, 5e-324], ""),
]


@pytest.mark.parametrize("kind", ["list", "large_list", "json"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_bad_embeddings_are_quarantined_and_good_ones_have_unit_norm(tmp_path: Path, kind: str, dtype: str) -> None:
    vectors = [vector for vector, _ in BAD_VECTORS]
    column = {
        "list": lambda: pa.array(vectors, pa.list_(pa.float64())),
        "large_list": lambda: pa.array(vectors, pa.large_list(pa.float64())),
        "json": lambda: pa.array([json.dumps(vector) for vector in vectors]),
    }[kind]()
    data = parquet({"text": [str(i) for i in range(len(vectors))], "e": column})
    shard = Ingested(tmp_path, "a.parquet", data, embedding_column="e", embedding_dtype=dtype)
    assert shard.reasons() == {row: reason for row, (_, reason) in enumerate(BAD_VECTORS) if reason}
    stored = shard.vectors()
    assert stored.dtype == dtype and shard.report.dimension == 2
    assert np.allclose(stored.astype(float), [[0.6, 0.8], [np.sqrt(0.5)] * 2, [1, 0], [0, 1]], atol=1e-3)
    assert shard.report.quarantined["embedding has another dimension"] == 2


def test_vectors_stay_beside_their_records_where_later_batches_repeat_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_format, "_MOST_ROWS", 64)
    ids = [f"r{i % 150}" if i % 3 else f"only {i}" for i in range(300)]
    angles = np.arange(300) / 300
    column = pa.array(np.stack([np.cos(angles), np.sin(angles)], axis=1).tolist())
    data = parquet({"id": ids, "text": [f"t{i}" for i in range(300)], "e": column})
    shard = Ingested(tmp_path, "a.parquet", data, embedding_column="e", embedding_dtype="float32")
    rows = shard.records.column("row").to_numpy()
    assert len(rows) == len(set(ids)) < 300
    np.testing.assert_allclose(shard.vectors()[:, 1], np.sin(rows / 300), atol=1e-6)


def test_fixed_size_lists_with_nulls_and_integers_are_embeddings(tmp_path: Path) -> None:
    for name, item in (("h", pa.float16()), ("f", pa.float32()), ("i", pa.int32())):
        values = pa.array([[3, 4], None, [0, 2]], pa.list_(item, 2))
        data = parquet({"text": ["a", "b", "c"], "e": values})
        shard = Ingested(tmp_path, f"{name}.parquet", data, embedding_column="e")
        assert np.allclose(shard.vectors(), [[0.6, 0.8], [0, 1]], atol=1e-3)
        assert shard.reasons() == {1: "embedding is null"}


def test_the_dimension_asked_for_wins_and_a_shard_without_any_such_embedding_is_refused(tmp_path: Path) -> None:
    data = lines({"text": "a", "e": [1, 2]}, {"text": "b", "e": [1, 2, 3]})
    shard = Ingested(tmp_path / "mixed", "a.jsonl", data, embedding_column="e", dimension=3)
    assert shard.reasons() == {0: "embedding has 2 numbers, expected 3"}
    with pytest.raises(ShardError, match=r"every embedding has .* numbers, expected 384"):
        Ingested(tmp_path / "wrong", "a.jsonl", data, embedding_column="e", dimension=384)


def test_without_a_text_column_the_stored_vector_is_the_identity(tmp_path: Path) -> None:
    data = lines({"e": [1, 2]}, {"e": [2, 4]}, {"e": [2, 1]})
    shard = Ingested(tmp_path, "a.jsonl", data, embedding_column="e")
    hashes = shard.records.column("text_hash").to_pylist()
    assert hashes[0] == hashes[1] != hashes[2]
    assert hashes[0] == hashlib.blake2b(shard.vectors()[0].tobytes(), digest_size=16).digest()
    assert read_texts(RawShard(shard.out), shard.spec) == ["", "", ""] and shard.report.text_column_types == ()


# ------------------------------------------------------------------------------- order and files


@pytest.mark.parametrize(
    "column",
    [
        pa.array([3, None, 1], pa.int16()),
        pa.array([0.5, float("nan"), None]),
        pa.array(["b", "a", None]),
        pa.array(["b", "a", "b"]).dictionary_encode(),
        pa.array([True, False, None]),
        pa.array([1, 2, 3], pa.timestamp("us")),
        pa.array([1, 2, 3], pa.date32()),
    ],
)
def test_an_order_column_is_copied_with_its_type(tmp_path: Path, column: pa.Array) -> None:
    data = parquet({"text": ["a", "", "c"], "q": column})
    shard = Ingested(tmp_path, "a.parquet", data, order_column="q")
    plain = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
    expected = plain.take(pa.array([0, 2]))
    assert shard.records.column("order_value").combine_chunks().equals(expected)


def test_an_order_column_that_cannot_be_sorted_is_refused(tmp_path: Path) -> None:
    for name, data in {
        "list": lines({"text": "a", "q": [1]}),
        "mixed": lines({"text": "a", "q": 1}, {"text": "b", "q": "x"}),
    }.items():
        with pytest.raises(ShardError, match="order by column 'q'"):
            Ingested(tmp_path, f"{name}.jsonl", data, order_column="q")


def test_the_table_keeps_the_columns_of_the_input_also_for_quarantined_rows(tmp_path: Path) -> None:
    table = pa.table({"z": [[1], None], "text": ["a", ""], "when": pa.array([1, 2], pa.timestamp("ns"))})
    table = table.replace_schema_metadata({"made by": "a test"})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    shard = Ingested(tmp_path, "a.parquet", buffer.getvalue())
    assert shard.table.equals(table) and shard.table.schema.metadata[b"made by"] == b"a test"
    assert shard.report.bytes == len(buffer.getvalue())


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    data = lines(*({"text": f"t {i % 50}", "id": i % 90, "e": [i, 1, 2]} for i in range(100)), {"text": None})
    outs = [Ingested(tmp_path / side, "a.jsonl", data, embedding_column="e").out for side in ("one", "two")]
    for name in ("table.parquet", "records.parquet", "quarantine.parquet", "vectors.npy"):
        assert (outs[0] / name).read_bytes() == (outs[1] / name).read_bytes()


def test_quarantined_records_show_long_values_cut_and_odd_ones_readable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest_module, "_QUARANTINE_ROWS", 2)
    far = pa.array([2**62] * 3, pa.timestamp("us"))
    columns = {"text": ["", "", ""], "s": ["x" * 20_000] * 3, "b": [b"\xff"] * 3, "far": far}
    shard = Ingested(tmp_path, "a.parquet", parquet(columns))
    for text in shard.quarantine.column("record").to_pylist():
        record = json.loads(text)
        assert record["s"] == "x" * 10_000 + "… [10000 more characters]"
        assert record["b"] == "b'\\xff'" and "outside" in record["far"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
def test_a_text_of_10_mb_is_ingested(tmp_path: Path, name: str) -> None:
    text = "word " * 2_000_000
    data = lines({"text": text}) if name == "a.jsonl" else f'text\n"{text}"\n'.encode()
    shard = Ingested(tmp_path, name, data)
    assert shard.records.column("characters").to_pylist() == [10_000_000]
    assert read_texts(RawShard(shard.out), shard.spec) == [text]


def test_a_truncated_file_fails_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"a\.parquet"):
        Ingested(tmp_path, "a.parquet", parquet({"text": ["a"]})[:-5])


# ---------------------------------------------------------------------------------------- structs


@pytest.mark.parametrize("kind", ["parquet", "jsonl"])
def test_columns_inside_structs_are_read_by_dotted_names_and_stay_where_they_are(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"doc": {"text": "a", "other": 1}, "meta": {"id": 7, "q": 0.5}, "v": {"e": [1.0, 0.0]}},
        {"doc": None, "meta": {"id": 8, "q": 0.5}, "v": {"e": [1.0, 0.0]}},
        {"doc": {"text": "b", "other": None}, "meta": {"id": 7, "q": 2.5}, "v": {"e": [0.0, 1.0]}},
        {"doc": {"text": None, "other": 3}, "meta": None, "v": None},
        {"doc": {"text": "c", "other": 3}, "meta": {"id": 9, "q": 1.5}, "v": {"e": [0.0, 2.0]}},
    ]
    data = lines(*rows) if kind == "jsonl" else parquet(pa.Table.from_pylist(rows).to_pydict())
    shard = Ingested(
        tmp_path,
        f"a.{kind}",
        data,
        text_columns=("doc.text",),
        id_column="meta.id",
        id_column_required=True,
        embedding_column="v.e",
        order_column="meta.q",
    )
    assert shard.ids() == ["7", "9"] and shard.records["order_value"].to_pylist() == [0.5, 1.5]
    assert shard.reasons() == {1: "text is null", 2: "duplicate id: row 0 has it already", 3: "text is null"}
    assert shard.table.to_pylist() == rows and shard.report.text_column_types == ("string",)
    assert read_texts(RawShard(shard.out), shard.spec) == ["a", "", "b", "", "c"]
    assert np.array_equal(shard.vectors(), np.array([[1, 0], [0, 1]], np.float16))


def test_a_name_inside_structs_that_is_not_there_or_there_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no text column 'doc\.body'; its columns are 'doc' \(struct"):
        Ingested(tmp_path, "a.jsonl", lines({"doc": {"text": "a"}}), text_columns=("doc.body",))
    twice = lines({"a": {"b.c": "x"}, "a.b": {"c": "y"}})
    with pytest.raises(ShardError, match=r"column 'a\.b\.c' may be 'b\.c' in 'a' or 'c' in 'a\.b'"):
        Ingested(tmp_path, "b.jsonl", twice, text_columns=("a.b.c",))
    own = Ingested(tmp_path, "c.jsonl", lines({"a": {"b": "x"}, "a.b": "y"}), text_columns=("a.b",))
    assert read_texts(RawShard(own.out), own.spec) == ["y"]
    with pytest.raises(ShardError, match="'doc' holds values of several types"):
        Ingested(tmp_path, "d.jsonl", lines({"doc": {"text": "a"}}, {"doc": "b"}), text_columns=("doc.text",))
