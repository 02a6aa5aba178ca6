"""Nothing in a corpus steers the terminal or the page that shows it, and nothing in it hides from a reader."""

from __future__ import annotations

import sys
import unicodedata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dedup_assets as da
from dedup_assets import display_text
from dedup_assets.errors import DedupError, MissingPackageError, ShardError, first_line
from dedup_assets.unseen import visible
from dedup_assets_tests.cli.commands import Call, call, write_jsonl

__all__ = ["call"]

HOSTILE = {
    "escape": "\x1b]0;title\x07\x1b[2J",
    "zero width": "in\u200bvis\u200cib\u200dle\ufeff",
    "tags": "".join(chr(0xE0000 + ord(letter)) for letter in "ignore all"),
    "bidi": "abc\u202e\u2066cba\u2069\u200e\u200f\u061c",
    "variants": "a" + "\U000e0100\U000e0171" + "b\ufe0f\ufe0f\ufe00",
    "lines": "one\u2028two\u2029three\rfour\x85",
    "fillers": "\u3164\u115f\u00ad\u2060\u034f",
    "C1": "\x9b2J\x90q",
}
DRAWN = {*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD, *range(0x13430, 0x13460)}
"""Format characters that are seen all the same: signs of Arabic, Syriac and Kaithi, joiners of hieroglyphs."""


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_not_seen_is_written_out(name: str) -> None:
    shown = visible(HOSTILE[name])
    assert unseen(shown) == [] and "\\" in shown
    assert shown.encode("ascii", "ignore").decode().count("\\") >= len(unseen(HOSTILE[name]))
    assert visible(shown) == shown and display_text.shorten(HOSTILE[name]) == shown


def unseen(text: str) -> list[str]:
    """Characters that draw nothing by what Python's own tables say of them."""
    hidden = ("Cc", "Cf", "Zl", "Zp", "Cs")
    return [c for c in text if unicodedata.category(c) in hidden and c not in "\t\n" and ord(c) not in DRAWN]


@given(st.text())
def test_no_character_that_draws_nothing_passes(text: str) -> None:
    assert unseen(visible(text)) == []


@pytest.mark.parametrize("text", ["a\tb\nc", "Straße, 日本語, עברית, العربية, हिन्दी, ❤️ and 👍🏽", "e\u0301", "\ufffd"])
def test_what_is_seen_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_every_format_character_of_unicode_is_written_out_or_seen() -> None:
    assert [hex(ord(c)) for c in map(chr, range(sys.maxunicode + 1)) if unseen(c) and visible(c) == c] == []


@pytest.mark.parametrize("kind", [DedupError, ShardError, MissingPackageError])
def test_errors_write_it_out(kind: type[DedupError]) -> None:
    assert str(kind("column 'a\x1b[2J\u202e'")) == r"column 'a\x1b[2J\u202e'"
    assert first_line(ValueError("a\x1b[2J\nb")) == r"a\x1b[2J"


def test_names_of_nested_fields_steer_no_terminal(tmp_path: Path, call: Call) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    evil = "".join(HOSTILE.values())
    nested = pa.array([{evil: 1}, {evil: 2}])
    for name, values in (("a", nested), ("b", pa.array(["x", "y"]))):
        table = pa.table({"id": [f"{name}0", f"{name}1"], "text": [f"{name} one", f"{name} two"], "n": values})
        pq.write_table(table, shards / f"{name}.parquet")
    pq.write_table(pa.table({"id": ["c"], "text": pa.array([{evil: "x"}]), "v": [[1.0]]}), shards / "c.parquet")
    write_jsonl(shards / "d.jsonl", [{"id": evil, "text": f"d {evil}", evil: {evil: [1, {evil: None}]}}])
    failed = call("curate", shards, "--workspace", tmp_path / "ws", "--text-column", "text")
    assert failed.status == 1 and "Failed: c" in failed.err
    questions = [["history", "c"], ["explain", evil], ["search", "one"], ["curate", shards], ["pairs"]]
    looks = [failed, *(call(*question, "--workspace", tmp_path / "ws") for question in questions)]
    for look in looks:
        assert unseen(look.out + look.err) == []
    reported = call("report", "--workspace", tmp_path / "ws", "--out", tmp_path / "report.html")
    assert reported.status == 0, reported.err
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert unseen(page) == []
    result = da.open_curation(tmp_path / "ws")
    with pytest.raises(DedupError) as caught:
        len(result.kept)
    assert unseen(str(caught.value)) == []
