"""Promises of reading shards: every row is either parsed as it was or rejected with a reason."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedup_assets.errors import ShardError
from dedup_assets.ingest.formats import csv as csv_format
from dedup_assets.ingest.formats import json_blocks, line_blocks
from dedup_assets.ingest.formats import jsonl as jsonl_format
from dedup_assets.ingest.formats import parquet as parquet_format
from dedup_assets.ingest.formats import txt as txt_format
from dedup_assets.ingest.readers import Rejected, read_shard
from dedup_assets.ingest.sources import discover

INVALID = pa.Array.from_buffers(pa.string(), 3, pa.array([b"ok", b"\xff", b"end"]).buffers())


def read(path: Path, data: bytes) -> tuple[pa.Table, list[int], list[Rejected]]:
    path.write_bytes(data)
    (source,) = discover([str(path)])
    content = read_shard(source, ("text",), "id")
    batches = list(content.batches)
    table = pa.concat_tables([content.schema.empty_table(), *(batch.table for batch in batches)])
    rows = [row for batch in batches for row in batch.rows.tolist()]
    assert len(rows) == table.num_rows or not table.num_columns
    return table, rows, [item for batch in batches for item in batch.rejected]


def parquet_bytes(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer, row_group_size=100)
    return buffer.getvalue()


def as_lines(*objects: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in objects)


# ------------------------------------------------------------------------------------------ JSONL


def test_json_dates_stay_the_strings_they_are_at_every_depth(tmp_path: Path) -> None:
    value = {"text": "2020-01-01", "d": "2020-01-01T00:00:00Z", "l": ["2020-01-01"], "s": {"x": "2020-01-01"}}
    table, _, _ = read(tmp_path / "a.jsonl", as_lines(value))
    assert table.to_pylist() == [value]


def test_json_row_numbers_are_line_numbers_and_blank_lines_are_no_rows(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbf{"text": "a"}\r\n\n   \n  {"text": "b"}\nbad\n{"text": "c"}'
    table, rows, rejected = read(tmp_path / "a.jsonl", data)
    assert table.column("text").to_pylist() == ["a", "b", "c"]
    assert rows == [0, 3, 5] and [item.row for item in rejected] == [4]


def test_json_has_one_schema_whatever_the_block_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [{"text": "a", "n": 1}] * 40 + [{"text": "b", "n": 1.5, "late": [1]}] * 40 + [{"text": "c", "n": None}]
    expected, rows, _ = read(tmp_path / "a.jsonl", as_lines(*values))
    assert expected.schema.names == ["text", "n", "late"] and expected.schema.field("n").type == pa.float64()
    for size in (7, 100, 1_000):
        monkeypatch.setattr(json_blocks, "BLOCK_BYTES", size)
        monkeypatch.setattr(line_blocks, "BLOCK_BYTES", size)
        table, same_rows, _ = read(tmp_path / "a.jsonl", as_lines(*values))
        assert table.equals(expected) and same_rows == rows


def test_json_columns_of_mixed_types_become_json_text_in_all_rows(tmp_path: Path) -> None:
    data = as_lines({"text": "a", "m": 1}, {"text": "b", "m": "x"}, {"text": "c", "m": None}, {"text": "d", "m": [1]})
    table, _, rejected = read(tmp_path / "a.jsonl", data)
    assert table.column("m").to_pylist() == ["1", '"x"', None, "[1]"] and not rejected


def test_json_ids_of_mixed_types_keep_their_strings_and_large_integers_their_digits(tmp_path: Path) -> None:
    table, _, _ = read(tmp_path / "a.jsonl", as_lines({"text": "a", "id": "x"}, {"text": "b", "id": 7}))
    assert table.column("id").to_pylist() == ["x", "7"]
    large = [18446744073709551615, 18446744073709551614]
    table, _, _ = read(tmp_path / "b.jsonl", as_lines(*({"text": "a", "id": value} for value in large)))
    assert table.column("id").to_pylist() == [str(value) for value in large]


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b'{"text": "a"', "invalid JSON"),
        (b'{"text": "a",}', "invalid JSON"),
        (b'{"text": "a"} {"text": "b"}', "invalid JSON"),
        (b'{"text": ' + b"[" * 50_000, "invalid JSON"),
        (b"[1]", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b'{"text": "\xff"}', "invalid UTF-8"),
        (b'{"text": "\\ud800"}', "invalid Unicode"),
        (b'{"text": 5}', "text is not a string"),
        (b'{"text": ["a"]}', "text is not a string"),
    ],
)
def test_a_bad_json_line_is_rejected_and_the_others_are_read(tmp_path: Path, line: bytes, kind: str) -> None:
    data = b'{"text": "a", "n": 1}\n' + line + b'\n{"text": "b"}\n'
    table, rows, rejected = read(tmp_path / "a.jsonl", data)
    assert table.column("text").to_pylist() == ["a", "b"] and rows == [0, 2]
    assert [(item.row, item.kind) for item in rejected] == [(1, kind)]
    assert rejected[0].reason.startswith(kind) and "unparsed" in json.loads(rejected[0].record)


@pytest.mark.parametrize("piece", [1, 2**16])
def test_a_text_inside_a_json_struct_that_is_no_string_rejects_its_row_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    monkeypatch.setattr(jsonl_format, "_LEARNING_BYTES", piece)

    def rows(*texts: Any) -> list[dict[str, Any]]:
        return [{"doc": {"text": text, "n": n}} for n, text in enumerate(texts)]

    def read_inside(*objects: dict[str, Any]) -> tuple[str, list[Any], list[str]]:
        (tmp_path / "a.jsonl").write_bytes(as_lines(*objects))
        content = read_shard(discover([str(tmp_path / "a.jsonl")])[0], ("doc.text",), "id")
        batches = list(content.batches)
        kept = [row["doc"] for batch in batches for row in batch.table.to_pylist()]
        return str(content.schema.field("doc").type), kept, [item.reason for b in batches for item in b.rejected]

    kept = [{"text": "a", "n": 0}, {"text": "b", "n": 2}, {"text": None, "n": 3}]
    reasons = [f"text is not a string ({kind})" for kind in ("int", "list")]
    assert read_inside(*rows("a", 5, "b", None, [1])) == ("struct<text: string, n: int64>", kept, reasons)
    numbers = [{"text": 1, "n": 0}, {"text": 2, "n": 1}]
    assert read_inside(*rows(1, 2)) == ("struct<text: int64, n: int64>", numbers, [])
    assert read_inside(*rows(1, [2])) == ("struct<text: string, n: int64>", [], reasons)
    # A column of the whole name is the text, and nothing of the other is lost.
    kind, found, rejected = read_inside(*rows("a", 5), {"doc.text": "own"})
    assert (kind, rejected) == ("string", []) and found[1] == '{"text": 5, "n": 1}'


def test_odd_json_values_that_parquet_cannot_hold_become_json_text(tmp_path: Path) -> None:
    deep: Any = 1
    for _ in range(100):
        deep = [deep]
    values = [{"text": "a", "empty": {}, "deep": deep, "wide": {str(i): i for i in range(3_000)}}]
    table, _, _ = read(tmp_path / "a.jsonl", as_lines(*values))
    pq.write_table(table, tmp_path / "out.parquet")
    back = pq.read_table(tmp_path / "out.parquet").to_pylist()[0]
    assert {name: json.loads(back[name]) for name in ("empty", "deep", "wide")} == {
        name: values[0][name] for name in ("empty", "deep", "wide")
    }


scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.dictionaries(st.sampled_from(["text", "id", "a", "b"]), values, max_size=4), max_size=8))
def test_any_json_objects_are_read_or_rejected_and_none_is_lost(tmp_path: Path, objects: list[dict[str, Any]]) -> None:
    table, rows, rejected = read(tmp_path / "a.jsonl", as_lines(*objects))
    assert sorted(rows + [item.row for item in rejected]) == list(range(len(objects)))
    for item in rejected:
        assert item.kind in ("text is not a string", "invalid JSON")
    kept = [objects[row] for row in rows]
    if "text" in table.column_names and table.schema.field("text").type == pa.string():
        assert table.column("text").to_pylist() == [value.get("text") for value in kept]


# -------------------------------------------------------------------------------------------- CSV


def test_csv_types_are_found_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(csv_format, "_MOST_RECORDS", 2)
    lines = [
        "id,text,i,f,b,z,d,big",
        "1,2,1,1.0,true,007,2020-01-01,12345678901234567890",
        "2,3,,2.5,false,8,2021-01-01,1",
    ]
    data = "\n".join([*lines, "3,4,-3,0.001,,9,x,2", ""]).encode()
    table, _, _ = read(tmp_path / "a.csv", data)
    assert [str(kind) for kind in table.schema.types] == [
        *("string", "string", "int64", "double", "bool", "string", "string", "string")
    ]
    assert table.column("i").to_pylist() == [1, None, -3]
    assert table.column("f").to_pylist() == [1.0, 2.5, 0.001]
    assert table.column("b").to_pylist() == [True, False, None]
    assert table.column("z").to_pylist() == ["007", "8", "9"]


@given(
    st.lists(
        st.one_of(
            st.sampled_from(
                ["1.1", "1.10", "-0", "0", "5.00", "5.0", "007", "1e5", "+5", "TRUE", "true", "NaN", "inf", ""]
            ),
            st.integers(-(10**20), 10**20).map(str),
            st.floats(allow_nan=False, allow_infinity=False).map(repr),
        ),
        min_size=1,
        max_size=4,
    )
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_csv_value_written_out_again_is_the_text_that_it_was(tmp_path: Path, cells: list[str]) -> None:
    data = "".join(["id,text,x\n", *(f"{i},t,{cell}\n" for i, cell in enumerate(cells))]).encode()
    table, _, _ = read(tmp_path / "a.csv", data)
    values = table.column("x").to_pylist()
    written = [
        "" if v is None else str(v).lower() if isinstance(v, bool) else v if isinstance(v, str) else repr(v)
        for v in values
    ]
    assert written == cells


def test_csv_columns_are_text_or_asked_to_be_numbers_as_the_caller_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,text,score,other\n1,a,1.10,1\n2,b,9,2\n3,c,10,3\n")
    (source,) = discover([str(tmp_path / "a.csv")])

    def types(**options: Any) -> dict[str, str]:
        content = read_shard(source, ("text",), "id", **options)
        return {field.name: str(field.type) for field in content.schema if field.name in ("score", "other")}

    assert types() == {"score": "string", "other": "int64"}
    assert types(csv_types="text") == {"score": "string", "other": "string"}
    assert types(order_column="score", csv_types="text") == {"score": "double", "other": "string"}


def test_empty_csv_cells_beyond_the_header_are_passed_over_and_others_rejected(tmp_path: Path) -> None:
    table, rows, rejected = read(tmp_path / "a.csv", b"id,text\n1,a,\n2,b,,\n3,c,x\n4\n")
    assert table.to_pylist() == [{"id": "1", "text": "a"}, {"id": "2", "text": "b"}] and rows == [0, 1]
    assert [item.reason for item in rejected] == [f"wrong number of columns: {n}, expected 2" for n in (3, 1)]


def test_csv_rows_with_wrong_columns_or_bytes_are_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    data = b'\xef\xbb\xbfid,text\n1,"a\nb"\n\n2\n3,c,d\n4,\xff\n5,"x"y\n6,"say ""hi"""\n7,"open\n8,z\n'
    table, rows, rejected = read(tmp_path / "a.csv", data)
    assert table.to_pylist() == [{"id": "1", "text": "a\nb"}, {"id": "6", "text": 'say "hi"'}]
    assert rows == [0, 5]
    assert [(item.row, item.kind) for item in rejected] == [
        (1, "wrong number of columns"),
        (2, "wrong number of columns"),
        (3, "invalid UTF-8"),
        (4, "invalid CSV quoting"),
        (6, "invalid CSV quoting"),
    ]
    assert rejected[1].reason == "wrong number of columns: 3, expected 2"
    assert "takes 2 lines" in rejected[-1].reason


