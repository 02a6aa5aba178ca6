"""Small files that expand: each is read in a separate process with strict limits of memory and time.

    python -m dedup_assets_tests.bombs [NAME ...]

prints the size, outcome, peak memory and time of each file. A file is either refused
with its reason, or read within the bounds.
"""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc as ipc
import pyarrow.parquet as pq

ADDRESS_SPACE = 4 * 2**30
MOST_MEMORY = 2 * 2**30
MOST_SECONDS = 100

MIB = 2**20


def _shared(rows: int, value: str) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([value]))


def _ids(rows: int) -> pa.Array:
    return pa.array([f"r{i}" for i in range(rows)])


def _parquet(path: Path, *, compression: str = "zstd", **columns: pa.Array) -> None:
    pq.write_table(pa.table(columns), path, compression=compression)


def _arrow(path: Path, **columns: pa.Array) -> None:
    table = pa.table(columns)
    with ipc.new_file(path, table.schema, options=ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)


def parquet_one_text(path: Path) -> None:
    _parquet(path, id=_ids(500), text=_shared(500, "x" * 16 * MIB))


def parquet_few_texts(path: Path) -> None:
    _parquet(path, id=_ids(15), text=_shared(15, "x" * 16 * MIB))


def parquet_one_payload(path: Path) -> None:
    _parquet(path, id=_ids(300), text=pa.array([f"text {i}" for i in range(300)]), more=_shared(300, "x" * 16 * MIB))


def parquet_inside_lists(path: Path) -> None:
    lists = pa.ListArray.from_arrays(pa.array(np.arange(0, 301 * 4, 4, dtype=np.int32)), _shared(1200, "x" * 4 * MIB))
    _parquet(path, id=_ids(300), text=_ids(300), more=lists)


def parquet_inside_structs(path: Path) -> None:
    _parquet(path, id=_ids(300), text=_ids(300), more=pa.StructArray.from_arrays([_shared(300, "x" * 8 * MIB)], ["a"]))


def parquet_one_long_list(path: Path) -> None:
    values = pa.array(np.zeros(100_000_000, np.int32))
    lists = pa.ListArray.from_arrays(pa.array([0, 0, len(values)], pa.int32()), values)
    _parquet(path, id=_ids(2), text=_ids(2), more=lists)


def parquet_rows_of_nothing(path: Path) -> None:
    _parquet(path, text=pa.nulls(70_000_000, pa.string()))


def parquet_rows_of_the_same(path: Path) -> None:
    _parquet(path, text=_shared(30_000_000, "the same"))


def parquet_wide_bytes(path: Path) -> None:
    values = pa.array([b"x" * MIB], pa.binary(MIB)).take(pa.array(np.zeros(300, np.int32)))
    _parquet(path, id=_ids(300), text=_ids(300), more=values)


def arrow_one_text(path: Path) -> None:
    _arrow(path, id=_ids(500), text=_shared(500, "x" * 16 * MIB))


def arrow_one_run(path: Path) -> None:
    run = pa.RunEndEncodedArray.from_arrays(pa.array([500], pa.int32()), pa.array(["x" * 16 * MIB]))
    _arrow(path, id=_ids(500), text=run)


def arrow_one_view(path: Path) -> None:
    view = pa.array(["x" * 16 * MIB], pa.string_view())
    views = np.tile(np.frombuffer(view.buffers()[1], np.uint8), 500)
    text = pa.Array.from_buffers(pa.string_view(), 500, [None, pa.py_buffer(views.tobytes()), *view.buffers()[2:]])
    _arrow(path, id=_ids(500), text=text)


def arrow_one_list_view(path: Path) -> None:
    starts, sizes = np.zeros(2_000, np.int32), np.full(2_000, 4 * MIB, np.int32)
    lists = pa.ListViewArray.from_arrays(pa.array(starts), pa.array(sizes), pa.array(np.zeros(4 * MIB, np.int32)))
    _arrow(path, id=_ids(2_000), text=_ids(2_000), more=lists)


def jsonl_of_distinct_keys(path: Path) -> None:
    path.write_text("\n".join(f'{{"text":"t","k{i}":1}}' for i in range(60_000)))


def jsonl_of_distinct_keys_inside(path: Path) -> None:
    path.write_text("\n".join(f'{{"id":"{i}","text":"t{i}","m":{{"k{i}":1}}}}' for i in range(60_000)))


def jsonl_of_distinct_paths(path: Path) -> None:
    keys = [f"a{i}" for i in range(60)]
    paths = list(itertools.product(keys, repeat=3))[:60_000]
    lines = (f'{{"text":"t","{a}":{{"{b}":{{"{c}":1}}}}}}' for a, b, c in paths)
    path.write_text("\n".join(lines))


def jsonl_wide_and_long(path: Path) -> None:
    wide = json.dumps({"text": "wide", **{f"k{i}": 1 for i in range(4_000)}})
    path.write_bytes(gzip.compress((wide + "\n" + '{"text":"t"}\n' * 400_000).encode()))


def jsonl_deep(path: Path) -> None:
    deep = '{"a":' * 900 + "1" + "}" * 900
    path.write_text('{"id":"a","text":"t"}\n{"id":"b","text":"u","deep":' + deep + "}\n")


def jsonl_of_empty_objects(path: Path) -> None:
    path.write_bytes(b"[" + b",".join([b"{}"] * 400_000) + b"]")


def jsonl_one_line(path: Path) -> None:
    path.write_bytes(b'{"text":"' + b"x" * 300 * MIB + b'"}')


