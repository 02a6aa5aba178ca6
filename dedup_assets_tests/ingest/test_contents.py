"""A file is read as what its content is; what is no shard at all is refused in a line that says what it looks like."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dedup_assets.errors import ShardError
from dedup_assets.ingest import compression
from dedup_assets.ingest.formats import json_blocks, line_blocks
from dedup_assets.ingest.readers import Rejected, read_shard
from dedup_assets.ingest.sources import discover

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "first", "n": 1, "list": [{"x": "}"}, {"x": '[\\"{'}]},
    {"id": "b", "text": 'quotes " and \\\\ and , ] }', "n": 2, "list": []},
    {"id": "c", "text": "third\nline", "n": 3, "list": None},
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def read(path: Path, data: bytes) -> tuple[list[dict[str, Any]], list[int], list[Rejected]]:
    path.write_bytes(data)
    (source,) = discover([str(path)])
    content = read_shard(source, ("text",), "id")
    batches = list(content.batches)
    table = pa.concat_tables([content.schema.empty_table(), *(batch.table for batch in batches)])
    rows = [row for batch in batches for row in batch.rows.tolist()]
    return table.to_pylist(), rows, [item for batch in batches for item in batch.rejected]


def refused(path: Path, data: bytes) -> str:
    with pytest.raises(ShardError) as caught:
        read(path, data)
    message = str(caught.value)
    assert str(path) in message and "\n" not in message
    return message


# -- compression -------------------------------------------------------------------------------------

PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstandard.compress}


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("name", ["a.jsonl", "a.ndjson.gz", "a.json.zstd", "a.jsonl.xz", "a.jsonl.bz2"])
def test_compression_is_known_by_content_whatever_the_name(tmp_path: Path, name: str, kind: str) -> None:
    rows, numbers, _ = read(tmp_path / name, PACKED[kind](LINES))
    assert rows == ROWS and numbers == [0, 1, 2]


@pytest.mark.parametrize("kind", PACKED)
def test_members_one_after_another_are_one_stream(tmp_path: Path, kind: str) -> None:
    pack = PACKED[kind]
    rows, _, _ = read(tmp_path / f"a.jsonl.{kind}", pack(LINES[:20]) + pack(b"") + pack(LINES[20:]))
    assert rows == ROWS


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_zeros_behind_a_member_are_padding_and_other_bytes_are_not(tmp_path: Path, kind: str) -> None:
    pack = PACKED[kind]
    rows, _, _ = read(tmp_path / f"a.jsonl.{kind}", pack(LINES[:20]) + bytes(512) + pack(LINES[20:]) + bytes(5_000))
    assert rows == ROWS


@pytest.mark.parametrize("kind", PACKED)
def test_what_follows_or_breaks_off_compressed_data_refuses_its_shard(tmp_path: Path, kind: str) -> None:
    whole = PACKED[kind](LINES)
    for wrong in (whole + b"j", whole + b"junk " * 20, whole[:-3], whole[: len(whole) // 2], whole * 2 + whole[:9]):
        assert "cannot be read as" in refused(tmp_path / f"a.jsonl.{kind}", wrong)


def test_zstd_with_the_longest_window_is_read(tmp_path: Path) -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(3, window_log=31, enable_ldm=True)
    packed = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = packed.compress(LINES) + packed.flush()
    assert compression._zstd_window(data[:18]) == 2**31
    assert read(tmp_path / "a.jsonl.zst", data)[0] == ROWS


def test_parquet_and_arrow_are_known_by_content_too(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    for name, data in (
        ("parquet", _parquet(table)),
        ("file", _arrow(table, ipc.new_file)),
        ("stream", _arrow(table, ipc.new_stream)),
    ):
        for ending in (".jsonl", ".parquet", ".pq", ".arrow", ".feather", ".csv"):
            assert read(tmp_path / f"{name}{ending}", data)[:2] == (ROWS, [0, 1, 2])
    assert "compressed as a whole" in refused(tmp_path / "a.jsonl.gz", gzip.compress(_parquet(table)))


def _parquet(table: pa.Table) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


def _arrow(table: pa.Table, writer: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with writer(sink, table.schema) as file:
        file.write_table(table, max_chunksize=2)
    return sink.getvalue().to_pybytes()


# -- JSON over several lines -------------------------------------------------------------------------

LAYOUTS = {
    "array in one line": json.dumps(ROWS).encode(),
    "pretty array": json.dumps(ROWS, indent=2).encode(),
    "array of lines": b"[\n" + b",\n".join(LINES.splitlines()) + b"\n]\n",
    "commas first": b"[" + b"\n,".join(LINES.splitlines()) + b"\n]",
    "pretty objects": b"\n".join(json.dumps(row, indent=1).encode() for row in ROWS),
    "carriage returns": LINES.replace(b"\n", b"\r"),
    "both line ends": LINES.replace(b"\n", b"\r\n"),
    "byte order mark": b"\xef\xbb\xbf" + json.dumps(ROWS, indent="\t").encode(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("block", [7, 64, 2**20])
def test_every_layout_of_json_gives_the_same_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str, block: int
) -> None:
    monkeypatch.setattr(json_blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block)
    assert read(tmp_path / "a.json", LAYOUTS[layout]) == (ROWS, [0, 1, 2], [])


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=6,
)


@given(st.lists(values, min_size=1, max_size=5), st.sampled_from([None, 0, 2, "\t"]), st.integers(3, 60))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_documents_are_cut_where_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: list[Any], indent: Any, block: int
) -> None:
    monkeypatch.setattr(json_blocks, "BLOCK_BYTES", block)
    monkeypatch.setattr(line_blocks, "BLOCK_BYTES", block)
    objects = [{"id": str(i), "text": "t", "value": json.dumps(value)} for i, value in enumerate(found)]
    rows, numbers, rejected = read(tmp_path / "a.json", json.dumps(objects, indent=indent).encode())
    assert rows == objects and numbers == list(range(len(objects))) and not rejected


def test_an_element_that_is_no_object_is_rejected_and_a_broken_array_refuses_its_shard(tmp_path: Path) -> None:
    rows, numbers, rejected = read(tmp_path / "a.json", b'[{"id": "a", "text": "x"}, 7, "s", [1], {"id": "b",}]')
    assert rows == [{"id": "a", "text": "x"}] and numbers == [0]
    assert [(item.row, item.kind) for item in rejected] == [
        *((row, "not a JSON object") for row in (1, 2, 3)),
        (4, "invalid JSON"),
    ]
    for broken in (b'[{"id": "a"}', b'[{"id": "a"},', b'[{"id": "a"} {"id": "b"}]', b'[{"id": "a"}] 7', b'[{"id": "a'):
        assert "over several lines" in refused(tmp_path / "b.json", broken)
    assert read(tmp_path / "c.json", b" [ ] ") == ([], [], [])


def test_lines_of_which_the_first_is_broken_stay_lines(tmp_path: Path) -> None:
    for first in (
        b'{"id": 1, "text": [',
        b'{"id": 1, "text": "x',
        b'{"id": 1} {"id": 2}',
        b"[1, 2]",
        b"junk",
        b'{"a": 1}}',
    ):
        rows, numbers, rejected = read(tmp_path / "a.jsonl", first + b"\n" + LINES)
        assert rows == ROWS and numbers == [1, 2, 3] and [item.row for item in rejected] == [0]


# -- what is no shard --------------------------------------------------------------------------------

TEXT = LINES.decode()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (TEXT.encode("utf-16"), "text in UTF-16"),
        (TEXT.encode("utf-16-be"), "text in UTF-16"),
        (TEXT.encode("utf-16-le"), "text in UTF-16"),
        (TEXT.encode("utf-32"), "text in UTF-32"),
        (TEXT.encode("utf-32-be"), "text in UTF-32"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
        (b"\n <!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
        (b"<html lang=en>", "HTML page"),
        (b'<?xml version="1.0"?><Error/>', "XML"),
        (b"%PDF-1.7 ...", "PDF"),
        (b"PK\x03\x04" + bytes(30), "ZIP"),
        (bytes(257) + b"ustar" + bytes(20), "tar archive"),
        (b"\x80\x04\x95\x10\x00", "pickle"),
        (b"SQLite format 3\x00" + bytes(80), "SQLite"),
        (b"\x93NUMPY\x01\x00", "NumPy"),
        (bytes(1_000), "zeros only"),
        (struct.pack("<200d", *range(200)), "no text"),
        (gzip.compress(gzip.compress(LINES)), "gzip twice"),
    ],
)
@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
def test_what_is_no_shard_is_named(tmp_path: Path, data: bytes, says: str, ending: str) -> None:
    assert says in refused(tmp_path / f"a{ending}", data)