def test_csv_headers_that_repeat_a_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="several columns named 'text'"):
        read(tmp_path / "a.csv", b"text,text\na,b\n")


cells = st.text(alphabet=st.characters(codec="utf-8"), max_size=8)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(cells, cells), max_size=12), st.integers(1, 40))
def test_what_a_csv_writer_wrote_is_read_back(tmp_path: Path, rows: list[tuple[str, str]], block: int) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, quoting=csv.QUOTE_ALL)
    writer.writerows([("id", "text"), *rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(csv_format, "BLOCK_BYTES", block)
        table, numbers, rejected = read(tmp_path / "a.csv", buffer.getvalue().encode())
    assert [tuple(row.values()) for row in table.to_pylist()] == rows
    assert numbers == list(range(len(rows))) and not rejected


def test_a_header_with_another_delimiter_is_refused_and_a_tab_in_a_csv_cell_is_not(tmp_path: Path) -> None:
    for name, data, says in (
        ("a.tsv", b"id,text\n1,a\n", "holds commas and no tabs.*Rename it to .csv"),
        ("a.csv", b"id\ttext\n1\ta\n", "holds tabs and no commas.*Rename it to .tsv"),
        ("b.csv", b"id;text\n1;a\n", "holds semicolons and no commas.*Write it with commas"),
    ):
        with pytest.raises(ShardError, match=says):
            read(tmp_path / name, data)
    assert read(tmp_path / "c.tsv", b"text\na,b\n")[0].to_pylist() == [{"text": "a,b"}]
    assert read(tmp_path / "c.csv", b"text,n\na\tb,1\n")[0].to_pylist() == [{"text": "a\tb", "n": 1}]


def test_tsv_types_and_quotes_are_read_as_those_of_csv(tmp_path: Path) -> None:
    table, rows, rejected = read(
        tmp_path / "a.tsv", b'id\ttext\tn\n1\t"a\t\n""b"""\t5\n2\tx"y\t\n3\t"open"x\t1\n4\tz\n'
    )
    assert table.to_pylist() == [{"id": "1", "text": 'a\t\n"b"', "n": 5}, {"id": "2", "text": 'x"y', "n": None}]
    assert rows == [0, 1]
    assert [(item.row, item.kind) for item in rejected] == [(2, "invalid TSV quoting"), (3, "wrong number of columns")]


# ------------------------------------------------------------------------------------- plain text


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(["\n", "\r\n", "\r", "a", "ü\u2028", " ", "\x0b\x85"])), st.integers(4, 40), st.booleans()
)
def test_lines_of_plain_text_are_those_of_python_whatever_the_block_size(
    tmp_path: Path, pieces: list[str], block: int, mark: bool
) -> None:
    text = "".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(line_blocks, "BLOCK_BYTES", block)
        patch.setattr(txt_format, "_MOST_ROWS", 3)
        table, rows, rejected = read(tmp_path / "a.txt", b"\xef\xbb\xbf" * mark + text.encode())
    expected = [line.removesuffix("\n") for line in io.StringIO(text, newline=None)]
    if text or mark:
        assert table.column("text").to_pylist() == expected
    assert rows == list(range(len(expected))) and not rejected