def jsonl_blank_lines(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\n" * 300 * MIB))


def csv_blank_lines(path: Path) -> None:
    path.write_bytes(gzip.compress(b"text\n" + b"\n" * 200 * MIB))


def csv_one_line(path: Path) -> None:
    path.write_bytes(lzma.compress(b"text\n" + b"x" * 300 * MIB, preset=0))


def csv_open_quote(path: Path) -> None:
    path.write_bytes(b'text\n"' + b"x, y\n" * 20 * MIB)


def csv_many_columns(path: Path) -> None:
    path.write_text(",".join(f"c{i}" for i in range(100_000)) + "\n")


def csv_wide_and_blank(path: Path) -> None:
    path.write_text(",".join(f"c{i}" for i in range(4_000)) + "\n" + ("," * 3_999 + "\n") * 2_000)


def bz2_of_rows(path: Path) -> None:
    path.write_bytes(bz2.compress(b'{"text":"the same"}\n' * MIB) * 20)


def xz_of_rows(path: Path) -> None:
    path.write_bytes(lzma.compress(b'{"text":"the same"}\n' * MIB, preset=0) * 20)


def txt_blank_lines(path: Path) -> None:
    path.write_bytes(b"\n" * 100 * MIB)


def txt_one_line(path: Path) -> None:
    path.write_bytes(b"x" * 300 * MIB)


def zstd_of_zeros(path: Path) -> None:
    import zstandard

    path.write_bytes(zstandard.ZstdCompressor().compress(bytes(300 * MIB)))


REFUSED: dict[Callable[[Path], None], str] = {
    parquet_one_long_list: "100000001 values",
    parquet_rows_of_nothing: "times its size|rows cannot be records",
    parquet_wide_bytes: "times its size",
    parquet_one_text: "times its size",
    parquet_one_payload: "times its size",
    parquet_inside_lists: "times its size",
    parquet_inside_structs: "times its size",
    parquet_rows_of_the_same: "times its size",
    arrow_one_text: "times its size",
    arrow_one_run: "times its size",
    arrow_one_view: "times its size",
    arrow_one_list_view: "times its size",
    jsonl_wide_and_long: "nearly all cells",
    jsonl_of_distinct_keys: "columns or more",
    jsonl_one_line: "longer than",
    jsonl_of_empty_objects: "text",
    jsonl_blank_lines: "times its size",
    csv_blank_lines: "blank lines",
    csv_one_line: "line without an end|times its size",
    csv_many_columns: "columns or more",
    csv_open_quote: "rows cannot be records",
    csv_wide_and_blank: "text",
    bz2_of_rows: "times its size",
    xz_of_rows: "times its size",
    txt_blank_lines: "rows cannot be records",
    txt_one_line: "a line of more than",
    zstd_of_zeros: "zeros only",
}
"""The files that are refused, with a part of the reason."""

READ: dict[Callable[[Path], None], int] = {
    parquet_few_texts: 15,
    jsonl_of_distinct_keys_inside: 60_000,
    jsonl_of_distinct_paths: 60_000,
    jsonl_deep: 1,
}
"""The files that are read, with their number of records."""

SUFFIXES = {
    "parquet": ".parquet",
    "arrow": ".arrow",
    "jsonl": ".jsonl",
    "csv": ".csv",
    "txt": ".txt",
    "bz2": ".jsonl.bz2",
    "xz": ".jsonl.xz",
    "zstd": ".jsonl.zst",
}


def read_bomb(path: Path) -> dict[str, object]:
    """The outcome of reading a file in this process, and the peak memory in bytes."""
    from dedup_assets.errors import DedupError
    from dedup_assets.ingest.records import IngestSpec, ingest_shard
    from dedup_assets.ingest.source_files import SourceFile

    kind = path.name.split("_")[0]
    found = {"bz2": "jsonl", "xz": "jsonl", "zstd": "jsonl"}.get(kind, kind)
    source = SourceFile("bomb", str(path), found, kind if found != kind else None)
    outcome: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        try:
            report = ingest_shard(source, Path(folder), IngestSpec(text_columns=("text",), max_quarantined=0.9))
            outcome["records"] = report.records
        except DedupError as problem:
            outcome["refused"] = str(problem)
    # The peak that `getrusage` tells counts the parent before the child's own program began.
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    outcome["peak"] = int(peak) * 1024
    return outcome


def set_off(bomb: Callable[[Path], None], folder: Path) -> dict[str, object]:
    """Make a file and read it in a child process under hard limits of address space and time."""
    kind = bomb.__name__.split("_")[0]
    path = folder / f"{bomb.__name__}{SUFFIXES[kind]}"
    bomb(path)
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "dedup_assets_tests.bombs", "--read", path],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE)),
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
    )
    outcome = json.loads(done.stdout) if done.returncode == 0 else {"died": done.stderr[-2_000:]}
    return {**outcome, "bytes": path.stat().st_size, "seconds": time.monotonic() - started}


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["--read"]:
        print(json.dumps(read_bomb(Path(arguments[1]))))
        return
    for bomb in (*READ, *REFUSED):
        if arguments and bomb.__name__ not in arguments:
            continue
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = set_off(bomb, Path(folder))
            except subprocess.TimeoutExpired:
                found = {"died": f"more than {MOST_SECONDS} s", "bytes": 0, "seconds": MOST_SECONDS}
        what = found.get("refused") or found.get("died") or f"{found['records']} records"
        print(
            f"{bomb.__name__:32} {found['bytes']:>11,} B  {found.get('peak', 0) / 1e6:6,.0f} MB  "  # type: ignore[operator]
            f"{found['seconds']:5.1f} s  {str(what)[-300:]}",
            flush=True,
        )


if __name__ == "__main__":
    main(sys.argv[1:])
