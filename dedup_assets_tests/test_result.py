"""Promises of the look-ups in Python: what they return, the command line prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import dedup_assets as da
from dedup_assets.errors import SettingsError, WorkspaceError
from dedup_assets_tests.cli.commands import Call, write_corpus, write_jsonl
from dedup_assets_tests.cli.conftest import call  # noqa: F401


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> da.Curation:
    """The small corpus, and a shard whose ids are numbers and whose text tries to steer what shows it."""
    folder = tmp_path_factory.mktemp("result")
    write_corpus(folder / "shards")
    rows = [
        {"id": 7, "text": "clear \x1b[2J <b>the screen</b> \u202e", "v": [-1.0, 0.0, 0.0]},
        {"id": 8, "text": "nearly so", "v": [-1.0, 0.01, 0.0]},
    ]
    write_jsonl(folder / "shards" / "numbered.jsonl", rows)
    return da.curate(folder / "shards", workspace=folder / "ws", embedding_column="v")


LOOKUPS: dict[str, tuple[Callable[[da.Curation], Any], list[str]]] = {
    "removed": (lambda result: result.explain("a1"), ["explain", "a1"]),
    "quarantined": (lambda result: result.explain("a3"), ["explain", "a3"]),
    "twice": (lambda result: result.explain("b1"), ["explain", "b1"]),
    "hostile": (lambda result: result.explain(7), ["explain", "7"]),
    "threshold": (lambda result: result.pairs_around(), ["pairs"]),
    "around": (lambda result: result.pairs_around(0.5, 2), ["pairs", "--around", "0.5", "-n", "2"]),
    "record": (lambda result: result.matches(record="a0", count=20), ["pairs", "--record", "a0"]),
    "lonely": (lambda result: result.matches(record="a2", count=20), ["pairs", "--record", "a2"]),
    "history": (lambda result: result.history("b"), ["history", "b"]),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_the_command_prints_what_the_look_up_returns(
    name: str,
    result: da.Curation,
    call: Call,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_up, arguments = LOOKUPS[name]
    answer = look_up(result)
    plain = dict(answer) if isinstance(answer, dict) else answer.to_pylist()
    assert call(*arguments, "-w", result.workspace, "--json").json() == plain
    for columns in (50, 120):
        printed = call(*arguments, "-w", result.workspace, columns=columns).out
        assert repr(answer) == printed.rstrip("\n") and printed  # the width is still that of the call
    page = answer._repr_html_()
    assert page.startswith("<pre") and page.endswith("</pre>")
    assert "<b>" not in page and "&lt;b&gt;" * (name == "hostile") in page
    for steering in ("\x1b", "\u202e"):
        assert steering not in page and steering not in repr(answer)


def test_answers_are_plain_values(result: da.Curation) -> None:
    removed = result.explain("a1")
    assert (removed["keeper_id"], removed["kind"]) == ("a0", "semantic") and isinstance(removed, dict)
    assert result.explain(result.removed[0]["id"])["decision"] == "removed"
    pairs = result.pairs_around(0.99, count=2)
    assert [row["similarity"] for row in pairs] == sorted((row["similarity"] for row in pairs), reverse=True)
    assert pairs[0].keys() == {f"{name}_{side}" for name in ("id", "shard", "text") for side in "ab"} | {"similarity"}
    assert pa.table(pairs).num_rows == len(pairs) == len(pairs.to_pandas()) == 2
    (group,) = (group for group in result.groups() if group["keeper_id"] == "b1")
    assert [(member["id"], member["text"]) for member in group["members"]] == [("b2", "rather like the third thing")]
    assert result.history("b")["state"] == "published"


def test_what_cannot_be_looked_up_is_refused_by_name(result: da.Curation) -> None:
    for wrong, words in (
        (lambda: result.explain(None), "record = None: expected text"),
        (lambda: result.explain(2.5), "record = 2.5: expected text"),
        (lambda: result.history(b"b"), "shard = b'b': expected text"),
        (lambda: result.pairs_around(0.9, 0), "count = 0: expected a whole number"),
        (lambda: result.pairs_around(1.5), "around = 1.5: expected a cosine"),
        (lambda: result.groups(members=-1), "members = -1: expected a whole number"),
        (lambda: result.search("first"), "vectors that came with the data"),
    ):
        with pytest.raises(SettingsError, match=words):
            wrong()
    for unknown in (lambda: result.explain("nobody"), lambda: result.history("nobody")):
        with pytest.raises(WorkspaceError, match="nobody"):
            unknown()


def test_a_report_is_written_where_it_is_asked_for(result: da.Curation, tmp_path: Path) -> None:
    assert result.report() == result.workspace / "report.html"
    assert result.report(tmp_path / "mine.html") == tmp_path / "mine.html"
    assert (tmp_path / "mine.html").read_bytes() == (result.workspace / "report.html").read_bytes()
    assert b"the first text" in (tmp_path / "mine.html").read_bytes()