def test_lines_that_are_not_utf8_are_rejected_and_the_others_are_read(tmp_path: Path) -> None:
    table, rows, rejected = read(tmp_path / "a.txt", "plain\nmañana\n\nend".encode("latin-1"))
    assert table.column("text").to_pylist() == ["plain", "", "end"] and rows == [0, 2, 3]
    assert [(item.row, item.reason) for item in rejected] == [(1, "invalid UTF-8 at byte 2 of the line")]
    assert json.loads(rejected[0].record) == {"unparsed": "ma\\xf1ana"}
    assert read(tmp_path / "b.txt", b"ORCHIDS grow here\n")[1] == [0]  # as an ORC file begins


# ---------------------------------------------------------------------------------------- Parquet


def test_parquet_keeps_columns_types_order_and_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_format, "_MOST_ROWS", 70)
    table = pa.table(
        {
            "n": pa.array(range(250), pa.int16()),
            "text": pa.array([f"t{i % 7}" for i in range(250)]).dictionary_encode(),
            "when": pa.array(range(250), pa.timestamp("us", "UTC")),
            "l": pa.array([[{"a": i}] for i in range(250)]),
            "big": pa.array(["x"] * 250, pa.large_string()),
        }
    )
    got, rows, _ = read(tmp_path / "a.parquet", parquet_bytes(table))
    assert got.schema == table.schema and got.to_pylist() == table.to_pylist()
    assert rows == list(range(250))


