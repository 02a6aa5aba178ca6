"""What a user sees of bad input: what was found, where, what was expected, what to do; never a traceback."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from sqlalchemy.exc import OperationalError

from dedup_assets.ingest.sources import SHARD_KEY_PATTERN
from dedup_assets_tests.cli.commands import SCRIPT, Call, published, write_corpus, write_jsonl


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--threshold", "0.9", "--eps", "0.1"], 1, "threshold and eps say the same thing"),
        (["--threshold", "1.5"], 1, "threshold = 1.5: expected a cosine similarity above 0 and at most 1"),
        (["--threshold", "nan"], 1, "threshold = nan: expected a cosine similarity"),
        (["--threshold", "abc"], 2, "Invalid value for '--threshold': 'abc' is not a valid float"),
        (["--eps", "2"], 1, "eps = 2.0: expected a number from 0 to below 1"),
        (["--floor", "0.99"], 1, "floor = 0.99 lies above threshold = 0.95"),
        (["--keep", "best"], 1, "keep = 'best': expected first, longest"),
        (["--text-column", "a", "--text-column", "a"], 1, "names a column twice"),
        (["--clusters", "0"], 2, "0 is not in the range x>=1"),
        (["--device", "tpu"], 2, "'tpu' is not one of 'auto', 'cpu', 'cuda'"),
        (["--id-column", "\udcff"], 1, "expected valid Unicode"),
        (["--colour"], 2, "No such option"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_before_anything_is_made(
    tmp_path: Path, call: Call, options: list[str], status: int, message: str
) -> None:
    refused = call("curate", write_corpus(tmp_path / "shards"), "-w", tmp_path / "ws", "--json", *options)
    assert (refused.status, refused.out) == (status, "")
    assert message in refused.err and "Traceback" not in refused.err
    assert not (tmp_path / "ws" / "curation.toml").exists()


def test_sources_that_are_none_are_refused_before_anything_is_made(tmp_path: Path, call: Call) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").write_text("text")
    write_jsonl(tmp_path / "clash" / "a.jsonl", [])
    (tmp_path / "clash" / "a.csv").write_text("id,text\n")
    for source, message in {
        "missing": "does not exist, or is neither a file nor a folder. Check the path.",
        "empty": "Expected endings: .parquet",
        "notes.md": "has an unknown ending. Expected one of: .parquet",
        "nothing-*.jsonl": "no shard files in",
        "clash": "would get the same shard key 'a'",
    }.items():
        refused = call("curate", tmp_path / source, "-w", tmp_path / "ws", "--json")
        assert (refused.status, refused.out) == (1, ""), source
        assert message in refused.err, source
    nothing = call("curate", "-w", tmp_path / "ws")
    assert nothing.status == 1 and "is not a workspace" in nothing.err and "dedup-assets curate SOURCE" in nothing.err
    assert not (tmp_path / "ws").exists()


def test_file_names_of_any_kind_become_shards_inside_the_output(tmp_path: Path, call: Call) -> None:
    shards, ws = tmp_path / "shards", tmp_path / "my work, ünderway #1 & é"
    names = [
        "with space",
        "up..down",
        "..hidden no more",
        "übung-日本",
        "new\nline",
        "quote'; DROP TABLE--",
        "%2e%2e",
        "-n",
    ]
    for number, name in enumerate(names):
        write_jsonl(shards / f"{name}.jsonl", [{"text": f"text {number}", "v": [1.0, float(number)]}])
    called = call(
        "curate", *(shards / f"{name}.jsonl" for name in names), "-w", ws, "--embedding-column", "v", "--json"
    )
    assert (called.status, called.json()["rows_in"]) == (0, len(names))
    keys = [path.stem for path in (ws / "output" / "deduplicated").iterdir()]
    assert len(keys) == len(names) and all(SHARD_KEY_PATTERN.fullmatch(key) for key in keys)
    key = next(key for key in keys if key.startswith("new_line"))
    explained = call("explain", f"{key}:0", "-w", ws)
    assert explained.status == 0 and f"{key}:0" in explained.out


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"threshold = \n", "is not valid TOML"),
        (b"treshold = 0.9\n", "unknown setting 'treshold'. Known: "),
        (b'threshold = "high"\n', "threshold = 'high': expected a number"),
        (b'text_columns = "text"\n', "expected a list of"),
        (b'text_columns = ["\xff"]\n', "is not valid UTF-8"),
    ],
)
def test_a_broken_settings_file_is_named(tmp_path: Path, call: Call, content: bytes, message: str) -> None:
    (tmp_path / "curation.toml").write_bytes(content)
    for command in (["curate"], ["threshold", "0.9"], ["pairs"], ["explain", "x"], ["ui"]):
        refused = call(*command, "-w", tmp_path)
        assert (refused.status, refused.out) == (1, "")
        assert message in refused.err and str(tmp_path / "curation.toml") in refused.err


def test_a_missing_column_is_refused_with_those_that_are_there_and_can_be_corrected(tmp_path: Path, call: Call) -> None:
    shards, ws = write_corpus(tmp_path / "shards"), tmp_path / "ws"
    failed = call("curate", shards, "-w", ws, "--text-column", "body")
    assert failed.status == 1 and "'body'" in failed.err and "'text'" in failed.err and "'id'" in failed.err
    other = call("curate", shards, "-w", ws, "--embedding-column", "v")
    assert other.status == 1 and "Nothing is stored there yet" in other.err and str(ws / "curation.toml") in other.err


# -- where nothing can be written --------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_workspace_that_cannot_be_made_is_an_error_that_says_what_to_do(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    shards, ws, mkdir = write_corpus(tmp_path / "shards"), tmp_path / "ws", os.mkdir

    def refusing(path: Any, *arguments: Any, **options: Any) -> None:
        if Path(os.fspath(path)).is_relative_to(ws):
            raise OSError(number, os.strerror(number), str(path))
        mkdir(path, *arguments, **options)

    monkeypatch.setattr(os, "mkdir", refusing)
    for arguments in (["curate", shards], ["curate", "--demo"], ["register", shards]):
        refused = call(*arguments, "-w", ws)
        assert (refused.status, refused.out) == (1, "")
        assert f"Cannot write {ws}" in refused.err and "choose another" in refused.err


def test_a_file_in_the_way_of_the_workspace_is_an_error_that_says_what_to_do(tmp_path: Path, call: Call) -> None:
    shards = write_corpus(tmp_path / "shards")
    (tmp_path / "file").write_text("")
    assert "is a file" in call("curate", shards, "-w", tmp_path / "file").err
    assert "choose another folder" in call("curate", shards, "-w", tmp_path / "file" / "ws").err
    assert "hoose another folder" in call("curate", shards, "-w", tmp_path / ("x" * 300)).err


def test_when_dagster_cannot_record_a_run_the_same_command_finishes_it_later(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("curate", write_corpus(tmp_path / "shards"), "--embedding-column", "v", "--json", "-w")
    left = 25  # events, which is in the middle of the chain of seven
    store = SqliteEventLogStorage.store_event

    def full(self: SqliteEventLogStorage, event: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))
        store(self, event)

    with monkeypatch.context() as patched:
        patched.setattr(SqliteEventLogStorage, "store_event", full)
        refused = call(*arguments, tmp_path / "ws")
    assert (refused.status, refused.out) == (1, "")
    last = refused.err.splitlines()[-1]
    assert last.startswith("Error: The Dagster instance in") and "database or disk is full. Free space" in last
    assert "Traceback" not in refused.err

    assert call(*arguments, tmp_path / "ws").json()["kept"] == 3
    call(*arguments, tmp_path / "undisturbed")
    assert published(tmp_path / "ws") == published(tmp_path / "undisturbed")


@pytest.mark.parametrize("small_disk", ["1m"], indirect=True)
def test_after_a_full_disk_the_same_command_finishes(tmp_path: Path, call: Call, small_disk: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(3_000, 64)).round(4).tolist()
    rows = [{"id": f"r{i}", "text": f"text {i}", "v": vector} for i, vector in enumerate(vectors)]
    shard, ws = write_jsonl(tmp_path / "s.jsonl", rows), small_disk / "ws"
    arguments = ("curate", shard, "--embedding-column", "v", "--json", "-w", ws)
    refused = call(*arguments)
    assert refused.status == 1 and "full" in refused.err and "run the same command again" in refused.err
    assert "Traceback" not in refused.err
    subprocess.run(["mount", "-o", "remount,size=100m", small_disk], check=True)
    assert call(*arguments).json()["rows_in"] == 3_000
    assert json.loads((ws / "output" / "manifest.json").read_text())["totals"]["rows_in"] == 3_000

    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert "read-only: choose another folder" in call(*arguments).err
    assert call("explain", "r0", "-w", ws).status == 0, "looking things up needs no write permission"


def test_a_dagster_home_that_cannot_be_used_is_one_line(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = write_corpus(tmp_path / "shards")
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "dagster.yaml").write_text("storage: [1, 2")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "dagster.yaml").write_text("no_such_section: true")
    for name, says in (
        ("nowhere", "which is not there"),
        ("file", "which is a file"),
        ("broken", "cannot be opened"),
        ("odd", "cannot be opened"),
    ):
        monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / name))
        failed = call("curate", shards, "-w", tmp_path / "ws", "--embedding-column", "v")
        assert failed.status == 1 and says in failed.err and str(tmp_path / name) in failed.err
        assert failed.err.count("\n") == 1 and "unset DAGSTER_HOME" in failed.err


def test_too_little_address_space_is_one_line(tmp_path: Path) -> None:
    shell = f"ulimit -v 2000000; exec {shlex.join(SCRIPT)} curate {tmp_path} -w {tmp_path / 'ws'}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert "1953 MiB of address space" in done.stderr and "--memory-limit" in done.stderr
