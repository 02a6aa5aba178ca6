"""120 generated files, each odd in a way: every row is somewhere, or its shard is refused in a line."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq
import zstandard

import dedup_assets as da
from dedup_assets.corpus.output import ID_TAKEN, read_manifest
from dedup_assets.storage.workspace import Workspace

FILES = 120

Rows = list[dict[str, Any]]


def rows_of(rng: random.Random, number: int) -> Rows:
    words = ["alpha", "beta", "gamma", "delta", "wörter", "日本", "e\u0301", 'quo"te', "com,ma", "new\nline", "😀"]
    return [
        {
            "id": f"{number}-{i}",
            "text": " ".join(rng.choices(words, k=rng.randint(1, 6))),
            "v": [rng.uniform(-1, 1) for _ in range(3)],
            "n": rng.choice([0, 1, -5, 2**40]),
        }
        for i in range(rng.randint(1, 12))
    ]


# -- faults of rows, before they are written ---------------------------------------------------------


def same(rng: random.Random, rows: Rows) -> Rows:
    return rows


def one(**values: Any) -> Callable[[random.Random, Rows], Rows]:
    """A fault in one row."""

    def change(rng: random.Random, rows: Rows) -> Rows:
        rng.choice(rows).update(values)
        return rows

    return change


def every(**values: Any) -> Callable[[random.Random, Rows], Rows]:
    """The same fault in every row."""
    return lambda rng, rows: [row | values for row in rows]


def without(name: str) -> Callable[[random.Random, Rows], Rows]:
    return lambda rng, rows: [{key: value for key, value in row.items() if key != name} for row in rows]


ROW_FAULTS: list[Callable[[random.Random, Rows], Rows]] = [
    *[same] * 6,
    *(one(text=text) for text in ("", "   ", None, "\u200b", "x" * 100_000)),
    *(every(text=text) for text in ("", None, "the same")),
    *(one(id=value) for value in ("", None, "../up", "a\x1b[31m", "id" * 5_000)),
    *(every(id=value) for value in ("", None, "one for all")),
    *(one(v=value) for value in (None, [], [1.0], [0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0], [1e308, 1e308, 1e-308])),
    every(v=[0.0, 0.0, 0.0]),
    *(without(name) for name in ("id", "text", "v", "n")),
    lambda rng, rows: rows + rows,
    lambda rng, rows: [],
]

# -- writers -----------------------------------------------------------------------------------------


def lines(rows: Rows) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: Rows) -> bytes:
    buffer = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row)) or ["id", "text", "v"]
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([json.dumps(row.get(n)) if n == "v" else row.get(n) for n in names])
    return buffer.getvalue().encode()


def table_of(rows: Rows) -> pa.Table:
    return pa.Table.from_pylist(rows) if rows else pa.table({"id": [""], "text": [""], "v": [[0.0]]}).slice(0, 0)


def as_parquet(rows: Rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(table_of(rows), buffer)
    return buffer.getvalue()


def as_arrow(rows: Rows) -> bytes:
    sink = pa.BufferOutputStream()
    table = table_of(rows)
    with ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return sink.getvalue().to_pybytes()


WRITERS: dict[str, Callable[[Rows], bytes]] = {
    ".jsonl": lines,
    ".json": lambda rows: json.dumps(rows).encode(),
    ".ndjson": lambda rows: json.dumps(rows, indent=1).encode(),
    ".csv": as_csv,
    ".parquet": as_parquet,
    ".arrow": as_arrow,
}
PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard.compress}

# -- faults of bytes ---------------------------------------------------------------------------------


def flipped(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) or 1)
    return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]


BYTE_FAULTS: list[Callable[[random.Random, bytes], bytes]] = [
    *[lambda rng, data: data] * 5,
    lambda rng, data: data[: len(data) // 2],
    lambda rng, data: data[:-1],
    lambda rng, data: data[rng.randrange(1, 9) :],
    lambda rng, data: data + rng.randbytes(20),
    lambda rng, data: data + bytes(600),
    lambda rng, data: b"",
    lambda rng, data: b"\n \n",
    lambda rng, data: b"\xef\xbb\xbf" + data,
    lambda rng, data: data.decode("utf-8", "replace").encode("utf-16"),
    lambda rng, data: data.decode("utf-8", "replace").encode("latin-1", "replace"),
    lambda rng, data: data.replace(b"\n", b"\r"),
    lambda rng, data: data.replace(b"\n", b"\r\n"),
    lambda rng, data: data.replace(b'"', b"'"),
    lambda rng, data: data.replace(b",", b";"),
    lambda rng, data: data.replace(b"text", b"te\x00t"),
    lambda rng, data: b"<!DOCTYPE html><html>404</html>",
    lambda rng, data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    lambda rng, data: rng.randbytes(300),
    lambda rng, data: b"[" * 2_000 + data,
    lambda rng, data: data + b'{"id": "\\ud800", "text": "x", "v": [1, 2, 3]}\n',
    lambda rng, data: data + b'{"id": ' + b"9" * 400 + b', "text": 5, "v": "[1, 2, 3]"}\n',
    lambda rng, data: b"broken first line\n" + data,
    flipped,
    flipped,
]


def generated(folder: Path) -> list[Path]:
    rng = random.Random(20)
    paths = []
    for number in range(FILES):
        ending = rng.choice(list(WRITERS))
        data = WRITERS[ending](rng.choice(ROW_FAULTS)(rng, rows_of(rng, number)))
        name = f"f{number:03d}{ending}"
        if ending not in (".parquet", ".arrow") and rng.random() < 0.4:
            packed = rng.choice(list(PACKERS))
            name += packed
            data = PACKERS[rng.choice([packed, packed, *PACKERS])](data)
        data = rng.choice(BYTE_FAULTS)(rng, data)
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


def test_every_row_is_somewhere_or_its_shard_is_refused_in_a_line(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    paths = generated(folder)
    result = da.curate(folder, workspace=tmp_path / "ws", embedding_column="v", check=False, threshold=0.95)
    space = Workspace.open(tmp_path / "ws")
    published = {entry["shard"]: entry for entry in read_manifest(space)["shards"]}
    assert published.keys() | result.failures.keys() == {path.name.split(".")[0] for path in paths}
    assert not published.keys() & result.failures.keys()
    for shard, message in result.failures.items():
        assert "failed unexpectedly" not in message and "Traceback" not in message, (shard, message)
        assert "\n" not in message and shard in message, (shard, message)
    for shard, entry in published.items():
        parts = [entry[name] for name in ("kept", "removed_exact", "removed_semantic", "quarantined")]
        assert entry["rows_in"] == sum(parts), shard
        assert entry["rows_in"] == 0 or entry["quarantined"] <= 0.9 * entry["rows_in"] or _only_by_ids(entry), shard
    assert len(published) > 35 and len(result.failures) > 25, "both kinds are there"
    assert all(check.passed or check.is_warning for check in da.audit(workspace=tmp_path / "ws"))


def _only_by_ids(entry: dict[str, Any]) -> bool:
    """Whether what is quarantined can be records by itself, and other shards have the ids."""
    return ID_TAKEN in entry["quarantined_by_reason"]