def test_parquet_string_views_are_read_as_strings(tmp_path: Path) -> None:
    got, _, _ = read(tmp_path / "a.parquet", parquet_bytes(pa.table({"text": pa.array(["a"], pa.string_view())})))
    assert got.to_pylist() == [{"text": "a"}] and got.schema.field("text").type == pa.string()


def test_parquet_rows_with_invalid_utf8_are_rejected_wherever_the_string_is(tmp_path: Path) -> None:
    nested = pa.StructArray.from_arrays([INVALID.take(pa.array([1, 0, 0]))], ["x"])
    table = pa.table({"text": INVALID, "nested": nested, "raw": pa.array([b"\xff"] * 3)})
    got, rows, rejected = read(tmp_path / "a.parquet", parquet_bytes(table))
    assert got.column("text").to_pylist() == ["end"] and rows == [2]
    assert [(item.row, item.reason) for item in rejected] == [
        (0, "invalid UTF-8 in column 'nested'"),
        (1, "invalid UTF-8 in column 'text'"),
    ]


# ------------------------------------------------------------------------------------ every format


def write(ending: str, texts: list[str]) -> bytes:
    if ending == ".parquet":
        return parquet_bytes(pa.table({"text": texts}))
    if ending.startswith((".csv", ".tsv")):
        buffer = io.StringIO(newline="")
        csv.writer(buffer, delimiter="\t" if ending.startswith(".tsv") else ",", quoting=csv.QUOTE_ALL).writerows(
            [["text"], *([text] for text in texts)]
        )
        data = buffer.getvalue().encode()
    else:
        data = as_lines(*({"text": text} for text in texts))
    packers = {
        ".gz": gzip.compress,
        ".bz2": bz2.compress,
        ".xz": lzma.compress,
        ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
    }
    return packers.get(Path("a" + ending).suffix, bytes)(data)


