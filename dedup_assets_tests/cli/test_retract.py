"""Promises of `retract`, `--reference` and `--changed-shards` to people and to scripts."""

from __future__ import annotations

from pathlib import Path

import pytest

from dedup_assets_tests.cli.commands import Call, write_corpus, write_jsonl

OPTIONS = ("--embedding-column", "v", "--threshold", "0.95")


@pytest.fixture
def workspace(tmp_path: Path, call: Call) -> Path:
    """The corpus of two shards, curated."""
    ws = tmp_path / "ws"
    assert call("curate", write_corpus(tmp_path / "in"), "-w", ws, *OPTIONS).status == 0
    return ws


def test_a_record_that_is_taken_down_gives_way_to_those_that_went_for_it(workspace: Path, call: Call) -> None:
    answer = call("retract", "a0", "-w", workspace, "--json")
    assert (answer.status, answer.err) == (0, "")
    summary = answer.json()
    # a1 was removed for a0 and stays now; b0, a copy of a0, goes for a1.
    assert (summary["kept"], summary["removed_exact"], summary["quarantined"]) == (3, 0, 3)
    people = call("retract", "a0", "-w", workspace)
    assert people.status == 0 and "2 shards published" in people.out
    gone = call("explain", "a0", "-w", workspace, "--json").json()
    assert (gone["decision"], gone["reason"]) == ("retracted", "takedown") and "text" not in gone


def test_shards_go_and_what_vanished_may_return(tmp_path: Path, workspace: Path, call: Call) -> None:
    assert call("retract", "a", "--vanished", "-w", workspace, "--json").json()["rows_in"] == 4
    assert call("curate", tmp_path / "in" / "a.jsonl", "-w", workspace, "--json").json()["rows_in"] == 8
    assert call("retract", "a", "-w", workspace, "--json").json()["shards"] == 1
    back = call("curate", tmp_path / "in" / "a.jsonl", "-w", workspace)
    assert back.status == 1 and "a: taken down" in back.err and "does not return" in back.err
    assert call("curate", tmp_path / "in", "-w", workspace, "--json").json()["shards"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["nobody"], 1, "nobody: no such record"),
        (["a0", "--vanished"], 1, "records (a0) can only be taken down"),
        ([], 2, "Missing argument 'SHARD|ID...'"),
    ],
)
def test_what_cannot_be_retracted_says_so(
    workspace: Path, call: Call, arguments: list[str], status: int, message: str
) -> None:
    answer = call("retract", *arguments, "-w", workspace)
    assert answer.status == status and message in answer.err and "Traceback" not in answer.err


def test_a_reference_is_counted_apart_and_never_written_out(tmp_path: Path, workspace: Path, call: Call) -> None:
    test_set = write_jsonl(tmp_path / "test.jsonl", [{"id": "t", "text": "the first text", "v": [1.0, 0.0, 0.0]}])
    answer = call("curate", test_set, "--reference", "-w", workspace)
    assert answer.status == 0 and "reference" in answer.out
    assert call("curate", "-w", workspace, "--json").json()["reference"] == 1
    removed = call("explain", "a0", "-w", workspace, "--json").json()
    assert (removed["decision"], removed["keeper_id"], removed["keeper_shard"]) == ("removed", "t", "test")
    assert not (workspace / "output" / "deduplicated" / "test.parquet").exists()
    assert call("register", test_set, "-w", workspace).status == 1


def test_a_changed_file_is_read_again_unless_that_is_refused(tmp_path: Path, workspace: Path, call: Call) -> None:
    shard = tmp_path / "in" / "a.jsonl"
    write_jsonl(shard, [{"id": "a9", "text": "nothing like it", "v": [0.0, 1.0, 0.0]}])
    refused = call("curate", shard, "-w", workspace, "--changed-shards", "refuse")
    assert refused.status == 1 and "changed since it was curated" in refused.err
    assert call("curate", shard, "-w", workspace).status == 1, "what was asked for once lasts"
    replaced = call("curate", shard, "-w", workspace, "--changed-shards", "replace", "--json").json()
    assert (replaced["rows_in"], replaced["failures"]) == (5, {})


def test_a_retraction_says_what_went_and_of_what_nothing_was_there(tmp_path: Path, workspace: Path, call: Call) -> None:
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert call("curate", tmp_path / "bad.parquet", "-w", workspace).status == 1
    told = call("retract", "bad", "a", "a0", "-w", workspace, "--json").json()["retracted"]
    assert told == {"shards": ["bad", "a"], "records": 1, "never_in": ["bad"]}
    people = call("retract", "bad", "-w", workspace)
    assert "1 shard retracted" in people.out and "nothing of bad was in the corpus" in people.out
