"""Promises of `history` and `report`: nothing that happened to a shard is lost, and the report lands where asked."""

from __future__ import annotations

from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets_tests.cli.commands import Call, write_corpus, write_jsonl

STAGES = ["read", "embedded", "codebook", "admitted", "matched", "decided", "published"]


@pytest.fixture
def ws(tmp_path: Path) -> Path:
    """The small corpus curated."""
    da.curate(write_corpus(tmp_path / "shards"), workspace=tmp_path / "ws", embedding_column="v")
    return tmp_path / "ws"


def events(call: Call, ws: Path, shard: str) -> list[tuple[str, str]]:
    """Names and details of a shard's events."""
    found = call("history", shard, "-w", ws, "--json").json()["events"]
    assert all(event["when"] and event["run_id"] for event in found[1:])
    assert [event["when"] for event in found] == sorted(event["when"] for event in found)
    return [(event["event"], event["detail"]) for event in found]


def test_a_history_begins_with_the_file_and_names_numbers_at_every_step(ws: Path, call: Call) -> None:
    found = events(call, ws, "b")
    assert [name for name, _ in found] == ["registered", *STAGES]
    told = dict(found)
    assert told["registered"].endswith("shards/b.jsonl")
    assert told["read"].startswith("4 rows: 3 records, 1 quarantined; content ")
    assert told["admitted"] == "as number 2 under codebook 1: 2 new texts, 1 copies"
    assert told["decided"] == "generation 1 at 0.95: 1 kept, 1 removed as copies, 1 as similar"
    assert told["published"] == "generation 1: 1 kept, 2 removed, 1 quarantined"
    whole = call("history", "b", "-w", ws, "--json").json()
    assert (whole["state"], whole["role"], whole["shard"]) == ("published", "corpus", "b")
    assert [(a["admission"], a["records"], a["retracted"]) for a in whole["admissions"]] == [(2, 3, False)]
    assert whole["events"][-1]["facts"]["removed_exact"] == 1 and whole["events"][-1]["stage"] == "deduplicated_dataset"


def test_every_generation_stays_in_the_history(ws: Path, call: Call) -> None:
    call("threshold", "0.97", "-w", ws)
    decided = [detail for name, detail in events(call, ws, "b") if name == "decided"]
    assert decided == [
        "generation 1 at 0.95: 1 kept, 1 removed as copies, 1 as similar",
        "generation 2 at 0.97: 2 kept, 1 removed as copies, 0 as similar",
    ]


def test_changed_and_retracted_content_stays_in_the_history(ws: Path, call: Call, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "shards" / "b.jsonl", [{"id": "b9", "text": "new content", "v": [0.0, 0.0, 1.0]}])
    da.curate(tmp_path / "shards", workspace=ws)
    found = events(call, ws, "b")
    retracted = found.index(("retracted", "changed: admission 2, 3 records"))
    before, after = [name for name, _ in found[:retracted]], [name for name, _ in found[retracted:]]
    assert before.count("published") == 1 and after.count("published") == 1
    assert ("admitted", "as number 3 under codebook 1: 1 new text, 0 copies") in found
    assert [a["retracted"] for a in call("history", "b", "-w", ws, "--json").json()["admissions"]] == [True, False]

    da.retract("a", workspace=ws)
    whole = call("history", "a", "-w", ws, "--json").json()
    assert whole["state"] == "retracted (takedown)"
    assert whole["events"][-1]["detail"] == "takedown: admission 1, 3 records"
    shown = call("explain", "a0", "-w", ws, "--json").json()
    assert (shown["decision"], shown["reason"], shown["row"]) == ("retracted", "takedown", 0)
    assert "text" not in shown and "retracted" in call("explain", "a:1", "-w", ws).out


def test_a_failed_shard_says_why_in_its_history(ws: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "shards" / "c.parquet").write_bytes(b"no parquet")
    da.curate(tmp_path / "shards", workspace=ws, check=False)
    whole = call("history", "c", "-w", ws, "--json").json()
    assert whole["state"] == "failed" and whole["failure"]["stage"] == "raw_shards"
    shown = call("history", "c", "-w", ws).out
    assert "failed in raw_shards" in shown and "c.parquet" in shown


def test_an_unknown_shard_is_an_error_that_names_those_there_are(ws: Path, call: Call) -> None:
    refused = call("history", "z", "-w", ws, "--json")
    assert (refused.status, refused.out) == (1, "") and "Registered: a, b." in refused.err


def test_a_history_fits_a_narrow_terminal(ws: Path, call: Call) -> None:
    for columns in (40, 60, 100):
        lines = call("history", "b", "-w", ws, columns=columns).out.splitlines()
        assert lines and all(len(line) <= columns for line in lines)
        assert "published" in "".join(lines)


def test_a_record_is_led_back_to_its_file_and_what_made_it(ws: Path, call: Call) -> None:
    removed = call("explain", "b0", "-w", ws, "--json").json()
    assert removed["source"].endswith("b.jsonl") and removed["keeper_source"].endswith("a.jsonl")
    lineage = removed["lineage"]
    history = call("history", "b", "-w", ws, "--json").json()
    assert lineage["content_fingerprint"] == history["admissions"][0]["content_fingerprint"]
    assert lineage["runs"] == {event["stage"]: event["run_id"] for event in history["events"][1:]}
    # Its text came with the other shard: the cell is that of the keeper.
    keeper = call("explain", "a0", "-w", ws, "--json").json()["lineage"]
    assert (lineage["codebook"], lineage["home_cell"]) == (keeper["codebook"], keeper["home_cell"])
    assert 0 <= lineage["home_cell"] < lineage["cells"] and 0.5 < lineage["similarity_to_centroid"] <= 1
    assert "home cell" in call("explain", "b0", "-w", ws).out
    assert call("explain", "a3", "-w", ws, "--json").json()["source"].endswith("a.jsonl")


def test_a_report_lands_where_it_is_asked_for(ws: Path, call: Call, tmp_path: Path) -> None:
    printed = call("report", "-w", ws)
    assert printed.out == f"{ws / 'report.html'}\n" and printed.status == 0
    asked = call("report", "-w", ws, "--out", tmp_path / "mine.html", "--json")
    assert asked.json() == {"report": str(tmp_path / "mine.html")}
    assert (tmp_path / "mine.html").read_bytes() == (ws / "report.html").read_bytes()
    assert "the first text" in (ws / "report.html").read_text()
    refused = call("report", "-w", tmp_path / "nowhere")
    assert refused.status == 1 and "is not a workspace" in refused.err