ENDINGS = [".parquet", ".jsonl", ".json", ".jsonl.gz", ".json.zst", ".jsonl.bz2", ".csv", ".csv.gz", ".csv.zst"]
ENDINGS += [".tsv", ".tsv.xz"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_every_format_and_compression_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    texts = [f"line {i}\nsecond, 'ünï' \"{i}\"" for i in range(300)]
    table, rows, rejected = read(tmp_path / f"a{ending}", write(ending, texts))
    assert table.column("text").to_pylist() == texts and rows == list(range(300)) and not rejected


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ".jsonl.gz"])
def test_a_text_of_10_mb_is_read(tmp_path: Path, ending: str) -> None:
    texts = ["short", "long " * 2_000_000, "short"]
    table, _, _ = read(tmp_path / f"a{ending}", write(ending, texts))
    assert table.column("text").to_pylist() == texts


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_without_a_byte_is_an_empty_shard(tmp_path: Path, ending: str) -> None:
    table, rows, rejected = read(tmp_path / f"a{ending}", b"")
    assert table.num_columns == 0 and not rows and not rejected


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_shard_of_0_rows_is_read(tmp_path: Path, ending: str) -> None:
    _, rows, rejected = read(tmp_path / f"a{ending}", write(ending, []))
    assert not rows and not rejected


@pytest.mark.parametrize(
    "ending", [".parquet", ".jsonl.gz", ".json.zst", ".jsonl.bz2", ".csv.gz", ".csv.zst", ".tsv.xz"]
)
def test_truncated_and_corrupt_files_fail_with_file_and_reason(tmp_path: Path, ending: str) -> None:
    data = write(ending, [f"text {i * i * i}" for i in range(5_000)])
    for broken in (data[: len(data) // 2], data[:-3], b"not what it says " * 100):
        with pytest.raises(ShardError) as caught:
            read(tmp_path / f"a{ending}", broken)
        assert f"a{ending}" in str(caught.value) and "cannot be read" in str(caught.value)


def test_corrupt_pages_inside_a_parquet_file_fail_with_file_and_reason(tmp_path: Path) -> None:
    data = bytearray(write(".parquet", [f"text {i}" for i in range(5_000)]))
    data[100:3_000] = bytes(2_900)
    with pytest.raises(ShardError, match=r"a\.parquet"):
        read(tmp_path / "a.parquet", bytes(data))
