"""Whatever is passed where a path is expected is refused in one line that says how to go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import dedup_assets as da
from dedup_assets.errors import DedupError, SettingsError, SourceError

FRAME = pd.DataFrame({"text": ["a text"]})
RECORDS: dict[str, tuple[Any, str]] = {
    "list of texts": (["a text", "another"], "a list of 2 items: 'a text'. Write the records to a file and name that"),
    "tuple of texts": (("a text",), "a tuple of 1 item"),
    "list of dicts": ([{"text": "a"}], "json.dumps(record)"),
    "dict": ({"text": ["a"]}, 'write_table(pyarrow.table(columns), "records.parquet")'),
    "pandas": (FRAME, 'a pandas DataFrame. Write the records to a file and name that: frame.to_parquet("records'),
    "pandas series": (FRAME["text"], 'column.to_frame("text").to_parquet("records.parquet")'),
    "polars": (
        pl.DataFrame(FRAME),
        "a polars DataFrame. Write the records to a file and name that: frame.write_parquet",
    ),
    "polars lazy": (pl.DataFrame(FRAME).lazy(), "frame.sink_parquet"),
    "polars series": (pl.Series(["a"]), 'column.to_frame("text").write_parquet'),
    "arrow": (pa.table({"text": ["a"]}), 'write_table(pyarrow.table(records), "records.parquet")'),
    "record batch": (pa.record_batch({"text": ["a"]}), "pyarrow.table(records)"),
    "numpy": (np.array(["a text"]), "a numpy ndarray"),
    "generator": ((text for text in ["a"]), r"a generator. Unpack what names files: curate(*files, workspace=...)"),
    "int": (5, "an int: 5. Name a file, a folder, a glob or an fsspec URL."),
    "float": (0.5, "a float: 0.5. Name a file"),
    "None": (None, "this is None. Name a file"),
    "bytes": (b"shards/", "bytes: b'shards/'. Name a path as text"),
    "bytearray": (bytearray(b"x"), "a bytearray"),
    "empty list": ([], "a list of 0 items"),
    "paths": ([Path("a.csv"), Path("b.csv")], "Unpack what names files: curate(*files, workspace=...)."),
    "names of files": ([__file__], "Unpack what names files: curate(*files, workspace=...)."),
    "URLs": (["s3://bucket/a.csv"], "Unpack what names files: curate(*files, workspace=...)."),
    "text with a URL": (["see https://example.org"], "json.dumps"),
    "escapes": (["\x1b[2J" * 50], r"'\x1b[2J"),
}


@pytest.mark.parametrize("call", [da.curate, da.register, da.watch], ids=lambda call: call.__name__)
@pytest.mark.parametrize("name", RECORDS)
def test_what_is_no_source_is_refused_with_what_to_do(tmp_path: Path, call: Callable[..., Any], name: str) -> None:
    value, expected = RECORDS[name]
    with pytest.raises(SourceError) as caught:
        call(value, workspace=tmp_path / "ws")
    message = str(caught.value)
    assert message.startswith("sources are paths or URLs of files, and this is ") and expected in message
    assert "\n" not in message and "\x1b" not in message and len(message) < 320
    assert not (tmp_path / "ws").exists()


@pytest.mark.parametrize(
    ("records", "written"),
    [
        (["one text", "two"], [{"text": "one text"}, {"text": "two"}]),
        ([{"text": "a", "n": 1}], [{"text": "a", "n": 1}]),
    ],
)
def test_the_line_that_an_error_gives_writes_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: Any, written: Any
) -> None:
    import json

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError) as caught:
        da.curate(records, workspace="ws")
    line = str(caught.value).partition("name that: ")[2].removesuffix(".")
    exec(line, {"Path": Path, "json": json, "records": records})
    assert pd.read_json("records.jsonl", lines=True).to_dict("records") == written


@pytest.mark.parametrize("workspace", [None, 5, b"ws", ["ws"]])
def test_a_workspace_is_a_path(tmp_path: Path, workspace: Any) -> None:
    shard = tmp_path / "s.jsonl"
    shard.write_text("")
    calls: list[Callable[[], Any]] = [
        lambda: da.curate(shard, workspace=workspace),
        lambda: da.register(shard, workspace=workspace),
        lambda: da.watch(shard, workspace=workspace),
        lambda: da.recurate(workspace=workspace),
        lambda: da.retract("a", workspace=workspace),
        lambda: da.rethreshold(0.9, workspace=workspace),
        lambda: da.audit(workspace=workspace),
        lambda: da.open_curation(workspace),
    ]
    for call in calls:
        with pytest.raises(DedupError, match=r"workspace = .*: expected the path of a folder, not "):
            call()


@pytest.mark.parametrize(
    ("names", "expected"),
    [((17,), "17 is an int"), ((["a", "b"],), r"a list of 2 items: write \*names"), ((None,), "None is None")],
)
def test_what_is_retracted_is_named_as_text(tmp_path: Path, names: tuple[Any, ...], expected: str) -> None:
    (tmp_path / "s.jsonl").write_text('{"text": "a"}\n')
    da.register(tmp_path / "s.jsonl", workspace=tmp_path / "ws")
    with pytest.raises(SettingsError, match=expected):
        da.retract(*names, workspace=tmp_path / "ws")
